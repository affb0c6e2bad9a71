//! One formula per kernel family: seconds of a kernel from its sizes, the device's peaks and that family's parameters.
//! Pure arithmetic; which kernels a step runs is `roofline`'s business. Families and forms follow public measurements
//! of vLLM's kernels on Hopper (docs/src/accuracy.md says which and how close the formulas come).

use super::parameters::{
    AttentionParameters, CollectiveFamily, CollectiveParameters, GemmParameters, MoeParameters, Parameters,
};
use crate::catalog::GpuSpec;

/// `(a^q + b^q)^(1/q)`: the larger of two overlapping costs, smoothly; `q = 1` adds them, large `q` hides the smaller.
pub(super) fn smooth_max(a: f64, b: f64, q: f64) -> f64 {
    let (large, small) = if a >= b { (a, b) } else { (b, a) };
    if large <= 0.0 {
        return 0.0;
    }
    // Scaled by the larger one, so that nothing underflows for microseconds to the eighth power.
    large * (1.0 + (small / large).powf(q)).powf(1.0 / q)
}

/// Matrix product `m × k` by `k × n`: operations with rows padded to tiles, bytes of weights, input and output, and a
/// floor. `weight_bytes` is bytes per weight, `peak` operations per second.
///
/// `((2·⌈m⌉tile·n·k / (peak·compute))^q + (bytes / (bandwidth·memory))^q)^(1/q) + floor + m·k·quantise/bandwidth`, at least
/// `least`.
pub fn gemm_secs(m: f64, n: f64, k: f64, weight_bytes: f64, peak: f64, gpu: &GpuSpec, p: &GemmParameters) -> f64 {
    if m <= 0.0 || n <= 0.0 || k <= 0.0 {
        return 0.0;
    }
    let bandwidth = gpu.bandwidth_gb_per_s * 1e9;
    let rows = (m / p.tile_rows).ceil() * p.tile_rows;
    // Small batches run another tile shape, which reads weights at another speed.
    let memory = if m <= p.small_rows { p.memory_small } else { p.memory };
    let compute = 2.0 * rows * n * k / (peak * p.compute);
    let bytes = weight_bytes * n * k + 2.0 * m * (n + k);
    let is_small = m <= p.small_rows;
    let (floor_us, least_us) = if is_small { (p.floor_small_us, p.least_small_us) } else { (p.floor_us, p.least_us) };
    let secs = smooth_max(compute, bytes / (bandwidth * memory), p.exponent)
        + floor_us * 1e-6
        + m * k * p.activation_bytes / bandwidth;
    secs.max(least_us * 1e-6)
}

/// Attention of requests that compute one token each: the KV they read, or the operations when many query heads share
/// it. `q_rows` are query heads per KV head (for latent attention: all heads), padded to the tensor cores' rows.
pub fn decode_attention_secs(
    context_tokens: f64,
    kv_bytes_per_token: f64,
    flops_per_token_row: f64,
    q_rows: f64,
    gpu: &GpuSpec,
    p: &AttentionParameters,
) -> f64 {
    if context_tokens <= 0.0 {
        return 0.0;
    }
    let rows = q_rows.max(p.decode_min_rows);
    let memory = context_tokens * kv_bytes_per_token / (gpu.bandwidth_gb_per_s * 1e9 * p.decode_memory);
    let compute = context_tokens * flops_per_token_row * rows / (gpu.bf16_tflops * 1e12 * p.decode_compute);
    smooth_max(memory, compute, p.decode_exponent) + p.decode_floor_us * 1e-6
}

/// Attention of prompt parts: `pairs` query-key pairs, and the queries, keys, values and outputs of `tokens`.
pub fn prefill_attention_secs(
    pairs: f64,
    flops_per_pair: f64,
    tokens: f64,
    bytes_per_token: f64,
    gpu: &GpuSpec,
    p: &AttentionParameters,
) -> f64 {
    if tokens <= 0.0 {
        return 0.0;
    }
    pairs * flops_per_pair / (gpu.bf16_tflops * 1e12 * p.prefill_compute)
        + tokens * bytes_per_token / (gpu.bandwidth_gb_per_s * 1e9 * p.prefill_memory)
        + p.prefill_floor_us * 1e-6
}

