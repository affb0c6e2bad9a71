//! NVIDIA genai-perf: `profile_export_genai_perf.json` with one object per metric and its unit, and perf_analyzer's
//! `profile_export.json` with stamps per request in nanoseconds. AIPerf's summary has the same form.

use super::super::run::{Arrivals, Latency, Run, Seen, StatedMs};
use super::{Doc, Format, Json, Parsed, count, load, number, put, stated, text};

pub(super) const FORMAT: Format = Format {
    name: "genai-perf",
    tool: "NVIDIA genai-perf",
    is_tested: false,
    detect: |doc| doc.root().is_some_and(|root| is_summary(root) && !super::aiperf::is_summary(root)),
    parse: |doc| Ok(Parsed::Runs(doc.root().map(summary).into_iter().collect())),
};

pub(super) const PROFILE: Format = Format {
    name: "perf-analyzer-profile",
    tool: "NVIDIA perf_analyzer, genai-perf",
    is_tested: false,
    detect: |doc| {
        let first = doc.root().and_then(|root| root.get("experiments")?.items().first());
        first.is_some_and(|first| first.get("requests").is_some() && first.get("experiment").is_some())
    },
    parse: profile,
};

/// One object per metric, with its unit.
pub(super) fn is_summary(root: &Json<'_>) -> bool {
    ["request_latency", "request_throughput"].iter().all(|key| root.get(key).is_some_and(|m| m.get("unit").is_some()))
}

/// Milliseconds per unit of a metric; `None` for one that is no time.
fn scale(metric: &Json<'_>) -> Option<f64> {
    match text(metric, "unit")?.trim().to_lowercase().as_str() {
        "ns" | "nanoseconds" => Some(1e-6),
        "us" | "µs" | "microseconds" => Some(1e-3),
        "ms" | "milliseconds" => Some(1.0),
        "s" | "sec" | "seconds" => Some(1e3),
        _ => None,
    }
}

/// The average of a metric, in its own unit.
pub(super) fn average(root: &Json<'_>, key: &str) -> Option<f64> {
    number(root.get(key)?, &["avg", "value"])
}

/// Statistics of a time.
pub(super) fn time(root: &Json<'_>, key: &str) -> StatedMs {
    root.get(key).and_then(|metric| Some(stated(metric, scale(metric)?))).unwrap_or_default()
}

/// Seconds, whatever the unit.
pub(super) fn seconds(root: &Json<'_>, key: &str) -> Option<f64> {
    let metric = root.get(key)?;
    Some(number(metric, &["avg", "value"])? * scale(metric)? / 1e3)
}

/// What genai-perf and AIPerf have in common.
pub(super) fn summary(root: &Json<'_>) -> Run {
    let whole = |key: &str| average(root, key).filter(|n| *n >= 0.0 && n.is_finite()).map(|n| n.round() as u64);
    let mut run = Run {
        completed: whole("request_count"),
        failed: whole("error_request_count"),
        output_tokens_per_s: average(root, "output_token_throughput"),
        requests_per_s: average(root, "request_throughput"),
        goodput_requests_per_s: average(root, "goodput").or_else(|| average(root, "request_goodput")),
        duration_s: seconds(root, "benchmark_duration"),
        ..Run::default()
    };
    let n = run.completed.filter(|n| *n > 0).map(|n| n as f64);
    if run.completed.is_none() {
        // Older versions do not say how many: the rate and the length of the run do.
        run.completed = run.requests_per_s.zip(run.duration_s).map(|(rate, s)| (rate * s).round() as u64);
    }
    let total = |mean: &str, sum: &str| {
        whole(sum).or_else(|| average(root, mean).zip(n).map(|(mean, n)| (mean * n).round() as u64))
    };
    run.output_tokens = total("output_sequence_length", "total_osl");
    run.input_tokens = total("input_sequence_length", "total_isl");
    run.input_tokens_known = run.input_tokens.is_some();
    for (key, latency) in [
        ("time_to_first_token", Latency::Ttft),
        ("time_to_first_output_token", Latency::Ttfo),
        ("inter_token_latency", Latency::Tpot),
        ("inter_chunk_latency", Latency::Icl),
        ("request_latency", Latency::E2e),
    ] {
        put(&mut run, latency, time(root, key));
    }
    run.notes.push("its inter-token latency is a mean per request: it is TPOT here".to_owned());
    let config = root.get("input_config");
    run.model = config.and_then(|config| config.get("model").or_else(|| config.get("model_names"))).and_then(|model| {
        model
            .text()
            .map(|text| text.into_owned())
            .or_else(|| model.items().first()?.text().map(|text| text.into_owned()))
    });
    let stimulus = config.and_then(|config| config.at("perf_analyzer.stimulus"));
    let cap = stimulus.and_then(|s| count(s, &["concurrency"])).or_else(|| count(config?, &["concurrency"]));
    let rate = stimulus.and_then(|s| number(s, &["request_rate"])).or_else(|| number(config?, &["request_rate"]));
    run.load = load(rate, cap, "poisson", &run);
    run
}

fn profile(doc: &Doc<'_>) -> Result<Parsed, String> {
    let stem = doc.name().trim_end_matches(".json");
    if (doc.beside)(&format!("{stem}_genai_perf.json")).is_some() {
        return Ok(Parsed::Companion);
    }
    let experiments = doc.root().and_then(|root| root.get("experiments")).map(Json::items).unwrap_or_default();
    let runs = experiments.iter().map(|experiment| {
        let requests = experiment.get("requests").map(Json::items).unwrap_or_default();
        let mut run = Run { arrivals: Arrivals::Measured, ttft_known: true, ..Run::default() };
        let start = |request: &Json<'_>| number(request, &["timestamp"]).map(|ns| ns / 1e9);
        let origin_s = requests.iter().filter_map(start).fold(f64::INFINITY, f64::min);
        for request in requests {
            let stamps = request.get("response_timestamps").and_then(Json::numbers).unwrap_or_default();
            let Some(send_s) = start(request) else { continue };
            let after: Vec<f64> = stamps.iter().map(|ns| ns / 1e9 - send_s).collect();
            let gaps: Vec<f64> = after.iter().zip(after.iter().skip(1)).map(|(a, b)| b - a).collect();
            run.push(
                origin_s,
                &Seen {
                    send_s: Some(send_s),
                    ttft_s: after.first().copied(),
                    e2e_s: after.last().copied(),
                    output: Some(after.len() as f64),
                    gaps_s: &gaps,
                    error: after.is_empty().then_some(""),
                    ..Seen::default()
                },
            );
        }
        let mode = experiment.at("experiment.mode").and_then(Json::text).unwrap_or_default().to_lowercase();
        let value = experiment.at("experiment.value").and_then(Json::number);
        let is_rate = mode.contains("rate");
        let cap = value.filter(|_| !is_rate).map(|n| n as u64);
        run.completed = Some(run.requests.len() as u64);
        run.load = load(value.filter(|_| is_rate), cap, "unknown", &run);
        run.completed = None;
        run.notes.push("every response is taken for one token: the file does not count tokens".to_owned());
        run
    });
    Ok(Parsed::Runs(runs.collect()))
}
