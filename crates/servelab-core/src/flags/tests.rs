use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::version::VersionSpec;

fn table(version: &str) -> FlagTable {
    let spec = VersionSpec::parse(version).expect(version);
    FlagTable::builtin(Dialect::Vllm, Some(&spec))
}

fn map(json: Value) -> BTreeMap<String, Value> {
    serde_json::from_value(json).expect("an object")
}

fn argv_of(version: &str, deploy: RoleDeploy, serve: Value) -> Argv {
    let serve = map(serve);
    let request = ArgvRequest {
        model: "/models/GLM-4.6",
        served_name: Some("glm"),
        gpu: None,
        deploy,
        serve: &serve,
        role_extras: &BTreeMap::new(),
    };
    build_argv(&request, &table(version))
}

/// A verdict in one word and its argument.
fn describe(verdict: &FlagVerdict) -> String {
    match verdict {
        FlagVerdict::Known => "known".to_owned(),
        FlagVerdict::Renamed { to } => format!("renamed {to}"),
        FlagVerdict::Removed { since, why } => {
            assert!(!why.is_empty());
            format!("removed {since}")
        }
        FlagVerdict::NotYet { since } => format!("not yet {since}"),
        FlagVerdict::Idle { .. } => "idle".to_owned(),
        FlagVerdict::SilentlyChanged { to } => format!("changed {to}"),
        FlagVerdict::ValueRefused { .. } => "refused".to_owned(),
        FlagVerdict::Unknown { suggestion } => format!("unknown {}", suggestion.as_deref().unwrap_or("-")),
    }
}

#[test]
fn verdicts() {
    for (version, name, value, expected) in [
        ("0.32.0", "max_num_seqs", json!(128), "known"),
        ("0.32.0", "--max-num-seqs", json!(128), "known"),
        ("0.11.*", "gpu_memory_utilization", json!(0.9), "known"),
        ("0.32.0", "swap_space", json!(4), "removed 0.18.0"),
        ("0.11.*", "swap_space", json!(4), "known"),
        ("0.17.1", "swap_space", json!(4), "known"),
        (">=0.17,<0.19", "swap_space", json!(4), "known"),
        ("0.32.0", "num_scheduler_steps", json!(2), "removed 0.11.0"),
        ("0.11.*", "num_scheduler_steps", json!(2), "removed 0.11.0"),
        ("0.11.*", "max_seq_len_to_capture", json!(2), "removed 0.11.0"),
        ("0.32.0", "max_num_partial_prefills", json!(2), "removed 0.32.0"),
        ("0.11.*", "max_num_partial_prefills", json!(2), "idle"),
        ("0.32.0", "disable_log_requests", json!(true), "removed 0.12.0"),
        ("0.11.2", "disable_log_requests", json!(true), "known"),
        ("0.32.0", "context_parallel_size", json!(2), "renamed decode_context_parallel_size"),
        ("0.32.0", "num_redundant_experts", json!(2), "renamed eplb_config.num_redundant_experts"),
        ("0.32.0", "eplb.num_redundant_experts", json!(2), "known"),
        ("0.32.0", "all2all_backend", json!("pplx"), "changed allgather_reducescatter"),
        ("0.32.0", "all2all_backend", json!("deepep_low_latency"), "known"),
        ("0.32.0", "all2all_backend", json!("deepep"), "refused"),
        ("0.11.1", "all2all_backend", json!("pplx"), "known"),
        ("0.11.0", "all2all_backend", json!("pplx"), "not yet 0.11.1"),
        ("0.11.*", "all2all_backend", json!("pplx"), "known"),
        ("0.32.0", "kv_cache_dtype", json!("fp9"), "refused"),
        ("0.32.0", "kv_cache_dtype", json!("fp8_e5m2"), "known"),
        ("0.32.0", "kv_transfer_config", json!({"kv_connector": "SharedStorageConnector"}), "refused"),
        ("0.32.0", "kv_transfer_config", json!({"kv_connector": "NixlConnector"}), "known"),
        ("0.32.0", "max_num_seq", json!(3), "unknown max_num_seqs"),
        ("0.32.0", "frobnicate", json!(3), "unknown -"),
        ("0.32.0", "max_num_seqs.low", json!(3), "unknown max_num_seqs"),
    ] {
        assert_eq!(describe(&table(version).check(name, &value)), expected, "{name}={value} in {version}");
    }
    let newest = FlagTable::builtin(Dialect::Vllm, None);
    assert!(matches!(newest.check("swap_space", &json!(4)), FlagVerdict::Removed { .. }));
}

