//! Two configurations compared over their repeats. Paired where repeat k of both saw the same prompts and arrivals, else
//! independent (Welch). The permutation test needs no distribution, but also enough repeats: with three pairs its smallest
//! p is 0.25, so the sentence rests on the t test and the permutation p stands beside it.

use super::distribution::{t_cdf, t_quantile, t_two_sided};
use super::interval::Interval;
use super::random::Draws;
use super::{mean, variance};

/// Up to so many arrangements are all tried; of more, so many are drawn.
const MOST_EXACT: u64 = 1 << 16;
const DRAWN: u64 = 20_000;

/// What a comparison found. Differences are candidate − baseline.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// Were repeats paired?
    pub is_paired: bool,
    /// Repeats of the baseline (pairs, when paired).
    pub n_baseline: u64,
    /// Repeats of the candidate.
    pub n_candidate: u64,
    /// Mean of the baseline.
    pub baseline: f64,
    /// Mean of the candidate.
    pub candidate: f64,
    /// Difference with its 95 % interval; the ends are infinite where the spread is not known.
    pub difference: Interval,
    /// Difference relative to the baseline's mean; `None` where that is zero.
    pub relative: Option<f64>,
    /// Standardised difference (Hedges' g; for pairs, of the differences); `None` without spread.
    pub effect_size: Option<f64>,
    /// Two-sided p of the t test; `None` with too few repeats.
    pub p: Option<f64>,
    /// Two-sided p of the permutation test; `None` with too few repeats.
    pub p_permutation: Option<f64>,
    /// Standard error of the difference.
    pub standard_error: Option<f64>,
    /// Degrees of freedom behind it.
    pub freedom: Option<f64>,
}

/// Is the difference small enough not to matter?
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Equivalence {
    /// Differences up to this do not matter (absolute).
    pub margin: f64,
    /// The larger of the two one-sided p (Schuirmann 1987).
    pub p: f64,
    /// p ≤ 0.05: the two are equivalent within the margin.
    pub is_equivalent: bool,
}

impl Comparison {
    /// True when the interval of the difference leaves out zero.
    pub fn is_distinguished(&self) -> bool {
        self.difference.low > 0.0 || self.difference.high < 0.0
    }

    /// Two one-sided tests against a margin relative to the baseline; `None` where the spread is not known.
    pub fn equivalence(&self, relative_margin: f64) -> Option<Equivalence> {
        let margin = relative_margin * self.baseline.abs();
        let (error, freedom) = (self.standard_error?, self.freedom?);
        let tail = |t: f64| 1.0 - t_cdf(t, freedom);
        let p = if error == 0.0 {
            if self.difference.estimate.abs() < margin { 0.0 } else { 1.0 }
        } else {
            let (low, high) =
                ((self.difference.estimate + margin) / error, (margin - self.difference.estimate) / error);
            tail(low).max(tail(high))
        };
        Some(Equivalence { margin, p, is_equivalent: p <= 0.05 })
    }
}

/// Compares repeats that share nothing: Welch's t, permutation of all values. `None` when a side is empty.
pub fn compare_independent(baseline: &[f64], candidate: &[f64], seed: u64) -> Option<Comparison> {
    if baseline.is_empty() || candidate.is_empty() {
        return None;
    }
    let (a, b) = (mean(baseline), mean(candidate));
    let (n_a, n_b) = (baseline.len() as f64, candidate.len() as f64);
    let spread = variance(baseline).zip(variance(candidate));
    let (error, freedom) = match spread {
        Some((var_a, var_b)) => {
            let (part_a, part_b) = (var_a / n_a, var_b / n_b);
            let total = part_a + part_b;
            let freedom = total.powi(2) / (part_a.powi(2) / (n_a - 1.0) + part_b.powi(2) / (n_b - 1.0));
            (Some(total.sqrt()), Some(if total > 0.0 { freedom } else { n_a + n_b - 2.0 }))
        }
        None => (None, None),
    };
    let pooled = spread.map(|(var_a, var_b)| (((n_a - 1.0) * var_a + (n_b - 1.0) * var_b) / (n_a + n_b - 2.0)).sqrt());
    let effect_size =
        pooled.filter(|sd| *sd > 0.0).map(|sd| (b - a) / sd * (1.0 - 3.0 / (4.0 * (n_a + n_b - 2.0) - 1.0)));
    let p_permutation = spread.map(|_| permute_independent(baseline, candidate, seed));
    Some(assemble(false, (a, baseline.len()), (b, candidate.len()), b - a, error, freedom, effect_size, p_permutation))
}

