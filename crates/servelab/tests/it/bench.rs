//! `servelab bench` against a server that the test starts: what it prints, what it leaves, how it fails.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use servelab_testkit::{Place, Spawned, at, keys, number};

const BIN: &str = env!("CARGO_BIN_EXE_servelab");
pub(crate) const MODEL: &str = "meta-llama/Llama-3.1-8B";

/// A simulator, and its address.
pub(crate) fn server(place: &Place, options: &str) -> (Spawned, String) {
    let line = format!("sim --listen 127.0.0.1:0 --model {MODEL} --max-model-len 4096 {options}");
    let mut sim = place.servelab(&line).spawn();
    sim.wait_for("listens on http://");
    let said = sim.stderr();
    let address = said.split("listens on ").nth(1).and_then(|rest| rest.split_whitespace().next());
    let address = address.unwrap_or_else(|| panic!("no address in {said}")).to_owned();
    (sim, address)
}

#[test]
fn a_closed_loop_leaves_its_result_in_the_contract_form() {
    let place = Place::new(BIN);
    let (sim, url) = server(&place, "--max-num-seqs 8");
    let line = format!(
        "bench --url {url} --model {MODEL} --concurrency 4 --requests 24 --warmup 4 --input-tokens 40 --output-tokens 8 \
         --ignore-eos --slo ttft_ms=60000,tpot_ms=60000 --out out --events --json"
    );
    let result = place.servelab(&line).run().expect(0).json();
    let top = [
        "schema",
        "clock",
        "requests",
        "failures",
        "duration_s",
        "input_tokens",
        "output_tokens",
        "token_source",
        "throughput",
        "goodput_requests_per_s",
        "concurrency",
        "latency_ms",
        "client",
        "steady",
        "verdict",
    ];
    assert!(top.iter().all(|key| keys(&result).contains(key)), "{:?}", keys(&result));
    assert_eq!(number(&result, "requests.completed"), 24.0);
    assert_eq!(number(&result, "input_tokens"), 24.0 * 40.0);
    assert_eq!(number(&result, "output_tokens"), 24.0 * 8.0);
    assert!(number(&result, "concurrency.max") <= 4.0);
    assert!(number(&result, "goodput_requests_per_s") > 0.0);
    for latency in ["ttft", "ttft_sched", "icl", "itl", "tpot", "tpot_vllm", "e2e", "e2e_sched"] {
        assert!(number(&result, &format!("latency_ms.{latency}.p50")) > 0.0, "{latency}");
    }
    assert_eq!(place.json("out/result.json"), result);
    let mut files = place.list("out");
    files.sort();
    assert_eq!(files, ["events.parquet", "prom.parquet", "requests.parquet", "result.json", "vllm_bench.json"]);
    let vllm = place.json("out/vllm_bench.json");
    assert_eq!(number(&vllm, "completed"), 24.0);
    assert_eq!(at(&vllm, "request_rate"), "inf");
    assert_eq!(at(&vllm, "ttfts").as_array().map(Vec::len), Some(24));
    drop(sim);
}

#[test]
fn an_open_loop_sends_what_was_asked_and_failures_have_codes() {
    let place = Place::new(BIN);
    let (sim, url) = server(&place, "");
    let open = format!(
        "bench --url {url}/v1 --model {MODEL} --endpoint chat --rate 40 --arrival constant --requests 20 \
         --input-tokens 20 --output-tokens 4"
    );
    let text = place.servelab(&open).run().expect(0).stdout;
    assert!(text.contains("20 scheduled, 20 sent, 20 completed"), "{text}");
    let wrong =
        format!("bench --url {url} --model nope --concurrency 2 --requests 4 --input-tokens 10 --output-tokens 2");
    let failed = place.servelab(&wrong).run().expect(1);
    failed.says("does not exist");
    assert!(failed.stdout.contains("4 http_4xx") && failed.stdout.contains("success_low"), "{}", failed.stdout);
    drop(sim);
}

