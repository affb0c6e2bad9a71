//! The embedded tables as Rust types.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde::Deserialize;
use serde_json::Value;

use super::{Dialect, FlagKind};

/// One flag of the newest version in the table.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FlagSpec {
    pub(super) kind: FlagKind,
    #[serde(default)]
    pub(super) choices: Vec<String>,
    /// Other names of the same flag.
    #[serde(default)]
    pub(super) also: Vec<String>,
    /// First version that has it, where that is known.
    pub(super) since: Option<String>,
}

/// A flag that some version dropped.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GoneFlag {
    pub(super) kind: FlagKind,
    /// First version without it.
    pub(super) until: String,
    pub(super) why: String,
    /// What replaces it.
    pub(super) to: Option<String>,
    /// From here on the flag was accepted and did nothing.
    pub(super) idle_since: Option<String>,
}

/// A value that some version replaces or refuses.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ValueRule {
    pub(super) setting: String,
    pub(super) value: String,
    pub(super) since: String,
    pub(super) to: Option<String>,
    #[serde(default)]
    pub(super) refused: bool,
    pub(super) why: String,
}

/// A setting that older versions read from the environment.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EnvironmentRule {
    pub(super) setting: String,
    pub(super) variable: String,
    pub(super) before: String,
    pub(super) why: String,
}

/// What a version does when the setting is absent.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DefaultRule {
    pub(super) setting: String,
    pub(super) since: String,
    pub(super) value: Value,
}

/// vLLM's table.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VllmData {
    #[serde(rename = "source")]
    _source: String,
    pub(super) newest: String,
    pub(super) flags: BTreeMap<String, FlagSpec>,
    pub(super) gone: BTreeMap<String, GoneFlag>,
    pub(super) values: Vec<ValueRule>,
    pub(super) environment: Vec<EnvironmentRule>,
    pub(super) defaults: Vec<DefaultRule>,
}

/// An engine whose flags have names of their own.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MappedFlag {
    pub(super) flag: String,
    pub(super) kind: FlagKind,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SglangData {
    #[serde(rename = "source")]
    _source: String,
    pub(super) settings: BTreeMap<String, MappedFlag>,
}

/// The embedded texts are parsed by a test, so the empty fallback is never seen.
pub(super) fn vllm() -> &'static VllmData {
    static DATA: OnceLock<VllmData> = OnceLock::new();
    DATA.get_or_init(|| serde_json::from_str(include_str!("../../data/vllm-flags.json")).unwrap_or_default())
}

pub(super) fn sglang() -> &'static SglangData {
    static DATA: OnceLock<SglangData> = OnceLock::new();
    DATA.get_or_init(|| serde_json::from_str(include_str!("../../data/sglang-flags.json")).unwrap_or_default())
}

pub(super) fn llamacpp() -> &'static SglangData {
    static DATA: OnceLock<SglangData> = OnceLock::new();
    DATA.get_or_init(|| serde_json::from_str(include_str!("../../data/llamacpp-flags.json")).unwrap_or_default())
}

/// The table of an engine whose settings are mapped one by one; `None` for vLLM's own names.
pub(super) fn mapped(dialect: Dialect) -> Option<&'static SglangData> {
    match dialect {
        Dialect::Sglang => Some(sglang()),
        Dialect::LlamaCpp => Some(llamacpp()),
        Dialect::Vllm | Dialect::Sim => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::Version;

    #[test]
    fn embedded_tables_parse_and_refer_to_flags() {
        let vllm: VllmData = serde_json::from_str(include_str!("../../data/vllm-flags.json")).expect("vLLM table");
        for text in [include_str!("../../data/sglang-flags.json"), include_str!("../../data/llamacpp-flags.json")] {
            let _: SglangData = serde_json::from_str(text).expect("a mapped table");
        }
        assert!(vllm.flags.len() > 300, "the whole help of 0.32 is there");
        let root = |setting: &str| setting.split('.').next().unwrap_or(setting).to_owned();
        for (name, gone) in &vllm.gone {
            assert!(!vllm.flags.contains_key(name), "{name} cannot be gone and known");
            assert!(Version::parse(&gone.until).is_ok(), "{name}");
            assert!(gone.to.as_ref().is_none_or(|to| vllm.flags.contains_key(&root(to))), "{name}");
        }
        for setting in vllm
            .values
            .iter()
            .map(|rule| &rule.setting)
            .chain(vllm.environment.iter().map(|rule| &rule.setting))
            .chain(vllm.defaults.iter().map(|rule| &rule.setting))
        {
            assert!(vllm.flags.contains_key(&root(setting)), "{setting}");
        }
        for version in vllm.values.iter().map(|rule| &rule.since).chain(vllm.defaults.iter().map(|rule| &rule.since)) {
            assert!(Version::parse(version).is_ok(), "{version}");
        }
    }
}
