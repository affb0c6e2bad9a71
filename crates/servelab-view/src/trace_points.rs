//! The traces section of a study's report.

use servelab_core::trace::TraceReport;

use crate::text::document::Document;
use crate::text::number::number;
use crate::text::table::{Table, left, right};

/// Metrics of a trace that stand beside a study's results, with their headers.
pub const TRACE_COLUMNS: [(&str, &str); 6] = [
    ("step_time", "step time"),
    ("ttft", "ttft"),
    ("tpot", "tpot"),
    ("comm_overhead", "communication"),
    ("comm_overhead_exposed", "exposed"),
    ("gpu_busy", "GPU busy"),
];

fn document(points: &[(&str, &TraceReport)]) -> Document {
    let mut out = Document::default();
    if points.is_empty() {
        return out;
    }
    out.heading(2, "Traces");
    out.paragraph("From profiler traces of these points. Profiling slows a run down: compare these numbers with each other, not with the measured ones.");
    let unit = |name: &str| {
        points.iter().find_map(|(_, report)| report.metrics.get(name)).map(|m| m.unit.as_str()).unwrap_or_default()
    };
    let mut columns = vec![left("point"), right("ranks"), right("steps")];
    columns.extend(TRACE_COLUMNS.iter().map(|(name, header)| match unit(name) {
        "" | "fraction" => right(*header),
        unit => right(format!("{header}, {unit}")),
    }));
    let mut table = Table::new(columns);
    let mut reasons: Vec<String> = Vec::new();
    for (label, report) in points {
        let mut cells = vec![(*label).to_owned(), report.ranks.len().to_string(), report.steps.to_string()];
        for (name, header) in TRACE_COLUMNS {
            let metric = report.metrics.get(name);
            cells.push(match metric.and_then(|metric| metric.value) {
                Some(value) if unit(name) == "fraction" => format!("{:.1} %", value * 100.0),
                Some(value) => number(value),
                None => "–".to_owned(),
            });
            if let Some(reason) = metric.and_then(|metric| metric.absent.as_deref()) {
                reasons.push(format!("{label}, {header}: {reason}"));
            }
        }
        table.row(cells);
    }
    out.table(table);
    out.bullets(reasons);
    out
}

/// For report.txt; empty without traces.
pub fn traces_of_points_txt(points: &[(&str, &TraceReport)]) -> String {
    if points.is_empty() { String::new() } else { document(points).to_text(None) }
}

/// For report.md; empty without traces.
pub fn traces_of_points_md(points: &[(&str, &TraceReport)]) -> String {
    if points.is_empty() { String::new() } else { document(points).to_markdown() }
}

#[cfg(test)]
mod tests {
    use servelab_core::trace::Metric;

    use super::*;

    #[test]
    fn shares_are_percent_and_absences_have_reasons() {
        let mut report = TraceReport { ranks: vec![0, 1], steps: 7, ..TraceReport::default() };
        report.metrics.insert("comm_overhead".to_owned(), Metric::of(0.197, "fraction"));
        report.metrics.insert("gpu_busy".to_owned(), Metric::absent("fraction", "no device event"));
        let text = traces_of_points_txt(&[("tp2", &report)]);
        assert!(text.contains("19.7 %") && text.contains("tp2, GPU busy: no device event"), "{text}");
        assert_eq!(traces_of_points_md(&[]), "");
    }
}
