//! Which configuration wins where: the front of throughput against TPOT, cut into the stretches that one configuration
//! holds.

use servelab_core::stats::{Better, pareto_front, regimes};

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
            "For a throughput that is needed: the configuration that reaches it with the lowest TPOT, among those measured. Neighbours \
             may be within noise: see the ranking.",
        );
        out.push_str(&document.to_html("regimes-"));
    }
}

/// From the lowest throughput up; `None` with fewer than two places on the front.
pub(super) fn table(figure: &Figure, per: Option<f64>) -> Option<Table> {
    let mut spots: Vec<(f64, f64)> = Vec::new();
    let mut owners: Vec<(usize, usize)> = Vec::new();
    for (idx, series) in figure.series.iter().enumerate() {
        let scale = per.map_or(1.0, |per| per / f64::from(series.gpus.max(1)));
        for (place, (x, y)) in series.x.iter().zip(&series.y).enumerate() {
            spots.push((*x, y * scale));
            owners.push((idx, place));
        }
    }
    let front = pareto_front(&spots, Better { more_x: false, more_y: true });
    if front.len() < 2 {
        return None;
    }
    let owner = |spot: usize| owners.get(spot).map_or(0, |(series, _)| *series);
    let unit = per.map_or_else(
        || "tok/s".to_owned(),
        |per| format!("tok/s per {} GPU{}", exact(per), if per == 1.0 { "" } else { "s" }),
    );
    let mut table = Table::new([
        left(format!("Throughput needed ({unit})")),
        left("Configuration"),
        right("TPOT there (ms)"),
        left("At load"),
    ]);
    let y = |spot: &usize| spots.get(*spot).map_or(f64::NAN, |(_, y)| *y);
    let x = |spot: &usize| spots.get(*spot).map_or(f64::NAN, |(x, _)| *x);
    let mut from = 0.0;
    for regime in regimes(&front, &owner).iter().rev() {
        let to = regime.spots.iter().map(y).fold(0.0, f64::max);
        let range = |low: f64, high: f64| {
            if low == high { number(low) } else { format!("{} to {}", number(low), number(high)) }
        };
        let needed = if from == 0.0 { format!("up to {}", number(to)) } else { range(from, to) };
        let (least, most) = regime.spots.iter().map(x).fold((f64::INFINITY, 0.0_f64), |(a, b), x| (a.min(x), b.max(x)));
        let series = figure.series.get(regime.key);
        let loads: Vec<&str> = regime
            .spots
            .iter()
            .rev()
            .filter_map(|spot| series?.text.get(owners.get(*spot)?.1))
            .filter_map(|text| text.split(", n=").next())
            .collect();
        table.row([
            needed,
            series.map(|series| series.name.clone()).unwrap_or_default(),
            range(least, most),
            loads.join(", "),
        ]);
        from = to;
    }
    Some(table)
}
