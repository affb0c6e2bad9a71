//! How sure a level passes. Each term is a share that must be reached: its posterior under Jeffreys' prior, with the
//! counts shrunk to an effective number of independent samples (batch variance, which contains the spread between
//! repeats). For a percentile this is the order-statistic interval read the other way round: the p-quantile is below the
//! limit exactly when the share of samples within the limit is at least p.

use super::evidence::{Batch, TrialEvidence};
use super::slo::SearchSlo;
use crate::stats::distribution::{incomplete_beta, normal_cdf};

/// Batches below which no variance is estimated.
const MIN_BATCHES: usize = 8;
/// Odds of "this level is stable" are multiplied by these per trial: the saturation rule's false alarms on a stable
/// server (1 %, measured in the verdict's own tests) and its power at the edge (taken as 80 %), with room.
const ALARM_IF_STABLE: f64 = 0.03;
const ALARM_IF_UNSTABLE: f64 = 0.80;

/// All trials of one level.
#[derive(Debug, Clone, PartialEq)]
pub struct LevelTable {
    /// Position on the search's grid.
    pub step: i64,
    /// Rate per second, or requests in flight.
    pub level: f64,
    /// The trials so far.
    pub trials: Vec<TrialEvidence>,
}

/// What is believed of one level.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LevelView {
    /// Position on the grid.
    pub step: i64,
    /// Rate per second, or requests in flight.
    pub level: f64,
    /// Probability that the level meets every term (0–1).
    pub p_pass: f64,
    /// Trials behind it.
    pub trials: u32,
}

impl LevelTable {
    /// Probability that the level meets the SLO.
    pub fn p_pass(&self, slo: &SearchSlo) -> f64 {
        let terms = slo.terms.iter().enumerate().map(|(idx, term)| {
            let trials = self.trials.iter().filter_map(|trial| trial.terms.get(idx));
            let batches: Vec<Batch> = trials.clone().flat_map(|term| term.batches.iter().copied()).collect();
            let requests: u64 = trials.map(|term| term.requests).sum();
            match term.share {
                Some(share) => share_reached(&batches, requests, share),
                None => mean_within(&batches, term.limit_ms),
            }
        });
        terms.product::<f64>() * stable(&self.trials)
    }

    /// The same with its place.
    pub fn view(&self, slo: &SearchSlo) -> LevelView {
        let trials = u32::try_from(self.trials.len()).unwrap_or(u32::MAX);
        LevelView { step: self.step, level: self.level, p_pass: self.p_pass(slo), trials }
    }
}

fn stable(trials: &[TrialEvidence]) -> f64 {
    let alarms = trials.iter().filter(|trial| trial.is_saturated).count();
    let quiet = trials.len() - alarms;
    let per_alarm = ALARM_IF_STABLE / ALARM_IF_UNSTABLE;
    let per_quiet = (1.0 - ALARM_IF_STABLE) / (1.0 - ALARM_IF_UNSTABLE);
    let odds = per_alarm.powi(alarms as i32) * per_quiet.powi(quiet as i32);
    // Quiet trials alone are no proof beyond what the counts say.
    if alarms == 0 { 1.0 } else { odds / (1.0 + odds) }
}

fn share_reached(batches: &[Batch], requests: u64, share: f64) -> f64 {
    let (value, weight) = sums(batches);
    if weight <= 0.0 {
        // Nothing was measured: nobody knows, and nobody should rely on it.
        return 0.5;
    }
    let p = (value / weight).clamp(0.0, 1.0);
    let independent = match variance_of_ratio(batches, p, weight) {
        Some(variance) if variance > 0.0 && p > 0.0 && p < 1.0 => p * (1.0 - p) / variance,
        _ => requests as f64,
    };
    // Never more than there are samples; without any spread, not more than there are requests.
    let n = independent.clamp(1.0_f64.min(weight), weight);
    beta_at_least(share, p * n + 0.5, (1.0 - p) * n + 0.5)
}

