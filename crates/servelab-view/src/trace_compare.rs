//! What `servelab trace compare` and `trace scaling` print.

use servelab_core::trace::compare::{GateOutcome, Group, TimeChange, TraceComparison};
use servelab_core::trace::scaling::{COLUMNS, Scaling};

use crate::text::document::Document;
use crate::text::number::{number, optional};
use crate::text::table::{Table, left, right};

/// Rows of each table that are printed.
const MOST_ROWS: usize = 12;

/// A comparison for a terminal: what accounts for most of the difference comes first.
pub fn compare_text(comparison: &TraceComparison, gates: &[GateOutcome], width: Option<usize>) -> String {
    let mut out = Document::default();
    let side = |side: &servelab_core::trace::compare::Side| {
        format!("{} ({} ranks, {} steps)", side.label, side.ranks, side.steps)
    };
    out.facts([("A", side(&comparison.a)), ("B", side(&comparison.b)), ("times", format!("per {}", comparison.per))]);
    out.bullets(comparison.notes.iter().cloned());
    let parts: Vec<&TimeChange> = comparison.changes.iter().filter(|change| change.group == Group::Part).collect();
    out.heading(2, "Where the time goes");
    out.table(times(&parts, comparison));
    out.heading(2, "What changed most");
    let mut rest: Vec<&TimeChange> =
        comparison.changes.iter().filter(|change| change.group != Group::Part && change.delta_ns != 0.0).collect();
    if rest.is_empty() {
        out.paragraph("No family and no kernel took another time.");
    }
    let left_out = rest.len().saturating_sub(MOST_ROWS);
    rest.truncate(MOST_ROWS);
    out.table(times(&rest, comparison));
    if left_out > 0 {
        out.paragraph(format!("{left_out} smaller changes are in --json."));
    }
    out.heading(2, "Metrics");
    let mut table = Table::new([left("metric"), right("A"), right("B"), right("change"), left("unit")]);
    for metric in comparison.metrics.iter().filter(|metric| metric.a.is_some() || metric.b.is_some()) {
        let change = metric.delta_percent.map_or_else(String::new, percent);
        table.row([metric.name.clone(), optional(metric.a), optional(metric.b), change, metric.unit.clone()]);
    }
    out.table(table);
    let one_sided = comparison.metrics.iter().filter(|metric| metric.a.is_some() != metric.b.is_some());
    out.bullets(one_sided.filter_map(|metric| Some(format!("{} — {}", metric.name, metric.absent.as_deref()?))));
    if !gates.is_empty() {
        out.heading(2, "Gates");
        let mut table = Table::new([left("gate"), left("outcome"), left("found")]);
        for gate in gates {
            let outcome = if gate.failed { "FAILED" } else { "passed" };
            table.row([gate.gate.clone(), outcome.to_owned(), gate.found.clone()]);
        }
        out.table(table);
    }
    out.to_text(width)
}

fn percent(change: f64) -> String {
    format!("{change:+.1} %")
}

fn times(changes: &[&TimeChange], comparison: &TraceComparison) -> Table {
    let unit = format!("ms per {}", comparison.per);
    let mut table = Table::new([
        left("what"),
        left("name"),
        right(format!("A, {unit}")),
        right("B"),
        right("B − A"),
        right("change"),
    ]);
    let ms = |nanos: Option<f64>| nanos.map_or_else(|| "–".to_owned(), |nanos| number(nanos / 1e6));
    for change in changes {
        let sign = if change.delta_ns > 0.0 { "+" } else { "" };
        let relative = match (change.a_ns, change.b_ns) {
            (None, _) => "new".to_owned(),
            (_, None) => "gone".to_owned(),
            _ => change.delta_percent.map_or_else(String::new, percent),
        };
        table.row([
            change.group.words().to_owned(),
            short_name(&change.name),
            ms(change.a_ns),
            ms(change.b_ns),
            format!("{sign}{}", number(change.delta_ns / 1e6)),
            relative,
        ]);
    }
    table
}

