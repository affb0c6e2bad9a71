//! GuideLLM's report as JSON or YAML: one benchmark per load level, statistics per outcome, and requests with Unix stamps
//! in seconds. Its "ITL" is the mean per request (TPOT here); its "time per output token" includes the first one.

use super::super::run::{Arrivals, Latency, Run, Seen};
use super::{Doc, Format, Json, Parsed, count, number, put, stated, text};
use servelab_core::plan::Load;

pub(super) const FORMAT: Format =
    Format { name: "guidellm", tool: "GuideLLM", is_tested: true, detect: |doc| !is_yaml(doc) && detect(doc), parse };

pub(super) const YAML: Format = Format {
    name: "guidellm-yaml",
    tool: "GuideLLM",
    is_tested: true,
    detect: |doc| is_yaml(doc) && detect(doc),
    parse,
};

fn is_yaml(doc: &Doc<'_>) -> bool {
    !doc.text.trim_start().starts_with('{')
}

fn detect(doc: &Doc<'_>) -> bool {
    doc.root().and_then(|root| root.get("benchmarks")?.items().first()).is_some_and(|first| {
        first.get("metrics").is_some_and(|metrics| metrics.get("request_latency").is_some())
            && first.get("requests").is_some()
    })
}

fn parse(doc: &Doc<'_>) -> Result<Parsed, String> {
    let root = doc.root().ok_or("it is empty")?;
    // The same benchmarks are often written in two forms side by side; copies by content are found anyway.
    let benchmarks = root.get("benchmarks").map(Json::items).unwrap_or_default();
    Ok(Parsed::Runs(benchmarks.iter().map(|benchmark| run(root, benchmark)).collect()))
}

fn run(root: &Json<'_>, benchmark: &Json<'_>) -> Run {
    let metrics = benchmark.get("metrics");
    let find = |key: &str| metrics.and_then(|metrics| metrics.get(key));
    let totals = find("request_totals");
    let outcome = |key: &str| totals.and_then(|totals| count(totals, &[key]));
    let mut run = Run {
        date: benchmark.get("start_time").and_then(Json::label),
        completed: outcome("successful"),
        failed: outcome("errored"),
        scheduled: outcome("total"),
        duration_s: number(benchmark, &["duration"]),
        ..Run::default()
    };
    let mean = |key: &str| number(find(key)?.get("successful")?, &["mean"]);
    run.requests_per_s = mean("requests_per_second");
    run.output_tokens_per_s = mean("output_tokens_per_second");
    run.concurrency_mean = mean("request_concurrency");
    run.goodput_requests_per_s = mean("request_goodput");
    let sum = |key: &str| number(find(key)?.get("successful")?, &["total_sum"]).map(|n| n.round() as u64);
    (run.input_tokens, run.output_tokens) = (sum("prompt_token_count"), sum("output_token_count"));
    run.input_tokens_known = run.input_tokens.is_some();
    for (key, latency, scale) in [
        ("time_to_first_token_ms", Latency::Ttft, 1.0),
        ("time_to_first_output_token_ms", Latency::Ttfo, 1.0),
        ("inter_token_latency_ms", Latency::Tpot, 1.0),
        ("request_latency", Latency::E2e, 1e3),
    ] {
        let Some(object) = find(key).and_then(|metric| metric.get("successful")) else { continue };
        let mut values = stated(object, scale);
        if let Some(percentiles) = object.get("percentiles") {
            let of = stated(percentiles, scale);
            (values.p50, values.p90, values.p95, values.p99) = (of.p50.or(values.p50), of.p90, of.p95, of.p99);
        }
        if count(object, &["count"]) != Some(0) {
            put(&mut run, latency, values);
        }
    }
    let backend = benchmark.at("config.backend").or_else(|| root.at("config.backend"));
    run.model = backend.and_then(|backend| text(backend, "model").or_else(|| text(backend, "model_name")));
    if let Some(labels) = root.at("config.labels") {
        run.labels = super::metadata(labels, |_| false);
    }
    run.load = strategy(benchmark);
    requests(benchmark, &mut run);
    run.notes.push("its inter-token latency is a mean per request: it is TPOT here; its time per output token, which includes the first, is left out".to_owned());
    run
}

fn strategy(benchmark: &Json<'_>) -> Option<Load> {
    let strategy = benchmark.at("config.strategy")?;
    let kind = text(strategy, "type_").or_else(|| text(strategy, "kind"))?;
    let cap = count(strategy, &["max_concurrency"]).and_then(|n| u32::try_from(n).ok());
    match kind.as_str() {
        "synchronous" => Some(Load::closed(1)),
        "concurrent" => {
            count(strategy, &["streams", "max_concurrency"]).and_then(|n| u32::try_from(n).ok()).map(Load::closed)
        }
        "constant" | "poisson" | "async" => {
            let rate_per_s = number(strategy, &["rate"])?;
            let arrival = if kind == "poisson" { "poisson" } else { "constant" }.to_owned();
            Some(Load::Open { rate_per_s, arrival, max_concurrency: cap })
        }
        "throughput" => cap.map(Load::closed),
        _ => None,
    }
}

fn requests(benchmark: &Json<'_>, run: &mut Run) {
    let lists = ["successful", "errored", "incomplete"];
    let of = |key: &str| {
        benchmark.get("requests").and_then(|requests| requests.get(key)).map(Json::items).unwrap_or_default()
    };
    // A sample of the requests stands for nothing but itself.
    let complete = run.completed.is_some_and(|n| usize::try_from(n) == Ok(of("successful").len()));
    if !complete {
        if !of("successful").is_empty() {
            run.notes.push("the file holds a sample of the requests only: its own statistics are repeated".to_owned());
        }
        return;
    }
    let timing = |request: &Json<'_>, key: &str| request.at("info.timings")?.get(key)?.number();
    let all = lists.iter().flat_map(|key| of(key));
    let origin_s = all
        .filter_map(|request| timing(request, "targeted_start").or_else(|| timing(request, "request_start")))
        .fold(f64::INFINITY, f64::min);
    for list in lists {
        for request in of(list) {
            let send_s = timing(request, "request_start");
            let Some(send) = send_s.filter(|_| origin_s.is_finite()) else { continue };
            let since = |key: &str| timing(request, key).map(|t| t - send);
            let tokens = |side: &str| {
                let metrics = request.get(side)?;
                number(metrics, &["total_tokens", "text_tokens"])
            };
            let error = request.at("info.error").and_then(Json::text);
            let failed = (list == "errored").then(|| error.as_deref().unwrap_or(""));
            let targeted = timing(request, "targeted_start");
            run.push(
                origin_s,
                &Seen {
                    send_s,
                    sched_s: targeted,
                    ttft_s: since("first_token_iteration"),
                    e2e_s: since("last_token_iteration").or_else(|| since("request_end")),
                    input: tokens("input_metrics"),
                    output: tokens("output_metrics"),
                    error: failed,
                    is_censored: list == "incomplete",
                    ..Seen::default()
                },
            );
            run.schedule_known |= targeted.is_some();
        }
    }
    run.arrivals = Arrivals::Measured;
    run.ttft_known = true;
}
