//! Predictions: a server configuration and a load in, latency distributions, throughput, KV use and doubts out, on a
//! virtual clock. Deterministic and without I/O; which cells a study has and what people read is the caller's business.

mod calibrate;
mod drive;
mod label;
mod parallel;
mod quantiles;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use calibrate::{CalibrationPoint, Fit, fit_calibration, predict_calibrated};
pub use drive::{PrefillServers, predict_cell, predict_fleet};
pub use label::label;
pub use parallel::in_parallel;
pub use quantiles::Quantiles;

/// How much a prediction may be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Label {
    /// Constants fitted to measurements of this very kind of server, checked on points that the fit did not see.
    Calibrated,
    /// Built-in constants on a device on which they were compared with measurements.
    Uncalibrated,
    /// Something in this configuration was never compared with a measurement; the reasons say what.
    Unvalidated,
}

impl Label {
    /// The word in tables and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Calibrated => "calibrated",
            Self::Uncalibrated => "uncalibrated",
            Self::Unvalidated => "unvalidated",
        }
    }
}

/// When requests arrive.
#[derive(Debug, Clone, PartialEq)]
pub enum ArrivalKind {
    /// A fixed number of clients, each waiting for its answer.
    Closed {
        /// Clients.
        concurrency: u32,
        /// The first requests are spread over this time, nanoseconds; 0: all at once.
        ramp_ns: u64,
        /// Pause of a client between answer and next request, nanoseconds.
        think_ns: u64,
    },
    /// Requests at given instants.
    Open {
        /// Nanoseconds from the start, never decreasing; the warm-up's come first.
        instants_ns: Arc<[u64]>,
    },
    /// Batches, one after the other.
    Batches {
        /// Requests per batch.
        size: u32,
    },
}

/// What one cell offers to a server.
#[derive(Debug, Clone, PartialEq)]
pub struct CellLoad {
    /// When.
    pub arrivals: ArrivalKind,
    /// Prompt and output tokens of successive requests, repeated from the start when there are more requests.
    pub lengths: Arc<[(u32, u32)]>,
    /// Prompt tokens that all requests have in common.
    pub shared_prefix_tokens: u32,
    /// Requests before the measured window.
    pub warmup_requests: u32,
    /// Requests in the window.
    pub requests: u32,
    /// Arrivals end after this time, nanoseconds; `None`: after `requests`.
    pub duration_ns: Option<u64>,
}

/// Which limits a run touched: a factor that no run touches cannot matter under that load.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitsTouched {
    /// `max_num_seqs` held a request back.
    pub max_num_seqs: bool,
    /// `max_num_batched_tokens` cut or delayed a prompt.
    pub max_num_batched_tokens: bool,
    /// KV blocks ran out.
    pub kv_cache: bool,
}

/// What a cell is predicted to measure. Latencies in milliseconds over the window's requests, as a client sees them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Prediction {
    /// How much it may be believed.
    pub label: Label,
    /// Why not more.
    pub label_reasons: Vec<String>,
    /// Arrival to first token.
    pub ttft_ms: Quantiles,
    /// (last − first token)/(tokens − 1), per request.
    pub tpot_ms: Quantiles,
    /// Gaps between tokens.
    pub itl_ms: Quantiles,
    /// Arrival to last token.
    pub e2e_ms: Quantiles,
    /// Output tokens of the window per second.
    pub output_tokens_per_s: f64,
    /// Requests of the window per second.
    pub requests_per_s: f64,
    /// Requests that ended.
    pub completed: u64,
    /// Requests that could never run.
    pub refused: u64,
    /// Tokens that the KV cache of one rank holds.
    pub kv_capacity_tokens: u64,
    /// Largest share of KV blocks held (0–1).
    pub kv_peak: f64,
    /// Mean share of KV blocks held (0–1).
    pub kv_mean: f64,
    /// Preemptions.
    pub preemptions: u64,
    /// More was offered than is sustained: the queue grew through the window.
    pub saturated: bool,
    /// Mean requests running.
    pub running_mean: f64,
    /// Mean requests waiting.
    pub waiting_mean: f64,
    /// Most requests running on one rank.
    pub running_max: u32,
    /// Limits that mattered.
    pub limits: LimitsTouched,
    /// Length of the window, seconds of simulated time.
    pub window_s: f64,
    /// Mean time of a transfer from a prefill to a decode server, waiting for links included; `None` where nothing is split.
    pub transfer_mean_ms: Option<f64>,
}
