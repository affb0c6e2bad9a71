use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::{Duration, Instant};

use servelab_core::record::{Phase, RequestRecord, TokenSource};

use super::run_load;
use crate::arrivals::{Arrival, Extent, schedule};
use crate::control::{LivePhase, LoadControl};
use crate::spec::{LoadOutcome, LoadSpec, Pacing, PreparedRequest, Stop};
use crate::target::{ApiKey, Endpoint, Target};
use crate::testserver::{After, Exchange, Server};
use crate::{LoadError, clock, codes};

const MS: i64 = 1_000_000;
const SECOND: i64 = 1_000 * MS;

fn requests(first: i64, n: i64, body_bytes: usize) -> Vec<PreparedRequest> {
    let make = |request_idx| PreparedRequest {
        request_idx,
        body: format!(r#"{{"i":{request_idx},"pad":"{}"}}"#, "p".repeat(body_bytes)).into_bytes(),
        input_tokens: Some(7),
        requested_output_tokens: Some(3),
        ignore_eos: true,
    };
    (first..first + n).map(make).collect()
}

fn spec(server: &Server, n: i64, pacing: Pacing, stop: Stop) -> LoadSpec {
    let target = Target { base_url: server.url(), endpoint: Endpoint::Completions, api_key: None };
    let mut spec = LoadSpec::new(target, clock::new_epoch(), requests(0, n, 0), pacing, stop);
    spec.request_timeout_ns = 20 * SECOND;
    spec
}

fn closed(concurrency: u32) -> Pacing {
    Pacing::Closed { concurrency, stagger_ns: 0 }
}

fn run(spec: LoadSpec) -> LoadOutcome {
    run_load(spec, &LoadControl::new()).unwrap()
}

fn codes_of(outcome: &LoadOutcome) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for record in &outcome.requests {
        *counts.entry(record.failure_code.clone().unwrap_or_else(|| "ok".to_owned())).or_default() += 1;
    }
    counts
}

fn counts(pairs: &[(&str, usize)]) -> BTreeMap<String, usize> {
    pairs.iter().map(|(code, n)| ((*code).to_owned(), *n)).collect()
}

/// Largest number of requests between send and end, from the records alone.
fn max_in_flight(records: &[RequestRecord]) -> i64 {
    let mut steps: Vec<(i64, i64)> = Vec::new();
    for record in records {
        steps.push((record.t_send.unwrap(), 1));
        steps.push((record.t_done.unwrap(), -1));
    }
    steps.sort_unstable();
    let mut level = 0;
    steps
        .iter()
        .map(|(_, step)| {
            level += step;
            level
        })
        .max()
        .unwrap_or(0)
}

#[test]
fn stamps_are_complete_and_in_order() {
    let server = Server::start(|exchange| exchange.answer(3, 5));
    let outcome = run(spec(&server, 6, closed(2), Stop::AllRequests));
    assert_eq!(codes_of(&outcome), counts(&[("ok", 6)]));
    for record in &outcome.requests {
        let stamps = [
            Some(record.t_sched),
            record.t_slot,
            record.t_send,
            record.t_hdr,
            record.t_first,
            record.t_out,
            record.t_last,
            record.t_usage,
            record.t_done,
        ];
        let stamps: Vec<i64> = stamps.into_iter().map(|stamp| stamp.unwrap()).collect();
        assert!(stamps.is_sorted(), "{record:?}");
        assert!(record.t_first.unwrap() - record.t_send.unwrap() >= 5 * MS);
        assert!(record.t_last.unwrap() - record.t_send.unwrap() >= 15 * MS);
        assert_eq!((record.output_tokens, record.token_source), (Some(3), Some(TokenSource::ServerUsage)));
        assert_eq!((record.input_tokens, record.requested_output_tokens), (Some(5), Some(3)));
        assert_eq!((record.http_status, record.t_conn0), (Some(200), None), "connections were opened ahead");
        let events: Vec<_> = outcome.events.iter().filter(|event| event.request_idx == record.request_idx).collect();
        assert_eq!(events.iter().map(|event| event.n_tokens).sum::<i32>(), 3);
        assert_eq!(Some(events[0].t_ns), record.t_first);
        assert_eq!(Some(events[events.len() - 1].t_ns), record.t_last);
    }
    assert_eq!(server.counts.connections.load(SeqCst), 2, "kept alive and used again");
    assert_eq!(outcome.window_start_ns, outcome.requests.iter().map(|record| record.t_sched).min().unwrap());
    assert!(outcome.window_end_ns >= outcome.requests.iter().filter_map(|record| record.t_done).max().unwrap());
    assert!(outcome.cpu_s > 0.0 && !outcome.interrupted && !outcome.ran_out && outcome.failure_samples.is_empty());
}

