//! The claims of a study's designs, each held against what was measured: every point of the design against the baseline,
//! under every workload and load that both have.

use servelab_core::plan::{Plan, PlannedPoint};
use servelab_core::study::Study;
use servelab_core::verdict::{Judgement, judge_claim};

use crate::results::ResultRow;
use crate::versus::{MetricVersus, VersusRequest, versus};

/// A claim and what became of it for one point under one condition.
#[derive(Debug, Clone, PartialEq)]
pub struct JudgedClaim {
    /// The design.
    pub design: String,
    /// The claim in words.
    pub text: String,
    /// The point's label.
    pub point: String,
    /// Workload and load in words.
    pub condition: String,
    /// Claimed change in percent.
    pub claimed_percent: [f64; 2],
    /// What was measured.
    pub measured: MetricVersus,
    /// Supported, contradicted, undecided.
    pub judgement: Judgement,
}

/// Judges every claim that names a metric and a change. Nothing without a baseline: a change needs one.
pub fn judge_claims(
    rows: &[ResultRow],
    plan: &Plan,
    study: &Study,
    value: &dyn Fn(&ResultRow, &str) -> Option<f64>,
    is_higher_better: &dyn Fn(&str) -> bool,
) -> Vec<JudgedClaim> {
    let mut out = Vec::new();
    for (name, design) in study.designs.iter() {
        let Some(claim) = &design.expect else { continue };
        let (Some(metric), Some(claimed_percent)) = (&claim.metric, claim.change_percent) else { continue };
        let Some(label) = design.baseline.as_ref().or(study.baseline.as_ref()) else { continue };
        let Some(baseline) = plan.points.iter().find(|point| point.labels.contains(label)) else { continue };
        let of = |point: &PlannedPoint| -> Vec<ResultRow> {
            rows.iter().filter(|row| row.point.id == point.id).cloned().collect()
        };
        let base_rows = of(baseline);
        let in_design = |point: &&PlannedPoint| point.id != baseline.id && point.designs.iter().any(|d| d == name);
        for point in plan.points.iter().filter(in_design) {
            let metrics = [metric.clone()];
            let request = VersusRequest {
                metrics: &metrics,
                value,
                is_higher_better,
                share_inputs: true,
                mix_simulated: false,
                margin: 0.02,
            };
            let found = versus(&base_rows, &of(point), &request);
            if !found.verdict.ok {
                continue;
            }
            for condition in found.conditions {
                out.extend(condition.metrics.into_iter().map(|measured| JudgedClaim {
                    design: name.to_owned(),
                    text: claim.text.clone(),
                    point: point.labels.first().cloned().unwrap_or_else(|| point.id.short().to_owned()),
                    condition: condition.condition.clone(),
                    claimed_percent,
                    judgement: judge_claim(&measured.comparison, claimed_percent),
                    measured,
                }));
            }
        }
    }
    out
}
