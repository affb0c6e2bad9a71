//! `sglang.bench_serving` and its Rust variant: one JSON object per line. Statistics in milliseconds, arrays in seconds.

use super::super::run::{Latency, StatedMs};
use super::{Doc, Format, Json, Parsed, number, put, text};

pub(super) const FORMAT: Format =
    Format { name: "sglang-bench", tool: "sglang bench_serving", is_tested: false, detect, parse };

fn is_run(object: &Json<'_>) -> bool {
    object.get("total_output_tokens_retokenized").is_some()
        || (object.get("mean_e2e_latency_ms").is_some() && object.get("output_throughput").is_some())
}

fn detect(doc: &Doc<'_>) -> bool {
    doc.root().is_some_and(is_run)
}

fn parse(doc: &Doc<'_>) -> Result<Parsed, String> {
    let runs = doc.json.iter().filter(|object| is_run(object)).map(|object| {
        // The keys that both have mean the same; what differs is put right below.
        let mut run = super::vllm::run(object);
        run.labels.retain(|key, _| matches!(key.as_str(), "backend" | "tag" | "protocol"));
        for (key, value) in [("tag", text(object, "tag")), ("protocol", text(object, "protocol"))] {
            if let Some(value) = value {
                run.labels.insert(key.to_owned(), value);
            }
        }
        run.engine = Some("sglang".to_owned());
        run.concurrency_mean = number(object, &["concurrency"]);
        let get = |statistic: &str| object.get(&format!("{statistic}_e2e_latency_ms"))?.number();
        let e2e = StatedMs {
            mean: get("mean"),
            p50: get("median"),
            p90: get("p90"),
            p95: get("p95"),
            p99: get("p99"),
            max: None,
            n: None,
        };
        put(&mut run, Latency::E2e, e2e);
        run.model = run.model.or_else(|| text(object.get("server_info")?, "model_path"));
        run.notes.retain(|note| !note.starts_with("vllm"));
        if object.get("total_output_tokens_retokenized").is_some() {
            run.notes
                .push("output tokens are those asked of or reported by the server, not those counted again".to_owned());
        }
        run
    });
    Ok(Parsed::Runs(runs.collect()))
}
