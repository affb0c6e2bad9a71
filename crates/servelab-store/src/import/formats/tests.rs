//! Formats without a file of the real tool, in the shape that its documentation gives; real files are tested in
//! `tests/it/import.rs`.

use super::super::{ImportedResult, import_str};
use servelab_core::plan::Load;

fn one(name: &str, text: &str) -> ImportedResult {
    let mut all = import_str(name, text).unwrap();
    assert_eq!(all.len(), 1, "{name}");
    all.remove(0)
}

fn close(a: f64, b: f64) {
    assert!((a - b).abs() <= 1e-9 * b.abs().max(1.0), "{a} is not {b}");
}

#[test]
fn vllm_aggregates_and_python_s_nan() {
    let text = r#"{"date": "20260101-000000", "backend": "vllm", "label": null, "model_id": "m", "num_prompts": 100,
        "tp": "2", "request_rate": "inf", "burstiness": 1.0, "max_concurrency": 8, "duration": 10.0, "completed": 98,
        "total_input_tokens": 9800, "total_output_tokens": 4900, "request_throughput": 9.8, "output_throughput": 490.0,
        "total_token_throughput": 1470.0, "mean_ttft_ms": NaN, "median_ttft_ms": 20.0, "p99_ttft_ms": Infinity,
        "mean_tpot_ms": 5.0, "median_tpot_ms": 5.0, "p99_tpot_ms": 9.0, "mean_itl_ms": 6.0, "p99_itl_ms": 12.0}"#;
    let imported = one("conc16.json", text);
    let (result, run) = (&imported.result, &imported.run);
    assert_eq!(imported.load(), Load::closed(8));
    assert_eq!((result.requests.completed, result.requests.failed), (98, 2));
    assert_eq!(
        (result.latency_ms.ttft.mean, result.latency_ms.ttft.p50, result.latency_ms.ttft.p99),
        (None, Some(20.0), None)
    );
    assert_eq!(run.labels.get("tp").map(String::as_str), Some("2"));
    let import = result.import.as_ref().unwrap();
    assert!(!import.recomputed && import.notes.iter().any(|note| note.contains("says concurrency 16, its content 8")));
    let json = result.to_json();
    assert!(json["client"].is_null() && json["concurrency"]["mean"].is_null() && json["input_tokens"] == 9800);
}

#[test]
fn vllm_failures_stay_in_and_zero_tokens_are_none() {
    let text = r#"{"backend": "vllm", "model_id": "m", "num_prompts": 4, "request_rate": 2.0, "max_concurrency": null,
        "duration": 4.0, "completed": 3, "total_input_tokens": 30, "total_output_tokens": 5, "request_throughput": 0.75,
        "output_throughput": 1.25, "input_lens": [10, 10, 10, 10], "output_lens": [3, 2, 0, 0],
        "ttfts": [0.1, 0.2, 0.0, 0.0], "itls": [[0.05, 0.05], [0.1], [], []], "start_times": [100.0, 100.5, 101.0, 101.5],
        "errors": ["", "", "", "HTTP 503: overloaded"]}"#;
    let imported = one("a.json", text);
    let result = &imported.result;
    assert_eq!((result.requests.completed, result.requests.failed), (2, 2));
    assert_eq!(result.failures.get("http_503"), Some(&1));
    close(result.latency_ms.ttft.mean.unwrap(), 150.0);
    close(result.latency_ms.tpot.mean.unwrap(), 75.0);
    close(result.latency_ms.icl.max.unwrap(), 100.0);
    let codes: Vec<&str> = result.verdict.reasons.iter().map(|reason| reason.code.as_str()).collect();
    assert!(
        codes.contains(&"zero_token_successes")
            && codes.contains(&"success_low")
            && codes.contains(&"recomputed_differs"),
        "{codes:?}"
    );
    assert!(result.is_unknown("latency_ms.ttft_sched") && !result.is_unknown("concurrency"));
}

#[test]
fn sglang_lines() {
    let line = r#"{"tag": "x", "backend": "sglang", "dataset_name": "random", "request_rate": "inf", "max_concurrency": 16,
        "duration": 2.0, "completed": 10, "total_input_tokens": 100, "total_output_tokens": 50,
        "total_output_tokens_retokenized": 49, "request_throughput": 5.0, "input_throughput": 50.0, "output_throughput": 25.0,
        "mean_e2e_latency_ms": 300.0, "median_e2e_latency_ms": 290.0, "p99_e2e_latency_ms": 400.0, "mean_ttft_ms": 30.0,
        "median_ttft_ms": 29.0, "p99_ttft_ms": 50.0, "mean_itl_ms": 10.0, "concurrency": 9.5, "accept_length": null}"#;
    let text = format!(
        "{}\n{}\n",
        line.replace('\n', " "),
        line.replace("\"x\"", "\"y\"").replace("2.0", "3.0").replace('\n', " ")
    );
    let all = import_str("bench.jsonl", &text).unwrap();
    assert_eq!((all.len(), all[0].format, all[1].index), (2, "sglang-bench", 1));
    assert_eq!(all[0].result.latency_ms.e2e.p99, Some(400.0));
    assert_eq!((all[0].result.concurrency.mean, all[0].run.dataset.as_deref()), (9.5, Some("random")));
}

