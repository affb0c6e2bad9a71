//! Against SciPy 1.17 (values frozen here) and against what must hold by definition.

use proptest::prelude::*;

use super::distribution::{
    f_tail, incomplete_beta, ln_gamma, normal_cdf, normal_quantile, studentized_range_tail, t_cdf, t_quantile,
    t_two_sided,
};
use super::*;

const A: [f64; 5] = [10.1, 10.4, 9.9, 10.2, 10.6];
const B: [f64; 5] = [10.9, 11.3, 10.7, 10.8, 11.6];
const X: [f64; 10] = [3.1, 4.7, 2.2, 5.9, 4.1, 3.3, 6.8, 4.4, 3.9, 5.2];

/// q, groups, degrees of freedom, P(Q ≥ q).
const STUDENTIZED: [(f64, f64, f64, f64); 8] = [
    (10.0, 3.0, 1.0, 0.133826385772577),
    (4.5, 6.0, 4.0, 0.16730747219806408),
    (4.0, 200.0, 600.0, 0.9992984347188553),
    (3.5, 3.0, 10.0, 0.07710331083841038),
    (5.0, 16.0, 32.0, 0.07440515174370055),
    (4.0, 10.0, 1e9, 0.12685213215059654),
    (6.5, 3.0, 2.0, 0.07956059554248829),
    (3.0, 8.0, 5.0, 0.49996207932735026),
];

fn close(got: f64, expected: f64, tolerance: f64) {
    assert!((got - expected).abs() <= tolerance * expected.abs().max(1e-12), "{got} is not {expected}");
}

#[test]
fn distributions() {
    close(t_cdf(2.0, 3.0), 0.9303370157205785, 1e-12);
    close(t_cdf(-1.5, 7.5), 0.08724028529323204, 1e-12);
    close(t_two_sided(2.0, 3.0), 2.0 * (1.0 - 0.9303370157205785), 1e-12);
    close(t_quantile(0.975, 2.0), 4.302652729749462, 1e-11);
    close(t_quantile(0.975, 11.3), 2.1938768963391624, 1e-11);
    close(t_quantile(0.9, 30.0), 1.3104150253913955, 1e-11);
    // I_x(a,b): exact for whole numbers (binomial tails), and Abramowitz & Stegun 26.5.
    close(incomplete_beta(0.5, 2.0, 2.0), 0.5, 1e-12);
    close(incomplete_beta(0.25, 1.0, 3.0), 1.0 - 0.75_f64.powi(3), 1e-12);
    close(incomplete_beta(0.99, 300.0, 1.0), 0.99_f64.powi(300), 1e-10);
    close(incomplete_beta(0.1, 0.5, 0.5), std::f64::consts::FRAC_2_PI * 0.1_f64.sqrt().asin(), 1e-12);
    close(ln_gamma(0.5), std::f64::consts::PI.sqrt().ln(), 1e-12);
    close(ln_gamma(171.0), 706.573_062_245_787_4, 1e-12);
    close(normal_cdf(1.5), 0.9331927987311419, 1e-13);
    close(normal_cdf(-6.0), 9.865876450376946e-10, 1e-12);
    close(normal_quantile(0.975), 1.959963984540054, 1e-12);
    close(normal_quantile(0.001), -3.090232306167813, 1e-12);
    close(f_tail(3.5, 2.0, 9.0), 0.0750846862792969, 1e-12);
    close(f_tail(0.7, 5.0, 3.0), 0.6614034751830152, 1e-12);
    close(f_tail(40.0, 1.0, 4.0), 0.0031982021523353056, 1e-12);
    assert_eq!(
        (t_cdf(f64::INFINITY, 3.0), normal_quantile(0.0), f_tail(-1.0, 1.0, 1.0)),
        (1.0, f64::NEG_INFINITY, 1.0)
    );
}

#[test]
fn studentized_range() {
    for (q, k, freedom, expected) in STUDENTIZED {
        let got = studentized_range_tail(q, k, freedom);
        assert!((got - expected).abs() < 2e-5, "q {q}, k {k}, f {freedom}: {got}, SciPy {expected}");
    }
}

