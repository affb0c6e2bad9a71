//! Statistics over result rows: repeats grouped, rankings, per-parameter marginals. Whoever draws or prints them computes
//! nothing. A row that must not be believed never gets a rank, and its reason is kept.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use servelab_core::ids::{CellId, PointId};
use servelab_core::metrics::{RepeatStats, Told};
use servelab_core::stats::{Candidate, rank_with_ties};

use crate::results::ResultRow;

/// What is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// More is better.
    Maximise,
    /// Less is better.
    Minimise,
}

/// Which rows compete with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Everything: the best point at its best load.
    Overall,
    /// Ranks are given anew for every workload and load level.
    PerCondition,
}

/// What to rank by.
pub struct RankRequest<'a> {
    /// The objective's value of a row; `None` or a number that is not finite keeps the row out.
    pub value: &'a dyn Fn(&ResultRow) -> Option<f64>,
    /// What is good.
    pub direction: Direction,
    /// Who competes.
    pub scope: Scope,
    /// Let simulated rows compete with measured ones.
    pub mix_simulated: bool,
}

/// A row that was left out, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exclusion {
    /// The cell.
    pub cell: CellId,
    /// Repeat number.
    pub repeat: u32,
    /// Why.
    pub reason: String,
}

/// All repeats of one point under one workload and load level.
#[derive(Debug, Clone, PartialEq)]
pub struct RepeatGroup {
    /// The point.
    pub point: PointId,
    /// Its labels.
    pub labels: Vec<String>,
    /// Workload.
    pub workload: String,
    /// Load level in words.
    pub load: String,
    /// Load level as a number.
    pub load_value: f64,
    /// The numbers come from a simulator.
    pub simulated: bool,
    /// Engine versions that ran.
    pub engine_versions: Vec<String>,
    /// Mean and spread over the repeats that count; `None` when none does.
    pub stats: Option<RepeatStats>,
    /// Indices of the rows that count.
    pub rows: Vec<usize>,
    /// The repeats that do not count.
    pub excluded: Vec<Exclusion>,
}

/// A group with a rank.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranked {
    /// From 1; equal means share a rank.
    pub rank: u64,
    /// The group; its `stats` are present.
    pub group: RepeatGroup,
    /// Can it be told apart from the best of its competition, all comparisons allowed for? `None` for the best itself.
    pub versus_best: Option<Told>,
}

/// A ranking.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ranking {
    /// Best first; within [`Scope::PerCondition`] one condition after the other.
    pub ranked: Vec<Ranked>,
    /// Groups that got no rank, with the reasons in `excluded`.
    pub unranked: Vec<RepeatGroup>,
    /// What a reader must know about the comparison as a whole.
    pub warnings: Vec<String>,
}

/// Groups repeats, in the order of their first row.
pub fn group_repeats(rows: &[ResultRow], value: &dyn Fn(&ResultRow) -> Option<f64>) -> Vec<RepeatGroup> {
    let mut places: BTreeMap<(&PointId, &str, String), usize> = BTreeMap::new();
    let mut groups: Vec<RepeatGroup> = Vec::new();
    let mut values: Vec<Vec<f64>> = Vec::new();
    for (idx, row) in rows.iter().enumerate() {
        let load = row.cell.load.describe();
        let key = (&row.point.id, row.cell.workload.as_str(), load.clone());
        let place = *places.entry(key).or_insert(groups.len());
        if place == groups.len() {
            groups.push(RepeatGroup {
                point: row.point.id.clone(),
                labels: row.point.labels.clone(),
                workload: row.cell.workload.clone(),
                load,
                load_value: row.cell.load.value(),
                simulated: row.is_simulated(),
                engine_versions: Vec::new(),
                stats: None,
                rows: Vec::new(),
                excluded: Vec::new(),
            });
            values.push(Vec::new());
        }
        let (Some(group), Some(values)) = (groups.get_mut(place), values.get_mut(place)) else { continue };
        let reason = row.unranked_reason();
        match (reason, value(row).filter(|value| value.is_finite())) {
            (None, Some(value)) => {
                group.rows.push(idx);
                values.push(value);
                group.simulated |= row.is_simulated();
                let version = row.engine_version().unwrap_or("unknown").to_owned();
                if !group.engine_versions.contains(&version) {
                    group.engine_versions.push(version);
                }
            }
            (reason, _) => group.excluded.push(Exclusion {
                cell: row.cell.id.clone(),
                repeat: row.cell.repeat,
                reason: reason.unwrap_or_else(|| "the objective has no value here".to_owned()),
            }),
        }
    }
    for (group, values) in groups.iter_mut().zip(values) {
        group.stats = RepeatStats::of(values);
    }
    groups
}

