//! Coverage of every interval and the error rates of every test, measured by simulation with fixed seeds. Where a method
//! is known to be off (a bootstrap of few values), that is what the test states.

use super::random::Draws;
use super::*;
use crate::metrics::quantile_ci95;

fn normals(draws: &mut Draws, n: usize, mean: f64, sd: f64) -> Vec<f64> {
    (0..n).map(|_| mean + sd * draws.normal()).collect()
}

/// Share of `runs` in which `covers` says yes.
fn share(runs: u32, seed: u64, mut covers: impl FnMut(&mut Draws) -> bool) -> f64 {
    let mut draws = Draws::new(seed);
    f64::from((0..runs).map(|_| u32::from(covers(&mut draws))).sum::<u32>()) / f64::from(runs)
}

fn near(got: f64, expected: f64, tolerance: f64) {
    assert!((got - expected).abs() <= tolerance, "{got:.4}, wanted {expected} ± {tolerance}");
}

#[test]
fn mean_intervals_cover_95_percent() {
    for n in [2, 3, 5, 10] {
        let covered = share(3_000, n as u64, |draws| {
            let interval = mean_interval(&normals(draws, n, 10.0, 2.0)).unwrap();
            interval.low <= 10.0 && 10.0 <= interval.high
        });
        near(covered, 0.95, 0.015);
    }
}

#[test]
fn median_intervals_cover_at_least_95_percent() {
    // Order statistics come in steps: the exact coverage of n = 10 is 97.9 %, of n = 20 95.9 %, of n = 37 95.3 %.
    for (n, exact) in [(10, 0.979), (20, 0.959), (37, 0.953)] {
        let covered = share(3_000, n as u64, |draws| {
            let skewed: Vec<f64> = normals(draws, n, 0.0, 1.0).iter().map(|x| x.exp()).collect();
            let interval = median_interval(&skewed).unwrap();
            interval.low <= 1.0 && 1.0 <= interval.high
        });
        near(covered, exact, 0.015);
    }
    // The same within one run, for the 99th percentile of 1,000 requests.
    let p99 = normals_quantile();
    let covered = share(2_000, 7, |draws| {
        let sample = sorted(&normals(draws, 1_000, 0.0, 1.0));
        quantile_ci95(&sample, 0.99).is_some_and(|[low, high]| low <= p99 && p99 <= high)
    });
    // Exactly 97.6 %.
    near(covered, 0.976, 0.015);
}

fn normals_quantile() -> f64 {
    distribution::normal_quantile(0.99)
}

#[test]
fn bootstrap_intervals_need_many_values() {
    let covered = |n: usize, skewed: bool| {
        let mut seed = 0;
        share(600, n as u64, |draws| {
            seed += 1;
            let values = normals(draws, n, 0.0, 0.5);
            let values: Vec<f64> = values.iter().map(|x| if skewed { x.exp() } else { *x }).collect();
            let truth = if skewed { 0.125_f64.exp() } else { 0.0 };
            let interval = mean_interval_bca(&values, seed).unwrap();
            interval.low <= truth && truth <= interval.high
        })
    };
    near(covered(60, false), 0.945, 0.02);
    near(covered(60, true), 0.94, 0.025);
    // With five repeats it covers some 85 %, not 95: repeats are compared with Student's t.
    let few = covered(5, false);
    assert!((0.78..0.90).contains(&few), "{few}");
}

#[test]
fn differences_cover_95_percent_and_equal_means_are_rarely_told_apart() {
    for (n_a, n_b, sd_b) in [(3, 3, 1.0), (3, 8, 3.0), (5, 5, 2.0)] {
        let mut false_findings = 0;
        let covered = share(3_000, n_a as u64 + 10 * n_b as u64, |draws| {
            let (a, b) = (normals(draws, n_a, 100.0, 1.0), normals(draws, n_b, 100.0, sd_b));
            let found = compare_independent(&a, &b, 1).unwrap();
            false_findings += u32::from(found.p.unwrap() <= 0.05);
            found.difference.low <= 0.0 && 0.0 <= found.difference.high
        });
        near(covered, 0.95, 0.02);
        assert!(f64::from(false_findings) / 3_000.0 < 0.066);
    }
    // Pairs: what both have in common does not widen the interval.
    let mut width = 0.0;
    let covered = share(3_000, 99, |draws| {
        let pairs: Vec<(f64, f64)> = (0..4)
            .map(|_| {
                let common = 20.0 * draws.normal();
                (100.0 + common + draws.normal(), 102.0 + common + draws.normal())
            })
            .collect();
        let found = compare_paired(&pairs, 1).unwrap();
        width += (found.difference.high - found.difference.low) / 3_000.0;
        found.difference.low <= 2.0 && 2.0 <= found.difference.high
    });
    near(covered, 0.95, 0.015);
    assert!(width < 6.0, "{width}");
}

