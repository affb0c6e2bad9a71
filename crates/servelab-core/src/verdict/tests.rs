//! Each rule with evidence that triggers it and evidence that must not.

use super::*;
use crate::metrics::{ClientUsage, MetricsInput, summarise};
use crate::plan::Load;
use crate::record::{ClockEpoch, EventRecord, Phase, RequestRecord, TokenSource};
use crate::result::{BenchResult, Quantiles, ServerSummary};

const MS: i64 = 1_000_000;

/// 400 requests, one every 25 ms; request k takes `latency_ms(k)`: the first token at half of it.
fn records(latency_ms: impl Fn(i64) -> i64) -> (Vec<RequestRecord>, Vec<EventRecord>) {
    let (mut requests, mut events) = (Vec::new(), Vec::new());
    for k in 0..400 {
        let mut request = RequestRecord::scheduled(k, Phase::Window, k * 25 * MS);
        let (send, last) = (request.t_sched, request.t_sched + latency_ms(k) * MS);
        request.t_send = Some(send);
        request.t_first = Some((send + last) / 2);
        (request.t_last, request.t_done) = (Some(last), Some(last));
        (request.output_tokens, request.n_first) = (Some(2), Some(1));
        request.requested_output_tokens = Some(2);
        request.token_source = Some(TokenSource::ServerUsage);
        request.http_status = Some(200);
        events.push(EventRecord { request_idx: k, t_ns: (send + last) / 2, n_tokens: 1 });
        events.push(EventRecord { request_idx: k, t_ns: last, n_tokens: 1 });
        requests.push(request);
    }
    (requests, events)
}

fn open() -> Load {
    Load::Open { rate_per_s: 40.0, arrival: "constant".into(), max_concurrency: None }
}

fn summed(requests: &[RequestRecord], events: &[EventRecord]) -> (BenchResult, RequestEvidence) {
    let input = MetricsInput {
        clock: ClockEpoch { epoch_monotonic_ns: 0, epoch_unix_ns: 0 },
        requests,
        events,
        prom: &[],
        window_start_ns: 0,
        window_end_ns: 10_000 * MS,
        slo: None,
        closed_loop_slots: None,
        client: ClientUsage { cpu_s: 1.0, threads: 1, ..ClientUsage::default() },
    };
    (summarise(&input), RequestEvidence::collect(&input))
}

