//! How a GPU's memory divides into weights, working space and KV cache. An estimate: vLLM measures the working space at
//! start, and its own `GPU KV cache size` line beats this one. Checked against a published start of GLM-4.6 on eight H200
//! (82.6 GiB of weights; 61.44 × 32,768 tokens of FP8 KV): 82.1 GiB and 6 % more tokens.

use super::{GpuFacts, ModelFacts};

/// What memory depends on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MemoryRequest {
    /// Tensor parallel size.
    pub tp: u32,
    /// Pipeline parallel size.
    pub pp: u32,
    /// Data parallel size.
    pub dp: u32,
    /// Decode context parallel size.
    pub dcp: u32,
    /// Copies of experts added by EPLB, over all ranks.
    pub redundant_experts: u32,
    /// Bits per weight that a quantization setting asks for, in place of the model's own.
    pub weight_bits: Option<f64>,
    /// Bytes per KV element: 1 for FP8, 2 for 16-bit types.
    pub kv_bytes: f64,
    /// Fraction of the GPU that the engine may use.
    pub gpu_memory_utilization: f64,
    /// Tokens of the profiling step.
    pub max_num_batched_tokens: u64,
    /// Sequences of the profiling step.
    pub max_num_seqs: u64,
}

impl Default for MemoryRequest {
    fn default() -> Self {
        Self {
            tp: 1,
            pp: 1,
            dp: 1,
            dcp: 1,
            redundant_experts: 0,
            weight_bits: None,
            kv_bytes: 2.0,
            gpu_memory_utilization: 0.9,
            max_num_batched_tokens: 8192,
            max_num_seqs: 256,
        }
    }
}

/// Where a GPU's memory goes, all in bytes per GPU.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KvEstimate {
    /// What the engine may use.
    pub budget_bytes: f64,
    /// Weights.
    pub weight_bytes: f64,
    /// Contexts, communication buffers, graphs, activations of the profiling step.
    pub working_bytes: f64,
    /// What is left for KV; negative when the model does not fit.
    pub kv_bytes: f64,
    /// One token's KV.
    pub bytes_per_token: f64,
    /// Tokens that fit, one server or data-parallel rank; 0 when the model does not fit.
    pub capacity_tokens: u64,
}

/// Fixed working space: CUDA contexts, NCCL buffers, CUDA graphs.
const FIXED_WORKING_BYTES: f64 = 3.0 * (1u64 << 30) as f64;

/// Weight bytes on one GPU. Attention and embeddings divide by tp × pp; experts divide by tp × dp × pp, with or without
/// expert parallelism (without it vLLM splits every expert over the same ranks).
pub fn weight_bytes_per_gpu(model: &ModelFacts, request: &MemoryRequest) -> f64 {
    let (tp, pp, dp) = (size(request.tp), size(request.pp), size(request.dp));
    let weight_bits = request.weight_bits.unwrap_or(model.weight_bits);
    let expert_bits = request.weight_bits.unwrap_or(model.expert_bits);
    let copies = model
        .experts
        .map_or(1.0, |experts| 1.0 + f64::from(request.redundant_experts) / f64::from(experts.total.max(1)));
    let shared = model.shared_params() * weight_bits / 8.0 / (tp * pp);
    shared + model.expert_params() * copies * expert_bits / 8.0 / (tp * dp * pp)
}

/// KV bytes of one token on one GPU: `2 · layers/pp · max(1, kv_heads/tp) · head_dim · bytes / dcp`, or
/// `layers/pp · (kv_lora + rope) · bytes / dcp` with latent attention, which every tensor-parallel rank holds in full.
/// Layers with a sliding window or a recurrent state are left out: their share does not grow with the sequence.
pub fn kv_bytes_per_token(model: &ModelFacts, request: &MemoryRequest) -> f64 {
    let bounded = model.window.map_or(0, |window| window.layers) + model.linear_layers;
    let growing = model.layers.saturating_sub(bounded);
    let layers = (f64::from(growing) / size(request.pp)).ceil();
    let elements = match &model.mla {
        Some(mla) => f64::from(mla.kv_lora) + f64::from(mla.rope),
        None => 2.0 * f64::from(model.head_dim) * (f64::from(model.kv_heads) / size(request.tp)).max(1.0),
    };
    layers * elements * request.kv_bytes / size(request.dcp)
}

/// KV capacity: `utilization · memory − weights − working space`, divided by the KV bytes of a token. Working space is
/// 3 GiB plus the profiling step: `2 bytes · T · (4 · hidden + 3 · width/tp)` of activations and `4 bytes · S · vocab/tp`
/// of logits, for T batched tokens and S sequences.
pub fn kv_estimate(model: &ModelFacts, gpu: &GpuFacts, request: &MemoryRequest) -> KvEstimate {
    let tp = size(request.tp);
    let budget_bytes = gpu.visible_bytes() * request.gpu_memory_utilization;
    let weight_bytes = weight_bytes_per_gpu(model, request);
    let width = f64::from(model.ffn)
        .max(model.experts.map_or(0.0, |experts| f64::from(experts.ffn) * f64::from(experts.per_token)));
    let tokens = request.max_num_batched_tokens as f64;
    let activations = 2.0 * tokens * (4.0 * f64::from(model.hidden) + 3.0 * width / tp);
    let logits = 4.0 * request.max_num_seqs as f64 * f64::from(model.vocab) / tp;
    let working_bytes = FIXED_WORKING_BYTES + activations + logits;
    let kv_bytes = budget_bytes - weight_bytes - working_bytes;
    let bytes_per_token = kv_bytes_per_token(model, request);
    // A model whose layers are all windowed has no limit of this kind.
    let capacity = if bytes_per_token > 0.0 { (kv_bytes / bytes_per_token).max(0.0) } else { f64::from(u32::MAX) };
    KvEstimate {
        budget_bytes,
        weight_bytes,
        working_bytes,
        kv_bytes,
        bytes_per_token,
        capacity_tokens: capacity as u64,
    }
}

/// A parallel size as a divisor.
fn size(value: u32) -> f64 {
    f64::from(value.max(1))
}
