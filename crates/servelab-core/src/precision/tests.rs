//! How often does the interval of a run that the rule has stopped contain the true mean? Series whose mean is known,
//! fixed seeds. `SERVELAB_SIMULATIONS=N` raises the number of runs per case and prints the table of the manual.

use proptest::prelude::*;

use super::*;
use crate::search::tests::Random;

/// A series with a known mean.
trait Series {
    fn mean(&self) -> f64;
    fn next(&mut self, random: &mut Random) -> f64;
}

/// Independent exponential values.
struct Independent;

impl Series for Independent {
    fn mean(&self) -> f64 {
        1.0
    }
    fn next(&mut self, random: &mut Random) -> f64 {
        random.exponential()
    }
}

/// x' = φx + noise around a mean; relative spread as given.
struct Autoregressive {
    phi: f64,
    spread: f64,
    x: Option<f64>,
}

impl Series for Autoregressive {
    fn mean(&self) -> f64 {
        1.0
    }
    fn next(&mut self, random: &mut Random) -> f64 {
        let x = match self.x {
            None => random.normal(),
            Some(x) => self.phi * x + (1.0 - self.phi * self.phi).sqrt() * random.normal(),
        };
        self.x = Some(x);
        1.0 + self.spread * x
    }
}

/// Times in an M/M/1 queue with service time one, from its steady state on (Lindley's recursion).
struct Queue {
    load: f64,
    wait: Option<f64>,
}

impl Series for Queue {
    fn mean(&self) -> f64 {
        1.0 / (1.0 - self.load)
    }
    fn next(&mut self, random: &mut Random) -> f64 {
        let wait = match self.wait {
            // Zero with probability 1 − ρ, else exponential with the rate 1 − ρ.
            None if random.uniform() < self.load => random.exponential() / (1.0 - self.load),
            None => 0.0,
            Some(wait) => wait,
        };
        let service = random.exponential();
        let gap = random.exponential() / self.load;
        self.wait = Some((wait + service - gap).max(0.0));
        wait + service
    }
}

/// Share of runs whose interval contains the true mean, mean observations per run, mean of (estimate/truth − 1).
fn coverage<S: Series>(make: impl Fn() -> S, ci: f64, runs: u64) -> (f64, f64, f64) {
    let (mut covered, mut observations, mut bias) = (0, 0.0, 0.0);
    for seed in 0..runs {
        let mut random = Random::new(1_000 + seed);
        let mut series = make();
        let mut rule = PrecisionRule::new(ci);
        while !rule.push(series.next(&mut random)) {}
        let estimate = rule.estimate().unwrap();
        covered += u64::from((estimate.mean - series.mean()).abs() <= estimate.half_width);
        observations += estimate.n as f64 / runs as f64;
        bias += (estimate.mean / series.mean() - 1.0) / runs as f64;
    }
    (covered as f64 / runs as f64, observations, bias)
}

fn check<S: Series>(name: &str, make: impl Fn() -> S, ci: f64, runs: u64, least: f64) {
    let runs = std::env::var("SERVELAB_SIMULATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(runs);
    let (covered, observations, bias) = coverage(make, ci, runs);
    let line = format!(
        "| {name} | {:.0} % | {:.1} % | {observations:.0} | {:+.2} % |",
        100.0 * ci,
        100.0 * covered,
        100.0 * bias
    );
    println!("{line}");
    assert!(covered >= least, "{line}");
    assert!(bias.abs() < ci / 4.0, "{line}");
}

#[test]
fn intervals_cover_what_they_promise() {
    check("independent, exponential", || Independent, 0.05, 400, 0.92);
    check("independent, exponential", || Independent, 0.10, 400, 0.92);
    check("AR(1), φ = 0.5, CV 0.5", || Autoregressive { phi: 0.5, spread: 0.5, x: None }, 0.05, 400, 0.92);
    check("AR(1), φ = 0.9, CV 0.5", || Autoregressive { phi: 0.9, spread: 0.5, x: None }, 0.05, 400, 0.92);
    check("AR(1), φ = 0.99, CV 0.2", || Autoregressive { phi: 0.99, spread: 0.2, x: None }, 0.05, 200, 0.89);
    check("M/M/1 times, load 0.5", || Queue { load: 0.5, wait: None }, 0.05, 200, 0.90);
    check("M/M/1 times, load 0.8", || Queue { load: 0.8, wait: None }, 0.10, 100, 0.88);
}

#[test]
fn what_is_asked_is_read() {
    let parse = |text: &str| text.parse::<UntilSpec>();
    let plain = parse("ci=5%").unwrap();
    assert_eq!((plain.ci, plain.metrics.len()), (0.05, 0));
    assert_eq!(plain.metrics(true), [PrecisionMetric::Ttft, PrecisionMetric::OutputThroughput]);
    assert_eq!(plain.metrics(false), [PrecisionMetric::Ttft]);
    let named = parse("ci=0.02, metric=tpot,metric=e2e").unwrap();
    assert_eq!((named.ci, named.metrics(true)), (0.02, vec![PrecisionMetric::Tpot, PrecisionMetric::E2e]));
    for (text, words) in [
        ("5%", "has no `=`"),
        ("ci=0", "no width"),
        ("ci=500%", "no width"),
        ("ci=5%,metric=p99", "no metric `p99`"),
        ("width=5%", "there is no `width`"),
        ("metric=ttft", "needs a width"),
    ] {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(words), "{text}: {error}");
    }
}

#[test]
fn all_metrics_must_be_known() {
    let mut watch = PrecisionWatch::new(0.05, &[PrecisionMetric::Ttft, PrecisionMetric::OutputThroughput]);
    (0..200).for_each(|_| watch.push(PrecisionMetric::Ttft, 50.0));
    assert!(!watch.is_satisfied());
    (0..200).for_each(|_| watch.push(PrecisionMetric::OutputThroughput, 0.0));
    assert!(!watch.is_satisfied(), "a mean of zero is known to no relative width");
    (0..200).for_each(|_| watch.push(PrecisionMetric::E2e, 1.0));
    let reports = watch.reports();
    assert_eq!(reports.iter().map(|report| report.is_reached).collect::<Vec<_>>(), [true, false]);
    assert_eq!((reports[1].reached, reports[1].mean), (None, Some(0.0)));
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "[a-z0-9=%.,_ -]{0,40}") {
        let _ = text.parse::<UntilSpec>();
    }

    #[test]
    fn any_series_gives_a_sane_estimate(values in prop::collection::vec(prop::num::f64::ANY, 0..500)) {
        let mut series = BatchMeans::new();
        for value in &values {
            series.push(value.clamp(-1e100, 1e100));
        }
        if let Some(estimate) = series.estimate() {
            prop_assert!(estimate.half_width >= 0.0 && estimate.mean.is_finite());
            prop_assert!((32..64).contains(&estimate.batches));
        }
    }
}
