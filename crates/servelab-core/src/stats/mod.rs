//! Statistics over repeats and designs: intervals, comparisons, families of comparisons, rankings with ties, effects of
//! parameters, drift. Pure arithmetic; random draws come from a seed that is part of the input, so the same results give
//! the same sentences. What a number means is `metrics`', whether it may be used is `verdict`'s.

pub mod compare;
pub mod distribution;
pub mod effects;
pub mod family;
pub mod interval;
pub mod order;
pub mod pareto;
pub mod power;
mod random;
pub mod ranking;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

pub use compare::{Comparison, Equivalence, compare_independent, compare_paired};
pub use effects::{Effects, Interaction, MainEffect, Observation, effects};
pub use family::{benjamini_hochberg, holm};
pub use interval::{Interval, mean_interval, mean_interval_bca, median_interval, median_interval_bca};
pub use order::{ChangePoint, Drift, Outlier, change_point, drift, outliers};
pub use pareto::{Better, Regime, pareto_front, regimes};
pub use power::{power_of_repeats, repeats_needed};
pub use ranking::{Candidate, Place, TiedRanking, rank_with_ties};

/// Arithmetic mean; NaN for nothing.
pub(crate) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Sample variance (n − 1); `None` below two values.
pub(crate) fn variance(values: &[f64]) -> Option<f64> {
    let middle = mean(values);
    (values.len() > 1).then(|| values.iter().map(|x| (x - middle).powi(2)).sum::<f64>() / (values.len() as f64 - 1.0))
}

/// Finite values in ascending order.
pub(crate) fn sorted(values: &[f64]) -> Vec<f64> {
    let mut values: Vec<f64> = values.iter().copied().filter(|x| x.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    values
}
