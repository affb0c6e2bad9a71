//! The page of one run's traces: one file, no network, readable with a keyboard and in the dark. Key numbers first, then
//! what ran when, then tables; whatever was not measured stands at the end with its reason.

mod figure;
mod tables;

use std::fmt::Write as _;

use servelab_core::trace::catalogue::TRACE_METRICS;
use servelab_core::trace::timeline::RankTimeline;
use servelab_core::trace::{Metric, TraceReport};

use crate::plot::escape;
use crate::text::number::number;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Metrics at the top, with the words for them.
const KEY_METRICS: [(&str, &str); 9] = [
    ("step_time", "step time"),
    ("throughput_tokens_sec", "throughput"),
    ("ttft", "prefill step (ttft)"),
    ("tpot", "decode step (tpot)"),
    ("comm_overhead", "communication"),
    ("comm_overhead_exposed", "exposed communication"),
    ("cpu_comm_overhead", "communication on the CPU"),
    ("gpu_busy", "GPU busy"),
    ("coll_call_num", "collective calls"),
];

/// The page.
pub fn trace_page(report: &TraceReport, timelines: &[RankTimeline], source: &str, tool_version: &str) -> String {
    let mut out = String::new();
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n\
         <title>Traces: {source}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <a class=\"skip\" href=\"#main\">Skip to the numbers</a>\n<header>\n<h1>Traces</h1>\n<p>{source}</p>\n<p>{}</p>\n</header>\n\
         <nav aria-label=\"Sections\"><a href=\"#overview\">Overview</a> <a href=\"#time\">Where time goes</a> \
         <a href=\"#comm\">Communication</a> <a href=\"#ranks\">Ranks and steps</a> <a href=\"#metrics\">All metrics</a> \
         <a href=\"#absent\">Not measured</a> <a href=\"#inputs\">Inputs</a></nav>\n<main id=\"main\">\n",
        facts(report),
        source = escape(source),
    );
    warnings(&mut out, report);
    out.push_str("<section class=\"keys\" aria-label=\"Key numbers\">\n");
    let mut missing = Vec::new();
    for (name, words) in KEY_METRICS {
        match report.metrics.get(name).map(|metric| (metric, value(metric))) {
            Some((metric, Some(text))) => key_number(&mut out, words, &text, metric.note.as_deref()),
            Some((_, None)) => missing.push(words),
            None => {}
        }
    }
    out.push_str("</section>\n");
    if !missing.is_empty() {
        let _ = writeln!(
            out,
            "<p class=\"missing\">Not measured: {} (<a href=\"#absent\">why</a>).</p>",
            missing.join(", ")
        );
    }
    out.push_str("<section id=\"overview\">\n<h2>What ran when</h2>\n");
    figure::overview(&mut out, timelines);
    out.push_str("</section>\n");
    tables::all(&mut out, report);
    metrics(&mut out, report);
    let _ = write!(
        out,
        "</main>\n<footer><p>servelab {}, definitions {}, taxonomy {}. This page needs no network.</p></footer>\n\
         <script>\n{SCRIPT}</script>\n</body>\n</html>\n",
        escape(tool_version),
        report.definitions,
        escape(&report.taxonomy)
    );
    out
}

fn facts(report: &TraceReport) -> String {
    let ranks = match (report.ranks.len(), report.world_size) {
        (n, Some(world)) if world as usize != n => format!("{n} of {world} ranks"),
        (1, _) => "1 rank".to_owned(),
        (n, _) => format!("{n} ranks"),
    };
    let gpu = report.inputs.iter().find_map(|input| input.facts.get("gpu"));
    let gpu = gpu.map(|gpu| format!(", {}", escape(gpu))).unwrap_or_default();
    format!("{ranks}, {} steps ({} used){gpu}", report.steps, report.steps_used)
}

fn warnings(out: &mut String, report: &TraceReport) {
    if report.warnings.is_empty() {
        return;
    }
    out.push_str("<section class=\"warnings\" aria-label=\"Warnings\">\n<h2>Before believing the numbers</h2>\n<ul>\n");
    for warning in &report.warnings {
        let _ = writeln!(out, "<li><b>{}</b>: {}</li>", escape(&warning.code), escape(&warning.detail));
    }
    out.push_str("</ul>\n</section>\n");
}

/// A value with its unit; shares as percent.
fn value(metric: &Metric) -> Option<String> {
    let value = metric.value?;
    Some(match metric.unit.as_str() {
        "fraction" => format!("{:.1} %", value * 100.0),
        "" => number(value),
        unit => format!("{} {}", number(value), escape(unit)),
    })
}

fn key_number(out: &mut String, words: &str, text: &str, note: Option<&str>) {
    let note = note.map(|note| format!("<span class=\"note\">{}</span>", escape(note))).unwrap_or_default();
    let _ = writeln!(
        out,
        "<div class=\"key\"><span class=\"name\">{words}</span><span class=\"value\">{text}</span>{note}</div>"
    );
}

fn metrics(out: &mut String, report: &TraceReport) {
    out.push_str("<section id=\"metrics\">\n<h2>All metrics</h2>\n");
    tables::open(out, "Metrics with their definitions", &["metric", ">value", "per rank", "definition"]);
    for doc in TRACE_METRICS {
        let Some(metric) = report.metrics.get(doc.name) else { continue };
        let Some(text) = value(metric) else { continue };
        let per_rank = metric.per_rank.as_deref().unwrap_or_default();
        let per_rank: Vec<String> = per_rank
            .iter()
            .map(|one| {
                one.map_or_else(|| "–".to_owned(), |one| value(&Metric::of(one, &metric.unit)).unwrap_or_default())
            })
            .collect();
        let note = metric.note.as_deref().map(|note| format!(" <i>{}</i>", escape(note))).unwrap_or_default();
        let _ = writeln!(
            out,
            "<tr><th scope=\"row\">{}</th><td class=\"n\">{text}</td><td>{}</td><td class=\"wide\">{}{note}</td></tr>",
            doc.name,
            per_rank.join(", "),
            escape(doc.text)
        );
    }
    out.push_str("</tbody></table></div>\n</section>\n<section id=\"absent\">\n<h2>Not measured</h2>\n");
    let absent: Vec<(&String, &str)> =
        report.metrics.iter().filter_map(|(name, metric)| Some((name, metric.absent.as_deref()?))).collect();
    if absent.is_empty() {
        out.push_str("<p>Everything was measured.</p>\n");
    } else {
        tables::open(out, "Metrics without a value", &["metric", "why not"]);
        for (name, reason) in absent {
            let _ = writeln!(
                out,
                "<tr><th scope=\"row\">{}</th><td class=\"wide\">{}</td></tr>",
                escape(name),
                escape(reason)
            );
        }
        out.push_str("</tbody></table></div>\n");
    }
    out.push_str("</section>\n");
    tables::inputs(out, report);
}

#[cfg(test)]
mod tests;
