use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::model::{builtin_gpu, builtin_model};

type Map = BTreeMap<String, Value>;

fn map(json: Value) -> Map {
    serde_json::from_value(json).expect("an object")
}

fn shape(tp: u32, pp: u32, dp: u32) -> RoleDeploy {
    RoleDeploy { tp, pp, dp, ..RoleDeploy::default() }
}

/// Findings of a collocated point as `(code, infeasible)`.
fn judge(model: &str, gpu: &str, nodes: u32, deploy: RoleDeploy, serve: Value) -> Vec<Finding> {
    let serve = map(serve);
    let model = builtin_model(model);
    let roles = [RoleView { name: "serve", count: 1, deploy, settings: &serve }];
    check_point(&PointView {
        engine: "vllm",
        roles: &roles,
        model: model.as_deref(),
        gpu: builtin_gpu(gpu),
        gpus_per_node: Some(8),
        nodes: Some(nodes),
    })
}

fn codes(findings: &[Finding]) -> Vec<&'static str> {
    findings.iter().map(|finding| finding.code).collect()
}

fn check(deploy: RoleDeploy, serve: Value, expected: &[(&str, bool)]) {
    let findings = judge("zai-org/GLM-4.6", "H200", 1, deploy, serve.clone());
    let found: Vec<(&str, bool)> = findings.iter().map(|f| (f.code, f.is_infeasible())).collect();
    assert_eq!(found, expected, "{deploy:?} {serve}: {findings:?}");
    for finding in &findings {
        assert!(RULE_CODES.contains(&finding.code));
        assert!(finding.text.contains(|c: char| c.is_ascii_digit()) || finding.code.starts_with("eplb"), "{finding:?}");
    }
}

#[test]
fn parallel_rules() {
    check(shape(8, 1, 1), json!({}), &[]);
    check(shape(7, 1, 1), json!({"max_model_len": 16384}), &[("idle_gpus", false), ("heads_not_divisible", true)]);
    check(shape(6, 1, 1), json!({"max_model_len": 16384}), &[("idle_gpus", false), ("kv_heads_not_divisible", true)]);
    check(shape(8, 1, 2), json!({}), &[("too_few_gpus", true)]);
    check(shape(16, 1, 1), json!({}), &[("too_few_gpus", true), ("tp_across_nodes", false)]);
    check(RoleDeploy { dcp: 2, ..shape(8, 1, 1) }, json!({}), &[("dcp_needs_kv_heads", true)]);
    check(shape(8, 1, 1), json!({"decode_context_parallel_size": 4}), &[("dcp_needs_kv_heads", true)]);
    check(shape(8, 1, 1), json!({"decode_context_parallel_size": 1}), &[]);
    check(
        shape(8, 1, 1),
        json!({"decode_context_parallel_size": 3}),
        &[("dcp_not_divisor", true), ("dcp_needs_kv_heads", true)],
    );
    check(shape(8, 1, 1), json!({"eplb.window_size": 1000}), &[("eplb_settings_unused", false)]);
    check(shape(8, 1, 1), json!({"eplb.window_size": null}), &[]);
    check(shape(8, 1, 1), json!({"enable_eplb": true}), &[("eplb_without_ep", true)]);
    check(shape(8, 1, 1), json!({"enable_eplb": true, "enable_expert_parallel": true}), &[]);
    check(
        shape(8, 1, 1),
        json!({"enable_eplb": true, "enable_expert_parallel": true, "eplb.num_redundant_experts": 3}),
        &[("eplb_experts_not_divisible", true)],
    );
    check(
        RoleDeploy { dp_local: Some(3), ..shape(1, 1, 8) },
        json!({"max_model_len": 16384}),
        &[("dp_local_mismatch", true)],
    );
    check(
        RoleDeploy { dp_local: Some(4), ..shape(1, 1, 8) },
        json!({"max_model_len": 16384}),
        &[("dp_local_mismatch", true)],
    );
    check(RoleDeploy { dp_local: Some(8), ..shape(1, 1, 8) }, json!({"max_model_len": 16384}), &[]);
    let dense = judge("Llama-3.1-8B", "H100", 1, shape(8, 1, 1), json!({"enable_expert_parallel": true}));
    assert_eq!(codes(&dense), ["ep_without_experts"]);
    let dense = judge("Llama-3.1-8B", "H100", 8, shape(1, 64, 1), json!({}));
    assert_eq!(codes(&dense), ["pp_exceeds_layers"]);
    let mla = judge("DeepSeek-V3", "H200", 1, shape(8, 1, 1), json!({"decode_context_parallel_size": 2}));
    assert_eq!(codes(&mla), [] as [&str; 0], "latent attention has one KV head in copies");
    let mtp = judge("Qwen3-32B", "H200", 1, shape(8, 1, 1), json!({"speculative_config.method": "mtp"}));
    assert_eq!(codes(&mtp), ["mtp_missing"]);
}

