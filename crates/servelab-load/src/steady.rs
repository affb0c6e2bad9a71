//! Decides online whether load has become steady, from cumulative tokens and requests in flight. Used to stop a window;
//! the steady part of a finished window is found in the analysis, from records, and not here.

use std::collections::VecDeque;

/// Samples per observation span; the two halves of the span are compared.
const SAMPLES: usize = 20;
/// Largest relative difference between the halves' token rates.
const RATE_TOLERANCE: f64 = 0.05;
/// Largest relative difference between the halves' mean requests in flight (one request is always tolerated). A queue
/// that grows through the window fails here although its token rate is constant.
const IN_FLIGHT_TOLERANCE: f64 = 0.10;

/// Watches the last `min_ns` of a window.
#[derive(Debug)]
pub(crate) struct SteadyDetector {
    step_ns: i64,
    next_ns: i64,
    samples: VecDeque<Sample>,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    tokens: u64,
    in_flight: i64,
}

impl SteadyDetector {
    pub(crate) fn new(window_start_ns: i64, min_ns: i64) -> Self {
        let step_ns = (min_ns / SAMPLES as i64).max(1);
        Self { step_ns, next_ns: window_start_ns, samples: VecDeque::new() }
    }

    /// When the next sample is due.
    pub(crate) fn next_sample_ns(&self) -> i64 {
        self.next_ns
    }

    /// Takes a sample, when one is due at `t_ns`, and says whether the last span was steady.
    pub(crate) fn push(&mut self, t_ns: i64, tokens: u64, in_flight: i64) -> bool {
        if t_ns < self.next_ns {
            return false;
        }
        self.next_ns += self.step_ns;
        self.samples.push_back(Sample { tokens, in_flight });
        if self.samples.len() > SAMPLES + 1 {
            self.samples.pop_front();
        }
        self.is_steady()
    }

    fn is_steady(&self) -> bool {
        let at = |index: usize| self.samples.get(index).copied();
        let (Some(start), Some(middle), Some(end)) = (at(0), at(SAMPLES / 2), at(SAMPLES)) else { return false };
        let first = middle.tokens.saturating_sub(start.tokens) as f64;
        let second = end.tokens.saturating_sub(middle.tokens) as f64;
        let mean_in_flight = |from: usize| {
            let half = self.samples.iter().skip(from).take(SAMPLES / 2);
            half.map(|sample| sample.in_flight as f64).sum::<f64>() / (SAMPLES / 2) as f64
        };
        let (before, after) = (mean_in_flight(1), mean_in_flight(SAMPLES / 2 + 1));
        let is_rate_steady = first > 0.0 && (second - first).abs() <= RATE_TOLERANCE * (first + second) / 2.0;
        let allowed = (IN_FLIGHT_TOLERANCE * (before + after) / 2.0).max(1.0);
        is_rate_steady && (after - before).abs() <= allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds 60 steps of a span of 20 and returns the step at which it first was steady.
    fn first_steady(tokens: impl Fn(u64) -> u64, in_flight: impl Fn(u64) -> i64) -> Option<u64> {
        let mut detector = SteadyDetector::new(0, 2_000);
        (0..60).find(|step| detector.push(*step as i64 * 100, tokens(*step), in_flight(*step)))
    }

    #[test]
    fn rules() {
        assert_eq!(first_steady(|t| t * 50, |_| 8), Some(20), "constant from the start");
        assert_eq!(first_steady(|_| 0, |_| 8), None, "no token is not steady");
        assert_eq!(first_steady(|t| t * 50, |t| t as i64 * 3), None, "a growing queue is not steady");
        let ramp = first_steady(|t| if t < 15 { t * t } else { 225 + (t - 15) * 30 }, |_| 8);
        assert!(ramp.is_some_and(|step| (20..=35).contains(&step)), "after a ramp: {ramp:?}");
    }

    #[test]
    fn samples_come_in_steps() {
        let mut detector = SteadyDetector::new(1_000, 2_000);
        assert!(!detector.push(999, 1, 1));
        assert_eq!(detector.next_sample_ns(), 1_000);
        assert!(!detector.push(1_000, 1, 1));
        assert_eq!(detector.next_sample_ns(), 1_100);
    }
}
