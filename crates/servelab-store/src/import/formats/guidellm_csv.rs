//! GuideLLM's CSV: three header lines (group, name, unit or statistic), one row per benchmark.

use super::super::run::{Latency, Run, StatedMs};
use super::{Doc, Format, Parsed, put};
use servelab_core::plan::Load;

pub(super) const FORMAT: Format = Format {
    name: "guidellm-csv",
    tool: "GuideLLM",
    is_tested: true,
    detect: |doc| {
        doc.json.is_empty()
            && doc
                .text
                .lines()
                .next()
                .is_some_and(|line| line.starts_with("Run Info") && line.contains("Request Latency"))
    },
    parse,
};

fn parse(doc: &Doc<'_>) -> Result<Parsed, String> {
    let stem = doc.name().trim_end_matches(".csv");
    if (doc.beside)(&format!("{stem}.json")).is_some() {
        return Ok(Parsed::Companion);
    }
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(doc.text.as_bytes());
    let rows: Vec<csv::StringRecord> = reader.records().collect::<Result<_, _>>().map_err(|error| error.to_string())?;
    let [groups, names, details, data @ ..] = rows.as_slice() else { return Err("it has no row of data".to_owned()) };
    let column = |group: &str, name: &str, detail: &str| {
        (0..groups.len()).find(|idx| {
            let is =
                |row: &csv::StringRecord, text: &str| row.get(*idx).is_some_and(|cell| cell.eq_ignore_ascii_case(text));
            is(groups, group) && is(names, name) && (detail.is_empty() || is(details, detail))
        })
    };
    let runs = data.iter().map(|row| {
        let cell = |group: &str, name: &str, detail: &str| column(group, name, detail).and_then(|idx| row.get(idx));
        let value = |group: &str, name: &str, detail: &str| cell(group, name, detail)?.parse::<f64>().ok();
        let whole = |name: &str| value("Request Counts", name, "").filter(|n| *n >= 0.0).map(|n| n.round() as u64);
        let mut run = Run {
            date: cell("Timings", "Start Time", "").map(str::to_owned),
            completed: whole("Successful"),
            failed: whole("Errored"),
            scheduled: whole("Total"),
            duration_s: value("Timings", "Duration", ""),
            requests_per_s: value("Server Throughput", "Successful Requests/Sec", "Mean"),
            concurrency_mean: value("Server Throughput", "Successful Concurrency", "Mean"),
            ..Run::default()
        };
        let total = |name: &str| Some((value("Token Metrics", name, "Mean")? * run.completed? as f64).round() as u64);
        (run.input_tokens, run.output_tokens) = (total("Successful Input Tokens"), total("Successful Output Tokens"));
        run.input_tokens_known = run.input_tokens.is_some();
        for (group, unit, scale, latency) in [
            ("Time to First Token", "ms", 1.0, Latency::Ttft),
            ("Inter Token Latency", "ms", 1.0, Latency::Tpot),
            ("Request Latency", "Sec", 1e3, Latency::E2e),
        ] {
            let name = format!("Successful {unit}");
            let at = |detail: &str| value(group, &name, detail).map(|x| x * scale);
            let mut stated = StatedMs { mean: at("Mean"), p50: at("Median"), ..StatedMs::default() };
            if let Some(list) = cell(group, &name, "Percentiles") {
                percentiles(list, scale, &mut stated);
            }
            put(&mut run, latency, stated);
        }
        run.load = cell("Benchmark", "Strategy", "").and_then(strategy);
        run.notes.push("its inter-token latency is a mean per request: it is TPOT here".to_owned());
        run
    });
    Ok(Parsed::Runs(runs.collect()))
}

/// `[min, 0.1th, 1st, 5th, 10th, 25th, 75th, 90th, 95th, 99th, max]`.
fn percentiles(list: &str, scale: f64, stated: &mut StatedMs) {
    let values: Vec<f64> =
        list.trim_matches(['[', ']', '"']).split(',').filter_map(|text| text.trim().parse().ok()).collect();
    if let [_, _, _, _, _, _, _, p90, p95, p99, max] = values.as_slice() {
        (stated.p90, stated.p95) = (Some(p90 * scale), Some(p95 * scale));
        (stated.p99, stated.max) = (Some(p99 * scale), Some(max * scale));
    }
}

/// `concurrent@4`, `poisson@2.50`, `synchronous`.
fn strategy(text: &str) -> Option<Load> {
    let (kind, value) = text.split_once('@').unwrap_or((text, ""));
    match kind {
        "synchronous" => Some(Load::closed(1)),
        "concurrent" => value.parse().ok().map(Load::closed),
        "constant" | "poisson" => {
            Some(Load::Open { rate_per_s: value.parse().ok()?, arrival: kind.to_owned(), max_concurrency: None })
        }
        _ => None,
    }
}
