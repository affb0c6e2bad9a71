//! How long a trial is, and when there is no point in going on with it. All times follow from the rate and from how long
//! one request takes on the idle server, so that a server which needs a minute per request is searched as well as one
//! that needs a millisecond.

use super::certainty::beta_at_least;

/// Fewest requests of a trial.
const MIN_REQUESTS: u64 = 50;
/// Most requests that the SLO's strictness may ask for.
const MAX_REQUESTS: u64 = 5_000;
/// A trial lasts at least this many times one request on the idle server: shorter ones end before queues have formed.
const REQUESTS_LONG: f64 = 10.0;
/// Shortest window, seconds.
const MIN_WINDOW_S: f64 = 2.0;
/// An outstanding request is waited for this many times as long as one on the idle server takes.
const DRAIN_LONG: f64 = 20.0;
/// Shortest and longest wait for outstanding requests, seconds.
const DRAIN_S: (f64, f64) = (5.0, 600.0);

/// Requests per trial so that `repeats` trials without a single miss can prove a share at 95 %.
pub fn requests_for(share: f64, repeats: u32) -> u64 {
    let enough = (0.05_f64.ln() / share.clamp(0.5, 0.999_9).ln() / f64::from(repeats.max(1))).ceil();
    (enough as u64).clamp(MIN_REQUESTS, MAX_REQUESTS)
}

/// One trial in numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrialPlan {
    /// Measured requests.
    pub requests: u64,
    /// Requests before them, which bring the server to its level.
    pub warmup: u64,
    /// Expected length of the window, seconds.
    pub window_s: f64,
    /// Longest wait for outstanding requests after the window, seconds.
    pub drain_s: f64,
}

/// A trial of an open loop at `rate` per second. `request_s` is one request on the idle server, `least` the requests
/// wanted, `slo_s` the longest time that the SLO allows to a request, when it says.
pub fn open_trial(rate: f64, request_s: f64, least: u64, slo_s: Option<f64>) -> TrialPlan {
    let window_s = (least as f64 / rate).max(REQUESTS_LONG * request_s).max(MIN_WINDOW_S);
    TrialPlan {
        requests: ((rate * window_s).ceil() as u64).max(least),
        warmup: ((rate * request_s).ceil() as u64).clamp(1, least),
        window_s,
        drain_s: drain_s(request_s, slo_s),
    }
}

/// A trial of a closed loop with `slots` requests in flight.
pub fn closed_trial(slots: u64, request_s: f64, least: u64, slo_s: Option<f64>) -> TrialPlan {
    let for_time = (slots as f64 * MIN_WINDOW_S / request_s.max(1e-6)).ceil() as u64;
    // Servers slow down under load, so the time asks for no more than a few rounds more.
    let requests = least.max(5 * slots).max(for_time.min(20 * slots.max(least)));
    TrialPlan {
        requests,
        warmup: slots,
        window_s: requests as f64 / slots.max(1) as f64 * request_s,
        drain_s: drain_s(request_s, slo_s),
    }
}

fn drain_s(request_s: f64, slo_s: Option<f64>) -> f64 {
    (DRAIN_LONG * request_s).max(2.0 * slo_s.unwrap_or(0.0)).clamp(DRAIN_S.0, DRAIN_S.1)
}

/// Seen while an open-loop trial runs: is the queue growing without bound?
#[derive(Debug, Clone)]
pub struct Runaway {
    rate: f64,
    request_s: f64,
    /// (seconds since the window's start, requests in flight), ascending.
    samples: Vec<(f64, f64)>,
}

/// Requests in flight beyond this many times what the idle server would hold are suspicious.
const SUSPICIOUS: f64 = 10.0;
/// Share of the arrivals of the second half that stay in the server.
const UNSERVED: f64 = 0.10;
/// Standard deviations of a Poisson count that the growth must exceed.
const SIGMAS: f64 = 5.0;

impl Runaway {
    /// For a trial at `rate` per second on a server that needs `request_s` for one request when idle.
    pub fn new(rate: f64, request_s: f64) -> Self {
        Self { rate, request_s, samples: Vec::new() }
    }

