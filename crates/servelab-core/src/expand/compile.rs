//! Study → compiled designs: names resolved, values interned, expressions bound, every mistake reported at its line.
//! After this module nothing about the study's spelling matters any more.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde_json::{Value, json};

use super::blocks::{Assignment, Block, BlockFactor, Naming, label_text, parse_template};
use super::collect::{base_settings, collect_keys, factor_names};
use super::names::{DEPLOY_NAMES, DERIVED_NAMES, resolve_name};
use super::space::{Key, KeyIdx, Row, Section, Space, UNSET, flatten};
use super::topology::topology_variants;
use super::view::Slots;
use crate::expr::{BoundExpr, Expr};
use crate::flags::{FlagTable, FlagVerdict};
use crate::ordered::OrderedMap;
use crate::source::{Diagnostic, Span, did_you_mean};
use crate::study::{Design, DesignKind, Factor, OnViolation, PlaceMode, Settings, Study, Topology};
use crate::version::{EngineGuard, VersionSpec};
use crate::yaml::Node;

/// A design after compilation.
#[derive(Debug)]
pub struct CompiledDesign {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: DesignKind,
    /// Its blocks.
    pub blocks: Vec<Block>,
    /// The settings it varies, as the study spells them.
    pub factors: Vec<String>,
    /// What is built on another design's winners.
    pub from: Option<FromTemplate>,
}

/// A design that starts from the winners of another one.
#[derive(Debug)]
pub struct FromTemplate {
    /// The design whose results decide.
    pub source: String,
    /// Settings on top of a winner's.
    pub sets: Vec<Assignment>,
    /// Varied around each winner.
    pub factors: Vec<BlockFactor>,
    /// Loads and workloads.
    pub measures: usize,
}

/// A rule after compilation.
#[derive(Debug)]
pub struct CompiledConstraint {
    /// Its text.
    pub text: String,
    /// The rule.
    pub rule: BoundExpr,
    /// What a violation means.
    pub otherwise: OnViolation,
    /// Why it exists.
    pub because: Option<String>,
    /// Its place, for errors during evaluation.
    pub span: Span,
}

/// Which workloads and loads a block's points get.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MeasureSet {
    /// Workload names; empty for offline loads, which bring their own.
    pub workloads: Vec<String>,
    /// Design whose `load` and `repeats` apply; `None` for the study's.
    pub design: Option<String>,
}

/// A study after compilation.
#[derive(Debug)]
pub struct Compiled {
    /// Settings and values.
    pub space: Space,
    /// Designs in file order.
    pub designs: Vec<CompiledDesign>,
    /// Rules.
    pub constraints: Vec<CompiledConstraint>,
    /// Expression identifiers.
    pub slots: Slots,
    /// Loads and workloads.
    pub measure_sets: Vec<MeasureSet>,
    /// Settings given anywhere, under the names that the study used, for the older hash.
    pub written: BTreeSet<Key>,
}

pub(super) struct Compiler<'a> {
    study: &'a Study,
    doc: &'a Node,
    flags: Option<&'a FlagTable>,
    space: Space,
    slots: Slots,
    base: Row,
    measure_sets: Vec<MeasureSet>,
}

/// Compiles a study. `rows_of` finds the rows of already known points, for `from` designs.
///
/// # Errors
/// The first mistake, at its place.
pub fn compile(
    study: &Study,
    doc: &Node,
    flags: Option<&FlagTable>,
    engine: (&str, Option<&VersionSpec>),
) -> Result<Compiled, Diagnostic> {
    let mut written = BTreeSet::new();
    collect_keys(study, doc, flags, &mut written)?;
    let mut space = Space::new(written.iter().cloned());
    let base = space.empty_row();
    let mut compiler =
        Compiler { study, doc, flags, base: base.clone(), slots: Slots::default(), space, measure_sets: Vec::new() };
    let mut base = base;
    for (name, value) in base_settings(study) {
        compiler.apply(&mut base, &name, &value, compiler.doc.span)?;
    }
    compiler.base = base;
    let mut designs = Vec::new();
    for (name, design) in study.designs.iter() {
        designs.push(compiler.design(name, design)?);
    }
    let constraints = compiler.constraints(engine)?;
    space = compiler.space;
    Ok(Compiled { space, designs, constraints, slots: compiler.slots, measure_sets: compiler.measure_sets, written })
}

