//! What to try next where a limit or a target is missed, and what became of the designs' claims. The rules are core's;
//! here it is decided for which cells they are asked.

use servelab_core::study::CellSlo;
use servelab_core::verdict::{Advice, AdviceEvidence, Complaint, advise};
use servelab_store::ResultRow;
use servelab_store::claims::judge_claims;

use super::rows::who;
use super::{ReportInput, metric};
use crate::limits::{bound, meets};
use crate::names::{is_higher_better, metric_title, metric_value};
use crate::text::document::Document;
use crate::text::number::number;
use crate::text::table::{Table, left, right};

/// Rows of the table of advice.
const LISTED: usize = 30;

/// The designs' claims with their judgement; claims in words only are repeated.
pub fn expectations(out: &mut Document, input: &ReportInput<'_>) {
    let designs = input.plan.designs.iter();
    let said: Vec<(&str, &str)> =
        designs.filter_map(|design| Some((design.name.as_str(), design.expect.as_deref()?))).collect();
    if said.is_empty() {
        return;
    }
    out.heading(2, "What was expected");
    out.facts(said);
    let judged = judge_claims(input.rows, input.plan, input.study, &metric, &is_higher_better);
    let mut table = Table::new([
        left("Design"),
        left("Point"),
        left("Condition"),
        left("Metric"),
        right("Claimed"),
        right("Measured"),
        left("95 % interval"),
        left("Judgement"),
    ]);
    for claim in &judged {
        let comparison = &claim.measured.comparison;
        let percent = |x: f64| format!("{:+.1} %", 100.0 * x / comparison.baseline.abs());
        let interval = &comparison.difference;
        let [from, to] = claim.claimed_percent;
        table.row([
            claim.design.clone(),
            claim.point.clone(),
            claim.condition.clone(),
            metric_title(&claim.measured.metric),
            format!("{} to {} %", number(from), number(to)),
            percent(interval.estimate),
            if interval.low.is_finite() {
                format!("{} to {}", percent(interval.low), percent(interval.high))
            } else {
                "not known".to_owned()
            },
            claim.judgement.name().to_uppercase(),
        ]);
    }
    out.table(table);
}

/// Advice for cells that miss the SLO or every target.
pub fn section(out: &mut Document, input: &ReportInput<'_>) {
    let mut table =
        Table::new([left("Exp"), left("Dataset"), left("Load"), left("Missed"), left("Try"), left("Because")]);
    let mut rows = 0;
    for row in input.rows.iter().filter(|row| row.cell.repeat == 0) {
        for (missed, advice) in of_row(row, input) {
            rows += 1;
            if rows <= LISTED {
                let what = format!("{}: {}", advice.setting, advice.change);
                let load = row.cell.load.describe();
                table.row([who(row), row.cell.workload.clone(), load, missed, what, advice.because]);
            }
        }
    }
    if rows == 0 {
        return;
    }
    out.heading(2, "What to try");
    out.table(table);
    if rows > LISTED {
        out.paragraph(format!("… and {} more.", rows - LISTED));
    }
    out.paragraph(
        "Each line rests on the evidence beside it, from one cell. Change one setting at a time and measure.",
    );
}

/// What to try for one cell, each with what it misses.
pub fn of_row(row: &ResultRow, input: &ReportInput<'_>) -> Vec<(String, Advice)> {
    let Some(result) = &row.result else { return Vec::new() };
    let evidence = evidence(row, AdviceEvidence::of(result));
    let of = |(complaint, missed): (Complaint, String)| {
        advise(complaint, &evidence).into_iter().map(move |advice| (missed.clone(), advice)).collect::<Vec<_>>()
    };
    complaints(row, input).into_iter().flat_map(of).collect()
}

fn evidence<'a>(row: &ResultRow, evidence: AdviceEvidence<'a>) -> AdviceEvidence<'a> {
    let setting = |name: &str| row.parameter(name).and_then(serde_json::Value::as_f64);
    let engines = setting("dp").unwrap_or(1.0).max(1.0) * setting("replicas").unwrap_or(1.0).max(1.0);
    let dtype = row.parameter("kv_cache_dtype").and_then(serde_json::Value::as_str);
    AdviceEvidence {
        max_num_seqs: setting("max_num_seqs").map(|limit| limit * engines),
        max_num_batched_tokens: setting("max_num_batched_tokens"),
        gpu_memory_utilization: setting("gpu_memory_utilization"),
        kv_cache_is_fp8: dtype.map(|dtype| dtype.starts_with("fp8")),
        ..evidence
    }
}

/// What a cell misses: limits of the SLO, and the least of the targets.
fn complaints(row: &ResultRow, input: &ReportInput<'_>) -> Vec<(Complaint, String)> {
    let limits = input.study.slo.cell.0.iter().map(|(name, limit)| (name.to_owned(), vec![*limit]));
    let first_target = input.study.targets.iter().next();
    let targets = first_target
        .into_iter()
        .flat_map(|(_, target)| target.0.iter())
        .map(|(name, b)| (name.to_owned(), b.0.clone()));
    let mut out: Vec<(Complaint, String)> = Vec::new();
    for (name, bounds) in limits.chain(targets) {
        let Some(value) = metric(row, &name).filter(|value| !meets(&name, &bounds, *value)) else { continue };
        let complaint = if name.starts_with("throughput") || name.starts_with("goodput") {
            Complaint::LowThroughput
        } else if name.starts_with("ttft") || name.starts_with("e2e") {
            Complaint::HighTtft
        } else if name.starts_with("itl") || name.starts_with("tpot") || name.starts_with("icl") {
            Complaint::HighItl
        } else {
            continue;
        };
        let wanted =
            if CellSlo::is_floor(&name) { bounds.iter().copied().reduce(f64::min) } else { bounds.last().copied() };
        let wanted = bound(&name, &[wanted.unwrap_or(0.0)]);
        let missed = format!("{} {}, wanted {wanted}", metric_title(&name), metric_value(&name, Some(value)));
        if !out.iter().any(|(known, _)| *known == complaint) {
            out.push((complaint, missed));
        }
    }
    out
}
