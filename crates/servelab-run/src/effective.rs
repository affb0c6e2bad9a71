//! The manipulation check: the configuration that the engine says it runs with, compared with the one that was asked for.
//! Sources, most trusted first: `/server_info`, the engine core's start line, the arguments that the server understood.
//! Settings that the engine shows nowhere are named as such, never taken for equal.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use servelab_core::engine_facts::EngineFacts;
use servelab_core::flags::engine_path;

use crate::pyliteral::parse_kwargs;
use crate::serverlog::ServerLogFacts;

/// `effective.json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EffectiveConfig {
    /// Version of this file.
    pub schema: u32,
    /// Version that the engine gave itself.
    pub engine_version: Option<String>,
    /// Settings that were asked for and that can be compared.
    pub requested: BTreeMap<String, Value>,
    /// The same settings, and further ones of interest, as the engine shows them.
    pub effective: BTreeMap<String, Value>,
    /// Settings that differ.
    pub differences: Vec<Difference>,
    /// Asked for, but shown nowhere.
    pub not_shown: Vec<String>,
    /// Memory, cache sizes and durations of the start.
    #[serde(flatten)]
    pub engine: EngineFacts,
    /// The engine logs at DEBUG level.
    pub debug_logging: bool,
}

/// One setting whose effective value is not the requested one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// Setting.
    pub key: String,
    /// Asked for.
    pub requested: Value,
    /// As the engine shows it.
    pub effective: Value,
}

/// Setting, and its names where engines show it (own name first).
const SETTINGS: [(&str, &[&str]); 22] = [
    ("max_num_seqs", &["max_num_seqs", "max_running_requests", "total_slots"]),
    ("max_num_batched_tokens", &["max_num_batched_tokens", "chunked_prefill_size"]),
    ("max_model_len", &["max_model_len", "max_seq_len", "context_length", "n_ctx"]),
    ("gpu_memory_utilization", &["gpu_memory_utilization", "mem_fraction_static"]),
    ("kv_cache_dtype", &["kv_cache_dtype", "cache_dtype"]),
    ("enable_prefix_caching", &["enable_prefix_caching"]),
    ("enable_chunked_prefill", &["enable_chunked_prefill", "chunked_prefill_enabled"]),
    ("enforce_eager", &["enforce_eager"]),
    ("dtype", &["dtype"]),
    ("block_size", &["block_size", "page_size"]),
    ("quantization", &["quantization"]),
    ("load_format", &["load_format"]),
    ("seed", &["seed", "random_seed"]),
    ("trust_remote_code", &["trust_remote_code"]),
    ("enable_expert_parallel", &["enable_expert_parallel"]),
    ("enable_eplb", &["enable_eplb"]),
    ("all2all_backend", &["all2all_backend"]),
    ("tensor_parallel_size", &["tensor_parallel_size", "tp_size"]),
    ("pipeline_parallel_size", &["pipeline_parallel_size", "pp_size"]),
    ("data_parallel_size", &["data_parallel_size", "dp_size"]),
    ("decode_context_parallel_size", &["decode_context_parallel_size"]),
    ("num_gpu_blocks_override", &["num_gpu_blocks_override"]),
];

/// Members of a group that logs print under another name.
const MEMBERS: [(&str, &str); 1] = [("speculative_config.num_speculative_tokens", "num_spec_tokens")];

/// Short names of `deploy:`.
const DEPLOY: [(&str, &str); 4] = [
    ("tp", "tensor_parallel_size"),
    ("pp", "pipeline_parallel_size"),
    ("dp", "data_parallel_size"),
    ("dcp", "decode_context_parallel_size"),
];