#[test]
fn length_and_memory_rules() {
    check(shape(8, 1, 1), json!({"max_model_len": 202_752}), &[]);
    check(shape(8, 1, 1), json!({"max_model_len": 202_753}), &[("max_len_over_model", true)]);
    check(shape(8, 1, 1), json!({"max_model_len": "auto"}), &[]);
    check(shape(8, 1, 1), json!({"max_model_len": "300K"}), &[("max_len_over_model", true)]);
    check(shape(8, 1, 1), json!({"max_model_len": 300_000, "hf_overrides": {"rope_scaling": {}}}), &[]);
    let unchunked = |batch: Value| json!({"enable_chunked_prefill": false, "max_model_len": 16384, "max_num_batched_tokens": batch});
    check(shape(8, 1, 1), unchunked(json!(8192)), &[("batch_below_model_len", true)]);
    check(shape(8, 1, 1), unchunked(json!(16384)), &[]);
    check(shape(8, 1, 1), unchunked(Value::Null), &[]);
    check(shape(8, 1, 1), json!({"max_num_batched_tokens": 256, "max_num_seqs": 512}), &[("batch_below_seqs", true)]);
    check(shape(8, 1, 1), json!({"max_num_batched_tokens": 512, "max_num_seqs": 512}), &[]);
    for (fraction, is_wrong) in [(0.0, true), (-0.1, true), (1.01, true), (1.0, false), (0.95, false)] {
        let expected: &[_] = if is_wrong { &[("memory_fraction", true)] } else { &[] };
        check(shape(8, 1, 1), json!({"gpu_memory_utilization": fraction}), expected);
    }
    check(shape(4, 1, 1), json!({}), &[("idle_gpus", false), ("weights_too_large", true)]);
    check(shape(4, 1, 1), json!({"quantization": "fp8", "max_model_len": 32768}), &[("idle_gpus", false)]);
    let tight = judge("Qwen3-32B", "A100-SXM4-80GB", 1, shape(1, 1, 8), json!({"max_model_len": 131_072}));
    assert_eq!(codes(&tight), ["kv_capacity"]);
    assert!(tight[0].is_infeasible() && tight[0].text.contains("131,072"), "{tight:?}");
    let close = judge("Qwen3-32B", "A100-SXM4-80GB", 1, shape(1, 1, 8), json!({"max_model_len": 40_000}));
    assert!(codes(&close) == ["kv_capacity"] && !close[0].is_infeasible(), "{close:?}");
    let fits = judge("Qwen3-32B", "A100-SXM4-80GB", 1, shape(1, 1, 8), json!({"max_model_len": 16_384}));
    assert_eq!(codes(&fits), [] as [&str; 0]);
    let slow = judge("Llama-3.1-8B", "A100-SXM4-80GB", 1, shape(8, 1, 1), json!({"kv_cache_dtype": "fp8_e5m2"}));
    assert_eq!(codes(&slow), ["fp8_kv_slow"]);
}

