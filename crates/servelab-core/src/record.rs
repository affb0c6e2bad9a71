//! The raw records that everything else is derived from: one row per request, one row per token-bearing event. All
//! stamps are CLOCK_MONOTONIC nanoseconds relative to the run's [`ClockEpoch`]; no metric is computed here (see
//! `metrics`), and no file is read or written here (see `servelab-store`).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Version of `requests.parquet` and `events.parquet`; a reader refuses a newer one.
pub const RECORD_SCHEMA_VERSION: u32 = 1;

/// Ties the monotonic clock of one run to the wall clock. Only labels use the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClockEpoch {
    /// CLOCK_MONOTONIC at the epoch, in nanoseconds; every `t_*` stamp is relative to it.
    pub epoch_monotonic_ns: i64,
    /// CLOCK_REALTIME at the same instant, in nanoseconds since 1970.
    pub epoch_unix_ns: i64,
}

/// Which part of a run a request belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Sent to bring the server into its working state; never counted.
    Warmup,
    /// Scheduled inside the measured window.
    Window,
    /// Sent after the window closed, only to keep the load up while the window's requests finish.
    Drain,
}

impl Phase {
    /// Name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Warmup => "warmup",
            Self::Window => "window",
            Self::Drain => "drain",
        }
    }

    /// Reads a name written by [`Phase::name`].
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Warmup, Self::Window, Self::Drain].into_iter().find(|phase| phase.name() == name)
    }
}

/// Where a request's output token count comes from, most trusted first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TokenSource {
    /// The server's final `usage`.
    ServerUsage,
    /// Token ids sent by the server.
    ServerTokenIds,
    /// `usage` deltas sent with every chunk.
    ContinuousUsage,
    /// The client's tokenizer over the received text.
    ClientTokenizer,
    /// One token per event: a guess, used only when nothing better exists.
    EventCount,
}

impl TokenSource {
    /// Every source, most trusted first.
    pub const ALL: [Self; 5] =
        [Self::ServerUsage, Self::ServerTokenIds, Self::ContinuousUsage, Self::ClientTokenizer, Self::EventCount];

    /// Name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::ServerUsage => "server_usage",
            Self::ServerTokenIds => "server_token_ids",
            Self::ContinuousUsage => "continuous_usage",
            Self::ClientTokenizer => "client_tokenizer",
            Self::EventCount => "event_count",
        }
    }

    /// Reads a name written by [`TokenSource::name`].
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|source| source.name() == name)
    }
}

/// One request as it happened. `None` means "did not happen" or "not known", never zero.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RequestRecord {
    /// Position in the schedule of its phase, unique within one attempt.
    pub request_idx: i64,
    /// Warm-up, window or drain.
    pub phase: Phase,
    /// The server's own id of the response.
    pub response_id: Option<String>,
    /// The instant at which the arrival process meant to send.
    pub t_sched: i64,
    /// Concurrency slot granted (closed loop, or an open loop with a cap).
    pub t_slot: Option<i64>,
    /// Connect started; only when a new connection was needed.
    pub t_conn0: Option<i64>,
    /// Connect finished.
    pub t_conn1: Option<i64>,
    /// The kernel accepted the last byte of the request.
    pub t_send: Option<i64>,
    /// First response byte.
    pub t_hdr: Option<i64>,
    /// First event that carries a token.
    pub t_first: Option<i64>,
    /// First event with a non-reasoning token.
    pub t_out: Option<i64>,
    /// Last token-bearing event.
    pub t_last: Option<i64>,
    /// Trailing usage event.
    pub t_usage: Option<i64>,
    /// `[DONE]`, the end of a response without it, or the instant at which a failure ended the request (see
    /// `failure_code`: this stamp alone is no success). `None` for a request that was never begun.
    pub t_done: Option<i64>,
    /// Prompt tokens: the server's word where it gave one, else the count prepared beforehand.
    pub input_tokens: Option<i64>,
    /// Output tokens according to `token_source`.
    pub output_tokens: Option<i64>,
    /// Output tokens asked for (`max_tokens`).
    pub requested_output_tokens: Option<i64>,
    /// Tokens in the first token-bearing event.
    pub n_first: Option<i64>,
    /// Provenance of `output_tokens`.
    pub token_source: Option<TokenSource>,
    /// Provenance of the token counts of this request's events: [`TokenSource::EventCount`] when each was taken for one
    /// token, which a server may undercut by putting several tokens into one event. `None` is treated as such a guess.
    pub event_token_source: Option<TokenSource>,
    /// `stop`, `length`, …
    pub finish_reason: Option<String>,
    /// Why the request failed (a code that `servelab explain` knows); `None` is a success.
    pub failure_code: Option<String>,
    /// HTTP status, when a status line came.
    pub http_status: Option<i32>,
    /// Queue time that the server reported, milliseconds.
    pub server_queue_ms: Option<f64>,
    /// TTFT that the server reported, milliseconds, from its receipt of the request: vLLM counts from the first
    /// scheduling, so its queue time is added. llama.cpp reports the prompt's processing only.
    pub server_ttft_ms: Option<f64>,
    /// Mean time per token after the first that the server reported, milliseconds.
    pub server_itl_ms: Option<f64>,
    /// Time from its receipt of the request to the last token that the server reported, milliseconds.
    pub server_e2e_ms: Option<f64>,
    /// Bytes received, headers included.
    pub bytes_received: i64,
}

impl RequestRecord {
    /// A record for a request that was scheduled and has not been touched yet.
    pub fn scheduled(request_idx: i64, phase: Phase, t_sched: i64) -> Self {
        Self {
            request_idx,
            phase,
            response_id: None,
            t_sched,
            t_slot: None,
            t_conn0: None,
            t_conn1: None,
            t_send: None,
            t_hdr: None,
            t_first: None,
            t_out: None,
            t_last: None,
            t_usage: None,
            t_done: None,
            input_tokens: None,
            output_tokens: None,
            requested_output_tokens: None,
            n_first: None,
            token_source: None,
            event_token_source: None,
            finish_reason: None,
            failure_code: None,
            http_status: None,
            server_queue_ms: None,
            server_ttft_ms: None,
            server_itl_ms: None,
            server_e2e_ms: None,
            bytes_received: 0,
        }
    }

    /// Success: no failure code and at least one token. A 200 without a token is a failure.
    pub fn is_success(&self) -> bool {
        self.failure_code.is_none() && self.output_tokens.is_some_and(|n| n > 0) && self.t_last.is_some()
    }
}

/// One token-bearing event of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRecord {
    /// The request it belongs to.
    pub request_idx: i64,
    /// The instant `read()` returned with it.
    pub t_ns: i64,
    /// Tokens it carries.
    pub n_tokens: i32,
}

/// One sample of one server metric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PromSample {
    /// Instant of the scrape, relative to the epoch.
    pub t_ns: i64,
    /// Node that was scraped.
    pub node: String,
    /// Engine index (`engine` label), empty when the server has none.
    pub engine: String,
    /// Metric name as the server spells it.
    pub metric: String,
    /// Remaining labels as canonical `k="v",…`, sorted by name.
    pub labels: String,
    /// The value; NaN and infinities survive.
    pub value: f64,
}
