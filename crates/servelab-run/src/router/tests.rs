//! The router between real sockets: what passes through, what is recorded, and what a client sees when a server fails.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use servelab_load::http::{get_text, post_json};

use super::*;
use crate::fixtures::{FakeServer, Reply as Canned};

const LIMIT: Duration = Duration::from_secs(20);

fn options(servers: &[String], prefill: &[String]) -> RouterOptions {
    RouterOptions {
        servers: servers.to_vec(),
        prefill: prefill.to_vec(),
        policy: Policy::RoundRobin,
        handover: Handover::Params,
        legs: None,
        silence: LIMIT,
    }
}

fn start(options: &RouterOptions) -> (Router, String) {
    let router = Router::start("127.0.0.1:0".parse().unwrap(), options).unwrap();
    let url = format!("http://{}", router.address());
    (router, url)
}

fn legs(path: &Path) -> Vec<LegRecord> {
    read_legs(&std::fs::read(path).unwrap_or_default())
}

fn wait_for_legs(path: &Path, n: usize) -> Vec<LegRecord> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let found = legs(path);
        if found.len() >= n {
            return found;
        }
        assert!(Instant::now() < deadline, "{n} records did not come: {found:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A server whose answer to a POST is written by hand; it keeps the connection open until `hold` says otherwise.
struct Scripted {
    url: String,
    /// The client's end was seen.
    saw_end: Arc<AtomicBool>,
    n_connections: Arc<AtomicU32>,
}

fn scripted(answer: &'static [u8], holds: bool) -> Scripted {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (saw_end, n_connections) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let (ends, connections) = (Arc::clone(&saw_end), Arc::clone(&n_connections));
    thread::spawn(move || {
        for stream in listener.incoming() {
            connections.fetch_add(1, SeqCst);
            let ends = Arc::clone(&ends);
            thread::spawn(move || {
                let mut stream = stream.unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let mut length = 0;
                loop {
                    let mut line = String::new();
                    if reader.read_line(&mut line).unwrap_or(0) == 0 {
                        return;
                    }
                    if let Some((name, value)) = line.split_once(':')
                        && name.eq_ignore_ascii_case("content-length")
                    {
                        length = value.trim().parse().unwrap();
                    }
                    if line.trim().is_empty() {
                        break;
                    }
                }
                reader.read_exact(&mut vec![0; length]).unwrap();
                stream.write_all(answer).unwrap();
                if holds {
                    let _ = reader.read(&mut [0]);
                    ends.store(true, SeqCst);
                }
            });
        }
    });
    Scripted { url, saw_end, n_connections }
}

fn post(url: &str, body: &Value) -> (u16, Value) {
    let reply = post_json(&format!("{url}/v1/completions"), body, LIMIT, None).unwrap();
    (reply.status, serde_json::from_str(&reply.body).unwrap_or(Value::String(reply.body)))
}

/// Sends a request by hand and reads what comes until the connection ends.
fn raw(url: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(url.strip_prefix("http://").unwrap()).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nX-Request-Id: mine\r\nConnection: close\r\nContent-Length:";
    stream.write_all(format!("{head} {}\r\n\r\n{body}", body.len()).as_bytes()).unwrap();
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all);
    String::from_utf8(all).unwrap()
}