#[test]
fn unknown_inputs_keep_rules_silent() {
    let serve = map(json!({"max_model_len": 999_999_999, "enable_eplb": true, "enable_expert_parallel": true}));
    let roles = [RoleView { name: "serve", count: 1, deploy: shape(7, 1, 1), settings: &serve }];
    let mut point =
        PointView { engine: "vllm", roles: &roles, model: None, gpu: None, gpus_per_node: None, nodes: None };
    assert_eq!(check_point(&point), []);
    let glm = builtin_model("GLM-4.6");
    point.model = glm.as_deref();
    assert!(!check_point(&point).is_empty());
    point.engine = "external";
    assert_eq!(check_point(&point), []);
}

/// Document 002: GLM-4.6 on eight H200, twenty labels, fifteen point × dataset cells, four of them infeasible.
#[test]
fn glm46_ablation() {
    let base = json!({
        "enable_expert_parallel": true, "enforce_eager": true, "dtype": "bfloat16", "kv_cache_dtype": "fp8",
        "gpu_memory_utilization": 0.95, "max_model_len": 32768, "enable_chunked_prefill": true,
        "enable_prefix_caching": true, "trust_remote_code": true
    });
    let short = WorkloadView { max_input_tokens: 6 * 1024, max_output_tokens: Some(8 * 1024) };
    let long = WorkloadView { max_input_tokens: 48 * 1024, max_output_tokens: Some(64 * 1024) };
    let dcp = |n: u32| json!({"decode_context_parallel_size": n, "max_model_len": 131_072});
    let ngram = |n: u32| json!({"speculative_config.method": "ngram", "speculative_config.num_speculative_tokens": n});
    for (label, change, workload, expected) in [
        ("1A", json!({}), short, None),
        ("1B", json!({"enforce_eager": false}), short, None),
        ("2B", json!({"enable_expert_parallel": false}), short, None),
        ("3A", json!({}), long, Some("prompt_too_long")),
        ("3B", dcp(2), long, Some("dcp_needs_kv_heads")),
        ("3C", dcp(4), long, Some("dcp_needs_kv_heads")),
        ("4A", json!({"max_model_len": 16384}), short, None),
        ("4C", json!({"max_model_len": 65536}), short, None),
        ("4C", json!({"max_model_len": 65536}), long, Some("answer_too_long")),
        ("4D", json!({"max_model_len": 131_072}), long, None),
        ("5B", json!({"kv_cache_dtype": "auto"}), short, None),
        ("6B", json!({"enable_prefix_caching": false}), short, None),
        ("7B", json!({"enable_chunked_prefill": false}), short, None),
        ("8B", ngram(2), short, None),
        ("8C", ngram(4), short, None),
    ] {
        let mut serve = map(base.clone());
        serve.extend(map(change));
        let model = builtin_model("zai-org/GLM-4.6");
        let roles = [RoleView { name: "serve", count: 1, deploy: shape(8, 1, 1), settings: &serve }];
        let point = PointView {
            engine: "vllm",
            roles: &roles,
            model: model.as_deref(),
            gpu: builtin_gpu("H200"),
            gpus_per_node: Some(8),
            nodes: Some(1),
        };
        let mut findings = check_point(&point);
        findings.extend(check_cell(&point, &workload));
        assert_eq!(codes(&findings), expected.into_iter().collect::<Vec<_>>(), "{label}: {findings:?}");
        assert!(findings.iter().all(Finding::is_infeasible));
    }
}

/// Document 001: all EPLB points with 16 redundant experts on 64 ranks are infeasible, those with 32 are not.
#[test]
fn eplb_sweep_on_64_ranks() {
    let mut infeasible = 0;
    for backend in ["pplx", "deepep_low_latency", "deepep_high_throughput"] {
        for redundant in [16, 32] {
            for window in [500, 1000, 2000] {
                for interval in [1500, 3000, 5000] {
                    let findings = judge(
                        "GLM-4.6",
                        "H200",
                        8,
                        RoleDeploy { dp_local: Some(8), ..shape(1, 1, 64) },
                        json!({"all2all_backend": backend, "enable_eplb": true, "enable_expert_parallel": true,
                            "eplb.num_redundant_experts": redundant, "eplb.window_size": window,
                            "eplb.step_interval": interval, "gpu_memory_utilization": 0.92, "max_model_len": 32768}),
                    );
                    let expected: &[&str] = if redundant == 16 { &["eplb_experts_not_divisible"] } else { &[] };
                    assert_eq!(codes(&findings), expected, "{findings:?}");
                    if let Some(finding) = findings.first() {
                        assert!(finding.text.contains("160 + 16 = 176") && finding.text.contains("32 redundant"));
                        infeasible += 1;
                    }
                }
            }
        }
    }
    assert_eq!(infeasible, 27);
}

