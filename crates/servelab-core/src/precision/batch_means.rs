//! Non-overlapping batch means with monotone doubling: when 64 batches are full, neighbours are merged and batches are
//! twice as long from then on. Memory is constant, and batches grow with the series, so their means become independent
//! however slowly the series forgets. What correlation is left between neighbouring batches widens the interval.

/// Batches are merged when there are so many.
const MOST: usize = 64;
/// No estimate with fewer.
const LEAST: usize = 32;

/// The running series of one metric.
#[derive(Debug, Clone)]
pub struct BatchMeans {
    /// Sums of full batches.
    sums: Vec<f64>,
    /// Observations per batch.
    length: u64,
    partial: f64,
    in_partial: u64,
    total: f64,
    n: u64,
}

/// A mean and how well it is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MeanEstimate {
    /// Mean of all observations in full batches.
    pub mean: f64,
    /// Half-width of its 95 % interval.
    pub half_width: f64,
    /// Observations in all.
    pub n: u64,
    /// Full batches.
    pub batches: u64,
    /// Observations per batch.
    pub batch_length: u64,
    /// Correlation between neighbouring batch means.
    pub lag1: f64,
}

impl MeanEstimate {
    /// Half-width relative to the mean; infinite for a mean of zero.
    pub fn relative(&self) -> f64 {
        if self.mean == 0.0 { f64::INFINITY } else { self.half_width / self.mean.abs() }
    }
}

impl Default for BatchMeans {
    fn default() -> Self {
        Self { sums: Vec::with_capacity(MOST), length: 1, partial: 0.0, in_partial: 0, total: 0.0, n: 0 }
    }
}

impl BatchMeans {
    /// An empty series.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one observation; a value that is not finite is left out. True when a batch became full.
    pub fn push(&mut self, value: f64) -> bool {
        if !value.is_finite() {
            return false;
        }
        self.n += 1;
        self.total += value;
        self.partial += value;
        self.in_partial += 1;
        if self.in_partial < self.length {
            return false;
        }
        self.sums.push(self.partial);
        (self.partial, self.in_partial) = (0.0, 0);
        if self.sums.len() == MOST {
            let merged = self.sums.chunks_exact(2).map(|pair| pair.iter().sum()).collect::<Vec<f64>>();
            self.sums.clear();
            self.sums.extend(merged);
            self.length *= 2;
        }
        true
    }

    /// Observations so far.
    pub fn count(&self) -> u64 {
        self.n
    }

    /// The estimate; `None` below 32 batches.
    pub fn estimate(&self) -> Option<MeanEstimate> {
        let b = self.sums.len();
        if b < LEAST {
            return None;
        }
        let length = self.length as f64;
        let means: Vec<f64> = self.sums.iter().map(|sum| sum / length).collect();
        let count = b as f64;
        let mean = means.iter().sum::<f64>() / count;
        let squares: f64 = means.iter().map(|x| (x - mean).powi(2)).sum();
        let products: f64 = means.iter().zip(means.iter().skip(1)).map(|(x, y)| (x - mean) * (y - mean)).sum();
        let lag1 = if squares > 0.0 { products / squares } else { 0.0 };
        // What a first-order process with this correlation adds to the variance of a mean; the estimate of the
        // correlation is itself too small by about 1/b.
        let rest = (lag1 + 1.0 / count).clamp(0.0, 0.9);
        let inflation = (1.0 + rest) / (1.0 - rest);
        let error = (squares / (count - 1.0) / count * inflation).sqrt();
        Some(MeanEstimate {
            mean,
            half_width: t_975(count - 1.0) * error,
            n: self.n,
            batches: b as u64,
            batch_length: self.length,
            lag1,
        })
    }
}

/// The 97.5 % quantile of Student's t for 20 degrees of freedom and more (Cornish–Fisher; error below 1e-4).
fn t_975(freedom: f64) -> f64 {
    let z = 1.959_963_984_540_054_f64;
    let (z3, z5, z7) = (z.powi(3), z.powi(5), z.powi(7));
    z + (z3 + z) / (4.0 * freedom)
        + (5.0 * z5 + 16.0 * z3 + 3.0 * z) / (96.0 * freedom.powi(2))
        + (3.0 * z7 + 19.0 * z5 + 17.0 * z3 - 15.0 * z) / (384.0 * freedom.powi(3))
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn quantiles_of_t() {
        for (freedom, expected) in [(20.0, 2.085_963), (31.0, 2.039_513), (63.0, 1.998_341), (1e6, 1.959_966)] {
            assert!((t_975(freedom) - expected).abs() < 1e-4, "{freedom}: {}", t_975(freedom));
        }
    }

    #[test]
    fn batches_double_and_forget_nothing() {
        let mut series = BatchMeans::new();
        assert_eq!(series.estimate(), None);
        for i in 0..1_000_u32 {
            series.push(f64::from(i % 10));
        }
        series.push(f64::NAN);
        let estimate = series.estimate().unwrap();
        assert_eq!((estimate.n, estimate.batch_length, estimate.batches), (1_000, 16, 62));
        assert!((estimate.mean - 4.5).abs() < 0.1, "{estimate:?}");
        let mut constant = BatchMeans::new();
        (0..32).for_each(|_| {
            constant.push(3.0);
        });
        assert_eq!(constant.estimate().map(|e| (e.mean, e.half_width, e.relative())), Some((3.0, 0.0, 0.0)));
    }
}
