//! Result rows in words: who, under which load, measured or simulated, in which state. Shared by all tables of report and
//! status.

use servelab_core::state::CellState;
use servelab_store::ResultRow;

use crate::plan::findings::{some_of, spells_settings};

/// Labels of a row's point.
pub fn who(row: &ResultRow) -> String {
    names(&row.point.labels, row.point.id.short())
}

/// Labels of a point, or its short id where it has none or the label only spells out the settings.
pub fn names(labels: &[String], short_id: &str) -> String {
    match labels.first() {
        None => short_id.to_owned(),
        Some(label) if spells_settings(label) => short_id.to_owned(),
        Some(_) => some_of(labels, 3),
    }
}

/// One cell in a sentence: `1A, 8k, closed 4, repeat 2`.
pub fn cell(row: &ResultRow) -> String {
    let repeat = if row.cell.repeat > 0 { format!(", repeat {}", row.cell.repeat + 1) } else { String::new() };
    let simulated = if row.is_simulated() { " (simulated)" } else { "" };
    format!("{}, {}, {}{repeat}{simulated}", who(row), row.cell.workload, row.cell.load.describe())
}

/// The word that every table and sentence about numbers carries.
pub fn origin(simulated: bool) -> &'static str {
    if simulated { "simulated" } else { "measured" }
}

/// State with the sign that people look for in a long table.
pub fn status(state: CellState) -> String {
    let sign = match state {
        CellState::Done => "✅",
        CellState::Invalid => "❗",
        CellState::Failed | CellState::Timeout | CellState::Preempted => "❌",
        CellState::Infeasible => "🚫",
        CellState::Cancelled | CellState::Skipped => "➖",
        _ => "⏳",
    };
    format!("{sign} {}", state.name())
}

/// Rows by workload, in the order of the plan: results under different workloads are never ranked together.
pub fn by_workload(rows: &[ResultRow]) -> Vec<(String, Vec<ResultRow>)> {
    let mut groups: Vec<(String, Vec<ResultRow>)> = Vec::new();
    for row in rows {
        match groups.iter_mut().find(|(workload, _)| *workload == row.cell.workload) {
            Some((_, group)) => group.push(row.clone()),
            None => groups.push((row.cell.workload.clone(), vec![row.clone()])),
        }
    }
    groups
}

/// Rows without simulated ones, unless all that may be ranked are simulated or mixing was asked for.
pub fn unmixed(rows: &[ResultRow], mix_simulated: bool) -> Vec<ResultRow> {
    let has_measured = rows.iter().any(|row| !row.is_simulated() && row.unranked_reason().is_none());
    rows.iter().filter(|row| mix_simulated || !has_measured || !row.is_simulated()).cloned().collect()
}
