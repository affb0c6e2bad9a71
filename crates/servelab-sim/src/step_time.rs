//! How long one engine step takes: the interface that the engine is driven with, and the parametric roofline model whose
//! constants are data (`data/step-time.json`). The model is uncalibrated; what a step contains is the engine's business.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::SimError;
use crate::config::ServerConfig;

/// How the kernels of a step are started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Regime {
    /// One graph for the whole step: a batch of decodes that fits a captured size.
    FullGraph,
    /// Graphs between the attention layers: a batch with prompts that fits a captured size.
    Piecewise,
    /// Kernel by kernel: graphs are off, or the batch is larger than every captured size.
    #[default]
    Eager,
}

/// What one rank computes in one step, summed over its requests.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct StepShape {
    /// Requests with work in the step.
    pub n_requests: u32,
    /// Tokens computed, prompt and generated.
    pub n_tokens: u32,
    /// Of these, tokens of prompt parts (also of a preempted request that computes its tokens again).
    pub prefill_tokens: u32,
    /// Requests that compute a prompt part.
    pub n_prefills: u32,
    /// Of `n_tokens`, draft tokens that are verified.
    pub draft_tokens: u32,
    /// Context tokens read by requests that decode: one (plus drafts) at a time.
    pub decode_context_tokens: u64,
    /// The same, each request clipped to the model's sliding window; equal to it without a window.
    pub decode_window_tokens: u64,
    /// Σ q·(c + q/2) over prompt parts of q tokens after c computed ones: query-key pairs.
    pub prefill_pairs: f64,
    /// The same, clipped to the sliding window: Σ q·min(c + q/2, window).
    pub prefill_window_pairs: f64,
    /// Tokens that the kernels see: padded to the captured graph size; with lock-step ranks, to the largest rank.
    pub padded_tokens: u32,
    /// How kernels are started.
    pub regime: Regime,
    /// Padded tokens of all ranks that exchange experts in this step; 0: only this rank.
    pub group_tokens: u32,
    /// Busiest expert-parallel rank's tokens / mean, as given for this run; 0: not given, the model's own factor holds.
    pub expert_imbalance: f64,
}

/// Duration of a step.
pub trait StepTime: Send {
    /// Simulated nanoseconds from the start of the step to its tokens being there; never 0.
    fn step_nanos(&self, shape: &StepShape) -> u64;
}

/// Constants of [`RooflineStepTime`]; `_us` are microseconds, efficiencies are shares of the data-sheet peak.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Constants {
    gemm_efficiency: f64,
    gemm_fp8_efficiency: f64,
    weight_read_efficiency: f64,
    kv_read_efficiency: f64,
    attention_efficiency: f64,
    gemm_exponent: f64,
    kernel_us: f64,
    kernels_per_layer: f64,
    host_fixed_us: f64,
    host_per_request_us: f64,
    host_per_layer_eager_us: f64,
    collective_graph_us: f64,
    collective_eager_us: f64,
    collective_bus_efficiency: f64,
    moe_imbalance: f64,
    moe_imbalance_eplb: f64,
}

#[derive(Deserialize)]
struct ConstantsFile {
    #[serde(rename = "note")]
    _note: String,
    default: serde_json::Map<String, serde_json::Value>,
    per_gpu: BTreeMap<String, serde_json::Map<String, serde_json::Value>>,
}

impl Constants {
    fn for_gpu(name: &str) -> Result<Self, SimError> {
        let broken =
            |error: serde_json::Error| SimError::BuiltinTable { table: "step-time.json", reason: error.to_string() };
        let file: ConstantsFile = serde_json::from_str(include_str!("../data/step-time.json")).map_err(broken)?;
        let mut merged = file.default;
        merged.extend(file.per_gpu.get(name).cloned().unwrap_or_default());
        serde_json::from_value(serde_json::Value::Object(merged)).map_err(broken)
    }
}

/// Roofline per step: matrix products (compute and weight traffic joined by a smooth maximum), attention, collectives,
/// kernel floors and host work.
#[derive(Debug, Clone)]
pub struct RooflineStepTime {
    constants: Constants,
    eager: bool,
    max_captured: u32,
    layers: f64,
    moe_layers: f64,
    /// Operations and bytes are per rank, rates per second.
    flops_per_s: f64,
    expert_flops_per_s: f64,
    bytes_per_s: f64,
    body_params: f64,
    body_bytes: f64,
    head_params: f64,
    experts_per_rank: f64,
    expert_params: f64,
    expert_bytes: f64,
    routed_share: f64,
    dp: f64,
    imbalance: f64,
    experts_per_token: f64,
    kv_bytes_per_token: f64,
    attention_flops_per_pair: f64,
    attention_flops_per_s: f64,
    tp: f64,
    expert_ranks: f64,
    token_bytes: f64,
    link_bytes_per_s: f64,
    exchange: bool,
}

