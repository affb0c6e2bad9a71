//! report.html: one file, no network, readable with a keyboard, in the dark and on paper. The answer first, then what it
//! rests on. Tables are those of report.txt; figures are drawn in the browser from the descriptions in `figure`.

mod answer;
mod configurations;
mod edges;
mod regimes;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;

use servelab_store::best::Best;

use crate::figure::{COLOURS, Figure};
use crate::plot::escape;
use crate::report::{ReportInput, sections};
use crate::text::document::Document;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
/// Apache ECharts 5.6.0; data/echarts says where it comes from.
const LIBRARY: &str = include_str!("../../data/echarts/echarts.min.js");

/// What the page is made from.
#[derive(Debug, Clone, Copy)]
pub struct PageInput<'a> {
    /// The report.
    pub report: &'a ReportInput<'a>,
    /// The answers, one per workload.
    pub best: &'a [Best],
    /// The figures.
    pub figures: &'a [Figure],
    /// Further sections, as plain text.
    pub further: &'a [String],
    /// The study's file as it was named, for commands to copy; `None` where the results are not the study's own.
    pub study_file: Option<&'a str>,
}

/// Sets of figures: name, heading, words under it.
const SETS: [(&str, &str, &str); 8] = [
    (
        "trade",
        "Trade-offs",
        "Throughput against what one user feels. Points on the dashed front are beaten by no other in both.",
    ),
    ("load", "Under load", "What each configuration does as the load grows."),
    ("effects", "What each parameter does", "Effects with 95 % intervals, all else held equal."),
    ("grid", "Two parameters at a time", "Means over the grid; choose a pair."),
    ("cdf", "Distributions", "Latencies inside single cells."),
    ("time", "Over time", "Throughput and the server's state inside single cells."),
    ("requests", "Request by request", "Every dot is one request of a cell."),
    ("predicted", "Predicted and measured", "The simulator's word beside the measurement."),
];

/// The page.
pub fn report_page(input: &PageInput<'_>) -> String {
    let report = input.report;
    let per = normalisation(report, input.figures);
    let mut main = String::new();
    let mut nav: Vec<(String, String)> = Vec::new();
    answer::section(&mut main, input);
    nav.push(("answer".into(), "Answer".into()));
    for (set, heading, words) in SETS {
        if !input.figures.iter().any(|figure| figure.set == set) {
            continue;
        }
        nav.push((set.to_owned(), heading.to_owned()));
        let _ = write!(
            main,
            "<section id=\"{set}\">\n<h2>{heading}</h2>\n<p class=\"lead\">{words}</p>\n<div class=\"set\" data-set=\"{set}\"></div>\n"
        );
        if set == "trade" {
            regimes::section(&mut main, input.figures, per);
            main.push_str(
                "<details class=\"more\"><summary>Four panels: throughput against TPOT, TTFT, chunk latency, interactivity</summary>\n\
                 <div class=\"panels\" data-panels=\"throughput_vs_tpot_mean throughput_vs_ttft_mean throughput_vs_chunk_latency \
                 throughput_vs_interactivity\"></div></details>\n",
            );
        }
        main.push_str("</section>\n");
    }
    for (id, heading, document) in sections(report) {
        if document.is_empty() {
            continue;
        }
        nav.push((id.to_owned(), heading.to_owned()));
        let _ = write!(main, "<section id=\"{id}\">\n{}</section>\n", document.to_html(&format!("{id}-")));
    }
    for text in input.further {
        let (title, body) = text.split_once('\n').unwrap_or((text, ""));
        let id = format!("further-{}", crate::text::number::slug(title));
        let _ = write!(
            main,
            "<section id=\"{id}\">\n<h2>{}</h2>\n<div class=\"box\" tabindex=\"0\"><pre>{}</pre></div>\n</section>\n",
            escape(title),
            lines(body)
        );
        nav.push((id, title.to_owned()));
    }
    configurations::section(&mut main, report, &mut nav);
    whole(input, per, &main, &nav)
}

fn whole(input: &PageInput<'_>, per: Option<f64>, main: &str, nav: &[(String, String)]) -> String {
    let report = input.report;
    let best: Vec<serde_json::Value> = input
        .best
        .iter()
        .filter_map(|answer| Some((answer, &answer.entries.first()?.group)))
        .map(|(answer, group)| {
            let name = crate::report::rows::names(&group.labels, group.point.short());
            serde_json::json!({"workload": answer.workload, "name": name, "load": group.load})
        })
        .collect();
    let data = serde_json::json!({
        "figures": input.figures,
        "best": best,
        "colours": COLOURS,
        "per": per,
        "price": report.study.report.price_per_gpu_hour,
    });
    // A script element ends at the first `</`, whatever is around it.
    let data = serde_json::to_string(&data).unwrap_or_else(|_| "{}".to_owned()).replace('<', "\\u003c");
    let links: Vec<String> = nav.iter().map(|(id, words)| format!("<a href=\"#{id}\">{}</a>", escape(words))).collect();
    let mut head = Document::default();
    head.paragraph(report.study.description.clone().unwrap_or_default());
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:\">\n\
         <title>Report: {study}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<a class=\"skip\" href=\"#main\">Skip to the answer</a>\n\
         <header>\n<div class=\"title\"><h1>{study}</h1>{description}</div>\n\
         <form class=\"controls\" aria-label=\"What the page shows\">\n\
         <label class=\"for-workload\">Workload <select id=\"workload\"></select></label>\n\
         <label>Configurations <input id=\"filter\" type=\"search\" placeholder=\"filter by name\" autocomplete=\"off\"></label>\n\
         <label>Rates <select id=\"per\"></select></label>\n\
         <label>Colours <select id=\"theme\"><option value=\"auto\">as the system</option><option value=\"light\">light</option><option value=\"dark\">dark</option></select></label>\n\
         </form>\n<nav aria-label=\"Sections\">{links}</nav>\n</header>\n<main id=\"main\">\n\
         <noscript><p class=\"warn\">Figures are drawn by scripts, which are off here. Every table stands below; `servelab report --figures DIR` \
         writes the figures as files.</p></noscript>\n{main}</main>\n\
         <p id=\"spoken\" class=\"visually-hidden\" aria-live=\"polite\"></p>\n\
         <footer><p>servelab {version}. This page needs no network. Figures: Apache ECharts 5.6.0 (Apache-2.0).</p></footer>\n\
         <script type=\"application/json\" id=\"data\">{data}</script>\n<script>{LIBRARY}</script>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n",
        study = escape(&report.plan.study),
        description = head.to_html("head-"),
        links = links.join("\n"),
        version = escape(report.tool_version),
    )
}

fn lines(text: &str) -> String {
    text.lines().map(escape).collect::<Vec<_>>().join("\n")
}

/// GPUs by which rates are shown at first: the study's wish, one where deployments differ in size.
pub fn normalisation(report: &ReportInput<'_>, figures: &[Figure]) -> Option<f64> {
    crate::folders::per_gpus(report.study).or_else(|| {
        let mut sizes = figures.iter().flat_map(|figure| &figure.series).map(|series| series.gpus).filter(|n| *n > 0);
        let first = sizes.next()?;
        sizes.any(|other| other != first).then_some(1.0)
    })
}
