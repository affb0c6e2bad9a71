//! What the rules look at. The fields that follow from the request records are computed here; everything else is filled
//! in by whoever ran the cell, and an unknown stays `None`, which no rule takes for guilt.

use super::backlog::{Backlog, BacklogSamples};
use crate::metrics::{
    CODE_EARLY_STOP, CounterInterval, KvTransfer, MetricsInput, Outcome, counter_interval, event_counts_are_guesses,
    is_zero_token_success, outcome,
};
use crate::plan::Load;
use crate::record::{EventRecord, Phase, RequestRecord, TokenSource};
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
    /// KV that went from prefill to decode servers; `None` where they are not apart, or nobody looked.
    pub kv_transfer: Option<KvTransfer>,
    /// Prefix-cache hit rate that the workload implies; `None` when hits are wanted or unknown.
    pub expected_prefix_hit_rate: Option<f64>,
    /// The engine is a simulator.
    pub simulated: bool,
    /// The slots of a closed loop pause between the turns of their conversations, so they are not all busy.
    pub slots_pause: bool,
    /// It is known when requests were sent; false for another tool's file that does not say.
    pub arrivals_known: bool,
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
            kv_transfer: None,
            expected_prefix_hit_rate: None,
            simulated: false,
            slots_pause: false,
            arrivals_known: true,
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

/// Output tokens of the window's completed requests, counted in two ways: by the server's own word about the request
/// (usage, continuous usage or token ids), and summed over the token events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TokenCounts {
    /// Reported for requests whose events carry counts by the server.
    pub counted: u64,
    /// Of these, the tokens by which events and report differ, in either direction.
    pub counted_difference: u64,
    /// Reported for requests whose events were each taken for one token per choice.
    pub guessed: u64,
    /// The events of these requests.
    pub guessed_events: u64,
    /// Events beyond the reported tokens of their request: a server may merge tokens into one event, never split one.
    pub guessed_excess: u64,
}

/// What this client's requests account for in the server's counters, between the scrapes that enclose the window.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ServerShare {
    /// Share of the window that lies between the scrapes (0–1).
    pub covered: f64,
    /// Scrapes inside the window.
    pub scrapes_inside: u64,
    /// Requests that may have ended on the server in that time.
    pub requests_at_most: u64,
    /// Output tokens of the requests that certainly ran within it.
    pub tokens_at_least: u64,
    /// Output tokens of the requests that may have run in any part of it.
    pub tokens_at_most: u64,
}

/// What follows from the request records alone.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RequestEvidence {
    /// HTTP successes without a token.
    pub zero_token_successes: u64,
    /// Requests that failed as `early_stop`, or completed with fewer output tokens than requested.
    pub early_stops: u64,
    /// How well the server kept up with the arrivals.
    pub backlog: Backlog,
    /// Output tokens, counted twice.
    pub tokens: TokenCounts,
    /// What the server's counters must show; `None` when no two scrapes enclose anything of the window.
    pub server: Option<ServerShare>,
}

impl RequestEvidence {
    /// Gathers it.
    pub fn collect(input: &MetricsInput<'_>) -> Self {
        let mut evidence = Self::default();
        let mut backlog = BacklogSamples::default();
        let interval = counter_interval(input.prom, input.window_start_ns, input.window_end_ns);
        let mut share = interval.as_ref().map(|interval| server_share(input, interval));
        input.records.visit(&mut |request, events| {
            backlog.add(request);
            if let (Some(share), Some(interval)) = (&mut share, &interval) {
                share.add(request, interval);
            }
            if request.phase != Phase::Window {
                return;
            }
            evidence.zero_token_successes += u64::from(is_zero_token_success(request));
            let outcome = outcome(request);
            evidence.early_stops += u64::from(match outcome {
                Outcome::Failed(code) => code == CODE_EARLY_STOP,
                Outcome::Completed => {
                    request.output_tokens.zip(request.requested_output_tokens).is_some_and(|(got, asked)| got < asked)
                }
                Outcome::Censored => false,
            });
            if outcome == Outcome::Completed {
                evidence.tokens.add(request, events);
            }
        });
        evidence.backlog = Backlog::of(&backlog);
        evidence.server = share;
        evidence
    }
}

impl TokenCounts {
    fn add(&mut self, request: &RequestRecord, events: &[EventRecord]) {
        let by_server = matches!(
            request.token_source,
            Some(TokenSource::ServerUsage | TokenSource::ServerTokenIds | TokenSource::ContinuousUsage)
        );
        let reported = request.output_tokens.and_then(|n| u64::try_from(n).ok()).filter(|_| by_server);
        let events: u64 = events.iter().map(|event| u64::try_from(event.n_tokens).unwrap_or(0)).sum();
        let Some(reported) = reported.filter(|_| events > 0) else { return };
        if event_counts_are_guesses(request) {
            self.guessed += reported;
            self.guessed_events += events;
            self.guessed_excess += events.saturating_sub(reported);
        } else {
            self.counted += reported;
            self.counted_difference += events.abs_diff(reported);
        }
    }
}

/// A request's last counts reach the server's page a little before or after the client reads its end.
const COUNTER_LAG_NS: i64 = 250_000_000;

fn server_share(input: &MetricsInput<'_>, interval: &CounterInterval) -> ServerShare {
    let (start, end) = (input.window_start_ns, input.window_end_ns);
    let length = |(from, to): (i64, i64)| to.saturating_sub(from).max(0) as f64;
    let common = (interval.inner.0.max(start), interval.inner.1.min(end));
    ServerShare {
        covered: if end > start { length(common) / length((start, end)) } else { 0.0 },
        scrapes_inside: interval.inside,
        ..ServerShare::default()
    }
}

impl ServerShare {
    fn add(&mut self, request: &RequestRecord, interval: &CounterInterval) {
        let Some(sent) = request.t_send else { return };
        let is_success = outcome(request) == Outcome::Completed;
        let ended = request.t_done.or(request.t_last).filter(|_| is_success);
        let tokens = |n: Option<i64>| n.and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
        let received = tokens(request.output_tokens);
        if ended.is_some_and(|t_ns| sent >= interval.inner.0 && t_ns.saturating_add(COUNTER_LAG_NS) <= interval.inner.1)
        {
            self.tokens_at_least += received;
        }
        // Nobody knows when a server noticed that its client had left, nor how much it generated until then.
        let is_over = ended.is_some_and(|t_ns| t_ns.saturating_add(COUNTER_LAG_NS) < interval.outer.0);
        if sent <= interval.outer.1 && !is_over {
            self.requests_at_most += 1;
            let is_known = is_success && request.token_source == Some(TokenSource::ServerUsage);
            let requested = if is_known { 0 } else { tokens(request.requested_output_tokens) };
            self.tokens_at_most += received.max(requested);
        }
    }
}
