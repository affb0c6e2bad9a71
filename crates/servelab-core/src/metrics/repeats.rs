//! Statistics over repeats of the same cell: mean, spread, and whether two sets of repeats can be told apart at all.
//! Quantiles within one run live in `quantile`.

/// Two-sided 95 % critical values of Student's t for 1–30 degrees of freedom.
const T_95: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
];

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
    /// The difference exceeds what the spread explains (Welch's t, 95 %).
    Apart,
    /// Within noise.
    WithinNoise,
    /// Fewer than two repeats on a side: the spread is not known.
    Unknown,
}

/// Compares two sets of repeats by Welch's t test at 95 %.
pub fn told_apart(a: &RepeatStats, b: &RepeatStats) -> Told {
    let (Some(sd_a), Some(sd_b)) = (a.sd, b.sd) else { return Told::Unknown };
    let (var_a, var_b) = (sd_a * sd_a / a.n as f64, sd_b * sd_b / b.n as f64);
    let error = (var_a + var_b).sqrt();
    let difference = (a.mean - b.mean).abs();
    if error == 0.0 {
        return if difference > 0.0 { Told::Apart } else { Told::WithinNoise };
    }
    let freedom = (var_a + var_b).powi(2) / (var_a.powi(2) / (a.n as f64 - 1.0) + var_b.powi(2) / (b.n as f64 - 1.0));
    let critical = T_95.get((freedom.floor().max(1.0) as usize) - 1).copied().unwrap_or(1.96);
    if difference > critical * error { Told::Apart } else { Told::WithinNoise }
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

    #[test]
    fn welch_tells_apart_only_what_the_spread_allows() {
        let check = |a: &[f64], b: &[f64], expected| assert_eq!(told_apart(&stats(a), &stats(b)), expected);
        check(&[10.0, 11.0, 12.0], &[20.0, 21.0, 22.0], Told::Apart);
        check(&[10.0, 15.0, 20.0], &[12.0, 17.0, 22.0], Told::WithinNoise);
        check(&[10.0], &[20.0, 21.0], Told::Unknown);
        check(&[5.0, 5.0], &[5.0, 5.0], Told::WithinNoise);
        check(&[5.0, 5.0], &[6.0, 6.0], Told::Apart);
    }
}
