//! What one request's stamps say: differences in nanoseconds, the outcome, and the three parts of the time before the
//! send. Distributions over many requests are made in `summary`.

use crate::record::{Phase, RequestRecord, TokenSource};

/// Failure code of a request that the end of the run cut off: neither success nor failure.
pub const CODE_CENSORED: &str = "censored";
/// Failure code of an HTTP success that carried no token.
pub const CODE_ZERO_TOKENS: &str = "zero_tokens";
/// Failure code of a response that stopped before its length although `ignore_eos` was set.
pub const CODE_EARLY_STOP: &str = "early_stop";
/// Failure code of an unsuccessful request whose record names no other.
pub const CODE_UNKNOWN: &str = "unknown";

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// HTTP 2xx, at least one token, stream properly ended, no error event.
    Completed,
    /// Failed with this code.
    Failed(&'a str),
    /// Cut off by the end of the run.
    Censored,
}

/// Sorts a request into exactly one of completed, failed and censored.
pub fn outcome(request: &RequestRecord) -> Outcome<'_> {
    match request.failure_code.as_deref() {
        Some(CODE_CENSORED) => Outcome::Censored,
        Some(code) => Outcome::Failed(code),
        None if request.is_success() => Outcome::Completed,
        // Without an end nobody knows how it would have ended.
        None if request.t_send.is_none() || request.t_done.is_none() => Outcome::Censored,
        None if request.output_tokens.unwrap_or(0) == 0 => Outcome::Failed(CODE_ZERO_TOKENS),
        None => Outcome::Failed(CODE_UNKNOWN),
    }
}

/// True for a request whose HTTP status was a success although not one token came.
pub fn is_zero_token_success(request: &RequestRecord) -> bool {
    request.failure_code.as_deref() == Some(CODE_ZERO_TOKENS)
        || (request.http_status.is_some_and(|status| (200..300).contains(&status))
            && matches!(outcome(request), Outcome::Failed(CODE_ZERO_TOKENS)))
}

/// The scalar times of one request, nanoseconds. `None` where a stamp is missing.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RequestTimes {
    /// t_first − t_send.
    pub ttft_ns: Option<i64>,
    /// t_first − t_sched.
    pub ttft_sched_ns: Option<i64>,
    /// t_out − t_send.
    pub ttfo_ns: Option<i64>,
    /// (t_last − t_first)/(N − n_first); `None` if N ≤ n_first.
    pub tpot_ns: Option<f64>,
    /// (t_last − t_first)/(N − 1); `None` if N < 2.
    pub tpot_vllm_ns: Option<f64>,
    /// t_last − t_send.
    pub e2e_ns: Option<i64>,
    /// t_last − t_sched.
    pub e2e_sched_ns: Option<i64>,
}

impl RequestTimes {
    /// Computes them.
    pub fn of(request: &RequestRecord) -> Self {
        let since = |end: Option<i64>, start: Option<i64>| Some(end?.saturating_sub(start?));
        let sched = Some(request.t_sched);
        let decode = since(request.t_last, request.t_first);
        let per = |tokens: Option<i64>| match (decode, tokens) {
            (Some(span), Some(tokens)) if tokens > 0 => Some(span as f64 / tokens as f64),
            _ => None,
        };
        let n = request.output_tokens;
        Self {
            ttft_ns: since(request.t_first, request.t_send),
            ttft_sched_ns: since(request.t_first, sched),
            ttfo_ns: since(request.t_out, request.t_send),
            tpot_ns: per(n.zip(request.n_first).map(|(n, first)| n.saturating_sub(first))),
            tpot_vllm_ns: per(n.map(|n| n.saturating_sub(1))),
            e2e_ns: since(request.t_last, request.t_send),
            e2e_sched_ns: since(request.t_last, sched),
        }
    }
}

/// t_send − t_sched, split by whose doing it was; nanoseconds, adding up to the whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClientQueue {
    /// Waiting for a slot under the concurrency cap: the experiment's doing.
    pub slot_wait_ns: i64,
    /// Opening a connection: the network's doing.
    pub connect_ns: i64,
    /// The rest: the client was late. This is what `lateness` reports.
    pub lateness_ns: i64,
}

impl ClientQueue {
    /// Splits the time before the send; `None` when the request was never sent.
    pub fn of(request: &RequestRecord) -> Option<Self> {
        let total = request.t_send?.saturating_sub(request.t_sched);
        let slot_wait = request.t_slot.map_or(0, |slot| slot.saturating_sub(request.t_sched).max(0));
        let connect = match (request.t_conn0, request.t_conn1) {
            (Some(start), Some(end)) => end.saturating_sub(start).max(0),
            _ => 0,
        };
        Some(Self {
            slot_wait_ns: slot_wait,
            connect_ns: connect,
            lateness_ns: total.saturating_sub(slot_wait).saturating_sub(connect),
        })
    }
}

/// True when nobody counted the tokens of this request's events: each was taken for one token per choice.
pub fn event_counts_are_guesses(request: &RequestRecord) -> bool {
    matches!(request.event_token_source, None | Some(TokenSource::EventCount | TokenSource::ClientTokenizer))
}

/// The interval in which a request was in flight: from `t_send` to its last known stamp. A censored request without the
/// stamp of its end stays in flight for ever (`i64::MAX`).
pub fn in_flight_interval(request: &RequestRecord) -> Option<(i64, i64)> {
    let start = request.t_send?;
    if outcome(request) == Outcome::Censored && request.t_done.is_none() {
        return Some((start, i64::MAX));
    }
    let stamps = [request.t_hdr, request.t_first, request.t_last, request.t_usage, request.t_done];
    Some((start, stamps.into_iter().flatten().fold(start, i64::max)))
}

/// True for a request that belongs to the measured window.
pub fn request_in_window(request: &RequestRecord) -> bool {
    request.phase == Phase::Window
}