#[test]
fn comparisons() {
    let welch = compare_independent(&A, &B, 1).unwrap();
    close(welch.p.unwrap(), 0.005203600508254361, 1e-9);
    close(welch.freedom.unwrap(), 7.239661727054076, 1e-12);
    close(welch.difference.low, 0.33180112279224444, 1e-9);
    close(welch.difference.high, 1.3081988772077597, 1e-9);
    close(welch.p_permutation.unwrap(), 0.007936507936507936, 1e-12);
    close(welch.equivalence(1.0 / 10.24).unwrap().p, 0.2071263456249755, 1e-9);
    let loose = welch.equivalence(1.5 / 10.24).unwrap();
    close(loose.p, 0.006506283618312053, 1e-9);
    assert!(loose.is_equivalent && welch.is_distinguished());
    let pairs: Vec<(f64, f64)> = A.iter().copied().zip(B).collect();
    let paired = compare_paired(&pairs, 1).unwrap();
    close(paired.p.unwrap(), 0.0002460870754329773, 1e-9);
    close(paired.difference.low, 0.6358314667008027, 1e-9);
    close(paired.p_permutation.unwrap(), 0.0625, 1e-12);
    assert!(paired.effect_size.unwrap() > welch.effect_size.unwrap());
}

#[test]
fn comparisons_without_spread() {
    let single = compare_independent(&[1.0], &[2.0, 3.0], 1).unwrap();
    assert_eq!((single.p, single.effect_size, single.is_distinguished()), (None, None, false));
    assert_eq!((single.difference.low, single.difference.high), (f64::NEG_INFINITY, f64::INFINITY));
    assert_eq!(compare_independent(&[], &[1.0], 1), None);
    let constant = compare_independent(&[5.0, 5.0], &[6.0, 6.0], 1).unwrap();
    assert_eq!((constant.p, constant.is_distinguished()), (Some(0.0), true));
    let same = compare_paired(&[(5.0, 5.0), (6.0, 6.0)], 1).unwrap();
    assert_eq!(
        (same.p, same.is_distinguished(), same.equivalence(0.01).unwrap().is_equivalent),
        (Some(1.0), false, true)
    );
}

#[test]
fn intervals() {
    let t = mean_interval(&X).unwrap();
    close(t.low, 3.382520054706073, 1e-10);
    close(t.high, 5.337479945293928, 1e-10);
    // SciPy with 200,000 resamples; ours has 2,000.
    let bca = mean_interval_bca(&X, 1).unwrap();
    assert!((bca.low - 3.61).abs() < 0.06 && (bca.high - 5.21).abs() < 0.06, "{bca:?}");
    let bca = median_interval_bca(&X, 1).unwrap();
    assert!((bca.low - 3.3).abs() < 0.21 && (bca.high - 5.2).abs() < 0.21, "{bca:?}");
    let median = median_interval(&X).unwrap();
    assert_eq!((median.estimate, median.low, median.high), (4.25, 3.1, 5.9));
    assert_eq!(
        (mean_interval(&[1.0]), median_interval(&[1.0; 5]), mean_interval_bca(&[1.0, 2.0], 1)),
        (None, None, None)
    );
    assert_eq!(mean_interval_bca(&[2.0; 4], 1).map(|i| (i.low, i.high)), Some((2.0, 2.0)));
}

#[test]
fn families() {
    let p = [0.01, 0.04, 0.03, 0.005, 0.2];
    let rounded = |values: Vec<f64>| values.iter().map(|x| (x * 1e9).round() / 1e9).collect::<Vec<_>>();
    assert_eq!(rounded(benjamini_hochberg(&p)), [0.025, 0.05, 0.05, 0.025, 0.2]);
    assert_eq!(rounded(holm(&p)), [0.04, 0.09, 0.09, 0.025, 0.2]);
    assert!(holm(&[]).is_empty());
}

