//! Where the search ended although the answer lies at its edge: the highest load, or the last value of a parameter towards
//! which the objective still improves. Nothing is said without evidence.

use servelab_store::design::{LOAD_FACTOR, design_effects};
use servelab_store::rank::{Direction, RepeatGroup};
use servelab_store::{ResultRow, varied_parameters};

use crate::report::ReportInput;
use crate::report::rows::unmixed;
use crate::text::number::number;

/// Above this p, corrected for the number of tests, a parameter has no effect to follow.
const P: f64 = 0.05;

/// What to try beyond the edges that the best candidate of a workload lies on.
pub(super) fn beyond(report: &ReportInput<'_>, workload: &str, best: &RepeatGroup) -> Vec<String> {
    let rows = unmixed(report.rows, report.mix_simulated);
    let rows: Vec<ResultRow> = rows.into_iter().filter(|row| row.cell.workload == workload).collect();
    let mut out: Vec<String> = highest_load(&rows, best).into_iter().collect();
    let value = |row: &ResultRow| report.objective.value(row);
    let found = design_effects(&rows, &varied_parameters(&rows), &value);
    let Some(row) = rows.iter().find(|row| row.point.id == best.point) else { return out };
    let towards = if report.objective.direction() == Direction::Maximise { 1.0 } else { -1.0 };
    for effects in &found {
        for (effect, p) in effects.model.main.iter().zip(&effects.p_main) {
            let Some(name) = effects.factors.get(effect.factor).filter(|name| *name != LOAD_FACTOR) else { continue };
            let Some(own) = row.parameter(name).and_then(serde_json::Value::as_f64) else { continue };
            let tried: Option<Vec<f64>> = effects
                .levels
                .get(effect.factor)
                .map(|levels| levels.iter().map(|level| level.parse().ok()).collect())
                .unwrap_or_default();
            let (Some(tried), Some(p)) = (tried, p.filter(|p| *p <= P)) else { continue };
            let gains: Vec<f64> = effect.levels.iter().map(|(gain, _)| towards * gain).collect();
            let is_best = |idx: usize| gains.get(idx).is_some_and(|gain| gains.iter().all(|other| other <= gain));
            let place = tried.iter().position(|value| *value == own);
            let side = match place {
                Some(idx) if idx + 1 == tried.len() && is_best(idx) => "above",
                Some(0) if is_best(0) => "below",
                _ => continue,
            };
            out.push(format!(
                "Try {name} {side} {}: it is the last value that was tried, and {} still improves towards it (p {}).",
                number(own),
                report.objective.title(),
                if p < 0.001 { "< 0.001".to_owned() } else { format!("= {p:.3}") }
            ));
        }
    }
    out
}

fn highest_load(rows: &[ResultRow], best: &RepeatGroup) -> Option<String> {
    let kind = best.load.split_whitespace().next()?;
    let levels = || {
        rows.iter().filter(|row| row.result.is_some() && row.cell.load.kind() == kind).map(|row| row.cell.load.value())
    };
    let highest = levels().fold(f64::NEG_INFINITY, f64::max);
    let lowest = levels().fold(f64::INFINITY, f64::min);
    (best.load_value >= highest && lowest < highest).then(|| {
        format!(
            "Measure higher loads: the best is at the highest that was tried ({}), so where it ends is not known.",
            best.load
        )
    })
}
