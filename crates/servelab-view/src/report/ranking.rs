//! The answer, the ranking behind it, and what got no rank. Order, means and "can be told apart" come from the store and
//! the core; here they become words that claim no more than is known.

use std::collections::{BTreeMap, BTreeSet};

use servelab_core::metrics::{RepeatStats, Told};
use servelab_core::plan::PlannedPoint;
use servelab_core::state::CellState;
use servelab_store::ResultRow;
use servelab_store::rank::{Direction, RankRequest, Ranked, Ranking, RepeatGroup, Scope, rank};

use super::ReportInput;
use super::rows::{names, origin};
use crate::limits::meets;
use crate::names::metric_value;
use crate::plan::factors;
use crate::text::document::Document;
use crate::text::number::{ABSENT, count, exact, number, plural};
use crate::text::table::{Table, left, right};

/// Entries in the table that also shows settings.
const TOP: usize = 10;

/// One workload's ranking with the rows it was made from.
pub struct WorkloadRanking {
    pub workload: String,
    pub rows: Vec<ResultRow>,
    pub ranking: Ranking,
}

/// Ranks each workload on its own, all load levels of a point competing.
pub fn rank_workloads(input: &ReportInput<'_>) -> Vec<WorkloadRanking> {
    let value = |row: &ResultRow| input.objective.value(row);
    let request = RankRequest {
        value: &value,
        direction: input.objective.direction(),
        scope: Scope::Overall,
        mix_simulated: input.mix_simulated,
    };
    super::rows::by_workload(input.rows)
        .into_iter()
        .map(|(workload, rows)| {
            let ranking = rank(&rows, &request);
            WorkloadRanking { workload, rows, ranking }
        })
        .collect()
}

/// The answer in one sentence per workload, or why there is none.
pub fn answer(out: &mut Document, input: &ReportInput<'_>, rankings: &[WorkloadRanking]) {
    out.heading(2, "Answer");
    if rankings.iter().all(|of| of.ranking.ranked.is_empty()) {
        out.paragraph(format!("NOTHING CAN BE RANKED: {}.", nothing_because(rankings)));
        return;
    }
    let sentences = rankings.iter().map(|of| match of.ranking.ranked.first() {
        Some(best) => format!("{}: {}", of.workload, best_sentence(input, of, best)),
        None => format!("{}: nothing can be ranked: {}.", of.workload, nothing_because(std::slice::from_ref(of))),
    });
    out.bullets(sentences.collect::<Vec<_>>());
    let mut warnings: Vec<&String> = rankings.iter().flat_map(|of| &of.ranking.warnings).collect();
    warnings.dedup();
    out.bullets(warnings.into_iter().map(|warning| format!("Note: {warning}.")));
}

fn nothing_because(rankings: &[WorkloadRanking]) -> String {
    let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
    for exclusion in rankings.iter().flat_map(|of| &of.ranking.unranked).flat_map(|group| &group.excluded) {
        *reasons.entry(&exclusion.reason).or_default() += 1;
    }
    let mut reasons: Vec<(&str, u64)> = reasons.into_iter().collect();
    reasons.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    let words: Vec<String> =
        reasons.iter().take(5).map(|(reason, n)| format!("{} {reason}", plural(*n, "cell"))).collect();
    if words.is_empty() { "the plan has no cell".to_owned() } else { words.join(", ") }
}

