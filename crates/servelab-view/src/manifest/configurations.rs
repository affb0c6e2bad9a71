//! The configurations, design by design and group by group, each with its varied settings and what it is for.

use std::collections::BTreeMap;

use servelab_core::plan::{Plan, PlanStatus, PlannedPoint};
use servelab_core::study::Study;

use crate::plan::factors;
use crate::plan::findings::{decisive_reasons, infeasible_pairs};
use crate::plan::labels::{Entry, entry, labels_in};
use crate::text::document::Document;
use crate::text::number::{count, plural, setting};
use crate::text::table::{Table, left, right};

/// More varied settings than this are listed as differences instead of columns.
const MOST_COLUMNS: usize = 7;

/// One label of one point within a design.
struct Named<'a> {
    point: &'a PlannedPoint,
    label: &'a str,
    entry: Entry,
}

pub(super) fn section(out: &mut Document, plan: &Plan, study: &Study, max_points: usize) {
    out.heading(2, "Configurations");
    let mut number = 1;
    for design in &plan.designs {
        let named = named(plan, study, &design.name);
        let last = number + named.len();
        let range = match named.len() {
            0 => "–".to_owned(),
            1 => format!("{}.", count(number as u64)),
            _ => format!("{}–{}.", count(number as u64), count((last - 1) as u64)),
        };
        out.heading(3, format!("{range} {} ({})", title(&design.name), plural(named.len() as u64, "config")));
        number = last;
        out.paragraph(design.purpose.clone().unwrap_or_default());
        if let Some(reason) = &design.blocked {
            out.paragraph(format!("Blocked: {reason}."));
        }
        groups(out, plan, study, &named, max_points);
        if let Some(expect) = &design.expect {
            out.facts([("Expected", expect.as_str())]);
        }
    }
    let pairs = infeasible_pairs(plan);
    if !pairs.is_empty() {
        out.heading(3, "Workloads that some configurations cannot serve");
        let mut table = Table::new([left("Labels"), left("Workload"), left("Loads"), left("Reason")]);
        for pair in pairs {
            table.row([pair.point.labels.join(" = "), pair.workload.to_owned(), pair.loads, pair.reason]);
        }
        out.table(table);
    }
}

fn named<'a>(plan: &'a Plan, study: &Study, design: &str) -> Vec<Named<'a>> {
    let own = study.designs.get(design);
    let points = plan.points.iter().filter(|point| point.designs.iter().any(|name| name == design));
    let mut out: Vec<Named<'a>> = points
        .flat_map(|point| labels_in(study, design, point).into_iter().map(move |label| (point, label)))
        .map(|(point, label)| {
            let entry = own.and_then(|own| entry(design, own, label)).unwrap_or_default();
            Named { point, label, entry }
        })
        .collect();
    // An ablation's labels are spread over shared points; people look for them in the order of the file.
    if let Some(ablate) = own.and_then(|own| own.ablate.as_ref()) {
        let place = |named: &Named<'_>| ablate.keys().position(|group| Some(group) == named.entry.group.as_deref());
        let arm = |named: &Named<'_>| {
            let arms = named.entry.group.as_ref().and_then(|group| ablate.get(group));
            arms.and_then(|arms| arms.keys().position(|arm| named.label.ends_with(arm)))
        };
        out.sort_by_key(|named| (place(named), arm(named)));
    }
    out
}

fn groups(out: &mut Document, plan: &Plan, study: &Study, named: &[Named<'_>], max_points: usize) {
    let mut rest = named;
    let mut shown = 0;
    while let Some(first) = rest.first() {
        let len = rest.iter().take_while(|next| next.entry.group == first.entry.group).count();
        let (group, behind) = rest.split_at(len);
        rest = behind;
        let room = if max_points == 0 { usize::MAX } else { max_points.saturating_sub(shown) };
        shown += group.len();
        if room == 0 {
            continue;
        }
        if let Some(name) = &first.entry.group {
            out.heading(4, format!("Group {name}"));
        }
        table(out, plan, study, group.get(..room).unwrap_or(group));
    }
    let hidden = if max_points == 0 { 0 } else { named.len().saturating_sub(max_points) };
    if hidden > 0 {
        out.paragraph(format!(
            "… and {} more; `servelab plan --json` lists them all.",
            plural(hidden as u64, "configuration")
        ));
    }
}

fn table(out: &mut Document, plan: &Plan, study: &Study, named: &[Named<'_>]) {
    let points: Vec<&PlannedPoint> = named.iter().map(|named| named.point).collect();
    let varied = factors::varied(plan, &points);
    let as_columns = varied.len() <= MOST_COLUMNS;
    let common: Vec<String> = factors::common(plan, &points)
        .into_iter()
        .map(|(name, value)| format!("`{name}` = {}", setting(value)))
        .collect();
    if as_columns && !common.is_empty() {
        out.paragraph(format!("{}: {}.", if named.len() == 1 { "Settings" } else { "All" }, common.join(", ")));
    }
    let reference = factors::baseline(plan, study).or(plan.points.first());
    let mut columns = vec![left("Config"), left("Label")];
    if as_columns {
        columns.extend(varied.iter().map(|name| right(*name)));
    } else {
        columns.push(left("Settings that differ"));
    }
    columns.extend([left("Purpose"), left("Expected"), left("Note")]);
    let decisive = decisive_reasons(plan);
    let mut table = Table::new(columns);
    for Named { point, label, entry } in named {
        let legacy = point.legacy_hashes.get(*label).map(String::as_str);
        let mut row = vec![legacy.unwrap_or(point.id.short()).to_owned(), (*label).to_owned()];
        if as_columns {
            row.extend(varied.iter().map(|name| factors::value(point, name)));
        } else {
            row.push(reference.map(|reference| factors::differences(point, reference)).unwrap_or_default());
        }
        row.extend([
            entry.purpose.clone().unwrap_or_default(),
            entry.expect.clone().unwrap_or_default(),
            note(&decisive, point, label),
        ]);
        table.row(row);
    }
    out.table(table.without_empty_columns());
}

fn note(decisive: &BTreeMap<&str, &[String]>, point: &PlannedPoint, label: &str) -> String {
    let mut words = Vec::new();
    if point.status == PlanStatus::Infeasible {
        let why = decisive.get(point.id.as_str()).copied().unwrap_or(&point.reasons);
        words.push(format!("infeasible: {}", why.join("; ")));
    }
    let others: Vec<&str> = point.labels.iter().map(String::as_str).filter(|other| *other != label).collect();
    if !others.is_empty() {
        words.push(format!("same point as {}", others.join(", ")));
    }
    words.join(" · ")
}

/// `batch_sweep` → `Batch sweep`.
fn title(name: &str) -> String {
    let words = name.replace('_', " ");
    let mut chars = words.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}