/// Normal approximation with the t distribution's variance.
fn mean_within(batches: &[Batch], limit: f64) -> f64 {
    let (value, weight) = sums(batches);
    if weight <= 0.0 {
        return 0.5;
    }
    let mean = value / weight;
    let b = batches.len() as f64;
    match variance_of_ratio(batches, mean, weight) {
        Some(variance) if variance > 0.0 => normal_cdf((limit - mean) / (variance * (b - 1.0) / (b - 3.0)).sqrt()),
        _ => 0.5 + if mean <= limit { 0.25 } else { -0.25 },
    }
}

fn sums(batches: &[Batch]) -> (f64, f64) {
    batches.iter().fold((0.0, 0.0), |(value, weight), batch| (value + batch.value, weight + batch.weight))
}

/// Variance of Σvalue/Σweight over batches (ratio estimator).
fn variance_of_ratio(batches: &[Batch], ratio: f64, weight: f64) -> Option<f64> {
    let b = batches.len();
    if b < MIN_BATCHES || weight <= 0.0 {
        return None;
    }
    let squares: f64 = batches.iter().map(|batch| (batch.value - ratio * batch.weight).powi(2)).sum();
    Some(squares * b as f64 / (b as f64 - 1.0) / (weight * weight))
}

/// P(X ≥ x) of a beta distribution.
pub fn beta_at_least(x: f64, a: f64, b: f64) -> f64 {
    // By symmetry the upper tail is the other distribution's lower one; the small tail is computed, not its complement.
    incomplete_beta(1.0 - x, b, a)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(got: f64, expected: f64, tolerance: f64) {
        assert!((got - expected).abs() <= tolerance * expected.abs().max(1e-12), "{got} is not {expected}");
    }

    #[test]
    fn the_upper_tail_is_the_small_number_itself() {
        close(beta_at_least(0.99, 1000.0, 1.0), 1.0 - 0.99_f64.powi(1000), 1e-12);
    }

    #[test]
    fn few_samples_prove_little_and_many_prove_much() {
        let batches = |misses: &[f64], size: f64| -> Vec<Batch> {
            misses.iter().map(|miss| Batch { value: size - miss, weight: size }).collect()
        };
        let clean = |n: u64| share_reached(&batches(&[0.0; 20], n as f64 / 20.0), n, 0.99);
        assert!(clean(100) > 0.8 && clean(100) < 0.9, "{}", clean(100));
        assert!(clean(300) > 0.98, "{}", clean(300));
        let mut spread = [0.0; 20];
        spread.iter_mut().step_by(2).for_each(|miss| *miss = 1.0);
        assert!(share_reached(&batches(&spread, 10.0), 200, 0.99) < 0.001, "10 of 200 missed, spread out");
        let mut burst = [0.0; 20];
        burst[7] = 4.0;
        let of_burst = share_reached(&batches(&burst, 10.0), 200, 0.99);
        let mut even = [0.0; 20];
        even.iter_mut().step_by(5).for_each(|miss| *miss = 1.0);
        let of_even = share_reached(&batches(&even, 10.0), 200, 0.99);
        assert!(
            of_burst > 2.0 * of_even && of_burst < 0.5,
            "one burst proves less than four misses: {of_burst} {of_even}"
        );
        assert_eq!(share_reached(&[], 0, 0.99), 0.5);
    }

    #[test]
    fn one_false_alarm_is_outvoted() {
        let trial = |is_saturated| TrialEvidence { is_saturated, ..TrialEvidence::default() };
        assert!(stable(&[trial(true)]) < 0.05);
        assert!(stable(&[trial(true), trial(false), trial(false), trial(false)]) > 0.7);
        assert!(stable(&[trial(true), trial(true)]) < 0.01);
        assert_eq!(stable(&[trial(false)]), 1.0);
    }
}
