//! What the rules look at. The fields that follow from the request records are computed here; everything else is filled
//! in by whoever ran the cell, and an unknown stays `None`, which no rule takes for guilt.

use crate::metrics::{CODE_EARLY_STOP, EventIndex, InFlight, MetricsInput, Outcome, is_zero_token_success, outcome};
use crate::plan::Load;
use crate::record::{Phase, RequestRecord, TokenSource};
use crate::result::BenchResult;

/// Everything known about one cell.
#[derive(Debug, Clone)]
pub struct CellEvidence<'a> {
    /// The numbers to judge.
    pub result: &'a BenchResult,
    /// The offered load.
    pub load: &'a Load,
    /// What the request records say.
    pub requests: RequestEvidence,
    /// Success rate that the study demands (`slo.cell.success`).
    pub success_required: Option<f64>,
    /// True when the server should have shown metrics.
    pub metrics_expected: bool,
    /// Settings that the engine logged differently from what was requested.
    pub effective_differs: Vec<EffectiveDifference>,
    /// The server logged at DEBUG level.
    pub debug_logging: bool,
    /// Requests were sent with `ignore_eos`.
    pub ignore_eos: bool,
    /// Varied limits and how close the run came to them.
    pub limits: Vec<FactorLimit>,
    /// Counter resets seen in the window.
    pub server_resets: u64,
    /// Server processes that each request passes through (2 under prefill/decode separation).
    pub servers_per_request: u32,
    /// Prefix-cache hit rate that the workload implies; `None` when hits are wanted or unknown.
    pub expected_prefix_hit_rate: Option<f64>,
    /// The engine is a simulator.
    pub simulated: bool,
}

impl<'a> CellEvidence<'a> {
    /// Evidence that gives no rule cause to speak beyond what the result itself shows.
    pub fn new(result: &'a BenchResult, load: &'a Load, requests: RequestEvidence) -> Self {
        Self {
            result,
            load,
            requests,
            success_required: None,
            metrics_expected: false,
            effective_differs: Vec::new(),
            debug_logging: false,
            ignore_eos: false,
            limits: Vec::new(),
            server_resets: 0,
            servers_per_request: 1,
            expected_prefix_hit_rate: None,
            simulated: false,
        }
    }
}

/// One setting whose effective value is not the requested one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EffectiveDifference {
    /// Setting.
    pub key: String,
    /// Requested, as text.
    pub requested: String,
    /// Logged by the engine, as text.
    pub effective: String,
}

/// A varied setting that is an upper limit, and the largest value that the run reached.
#[derive(Debug, Clone, PartialEq)]
pub struct FactorLimit {
    /// Setting, such as `max_num_seqs`.
    pub key: String,
    /// Its value in this cell, over all engines.
    pub limit: f64,
    /// The most that was seen; `None` when nobody looked.
    pub reached: Option<f64>,
}

/// Mean over the middle and over the last third of the arrivals.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trend {
    /// Over the middle third.
    pub middle: f64,
    /// Over the last third.
    pub last: f64,
    /// Requests in the smaller of the two thirds.
    pub n: u64,
}

/// Output tokens of the window's completed requests, counted in independent ways.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TokenCounts {
    /// By the server's own word (usage, continuous usage or token ids); `None` if any request lacks it.
    pub server_said: Option<u64>,
    /// Sum over the token events; `None` without event records.
    pub events: Option<u64>,
}

/// What follows from the request records alone.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RequestEvidence {
    /// HTTP successes without a token.
    pub zero_token_successes: u64,
    /// Requests that failed as `early_stop`, or completed with fewer output tokens than requested.
    pub early_stops: u64,
    /// Requests of any phase that ended inside the window, successful or not.
    pub finished_in_window: u64,
    /// Mean arrival rate over the window's actual schedule; `None` below two arrivals.
    pub offered_per_s: Option<f64>,
    /// In-flight requests.
    pub in_flight: Option<Trend>,
    /// Median TTFT from the schedule, milliseconds.
    pub ttft_sched_ms: Option<Trend>,
    /// Output tokens, counted twice.
    pub tokens: TokenCounts,
}

