//! `result.json`: the measured outcome of one cell attempt or one `bench`, in the shape that outsiders rely on. Units
//! are part of every key. How each number is computed is documented in `metrics`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::precision::PrecisionReport;
use crate::record::ClockEpoch;
use crate::shard::ShardSummary;

/// Version of `result.json`.
pub const RESULT_SCHEMA_VERSION: u32 = 1;

/// The whole document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BenchResult {
    /// Always [`RESULT_SCHEMA_VERSION`] when written by this version.
    pub schema: u32,
    /// The clock that the records beside this file refer to.
    pub clock: ClockEpoch,
    /// Request counts of the measured window.
    pub requests: RequestCounts,
    /// Failed requests per failure code.
    pub failures: BTreeMap<String, u64>,
    /// Length of the measured window in seconds.
    pub duration_s: f64,
    /// Prompt tokens of completed requests.
    pub input_tokens: u64,
    /// Output tokens of completed requests.
    pub output_tokens: u64,
    /// Completed requests per provenance of their token count.
    pub token_source: BTreeMap<String, u64>,
    /// Rates over the window.
    pub throughput: Throughput,
    /// Requests that met every request SLO, per second; `None` without a request SLO.
    pub goodput_requests_per_s: Option<f64>,
    /// Requests in flight.
    pub concurrency: Concurrency,
    /// Latency distributions over successes.
    pub latency_ms: Latencies,
    /// What the client knows about its own error.
    pub client: ClientQuality,
    /// The same numbers over the steady part of the window, when one was found.
    pub steady: Option<SteadyWindow>,
    /// May these numbers be believed?
    pub verdict: Verdict,
    /// Time-means and counter increases of the server's own metrics; `None` when the server showed none.
    #[serde(default)]
    pub server: Option<ServerSummary>,
    /// Who took part, when several processes drove the load; `None` for one.
    #[serde(default)]
    pub shards: Option<ShardSummary>,
    /// How well the watched means were known at the end, when the run was to go on until they were; `None` otherwise.
    #[serde(default)]
    pub precision: Option<Vec<PrecisionReport>>,
    /// Gaps, stalls and fluidity of the streams; `None` without token events.
    #[serde(default)]
    pub smoothness: Option<StreamSmoothness>,
    /// The server's own times per request, and what the client saw on top; `None` when the server sent none.
    #[serde(default)]
    pub server_times: Option<ServerTimes>,
    /// Percentiles in which failures count as +∞.
    #[serde(default)]
    pub latency_with_failures_ms: Option<TailLatencies>,
    /// Where the numbers come from, when another tool measured them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub import: Option<ImportInfo>,
}

/// What is special about a result that another tool measured.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImportInfo {
    /// Name of the file format.
    pub format: String,
    /// The file, as it was named on the command line or found below a folder.
    pub path: String,
    /// Position among the results of one file, from 0.
    #[serde(default)]
    pub index: u32,
    /// True when every latency was computed anew from per-request data; false when the tool's own summary is repeated.
    pub recomputed: bool,
    /// Keys of this document that the file says nothing about, each with the reason. What stands there is a placeholder
    /// and is shown as null.
    pub unknown: BTreeMap<String, String>,
    /// How the tool's definitions differ from ours, and what had to be assumed.
    pub notes: Vec<String>,
    /// What only the name of the file or its folder says; never trusted over the content.
    pub hints: BTreeMap<String, String>,
    /// Hash over what was measured: equal for two copies of one run, whatever their names.
    pub fingerprint: String,
}

impl ImportInfo {
    /// True for a key, or any key above it, that the file says nothing about.
    pub fn is_unknown(&self, key: &str) -> bool {
        let above =
            |known: &String| key == known || key.strip_prefix(known.as_str()).is_some_and(|rest| rest.starts_with('.'));
        self.unknown.keys().any(above)
    }
}

impl BenchResult {
    /// The document as outsiders see it: what an imported file says nothing about is null.
    pub fn to_json(&self) -> serde_json::Value {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        for key in self.import.iter().flat_map(|import| import.unknown.keys()) {
            let pointer = format!("/{}", key.replace('.', "/"));
            if let Some(place) = value.pointer_mut(&pointer) {
                *place = serde_json::Value::Null;
            }
        }
        value
    }

    /// True for a key that an imported file says nothing about; never true for our own results.
    pub fn is_unknown(&self, key: &str) -> bool {
        self.import.as_ref().is_some_and(|import| import.is_unknown(key))
    }
}

/// Smoothness of the streams: what goodput cannot see.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StreamSmoothness {
    /// Largest gap between token-bearing events, per request.
    pub max_gap_ms: Quantiles,
    /// A gap above this is a stall.
    pub stall_threshold_ms: f64,
    /// Stalls / gaps (0–1).
    pub stall_share: f64,
    /// Share of token deadlines met, per request (0–1); `None` without a request SLO on TTFT and TPOT (or ITL).
    pub fluidity: Option<Quantiles>,
}

