//! The answer: the best point within the SLO, by how much, how sure, what it costs, what to do next. Nothing here is
//! claimed that `best` and the ranking do not say.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use servelab_core::plan::PlannedPoint;
use servelab_core::result::Severity;
use servelab_store::ResultRow;
use servelab_store::best::{Best, BestEntry};

use super::PageInput;
use crate::best::{details, sentence};
use crate::limits::bound;
use crate::names::{metric_title, metric_value};
use crate::plot::escape;
use crate::report::rows::names;
use crate::report::{advice, metric};
use crate::text::number::{count, hours, number, plural};

/// Advice shown beside an answer.
const MOST_ADVICE: usize = 4;

pub(super) fn section(out: &mut String, input: &PageInput<'_>) {
    out.push_str("<section id=\"answer\">\n<h2 class=\"visually-hidden\">Answer</h2>\n");
    let with_result: Vec<&ResultRow> = input.report.rows.iter().filter(|row| row.result.is_some()).collect();
    let simulated = with_result.iter().filter(|row| row.is_simulated()).count();
    if simulated > 0 {
        let share = if simulated == with_result.len() { "All results" } else { "Some results" };
        let _ = writeln!(
            out,
            "<p class=\"warn\"><b>{share} are simulated</b>: they come from a model of the engine, not from hardware.</p>"
        );
    }
    for answer in input.best {
        one(out, input, answer);
    }
    doubts(out, input.report.rows);
    out.push_str("</section>\n");
}

fn one(out: &mut String, input: &PageInput<'_>, answer: &Best) {
    let report = input.report;
    let _ = write!(
        out,
        "<article class=\"answer\" data-workload=\"{name}\">\n<p class=\"question\">Best {objective} on <b>{name}</b>{slo}</p>\n",
        name = escape(&answer.workload),
        objective = escape(&report.objective.title()),
        slo = if report.study.slo.cell.0.is_empty() { "" } else { " within the SLO" },
    );
    let Some(best) = answer.entries.first() else {
        let _ =
            writeln!(out, "<p class=\"headline none\">{}</p></article>", escape(&sentence(answer, report.objective)));
        return;
    };
    let point = report.plan.points.iter().find(|point| point.id == best.group.point);
    let rows: Vec<&ResultRow> = report
        .rows
        .iter()
        .filter(|row| {
            row.point.id == best.group.point
                && row.cell.workload == answer.workload
                && row.cell.load.describe() == best.group.load
        })
        .collect();
    let _ = writeln!(
        out,
        "<p class=\"headline\"><b>{}</b> at {}</p>\n<p>{}</p>",
        escape(&names(&best.group.labels, best.group.point.short())),
        escape(&best.group.load),
        escape(&sentence(answer, report.objective)),
    );
    out.push_str("<div class=\"cards\">\n");
    card(
        out,
        &report.objective.title(),
        &metric_value(report.objective.source(), Some(best.place.mean)),
        &repeats(best),
    );
    ahead(out, answer);
    limits(out, input, &rows);
    if let Some(point) = point {
        cost(out, point, &rows);
    }
    out.push_str("</div>\n");
    let found = details(answer, report.study);
    if !found.is_empty() {
        let items: String = found.iter().map(|item| format!("<li>{}</li>", escape(item))).collect();
        let _ = writeln!(out, "<ul class=\"details\">{items}</ul>");
    }
    sizes(out, input, answer);
    next(out, input, answer, &rows);
    out.push_str("</article>\n");
}

fn card(out: &mut String, name: &str, value: &str, note: &str) {
    let _ = writeln!(
        out,
        "<div class=\"card\"><span class=\"name\">{}</span><span class=\"value\">{}</span><span class=\"note\">{}</span></div>",
        escape(name),
        escape(value),
        escape(note)
    );
}

fn repeats(best: &BestEntry) -> String {
    match best.group.stats {
        Some(stats) if stats.n > 1 => format!("{} repeats, {} to {}", stats.n, number(stats.min), number(stats.max)),
        _ => "one repeat: its scatter is not known".to_owned(),
    }
}

