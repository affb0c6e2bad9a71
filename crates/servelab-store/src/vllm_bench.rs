//! Results in the schema of `vllm bench serve --save-result --save-detailed`, so that dashboards made for it read ours.
//! Definitions are vLLM's: TPOT divides by N − 1, ITL is the gap between chunks, everything is over successes.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use servelab_core::metrics::{ClientQueue, Outcome, RecordSlices, RequestTimes, gaps, outcome, quantile_linear};
use servelab_core::record::{EventRecord, Phase, RequestRecord};

/// What the records do not say.
#[derive(Debug, Clone, Default)]
pub struct VllmBenchInfo {
    /// Local time as `YYYYMMDD-HHMMSS`.
    pub date: String,
    /// `openai`, `openai-chat`, or the name of a native endpoint.
    pub backend: String,
    /// Model name.
    pub model: String,
    /// Tokenizer name.
    pub tokenizer: String,
    /// Requests per second; `None` is written as `inf`.
    pub request_rate: Option<f64>,
    /// Shape of the arrival process (1 is Poisson).
    pub burstiness: f64,
    /// Cap on requests in flight.
    pub max_concurrency: Option<u32>,
    /// Seconds from the first send to the end of the window.
    pub duration_s: f64,
    /// Requests per second that met the request SLO.
    pub goodput_requests_per_s: Option<f64>,
    /// CLOCK_MONOTONIC at the epoch of the stamps: start times are on that clock, as Python's `perf_counter` on Linux.
    pub epoch_monotonic_ns: i64,
    /// Answers by request index, when they were kept; without them `generated_texts` is left out.
    pub generated_texts: Option<BTreeMap<i64, String>>,
}

/// The document, from the window's records.
pub fn vllm_bench(info: &VllmBenchInfo, requests: &[RequestRecord], events: &[EventRecord]) -> Value {
    let window: Vec<&RequestRecord> = requests.iter().filter(|request| request.phase == Phase::Window).collect();
    let ok: Vec<&RequestRecord> = window.iter().copied().filter(|request| request.is_success()).collect();
    let index = RecordSlices::new(requests, events);
    let seconds = |ns: i64| ns as f64 / 1e9;
    let tokens = |count: Option<i64>| count.unwrap_or(0).max(0);
    let input: i64 = ok.iter().map(|request| tokens(request.input_tokens)).sum();
    let output: i64 = ok.iter().map(|request| tokens(request.output_tokens)).sum();
    let per_second = |count: f64| if info.duration_s > 0.0 { count / info.duration_s } else { 0.0 };
    let mut out = Map::new();
    let mut put = |key: &str, value: Value| {
        out.insert(key.to_owned(), value);
    };
    put("date", json!(info.date));
    put("endpoint_type", json!(info.backend));
    put("backend", json!(info.backend));
    put("label", Value::Null);
    put("model_id", json!(info.model));
    put("tokenizer_id", json!(info.tokenizer));
    put("num_prompts", json!(window.len()));
    put("request_rate", info.request_rate.map_or_else(|| json!("inf"), |rate| json!(rate)));
    put("burstiness", json!(info.burstiness));
    put("max_concurrency", json!(info.max_concurrency));
    put("duration", json!(info.duration_s));
    put("completed", json!(ok.len()));
    put("failed", json!(window.len() - ok.len()));
    put("total_input_tokens", json!(input));
    put("total_output_tokens", json!(output));
    put("request_throughput", json!(per_second(ok.len() as f64)));
    put("request_goodput", json!(info.goodput_requests_per_s));
    put("output_throughput", json!(per_second(output as f64)));
    put("total_token_throughput", json!(per_second((input + output) as f64)));
    let times: Vec<RequestTimes> = ok.iter().map(|request| RequestTimes::of(request)).collect();
    let ms = |ns: i64| ns as f64 / 1e6;
    let all_gaps: Vec<f64> =
        ok.iter().flat_map(|request| gaps(index.of(request.request_idx))).map(|(gap, _)| ms(gap)).collect();
    statistics(&mut out, "ttft", times.iter().filter_map(|times| times.ttft_ns.map(ms)).collect());
    statistics(&mut out, "tpot", times.iter().filter_map(|times| times.tpot_vllm_ns.map(|ns| ns / 1e6)).collect());
    statistics(&mut out, "itl", all_gaps);
    statistics(&mut out, "e2el", times.iter().filter_map(|times| times.e2e_ns.map(ms)).collect());
    if info.max_concurrency.is_some() {
        let waits: Vec<f64> = ok.iter().map(|request| ms(slot_wait_ns(request))).collect();
        if info.request_rate.is_some() {
            let with_wait = ok
                .iter()
                .zip(&times)
                .filter_map(|(request, times)| Some(ms(times.e2e_ns?.saturating_add(slot_wait_ns(request)))));
            statistics(&mut out, "e2el_including_client_queue", with_wait.collect());
        }
        statistics(&mut out, "client_queue_time", waits);
    }
    let (peak_tokens, peak_requests) = peaks(&ok, &index);
    let mut put = |key: &str, value: Value| {
        out.insert(key.to_owned(), value);
    };
    put("max_output_tokens_per_s", json!(peak_tokens));
    put("max_concurrent_requests", json!(peak_requests));
    // Audio only.
    put("rtfx", json!(0.0));
    let list = |value: &dyn Fn(&RequestRecord) -> Value| -> Value {
        Value::Array(window.iter().map(|request| value(request)).collect())
    };
    // As in vLLM's files, a failed request has no tokens and no times.
    let good = |request: &RequestRecord, value: Option<i64>| value.filter(|_| request.is_success());
    put("input_lens", list(&|request| json!(tokens(request.input_tokens))));
    put("output_lens", list(&|request| json!(tokens(good(request, request.output_tokens)))));
    put("ttfts", list(&|request| json!(good(request, RequestTimes::of(request).ttft_ns).map_or(0.0, seconds))));
    put(
        "itls",
        list(&|request| {
            let gaps = gaps(index.of(request.request_idx)).filter(|_| request.is_success());
            gaps.map(|(gap, _)| seconds(gap)).collect()
        }),
    );
    put("latencies", list(&|request| json!(good(request, RequestTimes::of(request).e2e_ns).map_or(0.0, seconds))));
    put(
        "start_times",
        list(&|request| json!(request.t_send.map_or(0.0, |t| seconds(t.saturating_add(info.epoch_monotonic_ns))))),
    );
    put("queue_times", list(&|request| json!(seconds(slot_wait_ns(request)))));
    put("errors", list(&|request| json!(error(request))));
    if let Some(texts) = &info.generated_texts {
        let text = |request: &RequestRecord| texts.get(&request.request_idx).map_or("", String::as_str);
        put("generated_texts", list(&|request| json!(text(request))));
    }
    if window.iter().any(|request| request.server_ttft_ms.is_some()) {
        let seconds = |ms: Option<f64>| ms.map(|ms| ms / 1e3);
        // vLLM's own TTFT begins when the request is scheduled.
        let since_scheduled = |r: &RequestRecord| Some(r.server_ttft_ms? - r.server_queue_ms.unwrap_or(0.0));
        put("server_queue_times", list(&|request| json!(seconds(request.server_queue_ms))));
        put("server_ttfts", list(&|request| json!(seconds(since_scheduled(request)))));
    }
    Value::Object(out)
}