#[test]
fn hugging_face_s_benchmarker() {
    let text = r#"{"config": {"model_name": "m"}, "start_time": "t", "results": [{"id": "warmup", "executor_type": "ConstantVUs",
        "time_to_first_token_ms": {"avg": 1.0}}, {"id": "constant@2", "executor_type": "ConstantArrivalRate",
        "config": {"max_vus": 800, "duration_secs": 30, "rate": 2.0}, "total_requests": 60, "successful_requests": 60,
        "failed_requests": 0, "total_tokens": 6000, "total_tokens_sent": 12000, "token_throughput_secs": 200.0,
        "request_rate": 2.0, "duration_ms": 30000, "time_to_first_token_ms": {"p50": 40.0, "p99": 90.0, "avg": 45.0},
        "inter_token_latency_ms": {"p50": 8.0, "avg": 8.1}, "e2e_latency_ms": {"avg": 900.0, "p99": 990.0}}]}"#;
    let imported = one("r.json", text);
    assert!(imported.load().is_open());
    close(imported.result.duration_s, 30.0);
    assert_eq!((imported.result.latency_ms.tpot.p50, imported.result.input_tokens), (Some(8.0), 12000));
}

#[test]
fn genai_perf_with_its_units() {
    let text = r#"{"request_throughput": {"unit": "requests/sec", "avg": 4.0}, "request_latency": {"unit": "ns", "avg": 5e8, "p99": 9e8},
        "time_to_first_token": {"unit": "ms", "avg": 50.0, "p50": 48.0}, "inter_token_latency": {"unit": "us", "avg": 9000.0},
        "output_token_throughput": {"unit": "tokens/sec", "avg": 200.0}, "output_sequence_length": {"unit": "tokens", "avg": 50.0},
        "input_sequence_length": {"unit": "tokens", "avg": 10.0}, "request_count": {"unit": "count", "avg": 20.0},
        "input_config": {"model": ["m"], "perf_analyzer": {"stimulus": {"concurrency": 4}}}}"#;
    let imported = one("profile_export_genai_perf.json", text);
    let latency = &imported.result.latency_ms;
    assert_eq!(imported.format, "genai-perf");
    close(latency.e2e.mean.unwrap(), 500.0);
    close(latency.tpot.mean.unwrap(), 9.0);
    assert_eq!(
        (imported.load(), imported.result.output_tokens, imported.run.model.as_deref()),
        (Load::closed(4), 1000, Some("m"))
    );

    let profile = r#"{"experiments": [{"experiment": {"mode": "concurrency", "value": 1}, "requests": [
        {"timestamp": 1700000000000000000, "response_timestamps": [1700000000100000000, 1700000000150000000]},
        {"timestamp": 1700000001000000000, "response_timestamps": []}]}]}"#;
    let imported = one("profile_export.json", profile);
    assert!(
        (imported.result.latency_ms.ttft.mean.unwrap() - 100.0).abs() < 0.01,
        "nanoseconds since 1970 are read to 256 ns"
    );
    assert_eq!(imported.result.requests.failed, 1);
}

#[test]
fn mlcommons() {
    let text = r#"{"n_samples_issued": 100, "n_samples_completed": 99, "n_samples_failed": 1, "duration_ns": 10000000000, "qps": 9.9,
        "tps": 990.0, "complete": true, "ttft": {"avg": 50000000, "median": 48000000, "max": 90000000, "percentiles": {"99.0": 80000000}},
        "latency": {"avg": 500000000, "percentiles": {"99": 900000000}}, "output_sequence_lengths": {"total": 9900, "avg": 100}}"#;
    let imported = one("result_summary.json", text);
    close(imported.result.latency_ms.ttft.p99.unwrap(), 80.0);
    close(imported.result.duration_s, 10.0);
    assert!(import_str("r.json", &text.replace("50000000", "0.05")).unwrap_err().contains("nanoseconds"));

    let summary = "================\nMLPerf Results Summary\n================\nSUT name : x\nScenario : Server\nResult is : INVALID\n\
        Completed samples per second    : 12.5\nMean latency (ns)               : 250000000\n\
        99.00 percentile latency (ns)   : 400000000\nMean First Token latency (ns)   : 30000000\ntarget_qps : 13\n";
    let imported = one("mlperf_log_summary.txt", summary);
    close(imported.result.latency_ms.e2e.p99.unwrap(), 400.0);
    assert!(imported.load().is_open() && imported.result.is_unknown("requests.completed"));
    assert!(imported.result.import.unwrap().notes.iter().any(|note| note.contains("invalid")));
}

#[test]
fn llm_d_reports_with_their_units() {
    let text = "version: '0.1'\nscenario:\n  model: {name: m}\n  load: {name: vllm-benchmark}\nmetrics:\n  time: {duration: 20.0}\n\
        \x20 requests: {total: 40, failures: 0, input_length: {units: count, mean: 100}, output_length: {units: count, mean: 50}}\n\
        \x20 latency:\n    request_latency: {units: ms, mean: 900, p50: 880, p99: 1200}\n\
        \x20   time_to_first_token: {units: s, mean: 0.05, p99: 0.09}\n\
        \x20   time_per_output_token: {units: ms/token, mean: 9.5}\n\
        \x20 throughput: {output_tokens_per_sec: 100, requests_per_sec: 2}\n";
    let imported = one("benchmark_report.yaml", text);
    close(imported.result.latency_ms.ttft.p99.unwrap(), 90.0);
    assert_eq!((imported.result.output_tokens, imported.result.latency_ms.tpot.mean), (2000, Some(9.5)));
    assert!(import_str("r.yaml", &text.replace("units: s,", "units: furlongs,")).is_err());
}

#[test]
fn what_is_no_result_is_refused() {
    for (name, text) in [
        ("a.json", "{}"),
        ("a.json", "[1, 2]"),
        ("a.txt", "hello"),
        ("a.yaml", "a: 1"),
        ("a.csv", "x,y\n1,2\n"),
        ("a", ""),
    ] {
        assert!(import_str(name, text).is_err(), "{name}: {text}");
    }
}