    /// Takes a sample and says whether the trial is lost. True only while the number in flight is far above what the
    /// idle server would hold *and* has grown through the second half of the trial so far by more than a tenth of the
    /// arrivals and more than chance explains; a stable queue that is merely long stops growing.
    pub fn push(&mut self, t_s: f64, in_flight: u64) -> bool {
        let in_flight = in_flight as f64;
        self.samples.push((t_s, in_flight));
        let half = t_s / 2.0;
        let split = self.samples.partition_point(|(t, _)| *t < half);
        let Some((_, before)) = self.samples.get(split) else { return false };
        let arrivals = self.rate * half;
        let growth = in_flight - before;
        in_flight > SUSPICIOUS * self.rate * self.request_s + SUSPICIOUS
            && growth > UNSERVED * arrivals + SIGMAS * arrivals.sqrt()
    }
}

/// True when a level can no longer pass: `misses` of the `planned` requests have missed, and even if all others meet
/// the limits and the misses came in clusters of five, the share is reached with less than one in a thousand.
pub fn is_hopeless(misses: u64, planned: u64, share: f64) -> bool {
    let (misses, n) = (misses as f64 / 5.0, (planned.max(misses)) as f64 / 5.0);
    beta_at_least(share, n - misses + 0.5, misses + 0.5) < 0.001
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_follows_from_rate_and_request() {
        let check = |rate: f64, request_s: f64, least: u64, requests: u64, window_s: f64| {
            let plan = open_trial(rate, request_s, least, None);
            assert_eq!(plan.requests, requests, "{plan:?}");
            assert!((plan.window_s - window_s).abs() < 1e-9, "{plan:?}");
        };
        check(0.02, 30.0, 100, 100, 5_000.0);
        check(10.0, 2.0, 100, 200, 20.0);
        check(1_000.0, 0.01, 100, 2_000, 2.0);
        assert_eq!(open_trial(0.02, 30.0, 100, None).drain_s, 600.0);
        assert_eq!(open_trial(10.0, 0.05, 100, Some(30.0)).drain_s, 60.0);
        let closed = closed_trial(64, 2.0, 100, None);
        assert_eq!((closed.requests, closed.warmup), (320, 64));
        assert_eq!(closed_trial(1, 60.0, 100, None).requests, 100);
        assert_eq!(requests_for(0.99, 3), 100);
        assert_eq!(requests_for(0.5, 3), 50);
        assert_eq!(requests_for(0.999, 1), 2_995);
    }

    /// A queue with `servers` places and exponential service, sampled ten times per window; true when it was cut short.
    fn run(load: f64, servers: u64, seed: u64) -> Option<f64> {
        let mut random = crate::search::tests::Random::new(seed);
        let (request_s, rate) = (1.0, load * servers as f64);
        let mut runaway = Runaway::new(rate, request_s);
        let (mut t, mut in_flight, mut next_sample) = (0.0, 0_u64, 0.5);
        while t < 30.0 {
            let busy = in_flight.min(servers) as f64 / request_s;
            t += random.exponential() / (rate + busy);
            while next_sample < t {
                if runaway.push(next_sample, in_flight) {
                    return Some(next_sample);
                }
                next_sample += 0.5;
            }
            if random.uniform() * (rate + busy) < rate { in_flight += 1 } else { in_flight -= 1 }
        }
        None
    }

    #[test]
    fn a_stable_queue_is_left_alone_and_a_growing_one_is_cut_short() {
        for load in [0.5, 0.9, 0.97] {
            let cut = (0..100).filter(|seed| run(load, 20, *seed).is_some()).count();
            assert_eq!(cut, 0, "load {load}");
        }
        let cut: Vec<f64> = (0..100).filter_map(|seed| run(3.0, 20, seed)).collect();
        assert_eq!(cut.len(), 100);
        assert!(cut.iter().all(|t| *t < 25.0), "{cut:?}");
    }

    #[test]
    fn hopeless_only_when_it_is() {
        assert!(!is_hopeless(1, 100, 0.99) && !is_hopeless(5, 100, 0.99));
        assert!(is_hopeless(40, 100, 0.99));
        assert!(!is_hopeless(60, 1_000, 0.95) && is_hopeless(200, 1_000, 0.95));
    }
}
