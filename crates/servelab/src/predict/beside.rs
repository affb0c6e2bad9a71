//! Predictions beside measurements: columns of the results table and a section of the report. A cell that was simulated
//! itself is compared too, and says so: agreement of the simulator with itself is no evidence.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use servelab_store::{CellValue, Column, ColumnKind, ResultRow, Table};

use servelab_view::PredictedPair;

use super::PredictedCell;

const COLUMNS: [&str; 6] = [
    "predicted_throughput_tokens_per_sec",
    "predicted_ttft_mean_ms",
    "predicted_ttft_p95_ms",
    "predicted_tpot_mean_ms",
    "predicted_itl_p95_ms",
    "predicted_e2e_mean_ms",
];

fn by_cell<'a, 'p>(cells: &'a [PredictedCell<'p>]) -> BTreeMap<&'a str, &'a PredictedCell<'p>> {
    cells.iter().map(|cell| (cell.cell.id.as_str(), cell)).collect()
}

/// Adds the predicted columns and the label.
pub(crate) fn add_columns(table: &mut Table, rows: &[ResultRow], cells: &[PredictedCell<'_>]) {
    let known = by_cell(cells);
    for name in COLUMNS {
        table.columns.push(Column { name: name.to_owned(), kind: ColumnKind::Float });
    }
    table.columns.push(Column { name: "prediction_label".to_owned(), kind: ColumnKind::Text });
    for (out, row) in table.rows.iter_mut().zip(rows) {
        let cell = known.get(row.cell.id.as_str());
        let prediction = cell.and_then(|cell| cell.outcome.as_ref().ok());
        let values = match (cell, prediction) {
            (Some(cell), Some(p)) => {
                [cell.throughput(), p.ttft_ms.mean, p.ttft_ms.p95, p.tpot_ms.mean, p.itl_ms.p95, p.e2e_ms.mean]
            }
            _ => [None; 6],
        };
        out.extend(values.map(|value| value.map_or(CellValue::Null, CellValue::Float)));
        out.push(prediction.map_or(CellValue::Null, |p| CellValue::Text(p.label.name().to_owned())));
    }
}

/// The section: each measured cell with its prediction and the error, then the mean errors.
pub(crate) fn section(rows: &[ResultRow], cells: &[PredictedCell<'_>]) -> String {
    let known = by_cell(cells);
    let mut out = String::from("Predicted beside measured\n");
    let mut sums: BTreeMap<&str, (f64, usize)> = BTreeMap::new();
    let mut labels: Vec<&str> = Vec::new();
    let _ = writeln!(out, "  {:24} {:>22} {:>22} {:>22}", "point, load", "TTFT mean ms", "TPOT mean ms", "tokens/s");
    for row in rows {
        let (Some(result), Some(cell)) = (&row.result, known.get(row.cell.id.as_str())) else { continue };
        let Ok(p) = &cell.outcome else { continue };
        labels.push(p.label.name());
        let mut show = |name: &'static str, predicted: Option<f64>, measured: Option<f64>| -> String {
            let (Some(predicted), Some(measured)) = (predicted, measured.filter(|value| *value > 0.0)) else {
                return "-".to_owned();
            };
            let error = predicted / measured - 1.0;
            let sum = sums.entry(name).or_default();
            *sum = (sum.0 + error.abs(), sum.1 + 1);
            format!("{predicted:.1} / {measured:.1} {:+.0} %", 100.0 * error)
        };
        let label = row.point.labels.first().map_or("-", String::as_str);
        let name: String = format!("{label}, {}", row.cell.load.describe()).chars().take(24).collect();
        let ttft = show("TTFT", p.ttft_ms.mean, result.latency_ms.ttft.mean);
        let tpot = show("TPOT", p.tpot_ms.mean, result.latency_ms.tpot.mean);
        let rate = show("throughput", cell.throughput(), Some(result.throughput.output_tokens_per_s));
        let _ = writeln!(out, "  {name:24} {ttft:>22} {tpot:>22} {rate:>22}");
    }
    if sums.is_empty() {
        return "Predicted beside measured\n  no cell has both a measurement and a prediction\n".to_owned();
    }
    labels.sort_unstable();
    labels.dedup();
    let means: Vec<String> =
        sums.iter().map(|(name, (sum, n))| format!("{name} {:.1} %", 100.0 * sum / *n as f64)).collect();
    let _ = writeln!(out, "  mean absolute error: {}; predictions are {}", means.join(", "), labels.join(", "));
    if rows.iter().any(|row| row.result.is_some() && is_simulated(row)) {
        out.push_str(
            "  some of these cells were measured on the simulated engine: that says nothing about a real one\n",
        );
    }
    out
}

/// The pairs of the section's table, for figures.
pub(crate) fn pairs(rows: &[ResultRow], cells: &[PredictedCell<'_>]) -> Vec<PredictedPair> {
    let known = by_cell(cells);
    let mut out = Vec::new();
    for row in rows {
        let (Some(result), Some(cell)) = (&row.result, known.get(row.cell.id.as_str())) else { continue };
        let Ok(p) = &cell.outcome else { continue };
        let throughput = Some(result.throughput.output_tokens_per_s);
        let all = [
            ("throughput_tokens_per_sec", cell.throughput(), throughput),
            ("ttft_mean_ms", p.ttft_ms.mean, result.latency_ms.ttft.mean),
            ("tpot_mean_ms", p.tpot_ms.mean, result.latency_ms.tpot.mean),
            ("e2e_latency_mean_ms", p.e2e_ms.mean, result.latency_ms.e2e.mean),
        ];
        for (metric, predicted, measured) in all {
            let (Some(predicted), Some(measured)) = (predicted, measured.filter(|value| *value > 0.0)) else {
                continue;
            };
            out.push(PredictedPair {
                metric,
                workload: row.cell.workload.clone(),
                point: row.point.labels.first().cloned().unwrap_or_else(|| row.point.id.short().to_owned()),
                load: row.cell.load.describe(),
                predicted,
                measured,
            });
        }
    }
    out
}

/// The section for report.md.
pub(crate) fn markdown(rows: &[ResultRow], cells: &[PredictedCell<'_>]) -> String {
    type ByMetric = BTreeMap<&'static str, (f64, f64)>;
    let mut found: BTreeMap<(String, String, String), ByMetric> = BTreeMap::new();
    for pair in pairs(rows, cells) {
        let key = (pair.workload, pair.point, pair.load);
        found.entry(key).or_default().insert(pair.metric, (pair.predicted, pair.measured));
    }
    let mut out = String::from("## Predicted beside measured\n\n");
    if found.is_empty() {
        out.push_str("No cell has both a measurement and a prediction.\n");
        return out;
    }
    out.push_str("| Workload | Point | Load | TTFT mean (ms) | TPOT mean (ms) | Throughput (tok/s) |\n| --- | --- | --- | ---: | ---: | ---: |\n");
    let safe = |text: &str| text.replace('|', "\\|").replace('\n', " ");
    for ((workload, point, load), metrics) in &found {
        let show = |name: &str| {
            metrics.get(name).map_or_else(
                || "-".to_owned(),
                |(predicted, measured)| {
                    format!("{predicted:.1} / {measured:.1} ({:+.0} %)", 100.0 * (predicted / measured - 1.0))
                },
            )
        };
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} |",
            safe(workload),
            safe(point),
            safe(load),
            show("ttft_mean_ms"),
            show("tpot_mean_ms"),
            show("throughput_tokens_per_sec")
        );
    }
    out.push_str("\nPredicted / measured (error). Repeats of a cell share a line, which shows the last.");
    if rows.iter().any(|row| row.result.is_some() && is_simulated(row)) {
        out.push_str(" Some of these cells were measured on the simulated engine: that says nothing about a real one.");
    }
    out.push('\n');
    out
}

fn is_simulated(row: &ResultRow) -> bool {
    row.point.config.pointer("/engine/kind").and_then(|kind| kind.as_str()) == Some("sim")
}
