//! Reads vLLM's own serving flags as vLLM's parser does: `--name value`, `--name=value`, `--no-name`, underscores,
//! unambiguous prefixes, short forms, dotted JSON keys. Which flags exist is data (`data/serve-flags.txt`); what they
//! mean is `config`'s business.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::{Map, Value};

use crate::SimError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bool,
    Value,
    List,
}

#[derive(Debug)]
struct Flag {
    name: &'static str,
    kind: Kind,
    shorts: Vec<&'static str>,
    /// Exists only for declared versions before 0.12.
    removed: bool,
}

static TABLE: LazyLock<Vec<Flag>> = LazyLock::new(|| {
    let mut removed = false;
    let mut flags = Vec::new();
    for line in include_str!("../data/serve-flags.txt").lines() {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("[before"), _) => removed = true,
            (Some(name), Some(kind)) if !name.starts_with('#') => {
                let kind = match kind {
                    "bool" => Kind::Bool,
                    "list" => Kind::List,
                    _ => Kind::Value,
                };
                flags.push(Flag { name, kind, shorts: words.collect(), removed });
            }
            _ => {}
        }
    }
    flags
});

const INTEGERS: [&str; 15] = [
    "max-num-seqs",
    "max-num-batched-tokens",
    "max-num-scheduled-tokens",
    "max-num-active-seqs",
    "max-num-queued-reqs",
    "max-num-queued-tokens",
    "block-size",
    "num-gpu-blocks-override",
    "tensor-parallel-size",
    "pipeline-parallel-size",
    "data-parallel-size",
    "decode-context-parallel-size",
    "long-prefill-token-threshold",
    "stream-interval",
    "seed",
];
const HUMAN_INTEGERS: [&str; 2] = ["max-model-len", "kv-cache-memory-bytes"];
const JSON: [&str; 6] = [
    "speculative-config",
    "eplb-config",
    "kv-transfer-config",
    "compilation-config",
    "profiler-config",
    "additional-config",
];
const KV_DTYPES: [&str; 19] = [
    "auto",
    "bfloat16",
    "float16",
    "fp8",
    "fp8_ds_mla",
    "fp8_e4m3",
    "fp8_e5m2",
    "fp8_inc",
    "fp8_per_token_head",
    "int4_per_token_head",
    "int8_per_token_head",
    "nvfp4",
    "nvfp4_4over6",
    "nvfp4_ds_mla",
    "turboquant_3bit_nc",
    "turboquant_4bit_nc",
    "turboquant_k3v4_nc",
    "turboquant_k8v4",
    "ultraquant_4bit",
];

/// vLLM flags as given, under vLLM's own argument names (`max_num_seqs`). Defaults are not in here.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ServingFlags {
    given: BTreeMap<String, Value>,
}

impl ServingFlags {
    /// The value of a flag, by its underscore name.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.given.get(name)
    }

    /// Sets a flag, by its underscore name.
    pub fn set(&mut self, name: impl Into<String>, value: Value) {
        self.given.insert(name.into(), value);
    }

    /// Every given flag, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.given.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// A whole number, if given.
    pub fn integer(&self, name: &str) -> Option<u64> {
        self.get(name).and_then(Value::as_u64)
    }

    /// A number, if given.
    pub fn number(&self, name: &str) -> Option<f64> {
        self.get(name).and_then(Value::as_f64)
    }

    /// A switch, if given.
    pub fn switch(&self, name: &str) -> Option<bool> {
        self.get(name).and_then(Value::as_bool)
    }

    /// A text, if given.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(Value::as_str)
    }
}

/// Parses vLLM's flags as `declared_version` knows them. Unknown flags, wrong values and missing values are errors with
/// vLLM's wording.
pub fn parse_serving_flags(args: &[String], declared_version: &str) -> Result<ServingFlags, SimError> {
    let old = version_key(declared_version) < (0, 12);
    let mut flags = ServingFlags::default();
    let mut unknown: Vec<&str> = Vec::new();
    let mut rest = args.iter().map(String::as_str).peekable();
    while let Some(arg) = rest.next() {
        let Some(spelled) = Spelled::resolve(arg, old)? else {
            unknown.push(arg);
            continue;
        };
        let Spelled { flag, negated, path, inline } = spelled;
        let value = match (flag.kind, inline) {
            (Kind::Bool, None) if path.is_empty() => Value::Bool(!negated),
            (Kind::Bool, _) => return Err(bad(flag.name, format!("ignored explicit argument '{arg}'"))),
            (Kind::List, inline) => {
                let mut items: Vec<Value> = inline.into_iter().map(|item| Value::from(item.as_str())).collect();
                while let Some(item) = rest.next_if(|next| !next.starts_with('-')) {
                    items.push(Value::from(item));
                }
                if items.is_empty() {
                    return Err(bad(flag.name, "expected at least one argument".to_owned()));
                }
                Value::Array(items)
            }
            (Kind::Value, inline) => {
                let text = match inline {
                    Some(text) => text,
                    None => match rest.next_if(|next| !next.starts_with("--")) {
                        Some(text) => text.to_owned(),
                        None => return Err(bad(flag.name, "expected one argument".to_owned())),
                    },
                };
                if path.is_empty() { typed(flag.name, &text)? } else { loose(&text) }
            }
        };
        let key = match flag.name {
            "device-memory-utilization" => "gpu_memory_utilization".to_owned(),
            name => name.replace('-', "_"),
        };
        if path.is_empty() {
            flags.set(key, value);
        } else {
            let entry = flags.given.entry(key).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(object) = entry {
                object.insert(path, value);
            }
        }
    }
    if unknown.is_empty() { Ok(flags) } else { Err(SimError::UnrecognisedArguments(unknown.join(" "))) }
}

