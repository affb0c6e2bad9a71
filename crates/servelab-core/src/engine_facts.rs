//! What an engine says about itself while it starts: memory, cache sizes, durations. Read from logs and metrics by the
//! runner, kept with each attempt, shown in tables. Absent stays absent: engines differ in what they say.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Facts of one server start, by the engine's own word; of several ranks, those of the first that spoke.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct EngineFacts {
    /// Memory taken by the model's weights on one device, GiB.
    pub model_memory_gib: Option<f64>,
    /// KV cache size in tokens.
    pub kv_cache_tokens: Option<u64>,
    /// KV cache size in blocks.
    pub kv_cache_blocks: Option<u64>,
    /// Tokens per KV cache block.
    pub kv_block_size: Option<u64>,
    /// Memory left for the KV cache on one device, GiB.
    pub available_kv_gib: Option<f64>,
    /// Requests of `max_concurrency_tokens` tokens that the KV cache holds at once.
    pub max_concurrency: Option<f64>,
    /// Length of the requests of `max_concurrency`.
    pub max_concurrency_tokens: Option<u64>,
    /// Loading the model, seconds.
    pub model_load_s: Option<f64>,
    /// Compilation (`torch.compile`), seconds.
    pub compile_s: Option<f64>,
    /// Capturing graphs, seconds.
    pub graph_capture_s: Option<f64>,
    /// Memory taken by captured graphs, GiB.
    pub graph_memory_gib: Option<f64>,
    /// Profiling, creating the KV cache and warming up, compilation included, seconds.
    pub engine_init_s: Option<f64>,
    /// From the start of the process to the first generated token, by our own clock, seconds.
    pub ready_s: Option<f64>,
}

impl EngineFacts {
    /// Nothing is known.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