/// Compares a point's configuration (`{serve, deploy, …}`) with what the engine shows.
pub fn compare(
    config: &Value,
    log: &ServerLogFacts,
    server_info: Option<&Value>,
    version: Option<&str>,
) -> EffectiveConfig {
    let requested = requested(config);
    let mut effective = BTreeMap::new();
    let mut differences = Vec::new();
    let mut not_shown = Vec::new();
    let others = requested.keys().filter(|key| !SETTINGS.iter().any(|(known, _)| known == key));
    let keys: Vec<&str> = SETTINGS.iter().map(|(key, _)| *key).chain(others.map(String::as_str)).collect();
    for key in keys {
        let shown = shown(key, log, server_info);
        if let Some(wanted) = requested.get(key) {
            match &shown {
                Some(shown) if is_comparable(wanted, shown) && !is_same(key, wanted, shown) => differences
                    .push(Difference { key: key.to_owned(), requested: wanted.clone(), effective: shown.clone() }),
                Some(shown) if is_comparable(wanted, shown) => {}
                _ => not_shown.push(key.to_owned()),
            }
        }
        if let Some(shown) = shown {
            effective.insert(key.to_owned(), shown);
        }
    }
    EffectiveConfig {
        schema: 1,
        engine_version: version.map(str::to_owned).or_else(|| log.engine_version.clone()),
        requested,
        effective,
        differences,
        not_shown,
        engine: log.engine.clone(),
        debug_logging: log.is_debug,
    }
}

/// What the engine shows for a setting, by its own or another engine's name.
fn shown(key: &str, log: &ServerLogFacts, server_info: Option<&Value>) -> Option<Value> {
    let known = SETTINGS.iter().find(|(known, _)| *known == key).map(|(_, names)| *names);
    let (group, leaf) = key.rsplit_once('.').map_or((None, key), |(group, leaf)| (Some(group), leaf));
    let leaf_alias = MEMBERS.iter().find(|(name, _)| *name == key).map(|(_, alias)| *alias);
    let own = [Some(leaf), leaf_alias].into_iter().flatten().collect::<Vec<_>>();
    let names = known.unwrap_or(&own);
    let Some(group) = group else {
        let by_info = server_info.and_then(|info| find_leaf(info, names));
        return by_info
            .or_else(|| names.iter().find_map(|name| log.engine_config.get(*name)))
            .or_else(|| names.iter().find_map(|name| log.non_default_args.get(*name)))
            .map(plain);
    };
    let member = |section: &Value| match section {
        Value::Object(map) => names.iter().find_map(|name| map.get(*name)).cloned(),
        // `SpeculativeConfig(method='ngram', …)`: the log prints objects so.
        Value::String(text) => {
            let (_, inside) = text.split_once('(')?;
            let members = parse_kwargs(inside.strip_suffix(')').unwrap_or(inside));
            names.iter().find_map(|name| members.get(*name)).cloned()
        }
        _ => None,
    };
    let by_info = server_info.and_then(|info| find_section(info, group)).and_then(member);
    by_info
        .or_else(|| log.engine_config.get(group).and_then(member))
        .or_else(|| log.non_default_args.get(group).and_then(member))
        .as_ref()
        .map(plain)
}

/// A section of this name anywhere in the engine's configuration.
fn find_section<'a>(info: &'a Value, name: &str) -> Option<&'a Value> {
    fn search<'a>(value: &'a Value, name: &str, depth: u32) -> Option<&'a Value> {
        let map = value.as_object()?;
        let own = map.get(name).filter(|section| section.is_object());
        if own.is_some() || depth == 0 {
            return own;
        }
        map.values().find_map(|child| search(child, name, depth - 1))
    }
    search(info, name, 4)
}

/// What was asked for: `deploy` and every leaf of `serve`, by the engine's names. What goes through verbatim
/// (`extra_args`) is text and cannot be compared.
fn requested(config: &Value) -> BTreeMap<String, Value> {
    let section = |name: &str| config.get(name).and_then(Value::as_object);
    let mut requested = BTreeMap::new();
    for (short, name) in DEPLOY {
        let value = section("deploy").and_then(|deploy| deploy.get(short).or_else(|| deploy.get(name)));
        if let Some(value) = value.filter(|value| value.is_number()) {
            requested.insert(name.to_owned(), value.clone());
        }
    }
    for (name, value) in section("serve").into_iter().flatten().filter(|(name, _)| *name != "extra_args") {
        leaves(&engine_path(name), value, &mut requested);
    }
    requested
}

fn leaves(path: &str, value: &Value, into: &mut BTreeMap<String, Value>) {
    match value {
        // A null is "leave it to the engine".
        Value::Null => {}
        Value::Object(map) if !map.is_empty() => {
            for (name, member) in map {
                leaves(&format!("{path}.{name}"), member, into);
            }
        }
        leaf => {
            into.insert(path.to_owned(), leaf.clone());
        }
    }
}