#[test]
fn the_request_on_the_wire() {
    let server = Server::start(|exchange| {
        let is_good = exchange.head.starts_with("POST /v1/completions HTTP/1.1\r\n")
            && exchange.head.contains("Content-Type: application/json\r\n")
            && exchange.head.contains("Authorization: Bearer key-1\r\n")
            && exchange.body == r#"{"i":0,"pad":""}"#;
        if is_good { exchange.answer(3, 0) } else { exchange.plain("400 Bad", "unexpected request") }
    });
    let mut spec = spec(&server, 1, closed(1), Stop::AllRequests);
    spec.target.api_key = Some(ApiKey::new("key-1").unwrap());
    assert_eq!(codes_of(&run(spec)), counts(&[("ok", 1)]));
}

#[test]
fn large_prompts_are_written_in_parts() {
    let server = Server::start(|exchange| {
        if exchange.body.len() > 8_000_000 { exchange.answer(3, 0) } else { exchange.plain("400 Bad", "short") }
    });
    let mut spec = spec(&server, 2, closed(2), Stop::AllRequests);
    spec.window = requests(0, 2, 8_000_000);
    assert_eq!(codes_of(&run(spec)), counts(&[("ok", 2)]));
}

/// Every way in which a request can fail, side by side with good ones on the same connections.
#[test]
fn each_failure_has_its_code() {
    fn script(exchange: &mut Exchange<'_>) -> After {
        match exchange.index {
            0 => exchange.answer(3, 0),
            1 => exchange.answer(2, 0),
            2 => { exchange.stream_head(); exchange.finish(0); After::KeepOpen }
            3 => { exchange.stream_head(); exchange.token("a"); exchange.event(r#"{"error":{"message":"engine died"}}"#); exchange.event("[DONE]"); exchange.write("0\r\n\r\n"); After::KeepOpen }
            4 => { exchange.stream_head(); exchange.token("a"); After::Close }
            5 => { exchange.stream_head(); exchange.token("a"); exchange.pause(20); After::Reset }
            6 => exchange.plain("503 Service Unavailable", r#"{"error":{"message":"queue full"}}"#),
            7 => exchange.plain("429 Too Many", "{}"),
            8 => exchange.plain("404 Not Found", r#"{"detail":"no such model"}"#),
            9 => exchange.plain("500 Oops", "boom"),
            10 => { exchange.stream_head(); exchange.event("{broken"); After::KeepOpen }
            11 => { exchange.write("220 mail.example ESMTP\r\n\r\n"); After::Close }
            12 => After::Close,
            13 => { exchange.stream_head(); exchange.token("a"); exchange.pause(2_500); After::Close }
            14 => { exchange.stream_head(); for _ in 0..3 { exchange.token("a"); } exchange.event("[DONE]"); exchange.pause(2_500); After::Close }
            _ => exchange.plain("200 OK", r#"{"id":"w","choices":[{"text":"abc","finish_reason":"length"}],"usage":{"prompt_tokens":1,"completion_tokens":3}}"#),
        }
    }
    let server = Server::start(script);
    let mut spec = spec(&server, 16, closed(1), Stop::AllRequests);
    spec.request_timeout_ns = 1_000 * MS;
    let outcome = run(spec);
    let got: Vec<&str> = outcome.requests.iter().map(|record| record.failure_code.as_deref().unwrap_or("ok")).collect();
    assert_eq!(
        got,
        [
            "ok",
            codes::EARLY_STOP,
            codes::ZERO_TOKENS,
            codes::IN_BAND_ERROR,
            codes::TRUNCATED_STREAM,
            codes::CONNECTION_RESET,
            codes::HTTP_503,
            codes::HTTP_429,
            codes::HTTP_4XX,
            codes::HTTP_5XX,
            codes::MALFORMED_SSE,
            codes::MALFORMED_HTTP,
            codes::CONNECTION_RESET,
            codes::REQUEST_TIMEOUT,
            "ok",
            "ok",
        ]
    );
    assert_eq!(server.counts.requests.load(SeqCst), 16, "no silent retry");
    let sample = |code: &str| {
        outcome.failure_samples.iter().find(|sample| sample.code == code).map(|sample| sample.detail.as_str())
    };
    assert_eq!(sample(codes::IN_BAND_ERROR), Some("engine died"));
    assert_eq!(sample(codes::HTTP_503), Some("503: queue full"));
    assert_eq!(sample(codes::HTTP_4XX), Some("404: no such model"));
    let after_close = &outcome.requests[5];
    assert!(after_close.t_conn0.unwrap() <= after_close.t_conn1.unwrap(), "a new connection is recorded");
    assert!(after_close.t_conn1.unwrap() <= after_close.t_send.unwrap());
    let timeout = &outcome.requests[13];
    assert!(timeout.t_first.is_some(), "what came before the timeout is kept");
    let lasted = timeout.t_done.unwrap() - timeout.t_send.unwrap();
    assert!((900 * MS..2_400 * MS).contains(&lasted), "in flight until the timeout: {lasted} ns");
    for record in &outcome.requests {
        assert!(record.t_done.unwrap() >= record.t_send.unwrap(), "{record:?}");
    }
}

#[test]
fn a_server_that_stops_listening_refuses_the_rest() {
    let server = Server::start(|exchange| {
        if exchange.index == 2 {
            exchange.stop_listening();
        }
        // Announced, so that the client does not send on a connection that is about to be closed.
        exchange.write("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n");
        let event = "data: {\"choices\":[{\"index\":0,\"text\":\"a\"}]}\n\n";
        exchange.write(format!("{}data: [DONE]\n\n", event.repeat(3)));
        After::Close
    });
    let outcome = run(spec(&server, 5, closed(1), Stop::AllRequests));
    assert_eq!(codes_of(&outcome), counts(&[("ok", 3), (codes::CONNECT_REFUSED, 2)]));
    let refused = &outcome.requests[4];
    assert!(refused.t_conn0.is_some() && refused.t_conn1.is_none() && refused.t_send.is_none());
    assert!(refused.t_done.unwrap() >= refused.t_conn0.unwrap());
}

#[test]
fn an_endpoint_without_server_is_an_error_before_the_start() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let target = Target { base_url: format!("http://{address}"), endpoint: Endpoint::Chat, api_key: None };
    let spec = LoadSpec::new(target, clock::new_epoch(), requests(0, 1, 0), closed(1), Stop::AllRequests);
    let error = run_load(spec, &LoadControl::new()).unwrap_err();
    assert!(matches!(error, LoadError::Connect { .. }));
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

#[test]
fn closed_concurrency_is_exact() {
    for threads in [1, 2] {
        let server = Server::start(|exchange| exchange.answer(3, 1));
        let mut spec = spec(&server, 60, closed(5), Stop::AllRequests);
        spec.threads = threads;
        let outcome = run(spec);
        assert_eq!(codes_of(&outcome), counts(&[("ok", 60)]));
        assert_eq!(outcome.threads, threads);
        assert_eq!(max_in_flight(&outcome.requests), 5, "{threads} threads");
        let seen = server.counts.max_in_flight.load(SeqCst);
        assert!(seen <= 5, "{seen} at the server");
        assert_eq!(server.counts.connections.load(SeqCst), 5);
        let indices: Vec<i64> = outcome.requests.iter().map(|record| record.request_idx).collect();
        assert_eq!(indices, (0..60).collect::<Vec<_>>());
    }
}

#[test]
fn warmup_hands_its_slots_over_without_draining() {
    let server = Server::start(|exchange| exchange.answer(3, 2));
    let mut spec = spec(&server, 20, closed(4), Stop::AllRequests);
    spec.warmup = requests(100, 10, 0);
    let outcome = run(spec);
    assert_eq!(codes_of(&outcome), counts(&[("ok", 30)]));
    let of = |phase| outcome.requests.iter().filter(move |record| record.phase == phase);
    assert_eq!((of(Phase::Warmup).count(), of(Phase::Window).count()), (10, 20));
    let first_window = of(Phase::Window).filter_map(|record| record.t_send).min().unwrap();
    let overlapping = of(Phase::Warmup).filter(|record| record.t_done.unwrap() > first_window).count();
    assert!(overlapping > 0, "warm-up requests are still running when the window starts");
    assert_eq!(max_in_flight(&outcome.requests), 4);
    assert_eq!(outcome.window_start_ns, of(Phase::Window).map(|record| record.t_sched).min().unwrap());
}

#[test]
fn first_sends_are_staggered() {
    let server = Server::start(|exchange| exchange.answer(3, 0));
    let pacing = Pacing::Closed { concurrency: 4, stagger_ns: 80 * MS };
    let outcome = run(spec(&server, 4, pacing, Stop::AllRequests));
    let times: Vec<i64> = outcome.requests.iter().map(|record| record.t_sched - outcome.window_start_ns).collect();
    assert_eq!(times, [0, 20 * MS, 40 * MS, 60 * MS]);
    assert!(outcome.requests.iter().all(|record| record.t_send.unwrap() >= record.t_sched));
}

#[test]
fn a_timed_window_ends_on_time_and_drains() {
    let server = Server::start(|exchange| exchange.answer(3, 5));
    let outcome = run(spec(&server, 2_000, closed(2), Stop::Duration { ns: 120 * MS }));
    assert_eq!(outcome.window_end_ns - outcome.window_start_ns, 120 * MS);
    assert_eq!(codes_of(&outcome), counts(&[("ok", outcome.requests.len())]), "what was in flight finished");
    assert!(outcome.requests.iter().all(|record| record.t_sched < outcome.window_end_ns));
    assert!(outcome.requests.len() < 2_000 && !outcome.ran_out);
}

#[test]
fn the_drain_timeout_censors() {
    let server = Server::start(|exchange| exchange.answer(3, 300));
    let mut spec = spec(&server, 10, closed(2), Stop::Duration { ns: 50 * MS });
    spec.drain_timeout_ns = 50 * MS;
    let began = Instant::now();
    let outcome = run(spec);
    assert_eq!(codes_of(&outcome), counts(&[(codes::CENSORED, 2)]));
    for record in &outcome.requests {
        assert!(record.t_done.unwrap() >= outcome.window_end_ns + 50 * MS, "in flight to the end of the drain");
        assert!(!record.is_success());
    }
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn running_out_of_requests_is_said() {
    let server = Server::start(|exchange| exchange.answer(3, 0));
    let outcome = run(spec(&server, 3, closed(1), Stop::Duration { ns: 60 * SECOND }));
    assert!(outcome.ran_out);
    assert!(outcome.window_end_ns - outcome.window_start_ns < 10 * SECOND);
    assert_eq!(
        Some(outcome.window_end_ns),
        outcome.requests.iter().map(|r| r.t_done).max().unwrap().map(|t| t.max(outcome.window_end_ns))
    );
}

#[test]
fn a_steady_load_stops_early() {
    let server = Server::start(|exchange| exchange.answer(3, 1));
    let stop = Stop::Steady { min_ns: 300 * MS, max_ns: 8 * SECOND };
    let outcome = run(spec(&server, 20_000, closed(4), stop));
    let length = outcome.window_end_ns - outcome.window_start_ns;
    assert!((300 * MS..=8 * SECOND).contains(&length), "{length}");
    assert_eq!(outcome.is_steady, Some(length < 8 * SECOND));
    assert!(codes_of(&outcome).keys().all(|code| code == "ok"));
}

#[test]
fn open_loop_follows_its_schedule() {
    let server = Server::start(|exchange| exchange.answer(3, 2));
    let arrivals_ns = schedule(&Arrival::Poisson, 400.0, Extent::Count(120), 9).unwrap();
    for threads in [1, 2] {
        let pacing = Pacing::Open { arrivals_ns: arrivals_ns.clone(), max_concurrency: None };
        let mut spec = spec(&server, 120, pacing, Stop::AllRequests);
        spec.threads = threads;
        spec.warmup = requests(500, 20, 0);
        let outcome = run(spec);
        assert_eq!(codes_of(&outcome), counts(&[("ok", 140)]));
        let window: Vec<_> = outcome.requests.iter().filter(|record| record.phase == Phase::Window).collect();
        let offsets: Vec<i64> = window.iter().map(|record| record.t_sched - outcome.window_start_ns).collect();
        assert_eq!(offsets, arrivals_ns, "never rescaled, never re-anchored");
        let mut lateness: Vec<i64> = window.iter().map(|record| record.t_send.unwrap() - record.t_sched).collect();
        lateness.sort_unstable();
        assert!(lateness[0] >= 0, "never early");
        // Loose, because test machines are busy: a timer that rounds to whole milliseconds would still pass here, one
        // that waits for answers would not.
        assert!(lateness[60] < 20 * MS, "median lateness {} ns", lateness[60]);
        let warmup = outcome.requests.iter().filter(|record| record.phase == Phase::Warmup);
        assert!(warmup.clone().all(|record| record.t_sched <= outcome.window_start_ns));
    }
}

#[test]
fn a_stalled_server_shows_in_the_time_since_the_schedule() {
    // Coordinated omission: the cap makes requests wait for a stalled one, and the wait must be visible.
    let server = Server::start(|exchange| exchange.answer(3, if exchange.index == 0 { 100 } else { 0 }));
    let arrivals_ns = (0..10).map(|i| i * 10 * MS).collect();
    let pacing = Pacing::Open { arrivals_ns, max_concurrency: Some(1) };
    let outcome = run(spec(&server, 10, pacing, Stop::AllRequests));
    assert_eq!(codes_of(&outcome), counts(&[("ok", 10)]));
    assert_eq!(max_in_flight(&outcome.requests), 1);
    let second = &outcome.requests[1];
    assert!(second.t_slot.unwrap() - second.t_sched > 200 * MS);
    assert!(second.t_first.unwrap() - second.t_sched > 200 * MS, "felt by the user");
    assert!(outcome.requests.iter().all(|record| record.t_slot.unwrap() <= record.t_send.unwrap()));
}

#[test]
fn arrivals_without_a_slot_at_the_end_are_censored() {
    let server = Server::start(|exchange| exchange.answer(3, 60));
    let pacing = Pacing::Open { arrivals_ns: vec![0, MS, 2 * MS, 900 * MS], max_concurrency: Some(1) };
    let outcome = run(spec(&server, 4, pacing, Stop::Duration { ns: 20 * MS }));
    assert_eq!(codes_of(&outcome), counts(&[("ok", 1), (codes::CENSORED, 2)]), "the fourth lies after the window");
    assert!(outcome.requests[2].t_slot.is_none() && outcome.requests[2].t_send.is_none());
    assert!(outcome.requests[2].t_done.is_none(), "what never began has no end");
    assert_eq!(outcome.window_end_ns - outcome.window_start_ns, 20 * MS);
}

#[test]
fn an_open_window_lasts_its_whole_time() {
    let server = Server::start(|exchange| exchange.answer(3, 0));
    let pacing = Pacing::Open { arrivals_ns: vec![0], max_concurrency: None };
    let outcome = run(spec(&server, 1, pacing, Stop::Duration { ns: 150 * MS }));
    assert_eq!(outcome.window_end_ns - outcome.window_start_ns, 150 * MS);
}

#[test]
fn batches_do_not_overlap() {
    let server = Server::start(|exchange| exchange.answer(3, 3));
    let outcome = run(spec(&server, 10, Pacing::Batches { size: 4 }, Stop::AllRequests));
    assert_eq!(codes_of(&outcome), counts(&[("ok", 10)]));
    let batches: Vec<&[RequestRecord]> = outcome.requests.chunks(4).collect();
    assert_eq!(batches.iter().map(|batch| batch.len()).collect::<Vec<_>>(), [4, 4, 2]);
    for pair in batches.windows(2) {
        let end = pair[0].iter().filter_map(|record| record.t_done).max().unwrap();
        let start = pair[1].iter().filter_map(|record| record.t_send).min().unwrap();
        assert!(end <= start);
        assert!(pair[1].iter().all(|record| record.t_sched == pair[1][0].t_sched));
    }
}

#[test]
fn cancelling_ends_quickly_and_keeps_records() {
    let server = Server::start(|exchange| exchange.answer(3, if exchange.index < 4 { 1 } else { 3_000 }));
    let control = LoadControl::new();
    let spec = spec(&server, 100, closed(4), Stop::AllRequests);
    let (outcome, waited) = thread::scope(|scope| {
        let run = scope.spawn(|| run_load(spec, &control).unwrap());
        let deadline = Instant::now() + Duration::from_secs(20);
        while control.counts().sent < 8 && Instant::now() < deadline {
            thread::yield_now();
        }
        let counts = control.counts();
        assert_eq!((counts.sent, counts.done, counts.in_flight), (8, 4, 4));
        assert_eq!((counts.tokens, counts.first_tokens, counts.phase), (12, 4, LivePhase::Measuring));
        let began = Instant::now();
        control.cancel();
        (run.join().unwrap(), began.elapsed())
    });
    assert!(waited < Duration::from_millis(1_500), "{waited:?}");
    assert!(outcome.interrupted);
    assert_eq!(codes_of(&outcome), counts(&[("ok", 4), (codes::CANCELLED, 4)]));
    assert!(outcome.requests.iter().all(|record| record.t_done.is_some()));
    let counts = control.counts();
    assert_eq!((counts.in_flight, counts.failed, counts.phase), (0, 4, LivePhase::Finished));
}

#[test]
fn output_is_kept_on_request() {
    let server = Server::start(|exchange| {
        exchange.stream_head();
        for word in ["ein ", "zwei ", "drei"] {
            exchange.token(word);
        }
        exchange.finish(3);
        After::KeepOpen
    });
    let mut spec = spec(&server, 2, closed(2), Stop::AllRequests);
    spec.keep_text = true;
    spec.keep_events = false;
    let outcome = run(spec);
    let texts: Vec<&str> = outcome.outputs.iter().map(|output| output.text.as_str()).collect();
    assert_eq!(texts, ["ein zwei drei"; 2]);
    assert!(outcome.events.is_empty());
}

#[test]
fn a_connection_that_the_server_closed_while_idle_is_replaced() {
    let server = Server::start(|exchange| {
        exchange.answer(3, 0);
        After::Close
    });
    let arrivals_ns = vec![0, 80 * MS, 160 * MS];
    let pacing = Pacing::Open { arrivals_ns, max_concurrency: Some(1) };
    let outcome = run(spec(&server, 3, pacing, Stop::AllRequests));
    assert_eq!(codes_of(&outcome), counts(&[("ok", 3)]));
    assert_eq!(server.counts.requests.load(SeqCst), 3);
}

#[test]
fn chunks_split_anywhere_on_the_wire() {
    let server = Server::start(|exchange| {
        let event = |data: &str| format!("data: {data}\r\n\r\n");
        let body = event(r#"{"choices":[{"index":0,"text":"ü"}]}"#)
            + &event(r#"{"choices":[{"index":0,"text":"😀"}]}"#)
            + &event(r#"{"choices":[{"index":0,"text":"c","finish_reason":"stop"}]}"#)
            + &event("[DONE]");
        exchange.stream_head();
        for piece in body.as_bytes().chunks(exchange.index + 1) {
            let mut chunk = format!("{:x}\r\n", piece.len()).into_bytes();
            chunk.extend_from_slice(piece);
            chunk.extend_from_slice(b"\r\n");
            exchange.write(chunk);
        }
        exchange.write("0\r\n\r\n");
        After::KeepOpen
    });
    let mut spec = spec(&server, 12, closed(3), Stop::AllRequests);
    spec.keep_text = true;
    let outcome = run(spec);
    assert_eq!(codes_of(&outcome), counts(&[("ok", 12)]));
    assert!(outcome.outputs.iter().all(|output| output.text == "ü😀c"));
}
