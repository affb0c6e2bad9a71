//! The engine against real sockets: stamps, concurrency, schedules, windows, failures. The harness here serves the files
//! beside it.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::{Duration, Instant};

use servelab_core::pacing::Think;
use servelab_core::record::{Phase, RequestRecord, TokenSource};

mod conversations;
mod ends;
mod failures;
mod omission;
mod tls;

use super::run_load;
use crate::arrivals::{Arrival, Extent, schedule};
use crate::control::{LivePhase, LoadControl};
use crate::sink::MemoryRecords;
use crate::source::{Arrival as Arriving, Prepared, PreparedRequest, Work};
use crate::spec::{LoadOutcome, LoadSpec, Pacing, Pauses, Spread, Stop};
use crate::target::{ApiKey, Endpoint, Target, TlsTrust};
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

/// A load whose requests are all there.
struct Trial {
    load: LoadSpec,
    warmup: Vec<PreparedRequest>,
    window: Vec<PreparedRequest>,
    arrivals_ns: Vec<i64>,
}

impl Deref for Trial {
    type Target = LoadSpec;

    fn deref(&self) -> &LoadSpec {
        &self.load
    }
}

impl DerefMut for Trial {
    fn deref_mut(&mut self) -> &mut LoadSpec {
        &mut self.load
    }
}

/// A run with its records in order.
struct Ran {
    outcome: LoadOutcome,
    requests: Vec<RequestRecord>,
    events: Vec<servelab_core::record::EventRecord>,
    outputs: Vec<crate::sink::CapturedOutput>,
}

impl Deref for Ran {
    type Target = LoadOutcome;

    fn deref(&self) -> &LoadOutcome {
        &self.outcome
    }
}

fn target(base_url: String) -> Target {
    Target { base_url, endpoint: Endpoint::Completions, api_key: None, trust: TlsTrust::default() }
}

fn spec(server: &Server, n: i64, pacing: Pacing, stop: Stop) -> Trial {
    let source = Prepared::default();
    let mut load = LoadSpec::new(target(server.url()), clock::new_epoch(), source, pacing, stop);
    load.request_timeout_ns = 20 * SECOND;
    load.canary = false;
    Trial { load, warmup: Vec::new(), window: requests(0, n, 0), arrivals_ns: Vec::new() }
}

fn open(server: &Server, arrivals_ns: &[i64], max_concurrency: Option<u32>, stop: Stop) -> Trial {
    let mut trial = spec(server, arrivals_ns.len() as i64, Pacing::Open { max_concurrency }, stop);
    trial.arrivals_ns = arrivals_ns.to_vec();
    trial
}

fn closed(concurrency: u32) -> Pacing {
    Pacing::closed(concurrency)
}

fn run(trial: Trial) -> Ran {
    run_with(trial, &LoadControl::new())
}

fn run_with(trial: Trial, control: &LoadControl) -> Ran {
    let Trial { mut load, warmup, window, arrivals_ns } = trial;
    load.warmup = warmup.len() as u64;
    load.source = Box::new(match load.pacing {
        Pacing::Open { .. } => Prepared::open(warmup, window, &arrivals_ns),
        _ => Prepared::new(warmup, window),
    });
    run_load_sorted(load, control)
}

fn run_load_sorted(load: LoadSpec, control: &LoadControl) -> Ran {
    let mut records = MemoryRecords::default();
    let outcome = run_load(load, &mut records, control).unwrap();
    records.sort();
    let MemoryRecords { requests, events, outputs } = records;
    assert_eq!(outcome.recorded, requests.len() as u64);
    Ran { outcome, requests, events, outputs }
}

fn codes_of(outcome: &Ran) -> BTreeMap<String, usize> {
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
    let server = Server::start(|exchange| exchange.answer(3, 60));
    let start = Spread::Over { ns: 80 * MS };
    let pacing = Pacing::Closed { concurrency: 4, start, think: None };
    let outcome = run(spec(&server, 4, pacing, Stop::AllRequests));
    assert_eq!(outcome.spread_ns, Some(80 * MS));
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
    assert_eq!(outcome.is_satisfied, Some(length < 8 * SECOND));
    assert!(codes_of(&outcome).keys().all(|code| code == "ok"));
}

