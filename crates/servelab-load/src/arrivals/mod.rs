//! Arrival processes: from a rate, a process and a seed to absolute send instants. The instants are final: nothing is
//! rescaled to hit a total, so a Poisson schedule is a Poisson process. Schedules are iterators, so a day's arrivals take
//! no memory. Pure arithmetic; pacing lives in `engine`.

use std::fmt;
use std::str::FromStr;

mod draw;
mod ramp;
mod schedule;
#[cfg(test)]
mod tests;
mod think;

pub use schedule::{Rate, Schedule, warmup_instants};
pub use think::ThinkTimes;

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
    /// The ramp makes no sense.
    #[error("arrival ramp: {0}")]
    Ramp(#[from] servelab_core::pacing::PacingProblem),
    /// The schedule would not fit into nanoseconds.
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

/// Longest schedule: 100 days.
const MAX_SPAN_NS: f64 = 100.0 * 86_400.0 * 1e9;

/// A schedule of constant mean rate as a list, for short ones; see [`Schedule`].
pub fn schedule(arrival: &Arrival, rate_per_s: f64, extent: Extent, seed: u64) -> Result<Vec<i64>, ArrivalError> {
    let instants: Vec<i64> = Schedule::new(arrival, &Rate::Constant(rate_per_s), extent, seed)?.collect();
    match extent {
        Extent::Count(n) if instants.len() < n => Err(ArrivalError::TooLong { n, rate_per_s }),
        _ => Ok(instants),
    }
}
