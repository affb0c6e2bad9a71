//! Everything that is a function of time over the window: the in-flight step function, token and completion rates, and
//! the steady part of a closed loop. Latency distributions are made in `summary`.

use super::timing::{EventIndex, event_counts_are_guesses, in_flight_interval};
use crate::record::RequestRecord;
use crate::result::{Concurrency, Throughput};

/// A closed loop counts as steady only if the mean in-flight count over the candidate reaches this share of its slots.
const STEADY_MIN_BUSY: f64 = 0.9;

/// The number of requests in flight as a step function of time.
#[derive(Debug, Clone, Default)]
pub struct InFlight {
    /// (instant, count from this instant on), ascending, one entry per instant.
    steps: Vec<(i64, i64)>,
}

impl InFlight {
    /// Built from the requests of every phase: a warm-up request still running inside the window loads the server too.
    pub fn of(requests: &[RequestRecord]) -> Self {
        let mut changes: Vec<(i64, i64)> = Vec::with_capacity(requests.len() * 2);
        for (start, end) in requests.iter().filter_map(in_flight_interval) {
            changes.push((start, 1));
            changes.push((end, -1));
        }
        changes.sort_unstable();
        let mut steps: Vec<(i64, i64)> = Vec::new();
        let mut count = 0;
        for (t_ns, change) in changes {
            count += change;
            match steps.last_mut() {
                Some(last) if last.0 == t_ns => last.1 = count,
                _ => steps.push((t_ns, count)),
            }
        }
        Self { steps }
    }

    /// Exact time integral divided by the interval, and the maximum inside it.
    pub fn over(&self, start_ns: i64, end_ns: i64) -> Concurrency {
        if end_ns <= start_ns {
            return Concurrency::default();
        }
        let (mut integral, mut max) = (0_i128, 0);
        for (from, to, count) in self.pieces(start_ns, end_ns) {
            integral += i128::from(to - from) * i128::from(count);
            max = max.max(count);
        }
        let mean = integral as f64 / (end_ns - start_ns) as f64;
        Concurrency { mean, max: u64::try_from(max).unwrap_or(0) }
    }

    /// First and last instant inside the interval at which at least `slots` requests were in flight, when the slots were
    /// kept busy in between. Single gaps are hand-overs from one request to the next; a mean below 90 % is not steady.
    pub fn busy_span(&self, start_ns: i64, end_ns: i64, slots: u32) -> Option<(i64, i64)> {
        let mut span: Option<(i64, i64)> = None;
        for (from, to, _) in self.pieces(start_ns, end_ns).filter(|(_, _, count)| *count >= i64::from(slots)) {
            span = Some((span.map_or(from, |(first, _)| first), to));
        }
        let (first, last) = span?;
        (self.over(first, last).mean >= STEADY_MIN_BUSY * f64::from(slots)).then_some((first, last))
    }

    /// Constant pieces (from, to, count) clipped to the interval.
    fn pieces(&self, start_ns: i64, end_ns: i64) -> impl Iterator<Item = (i64, i64, i64)> {
        let ends = self.steps.iter().skip(1).map(|(t_ns, _)| *t_ns).chain([i64::MAX]);
        self.steps.iter().zip(ends).filter_map(move |(&(from, count), to)| {
            let (from, to) = (from.max(start_ns), to.min(end_ns));
            (from < to).then_some((from, to, count))
        })
    }
}

/// Token events and completions with start < t ≤ end, per second, whatever the phase of their request. Where the tokens
/// per event are guesses, a request's events are scaled so that together they carry the tokens the server reported.
pub fn throughput(requests: &[RequestRecord], events: &EventIndex<'_>, start_ns: i64, end_ns: i64) -> Throughput {
    if end_ns <= start_ns {
        return Throughput::default();
    }
    let seconds = (end_ns - start_ns) as f64 / 1e9;
    let inside = |t_ns: i64| start_ns < t_ns && t_ns <= end_ns;
    let completed = requests.iter().filter(|r| r.is_success() && r.t_last.is_some_and(inside)).count();
    let tokens: f64 = requests
        .iter()
        .map(|request| {
            let (mut all, mut within) = (0_i64, 0_i64);
            for event in events.of(request.request_idx) {
                let n = i64::from(event.n_tokens);
                all += n;
                within += if inside(event.t_ns) { n } else { 0 };
            }
            if all == 0 {
                return interpolated_tokens(request, start_ns, end_ns);
            }
            within as f64 * event_weight(request, all)
        })
        .sum();
    Throughput { output_tokens_per_s: tokens / seconds, requests_per_s: completed as f64 / seconds }
}

/// Tokens per token that the events claim to carry. Above one only where the claim is a guess and the server reported
/// more: it puts several tokens into one event when it falls behind.
fn event_weight(request: &RequestRecord, in_events: i64) -> f64 {
    match request.output_tokens {
        Some(reported) if event_counts_are_guesses(request) && reported > in_events && in_events > 0 => {
            reported as f64 / in_events as f64
        }
        _ => 1.0,
    }
}

/// Without event records: `n_first` tokens at `t_first`, the rest spread evenly up to `t_last`.
fn interpolated_tokens(request: &RequestRecord, start_ns: i64, end_ns: i64) -> f64 {
    let (Some(first), Some(last), Some(n)) = (request.t_first, request.t_last, request.output_tokens) else {
        return 0.0;
    };
    let at_first = request.n_first.unwrap_or(1).clamp(0, n.max(0));
    let head = if start_ns < first && first <= end_ns { at_first as f64 } else { 0.0 };
    let rest = (n - at_first).max(0) as f64;
    if last <= first {
        return if start_ns < first && first <= end_ns { head + rest } else { 0.0 };
    }
    let overlap = last.min(end_ns).saturating_sub(first.max(start_ns)).max(0);
    head + rest * overlap as f64 / last.saturating_sub(first) as f64
}
