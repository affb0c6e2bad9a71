//! Quantiles and their confidence intervals, exact from raw samples. Samples may carry whole-number weights ("this gap
//! counts once per token"), which is the same as repeating them, without the memory. No metric is defined here.

use std::collections::BTreeMap;

use crate::result::{QuantileIntervals, Quantiles, Tail};

/// The `p`-quantile (0–1) of ascending samples by linear interpolation between order statistics: numpy's default, type 7.
/// `None` without samples or with `p` outside 0–1.
pub fn quantile_linear(sorted: &[f64], p: f64) -> Option<f64> {
    interpolate(sorted.len() as u64, p, |rank| sorted.get(usize::try_from(rank).ok()?).copied())
}

/// The nearest-rank `p`-quantile (0–1) when `failed` further samples count as +∞: what a percentile is worth to users
/// whose requests failed. `None` without any sample or with `p` outside 0–1.
pub fn quantile_nearest_with_failures(sorted: &[f64], failed: u64, p: f64) -> Option<f64> {
    let rank = nearest_rank(sorted.len() as u64 + failed, p)?;
    Some(usize::try_from(rank - 1).ok().and_then(|idx| sorted.get(idx).copied()).unwrap_or(f64::INFINITY))
}

/// 1-based rank of the `p`-quantile of `n` samples.
fn nearest_rank(n: u64, p: f64) -> Option<u64> {
    if n == 0 || !(0.0..=1.0).contains(&p) {
        return None;
    }
    // 1e-9: p·n such as 0.95 × 20 must not climb a whole rank because of its last binary digit.
    Some(((p * n as f64 - 1e-9).ceil() as u64).clamp(1, n))
}

/// Order-statistic ranks (1-based, inclusive) between which the true `p`-quantile of `n` independent samples lies with at
/// least 95 % probability, from the exact binomial distribution; at most 2.5 % on either side. `None` when `n` is too
/// small for such a pair to exist (below 6 for the median, below 368 for the 99th percentile).
pub fn quantile_ci95_ranks(n: u64, p: f64) -> Option<(u64, u64)> {
    if n == 0 || !(p > 0.0 && p < 1.0) {
        return None;
    }
    let (count, mean) = (n as f64, n as f64 * p);
    let spread = 12.0 * (mean * (1.0 - p)).sqrt() + 12.0;
    // Below `first` the distribution weighs less than 1e-30: summing starts where something is to be summed.
    let first = (mean - spread).floor().max(0.0) as u64;
    let k = first as f64;
    let mut mass =
        (ln_factorial(count) - ln_factorial(k) - ln_factorial(count - k) + k * p.ln() + (count - k) * (-p).ln_1p())
            .exp();
    let mut cumulated = mass;
    let (mut lower, mut upper) = (None, None);
    for successes in first..=n {
        if lower.is_none() && cumulated > 0.025 {
            lower = Some(successes);
        }
        if cumulated >= 0.975 {
            upper = Some(successes + 1);
            break;
        }
        let k = successes as f64;
        mass *= (count - k) / (k + 1.0) * p / (1.0 - p);
        cumulated += mass;
    }
    let (lower, upper) = (lower?, upper?);
    (lower >= 1 && upper <= n).then_some((lower, upper))
}

/// The values at [`quantile_ci95_ranks`].
pub fn quantile_ci95(sorted: &[f64], p: f64) -> Option<[f64; 2]> {
    let (lower, upper) = quantile_ci95_ranks(sorted.len() as u64, p)?;
    let at = |rank: u64| sorted.get(usize::try_from(rank - 1).ok()?).copied();
    Some([at(lower)?, at(upper)?])
}

/// Most samples that are kept one by one.
const MOST_EXACT: usize = 1 << 20;
/// Beyond, samples whose leading mantissa bits agree are counted together; a bin spans 2⁻¹⁴ of its value.
const BIN_BITS: u32 = 14;
/// Relative width of a bin.
pub const BIN_RESOLUTION: f64 = 1.0 / (1_u64 << BIN_BITS) as f64;

/// Collects samples, each standing for `weight` equal ones, and turns them into [`Quantiles`]. Exact up to a million
/// samples; above, percentiles are right to 0.006 % and say so, and memory no longer grows.
#[derive(Debug, Clone, Default)]
pub struct Samples {
    values: Vec<(f64, u64)>,
    bins: BTreeMap<i64, Bin>,
    squares: f64,
    max: Option<f64>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Bin {
    weight: u64,
    sum: f64,
}

impl Samples {
    /// Adds one sample. A NaN is nobody's measurement and is dropped.
    pub fn push(&mut self, value: f64) {
        self.push_weighted(value, 1);
    }

