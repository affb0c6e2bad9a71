//! The server over real sockets: shapes of answers against captured ones, usage, metrics, failure injections,
//! disconnects.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests fail by panicking and say what they skip"
)]

use std::io::Read;
use std::time::Instant;

use serde_json::{Value, json};
use servelab_sim::SimError;
use support::{Answer, Server, chat, completion, sample, shape};

mod support;

#[test]
fn streams_have_the_captured_shape() {
    // Not sped up: tokens that wait for a busy machine come in one chunk, here as in vLLM.
    let server = Server::try_start("", &[], 1.0).expect("starts");
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
        "max_seq_len=1024, download_dir=None",
        "tensor_parallel_size=1, pipeline_parallel_size=1, data_parallel_size=1",
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
    assert_eq!(info["servelab_sim"]["label"], "unvalidated");
    assert!(server.call("GET", "/health", "").head.contains("x-servelab-sim: unvalidated; speedup=50"));
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
    assert!(answer.body.contains("The engine is currently busy and cannot accept new requests."), "{}", answer.body);
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

#[test]
fn api_keys_guard_the_api_only() {
    let server = Server::start("--api-key one two", &[]);
    let ask = |path: &str, key: &str| {
        let mut stream = std::net::TcpStream::connect(server.address).expect("connect");
        let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: {key}\r\n\r\n");
        std::io::Write::write_all(&mut stream, head.as_bytes()).expect("send");
        let mut raw = String::new();
        let _ = stream.read_to_string(&mut raw);
        Answer::parse(&raw)
    };
    let refused = ask("/v1/models", "Bearer three");
    assert_eq!((refused.status, refused.json()), (401, json!({"error": "Unauthorized"})));
    assert_eq!(ask("/v1/models", "two").status, 401);
    assert_eq!(ask("/v1/models", "bearer two").status, 200);
    assert_eq!((ask("/health", "").status, ask("/metrics", "").status), (200, 200));
    assert!(!server.log.lock().expect("log").join("\n").contains("two"), "no key is logged");
}

#[test]
fn connections_are_kept_and_requests_may_follow_at_once() {
    let server = Server::start("", &[]);
    let mut stream = std::net::TcpStream::connect(server.address).expect("connect");
    let body = completion(json!({"max_tokens": 3})).to_string();
    let one = format!("POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let last = "GET /version HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    std::io::Write::write_all(&mut stream, format!("{one}{one}{last}").as_bytes()).expect("send");
    let mut raw = String::new();
    stream.read_to_string(&mut raw).expect("answers");
    assert_eq!((raw.matches("HTTP/1.1 200 OK").count(), raw.matches("text_completion").count()), (3, 2), "{raw}");
    assert!(raw.ends_with("{\"version\":\"0.32.0\"}"), "{raw}");
}

#[test]
fn stop_ids_echo_and_tokens_there_and_back() {
    let server = Server::start("", &[]);
    let plain = server.post("/v1/completions", &completion(json!({"return_token_ids": true}))).json();
    let ids = plain["choices"][0]["token_ids"].as_array().expect("ids").clone();
    let text = plain["choices"][0]["text"].as_str().expect("text").to_owned();
    let stopped = server.post("/v1/completions", &completion(json!({"stop_token_ids": [ids[4]]}))).json();
    let at = ids.iter().position(|id| *id == ids[4]).expect("there");
    assert_eq!(stopped["choices"][0]["stop_reason"], ids[4]);
    assert_eq!(stopped["usage"]["completion_tokens"], at + 1);
    let later =
        server.post("/v1/completions", &completion(json!({"stop_token_ids": [ids[4]], "min_tokens": 12}))).json();
    assert_eq!(later["choices"][0]["finish_reason"], "length");
    let back = server.post("/detokenize", &json!({"tokens": ids})).json();
    let again = server.post("/tokenize", &json!({"prompt": back["prompt"]})).json();
    assert_eq!(again["tokens"], json!(ids), "{text}");
    let echoed = server.post("/v1/completions", &completion(json!({"prompt": "hello there", "echo": true}))).json();
    assert!(echoed["choices"][0]["text"].as_str().expect("text").starts_with("hello there "), "{echoed}");
}

#[test]
fn stop_strings_are_never_streamed_even_in_part() {
    let server = Server::start("", &[]);
    let text_of = |answer: &Answer| -> String {
        answer.events().iter().filter_map(|event| event["choices"][0]["text"].as_str().map(str::to_owned)).collect()
    };
    let whole = server.post("/v1/completions", &completion(json!({"max_tokens": 40}))).json();
    let text = whole["choices"][0]["text"].as_str().expect("text").to_owned();
    // Across the border between two tokens.
    let stop = &text[53..58];
    let cut = text.find(stop).expect("there");
    let streamed =
        server.post("/v1/completions", &completion(json!({"max_tokens": 40, "stop": [stop], "stream": true})));
    assert_eq!(text_of(&streamed), text[..cut]);
    let included = json!({"max_tokens": 40, "stop": [stop], "stream": true, "include_stop_str_in_output": true});
    let streamed = server.post("/v1/completions", &completion(included));
    assert_eq!(text_of(&streamed), text[..cut + stop.len()]);
}

#[test]
fn a_dead_engine_tells_everybody_and_then_the_process_ends() {
    let mut server = Server::try_start("", &["kill_rank:2@3"], 10.0).expect("starts");
    let mut first =
        server.send("POST", "/v1/completions", &completion(json!({"stream": true, "max_tokens": 30_000})).to_string());
    server.until("vllm:num_requests_running{", 1.0);
    let second = server.post("/v1/completions", &completion(json!({})));
    assert_eq!((second.status, second.json()["error"]["type"].clone()), (500, json!("InternalServerError")));
    let mut rest = String::new();
    first.read_to_string(&mut rest).expect("the stream ends properly");
    assert!(rest.contains("EngineCore encountered an issue") && rest.contains("data: [DONE]"), "{rest}");
    assert_eq!(server.call("GET", "/health", "").status, 503);
    assert_eq!(server.post("/v1/completions", &completion(json!({}))).status, 500);
    let ended = server.thread.take().expect("running").join().expect("no panic");
    assert!(matches!(ended, Err(SimError::InjectedEngineDeath)), "{ended:?}");
    let log = server.log.lock().expect("log").join("\n");
    assert!(log.contains("Worker proc VllmWorker-3 died unexpectedly") && log.contains("EngineDeadError"), "{log}");
}

#[test]
fn failures_come_after_their_number_of_tokens() {
    let streamed = completion(json!({"stream": true}));
    let in_band = Server::start("", &["inband:1@4"]).post("/v1/completions", &streamed).events();
    let text: String = in_band.iter().filter_map(|event| event["choices"][0]["text"].as_str()).collect();
    assert_eq!((text.split_whitespace().count(), &in_band.last().expect("events")["error"]["code"]), (4, &json!(500)));
    // What broke off leaves nothing behind that is in the way of later requests.
    let server = Server::start("", &["inband:1@4"]);
    for _ in 0..3 {
        assert_eq!(server.post("/v1/completions", &streamed).status, 200);
    }
    server.until("vllm:num_requests_running{", 0.0);
    let server = Server::start("", &["reset:1@3"]);
    let mut stream = server.send("POST", "/v1/completions", &streamed.to_string());
    let mut raw = Vec::new();
    let error = stream.read_to_end(&mut raw).expect_err("a reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn prompts_are_handed_from_prefill_to_decode() {
    let config = r#"--kv-transfer-config {"kv_connector":"NixlConnector","kv_role":"kv_both"}"#;
    let (prefill, decode) = (Server::start(config, &[]), Server::start(config, &[]));
    let prompt: Vec<u32> = (0..200).collect();
    let ask = json!({"prompt": prompt, "max_tokens": 1, "kv_transfer_params": {
        "do_remote_decode": true, "do_remote_prefill": false, "remote_engine_id": null, "remote_block_ids": null,
        "remote_host": null, "remote_port": null,
    }});
    let offer = prefill.post("/v1/completions", &completion(ask)).json()["kv_transfer_params"].clone();
    assert_eq!(offer["do_remote_prefill"], true, "{offer}");
    assert_eq!(offer["remote_block_ids"][0].as_array().map(Vec::len), Some(13));
    assert_eq!(offer["remote_num_tokens"], 200);
    let answer = decode.post("/v1/completions", &completion(json!({"prompt": prompt, "kv_transfer_params": offer})));
    assert_eq!(answer.json()["usage"]["completion_tokens"], 12);
    let label = r#"{engine="0",model_name="tiny"}"#;
    assert_eq!(decode.metric(&format!("vllm:nixl_xfer_time_seconds_count{label}")), 1.0);
    assert_eq!(decode.metric(&format!("vllm:external_prefix_cache_hits_total{label}")), 200.0);
    assert_eq!(prefill.metric(&format!("vllm:nixl_xfer_time_seconds_count{label}")), 0.0);
    let failing = Server::start(config, &["kv_transfer:1"]);
    let answer = failing.post("/v1/completions", &completion(json!({"prompt": prompt, "kv_transfer_params": offer})));
    assert_eq!((answer.status, failing.metric("vllm:nixl_num_failed_transfers_total{")), (500, 1.0));
}

#[test]
fn every_metric_of_a_real_server_is_there() {
    let Some(captured) = sample("api/metrics_pdD.txt") else { return };
    let server = Server::start(r#"--kv-transfer-config {"kv_connector":"NixlConnector"}"#, &[]);
    let page = server.call("GET", "/metrics", "").body;
    let names = |text: &str| -> Vec<String> {
        let heads = text.lines().filter(|line| line.starts_with("# ") && line.contains(" vllm:"));
        heads.map(str::to_owned).collect()
    };
    let ours = names(&page);
    let missing: Vec<String> = names(&captured).into_iter().filter(|line| !ours.contains(line)).collect();
    assert!(missing.is_empty(), "{missing:#?}");
    let unknown: Vec<String> = ours.into_iter().filter(|line| !captured.contains(line.as_str())).collect();
    assert!(unknown.is_empty(), "{unknown:#?}");
}
