//! Which configuration wins where: for each throughput that may be needed, who reaches it with the lowest TPOT.

use servelab_core::stats::regimes;

use crate::figure::Figure;
use crate::text::document::Document;
use crate::text::number::{exact, number};
use crate::text::table::{Table, left, right};

pub(super) fn section(out: &mut String, figures: &[Figure], per: Option<f64>) {
    let of = figures.iter().filter(|figure| figure.id.starts_with("throughput_vs_tpot"));
    for figure in of {
        let Some(table) = table(figure, per) else { continue };
        let mut document = Document::default();
        document.heading(3, format!("Who wins where, on {}", figure.workload));
        document.table(table);
        document.paragraph(
            "For a throughput that is needed: the configuration that reaches it with the lowest TPOT, straight lines between the loads \
             that were measured. Neighbours may be within noise: see the ranking.",
        );
        out.push_str(&document.to_html("regimes-"));
    }
}

/// From the lowest throughput up; `None` with fewer than two configurations.
pub(super) fn table(figure: &Figure, per: Option<f64>) -> Option<Table> {
    let curve = |series: &crate::figure::Series| {
        let scale = per.map_or(1.0, |per| per / f64::from(series.gpus.max(1)));
        series.x.iter().zip(&series.y).map(|(x, y)| (*x, y * scale)).collect::<Vec<_>>()
    };
    let curves: Vec<Vec<(f64, f64)>> = figure.series.iter().map(curve).collect();
    if curves.len() < 2 {
        return None;
    }
    let unit = per.map_or_else(
        || "tok/s".to_owned(),
        |per| format!("tok/s per {} GPU{}", exact(per), if per == 1.0 { "" } else { "s" }),
    );
    let mut table = Table::new([
        left(format!("Throughput needed ({unit})")),
        left("Configuration"),
        right("TPOT there (ms)"),
        right("Tokens/s of one user"),
    ]);
    let range = |from: f64, to: f64| {
        let (from, to) = (number(from), number(to));
        if from == to { from } else { format!("{from} to {to}") }
    };
    let found = regimes(&curves);
    let mut before = None;
    for (idx, regime) in found.iter().enumerate() {
        // Where one ends the next begins: between two levels.
        let to = found.get(idx + 1).map_or(regime.to_y, |next| f64::midpoint(regime.to_y, next.from_y));
        let needed = before.map_or_else(|| format!("up to {}", number(to)), |from| range(from, to));
        before = Some(to);
        table.row([
            needed,
            figure.series.get(regime.curve).map(|series| series.name.clone()).unwrap_or_default(),
            range(regime.from_x, regime.to_x),
            range(1e3 / regime.from_x, 1e3 / regime.to_x),
        ]);
    }
    Some(table)
}