impl Compiler<'_> {
    fn apply(&mut self, row: &mut Row, name: &str, value: &Value, span: Span) -> Result<(), Diagnostic> {
        let assignment = self.assignment(name, value, span)?;
        assignment.apply(row);
        Ok(())
    }

    fn assignment(&mut self, name: &str, value: &Value, span: Span) -> Result<Assignment, Diagnostic> {
        let at = |message: String| Diagnostic::at(span, message);
        let own = resolve_name(name).map_err(at)?;
        let mut assignment = Assignment { text: label_text(value), ..Assignment::default() };
        // Giving a structure, or nothing, replaces the whole structure.
        let prefix = format!("{}.", own.name);
        for (position, key) in self.space.keys().iter().enumerate() {
            if key.section == own.section && (key.name == own.name || key.name.starts_with(&prefix)) {
                assignment.clears.push(position);
            }
        }
        let mut leaves = Vec::new();
        flatten(name, value, &mut leaves);
        for (leaf, value) in leaves {
            let key = resolve_name(&leaf).map_err(at)?;
            if let Some(position) = self.space.position(&key) {
                assignment.sets.push((position, self.space.intern(&value)));
            }
        }
        Ok(assignment)
    }

    fn measure_set(
        &mut self,
        path: &[&str],
        design_name: &str,
        design: &Design,
        own: Option<&crate::ordered::OneOrMany<String>>,
    ) -> Result<usize, Diagnostic> {
        let names: Vec<String> = match own.or(design.with.as_ref()) {
            Some(names) => names.0.clone(),
            None => self.study.workloads.keys().map(str::to_owned).collect(),
        };
        for name in &names {
            if !self.study.workloads.contains_key(name) {
                let near = did_you_mean(name, self.study.workloads.keys());
                return Err(Diagnostic::at(self.doc.span_at(path), format!("unknown workload `{name}`")).with_hint(
                    near.map_or_else(
                        || format!("defined: {}", self.study.workloads.keys().collect::<Vec<_>>().join(", ")),
                        |near| format!("did you mean `{near}`?"),
                    ),
                ));
            }
        }
        let own_load = design.load.is_some() || design.repeats.is_some();
        let set = MeasureSet { workloads: names, design: own_load.then(|| design_name.to_owned()) };
        Ok(self.measure_sets.iter().position(|known| *known == set).unwrap_or_else(|| {
            self.measure_sets.push(set);
            self.measure_sets.len() - 1
        }))
    }

    fn design(&mut self, name: &str, design: &Design) -> Result<CompiledDesign, Diagnostic> {
        let Some(kind) = design.kind() else {
            return Err(Diagnostic::at(
                self.doc.span_at(&["designs", name]),
                format!("design `{name}` needs exactly one of `grid`, `list`, `ablate`, `topology`, `from`"),
            ));
        };
        let mut base = self.base.clone();
        for (setting, value) in design.set.iter() {
            let span = self.doc.span_at(&["designs", name, "set", setting]);
            self.apply(&mut base, setting, value, span)?;
        }
        let mut compiled =
            CompiledDesign { name: name.to_owned(), kind, blocks: Vec::new(), factors: Vec::new(), from: None };
        match kind {
            DesignKind::Grid => {
                let grid = design.grid.as_ref().map(|grid| (grid, vec!["designs", name, "grid"]));
                if let Some((grid, path)) = grid {
                    let measures = self.measure_set(&["designs", name, "with"], name, design, None)?;
                    let factors = self.factors(grid, &path)?;
                    let naming = match &design.label {
                        Some(template) => self.naming(template, grid, &["designs", name, "label"])?,
                        None => Naming::Factors(name.to_owned()),
                    };
                    compiled.blocks.push(Block {
                        base,
                        changed: Vec::new(),
                        factors,
                        naming,
                        measures,
                        purpose: design.purpose.clone(),
                        expect: design.expect.clone(),
                    });
                }
            }
            DesignKind::List => self.list(name, design, &base, &mut compiled)?,
            DesignKind::Ablate => self.ablation(name, design, &base, &mut compiled)?,
            DesignKind::Topology => {
                if let Some(topology) = &design.topology {
                    self.topology(name, design, topology, &base, &mut compiled)?;
                }
            }
            DesignKind::From => {
                if let Some(from) = &design.from {
                    let mut sets = Vec::new();
                    for (setting, value) in design.set.iter() {
                        let span = self.doc.span_at(&["designs", name, "set", setting]);
                        sets.push(self.assignment(setting, value, span)?);
                    }
                    let factors = match &design.grid {
                        Some(grid) => self.factors(grid, &["designs", name, "grid"])?,
                        None => Vec::new(),
                    };
                    let measures = self.measure_set(&["designs", name, "with"], name, design, None)?;
                    compiled.from = Some(FromTemplate { source: from.design.clone(), sets, factors, measures });
                }
            }
        }
        compiled.factors = factor_names(design);
        Ok(compiled)
    }

    fn naming(&self, template: &str, grid: &OrderedMap<Factor>, path: &[&str]) -> Result<Naming, Diagnostic> {
        let names: Vec<&str> = grid.keys().collect();
        parse_template(template, &names)
            .map(Naming::Template)
            .map_err(|message| Diagnostic::at(self.doc.span_at(path), message))
    }

    fn list(
        &mut self,
        name: &str,
        design: &Design,
        base: &Row,
        compiled: &mut CompiledDesign,
    ) -> Result<(), Diagnostic> {
        for (entry_name, entry) in design.list.iter().flat_map(OrderedMap::iter) {
            let path = ["designs", name, "list", entry_name];
            let (row, changed) = self.with_settings(base, &entry.settings, &path)?;
            let factors = self.factors(&entry.grid, &["designs", name, "list", entry_name, "grid"])?;
            let naming = self.naming(entry_name, &entry.grid, &path)?;
            let measures = self.measure_set(&path, name, design, entry.with.as_ref())?;
            compiled.blocks.push(Block {
                base: row,
                changed,
                factors,
                naming,
                measures,
                purpose: entry.purpose.clone().or_else(|| design.purpose.clone()),
                expect: entry.expect.clone().or_else(|| design.expect.clone()),
            });
        }
        Ok(())
    }

    fn ablation(
        &mut self,
        name: &str,
        design: &Design,
        base: &Row,
        compiled: &mut CompiledDesign,
    ) -> Result<(), Diagnostic> {
        for (group, arms) in design.ablate.iter().flat_map(OrderedMap::iter) {
            let prefix = group.split_whitespace().next().unwrap_or(group);
            for (arm_name, arm) in arms.iter() {
                let path = ["designs", name, "ablate", group, arm_name];
                let (row, changed) = self.with_settings(base, &arm.settings, &path)?;
                let measures = self.measure_set(&path, name, design, arm.with.as_ref())?;
                compiled.blocks.push(Block {
                    base: row,
                    changed,
                    factors: Vec::new(),
                    naming: Naming::Factors(format!("{prefix}{arm_name}")),
                    measures,
                    purpose: arm.purpose.clone().or_else(|| Some(group.to_owned())),
                    expect: design.expect.clone(),
                });
            }
        }
        Ok(())
    }

    fn with_settings(
        &mut self,
        base: &Row,
        settings: &Settings,
        path: &[&str],
    ) -> Result<(Row, Vec<KeyIdx>), Diagnostic> {
        let mut row = base.clone();
        let mut changed = Vec::new();
        for (setting, value) in settings.iter() {
            let mut full = path.to_vec();
            full.push(setting);
            let assignment = self.assignment(setting, value, self.doc.span_at(&full))?;
            changed.extend(assignment.sets.iter().map(|(key, _)| *key));
            changed.extend(assignment.clears.iter().copied().filter(|key| row[*key] != UNSET));
            assignment.apply(&mut row);
        }
        changed.sort_unstable();
        changed.dedup();
        Ok((row, changed))
    }

    fn factors(&mut self, grid: &OrderedMap<Factor>, path: &[&str]) -> Result<Vec<BlockFactor>, Diagnostic> {
        let mut factors = Vec::new();
        let mut seen = HashSet::new();
        for (name, factor) in grid.iter() {
            let mut full = path.to_vec();
            full.push(name);
            let span = self.doc.span_at(&full);
            if factor.values.is_empty() {
                return Err(Diagnostic::at(span, format!("factor `{name}` has no values")));
            }
            let key = resolve_name(name).map_err(|message| Diagnostic::at(span, message))?;
            if !seen.insert(key) {
                return Err(Diagnostic::at(span, format!("`{name}` is varied twice, under two spellings")));
            }
            let mut texts = HashSet::new();
            let mut values = Vec::new();
            for value in &factor.values {
                if !texts.insert(crate::identity::canonical_json(value)) {
                    return Err(Diagnostic::at(
                        span,
                        format!("factor `{name}` has the value `{}` twice", label_text(value)),
                    ));
                }
                values.push(self.assignment(name, value, span)?);
            }
            let when = match &factor.when {
                None => None,
                Some(text) => {
                    full.push("when");
                    let span = self.doc.at(&full).map_or(span, |node| node.span);
                    Some(self.expression(text, span)?)
                }
            };
            factors.push(BlockFactor { name: name.to_owned(), values, when });
        }
        Ok(factors)
    }

    fn expression(&mut self, text: &str, span: Span) -> Result<BoundExpr, Diagnostic> {
        let expr = parse_expression(text, span)?;
        for name in expr.identifiers() {
            self.check_identifier(name).map_err(|hint| {
                Diagnostic::at(span, format!("unknown name `{name}` in this expression")).with_hint(hint)
            })?;
        }
        let (slots, space) = (&mut self.slots, &self.space);
        Ok(expr.bind(|name| slots.slot(space, name)))
    }

    /// A name in an expression must be something that a point can have: a setting of the study, a deploy setting, a
    /// derived fact, or a setting that the engine knows.
    fn check_identifier(&self, name: &str) -> Result<(), String> {
        if DERIVED_NAMES.contains(&name) {
            return Ok(());
        }
        let key = resolve_name(name)?;
        if key.section == Section::Deploy || self.space.position(&key).is_some() {
            return Ok(());
        }
        let known =
            self.flags.is_none_or(|table| !matches!(table.check(name, &Value::Null), FlagVerdict::Unknown { .. }));
        if known {
            return Ok(());
        }
        let names: Vec<&str> =
            self.space.keys().iter().map(|key| key.name.as_str()).chain(DEPLOY_NAMES).chain(DERIVED_NAMES).collect();
        Err(did_you_mean(name, names.iter().copied())
            .map_or_else(|| format!("names here: {}", names.join(", ")), |near| format!("did you mean `{near}`?")))
    }

    fn constraints(&mut self, engine: (&str, Option<&VersionSpec>)) -> Result<Vec<CompiledConstraint>, Diagnostic> {
        let mut out = Vec::new();
        for (number, constraint) in self.study.constraints.iter().enumerate() {
            let position = number.to_string();
            let whole = self.doc.at(&["constraints", &position]).map_or(self.doc.span, |node| node.span);
            let span = self.doc.at(&["constraints", &position, "rule"]).map_or(whole, |node| node.span);
            if let Some(guard) = &constraint.guard {
                let at = self.doc.at(&["constraints", &position, "for"]).map_or(whole, |node| node.span);
                let guard = EngineGuard::parse(guard).map_err(|error| {
                    Diagnostic::at(at, error.to_string()).with_hint("write an engine and versions, `vllm < 0.11.1`")
                })?;
                let applies = guard.applies(engine.0, engine.1);
                if applies == crate::version::Answer::No {
                    continue;
                }
            }
            let rule = self.expression(&constraint.rule, span)?;
            out.push(CompiledConstraint {
                text: constraint.rule.clone(),
                rule,
                otherwise: constraint.otherwise,
                because: constraint.because.clone(),
                span,
            });
        }
        Ok(out)
    }

    fn topology(
        &mut self,
        name: &str,
        design: &Design,
        topology: &Topology,
        base: &Row,
        compiled: &mut CompiledDesign,
    ) -> Result<(), Diagnostic> {
        let path = ["designs", name, "topology"];
        let span = self.doc.span_at(&path);
        let measures = self.measure_set(&["designs", name, "with"], name, design, None)?;
        let places =
            if topology.place.is_empty() { vec![PlaceMode::Pack] } else { topology.place.iter().copied().collect() };
        let variants = topology_variants(topology).map_err(|message| Diagnostic::at(span, message))?;
        if variants.is_empty() {
            return Err(Diagnostic::at(span, "this topology has no shape")
                .with_hint("give `p:d: [\"1:1\"]`, `shapes: [\"1P-TP2+1D-TP4\"]`, or `tp: [1, 2]` with `gpus: 8`"));
        }
        for (label, settings) in variants {
            for place in &places {
                let mut row = base.clone();
                // A shape says everything about sizes: whatever the study's `deploy` gave does not mix with it.
                for (position, key) in self.space.keys().iter().enumerate() {
                    let size = !matches!(key.name.as_str(), "nodes" | "gpus_per_node" | "launch" | "router");
                    if key.section == Section::Deploy && size {
                        row[position] = UNSET;
                    }
                }
                let mut changed = Vec::new();
                let mut all = settings.clone();
                all.insert("place", json!(place.name()));
                for (setting, value) in all.iter() {
                    let assignment = self.assignment(&format!("deploy.{setting}"), value, span)?;
                    changed.extend(assignment.sets.iter().map(|(key, _)| *key));
                    assignment.apply(&mut row);
                }
                let label = if places.len() > 1 { format!("{label}-{}", place.name()) } else { label.clone() };
                compiled.blocks.push(Block {
                    base: row,
                    changed,
                    factors: Vec::new(),
                    naming: Naming::Factors(label),
                    measures,
                    purpose: design.purpose.clone(),
                    expect: design.expect.clone(),
                });
            }
        }
        Ok(())
    }
}

/// Parses an expression of a study file, pointing into it.
pub fn parse_expression(text: &str, span: Span) -> Result<Expr, Diagnostic> {
    Expr::parse(text).map_err(|error| {
        let before = text.get(..error.offset).map_or(0, |head| head.chars().count());
        // The caret can go inside the text only where the text stands on one line as it is.
        let inside = u32::try_from(before).unwrap_or(0);
        let quoted = u32::from(span.len as usize >= text.chars().count() + 2);
        let at = if span.len as usize >= text.chars().count() {
            Span { column: span.column + quoted + inside, len: u32::try_from(error.len).unwrap_or(1).max(1), ..span }
        } else {
            span
        };
        Diagnostic { message: error.message.clone(), span: Some(at), hint: error.hint.clone() }
    })
}

/// Labels by group prefix, for references such as `baseline: 1A`.
pub fn check_label_exists(label: &str, labels: &BTreeMap<String, usize>) -> Result<(), String> {
    if labels.contains_key(label) {
        return Ok(());
    }
    Err(did_you_mean(label, labels.keys().map(String::as_str))
        .map_or_else(|| "no point has this label".to_owned(), |near| format!("did you mean `{near}`?")))
}
