//! inference-perf: one report per stage (and a summary over all of them, which mixes loads and is read only where there
//! are no stages), in seconds; and per-request data with monotonic stamps. Its inter-token latencies hold a zero for every
//! token that came in one chunk with another.

use std::borrow::Cow;

use super::super::run::{Arrivals, Latency, Run, Seen};
use super::{Doc, Format, Json, Parsed, count, load, number, put, stated};
use servelab_core::plan::Load;

pub(super) const STAGE: Format = Format {
    name: "inference-perf",
    tool: "inference-perf",
    is_tested: true,
    detect: |doc| doc.root().is_some_and(|root| root.get("load_summary").is_some() && root.get("successes").is_some()),
    parse: stage,
};

pub(super) const REQUESTS: Format = Format {
    name: "inference-perf-requests",
    tool: "inference-perf",
    is_tested: true,
    detect: |doc| {
        let first = doc.root().and_then(|root| root.items().first());
        first.is_some_and(|first| {
            first.get("start_time").is_some() && first.get("end_time").is_some() && first.get("info").is_some()
        })
    },
    parse: |doc| {
        // The reports beside it count the same requests; without them, these are a run of their own.
        if (doc.beside)("summary_lifecycle_metrics.json").is_some() {
            return Ok(Parsed::Companion);
        }
        let mut run = Run::default();
        let requests: Vec<&Json<'_>> = doc.root().map(Json::items).unwrap_or_default().iter().collect();
        fill(&mut run, &requests);
        run.load = load(None, None, "unknown", &run);
        Ok(Parsed::Runs(vec![run]))
    },
};

fn stage(doc: &Doc<'_>) -> Result<Parsed, String> {
    let root = doc.root().ok_or("it is empty")?;
    let is_summary = doc.name().starts_with("summary_");
    if is_summary && (doc.beside)("stage_0_lifecycle_metrics.json").is_some() {
        return Ok(Parsed::Companion);
    }
    let (successes, failures) = (root.get("successes").ok_or("it has no successes")?, root.get("failures"));
    let offered = root.get("load_summary").ok_or("it has no load_summary")?;
    let (completed, failed) = (count(successes, &["count"]), failures.and_then(|f| count(f, &["count"])));
    let rate = |key: &str| number(successes.get("throughput")?, &[key]);
    let requests_per_s = rate("requests_per_sec");
    let mut run = Run {
        scheduled: count(offered, &["count"]).or_else(|| Some(completed? + failed.unwrap_or(0))),
        completed,
        failed: failed.or(Some(0)),
        requests_per_s,
        output_tokens_per_s: rate("output_tokens_per_sec"),
        duration_s: number(root, &["benchmark_time_seconds"])
            .or_else(|| Some(completed? as f64 / requests_per_s.filter(|rate| *rate > 0.0)?)),
        ..Run::default()
    };
    let total = |key: &str| {
        let object = successes.get(key)?;
        let sum = number(object, &["total"]).or_else(|| number(object.get("total")?, &["sum"]));
        let mean = number(object, &["mean"]).or_else(|| number(object.get("total")?, &["mean"]));
        sum.or_else(|| Some(mean? * completed? as f64)).map(|n| n.round() as u64)
    };
    run.input_tokens = total("prompt_tokens").or_else(|| total("prompt_len"));
    run.output_tokens = total("output_tokens").or_else(|| total("output_len"));
    run.input_tokens_known = run.input_tokens.is_some();
    for (key, latency) in [
        ("time_to_first_token", Latency::Ttft),
        ("time_per_output_token", Latency::Tpot),
        ("inter_token_latency", Latency::Itl),
        ("request_latency", Latency::E2e),
    ] {
        if let Some(object) = successes.get("latency").and_then(|latency| latency.get(key)) {
            put(&mut run, latency, stated(object, 1e3));
        }
    }
    let concurrency = count(offered, &["concurrency"]).and_then(|n| u32::try_from(n).ok());
    run.load = match concurrency {
        Some(concurrency) => Some(Load::closed(concurrency)),
        None => load(number(offered, &["requested_rate"]), None, "unknown", &run),
    };
    if is_summary {
        run.notes.push("a summary over every stage: loads may be mixed".to_owned());
    }
    requests_beside(doc, &mut run, is_summary);
    run.notes.push("its inter-token latency counts a zero for every token that came together with another".to_owned());
    run.notes
        .push("its own token counts come from its tokenizer; here they are the server's where it sent any".to_owned());
    run.notes.push("it stamps after its HTTP client has processed a chunk".to_owned());
    Ok(Parsed::Runs(vec![run]))
}

