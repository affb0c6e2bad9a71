//! Two sets of results compared condition by condition (workload and load) and metric by metric. Which statistics are used
//! is decided in `servelab_core::stats`, what they come to in `verdict`; here rows are brought together.

use std::collections::BTreeSet;

use servelab_core::result::Verdict;
use servelab_core::stats::{Comparison, compare_independent, compare_paired, holm, repeats_needed};
use servelab_core::verdict::{Call, ComparisonEvidence, judge_comparison};

use crate::results::ResultRow;

/// What to compare, and how.
pub struct VersusRequest<'a> {
    /// Metrics by name.
    pub metrics: &'a [String],
    /// A metric's value of a row.
    pub value: &'a dyn Fn(&ResultRow, &str) -> Option<f64>,
    /// Is more of a metric better?
    pub is_higher_better: &'a dyn Fn(&str) -> bool,
    /// Repeats with the same number saw the same prompts and arrivals on both sides.
    pub share_inputs: bool,
    /// Let simulated and measured results be compared.
    pub mix_simulated: bool,
    /// Relative difference that does not matter.
    pub margin: f64,
}

/// One metric under one condition.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricVersus {
    /// Name.
    pub metric: String,
    /// What was found; differences are candidate − baseline.
    pub comparison: Comparison,
    /// p over the whole family of comparisons (Holm); `None` with one repeat.
    pub p_adjusted: Option<f64>,
    /// What it comes to.
    pub call: Call,
    /// Repeats of both sides that would settle a difference of this size (80 % power), when it is not settled.
    pub repeats_needed: Option<u64>,
}

/// All metrics under one condition.
#[derive(Debug, Clone, PartialEq)]
pub struct ConditionVersus {
    /// Workload and load in words.
    pub condition: String,
    /// The metrics that both sides have.
    pub metrics: Vec<MetricVersus>,
}

/// The whole comparison.
#[derive(Debug, Clone, PartialEq)]
pub struct Versus {
    /// Condition by condition.
    pub conditions: Vec<ConditionVersus>,
    /// May it be believed?
    pub verdict: Verdict,
}

/// Compares a candidate with a baseline.
pub fn versus(baseline: &[ResultRow], candidate: &[ResultRow], request: &VersusRequest<'_>) -> Versus {
    let (mut evidence, believed) = gather(baseline, candidate, request);
    let pairs = conditions(&believed.0, &believed.1, &mut evidence);
    let mut out: Vec<ConditionVersus> = Vec::new();
    for (condition, a, b) in pairs {
        evidence.fewest_repeats = evidence.fewest_repeats.min(a.len().min(b.len()) as u64);
        let metrics = request.metrics.iter().filter_map(|metric| compare(&a, &b, metric, request)).collect();
        out.push(ConditionVersus { condition, metrics });
    }
    if evidence.fewest_repeats == u64::MAX {
        evidence.fewest_repeats = 0;
    }
    let known: Vec<f64> = out.iter().flat_map(|c| &c.metrics).filter_map(|m| m.comparison.p).collect();
    let mut adjusted = holm(&known).into_iter();
    for found in out.iter_mut().flat_map(|condition| &mut condition.metrics) {
        found.p_adjusted = found.comparison.p.and_then(|_| adjusted.next());
        let is_higher_better = (request.is_higher_better)(&found.metric);
        found.call = Call::of(&found.comparison, found.p_adjusted, is_higher_better, request.margin);
        if found.call == Call::WithinNoise {
            found.repeats_needed = settle(&found.comparison);
        }
        evidence.metrics += 1;
        evidence.undecided += usize::from(matches!(found.call, Call::WithinNoise | Call::Unknown));
    }
    Versus { conditions: out, verdict: judge_comparison(&evidence) }
}

/// Repeats that would find the difference seen, with the scatter seen.
fn settle(found: &Comparison) -> Option<u64> {
    let n = found.n_baseline.min(found.n_candidate) as f64;
    let scatter = found.standard_error? * (if found.is_paired { n } else { n / 2.0 }).sqrt() / found.baseline.abs();
    repeats_needed(found.relative?, scatter, found.is_paired)
}

