//! Every cell: the results table in the form of a hand-kept experiment log, and which SLOs and targets each cell meets.

use servelab_core::state::CellState;
use servelab_store::ResultRow;

use super::rows::{origin, status, who};
use super::{ReportInput, metric};
use crate::limits::{bound, meets};
use crate::names::{metric_title, metric_value};
use crate::plan::factors;
use crate::text::document::Document;
use crate::text::number::{ABSENT, number};
use crate::text::table::{Table, left, right};

/// Exp, Config, Dataset, TPS, Latency, Status, Notes.
pub fn section(out: &mut Document, input: &ReportInput<'_>) {
    if input.rows.is_empty() {
        return;
    }
    out.heading(2, "Results");
    let reference = factors::baseline(input.plan, input.study).or(input.plan.points.first());
    let has = Several::of(input.rows);
    let mut columns = vec![left("Exp"), left("Config"), left("Dataset"), left(if has.loads { "Load" } else { "" })];
    columns.push(right(if has.repeats { "Repeat" } else { "" }));
    columns.extend([right("TPS"), right("Latency"), left("Status"), left("Origin"), left("Notes")]);
    let mut table = Table::new(columns);
    for row in input.rows {
        let config = reference.map(|reference| factors::differences(&row.point, reference)).unwrap_or_default();
        let latency = row.metric("e2e_latency_mean_ms").map(|ms| format!("{} s", number(ms / 1e3)));
        let with_result = row.result.is_some();
        table.row([
            who(row),
            if config.is_empty() { "baseline".to_owned() } else { config },
            row.cell.workload.clone(),
            if has.loads { row.cell.load.describe() } else { String::new() },
            if has.repeats { (row.cell.repeat + 1).to_string() } else { String::new() },
            metric_value("throughput_tokens_per_sec", row.metric("throughput_tokens_per_sec")),
            latency.unwrap_or_else(|| ABSENT.to_owned()),
            status(row.state),
            if with_result { origin(row.is_simulated()).to_owned() } else { String::new() },
            notes(row),
        ]);
    }
    out.table(table.without_empty_columns());
    out.paragraph("TPS: output tokens per second. Latency: mean end to end.");
}

/// Which columns are worth their space.
struct Several {
    loads: bool,
    repeats: bool,
}

impl Several {
    fn of(rows: &[ResultRow]) -> Self {
        let first = rows.first().map(|row| row.cell.load.describe());
        Self {
            loads: rows.iter().any(|row| Some(row.cell.load.describe()) != first),
            repeats: rows.iter().any(|row| row.cell.repeat > 0),
        }
    }
}

fn notes(row: &ResultRow) -> String {
    let mut notes: Vec<String> = Vec::new();
    match (&row.failure, row.state) {
        (Some(failure), _) => notes.push(format!("{}: {}", failure.code, failure.detail)),
        (None, CellState::Done | CellState::Invalid) => {}
        (None, CellState::Infeasible) => notes.push("see Infeasible".to_owned()),
        (None, _) => notes.extend(row.code.clone()),
    }
    let reasons =
        row.verdict().map(|verdict| verdict.reasons.iter().map(|reason| reason.code.as_str()).collect::<Vec<_>>());
    notes.extend(reasons.filter(|codes| !codes.is_empty()).map(|codes| codes.join(", ")));
    notes.extend(row.problem.clone());
    notes.join("; ")
}

/// Which cells meet the SLO and which targets.
pub fn slo_section(out: &mut Document, input: &ReportInput<'_>) {
    let limits = &input.study.slo.cell.0;
    let targets = &input.study.targets;
    let with_result: Vec<&ResultRow> = input.rows.iter().filter(|row| row.result.is_some()).collect();
    if (limits.is_empty() && targets.is_empty()) || with_result.is_empty() {
        return;
    }
    let mut metrics: Vec<&str> = limits.keys().collect();
    for name in targets.iter().flat_map(|(_, target)| target.0.keys()) {
        if !metrics.contains(&name) {
            metrics.push(name);
        }
    }
    out.heading(2, "SLO and targets");
    let has = Several::of(input.rows);
    let mut columns = vec![left("Exp"), left("Dataset"), left(if has.loads { "Load" } else { "" })];
    columns.push(right(if has.repeats { "Repeat" } else { "" }));
    columns.extend(metrics.iter().map(|name| {
        let limit = limits.get(name).map(|limit| format!(" {}", bound(name, &[*limit]))).unwrap_or_default();
        right(format!("{}{limit}", metric_title(name)))
    }));
    columns.extend([left("SLO"), left("Targets met"), left("Origin")]);
    let mut table = Table::new(columns);
    for row in with_result {
        let mut cells = vec![who(row), row.cell.workload.clone()];
        cells.push(if has.loads { row.cell.load.describe() } else { String::new() });
        cells.push(if has.repeats { (row.cell.repeat + 1).to_string() } else { String::new() });
        cells.extend(metrics.iter().map(|name| {
            let value = metric(row, name);
            let failed =
                limits.get(name).is_some_and(|limit| !value.is_some_and(|value| meets(name, &[*limit], value)));
            format!("{}{}", metric_value(name, value), if failed { " ✗" } else { "" })
        }));
        cells.extend([slo_word(row, input), targets_met(row, input), origin(row.is_simulated()).to_owned()]);
        table.row(cells);
    }
    out.table(table.without_empty_columns());
}

fn slo_word(row: &ResultRow, input: &ReportInput<'_>) -> String {
    let limits = &input.study.slo.cell.0;
    let missing = limits.keys().any(|name| metric(row, name).is_none());
    let pass = limits.iter().all(|(name, limit)| metric(row, name).is_some_and(|value| meets(name, &[*limit], value)));
    let word = match (limits.is_empty(), pass, missing) {
        (true, ..) => return String::new(),
        (_, true, _) => "pass",
        (_, false, true) => "FAIL (value missing)",
        (_, false, false) => "FAIL",
    };
    match row.unranked_reason() {
        Some(reason) => format!("{word}, but {reason}"),
        None => word.to_owned(),
    }
}

fn targets_met(row: &ResultRow, input: &ReportInput<'_>) -> String {
    if input.study.targets.is_empty() {
        return String::new();
    }
    let met = input.study.targets.iter().filter(|(_, target)| {
        target.0.iter().all(|(name, bounds)| metric(row, name).is_some_and(|value| meets(name, &bounds.0, value)))
    });
    let names: Vec<&str> = met.map(|(name, _)| name).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
