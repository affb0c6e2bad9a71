//! Designs compiled into blocks. A block is a base row plus factors; walking it yields every combination. Grids, lists,
//! ablations, topologies and winners of other designs all become blocks, so that there is one way to enumerate points.

use serde_json::Value;

use super::space::{KeyIdx, Row, Space, UNSET, ValueIdx};
use crate::expr::{self, BoundExpr};
use crate::study::Expect;

/// What one value of a factor does to a row.
#[derive(Debug, Clone, Default)]
pub struct Assignment {
    /// Settings cleared first: the leaves of a structured setting that is replaced.
    pub clears: Vec<KeyIdx>,
    /// Settings given a value.
    pub sets: Vec<(KeyIdx, ValueIdx)>,
    /// How labels spell the value.
    pub text: String,
}

impl Assignment {
    /// Applies it.
    pub fn apply(&self, row: &mut Row) {
        for key in &self.clears {
            row[*key] = UNSET;
        }
        for (key, value) in &self.sets {
            row[*key] = *value;
        }
    }
}

/// One varied setting.
#[derive(Debug, Clone)]
pub struct BlockFactor {
    /// Its name as the study spells it.
    pub name: String,
    /// Its values.
    pub values: Vec<Assignment>,
    /// Varied only where this is true.
    pub when: Option<BoundExpr>,
}

/// How a block's points are called.
#[derive(Debug, Clone)]
pub enum Naming {
    /// Text with `{setting}` placeholders.
    Template(Vec<Piece>),
    /// `design/a=1,b=2`.
    Factors(String),
}

/// A piece of a name template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Text as it stands.
    Literal(String),
    /// The value of the factor at this position.
    Factor(usize),
}

/// A base row plus factors.
#[derive(Debug, Clone)]
pub struct Block {
    /// The settings that all points of the block share.
    pub base: Row,
    /// Settings that make this block differ from the study's base (shown as factors).
    pub changed: Vec<KeyIdx>,
    /// What is varied, in the order of the file.
    pub factors: Vec<BlockFactor>,
    /// How points are called.
    pub naming: Naming,
    /// Which loads and workloads its points get: an index into the study's measure sets.
    pub measures: usize,
    /// What it is for.
    pub purpose: Option<String>,
    /// What the author expects.
    pub expect: Option<Expect>,
}

/// Values of expression identifiers for one row.
pub trait ExprView {
    /// Fills `out` with the value of every identifier that was bound.
    fn fill(&mut self, space: &Space, row: &Row, out: &mut Vec<expr::Value>);
}

/// One combination on its way to a point.
pub struct Combination<'a> {
    /// The block it comes from.
    pub block: &'a Block,
    /// Its settings.
    pub row: &'a Row,
    /// The chosen value of every factor that applies.
    pub chosen: &'a [Option<usize>],
}

impl Combination<'_> {
    /// The label.
    pub fn label(&self) -> String {
        let text = |factor: usize| -> &str {
            let Some(factor_ref) = self.block.factors.get(factor) else { return "" };
            let value = self.chosen.get(factor).copied().flatten();
            value.and_then(|value| factor_ref.values.get(value)).map_or("default", |value| value.text.as_str())
        };
        match &self.block.naming {
            Naming::Template(pieces) => pieces
                .iter()
                .map(|piece| match piece {
                    Piece::Literal(literal) => literal.as_str(),
                    Piece::Factor(factor) => text(*factor),
                })
                .collect(),
            Naming::Factors(design) => {
                let parts: Vec<String> = self
                    .chosen
                    .iter()
                    .enumerate()
                    .filter(|(_, value)| value.is_some())
                    .map(|(factor, _)| format!("{}={}", self.block.factors[factor].name, text(factor)))
                    .collect();
                if parts.is_empty() { design.clone() } else { format!("{design}/{}", parts.join(",")) }
            }
        }
    }

    /// The settings that this combination varies or changes.
    pub fn factor_keys(&self) -> Vec<KeyIdx> {
        let mut keys = self.block.changed.clone();
        for (factor, value) in self.chosen.iter().enumerate() {
            if let Some(value) = value {
                keys.extend(self.block.factors[factor].values[*value].sets.iter().map(|(key, _)| *key));
            }
        }
        keys.sort_unstable();
        keys.dedup();
        keys
    }
}