#[test]
fn defaults_depend_on_the_version() {
    assert_eq!(table("0.11.0").default_value("gpu_memory_utilization"), Some(json!(0.9)));
    assert_eq!(table("0.32.0").default_value("gpu_memory_utilization"), Some(json!(0.92)));
    assert_eq!(table("0.32.0").default_value("eplb.window_size"), Some(json!(1000)));
    assert_eq!(table("0.32.0").default_value("max_num_seqs"), None, "depends on the hardware");
}

#[test]
fn document_002_baseline() {
    let argv = argv_of(
        "0.11.*",
        RoleDeploy { tp: 8, ..RoleDeploy::default() },
        json!({
            "enable_expert_parallel": true, "enforce_eager": true, "dtype": "bfloat16", "kv_cache_dtype": "fp8",
            "gpu_memory_utilization": 0.95, "max_model_len": 32768, "enable_chunked_prefill": true,
            "enable_prefix_caching": false, "trust_remote_code": true, "max_num_seqs": null
        }),
    );
    assert_eq!(
        argv.argv.join(" "),
        "vllm serve /models/GLM-4.6 --served-model-name glm --tensor-parallel-size 8 --dtype bfloat16 \
         --enable-chunked-prefill --enable-expert-parallel --no-enable-prefix-caching --enforce-eager \
         --gpu-memory-utilization 0.95 --kv-cache-dtype fp8 --max-model-len 32768 --trust-remote-code"
    );
    assert_eq!(argv.notes, []);
}

#[test]
fn eplb_and_speculation_become_json() {
    let argv = argv_of(
        "0.32.0",
        RoleDeploy { dp: 64, dp_local: Some(8), nodes: 8, backend: Some(Backend::Ray), ..RoleDeploy::default() },
        json!({
            "enable_eplb": true, "eplb.num_redundant_experts": 32, "eplb_window_size": 1000,
            "eplb_config.step_interval": 3000, "speculative_config": {"method": "ngram"}, "num_speculative_tokens": 2,
            "max_num_seqs": 128.0, "cudagraph_capture_sizes": [1, 2], "disable_log_stats": false
        }),
    );
    assert_eq!(
        argv.argv[4..],
        [
            "glm",
            "--data-parallel-size",
            "64",
            "--data-parallel-size-local",
            "8",
            "--distributed-executor-backend",
            "ray",
            "--data-parallel-backend",
            "ray",
            "--cudagraph-capture-sizes",
            "1",
            "2",
            "--enable-eplb",
            "--eplb-config",
            r#"{"num_redundant_experts":32,"step_interval":3000,"window_size":1000}"#,
            "--max-num-seqs",
            "128",
            "--speculative-config",
            r#"{"method":"ngram","num_speculative_tokens":2}"#,
        ]
    );
    let noted: Vec<_> = argv.notes.iter().map(|note| (note.setting.as_str(), note.severity)).collect();
    assert_eq!(noted, [("eplb_window_size", NoteSeverity::Info), ("num_speculative_tokens", NoteSeverity::Info)]);
}