/// What vLLM calls the client's queue: waiting for the cap on requests in flight.
fn slot_wait_ns(request: &RequestRecord) -> i64 {
    ClientQueue::of(request).map_or(0, |queue| queue.slot_wait_ns)
}

/// Empty for a success: that is how readers of these files tell.
fn error(request: &RequestRecord) -> &str {
    match outcome(request) {
        Outcome::Completed => "",
        Outcome::Failed(code) => code,
        Outcome::Censored => "censored",
    }
}

fn statistics(out: &mut Map<String, Value>, name: &str, mut samples: Vec<f64>) {
    samples.sort_by(f64::total_cmp);
    let n = samples.len() as f64;
    let mean = if samples.is_empty() { 0.0 } else { samples.iter().sum::<f64>() / n };
    let variance =
        if samples.is_empty() { 0.0 } else { samples.iter().map(|sample| (sample - mean).powi(2)).sum::<f64>() / n };
    out.insert(format!("mean_{name}_ms"), json!(mean));
    out.insert(format!("median_{name}_ms"), json!(quantile_linear(&samples, 0.5).unwrap_or(0.0)));
    out.insert(format!("std_{name}_ms"), json!(variance.sqrt()));
    for (percent, p) in [(50, 0.5), (90, 0.9), (95, 0.95), (99, 0.99)] {
        out.insert(format!("p{percent}_{name}_ms"), json!(quantile_linear(&samples, p).unwrap_or(0.0)));
    }
}