/// Ranks the groups by the mean over their repeats (of logarithms where all values are positive, as `best` does).
pub fn rank(rows: &[ResultRow], request: &RankRequest<'_>) -> Ranking {
    let mut ranking = Ranking::default();
    let (mut eligible, unranked): (Vec<_>, Vec<_>) =
        group_repeats(rows, request.value).into_iter().partition(|group| group.stats.is_some());
    ranking.unranked = unranked;
    let has_measured = eligible.iter().any(|group| !group.simulated);
    if has_measured && !request.mix_simulated {
        let (simulated, measured): (Vec<_>, Vec<_>) = eligible.into_iter().partition(|group| group.simulated);
        eligible = measured;
        ranking.unranked.extend(simulated.into_iter().map(|mut group| {
            group.excluded.extend(group.rows.iter().filter_map(|idx| rows.get(*idx)).map(|row| Exclusion {
                cell: row.cell.id.clone(),
                repeat: row.cell.repeat,
                reason: "simulated, and measured results are ranked".to_owned(),
            }));
            group
        }));
    }
    ranking.warnings = warnings(&eligible);

    let mut conditions: Vec<Vec<RepeatGroup>> = Vec::new();
    let mut places: BTreeMap<(String, String), usize> = BTreeMap::new();
    for group in eligible {
        let key = match request.scope {
            Scope::Overall => Default::default(),
            Scope::PerCondition => (group.workload.clone(), group.load.clone()),
        };
        let place = *places.entry(key).or_insert(conditions.len());
        if place == conditions.len() {
            conditions.push(Vec::new());
        }
        if let Some(condition) = conditions.get_mut(place) {
            condition.push(group);
        }
    }
    for condition in conditions {
        ranking.ranked.extend(rank_condition(condition, rows, request));
    }
    ranking
}

fn rank_condition(mut groups: Vec<RepeatGroup>, rows: &[ResultRow], request: &RankRequest<'_>) -> Vec<Ranked> {
    let mean = |group: &RepeatGroup| group.stats.map_or(f64::NAN, |stats| stats.mean);
    groups.sort_by(|a, b| {
        let order = mean(a).total_cmp(&mean(b));
        let order = if request.direction == Direction::Maximise { order.reverse() } else { order };
        order.then_with(|| a.point.cmp(&b.point)).then_with(|| a.load_value.total_cmp(&b.load_value))
    });
    let candidate = |group: &RepeatGroup| {
        let own = group.rows.iter().filter_map(|idx| rows.get(*idx));
        Candidate { values: own.filter_map(|row| Some((row.cell.repeat, (request.value)(row)?))).collect() }
    };
    let candidates: Vec<Candidate> = groups.iter().map(candidate).collect();
    let ties = rank_with_ties(&candidates, request.direction == Direction::Maximise, true);
    let mut groups: Vec<Option<RepeatGroup>> = groups.into_iter().map(Some).collect();
    let mut ranked: Vec<Ranked> = Vec::with_capacity(groups.len());
    for place in &ties.places {
        let Some(group) = groups.get_mut(place.candidate).and_then(Option::take) else { continue };
        let told = match (ties.scatter, place.ties_with_best) {
            (None, _) => Told::Unknown,
            (Some(_), true) => Told::WithinNoise,
            (Some(_), false) => Told::Apart,
        };
        let equal =
            ranked.last().filter(|previous| mean(&previous.group) == mean(&group)).map(|previous| previous.rank);
        let versus_best = (place.rank > 1).then_some(told);
        ranked.push(Ranked { rank: equal.unwrap_or(place.rank), group, versus_best });
    }
    ranked
}

