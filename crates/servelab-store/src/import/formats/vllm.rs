//! `vllm bench serve --save-result`, its Rust variant, `--append-result`, the runs of `vllm bench sweep`, and whatever else
//! writes the same keys (srt-slurm, the folders of document 003). Arrays are in seconds, `*_ms` in milliseconds; arrays
//! hold every request in the order of submission, and a request succeeded when its error is empty.

use std::borrow::Cow;

use super::super::run::{Arrivals, Latency, Run, Seen, StatedMs};
use super::{Doc, Format, Json, Parsed, count, load, metadata, number, put, text};

pub(super) const FORMAT: Format =
    Format { name: "vllm-bench", tool: "vllm bench serve, vllm-rs bench serve", is_tested: true, detect, parse };

/// `summary.json` of a sweep repeats the runs that lie beside it.
pub(super) const SUMMARY: Format = Format {
    name: "vllm-sweep-summary",
    tool: "vllm bench sweep",
    is_tested: false,
    detect: |doc| matches!(doc.root(), Some(Json::Array(items)) if items.first().is_some_and(is_run)),
    parse: |doc| {
        let items = doc.root().map(Json::items).unwrap_or_default();
        Ok(Parsed::Runs(items.iter().filter(|item| is_run(item)).map(run).collect()))
    },
};

fn detect(doc: &Doc<'_>) -> bool {
    doc.root().is_some_and(is_run)
}

fn is_run(object: &Json<'_>) -> bool {
    object.get("request_throughput").is_some()
        && object.get("completed").is_some()
        && object.get("duration").is_some()
        && (object.get("num_prompts").is_some() || object.get("backend").is_some() || object.get("model_id").is_some())
}

fn parse(doc: &Doc<'_>) -> Result<Parsed, String> {
    let mut runs: Vec<Run> = doc.json.iter().filter(|object| is_run(object)).map(run).collect();
    if let [one] = runs.as_mut_slice() {
        folder_hints(doc, one);
    }
    Ok(Parsed::Runs(runs))
}

const KNOWN: [&str; 52] = [
    "date",
    "endpoint_type",
    "backend",
    "label",
    "model_id",
    "tokenizer_id",
    "num_prompts",
    "request_rate",
    "burstiness",
    "max_concurrency",
    "ramp_up_strategy",
    "ramp_up_start_rps",
    "ramp_up_end_rps",
    "duration",
    "completed",
    "failed",
    "total_input_tokens",
    "total_output_tokens",
    "request_throughput",
    "request_goodput",
    "request_goodput:",
    "output_throughput",
    "input_throughput",
    "total_token_throughput",
    "latencies",
    "queue_times",
    "max_output_tokens_per_s",
    "max_concurrent_requests",
    "rtfx",
    "rps_change_events",
    "input_lens",
    "output_lens",
    "start_times",
    "ttfts",
    "itls",
    "generated_texts",
    "errors",
    "server_queue_times",
    "server_ttfts",
    "steady_state",
    "failed_requests",
    "max_model_len",
    "best_of",
    "use_beam_search",
    "total_input_sequences",
    "input_sequence_throughput",
    "total_token_throughput_per_gpu",
    "run_number",
    "dataset_name",
    "probe_completed",
    "probe_failed",
    "timeline",
];

fn is_known(key: &str) -> bool {
    KNOWN.contains(&key)
        || key.ends_with("_ms")
        || ["spec_decode_", "diffusion_", "probe_"].iter().any(|start| key.starts_with(start))
}

