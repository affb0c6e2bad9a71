//! Scripted stamps with known answers, and properties that hold for any stamps.

use std::slice::from_ref;

use proptest::prelude::*;

use super::*;
use crate::record::{ClockEpoch, EventRecord, Phase, RequestRecord, TokenSource};
use crate::result::{BenchResult, Quantiles};

const MS: i64 = 1_000_000;

fn input<'a>(requests: &'a [RequestRecord], events: &'a [EventRecord], end_ms: i64) -> MetricsInput<'a> {
    MetricsInput {
        clock: ClockEpoch { epoch_monotonic_ns: 1, epoch_unix_ns: 2 },
        records: Box::new(RecordSlices::new(requests, events)),
        prom: &[],
        window_start_ns: 0,
        window_end_ns: end_ms * MS,
        slo: None,
        closed_loop_slots: None,
        client: ClientUsage::default(),
    }
}

/// A success whose token events are at `events_ms` (instant, tokens).
fn success(idx: i64, sched_ms: i64, send_ms: i64, events_ms: &[(i64, i32)]) -> (RequestRecord, Vec<EventRecord>) {
    let mut request = RequestRecord::scheduled(idx, Phase::Window, sched_ms * MS);
    let tokens: i32 = events_ms.iter().map(|(_, n)| n).sum();
    request.t_send = Some(send_ms * MS);
    request.t_first = events_ms.first().map(|(t, _)| t * MS);
    request.t_out = request.t_first;
    request.t_last = events_ms.last().map(|(t, _)| t * MS);
    request.t_done = request.t_last;
    request.n_first = events_ms.first().map(|(_, n)| i64::from(*n));
    request.input_tokens = Some(7);
    request.output_tokens = Some(i64::from(tokens));
    request.token_source = Some(TokenSource::ServerUsage);
    request.http_status = Some(200);
    let events = events_ms.iter().map(|(t, n)| EventRecord { request_idx: idx, t_ns: t * MS, n_tokens: *n }).collect();
    (request, events)
}

fn failed(idx: i64, sched_ms: i64, code: &str) -> RequestRecord {
    let mut request = RequestRecord::scheduled(idx, Phase::Window, sched_ms * MS);
    request.t_send = Some(sched_ms * MS);
    request.failure_code = Some(code.to_owned());
    request
}

/// Request 0: sched 10, send 12, tokens 1@112, 2@142, 1@152. Request 1: one token of its own.
fn scripted() -> (Vec<RequestRecord>, Vec<EventRecord>) {
    let (mut a, mut events) = success(0, 10, 12, &[(112, 1), (142, 2), (152, 1)]);
    a.t_out = Some(142 * MS);
    let (b, more) = success(1, 20, 20, &[(220, 1)]);
    events.extend(more);
    (vec![a, b, failed(2, 30, "http_500"), failed(3, 40, CODE_CENSORED)], events)
}

fn close(got: Option<f64>, expected: f64) {
    let got = got.unwrap();
    assert!((got - expected).abs() < 1e-6, "{got} != {expected}");
}

#[test]
fn every_latency_to_the_nanosecond() {
    let (requests, events) = scripted();
    let latency = summarise(&input(&requests, &events, 1_000)).latency_ms;
    let check = |name: &str, got: &Quantiles, n: u64, mean: f64, max: f64| {
        assert_eq!(got.n, n, "{name}");
        assert!((got.mean.unwrap() - mean).abs() < 1e-6, "{name}: mean {:?}, not {mean}", got.mean);
        assert!((got.max.unwrap() - max).abs() < 1e-6, "{name}: max {:?}, not {max}", got.max);
    };
    check("ttft", &latency.ttft, 2, 150.0, 200.0);
    check("ttft_sched", &latency.ttft_sched, 2, 151.0, 200.0);
    check("ttfo", &latency.ttfo, 2, 165.0, 200.0);
    check("icl", &latency.icl, 2, 20.0, 30.0);
    check("itl", &latency.itl, 3, 40.0 / 3.0, 15.0);
    check("tpot", &latency.tpot, 1, 40.0 / 3.0, 40.0 / 3.0);
    check("tpot_vllm", &latency.tpot_vllm, 1, 40.0 / 3.0, 40.0 / 3.0);
    check("e2e", &latency.e2e, 2, 170.0, 200.0);
    check("e2e_sched", &latency.e2e_sched, 2, 171.0, 200.0);
    assert_eq!(latency.ttft.ci95.p50, None, "two samples carry no interval");
}

