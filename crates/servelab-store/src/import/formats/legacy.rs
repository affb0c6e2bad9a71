//! Results and configurations of the framework of documents 000 and 001. Times are in seconds, although its documents say
//! milliseconds; zeros stand where nothing was measured; `prompt_length` is no count of tokens. Requests stand in the
//! order of submission, without stamps.

use std::collections::BTreeMap;

use servelab_core::identity::legacy_md5_8;

use super::super::LegacyConfig;
use super::super::run::{Arrivals, Latency, Run, Seen};
use super::{Doc, Format, Json, Parsed, count, load, number, put, text};
use crate::import::run::StatedMs;

pub(super) const FORMAT: Format =
    Format { name: "legacy-001", tool: "the framework of documents 000 and 001", is_tested: true, detect, parse };

pub(super) const CONFIG: Format = Format {
    name: "legacy-001-config",
    tool: "the framework of documents 000 and 001",
    is_tested: true,
    detect: |doc| {
        doc.root().is_some_and(|root| {
            ["model_path", "tensor_parallel_size", "max_model_len", "num_nodes"]
                .iter()
                .all(|key| root.get(key).is_some())
        })
    },
    parse: config,
};

fn detect(doc: &Doc<'_>) -> bool {
    doc.root().is_some_and(|root| root.get("config_hash").is_some() && root.get("throughput_tokens_per_sec").is_some())
}

fn parse(doc: &Doc<'_>) -> Result<Parsed, String> {
    let root = doc.root().ok_or("it is empty")?;
    let rate = number(root, &["request_rate"]);
    let mut run = Run {
        dataset: text(root, "dataset_name"),
        date: text(root, "timestamp"),
        scheduled: count(root, &["num_requests"]),
        completed: count(root, &["successful_requests"]),
        failed: count(root, &["failed_requests"]),
        duration_s: number(root, &["total_time"]),
        output_tokens: count(root, &["total_tokens_generated"]),
        output_tokens_per_s: number(root, &["throughput_tokens_per_sec"]),
        requests_per_s: number(root, &["throughput_requests_per_sec"]),
        server_expected: true,
        ..Run::default()
    };
    if let Some(hash) = text(root, "config_hash") {
        run.labels.insert("config_hash".to_owned(), hash);
    }
    run.load = load(rate, None, "unknown", &run);
    for (name, latency) in [("ttft", Latency::Ttft), ("itl", Latency::Tpot), ("e2e_latency", Latency::E2e)] {
        // Zero is how it writes "nothing measured".
        let get =
            |statistic: &str| root.get(&format!("{name}_{statistic}"))?.number().filter(|s| *s > 0.0).map(|s| s * 1e3);
        let stated =
            StatedMs { mean: get("mean"), p50: get("p50"), p95: get("p95"), p99: get("p99"), ..StatedMs::default() };
        put(&mut run, latency, stated);
    }
    run.notes.push("times are seconds in this file, whatever its documents say".to_owned());
    run.notes.push("its inter-token latency is a mean per request: it is TPOT here".to_owned());
    let requests = root.get("request_metrics").map(Json::items).unwrap_or_default();
    for (idx, request) in requests.iter().enumerate() {
        let is_success = request.get("success").and_then(Json::truth) == Some(true);
        let message = request.get("error_msg").and_then(Json::text).unwrap_or_default();
        let get = |key: &str| request.get(key)?.number();
        run.push(
            0.0,
            &Seen {
                send_s: rate.filter(|rate| *rate > 0.0).map(|rate| idx as f64 / rate),
                ttft_s: get("ttft"),
                e2e_s: get("end_to_end_latency"),
                output: get("output_length"),
                error: (!is_success).then_some(&*message),
                ..Seen::default()
            },
        );
    }
    if !requests.is_empty() {
        run.arrivals = if rate.is_some() { Arrivals::Reconstructed } else { Arrivals::Unknown };
        run.ttft_known = true;
        run.notes.push(
            "arrivals are laid out from the rate and the order of the requests, only to see whether a queue grew"
                .to_owned(),
        );
    }
    if root.get("prometheus_metrics").is_some() {
        run.server_expected = false;
    }
    Ok(Parsed::Runs(vec![run]))
}

fn config(doc: &Doc<'_>) -> Result<Parsed, String> {
    let settings: BTreeMap<String, serde_json::Value> =
        serde_json::from_str(doc.text).map_err(|error| error.to_string())?;
    let content_hash = legacy_md5_8(&settings.clone().into_iter().collect());
    let stem = doc.name().trim_end_matches(".json");
    let named = stem.rsplit('_').next().filter(|last| last.len() == 8 && last.bytes().all(|b| b.is_ascii_hexdigit()));
    Ok(Parsed::Config(LegacyConfig { named_hash: named.unwrap_or_default().to_owned(), content_hash, settings }))
}
