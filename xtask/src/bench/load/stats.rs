//! The little statistics of a benchmark: summaries of a sample, and whether arrivals are those of a Poisson process.

use servelab_core::metrics::quantile_linear;

/// A sample in ascending order.
#[derive(Debug, Default, Clone)]
pub(super) struct Sample(Vec<f64>);

impl FromIterator<f64> for Sample {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_unstable_by(f64::total_cmp);
        Self(values)
    }
}

impl Sample {
    /// Both samples as one.
    pub(super) fn and(self, other: Self) -> Self {
        self.0.into_iter().chain(other.0).collect()
    }

    pub(super) fn n(&self) -> usize {
        self.0.len()
    }

    pub(super) fn mean(&self) -> f64 {
        self.0.iter().sum::<f64>() / self.0.len() as f64
    }

    /// Linear (type 7); NaN for an empty sample.
    pub(super) fn quantile(&self, p: f64) -> f64 {
        quantile_linear(&self.0, p).unwrap_or(f64::NAN)
    }

    pub(super) fn max(&self) -> f64 {
        self.0.last().copied().unwrap_or(f64::NAN)
    }

    /// Standard deviation divided by the mean: 1 for a Poisson process.
    pub(super) fn variation(&self) -> f64 {
        let mean = self.mean();
        let squares: f64 = self.0.iter().map(|value| (value - mean).powi(2)).sum();
        (squares / (self.0.len() as f64 - 1.0)).sqrt() / mean
    }

    /// Kolmogorov–Smirnov distance from the exponential distribution with this rate, and its asymptotic p-value.
    pub(super) fn against_exponential(&self, rate: f64) -> (f64, f64) {
        let n = self.0.len() as f64;
        let mut distance = 0.0_f64;
        for (below, value) in self.0.iter().enumerate() {
            let expected = 1.0 - (-rate * value).exp();
            distance = distance.max((below as f64 + 1.0) / n - expected).max(expected - below as f64 / n);
        }
        (distance, kolmogorov_p(distance, n))
    }
}

/// P(D ≥ distance) with Stephens' correction for finite n.
fn kolmogorov_p(distance: f64, n: f64) -> f64 {
    let lambda = (n.sqrt() + 0.12 + 0.11 / n.sqrt()) * distance;
    if lambda < 0.3 {
        // The series converges slowly there; the value is 1 to five digits.
        return 1.0;
    }
    let terms = (1..=100).map(|k| {
        let k = f64::from(k);
        let sign = if k % 2.0 == 1.0 { 1.0 } else { -1.0 };
        sign * (-2.0 * k * k * lambda * lambda).exp()
    });
    (2.0 * terms.sum::<f64>()).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries() {
        let sample: Sample = [3.0, 1.0, 2.0].into_iter().collect();
        assert_eq!((sample.n(), sample.mean(), sample.quantile(0.5), sample.max()), (3, 2.0, 2.0, 3.0));
        assert!((sample.variation() - 0.5).abs() < 1e-12);
        assert!(Sample::default().quantile(0.5).is_nan());
    }

    #[test]
    fn p_values_are_those_of_the_tables() {
        // Critical values of the asymptotic distribution: 1.358 at 5 %, 1.628 at 1 %.
        for (lambda, p) in [(1.358, 0.05), (1.628, 0.01)] {
            let n = 1e8_f64;
            assert!((kolmogorov_p(lambda / n.sqrt(), n) - p).abs() < 0.0005, "{lambda}");
        }
    }

    #[test]
    fn exponential_gaps_pass_and_others_do_not() {
        let n = 5_000;
        let exponential: Sample = (0..n).map(|i| -(1.0 - (f64::from(i) + 0.5) / f64::from(n)).ln() / 100.0).collect();
        let (_, p) = exponential.against_exponential(100.0);
        assert!(p > 0.99 && (exponential.variation() - 1.0).abs() < 0.01);
        assert!(exponential.against_exponential(110.0).1 < 1e-4);
        let constant: Sample = (0..n).map(|_| 0.01).collect();
        assert!(constant.against_exponential(100.0).1 < 1e-9);
    }
}
