//! The settings by which points differ: as columns where few differ, as a list of differences from a reference point where
//! many do. Shared by the plan, the manifest and the report.

use std::collections::BTreeSet;

use serde_json::Value;
use servelab_core::expand::DEPLOY_NAMES;
use servelab_core::plan::{Plan, PlannedPoint};
use servelab_core::study::Study;

use crate::text::number::{ABSENT, setting};

/// Names of settings in which these points differ, in the order of the designs that vary them.
pub fn varied<'a>(plan: &'a Plan, points: &[&'a PlannedPoint]) -> Vec<&'a str> {
    let differs = |name: &str| {
        let mut values = points.iter().map(|point| point.factors.get(name));
        let first = values.next().flatten();
        values.any(|value| value != first)
    };
    names(plan, points).into_iter().filter(|name| differs(name)).collect()
}

/// Settings that some design varies but that are equal in all these points.
pub fn common<'a>(plan: &'a Plan, points: &[&'a PlannedPoint]) -> Vec<(&'a str, &'a Value)> {
    let Some(first) = points.first() else { return Vec::new() };
    let equal = |name: &&str| points.iter().all(|point| point.factors.get(*name) == first.factors.get(*name));
    let with_value = |name| first.factors.get(name).map(|value| (name, value));
    names(plan, points).into_iter().filter(equal).filter_map(with_value).collect()
}

/// The value of a setting in a table.
pub fn value(point: &PlannedPoint, name: &str) -> String {
    point.factors.get(name).map_or_else(|| ABSENT.to_owned(), setting)
}

/// The point that the study calls its baseline.
pub fn baseline<'a>(plan: &'a Plan, study: &Study) -> Option<&'a PlannedPoint> {
    let label = study.baseline.as_ref()?;
    plan.points.iter().find(|point| point.labels.contains(label))
}

/// In which settings a point differs from the reference: `max_num_seqs=256, enable_eplb=yes`; empty when in none.
pub fn differences(point: &PlannedPoint, reference: &PlannedPoint) -> String {
    let names: BTreeSet<&String> = point.factors.keys().chain(reference.factors.keys()).collect();
    let differing = names.into_iter().filter(|name| point.factors.get(*name) != reference.factors.get(*name));
    let words = differing.filter_map(|name| match point.factors.get(name) {
        Some(value) => Some(format!("{name}={}", setting(value))),
        // A prefill/decode point has no `tp` of its own: its roles say it all.
        None if DEPLOY_NAMES.contains(&name.as_str()) => None,
        None => Some(format!("{name} unset")),
    });
    words.collect::<Vec<_>>().join(", ")
}

fn names<'a>(plan: &'a Plan, points: &[&'a PlannedPoint]) -> Vec<&'a str> {
    let present: BTreeSet<&str> = points.iter().flat_map(|point| point.factors.keys().map(String::as_str)).collect();
    let mut names: Vec<&str> = Vec::new();
    let by_design = plan.designs.iter().flat_map(|design| design.factors.iter().map(String::as_str));
    for name in by_design.chain(present.iter().copied()) {
        if present.contains(name) && !names.contains(&name) {
            names.push(name);
        }
    }
    names
}