/// The first scalar of one of these names, in sections whose own name ends in `config` before all others.
fn find_leaf<'a>(info: &'a Value, names: &[&str]) -> Option<&'a Value> {
    fn search<'a>(map: &'a Map<String, Value>, names: &[&str], depth: u32) -> Option<&'a Value> {
        let own = names.iter().find_map(|name| map.get(*name)).filter(|value| !value.is_object() && !value.is_array());
        if own.is_some() || depth == 0 {
            return own;
        }
        let children = || map.iter().filter_map(|(name, value)| Some((name, value.as_object()?)));
        // The draft model's configuration repeats the names of the served one's.
        let children = children().filter(|(name, _)| *name != "speculative_config");
        let (sections, others): (Vec<_>, Vec<_>) = children.partition(|(name, _)| name.ends_with("config"));
        sections.into_iter().chain(others).find_map(|(_, child)| search(child, names, depth - 1))
    }
    search(info.as_object()?, names, 4)
}

/// `torch.bfloat16` → `bfloat16`.
fn plain(value: &Value) -> Value {
    match value.as_str().and_then(|text| text.strip_prefix("torch.")) {
        Some(text) => text.into(),
        None => value.clone(),
    }
}

/// A level (`compilation_config: 3`) says nothing about the object that an engine makes of it, nor does a null that
/// stands for "decided elsewhere" about a setting that was made.
fn is_comparable(requested: &Value, effective: &Value) -> bool {
    requested.is_object() == effective.is_object()
        && requested.is_array() == effective.is_array()
        && !effective.is_null()
}

fn is_same(key: &str, requested: &Value, effective: &Value) -> bool {
    if requested == effective || requested.as_str().is_some_and(|text| text.eq_ignore_ascii_case("auto")) {
        return true;
    }
    if let (Some(wanted), Some(shown)) = (as_number(requested), as_number(effective)) {
        return (wanted - shown).abs() <= 1e-9 * wanted.abs().max(1.0);
    }
    match (requested.as_str(), effective.as_str()) {
        (Some(wanted), Some(shown)) => alias(key, wanted) == alias(key, shown),
        _ => false,
    }
}

/// Names of the same thing.
fn alias(key: &str, text: &str) -> String {
    let text = text.to_ascii_lowercase().replace('-', "_");
    match (key, text.as_str()) {
        ("dtype", "half" | "fp16") => "float16".to_owned(),
        ("dtype", "bf16") => "bfloat16".to_owned(),
        ("dtype", "float" | "fp32") => "float32".to_owned(),
        ("kv_cache_dtype", "fp8_e4m3") => "fp8".to_owned(),
        _ => text,
    }
}