/// Most tokens and most requests seen in one second, seconds counted from the first send.
fn peaks(ok: &[&RequestRecord], index: &RecordSlices<'_>) -> (f64, u64) {
    let Some(start) = ok.iter().filter_map(|request| request.t_send).min() else { return (0.0, 0) };
    let second = |t_ns: i64| (t_ns - start).max(0) / 1_000_000_000;
    let mut tokens: BTreeMap<i64, i64> = BTreeMap::new();
    let mut requests: BTreeMap<i64, u64> = BTreeMap::new();
    for request in ok {
        for event in index.of(request.request_idx) {
            *tokens.entry(second(event.t_ns)).or_default() += i64::from(event.n_tokens);
        }
        if let (Some(send), Some(last)) = (request.t_send, request.t_last) {
            for at in second(send)..=second(last) {
                *requests.entry(at).or_default() += 1;
            }
        }
    }
    (tokens.values().copied().max().unwrap_or(0) as f64, requests.values().copied().max().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(idx: i64, send_ms: i64, first_ms: i64, last_ms: i64, tokens: i64) -> RequestRecord {
        let mut request = RequestRecord::scheduled(idx, Phase::Window, send_ms * 1_000_000);
        request.t_send = Some(send_ms * 1_000_000);
        request.t_first = Some(first_ms * 1_000_000);
        request.t_last = Some(last_ms * 1_000_000);
        request.n_first = Some(1);
        request.input_tokens = Some(10);
        request.output_tokens = Some(tokens);
        request
    }

    #[test]
    fn numbers_are_those_of_vllm() {
        let mut failed = request(2, 0, 0, 0, 0);
        failed.failure_code = Some("http_503".into());
        (failed.t_first, failed.t_last, failed.output_tokens) = (None, None, None);
        let requests = [request(0, 0, 100, 300, 3), request(1, 0, 200, 400, 2), failed];
        let event = |request_idx, ms: i64| EventRecord { request_idx, t_ns: ms * 1_000_000, n_tokens: 1 };
        let events = [event(0, 100), event(0, 200), event(0, 300), event(1, 200), event(1, 400)];
        let info = VllmBenchInfo { duration_s: 2.0, burstiness: 1.0, ..VllmBenchInfo::default() };
        let out = vllm_bench(&info, &requests, &events);
        let check = |key: &str, expected: Value| assert_eq!(out[key], expected, "{key}");
        check("completed", json!(2));
        check("failed", json!(1));
        check("request_rate", json!("inf"));
        check("output_throughput", json!(2.5));
        check("mean_ttft_ms", json!(150.0));
        check("std_ttft_ms", json!(50.0));
        check("mean_tpot_ms", json!(150.0));
        check("mean_itl_ms", json!(400.0 / 3.0));
        check("p50_e2el_ms", json!(350.0));
        check("errors", json!(["", "", "http_503"]));
        check("itls", json!([[0.1, 0.1], [0.2], []]));
        check("max_concurrent_requests", json!(2));
        check("ttfts", json!([0.1, 0.2, 0.0]));
        check("output_lens", json!([3, 2, 0]));
        assert!(out.get("generated_texts").is_none() && out.get("server_ttfts").is_none());
        assert!(out.get("mean_client_queue_time_ms").is_none(), "there was no cap");
    }

    #[test]
    fn waiting_for_the_cap_and_the_server_s_times_have_their_keys() {
        let mut waited = request(0, 100, 200, 300, 3);
        (waited.t_sched, waited.t_slot) = (0, Some(90_000_000));
        (waited.server_queue_ms, waited.server_ttft_ms) = (Some(10.0), Some(60.0));
        let mut empty = request(1, 0, 0, 0, 0);
        (empty.t_first, empty.t_last, empty.output_tokens, empty.t_done) = (None, None, None, Some(5));
        let info = VllmBenchInfo {
            request_rate: Some(5.0),
            max_concurrency: Some(1),
            epoch_monotonic_ns: 1_000_000_000,
            generated_texts: Some([(0, "abc".to_owned())].into()),
            ..VllmBenchInfo::default()
        };
        let out = vllm_bench(&info, &[waited, empty], &[]);
        let check = |key: &str, expected: Value| assert_eq!(out[key], expected, "{key}");
        check("mean_client_queue_time_ms", json!(90.0));
        check("mean_e2el_including_client_queue_ms", json!(290.0));
        check("queue_times", json!([0.09, 0.0]));
        check("start_times", json!([1.1, 1.0]));
        check("generated_texts", json!(["abc", ""]));
        check("server_queue_times", json!([0.01, null]));
        check("server_ttfts", json!([0.05, null]));
        check("errors", json!(["", "zero_tokens"]));
    }

    #[test]
    fn keys_are_those_of_a_real_result() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/samples/vllm/bench/r1.json");
        let Ok(text) = std::fs::read_to_string(path) else {
            println!("skipped: no result of a real `vllm bench serve` beside the project");
            return;
        };
        let real: Map<String, Value> = serde_json::from_str(&text).unwrap();
        let ours = vllm_bench(&VllmBenchInfo::default(), &[], &[]);
        // `run` and `note` are the user's own --metadata; texts are there when they were kept.
        let absent = ["run", "note", "generated_texts"];
        let missing: Vec<&String> =
            real.keys().filter(|key| ours.get(key.as_str()).is_none() && !absent.contains(&key.as_str())).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}