#[test]
fn open_loop_follows_its_schedule() {
    let server = Server::start(|exchange| exchange.answer(3, 2));
    let arrivals_ns = schedule(&Arrival::Poisson, 400.0, Extent::Count(120), 9).unwrap();
    for threads in [1, 2] {
        let mut spec = open(&server, &arrivals_ns, None, Stop::AllRequests);
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
    let arrivals_ns: Vec<i64> = (0..10).map(|i| i * 10 * MS).collect();
    let outcome = run(open(&server, &arrivals_ns, Some(1), Stop::AllRequests));
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
    let outcome = run(open(&server, &[0, MS, 2 * MS, 900 * MS], Some(1), Stop::Duration { ns: 20 * MS }));
    assert_eq!(codes_of(&outcome), counts(&[("ok", 1), (codes::CENSORED, 2)]), "the fourth lies after the window");
    assert!(outcome.requests[2].t_slot.is_none() && outcome.requests[2].t_send.is_none());
    assert!(outcome.requests[2].t_done.is_none(), "what never began has no end");
    assert_eq!(outcome.window_end_ns - outcome.window_start_ns, 20 * MS);
}

#[test]
fn an_open_window_lasts_its_whole_time() {
    let server = Server::start(|exchange| exchange.answer(3, 0));
    let outcome = run(open(&server, &[0], None, Stop::Duration { ns: 150 * MS }));
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
        let run = scope.spawn(|| run_with(spec, &control));
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
    let outcome = run(spec);
    let texts: Vec<&str> = outcome.outputs.iter().map(|output| output.text.as_str()).collect();
    assert_eq!(texts, ["ein zwei drei"; 2]);
}

#[test]
fn a_connection_that_the_server_closed_while_idle_is_replaced() {
    let server = Server::start(|exchange| {
        exchange.answer(3, 0);
        After::Close
    });
    let outcome = run(open(&server, &[0, 80 * MS, 160 * MS], Some(1), Stop::AllRequests));
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

#[test]
fn the_first_request_shows_over_what_time_to_spread_the_others() {
    for threads in [1, 2] {
        let server = Server::start(|exchange| exchange.answer(3, 20));
        let pacing = Pacing::Closed { concurrency: 8, start: Spread::OneRequest, think: None };
        let mut spec = spec(&server, 30, pacing, Stop::AllRequests);
        spec.threads = threads;
        spec.warmup = requests(100, 1, 0);
        let outcome = run(spec);
        assert_eq!(codes_of(&outcome), counts(&[("ok", 31)]));
        let pilot = &outcome.requests[0];
        assert_eq!(pilot.phase, Phase::Warmup);
        let lasted = pilot.t_done.unwrap() - pilot.t_sched;
        assert_eq!(outcome.spread_ns, Some(lasted));
        let mut slots: Vec<i64> = outcome.requests[1..].iter().map(|record| record.t_sched).collect();
        slots.sort_unstable();
        assert!(slots[0] >= pilot.t_done.unwrap(), "the pilot is alone");
        // Later slots may be freed before the last of the first eight is due: look at the first half.
        for slot in 0..4 {
            assert_eq!(slots[slot] - slots[0], lasted * slot as i64 / 8, "slot {slot}, {threads} threads");
        }
    }
}

#[test]
fn slots_pause_between_requests() {
    let server = Server::start(|exchange| exchange.answer(3, 0));
    let pacing = Pacing::Closed {
        concurrency: 2,
        start: Spread::Burst,
        think: Some(Pauses { think: Think::Constant(0.03), seed: 1 }),
    };
    let outcome = run(spec(&server, 10, pacing, Stop::AllRequests));
    assert_eq!(codes_of(&outcome), counts(&[("ok", 10)]));
    for record in outcome.requests.iter().skip(2) {
        let before = outcome.requests.iter().filter(|earlier| earlier.t_done.unwrap() + 30 * MS <= record.t_sched);
        assert!(before.count() as i64 >= record.request_idx - 1, "{record:?}");
    }
}

#[test]
fn the_canary_sings() {
    let server = Server::start(|exchange| exchange.answer(3, 60));
    let mut spec = spec(&server, 4, closed(2), Stop::AllRequests);
    spec.canary = true;
    let canary = run(spec).outcome.canary.unwrap();
    assert!(!canary.ttft_ns.is_empty() && canary.itl_ns.len() > 5, "{canary:?}");
    assert!(canary.receive_ns.iter().all(|error| *error >= 0), "nothing is seen before it is written");
}

#[test]
fn a_common_start_is_kept_even_when_it_has_passed() {
    let server = Server::start(|exchange| exchange.answer(3, 0));
    let mut trial = open(&server, &[0, 5 * MS, 400 * MS], None, Stop::AllRequests);
    let epoch = trial.clock;
    let (told_tx, told_rx) = std::sync::mpsc::channel();
    trial.start = Some(Box::new(move || {
        let start_ns = clock::now_ns(epoch) - 100 * MS;
        told_tx.send(start_ns).map_err(|error| error.to_string())?;
        Ok(start_ns)
    }));
    let ran = run(trial);
    let start_ns = told_rx.recv().unwrap();
    let scheduled: Vec<i64> = ran.requests.iter().map(|request| request.t_sched - start_ns).collect();
    assert_eq!((ran.window_start_ns, scheduled), (start_ns, vec![0, 5 * MS, 400 * MS]));
    let late = |at: usize| ran.requests[at].t_send.unwrap() - ran.requests[at].t_sched;
    assert!(late(0) >= 100 * MS && late(1) >= 95 * MS, "sent late, and it shows");

    let mut trial = open(&server, &[0], None, Stop::AllRequests);
    trial.start = Some(Box::new(|| Err("shard 3 is not there".to_owned())));
    let Trial { mut load, window, .. } = trial;
    load.source = Box::new(Prepared::open(Vec::new(), window, &[0]));
    let error = run_load(load, &mut MemoryRecords::default(), &LoadControl::new()).unwrap_err();
    assert_eq!(error.to_string(), "shard 3 is not there");
}
