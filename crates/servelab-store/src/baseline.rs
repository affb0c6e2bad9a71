//! Every point against the study's baseline, condition by condition: what one changed setting is worth. A sweep makes many
//! such comparisons; their p values are adjusted for the expected share of false findings among what is found.

use std::collections::BTreeMap;

use servelab_core::ids::PointId;
use servelab_core::stats::{Comparison, benjamini_hochberg, compare_independent, compare_paired};

use crate::rank::{RepeatGroup, group_repeats};
use crate::results::ResultRow;

/// A point against the baseline under one workload and load.
#[derive(Debug, Clone, PartialEq)]
pub struct BaselineDifference {
    /// The point.
    pub point: PointId,
    /// Its labels.
    pub labels: Vec<String>,
    /// Workload.
    pub workload: String,
    /// Load in words.
    pub load: String,
    /// Differences are point − baseline.
    pub comparison: Comparison,
    /// p over all of them (Benjamini and Hochberg); `None` with one repeat.
    pub p_adjusted: Option<f64>,
}

/// Compares; nothing where the baseline has no believed cell. Repeats with the same number saw the same prompts.
pub fn against_baseline(
    rows: &[ResultRow],
    baseline: &PointId,
    value: &dyn Fn(&ResultRow) -> Option<f64>,
) -> Vec<BaselineDifference> {
    let groups = group_repeats(rows, value);
    let values = |group: &RepeatGroup| -> Vec<(u32, f64)> {
        let own = group.rows.iter().filter_map(|idx| rows.get(*idx));
        own.filter_map(|row| Some((row.cell.repeat, value(row)?))).collect()
    };
    let of_baseline: BTreeMap<(&str, &str), Vec<(u32, f64)>> = groups
        .iter()
        .filter(|group| group.point == *baseline && !group.rows.is_empty())
        .map(|group| ((group.workload.as_str(), group.load.as_str()), values(group)))
        .collect();
    let mut out: Vec<BaselineDifference> = groups
        .iter()
        .filter(|group| group.point != *baseline && !group.rows.is_empty())
        .filter_map(|group| {
            let reference = of_baseline.get(&(group.workload.as_str(), group.load.as_str()))?;
            Some(BaselineDifference {
                point: group.point.clone(),
                labels: group.labels.clone(),
                workload: group.workload.clone(),
                load: group.load.clone(),
                comparison: compared(reference, &values(group))?,
                p_adjusted: None,
            })
        })
        .collect();
    let known: Vec<f64> = out.iter().filter_map(|found| found.comparison.p).collect();
    let mut adjusted = benjamini_hochberg(&known).into_iter();
    for found in &mut out {
        found.p_adjusted = found.comparison.p.and_then(|_| adjusted.next());
    }
    out
}

/// Paired where both have the same repeats, at least two; otherwise independent.
pub(crate) fn compared(baseline: &[(u32, f64)], candidate: &[(u32, f64)]) -> Option<Comparison> {
    let pairs: Vec<(f64, f64)> = baseline
        .iter()
        .filter_map(|(repeat, x)| Some((*x, candidate.iter().find(|(other, _)| other == repeat)?.1)))
        .collect();
    let plain = |side: &[(u32, f64)]| side.iter().map(|(_, x)| *x).collect::<Vec<_>>();
    if pairs.len() >= 2 && pairs.len() == baseline.len() && pairs.len() == candidate.len() {
        compare_paired(&pairs, 0)
    } else {
        compare_independent(&plain(baseline), &plain(candidate), 0)
    }
}
