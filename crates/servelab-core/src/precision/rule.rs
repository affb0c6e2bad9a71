//! `--until ci=5%[,metric=NAME]`: what was asked, and the watch that decides. A decision is made only when a batch is
//! full, and only when it held at the look before as well: a look that happens to find a small variance is the way in
//! which such rules come to stop too early.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::batch_means::{BatchMeans, MeanEstimate};

/// Looks in a row that must be satisfied.
const LOOKS: u32 = 8;
/// Observations below which no decision is made.
const MIN_OBSERVATIONS: u64 = 128;
/// Correlation of neighbouring batches above which the series is too short to know its own spread.
const MAX_LAG1: f64 = 0.25;

/// A metric whose mean can be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PrecisionMetric {
    /// Mean TTFT.
    Ttft,
    /// Mean TTFT from the schedule.
    TtftSched,
    /// Mean TPOT.
    Tpot,
    /// Mean E2E time.
    E2e,
    /// Output tokens per second.
    OutputThroughput,
    /// Completed requests per second.
    RequestThroughput,
}

impl PrecisionMetric {
    /// Every metric.
    pub const ALL: [Self; 6] =
        [Self::Ttft, Self::TtftSched, Self::Tpot, Self::E2e, Self::OutputThroughput, Self::RequestThroughput];

    /// As typed and written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ttft => "ttft",
            Self::TtftSched => "ttft_sched",
            Self::Tpot => "tpot",
            Self::E2e => "e2e",
            Self::OutputThroughput => "output_throughput",
            Self::RequestThroughput => "request_throughput",
        }
    }

    /// True for amounts per time, whose observations are slices of time and not requests.
    pub fn is_rate(self) -> bool {
        matches!(self, Self::OutputThroughput | Self::RequestThroughput)
    }
}

impl fmt::Display for PrecisionMetric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// `ci=5%[,metric=NAME]…` as typed.
#[derive(Debug, Clone, PartialEq)]
pub struct UntilSpec {
    /// Relative half-width to reach (0–1).
    pub ci: f64,
    /// The metrics named; empty for the default.
    pub metrics: Vec<PrecisionMetric>,
}

/// Why it cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrecisionError {
    /// Not `name=value`.
    #[error("`{0}` has no `=`; write ci=5%")]
    NoValue(String),
    /// No usable width.
    #[error("`ci={0}` is no width between 0.1% and 100%")]
    Width(String),
    /// No such metric.
    #[error(
        "there is no metric `{0}` to wait for; use ttft, ttft_sched, tpot, e2e, output_throughput or request_throughput"
    )]
    Metric(String),
    /// No such setting.
    #[error("there is no `{0}` here; write ci=5% or ci=5%,metric=ttft")]
    Unknown(String),
    /// The width is missing.
    #[error("it needs a width: ci=5%")]
    NoWidth,
}

impl std::str::FromStr for UntilSpec {
    type Err = PrecisionError;

    fn from_str(text: &str) -> Result<Self, PrecisionError> {
        let mut ci = None;
        let mut metrics = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').ok_or_else(|| PrecisionError::NoValue(part.to_owned()))?;
            match (name.trim(), value.trim()) {
                ("ci", value) => ci = Some(fraction(value).ok_or_else(|| PrecisionError::Width(value.to_owned()))?),
                ("metric", value) => {
                    let metric = PrecisionMetric::ALL.into_iter().find(|metric| metric.name() == value);
                    let metric = metric.ok_or_else(|| PrecisionError::Metric(value.to_owned()))?;
                    if !metrics.contains(&metric) {
                        metrics.push(metric);
                    }
                }
                (other, _) => return Err(PrecisionError::Unknown(other.to_owned())),
            }
        }
        Ok(Self { ci: ci.ok_or(PrecisionError::NoWidth)?, metrics })
    }
}

/// `5%` or `0.05`.
fn fraction(text: &str) -> Option<f64> {
    let value = match text.strip_suffix('%') {
        Some(percent) => percent.trim().parse::<f64>().ok()? / 100.0,
        None => text.parse::<f64>().ok()?,
    };
    (0.001..=1.0).contains(&value).then_some(value)
}