impl RooflineStepTime {
    /// The model of one rank of a server.
    pub fn new(config: &ServerConfig) -> Result<Self, SimError> {
        let constants = Constants::for_gpu(&config.gpu.name)?;
        let model = &config.model;
        let params = model.params();
        let tp = f64::from(config.tp);
        let expert_bits = model.expert_bits.unwrap_or(model.weight_bits);
        let moe_layers = f64::from(model.moe_layers());
        let peak = |bits: f64| match config.gpu.fp8_tflops {
            Some(fp8) if bits <= 8.0 => fp8 * 1e12 * constants.gemm_fp8_efficiency,
            _ => config.gpu.bf16_tflops * 1e12 * constants.gemm_efficiency,
        };
        let experts = f64::from(model.experts);
        let expert_ranks = f64::from(config.expert_ranks());
        // With expert parallelism a rank holds whole experts; without, a slice of every expert.
        let (experts_per_rank, slices) =
            if config.expert_parallel { (experts / expert_ranks, 1.0) } else { (experts, expert_ranks) };
        let expert_params = 3.0 * f64::from(model.hidden) * f64::from(model.expert_ffn) / slices;
        Ok(Self {
            eager: config.enforce_eager || config.gpu.device == "cpu",
            max_captured: (2 * config.max_num_seqs).min(512),
            layers: f64::from(model.layers),
            moe_layers,
            flops_per_s: peak(model.weight_bits),
            expert_flops_per_s: peak(expert_bits),
            bytes_per_s: config.gpu.bandwidth_gb_per_s * 1e9,
            body_params: params.body / tp,
            body_bytes: params.body * model.weight_bits / 8.0 / tp,
            head_params: params.head / tp,
            experts_per_rank,
            expert_params,
            expert_bytes: expert_params * expert_bits / 8.0,
            routed_share: if experts > 0.0 { f64::from(model.experts_per_token) / experts } else { 0.0 },
            dp: f64::from(config.dp),
            imbalance: match (config.expert_parallel, config.eplb) {
                (true, true) => constants.moe_imbalance_eplb,
                (true, false) => constants.moe_imbalance,
                (false, _) => 1.0,
            },
            experts_per_token: f64::from(model.experts_per_token),
            kv_bytes_per_token: config.kv_bytes_per_token * f64::from(config.pp),
            attention_flops_per_pair: 4.0
                * f64::from(model.heads)
                * f64::from(model.head_dim.min(256))
                * f64::from(model.layers)
                / tp,
            attention_flops_per_s: config.gpu.bf16_tflops * 1e12 * constants.attention_efficiency,
            tp,
            expert_ranks,
            token_bytes: f64::from(model.hidden) * 2.0,
            link_bytes_per_s: config.gpu.link_gb_per_s * 1e9 * constants.collective_bus_efficiency,
            exchange: config.dp > 1 && model.experts > 0,
            constants,
        })
    }

    /// Tokens that the kernels see: a pure decode batch is padded to the next captured graph size.
    fn padded_tokens(&self, shape: &StepShape) -> f64 {
        let tokens = shape.n_tokens;
        if self.eager || shape.prefill_tokens > 0 || tokens > self.max_captured {
            return f64::from(tokens);
        }
        f64::from(match tokens {
            0..=2 => tokens,
            3..=4 => 4,
            5..=256 => tokens.next_multiple_of(8),
            _ => tokens.next_multiple_of(16),
        })
    }

    fn smooth_max(&self, compute_s: f64, memory_s: f64) -> f64 {
        let q = self.constants.gemm_exponent;
        (compute_s.powf(q) + memory_s.powf(q)).powf(1.0 / q)
    }

    fn seconds(&self, shape: &StepShape) -> f64 {
        let c = &self.constants;
        let tokens = self.padded_tokens(shape);
        let read_rate = self.bytes_per_s * c.weight_read_efficiency;
        let flops = 2.0 * (self.body_params * tokens + self.head_params * f64::from(shape.n_requests));
        let dense = self.smooth_max(flops / self.flops_per_s, (self.body_bytes + 2.0 * self.head_params) / read_rate);
        let experts = if self.moe_layers > 0.0 {
            // Every data-parallel rank sends its tokens to the same experts.
            let tokens = tokens * self.dp;
            let active = self.experts_per_rank * (1.0 - (1.0 - self.routed_share).powf(tokens));
            let visits = tokens * self.routed_share * self.experts_per_rank * self.imbalance;
            self.moe_layers
                * self.smooth_max(
                    2.0 * self.expert_params * visits / self.expert_flops_per_s,
                    active * self.expert_bytes / read_rate,
                )
        } else {
            0.0
        };
        let kv =
            shape.decode_context_tokens as f64 * self.kv_bytes_per_token / (self.bytes_per_s * c.kv_read_efficiency);
        let attention = kv + shape.prefill_pairs * self.attention_flops_per_pair / self.attention_flops_per_s;
        let alpha = 1e-6 * if self.eager { c.collective_eager_us } else { c.collective_graph_us };
        let mut collectives = 0.0;
        if self.tp > 1.0 {
            let bytes = 2.0 * (self.tp - 1.0) / self.tp * tokens * self.token_bytes;
            collectives += 2.0 * self.layers * (alpha + bytes / self.link_bytes_per_s);
        }
        if self.exchange {
            let remote = (self.expert_ranks - 1.0) / self.expert_ranks;
            let bytes = tokens * self.experts_per_token * self.token_bytes * remote;
            collectives += 2.0 * self.moe_layers * (alpha + bytes / self.link_bytes_per_s);
        }
        let kernels = 1e-6 * c.kernel_us * c.kernels_per_layer * self.layers;
        let eager = if self.eager { 1e-6 * c.host_per_layer_eager_us * self.layers } else { 0.0 };
        let host = 1e-6 * (c.host_fixed_us + c.host_per_request_us * f64::from(shape.n_requests));
        // Without graphs the host launches every kernel: whichever of host and device is slower sets the pace.
        host + (dense + experts + attention + collectives + kernels).max(eager)
    }
}

