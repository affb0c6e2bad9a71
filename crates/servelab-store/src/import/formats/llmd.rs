//! The benchmark report of llm-d-benchmark, versions 0.1 and 0.2, as YAML or JSON: statistics with a unit beside each.

use super::super::run::{Latency, Run};
use super::{Doc, Format, Json, Parsed, count, load, number, put, stated, text};

pub(super) const FORMAT: Format = Format {
    name: "llm-d-report",
    tool: "llm-d-benchmark",
    is_tested: false,
    detect: |doc| doc.root().is_some_and(|root| metrics(root).is_some()),
    parse,
};

/// `metrics` (0.1) or `results.request_performance.aggregate` (0.2).
fn metrics<'a, 'b>(root: &'a Json<'b>) -> Option<&'a Json<'b>> {
    root.get("scenario")?;
    let found = root.get("metrics").or_else(|| root.at("results.request_performance.aggregate"))?;
    (found.get("latency").is_some() && found.get("requests").is_some()).then_some(found)
}

/// Milliseconds per unit: `ms`, `s`, `ms/token`, …
fn scale(object: &Json<'_>) -> Option<f64> {
    let unit = text(object, "units")?;
    match unit.split('/').next()?.trim() {
        "s" => Some(1e3),
        "ms" => Some(1.0),
        "us" => Some(1e-3),
        _ => None,
    }
}

fn parse(doc: &Doc<'_>) -> Result<Parsed, String> {
    let root = doc.root().ok_or("it is empty")?;
    let metrics = metrics(root).ok_or("it has no metrics")?;
    let requests = metrics.get("requests").ok_or("it has no requests")?;
    let total = count(requests, &["total"]);
    let failed = count(requests, &["failures"]).or(Some(0));
    let mut run = Run {
        scheduled: total,
        completed: total.zip(failed).map(|(total, failed)| total.saturating_sub(failed)),
        failed,
        duration_s: metrics
            .at("time.duration")
            .and_then(Json::number)
            .or_else(|| root.at("run.time.duration")?.number()),
        ..Run::default()
    };
    // A rate is a number in 0.1 and statistics in 0.2.
    let rate = |key: &str| {
        let value = metrics.get("throughput")?.get(key)?;
        value.number().or_else(|| number(value, &["mean"]))
    };
    run.output_tokens_per_s = rate("output_tokens_per_sec").or_else(|| rate("output_token_rate"));
    run.requests_per_s = rate("requests_per_sec").or_else(|| rate("request_rate"));
    let sum = |key: &str| {
        let mean = number(requests.get(key)?, &["mean"])?;
        Some((mean * run.completed? as f64).round() as u64)
    };
    (run.input_tokens, run.output_tokens) = (sum("input_length"), sum("output_length"));
    run.input_tokens_known = run.input_tokens.is_some();
    for (key, latency) in [
        ("time_to_first_token", Latency::Ttft),
        ("time_per_output_token", Latency::Tpot),
        ("inter_token_latency", Latency::Itl),
        ("request_latency", Latency::E2e),
    ] {
        let Some(object) = metrics.get("latency").and_then(|latency| latency.get(key)) else { continue };
        let Some(scale) = scale(object) else { return Err(format!("`{key}` has no unit that is a time")) };
        put(&mut run, latency, stated(object, scale));
    }
    run.model = root.at("scenario.model.name").and_then(Json::text).map(|name| name.into_owned());
    if let Some(tool) = root.at("scenario.load.name").and_then(Json::text) {
        run.labels.insert("harness".to_owned(), tool.into_owned());
    }
    run.load = load(None, None, "unknown", &run);
    run.notes.push("definitions are those of the tool that the report was made from".to_owned());
    Ok(Parsed::Runs(vec![run]))
}
