//! The server over real sockets: shapes of answers against captured ones, usage, errors, metrics, failure injections,
//! disconnects. A plain HTTP client of a few lines keeps the tests independent of the load generator.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests fail by panicking and say what they skip"
)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use servelab_sim::{FailSpec, SimError, SimSettings, parse_serving_flags, run_blocking};

struct Server {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<(), SimError>>>,
    log: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(line: &str, fail: &[&str]) -> Self {
        Self::try_start(line, fail, 50.0).expect("the server starts")
    }

    fn try_start(line: &str, fail: &[&str], speedup: f64) -> Result<Self, SimError> {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let mut settings = SimSettings::new(SocketAddr::from(([127, 0, 0, 1], 0)), "acme/tiny-0.5b", "sim");
        settings.served_model_name = Some("tiny".to_owned());
        settings.serving = parse_serving_flags(&args, &settings.declared_version)?;
        settings.fail = fail.iter().map(|spec| spec.parse::<FailSpec>()).collect::<Result<_, _>>()?;
        settings.speedup = speedup;
        let log = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&log);
        settings.log = Arc::new(move |line: &str| sink.lock().expect("log").push(line.to_owned()));
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let (tx, rx) = mpsc::sync_channel(1);
        let thread =
            std::thread::spawn(move || run_blocking(settings, |address| tx.send(address).expect("waits"), &flag));
        match rx.recv() {
            Ok(address) => Ok(Self { address, stop, thread: Some(thread), log }),
            Err(_) => Err(thread.join().expect("no panic").expect_err("it ended before it was ready")),
        }
    }

    fn send(&self, method: &str, path: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).expect("connect");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("timeout");
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .expect("send");
        stream
    }

    fn call(&self, method: &str, path: &str, body: &str) -> Answer {
        let mut raw = Vec::new();
        // An abruptly closed connection is an outcome that some tests look for.
        let _ = self.send(method, path, body).read_to_end(&mut raw);
        Answer::parse(&String::from_utf8(raw).expect("UTF-8"))
    }

    fn post(&self, path: &str, body: &Value) -> Answer {
        self.call("POST", path, &body.to_string())
    }

    fn metric(&self, start: &str) -> f64 {
        let page = self.call("GET", "/metrics", "").body;
        let line = page.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("no {start} in {page}"));
        line.rsplit(' ').next().expect("value").parse().expect("number")
    }

    fn until(&self, start: &str, expected: f64) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.metric(start) != expected {
            assert!(Instant::now() < deadline, "{start} never became {expected}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Answer {
    status: u16,
    head: String,
    body: String,
    /// A chunked body came with its end marker.
    complete: bool,
}

impl Answer {
    fn parse(raw: &str) -> Self {
        let Some((head, rest)) = raw.split_once("\r\n\r\n") else {
            return Self { status: 0, head: String::new(), body: String::new(), complete: false };
        };
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        if !head.contains("transfer-encoding: chunked") {
            return Self { status, head: head.to_owned(), body: rest.to_owned(), complete: true };
        }
        let (mut body, mut rest, mut complete) = (String::new(), rest, false);
        while let Some((size, tail)) = rest.split_once("\r\n") {
            let size = usize::from_str_radix(size, 16).expect("chunk size");
            if size == 0 {
                complete = true;
                break;
            }
            body.push_str(tail.get(..size).unwrap_or(tail));
            rest = tail.get(size + 2..).unwrap_or("");
        }
        Self { status, head: head.to_owned(), body, complete }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// Events of a stream, without the end marker; panics when that is missing.
    fn events(&self) -> Vec<Value> {
        let mut events: Vec<&str> = self.body.split("\n\n").filter(|event| !event.is_empty()).collect();
        assert_eq!(events.pop(), Some("data: [DONE]"), "{}", self.body);
        events
            .iter()
            .map(|event| serde_json::from_str(event.strip_prefix("data: ").expect("data")).expect("JSON"))
            .collect()
    }
}

/// Keys in order, recursively, with types of leaves: two documents of the same shape give the same text.
fn shape(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "bool".to_owned(),
        Value::Number(_) => "number".to_owned(),
        Value::String(_) => "string".to_owned(),
        Value::Array(items) => format!("[{}]", items.first().map(shape).unwrap_or_default()),
        Value::Object(map) => {
            let fields: Vec<String> = map.iter().map(|(key, value)| format!("{key}:{}", shape(value))).collect();
            format!("{{{}}}", fields.join(","))
        }
    }
}

fn sample(name: &str) -> Option<String> {
    let path = format!("{}/../../../shared/samples/vllm/{name}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read(&path).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    if text.is_none() {
        println!("skipped: {path} is absent");
    }
    text
}

fn completion(extra: Value) -> Value {
    let mut body = json!({"model": "tiny", "prompt": [1, 2, 3], "max_tokens": 12, "ignore_eos": true});
    body.as_object_mut().expect("object").extend(extra.as_object().expect("object").clone());
    body
}

fn chat(extra: Value) -> Value {
    let mut body = json!({"model": "tiny", "messages": [{"role": "user", "content": "hello there"}], "max_tokens": 12, "ignore_eos": true});
    body.as_object_mut().expect("object").extend(extra.as_object().expect("object").clone());
    body
}

#[test]
fn streams_have_the_captured_shape() {
    let server = Server::start("", &[]);
    let usage = json!({"stream": true, "stream_options": {"include_usage": true}});
    let check = |name: &str, answer: Answer| {
        let events = answer.events();
        assert_eq!(answer.status, 200);
        assert!(
            answer.complete && answer.head.contains("content-type: text/event-stream; charset=utf-8"),
            "{}",
            answer.head
        );
        let Some(raw) = sample(name) else { return };
        let captured = Answer::parse(&raw).events();
        let shapes = |events: &[Value]| {
            let mut shapes: Vec<String> = events.iter().map(shape).collect();
            shapes.dedup();
            shapes
        };
        assert_eq!(shapes(&events), shapes(&captured), "{name}");
    };
    check("sse/comp_usage.raw", server.post("/v1/completions", &completion(usage.clone())));
    check("sse/chat_usage.raw", server.post("/v1/chat/completions", &chat(usage)));
    let continuous = json!({"stream": true, "stream_options": {"include_usage": true, "continuous_usage_stats": true}});
    check("sse/comp_contusage.raw", server.post("/v1/completions", &completion(continuous)));
    let no_usage = server.post("/v1/completions", &completion(json!({"stream": true})));
    check("sse/comp_plain.raw", no_usage);
}

#[test]
fn whole_answers_have_the_captured_shape() {
    let server = Server::start("", &[]);
    for (name, path, body) in [
        ("api/completion_nostream.json", "/v1/completions", completion(json!({}))),
        ("api/chat_nostream.json", "/v1/chat/completions", chat(json!({}))),
    ] {
        let answer = server.post(path, &body);
        assert_eq!((answer.status, answer.json()["usage"]["completion_tokens"].clone()), (200, json!(12)));
        assert_eq!(answer.json()["choices"][0]["finish_reason"], "length");
        if let Some(text) = sample(name) {
            assert_eq!(shape(&answer.json()), shape(&serde_json::from_str(&text).expect("sample")), "{name}");
        }
    }
    if let Some(text) = sample("api/v1_models.body") {
        let ours = server.call("GET", "/v1/models", "").json();
        assert_eq!(shape(&ours), shape(&serde_json::from_str(&text).expect("sample")));
        assert_eq!(ours["data"][0]["max_model_len"], 32_768);
    }
}

#[test]
fn streamed_and_whole_text_agree_and_are_seeded() {
    let server = Server::start("--stream-interval 5", &[]);
    let text = |answer: &Answer| -> String {
        answer.events().iter().filter_map(|event| event["choices"][0]["text"].as_str().map(str::to_owned)).collect()
    };
    let whole = server.post("/v1/completions", &completion(json!({}))).json();
    let streamed = server.post("/v1/completions", &completion(json!({"stream": true})));
    assert_eq!(text(&streamed), whole["choices"][0]["text"].as_str().expect("text"));
    assert!(streamed.events().len() <= 4, "{}", streamed.events().len());
    let other = server.post("/v1/completions", &completion(json!({"seed": 7}))).json();
    assert_ne!(other["choices"][0]["text"], whole["choices"][0]["text"]);
    let again = Server::start("", &[]).post("/v1/completions", &completion(json!({}))).json();
    assert_eq!(again["choices"][0]["text"], whole["choices"][0]["text"]);
}

#[test]
fn natural_ends_stop_strings_and_choices() {
    let server = Server::start("", &[]);
    let natural =
        server.post("/v1/completions", &completion(json!({"ignore_eos": false, "max_tokens": 20_000}))).json();
    assert_eq!(natural["choices"][0]["finish_reason"], "stop");
    let n_natural = natural["usage"]["completion_tokens"].as_u64().expect("count");
    assert!((8..20_000).contains(&n_natural));
    let text = natural["choices"][0]["text"].as_str().expect("text");
    let word = text.split(' ').nth(5).expect("fifth word");
    let cut = server.post("/v1/completions", &completion(json!({"stop": [word], "max_tokens": 100}))).json();
    assert_eq!(
        (&cut["choices"][0]["finish_reason"], &cut["choices"][0]["stop_reason"]),
        (&json!("stop"), &json!(word))
    );
    assert_eq!(cut["choices"][0]["text"].as_str(), Some(&text[..text.find(word).expect("there")]));
    let many = server.post("/v1/completions", &completion(json!({"prompt": ["a b", "c"], "n": 2}))).json();
    assert_eq!(many["choices"].as_array().map(Vec::len), Some(4));
    assert_eq!(
        many["usage"],
        json!({"prompt_tokens": 3, "total_tokens": 51, "completion_tokens": 48, "prompt_tokens_details": null, "completion_tokens_details": null})
    );
    let streamed =
        server.post("/v1/completions", &completion(json!({"stream": true, "n": 2, "return_token_ids": true}))).events();
    for index in 0..2 {
        let ids: usize = streamed
            .iter()
            .filter(|event| event["choices"][0]["index"] == index)
            .map(|event| event["choices"][0]["token_ids"].as_array().map_or(0, Vec::len))
            .sum();
        assert_eq!(ids, 12);
    }
}

#[test]
fn refusals_match_the_captures() {
    let server = Server::start("--max-model-len 2048", &[]);
    let check = |body: &str, status: u16, name: &str| {
        let answer = server.call("POST", "/v1/completions", body);
        assert_eq!(answer.status, status, "{}", answer.body);
        let Some(raw) = sample(name) else { return };
        let captured = Answer::parse(&raw);
        assert_eq!((answer.status, shape(&answer.json())), (captured.status, shape(&captured.json())), "{name}");
        if name != "api/err_json.txt" {
            assert_eq!(answer.json(), captured.json(), "{name}");
        }
    };
    check(r#"{"model":"nope","prompt":"x"}"#, 404, "api/err_model.txt");
    check(r#"{"model":"tiny","prompt":"x","max_tokens":80000}"#, 400, "api/err_maxtok.txt");
    check(r#"{"model":"tiny","prompt":"x","max_tokens":"x"}"#, 400, "api/err_type.txt");
    check("{bad", 400, "api/err_json.txt");
    let long: Vec<u32> = (0..2040).collect();
    let answer = server.post("/v1/completions", &completion(json!({"prompt": long})));
    assert_eq!(answer.status, 400);
    assert!(
        answer.body.contains("requested 12 output tokens and your prompt contains 2040 input tokens"),
        "{}",
        answer.body
    );
    assert_eq!(server.call("GET", "/nowhere", "").status, 404);
    assert_eq!(server.post("/v1/completions", &completion(json!({"prompt": ""}))).status, 400);
    assert_eq!(
        server.post("/v1/completions", &completion(json!({"stream_options": {"include_usage": true}}))).status,
        400
    );
}

#[test]
fn metrics_are_the_engines_own_and_a_subset_of_vllms() {
    let server = Server::start("--max-num-seqs 4", &[]);
    let body = completion(json!({"prompt": (0..40).collect::<Vec<u32>>()}));
    server.post("/v1/completions", &body);
    server.post("/v1/completions", &body);
    let label = r#"{engine="0",model_name="tiny"}"#;
    assert_eq!(server.metric(&format!("vllm:generation_tokens_total{label}")), 24.0);
    assert_eq!(server.metric(&format!("vllm:prompt_tokens_total{label}")), 80.0);
    assert_eq!(server.metric(&format!("vllm:prefix_cache_queries_total{label}")), 80.0);
    assert_eq!(server.metric(&format!("vllm:prefix_cache_hits_total{label}")), 32.0);
    assert_eq!(
        server.metric(r#"vllm:request_success_total{engine="0",finished_reason="length",model_name="tiny"}"#),
        2.0
    );
    assert_eq!(server.metric(&format!("vllm:inter_token_latency_seconds_count{label}")), 22.0);
    assert_eq!(server.metric(&format!("vllm:num_requests_running{label}")), 0.0);
    assert_eq!(server.call("POST", "/reset_prefix_cache", "").status, 200);
    server.post("/v1/completions", &body);
    assert_eq!(server.metric(&format!("vllm:prefix_cache_hits_total{label}")), 32.0);
    let Some(captured) = sample("api/metrics_after.txt") else { return };
    let known: Vec<&str> = captured.lines().filter(|line| line.starts_with("# ")).collect();
    let page = server.call("GET", "/metrics", "").body;
    for line in page.lines().filter(|line| line.starts_with("# ") && line.contains(" vllm:")) {
        assert!(known.contains(&line), "vLLM has no {line}");
    }
    let labels = |line: &str| {
        line.split_once('{').map(|(name, rest)| {
            let keys: Vec<String> =
                rest.split(',').filter_map(|pair| pair.split_once('=')).map(|(key, _)| key.to_owned()).collect();
            (name.to_owned(), keys)
        })
    };
    let theirs: Vec<_> = captured.lines().filter_map(labels).collect();
    for line in page.lines().filter(|line| line.starts_with("vllm:") && !line.contains("cache_config_info")) {
        let ours = labels(line).expect("labelled");
        assert!(theirs.contains(&ours), "{ours:?}");
    }
}

#[test]
fn the_log_shows_the_effective_configuration() {
    let server = Server::start("--max-model-len 1K --max-num-seqs 8 --enforce-eager", &[]);
    let log = server.log.lock().expect("log").join("\n");
    for part in [
        "non-default args: {'model_tag': 'acme/tiny-0.5b'",
        "'enforce_eager': True, 'max_model_len': 1024, 'max_num_seqs': 8}",
        "Initializing a V1 LLM engine (v0.32.0) with config: model='acme/tiny-0.5b'",
        "max_seq_len=1024, tensor_parallel_size=1",
        "GPU KV cache size: ",
        "Maximum concurrency for 1,024 tokens per request: ",
        "Available KV cache memory: ",
        "Model loading took ",
        "Application startup complete.",
    ] {
        assert!(log.contains(part), "no {part} in\n{log}");
    }
    let info = server.call("GET", "/server_info?config_format=json", "").json();
    assert_eq!(info["vllm_config"]["scheduler_config"]["max_num_seqs"], 8);
    assert_eq!(info["servelab_sim"]["label"], "uncalibrated");
    assert!(server.call("GET", "/health", "").head.contains("x-servelab-sim: uncalibrated; speedup=50"));
    assert_eq!(server.call("GET", "/version", "").json(), json!({"version": "0.32.0"}));
    assert_eq!(server.post("/tokenize", &json!({"prompt": "a b c"})).json()["count"], 3);
}

#[test]
fn a_client_that_leaves_aborts_its_request() {
    let server = Server::try_start("", &[], 1.0).expect("starts");
    let body = completion(json!({"stream": true, "max_tokens": 30_000}));
    let mut stream = server.send("POST", "/v1/completions", &body.to_string());
    let mut first = [0; 1];
    stream.read_exact(&mut first).expect("the stream begins");
    server.until("vllm:num_requests_running{", 1.0);
    drop(stream);
    server.until(r#"vllm:request_success_total{engine="0",finished_reason="abort",model_name="tiny"}"#, 1.0);
    assert_eq!(server.metric("vllm:kv_cache_usage_perc{"), 0.0);
    let whole = server.send("POST", "/v1/completions", &completion(json!({"max_tokens": 30_000})).to_string());
    server.until("vllm:num_requests_running{", 1.0);
    drop(whole);
    server.until(r#"vllm:request_success_total{engine="0",finished_reason="abort",model_name="tiny"}"#, 2.0);
}

#[test]
fn a_full_queue_refuses_with_503() {
    let server = Server::try_start("--max-num-queued-reqs 1", &[], 1.0).expect("starts");
    let _held = server.send("POST", "/v1/completions", &completion(json!({"max_tokens": 30_000})).to_string());
    server.until("vllm:num_requests_running{", 1.0);
    let answer = server.post("/v1/completions", &completion(json!({})));
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("max_num_queued_reqs=1"), "{}", answer.body);
    assert_eq!(server.metric("vllm:admission_rejections_total{"), 1.0);
}

#[test]
fn the_clock_is_kept_and_scaled() {
    let server = Server::try_start("", &[], 10.0).expect("starts");
    let began = Instant::now();
    server.post("/v1/completions", &completion(json!({"max_tokens": 1000})));
    let wall = began.elapsed().as_secs_f64();
    let simulated = server.metric(r#"vllm:e2e_request_latency_seconds_sum{"#);
    assert!(simulated > 0.5 && wall >= simulated / 10.0, "{wall} s for {simulated} simulated s");
    // Not tight: this machine may be busy, but lateness must not add up over 1000 steps.
    assert!(wall < simulated / 10.0 + 1.0, "{wall} s for {simulated} simulated s");
}

#[test]
fn injected_failures_look_as_ordered() {
    let streamed = completion(json!({"stream": true}));
    let refused = Server::start("", &["503:1"]).post("/v1/completions", &streamed);
    assert_eq!(refused.status, 503);
    let in_band = Server::start("", &["inband:1"]).post("/v1/completions", &streamed);
    assert_eq!((in_band.status, in_band.events()[0]["error"]["code"].clone()), (200, json!(500)));
    let cut = Server::start("", &["truncate:1"]).post("/v1/completions", &streamed);
    assert!(
        cut.status == 200 && !cut.complete && cut.body.contains("data: ") && !cut.body.contains("[DONE]"),
        "{}",
        cut.body
    );
    let zero = Server::start("", &["zero:1"]).post("/v1/chat/completions", &chat(json!({"stream": true})));
    assert!(zero.complete && zero.events().iter().all(|e| e["choices"][0]["delta"]["content"] == ""), "{}", zero.body);
    let hung = Server::start("", &["hang:1"]);
    let stuck = hung.send("POST", "/v1/completions", &streamed.to_string());
    hung.until("vllm:num_requests_waiting{", 1.0);
    assert_eq!(hung.call("GET", "/health", "").status, 200);
    drop(stuck);
}

#[test]
fn an_injected_crash_ends_the_server_mid_stream() {
    let mut server = Server::try_start("", &["crash:2"], 1.0).expect("starts");
    let mut first =
        server.send("POST", "/v1/completions", &completion(json!({"stream": true, "max_tokens": 30_000})).to_string());
    server.until("vllm:num_requests_running{", 1.0);
    let second = server.post("/v1/completions", &completion(json!({})));
    assert_eq!(second.status, 0, "no answer");
    let mut rest = Vec::new();
    let _ = first.read_to_end(&mut rest);
    assert!(!String::from_utf8_lossy(&rest).contains("[DONE]"));
    let ended = server.thread.take().expect("running").join().expect("no panic");
    assert!(matches!(ended, Err(SimError::InjectedCrash { request: 2 })), "{ended:?}");
}

#[test]
fn a_refused_start_says_why() {
    let check = |line: &str, fail: &[&str], expected: &str| {
        let error = Server::try_start(line, fail, 50.0).err().expect("refused").to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(
        "--max-num-seqs 512 --max-num-batched-tokens 256",
        &[],
        "must be greater than or equal to max_num_seqs (512)",
    );
    check("--kv-cache-memory-bytes 2M", &[], "To serve at least one request with the models's max seq len (32768)");
    check("", &["oom_start"], "torch.OutOfMemoryError: CUDA out of memory.");
    check("--swap-space 4", &[], "vllm: error: unrecognized arguments: --swap-space 4");
}
