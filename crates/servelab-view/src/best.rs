//! What `servelab best` prints: the winner per workload, how sure, who ties with it, and what would settle it.

use servelab_core::study::Study;
use servelab_store::ResultRow;
use servelab_store::best::{Best, BestEntry};

use crate::limits::meets;
use crate::names::metric_value;
use crate::report::{Objective, metric};
use crate::text::document::Document;
use crate::text::number::{count, number, plural};
use crate::text::table::{Table, left, right};

/// Entries in the table.
const LISTED: usize = 10;

/// True when a row keeps every limit of the study's cell SLO.
pub fn meets_cell_slo(study: &Study, row: &ResultRow) -> bool {
    let limits = &study.slo.cell.0;
    limits.iter().all(|(name, limit)| metric(row, name).is_some_and(|value| meets(name, &[*limit], value)))
}

/// The text.
pub fn best_text(answers: &[Best], study: &Study, objective: &Objective, width: Option<usize>) -> String {
    let mut out = Document::default();
    out.heading(1, format!("Best of {} by {}", study.study, objective.title()));
    for answer in answers {
        if answers.len() > 1 {
            out.heading(2, format!("Workload {}", answer.workload));
        }
        out.paragraph(sentence(answer, objective));
        out.bullets(details(answer, study));
        let mut table = Table::new([
            right("Rank"),
            left("Config"),
            left("Load"),
            right(objective.title()),
            right("n"),
            right("p"),
            left("against the best"),
        ]);
        for entry in answer.entries.iter().take(LISTED) {
            table.row(line(entry, objective));
        }
        out.table(table.without_empty_columns());
        if answer.entries.len() > LISTED {
            out.paragraph(format!("… and {} more.", count((answer.entries.len() - LISTED) as u64)));
        }
    }
    out.to_text(width)
}

/// The answer in a sentence.
pub(crate) fn sentence(answer: &Best, objective: &Objective) -> String {
    let Some(best) = answer.entries.first() else {
        let reasons: Vec<String> =
            answer.excluded.iter().map(|(reason, n)| format!("{} {reason}", plural(*n, "cell"))).collect();
        let limits = if answer.broke_limits > 0 {
            format!("{} broke the SLO", plural(answer.broke_limits, "candidate"))
        } else {
            String::new()
        };
        let all: Vec<String> = (!limits.is_empty()).then_some(limits).into_iter().chain(reasons).collect();
        return format!(
            "NOTHING CAN BE RECOMMENDED: {}.",
            if all.is_empty() { "there is no result".to_owned() } else { all.join(", ") }
        );
    };
    let value = metric_value(objective.source(), Some(best.place.mean));
    let simulated = if best.group.simulated { " (simulated)" } else { "" };
    let who = name(best);
    let others = answer.tied_points.len().saturating_sub(1) as u64;
    let sure = match (answer.ranking.scatter, others) {
        (None, _) if answer.entries.len() > 1 => {
            "Whether it is really the best is not known: with one repeat each, no scatter is known.".to_owned()
        }
        (_, 0) if answer.entries.iter().all(|entry| entry.group.point == best.group.point) => {
            "No other point can be ranked, so there is nothing to compare it with.".to_owned()
        }
        (_, 0) => "It is ahead of every other point by more than the scatter of the repeats explains.".to_owned(),
        (_, n) => {
            format!("It cannot be told apart from {}; choose among these by other criteria.", plural(n, "other point"))
        }
    };
    format!("{who}: {value}{simulated}. {sure}")
}

/// What it rests on.
pub(crate) fn details(answer: &Best, study: &Study) -> Vec<String> {
    let mut out = Vec::new();
    if let Some(found) = answer.versus_next.filter(|found| found.relative.is_some()) {
        let percent = |x: f64| format!("{:+.1} %", 100.0 * x);
        let interval = &found.difference;
        let ends = if interval.low.is_finite() && found.baseline != 0.0 {
            let of = |x: f64| percent(x / found.baseline.abs());
            format!(", 95 % interval {} to {}", of(interval.low), of(interval.high))
        } else {
            String::new()
        };
        out.push(format!("against the next point: {}{ends}", percent(found.relative.unwrap_or(0.0))));
    }
    if let Some(n) = answer.repeats_to_settle {
        out.push(format!("{} of both would settle a difference of this size (80 % power)", plural(n, "repeat")));
    }
    if let Some(scatter) = answer.ranking.scatter {
        let unit = if answer.ranking.is_relative { format!("{:.2} %", 100.0 * scatter) } else { number(scatter) };
        let blocks = if answer.ranking.in_blocks { ", repeats taken as blocks" } else { "" };
        out.push(format!("scatter of repeats: {unit} ({} degrees of freedom{blocks})", answer.ranking.freedom));
    }
    if !study.slo.cell.0.is_empty() {
        out.push(format!("limits: the study's cell SLO; {} broke it", plural(answer.broke_limits, "candidate")));
    }
    let excluded: u64 = answer.excluded.values().sum();
    if excluded > 0 {
        let reasons: Vec<String> = answer.excluded.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
        out.push(format!("{} left out: {}", plural(excluded, "cell"), reasons.join(", ")));
    }
    out
}

/// `label at closed 16`.
fn name(entry: &BestEntry) -> String {
    format!("{} at {}", crate::report::rows::names(&entry.group.labels, entry.group.point.short()), entry.group.load)
}

fn line(entry: &BestEntry, objective: &Objective) -> Vec<String> {
    let place = entry.place;
    let against = match (place.rank, place.p, place.ties_with_best) {
        (1, ..) => "the best",
        (_, None, true) => "not known",
        (_, _, true) => "cannot be told apart",
        (_, _, false) => "behind",
    };
    vec![
        count(place.rank),
        crate::report::rows::names(&entry.group.labels, entry.group.point.short()),
        entry.group.load.clone(),
        metric_value(objective.source(), Some(place.mean)),
        count(entry.group.rows.len() as u64),
        place.p.map(|p| if p < 0.001 { "< 0.001".to_owned() } else { format!("{p:.3}") }).unwrap_or_default(),
        against.to_owned(),
    ]
}