#[test]
fn what_the_engine_does_not_take_is_left_out_and_noted() {
    let argv = argv_of(
        "0.32.0",
        RoleDeploy::default(),
        json!({
            "swap_space_gb": 20, "num_scheduler_steps": 2, "max_num_partial_prefills": 1, "context_parallel_size": 2,
            "all2all_backend": "pplx", "max_num_sequences": 3, "port": 8000, "tensor_parallel_size": 8,
            "enforce_eager": "yes", "extra_args": ["--swap-space", 4]
        }),
    );
    assert_eq!(
        argv.argv[5..],
        ["--all2all-backend", "pplx", "--decode-context-parallel-size", "2", "--swap-space", "4"]
    );
    let severity_of = |name: &str| argv.notes.iter().find(|note| note.setting == name).map(|note| note.severity);
    for (name, severity) in [
        ("swap_space_gb", NoteSeverity::Warning),
        ("num_scheduler_steps", NoteSeverity::Warning),
        ("max_num_partial_prefills", NoteSeverity::Warning),
        ("context_parallel_size", NoteSeverity::Info),
        ("all2all_backend", NoteSeverity::Warning),
        ("max_num_sequences", NoteSeverity::Unknown),
        ("port", NoteSeverity::Warning),
        ("tensor_parallel_size", NoteSeverity::Warning),
        ("enforce_eager", NoteSeverity::Warning),
    ] {
        assert_eq!(severity_of(name), Some(severity), "{name}: {:?}", argv.notes);
    }
}

#[test]
fn old_versions_read_the_environment() {
    let argv = argv_of("0.11.0", RoleDeploy::default(), json!({"all2all_backend": "pplx"}));
    assert_eq!(argv.env.get("VLLM_ALL2ALL_BACKEND").map(String::as_str), Some("pplx"));
    assert_eq!(argv.argv.len(), 5);
}

#[test]
fn roles_add_kv_transfer() {
    let serve = map(json!({"kv_transfer_config.kv_buffer_device": "cpu"}));
    for (role, kv_role) in [("prefill", "kv_producer"), ("decode", "kv_consumer")] {
        let extras = pd_role_extras(role, &table("0.32.0"));
        let request = ArgvRequest {
            model: "m",
            served_name: None,
            gpu: None,
            deploy: RoleDeploy::default(),
            serve: &serve,
            role_extras: &extras,
        };
        let argv = build_argv(&request, &table("0.32.0"));
        let config: Value = serde_json::from_str(argv.argv.last().expect("a value")).expect("JSON");
        assert_eq!(config["kv_role"], kv_role);
        assert_eq!(config["kv_buffer_device"], "cpu");
        assert_eq!(config["kv_load_failure_policy"], "fail");
    }
    assert!(pd_role_extras("serve", &table("0.32.0")).is_empty());
    let old = pd_role_extras("decode", &table("0.11.0"));
    assert_eq!(old["kv_transfer_config"], json!({"kv_connector": "NixlConnector", "kv_role": "kv_consumer"}));
}

#[test]
fn the_study_chooses_the_connector() {
    let extras = pd_role_extras("prefill", &table("0.32.0"));
    let connector =
        json!({"kv_connector": "ExampleConnector", "kv_connector_extra_config": {"shared_storage_path": "/s"}});
    for serve in [
        json!({"kv_transfer_config": connector}),
        json!({"kv_transfer_config.kv_connector": "ExampleConnector",
               "kv_transfer_config.kv_connector_extra_config.shared_storage_path": "/s"}),
    ] {
        let serve = map(serve);
        let request = ArgvRequest {
            model: "m",
            served_name: None,
            gpu: None,
            deploy: RoleDeploy::default(),
            serve: &serve,
            role_extras: &extras,
        };
        let argv = build_argv(&request, &table("0.32.0"));
        let config: Value = serde_json::from_str(argv.argv.last().expect("a value")).expect("JSON");
        assert_eq!((&config["kv_connector"], &config["kv_role"]), (&json!("ExampleConnector"), &json!("kv_producer")));
        assert_eq!(config["kv_connector_extra_config"]["shared_storage_path"], "/s");
    }
}