#[test]
fn power_is_that_of_the_noncentral_t() {
    for (n, difference, cv, is_paired, exact) in [
        (3, 0.05, 0.02, false, 0.6359859893006392),
        (5, 0.02, 0.02, false, 0.28629549338059773),
        (3, 0.03, 0.01, true, 0.7452680070062837),
        (10, 0.01, 0.02, false, 0.1850956562911663),
    ] {
        let got = power_of_repeats(n, difference, cv, is_paired);
        assert!((got - exact).abs() < 0.03, "{n} {difference} {cv}: {got}, exactly {exact}");
    }
    assert_eq!(repeats_needed(0.0, 0.02, true), None);
    assert_eq!(repeats_needed(1e-6, 0.5, false), None);
    assert_eq!(repeats_needed(0.1, 0.0, false), Some(2));
    let needed = repeats_needed(0.05, 0.02, false).unwrap();
    assert!((4..=5).contains(&needed), "{needed}");
}

#[test]
fn order_of_runs() {
    let found = drift(&X).unwrap();
    close(found.correlation, 0.35757575757575755, 1e-12);
    close(found.p, 0.31037609170568026, 1e-9);
    close(found.relative_change, 0.2 * 9.0 / 4.25, 1e-9);
    let rising: Vec<f64> = (0..12).map(|i| 100.0 + f64::from(i)).collect();
    let found = drift(&rising).unwrap();
    assert!(found.p < 1e-9 && found.relative_change > 0.1);
    assert_eq!((drift(&[1.0; 9]), drift(&[1.0, 2.0])), (None, None));

    let stepped: Vec<f64> = (0..20).map(|i| if i < 12 { 100.0 } else { 90.0 } + f64::from(i % 3)).collect();
    let step = change_point(&stepped, 1).unwrap();
    assert_eq!(step.at, 12);
    assert!(step.p < 0.01 && step.before > step.after);
    assert!(change_point(&[1.0; 20], 1).is_none());

    assert_eq!(outliers(&[10.0, 10.1, 9.9, 10.05, 14.0]).iter().map(|o| o.idx).collect::<Vec<_>>(), [4]);
    assert!(outliers(&[10.0, 10.1, 30.0]).is_empty() && outliers(&X).is_empty());
    assert_eq!(outliers(&[5.0, 5.0, 5.0, 5.0, 5.1]).len(), 1, "without scatter, whatever differs stands apart");
}

fn observation(levels: [usize; 2], value: f64) -> Observation {
    Observation { levels: levels.to_vec(), value }
}

#[test]
fn effects_of_an_unbalanced_grid() {
    let runs = [
        ([0, 0], 10.0),
        ([0, 1], 12.0),
        ([0, 2], 15.0),
        ([1, 0], 11.0),
        ([1, 1], 14.5),
        ([1, 2], 19.0),
        ([0, 0], 10.4),
        ([1, 2], 18.5),
        ([0, 1], 11.7),
        ([1, 0], 11.3),
        ([1, 1], 14.1),
    ]
    .map(|(levels, value)| observation(levels, value));
    let fit = effects(&runs).unwrap();
    // numpy.linalg.lstsq with the same coding, scipy.stats.f for p.
    close(fit.grand_mean, 13.54166666666666, 1e-10);
    assert!(!fit.is_balanced && fit.freedom == 5);
    close(fit.residual_sd.unwrap(), (0.375_f64 / 5.0).sqrt(), 1e-9);
    let (a, b) = (&fit.main[0], &fit.main[1]);
    close(a.levels[0].0, -1.191666666666666, 1e-9);
    close(a.levels[1].0, 1.191666666666666, 1e-9);
    close(a.levels[0].1.unwrap(), 0.2195052125802949, 1e-8);
    close(a.p.unwrap(), 3.3962237551592896e-05, 1e-6);
    close(a.share, 0.9749690092495471, 1e-8);
    close(b.levels[2].0, 2.8666666666666663 + 0.4666666666666678, 1e-9);
    close(b.p.unwrap(), 2.8571908531941324e-06, 1e-6);
    let both = fit.interactions[0];
    assert_eq!(both.factors, (0, 1));
    close(both.p.unwrap(), 0.0034990084484358757, 1e-7);
    close(both.share, 0.8958694897604996, 1e-8);
}

