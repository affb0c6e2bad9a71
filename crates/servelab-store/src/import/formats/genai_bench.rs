//! genai-bench: one JSON file per scenario and concurrency with `aggregated_metrics` and every request's metrics, in seconds
//! or milliseconds as `_time_unit` says. It keeps no instants; its times include opening the connection.

use super::super::run::{Arrivals, Latency, Run, Seen};
use super::{Doc, Format, Json, Parsed, count, number, put, stated, text};
use servelab_core::plan::Load;

pub(super) const FORMAT: Format = Format {
    name: "genai-bench",
    tool: "genai-bench",
    is_tested: true,
    detect: |doc| {
        doc.root()
            .is_some_and(|root| root.get("aggregated_metrics").is_some_and(|m| m.get("num_concurrency").is_some()))
    },
    parse,
};

fn parse(doc: &Doc<'_>) -> Result<Parsed, String> {
    let root = doc.root().ok_or("it is empty")?;
    let totals = root.get("aggregated_metrics").ok_or("it has no aggregated_metrics")?;
    let per_s = match text(root, "_time_unit").as_deref() {
        None | Some("s") => 1.0,
        Some("ms") => 1e-3,
        Some(other) => return Err(format!("`_time_unit` is `{other}`; known: s, ms")),
    };
    let mut run = Run {
        scheduled: count(totals, &["num_requests"]),
        completed: count(totals, &["num_completed_requests"]),
        failed: count(totals, &["num_error_requests"]),
        // The length of the run is in seconds whatever the unit of the latencies.
        duration_s: number(totals, &["run_duration"]),
        requests_per_s: number(totals, &["requests_per_second"]),
        output_tokens_per_s: number(totals, &["mean_output_throughput_tokens_per_s"]),
        ..Run::default()
    };
    if let Some(scenario) = text(totals, "scenario") {
        run.labels.insert("scenario".to_owned(), scenario);
    }
    let stats = totals.get("stats");
    let sum = |key: &str| stats.and_then(|stats| number(stats.get(key)?, &["sum"])).map(|n| n.round() as u64);
    (run.input_tokens, run.output_tokens) = (sum("num_input_tokens"), sum("num_output_tokens"));
    run.input_tokens_known = run.input_tokens.is_some();
    for (key, latency) in [("ttft", Latency::Ttft), ("tpot", Latency::Tpot), ("e2e_latency", Latency::E2e)] {
        if let Some(object) = stats.and_then(|stats| stats.get(key)) {
            put(&mut run, latency, stated(object, per_s * 1e3));
        }
    }
    if text(totals, "iteration_type").is_none_or(|kind| kind == "num_concurrency") {
        run.load = count(totals, &["num_concurrency"]).and_then(|n| u32::try_from(n).ok()).map(Load::closed);
    }
    for request in root.get("individual_request_metrics").map(Json::items).unwrap_or_default() {
        let get = |key: &str| request.get(key)?.number();
        let code = get("error_code");
        let message = text(request, "error_message").unwrap_or_default();
        let error = code
            .map(|code| if message.is_empty() { format!("HTTP {code}") } else { format!("HTTP {code}: {message}") });
        run.push(
            0.0,
            &Seen {
                ttft_s: get("ttft").map(|t| t * per_s),
                e2e_s: get("e2e_latency").map(|t| t * per_s),
                input: get("num_input_tokens"),
                output: get("num_output_tokens"),
                error: error.as_deref(),
                ..Seen::default()
            },
        );
    }
    run.arrivals = Arrivals::Unknown;
    run.ttft_known = !run.requests.is_empty();
    run.notes.push("its times begin before the connection is opened".to_owned());
    Ok(Parsed::Runs(vec![run]))
}
