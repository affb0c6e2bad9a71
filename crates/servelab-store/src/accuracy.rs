//! The accuracy guard over a results folder: every point's greedy answers beside the baseline point's, and the verdict
//! `accuracy_drop` on the cells of points that differ too much. Derived anew whenever rows are collected, because the
//! baseline may be measured after the points that are compared with it.

use std::collections::BTreeMap;

use servelab_core::accuracy::{AccuracyReport, AnswerSet, compare_answers};
use servelab_core::ids::PointId;
use servelab_core::result::{Severity, VerdictReason};

use crate::files::read_json_if_there;
use crate::results::ResultRow;
use crate::root::Root;

/// What the study demands.
#[derive(Debug, Clone, PartialEq)]
pub struct AccuracyGuard {
    /// The point that others are compared with; `None` when the study names none, or one that is not planned.
    pub baseline: Option<PointId>,
    /// Share of answers (0–1) that may differ.
    pub max_mismatch: f64,
}

/// Fills in every row's comparison, and the verdict where it is due.
pub(crate) fn judge_rows(root: &Root, guard: &AccuracyGuard, rows: &mut [ResultRow]) {
    let answers = |point: &PointId| -> Result<AnswerSet, String> {
        let path = root.point_dir(point).map_err(|error| error.to_string())?.join("answers.json");
        let set = read_json_if_there(&path).map_err(|error| error.to_string())?;
        set.ok_or_else(|| "it was not asked for answers yet".to_owned())
    };
    let baseline = match &guard.baseline {
        Some(point) => answers(point).map_err(|reason| format!("baseline: {reason}")),
        None => Err("the study names no baseline point".to_owned()),
    };
    let mut known: BTreeMap<PointId, Result<AccuracyReport, String>> = BTreeMap::new();
    for row in rows {
        let compared = known.entry(row.point.id.clone()).or_insert_with(|| {
            let baseline = baseline.as_ref().map_err(Clone::clone)?;
            compare_answers(baseline, &answers(&row.point.id)?).map_err(|error| error.to_string())
        });
        if let (Ok(report), Some(result)) = (&compared, &mut row.result)
            && let Some(reason) = drop_of(report, guard)
        {
            result.verdict.ok = false;
            result.verdict.reasons.insert(0, reason);
        }
        row.accuracy = Some(compared.clone());
    }
}

fn drop_of(report: &AccuracyReport, guard: &AccuracyGuard) -> Option<VerdictReason> {
    let exact = report.exact_match_rate?;
    if 1.0 - exact <= guard.max_mismatch + 1e-12 {
        return None;
    }
    let position = report.first_divergence_median.map(|at| format!(", parting at token {at} (median)"));
    let kl = report.token_kl_mean.map(|kl| format!(", mean token KL {kl:.4} nats"));
    let detail = format!(
        "{:.1} % of {} greedy answers differ from the baseline's; {:.1} % may{}{}",
        100.0 * (1.0 - exact),
        report.compared,
        100.0 * guard.max_mismatch,
        position.unwrap_or_default(),
        kl.unwrap_or_default(),
    );
    Some(VerdictReason { code: "accuracy_drop".to_owned(), detail, severity: Severity::Invalid })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_threshold_is_on_the_share_that_differs() {
        let guard = AccuracyGuard { baseline: None, max_mismatch: 0.05 };
        let report =
            |exact: f64| AccuracyReport { compared: 20, exact_match_rate: Some(exact), ..AccuracyReport::default() };
        assert_eq!(drop_of(&report(0.95), &guard), None);
        let reason = drop_of(&report(0.9), &guard).unwrap();
        assert!(reason.code == "accuracy_drop" && reason.detail.contains("10.0 % of 20"), "{}", reason.detail);
        assert_eq!(drop_of(&AccuracyReport::default(), &guard), None);
    }
}