#[test]
fn wrong_usage_is_told_before_anything_is_sent() {
    let place = Place::new(BIN);
    let base = "bench --url http://127.0.0.1:9 --model m --input-tokens 10 --output-tokens 2";
    let check = |rest: &str, code: i32, text: &str| {
        place.servelab(&format!("{base} {rest}")).run().expect(code).says(text);
    };
    check("--requests 4", 2, "--concurrency");
    check("--concurrency 2", 2, "--requests");
    check("--concurrency 2 --requests 4 --slo ttft=5", 2, "there is no limit `ttft`");
    check("--rate 2 --arrival bursty --requests 4", 2, "`bursty` is no arrival process");
    check("--rate=-1 --requests 4", 2, "`--rate` must be greater than 0");
    check("--concurrency 2 --requests 4 --api-key-env SERVELAB_NO_SUCH_KEY", 2, "`SERVELAB_NO_SUCH_KEY` is not set");
    check("--concurrency 2 --requests 4", 1, "is the server running");
    assert!(place.list(".").is_empty(), "nothing is left on disk");
}

/// A server that speaks one native dialect: what its path and answer are.
fn native_server(path: &'static str, events: &'static [&'static str]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answer = move |stream: TcpStream| {
        let mut reader = BufReader::new(&stream);
        loop {
            let (mut head, mut body) = (String::new(), Vec::new());
            while !head.ends_with("\r\n\r\n") {
                if !reader.read_line(&mut head).is_ok_and(|n| n > 0) {
                    return;
                }
            }
            let length =
                head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            body.resize(length.unwrap_or(0), 0);
            reader.read_exact(&mut body).unwrap();
            let wire = if head.starts_with(&format!("POST {path} ")) {
                let events: String = events.iter().map(|event| format!("data: {event}\n\n")).collect();
                format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: {}\r\n\r\n{events}",
                    events.len()
                )
            } else {
                "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_owned()
            };
            (&stream).write_all(wire.as_bytes()).unwrap();
        }
    };
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || answer(stream));
        }
    });
    url
}

#[test]
fn native_endpoints_are_driven_and_their_texts_kept() {
    const SGLANG: &[&str] = &[
        r#"{"text":" a","output_ids":[1],"meta_info":{"id":"r","finish_reason":null,"prompt_tokens":9,"completion_tokens":1}}"#,
        r#"{"text":" a b","output_ids":[1,2],"meta_info":{"id":"r","finish_reason":{"type":"length"},"prompt_tokens":9,"completion_tokens":2,"e2e_latency":0.000001}}"#,
        "[DONE]",
    ];
    const LLAMA: &[&str] = &[
        r#"{"index":0,"content":" a","tokens":[1],"stop":false,"tokens_predicted":1,"tokens_evaluated":9}"#,
        r#"{"index":0,"content":" b","tokens":[2],"stop":false,"tokens_predicted":2,"tokens_evaluated":9}"#,
        r#"{"index":0,"content":"","tokens":[],"stop":true,"tokens_predicted":2,"tokens_evaluated":9,"stop_type":"limit"}"#,
    ];
    for (endpoint, path, events) in
        [("sglang-generate", "/generate", SGLANG), ("llamacpp-completion", "/completion", LLAMA)]
    {
        let url = native_server(path, events);
        let place = Place::new(BIN);
        let line = format!(
            "bench --url {url}/v1 --model any --endpoint {endpoint} --concurrency 2 --requests 4 --input-tokens 9 \
             --output-tokens 2 --ignore-eos --keep-text --out out --json"
        );
        let result = place.servelab(&line).run().expect(0).json();
        assert_eq!((number(&result, "requests.completed"), number(&result, "output_tokens")), (4.0, 8.0), "{endpoint}");
        assert_eq!(number(&result, "token_source.server_usage"), 4.0, "{endpoint}");
        let vllm = place.json("out/vllm_bench.json");
        assert_eq!(at(&vllm, "generated_texts"), &serde_json::json!([" a b", " a b", " a b", " a b"]), "{endpoint}");
        assert_eq!(at(&vllm, "backend"), endpoint);
    }
}

#[test]
fn a_file_may_hold_exactly_the_prompts_that_are_asked_for() {
    let place = Place::new(BIN);
    let (sim, url) = server(&place, "");
    let lines: Vec<String> = (0..6).map(|i| format!(r#"{{"prompt":"question {i}","output_tokens":4}}"#)).collect();
    place.write("six.jsonl", &lines.join("\n"));
    let line =
        |n| format!("bench --url {url} --model {MODEL} --concurrency 3 --requests {n} --dataset six.jsonl --json");
    let result = place.servelab(&line(6)).run().expect(0).json();
    assert_eq!(number(&result, "requests.completed"), 6.0);
    let refused = place.servelab(&line(7)).run().expect(2);
    assert!(refused.stderr.contains("it holds 6 prompts"), "{}", refused.stderr);
    drop(sim);
}
