//! Traces that belong to points of a study: a report that was attached, or trace files in the folder of a point or an
//! attempt, which are measured when the study is reported. Profiling disturbs, so these numbers stand beside the measured
//! ones and never replace them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use servelab_core::trace::{TRACE_SCHEMA_VERSION, TraceReport};
use servelab_store::{CellValue, Column, ColumnKind, ResultRow, Root, Table};
use servelab_trace::{Taxonomy, input, load};
use servelab_view::{TRACE_COLUMNS, traces_of_points_md, traces_of_points_txt};

use crate::error::CommandError;

/// Folder in a point's folder, and in an attempt's folder: `profile`, `traces`.
pub(crate) const PROFILE_DIR: &str = "profile";
const TRACES_DIR: &str = "traces";
/// What `trace metrics --attach` writes.
pub(crate) const STORED_REPORT: &str = "trace_report.json";

/// Trace reports by cell.
#[derive(Debug, Default)]
pub(crate) struct PointTraces {
    by_cell: BTreeMap<String, (String, TraceReport)>,
    /// What could not be read.
    pub(crate) problems: Vec<String>,
}

impl PointTraces {
    /// Finds and reads them; a trace that cannot be read costs its numbers, not the report.
    pub(crate) fn find(root: &Root, rows: &[ResultRow]) -> Result<Self, CommandError> {
        let mut out = Self::default();
        let mut by_folder: BTreeMap<PathBuf, Option<TraceReport>> = BTreeMap::new();
        for row in rows {
            let mut folders = vec![root.point_dir(&row.point.id)?.join(PROFILE_DIR)];
            if let Some(attempt) = row.attempt {
                folders.insert(0, root.cell_dir(&row.cell.id)?.join(format!("attempt-{attempt}")).join(TRACES_DIR));
            }
            for folder in folders.into_iter().filter(|folder| folder.is_dir()) {
                let report = match by_folder.get(&folder) {
                    Some(known) => known.clone(),
                    None => {
                        let read = read(&folder);
                        let report = read.unwrap_or_else(|reason| {
                            out.problems.push(format!("the traces in `{}` are left out: {reason}", folder.display()));
                            None
                        });
                        by_folder.insert(folder.clone(), report.clone());
                        report
                    }
                };
                if let Some(report) = report {
                    let label = row.point.labels.first().cloned().unwrap_or_else(|| row.point.id.to_string());
                    out.by_cell.insert(row.cell.id.to_string(), (label, report));
                    break;
                }
            }
        }
        Ok(out)
    }

    /// Adds columns to the table of results; nothing when no cell has a trace.
    pub(crate) fn add_columns(&self, table: &mut Table, rows: &[ResultRow]) {
        if self.by_cell.is_empty() {
            return;
        }
        for (name, _) in TRACE_COLUMNS {
            table.columns.push(Column { name: format!("trace_{name}"), kind: ColumnKind::Float });
        }
        for (cells, row) in table.rows.iter_mut().zip(rows) {
            let report = self.by_cell.get(row.cell.id.as_str()).map(|(_, report)| report);
            for (name, _) in TRACE_COLUMNS {
                let value = report.and_then(|report| report.metrics.get(name)).and_then(|metric| metric.value);
                cells.push(value.map_or(CellValue::Null, CellValue::Float));
            }
        }
    }

    fn sections(&self) -> Vec<(&str, &TraceReport)> {
        let mut seen: Vec<(&str, &TraceReport)> = Vec::new();
        for (label, report) in self.by_cell.values() {
            if !seen.iter().any(|(known, same)| known == label && *same == report) {
                seen.push((label, report));
            }
        }
        seen.sort_by_key(|(label, _)| *label);
        seen
    }

    /// The section for report.txt; empty without traces.
    pub(crate) fn text(&self) -> String {
        traces_of_points_txt(&self.sections())
    }

    /// The section for report.md; empty without traces.
    pub(crate) fn markdown(&self) -> String {
        traces_of_points_md(&self.sections())
    }
}

/// The report that was attached, else that of the trace files in the folder; `None` when there is neither.
fn read(folder: &Path) -> Result<Option<TraceReport>, String> {
    let stored = folder.join(STORED_REPORT);
    if stored.is_file() {
        let text = std::fs::read(&stored).map_err(|error| error.to_string())?;
        let report: TraceReport = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
        if report.schema > TRACE_SCHEMA_VERSION {
            return Err(format!("{STORED_REPORT} has schema {}, newer than this version reads", report.schema));
        }
        return Ok(Some(report));
    }
    let is_empty = std::fs::read_dir(folder).map_err(|error| error.to_string())?.next().is_none();
    if is_empty {
        return Ok(None);
    }
    let taxonomy = Taxonomy::builtin().map_err(|error| error.to_string())?;
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let inputs = input::discover(&[folder.to_owned()]).map_err(|error| error.to_string())?;
    load::measure(&inputs, &taxonomy, threads).map(Some).map_err(|error| error.to_string())
}
