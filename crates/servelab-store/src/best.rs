//! Which point to use: the candidates that may be ranked and meet the limits, ranked with ties. One candidate is a point
//! under one load; ties are counted in points. Words are chosen elsewhere.

use std::collections::BTreeMap;

use servelab_core::ids::PointId;
use servelab_core::stats::{Candidate, Comparison, Place, TiedRanking, rank_with_ties, repeats_needed};

use crate::baseline::compared;
use crate::rank::{Direction, RepeatGroup, group_repeats};
use crate::results::ResultRow;

/// What is good.
pub struct BestRequest<'a> {
    /// The objective's value of a row.
    pub value: &'a dyn Fn(&ResultRow) -> Option<f64>,
    /// More or less of it.
    pub direction: Direction,
    /// Does a row keep every limit?
    pub meets: &'a dyn Fn(&ResultRow) -> bool,
}

/// A candidate with its place.
#[derive(Debug, Clone, PartialEq)]
pub struct BestEntry {
    /// Point, load and repeats.
    pub group: RepeatGroup,
    /// Where it stands.
    pub place: Place,
}

/// The answer for one workload.
#[derive(Debug, Clone, PartialEq)]
pub struct Best {
    /// Workload.
    pub workload: String,
    /// Best first; candidates that keep the limits only.
    pub entries: Vec<BestEntry>,
    /// What the ranking rests on.
    pub ranking: TiedRanking,
    /// Points, the best one included, that cannot be told apart from it at their own best loads.
    pub tied_points: Vec<PointId>,
    /// The best against the next other point.
    pub versus_next: Option<Comparison>,
    /// Repeats of both that would settle that difference.
    pub repeats_to_settle: Option<u64>,
    /// Candidates that may be ranked and break a limit.
    pub broke_limits: u64,
    /// Cells that may not be ranked, by reason.
    pub excluded: BTreeMap<String, u64>,
}

/// One answer per workload, in the order of the rows. Simulated results are ranked only where nothing was measured.
pub fn best(rows: &[ResultRow], request: &BestRequest<'_>) -> Vec<Best> {
    let mut workloads: Vec<&str> = Vec::new();
    for row in rows {
        if !workloads.contains(&row.cell.workload.as_str()) {
            workloads.push(&row.cell.workload);
        }
    }
    workloads.into_iter().map(|workload| best_of(workload, rows, request)).collect()
}

fn best_of(workload: &str, all: &[ResultRow], request: &BestRequest<'_>) -> Best {
    let rows: Vec<ResultRow> = all.iter().filter(|row| row.cell.workload == workload).cloned().collect();
    let mut groups = group_repeats(&rows, request.value);
    let mut excluded: BTreeMap<String, u64> = BTreeMap::new();
    for exclusion in groups.iter().flat_map(|group| &group.excluded) {
        *excluded.entry(exclusion.reason.clone()).or_default() += 1;
    }
    groups.retain(|group| !group.rows.is_empty());
    if groups.iter().any(|group| !group.simulated) {
        groups.retain(|group| !group.simulated);
    }
    let before = groups.len();
    let keeps =
        |group: &RepeatGroup| group.rows.iter().filter_map(|idx| rows.get(*idx)).all(|row| (request.meets)(row));
    groups.retain(keeps);
    let broke_limits = (before - groups.len()) as u64;
    let candidates: Vec<Candidate> = groups.iter().map(|group| candidate(group, &rows, request)).collect();
    let ranking = rank_with_ties(&candidates, request.direction == Direction::Maximise, true);
    let entries: Vec<BestEntry> = ranking
        .places
        .iter()
        .filter_map(|place| Some(BestEntry { group: groups.get(place.candidate)?.clone(), place: *place }))
        .collect();
    let mut tied_points: Vec<PointId> = Vec::new();
    for entry in entries.iter().filter(|entry| entry.place.ties_with_best) {
        if !tied_points.contains(&entry.group.point) {
            tied_points.push(entry.group.point.clone());
        }
    }
    let first = entries.first();
    let next = first.and_then(|first| entries.iter().find(|entry| entry.group.point != first.group.point));
    let versus_next = first.zip(next).and_then(|(first, next)| {
        let of =
            |entry: &BestEntry| candidates.get(entry.place.candidate).map(|c| c.values.clone()).unwrap_or_default();
        compared(&of(next), &of(first))
    });
    let repeats_to_settle = versus_next.filter(|found| !found.is_distinguished()).and_then(|found| {
        let n = found.n_baseline.min(found.n_candidate) as f64;
        let error = found.standard_error?;
        let scatter = error * (if found.is_paired { n } else { n / 2.0 }).sqrt() / found.baseline.abs();
        repeats_needed(found.relative?, scatter, found.is_paired)
    });
    Best {
        workload: workload.to_owned(),
        entries,
        ranking,
        tied_points,
        versus_next,
        repeats_to_settle,
        broke_limits,
        excluded,
    }
}

fn candidate(group: &RepeatGroup, rows: &[ResultRow], request: &BestRequest<'_>) -> Candidate {
    let value = |idx: &usize| {
        let row = rows.get(*idx)?;
        Some((row.cell.repeat, (request.value)(row)?))
    };
    Candidate { values: group.rows.iter().filter_map(value).collect() }
}
