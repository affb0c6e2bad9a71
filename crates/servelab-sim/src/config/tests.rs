use std::net::SocketAddr;

use super::*;
use crate::flags::parse_serving_flags;

fn settings(model: &str, gpu: &str, line: &str) -> SimSettings {
    let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    let mut settings = SimSettings::new(SocketAddr::from(([127, 0, 0, 1], 0)), model, gpu);
    settings.serving = parse_serving_flags(&args, &settings.declared_version).unwrap();
    settings
}

fn resolve(model: &str, gpu: &str, line: &str) -> Result<ServerConfig, SimError> {
    ServerConfig::resolve(&settings(model, gpu, line))
}

#[test]
fn defaults_follow_the_device() {
    let check = |gpu: &str, line: &str, expected: (u32, u32)| {
        let config = resolve("Llama-3.1-8B", gpu, line).unwrap();
        assert_eq!((config.max_num_batched_tokens, config.max_num_seqs), expected, "{gpu} {line}");
    };
    check("H200", "", (8192, 1024));
    check("B200", "", (16_384, 1024));
    check("A100", "", (2048, 256));
    check("H100", "--max-num-batched-tokens 512", (512, 512));
    check("H100", "--no-enable-chunked-prefill --max-model-len 16384", (16_384, 1024));
}

#[test]
fn refusals_have_vllms_words() {
    let check = |model: &str, gpu: &str, line: &str, expected: &str| {
        let text = resolve(model, gpu, line).unwrap_err().to_string();
        assert!(text.contains(expected), "{line}: {text}");
    };
    check(
        "tiny",
        "sim",
        "--no-enable-chunked-prefill --max-num-batched-tokens 256 --max-model-len 1024",
        "max_num_batched_tokens (256) is smaller than max_model_len (1024). This effectively limits",
    );
    check(
        "tiny",
        "sim",
        r#"--speculative-config {"method":"crystal_ball","num_speculative_tokens":2}"#,
        "NotImplementedError: Unsupported speculative method: 'crystal_ball'",
    );
    check(
        "tiny",
        "sim",
        r#"--speculative-config {"method":"ngram","num_speculative_tokens":0}"#,
        "Expected num_speculative_tokens to be greater than zero (0).",
    );
    check(
        "tiny",
        "sim",
        r#"--kv-transfer-config {"kv_connector":"P2pNcclConnector","kv_role":"kv_producer"}"#,
        "Unsupported connector type: P2pNcclConnector",
    );
    check(
        "tiny",
        "sim",
        "--max-num-seqs 512 --max-num-batched-tokens 256",
        "max_num_batched_tokens (256) must be greater than or equal to max_num_seqs (512).",
    );
    check("tiny", "sim", "-O.level=3", "Input should be 0, 1, 2 or 3");
    check(
        "GLM-4.6",
        "H200",
        "--tensor-parallel-size 7",
        "attention heads (96) must be divisible by tensor parallel size (7).",
    );
    check(
        "GLM-4.6",
        "H200",
        "--max-model-len 300000 -tp 8",
        "User-specified max_model_len (300000) is greater than the derived",
    );
    check("Llama-3.1-70B", "H100", "", "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate");
    check(
        "tiny",
        "sim",
        "--kv-cache-memory-bytes 16M --max-model-len 4096",
        "To serve at least one request with the models's max seq len (4096), (",
    );
    check("Llama-3.1-8B", "H100", "--gpu-memory-utilization 0.1", "No available memory for the cache blocks");
    check("Llama-3.1-8B", "H100", "--gpu-memory-utilization 1.5", "GPU memory utilization must be less than");
    check(
        "Qwen3-235B-A22B",
        "H200",
        "-tp 8 --decode-context-parallel-size 3",
        "tp_size=8 must be divisible by dcp_size=3.",
    );
    check(
        "GLM-4.6",
        "H200",
        "-tp 8 --decode-context-parallel-size 2",
        "(8) to be greater than the model's total number of KV heads (8)",
    );
    check(
        "GLM-4.6",
        "H200",
        "-tp 8 -ep --eplb-config.num_redundant_experts 2",
        "num_redundant_experts is set to 2 but EPLB is not enabled",
    );
    check(
        "GLM-4.6",
        "H200",
        "-tp 8 -ep --enable-eplb --eplb-config.num_redundant_experts 3",
        "n_physical_experts=163 must be divisible by ep_size=8",
    );
}

#[test]
fn the_estimated_length_of_a_refusal_fits_exactly() {
    let line = |len: u64| format!("--kv-cache-memory-bytes 64M --max-model-len {len}");
    let text = resolve("tiny", "sim", &line(30_000)).unwrap_err().to_string();
    let estimate: u64 = text.split("length is ").nth(1).unwrap().split('.').next().unwrap().parse().unwrap();
    assert!(resolve("tiny", "sim", &line(estimate)).is_ok());
    assert!(resolve("tiny", "sim", &line(estimate + 1)).is_err());
    assert_eq!(
        resolve("tiny", "sim", "--kv-cache-memory-bytes 64M --max-model-len auto").unwrap().max_model_len,
        estimate as u32
    );
}

#[test]
fn fp8_kv_doubles_the_capacity() {
    let plain = resolve("Llama-3.1-8B", "H100", "").unwrap();
    let fp8 = resolve("Llama-3.1-8B", "H100", "--kv-cache-dtype fp8_e5m2").unwrap();
    assert!(fp8.num_gpu_blocks.abs_diff(2 * plain.num_gpu_blocks) <= 1);
}

#[test]
fn the_focused_glm_study_fits_its_cluster() {
    let line = "-dp 64 -ep --gpu-memory-utilization 0.92 --max-model-len 16384 --max-num-seqs 256 --max-num-batched-tokens 16384";
    let config = resolve("zai-org/GLM-4.6", "H200", line).unwrap();
    assert_eq!((config.dp, config.expert_ranks(), config.lock_step()), (64, 64, true));
    assert!(config.max_concurrency() > 1.0);
    let pplx = resolve("zai-org/GLM-4.6", "H200", &format!("{line} --all2all-backend pplx")).unwrap();
    assert_eq!(pplx.all2all_backend, "allgather_reducescatter");
}

#[test]
fn ignored_flags_are_named() {
    let config = resolve("tiny", "sim", r#"--speculative-config {"method":"ngram"} -pp 2"#).unwrap();
    assert_eq!(config.not_simulated, ["speculative_config"]);
    assert!(resolve("tiny", "sim", "").unwrap().not_simulated.is_empty());
    let rates =
        r#"--speculative-config {"method":"ngram","num_speculative_tokens":1,"synthetic_acceptance_rates":[0.5]}"#;
    let config = resolve("tiny", "sim", rates).unwrap();
    assert!(config.not_simulated.is_empty() && config.scheduling.speculation.is_some());
}