#[test]
fn roles_are_named_and_prefill_needs_no_room_for_answers() {
    let prefill = map(json!({"max_model_len": 6000}));
    let decode = map(json!({"max_model_len": 5100}));
    let roles = [
        RoleView { name: "prefill", count: 1, deploy: shape(2, 1, 1), settings: &prefill },
        RoleView { name: "decode", count: 1, deploy: shape(4, 1, 1), settings: &decode },
    ];
    let model = builtin_model("gpt-oss-120b");
    let point = PointView {
        engine: "vllm",
        roles: &roles,
        model: model.as_deref(),
        gpu: builtin_gpu("H100"),
        gpus_per_node: Some(8),
        nodes: Some(1),
    };
    assert_eq!(codes(&check_point(&point)), ["idle_gpus"], "6 of 8 GPUs are used");
    let workload = WorkloadView { max_input_tokens: 5000, max_output_tokens: Some(250) };
    let findings = check_cell(&point, &workload);
    assert_eq!(codes(&findings), ["answer_too_long"]);
    assert!(findings[0].text.starts_with("decode: "), "{findings:?}");
    let workload = WorkloadView { max_input_tokens: 5000, max_output_tokens: None };
    assert_eq!(check_cell(&point, &workload), []);
}

#[test]
fn counts_and_groups() {
    for (value, expected) in [
        (json!(5), Some(5)),
        (json!(5.0), Some(5)),
        (json!(5.5), None),
        (json!(-1), None),
        (json!("1k"), Some(1000)),
        (json!("32K"), Some(32768)),
        (json!("1.5k"), Some(1500)),
        (json!("auto"), None),
        (json!(""), None),
        (json!("é"), None),
    ] {
        assert_eq!(count(&BTreeMap::from([("x".to_owned(), value.clone())]), "x"), expected, "{value}");
    }
    assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
}

proptest! {
    #[test]
    fn never_panics_and_always_known_codes(
        sizes in prop::array::uniform6(0u32..200),
        numbers in prop::collection::vec(prop_oneof![Just(json!(null)), any::<i32>().prop_map(Value::from), any::<f64>().prop_map(Value::from), "[a-zK0-9]{0,4}".prop_map(Value::from)], 7),
        eplb in any::<bool>(),
        lengths in (0u64..u64::MAX / 4, proptest::option::of(0u64..u64::MAX / 4)),
        model in 0usize..9,
    ) {
        let names = ["max_model_len", "max_num_batched_tokens", "max_num_seqs", "gpu_memory_utilization",
            "eplb.num_redundant_experts", "decode_context_parallel_size", "kv_cache_memory_bytes"];
        let mut serve: Map = names.iter().map(|name| (*name).to_owned()).zip(numbers).collect();
        serve.insert("enable_eplb".to_owned(), json!(eplb));
        serve.insert("enable_expert_parallel".to_owned(), json!(true));
        let [tp, pp, dp, dp_local, dcp, nodes] = sizes;
        let deploy = RoleDeploy { tp, pp, dp, dp_local: Some(dp_local), dcp, nodes, backend: None };
        let roles = [RoleView { name: "serve", count: 1, deploy, settings: &serve }];
        let point = PointView { engine: "vllm", roles: &roles, model: crate::model::builtin_models().get(model), gpu: builtin_gpu("H200"), gpus_per_node: Some(8), nodes: Some(nodes) };
        let workload = WorkloadView { max_input_tokens: lengths.0, max_output_tokens: lengths.1 };
        for finding in check_point(&point).into_iter().chain(check_cell(&point, &workload)) {
            prop_assert!(RULE_CODES.contains(&finding.code));
        }
    }
}