fn best_sentence(input: &ReportInput<'_>, of: &WorkloadRanking, best: &Ranked) -> String {
    let ranked = &of.ranking.ranked;
    let Some(stats) = best.group.stats else { return "no value".to_owned() };
    let extreme = if input.objective.direction() == Direction::Maximise { "highest" } else { "lowest" };
    let who = group_words(&best.group);
    let value = value_words(input, &stats, best.group.simulated);
    let rivals = || ranked.iter().filter(|other| other.group.point != best.group.point);
    let verdict = match rivals().next().and_then(|next| Some((next, next.group.stats?))) {
        None => "No other point can be ranked, so there is nothing to compare it with.".to_owned(),
        Some((next, rival)) => {
            let next_words =
                format!("{} ({})", group_words(&next.group), value_words(input, &rival, next.group.simulated));
            match next.versus_best.unwrap_or(Told::Unknown) {
                Told::Apart => format!(
                    "It is ahead of the next point, {next_words}, by more than the spread of the repeats explains."
                ),
                Told::WithinNoise => {
                    let close = rivals().filter(|other| other.versus_best == Some(Told::WithinNoise));
                    let close = close.map(|other| &other.group.point).collect::<BTreeSet<_>>().len();
                    format!(
                        "It cannot be told apart from the next point, {next_words}: the difference is within noise, as it \
                         is for {}.",
                        plural(close as u64, "other point")
                    )
                }
                Told::Unknown => format!(
                    "Whether it really beats the next point, {next_words}, is not known: with n=1 no spread is known. Repeat both."
                ),
            }
        }
    };
    let slo = slo_sentence(input, of, best);
    format!("the {extreme} {} is {value}, by {who}. {verdict}{slo}", input.objective.title())
}

/// A winner that breaks the SLO is no answer: names the best one that keeps it.
fn slo_sentence(input: &ReportInput<'_>, of: &WorkloadRanking, best: &Ranked) -> String {
    if input.study.slo.cell.0.is_empty() || meets_slo(input, of, &best.group) {
        return String::new();
    }
    let keeps = of.ranking.ranked.iter().find(|ranked| meets_slo(input, of, &ranked.group));
    match keeps.and_then(|ranked| Some((&ranked.group, ranked.group.stats?))) {
        Some((group, stats)) => format!(
            " It does not meet the SLO; the first that does is {} with {}.",
            group_words(group),
            value_words(input, &stats, group.simulated)
        ),
        None => " It does not meet the SLO, and nothing that was ranked does.".to_owned(),
    }
}

/// Do all repeats that count meet every limit of the cell SLO?
fn meets_slo(input: &ReportInput<'_>, of: &WorkloadRanking, group: &RepeatGroup) -> bool {
    let (passed, all) = slo_counts(input, of, group);
    all > 0 && passed == all
}

fn slo_counts(input: &ReportInput<'_>, of: &WorkloadRanking, group: &RepeatGroup) -> (usize, usize) {
    let rows: Vec<&ResultRow> = group.rows.iter().filter_map(|idx| of.rows.get(*idx)).collect();
    let limits = &input.study.slo.cell.0;
    let passes = |row: &&&ResultRow| {
        limits.iter().all(|(name, limit)| super::metric(row, name).is_some_and(|value| meets(name, &[*limit], value)))
    };
    (rows.iter().filter(passes).count(), rows.len())
}

fn group_words(group: &RepeatGroup) -> String {
    format!("{} at {}", names(&group.labels, group.point.short()), group.load)
}

fn value_words(input: &ReportInput<'_>, stats: &RepeatStats, simulated: bool) -> String {
    let value = metric_value(input.objective.source(), Some(stats.mean));
    let spread = if stats.n > 1 { format!("mean of {}, ", range(stats)) } else { String::new() };
    format!("{value} ({spread}n={}, {})", stats.n, origin(simulated))
}

/// `1,200..1,260`; a dash for one repeat.
pub fn range(stats: &RepeatStats) -> String {
    if stats.n > 1 { format!("{}..{}", number(stats.min), number(stats.max)) } else { ABSENT.to_owned() }
}

/// Top ten with settings, then everything that has a rank.
pub fn section(out: &mut Document, input: &ReportInput<'_>, rankings: &[WorkloadRanking]) {
    for of in rankings.iter().filter(|of| !of.ranking.ranked.is_empty()) {
        let all = of.ranking.ranked.len();
        out.heading(2, format!("Ranking on {} by {}", of.workload, input.objective.title()));
        if all > TOP {
            out.heading(3, format!("Top {TOP}"));
            out.table(table(input, of, &of.ranking.ranked, TOP));
            out.heading(3, format!("All {}", count(all as u64)));
        }
        out.table(table(input, of, &of.ranking.ranked, usize::MAX));
    }
}

