//! What `servelab plan` shows on a terminal: counts, designs, points, what cannot run and why, roles, cost, and what to type
//! next. Everything comes from the plan and the study; nothing is expanded or judged here.

pub(crate) mod factors;
pub(crate) mod findings;
pub(crate) mod labels;
pub(crate) mod placement;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use servelab_core::expand::Summary;
use servelab_core::plan::{DesignSummary, Plan, PlanCounts, PlanStatus, PlannedPoint};
use servelab_core::study::{EngineKind, Study};

use crate::commands::{HowToRun, first_point, handle, shell_word};
use crate::limits::{request_limits, targets_table};
use crate::text::document::Document;
use crate::text::number::{count, duration, exact, hours, plural, setting};
use crate::text::table::{Table, left, right};

/// How the plan is shown.
#[derive(Debug, Clone, Copy)]
pub struct PlanTextOptions<'a> {
    /// Columns of the terminal; `None` wraps nothing.
    pub width: Option<usize>,
    /// Also show command lines and every label.
    pub verbose: bool,
    /// Points, and entries of any other long list, before the rest is only counted.
    pub max_points: usize,
    /// For the commands at the end.
    pub how: HowToRun<'a>,
}

impl Default for PlanTextOptions<'_> {
    fn default() -> Self {
        Self { width: None, verbose: false, max_points: 40, how: HowToRun::default() }
    }
}

/// The plan for a terminal.
pub fn plan_text(plan: &Plan, study: &Study, options: &PlanTextOptions<'_>) -> String {
    let mut out = Document::default();
    out.heading(1, format!("Study {}", plan.study));
    out.paragraph(study.description.clone().unwrap_or_default());
    out.facts(head_facts(plan, study, &options.how));
    designs_section(&mut out, &plan.designs);
    points_section(&mut out, plan, study, options);
    findings::duplicates_section(&mut out, plan, options.max_points);
    findings::infeasible_section(&mut out, plan, options.max_points);
    findings::notes_section(&mut out, plan, options.max_points);
    roles_section(&mut out, plan, options);
    limits_section(&mut out, study);
    if options.verbose {
        commands_section(&mut out, plan, options);
    }
    findings::warnings_section(&mut out, plan);
    next_section(&mut out, plan, study, options);
    out.to_text(options.width)
}

/// The counts of a study, for a terminal of `width` columns.
pub fn summary_text(summary: &Summary, width: Option<usize>) -> String {
    let mut out = Document::default();
    out.heading(1, format!("Study {}", summary.study));
    out.facts(count_facts(&summary.counts));
    designs_section(&mut out, &summary.designs);
    if !summary.infeasible_reasons.is_empty() {
        out.heading(2, "Infeasible");
        let mut reasons: Vec<(&String, &u64)> = summary.infeasible_reasons.iter().collect();
        reasons.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
        let mut table = Table::new([right("Points"), left("Reason (N stands for numbers)")]);
        reasons.into_iter().for_each(|(reason, points)| table.row([count(*points), reason.clone()]));
        out.table(table);
    }
    out.to_text(width)
}

/// Engine and model in a few words: `vllm 0.11.*`.
pub(crate) fn engine_words(study: &Study) -> String {
    let version = study.engine.version.as_deref().unwrap_or("(no version declared)");
    format!("{} {version}", study.engine.kind.name())
}

fn head_facts(plan: &Plan, study: &Study, how: &HowToRun<'_>) -> Vec<(String, String)> {
    let mut facts = vec![("engine".to_owned(), engine_words(study)), ("model".to_owned(), study.model.id.clone())];
    if study.engine.kind == EngineKind::Sim {
        facts[0].1.push_str(" — a simulator: every result is marked simulated");
    }
    facts.push(("site".to_owned(), study.site.clone().unwrap_or_else(|| how.site.to_owned())));
    facts.extend(count_facts(&plan.counts));
    let workloads = findings::workload_names(plan);
    if !workloads.is_empty() {
        facts.push(("workloads".to_owned(), workloads.join(", ")));
    }
    facts.push(("jobs".to_owned(), jobs_words(plan, study)));
    facts.push(("cost".to_owned(), cost_words(plan, study)));
    facts
}

