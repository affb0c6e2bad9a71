//! What the plan found out about its points: duplicates, what cannot run and why, flags and other notes, warnings. Equal
//! findings are said once, with the points they concern.

use std::collections::{BTreeMap, BTreeSet};

use servelab_core::plan::{Plan, PlanStatus, PlannedCell, PlannedPoint};

use super::left_out;
use crate::commands::handle;
use crate::text::document::Document;
use crate::text::number::{count, plural};
use crate::text::table::{Table, left, right};

/// Names of the workloads that cells use, in order.
pub(crate) fn workload_names(plan: &Plan) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for cell in &plan.cells {
        if !names.contains(&cell.workload) {
            names.push(cell.workload.clone());
        }
    }
    names
}

/// `a, b, c and 4 more`.
pub(crate) fn some_of<T: AsRef<str>>(items: &[T], limit: usize) -> String {
    let words: Vec<&str> = items.iter().take(limit).map(AsRef::as_ref).collect();
    let rest = items.len().saturating_sub(limit);
    let words = words.join(", ");
    if rest == 0 { words } else { format!("{words} and {} more", count(rest as u64)) }
}

pub(super) fn duplicates_section(out: &mut Document, plan: &Plan, limit: usize) {
    let shared: Vec<&PlannedPoint> = plan.points.iter().filter(|point| point.labels.len() > 1).collect();
    if shared.is_empty() {
        return;
    }
    out.heading(2, "Labels that name one point");
    out.paragraph("Equal configurations run once; every label gets the result.");
    out.bullets(shared.iter().take(limit).map(|point| point.labels.join(" = ")));
    left_out(out, shared.len(), limit, "point");
}

/// Groups labels by what is said about their points, in the order of first appearance.
fn by_text<'a>(said: impl Iterator<Item = (String, &'a str)>) -> Vec<(String, Vec<&'a str>)> {
    let mut groups: Vec<(String, Vec<&str>)> = Vec::new();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for (text, label) in said {
        let place = *places.entry(text.clone()).or_insert(groups.len());
        if place == groups.len() {
            groups.push((text, Vec::new()));
        }
        if let Some((_, labels)) = groups.get_mut(place) {
            labels.push(label);
        }
    }
    groups
}

fn groups_table(groups: &[(String, Vec<&str>)], what: &str, limit: usize) -> Table {
    let mut table = Table::new([right("Points"), left("Which"), left(what)]);
    for (text, labels) in groups.iter().take(limit) {
        table.row([count(labels.len() as u64), some_of(labels, 4), text.clone()]);
    }
    table
}

/// Points with a status, by reason; a point with two reasons appears under both.
fn reasons(plan: &Plan, status: PlanStatus) -> Vec<(String, Vec<&str>)> {
    let decisive = decisive_reasons(plan);
    let points = plan.points.iter().filter(|point| point.status == status);
    by_text(points.flat_map(|point| {
        let why = decisive.get(point.id.as_str()).filter(|_| status == PlanStatus::Infeasible);
        why.map_or(point.reasons.as_slice(), |why| why).iter().map(|reason| (reason.clone(), brief(point)))
    }))
}

/// Per infeasible point the reasons that forbid it, without what is merely worth knowing: those stand on its cells.
pub(crate) fn decisive_reasons(plan: &Plan) -> BTreeMap<&str, &[String]> {
    let infeasible: BTreeSet<&str> = plan
        .points
        .iter()
        .filter(|point| point.status == PlanStatus::Infeasible)
        .map(|point| point.id.as_str())
        .collect();
    let cells = plan.cells.iter().filter(|cell| infeasible.contains(cell.point.as_str()) && !cell.reasons.is_empty());
    cells.map(|cell| (cell.point.as_str(), cell.reasons.as_slice())).collect()
}

/// A point in a list: its first label, or its short id where the label only spells out the settings.
pub(crate) fn brief(point: &PlannedPoint) -> &str {
    let label = handle(point);
    if spells_settings(label) { point.id.short() } else { label }
}

/// `sweep/a=1,b=2`: a label that the expansion made up from the settings.
pub(crate) fn spells_settings(label: &str) -> bool {
    label.split_once('/').is_some_and(|(_, settings)| settings.contains('=') && settings.len() > 24)
}

/// One line of what cannot run on a point that can: who, which workload, which loads, why.
pub(crate) struct InfeasiblePair<'a> {
    pub(crate) point: &'a PlannedPoint,
    pub(crate) workload: &'a str,
    /// `all`, or the load levels.
    pub(crate) loads: String,
    pub(crate) reason: String,
}