#[test]
fn one_nanosecond_is_not_lost() {
    let (mut request, _) = success(0, 0, 0, &[(1, 1)]);
    request.t_first = Some(1_000_000_001);
    request.t_send = Some(1_000_000_000);
    assert_eq!(RequestTimes::of(&request).ttft_ns, Some(1));
}

#[test]
fn tpot_is_undefined_when_everything_came_at_once() {
    let (request, _) = success(0, 0, 0, &[(5, 4)]);
    let times = RequestTimes::of(&request);
    assert_eq!(times.tpot_ns, None);
    assert_eq!(times.tpot_vllm_ns, Some(0.0), "vLLM's definition says zero here, which is why both are kept");
    let (single, _) = success(0, 0, 0, &[(5, 1)]);
    assert_eq!(RequestTimes::of(&single).tpot_vllm_ns, None);
}

#[test]
fn counts_failures_and_provenance() {
    let (mut requests, events) = scripted();
    requests.push(RequestRecord::scheduled(9, Phase::Warmup, 0));
    requests.push(RequestRecord::scheduled(4, Phase::Window, 50 * MS));
    let (mut empty, _) = success(5, 60, 60, &[(70, 1)]);
    (empty.output_tokens, empty.t_first, empty.t_last) = (Some(0), None, None);
    assert!(is_zero_token_success(&empty));
    requests.push(empty);
    let result = summarise(&input(&requests, &events, 1_000));
    let counts = result.requests;
    assert_eq!((counts.scheduled, counts.sent), (6, 5));
    assert_eq!((counts.completed, counts.failed, counts.censored), (2, 2, 2));
    assert_eq!(result.failures, [("http_500".to_owned(), 1), ("zero_tokens".to_owned(), 1)].into());
    assert_eq!((result.input_tokens, result.output_tokens), (14, 5));
    assert_eq!(result.token_source, [("server_usage".to_owned(), 2)].into());
    assert!(!result.verdict.ok, "numbers nobody has judged are not ok");
}

#[test]
fn throughput_counts_events_inside_the_window_only() {
    let (mut a, mut events) = success(0, 10, 12, &[(112, 1), (142, 2), (152, 1)]);
    a.phase = Phase::Warmup;
    let (b, more) = success(1, 20, 20, &[(220, 1)]);
    events.extend(more);
    let requests = [a, b];
    let mut window = input(&requests, &events, 200);
    window.window_start_ns = 112 * MS;
    let result = summarise(&window);
    close(Some(result.throughput.output_tokens_per_s), 3.0 / 0.088);
    close(Some(result.throughput.requests_per_s), 1.0 / 0.088);
    close(Some(result.duration_s), 0.088);
    assert_eq!(result.requests.scheduled, 1, "a warm-up request gives tokens, never a count");
    window.window_end_ns = 220 * MS;
    close(Some(summarise(&window).throughput.output_tokens_per_s), 4.0 / 0.108);
}

/// 10 events at 10, 20, …, 100 ms for 40 reported tokens: the server merged.
fn merged(idx: i64) -> (RequestRecord, Vec<EventRecord>) {
    let stamps: Vec<(i64, i32)> = (1..=10).map(|k| (10 * k, 1)).collect();
    let (mut request, events) = success(idx, 0, 0, &stamps);
    request.output_tokens = Some(40);
    request.event_token_source = Some(TokenSource::EventCount);
    (request, events)
}