/// One run.
pub(super) fn run(object: &Json<'_>) -> Run {
    let mut run = Run {
        model: text(object, "model_id"),
        dataset: text(object, "dataset_name"),
        date: text(object, "date"),
        labels: metadata(object, is_known),
        scheduled: count(object, &["num_prompts"]),
        completed: count(object, &["completed"]),
        failed: count(object, &["failed"]),
        duration_s: number(object, &["duration"]),
        input_tokens: count(object, &["total_input_tokens"]),
        output_tokens: count(object, &["total_output_tokens"]),
        output_tokens_per_s: number(object, &["output_throughput"]),
        requests_per_s: number(object, &["request_throughput"]),
        goodput_requests_per_s: number(object, &["request_goodput", "request_goodput:"]),
        concurrency_max: count(object, &["max_concurrent_requests"]),
        ..Run::default()
    };
    run.input_tokens_known = run.input_tokens.is_some();
    for key in ["label", "backend", "endpoint_type"] {
        if let Some(value) = text(object, key) {
            run.labels.insert(key.to_owned(), value);
        }
    }
    run.labels
        .remove("endpoint_type")
        .filter(|_| !run.labels.contains_key("backend"))
        .map(|value| run.labels.insert("backend".into(), value));
    for (name, latency) in
        [("ttft", Latency::Ttft), ("tpot", Latency::Tpot), ("itl", Latency::Icl), ("e2el", Latency::E2e)]
    {
        put(&mut run, latency, statistics(object, name));
    }
    let burstiness = number(object, &["burstiness"]);
    let arrival = match burstiness {
        None => "poisson".to_owned(),
        Some(1.0) => "poisson".to_owned(),
        Some(shape) => format!("gamma:{shape}"),
    };
    run.load = load(number(object, &["request_rate"]), count(object, &["max_concurrency"]), &arrival, &run);
    requests(object, &mut run);
    if run.requests.is_empty() {
        // Without single gaps, its ITL is all there is; it is a gap between chunks.
        if let Some(icl) = run.stated.get(&Latency::Icl).copied() {
            run.stated.insert(Latency::Itl, icl);
            run.notes.push("ITL is the tool's time between chunks, however many tokens a chunk carried".to_owned());
        }
        run.notes.push("TPOT is (E2E − TTFT)/(tokens − 1); latencies are over successes".to_owned());
    } else {
        run.notes.push("each chunk is taken for one token where TPOT and ITL need to know".to_owned());
    }
    if run.load.as_ref().is_some_and(|load| load.is_open()) {
        run.notes.push(
            "vllm rescales random arrivals so that they end on time: they are less bursty than the process named"
                .to_owned(),
        );
    }
    run
}

/// `mean_X_ms`, `median_X_ms`, `pNN_X_ms`.
fn statistics(object: &Json<'_>, name: &str) -> StatedMs {
    let get = |statistic: &str| object.get(&format!("{statistic}_{name}_ms"))?.number();
    StatedMs {
        mean: get("mean"),
        p50: get("median").or_else(|| get("p50")),
        p90: get("p90"),
        p95: get("p95"),
        p99: get("p99"),
        max: None,
        n: None,
    }
}

/// `--save-detailed`.
fn requests(object: &Json<'_>, run: &mut Run) {
    let numbers = |key: &str| object.get(key).and_then(Json::numbers);
    let Some(ttfts) = numbers("ttfts") else { return };
    let n = ttfts.len();
    let at = |list: &Option<Cow<'_, [f64]>>, idx: usize| list.as_ref().and_then(|list| list.get(idx)).copied();
    let (inputs, outputs) = (numbers("input_lens"), numbers("output_lens"));
    let (starts, ends, queues) = (numbers("start_times"), numbers("latencies"), numbers("queue_times"));
    // Lists of another length belong to other requests: nobody can say which.
    let same = |list: &Option<Cow<'_, [f64]>>| list.as_ref().is_some_and(|list| list.len() == n);
    if n == 0 || !same(&outputs) {
        return;
    }
    let itls = object.get("itls").filter(|itls| itls.item_count() == Some(n));
    let (server_queues, server_ttfts) = (numbers("server_queue_times"), numbers("server_ttfts"));
    let errors = object.get("errors").filter(|errors| errors.item_count() == Some(n));
    let origin_s = starts
        .iter()
        .flat_map(|s| s.iter())
        .zip(queues.iter().flat_map(|q| q.iter().copied()).chain(std::iter::repeat(0.0)));
    let origin_s = origin_s.map(|(start, queue)| start - queue.max(0.0)).fold(f64::INFINITY, f64::min);
    let stamped = same(&starts) && origin_s.is_finite();
    for idx in 0..n {
        let gaps = itls.and_then(|itls| itls.items().get(idx)).and_then(Json::numbers).unwrap_or_default();
        let error =
            errors.and_then(|errors| errors.items().get(idx)).and_then(Json::text).filter(|error| !error.is_empty());
        let output = at(&outputs, idx);
        let ttft_s = ttfts.get(idx).copied();
        let e2e_s = at(&ends, idx).filter(|_| same(&ends)).or_else(|| Some(ttft_s? + gaps.iter().sum::<f64>()));
        // Before there was an `errors` list, a failed request was one without output.
        let failed = error.as_deref().or((errors.is_none() && output == Some(0.0)).then_some(""));
        let send_s = at(&starts, idx).filter(|_| stamped);
        run.push(
            if stamped { origin_s } else { 0.0 },
            &Seen {
                send_s,
                sched_s: at(&queues, idx).zip(send_s).map(|(queue, send)| send - queue.max(0.0)),
                ttft_s,
                e2e_s,
                input: at(&inputs, idx),
                output,
                gaps_s: &gaps,
                error: failed,
                is_censored: false,
            },
        );
        if let Some(request) = run.requests.last_mut() {
            request.t_slot = request.t_send.filter(|_| same(&queues));
            let ms = |list: &Option<Cow<'_, [f64]>>| at(list, idx).filter(|s| s.is_finite()).map(|s| s * 1e3);
            request.server_queue_ms = ms(&server_queues);
            // vLLM's own TTFT begins when the request is first scheduled.
            request.server_ttft_ms = ms(&server_ttfts).map(|ttft| ttft + request.server_queue_ms.unwrap_or(0.0));
        }
    }
    run.arrivals = if stamped { Arrivals::Measured } else { Arrivals::Unknown };
    run.schedule_known = stamped && same(&queues);
    run.ttft_known = true;
    run.input_tokens_known = same(&inputs);
}

