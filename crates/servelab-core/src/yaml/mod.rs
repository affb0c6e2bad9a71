//! YAML for files that people write: a tree that remembers where every key and value stands, and a serde deserializer
//! over it whose errors carry those places. Scalars follow YAML 1.2's core schema (`no` is text, `007` is text); what a
//! key means is decided elsewhere.

mod de;
mod parse;
#[cfg(test)]
mod tests;

use serde_json::Value;

pub use de::{DeError, from_node};
pub use parse::parse;

use crate::source::Span;

/// A value and its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// The value.
    pub value: NodeValue,
    /// Where it stands.
    pub span: Span,
}

/// A YAML value after scalar resolution.
#[derive(Debug, Clone, PartialEq)]
pub enum NodeValue {
    /// `null`, `~` or nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number with a fraction or an exponent; always finite.
    Float(f64),
    /// Text.
    Text(String),
    /// A sequence.
    Seq(Vec<Node>),
    /// A mapping, in file order, without duplicate keys.
    Map(Vec<Entry>),
}

/// One key with its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The key as text.
    pub key: String,
    /// Where the key stands.
    pub key_span: Span,
    /// The value.
    pub value: Node,
}

impl Node {
    /// The entries of a mapping; `None` for anything else.
    pub fn as_map(&self) -> Option<&[Entry]> {
        match &self.value {
            NodeValue::Map(entries) => Some(entries),
            _ => None,
        }
    }

    /// The items of a sequence; `None` for anything else.
    pub fn as_seq(&self) -> Option<&[Node]> {
        match &self.value {
            NodeValue::Seq(items) => Some(items),
            _ => None,
        }
    }

    /// The text of a text scalar.
    pub fn as_text(&self) -> Option<&str> {
        match &self.value {
            NodeValue::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The entry with this key.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.as_map()?.iter().find(|entry| entry.key == key)
    }

    /// The value under this key.
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// The place of the deepest existing part of a path: the last key found, or this node.
    pub fn span_at(&self, path: &[&str]) -> Span {
        let mut node = self;
        let mut span = self.span;
        for step in path {
            if let Some(entry) = node.entry(step) {
                span = entry.key_span;
                node = &entry.value;
            } else if let Some(item) = step.parse::<usize>().ok().and_then(|i| node.as_seq()?.get(i)) {
                span = item.span;
                node = item;
            } else {
                break;
            }
        }
        span
    }

    /// The value at a path of keys and sequence positions.
    pub fn at(&self, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |node, step| match &node.value {
            NodeValue::Seq(items) => step.parse::<usize>().ok().and_then(|i| items.get(i)),
            _ => node.get(step),
        })
    }

    /// The same value as JSON; whole floats become integers, so that `8192.0` and `8192` are one value.
    pub fn to_json(&self) -> Value {
        match &self.value {
            NodeValue::Null => Value::Null,
            NodeValue::Bool(b) => Value::Bool(*b),
            NodeValue::Int(i) => Value::from(*i),
            NodeValue::Float(f) => normal_number(*f),
            NodeValue::Text(text) => Value::String(text.clone()),
            NodeValue::Seq(items) => Value::Array(items.iter().map(Self::to_json).collect()),
            NodeValue::Map(entries) => {
                Value::Object(entries.iter().map(|entry| (entry.key.clone(), entry.value.to_json())).collect())
            }
        }
    }

    /// What kind of value this is, in the words of an error message.
    pub fn kind(&self) -> &'static str {
        match &self.value {
            NodeValue::Null => "nothing",
            NodeValue::Bool(_) => "true/false",
            NodeValue::Int(_) => "a whole number",
            NodeValue::Float(_) => "a number",
            NodeValue::Text(_) => "text",
            NodeValue::Seq(_) => "a list",
            NodeValue::Map(_) => "a mapping",
        }
    }
}

/// A float as a JSON number, whole values as integers.
#[expect(clippy::cast_possible_truncation, reason = "guarded: whole and below 2^53")]
pub(crate) fn normal_number(f: f64) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if f.fract() == 0.0 && f.abs() < EXACT { Value::from(f as i64) } else { Value::from(f) }
}
