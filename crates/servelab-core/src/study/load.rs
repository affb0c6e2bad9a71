//! The `load:` section: which levels are offered, how the server is warmed up, when a level ends.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::ordered::OneOrMany;
use crate::pacing::{Ramp, StartMode, Think};

/// Load levels and how long each is held.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LoadSection {
    /// Arrivals that do not wait for answers.
    pub open: Option<OpenLoad>,
    /// Fixed numbers of requests in flight.
    pub closed: Option<ClosedLoad>,
    /// Requests at the instants at which a trace recorded them; the workload's dataset is that trace.
    pub replay: Option<ReplayLoad>,
    /// Whole batches of equal requests, one after the other.
    pub offline: Option<OfflineLoad>,
    /// Load before the measured window; default: as many requests as are in flight, at least 8.
    pub warmup: Option<Warmup>,
    /// When a level ends. Ramps and replays may go without: they end with the ramp and with the trace.
    #[serde(default)]
    pub stop: Stop,
    /// Seed of prompts and arrivals; default 42.
    pub seed: Option<u64>,
    /// Seconds after which a request counts as failed; default 600.
    pub request_timeout_s: Option<f64>,
}

/// Open loop.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OpenLoad {
    /// Mean arrival rates in requests per second; one level each.
    #[serde(default)]
    pub rate: OneOrMany<f64>,
    /// A rate that changes: one more level. `{linear: {from: 1, to: 50, over_s: 60}}` or
    /// `{steps: [{rate: 1, for_s: 30}, {rate: 5, for_s: 30}]}`; the last rate is held.
    pub ramp: Option<Ramp>,
    /// `poisson` (default), `constant`, or `gamma:SHAPE`.
    pub arrival: Option<String>,
    /// Cap on requests in flight; the wait for a slot is accounted.
    pub max_concurrency: Option<u32>,
}

/// Closed loop.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClosedLoad {
    /// Requests in flight; one level each.
    pub concurrency: OneOrMany<u32>,
    /// Pause of a slot between the end of one request and the next: `{constant: 2}` or `{exponential: 5}`; default none.
    pub think_s: Option<Think>,
    /// First requests: `spread` (default: over one mean request time), `burst`, or `{spread_s: 10}`.
    pub start: Option<StartMode>,
}

/// Replay of a trace.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplayLoad {
    /// So many times as fast as recorded; one level each. Default 1.
    #[serde(default)]
    pub speed: OneOrMany<f64>,
    /// Cap on requests in flight; the wait for a slot is accounted.
    pub max_concurrency: Option<u32>,
}

/// Offline batches (document 004's workloads).
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OfflineLoad {
    /// Requests per batch.
    pub batch_size: OneOrMany<u32>,
    /// Prompt tokens per request.
    pub seq_len: OneOrMany<u32>,
    /// Output tokens per request.
    pub max_tokens: OneOrMany<u32>,
}

/// Load before the measured window.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Warmup {
    /// Requests sent before the window opens.
    pub requests: u32,
}

/// When a level ends; exactly one key.
#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// After this many requests.
    pub requests: Option<u32>,
    /// After this many requests per unit of concurrency (closed loop only).
    pub requests_per_slot: Option<u32>,
    /// After this many seconds.
    pub duration_s: Option<f64>,
    /// When the server is steady.
    pub steady: Option<SteadyStop>,
}

/// Bounds on a level that ends when the server is steady.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SteadyStop {
    /// Not before.
    pub min_s: f64,
    /// Not after.
    pub max_s: f64,
}