/// Kernels' names run to hundreds of characters; the beginning tells them apart.
pub(crate) fn short_name(name: &str) -> String {
    const MOST: usize = 60;
    if name.chars().count() <= MOST {
        return name.to_owned();
    }
    let mut short: String = name.chars().take(MOST - 1).collect();
    short.push('…');
    short
}

/// A scaling table for a terminal.
pub fn scaling_text(scaling: &Scaling, width: Option<usize>) -> String {
    let mut out = Document::default();
    let mut columns = vec![left("experiment"), right("GPUs"), right("steps")];
    columns.extend(
        COLUMNS
            .iter()
            .zip(&scaling.units)
            .map(|(name, unit)| right(if unit.is_empty() { (*name).to_owned() } else { format!("{name}, {unit}") })),
    );
    columns.extend([right("speed-up"), right("efficiency")]);
    let mut table = Table::new(columns);
    for row in &scaling.rows {
        let mut cells = vec![row.experiment.clone(), row.gpus.to_string(), row.steps.to_string()];
        cells.extend(row.metrics.iter().map(|value| value.map_or_else(|| "–".to_owned(), number)));
        cells.push(row.speedup.map_or_else(|| "–".to_owned(), |speedup| format!("{speedup:.2}×")));
        cells.push(row.efficiency.map_or_else(|| "–".to_owned(), |share| format!("{:.0} %", share * 100.0)));
        table.row(cells);
    }
    out.table(table.without_empty_columns());
    if let Some(basis) = &scaling.basis {
        out.paragraph(format!("Speed-up by {basis}, against the configuration with the fewest GPUs."));
    }
    out.bullets(scaling.notes.iter().cloned());
    for row in &scaling.rows {
        out.bullets(row.absent.iter().map(|reason| format!("{}: – {reason}", row.experiment)));
    }
    out.to_text(width)
}

#[cfg(test)]
mod tests {
    use servelab_core::trace::compare::{Gate, compare};
    use servelab_core::trace::scaling::scaling;
    use servelab_core::trace::{KernelFamily, Metric, RankSummary, TraceReport};

    use super::*;

    fn report(gemm_ns: i64, iteration_ms: f64) -> TraceReport {
        let mut report = TraceReport { steps: 10, ranks: vec![0], world_size: Some(1), ..TraceReport::default() };
        report.kernels.push(KernelFamily { family: "gemm".to_owned(), calls: 10, sum_ns: gemm_ns, share: 1.0 });
        report.per_rank.push(RankSummary {
            span_ns: 9,
            compute_ns: gemm_ns,
            idle_ns: 20_000_000,
            ..RankSummary::default()
        });
        report.metrics.insert("iteration_wall_clock".to_owned(), Metric::of(iteration_ms, "ms"));
        report
    }

    #[test]
    fn the_largest_change_is_read_first_and_gates_say_what_they_found() {
        let comparison = compare("before", &report(50_000_000, 7.0), "after", &report(80_000_000, 10.0));
        let gates: Vec<GateOutcome> = ["iteration_wall_clock>+5%"]
            .iter()
            .filter_map(|text| Gate::parse(text).unwrap().check(&comparison))
            .collect();
        let text = compare_text(&comparison, &gates, Some(110));
        assert!(text.contains("before (1 ranks, 10 steps)"), "{text}");
        assert!(text.contains("gemm") && text.contains("+60.0 %") && text.contains("+3 "), "{text}");
        assert!(text.contains("FAILED") && text.contains("+42.9 %"), "{text}");
        let same = compare("a", &report(1, 1.0), "b", &report(1, 1.0));
        assert!(compare_text(&same, &[], None).contains("No family and no kernel took another time."));
    }

    #[test]
    fn scaling_reads_as_a_table() {
        let mut two = report(10, 5.0);
        two.world_size = Some(2);
        let text = scaling_text(&scaling(&[("tp1".to_owned(), report(10, 8.0)), ("tp2".to_owned(), two)]), Some(120));
        assert!(text.contains("1.60×") && text.contains("80 %"), "{text}");
        assert!(text.contains("an iteration does the same work everywhere"), "{text}");
    }
}
