//! From one trial's records to counts per term: how many samples were within the limit, in batches of neighbouring
//! requests, so that samples which rise and fall together do not count as independent. Counts of failed requests go
//! against the limit; requests cut off by the end count only when they had missed it already.

use serde::{Deserialize, Serialize};

use super::slo::{SearchSlo, Term, TermKind};
use crate::metrics::{MetricsInput, Outcome, RequestSlo, RequestTimes, gaps, meets_limits, outcome, request_in_window};
use crate::record::{EventRecord, RequestRecord};

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

/// One request, as far as it counts.
struct Counted {
    order: (i64, i64),
    met: Option<bool>,
    /// One per term.
    samples: Vec<Option<Batch>>,
}

/// Counts one trial.
pub fn collect(slo: &SearchSlo, input: &MetricsInput<'_>, is_saturated: bool) -> TrialEvidence {
    let limits = slo.request.unwrap_or_default();
    let mut requests = Vec::new();
    input.records.visit(&mut |request, events| {
        if request_in_window(request) {
            let met = met(request, events, limits);
            let samples = slo.terms.iter().map(|term| sample(term, request, met, events)).collect();
            requests.push(Counted { order: (request.t_sched, request.request_idx), met, samples });
        }
    });
    requests.sort_by_key(|request| request.order);
    let term = |at: usize| batches(requests.iter().map(|request| request.samples.get(at).copied().flatten()).collect());
    TrialEvidence {
        terms: (0..slo.terms.len()).map(term).collect(),
        is_saturated,
        good: requests.iter().filter(|request| request.met == Some(true)).count() as u64,
        counted: requests.iter().filter(|request| request.met.is_some()).count() as u64,
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

fn met(request: &RequestRecord, events: &[EventRecord], limits: RequestSlo) -> Option<bool> {
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

fn sample(term: &Term, request: &RequestRecord, met: Option<bool>, events: &[EventRecord]) -> Option<Batch> {
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
            for (gap_ns, tokens) in gaps(events) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{ClientUsage, RecordSlices};
    use crate::record::{ClockEpoch, Phase};

    const MS: i64 = 1_000_000;

    fn answered(idx: i64, ttft_ms: i64, e2e_ms: i64) -> RequestRecord {
        let mut request = RequestRecord::scheduled(idx, Phase::Window, idx * 100 * MS);
        let sent = request.t_sched + MS;
        request.t_send = Some(sent);
        request.t_first = Some(sent + ttft_ms * MS);
        request.t_last = Some(sent + e2e_ms * MS);
        request.t_done = request.t_last;
        (request.output_tokens, request.n_first) = (Some(11), Some(1));
        request
    }

    fn ended(idx: i64, code: &str, after_ms: i64) -> RequestRecord {
        let mut request = RequestRecord::scheduled(idx, Phase::Window, idx * 100 * MS);
        request.t_send = Some(request.t_sched);
        request.t_done = Some(request.t_sched + after_ms * MS);
        request.failure_code = Some(code.to_owned());
        request
    }

    fn counts(slo: &str, requests: &[RequestRecord], events: &[EventRecord]) -> Vec<(f64, f64)> {
        let slo = SearchSlo::parse(slo).unwrap();
        let input = MetricsInput {
            clock: ClockEpoch { epoch_monotonic_ns: 0, epoch_unix_ns: 0 },
            records: Box::new(RecordSlices::new(requests, events)),
            prom: &[],
            window_start_ns: 0,
            window_end_ns: 1_000 * MS,
            slo: slo.request,
            closed_loop_slots: None,
            client: ClientUsage::default(),
        };
        let evidence = collect(&slo, &input, false);
        let sum = |term: &TermEvidence| {
            term.batches.iter().fold((0.0, 0.0), |(value, weight), batch| (value + batch.value, weight + batch.weight))
        };
        evidence.terms.iter().map(sum).collect()
    }

    #[test]
    fn failures_count_against_and_cut_off_requests_only_when_they_had_missed() {
        let requests = [
            answered(0, 50, 150),
            answered(1, 500, 600),
            ended(2, "http_5xx", 1),
            ended(3, "censored", 20),
            ended(4, "cancelled", 300),
            RequestRecord::scheduled(5, Phase::Warmup, 0),
        ];
        let got = counts("ttft_ms=100,ttft_p95_ms=100,success=0.9,e2e_p50_ms=200,tpot_mean_ms=30", &requests, &[]);
        // Of the cut-off ones, the one that had waited 300 ms had missed 100 ms; the other is unknown.
        assert_eq!(got[0], (1.0, 4.0), "request limits: met, missed, failed, cut off late");
        assert_eq!(got[1], (1.0, 4.0), "TTFT");
        assert_eq!(got[2], (2.0, 3.0), "success knows nothing of requests that were cut off");
        assert_eq!(got[3], (1.0, 4.0), "E2E time");
        assert_eq!(got[4], (20.0, 2.0), "a mean is over successes: 10 ms each");
    }

    #[test]
    fn gaps_count_once_per_token() {
        let event = |t_ms: i64, n_tokens: i32| EventRecord { request_idx: 0, t_ns: t_ms * MS, n_tokens };
        let events = [event(50, 1), event(60, 1), event(100, 4), event(150, 5)];
        let got = counts("itl_p95_ms=10,icl_p95_ms=45", &[answered(0, 50, 150)], &events);
        assert_eq!(got, [(10.0, 10.0), (2.0, 3.0)]);
    }
}