/// Compares pairs (baseline, candidate) by their differences. `None` without a pair.
pub fn compare_paired(pairs: &[(f64, f64)], seed: u64) -> Option<Comparison> {
    if pairs.is_empty() {
        return None;
    }
    let differences: Vec<f64> = pairs.iter().map(|(a, b)| b - a).collect();
    let n = pairs.len() as f64;
    let spread = variance(&differences);
    let error = spread.map(|variance| (variance / n).sqrt());
    let difference = mean(&differences);
    let effect_size = spread
        .filter(|variance| *variance > 0.0)
        .map(|variance| difference / variance.sqrt() * (1.0 - 3.0 / (4.0 * (n - 1.0) - 1.0)));
    let p_permutation = spread.map(|_| permute_paired(&differences, seed));
    let side = |pick: fn(&(f64, f64)) -> f64| (mean(&pairs.iter().map(pick).collect::<Vec<_>>()), pairs.len());
    let freedom = spread.map(|_| n - 1.0);
    Some(assemble(true, side(|p| p.0), side(|p| p.1), difference, error, freedom, effect_size, p_permutation))
}

#[expect(clippy::too_many_arguments, reason = "private: both kinds of comparison end here")]
fn assemble(
    is_paired: bool,
    (baseline, n_baseline): (f64, usize),
    (candidate, n_candidate): (f64, usize),
    difference: f64,
    standard_error: Option<f64>,
    freedom: Option<f64>,
    effect_size: Option<f64>,
    p_permutation: Option<f64>,
) -> Comparison {
    let half = standard_error
        .zip(freedom)
        .map_or(f64::INFINITY, |(error, freedom)| if error == 0.0 { 0.0 } else { t_quantile(0.975, freedom) * error });
    let p = standard_error.zip(freedom).map(|(error, freedom)| match error {
        0.0 if difference == 0.0 => 1.0,
        0.0 => 0.0,
        error => t_two_sided(difference / error, freedom),
    });
    Comparison {
        is_paired,
        n_baseline: n_baseline as u64,
        n_candidate: n_candidate as u64,
        baseline,
        candidate,
        difference: Interval {
            estimate: difference,
            low: difference - half,
            high: difference + half,
            n: n_baseline.min(n_candidate) as u64,
        },
        relative: (baseline != 0.0).then(|| difference / baseline.abs()),
        effect_size,
        p,
        p_permutation,
        standard_error,
        freedom,
    }
}

/// Share of sign changes that give a difference at least as large; all of them up to 16 pairs.
fn permute_paired(differences: &[f64], seed: u64) -> f64 {
    let n = differences.len();
    let observed = differences.iter().sum::<f64>().abs();
    let slack = 1e-12 * differences.iter().map(|d| d.abs()).sum::<f64>();
    let is_extreme = |signs: u64| {
        let sum: f64 =
            differences.iter().enumerate().map(|(i, d)| if signs >> (i % 64) & 1 == 1 { *d } else { -d }).sum();
        sum.abs() >= observed - slack
    };
    if n < 64 && (1_u64 << n) <= MOST_EXACT {
        let all = 1_u64 << n;
        return (0..all).filter(|signs| is_extreme(*signs)).count() as f64 / all as f64;
    }
    let mut draws = Draws::new(seed);
    let mut extreme = 1_u64;
    for _ in 0..DRAWN {
        let sum: f64 = differences.iter().map(|d| if draws.next() & 1 == 1 { *d } else { -d }).sum();
        extreme += u64::from(sum.abs() >= observed - slack);
    }
    extreme as f64 / (DRAWN + 1) as f64
}

/// Share of splits of all values that give a difference of means at least as large.
fn permute_independent(baseline: &[f64], candidate: &[f64], seed: u64) -> f64 {
    let all: Vec<f64> = baseline.iter().chain(candidate).copied().collect();
    let (n, k) = (all.len(), baseline.len());
    let total: f64 = all.iter().sum();
    let difference = |sum_a: f64| ((total - sum_a) / (n - k) as f64 - sum_a / k as f64).abs();
    let observed = difference(baseline.iter().sum());
    let slack = 1e-12 * all.iter().map(|x| x.abs()).sum::<f64>();
    let splits = binomial(n as u64, k as u64);
    if n < 64 && splits.is_some_and(|splits| splits <= MOST_EXACT) {
        let (mut extreme, mut seen) = (0_u64, 0_u64);
        // Every mask with k bits, in order (Gosper).
        let mut mask: u64 = (1 << k) - 1;
        while mask < 1 << n {
            let sum: f64 = all.iter().enumerate().filter(|(i, _)| mask >> i & 1 == 1).map(|(_, x)| *x).sum();
            extreme += u64::from(difference(sum) >= observed - slack);
            seen += 1;
            let lowest = mask & mask.wrapping_neg();
            let carried = mask + lowest;
            mask = (((carried ^ mask) >> 2) / lowest) | carried;
        }
        return extreme as f64 / seen.max(1) as f64;
    }
    let mut draws = Draws::new(seed);
    let (mut shuffled, mut extreme) = (all, 1_u64);
    for _ in 0..DRAWN {
        for i in 0..k {
            let j = i + draws.below(n - i);
            shuffled.swap(i, j);
        }
        extreme += u64::from(difference(shuffled.iter().take(k).sum()) >= observed - slack);
    }
    extreme as f64 / (DRAWN + 1) as f64
}

fn binomial(n: u64, k: u64) -> Option<u64> {
    (0..k.min(n - k)).try_fold(1_u64, |product, i| product.checked_mul(n - i).map(|x| x / (i + 1)))
}
