//! What plan-time rules and predictions need to know of a model and a GPU: architecture from a Hugging Face `config.json`
//! or from the built-in list, memory from data sheets, and the estimate of how many tokens fit into a GPU's KV cache.
//! Reading the file is the caller's business; timing belongs to the simulator.

mod gpu;
mod hf;
mod memory;
mod registry;

#[cfg(test)]
mod family_tests;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use gpu::{GpuFacts, builtin_gpu, builtin_gpus};
pub use hf::{ModelError, from_hf_config};
pub use memory::{KvEstimate, MemoryRequest, kv_bytes_per_token, kv_estimate, weight_bytes_per_gpu};
pub use registry::{builtin_model, builtin_models};

/// Architecture of a model, as far as serving depends on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelFacts {
    /// Public id.
    pub name: String,
    /// Other ids of the same architecture.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Transformer layers.
    pub layers: u32,
    /// Width of the residual stream.
    pub hidden: u32,
    /// Width of a dense feed-forward layer; 0 when every layer is a mixture of experts.
    pub ffn: u32,
    /// Query heads.
    pub heads: u32,
    /// Key/value heads.
    pub kv_heads: u32,
    /// Elements of one head.
    pub head_dim: u32,
    /// Vocabulary size.
    pub vocab: u32,
    /// Input and output embedding share their weights.
    #[serde(default)]
    pub tied: bool,
    /// Longest sequence, in tokens, that the positions allow (scaling included).
    #[serde(default)]
    pub max_position_embeddings: Option<u64>,
    /// Mixture of experts.
    #[serde(default)]
    pub experts: Option<Experts>,
    /// Multi-head latent attention.
    #[serde(default)]
    pub mla: Option<Mla>,
    /// Layers that keep KV for a window only.
    #[serde(default)]
    pub window: Option<Window>,
    /// Layers that keep a state of a fixed size instead of KV (linear attention, Mamba).
    #[serde(default)]
    pub linear_layers: u32,
    /// Bits per weight outside the experts.
    pub weight_bits: f64,
    /// Bits per expert weight.
    pub expert_bits: f64,
    /// 8-bit weights have a scale per block (DeepSeek's format).
    #[serde(default)]
    pub block_scaled: bool,
    /// Weights below 8 bits are floating-point (NVFP4, MXFP4).
    #[serde(default)]
    pub fp4: bool,
    /// Parameters in billions, as published.
    #[serde(default)]
    pub params_total_b: Option<f64>,
    /// Parameters used per token in billions, without the embedding lookup, as published.
    #[serde(default)]
    pub params_active_b: Option<f64>,
    /// Layers of a built-in multi-token predictor.
    #[serde(default)]
    pub mtp: Option<u32>,
    /// Tokens that sparse attention keeps.
    #[serde(default)]
    pub index_topk: Option<u32>,
    /// Where the figures come from.
    #[serde(default)]
    pub cite: String,
}

/// A mixture of experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Experts {
    /// Routed experts per layer.
    pub total: u32,
    /// Routed experts per token.
    pub per_token: u32,
    /// Experts that every token visits, in units of one routed expert.
    pub shared: u32,
    /// Width of one expert.
    pub ffn: u32,
    /// Layers without experts.
    pub dense_layers: u32,
}

/// Dimensions of multi-head latent attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mla {
    /// Rank of the compressed keys and values.
    pub kv_lora: u32,
    /// Elements of a head with positions.
    pub rope: u32,
    /// Elements of a head without positions.
    pub nope: u32,
    /// Elements of a value head.
    pub v: u32,
    /// Rank of the compressed queries; 0 for none.
    pub q_lora: u32,
}

/// Layers whose KV does not grow with the sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Tokens kept.
    pub tokens: u32,
    /// How many layers do so.
    pub layers: u32,
}

impl ModelFacts {
    /// Weights outside the routed experts, in elements.
    pub fn shared_params(&self) -> f64 {
        let (hidden, layers) = (f64::from(self.hidden), f64::from(self.layers));
        let embeddings = f64::from(self.vocab) * hidden * if self.tied { 1.0 } else { 2.0 };
        let attention = match &self.mla {
            Some(mla) => self.mla_params(mla),
            None => {
                let head_dim = f64::from(self.head_dim);
                2.0 * hidden * head_dim * (f64::from(self.heads) + f64::from(self.kv_heads))
            }
        };
        let dense_layers = self.experts.map_or(self.layers, |experts| experts.dense_layers);
        let dense = f64::from(dense_layers) * 3.0 * hidden * f64::from(self.ffn);
        let always = self.experts.map_or(0.0, |experts| {
            let per_layer = 3.0 * hidden * f64::from(experts.ffn) * f64::from(experts.shared);
            let router = hidden * f64::from(experts.total);
            self.expert_layers() * (per_layer + router)
        });
        embeddings + layers * attention + dense + always
    }

    /// Weights of the routed experts, in elements.
    pub fn expert_params(&self) -> f64 {
        self.experts.map_or(0.0, |experts| {
            self.expert_layers() * f64::from(experts.total) * 3.0 * f64::from(self.hidden) * f64::from(experts.ffn)
        })
    }

    fn expert_layers(&self) -> f64 {
        self.experts.map_or(0.0, |experts| f64::from(self.layers.saturating_sub(experts.dense_layers)))
    }

    fn mla_params(&self, mla: &Mla) -> f64 {
        let (hidden, heads) = (f64::from(self.hidden), f64::from(self.heads));
        let query_head = f64::from(mla.nope + mla.rope);
        let query = match mla.q_lora {
            0 => hidden * heads * query_head,
            rank => f64::from(rank) * (hidden + heads * query_head),
        };
        let kv_lora = f64::from(mla.kv_lora);
        let compress = hidden * (kv_lora + f64::from(mla.rope));
        let expand = kv_lora * heads * f64::from(mla.nope + mla.v);
        query + compress + expand + heads * f64::from(mla.v) * hidden
    }
}