/// Workloads and loads that points cannot serve although the points themselves are feasible.
pub(crate) fn infeasible_pairs(plan: &Plan) -> Vec<InfeasiblePair<'_>> {
    let points: BTreeMap<_, _> = plan.points.iter().map(|point| (&point.id, point)).collect();
    let mut pairs: Vec<(&PlannedPoint, &PlannedCell, Vec<String>)> = Vec::new();
    let mut places: BTreeMap<(&str, &str, &[String]), usize> = BTreeMap::new();
    let mut levels: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for cell in &plan.cells {
        let Some(point) = points.get(&cell.point) else { continue };
        if cell.repeat == 0 {
            *levels.entry((cell.point.as_str(), &cell.workload)).or_default() += 1;
        }
        if cell.status != PlanStatus::Infeasible || point.status == PlanStatus::Infeasible || cell.repeat > 0 {
            continue;
        }
        let place = *places.entry((cell.point.as_str(), &cell.workload, &cell.reasons)).or_insert(pairs.len());
        if place == pairs.len() {
            pairs.push((point, cell, Vec::new()));
        }
        if let Some(pair) = pairs.get_mut(place) {
            pair.2.push(cell.load.describe());
        }
    }
    let finish = |(point, cell, loads): (_, &'_ PlannedCell, Vec<String>)| {
        let all = levels.get(&(cell.point.as_str(), cell.workload.as_str())).is_some_and(|n| *n == loads.len());
        let loads = if all { "all".to_owned() } else { loads.join(", ") };
        (point, loads, cell.reasons.join("; "))
    };
    let mut out = Vec::new();
    for pair in pairs {
        let workload = &pair.1.workload;
        let (point, loads, reason) = finish(pair);
        out.push(InfeasiblePair { point, workload, loads, reason });
    }
    out
}

pub(super) fn infeasible_section(out: &mut Document, plan: &Plan, limit: usize) {
    let groups = reasons(plan, PlanStatus::Infeasible);
    let pairs = infeasible_pairs(plan);
    if groups.is_empty() && pairs.is_empty() {
        return;
    }
    out.heading(2, "Infeasible");
    out.paragraph("A result, not an error: these are listed in every report and never started.");
    if !groups.is_empty() {
        out.table(groups_table(&groups, "Why the point cannot be served", limit));
        left_out(out, groups.len(), limit, "reason");
    }
    if !pairs.is_empty() {
        let mut table =
            Table::new([left("Labels"), left("Workload"), left("Loads"), left("Why this workload cannot be served")]);
        for pair in pairs.iter().take(limit) {
            table.row([&some_of(&pair.point.labels, 8), pair.workload, &pair.loads, &pair.reason]);
        }
        out.table(table);
        left_out(out, pairs.len(), limit, "pair");
    }
}

pub(super) fn notes_section(out: &mut Document, plan: &Plan, limit: usize) {
    let flags = flag_groups(plan);
    if !flags.is_empty() {
        out.heading(2, "Flags of this engine version");
        out.table(groups_table(&flags, "Note", limit));
        left_out(out, flags.len(), limit, "note");
    }
    let notes = reasons(plan, PlanStatus::Planned);
    if !notes.is_empty() {
        out.heading(2, "Notes on points that can run");
        out.table(groups_table(&notes, "Note", limit));
        left_out(out, notes.len(), limit, "note");
    }
    let blocked = reasons(plan, PlanStatus::Blocked);
    if !blocked.is_empty() {
        out.heading(2, "Blocked");
        out.table(groups_table(&blocked, "Waits for", limit));
    }
}

fn flag_groups(plan: &Plan) -> Vec<(String, Vec<&str>)> {
    by_text(plan.points.iter().flat_map(|point| point.flag_notes.iter().map(|note| (note.clone(), brief(point)))))
}

/// The plan's warnings without those that the flag table says already.
pub(crate) fn other_warnings(plan: &Plan) -> Vec<String> {
    let flags = flag_groups(plan);
    let said = |warning: &&String| !flags.iter().any(|(note, _)| warning.starts_with(note.as_str()));
    plan.warnings.iter().filter(said).cloned().collect()
}

pub(super) fn warnings_section(out: &mut Document, plan: &Plan) {
    let warnings = other_warnings(plan);
    if warnings.is_empty() {
        return;
    }
    out.heading(2, plural(warnings.len() as u64, "warning"));
    out.bullets(warnings);
}
