//! What one rank is allowed to do: the scheduler's limits and rules, from a resolved configuration and the declared vLLM
//! version. docs/src/simulator-engine.md lists which rule came with which version.

use crate::config::ServerConfig;
use crate::flags::version_key;

/// In which order requests run, and who loses its blocks when they run out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Policy {
    /// First come, first served; the last admitted loses.
    #[default]
    Fcfs,
    /// Smallest priority first, then arrival; the largest priority, latest arrival loses.
    Priority,
}

/// Speculative decoding: drafts are verified as extra rows, and accepted as often as is said here.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Speculation {
    /// Draft tokens per request and step.
    pub draft_tokens: u32,
    /// Share of drafts of which the first, the first two, … tokens were accepted (0–1, never increasing): what vLLM
    /// reports as acceptance rate per position. Missing positions: never accepted.
    pub acceptance: Vec<f64>,
    /// KV slots that the drafter needs beyond the computed tokens (EAGLE and draft models: `draft_tokens`; n-gram: 0).
    pub lookahead_tokens: u32,
    /// Rows of `max_num_batched_tokens` that the drafter takes per request.
    pub draft_slots: u32,
    /// Layers of the model's own shape that a step's drafts pass, with the head each: one per draft for EAGLE and MTP, none
    /// for n-gram. A draft model of its own is not known here: it counts as none, and predictions say so.
    pub layer_passes: u32,
    /// Prefix hits lose their last block (EAGLE and MTP need the tokens before the first new one).
    pub drops_last_hit: bool,
}

/// Batch sizes for which CUDA graphs exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Graphs {
    /// Largest captured number of tokens; 0: no graphs (`--enforce-eager`).
    pub max_tokens: u32,
    /// Batches of decodes only run as one full graph (else piecewise).
    pub full_decode: bool,
    /// Sizes above 256 come every 16 tokens (older versions: every 8).
    pub coarse_above_256: bool,
}

impl Graphs {
    /// The captured size that a batch of `tokens` is padded to; `None` when it runs without a graph.
    pub fn padded(&self, tokens: u32) -> Option<u32> {
        let size = match tokens {
            0 => return None,
            1..=2 => tokens,
            3..=4 => 4,
            5..=256 => tokens.next_multiple_of(8),
            _ if self.coarse_above_256 => tokens.next_multiple_of(16),
            _ => tokens.next_multiple_of(8),
        };
        // The largest size is captured even when it is off the grid.
        (tokens <= self.max_tokens).then(|| size.min(self.max_tokens))
    }
}

/// KV blocks of a model in which only some layers keep the whole context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlidingWindow {
    /// Tokens that a windowed layer attends to.
    pub tokens: u32,
    /// Groups of layers that keep everything; each takes a block for every `block_size` tokens. 0: every layer slides.
    pub full_groups: u32,
    /// Groups of layers that slide; each holds only the blocks of its window.
    pub window_groups: u32,
}

/// Limits and rules of one rank's scheduler.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineConfig {
    /// Running requests.
    pub max_num_seqs: u32,
    /// Rows of a step: tokens and draft slots.
    pub max_num_batched_tokens: u32,
    /// Tokens of a step; 0: `max_num_batched_tokens`.
    pub max_num_scheduled_tokens: u32,
    /// Longest sequence, tokens; 0: no limit.
    pub max_model_len: u32,
    /// Prompts may be split over steps.
    pub chunked_prefill: bool,
    /// Largest prompt part per step; 0: no limit.
    pub long_prefill_token_threshold: u32,
    /// The threshold is at least a fair share of the rows of a step.
    pub long_prefill_adaptive: bool,
    /// A request that is alone ignores the threshold (current vLLM).
    pub long_prefill_needs_company: bool,
    /// Reuse of computed prefixes.
    pub prefix_caching: bool,
    /// A prompt is admitted only when all of it fits (current vLLM); older versions look at its first part.
    pub reserve_full_prompt: bool,
    /// Share of blocks (0–1) that admissions leave free while anything runs.
    pub watermark: f64,
    /// Tokens per block.
    pub block_size: u32,
    /// Blocks, null block included.
    pub num_blocks: u64,
    /// Blocks without declared content are reused first (current vLLM).
    pub undeclared_blocks_first: bool,
    /// Ranks over which the context of a request is spread (decode context parallelism): a block holds that many times
    /// more tokens.
    pub context_ranks: u32,
    /// Order and victims.
    pub policy: Policy,
    /// Batches that may be under way at once: 1, 2 with asynchronous scheduling, one per pipeline stage.
    pub concurrent_batches: u32,
    /// The next step is planned before the tokens of the last one are known.
    pub async_scheduling: bool,
    /// Pipeline stages.
    pub pipeline_stages: u32,
    /// New prompts are taken up only every so many steps of lock-step ranks.
    pub prefill_schedule_interval: u32,
    /// Captured graphs.
    pub graphs: Graphs,
    /// Speculative decoding.
    pub speculation: Option<Speculation>,
    /// Sliding-window attention.
    pub sliding_window: Option<SlidingWindow>,
    /// Busiest expert-parallel rank's tokens / mean, handed to the step time; 0: the step-time model's own.
    pub expert_imbalance: f64,
    /// Seed of the acceptance of drafts.
    pub seed: u64,
}