fn table(input: &ReportInput<'_>, of: &WorkloadRanking, ranked: &[Ranked], limit: usize) -> Table {
    let per_gpus = normalisation(input);
    let points: BTreeMap<_, &PlannedPoint> = input.plan.points.iter().map(|point| (&point.id, point)).collect();
    let reference = factors::baseline(input.plan, input.study).or(input.plan.points.first());
    let mut columns = vec![
        right("Rank"),
        left("Config"),
        left("Load"),
        right(input.objective.title()),
        right("min..max"),
        right("n"),
    ];
    columns.push(right(per_gpus.map_or_else(String::new, |gpus| format!("per {} GPUs", exact(gpus)))));
    columns.extend([left("versus best"), left("SLO"), left("Origin"), left("Settings")]);
    let mut table = Table::new(columns);
    for Ranked { rank, group, versus_best } in ranked.iter().take(limit) {
        let Some(stats) = group.stats else { continue };
        let point = points.get(&group.point).copied();
        let scaled = per_gpus
            .zip(point.map(|point| f64::from(point.gpus)).filter(|gpus| *gpus > 0.0))
            .map(|(per, gpus)| number(stats.mean / gpus * per));
        table.row([
            count(*rank),
            names(&group.labels, group.point.short()),
            group.load.clone(),
            metric_value(input.objective.source(), Some(stats.mean)),
            range(&stats),
            count(stats.n),
            scaled.unwrap_or_default(),
            versus_best.map(told_words).unwrap_or_default().to_owned(),
            slo_words(input, of, group),
            origin(group.simulated).to_owned(),
            point.zip(reference).map(|(point, reference)| settings_words(point, reference)).unwrap_or_default(),
        ]);
    }
    table.without_empty_columns()
}

fn settings_words(point: &PlannedPoint, reference: &PlannedPoint) -> String {
    let differences = factors::differences(point, reference);
    if differences.is_empty() && point.id == reference.id { "baseline".to_owned() } else { differences }
}

fn told_words(told: Told) -> &'static str {
    match told {
        Told::Apart => "behind",
        Told::WithinNoise => "within noise",
        Told::Unknown => "unknown (n=1)",
    }
}

/// `per_node(8)` of the study, for objectives that are rates.
fn normalisation(input: &ReportInput<'_>) -> Option<f64> {
    let name = input.objective.source();
    let is_rate = name.starts_with("throughput_") || name.starts_with("goodput");
    let text = input.study.report.normalise.as_ref().filter(|_| is_rate)?;
    let gpus: f64 = text.trim().strip_prefix("per_node(")?.strip_suffix(')')?.trim().parse().ok()?;
    Some(gpus).filter(|gpus| gpus.is_finite() && *gpus > 0.0)
}

fn slo_words(input: &ReportInput<'_>, of: &WorkloadRanking, group: &RepeatGroup) -> String {
    if input.study.slo.cell.0.is_empty() {
        return String::new();
    }
    match slo_counts(input, of, group) {
        (passed, all) if passed == all => "pass".to_owned(),
        (0, _) => "FAIL".to_owned(),
        (passed, all) => format!("{passed} of {all} pass"),
    }
}

/// Everything without a rank, with the reason; what never could run has its own section.
pub fn unranked_section(out: &mut Document, rankings: &[WorkloadRanking]) {
    let mut table =
        Table::new([left("Config"), left("Workload"), left("Load"), right("Cells"), left("Why it has no rank")]);
    for of in rankings {
        let infeasible: BTreeSet<_> =
            of.rows.iter().filter(|row| row.state == CellState::Infeasible).map(|row| &row.cell.id).collect();
        let ranked = of.ranking.ranked.iter().map(|ranked| &ranked.group);
        for group in of.ranking.unranked.iter().chain(ranked) {
            let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
            let could_run = group.excluded.iter().filter(|exclusion| !infeasible.contains(&exclusion.cell));
            could_run.for_each(|exclusion| *reasons.entry(&exclusion.reason).or_default() += 1);
            for (reason, cells) in reasons {
                let who = names(&group.labels, group.point.short());
                table.row([who, of.workload.clone(), group.load.clone(), count(cells), reason.to_owned()]);
            }
        }
    }
    if !table.is_empty() {
        out.heading(2, "Without a rank");
        out.table(table);
    }
}
