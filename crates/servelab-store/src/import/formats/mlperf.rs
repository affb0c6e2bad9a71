//! MLCommons: `result_summary.json` of Endpoints, and the text summary of LoadGen. Both count in nanoseconds.

use std::collections::BTreeMap;

use super::super::run::{Latency, Run, StatedMs};
use super::{Doc, Format, Json, Parsed, count, load, number, put, text};

pub(super) const ENDPOINTS: Format = Format {
    name: "mlcommons-endpoints",
    tool: "MLCommons Endpoints",
    is_tested: false,
    detect: |doc| {
        doc.root().is_some_and(|root| root.get("n_samples_issued").is_some() && root.get("duration_ns").is_some())
    },
    parse: endpoints,
};

pub(super) const LOADGEN: Format = Format {
    name: "mlperf-loadgen",
    tool: "MLPerf LoadGen",
    is_tested: false,
    detect: |doc| doc.json.is_empty() && doc.text.contains("MLPerf Results Summary"),
    parse: loadgen,
};

const MS_PER_NS: f64 = 1e-6;

fn endpoints(doc: &Doc<'_>) -> Result<Parsed, String> {
    let root = doc.root().ok_or("it is empty")?;
    let mut run = Run {
        date: text(root, "test_started_at").or_else(|| root.get("test_started_at")?.label()),
        scheduled: count(root, &["n_samples_issued"]),
        completed: count(root, &["n_samples_completed"]),
        failed: count(root, &["n_samples_failed"]),
        duration_s: number(root, &["duration_ns"]).map(|ns| ns / 1e9),
        output_tokens_per_s: number(root, &["tps"]),
        requests_per_s: number(root, &["qps"]),
        engine_version: None,
        ..Run::default()
    };
    let total = |key: &str| root.get(key).and_then(|object| count(object, &["total"]));
    run.input_tokens = total("input_sequence_lengths");
    run.output_tokens = total("output_sequence_lengths");
    run.input_tokens_known = run.input_tokens.is_some();
    for (key, latency) in [("ttft", Latency::Ttft), ("tpot", Latency::Tpot), ("latency", Latency::E2e)] {
        let Some(object) = root.get(key) else { continue };
        let percentile = |p: &str| {
            let percentiles = object.get("percentiles")?;
            number(percentiles, &[p, &format!("{p}.0")]).map(|ns| ns * MS_PER_NS)
        };
        let get = |key: &str| number(object, &[key]).map(|ns| ns * MS_PER_NS);
        let stated = StatedMs {
            mean: get("avg"),
            p50: get("median").or_else(|| percentile("50")),
            p90: percentile("90"),
            p95: percentile("95"),
            p99: percentile("99"),
            max: get("max"),
            n: None,
        };
        if stated.mean.is_some_and(|mean| mean > 0.0 && mean < 1e-3) {
            return Err(format!("`{key}` averages less than a microsecond: it cannot be in nanoseconds"));
        }
        put(&mut run, latency, stated);
    }
    run.load = load(None, root.at("run_config.concurrency").and_then(Json::count), "unknown", &run);
    if root.get("complete").and_then(Json::truth) == Some(false) {
        run.notes.push("the file says that the run is not complete".to_owned());
    }
    Ok(Parsed::Runs(vec![run]))
}

fn loadgen(doc: &Doc<'_>) -> Result<Parsed, String> {
    let lines = doc.text.lines().filter_map(|line| line.split_once(" : ").or_else(|| line.split_once(": ")));
    let values: BTreeMap<String, &str> = lines.map(|(key, value)| (key.trim().to_lowercase(), value.trim())).collect();
    let value = |keys: &[&str]| keys.iter().find_map(|key| values.get(*key)?.parse::<f64>().ok());
    let ms = |key: &str| value(&[key]).map(|ns| ns * MS_PER_NS);
    let mut run = Run {
        requests_per_s: value(&["completed samples per second", "samples per second", "scheduled samples per second"]),
        output_tokens_per_s: value(&["completed tokens per second", "tokens per second"]),
        ..Run::default()
    };
    for (name, latency) in
        [("latency", Latency::E2e), ("first token latency", Latency::Ttft), ("time to output token", Latency::Tpot)]
    {
        let percentile = |p: &str| ms(&format!("{p} percentile {name} (ns)"));
        let stated = StatedMs {
            mean: ms(&format!("mean {name} (ns)")),
            p50: percentile("50.00"),
            p90: percentile("90.00"),
            p95: percentile("95.00"),
            p99: percentile("99.00"),
            max: ms(&format!("max {name} (ns)")),
            n: None,
        };
        put(&mut run, latency, stated);
    }
    for key in ["sut name", "scenario", "mode", "result is"] {
        if let Some(value) = values.get(key) {
            run.labels.insert(key.replace(' ', "_"), (*value).to_owned());
        }
    }
    if values.get("scenario").is_some_and(|scenario| scenario.eq_ignore_ascii_case("server")) {
        run.load = load(value(&["target_qps"]), None, "poisson", &run);
    }
    if values.get("result is").is_some_and(|result| *result != "VALID") {
        run.notes.push("LoadGen itself calls this result invalid".to_owned());
    }
    run.notes
        .push("latencies are from the schedule: LoadGen counts from the instant at which a query was due".to_owned());
    if let Some(ttft) = run.stated.get(&Latency::Ttft).copied() {
        run.stated.insert(Latency::TtftSched, ttft);
    }
    Ok(Parsed::Runs(vec![run]))
}