fn compare(a: &[&ResultRow], b: &[&ResultRow], metric: &str, request: &VersusRequest<'_>) -> Option<MetricVersus> {
    let values = |rows: &[&ResultRow]| -> Vec<(u32, f64)> {
        let value = |row: &&ResultRow| Some((row.cell.repeat, (request.value)(row, metric).filter(|x| x.is_finite())?));
        rows.iter().filter_map(value).collect()
    };
    let (a, b) = (values(a), values(b));
    let pairs: Vec<(f64, f64)> =
        a.iter().filter_map(|(repeat, x)| Some((*x, b.iter().find(|(other, _)| other == repeat)?.1))).collect();
    let is_paired = request.share_inputs && pairs.len() >= 2 && pairs.len() == a.len() && a.len() == b.len();
    let plain = |side: &[(u32, f64)]| side.iter().map(|(_, x)| *x).collect::<Vec<_>>();
    let comparison =
        if is_paired { compare_paired(&pairs, 0) } else { compare_independent(&plain(&a), &plain(&b), 0) }?;
    let metric = metric.to_owned();
    Some(MetricVersus { metric, comparison, p_adjusted: None, call: Call::Unknown, repeats_needed: None })
}

type Believed<'a> = (Vec<&'a ResultRow>, Vec<&'a ResultRow>);

fn gather<'a>(
    baseline: &'a [ResultRow],
    candidate: &'a [ResultRow],
    request: &VersusRequest<'_>,
) -> (ComparisonEvidence, Believed<'a>) {
    let mut evidence = ComparisonEvidence {
        mix_allowed: request.mix_simulated,
        fewest_repeats: u64::MAX,
        ..ComparisonEvidence::default()
    };
    let mut believed = |rows: &'a [ResultRow], side: &str| -> Vec<&'a ResultRow> {
        let (good, bad): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.unranked_reason().is_none());
        for row in bad {
            let reason = row.unranked_reason().unwrap_or_default();
            evidence.left_out.push(format!(
                "{side}, {}, repeat {}: {reason}",
                row.cell.load.describe(),
                row.cell.repeat
            ));
        }
        good
    };
    let (a, b) = (believed(baseline, "baseline"), believed(candidate, "candidate"));
    let all = || a.iter().chain(&b);
    let distinct = |values: Vec<String>| values.into_iter().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>();
    evidence.engine_versions =
        distinct(all().filter_map(|row| Some(format!("{} {}", row.engine()?, row.engine_version()?))).collect());
    evidence.gpu_models =
        distinct(all().map(|row| row.value("gpu_model").to_csv()).filter(|gpu| !gpu.is_empty()).collect());
    let is_simulated = |rows: &[&ResultRow]| rows.iter().any(|row| row.is_simulated());
    let is_measured = |rows: &[&ResultRow]| rows.iter().any(|row| !row.is_simulated());
    evidence.mixes_simulated = (is_simulated(&a) && is_measured(&b)) || (is_measured(&a) && is_simulated(&b));
    let content = |rows: &[&ResultRow]| -> Vec<String> {
        rows.iter().filter_map(|row| row.result.as_ref()).map(fingerprint).collect()
    };
    evidence.is_same_data = !a.is_empty() && content(&a) == content(&b);
    (evidence, (a, b))
}

fn fingerprint(result: &servelab_core::result::BenchResult) -> String {
    match &result.import {
        Some(import) => import.fingerprint.clone(),
        None => {
            serde_json::to_string(&(&result.latency_ms, &result.throughput, &result.duration_s)).unwrap_or_default()
        }
    }
}

/// Conditions that both have, in the order of the baseline. Two single conditions that differ are compared all the same.
fn conditions<'a>(
    a: &[&'a ResultRow],
    b: &[&'a ResultRow],
    evidence: &mut ComparisonEvidence,
) -> Vec<(String, Vec<&'a ResultRow>, Vec<&'a ResultRow>)> {
    let name = |row: &ResultRow| format!("{}, {}", row.cell.workload, row.cell.load.describe());
    let names = |rows: &[&ResultRow]| {
        let mut names: Vec<String> = Vec::new();
        for row in rows {
            let name = name(row);
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    };
    let (of_a, of_b) = (names(a), names(b));
    let of = |rows: &[&'a ResultRow], condition: &str| -> Vec<&'a ResultRow> {
        rows.iter().copied().filter(|row| name(row) == condition).collect()
    };
    let common: Vec<&String> = of_a.iter().filter(|name| of_b.contains(name)).collect();
    evidence.common_conditions = common.len();
    if let ([], [only_a], [only_b]) = (common.as_slice(), of_a.as_slice(), of_b.as_slice()) {
        evidence.differing_condition = Some((only_a.clone(), only_b.clone()));
        return vec![(format!("{only_a} against {only_b}"), a.to_vec(), b.to_vec())];
    }
    common.into_iter().map(|condition| (condition.clone(), of(a, condition), of(b, condition))).collect()
}