impl Default for EngineConfig {
    /// A current vLLM's rules with small limits, synchronous, without graphs.
    fn default() -> Self {
        Self {
            max_num_seqs: 256,
            max_num_batched_tokens: 2048,
            max_num_scheduled_tokens: 0,
            max_model_len: 0,
            chunked_prefill: true,
            long_prefill_token_threshold: 0,
            long_prefill_adaptive: false,
            long_prefill_needs_company: true,
            prefix_caching: true,
            reserve_full_prompt: true,
            watermark: 0.0,
            block_size: 16,
            num_blocks: 1024,
            undeclared_blocks_first: true,
            context_ranks: 1,
            policy: Policy::Fcfs,
            concurrent_batches: 1,
            async_scheduling: false,
            pipeline_stages: 1,
            prefill_schedule_interval: 1,
            graphs: Graphs { max_tokens: 0, full_decode: true, coarse_above_256: true },
            speculation: None,
            sliding_window: None,
            expert_imbalance: 0.0,
            seed: 0,
        }
    }
}

impl EngineConfig {
    /// The limits of one rank of a server.
    pub fn of(config: &ServerConfig) -> Self {
        let version = version_key(&config.version);
        let rules = Rules::of(version);
        let flags = &config.scheduling;
        let graphs = !config.enforce_eager && config.gpu.device != "cpu";
        let width = 1 + flags.speculation.as_ref().map_or(0, |spec| spec.draft_tokens);
        Self {
            max_num_scheduled_tokens: flags.max_num_scheduled_tokens,
            long_prefill_adaptive: flags.long_prefill_adaptive,
            watermark: flags.watermark,
            prefill_schedule_interval: flags.prefill_schedule_interval.max(1),
            speculation: flags.speculation.clone(),
            max_num_seqs: config.max_num_seqs,
            max_num_batched_tokens: config.max_num_batched_tokens,
            max_model_len: config.max_model_len,
            chunked_prefill: config.chunked_prefill,
            long_prefill_token_threshold: config.long_prefill_token_threshold,
            long_prefill_needs_company: rules.long_prefill_needs_company,
            policy: if config.scheduling_policy == "priority" { Policy::Priority } else { Policy::Fcfs },
            prefix_caching: config.prefix_caching,
            reserve_full_prompt: flags.reserve_full_prompt.unwrap_or(rules.reserve_full_prompt),
            undeclared_blocks_first: rules.undeclared_blocks_first,
            block_size: config.block_size,
            num_blocks: config.num_gpu_blocks,
            pipeline_stages: config.pp,
            context_ranks: config.dcp.max(1),
            sliding_window: sliding_window(config),
            graphs: Graphs {
                max_tokens: if graphs {
                    flags.max_captured.unwrap_or((2 * config.max_num_seqs).saturating_mul(width).min(512))
                } else {
                    0
                },
                full_decode: rules.full_decode_graphs,
                coarse_above_256: rules.coarse_graphs_above_256,
            },
            ..Self::default()
        }
        .with_async_scheduling(config.async_scheduling)
    }

    /// Sets asynchronous scheduling and the number of batches under way that follows from it.
    #[must_use]
    pub fn with_async_scheduling(mut self, on: bool) -> Self {
        // Both runners keep one batch more than there are stages; the first runner cannot combine it with stages.
        self.async_scheduling = on;
        self.concurrent_batches = self.pipeline_stages.max(1) + u32::from(on);
        self
    }

    pub(crate) fn token_budget(&self) -> u32 {
        match self.max_num_scheduled_tokens {
            0 => self.max_num_batched_tokens,
            limit => limit,
        }
    }

    pub(crate) fn longest(&self) -> u32 {
        if self.max_model_len == 0 { u32::MAX / 2 } else { self.max_model_len }
    }

    /// Tokens of a sequence that one block covers.
    pub(crate) fn tokens_per_block(&self) -> u32 {
        (self.block_size * self.context_ranks.max(1)).max(1)
    }

    pub(crate) fn watermark_blocks(&self) -> usize {
        (self.watermark.max(0.0) * self.num_blocks as f64) as usize
    }
}

/// Models in which some layers slide: the layers are put into groups as large as the group that keeps everything, which is
/// what the memory of a block is counted for. Where all layers slide, every block is kept, as memory is counted there.
fn sliding_window(config: &ServerConfig) -> Option<SlidingWindow> {
    let model = &config.model;
    let full = model.layers.saturating_sub(model.window_layers + model.linear_layers);
    let slides = model.window > 0 && model.window_layers > 0 && full > 0 && !config.has_kv_connector;
    slides.then(|| SlidingWindow {
        tokens: model.window,
        full_groups: 1,
        window_groups: model.window_layers.div_ceil(full),
    })
}

/// What differs between versions of vLLM's V1 scheduler.
struct Rules {
    reserve_full_prompt: bool,
    long_prefill_needs_company: bool,
    undeclared_blocks_first: bool,
    full_decode_graphs: bool,
    coarse_graphs_above_256: bool,
}

impl Rules {
    fn of(version: (u32, u32)) -> Self {
        Self {
            // vllm-project/vllm#37307 (March 2026) brought the check, first as an option.
            reserve_full_prompt: version >= (0, 19),
            // #57951 (September 2026).
            long_prefill_needs_company: version >= (0, 32),
            // #43447 and #42656; seen in 0.23.
            undeclared_blocks_first: version >= (0, 23),
            full_decode_graphs: version >= (0, 11),
            coarse_graphs_above_256: version >= (0, 12),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_padded_to_captured_sizes() {
        let graphs = Graphs { max_tokens: 512, full_decode: true, coarse_above_256: true };
        for (tokens, padded) in [(1, 1), (3, 4), (5, 8), (248, 248), (249, 256), (257, 272), (512, 512)] {
            assert_eq!(graphs.padded(tokens), Some(padded), "{tokens}");
        }
        assert_eq!((graphs.padded(513), graphs.padded(0)), (None, None));
        assert_eq!(Graphs { coarse_above_256: false, ..graphs }.padded(257), Some(264));
        assert_eq!(Graphs { max_tokens: 20, ..graphs }.padded(19), Some(20));
    }
}
