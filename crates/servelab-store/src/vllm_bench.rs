//! Results in the schema of `vllm bench serve --save-result --save-detailed`, so that dashboards made for it read ours.
//! Definitions are vLLM's: TPOT divides by N − 1, ITL is the gap between chunks, everything is over successes.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use servelab_core::metrics::{EventIndex, RequestTimes, quantile_linear};
use servelab_core::record::{EventRecord, Phase, RequestRecord};

/// What the records do not say.
#[derive(Debug, Clone, Default)]
pub struct VllmBenchInfo {
    /// Local time as `YYYYMMDD-HHMMSS`.
    pub date: String,
    /// `openai` or `openai-chat`.
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
}

/// The document, from the window's records.
pub fn vllm_bench(info: &VllmBenchInfo, requests: &[RequestRecord], events: &[EventRecord]) -> Value {
    let window: Vec<&RequestRecord> = requests.iter().filter(|request| request.phase == Phase::Window).collect();
    let ok: Vec<&RequestRecord> = window.iter().copied().filter(|request| request.is_success()).collect();
    let index = EventIndex::new(events);
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
    let gaps: Vec<f64> =
        ok.iter().flat_map(|request| index.gaps(request.request_idx)).map(|(gap, _)| ms(gap)).collect();
    statistics(&mut out, "ttft", times.iter().filter_map(|times| times.ttft_ns.map(ms)).collect());
    statistics(&mut out, "tpot", times.iter().filter_map(|times| times.tpot_vllm_ns.map(|ns| ns / 1e6)).collect());
    statistics(&mut out, "itl", gaps);
    statistics(&mut out, "e2el", times.iter().filter_map(|times| times.e2e_ns.map(ms)).collect());
    let (peak_tokens, peak_requests) = peaks(&ok, &index);
    let mut put = |key: &str, value: Value| {
        out.insert(key.to_owned(), value);
    };
    put("max_output_tokens_per_s", json!(peak_tokens));
    put("max_concurrent_requests", json!(peak_requests));
    let list = |value: &dyn Fn(&RequestRecord) -> Value| -> Value {
        Value::Array(window.iter().map(|request| value(request)).collect())
    };
    put("input_lens", list(&|request| json!(tokens(request.input_tokens))));
    put("output_lens", list(&|request| json!(if request.is_success() { tokens(request.output_tokens) } else { 0 })));
    put("ttfts", list(&|request| json!(RequestTimes::of(request).ttft_ns.map_or(0.0, seconds))));
    put("itls", list(&|request| index.gaps(request.request_idx).map(|(gap, _)| seconds(gap)).collect()));
    put("latencies", list(&|request| json!(RequestTimes::of(request).e2e_ns.map_or(0.0, seconds))));
    put("start_times", list(&|request| json!(request.t_send.map_or(0.0, seconds))));
    put("errors", list(&|request| json!(request.failure_code.as_deref().unwrap_or_default())));
    Value::Object(out)
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
fn peaks(ok: &[&RequestRecord], index: &EventIndex<'_>) -> (f64, u64) {
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
        // `run` and `note` are the user's own --metadata; the others need the text or an audio model.
        let absent = ["run", "note", "generated_texts", "queue_times", "rtfx"];
        let missing: Vec<&String> =
            real.keys().filter(|key| ours.get(key.as_str()).is_none() && !absent.contains(&key.as_str())).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}