/// Judges healthy evidence after `spoil` had its way with it.
fn judged(spoil: impl FnOnce(&mut BenchResult, &mut CellEvidence<'_>)) -> Verdict {
    let (requests, events) = records(|_| 100);
    let (mut result, found) = summed(&requests, &events);
    result.server = Some(ServerSummary {
        scrapes: 10,
        requests_finished: Some(398.0),
        generation_tokens: Some(796.0),
        preemptions: Some(0.0),
        prefix_hit_rate: Some(0.01),
        ..ServerSummary::default()
    });
    let (unspoilt, load) = (result.clone(), open());
    let mut evidence = CellEvidence::new(&unspoilt, &load, found);
    evidence.metrics_expected = true;
    evidence.expected_prefix_hit_rate = Some(0.0);
    spoil(&mut result, &mut evidence);
    let evidence = CellEvidence { result: &result, ..evidence };
    judge(&evidence)
}

fn has(verdict: &Verdict, code: &str) -> Option<Severity> {
    verdict.reasons.iter().find(|reason| reason.code == code).map(|reason| reason.severity)
}

/// `spoil` must give exactly this one reason.
fn triggers(code: &str, severity: Severity, spoil: impl FnOnce(&mut BenchResult, &mut CellEvidence<'_>)) {
    let verdict = judged(spoil);
    assert_eq!(has(&verdict, code), Some(severity), "{verdict:?}");
    assert_eq!(verdict.reasons.len(), 1, "{verdict:?}");
    assert_eq!(verdict.ok, severity == Severity::Warning);
    assert!(verdict_doc(code).is_some(), "{code} is not in the catalogue");
}

fn silent(spoil: impl FnOnce(&mut BenchResult, &mut CellEvidence<'_>)) {
    let verdict = judged(spoil);
    assert_eq!(verdict, Verdict { ok: true, reasons: vec![] });
}

#[test]
fn healthy_evidence_is_ok() {
    silent(|_, _| {});
}

#[test]
fn success_low() {
    triggers("success_low", Severity::Invalid, |r, _| r.requests.completed = 0);
    triggers("success_low", Severity::Invalid, |r, _| (r.requests.completed, r.requests.failed) = (370, 30));
    triggers("success_low", Severity::Warning, |r, _| (r.requests.completed, r.requests.failed) = (390, 10));
    triggers("success_low", Severity::Invalid, |r, e| {
        (r.requests.completed, r.requests.failed) = (390, 10);
        e.success_required = Some(0.98);
    });
    silent(|r, _| (r.requests.completed, r.requests.failed) = (399, 1));
    silent(|r, _| (r.requests.completed, r.requests.censored) = (200, 200));
}

#[test]
fn zero_token_successes() {
    triggers("zero_token_successes", Severity::Invalid, |_, e| e.requests.zero_token_successes = 1);
    let (mut requests, events) = records(|_| 100);
    (requests[7].output_tokens, requests[7].t_first, requests[7].t_last) = (Some(0), None, None);
    assert_eq!(summed(&requests, &events).1.zero_token_successes, 1);
    requests[7].failure_code = Some("http_500".into());
    assert_eq!(summed(&requests, &events).1.zero_token_successes, 0);
}

#[test]
fn client_limited() {
    let p99 = |value: f64| Quantiles { p99: Some(value), ..Quantiles::default() };
    triggers("client_limited", Severity::Invalid, |r, _| r.client.lateness_ms = p99(10.1));
    silent(|r, _| r.client.lateness_ms = p99(9.9));
    silent(|r, _| {
        r.client.lateness_ms = p99(40.0);
        r.latency_ms.ttft_sched.p50 = Some(1_000.0);
    });
    triggers("client_limited", Severity::Invalid, |r, _| r.client.cpu_s = 9.5);
    silent(|r, _| (r.client.cpu_s, r.client.threads) = (9.5, 2));
    triggers("client_limited", Severity::Invalid, |r, _| r.client.canary_itl_error_ms = Some(p99(6.0)));
    silent(|r, _| r.client.canary_ttft_error_ms = Some(p99(1.0)));
}

#[test]
fn saturated_when_the_queue_grows() {
    let open = open();
    // Service takes longer and longer, as behind a queue that grows with every arrival.
    let (requests, events) = records(|k| 100 + 20 * k);
    let (result, found) = summed(&requests, &events);
    let verdict = judge(&CellEvidence::new(&result, &open, found.clone()));
    assert_eq!(has(&verdict, "saturated"), Some(Severity::Invalid), "{verdict:?}");
    let closed = Load::Closed { concurrency: 8 };
    assert_eq!(has(&judge(&CellEvidence::new(&result, &closed, found)), "saturated"), None);
    // Slow but stable: three seconds each, no growth; the tail past the window is no saturation.
    let (requests, events) = records(|_| 2_000);
    let (result, found) = summed(&requests, &events);
    let verdict = judge(&CellEvidence::new(&result, &open, found));
    assert_eq!(has(&verdict, "saturated"), None, "{verdict:?}");
    triggers("saturated", Severity::Invalid, |r, _| r.throughput.requests_per_s = 30.0);
    triggers("saturated", Severity::Invalid, |_, e| {
        e.requests.in_flight = Some(Trend { middle: 10.0, last: 25.0, n: 99 })
    });
    silent(|_, e| e.requests.in_flight = Some(Trend { middle: 10.0, last: 25.0, n: 5 }));
    silent(|_, e| e.requests.in_flight = Some(Trend { middle: 1.0, last: 3.0, n: 99 }));
}

#[test]
fn metrics_missing() {
    triggers("metrics_missing", Severity::Invalid, |r, _| r.server = None);
    silent(|r, e| {
        r.server = None;
        e.metrics_expected = false;
    });
}

#[test]
fn effective_differs() {
    triggers("effective_differs", Severity::Invalid, |_, e| {
        e.effective_differs.push(EffectiveDifference {
            key: "max_num_seqs".into(),
            requested: "256".into(),
            effective: "128".into(),
        });
    });
}

#[test]
fn debug_logging() {
    triggers("debug_logging", Severity::Invalid, |_, e| e.debug_logging = true);
}

#[test]
fn early_stops() {
    triggers("early_stops", Severity::Invalid, |_, e| (e.ignore_eos, e.requests.early_stops) = (true, 5));
    triggers("early_stops", Severity::Warning, |_, e| (e.ignore_eos, e.requests.early_stops) = (true, 4));
    silent(|_, e| e.requests.early_stops = 100);
    let (mut requests, events) = records(|_| 100);
    requests[3].output_tokens = Some(1);
    requests[4].failure_code = Some("early_stop".into());
    assert_eq!(summed(&requests, &events).1.early_stops, 2);
}

#[test]
fn token_count_mismatch() {
    let counts = |server, events| TokenCounts { server_said: Some(server), events: Some(events) };
    triggers("token_count_mismatch", Severity::Invalid, |_, e| e.requests.tokens = counts(1_000, 980));
    silent(|_, e| e.requests.tokens = counts(1_000, 995));
    silent(|_, e| e.requests.tokens = TokenCounts { server_said: None, events: Some(3) });
    let generated = |r: &mut BenchResult, n: f64| {
        if let Some(server) = &mut r.server {
            (server.generation_tokens, server.scrapes) = (Some(n), 100);
        }
    };
    triggers("token_count_mismatch", Severity::Invalid, |r, _| generated(r, 1_600.0));
    silent(|r, e| {
        generated(r, 1_600.0);
        e.servers_per_request = 2;
    });
    let (requests, events) = records(|_| 100);
    assert_eq!(summed(&requests, &events).1.tokens, counts(800, 800));
}

fn server(result: &mut BenchResult) -> &mut ServerSummary {
    result.server.get_or_insert_default()
}

#[test]
fn preemptions() {
    triggers("preemptions", Severity::Warning, |r, _| server(r).preemptions = Some(3.0));
    silent(|r, _| server(r).preemptions = None);
}

#[test]
fn factor_not_exercised() {
    let limit = |reached| FactorLimit { key: "max_num_seqs".into(), limit: 256.0, reached };
    triggers("factor_not_exercised", Severity::Warning, |_, e| e.limits.push(limit(Some(12.0))));
    silent(|_, e| e.limits.push(limit(Some(256.0))));
    silent(|_, e| e.limits.push(limit(None)));
}

#[test]
fn not_steady() {
    let closed = Load::Closed { concurrency: 4 };
    let verdict = judged(|_, _| {});
    assert_eq!(has(&verdict, "not_steady"), None);
    let (requests, events) = records(|_| 100);
    let (mut result, found) = summed(&requests, &events);
    let verdict = judge(&CellEvidence::new(&result, &closed, found.clone()));
    assert_eq!(has(&verdict, "not_steady"), Some(Severity::Warning));
    result.steady = Some(crate::result::SteadyWindow {
        start_s: 1.0,
        end_s: 9.5,
        n: 300,
        throughput: crate::result::Throughput::default(),
        latency_ms: crate::result::Latencies::default(),
    });
    assert_eq!(has(&judge(&CellEvidence::new(&result, &closed, found)), "not_steady"), None);
}

#[test]
fn too_few_samples() {
    triggers("too_few_samples", Severity::Warning, |r, _| r.requests.completed = 99);
    silent(|r, _| r.requests.completed = 100);
}

#[test]
fn server_restarted() {
    triggers("server_restarted", Severity::Invalid, |_, e| e.server_resets = 1);
}

#[test]
fn foreign_traffic() {
    triggers("foreign_traffic", Severity::Invalid, |r, _| server(r).requests_finished = Some(600.0));
    silent(|r, _| server(r).requests_finished = Some(410.0));
    silent(|r, e| {
        server(r).requests_finished = Some(800.0);
        e.servers_per_request = 2;
    });
}

#[test]
fn prefix_cache_confounded() {
    triggers("prefix_cache_confounded", Severity::Invalid, |r, _| server(r).prefix_hit_rate = Some(0.2));
    silent(|r, e| {
        server(r).prefix_hit_rate = Some(0.52);
        e.expected_prefix_hit_rate = Some(0.5);
    });
    silent(|r, e| {
        server(r).prefix_hit_rate = Some(0.9);
        e.expected_prefix_hit_rate = None;
    });
}

#[test]
fn simulated() {
    triggers("simulated", Severity::Warning, |_, e| e.simulated = true);
}

#[test]
fn the_worst_reason_comes_first() {
    let verdict = judged(|r, e| {
        e.simulated = true;
        server(r).preemptions = Some(1.0);
        e.debug_logging = true;
    });
    let codes: Vec<&str> = verdict.reasons.iter().map(|reason| reason.code.as_str()).collect();
    assert_eq!(codes, ["debug_logging", "preemptions", "simulated"]);
    assert!(!verdict.ok);
}

#[test]
fn the_catalogue_has_each_code_once() {
    let mut codes: Vec<&str> = VERDICTS.iter().map(|doc| doc.code).collect();
    codes.sort_unstable();
    codes.dedup();
    assert_eq!(codes.len(), VERDICTS.len());
}