#[test]
fn throughput_counts_the_tokens_that_the_server_reported() {
    let check = |requests: &[RequestRecord], events: &[EventRecord], end_ms: i64, tokens: f64| {
        let result = summarise(&input(requests, events, end_ms));
        close(Some(result.throughput.output_tokens_per_s), tokens / (end_ms as f64 / 1e3));
    };
    let (request, events) = merged(0);
    check(from_ref(&request), &events, 100, 40.0);
    check(from_ref(&request), &events, 50, 20.0);
    let latency = summarise(&input(from_ref(&request), &events, 100)).latency_ms;
    assert_eq!(latency.itl.n, 9, "gaps keep the tokens of their events");
    close(latency.tpot.mean, 90.0 / 39.0);

    let unknown = RequestRecord { event_token_source: None, ..request.clone() };
    check(&[unknown], &events, 50, 20.0);
    // Counts by the server itself are not scaled; the disagreement is the verdict's business.
    let counted = RequestRecord { event_token_source: Some(TokenSource::ServerTokenIds), ..request.clone() };
    check(&[counted], &events, 50, 5.0);
    let fewer = RequestRecord { output_tokens: Some(5), ..request.clone() };
    check(&[fewer], &events, 100, 10.0);
    let cut_off = RequestRecord { output_tokens: None, failure_code: Some("x".into()), ..request.clone() };
    check(&[cut_off], &events, 100, 10.0);

    // A request whose events are missing is spread like all are without events.
    let (second, _) = merged(1);
    check(&[request, second], &events, 100, 80.0);
}

#[test]
fn a_failure_is_in_flight_until_it_ended() {
    let mut timed_out = failed(0, 100, "request_timeout");
    timed_out.t_done = Some(600 * MS);
    let mut censored = failed(1, 0, CODE_CENSORED);
    censored.t_done = Some(800 * MS);
    for request in [&timed_out, &censored] {
        assert!(!matches!(outcome(request), Outcome::Completed), "an end is no success");
    }
    assert_eq!(in_flight_interval(&timed_out), Some((100 * MS, 600 * MS)));
    assert_eq!(in_flight_interval(&censored), Some((0, 800 * MS)));
    let result = summarise(&input(&[timed_out, censored], &[], 1_000));
    close(Some(result.concurrency.mean), 1.3);
    assert_eq!((result.requests.failed, result.requests.censored, result.requests.completed), (1, 1, 0));
    close(Some(result.throughput.requests_per_s), 0.0);
}

#[test]
fn throughput_without_events_spreads_tokens_evenly() {
    let (request, _) = success(0, 0, 0, &[(100, 1), (300, 10)]);
    let requests = [request];
    let result = summarise(&input(&requests, &[], 200));
    close(Some(result.throughput.output_tokens_per_s), (1.0 + 5.0) / 0.2);
    assert_eq!(result.latency_ms.itl.n, 0);
}

#[test]
fn concurrency_is_the_exact_integral() {
    let (a, _) = success(0, 0, 100, &[(300, 1)]);
    let (mut b, _) = success(1, 0, 200, &[(250, 1)]);
    b.t_done = Some(400 * MS);
    let censored = failed(2, 900, CODE_CENSORED);
    let requests = [a, b, censored];
    let result = summarise(&input(&requests, &[], 1_000));
    close(Some(result.concurrency.mean), (200.0 + 200.0 + 100.0) / 1_000.0);
    assert_eq!(result.concurrency.max, 2);
    assert_eq!(InFlight::of(&requests).over(5, 5).max, 0);
}

#[test]
fn back_to_back_requests_never_overlap() {
    let (a, _) = success(0, 0, 0, &[(100, 1)]);
    let (b, _) = success(1, 100, 100, &[(200, 1)]);
    assert_eq!(InFlight::of(&[a, b]).over(0, 200 * MS).max, 1);
}

