use super::*;

fn gaps_s(arrival: Arrival, rate_per_s: f64, n: usize, seed: u64) -> Vec<f64> {
    let instants = schedule(&arrival, rate_per_s, Extent::Count(n), seed).unwrap();
    let mut before = 0;
    instants.iter().map(|t| (t - std::mem::replace(&mut before, *t)) as f64 / 1e9).collect()
}

fn mean_and_cv(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (mean, variance.sqrt() / mean)
}

#[test]
fn names_round_trip() {
    for text in ["poisson", "constant", "gamma:0.5", "gamma:4"] {
        assert_eq!(text.parse::<Arrival>().unwrap().to_string(), text);
    }
    assert!(matches!("uniform".parse::<Arrival>(), Err(ArrivalError::Unknown(_))));
    assert!(matches!("gamma".parse::<Arrival>(), Err(ArrivalError::Unknown(_))));
    for shape in ["0", "-1", "nan", "inf", "x", ""] {
        assert!(matches!(format!("gamma:{shape}").parse::<Arrival>(), Err(ArrivalError::Shape(_))), "{shape}");
    }
}

#[test]
fn gap_moments() {
    // With 40,000 gaps the mean's relative standard error is cv/200, that of the cv below 1 % for these shapes.
    for (arrival, cv) in [
        (Arrival::Poisson, 1.0),
        (Arrival::Gamma { shape: 1.0 }, 1.0),
        (Arrival::Gamma { shape: 0.25 }, 2.0),
        (Arrival::Gamma { shape: 4.0 }, 0.5),
    ] {
        let (mean, got_cv) = mean_and_cv(&gaps_s(arrival, 50.0, 40_000, 7));
        assert!((mean * 50.0 - 1.0).abs() < 4.0 * cv / 200.0, "{arrival}: mean {mean}");
        assert!((got_cv / cv - 1.0).abs() < 0.05, "{arrival}: cv {got_cv}");
    }
}

#[test]
fn poisson_gaps_pass_a_kolmogorov_smirnov_test() {
    let mut gaps = gaps_s(Arrival::Poisson, 200.0, 10_000, 3);
    gaps.sort_by(f64::total_cmp);
    let n = gaps.len() as f64;
    let distance = gaps
        .iter()
        .enumerate()
        .map(|(i, gap)| {
            let cdf = 1.0 - (-gap * 200.0).exp();
            (cdf - i as f64 / n).abs().max((cdf - (i + 1) as f64 / n).abs())
        })
        .fold(0.0, f64::max);
    // 1.63/√n is the critical value at 1 %.
    assert!(distance < 1.63 / n.sqrt(), "D = {distance}");
}

#[test]
fn counts_in_a_fixed_time_vary_as_poisson_counts_do() {
    // A process rescaled to its total would show no variance at all.
    let counts: Vec<f64> = (0..400)
        .map(|seed| schedule(&Arrival::Poisson, 100.0, Extent::DurationNs(1_000_000_000), seed).unwrap().len() as f64)
        .collect();
    let (mean, cv) = mean_and_cv(&counts);
    assert!((mean - 100.0).abs() < 2.0, "mean {mean}");
    let dispersion = (cv * mean).powi(2) / mean;
    assert!((0.75..1.3).contains(&dispersion), "variance/mean {dispersion}");
}

#[test]
fn constant_is_exact() {
    let instants = schedule(&Arrival::Constant, 3.0, Extent::DurationNs(10_000_000_000), 0).unwrap();
    assert_eq!(instants.len(), 30);
    assert_eq!((instants[0], instants[3], instants[27]), (0, 1_000_000_000, 9_000_000_000));
}

#[test]
fn seeds_and_prefixes() {
    let make = |n, seed| schedule(&Arrival::Poisson, 10.0, Extent::Count(n), seed).unwrap();
    assert_eq!(make(100, 1), make(100, 1));
    assert_ne!(make(100, 1), make(100, 2));
    assert_eq!(make(100, 1), make(500, 1)[..100]);
    assert!(make(500, 1).is_sorted());
    // Pinned: a change of this number breaks the pairing of cells measured by different versions.
    assert_eq!(make(3, 42), PINNED);
}

const PINNED: [i64; 3] = [38_287_784, 43_388_127, 128_364_389];

#[test]
fn impossible_schedules_are_errors() {
    for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(matches!(schedule(&Arrival::Poisson, rate, Extent::Count(1), 0), Err(ArrivalError::Rate { .. })));
    }
    let error = schedule(&Arrival::Constant, 1e-9, Extent::Count(10), 0).unwrap_err();
    assert!(error.to_string().contains("too long"), "{error}");
    assert!(schedule(&Arrival::Constant, 1.0, Extent::Count(0), 0).unwrap().is_empty());
}
