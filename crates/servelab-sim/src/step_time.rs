//! How long one engine step takes: the interface that the engine is driven with ([`StepShape`], [`StepTime`]) and the
//! parametric roofline model behind it. Its constants are data (`data/step-time.json`, or a file of the user's);
//! `kernels` holds the formulas, `roofline` adds them up for one rank. What a step contains is the engine's business.

mod kernels;
mod parameters;
mod roofline;
#[cfg(test)]
mod tests;

pub use kernels::{
    CollectiveKernel, MoeLoad, collective_secs, decode_attention_secs, gemm_secs, moe_secs, prefill_attention_secs,
};
pub use parameters::{
    AttentionParameters, Calibration, CollectiveFamily, CollectiveParameters, GemmParameters, HostParameters,
    KvTransferParameters, MoeParameters, Parameters, WeightFormat,
};
pub use roofline::{RooflineStepTime, StepBreakdown};

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
