//! Arrival processes: from a rate, a process and a seed to absolute send instants. The instants are final: nothing is
//! rescaled to hit a total, so a Poisson schedule is a Poisson process. Pure arithmetic; pacing lives in `engine`.

use std::fmt;
use std::str::FromStr;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

#[cfg(test)]
mod tests;

/// How gaps between arrivals are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Arrival {
    /// Exponential gaps (coefficient of variation 1).
    Poisson,
    /// Equal gaps; the first arrival is at zero.
    Constant,
    /// Gamma gaps of mean 1/rate; `shape` 1 is Poisson, below 1 burstier, above 1 smoother.
    Gamma {
        /// Shape parameter (vLLM's "burstiness").
        shape: f64,
    },
}

/// How long a schedule is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// This many arrivals.
    Count(usize),
    /// All arrivals before this many nanoseconds.
    DurationNs(i64),
}

/// Why no schedule can be made.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ArrivalError {
    /// Not one of the processes.
    #[error("unknown arrival process `{0}`; use poisson, constant or gamma:SHAPE (for example gamma:0.5)")]
    Unknown(String),
    /// The shape is not a positive number.
    #[error("gamma shape `{0}` must be a positive number")]
    Shape(String),
    /// The rate is not a positive number.
    #[error("arrival rate {rate_per_s} per second must be a positive number")]
    Rate {
        /// The rate asked for.
        rate_per_s: f64,
    },
    /// The schedule would not fit into nanoseconds or memory.
    #[error("a schedule of {n} arrivals at {rate_per_s} per second is too long")]
    TooLong {
        /// Arrivals asked for, as far as known.
        n: usize,
        /// The rate asked for.
        rate_per_s: f64,
    },
}

impl FromStr for Arrival {
    type Err = ArrivalError;

    fn from_str(text: &str) -> Result<Self, ArrivalError> {
        match text.split_once(':') {
            None if text == "poisson" => Ok(Self::Poisson),
            None if text == "constant" => Ok(Self::Constant),
            Some(("gamma", shape)) => match shape.parse::<f64>() {
                Ok(value) if value.is_finite() && value > 0.0 => Ok(Self::Gamma { shape: value }),
                _ => Err(ArrivalError::Shape(shape.to_owned())),
            },
            _ => Err(ArrivalError::Unknown(text.to_owned())),
        }
    }
}

impl fmt::Display for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Poisson => f.write_str("poisson"),
            Self::Constant => f.write_str("constant"),
            Self::Gamma { shape } => write!(f, "gamma:{shape}"),
        }
    }
}

/// Longest schedule: 100 days, and 100 million arrivals.
const MAX_SPAN_NS: f64 = 100.0 * 86_400.0 * 1e9;
const MAX_ARRIVALS: usize = 100_000_000;

/// Arrival instants in nanoseconds after the window's start, ascending. The same seed gives the same instants, and a
/// longer schedule begins with the shorter one.
pub fn schedule(arrival: &Arrival, rate_per_s: f64, extent: Extent, seed: u64) -> Result<Vec<i64>, ArrivalError> {
    if !(rate_per_s.is_finite() && rate_per_s > 0.0) {
        return Err(ArrivalError::Rate { rate_per_s });
    }
    let (limit, end_ns) = match extent {
        Extent::Count(n) => (n, MAX_SPAN_NS),
        Extent::DurationNs(ns) => (usize::MAX, ns as f64),
    };
    let mean_gap_ns = 1e9 / rate_per_s;
    let too_long = |n: usize| ArrivalError::TooLong { n, rate_per_s };
    if limit != usize::MAX && limit > MAX_ARRIVALS || end_ns > MAX_SPAN_NS {
        return Err(too_long(limit));
    }
    let mut draw = Draw::new(seed);
    let mut instants = Vec::new();
    let mut t_ns = 0.0;
    while instants.len() < limit {
        t_ns = match arrival {
            // Multiplied, not summed: a constant rate must not drift by accumulated rounding.
            Arrival::Constant => instants.len() as f64 * mean_gap_ns,
            Arrival::Poisson => t_ns + mean_gap_ns * draw.exponential(),
            Arrival::Gamma { shape } => t_ns + mean_gap_ns * draw.gamma(*shape) / shape,
        };
        if t_ns >= end_ns {
            if matches!(extent, Extent::Count(_)) {
                return Err(too_long(limit));
            }
            break;
        }
        if instants.len() >= MAX_ARRIVALS {
            return Err(too_long(instants.len()));
        }
        instants.push(t_ns as i64);
    }
    Ok(instants)
}

/// Random variates from raw bits, so that a schedule does not change when a library's sampling does.
struct Draw {
    rng: ChaCha8Rng,
}

impl Draw {
    fn new(seed: u64) -> Self {
        Self { rng: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// Uniform on the open interval (0, 1).
    fn uniform(&mut self) -> f64 {
        ((self.rng.next_u64() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    fn exponential(&mut self) -> f64 {
        -self.uniform().ln()
    }

    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * self.uniform().ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Gamma variate of scale 1 by Marsaglia and Tsang (ACM TOMS 26(3), 2000); shapes below 1 by their boost.
    fn gamma(&mut self, shape: f64) -> f64 {
        if shape < 1.0 {
            let boost = self.uniform().powf(1.0 / shape);
            return self.gamma(shape + 1.0) * boost;
        }
        let d = shape - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let x = self.normal();
            let v = (1.0 + c * x).powi(3);
            if v > 0.0 && self.uniform().ln() < 0.5 * x * x + d - d * v + d * v.ln() {
                return d * v;
            }
        }
    }
}