/// What the server says about its own times per request, and the residual: client − server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServerTimes {
    /// In the server's queue.
    pub queue_ms: Quantiles,
    /// From the server's receipt to the first token.
    pub ttft_ms: Quantiles,
    /// Mean time per token after the first, per request.
    pub itl_ms: Quantiles,
    /// From the server's receipt to the last token.
    pub e2e_ms: Quantiles,
    /// The client's TTFT minus the server's.
    pub ttft_residual_ms: Quantiles,
    /// The client's E2E minus the server's.
    pub e2e_residual_ms: Quantiles,
}

/// Nearest-rank percentiles over everything scheduled in the window, failures as +∞, censored requests left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TailLatencies {
    /// t_first − t_send.
    pub ttft: Tail,
    /// t_first − t_sched.
    pub ttft_sched: Tail,
    /// t_last − t_send.
    pub e2e: Tail,
    /// t_last − t_sched.
    pub e2e_sched: Tail,
}

/// One set of percentiles in which failures count. `None` is a failed request (or no request at all: `n` is 0 then).
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Tail {
    /// Median, nearest rank as all here.
    pub p50: Option<f64>,
    /// 90th percentile.
    pub p90: Option<f64>,
    /// 95th percentile.
    pub p95: Option<f64>,
    /// 99th percentile.
    pub p99: Option<f64>,
    /// Requests, failures included.
    pub n: u64,
    /// Of these, failed.
    pub failed: u64,
}

/// Counts over the measured window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RequestCounts {
    /// Arrivals that the schedule put into the window.
    pub scheduled: u64,
    /// Of these, sent.
    pub sent: u64,
    /// Of these, successful.
    pub completed: u64,
    /// Failed, timed out or refused.
    pub failed: u64,
    /// Cut off by the end of the run, neither success nor failure.
    pub censored: u64,
}

/// Rates over the window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Throughput {
    /// Output tokens whose event fell into the window, per second.
    pub output_tokens_per_s: f64,
    /// Successful requests per second.
    pub requests_per_s: f64,
}

/// Requests in flight over the window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Concurrency {
    /// Time integral of the in-flight count divided by the window.
    pub mean: f64,
    /// Maximum of the in-flight step function.
    pub max: u64,
}

/// One latency distribution in milliseconds. `None` where nothing was measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Quantiles {
    /// Arithmetic mean.
    pub mean: Option<f64>,
    /// Median (linear interpolation, numpy type 7), as all percentiles here.
    pub p50: Option<f64>,
    /// 90th percentile.
    pub p90: Option<f64>,
    /// 95th percentile.
    pub p95: Option<f64>,
    /// 99th percentile.
    pub p99: Option<f64>,
    /// Largest sample.
    pub max: Option<f64>,
    /// Number of samples.
    pub n: u64,
    /// Order-statistic confidence intervals (95 %) for quantiles within this run.
    pub ci95: QuantileIntervals,
    /// Relative width within which percentiles are known, where there were too many samples to keep each; absent means
    /// exact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolution: Option<f64>,
}

/// Order-statistic confidence intervals of a [`Quantiles`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct QuantileIntervals {
    /// Of the median; `None` with too few samples.
    pub p50: Option<[f64; 2]>,
    /// Of the 99th percentile; `None` with too few samples.
    pub p99: Option<[f64; 2]>,
}

/// All latency distributions; definitions in `metrics`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Latencies {
    /// Time to first token: t_first − t_send.
    pub ttft: Quantiles,
    /// t_first − t_sched.
    pub ttft_sched: Quantiles,
    /// Time to first non-reasoning token: t_out − t_send.
    pub ttfo: Quantiles,
    /// Gaps between token-bearing events.
    pub icl: Quantiles,
    /// Gap per token, each gap counted once per token it carries (smoothed).
    pub itl: Quantiles,
    /// (t_last − t_first)/(N − n_first) per request.
    pub tpot: Quantiles,
    /// (t_last − t_first)/(N − 1) per request, as vLLM defines it.
    pub tpot_vllm: Quantiles,
    /// t_last − t_send.
    pub e2e: Quantiles,
    /// t_last − t_sched.
    pub e2e_sched: Quantiles,
}

/// The client's own error.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ClientQuality {
    /// t_send − t_sched less slot wait and connect: how late the client itself was.
    pub lateness_ms: Quantiles,
    /// Waiting for a concurrency slot: the experiment's doing.
    #[serde(default)]
    pub slot_wait_ms: Quantiles,
    /// Opening a connection, zero for requests that found one: the network's doing.
    #[serde(default)]
    pub connect_ms: Quantiles,
    /// CPU seconds (user + system) of the load threads.
    pub cpu_s: f64,
    /// Load threads.
    pub threads: u32,
    /// TTFT error seen on the in-process canary stream.
    pub canary_ttft_error_ms: Option<Quantiles>,
    /// ITL error seen on the in-process canary stream.
    pub canary_itl_error_ms: Option<Quantiles>,
    /// From the canary server's write to this client's stamp.
    #[serde(default)]
    pub canary_receive_error_ms: Option<Quantiles>,
    /// CPU time of the load threads as a share of the time they ran (0–1 per thread); `None` when not known.
    #[serde(default)]
    pub cpu_share: Option<f64>,
    /// Share of token events that came in the same read as the event before them (0–1): the server, the network or this
    /// client put them together, and gaps between them are not known. `None` without events.
    #[serde(default)]
    pub zero_gap_share: Option<f64>,
    /// Time over which the first sends of a closed loop were spread, seconds.
    #[serde(default)]
    pub spread_s: Option<f64>,
}

