//! Statistics over repeats of the same cell: mean and spread, and the words for whether two can be told apart.
//! Quantiles within one run live in `quantile`.

/// Mean and spread of one metric over repeats.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RepeatStats {
    /// Number of repeats with a value.
    pub n: u64,
    /// Arithmetic mean.
    pub mean: f64,
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
    /// Sample standard deviation (n − 1); `None` below two repeats.
    pub sd: Option<f64>,
}

impl RepeatStats {
    /// Over finite values only; `None` when there is none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        if values.is_empty() {
            return None;
        }
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Some(Self {
            n: values.len() as u64,
            mean,
            min: values.iter().copied().fold(f64::INFINITY, f64::min),
            max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            sd: (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt()),
        })
    }
}

/// Can two sets of repeats be told apart?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// The difference exceeds what the spread explains, all comparisons allowed for (`stats::rank_with_ties`, 95 %).
    Apart,
    /// Within noise.
    WithinNoise,
    /// Nothing was repeated: no spread is known.
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(values: &[f64]) -> RepeatStats {
        RepeatStats::of(values.iter().copied()).unwrap()
    }

    #[test]
    fn spread_of_repeats() {
        let s = stats(&[2.0, 4.0, 9.0, f64::NAN]);
        assert_eq!((s.n, s.mean, s.min, s.max), (3, 5.0, 2.0, 9.0));
        assert!((s.sd.unwrap() - 13.0_f64.sqrt()).abs() < 1e-12);
        assert_eq!(stats(&[1.0]).sd, None);
        assert_eq!(RepeatStats::of([]), None);
    }
}