    /// Adds `weight` equal samples.
    pub fn push_weighted(&mut self, value: f64, weight: u64) {
        if value.is_nan() || weight == 0 {
            return;
        }
        self.squares += weight as f64 * weight as f64;
        self.max = Some(self.max.map_or(value, |max| max.max(value)));
        if !self.bins.is_empty() {
            self.count_in_bin(value, weight);
            return;
        }
        self.values.push((value, weight));
        if self.values.len() > MOST_EXACT {
            for (value, weight) in std::mem::take(&mut self.values) {
                self.count_in_bin(value, weight);
            }
        }
    }

    fn count_in_bin(&mut self, value: f64, weight: u64) {
        // Floats order like their bits, negative ones in reverse.
        let bits = value.to_bits() as i64;
        let ordered = if bits < 0 { bits ^ i64::MAX } else { bits };
        let bin = self.bins.entry(ordered >> (52 - BIN_BITS)).or_default();
        bin.weight = bin.weight.saturating_add(weight);
        bin.sum += value * weight as f64;
    }

    /// Number of samples, weights counted.
    pub fn count(&self) -> u64 {
        let exact = self.values.iter().map(|(_, weight)| *weight);
        exact.chain(self.bins.values().map(|bin| bin.weight)).fold(0, u64::saturating_add)
    }

    /// Samples above a limit, weights counted; those counted together with others are taken for their mean.
    pub(super) fn count_above(&self, limit: f64) -> u64 {
        let exact = self.values.iter().filter(|(value, _)| *value > limit).map(|(_, weight)| *weight);
        let bins = self.bins.values().filter(|bin| bin.sum / bin.weight as f64 > limit).map(|bin| bin.weight);
        exact.chain(bins).fold(0, u64::saturating_add)
    }

    /// Nearest-rank percentiles when `failed` further samples count as +∞.
    pub(super) fn tail(&self, failed: u64) -> Tail {
        let mut values = self.values.clone();
        values.extend(self.bins.values().map(|bin| (bin.sum / bin.weight as f64, bin.weight)));
        values.sort_by(|a, b| a.0.total_cmp(&b.0));
        let n = self.count().saturating_add(failed);
        let at = |p: f64| {
            let rank = nearest_rank(n, p)?;
            let mut seen = 0;
            values.iter().find(|(_, weight)| {
                seen += weight;
                seen >= rank
            })
        };
        let value = |p: f64| at(p).map(|(value, _)| *value);
        Tail { p50: value(0.5), p90: value(0.9), p95: value(0.95), p99: value(0.99), n, failed }
    }