/// The steady part of a window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SteadyWindow {
    /// Start, seconds after the window's start.
    pub start_s: f64,
    /// End, seconds after the window's start.
    pub end_s: f64,
    /// Requests counted.
    pub n: u64,
    /// Rates over it.
    pub throughput: Throughput,
    /// Latencies of requests sent inside it.
    pub latency_ms: Latencies,
}

/// `ok`, or reasons why a cell or a comparison must not be believed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Verdict {
    /// True exactly when no reason of severity `invalid` stands.
    pub ok: bool,
    /// What was found, worst first.
    pub reasons: Vec<VerdictReason>,
}

/// One reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VerdictReason {
    /// A code that `servelab explain` knows.
    pub code: String,
    /// The evidence, in one sentence with its numbers.
    pub detail: String,
    /// How bad it is.
    #[serde(default)]
    pub severity: Severity,
}

/// What a verdict reason does to a result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The result must not be ranked or compared.
    #[default]
    Invalid,
    /// The result stands, but readers must know this.
    Warning,
}

/// The server's own metrics over the window, summed over engines where that makes sense.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServerSummary {
    /// Increase of the preemption counter over the window, all engines.
    pub preemptions: Option<f64>,
    /// Time-mean of KV-cache usage (0–1), mean over engines.
    pub kv_usage_mean: Option<f64>,
    /// Largest KV-cache usage seen (0–1).
    pub kv_usage_max: Option<f64>,
    /// Time-mean of running requests, summed over engines.
    pub running_mean: Option<f64>,
    /// Largest number of running requests, summed over engines.
    pub running_max: Option<f64>,
    /// Time-mean of waiting requests, summed over engines.
    pub waiting_mean: Option<f64>,
    /// Increase of the generated-token counter over the window.
    pub generation_tokens: Option<f64>,
    /// Increase of the prompt-token counter over the window.
    pub prompt_tokens: Option<f64>,
    /// Prefix-cache hits / queries over the window (0–1).
    pub prefix_hit_rate: Option<f64>,
    /// Increase of the finished-request counter over the window.
    pub requests_finished: Option<f64>,
    /// Mean TTFT by the server's histogram over the window, milliseconds.
    pub ttft_mean_ms: Option<f64>,
    /// Mean inter-token latency by the server's histogram over the window, milliseconds.
    pub itl_mean_ms: Option<f64>,
    /// Mean time in the server's queue over the window, milliseconds.
    #[serde(default)]
    pub queue_time_mean_ms: Option<f64>,
    /// Mean time from leaving the queue to the first token, milliseconds.
    #[serde(default)]
    pub prefill_time_mean_ms: Option<f64>,
    /// Mean time from the first token to the last, milliseconds.
    #[serde(default)]
    pub decode_time_mean_ms: Option<f64>,
    /// Speculative decoding; `None` when the server drafts nothing.
    #[serde(default)]
    pub speculation: Option<SpeculationSummary>,
    /// The GPUs' own telemetry; `None` where nobody could read any.
    #[serde(default)]
    pub gpu: Option<GpuSummary>,
    /// Scrapes that succeeded.
    pub scrapes: u64,
}

/// Speculative decoding over the window, all engines together.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SpeculationSummary {
    /// Drafts proposed.
    pub drafts: f64,
    /// Tokens proposed.
    pub draft_tokens: f64,
    /// Tokens accepted.
    pub accepted_tokens: f64,
    /// Accepted / proposed tokens (0–1).
    pub acceptance_rate: f64,
    /// Mean tokens per step of a drafting sequence: 1 + accepted / drafts.
    pub mean_length: f64,
    /// Accepted tokens at each position of a draft / drafts (0–1), first position first; empty when not shown.
    pub acceptance_by_position: Vec<f64>,
}

/// Telemetry of the GPUs over the window, from a DCGM exporter or nvidia-smi.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GpuSummary {
    /// GPUs that were seen.
    pub gpus: u32,
    /// Time-mean of the power, summed over GPUs, watts.
    pub power_mean_w: Option<f64>,
    /// Largest power, summed over GPUs, watts.
    pub power_max_w: Option<f64>,
    /// Energy over the window, summed over GPUs, joules: increase of the energy counter, else mean power × length.
    pub energy_j: Option<f64>,
    /// Time-mean of the share of time in which a kernel ran, mean over GPUs (0–1). Not the share of SMs in use.
    pub busy_mean: Option<f64>,
    /// Time-mean of the share of SMs in use, mean over GPUs (0–1); a DCGM exporter with profiling metrics shows it.
    pub sm_active_mean: Option<f64>,
    /// Most memory in use on one GPU, MiB.
    pub memory_used_max_mib: Option<f64>,
    /// Time-mean of the SM clock, mean over GPUs, MHz.
    pub sm_clock_mean_mhz: Option<f64>,
}