#[test]
fn replicas_take_turns_and_their_answers_pass_through() {
    let servers: Vec<FakeServer> = (0..3)
        .map(|index| {
            FakeServer::start(move |request| match request.path.as_str() {
                "/health" => Canned::text(""),
                "/v1/models" => Canned::json(200, r#"{"data": []}"#),
                _ => Canned::json(if index == 2 { 429 } else { 200 }, &json!({"from": index}).to_string()),
            })
        })
        .collect();
    let urls: Vec<String> = servers.iter().map(FakeServer::url).collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("legs.jsonl");
    let (_router, url) = start(&RouterOptions { legs: Some(path.clone()), ..options(&urls, &[]) });
    let answers: Vec<(u16, Value)> = (0..6).map(|_| post(&url, &json!({"prompt": "x"}))).collect();
    let expected = |status, from: i32| (status, json!({"from": from}));
    let round = [expected(200, 0), expected(200, 1), expected(429, 2)];
    assert_eq!(answers, [round.clone(), round].concat(), "a server's own refusal is passed on");
    let records = wait_for_legs(&path, 6);
    let outcomes: Vec<LegOutcome> = records.iter().map(|record| record.outcome).collect();
    let round = [LegOutcome::Ok, LegOutcome::Ok, LegOutcome::Status];
    assert_eq!(outcomes, [round, round].concat());
    let ids: std::collections::BTreeSet<&str> = records.iter().map(|record| record.id.as_str()).collect();
    assert_eq!(ids.len(), 6);
    assert_eq!(get_text(&format!("{url}/health"), LIMIT, None).unwrap().status, 200);
    assert!(get_text(&format!("{url}/v1/models"), LIMIT, None).unwrap().body.contains("data"));
    let page = get_text(&format!("{url}/metrics"), LIMIT, None).unwrap().body;
    assert!(page.contains("servelab_router_requests_total{outcome=\"ok\"} 4"), "{page}");
    assert!(page.contains("servelab_router_in_flight{role=\"serve\",server=\"0\"} 0"), "{page}");
    drop(servers);
    let (status, body) = post(&url, &json!({"prompt": "x"}));
    assert_eq!(status, 502, "{body}");
    assert_eq!(get_text(&format!("{url}/health"), LIMIT, None).unwrap().status, 503);
}

#[test]
fn prefill_computes_and_decode_is_told_where_it_lies() {
    let seen: Arc<Mutex<Vec<(&str, Value)>>> = Arc::default();
    let record = |name: &'static str, seen: &Arc<Mutex<Vec<(&'static str, Value)>>>, body: &str| {
        seen.lock().unwrap().push((name, serde_json::from_str(body).unwrap()));
    };
    let (at_prefill, at_decode) = (Arc::clone(&seen), Arc::clone(&seen));
    let prefill = FakeServer::start(move |request| {
        record("prefill", &at_prefill, &request.body);
        Canned::json(200, r#"{"choices": [], "kv_transfer_params": {"remote_engine_id": "e"}}"#)
    });
    let decode = FakeServer::start(move |request| {
        record("decode", &at_decode, &request.body);
        Canned { content_type: "text/event-stream", ..Canned::json(200, "data: {}\n\ndata: [DONE]\n\n") }
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("legs.jsonl");
    let (_router, url) =
        start(&RouterOptions { legs: Some(path.clone()), ..options(&[decode.url()], &[prefill.url()]) });
    let answer = raw(&url, &json!({"prompt": "x", "max_tokens": 9, "stream": true}).to_string());
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("data: {}\n\ndata: [DONE]\n\n"), "{answer}");
    let seen = seen.lock().unwrap();
    assert_eq!((seen[0].0, &seen[0].1["max_tokens"], &seen[0].1["stream"]), ("prefill", &json!(1), &json!(false)));
    assert_eq!((seen[1].0, &seen[1].1["max_tokens"]), ("decode", &json!(9)));
    assert_eq!(seen[1].1["kv_transfer_params"], json!({"remote_engine_id": "e"}));
    let all = wait_for_legs(&path, 1);
    let (record, prefill, decode) = (&all[0], all[0].prefill.as_ref().unwrap(), all[0].decode.as_ref().unwrap());
    assert_eq!((record.id.as_str(), record.outcome, record.handed_over), ("mine", LegOutcome::Ok, Some(true)));
    assert!(record.t_accept_ns <= prefill.t_send_ns && prefill.t_end_ns <= decode.t_send_ns, "{record:?}");
    assert!(decode.t_head_ns.unwrap() <= decode.t_body_ns.unwrap() && decode.duration_ns() > 0);
}

#[test]
fn failures_of_each_leg_reach_the_client_as_they_are() {
    let handing = || {
        FakeServer::start(|request| match request.path.as_str() {
            "/v1/completions" => Canned::json(200, r#"{"kv_transfer_params": {"x": 1}}"#),
            _ => Canned::text(""),
        })
    };
    let nobody = "http://127.0.0.1:1".to_owned();
    let folder = tempfile::tempdir().unwrap();
    let check = |name: &str, options: RouterOptions, body: Value, expected: (u16, LegOutcome, &str)| {
        let path = folder.path().join(name);
        let (_router, url) = start(&RouterOptions { legs: Some(path.clone()), ..options });
        let (status, answer) = post(&url, &body);
        let record = wait_for_legs(&path, 1).remove(0);
        assert_eq!((status, record.outcome), (expected.0, expected.1), "{name}: {answer} {record:?}");
        assert!(answer.to_string().contains(expected.2), "{name}: {answer}");
        record
    };
    let body = json!({"prompt": "x"});
    let refused = check(
        "prefill refused",
        options(&[handing().url()], std::slice::from_ref(&nobody)),
        body.clone(),
        (502, LegOutcome::Refused, "no connection to the prefill server"),
    );
    assert!(refused.decode.is_none(), "nothing was decoded");
    let prefill = handing();
    let prefill_url = [prefill.url()];
    check(
        "decode refused",
        options(&[nobody], &prefill_url),
        body.clone(),
        (502, LegOutcome::Refused, "no connection to the decode server"),
    );
    let full = FakeServer::start(|_| Canned::json(503, r#"{"error": {"message": "queue is full"}}"#));
    let passed = check(
        "prefill status",
        options(&prefill_url, &[full.url()]),
        body.clone(),
        (503, LegOutcome::Status, "queue is full"),
    );
    assert!(passed.decode.is_none());
    let dying = scripted(b"", false);
    check(
        "decode dies unanswered",
        options(&[dying.url], &prefill_url),
        body.clone(),
        (502, LegOutcome::Died, "closed the connection"),
    );
    check(
        "several choices",
        options(&prefill_url, &prefill_url),
        json!({"prompt": "x", "n": 2}),
        (400, LegOutcome::Rejected, "more than one choice"),
    );
    let silent = scripted(b"", true);
    check(
        "silent",
        RouterOptions { silence: Duration::from_millis(50), ..options(&[silent.url], &[]) },
        body,
        (504, LegOutcome::TimedOut, "said nothing"),
    );
}

#[test]
fn a_stream_that_breaks_stays_broken() {
    let dying = scripted(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n8\r\ndata: 1\n\r\n",
        false,
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("legs.jsonl");
    let (_router, url) = start(&RouterOptions { legs: Some(path.clone()), ..options(&[dying.url], &[]) });
    let answer = raw(&url, "{}");
    assert!(answer.ends_with("8\r\ndata: 1\n\r\n"), "no last chunk is made up: {answer}");
    let record = wait_for_legs(&path, 1).remove(0);
    assert_eq!(record.outcome, LegOutcome::Died);
    assert_eq!(record.decode.unwrap().bytes, 8);
}

#[test]
fn a_client_that_leaves_frees_the_server() {
    let holding = scripted(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n", true);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("legs.jsonl");
    let (_router, url) =
        start(&RouterOptions { legs: Some(path.clone()), ..options(std::slice::from_ref(&holding.url), &[]) });
    let mut client = TcpStream::connect(url.strip_prefix("http://").unwrap()).unwrap();
    client.write_all(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}").unwrap();
    let mut first = [0; 1];
    client.read_exact(&mut first).unwrap();
    drop(client);
    assert_eq!(wait_for_legs(&path, 1).remove(0).outcome, LegOutcome::ClientGone);
    let deadline = Instant::now() + LIMIT;
    while !holding.saw_end.load(SeqCst) {
        assert!(Instant::now() < deadline, "the server was not told");
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(holding.n_connections.load(SeqCst), 1);
}

#[test]
fn connections_to_servers_are_used_again() {
    let server = FakeServer::start(|_| Canned::json(200, "{}"));
    let (router, url) = start(&options(&[server.url()], &[]));
    for _ in 0..5 {
        assert_eq!(post(&url, &json!({})).0, 200);
    }
    // The client has its answer a moment before the connection behind it is put aside.
    let deadline = Instant::now() + LIMIT;
    while router.shared.servers.servers[0].n_idle() == 0 {
        assert!(Instant::now() < deadline, "no connection was kept");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn what_is_for_all_reaches_all() {
    let hits = Arc::new(AtomicU32::new(0));
    let server = |hits: &Arc<AtomicU32>| {
        let hits = Arc::clone(hits);
        FakeServer::start(move |request| {
            if request.path == "/reset_prefix_cache" {
                hits.fetch_add(1, SeqCst);
            }
            Canned::text("")
        })
    };
    let (a, b, c) = (server(&hits), server(&hits), server(&hits));
    let (_router, url) = start(&options(&[a.url(), b.url()], &[c.url()]));
    let reply = post_json(&format!("{url}/reset_prefix_cache"), &json!({}), LIMIT, None).unwrap();
    assert_eq!((reply.status, hits.load(SeqCst)), (200, 3), "{}", reply.body);
    let split = post_json(&format!("{url}/v1/responses"), &json!({}), LIMIT, None).unwrap();
    assert_eq!(split.status, 501);
}

#[test]
fn options_that_make_no_sense() {
    let refused = |options: &RouterOptions| Router::start("127.0.0.1:0".parse().unwrap(), options).unwrap_err();
    let url = ["http://a:1".to_owned()];
    assert!(refused(&options(&[], &[])).to_string().contains("no server"));
    assert!(refused(&options(&[], &url)).to_string().contains("no decode server"));
    assert!(refused(&options(&["a:1".to_owned()], &[])).to_string().contains("http://HOST:PORT"));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let error = Router::start(taken.local_addr().unwrap(), &options(&url, &[])).unwrap_err();
    assert!(error.to_string().contains("listen at"), "{error}");
}
