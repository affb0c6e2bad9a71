//! vLLM's refusals at start, in its own wording (captured from 0.32 where a capture exists). Each is a pure check of the
//! resolved configuration; nothing is changed here.

use serde_json::Value;

use super::{GIB, ServerConfig, is_latent};
use crate::SimError;
use crate::flags::{ServingFlags, version_key};

fn refuse<T>(message: String) -> Result<T, SimError> {
    Err(SimError::Refused(message))
}

fn validation(class: &str, text: &str) -> String {
    format!("pydantic_core._pydantic_core.ValidationError: 1 validation error for {class}\n  Value error, {text}")
}

/// Combinations of flags, before any memory is measured.
pub(super) fn check_flags(config: &ServerConfig, flags: &ServingFlags) -> Result<(), SimError> {
    let ServerConfig { max_num_batched_tokens: tokens, max_num_seqs: seqs, max_model_len, tp, .. } = config;
    for (name, value) in [
        ("max_num_batched_tokens", *tokens),
        ("max_num_seqs", *seqs),
        ("max_model_len", *max_model_len),
        ("block_size", config.block_size),
    ] {
        if value == 0 {
            return refuse(validation(
                "SchedulerConfig",
                &format!("{name}: Input should be greater than or equal to 1"),
            ));
        }
    }
    if !(config.gpu_memory_utilization > 0.0 && config.gpu_memory_utilization <= 1.0) {
        let text = format!(
            "GPU memory utilization must be less than or equal to 1.0 and greater than 0. Got {}.",
            config.gpu_memory_utilization
        );
        return refuse(validation("CacheConfig", &text));
    }
    if let Some(level) = flags.text("optimization_level")
        && !matches!(level, "0" | "1" | "2" | "3")
    {
        return refuse(format!(
            "pydantic_core._pydantic_core.ValidationError: 1 validation error for VllmConfig\noptimization_level\n  Input \
             should be 0, 1, 2 or 3 [type=enum, input_value='{level}', input_type=str]"
        ));
    }
    if let Some(limit) = config.model.max_position
        && *max_model_len > limit
    {
        let text = format!(
            "User-specified max_model_len ({max_model_len}) is greater than the derived max_model_len \
             (max_position_embeddings={limit} or model_max_length=None in model's config.json). To allow overriding this \
             maximum, set the env var VLLM_ALLOW_LONG_MAX_MODEL_LEN=1. VLLM_ALLOW_LONG_MAX_MODEL_LEN must be used with \
             extreme caution."
        );
        return refuse(validation("ModelConfig", &text));
    }
    if !config.chunked_prefill && tokens < max_model_len {
        let text = format!(
            "max_num_batched_tokens ({tokens}) is smaller than max_model_len ({max_model_len}). This effectively limits \
             the maximum sequence length to max_num_batched_tokens and makes vLLM reject longer sequences. Please \
             increase max_num_batched_tokens or decrease max_model_len."
        );
        return refuse(validation("SchedulerConfig", &text));
    }
    if tokens < seqs {
        let text = format!("max_num_batched_tokens ({tokens}) must be greater than or equal to max_num_seqs ({seqs}).");
        return refuse(validation("SchedulerConfig", &text));
    }
    let heads = config.model.heads;
    if !heads.is_multiple_of(*tp) {
        let text =
            format!("Total number of attention heads ({heads}) must be divisible by tensor parallel size ({tp}).");
        return refuse(validation("VllmConfig", &text));
    }
    check_context_parallel(config, flags)?;
    check_plugins(flags, version_key(&config.version) < (0, 12))?;
    check_eplb(config, flags)
}

/// Methods of speculation that vLLM knows; those that need a part of the model are taken as given here.
const SPECULATIVE_METHODS: [&str; 13] = [
    "ngram",
    "ngram_gpu",
    "medusa",
    "mlp_speculator",
    "draft_model",
    "suffix",
    "eagle",
    "eagle3",
    "mtp",
    "extract_hidden_states",
    "dflash",
    "dspark",
    "custom_class",
];

const CONNECTORS: [&str; 15] = [
    "ExampleConnector",
    "ExampleHiddenStatesConnector",
    "FlexKVConnectorV1",
    "HF3FSKVConnector",
    "HiSparseConnector",
    "LMCacheConnectorV1",
    "LMCacheMPConnector",
    "MooncakeConnector",
    "MooncakeStoreConnector",
    "MoRIIOConnector",
    "MultiConnector",
    "NixlConnector",
    "OffloadingConnector",
    "DecodeBenchConnector",
    "SimpleCPUOffloadConnector",
];