#[test]
fn goodput_needs_every_limit_and_counts_failures_against() {
    let (requests, events) = scripted();
    let check = |slo: RequestSlo, met: u64| {
        let mut with_slo = input(&requests, &events, 1_000);
        with_slo.slo = Some(slo);
        assert_eq!(attainment(&with_slo), Some(Attainment { met, scheduled: 3, censored: 1 }), "{slo:?}");
        close(summarise(&with_slo).goodput_requests_per_s, met as f64);
    };
    let none = RequestSlo::default();
    check(none, 2);
    check(RequestSlo { ttft_ms: Some(100.0), ..none }, 1);
    check(RequestSlo { ttft_ms: Some(99.9), ..none }, 0);
    check(RequestSlo { tpot_ms: Some(13.0), ..none }, 1);
    check(RequestSlo { itl_ms: Some(15.0), ..none }, 2);
    check(RequestSlo { itl_ms: Some(14.9), ..none }, 1);
    check(RequestSlo { e2e_ms: Some(150.0), ..none }, 1);
    assert_eq!(summarise(&input(&requests, &events, 1_000)).goodput_requests_per_s, None);
}

#[test]
fn lateness_blames_neither_the_slot_nor_the_network_on_the_client() {
    let (mut request, _) = success(0, 100, 190, &[(300, 1)]);
    request.t_slot = Some(150 * MS);
    request.t_conn0 = Some(152 * MS);
    request.t_conn1 = Some(187 * MS);
    let queue = ClientQueue::of(&request).unwrap();
    assert_eq!(queue, ClientQueue { slot_wait_ns: 50 * MS, connect_ns: 35 * MS, lateness_ns: 5 * MS });
    let requests = [request];
    close(summarise(&input(&requests, &[], 1_000)).client.lateness_ms.max, 5.0);
    assert_eq!(ClientQueue::of(&RequestRecord::scheduled(0, Phase::Window, 0)), None);
}

/// `slots` slots, each busy with back-to-back requests of 100 ms for `rounds` rounds, 1 ms between them.
fn closed_loop(slots: i64, rounds: i64, pause_ms: i64) -> Vec<RequestRecord> {
    let request = |slot: i64, round: i64| {
        let send = slot * 10 + round * (100 + pause_ms);
        success(slot * 1_000 + round, send, send, &[(send + 50, 1), (send + 100, 1)]).0
    };
    (0..slots).flat_map(|slot| (0..rounds).map(move |round| request(slot, round))).collect()
}

#[test]
fn steady_is_where_all_slots_are_busy() {
    let requests = closed_loop(3, 10, 1);
    let mut window = input(&requests, &[], 1_100);
    let open = summarise(&window).steady.unwrap();
    assert!(open.start_s <= 0.1 && open.end_s == 1.1, "{open:?}");
    window.closed_loop_slots = Some(3);
    let steady = summarise(&window).steady.unwrap();
    close(Some(steady.start_s), 0.020);
    close(Some(steady.end_s), 9.0 * 0.101 + 0.100);
    assert_eq!(steady.n, 28);
    window.closed_loop_slots = Some(4);
    assert_eq!(summarise(&window).steady, None, "the fourth slot was never busy");
    let idle = closed_loop(1, 10, 50);
    let mut window = input(&idle, &[], 1_500);
    window.closed_loop_slots = Some(1);
    assert_eq!(summarise(&window).steady, None, "a third of the time the slot was idle");
}

#[test]
fn smoothness_sees_stalls() {
    let (requests, events) = scripted();
    let got = smoothness(&RecordSlices::new(&requests, &events), 25.0);
    assert_eq!((got.max_gap_ms.max, got.stall_share), (Some(30.0), Some(0.5)));
    assert_eq!(smoothness(&RecordSlices::new(&[], &[]), 25.0).stall_share, None);
}

#[test]
fn an_empty_window_is_no_number_not_a_crash() {
    let result = summarise(&input(&[], &[], 0));
    assert_eq!(result.throughput, crate::result::Throughput::default());
    assert_eq!(result.latency_ms.ttft.mean, None);
    let json = serde_json::to_string(&result).unwrap();
    assert_eq!(serde_json::from_str::<BenchResult>(&json).unwrap(), result);
}

