//! What a study as a whole says: effects of its parameters by a fitted model, a drift over the order of its runs, repeats
//! that stand apart. The statistics are core's; here rows become observations.

use std::collections::BTreeMap;

use serde_json::Value;
use servelab_core::stats::{ChangePoint, Drift, Effects, Observation, change_point, drift, effects, holm, outliers};

use crate::rank::group_repeats;
use crate::results::ResultRow;

/// The load level as a factor.
pub const LOAD_FACTOR: &str = "load";
/// A model with more coefficients than this is nobody's answer.
const MOST_FACTORS: usize = 12;

/// A fitted model with the names of what is in it.
#[derive(Debug, Clone, PartialEq)]
pub struct DesignEffects {
    /// Workload.
    pub workload: String,
    /// Factors by index.
    pub factors: Vec<String>,
    /// Levels of each factor by index, as text.
    pub levels: Vec<Vec<String>>,
    /// Effects on logarithms: e^x − 1 is the relative change. False when a value was not positive.
    pub is_relative: bool,
    /// The model.
    pub model: Effects,
    /// p of the main effects over the whole family (Holm), as in `model.main`.
    pub p_main: Vec<Option<f64>>,
    /// p of the interactions over the whole family (Holm), as in `model.interactions`.
    pub p_interactions: Vec<Option<f64>>,
    /// Rows behind it.
    pub n: usize,
}

/// One model per workload, over the rows that may be ranked. Parameters that take one value are left out.
pub fn design_effects(
    rows: &[ResultRow],
    parameters: &[String],
    value: &dyn Fn(&ResultRow) -> Option<f64>,
) -> Vec<DesignEffects> {
    let mut workloads: Vec<&str> = Vec::new();
    for row in rows {
        if !workloads.contains(&row.cell.workload.as_str()) {
            workloads.push(&row.cell.workload);
        }
    }
    workloads.into_iter().filter_map(|workload| of_workload(workload, rows, parameters, value)).collect()
}

fn of_workload(
    workload: &str,
    rows: &[ResultRow],
    parameters: &[String],
    value: &dyn Fn(&ResultRow) -> Option<f64>,
) -> Option<DesignEffects> {
    let usable: Vec<(&ResultRow, f64)> = rows
        .iter()
        .filter(|row| row.cell.workload == workload && row.unranked_reason().is_none())
        .filter_map(|row| Some((row, value(row).filter(|x| x.is_finite())?)))
        .collect();
    let text = |row: &ResultRow, factor: &str| match factor {
        LOAD_FACTOR => row.cell.load.describe(),
        factor => match row.parameter(factor) {
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
            None => "unset".to_owned(),
        },
    };
    let names = parameters.iter().map(String::as_str).chain([LOAD_FACTOR]);
    let mut factors: Vec<String> = Vec::new();
    let mut levels: Vec<Vec<String>> = Vec::new();
    for name in names {
        let mut seen: Vec<String> = Vec::new();
        for (row, _) in &usable {
            let level = text(row, name);
            if !seen.contains(&level) {
                seen.push(level);
            }
        }
        if seen.len() > 1 {
            seen.sort_by(|a, b| {
                natural(a).partial_cmp(&natural(b)).unwrap_or(std::cmp::Ordering::Equal).then(a.cmp(b))
            });
            factors.push(name.to_owned());
            levels.push(seen);
        }
    }
    if factors.is_empty() || factors.len() > MOST_FACTORS {
        return None;
    }
    let is_relative = usable.iter().all(|(_, x)| *x > 0.0);
    let observation = |(row, x): &(&ResultRow, f64)| {
        let level = |(name, levels): (&String, &Vec<String>)| levels.iter().position(|level| *level == text(row, name));
        let levels = factors.iter().zip(&levels).map(level).collect::<Option<Vec<usize>>>()?;
        Some(Observation { levels, value: if is_relative { x.ln() } else { *x } })
    };
    let observations: Vec<Observation> = usable.iter().filter_map(observation).collect();
    let model = effects(&observations)?;
    let all: Vec<Option<f64>> =
        model.main.iter().map(|effect| effect.p).chain(model.interactions.iter().map(|effect| effect.p)).collect();
    let known: Vec<f64> = all.iter().flatten().copied().collect();
    let mut adjusted = holm(&known).into_iter();
    let mut p: Vec<Option<f64>> = all.iter().map(|p| p.and_then(|_| adjusted.next())).collect();
    let p_interactions = p.split_off(model.main.len());
    let n = observations.len();
    Some(DesignEffects {
        workload: workload.to_owned(),
        factors,
        levels,
        is_relative,
        model,
        p_main: p,
        p_interactions,
        n,
    })
}