#[test]
fn effects_that_cannot_be_told_apart_are_named() {
    let together = [([0, 0], 1.0), ([1, 1], 2.0), ([0, 0], 1.2), ([1, 1], 2.1)].map(|(l, v)| observation(l, v));
    let fit = effects(&together).unwrap();
    assert_eq!((fit.main.len(), fit.confounded.as_slice()), (1, &[1][..]));
    let saturated = [([0, 0], 1.0), ([0, 1], 2.0), ([1, 0], 3.0), ([1, 1], 5.0)].map(|(l, v)| observation(l, v));
    let fit = effects(&saturated).unwrap();
    assert!(fit.is_balanced && fit.interactions.is_empty() && fit.freedom == 1, "{fit:?}");
    assert_eq!(effects(&[]), None);
    assert_eq!(effects(&[observation([0, 0], f64::NAN), observation([0, 1], 1.0)]), None);
}

#[test]
fn rankings_have_ties() {
    let candidate = |values: &[f64]| Candidate { values: (0..).zip(values.iter().copied()).collect() };
    let runs = [candidate(&[100.0, 101.0, 99.0]), candidate(&[99.5, 101.5, 100.0]), candidate(&[80.0, 81.0, 79.5])];
    let ranking = rank_with_ties(&runs, true, false);
    let order: Vec<usize> = ranking.places.iter().map(|place| place.candidate).collect();
    assert_eq!((order, ranking.tied(), ranking.freedom, ranking.in_blocks), (vec![1, 0, 2], 2, 6, false));
    assert!(ranking.is_relative && ranking.places[2].p.unwrap() < 0.001);
    let lowest = rank_with_ties(&runs, false, true);
    assert_eq!((lowest.places[0].candidate, lowest.tied(), lowest.in_blocks, lowest.freedom), (2, 1, true, 4));
    let single = rank_with_ties(&[candidate(&[1.0]), candidate(&[2.0]), candidate(&[])], true, true);
    assert_eq!((single.tied(), single.scatter, single.places.len()), (2, None, 2));
    assert_eq!(rank_with_ties(&[], true, true), TiedRanking::default());
}

proptest! {
    #[test]
    fn nothing_panics(values in proptest::collection::vec(-1e9..1e9_f64, 0..12), others in proptest::collection::vec(-1e9..1e9_f64, 0..12)) {
        let _ = (mean_interval(&values), median_interval(&values), median_interval_bca(&values, 3));
        let _ = (drift(&values), change_point(&values, 3), outliers(&values));
        if let Some(found) = compare_independent(&values, &others, 3) {
            prop_assert!(found.difference.low <= found.difference.estimate && found.difference.estimate <= found.difference.high);
            prop_assert!(found.p.is_none_or(|p| (0.0..=1.0).contains(&p)));
            prop_assert!(found.p_permutation.is_none_or(|p| p > 0.0 && p <= 1.0));
        }
        let runs: Vec<Observation> = values.iter().enumerate().map(|(i, v)| Observation { levels: vec![i % 2, i % 3], value: *v }).collect();
        let _ = effects(&runs);
    }

    #[test]
    fn adjustments_only_raise_and_keep_the_order(p in proptest::collection::vec(0.0..1.0_f64, 1..20)) {
        for adjusted in [holm(&p), benjamini_hochberg(&p)] {
            prop_assert!(p.iter().zip(&adjusted).all(|(raw, new)| *new >= raw - 1e-12 && *new <= 1.0));
            prop_assert!(p.iter().zip(&adjusted).all(|(a, x)| p.iter().zip(&adjusted).all(|(b, y)| a > b || x <= y)));
        }
    }
}
