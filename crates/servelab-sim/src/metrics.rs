//! The counters and histograms of one rank, updated by its engine, and their rendering as vLLM's /metrics page. Times
//! are simulated seconds: with a speed-up they are longer than what a clock on the wall saw.

use crate::config::ServerConfig;
use crate::engine::{Engine, FinishReason, RequestSpec};

mod counts;
mod page;

pub(crate) use counts::HttpRequest;
pub use counts::{HttpCounts, KvCounts, ServerCounts};
pub use page::render;

const TTFT_S: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
];
const TOKEN_S: &[f64] =
    &[0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0];
const REQUEST_S: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
];
const STEP_TOKENS: &[f64] = &[1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0];
const REQUEST_TOKENS: &[f64] = &[
    1.0,
    2.0,
    5.0,
    10.0,
    20.0,
    50.0,
    100.0,
    200.0,
    500.0,
    1000.0,
    2000.0,
    5000.0,
    10_000.0,
    20_000.0,
    50_000.0,
    100_000.0,
    200_000.0,
    500_000.0,
    1_000_000.0,
];
const PREEMPTIONS: &[f64] = &[1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 20.0];

/// A histogram with fixed upper bounds.
#[derive(Debug, Clone)]
pub struct Histogram {
    bounds: &'static [f64],
    counts: Vec<u64>,
    sum: f64,
    count: u64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len()], sum: 0.0, count: 0 }
    }

    fn observe(&mut self, value: f64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += 1;
        }
        self.sum += value;
        self.count += 1;
    }

    /// Number of observations.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Sum of observations.
    pub fn sum(&self) -> f64 {
        self.sum
    }
}

/// What one rank has counted since the start.
#[derive(Debug, Clone)]
pub struct EngineMetrics {
    /// Preemptions.
    pub preemptions: u64,
    /// Prompt tokens of requests that reached their first token.
    pub prompt_tokens: u64,
    /// Prompt tokens that came from the prefix cache.
    pub cached_tokens: u64,
    /// Generated tokens.
    pub generation_tokens: u64,
    /// Prompt tokens looked up in the prefix cache.
    pub prefix_queries: u64,
    /// Of these, found.
    pub prefix_hits: u64,
    /// Requests ended with stop, length, abort.
    pub finished: [u64; 3],
    /// Tokens per step.
    pub iteration_tokens: Histogram,
    /// Seconds from arrival to the first token.
    pub ttft: Histogram,
    /// Seconds between tokens.
    pub itl: Histogram,
    /// Seconds per output token after the first, per request.
    pub tpot: Histogram,
    /// Seconds from arrival to the end.
    pub e2e: Histogram,
    /// Seconds in the queue before the first step.
    pub queue: Histogram,
    /// Seconds from the first step to the end.
    pub inference: Histogram,
    /// Seconds from the first step to the first token.
    pub prefill: Histogram,
    /// Seconds from the first token to the end.
    pub decode: Histogram,
    /// Prompt tokens per request.
    pub request_prompt: Histogram,
    /// Generated tokens per request.
    pub request_generation: Histogram,
    /// Token limits of requests.
    pub request_max_tokens: Histogram,
    /// Preemptions per request.
    pub request_preemptions: Histogram,
    /// Prompt tokens per request that were computed, not found in a cache.
    pub request_computed: Histogram,
}

impl Default for EngineMetrics {
    fn default() -> Self {
        Self {
            preemptions: 0,
            prompt_tokens: 0,
            cached_tokens: 0,
            generation_tokens: 0,
            prefix_queries: 0,
            prefix_hits: 0,
            finished: [0; 3],
            iteration_tokens: Histogram::new(STEP_TOKENS),
            ttft: Histogram::new(TTFT_S),
            itl: Histogram::new(TOKEN_S),
            tpot: Histogram::new(TOKEN_S),
            e2e: Histogram::new(REQUEST_S),
            queue: Histogram::new(REQUEST_S),
            inference: Histogram::new(REQUEST_S),
            prefill: Histogram::new(REQUEST_S),
            decode: Histogram::new(REQUEST_S),
            request_prompt: Histogram::new(REQUEST_TOKENS),
            request_generation: Histogram::new(REQUEST_TOKENS),
            request_max_tokens: Histogram::new(REQUEST_TOKENS),
            request_preemptions: Histogram::new(PREEMPTIONS),
            request_computed: Histogram::new(REQUEST_TOKENS),
        }
    }
}

fn seconds(from_ns: u64, to_ns: u64) -> f64 {
    to_ns.saturating_sub(from_ns) as f64 / 1e9
}

impl EngineMetrics {
    pub(crate) fn first_token(&mut self, spec: &RequestSpec, cached_tokens: u32, now_ns: u64) {
        self.prompt_tokens += spec.prompt.len() as u64;
        self.cached_tokens += u64::from(cached_tokens);
        self.request_computed.observe((spec.prompt.len() as f64 - f64::from(cached_tokens)).max(0.0));
        self.ttft.observe(seconds(spec.arrival_ns, now_ns));
    }

    pub(crate) fn next_token(&mut self, gap_ns: u64) {
        self.itl.observe(seconds(0, gap_ns));
    }

    pub(crate) fn step_done(&mut self, prompt_tokens: u64, new_tokens: u64) {
        self.generation_tokens += new_tokens;
        self.iteration_tokens.observe((prompt_tokens + new_tokens) as f64);
    }

    pub(crate) fn finished(&mut self, reason: FinishReason) {
        if let Some(count) = self.finished.get_mut(reason as usize) {
            *count += 1;
        }
    }

    /// `times`: first step, first token, end, in simulated nanoseconds.
    pub(crate) fn request_done(
        &mut self,
        spec: &RequestSpec,
        generated: u32,
        preemptions: u32,
        times: (u64, u64, u64),
    ) {
        let (started_ns, first_ns, end_ns) = times;
        self.finished(spec.finish);
        self.e2e.observe(seconds(spec.arrival_ns, end_ns));
        self.queue.observe(seconds(spec.arrival_ns, started_ns));
        self.inference.observe(seconds(started_ns, end_ns));
        self.prefill.observe(seconds(started_ns, first_ns));
        self.decode.observe(seconds(first_ns, end_ns));
        if generated > 1 {
            self.tpot.observe(seconds(first_ns, end_ns) / f64::from(generated - 1));
        }
        self.request_prompt.observe(spec.prompt.len() as f64);
        self.request_generation.observe(f64::from(generated));
        self.request_max_tokens.observe(f64::from(spec.max_tokens));
        self.request_preemptions.observe(f64::from(preemptions));
    }
}

/// Facts of the server around its engines.
#[derive(Debug, Clone, Copy)]
pub struct ServerFacts<'a> {
    /// Effective configuration.
    pub config: &'a ServerConfig,
    /// The ranks.
    pub engines: &'a [Engine],
    /// What the server counts itself.
    pub counts: &'a ServerCounts,
    /// Requests whose KV is on its way.
    pub n_fetching: usize,
    /// The server has a KV connector.
    pub has_connector: bool,
    /// The server was put to sleep.
    pub is_sleeping: bool,
    /// How late, in wall seconds, the worst step was delivered so far.
    pub worst_lateness_s: f64,
}
