//! Does the server keep up with an open load? Two straight-line fits (how much longer do later arrivals wait?) and one
//! count (how many more arrived than were answered?), each with the noise that a stable queue makes by itself. Whether
//! the numbers mean saturation is decided in `rules`.

use crate::metrics::{Outcome, outcome};
use crate::record::{Phase, RequestRecord};

/// Requests that are looked at one by one; of more, every second, fourth, … is.
const MOST_STAYS: usize = 1 << 19;

/// The one failure that a growing queue causes: others say nothing about how fast the server is.
const CODE_TIMEOUT: &str = "request_timeout";

/// Least-squares line through (arrival, time since the arrival). Behind a server with `x` times the load that it can
/// bear, times grow by `x − 1` seconds per second; a stable server's stay where they are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Growth {
    /// Seconds of additional time per second of arrivals.
    pub slope: f64,
    /// Standard error of the slope, from the scatter around the line.
    pub slope_error: f64,
    /// Growth along the whole line, milliseconds.
    pub rise_ms: f64,
    /// Requests that the line goes through.
    pub n: u64,
}

/// Arrivals against completions from the first median E2E time on, when half of the first requests have made room, to
/// the last arrival.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shortfall {
    /// Arrivals.
    pub arrived: u64,
    /// Completions.
    pub completed: u64,
    /// By how much completions lag although the server keeps up: those that take longer than the median still fill it.
    pub expected: f64,
    /// Standard deviation of the lag when the server keeps up: the root of the requests in flight at both ends.
    pub noise: f64,
}

/// What the window's requests say about the server's backlog. Each part is `None` with too few requests to tell.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Backlog {
    /// Growth of the TTFT from the schedule: waiting in front of the server.
    pub ttft_sched: Option<Growth>,
    /// Growth of the E2E time from the schedule: a server that slows down instead of letting wait. Arrivals during the
    /// first median E2E time are left out: until then the number of requests in flight grows on any server.
    pub e2e_sched: Option<Growth>,
    /// Completions that lag behind.
    pub shortfall: Option<Shortfall>,
}

/// One request, nanoseconds; what it lacks did not happen.
#[derive(Debug, Clone, Copy)]
struct Times {
    arrival_ns: i64,
    first_ns: Option<i64>,
    end_ns: Option<i64>,
}

/// One request, seconds after the first arrival.
struct Stay {
    arrival_s: f64,
    first_s: Option<f64>,
    end_s: Option<f64>,
}

/// Collects the requests scheduled in the window. Requests that failed are left out, except those that timed out or were
/// cut off by the end of the run, which arrived and were not completed.
#[derive(Debug, Clone)]
pub(super) struct BacklogSamples {
    times: Vec<Times>,
    /// One in so many is kept.
    stride: u64,
    seen: u64,
}

impl Default for BacklogSamples {
    fn default() -> Self {
        Self { times: Vec::new(), stride: 1, seen: 0 }
    }
}

impl BacklogSamples {
    pub(super) fn add(&mut self, request: &RequestRecord) {
        if request.phase != Phase::Window {
            return;
        }
        let arrival_ns = request.t_sched;
        let times = match outcome(request) {
            Outcome::Completed => Times { arrival_ns, first_ns: request.t_first, end_ns: request.t_last },
            Outcome::Censored | Outcome::Failed(CODE_TIMEOUT) => Times { arrival_ns, first_ns: None, end_ns: None },
            Outcome::Failed(_) => return,
        };
        self.seen += 1;
        if !self.seen.is_multiple_of(self.stride) {
            return;
        }
        self.times.push(times);
        if self.times.len() >= MOST_STAYS {
            let mut keep = false;
            self.times.retain(|_| {
                keep = !keep;
                keep
            });
            self.stride *= 2;
        }
    }
}

impl Backlog {
    /// Looks at what was collected.
    pub(super) fn of(samples: &BacklogSamples) -> Self {
        let Some(origin) = samples.times.iter().map(|times| times.arrival_ns).min() else { return Self::default() };
        let seconds = |t_ns: i64| t_ns.saturating_sub(origin) as f64 / 1e9;
        let stays: Vec<Stay> = samples
            .times
            .iter()
            .map(|times| Stay {
                arrival_s: seconds(times.arrival_ns),
                first_s: times.first_ns.map(seconds),
                end_s: times.end_ns.map(seconds),
            })
            .collect();
        let span_s = stays.iter().map(|stay| stay.arrival_s).fold(0.0, f64::max);
        let mut times: Vec<f64> = stays.iter().filter_map(|stay| Some(stay.end_s? - stay.arrival_s)).collect();
        times.sort_by(f64::total_cmp);
        let Some(median_s) = crate::metrics::quantile_linear(&times, 0.5) else { return Self::default() };
        let ramp_s = median_s.min(span_s / 3.0);
        Self {
            ttft_sched: line(stays.iter().filter_map(|stay| Some((stay.arrival_s, stay.first_s? - stay.arrival_s)))),
            e2e_sched: line(
                stays
                    .iter()
                    .filter(|stay| stay.arrival_s >= ramp_s)
                    .filter_map(|stay| Some((stay.arrival_s, stay.end_s? - stay.arrival_s))),
            ),
            shortfall: shortfall(&stays, samples.stride, span_s, median_s, &times),
        }
    }
}

fn line(points: impl Iterator<Item = (f64, f64)>) -> Option<Growth> {
    let points: Vec<(f64, f64)> = points.collect();
    let n = points.len() as f64;
    if points.len() < 3 {
        return None;
    }
    let mean = |value: fn(&(f64, f64)) -> f64| points.iter().map(value).sum::<f64>() / n;
    let (mean_x, mean_y) = (mean(|point| point.0), mean(|point| point.1));
    let spread = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum::<f64>();
    if spread <= 0.0 {
        return None;
    }
    let slope = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum::<f64>() / spread;
    let residual = points.iter().map(|(x, y)| (y - mean_y - slope * (x - mean_x)).powi(2)).sum::<f64>();
    let reach = |pick: fn(f64, f64) -> f64| points.iter().map(|(x, _)| *x).reduce(pick).unwrap_or(0.0);
    Some(Growth {
        slope,
        slope_error: (residual / (n - 2.0) / spread).sqrt(),
        rise_ms: slope * (reach(f64::max) - reach(f64::min)) * 1e3,
        n: points.len() as u64,
    })
}

fn shortfall(stays: &[Stay], stride: u64, to_s: f64, from_s: f64, times: &[f64]) -> Option<Shortfall> {
    if to_s <= from_s {
        return None;
    }
    let is_inside = |t_s: f64| from_s < t_s && t_s <= to_s;
    let in_flight = |t_s: f64| {
        stays.iter().filter(|stay| stay.arrival_s <= t_s && stay.end_s.is_none_or(|end| t_s < end)).count() as f64
    };
    let beyond_median = times.iter().map(|t| (t - from_s).max(0.0)).sum::<f64>() / times.len().max(1) as f64;
    let weight = stride as f64;
    Some(Shortfall {
        arrived: stride * stays.iter().filter(|stay| is_inside(stay.arrival_s)).count() as u64,
        completed: stride * stays.iter().filter(|stay| stay.end_s.is_some_and(is_inside)).count() as u64,
        expected: weight * beyond_median * stays.len() as f64 / to_s,
        noise: weight * (in_flight(from_s) + in_flight(to_s) + 1.0).sqrt(),
    })
}