/// What the routed experts of one rank are asked to do in one layer.
#[derive(Debug, Clone, Copy)]
pub struct MoeLoad {
    /// Tokens of all ranks that send to these experts.
    pub tokens: f64,
    /// Experts in the layer.
    pub experts: f64,
    /// Experts held by this rank (whole, or a slice of each).
    pub experts_here: f64,
    /// Experts that a token visits.
    pub per_token: f64,
    /// Width of the residual stream.
    pub hidden: f64,
    /// Width of an expert on this rank.
    pub width: f64,
    /// Bytes per weight.
    pub weight_bytes: f64,
    /// Busiest rank's tokens / mean.
    pub imbalance: f64,
}

impl MoeLoad {
    /// Experts whose weights are read: `E·(1 − (1 − k/E)^(T^skew))`; tokens favour some experts, so fewer than for
    /// independent choices.
    pub fn active_experts(&self, skew: f64) -> f64 {
        let share = (self.per_token / self.experts).clamp(0.0, 1.0);
        self.experts_here * (1.0 - (1.0 - share).powf(self.tokens.max(0.0).powf(skew)))
    }
}

/// Routed experts of one layer on one rank: weights of the active ones, block-padded operations, the traffic of
/// gathered tokens, and a floor for routing and launches.
pub fn moe_secs(load: &MoeLoad, peak: f64, gpu: &GpuSpec, p: &MoeParameters) -> f64 {
    if load.tokens <= 0.0 || load.experts_here <= 0.0 {
        return 0.0;
    }
    let bandwidth = gpu.bandwidth_gb_per_s * 1e9;
    let active = load.active_experts(p.skew);
    let expert_params = 3.0 * load.hidden * load.width;
    let visits = load.tokens * load.per_token * load.experts_here / load.experts * load.imbalance;
    let weights = active * expert_params * load.weight_bytes / (bandwidth * p.memory);
    let compute = 2.0 * (visits + active * p.block_rows / 2.0) * expert_params / (peak * p.compute);
    let traffic = visits * (2.0 * load.hidden + 3.0 * load.width) * 2.0 / (bandwidth * p.traffic);
    smooth_max(weights, compute, p.exponent) + traffic + 1e-6 * (p.floor_us + p.per_expert_us * active)
}

/// A collective operation of one step.
#[derive(Debug, Clone, Copy)]
pub struct CollectiveKernel {
    /// Which operation.
    pub family: CollectiveFamily,
    /// Ranks taking part.
    pub ranks: f64,
    /// Bytes of the whole message on one rank (all-gather and reduce-scatter: of the gathered side).
    pub bytes: f64,
    /// Inside a CUDA graph.
    pub in_graph: bool,
}

/// `α + α₂·b/(b + b₀) + bus/(link·efficiency)`, where bus bytes are 2(g−1)/g of the message for an all-reduce and
/// (g−1)/g for the others. Groups larger than a node pay the network's α and bandwidth for what leaves the node.
pub fn collective_secs(kernel: &CollectiveKernel, gpu: &GpuSpec, parameters: &Parameters) -> f64 {
    let ranks = kernel.ranks;
    if ranks <= 1.0 {
        return 0.0;
    }
    let p: &CollectiveParameters = parameters.collective(kernel.family);
    let alpha_us = if kernel.in_graph { p.graph_us + p.graph_per_rank_us * ranks } else { p.eager_us };
    let factor = match kernel.family {
        CollectiveFamily::AllReduce => 2.0,
        _ => 1.0,
    };
    let bus_bytes = factor * (ranks - 1.0) / ranks * kernel.bytes;
    // Two ranks cannot use the switch's reduction and run at a lower share of the link than eight.
    let efficiency = p.efficiency * (1.0 - p.small_group_loss * 2.0 / ranks);
    let ramp_us = p.second_us * kernel.bytes / (kernel.bytes + p.second_bytes);
    let inside = 1e-6 * (alpha_us + ramp_us) + bus_bytes / (gpu.link_gb_per_s * 1e9 * efficiency);
    let nodes = (ranks / f64::from(gpu.gpus_per_node)).ceil();
    if nodes <= 1.0 {
        return inside;
    }
    let network_bytes_per_s = gpu.nic_gbit_per_s / 8.0 * 1e9 * p.network_efficiency;
    let outside_bytes = factor * (nodes - 1.0) / nodes * kernel.bytes / f64::from(gpu.gpus_per_node);
    let outside_bytes = match kernel.family {
        // Every rank sends its own share over its own card.
        CollectiveFamily::AllToAll => (nodes - 1.0) / nodes * kernel.bytes,
        _ => outside_bytes,
    };
    inside + 1e-6 * p.network_us * (nodes - 1.0).max(1.0).log2().max(1.0) + outside_bytes / network_bytes_per_s
}