fn ahead(out: &mut String, answer: &Best) {
    let percent = |x: f64| format!("{:+.1} %", 100.0 * x);
    let Some(found) = answer.versus_next.filter(|found| found.relative.is_some()) else {
        card(out, "Against the next point", "–", "nothing to compare with, or one repeat each");
        return;
    };
    let others = answer.tied_points.len().saturating_sub(1) as u64;
    let sure = match (answer.ranking.scatter, others) {
        (None, _) => "not known whether that is noise".to_owned(),
        (_, 0) => "beyond what the repeats' scatter explains".to_owned(),
        (_, n) => format!("within noise of {}", plural(n, "other point")),
    };
    let ends = &found.difference;
    let interval = if ends.low.is_finite() && found.baseline != 0.0 {
        let of = |x: f64| percent(x / found.baseline.abs());
        format!("95 % interval {} to {}; ", of(ends.low), of(ends.high))
    } else {
        String::new()
    };
    card(out, "Against the next point", &percent(found.relative.unwrap_or(0.0)), &format!("{interval}{sure}"));
}

/// The latencies that people ask for, and every limit of the SLO.
fn limits(out: &mut String, input: &PageInput<'_>, rows: &[&ResultRow]) {
    let slo = &input.report.study.slo.cell.0;
    let mut shown: Vec<&str> = slo.keys().collect();
    for name in ["ttft_p95_ms", "itl_p95_ms"] {
        if !shown.contains(&name) {
            shown.push(name);
        }
    }
    for name in shown {
        let values: Vec<f64> =
            rows.iter().filter(|row| row.unranked_reason().is_none()).filter_map(|row| metric(row, name)).collect();
        let (low, high) = (
            values.iter().copied().fold(f64::INFINITY, f64::min),
            values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        );
        if values.is_empty() {
            continue;
        }
        let range = if low == high {
            metric_value(name, Some(low))
        } else {
            format!("{} to {}", metric_value(name, Some(low)), metric_value(name, Some(high)))
        };
        let note =
            slo.get(name).map_or_else(|| "no limit".to_owned(), |limit| format!("SLO {}", bound(name, &[*limit])));
        card(out, &metric_title(name), &range, &note);
    }
}

fn cost(out: &mut String, point: &PlannedPoint, rows: &[&ResultRow]) {
    let rates: Vec<f64> = rows
        .iter()
        .filter(|row| row.unranked_reason().is_none())
        .filter_map(|row| metric(row, "throughput_tokens_per_sec"))
        .filter(|rate| *rate > 0.0)
        .collect();
    let Some(rate) = servelab_core::metrics::RepeatStats::of(rates).map(|stats| stats.mean) else { return };
    let (gpus, nodes) = (f64::from(point.gpus.max(1)), f64::from(point.nodes.max(1)));
    let millions_per_hour = rate * 3600.0 / 1e6;
    card(
        out,
        "Output per node-hour",
        &format!("{} M tokens", number(millions_per_hour / nodes)),
        &format!("{}, {}", plural(u64::from(point.nodes), "node"), plural(u64::from(point.gpus), "GPU")),
    );
    let gpu_hours = gpus / millions_per_hour;
    let _ = writeln!(
        out,
        "<div class=\"card\" data-gpu-hours=\"{gpu_hours}\"><span class=\"name\">Cost per million output tokens</span>\
         <span class=\"value\">{} GPU-hours</span><span class=\"note\">{} node-hours. <label>Price of a GPU-hour \
         <input class=\"price\" type=\"number\" min=\"0\" step=\"0.01\" inputmode=\"decimal\"></label> \
         <output class=\"money\"></output></span></div>",
        number(gpu_hours),
        hours_or_number(nodes / millions_per_hour),
    );
}

fn hours_or_number(x: f64) -> String {
    if x < 0.1 { number(x) } else { hours(x) }
}