impl RequestEvidence {
    /// Gathers it.
    pub fn collect(input: &MetricsInput<'_>) -> Self {
        let window: Vec<&RequestRecord> = input.requests.iter().filter(|r| r.phase == Phase::Window).collect();
        let completed: Vec<&RequestRecord> =
            window.iter().copied().filter(|r| outcome(r) == Outcome::Completed).collect();
        let stopped_early = |r: &&&RequestRecord| match outcome(r) {
            Outcome::Failed(code) => code == CODE_EARLY_STOP,
            Outcome::Completed => {
                r.output_tokens.zip(r.requested_output_tokens).is_some_and(|(got, asked)| got < asked)
            }
            Outcome::Censored => false,
        };
        let inside = |t_ns: i64| input.window_start_ns < t_ns && t_ns <= input.window_end_ns;
        let ended = |r: &&RequestRecord| outcome(r) != Outcome::Censored && r.t_done.or(r.t_last).is_some_and(inside);
        let first = window.iter().map(|r| r.t_sched).min();
        let last = window.iter().map(|r| r.t_sched).max();
        let span_ns = first.zip(last).map(|(first, last)| (first, last.saturating_sub(first)));
        Self {
            zero_token_successes: window.iter().filter(|r| is_zero_token_success(r)).count() as u64,
            early_stops: window.iter().filter(stopped_early).count() as u64,
            finished_in_window: input.requests.iter().filter(ended).count() as u64,
            offered_per_s: span_ns
                .filter(|(_, span)| *span > 0)
                .map(|(_, span)| (window.len() as f64 - 1.0) / (span as f64 / 1e9)),
            in_flight: span_ns.and_then(|(first, span)| in_flight_trend(input, &window, first, span)),
            ttft_sched_ms: span_ns.and_then(|(first, span)| ttft_trend(&completed, first, span)),
            tokens: token_counts(input, &completed),
        }
    }
}

/// Which third of the arrivals (0, 1, 2) an instant belongs to.
fn third(t_ns: i64, first: i64, span: i64) -> usize {
    let position = t_ns.saturating_sub(first) as f64 / span.max(1) as f64;
    if position < 1.0 / 3.0 {
        0
    } else if position < 2.0 / 3.0 {
        1
    } else {
        2
    }
}

fn in_flight_trend(input: &MetricsInput<'_>, window: &[&RequestRecord], first: i64, span: i64) -> Option<Trend> {
    if span <= 0 {
        return None;
    }
    let in_flight = InFlight::of(input.requests);
    let at = |thirds: i64| first.saturating_add((i128::from(span) * i128::from(thirds) / 3) as i64);
    let n = |which: usize| window.iter().filter(|r| third(r.t_sched, first, span) == which).count() as u64;
    Some(Trend {
        middle: in_flight.over(at(1), at(2)).mean,
        last: in_flight.over(at(2), at(3)).mean,
        n: n(1).min(n(2)),
    })
}

fn ttft_trend(completed: &[&RequestRecord], first: i64, span: i64) -> Option<Trend> {
    let mut thirds: [Vec<f64>; 3] = Default::default();
    for request in completed {
        let Some(t_first) = request.t_first else { continue };
        if let Some(values) = thirds.get_mut(third(request.t_sched, first, span)) {
            values.push(t_first.saturating_sub(request.t_sched) as f64 / 1e6);
        }
    }
    let [_, mut middle, mut last] = thirds;
    middle.sort_by(f64::total_cmp);
    last.sort_by(f64::total_cmp);
    Some(Trend {
        middle: crate::metrics::quantile_linear(&middle, 0.5)?,
        last: crate::metrics::quantile_linear(&last, 0.5)?,
        n: middle.len().min(last.len()) as u64,
    })
}

fn token_counts(input: &MetricsInput<'_>, completed: &[&RequestRecord]) -> TokenCounts {
    let by_server = |request: &&RequestRecord| {
        let source = request.token_source?;
        let trusted = [TokenSource::ServerUsage, TokenSource::ServerTokenIds, TokenSource::ContinuousUsage];
        trusted.contains(&source).then(|| request.output_tokens.and_then(|n| u64::try_from(n).ok()))?
    };
    let index = EventIndex::new(input.events);
    let of_events = |request: &&RequestRecord| {
        index.of(request.request_idx).map(|event| u64::try_from(event.n_tokens).unwrap_or(0)).sum::<u64>()
    };
    TokenCounts {
        server_said: completed.iter().map(by_server).sum(),
        events: (!input.events.is_empty()).then(|| completed.iter().map(of_events).sum()),
    }
}
