//! Everything that is a function of time over the window: the in-flight step function, token and completion rates, and
//! the steady part of a closed loop. Latency distributions are made in `summary`.

use super::timing::{event_counts_are_guesses, in_flight_interval};
use crate::record::{EventRecord, RequestRecord};
use crate::result::{Concurrency, Throughput};

/// A closed loop counts as steady only if the mean in-flight count over the candidate reaches this share of its slots.
const STEADY_MIN_BUSY: f64 = 0.9;

/// The number of requests in flight as a step function of time.
#[derive(Debug, Clone, Default)]
pub struct InFlight {
    /// Instants at which one more is in flight.
    starts: Vec<i64>,
    /// Instants from which one less is.
    ends: Vec<i64>,
    is_sorted: bool,
}

impl InFlight {
    /// Of these requests.
    pub fn of(requests: &[RequestRecord]) -> Self {
        let mut in_flight = Self::default();
        requests.iter().for_each(|request| in_flight.add(request));
        in_flight.sort();
        in_flight
    }

    /// Counts a request, of whatever phase: a warm-up request still running inside the window loads the server too.
    pub fn add(&mut self, request: &RequestRecord) {
        if let Some((start, end)) = in_flight_interval(request) {
            self.starts.push(start);
            self.ends.push(end);
            self.is_sorted = false;
        }
    }

    /// To be called after the last [`InFlight::add`], before anything is asked.
    pub fn sort(&mut self) {
        self.starts.sort_unstable();
        self.ends.sort_unstable();
        self.is_sorted = true;
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

    /// Time means over `n` equal parts of the interval, in one pass.
    pub(super) fn means(&self, start_ns: i64, end_ns: i64, n: usize) -> Vec<f64> {
        let length = end_ns.saturating_sub(start_ns) as f64 / n as f64;
        let mut sums = vec![0.0; n];
        if length <= 0.0 {
            return sums;
        }
        for (from, to, count) in self.pieces(start_ns, end_ns) {
            let (from, to) = ((from - start_ns) as f64 / length, (to - start_ns) as f64 / length);
            let (first, last) = (from.floor() as usize, (to.ceil() as usize).min(n));
            for (part, sum) in sums.iter_mut().enumerate().take(last).skip(first) {
                let overlap = to.min(part as f64 + 1.0) - from.max(part as f64);
                *sum += overlap.max(0.0) * count as f64;
            }
        }
        sums
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
        debug_assert!(self.is_sorted || self.starts.is_empty());
        let (mut started, mut ended) = (0_usize, 0_usize);
        let steps = std::iter::from_fn(move || {
            let next = |started: usize, ended: usize| {
                let candidates = [self.starts.get(started), self.ends.get(ended)];
                candidates.into_iter().flatten().min().copied()
            };
            let from = next(started, ended)?;
            started += self.starts.get(started..)?.iter().take_while(|t| **t == from).count();
            ended += self.ends.get(ended..)?.iter().take_while(|t| **t == from).count();
            let to = next(started, ended).unwrap_or(i64::MAX);
            Some((from, to, started as i64 - ended as i64))
        });
        steps.filter_map(move |(from, to, count)| {
            let (from, to) = (from.max(start_ns), to.min(end_ns));
            (from < to).then_some((from, to, count))
        })
    }
}

/// Token events and completions with start < t ≤ end, per second, whatever the phase of their request. Where the tokens
/// per event are guesses, a request's events are scaled so that together they carry the tokens the server reported.
#[derive(Debug, Clone, Copy)]
pub(super) struct ThroughputSum {
    start_ns: i64,
    end_ns: i64,
    tokens: f64,
    completed: u64,
}

impl ThroughputSum {
    pub(super) fn new(start_ns: i64, end_ns: i64) -> Self {
        Self { start_ns, end_ns, tokens: 0.0, completed: 0 }
    }

    pub(super) fn add(&mut self, request: &RequestRecord, events: &[EventRecord]) {
        let inside = |t_ns: i64| self.start_ns < t_ns && t_ns <= self.end_ns;
        self.completed += u64::from(request.is_success() && request.t_last.is_some_and(inside));
        let (mut all, mut within) = (0_i64, 0_i64);
        for event in events {
            let n = i64::from(event.n_tokens);
            all += n;
            within += if inside(event.t_ns) { n } else { 0 };
        }
        self.tokens += if all == 0 {
            interpolated_tokens(request, self.start_ns, self.end_ns)
        } else {
            within as f64 * event_weight(request, all)
        };
    }

    pub(super) fn rates(self) -> Throughput {
        if self.end_ns <= self.start_ns {
            return Throughput::default();
        }
        let seconds = (self.end_ns - self.start_ns) as f64 / 1e9;
        Throughput { output_tokens_per_s: self.tokens / seconds, requests_per_s: self.completed as f64 / seconds }
    }
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
