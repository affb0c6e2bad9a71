//! AIPerf: `profile_export_aiperf.json` (the summary, statistics with units), `profile_export.jsonl` beside it (every
//! request, Unix nanoseconds), and the CSV form of the summary. The summary reads the requests itself.

use std::collections::BTreeMap;

use super::super::run::{Arrivals, Latency, Run, Seen, StatedMs};
use super::genai_perf;
use super::{Doc, Format, Json, Parsed, count, load, number, put, text};

pub(super) const FORMAT: Format = Format {
    name: "aiperf",
    tool: "AIPerf",
    is_tested: true,
    detect: |doc| doc.root().is_some_and(is_summary),
    parse: summary,
};

pub(super) const RECORDS: Format = Format {
    name: "aiperf-records",
    tool: "AIPerf",
    is_tested: true,
    detect: |doc| doc.root().is_some_and(is_record),
    parse: |doc| {
        let stem = doc.name().trim_end_matches(".gz").trim_end_matches(".jsonl");
        if (doc.beside)(&format!("{stem}_aiperf.json")).is_some() {
            return Ok(Parsed::Companion);
        }
        let mut run = Run::default();
        fill(&mut run, &doc.json);
        run.load = load(None, None, "unknown", &run);
        Ok(Parsed::Runs(vec![run]))
    },
};

pub(super) const CSV: Format = Format {
    name: "aiperf-csv",
    tool: "AIPerf, genai-perf",
    is_tested: true,
    detect: |doc| doc.json.is_empty() && doc.text.starts_with("Metric,") && doc.text.contains("Request Latency (ms)"),
    parse: csv_summary,
};

/// Is it AIPerf's summary, not genai-perf's?
pub(super) fn is_summary(root: &Json<'_>) -> bool {
    genai_perf::is_summary(root)
        && ["schema_version", "aiperf_version", "run_info", "was_cancelled", "error_summary"]
            .iter()
            .any(|key| root.get(key).is_some())
}

fn is_record(root: &Json<'_>) -> bool {
    root.get("metrics").is_some() && root.get("metadata").is_some_and(|meta| meta.get("request_start_ns").is_some())
}

fn summary(doc: &Doc<'_>) -> Result<Parsed, String> {
    let root = doc.root().ok_or("it is empty")?;
    let mut run = genai_perf::summary(root);
    run.date = text(root, "start_time");
    run.failed = run.failed.or(Some(0));
    let config = root.get("input_config");
    let find = |paths: &[&str]| paths.iter().find_map(|path| config?.at(path));
    run.model = run.model.or_else(|| {
        let names = find(&["endpoint.model_names", "models", "model_names"])?;
        let first = names.items().first().or_else(|| names.get("items")?.items().first()).unwrap_or(names);
        first.text().or_else(|| first.get("name")?.text()).map(|name| name.into_owned())
    });
    let cap = find(&["loadgen.concurrency", "concurrency"])
        .and_then(Json::count)
        .or_else(|| phase(config?, "concurrency")?.count());
    let rate = find(&["loadgen.request_rate", "request_rate"])
        .and_then(Json::number)
        .or_else(|| phase(config?, "rate")?.number());
    if let Some(info) = root.get("run_info") {
        for key in ["run_label", "variation_label"] {
            if let Some(value) = text(info, key) {
                run.labels.insert(key.to_owned(), value);
            }
        }
    }
    if let Some(stem) = doc.name().trim_end_matches(".gz").strip_suffix("_aiperf.json")
        && let Some(records) = (doc.beside)(&format!("{stem}.jsonl"))
        && let Ok(records) = Json::parse_all(&records)
    {
        fill(&mut run, &records);
    }
    run.load = load(rate, cap, "poisson", &run);
    if root.get("was_cancelled").and_then(Json::truth) == Some(true) {
        run.notes.push("the run was cancelled".to_owned());
    }
    Ok(Parsed::Runs(vec![run]))
}

/// A setting of the profiling phase.
fn phase<'a, 'b>(config: &'a Json<'b>, key: &str) -> Option<&'a Json<'b>> {
    let phases = config.get("phases")?.items();
    let is_profiling = |phase: &&Json<'_>| text(phase, "name").is_none_or(|name| name == "profiling");
    phases.iter().rfind(is_profiling)?.get(key)
}

