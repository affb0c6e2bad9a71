//! The space of settings of one study: every setting gets a number in canonical order, every value is interned once.
//! A point is then a short row of numbers, which is what makes a million of them cheap to build, hash and judge.

use std::collections::HashMap;

use serde_json::Value;

use crate::expr;
use crate::identity::canonical_json;

/// Where a setting belongs; the order is that of the canonical text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Section {
    /// Nodes, GPUs, parallel sizes, roles.
    Deploy,
    /// Environment of the engine.
    Env,
    /// Engine settings.
    Serve,
}

/// One setting.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Where it belongs.
    pub section: Section,
    /// Its canonical name.
    pub name: String,
}

/// Position of a setting in a row.
pub type KeyIdx = usize;

/// Number of an interned value; [`UNSET`] when the setting is not set.
pub type ValueIdx = u32;

/// The setting has no value.
pub const UNSET: ValueIdx = u32::MAX;

/// A point as a row: one value number per setting.
pub type Row = Vec<ValueIdx>;

/// All settings and values of a study.
#[derive(Debug, Default)]
pub struct Space {
    keys: Vec<Key>,
    by_key: HashMap<Key, KeyIdx>,
    values: Vec<Interned>,
    by_text: HashMap<String, ValueIdx>,
    quoted_names: Vec<String>,
    serve_by_name: HashMap<String, KeyIdx>,
}

#[derive(Debug)]
struct Interned {
    json: Value,
    canonical: String,
    expr: expr::Value,
}

impl Space {
    /// Makes the space of these settings.
    pub fn new(keys: impl IntoIterator<Item = Key>) -> Self {
        let mut keys: Vec<Key> = keys.into_iter().collect();
        // RFC 8785 sorts by UTF-16 code units; names beyond the basic plane do not occur, so code points agree.
        keys.sort();
        keys.dedup();
        let by_key = keys.iter().cloned().enumerate().map(|(at, key)| (key, at)).collect();
        let quoted_names =
            keys.iter().map(|key| format!("{}:", canonical_json(&Value::from(key.name.as_str())))).collect();
        let serve_by_name = keys
            .iter()
            .enumerate()
            .filter(|(_, key)| key.section == Section::Serve)
            .map(|(at, key)| (key.name.clone(), at))
            .collect();
        Self { keys, by_key, values: Vec::new(), by_text: HashMap::new(), quoted_names, serve_by_name }
    }

    /// A row without any value.
    pub fn empty_row(&self) -> Row {
        vec![UNSET; self.keys.len()]
    }

    /// The settings in canonical order.
    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// The position of a setting.
    pub fn position(&self, key: &Key) -> Option<KeyIdx> {
        self.by_key.get(key).copied()
    }

    /// The number of a value; `null` is "not set".
    pub fn intern(&mut self, json: &Value) -> ValueIdx {
        if json.is_null() {
            return UNSET;
        }
        let canonical = canonical_json(json);
        if let Some(known) = self.by_text.get(&canonical) {
            return *known;
        }
        let number = ValueIdx::try_from(self.values.len()).unwrap_or(UNSET);
        self.values.push(Interned { json: json.clone(), canonical: canonical.clone(), expr: expr::Value::from(json) });
        self.by_text.insert(canonical, number);
        number
    }

    /// A value as JSON.
    pub fn json(&self, value: ValueIdx) -> Option<&Value> {
        self.values.get(value as usize).map(|interned| &interned.json)
    }

    /// A value for an expression.
    pub fn expr(&self, value: ValueIdx) -> expr::Value {
        self.values.get(value as usize).map_or(expr::Value::Null, |interned| interned.expr.clone())
    }

    /// The value of a setting in a row.
    pub fn get(&self, row: &[ValueIdx], section: Section, name: &str) -> Option<&Value> {
        let at = self.by_key.get(&Key { section, name: name.to_owned() })?;
        self.json(*row.get(*at)?)
    }

    /// The value of an engine setting in a row; allocates nothing.
    pub fn serve<'a>(&'a self, row: &[ValueIdx], name: &str) -> Option<&'a Value> {
        self.json(*row.get(*self.serve_by_name.get(name)?)?)
    }

    /// True when an engine setting with this prefix is set.
    pub fn serve_has_prefix(&self, row: &[ValueIdx], prefix: &str) -> bool {
        self.keys
            .iter()
            .zip(row)
            .any(|(key, value)| *value != UNSET && key.section == Section::Serve && key.name.starts_with(prefix))
    }

    /// The set values of one section, by name.
    pub fn section<'a>(&'a self, row: &'a [ValueIdx], section: Section) -> impl Iterator<Item = (&'a str, &'a Value)> {
        self.keys.iter().zip(row).filter_map(move |(key, value)| {
            (key.section == section).then(|| self.json(*value).map(|json| (key.name.as_str(), json))).flatten()
        })
    }

    /// Appends `{"name":value,…}` of one section to canonical text.
    pub fn write_section(&self, row: &[ValueIdx], section: Section, out: &mut Vec<u8>) {
        out.push(b'{');
        let mut first = true;
        for (at, key) in self.keys.iter().enumerate() {
            if key.section != section {
                continue;
            }
            let Some(value) = row.get(at).and_then(|value| self.values.get(*value as usize)) else { continue };
            if !first {
                out.push(b',');
            }
            first = false;
            out.extend_from_slice(self.quoted_names[at].as_bytes());
            out.extend_from_slice(value.canonical.as_bytes());
        }
        out.push(b'}');
    }
}

/// Splits a structured value into its leaves: `speculative_config: {method: ngram}` is
/// `speculative_config.method: ngram`. Lists are leaves; an empty mapping has none.
pub fn flatten(name: &str, value: &Value, out: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(entries) => {
            for (key, value) in entries {
                flatten(&format!("{name}.{key}"), value, out);
            }
        }
        _ => out.push((name.to_owned(), value.clone())),
    }
}