/// Names inside JSON flags.
fn check_plugins(flags: &ServingFlags, is_old: bool) -> Result<(), SimError> {
    if let Some(speculative) = flags.get("speculative_config") {
        let n_tokens = speculative.get("num_speculative_tokens");
        if n_tokens.is_some_and(|n| n.as_i64().is_none_or(|n| n < 1)) {
            let text = format!(
                "Expected num_speculative_tokens to be greater than zero ({}).",
                n_tokens.map(crate::startup::python).unwrap_or_default()
            );
            return refuse(validation("SpeculativeConfig", &text));
        }
        if let Some(method) = speculative.get("method").and_then(Value::as_str)
            && !SPECULATIVE_METHODS.contains(&method)
            && !method.ends_with("_mtp")
        {
            return refuse(format!("NotImplementedError: Unsupported speculative method: '{method}'"));
        }
    }
    let connector = flags.get("kv_transfer_config").and_then(|transfer| transfer.get("kv_connector"));
    if let Some(name) = connector.and_then(Value::as_str) {
        let was_known = is_old && matches!(name, "SharedStorageConnector" | "P2pNcclConnector" | "LMCacheConnector");
        if !was_known && !name.starts_with("Nixl") && !CONNECTORS.contains(&name) {
            return refuse(validation("VllmConfig", &format!("Unsupported connector type: {name}")));
        }
    }
    Ok(())
}

fn check_context_parallel(config: &ServerConfig, flags: &ServingFlags) -> Result<(), SimError> {
    let tp = u64::from(config.tp);
    let dcp = flags.integer("decode_context_parallel_size").unwrap_or(1).max(1);
    if !tp.is_multiple_of(dcp) {
        return refuse(validation("ParallelConfig", &format!("tp_size={tp} must be divisible by dcp_size={dcp}.")));
    }
    let kv_heads = u64::from(config.model.kv_heads);
    if dcp > 1 && !is_latent(&config.model) && tp <= kv_heads {
        let text = format!(
            "Decode context parallelism for GQA/MQA requires `--tensor-parallel-size` ({tp}) to be greater than the \
             model's total number of KV heads ({kv_heads}). Increase `--tensor-parallel-size` or set \
             `--decode-context-parallel-size 1`."
        );
        return refuse(validation("VllmConfig", &text));
    }
    Ok(())
}

fn check_eplb(config: &ServerConfig, flags: &ServingFlags) -> Result<(), SimError> {
    let redundant = flags
        .get("eplb_config")
        .and_then(|eplb| eplb.get("num_redundant_experts"))
        .and_then(Value::as_u64)
        .or(flags.integer("num_redundant_experts"))
        .unwrap_or(0);
    if redundant > 0 && !config.eplb {
        let text = format!(
            "num_redundant_experts is set to {redundant} but EPLB is not enabled. Either enable EPLB or unset \
             num_redundant_experts."
        );
        return refuse(validation("ParallelConfig", &text));
    }
    if !config.eplb {
        return Ok(());
    }
    if config.gpu.device != "cuda" {
        let text =
            "Expert parallelism load balancing is only supported on CUDA devices or ROCm devices or XPU devices now.";
        return refuse(validation("ParallelConfig", text));
    }
    let physical = u64::from(config.model.experts) + redundant;
    let ranks = u64::from(config.expert_ranks());
    if config.expert_parallel && !physical.is_multiple_of(ranks) {
        return refuse(format!("AssertionError: n_physical_experts={physical} must be divisible by ep_size={ranks}"));
    }
    Ok(())
}

/// One longest request must fit. The null block counts as taken, one block more than vLLM itself asks for: without it
/// such a request would be admitted and then never finish.
pub(super) fn check_capacity(config: &ServerConfig) -> Result<(), SimError> {
    if config.kv_cache_bytes <= 0.0 || config.num_gpu_blocks < 2 {
        return refuse(
            "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when \
             initializing the engine."
                .to_owned(),
        );
    }
    let needed_blocks = u64::from(config.max_model_len.div_ceil(config.block_size));
    if needed_blocks < config.num_gpu_blocks {
        return Ok(());
    }
    let block_bytes = config.kv_bytes_per_token * f64::from(config.block_size);
    let needed_gib = needed_blocks as f64 * block_bytes / GIB;
    let estimate = (config.num_gpu_blocks - 1) * u64::from(config.block_size);
    refuse(format!(
        "ValueError: To serve at least one request with the models's max seq len ({}), ({} GiB KV cache is needed, which \
         is larger than the available KV cache memory ({} GiB). Based on the available memory, the estimated maximum \
         model length is {estimate}. Try increasing `gpu_memory_utilization` or decreasing `max_model_len` when \
         initializing the engine.",
        config.max_model_len,
        two_digits(needed_gib),
        two_digits(config.kv_cache_bytes / GIB),
    ))
}

/// Python prints `round(x, 2)` without trailing zeros, but always with one decimal.
fn two_digits(number: f64) -> String {
    format!("{:?}", (number * 100.0).round() / 100.0)
}

/// The line that PyTorch ends a failed allocation with.
pub(crate) fn out_of_memory(wanted_bytes: f64, total_bytes: f64) -> String {
    format!(
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate {:.2} GiB. GPU 0 has a total capacity of {:.2} \
         GiB of which {:.2} GiB is free.",
        (wanted_bytes / GIB).min(1.74),
        total_bytes / GIB,
        (total_bytes / GIB * 0.004).min(0.5),
    )
}