#[test]
fn other_dialects() {
    let serve = map(json!({
        "gpu_memory_utilization": 0.9, "enable_prefix_caching": false, "enforce_eager": true, "enable_eplb": true
    }));
    let request = ArgvRequest {
        model: "m",
        served_name: None,
        gpu: Some("H200-SXM-141GB"),
        deploy: RoleDeploy { tp: 2, ..RoleDeploy::default() },
        serve: &serve,
        role_extras: &BTreeMap::new(),
    };
    let sglang = build_argv(&request, &FlagTable::builtin(Dialect::Sglang, None));
    assert_eq!(
        sglang.argv.join(" "),
        "python3 -m sglang.launch_server --model-path m --enable-metrics --tp-size 2 --disable-radix-cache \
         --disable-cuda-graph --mem-fraction-static 0.9"
    );
    assert_eq!(sglang.notes.len(), 1);
    let slots = map(json!({"max_num_seqs": 4, "max_model_len": 2048, "kv_cache_dtype": "q8_0", "enable_eplb": true}));
    let request = ArgvRequest { served_name: Some("tiny"), serve: &slots, ..request };
    let llamacpp = build_argv(&request, &FlagTable::builtin(Dialect::LlamaCpp, None));
    assert_eq!(
        llamacpp.argv.join(" "),
        "llama-server --model m --metrics --alias tiny --split-mode row --cache-type-k q8_0 --cache-type-v q8_0 \
         --ctx-size 8192 --parallel 4",
        "the context is that of all slots together"
    );
    assert_eq!(llamacpp.notes.len(), 1, "EPLB is nothing of llama.cpp's: {:?}", llamacpp.notes);
    assert_eq!(setting_flag(Dialect::LlamaCpp, "max_num_seqs"), "--parallel");
    assert_eq!(setting_flag(Dialect::Sglang, "max_num_seqs"), "--max-running-requests");
    assert_eq!(
        setting_flag(Dialect::Vllm, "speculative_config.num_speculative_tokens"),
        "--speculative-config.num_speculative_tokens"
    );
    let request = ArgvRequest { served_name: None, serve: &serve, ..request };
    let sim = build_argv(&request, &FlagTable::builtin(Dialect::Sim, None));
    assert_eq!(
        sim.argv.join(" "),
        "servelab sim --model m --gpu H200-SXM-141GB --tensor-parallel-size 2 --enable-eplb \
         --no-enable-prefix-caching --enforce-eager --gpu-memory-utilization 0.9"
    );
}

#[test]
fn canonical_names() {
    for (name, section, ours) in [
        ("tensor_parallel_size", Section::Deploy, "tp"),
        ("--tensor-parallel-size", Section::Deploy, "tp"),
        ("data_parallel_size_local", Section::Deploy, "dp_local"),
        ("eplb_num_redundant_experts", Section::Serve, "eplb.num_redundant_experts"),
        ("eplb_config.window_size", Section::Serve, "eplb.window_size"),
        ("eplb.window_size", Section::Serve, "eplb.window_size"),
        ("num_speculative_tokens", Section::Serve, "speculative_config.num_speculative_tokens"),
        ("speculative.method", Section::Serve, "speculative_config.method"),
        ("swap_space_gb", Section::Serve, "swap_space"),
        ("model_path", Section::Model, "path"),
        ("max_num_seqs", Section::Serve, "max_num_seqs"),
        ("max-num-seqs", Section::Serve, "max_num_seqs"),
        ("context_parallel_size", Section::Serve, "decode_context_parallel_size"),
    ] {
        assert_eq!(canonical_setting(name), Canonical { section, name: ours.to_owned() }, "{name}");
        let again = canonical_setting(ours);
        assert!(section != Section::Serve || again.name == ours, "{ours} is stable");
    }
}

const HELP: &str = "\
usage: vllm serve [model_tag] [options]

  --enforce-eager, --no-enforce-eager
                        Whether to use --not-a-flag eager mode.
  --max-num-seqs MAX_NUM_SEQS
  --data-parallel-size DATA_PARALLEL_SIZE, -dp DATA_PARALLEL_SIZE
  --gpu-memory-utilization X, --device-memory-utilization X
  --api-key API_KEY [API_KEY ...]
  --headless            Run in headless mode.
  --kv-cache-dtype {auto,fp8}
  --config-format ['auto', 'hf']
  --eplb-config EPLB_CONFIG
  --tool-call-parser {a,b} or name registered in --tool-parser-plugin
  -h, --help            show this help message and exit
";

