//! What happened over the order of the runs: a drift, a sudden change, single repeats that stand apart. All of it is shown;
//! nothing is ever dropped because of it.

use super::distribution::t_two_sided;
use super::random::Draws;
use super::{mean, sorted};
use crate::metrics::quantile_linear;

/// Permutations behind the p of a change point.
const PERMUTATIONS: u64 = 2_000;

/// A trend over the run order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drift {
    /// Change from the first run to the last along the robust line (Theil and Sen), relative to the median.
    pub relative_change: f64,
    /// Spearman's rank correlation with the order.
    pub correlation: f64,
    /// Two-sided p of that correlation (t approximation).
    pub p: f64,
    /// Runs.
    pub n: u64,
}

/// Values in the order in which they were measured, each already freed of what its configuration explains (a residual
/// divided by the configuration's mean, plus one, for instance). `None` below five.
pub fn drift(values: &[f64]) -> Option<Drift> {
    let n = values.len();
    if n < 5 || values.iter().any(|x| !x.is_finite()) {
        return None;
    }
    let order: Vec<f64> = (0..n).map(|i| i as f64).collect();
    let correlation = pearson(&ranks(values), &order)?;
    let freedom = n as f64 - 2.0;
    let t = correlation * (freedom / (1.0 - correlation * correlation).max(1e-300)).sqrt();
    let slopes: Vec<f64> = (0..n)
        .flat_map(|i| (i + 1..n).map(move |j| (i, j)))
        .filter_map(|(i, j)| Some((values.get(j)? - values.get(i)?) / (j - i) as f64))
        .collect();
    let slope = quantile_linear(&sorted(&slopes), 0.5)?;
    let median = quantile_linear(&sorted(values), 0.5)?;
    let relative_change = if median == 0.0 { f64::INFINITY } else { slope * (n - 1) as f64 / median.abs() };
    Some(Drift { relative_change, correlation, p: t_two_sided(t, freedom), n: n as u64 })
}

/// Ranks from 1; equal values share the mean of their ranks.
fn ranks(values: &[f64]) -> Vec<f64> {
    let rank = |x: f64| {
        let below = values.iter().filter(|y| **y < x).count() as f64;
        let equal = values.iter().filter(|y| **y == x).count() as f64;
        below + 0.5 * (equal + 1.0)
    };
    values.iter().map(|x| rank(*x)).collect()
}

fn pearson(a: &[f64], b: &[f64]) -> Option<f64> {
    let (mean_a, mean_b) = (mean(a), mean(b));
    let sum = |f: &dyn Fn(f64, f64) -> f64| a.iter().zip(b).map(|(x, y)| f(x - mean_a, y - mean_b)).sum::<f64>();
    let (xy, xx, yy) = (sum(&|x, y| x * y), sum(&|x, _| x * x), sum(&|_, y| y * y));
    (xx > 0.0 && yy > 0.0).then(|| (xy / (xx * yy).sqrt()).clamp(-1.0, 1.0))
}

/// A sudden change of level.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChangePoint {
    /// Index of the first value after it.
    pub at: usize,
    /// Mean before.
    pub before: f64,
    /// Mean after.
    pub after: f64,
    /// Share of random orders that show as large a change.
    pub p: f64,
}

/// The most likely change of level in a series of independent values, by the largest standardised cumulative sum
/// (Pettitt-like, on values), judged against random orders. `None` below eight values or without spread.
pub fn change_point(values: &[f64], seed: u64) -> Option<ChangePoint> {
    let n = values.len();
    if n < 8 || values.iter().any(|x| !x.is_finite()) {
        return None;
    }
    let (at, observed) = largest_step(values)?;
    let mut shuffled = values.to_vec();
    let mut draws = Draws::new(seed);
    let mut extreme = 1_u64;
    for _ in 0..PERMUTATIONS {
        for i in (1..n).rev() {
            shuffled.swap(i, draws.below(i + 1));
        }
        extreme += u64::from(largest_step(&shuffled).is_some_and(|(_, step)| step >= observed * (1.0 - 1e-12)));
    }
    let (before, after) = values.split_at(at);
    Some(ChangePoint { at, before: mean(before), after: mean(after), p: extreme as f64 / (PERMUTATIONS + 1) as f64 })
}

/// Where |cumulative sum| / √(k(n − k)) is largest, two values from either end at least.
fn largest_step(values: &[f64]) -> Option<(usize, f64)> {
    let (n, middle) = (values.len(), mean(values));
    let mut sum = 0.0;
    let mut best: Option<(usize, f64)> = None;
    for (idx, value) in values.iter().enumerate().take(n.saturating_sub(2)) {
        sum += value - middle;
        let k = idx + 1;
        let step = sum.abs() / ((k * (n - k)) as f64).sqrt();
        if k >= 2 && best.is_none_or(|(_, largest)| step > largest) {
            best = Some((k, step));
        }
    }
    best.filter(|(_, step)| *step > 0.0)
}

/// A repeat that stands apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outlier {
    /// Its index.
    pub idx: usize,
    /// Distance from the median in robust standard deviations (1.4826 MAD).
    pub distance: f64,
}

/// Repeats more than 3.5 robust standard deviations from the median (Iglewicz and Hoaglin 1993); none below five values,
/// where the MAD is too uncertain. Without any spread, whatever differs stands apart.
pub fn outliers(values: &[f64]) -> Vec<Outlier> {
    let ordered = sorted(values);
    let Some(median) = quantile_linear(&ordered, 0.5).filter(|_| ordered.len() >= 5) else { return Vec::new() };
    let deviations: Vec<f64> = ordered.iter().map(|x| (x - median).abs()).collect();
    let mad = 1.4826 * quantile_linear(&sorted(&deviations), 0.5).unwrap_or(0.0);
    let distance = |x: f64| {
        let away = (x - median).abs();
        if away == 0.0 { 0.0 } else { away / mad }
    };
    let far = values
        .iter()
        .enumerate()
        .filter(|(_, x)| x.is_finite())
        .map(|(idx, x)| Outlier { idx, distance: distance(*x) });
    far.filter(|outlier| outlier.distance > 3.5).collect()
}