fn warnings(groups: &[RepeatGroup]) -> Vec<String> {
    let mut warnings = Vec::new();
    let versions: BTreeSet<&str> = groups.iter().flat_map(|g| g.engine_versions.iter().map(String::as_str)).collect();
    if versions.len() > 1 {
        let list: Vec<&str> = versions.into_iter().collect();
        warnings.push(format!("results of different engine versions are compared: {}", list.join(", ")));
    }
    let single = groups.iter().filter(|group| group.stats.is_some_and(|stats| stats.n < 2)).count();
    if single > 0 && groups.len() > 1 {
        warnings.push(format!(
            "{single} of {} entries rest on one repeat: their spread is unknown, so close ranks mean nothing",
            groups.len()
        ));
    }
    if groups.iter().any(|group| group.simulated) && groups.iter().any(|group| !group.simulated) {
        warnings.push("simulated and measured results are compared".to_owned());
    }
    warnings
}

/// Mean of a metric at one value of a parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct MarginalLevel {
    /// The parameter's value; `null` where a point does not have it.
    pub value: Value,
    /// Over all rows with that value.
    pub stats: RepeatStats,
}

/// How a metric depends on one parameter, averaged over everything else.
#[derive(Debug, Clone, PartialEq)]
pub struct Marginal {
    /// The parameter.
    pub parameter: String,
    /// Its values: numbers ascending, then the rest in text order.
    pub levels: Vec<MarginalLevel>,
    /// True when every value was seen with the same combinations of everything else; otherwise the means differ for
    /// other reasons too.
    pub is_balanced: bool,
}

/// Marginals of the rows that may be ranked. Parameters that take fewer than two values are left out.
pub fn marginals(
    rows: &[ResultRow],
    parameters: &[String],
    value: &dyn Fn(&ResultRow) -> Option<f64>,
) -> Vec<Marginal> {
    let eligible: Vec<(&ResultRow, f64)> = rows
        .iter()
        .filter(|row| row.unranked_reason().is_none())
        .filter_map(|row| Some((row, value(row).filter(|value| value.is_finite())?)))
        .collect();
    parameters.iter().filter_map(|parameter| marginal(&eligible, parameters, parameter)).collect()
}

/// One value of a parameter while rows are being sorted into levels.
struct Level {
    value: Value,
    metrics: Vec<f64>,
    /// How often each combination of everything else occurs.
    combinations: BTreeMap<String, u32>,
}

fn marginal(rows: &[(&ResultRow, f64)], parameters: &[String], parameter: &str) -> Option<Marginal> {
    let text = |row: &ResultRow, name: &str| row.parameter(name).unwrap_or(&Value::Null).to_string();
    let mut levels: BTreeMap<String, Level> = BTreeMap::new();
    for (row, metric) in rows {
        let others = parameters.iter().filter(|name| *name != parameter).map(|name| text(row, name));
        let context = [row.cell.workload.clone(), row.cell.load.describe(), row.cell.repeat.to_string()];
        let combination = others.chain(context).collect::<Vec<_>>().join("\u{1f}");
        let level = levels.entry(text(row, parameter)).or_insert_with(|| Level {
            value: row.parameter(parameter).cloned().unwrap_or(Value::Null),
            metrics: Vec::new(),
            combinations: BTreeMap::new(),
        });
        level.metrics.push(*metric);
        *level.combinations.entry(combination).or_default() += 1;
    }
    if levels.len() < 2 {
        return None;
    }
    let mut combinations = levels.values().map(|level| &level.combinations);
    let first = combinations.next();
    let is_balanced = combinations.all(|other| Some(other) == first);
    let stats = levels
        .into_values()
        .filter_map(|level| Some(MarginalLevel { value: level.value, stats: RepeatStats::of(level.metrics)? }));
    let mut levels: Vec<MarginalLevel> = stats.collect();
    levels.sort_by(|a, b| match (a.value.as_f64(), b.value.as_f64()) {
        (Some(a), Some(b)) => a.total_cmp(&b),
        (Some(_), None) => std::cmp::Ordering::Less,
        (None, Some(_)) => std::cmp::Ordering::Greater,
        (None, None) => a.value.to_string().cmp(&b.value.to_string()),
    });
    Some(Marginal { parameter: parameter.to_owned(), levels, is_balanced })
}
