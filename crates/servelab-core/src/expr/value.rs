//! Values of the expression language and how JSON becomes one.

use std::fmt;
use std::sync::Arc;

use super::ast::write_text;

/// What an expression works with.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Not set, not known, or not computable (a division by zero).
    Null,
    /// A truth value.
    Bool(bool),
    /// A number; integers are exact up to 2^53.
    Number(f64),
    /// Text.
    Text(Arc<str>),
}

impl Value {
    /// Text from anything that is text.
    pub fn text(text: impl AsRef<str>) -> Self {
        Self::Text(Arc::from(text.as_ref()))
    }

    /// The truth value, if this is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// The number, if this is one.
    pub fn as_number(&self) -> Option<f64> {
        match self {
            Self::Number(value) => Some(*value),
            _ => None,
        }
    }

    /// True for [`Value::Null`].
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }
}

impl From<&serde_json::Value> for Value {
    /// Lists and maps become their JSON text: enough to compare them, never to compute with them.
    fn from(json: &serde_json::Value) -> Self {
        match json {
            serde_json::Value::Null => Self::Null,
            serde_json::Value::Bool(value) => Self::Bool(*value),
            serde_json::Value::Number(number) => number.as_f64().map_or(Self::Null, Self::Number),
            serde_json::Value::String(text) => Self::text(text),
            other => Self::text(other.to_string()),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Number(value) => write!(f, "{value}"),
            Self::Text(text) => write_text(f, text),
        }
    }
}