fn count_facts(counts: &PlanCounts) -> Vec<(String, String)> {
    let infeasible = counts.points.saturating_sub(counts.feasible_points);
    let points = format!(
        "{} raw combinations → {} after `when` → {} distinct → {} feasible{}",
        count(counts.raw_points),
        count(counts.labelled_points),
        count(counts.points),
        count(counts.feasible_points),
        if infeasible > 0 { format!(" ({} infeasible)", count(infeasible)) } else { String::new() },
    );
    let pairs = format!(
        "{} point × workload pairs, {} infeasible",
        count(counts.point_workloads),
        count(counts.infeasible_point_workloads)
    );
    let cells = format!("{} cells, {} can run", count(counts.cells), count(counts.runnable_cells));
    vec![("points".to_owned(), points), ("pairs".to_owned(), pairs), ("cells".to_owned(), cells)]
}

fn jobs_words(plan: &Plan, study: &Study) -> String {
    let at_a_time =
        study.budget.max_jobs.map(|n| format!(", at most {} at a time", count(n.into()))).unwrap_or_default();
    format!("{}{at_a_time}", plural(plan.jobs, "server start"))
}

fn cost_words(plan: &Plan, study: &Study) -> String {
    let budget = study.budget.node_hours.map(|budget| format!(" (budget {})", exact(budget))).unwrap_or_default();
    format!(
        "about {} node-hours{budget} · {} one job after the other · {} in parallel",
        hours(plan.node_hours.sequential),
        duration(plan.wall_hours.sequential),
        duration(plan.wall_hours.parallel)
    )
}

fn designs_section(out: &mut Document, designs: &[DesignSummary]) {
    if designs.is_empty() {
        return;
    }
    out.heading(2, "Designs");
    let mut table =
        Table::new([left("Design"), left("Kind"), right("Raw"), right("After when"), right("New"), left("Varies")]);
    for design in designs {
        table.row([
            design.name.clone(),
            design.kind.clone(),
            count(design.raw_points),
            count(design.labelled_points),
            count(design.new_points),
            design.factors.join(", "),
        ]);
    }
    out.table(table);
    let mut words = Vec::new();
    for design in designs {
        let blocked = design.blocked.as_ref().map(|reason| format!("blocked: {reason}"));
        let expect = design.expect.as_ref().map(|expect| format!("expected: {expect}"));
        let all: Vec<String> = [design.purpose.clone(), expect, blocked].into_iter().flatten().collect();
        if !all.is_empty() {
            words.push((design.name.clone(), all.join(" · ")));
        }
    }
    out.facts(words);
}

fn points_section(out: &mut Document, plan: &Plan, study: &Study, options: &PlanTextOptions<'_>) {
    if plan.points.is_empty() {
        out.paragraph("No point yet.");
        return;
    }
    out.heading(2, "Points");
    let shown: Vec<&PlannedPoint> = plan.points.iter().take(options.max_points).collect();
    let common = factors::common(plan, &shown);
    let all: Vec<&PlannedPoint> = plan.points.iter().collect();
    let varied = factors::varied(plan, &all);
    let table = points_table(&shown, &varied, options);
    if options.width.is_some_and(|width| table.least_width() > width) {
        let baseline = factors::baseline(plan, study);
        let reference = baseline.or(plan.points.first());
        let what = if baseline.is_some() { "the baseline" } else { "the first point" };
        if let Some(reference) = reference {
            out.paragraph(format!("Settings in which points differ from {what}, {}:", findings::brief(reference)));
            out.table(differences_table(&shown, reference, options));
        }
    } else {
        let same: Vec<String> = common
            .iter()
            .filter(|(name, _)| !varied.contains(name))
            .map(|(name, value)| format!("{name}={}", setting(value)))
            .collect();
        if !same.is_empty() {
            out.paragraph(format!("All points: {}.", same.join(", ")));
        }
        out.table(table);
    }
    left_out(out, plan.points.len(), options.max_points, "point");
}

fn points_table(points: &[&PlannedPoint], varied: &[&str], options: &PlanTextOptions<'_>) -> Table {
    let mut columns = vec![left("Point"), left("Labels")];
    columns.extend(varied.iter().map(|name| right(*name)));
    columns.extend([right("Nodes"), right("GPUs"), left("Status")]);
    let mut table = Table::new(columns);
    for point in points {
        let mut row = point_start(point, options);
        row.extend(varied.iter().map(|name| factors::value(point, name)));
        row.extend(point_end(point));
        table.row(row);
    }
    table
}

fn differences_table(points: &[&PlannedPoint], reference: &PlannedPoint, options: &PlanTextOptions<'_>) -> Table {
    let columns = [left("Point"), left("Labels"), left("Settings"), right("Nodes"), right("GPUs"), left("Status")];
    let mut table = Table::new(columns);
    for point in points {
        let mut row = point_start(point, options);
        row.push(factors::differences(point, reference));
        row.extend(point_end(point));
        table.row(row);
    }
    table
}