/// GPUs by a folder's name: `2xtp2-1xtp4` is 2·2 + 1·4.
fn gpus_in_name(folder: &str) -> Option<u32> {
    let group = |part: &str| {
        let (count, degree) = part.split_once("xtp")?;
        let digits = |text: &str| (!text.is_empty() && text.len() < 5).then(|| text.parse::<u32>().ok()).flatten();
        digits(count)?.checked_mul(digits(degree)?)
    };
    let found: Vec<u32> = folder.split(['_', '-']).filter_map(group).collect();
    (!found.is_empty()).then(|| found.into_iter().fold(0, u32::saturating_add)).filter(|gpus| *gpus > 0)
}

/// What the folders of document 003 and srt-slurm say in their names: shown, never trusted.
fn folder_hints(doc: &Doc<'_>, run: &mut Run) {
    let parent = doc.path.parent();
    let folder = parent.and_then(|folder| folder.file_name()).and_then(|name| name.to_str());
    if let Some(folder) = folder {
        run.hints.insert("folder".to_owned(), folder.to_owned());
        for part in folder.split('_') {
            for (start, key) in
                [("itl", "input_tokens"), ("otl", "output_tokens"), ("isl", "input_tokens"), ("osl", "output_tokens")]
            {
                if let Some(digits) =
                    part.strip_prefix(start).filter(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit()))
                {
                    run.hints.insert(key.to_owned(), digits.to_owned());
                }
            }
        }
    }
    if let Some(gpus) = folder.and_then(gpus_in_name) {
        run.hints.insert("gpus".to_owned(), gpus.to_string());
    }
    let stem = doc.name().split('.').next().unwrap_or_default();
    for start in ["concurrency_", "conc"] {
        if let Some(digits) =
            stem.strip_prefix(start).filter(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit()))
        {
            run.hints.insert("concurrency".to_owned(), digits.to_owned());
            break;
        }
    }
    let said = run.hints.get("concurrency").and_then(|text| text.parse::<u32>().ok());
    let measured = run.load.as_ref().and_then(|load| load.busy_slots());
    if let Some((said, measured)) = said.zip(measured).filter(|(said, measured)| said != measured) {
        run.notes.push(format!("the file's name says concurrency {said}, its content {measured}: the content counts"));
    }
    let stated = |key: &str| run.hints.get(key).and_then(|text| text.parse::<f64>().ok());
    let n = run.completed.filter(|n| *n > 0).map(|n| n as f64);
    let mut notes = Vec::new();
    for (key, total) in [("input_tokens", run.input_tokens), ("output_tokens", run.output_tokens)] {
        let mean = total.zip(n).map(|(total, n)| total as f64 / n);
        if let Some((said, mean)) =
            stated(key).zip(mean).filter(|(said, mean)| (said - mean).abs() > 0.1 * said.max(1.0))
        {
            notes.push(format!(
                "the folder's name says {said} {}, the content {mean:.1} on average",
                key.replace('_', " ")
            ));
        }
    }
    run.notes.extend(notes);
}

#[cfg(test)]
mod tests {
    use super::gpus_in_name;

    #[test]
    fn gpus_by_the_names_of_folders() {
        assert_eq!(gpus_in_name("gptoss_itl5000_otl250_mixed_2xtp2-1xtp4_pd"), Some(8));
        assert_eq!(gpus_in_name("gptoss_4xtp2_baseline_x"), Some(8));
        assert_eq!(gpus_in_name("99999xtp2_xtp_4xtp"), None);
    }
}