/// Product of the factor lists, ignoring `when`.
pub fn raw_size(block: &Block) -> u64 {
    block.factors.iter().fold(1u64, |product, factor| product.saturating_mul(factor.values.len() as u64))
}

/// Visits every combination: unconditional factors in file order, the last one fastest, then conditional ones.
///
/// # Errors
/// The first error of `visit`, or of a `when` that cannot be evaluated.
pub fn walk<E: From<WhenError>>(
    space: &Space,
    block: &Block,
    view: &mut dyn ExprView,
    visit: &mut dyn FnMut(&Combination<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut order: Vec<usize> = (0..block.factors.len()).filter(|i| block.factors[*i].when.is_none()).collect();
    order.extend((0..block.factors.len()).filter(|i| block.factors[*i].when.is_some()));
    let rows = vec![block.base.clone(); order.len() + 1];
    let mut walker =
        Walker { space, block, view, order, rows, chosen: vec![None; block.factors.len()], values: Vec::new() };
    walker.level(0, visit)
}

/// A `when` that cannot be evaluated.
#[derive(Debug, Clone)]
pub struct WhenError {
    /// The factor it belongs to.
    pub factor: String,
    /// Why.
    pub message: String,
}

struct Walker<'a, 'v> {
    space: &'a Space,
    block: &'a Block,
    view: &'v mut dyn ExprView,
    order: Vec<usize>,
    rows: Vec<Row>,
    chosen: Vec<Option<usize>>,
    values: Vec<expr::Value>,
}

impl Walker<'_, '_> {
    fn level<E: From<WhenError>>(
        &mut self,
        depth: usize,
        visit: &mut dyn FnMut(&Combination<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(factor_idx) = self.order.get(depth).copied() else {
            return visit(&Combination { block: self.block, row: &self.rows[depth], chosen: &self.chosen });
        };
        let factor = &self.block.factors[factor_idx];
        let applies = match &factor.when {
            None => true,
            Some(when) => {
                self.view.fill(self.space, &self.rows[depth], &mut self.values);
                when.truth(&self.values)
                    .map_err(|error| WhenError { factor: factor.name.clone(), message: error.to_string() })?
                    .unwrap_or(false)
            }
        };
        let (done, rest) = self.rows.split_at_mut(depth + 1);
        if !applies {
            rest[0].clone_from(&done[depth]);
            self.chosen[factor_idx] = None;
            return self.level(depth + 1, visit);
        }
        for (number, value) in factor.values.iter().enumerate() {
            let (done, rest) = self.rows.split_at_mut(depth + 1);
            rest[0].clone_from(&done[depth]);
            value.apply(&mut rest[0]);
            self.chosen[factor_idx] = Some(number);
            self.level(depth + 1, visit)?;
        }
        self.chosen[factor_idx] = None;
        Ok(())
    }
}

/// Splits `batch_{x}_seqs_{y}` into pieces; placeholders must name factors.
///
/// # Errors
/// A sentence about an unknown placeholder or a brace that is not closed.
pub fn parse_template(template: &str, factors: &[&str]) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut rest = template;
    while let Some(open) = rest.find('{') {
        let (literal, tail) = rest.split_at(open);
        let close = tail.find('}').ok_or_else(|| format!("`{template}` has a `{{` that is not closed"))?;
        let name = &tail[1..close];
        let at = factors.iter().position(|factor| *factor == name).ok_or_else(|| {
            let near = crate::source::did_you_mean(name, factors.iter().copied());
            match near {
                Some(near) => format!("`{{{name}}}` is no factor of this grid; did you mean `{{{near}}}`?"),
                None => format!("`{{{name}}}` is no factor of this grid; factors: {}", factors.join(", ")),
            }
        })?;
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal.to_owned()));
        }
        pieces.push(Piece::Factor(at));
        rest = &tail[close + 1..];
    }
    if !rest.is_empty() {
        pieces.push(Piece::Literal(rest.to_owned()));
    }
    Ok(pieces)
}

/// How a value is spelled in a label.
pub fn label_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(b) => b.to_string(),
        Value::Null => "none".to_owned(),
        Value::Object(entries) => {
            entries.iter().map(|(key, value)| format!("{key}={}", label_text(value))).collect::<Vec<_>>().join("+")
        }
        Value::Array(items) => items.iter().map(label_text).collect::<Vec<_>>().join("+"),
        Value::Number(number) => number.to_string(),
    }
}