impl StepTime for RooflineStepTime {
    fn step_nanos(&self, shape: &StepShape) -> u64 {
        ((self.seconds(shape) * 1e9) as u64).max(1)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::flags::parse_serving_flags;
    use crate::settings::SimSettings;

    fn model(name: &str, gpu: &str, line: &str) -> RooflineStepTime {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let mut settings = SimSettings::new(SocketAddr::from(([127, 0, 0, 1], 0)), name, gpu);
        settings.serving = parse_serving_flags(&args, "0.32.0").unwrap();
        RooflineStepTime::new(&ServerConfig::resolve(&settings).unwrap()).unwrap()
    }

    fn decode(n: u32, context: u64) -> StepShape {
        StepShape { n_requests: n, n_tokens: n, decode_context_tokens: context, ..StepShape::default() }
    }

    fn prefill(n: u32) -> StepShape {
        StepShape {
            n_requests: 1,
            n_tokens: n,
            prefill_tokens: n,
            prefill_pairs: f64::from(n) * f64::from(n) / 2.0,
            ..StepShape::default()
        }
    }

    /// vLLM's published fit for Llama-3.1-8B on H100: 6.44 ms + 4.37e-5 ms per context token, half that slope with FP8.
    #[test]
    fn decode_meets_the_published_line() {
        let check = |line: &str, slope_ms: f64| {
            let time = model("Llama-3.1-8B", "H100", line);
            let at = |context: u64| time.step_nanos(&decode(8, context)) as f64 / 1e6;
            assert!((at(0) / 6.44 - 1.0).abs() < 0.05, "{}", at(0));
            let slope = (at(200_000) - at(0)) / 200_000.0;
            assert!((slope / slope_ms - 1.0).abs() < 0.1, "{line}: {slope}");
        };
        check("", 4.37e-5);
        check("--kv-cache-dtype fp8", 2.2e-5);
    }

    #[test]
    fn every_term_moves_the_step_the_right_way() {
        let time = model("Llama-3.1-8B", "H100", "");
        let base = time.step_nanos(&decode(8, 1000));
        assert!(time.step_nanos(&decode(256, 1000)) > base);
        assert!(time.step_nanos(&decode(8, 100_000)) > base);
        assert!(time.step_nanos(&prefill(8192)) > 10 * base);
        assert!(model("Llama-3.1-8B", "A100", "").step_nanos(&decode(8, 1000)) > base);
        assert!(model("Llama-3.1-8B", "H100", "-tp 2").step_nanos(&decode(8, 1000)) < base);
        assert!(model("Llama-3.1-8B", "H100", "--quantization fp8").step_nanos(&decode(8, 1000)) < base);
        assert!(
            model("Llama-3.1-8B", "H200", "--enforce-eager").step_nanos(&decode(1, 1))
                >= model("Llama-3.1-8B", "H200", "").step_nanos(&decode(1, 1))
        );
    }

    /// A long prompt is compute-bound: it cannot beat the dense peak, and should reach a good part of it.
    #[test]
    fn prefill_is_bounded_by_the_peak() {
        let time = model("Llama-3.1-8B", "H100", "");
        let peak_s = 2.0 * 7.0e9 * 8192.0 / 989e12;
        let seconds = time.step_nanos(&prefill(8192)) as f64 / 1e9;
        assert!(seconds > peak_s && seconds < 2.0 * peak_s, "{seconds} vs {peak_s}");
    }

    #[test]
    fn few_tokens_touch_few_experts() {
        let time = model("Qwen3-235B-A22B", "H200", "-tp 8 -ep");
        let one = time.step_nanos(&decode(1, 100));
        let many = time.step_nanos(&decode(256, 25_600));
        assert!(many > 2 * one, "{one} {many}");
    }
}
