//! Intervals for the mean and the median over repeats: Student's t, order statistics, and the bias-corrected accelerated
//! bootstrap (Efron 1987). With few repeats a bootstrap interval is too narrow; that is measured in `simulation`.

use super::distribution::{normal_cdf, normal_quantile, t_quantile};
use super::random::Draws;
use super::{mean, sorted, variance};
use crate::metrics::{quantile_ci95_ranks, quantile_linear};

/// Resamples of a bootstrap.
const RESAMPLES: usize = 2_000;

/// An estimate with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// The estimate.
    pub estimate: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Values behind it.
    pub n: u64,
}

impl Interval {
    /// Half of the width relative to the estimate; `None` at zero.
    pub fn relative_half_width(&self) -> Option<f64> {
        (self.estimate != 0.0).then(|| 0.5 * (self.high - self.low) / self.estimate.abs())
    }
}

/// Mean with Student's t interval; `None` below two values.
pub fn mean_interval(values: &[f64]) -> Option<Interval> {
    let values = sorted(values);
    let n = values.len() as f64;
    let half = t_quantile(0.975, n - 1.0) * (variance(&values)? / n).sqrt();
    let estimate = mean(&values);
    Some(Interval { estimate, low: estimate - half, high: estimate + half, n: values.len() as u64 })
}

/// Median with the order-statistic interval; `None` below six values, where no such interval has 95 %.
pub fn median_interval(values: &[f64]) -> Option<Interval> {
    let values = sorted(values);
    let n = values.len() as u64;
    let (low, high) = quantile_ci95_ranks(n, 0.5)?;
    let at = |rank: u64| values.get(usize::try_from(rank - 1).ok()?).copied();
    Some(Interval { estimate: quantile_linear(&values, 0.5)?, low: at(low)?, high: at(high)?, n })
}

/// Mean with a BCa bootstrap interval; `None` below three values.
pub fn mean_interval_bca(values: &[f64], seed: u64) -> Option<Interval> {
    bca(values, seed, mean)
}

/// Median with a BCa bootstrap interval; `None` below three values.
pub fn median_interval_bca(values: &[f64], seed: u64) -> Option<Interval> {
    bca(values, seed, |sample| {
        let ordered = sorted(sample);
        quantile_linear(&ordered, 0.5).unwrap_or(f64::NAN)
    })
}

fn bca(values: &[f64], seed: u64, statistic: impl Fn(&[f64]) -> f64) -> Option<Interval> {
    let values = sorted(values);
    let n = values.len();
    if n < 3 {
        return None;
    }
    let estimate = statistic(&values);
    let mut draws = Draws::new(seed);
    let mut sample = vec![0.0; n];
    let mut resampled: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            for place in &mut sample {
                *place = values.get(draws.below(n)).copied().unwrap_or(estimate);
            }
            statistic(&sample)
        })
        .collect();
    resampled.sort_by(f64::total_cmp);
    let (first, last) = (*resampled.first()?, *resampled.last()?);
    if first == last {
        return Some(Interval { estimate, low: estimate, high: estimate, n: n as u64 });
    }
    // Ties with the estimate count half: the median of few values hits it often.
    let below = resampled.iter().filter(|x| **x < estimate).count() as f64;
    let equal = resampled.iter().filter(|x| **x == estimate).count() as f64;
    let bias = normal_quantile(((below + 0.5 * equal) / RESAMPLES as f64).clamp(1e-4, 1.0 - 1e-4));
    let jackknife: Vec<f64> = (0..n)
        .map(|left_out| {
            let rest: Vec<f64> = values.iter().enumerate().filter(|(i, _)| *i != left_out).map(|(_, x)| *x).collect();
            statistic(&rest)
        })
        .collect();
    let middle = mean(&jackknife);
    let (cubes, squares) = jackknife.iter().fold((0.0, 0.0), |(cubes, squares), x| {
        let d = middle - x;
        (cubes + d.powi(3), squares + d * d)
    });
    let acceleration = if squares > 0.0 { cubes / (6.0 * squares.powf(1.5)) } else { 0.0 };
    let end = |p: f64| {
        let z = bias + normal_quantile(p);
        let adjusted = normal_cdf(bias + z / (1.0 - acceleration * z).max(1e-3));
        quantile_linear(&resampled, adjusted.clamp(0.0, 1.0))
    };
    Some(Interval { estimate, low: end(0.025)?, high: end(0.975)?, n: n as u64 })
}
