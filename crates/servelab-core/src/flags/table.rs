//! What one engine version makes of a setting.

use serde_json::Value;

use super::canonical::engine_path;
use super::data::{FlagSpec, GoneFlag, MappedFlag, SglangData, mapped, vllm};
use super::{Dialect, FlagKind, HelpFlags};
use crate::version::{Answer, Version, VersionSpec};

/// What an engine version makes of a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FlagVerdict {
    /// Taken as written.
    Known,
    /// Taken under another name.
    Renamed {
        /// The name now.
        to: String,
    },
    /// No longer there.
    Removed {
        /// First version without it.
        since: String,
        /// Why.
        why: String,
    },
    /// Not there yet.
    NotYet {
        /// First version with it.
        since: String,
    },
    /// Accepted, and does nothing.
    Idle {
        /// Why.
        why: String,
    },
    /// The value is accepted and replaced by another one.
    SilentlyChanged {
        /// The value in effect.
        to: String,
    },
    /// The engine refuses this value.
    ValueRefused {
        /// Why, and what to use.
        why: String,
    },
    /// Never heard of.
    Unknown {
        /// The nearest known name.
        suggestion: Option<String>,
    },
}

/// The flags of one engine version.
#[derive(Debug, Clone)]
pub struct FlagTable {
    dialect: Dialect,
    versions: Option<VersionSpec>,
    help: Option<HelpFlags>,
}

impl FlagTable {
    /// The built-in table for a declared version; without one, the newest known version is assumed.
    pub fn builtin(dialect: Dialect, versions: Option<&VersionSpec>) -> Self {
        Self { dialect, versions: versions.cloned(), help: None }
    }

    /// Lets a captured help decide which flags exist. An empty one is ignored.
    pub fn with_help(mut self, help: HelpFlags) -> Self {
        self.help = (!help.is_empty()).then_some(help);
        self
    }

    /// Whose flags these are.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// What this version makes of the setting, by any of its spellings.
    pub fn check(&self, name: &str, value: &Value) -> FlagVerdict {
        if let Some(table) = mapped(self.dialect) {
            return check_mapped(table, name);
        }
        let path = engine_path(name);
        let root = path.split('.').next().unwrap_or("");
        let Some(spec) = self.spec(root) else {
            return self.check_absent(root);
        };
        if path.contains('.') && spec.kind != FlagKind::Json {
            return FlagVerdict::Unknown { suggestion: Some(root.to_owned()) };
        }
        if self.help.is_none()
            && let Some(since) = spec.since.as_ref().filter(|since| self.is_at_least(since) == Answer::No)
        {
            return FlagVerdict::NotYet { since: since.clone() };
        }
        if let Some(idle) = vllm().gone.get(root).filter(|gone| self.is_idle(gone)) {
            return FlagVerdict::Idle { why: idle.why.clone() };
        }
        self.check_value(&path, value, &spec)
    }

    /// The value that this version uses when the setting is absent, where that does not depend on the hardware.
    pub fn default_value(&self, name: &str) -> Option<Value> {
        if mapped(self.dialect).is_some() {
            return None;
        }
        let path = engine_path(name);
        let mut rules = vllm().defaults.iter().filter(|rule| rule.setting == path);
        rules.find(|rule| self.is_at_least(&rule.since) == Answer::Yes).map(|rule| rule.value.clone())
    }

    /// The environment variable that this version reads instead of the setting.
    pub(super) fn environment_variable(&self, path: &str) -> Option<(&'static str, &'static str)> {
        let rule = vllm().environment.iter().find(|rule| rule.setting == path)?;
        (self.is_at_least(&rule.before) == Answer::No).then_some((rule.variable.as_str(), rule.why.as_str()))
    }

    /// The flag of this name, in this version.
    pub(super) fn spec(&self, root: &str) -> Option<FlagSpec> {
        let by_name = |flags: &std::collections::BTreeMap<String, FlagSpec>| {
            let direct = flags.get(root);
            direct.or_else(|| flags.values().find(|spec| spec.also.iter().any(|other| other == root))).cloned()
        };
        if let Some(help) = &self.help {
            return by_name(&help.flags);
        }
        by_name(&vllm().flags).or_else(|| {
            let gone = vllm().gone.get(root)?;
            // A range on both sides of the removal keeps the flag: some of its versions have it.
            (self.is_at_least(&gone.until) != Answer::Yes).then(|| FlagSpec { kind: gone.kind, ..FlagSpec::default() })
        })
    }