    /// Sorts and summarises. The confidence intervals treat the samples as independent; repeated samples count with
    /// Kish's effective size (Σw)²/Σw². Samples of one request are correlated, so they are lower bounds.
    pub fn quantiles(mut self) -> Quantiles {
        let resolution = (!self.bins.is_empty()).then_some(BIN_RESOLUTION);
        for bin in self.bins.values() {
            self.values.push((bin.sum / bin.weight as f64, bin.weight));
        }
        self.values.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut ends = Vec::with_capacity(self.values.len());
        let (mut n, mut sum, squares) = (0_u64, 0.0, self.squares);
        for (value, weight) in &self.values {
            n = n.saturating_add(*weight);
            ends.push(n);
            sum += value * *weight as f64;
        }
        if n == 0 {
            return Quantiles::default();
        }
        let nth = |rank: u64| self.values.get(ends.partition_point(|end| *end <= rank)).map(|(value, _)| *value);
        let p = |p: f64| interpolate(n, p, nth);
        let effective = (n as f64 * n as f64 / squares).round().max(1.0) as u64;
        let interval = |p: f64| {
            let (lower, upper) = quantile_ci95_ranks(effective, p)?;
            let rank = |r: u64| if effective == n { r - 1 } else { expand_rank(r, effective, n) };
            Some([nth(rank(lower))?, nth(rank(upper))?])
        };
        Quantiles {
            mean: Some(sum / n as f64),
            p50: p(0.50),
            p90: p(0.90),
            p95: p(0.95),
            p99: p(0.99),
            max: self.max,
            n,
            ci95: QuantileIntervals { p50: interval(0.50), p99: interval(0.99) },
            resolution,
        }
    }
}

impl Extend<f64> for Samples {
    fn extend<T: IntoIterator<Item = f64>>(&mut self, iter: T) {
        for value in iter {
            self.push(value);
        }
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<T: IntoIterator<Item = f64>>(iter: T) -> Self {
        let mut samples = Self::default();
        samples.extend(iter);
        samples
    }
}

/// 0-based rank among `n` repeated samples that corresponds to 1-based `rank` among `effective` ones.
fn expand_rank(rank: u64, effective: u64, n: u64) -> u64 {
    (((rank as f64 - 0.5) / effective as f64 * n as f64).floor() as u64).min(n - 1)
}

fn interpolate(n: u64, p: f64, nth: impl Fn(u64) -> Option<f64>) -> Option<f64> {
    if n == 0 || !(0.0..=1.0).contains(&p) {
        return None;
    }
    let position = p * (n - 1) as f64;
    let below = (position.floor() as u64).min(n - 1);
    let fraction = position - below as f64;
    let low = nth(below)?;
    if fraction <= 0.0 || below + 1 >= n {
        return Some(low);
    }
    let high = nth(below + 1)?;
    // Equal infinities would give NaN; the clamp keeps rounding from leaving the bracket.
    if low == high { Some(low) } else { Some((low + (high - low) * fraction).clamp(low, high)) }
}

/// ln n!, to about 1e-12 relative: a table's worth of products below 32, Stirling's series above.
fn ln_factorial(n: f64) -> f64 {
    if n < 32.0 {
        let mut product = 1.0;
        let mut factor = 2.0;
        while factor <= n {
            product *= factor;
            factor += 1.0;
        }
        return product.ln();
    }
    let inverse = 1.0 / n;
    let square = inverse * inverse;
    n * n.ln() - n
        + 0.5 * (2.0 * std::f64::consts::PI * n).ln()
        + inverse * (1.0 / 12.0 - square * (1.0 / 360.0 - square * (1.0 / 1260.0)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn many_samples_cost_no_more_memory_and_little_precision() {
        let n = 3 * MOST_EXACT as u64;
        // A permutation of 1..=n in milliseconds/1000, some negative.
        let value = |i: u64| ((i * 7_919) % n) as f64 / 1e3 - 10.0;
        let binned: Samples = (0..n).map(value).collect();
        assert!(binned.values.is_empty() && binned.bins.len() < 400_000, "{}", binned.bins.len());
        assert_eq!(binned.count(), n);
        let got = binned.quantiles();
        let mut exact: Vec<f64> = (0..n).map(value).collect();
        exact.sort_by(f64::total_cmp);
        for (p, got) in [(0.5, got.p50), (0.9, got.p90), (0.95, got.p95), (0.99, got.p99)] {
            let (got, expected) = (got.unwrap(), quantile_linear(&exact, p).unwrap());
            assert!((got / expected - 1.0).abs() <= BIN_RESOLUTION, "p {p}: {got} != {expected}");
        }
        let mean = exact.iter().sum::<f64>() / n as f64;
        assert!((got.mean.unwrap() / mean - 1.0).abs() < 1e-9);
        assert_eq!((got.n, got.max, got.resolution), (n, exact.last().copied(), Some(BIN_RESOLUTION)));
        let [low, high] = got.ci95.p50.unwrap();
        assert!(low <= got.p50.unwrap() && got.p50.unwrap() <= high);
    }

    #[test]
    fn linear_quantiles_equal_numpy() {
        // numpy.percentile([1, 2, 4, 8], [0, 25, 50, 90, 99, 100])
        let check = |p: f64, expected: f64| {
            let got = quantile_linear(&[1.0, 2.0, 4.0, 8.0], p).unwrap();
            assert!((got - expected).abs() < 1e-12, "p {p}: {got} != {expected}");
        };
        check(0.0, 1.0);
        check(0.25, 1.75);
        check(0.5, 3.0);
        check(0.9, 6.8);
        check(0.99, 7.88);
        check(1.0, 8.0);
        assert_eq!(quantile_linear(&[], 0.5), None);
        assert_eq!(quantile_linear(&[1.0], 1.5), None);
        assert_eq!(quantile_linear(&[1.0], f64::NAN), None);
    }

    #[test]
    fn failures_push_nearest_rank_to_infinity() {
        let sorted: Vec<f64> = (1..=18).map(f64::from).collect();
        assert_eq!(quantile_nearest_with_failures(&sorted, 2, 0.90), Some(18.0));
        assert_eq!(quantile_nearest_with_failures(&sorted, 2, 0.95), Some(f64::INFINITY));
        assert_eq!(quantile_nearest_with_failures(&sorted, 0, 0.5), Some(9.0));
        assert_eq!(quantile_nearest_with_failures(&[], 3, 0.5), Some(f64::INFINITY));
        assert_eq!(quantile_nearest_with_failures(&[], 0, 0.5), None);
        let twenty: Vec<f64> = (1..=20).map(f64::from).collect();
        assert_eq!(quantile_nearest_with_failures(&twenty, 0, 0.95), Some(19.0));
    }

    #[test]
    fn interval_ranks_equal_published_tables() {
        // Median: Conover, Practical Nonparametric Statistics. 99th percentile: exact rational arithmetic.
        let check = |n, p, expected| assert_eq!(quantile_ci95_ranks(n, p), expected, "n {n}, p {p}");
        check(5, 0.5, None);
        check(6, 0.5, Some((1, 6)));
        check(10, 0.5, Some((2, 9)));
        check(20, 0.5, Some((6, 15)));
        check(50, 0.5, Some((18, 33)));
        check(100, 0.5, Some((40, 61)));
        check(367, 0.99, None);
        check(368, 0.99, Some((360, 368)));
        check(0, 0.5, None);
        let (lower, upper) = quantile_ci95_ranks(10_000_000, 0.5).unwrap();
        assert!(lower.abs_diff(5_000_000 - 3_099) < 3 && upper.abs_diff(5_000_000 + 3_100) < 3, "{lower} {upper}");
    }

    #[test]
    fn interval_covers_the_true_quantile_as_often_as_it_says() {
        let mut state = 7_u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1_u64 << 53) as f64
        };
        let rounds = 2_000;
        let covered = (0..rounds)
            .filter(|_| {
                let mut samples: Vec<f64> = (0..60).map(|_| uniform()).collect();
                samples.sort_by(f64::total_cmp);
                quantile_ci95(&samples, 0.5).is_some_and(|[low, high]| low <= 0.5 && 0.5 <= high)
            })
            .count();
        let share = covered as f64 / f64::from(rounds);
        assert!((0.945..=0.985).contains(&share), "coverage {share}");
    }

    #[test]
    fn huge_weights_need_no_memory() {
        let mut samples = Samples::default();
        samples.push_weighted(1.0, 3_000_000_000);
        samples.push_weighted(2.0, 1_000_000_000);
        let quantiles = samples.quantiles();
        assert_eq!((quantiles.n, quantiles.p50, quantiles.p90), (4_000_000_000, Some(1.0), Some(2.0)));
        assert_eq!(quantiles.mean, Some(1.25));
        assert_eq!(quantiles.ci95.p50, None, "two gaps carry no interval, however many tokens they hold");
    }

    proptest! {
        #[test]
        fn quantiles_are_monotone_and_bounded(mut values in prop::collection::vec(-1e9..1e9_f64, 1..200), a in 0.0..=1.0_f64, b in 0.0..=1.0_f64) {
            values.sort_by(f64::total_cmp);
            let (low, high) = (quantile_linear(&values, a.min(b)).unwrap(), quantile_linear(&values, a.max(b)).unwrap());
            prop_assert!(low <= high);
            prop_assert!(values[0] <= low && high <= values[values.len() - 1]);
        }

        #[test]
        fn weights_equal_repetition(values in prop::collection::vec((0.0..1e6_f64, 1..9_u64), 1..60)) {
            let mut weighted = Samples::default();
            let mut repeated = Vec::new();
            for (value, weight) in &values {
                weighted.push_weighted(*value, *weight);
                repeated.extend((0..*weight).map(|_| *value));
            }
            let got = weighted.quantiles();
            repeated.sort_by(f64::total_cmp);
            prop_assert_eq!(got.p50, quantile_linear(&repeated, 0.5));
            prop_assert_eq!(got.p99, quantile_linear(&repeated, 0.99));
            prop_assert_eq!(got.n, repeated.len() as u64);
        }

        #[test]
        fn interval_ranks_bracket_the_quantile(n in 1..5_000_u64, p in 0.01..0.99_f64) {
            if let Some((lower, upper)) = quantile_ci95_ranks(n, p) {
                prop_assert!(1 <= lower && lower < upper && upper <= n);
                prop_assert!(lower as f64 <= n as f64 * p + 1.0 && upper as f64 >= n as f64 * p);
            }
        }
    }
}
