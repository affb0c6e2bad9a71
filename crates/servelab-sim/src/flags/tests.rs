use serde_json::json;

use super::*;

fn parse(line: &str) -> Result<ServingFlags, SimError> {
    parse_at(line, "0.32.0")
}

fn parse_at(line: &str, version: &str) -> Result<ServingFlags, SimError> {
    let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    parse_serving_flags(&args, version)
}

#[test]
fn spellings() {
    let check = |line: &str, name: &str, expected: Value| {
        assert_eq!(parse(line).unwrap().get(name), Some(&expected), "{line}");
    };
    check("--max-num-seqs 8", "max_num_seqs", json!(8));
    check("--max-num-seqs=8", "max_num_seqs", json!(8));
    check("--max_num_seqs 8", "max_num_seqs", json!(8));
    check("--max-num-se 8", "max_num_seqs", json!(8));
    check("-tp 4", "tensor_parallel_size", json!(4));
    check("-ep", "enable_expert_parallel", json!(true));
    check("-O3", "optimization_level", json!("3"));
    check("--no-enable-prefix-caching", "enable_prefix_caching", json!(false));
    check("--enable_chunked_prefill", "enable_chunked_prefill", json!(true));
    check("--max-model-len 1k", "max_model_len", json!(1000));
    check("--max-model-len 1K", "max_model_len", json!(1024));
    check("--max-model-len 25.6k", "max_model_len", json!(25600));
    check("--max-model-len auto", "max_model_len", json!("auto"));
    check("--kv-cache-memory-bytes 256M", "kv_cache_memory_bytes", json!(268_435_456));
    check("--gpu-memory-utilization 0.9", "gpu_memory_utilization", json!(0.9));
    check("--eplb-config.num_redundant_experts 2", "eplb_config", json!({"num_redundant_experts": 2}));
    check(r#"--speculative-config {"method":"ngram"}"#, "speculative_config", json!({"method": "ngram"}));
    check("--served-model-name a b --max-num-seqs 1", "served_model_name", json!(["a", "b"]));
    check("--trust-remote-code --dtype bfloat16", "dtype", json!("bfloat16"));
}

#[test]
fn refusals_use_the_parsers_words() {
    let check = |line: &str, expected: &str| {
        let text = parse(line).unwrap_err().to_string();
        assert!(text.contains(expected), "{line}: {text}");
    };
    check("--context-parallel-size 2", "error: unrecognized arguments: --context-parallel-size 2");
    check("--num-scheduler-steps 4 --max-num-seqs 8 stray", "unrecognized arguments: --num-scheduler-steps 4 stray");
    check("--swap-space 4", "unrecognized arguments: --swap-space 4");
    check("--disable-log-requests", "unrecognized arguments: --disable-log-requests");
    check("--max-num-seqs x", "argument --max-num-seqs: invalid int value: 'x'");
    check("--max-num-seqs", "argument --max-num-seqs: expected one argument");
    check("--max-num-seqs --enforce-eager", "expected one argument");
    check("--kv-cache-dtype fp9", "invalid choice: 'fp9' (choose from 'auto', 'bfloat16'");
    check("--device cpu", "ambiguous option: --device could match --device-ids, --device-memory-utilization");
    check("--max-model-len 2Q", "invalid int value: '2Q'");
}

#[test]
fn removed_flags_exist_for_older_versions() {
    for line in ["--swap-space 4", "--disable-log-requests", "--max-num-partial-prefills 2"] {
        assert!(parse_at(line, "0.11.0").is_ok(), "{line}");
        assert!(parse(line).is_err(), "{line}");
    }
}

#[test]
fn the_captured_flag_cases_parse_as_they_did_for_vllm() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/samples/vllm/flags/flagtest.out");
    let Ok(text) = std::fs::read_to_string(path) else {
        println!("skipped: {path} is absent");
        return;
    };
    let mut n_cases = 0;
    for case in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let args: Vec<String> =
            case["args"].as_array().unwrap().iter().map(|a| a.as_str().unwrap().to_owned()).collect();
        let accepted = case["parse"] == "ok";
        let ours = parse_serving_flags(&args, "0.32.0");
        assert_eq!(ours.is_ok(), accepted, "{args:?}: {ours:?} but {}", case["parse"]);
        n_cases += 1;
    }
    assert!(n_cases > 80, "{n_cases}");
}
