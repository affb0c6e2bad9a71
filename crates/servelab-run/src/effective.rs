//! The manipulation check: the configuration that the engine says it runs with, compared with the one that was asked for.
//! Sources, most trusted first: `/server_info`, the engine core's start line, the arguments that the server understood.
//! Settings that the engine shows nowhere are named as such, never taken for equal.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

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
    /// KV cache size in tokens.
    pub kv_cache_tokens: Option<u64>,
    /// `Maximum concurrency for N tokens per request`: [N tokens, requests].
    pub max_concurrency: Option<(u64, f64)>,
    /// Memory left for the KV cache, GiB.
    pub available_kv_gib: Option<f64>,
    /// Memory taken by weights, GiB.
    pub model_load_gib: Option<f64>,
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
    ("max_num_seqs", &["max_num_seqs"]),
    ("max_num_batched_tokens", &["max_num_batched_tokens"]),
    ("max_model_len", &["max_model_len", "max_seq_len"]),
    ("gpu_memory_utilization", &["gpu_memory_utilization"]),
    ("kv_cache_dtype", &["kv_cache_dtype", "cache_dtype"]),
    ("enable_prefix_caching", &["enable_prefix_caching"]),
    ("enable_chunked_prefill", &["enable_chunked_prefill", "chunked_prefill_enabled"]),
    ("enforce_eager", &["enforce_eager"]),
    ("dtype", &["dtype"]),
    ("block_size", &["block_size"]),
    ("quantization", &["quantization"]),
    ("load_format", &["load_format"]),
    ("seed", &["seed"]),
    ("trust_remote_code", &["trust_remote_code"]),
    ("enable_expert_parallel", &["enable_expert_parallel"]),
    ("enable_eplb", &["enable_eplb"]),
    ("all2all_backend", &["all2all_backend"]),
    ("tensor_parallel_size", &["tensor_parallel_size"]),
    ("pipeline_parallel_size", &["pipeline_parallel_size"]),
    ("data_parallel_size", &["data_parallel_size"]),
    ("decode_context_parallel_size", &["decode_context_parallel_size"]),
    ("num_gpu_blocks_override", &["num_gpu_blocks_override"]),
];

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
    for (key, names) in SETTINGS {
        let shown = server_info
            .and_then(|info| find_leaf(info, names))
            .or_else(|| names.iter().find_map(|name| log.engine_config.get(*name)))
            .or_else(|| names.iter().find_map(|name| log.non_default_args.get(*name)))
            .map(plain);
        if let Some(wanted) = requested.get(key) {
            match &shown {
                Some(shown) if !is_same(key, wanted, shown) => differences.push(Difference {
                    key: key.to_owned(),
                    requested: wanted.clone(),
                    effective: shown.clone(),
                }),
                Some(_) => {}
                None => not_shown.push(key.to_owned()),
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
        kv_cache_tokens: log.kv_cache_tokens,
        max_concurrency: log.max_concurrency,
        available_kv_gib: log.available_kv_gib,
        model_load_gib: log.model_load_gib,
        debug_logging: log.is_debug,
    }
}

fn requested(config: &Value) -> BTreeMap<String, Value> {
    let section = |name: &str| config.get(name).and_then(Value::as_object);
    let mut requested = BTreeMap::new();
    for (short, name) in DEPLOY {
        let value = section("deploy").and_then(|deploy| deploy.get(short).or_else(|| deploy.get(name)));
        if let Some(value) = value.filter(|value| value.is_number()) {
            requested.insert(name.to_owned(), value.clone());
        }
    }
    let known = |name: &str| SETTINGS.iter().any(|(key, _)| *key == name);
    for (name, value) in section("serve").into_iter().flatten() {
        let name = name.replace('-', "_");
        // A null is "leave it to the engine".
        if known(&name) && !value.is_null() {
            requested.insert(name, value.clone());
        }
    }
    requested
}

/// The first scalar of one of these names, in sections whose own name ends in `config` before all others.
fn find_leaf<'a>(info: &'a Value, names: &[&str]) -> Option<&'a Value> {
    fn search<'a>(map: &'a Map<String, Value>, names: &[&str], depth: u32) -> Option<&'a Value> {
        let own = names.iter().find_map(|name| map.get(*name)).filter(|value| !value.is_object() && !value.is_array());
        if own.is_some() || depth == 0 {
            return own;
        }
        let children = || map.iter().filter_map(|(name, value)| Some((name, value.as_object()?)));
        let (sections, others): (Vec<_>, Vec<_>) = children().partition(|(name, _)| name.ends_with("config"));
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
        assert_eq!(effective.not_shown, ["block_size"]);
        assert_eq!(effective.effective.get("dtype"), Some(&json!("bfloat16")));
        assert!(!effective.requested.contains_key("swap_space") && !effective.requested.contains_key("seed"));
        assert_eq!(effective.engine_version.as_deref(), Some("0.32.0"));
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