impl UntilSpec {
    /// The metrics to watch. Unless named: mean TTFT, and in a closed loop output tokens per second as well; in an open
    /// loop the throughput is the arrival rate, which is known.
    pub fn metrics(&self, is_closed: bool) -> Vec<PrecisionMetric> {
        match (self.metrics.as_slice(), is_closed) {
            ([], true) => vec![PrecisionMetric::Ttft, PrecisionMetric::OutputThroughput],
            ([], false) => vec![PrecisionMetric::Ttft],
            (named, _) => named.to_vec(),
        }
    }
}

/// One metric under watch.
#[derive(Debug, Clone)]
pub struct PrecisionRule {
    series: BatchMeans,
    ci: f64,
    in_a_row: u32,
}

impl PrecisionRule {
    /// Waits for a relative half-width of `ci`.
    pub fn new(ci: f64) -> Self {
        Self { series: BatchMeans::new(), ci, in_a_row: 0 }
    }

    /// Adds one observation; true when the mean is known well enough.
    pub fn push(&mut self, value: f64) -> bool {
        if self.series.push(value) {
            let is_narrow = self.series.count() >= MIN_OBSERVATIONS
                && self
                    .series
                    .estimate()
                    .is_some_and(|estimate| estimate.relative() <= self.ci && estimate.lag1 <= MAX_LAG1);
            self.in_a_row = if is_narrow { self.in_a_row + 1 } else { 0 };
        }
        self.is_satisfied()
    }

    /// It was narrow enough at the last looks.
    pub fn is_satisfied(&self) -> bool {
        self.in_a_row >= LOOKS
    }

    /// What is known now.
    pub fn estimate(&self) -> Option<MeanEstimate> {
        self.series.estimate()
    }
}

/// All metrics under watch.
#[derive(Debug, Clone)]
pub struct PrecisionWatch {
    rules: Vec<(PrecisionMetric, PrecisionRule)>,
}

impl PrecisionWatch {
    /// Watches `metrics` until each is known to `ci`.
    pub fn new(ci: f64, metrics: &[PrecisionMetric]) -> Self {
        Self { rules: metrics.iter().map(|metric| (*metric, PrecisionRule::new(ci))).collect() }
    }

    /// Adds an observation of a metric; others than the watched ones are ignored.
    pub fn push(&mut self, metric: PrecisionMetric, value: f64) {
        for (watched, rule) in &mut self.rules {
            if *watched == metric {
                rule.push(value);
            }
        }
    }

    /// Every watched metric is known well enough.
    pub fn is_satisfied(&self) -> bool {
        self.rules.iter().all(|(_, rule)| rule.is_satisfied())
    }

    /// True when the metric is watched.
    pub fn watches(&self, metric: PrecisionMetric) -> bool {
        self.rules.iter().any(|(watched, _)| *watched == metric)
    }

    /// What is known of each metric.
    pub fn reports(&self) -> Vec<PrecisionReport> {
        let report = |(metric, rule): &(PrecisionMetric, PrecisionRule)| {
            let estimate = rule.estimate();
            PrecisionReport {
                metric: *metric,
                wanted: rule.ci,
                reached: estimate.map(|estimate| estimate.relative()).filter(|width| width.is_finite()),
                mean: estimate.map(|estimate| estimate.mean),
                observations: rule.series.count(),
                batches: estimate.map(|estimate| estimate.batches),
                is_reached: rule.is_satisfied(),
            }
        };
        self.rules.iter().map(report).collect()
    }
}

/// How well one metric was known when the run ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PrecisionReport {
    /// The metric.
    pub metric: PrecisionMetric,
    /// Wanted relative half-width of the 95 % interval.
    pub wanted: f64,
    /// Reached; `None` with too few observations.
    pub reached: Option<f64>,
    /// Mean over the batches: milliseconds, or amounts per second.
    pub mean: Option<f64>,
    /// Requests, or slices of time.
    pub observations: u64,
    /// Batches behind the interval.
    pub batches: Option<u64>,
    /// The rule was satisfied.
    pub is_reached: bool,
}
