//! Greedy answers of every point beside the baseline's: the accuracy guard in one table.

use std::collections::BTreeSet;

use super::ReportInput;
use super::rows::who;
use crate::text::document::Document;
use crate::text::number::{count, number};
use crate::text::table::{Table, left, right};

/// Nothing without a guard.
pub fn section(out: &mut Document, input: &ReportInput<'_>) {
    let Some(guard) = &input.study.accuracy else { return };
    if input.rows.iter().all(|row| row.accuracy.is_none() || row.result.is_none()) {
        return;
    }
    out.heading(2, "Accuracy");
    let mut table = Table::new([
        left("Exp"),
        right("Compared"),
        right("Exact match"),
        right("Parts at token"),
        right("Token KL (nats)"),
        right("Largest KL"),
        left("Remark"),
    ]);
    let mut seen = BTreeSet::new();
    for row in input.rows.iter().filter(|row| row.result.is_some() && seen.insert(row.point.id.clone())) {
        let (report, reason) = match &row.accuracy {
            Some(Ok(report)) => (report.clone(), report.no_kl.clone().unwrap_or_default()),
            Some(Err(reason)) => (Default::default(), format!("not compared: {reason}")),
            None => continue,
        };
        let is_too_low = report.exact_match_rate.is_some_and(|exact| 1.0 - exact > guard.max_mismatch + 1e-12);
        let is_baseline = input.study.baseline.as_ref().is_some_and(|label| row.point.labels.contains(label));
        let words = [
            is_baseline.then(|| "baseline".to_owned()),
            is_too_low.then(|| "accuracy_drop".to_owned()),
            (report.unanswered > 0).then(|| format!("{} not answered", report.unanswered)),
            Some(reason).filter(|reason| !reason.is_empty() && !is_baseline),
        ];
        let shown = |value: Option<f64>| value.map(number).unwrap_or_default();
        table.row([
            who(row),
            if report.compared > 0 { count(report.compared) } else { String::new() },
            report.exact_match_rate.map(|exact| format!("{} %", number(100.0 * exact))).unwrap_or_default(),
            shown(report.first_divergence_median),
            shown(report.token_kl_mean),
            shown(report.token_kl_max),
            words.into_iter().flatten().collect::<Vec<_>>().join("; "),
        ]);
    }
    out.table(table.without_empty_columns());
    out.paragraph(format!(
        "Greedy answers of at most {} tokens to {} fixed prompts, one at a time, after the measured cells, compared with the \
         baseline's; more than {} % that differ are a verdict. KL is a lower bound from the most probable tokens, over the \
         positions with the same text before them.",
        guard.max_tokens,
        guard.prompts,
        number(100.0 * guard.max_mismatch)
    ));
}
