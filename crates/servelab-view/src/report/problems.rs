//! What went wrong: failures by code with the line that gave them away and what to do, and verdict reasons by code. Words
//! come from the records and from the catalogue that `servelab explain` reads. Shared by report and status.

use std::collections::BTreeMap;

use servelab_core::codes::explain;
use servelab_core::failures::propose;
use servelab_core::result::Severity;
use servelab_core::state::CellState;
use servelab_store::ResultRow;

use super::rows::{cell, who};
use crate::plan::findings::some_of;
use crate::text::document::Document;
use crate::text::number::plural;
use crate::text::table::{Table, left, right};

/// Cells named per code before the rest is counted.
const NAMED: usize = 12;

/// Did this cell end without a result?
pub fn has_failed(state: CellState) -> bool {
    matches!(state, CellState::Failed | CellState::Timeout | CellState::Preempted | CellState::Cancelled)
}

/// Failures by code.
pub fn failures_section(out: &mut Document, rows: &[ResultRow]) {
    let failed: Vec<&ResultRow> = rows.iter().filter(|row| has_failed(row.state)).collect();
    if failed.is_empty() {
        return;
    }
    out.heading(2, "Failures");
    for (code, rows) in by_code(failed.into_iter().map(|row| (failure_code(row).to_owned(), row))) {
        out.heading(3, format!("{code}: {}", plural(rows.len() as u64, "cell")));
        out.facts(failure_facts(&code, &rows));
    }
}

fn by_code<'a, T>(items: impl Iterator<Item = (String, &'a T)>) -> BTreeMap<String, Vec<&'a T>> {
    let mut groups: BTreeMap<String, Vec<&T>> = BTreeMap::new();
    items.for_each(|(code, item)| groups.entry(code).or_default().push(item));
    groups
}

/// The code of a failed cell: the diagnosis, else the attempt's code, else the state itself.
pub fn failure_code(row: &ResultRow) -> &str {
    let diagnosed = row.failure.as_ref().map(|failure| failure.code.as_str());
    diagnosed.or(row.code.as_deref()).unwrap_or(row.state.name())
}

/// A neighbouring configuration for the first row that has one, and the lines that add it to the study.
fn proposal_facts(rows: &[&ResultRow]) -> Vec<(String, String)> {
    let of_row = |row: &ResultRow| {
        let report = row.failure.as_ref()?;
        propose(&report.code, &report.detail, &row.point.config)
    };
    let Some((row, proposal)) = rows.iter().find_map(|row| Some((*row, of_row(row)?))) else { return Vec::new() };
    let label = row.point.labels.first().map_or_else(|| row.point.id.short(), String::as_str);
    vec![
        ("proposal".to_owned(), proposal.describe()),
        ("add to `designs:`".to_owned(), proposal.design(label, &row.point.factors)),
    ]
}

fn failure_facts(code: &str, rows: &[&ResultRow]) -> Vec<(String, String)> {
    let mut facts = Vec::new();
    let mut fact = |name: &str, value: Option<String>| {
        facts.extend(value.filter(|value| !value.is_empty()).map(|value| (name.to_owned(), value)));
    };
    let report = rows.iter().find_map(|row| row.failure.as_ref());
    let known = explain(code);
    fact("what", report.map(|report| report.detail.clone()).or_else(|| known.map(|known| known.meaning.clone())));
    let line = report.and_then(|report| report.line.as_ref());
    fact("line", line.map(|line| line.trim().to_owned()));
    fact("in", report.and_then(|report| report.source.clone()));
    let advice = report.and_then(|report| report.advice.clone()).or_else(|| known.map(|known| known.advice.clone()));
    fact("advice", advice.or_else(|| Some(format!("`servelab explain {code}`"))));
    for (name, value) in proposal_facts(rows) {
        fact(&name, Some(value));
    }
    let cells: Vec<String> = rows.iter().map(|row| cell(row)).collect();
    fact("cells", Some(some_of_lines(&cells)));
    facts
}

fn some_of_lines(cells: &[String]) -> String {
    let shown = cells.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(" · ");
    let rest = cells.len().saturating_sub(NAMED);
    if rest == 0 { shown } else { format!("{shown} · and {}", plural(rest as u64, "other cell")) }
}

/// Verdict reasons by code, the disqualifying ones first.
pub fn verdicts_section(out: &mut Document, rows: &[ResultRow]) {
    let mut groups: BTreeMap<(Severity, &str), Vec<(&ResultRow, &str)>> = BTreeMap::new();
    for row in rows {
        for reason in row.verdict().iter().flat_map(|verdict| &verdict.reasons) {
            groups.entry((reason.severity, &reason.code)).or_default().push((row, &reason.detail));
        }
    }
    if groups.is_empty() {
        return;
    }
    out.heading(2, "Verdicts");
    for ((severity, code), found) in groups {
        let weight = match severity {
            Severity::Invalid => "invalid: must not be ranked",
            Severity::Warning => "warning: stands, with this remark",
        };
        out.heading(3, format!("{code} ({weight}): {}", plural(found.len() as u64, "cell")));
        if let Some(known) = explain(code) {
            out.paragraph(format!("{} {}", known.meaning, known.advice));
        }
        let mut table = Table::new([left("Cell"), left("Evidence")]);
        for (row, detail) in found.iter().take(NAMED) {
            table.row([cell(row), (*detail).to_owned()]);
        }
        out.table(table);
        let rest = found.len().saturating_sub(NAMED);
        if rest > 0 {
            out.paragraph(format!("… and {} more, in results.csv.", plural(rest as u64, "cell")));
        }
    }
}

/// What never could run, by reason.
pub fn infeasible_section(out: &mut Document, rows: &[ResultRow]) {
    let infeasible = rows.iter().filter(|row| row.state == CellState::Infeasible);
    let reason = |row: &ResultRow| row.code.clone().unwrap_or_else(|| "no reason recorded".to_owned());
    let groups = by_code(infeasible.map(|row| (reason(row), row)));
    if groups.is_empty() {
        return;
    }
    out.heading(2, "Infeasible");
    let mut table = Table::new([right("Cells"), left("Which"), left("Why")]);
    let mut proposals = Vec::new();
    for (reason, rows) in groups {
        proposals.extend(proposal_facts(&rows));
        let mut names: Vec<String> = Vec::new();
        for row in &rows {
            let name = format!("{} × {}", who(row), row.cell.workload);
            if !names.contains(&name) {
                names.push(name);
            }
        }
        table.row([rows.len().to_string(), some_of(&names, 4), reason]);
    }
    out.table(table);
    if !proposals.is_empty() {
        out.facts(proposals);
    }
}