#[test]
fn permutation_tests_keep_their_level() {
    for paired in [true, false] {
        let found = share(1_500, 5, |draws| {
            let (a, b) = (normals(draws, 6, 0.0, 1.0), normals(draws, 6, 0.0, 1.0));
            let pairs: Vec<(f64, f64)> = a.iter().copied().zip(b.iter().copied()).collect();
            let comparison = if paired { compare_paired(&pairs, 1) } else { compare_independent(&a, &b, 1) };
            comparison.unwrap().p_permutation.unwrap() <= 0.05
        });
        assert!(found <= 0.06, "{found}");
    }
}

#[test]
fn a_sweep_of_equal_candidates_rarely_has_a_winner() {
    for (k, n, share_inputs) in [(5, 3, false), (16, 3, true), (16, 5, false)] {
        let mut plain = 0;
        let found = share(150, k as u64, |draws| {
            let runs: Vec<Candidate> =
                (0..k).map(|_| Candidate { values: (0..).zip(normals(draws, n, 600.0, 10.0)).collect() }).collect();
            let ranking = rank_with_ties(&runs, true, share_inputs);
            let (best, last) = (ranking.places.first().unwrap(), ranking.places.last().unwrap());
            let of = |place: &Place| runs[place.candidate].values.iter().map(|(_, x)| *x).collect::<Vec<_>>();
            plain += u32::from(compare_independent(&of(best), &of(last), 1).unwrap().p.unwrap() <= 0.05);
            ranking.tied() < k
        });
        assert!(found <= 0.09, "{k} candidates: {found}");
        // What a t test between the best and the last would have claimed.
        assert!(
            f64::from(plain) / 150.0 > if k > 5 { 0.20 } else { 0.05 },
            "{k} candidates, {n} repeats: {plain} of 150"
        );
    }
}

#[test]
fn equivalence_is_rarely_claimed_at_the_margin() {
    let claimed = share(2_000, 3, |draws| {
        let (a, b) = (normals(draws, 5, 100.0, 1.0), normals(draws, 5, 103.0, 1.0));
        compare_independent(&a, &b, 1).unwrap().equivalence(0.03).unwrap().is_equivalent
    });
    assert!(claimed <= 0.06, "{claimed}");
}

#[test]
fn drift_and_steps_are_rarely_seen_where_there_are_none() {
    let drifted = share(1_000, 4, |draws| drift(&normals(draws, 12, 100.0, 1.0)).is_some_and(|found| found.p <= 0.05));
    near(drifted, 0.05, 0.02);
    let stepped =
        share(60, 5, |draws| change_point(&normals(draws, 16, 100.0, 1.0), 2).is_some_and(|found| found.p <= 0.05));
    assert!(stepped <= 0.15, "{stepped}");
    let seen = share(60, 6, |draws| {
        let mut values = normals(draws, 16, 100.0, 1.0);
        values.iter_mut().skip(9).for_each(|x| *x += 4.0);
        change_point(&values, 2).is_some_and(|found| found.p <= 0.05 && found.at.abs_diff(9) <= 1)
    });
    assert!(seen > 0.9, "{seen}");
}

#[test]
fn powers_are_reached() {
    // The rows of the table in the documentation: 80 % are found where 80 % are promised.
    for (difference, cv, is_paired) in [(0.05, 0.02, false), (0.05, 0.03, true), (0.10, 0.05, false)] {
        let n = usize::try_from(repeats_needed(difference, cv, is_paired).unwrap()).unwrap();
        let found = share(2_000, 8, |draws| {
            let a = normals(draws, n, 100.0, if is_paired { 0.0 } else { 100.0 * cv });
            let b = normals(draws, n, 100.0 * (1.0 + difference), 100.0 * cv);
            let pairs: Vec<(f64, f64)> = a.iter().copied().zip(b.iter().copied()).collect();
            let comparison = if is_paired { compare_paired(&pairs, 1) } else { compare_independent(&a, &b, 1) };
            comparison.unwrap().p.unwrap() <= 0.05
        });
        assert!((0.76..0.93).contains(&found), "{difference} {cv} {is_paired}: {n} repeats find {found}");
    }
}
