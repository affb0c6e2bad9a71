//! From one trial's records to counts per term: how many samples were within the limit, in batches of neighbouring
//! requests, so that samples which rise and fall together do not count as independent. Counts of failed requests go
//! against the limit; requests cut off by the end count only when they had missed it already.

use serde::{Deserialize, Serialize};

use super::slo::{SearchSlo, Term, TermKind};
use crate::metrics::{
    EventIndex, MetricsInput, Outcome, RequestSlo, RequestTimes, meets_limits, outcome, request_in_window,
};
use crate::record::RequestRecord;

/// Batches per trial: enough to estimate a variance, few enough that each spans many requests.
const BATCHES: usize = 20;
/// Failure code of a request that was under way when its trial was ended early.
const CODE_CANCELLED: &str = "cancelled";

/// Sums over some neighbouring requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Batch {
    /// Samples within the limit; for a mean, the sum of the samples.
    pub value: f64,
    /// Samples.
    pub weight: f64,
}

/// What one trial says about one term.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TermEvidence {
    /// In the order of arrival.
    pub batches: Vec<Batch>,
    /// Requests behind them.
    pub requests: u64,
}

/// What one trial says.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TrialEvidence {
    /// One per term of the SLO, in its order.
    pub terms: Vec<TermEvidence>,
    /// The queue grew through the trial, or the trial was ended early because it did.
    pub is_saturated: bool,
    /// Requests that met the request limits; without request limits, successes.
    pub good: u64,
    /// Requests that count: scheduled in the window, not cut off.
    pub counted: u64,
    /// Length of the window, seconds.
    pub duration_s: f64,
}

/// Counts one trial.
pub fn collect(slo: &SearchSlo, input: &MetricsInput<'_>, is_saturated: bool) -> TrialEvidence {
    let events = EventIndex::new(input.events);
    let mut requests: Vec<&RequestRecord> = input.requests.iter().filter(|r| request_in_window(r)).collect();
    requests.sort_by_key(|request| (request.t_sched, request.request_idx));
    let limits = slo.request.unwrap_or_default();
    let met: Vec<Option<bool>> = requests.iter().map(|request| met(request, &events, limits)).collect();
    let terms = slo.terms.iter().map(|term| {
        let samples = requests.iter().zip(&met).map(|(request, met)| sample(term, request, *met, &events));
        batches(samples.collect())
    });
    TrialEvidence {
        terms: terms.collect(),
        is_saturated,
        good: met.iter().filter(|met| **met == Some(true)).count() as u64,
        counted: met.iter().flatten().count() as u64,
        duration_s: input.window_end_ns.saturating_sub(input.window_start_ns) as f64 / 1e9,
    }
}

fn batches(samples: Vec<Option<Batch>>) -> TermEvidence {
    let samples: Vec<Batch> = samples.into_iter().flatten().filter(|sample| sample.weight > 0.0).collect();
    let requests = samples.len() as u64;
    let n = BATCHES.min(samples.len());
    let mut batches = vec![Batch::default(); n];
    for (position, sample) in samples.iter().enumerate() {
        if let Some(batch) = batches.get_mut(position * n / samples.len()) {
            batch.value += sample.value;
            batch.weight += sample.weight;
        }
    }
    TermEvidence { batches, requests }
}

/// True for a request whose end was the run's doing.
fn is_cut_off(request: &RequestRecord) -> bool {
    matches!(outcome(request), Outcome::Censored | Outcome::Failed(CODE_CANCELLED))
}

fn met(request: &RequestRecord, events: &EventIndex<'_>, limits: RequestSlo) -> Option<bool> {
    match outcome(request) {
        Outcome::Completed => Some(meets_limits(request, events, limits)),
        _ if is_cut_off(request) => {
            let ttft_missed = limits.ttft_ms.is_some_and(|limit| waited_ms(request, request.t_first) > limit);
            let e2e_missed = limits.e2e_ms.is_some_and(|limit| waited_ms(request, request.t_last) > limit);
            (ttft_missed || e2e_missed).then_some(false)
        }
        _ => Some(false),
    }
}

/// From the send to a stamp, or for a request without it to the instant that cut it off.
fn waited_ms(request: &RequestRecord, stamp: Option<i64>) -> f64 {
    match (request.t_send, stamp.or(request.t_done)) {
        (Some(start), Some(end)) => end.saturating_sub(start) as f64 / 1e6,
        _ => 0.0,
    }
}

fn sample(term: &Term, request: &RequestRecord, met: Option<bool>, events: &EventIndex<'_>) -> Option<Batch> {
    let one = |is_within: bool| Some(Batch { value: f64::from(u8::from(is_within)), weight: 1.0 });
    let judge = |value_ms: f64, weight: f64| match term.share {
        Some(_) if value_ms <= term.limit_ms => Batch { value: weight, weight },
        Some(_) => Batch { value: 0.0, weight },
        None => Batch { value: value_ms * weight, weight },
    };
    match term.kind {
        TermKind::Request => return met.and_then(one),
        TermKind::Success if is_cut_off(request) => return None,
        TermKind::Success => return one(outcome(request) == Outcome::Completed),
        _ => {}
    }
    let is_completed = outcome(request) == Outcome::Completed;
    if !is_completed && !is_cut_off(request) {
        // A failure is an infinite latency in a percentile; a mean of it does not exist.
        return term.share.and_then(|_| one(false));
    }
    let times = RequestTimes::of(request);
    let value_ns = match term.kind {
        TermKind::Ttft => times.ttft_ns.map(|ns| ns as f64),
        TermKind::TtftSched => times.ttft_sched_ns.map(|ns| ns as f64),
        TermKind::Ttfo => times.ttfo_ns.map(|ns| ns as f64),
        TermKind::Tpot => times.tpot_ns.filter(|_| is_completed),
        TermKind::E2e => times.e2e_ns.filter(|_| is_completed).map(|ns| ns as f64),
        TermKind::E2eSched => times.e2e_sched_ns.filter(|_| is_completed).map(|ns| ns as f64),
        TermKind::Icl | TermKind::Itl => {
            let mut sum = Batch::default();
            for (gap_ns, tokens) in events.gaps(request.request_idx) {
                let (n, weight) = if term.kind == TermKind::Itl { (tokens as f64, tokens as f64) } else { (1.0, 1.0) };
                let gap = judge(gap_ns as f64 / 1e6 / n, weight);
                sum.value += gap.value;
                sum.weight += gap.weight;
            }
            return Some(sum);
        }
        TermKind::Request | TermKind::Success => None,
    };
    match value_ns {
        Some(ns) => Some(judge(ns / 1e6, 1.0)),
        None if is_completed || term.share.is_none() => None,
        // Cut off: known only to have taken at least this long.
        None => {
            let reference = match term.kind {
                TermKind::TtftSched | TermKind::E2eSched => Some(request.t_sched),
                TermKind::Ttft | TermKind::Ttfo | TermKind::E2e => request.t_send,
                _ => None,
            };
            let waited = request.t_done?.saturating_sub(reference?) as f64 / 1e6;
            (waited > term.limit_ms).then_some(Batch { value: 0.0, weight: 1.0 })
        }
    }
}