/// Sorts `closed 4` before `closed 16`: the words before the first number, then the number.
fn natural(text: &str) -> (&str, f64) {
    let is_number = |c: char| c.is_ascii_digit();
    let Some(start) = text.find(is_number) else { return (text, 0.0) };
    let start = if text.get(..start).is_some_and(|head| head.ends_with('-')) { start - 1 } else { start };
    let (words, rest) = text.split_at(start);
    let is_part = |(idx, c): &(usize, char)| c.is_ascii_digit() || *c == '.' || (*c == '-' && *idx == 0);
    let length = rest.char_indices().take_while(is_part).last().map_or(0, |(idx, c)| idx + c.len_utf8());
    (words, rest.get(..length).and_then(|number| number.parse().ok()).unwrap_or(0.0))
}

/// A repeat that stands apart from the others of its cell.
#[derive(Debug, Clone, PartialEq)]
pub struct OddRepeat {
    /// Label of the point.
    pub point: String,
    /// Workload and load in words.
    pub condition: String,
    /// Repeat number.
    pub repeat: u32,
    /// Its value.
    pub value: f64,
    /// Distance from the median in robust standard deviations.
    pub distance: f64,
}

/// Repeats more than 3.5 robust standard deviations from the others of their cell.
pub fn odd_repeats(rows: &[ResultRow], value: &dyn Fn(&ResultRow) -> Option<f64>) -> Vec<OddRepeat> {
    let mut out = Vec::new();
    for group in group_repeats(rows, value) {
        let members: Vec<(&ResultRow, f64)> =
            group.rows.iter().filter_map(|idx| rows.get(*idx)).filter_map(|row| Some((row, value(row)?))).collect();
        let values: Vec<f64> = members.iter().map(|(_, x)| *x).collect();
        for outlier in outliers(&values) {
            if let Some((row, x)) = members.get(outlier.idx) {
                out.push(OddRepeat {
                    point: group.labels.first().cloned().unwrap_or_else(|| group.point.short().to_owned()),
                    condition: format!("{}, {}", group.workload, group.load),
                    repeat: row.cell.repeat,
                    value: *x,
                    distance: outlier.distance,
                });
            }
        }
    }
    out
}

/// A drift over the order in which runs were made: each value divided by the mean of its cell's repeats, so that
/// configurations do not count. `None` where no cell was repeated or the order is not known.
pub fn study_drift(rows: &[ResultRow], value: &dyn Fn(&ResultRow) -> Option<f64>) -> Option<Drift> {
    drift(&in_order(rows, value))
}

/// A sudden change of level in the same series: something happened between two runs.
pub fn study_change(rows: &[ResultRow], value: &dyn Fn(&ResultRow) -> Option<f64>) -> Option<ChangePoint> {
    change_point(&in_order(rows, value), 0)
}

/// Values relative to the mean of their cell's repeats, in the order in which runs were made: by the clock where it is
/// known, else by their place in their server's start.
fn in_order(rows: &[ResultRow], value: &dyn Fn(&ResultRow) -> Option<f64>) -> Vec<f64> {
    let mut by_order: BTreeMap<(i64, u32, u32), f64> = BTreeMap::new();
    for group in group_repeats(rows, value) {
        let Some(stats) = group.stats.filter(|stats| stats.n > 1 && stats.mean != 0.0) else { continue };
        for row in group.rows.iter().filter_map(|idx| rows.get(*idx)) {
            let (Some(order), Some(x)) = (row.window.order, value(row)) else { continue };
            let clock =
                row.window.clock.map_or(0, |clock| clock.epoch_unix_ns.saturating_add(row.window.window_start_ns));
            by_order.insert((clock, order, by_order.len() as u32), x / stats.mean);
        }
    }
    by_order.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::natural;

    #[test]
    fn levels_in_the_order_of_their_numbers() {
        assert!(natural("closed 4") < natural("closed 16") && natural("-2") < natural("1e3"));
        assert_eq!(
            (natural("open 0.5/s poisson"), natural("pplx"), natural("a-1.")),
            (("open ", 0.5), ("pplx", 0.0), ("a", -1.0))
        );
    }
}
