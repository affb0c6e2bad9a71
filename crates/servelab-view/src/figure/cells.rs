//! Figures of single cells: distributions, the state over time, requests one by one.

use servelab_store::{CellDetail, RequestDot, ResultRow};

use super::build::Scene;
use super::{Axis, Figure, Good, Kind, Series, short};
use crate::report::rows::who;

/// Cells shown at first.
const SHOWN: usize = 4;

pub(super) fn all(scene: &Scene<'_>) -> Vec<Figure> {
    let mut out = Vec::new();
    let cells: Vec<(&CellDetail, &ResultRow)> = scene
        .input
        .details
        .iter()
        .filter_map(|detail| Some((detail, scene.rows.iter().find(|row| row.cell.id == detail.cell)?)))
        .collect();
    if cells.is_empty() {
        return out;
    }
    out.extend(distributions(scene, &cells));
    out.extend(over_time(scene, &cells));
    out.extend(requests(scene, &cells));
    out
}

fn series(scene: &Scene<'_>, row: &ResultRow) -> Series {
    let repeat = if row.cell.repeat > 0 { format!(", repeat {}", row.cell.repeat + 1) } else { String::new() };
    Series {
        name: format!("{}, {}{repeat}", who(row), row.cell.load.describe()),
        hue: scene.hues.get(&row.point.id),
        gpus: row.point.gpus,
        simulated: row.is_simulated(),
        ..Series::default()
    }
}

/// Cells of one configuration would all have its colour: here each cell has its own.
fn recoloured(mut all: Vec<Series>) -> Vec<Series> {
    all.iter_mut().enumerate().for_each(|(hue, series)| series.hue = hue);
    all
}

fn distributions(scene: &Scene<'_>, cells: &[(&CellDetail, &ResultRow)]) -> Vec<Figure> {
    let named = [("ttft", "TTFT"), ("tpot", "TPOT"), ("itl", "ITL"), ("e2e", "End to end")];
    let figure = |(name, tab): (&'static str, &str)| {
        let of = |(detail, row): &(&CellDetail, &ResultRow)| {
            let values = detail.distributions.iter().find(|(known, _)| *known == name).map(|(_, values)| values)?;
            let last = values.len().saturating_sub(1).max(1) as f64;
            Some(Series {
                x: values.iter().map(|x| short(*x)).collect(),
                y: (0..values.len()).map(|i| short(i as f64 / last)).collect(),
                ..series(scene, row)
            })
        };
        let series = recoloured(cells.iter().filter_map(of).collect());
        let positive = series.iter().flat_map(|series| &series.x).all(|x| *x > 0.0);
        let axes = (
            Axis::new(format!("{tab} (ms)"), Good::Less).log(positive),
            Axis::new("Share of requests at or below", Good::Neither),
        );
        let axes = if name == "itl" { (axes.0, Axis::new("Share of tokens at or below", Good::Neither)) } else { axes };
        Figure {
            title: format!("Distribution of {tab}"),
            caption: "Successful requests of the window. Choose cells in the legend.".to_owned(),
            series,
            shown: SHOWN,
            ..scene.figure(&format!("cdf_{name}"), "cdf", tab, Kind::Curves, axes)
        }
    };
    named.into_iter().map(figure).collect()
}