#[test]
fn help_is_read() {
    let help = HelpFlags::parse(HELP);
    let kinds: Vec<_> = help.flags.iter().map(|(name, spec)| (name.as_str(), spec.kind, spec.choices.len())).collect();
    assert_eq!(
        kinds,
        [
            ("api_key", FlagKind::List, 0),
            ("config_format", FlagKind::Value, 2),
            ("data_parallel_size", FlagKind::Value, 0),
            ("enforce_eager", FlagKind::Bool, 0),
            ("eplb_config", FlagKind::Json, 0),
            ("gpu_memory_utilization", FlagKind::Value, 0),
            ("headless", FlagKind::Switch, 0),
            ("kv_cache_dtype", FlagKind::Value, 2),
            ("max_num_seqs", FlagKind::Value, 0),
            ("tool_call_parser", FlagKind::Value, 0),
        ]
    );
    assert!(help.has("device_memory_utilization"));
    let table = table("0.11.*").with_help(help);
    assert_eq!(table.check("max_num_seqs", &json!(1)), FlagVerdict::Known);
    assert!(matches!(table.check("swap_space", &json!(1)), FlagVerdict::Removed { .. }), "help beats the version");
    assert!(matches!(table.check("block_size", &json!(1)), FlagVerdict::Unknown { .. }));
    assert!(matches!(table.check("kv_cache_dtype", &json!("fp8_e5m2")), FlagVerdict::ValueRefused { .. }));
    assert!(HelpFlags::parse("command not found").is_empty());
}

#[test]
fn the_table_agrees_with_a_real_help() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/samples/vllm/help/serve_help_all.txt");
    let Ok(text) = std::fs::read_to_string(path) else {
        println!("skipped: {path} is not here");
        return;
    };
    let help = HelpFlags::parse(&text);
    let ours = &super::data::vllm().flags;
    assert_eq!(help.flags.keys().collect::<Vec<_>>(), ours.keys().collect::<Vec<_>>());
    for (name, spec) in &help.flags {
        assert_eq!(spec.kind, ours[name].kind, "{name}");
    }
}

proptest! {
    #[test]
    fn never_panics(text in "\\PC{0,80}", name in "[ -~]{0,20}", value in "[ -~]{0,10}") {
        let help = HelpFlags::parse(&format!("  --{text}\n  {text}"));
        let table = table("0.32.0").with_help(help);
        let _ = table.check(&name, &json!(value));
        let _ = canonical_setting(&name);
        let serve = map(json!({ name: value }));
        let request = ArgvRequest { model: "m", served_name: None, gpu: None, deploy: RoleDeploy::default(), serve: &serve, role_extras: &serve };
        let _ = build_argv(&request, &table);
    }
}

/// 98 command lines that were run against the real 0.32: what its parser takes the table knows, what it does not know the
/// table leaves out.
#[test]
fn the_table_agrees_with_a_real_parser() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/samples/vllm/flags/flagtest.out");
    let Ok(text) = std::fs::read_to_string(path) else {
        println!("skipped: {path} is not here");
        return;
    };
    let table = table("0.32.0");
    let mut checked = 0;
    for case in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let parse = case["parse"].as_str().unwrap_or_default();
        let refused = parse.split_once("unrecognized arguments: ").map(|(_, rest)| rest);
        if parse != "ok" && refused.is_none() {
            continue;
        }
        for flag in case["args"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            // Short forms and abbreviations are for people at a prompt; the builder writes whole names.
            let Some(name) = flag.strip_prefix("--").filter(|name| *name != "max-num-se") else { continue };
            let name = name.split(['=', '.']).next().unwrap_or(name);
            let name = name.strip_prefix("no-").unwrap_or(name);
            let verdict = table.check(name, &Value::Null);
            let is_absent = matches!(
                verdict,
                FlagVerdict::Unknown { .. } | FlagVerdict::Removed { .. } | FlagVerdict::Renamed { .. }
            );
            assert_eq!(
                is_absent,
                refused.is_some_and(|rest| rest.contains(flag)),
                "{flag} in {}: {verdict:?}",
                case["name"]
            );
            checked += 1;
        }
    }
    assert!(checked > 60, "{checked} flags were looked at");
}