fn fill(run: &mut Run, records: &[Json<'_>]) {
    let counted = |record: &&Json<'_>| {
        let phase = record.at("metadata.benchmark_phase").and_then(Json::text);
        is_record(record) && phase.is_none_or(|phase| phase == "profiling")
    };
    // Differences are taken between integers: as seconds since 1970, nanoseconds are lost.
    let stamp = |record: &Json<'_>, key: &str| match record.get("metadata")?.get(key)? {
        Json::Int(ns) => Some(*ns),
        _ => None,
    };
    let first = records.iter().filter(counted).flat_map(|record| {
        [stamp(record, "request_start_ns"), stamp(record, "credit_issued_ns")].into_iter().flatten()
    });
    let Some(origin) = first.min() else { return };
    let seconds = |ns: i64| ns.saturating_sub(origin) as f64 / 1e9;
    for record in records.iter().filter(counted) {
        let value = |key: &str| {
            let metric = record.get("metrics")?.get(key)?;
            number(metric, &["value"])
        };
        let Some(start) = stamp(record, "request_start_ns") else { continue };
        let gaps: Vec<f64> = record
            .at("metrics.inter_chunk_latency.value")
            .and_then(Json::numbers)
            .map(|list| list.iter().map(|ms| ms / 1e3).collect())
            .unwrap_or_default();
        let error = record.get("error").map(|error| {
            let code = count(error, &["code"]).map(|code| format!("HTTP {code} ")).unwrap_or_default();
            format!("{code}{}", text(error, "message").or_else(|| text(error, "type")).unwrap_or_default())
        });
        let credit = stamp(record, "credit_issued_ns");
        run.push(
            0.0,
            &Seen {
                send_s: Some(seconds(start)),
                sched_s: credit.map(seconds),
                ttft_s: value("time_to_first_token").map(|ms| ms / 1e3),
                e2e_s: value("request_latency").map(|ms| ms / 1e3),
                input: value("input_sequence_length"),
                output: value("output_sequence_length"),
                gaps_s: &gaps,
                error: error.as_deref(),
                is_censored: record.at("metadata.was_cancelled").and_then(Json::truth) == Some(true),
            },
        );
        run.schedule_known |= credit.is_some();
    }
    run.arrivals = Arrivals::Measured;
    run.ttft_known = run.requests.iter().any(|request| request.t_first.is_some());
    run.input_tokens_known = true;
    run.notes.push(
        "its request latency ends with the last chunk, its schedule is the instant at which a credit was issued"
            .to_owned(),
    );
}

/// `Metric,avg,min,…` with one row per metric, then `Metric,Value`.
fn csv_summary(doc: &Doc<'_>) -> Result<Parsed, String> {
    let stem = doc.name().trim_end_matches(".csv");
    if (doc.beside)(&format!("{stem}.json")).is_some() {
        return Ok(Parsed::Companion);
    }
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(doc.text.as_bytes());
    let mut header: Vec<String> = Vec::new();
    let mut values: BTreeMap<String, BTreeMap<String, f64>> = BTreeMap::new();
    for record in reader.records() {
        let record = record.map_err(|error| error.to_string())?;
        let Some(name) = record.get(0) else { continue };
        if name == "Metric" {
            header = record.iter().map(str::to_lowercase).collect();
            continue;
        }
        let row = record
            .iter()
            .zip(&header)
            .skip(1)
            .filter_map(|(text, key)| Some((key.clone(), text.replace(',', "").parse().ok()?)));
        values.entry(name.to_owned()).or_default().extend(row);
    }
    let get = |name: &str, key: &str| values.get(name).and_then(|row| row.get(key)).copied();
    let whole = |name: &str| get(name, "value").filter(|n| *n >= 0.0).map(|n| n.round() as u64);
    let mut run = Run {
        completed: whole("Request Count"),
        failed: whole("Error Request Count").or(Some(0)),
        duration_s: get("Benchmark Duration (sec)", "value").or_else(|| get("Benchmark Duration (s)", "value")),
        requests_per_s: get("Request Throughput (requests/sec)", "value")
            .or_else(|| get("Request Throughput (per sec)", "value")),
        output_tokens_per_s: get("Output Token Throughput (tokens/sec)", "value")
            .or_else(|| get("Output Token Throughput (per sec)", "value")),
        ..Run::default()
    };
    let total = |name: &str| Some((get(name, "avg")? * run.completed? as f64).round() as u64);
    (run.input_tokens, run.output_tokens) =
        (total("Input Sequence Length (tokens)"), total("Output Sequence Length (tokens)"));
    run.input_tokens_known = run.input_tokens.is_some();
    for (name, latency) in [
        ("Time to First Token (ms)", Latency::Ttft),
        ("Inter Token Latency (ms)", Latency::Tpot),
        ("Inter Chunk Latency (ms)", Latency::Icl),
        ("Request Latency (ms)", Latency::E2e),
    ] {
        let at = |key: &str| get(name, key);
        put(
            &mut run,
            latency,
            StatedMs {
                mean: at("avg"),
                p50: at("p50"),
                p90: at("p90"),
                p95: at("p95"),
                p99: at("p99"),
                max: at("max"),
                n: None,
            },
        );
    }
    run.load = load(None, None, "unknown", &run);
    run.notes.push("its inter-token latency is a mean per request: it is TPOT here".to_owned());
    Ok(Parsed::Runs(vec![run]))
}
