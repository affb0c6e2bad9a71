//! Summary of a distribution, with the same linear interpolation as measured results.

use serde::Serialize;

/// Mean and percentiles; all absent for an empty distribution.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Quantiles {
    /// Mean.
    pub mean: Option<f64>,
    /// Median.
    pub p50: Option<f64>,
    /// 90th percentile.
    pub p90: Option<f64>,
    /// 95th percentile.
    pub p95: Option<f64>,
    /// 99th percentile.
    pub p99: Option<f64>,
    /// Largest.
    pub max: Option<f64>,
    /// Values.
    pub n: u64,
}

impl Quantiles {
    /// Summarises values; sorts them.
    pub fn of(values: &mut [f64]) -> Self {
        values.sort_by(f64::total_cmp);
        let n = values.len();
        if n == 0 {
            return Self::default();
        }
        let at = |share: f64| {
            let position = share * (n - 1) as f64;
            let low = values.get(position.floor() as usize).copied()?;
            let high = values.get(position.ceil() as usize).copied()?;
            Some(low + (high - low) * (position - position.floor()))
        };
        Self {
            mean: Some(values.iter().sum::<f64>() / n as f64),
            p50: at(0.5),
            p90: at(0.9),
            p95: at(0.95),
            p99: at(0.99),
            max: values.last().copied(),
            n: n as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear_between_neighbours() {
        let q = Quantiles::of(&mut [4.0, 1.0, 3.0, 2.0]);
        assert_eq!((q.mean, q.p50, q.max, q.n), (Some(2.5), Some(2.5), Some(4.0), 4));
        assert!((q.p90.unwrap() - 3.7).abs() < 1e-12);
        assert_eq!(Quantiles::of(&mut []), Quantiles::default());
    }
}