#[test]
fn every_latency_has_its_definition() {
    let page = metrics_markdown();
    let value = serde_json::to_value(crate::result::Latencies::default()).unwrap();
    for name in value.as_object().unwrap().keys() {
        assert!(page.contains(&format!("`{name}`")), "no definition of {name}");
    }
    let columns = |line: &str| line.replace("\\|", "").matches('|').count();
    assert!(page.lines().filter(|line| line.starts_with('|')).all(|line| columns(line) == 5));
}

proptest! {
    #[test]
    fn gaps_add_up_and_percentiles_are_ordered(
        streams in prop::collection::vec((0..1_000_i64, prop::collection::vec((0..100_i64, 1..5_i32), 1..20)), 1..20),
    ) {
        let (mut requests, mut events, mut decode_ms, mut tokens) = (Vec::new(), Vec::new(), 0.0, 0);
        for (idx, (send, gaps)) in streams.iter().enumerate() {
            let mut t = *send;
            let stamps: Vec<(i64, i32)> = gaps.iter().map(|(gap, n)| { t += gap; (t, *n) }).collect();
            let (request, more) = success(idx as i64, *send, *send, &stamps);
            decode_ms += (stamps[stamps.len() - 1].0 - stamps[0].0) as f64;
            tokens += stamps.iter().skip(1).map(|(_, n)| u64::from(n.unsigned_abs())).sum::<u64>();
            requests.push(request);
            events.extend(more);
        }
        // The order of the arrival log gives the same numbers as the order of the requests.
        events.sort_by_key(|event| event.t_ns);
        let result = summarise(&input(&requests, &events, 10_000));
        let itl = &result.latency_ms.itl;
        prop_assert_eq!(itl.n, tokens);
        prop_assert!((itl.mean.unwrap_or(0.0) * itl.n as f64 - decode_ms).abs() < 1e-3);
        let icl = &result.latency_ms.icl;
        prop_assert!((icl.mean.unwrap_or(0.0) * icl.n as f64 - decode_ms).abs() < 1e-3);
        for q in [itl, icl, &result.latency_ms.ttft, &result.latency_ms.e2e] {
            let ordered = [q.p50, q.p90, q.p95, q.p99, q.max];
            prop_assert!(ordered.is_sorted());
        }
        let counts = result.requests;
        prop_assert_eq!(counts.scheduled, counts.completed + counts.failed + counts.censored);
        prop_assert!(result.concurrency.mean <= result.concurrency.max as f64 + 1e-9);
    }

    #[test]
    fn any_stamps_give_numbers_not_panics(stamps in prop::collection::vec((any::<i64>(), prop::option::of(any::<i64>()), prop::option::of(any::<i64>()), any::<i32>(), any::<bool>()), 0..30), start in any::<i64>(), length in any::<i64>()) {
        let requests: Vec<RequestRecord> = stamps.iter().enumerate().map(|(idx, (sched, send, last, n, ok))| {
            let mut request = RequestRecord::scheduled(idx as i64, Phase::Window, *sched);
            (request.t_send, request.t_first, request.t_last, request.t_done) = (*send, *send, *last, *last);
            (request.output_tokens, request.n_first) = (Some(i64::from(*n)), Some(1));
            request.failure_code = (!ok).then(|| "x".to_owned());
            request
        }).collect();
        let events: Vec<EventRecord> = stamps.iter().enumerate().map(|(idx, (t, _, _, n, _))| EventRecord { request_idx: idx as i64 / 3, t_ns: *t, n_tokens: *n }).collect();
        let mut any_input = input(&requests, &events, 0);
        (any_input.window_start_ns, any_input.window_end_ns) = (start, start.saturating_add(length));
        any_input.slo = Some(RequestSlo { itl_ms: Some(1.0), ..RequestSlo::default() });
        any_input.closed_loop_slots = Some(1);
        let counts = summarise(&any_input).requests;
        prop_assert_eq!(counts.scheduled, requests.len() as u64);
        prop_assert_eq!(counts.scheduled, counts.completed + counts.failed + counts.censored);
    }
}
