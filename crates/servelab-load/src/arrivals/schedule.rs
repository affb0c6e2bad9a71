//! The schedule as an iterator: one instant at a time, in constant memory, the same for the same seed.

use servelab_core::pacing::Ramp;

use super::draw::Draw;
use super::ramp::RampClock;
use super::{Arrival, ArrivalError, Extent, MAX_SPAN_NS};

/// How many requests arrive per second.
#[derive(Debug, Clone, PartialEq)]
pub enum Rate {
    /// The same mean all the time, in requests per second.
    Constant(f64),
    /// A changing one.
    Ramp(Ramp),
}

/// Arrival instants in nanoseconds after the window's start, ascending. A longer schedule begins with the shorter one.
/// It ends at its extent, or after 100 days.
#[derive(Debug, Clone)]
pub struct Schedule {
    arrival: Arrival,
    clock: Clock,
    draw: Draw,
    issued: usize,
    limit: usize,
    end_ns: f64,
}

#[derive(Debug, Clone)]
enum Clock {
    Constant {
        mean_gap_ns: f64,
        t_ns: f64,
    },
    /// The process of rate one, mapped through the ramp.
    Ramp {
        ramp: RampClock,
        area: f64,
    },
}

impl Schedule {
    /// A schedule of one arrival process.
    ///
    /// # Errors
    /// A rate or ramp that makes no sense, or an extent that needs more than 100 days.
    pub fn new(arrival: &Arrival, rate: &Rate, extent: Extent, seed: u64) -> Result<Self, ArrivalError> {
        let (limit, end_ns) = match extent {
            Extent::Count(n) => (n, MAX_SPAN_NS),
            Extent::DurationNs(ns) => (usize::MAX, ns as f64),
        };
        let clock = match rate {
            Rate::Constant(rate_per_s) => {
                let rate_per_s = *rate_per_s;
                if !(rate_per_s.is_finite() && rate_per_s > 0.0) {
                    return Err(ArrivalError::Rate { rate_per_s });
                }
                let mean_gap_ns = 1e9 / rate_per_s;
                let span_ns = if limit == usize::MAX { end_ns } else { limit as f64 * mean_gap_ns };
                if span_ns > MAX_SPAN_NS {
                    return Err(ArrivalError::TooLong { n: limit, rate_per_s });
                }
                Clock::Constant { mean_gap_ns, t_ns: 0.0 }
            }
            Rate::Ramp(ramp) => {
                ramp.validate()?;
                let most = ramp.expected_arrivals(MAX_SPAN_NS / 1e9);
                if end_ns > MAX_SPAN_NS || (limit != usize::MAX && limit as f64 > most) {
                    return Err(ArrivalError::TooLong { n: limit, rate_per_s: ramp.peak_per_s() });
                }
                Clock::Ramp { ramp: RampClock::new(ramp), area: 0.0 }
            }
        };
        Ok(Self { arrival: *arrival, clock, draw: Draw::new(seed), issued: 0, limit, end_ns })
    }

    fn advance(&mut self) -> f64 {
        match &mut self.clock {
            Clock::Constant { mean_gap_ns, t_ns } => {
                *t_ns = match &self.arrival {
                    // Multiplied, not summed: a constant rate must not drift by accumulated rounding.
                    Arrival::Constant => self.issued as f64 * *mean_gap_ns,
                    Arrival::Poisson => *t_ns + *mean_gap_ns * self.draw.exponential(),
                    Arrival::Gamma { shape } => *t_ns + *mean_gap_ns * self.draw.gamma(*shape) / shape,
                };
                *t_ns
            }
            Clock::Ramp { ramp, area } => {
                *area = match &self.arrival {
                    Arrival::Constant => self.issued as f64,
                    Arrival::Poisson => *area + self.draw.exponential(),
                    Arrival::Gamma { shape } => *area + self.draw.gamma(*shape) / shape,
                };
                ramp.instant_s(*area) * 1e9
            }
        }
    }
}

impl Iterator for Schedule {
    type Item = i64;

    fn next(&mut self) -> Option<i64> {
        if self.issued >= self.limit {
            return None;
        }
        let t_ns = self.advance();
        if t_ns.is_nan() || t_ns >= self.end_ns {
            self.limit = self.issued;
            return None;
        }
        self.issued += 1;
        Some(t_ns as i64)
    }
}

/// `n` instants before the window's start, ascending and negative: the schedule's own beginning, mirrored, so that the
/// arrival process is in full swing when the window opens.
///
/// # Errors
/// As [`Schedule::new`].
pub fn warmup_instants(arrival: &Arrival, rate: &Rate, n: usize, seed: u64) -> Result<Vec<i64>, ArrivalError> {
    // A process whose first arrival is at zero would put two there.
    let skip = usize::from(matches!(arrival, Arrival::Constant));
    let forward = Schedule::new(arrival, rate, Extent::Count(n.saturating_add(skip)), seed)?;
    let mut instants: Vec<i64> = forward.skip(skip).map(|t| -t.max(1)).collect();
    instants.reverse();
    Ok(instants)
}