/// Numbers, also as vLLM's human-readable integers: `1k` = 1000, `1K` = 1024.
fn as_number(value: &Value) -> Option<f64> {
    if let Some(number) = value.as_f64() {
        return Some(number);
    }
    let text = value.as_str()?.trim();
    let (digits, factor) = match text.chars().last()? {
        'k' => (text.get(..text.len() - 1)?, 1e3),
        'K' => (text.get(..text.len() - 1)?, 1024.0),
        'm' => (text.get(..text.len() - 1)?, 1e6),
        'M' => (text.get(..text.len() - 1)?, 1024.0 * 1024.0),
        _ => (text, 1.0),
    };
    Some(digits.parse::<f64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn facts(engine_config: Value, args: Value) -> ServerLogFacts {
        let map = |value: Value| value.as_object().cloned().unwrap_or_default();
        ServerLogFacts { engine_config: map(engine_config), non_default_args: map(args), ..ServerLogFacts::default() }
    }

    #[test]
    fn values_that_mean_the_same() {
        for (key, requested, effective, expected) in [
            ("max_num_seqs", json!(8), json!(8), true),
            ("max_num_seqs", json!(8), json!(8.0), true),
            ("max_num_seqs", json!(8), json!(16), false),
            ("max_num_seqs", json!("8"), json!(8), true),
            ("max_model_len", json!("1k"), json!(1000), true),
            ("max_model_len", json!("1K"), json!(1024), true),
            ("max_model_len", json!("auto"), json!(40960), true),
            ("dtype", json!("half"), json!("float16"), true),
            ("dtype", json!("float16"), json!("bfloat16"), false),
            ("kv_cache_dtype", json!("fp8"), json!("fp8_e4m3"), true),
            ("kv_cache_dtype", json!("fp8_e5m2"), json!("fp8"), false),
            ("all2all_backend", json!("pplx"), json!("allgather_reducescatter"), false),
            ("enforce_eager", json!(true), json!(true), true),
            ("enforce_eager", json!(true), json!(false), false),
            ("quantization", json!("fp8"), Value::Null, false),
        ] {
            assert_eq!(is_same(key, &requested, &effective), expected, "{key}: {requested} vs {effective}");
        }
    }

    #[test]
    fn differences_and_gaps() {
        let config = json!({
            "serve": {"max_num_seqs": 8, "enable_chunked_prefill": false, "max_model_len": 2048, "seed": null,
                      "swap_space": 4, "block_size": 32, "dtype": "auto"},
            "deploy": {"mode": "collocated", "tp": 2, "dp": 1},
        });
        let log = facts(
            json!({"max_seq_len": 2048, "enable_chunked_prefill": true, "dtype": "torch.bfloat16",
                   "tensor_parallel_size": 2, "data_parallel_size": 1, "max_num_seqs": 99}),
            json!({"max_num_seqs": 8}),
        );
        let info = json!({"vllm_config": {"scheduler_config": {"max_num_seqs": 4}}});
        let effective = compare(&config, &log, Some(&info), Some("0.32.0"));
        let differing: Vec<(&str, &Value)> =
            effective.differences.iter().map(|d| (d.key.as_str(), &d.effective)).collect();
        assert_eq!(differing, [("max_num_seqs", &json!(4)), ("enable_chunked_prefill", &json!(true))]);
        assert_eq!(effective.not_shown, ["block_size", "swap_space"]);
        assert_eq!(effective.effective.get("dtype"), Some(&json!("bfloat16")));
        assert!(!effective.requested.contains_key("seed"));
        assert_eq!(effective.engine_version.as_deref(), Some("0.32.0"));
    }

    #[test]
    fn groups_are_compared_member_by_member() {
        let config = json!({"serve": {
            "speculative_config": {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 3},
            "eplb.num_redundant_experts": 32, "kv_cache_memory_bytes": "64M", "extra_args": ["--x"],
        }});
        let requested = requested(&config);
        let keys: Vec<&str> = requested.keys().map(String::as_str).collect();
        assert_eq!(
            keys,
            [
                "eplb_config.num_redundant_experts",
                "kv_cache_memory_bytes",
                "speculative_config.method",
                "speculative_config.num_speculative_tokens",
                "speculative_config.prompt_lookup_max",
            ]
        );
        let log = facts(
            json!({"speculative_config": "SpeculativeConfig(method='ngram', model=None, num_spec_tokens=2)"}),
            json!({"speculative_config": {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 3}}),
        );
        let by_log = compare(&config, &log, None, None);
        let differing: Vec<&str> = by_log.differences.iter().map(|d| d.key.as_str()).collect();
        assert_eq!(differing, ["speculative_config.num_speculative_tokens"]);
        assert_eq!(by_log.effective.get("speculative_config.prompt_lookup_max"), Some(&json!(3)));
        let info = json!({"vllm_config": {
            "cache_config": {"kv_cache_memory_bytes": 1_073_741_824},
            "parallel_config": {"eplb_config": {"num_redundant_experts": 32}},
            "speculative_config": {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 3},
        }});
        let by_info = compare(&config, &log, Some(&info), None);
        let differing: Vec<&str> = by_info.differences.iter().map(|d| d.key.as_str()).collect();
        assert_eq!((differing, by_info.not_shown.len()), (vec!["kv_cache_memory_bytes"], 0));
    }

    #[test]
    fn a_real_log_agrees_with_its_command_line() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../../shared/samples/vllm/server-start-0.32-cpu.log");
        let Ok(log) = std::fs::read_to_string(&path) else {
            println!("skipped: {} is not here", path.display());
            return;
        };
        let serve =
            json!({"max_model_len": 2048, "max_num_seqs": 8, "max_num_batched_tokens": 2048, "enforce_eager": true});
        let facts = ServerLogFacts::parse(&log);
        let same = compare(&json!({"serve": serve}), &facts, None, None);
        assert!(same.differences.is_empty() && same.not_shown.is_empty(), "{same:?}");
        let other = compare(&json!({"serve": {"max_num_seqs": 16, "enforce_eager": false}}), &facts, None, None);
        assert_eq!(other.differences.len(), 2);
    }
}