fn over_time(scene: &Scene<'_>, cells: &[(&CellDetail, &ResultRow)]) -> Vec<Figure> {
    type Pick = fn(&CellDetail) -> Vec<(f64, f64)>;
    fn in_seconds(list: &[(i64, f64)]) -> Vec<(f64, f64)> {
        list.iter().map(|(t_ns, x)| (*t_ns as f64 / 1e9, *x)).collect()
    }
    let drawn: [(&str, &str, &str, Kind, Pick); 5] = [
        ("throughput", "Throughput", "Output tokens/s", Kind::Curves, |detail| detail.throughput.clone()),
        ("running", "Running", "Running requests", Kind::Steps, |detail| in_seconds(&detail.server.running)),
        ("waiting", "Waiting", "Waiting requests", Kind::Steps, |detail| in_seconds(&detail.server.waiting)),
        ("kv", "KV cache", "KV-cache usage (0 to 1)", Kind::Steps, |detail| in_seconds(&detail.server.kv_usage)),
        ("preemptions", "Preemptions", "Preemptions so far", Kind::Steps, |detail| {
            in_seconds(&detail.server.preemptions)
        }),
    ];
    let figure = |(id, tab, title, kind, pick): (&str, &str, &str, Kind, Pick)| {
        let of = |(detail, row): &(&CellDetail, &ResultRow)| {
            let mut points = pick(detail);
            if kind == Kind::Steps
                && let Some((_, value)) = points.last().copied()
            {
                points.push((detail.window_s, value));
            }
            Series {
                x: points.iter().map(|(x, _)| short(*x)).collect(),
                y: points.iter().map(|(_, y)| short(*y)).collect(),
                ..series(scene, row)
            }
        };
        let series = recoloured(cells.iter().map(of).collect());
        let axes = (Axis::new("Time since the window's start (s)", Good::Neither), Axis::new(title, Good::Neither));
        Figure {
            title: format!("{title} over time"),
            caption: "One line per cell. The server's own numbers come from its metrics page.".to_owned(),
            series: series.into_iter().filter(|series| !series.x.is_empty()).collect(),
            shown: SHOWN,
            ..scene.figure(&format!("time_{id}"), "time", tab, kind, axes)
        }
    };
    drawn.into_iter().map(figure).collect()
}

fn requests(scene: &Scene<'_>, cells: &[(&CellDetail, &ResultRow)]) -> Vec<Figure> {
    type Pick = fn(&RequestDot) -> Option<(f64, f64)>;
    let drawn: [(&str, &str, &str, &str, Pick); 4] = [
        ("ttft", "TTFT over time", "Sent after the window's start (s)", "TTFT (ms)", |dot| {
            Some((dot.sent_s, dot.ttft_ms?))
        }),
        ("e2e", "E2E over time", "Sent after the window's start (s)", "End to end (ms)", |dot| {
            Some((dot.sent_s, dot.e2e_ms?))
        }),
        ("ttft_input", "TTFT by prompt", "Prompt tokens", "TTFT (ms)", |dot| {
            Some((dot.input_tokens? as f64, dot.ttft_ms?))
        }),
        ("e2e_output", "E2E by answer", "Output tokens", "End to end (ms)", |dot| {
            Some((dot.output_tokens? as f64, dot.e2e_ms?))
        }),
    ];
    let figure = |(id, tab, x, y, pick): (&str, &str, &str, &str, Pick)| {
        let of = |(detail, row): &(&CellDetail, &ResultRow)| {
            let base = series(scene, row);
            let points: Vec<(f64, f64)> = detail.dots.iter().filter_map(pick).collect();
            let thinned = if detail.dots.len() < detail.n_requests {
                format!(" ({} of {} requests)", detail.dots.len(), detail.n_requests)
            } else {
                String::new()
            };
            Series {
                name: format!("{}{thinned}", base.name),
                x: points.iter().map(|(x, _)| short(*x)).collect(),
                y: points.iter().map(|(_, y)| short(*y)).collect(),
                ..base
            }
        };
        let axes = (Axis::new(x, Good::Neither), Axis::new(y, Good::Less));
        let failed: usize = cells.iter().flat_map(|(detail, _)| &detail.dots).filter(|dot| dot.is_failed).count();
        let failures = if failed > 0 {
            format!(" {failed} failed requests are drawn where they have a time.")
        } else {
            String::new()
        };
        Figure {
            title: tab.to_owned(),
            caption: format!("One dot per request of the window.{failures}"),
            series: recoloured(cells.iter().map(of).collect()),
            shown: 2,
            ..scene.figure(&format!("requests_{id}"), "requests", tab, Kind::Dots, axes)
        }
    };
    drawn.into_iter().map(figure).collect()
}
