//! The small expression language of `constraints:`, `when:` and report objectives: parsing, printing, evaluation. It knows
//! nothing of studies; the caller says what an identifier is worth. The user's description is
//! `docs/src/reference/expressions.md`.
//!
//! Logic is three-valued: an identifier without a value is null, a comparison with null is null, and `and`, `or`, `not`
//! follow Kleene. A rule is violated only when it evaluates to `false`; null means "cannot judge".

mod ast;
mod eval;
mod lexer;
mod parser;
mod value;

#[cfg(test)]
mod tests;

use std::fmt;

use ast::Node;
pub use value::Value;

/// Longest accepted source, in bytes.
pub const MAX_SOURCE_BYTES: usize = 16 * 1024;

/// Deepest accepted nesting. Keeps parsing, evaluation and dropping far from any stack limit.
pub const MAX_DEPTH: usize = 96;

/// Why a text is not an expression. Offsets are bytes into the source, so that a caller can draw a caret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ExprError {
    /// What is wrong, as a lower-case fragment.
    pub message: String,
    /// First byte of the offending text.
    pub offset: usize,
    /// Bytes of the offending text; 0 at the end of the source.
    pub len: usize,
    /// What to write instead, where that is clear.
    pub hint: Option<String>,
}

/// Why a well-formed expression has no value: its operands have the wrong types.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} in `{subexpression}`")]
pub struct EvalError {
    /// What is wrong, with the values.
    pub message: String,
    /// The part of the expression that cannot be evaluated.
    pub subexpression: String,
    /// First byte of that part in the source.
    pub offset: usize,
    /// Bytes of that part.
    pub len: usize,
}

/// A parsed expression. Equality and `Display` ignore spacing and redundant parentheses.
#[derive(Debug, Clone)]
pub struct Expr {
    root: Node,
    identifiers: Vec<String>,
    source: String,
}

impl Expr {
    /// Parses one expression; the whole text must be one.
    pub fn parse(source: &str) -> Result<Self, ExprError> {
        let (root, identifiers) = parser::parse(source)?;
        Ok(Self { root, identifiers, source: source.to_owned() })
    }

    /// Distinct identifiers in the order of their first use.
    pub fn identifiers(&self) -> &[String] {
        &self.identifiers
    }

    /// The text that was parsed.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Evaluates with the values that `lookup` gives; an unset identifier is [`Value::Null`].
    pub fn eval(&self, lookup: &dyn Fn(&str) -> Value) -> Result<Value, EvalError> {
        let values: Vec<Value> = self.identifiers.iter().map(|name| lookup(name)).collect();
        eval::evaluate(&self.root, &values).map(Value::from)
    }

    /// Replaces every identifier by a position in a slice of values, for evaluation in bulk.
    pub fn bind(&self, mut slot_of: impl FnMut(&str) -> usize) -> BoundExpr {
        let slots: Vec<usize> = self.identifiers.iter().map(|name| slot_of(name)).collect();
        let mut root = self.root.clone();
        root.remap(&slots);
        BoundExpr { root }
    }
}

impl PartialEq for Expr {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.root, f)
    }
}

/// An expression whose identifiers are positions in a slice. Evaluation allocates nothing unless it fails.
#[derive(Debug, Clone)]
pub struct BoundExpr {
    root: Node,
}

impl BoundExpr {
    /// Evaluates; a position beyond the slice is null.
    pub fn eval(&self, values: &[Value]) -> Result<Value, EvalError> {
        eval::evaluate(&self.root, values).map(Value::from)
    }

    /// True, false or unknown; a result that is not a truth value is an error.
    pub fn truth(&self, values: &[Value]) -> Result<Option<bool>, EvalError> {
        eval::truth(&self.root, values)
    }
}