    /// The flag of a setting, for an engine whose settings are mapped one by one.
    pub(super) fn mapped_flag(&self, name: &str) -> Option<&'static MappedFlag> {
        mapped(self.dialect)?.settings.get(name)
    }

    /// False when the declared version is known to be older.
    pub(super) fn may_be_at_least(&self, version: &str) -> bool {
        self.is_at_least(version) != Answer::No
    }

    fn is_at_least(&self, version: &str) -> Answer {
        match (&self.versions, Version::parse(version)) {
            (Some(declared), Ok(version)) => declared.is_at_least(&version),
            (None, Ok(version)) => match Version::parse(&vllm().newest) {
                Ok(newest) if newest >= version => Answer::Yes,
                _ => Answer::No,
            },
            (_, Err(_)) => Answer::Unknown,
        }
    }

    fn is_idle(&self, gone: &GoneFlag) -> bool {
        gone.idle_since.as_ref().is_some_and(|since| self.is_at_least(since) == Answer::Yes)
    }

    fn check_absent(&self, root: &str) -> FlagVerdict {
        match vllm().gone.get(root) {
            Some(GoneFlag { to: Some(to), .. }) => FlagVerdict::Renamed { to: to.clone() },
            Some(gone) => FlagVerdict::Removed { since: gone.until.clone(), why: gone.why.clone() },
            None => FlagVerdict::Unknown { suggestion: self.nearest(root) },
        }
    }

    fn check_value(&self, path: &str, value: &Value, spec: &FlagSpec) -> FlagVerdict {
        if let Value::Object(members) = value {
            let verdicts = members.iter().map(|(key, member)| self.check_value(&format!("{path}.{key}"), member, spec));
            return verdicts.into_iter().find(|verdict| *verdict != FlagVerdict::Known).unwrap_or(FlagVerdict::Known);
        }
        let Value::String(text) = value else {
            return FlagVerdict::Known;
        };
        let mut rules = vllm().values.iter().filter(|rule| rule.setting == path && rule.value == *text);
        if let Some(rule) = rules.find(|rule| self.is_at_least(&rule.since) == Answer::Yes) {
            return match &rule.to {
                Some(to) if !rule.refused => FlagVerdict::SilentlyChanged { to: to.clone() },
                Some(to) => FlagVerdict::ValueRefused { why: format!("{}; use {to}", rule.why) },
                None => FlagVerdict::ValueRefused { why: rule.why.clone() },
            };
        }
        let judges = self.help.is_some() || self.is_at_least(&vllm().newest) == Answer::Yes;
        if judges && !path.contains('.') && !spec.choices.is_empty() && !spec.choices.contains(text) {
            let known = spec.choices.join(", ");
            return FlagVerdict::ValueRefused { why: format!("`{text}` is not one of {known}") };
        }
        FlagVerdict::Known
    }

    fn nearest(&self, root: &str) -> Option<String> {
        match &self.help {
            Some(help) => nearest_of(root, help.flags.keys()),
            None => nearest_of(root, vllm().flags.keys()),
        }
    }
}

fn check_mapped(table: &SglangData, name: &str) -> FlagVerdict {
    let path = engine_path(name);
    if table.settings.contains_key(&path) {
        return FlagVerdict::Known;
    }
    FlagVerdict::Unknown { suggestion: nearest_of(&path, table.settings.keys()) }
}

/// `group_a.member_b` → `group-a.member_b`: vLLM takes members by the names of its fields.
fn dashed(path: &str) -> String {
    match path.split_once('.') {
        Some((group, member)) => format!("{}.{member}", group.replace('_', "-")),
        None => path.replace('_', "-"),
    }
}

/// The flag of one setting with a plain value, as the engine spells it (`--max-num-seqs`). Nothing is checked.
pub fn setting_flag(dialect: Dialect, name: &str) -> String {
    let path = engine_path(name);
    let flag = mapped(dialect).and_then(|table| table.settings.get(&path));
    format!("--{}", flag.map_or_else(|| dashed(&path), |flag| flag.flag.clone()))
}

fn nearest_of<'a>(wanted: &str, names: impl Iterator<Item = &'a String>) -> Option<String> {
    let scored = names.map(|name| (strsim::normalized_damerau_levenshtein(wanted, name), name));
    let best = scored.max_by(|(a, _), (b, _)| a.total_cmp(b))?;
    (best.0 >= 0.7).then(|| best.1.clone())
}