/// Requests of this report. Stages follow each other, so in the order of their start the first requests belong to the
/// first stage; that is used only when the stages' counts add up to the requests.
fn requests_beside(doc: &Doc<'_>, run: &mut Run, is_summary: bool) {
    let Some(text) = (doc.beside)("per_request_lifecycle_metrics.json") else { return };
    let Ok(json) = Json::parse(&text) else { return };
    let mut requests: Vec<&Json<'_>> = json.items().iter().collect();
    let start = |request: &Json<'_>| number(request, &["start_time"]).unwrap_or(f64::INFINITY);
    requests.sort_by(|a, b| start(a).total_cmp(&start(b)));
    let counts: Vec<usize> = (0..10_000).map_while(|stage| stage_count(doc, stage)).collect();
    let stage = doc.name().strip_prefix("stage_").and_then(|rest| rest.split('_').next()?.parse::<usize>().ok());
    let own = match stage.filter(|_| !is_summary) {
        Some(stage) if counts.iter().sum::<usize>() == requests.len() => {
            let before: usize = counts.iter().take(stage).sum();
            requests.get(before..before + counts.get(stage).copied().unwrap_or(0)).unwrap_or_default()
        }
        Some(_) => return,
        None => &requests,
    };
    if run.scheduled.is_none_or(|n| usize::try_from(n) == Ok(own.len())) {
        // Zeros inside chunks make its own statistics another thing.
        run.stated.remove(&Latency::Itl);
        fill(run, own);
    }
}

fn stage_count(doc: &Doc<'_>, stage: usize) -> Option<usize> {
    let text = (doc.beside)(&format!("stage_{stage}_lifecycle_metrics.json"))?;
    usize::try_from(Json::parse(&text).ok()?.at("load_summary.count")?.count()?).ok()
}

fn fill(run: &mut Run, requests: &[&Json<'_>]) {
    let start = |request: &Json<'_>| number(request, &["start_time"]);
    let origin_s = requests.iter().filter_map(|request| start(request)).fold(f64::INFINITY, f64::min);
    for request in requests {
        let Some(send_s) = start(request) else { continue };
        let info = request.get("info");
        let within = |key: &str| {
            let info = info?;
            info.get(key)
                .or_else(|| info.get("response_metrics")?.get(key))
                .or_else(|| info.get("request_metrics")?.get(key))
        };
        let times =
            within("chunk_times").or_else(|| within("output_token_times")).and_then(Json::numbers).unwrap_or_default();
        // Tokens of one chunk share a stamp: one event each would be gaps of zero.
        let mut chunks: Vec<f64> = times.to_vec();
        chunks.dedup();
        let gaps: Vec<f64> = chunks.iter().zip(chunks.iter().skip(1)).map(|(a, b)| b - a).collect();
        let usage = within("server_usage");
        let input = within("input_tokens")
            .and_then(Json::number)
            .or_else(|| number(usage?, &["prompt_tokens"]))
            .or_else(|| request.at("computed_metrics.input_tokens")?.number());
        let output = usage
            .and_then(|usage| number(usage, &["completion_tokens"]))
            .or_else(|| within("output_tokens")?.number())
            .or_else(|| request.at("computed_metrics.output_tokens")?.number());
        let error = request.get("error").map(|error| {
            error.text().map(Cow::into_owned).unwrap_or_else(|| {
                let part = |key: &str| error.get(key).and_then(Json::text).map(Cow::into_owned).unwrap_or_default();
                format!("{} {}", part("error_type"), part("error_msg"))
            })
        });
        run.push(
            origin_s,
            &Seen {
                send_s: Some(send_s),
                ttft_s: chunks.first().map(|first| first - send_s),
                e2e_s: number(request, &["end_time"]).map(|end| end - send_s),
                input,
                output,
                gaps_s: &gaps,
                error: error.as_deref(),
                ..Seen::default()
            },
        );
    }
    run.arrivals = Arrivals::Measured;
    run.ttft_known = true;
    run.input_tokens_known = run.requests.iter().all(|request| request.input_tokens.is_some());
}