fn point_start(point: &PlannedPoint, options: &PlanTextOptions<'_>) -> Vec<String> {
    let limit = if options.verbose { usize::MAX } else { 8 };
    let shorten = |label: &String| match label.split_once('/') {
        // The settings stand in the next columns.
        Some((design, _)) if !options.verbose && findings::spells_settings(label) => format!("{design}/…"),
        _ => label.clone(),
    };
    let labels: Vec<String> = point.labels.iter().map(shorten).collect();
    vec![point.id.short().to_owned(), findings::some_of(&labels, limit)]
}

fn point_end(point: &PlannedPoint) -> [String; 3] {
    [count(point.nodes.into()), count(point.gpus.into()), status_word(point.status).to_owned()]
}

fn status_word(status: PlanStatus) -> &'static str {
    match status {
        PlanStatus::Planned => "planned",
        PlanStatus::Infeasible => "infeasible",
        PlanStatus::Blocked => "blocked",
    }
}

/// Says how much of a list was not shown.
fn left_out(out: &mut Document, all: usize, shown: usize, what: &str) {
    let rest = all.saturating_sub(shown);
    if rest > 0 {
        out.paragraph(format!("… and {} more; `--json` lists them all.", plural(rest as u64, what)));
    }
}

fn roles_section(out: &mut Document, plan: &Plan, options: &PlanTextOptions<'_>) {
    let mut groups: Vec<(String, Vec<String>, Vec<String>)> = Vec::new();
    let mut places: BTreeMap<(String, Vec<String>), usize> = BTreeMap::new();
    for point in &plan.points {
        let words: Vec<String> = point.roles.iter().map(placement::role_words).collect();
        let key = (words.join(" + "), placement::node_map(&point.roles));
        let place = *places.entry(key.clone()).or_insert(groups.len());
        if place == groups.len() {
            groups.push((key.0, key.1, Vec::new()));
        }
        if let Some(group) = groups.get_mut(place) {
            group.2.push(findings::brief(point).to_owned());
        }
    }
    groups.retain(|(words, ..)| !words.is_empty());
    if groups.is_empty() {
        return;
    }
    out.heading(2, "Roles and nodes");
    let shown = groups.iter().take(options.max_points);
    let mut text = String::new();
    for (words, map, labels) in shown {
        let who = if labels.len() == plan.points.len() && labels.len() > 1 {
            "all points".to_owned()
        } else {
            findings::some_of(labels, if options.verbose { usize::MAX } else { 6 })
        };
        text.push_str(&format!("{who}: {words}\n"));
        map.iter().for_each(|line| text.push_str(&format!("    {line}\n")));
    }
    out.code("text", text);
    left_out(out, groups.len(), options.max_points, "layout");
}

fn limits_section(out: &mut Document, study: &Study) {
    let table = targets_table(study);
    if study.slo.request.is_none() && table.is_empty() {
        return;
    }
    out.heading(2, "SLO and targets");
    out.table(table);
    if let Some(request) = &study.slo.request {
        out.paragraph(format!("Goodput counts requests with {}.", request_limits(request)));
    }
}

fn commands_section(out: &mut Document, plan: &Plan, options: &PlanTextOptions<'_>) {
    out.heading(2, "Command lines (host and port are added at the start)");
    for point in plan.points.iter().take(options.max_points) {
        for role in point.roles.iter().filter(|role| !role.argv.is_empty()) {
            let env = role.env.iter().map(|(name, value)| format!("{name}={}", shell_word(value)));
            let words: Vec<String> = env.chain(role.argv.iter().map(|word| shell_word(word))).collect();
            out.code("bash", format!("# {} {}\n{}", handle(point), role.role, words.join(" ")));
        }
    }
}

fn next_section(out: &mut Document, plan: &Plan, study: &Study, options: &PlanTextOptions<'_>) {
    out.heading(2, "Next");
    let Some(first) = first_point(plan, study) else {
        out.paragraph("Nothing here can run. Change what the reasons above name, then plan again.");
        return;
    };
    let how = &options.how;
    out.paragraph(how.note().unwrap_or_default());
    let one = how.measure(&["--only", handle(first)]);
    out.code("bash", format!("{one}   # one point first\n{}   # everything", how.measure(&[])));
}