/// Major and minor number of a version; a version that cannot be read counts as the newest.
pub(crate) fn version_key(version: &str) -> (u32, u32) {
    let mut parts = version.trim_start_matches('v').split('.').map(|part| part.parse::<u32>());
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor),
        _ => (u32::MAX, u32::MAX),
    }
}

struct Spelled {
    flag: &'static Flag,
    negated: bool,
    path: String,
    inline: Option<String>,
}

impl Spelled {
    fn resolve(arg: &str, old: bool) -> Result<Option<Self>, SimError> {
        let visible = || TABLE.iter().filter(|flag| old || !flag.removed);
        if let Some(level) = arg.strip_prefix("-O").filter(|level| !level.is_empty()) {
            let flag = visible().find(|flag| flag.name == "optimization-level");
            let inline = Some(level.to_owned());
            return Ok(flag.map(|flag| Self { flag, negated: false, path: String::new(), inline }));
        }
        let (spelling, inline) = match arg.split_once('=') {
            Some((spelling, value)) => (spelling, Some(value.to_owned())),
            None => (arg, None),
        };
        let (spelling, path) = match spelling.split_once('.') {
            Some((spelling, path)) => (spelling, path.to_owned()),
            None => (spelling, String::new()),
        };
        let found = |flag, negated| Ok(Some(Self { flag, negated, path: path.clone(), inline: inline.clone() }));
        let Some(long) = spelling.strip_prefix("--") else {
            return match visible().find(|flag| flag.shorts.contains(&spelling)) {
                Some(flag) => found(flag, false),
                None => Ok(None),
            };
        };
        let long = long.replace('_', "-");
        if let Some(flag) = visible().find(|flag| flag.name == long) {
            return found(flag, false);
        }
        if let Some(name) = long.strip_prefix("no-")
            && let Some(flag) = visible().find(|flag| flag.name == name && flag.kind == Kind::Bool)
        {
            return found(flag, true);
        }
        let mut matches = visible().filter(|flag| long.len() > 2 && flag.name.starts_with(&long));
        match (matches.next(), matches.next()) {
            (Some(flag), None) => found(flag, false),
            (Some(first), Some(second)) => {
                let mut names = vec![first.name, second.name];
                names.extend(matches.map(|flag| flag.name));
                let names = names.iter().map(|name| format!("--{name}")).collect::<Vec<_>>().join(", ");
                Err(SimError::Refused(format!("vllm serve: error: ambiguous option: --{long} could match {names}")))
            }
            _ => Ok(None),
        }
    }
}

fn bad(flag: &str, reason: String) -> SimError {
    SimError::BadFlagValue { flag: flag.to_owned(), reason }
}

fn typed(flag: &str, text: &str) -> Result<Value, SimError> {
    if INTEGERS.contains(&flag) {
        return text.parse::<u64>().map(Value::from).map_err(|_| bad(flag, format!("invalid int value: '{text}'")));
    }
    if HUMAN_INTEGERS.contains(&flag) {
        if flag == "max-model-len" && matches!(text, "auto" | "-1") {
            return Ok(Value::from("auto"));
        }
        return human_integer(text).map(Value::from).ok_or_else(|| bad(flag, format!("invalid int value: '{text}'")));
    }
    if matches!(flag, "gpu-memory-utilization" | "device-memory-utilization") {
        return text.parse::<f64>().map(Value::from).map_err(|_| bad(flag, format!("invalid float value: '{text}'")));
    }
    if JSON.contains(&flag) {
        return serde_json::from_str(text)
            .map_err(|_| bad(flag, format!("Value {text} cannot be converted to <function loads>.")));
    }
    if flag == "kv-cache-dtype" && !KV_DTYPES.contains(&text) {
        let choices = KV_DTYPES.map(|name| format!("'{name}'")).join(", ");
        return Err(bad(flag, format!("invalid choice: '{text}' (choose from {choices})")));
    }
    Ok(Value::from(text))
}

/// A dotted key's value: a number or a truth value where it reads as one, else text.
fn loose(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::from(text))
}

/// vLLM's human-readable integers: `1k` is 1000, `1K` is 1024, `25.6k` is 25600.
fn human_integer(text: &str) -> Option<u64> {
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let factor: u64 = match unit {
        "k" => 1_000,
        "m" => 1_000_000,
        "g" => 1_000_000_000,
        "t" => 1_000_000_000_000,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        "T" => 1 << 40,
        _ => return None,
    };
    if unit.chars().all(char::is_uppercase) {
        // Binary units take whole numbers only, as vLLM's parser does.
        return number.parse::<u64>().ok()?.checked_mul(factor);
    }
    let scaled = number.parse::<f64>().ok()? * factor as f64;
    (scaled.is_finite() && (0.0..1e18).contains(&scaled)).then_some(scaled.round() as u64)
}

#[cfg(test)]
mod tests;