fn next(out: &mut String, input: &PageInput<'_>, answer: &Best, rows: &[&ResultRow]) {
    let mut items: Vec<String> = Vec::new();
    let several = input.best.iter().filter(|best| !best.entries.is_empty()).count() > 1;
    let which = if several { format!(" --workload {}", quoted(&answer.workload)) } else { String::new() };
    if let Some(n) = answer.repeats_to_settle {
        items.push(format!(
            "Measure {} of the best two: that many would settle a difference of this size.",
            plural(n, "repeat")
        ));
    }
    if let Some(file) = input.study_file {
        let command =
            |words: &str| format!("<code>servelab best {}{}{words}</code>", escape(&quoted(file)), escape(&which));
        items.push(format!(
            "Validate it with at least 1,000 requests and 3 repeats: {}",
            command(" --emit study &gt; validate.yaml")
        ));
        items.push(format!("Serve it: {}", command(" --emit vllm-command")));
    } else {
        items.push("Validate it with at least 1,000 requests and 3 repeats.".to_owned());
    }
    if let Some(best) = answer.entries.first() {
        items.extend(
            super::edges::beyond(input.report, &answer.workload, &best.group).iter().map(|words| escape(words)),
        );
    }
    for (missed, advice) in rows.iter().take(1).flat_map(|row| advice::of_row(row, input.report)).take(MOST_ADVICE) {
        items.push(format!(
            "Try {}: {} ({}), because {}.",
            escape(&advice.setting),
            escape(&advice.change),
            escape(&missed),
            escape(&advice.because)
        ));
    }
    let items: String = items.iter().map(|item| format!("<li>{item}</li>\n")).collect();
    let _ = writeln!(out, "<h3>What to do next</h3>\n<ol class=\"next\">\n{items}</ol>");
}

/// A word for a shell.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-/=:,+@".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// A winner may only be larger: said where deployments differ in size and the objective does not allow for it.
fn sizes(out: &mut String, input: &PageInput<'_>, answer: &Best) {
    let source = input.report.objective.source();
    if source.contains("gpus") || !(source.starts_with("throughput") || source.starts_with("goodput")) {
        return;
    }
    let sizes = || {
        answer.entries.iter().filter_map(|entry| {
            let point = input.report.plan.points.iter().find(|point| point.id == entry.group.point)?;
            Some(point.gpus).filter(|gpus| *gpus > 0)
        })
    };
    if let (Some(least), Some(most)) = (sizes().min(), sizes().max())
        && least < most
    {
        let _ = writeln!(
            out,
            "<p class=\"warn\">The deployments that were compared have {least} to {most} GPUs, and this is the best of them as a whole. Per GPU: \
             <code>servelab report … --objective '{} / gpus'</code>; the figures below can show both.</p>",
            escape(source)
        );
    }
}

/// How many cells carry which doubt, before anybody reads a number.
fn doubts(out: &mut String, rows: &[ResultRow]) {
    let mut codes: BTreeMap<(Severity, &str), u64> = BTreeMap::new();
    // The banner above says already what is simulated.
    let reasons = rows.iter().filter_map(|row| row.verdict()).flat_map(|verdict| &verdict.reasons);
    for reason in reasons.filter(|reason| reason.code != "simulated") {
        *codes.entry((reason.severity, reason.code.as_str())).or_default() += 1;
    }
    let failed = rows.iter().filter(|row| crate::report::problems::has_failed(row.state)).count() as u64;
    if codes.is_empty() && failed == 0 {
        let measured = rows.iter().filter(|row| row.result.is_some()).count() as u64;
        if measured > 0 {
            let _ =
                writeln!(out, "<p class=\"fine\">No verdict speaks against any of {}.</p>", plural(measured, "cell"));
        }
        return;
    }
    out.push_str("<div class=\"doubts\"><h3>Before believing the numbers</h3>\n<ul>\n");
    if failed > 0 {
        let _ = writeln!(out, "<li class=\"bad\"><a href=\"#failures\">{} failed</a></li>", plural(failed, "cell"));
    }
    for ((severity, code), n) in codes {
        let (class, words) = match severity {
            Severity::Invalid => ("bad", "not ranked"),
            Severity::Warning => ("so-so", "stands, with this remark"),
        };
        let _ = writeln!(
            out,
            "<li class=\"{class}\"><a href=\"#verdicts\"><code>{}</code></a>: {} {} ({words})</li>",
            escape(code),
            count(n),
            if n == 1 { "cell" } else { "cells" }
        );
    }
    out.push_str("</ul></div>\n");
}
