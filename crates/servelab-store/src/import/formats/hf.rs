//! Hugging Face inference-benchmarker: `{config, results[…]}`, everything in milliseconds.

use super::super::run::{Latency, Run};
use super::{Doc, Format, Json, Parsed, count, load, number, put, stated, text};

pub(super) const FORMAT: Format =
    Format { name: "hf-inference-benchmarker", tool: "HF inference-benchmarker", is_tested: false, detect, parse };

fn detect(doc: &Doc<'_>) -> bool {
    doc.root()
        .and_then(|root| root.get("results")?.items().first())
        .is_some_and(|first| first.get("executor_type").is_some() && first.get("time_to_first_token_ms").is_some())
}

fn parse(doc: &Doc<'_>) -> Result<Parsed, String> {
    let root = doc.root().ok_or("it is empty")?;
    let config = root.get("config");
    let model = config.and_then(|config| text(config, "model_name").or_else(|| text(config, "tokenizer")));
    let results = root.get("results").map(Json::items).unwrap_or_default();
    let runs = results.iter().filter(|result| text(result, "id").is_none_or(|id| id != "warmup")).map(|result| {
        let mut run = Run {
            model: model.clone(),
            date: text(root, "start_time"),
            scheduled: count(result, &["total_requests"]),
            completed: count(result, &["successful_requests"]),
            failed: count(result, &["failed_requests"]),
            duration_s: number(result, &["duration_ms"]).map(|ms| ms / 1e3),
            output_tokens: count(result, &["total_tokens"]),
            input_tokens: count(result, &["total_tokens_sent"]),
            output_tokens_per_s: number(result, &["token_throughput_secs"]),
            requests_per_s: number(result, &["request_rate", "successful_request_rate"]),
            ..Run::default()
        };
        run.input_tokens_known = run.input_tokens.is_some();
        if let Some(id) = text(result, "id") {
            run.labels.insert("id".to_owned(), id);
        }
        for (key, latency) in [
            ("time_to_first_token_ms", Latency::Ttft),
            ("inter_token_latency_ms", Latency::Tpot),
            ("e2e_latency_ms", Latency::E2e),
        ] {
            if let Some(object) = result.get(key) {
                put(&mut run, latency, stated(object, 1.0));
            }
        }
        let settings = result.get("config");
        let rate = settings.and_then(|settings| number(settings, &["rate"]));
        let cap = settings.and_then(|settings| count(settings, &["max_vus"]));
        let is_open = text(result, "executor_type").is_some_and(|kind| kind.to_lowercase().contains("rate"));
        run.load = load(rate.filter(|_| is_open), cap, "constant", &run);
        run.notes.push("its inter-token latency is a mean per request: it is TPOT here".to_owned());
        run
    });
    Ok(Parsed::Runs(runs.collect()))
}
