//! Figures of a design: effects of parameters with their intervals, and fields over two parameters of a grid.

use servelab_core::metrics::RepeatStats;
use servelab_store::design::design_effects;
use servelab_store::{ResultRow, varied_parameters};

use super::build::Scene;
use super::{Axis, Figure, Good, Kind, Series, short};
use crate::text::number::{number, setting, slug};

/// Pairs of parameters that get a field.
const MOST_PAIRS: usize = 10;
/// Values of a parameter that fit on an axis.
const MOST_VALUES: usize = 40;

pub(super) fn effects(scene: &Scene<'_>) -> Vec<Figure> {
    let objective = scene.input.report.objective;
    let found = design_effects(scene.rows, &varied_parameters(scene.rows), &|row| objective.value(row));
    found
        .iter()
        .filter(|effects| !effects.model.main.is_empty())
        .map(|effects| {
            let mut categories = Vec::new();
            let mut series = Series::default();
            let shown = |x: f64| if effects.is_relative { 100.0 * x.exp_m1() } else { x };
            for (effect, p) in effects.model.main.iter().zip(&effects.p_main) {
                let name = effects.factors.get(effect.factor).map_or("?", String::as_str);
                let levels = effects.levels.get(effect.factor).map(Vec::as_slice).unwrap_or_default();
                for (level, (value, half)) in levels.iter().zip(&effect.levels) {
                    categories.push(format!("{name} = {level}"));
                    series.x.push(short(shown(*value)));
                    series.y.push(series.y.len() as f64);
                    series.low.push(half.map(|half| short(shown(value - half))));
                    series.high.push(half.map(|half| short(shown(value + half))));
                    let p = p.map_or_else(|| "p not known".to_owned(), |p| format!("p = {}", number(p)));
                    series.text.push(format!("{p} for {name} as a whole, corrected for the number of tests"));
                }
            }
            series.name = objective.title();
            let unit = if effects.is_relative { " (% of the geometric mean)" } else { "" };
            let x = Axis::new(format!("Effect on {}{unit}", objective.title()), Good::Neither);
            let y = Axis { categories, ..Axis::new("", Good::Neither) };
            let base = scene.figure("effects", "effects", "Effects", Kind::Intervals, (x, y));
            Figure {
                title: format!("Effects of parameters on {}", objective.title()),
                caption: format!(
                    "Least squares over {} cells; whiskers are 95 % intervals. An interval across zero says that nothing is known.",
                    effects.n
                ),
                series: vec![series],
                ..base
            }
        })
        .collect()
}

pub(super) fn grids(scene: &Scene<'_>) -> Vec<Figure> {
    let eligible: Vec<ResultRow> = scene.rows.iter().filter(|row| row.unranked_reason().is_none()).cloned().collect();
    let parameters = varied_parameters(&eligible);
    let axes: Vec<(&str, Vec<String>)> = parameters
        .iter()
        .map(|name| (name.as_str(), values(&eligible, name)))
        .filter(|(_, values)| (2..=MOST_VALUES).contains(&values.len()))
        .collect();
    let mut out = Vec::new();
    for (idx, first) in axes.iter().enumerate() {
        for second in axes.iter().skip(idx + 1) {
            if out.len() >= MOST_PAIRS {
                return out;
            }
            out.extend(grid(scene, &eligible, first, second));
        }
    }
    out
}

fn text(row: &ResultRow, name: &str) -> String {
    row.parameter(name).map_or_else(|| "unset".to_owned(), setting)
}

fn values(rows: &[ResultRow], name: &str) -> Vec<String> {
    let mut known: Vec<(Option<f64>, String)> = Vec::new();
    for row in rows {
        let value = text(row, name);
        if !known.iter().any(|(_, other)| *other == value) {
            known.push((row.parameter(name).and_then(serde_json::Value::as_f64), value));
        }
    }
    known.sort_by(|a, b| match (a.0, b.0) {
        (Some(a), Some(b)) => a.total_cmp(&b),
        _ => a.1.cmp(&b.1),
    });
    known.into_iter().map(|(_, value)| value).collect()
}

fn grid(
    scene: &Scene<'_>,
    rows: &[ResultRow],
    first: &(&str, Vec<String>),
    second: &(&str, Vec<String>),
) -> Option<Figure> {
    let objective = scene.input.report.objective;
    let mut series = Series { name: objective.title(), ..Series::default() };
    let mut counts: Vec<u64> = Vec::new();
    for (i, a) in first.1.iter().enumerate() {
        for (j, b) in second.1.iter().enumerate() {
            let own = rows.iter().filter(|row| text(row, first.0) == *a && text(row, second.0) == *b);
            let Some(stats) = RepeatStats::of(own.filter_map(|row| objective.value(row)).collect::<Vec<_>>()) else {
                continue;
            };
            counts.push(stats.n);
            series.x.push(i as f64);
            series.y.push(j as f64);
            series.low.push(Some(short(stats.mean)));
            series.text.push(format!("mean of {} cells, {} to {}", stats.n, number(stats.min), number(stats.max)));
        }
    }
    // A pair that was not crossed is no grid.
    if series.x.len() < first.1.len() + second.1.len() {
        return None;
    }
    let axis =
        |(name, values): &(&str, Vec<String>)| Axis { categories: values.clone(), ..Axis::new(*name, Good::Neither) };
    let id = format!("grid_{}_{}", slug(first.0), slug(second.0));
    let tab = format!("{} × {}", first.0, second.0);
    let base = scene.figure(&id, "grid", &tab, Kind::Heat, (axis(first), axis(second)));
    Some(Figure {
        title: format!("{} over {} and {}", objective.title(), first.0, second.0),
        caption: format!(
            "Means over all cells with both values, whatever else differs. Empty fields have no cell that counts.{}",
            if counts.windows(2).all(|pair| pair.first() == pair.last()) {
                ""
            } else {
                " NOT balanced: the fields rest on different numbers of cells, so they differ for other reasons too; trust the effects above."
            }
        ),
        series: vec![series],
        ..base
    })
}
