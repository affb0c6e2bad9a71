//! Each rule with evidence that triggers it and evidence that must not.

use super::*;
use crate::metrics::{ClientUsage, KvTransfer, MetricsInput, RecordSlices, summarise};
use crate::plan::Load;
use crate::precision::{PrecisionMetric, PrecisionReport};
use crate::record::{ClockEpoch, EventRecord, Phase, PromSample, RequestRecord, TokenSource};
use crate::result::{BenchResult, Quantiles, ServerSummary};
use crate::shard::{OffsetMethod, ShardMember, ShardSummary};

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

fn input<'a>(requests: &'a [RequestRecord], events: &'a [EventRecord]) -> MetricsInput<'a> {
    MetricsInput {
        clock: ClockEpoch { epoch_monotonic_ns: 0, epoch_unix_ns: 0 },
        records: Box::new(RecordSlices::new(requests, events)),
        prom: &[],
        window_start_ns: 0,
        window_end_ns: 10_000 * MS,
        slo: None,
        closed_loop_slots: None,
        client: ClientUsage { cpu_s: 1.0, threads: 1, ..ClientUsage::default() },
    }
}

fn summed(requests: &[RequestRecord], events: &[EventRecord]) -> (BenchResult, RequestEvidence) {
    let input = input(requests, events);
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
    evidence.requests.server = Some(ServerShare {
        covered: 1.0,
        scrapes_inside: 10,
        requests_at_most: 400,
        tokens_at_least: 780,
        tokens_at_most: 800,
    });
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
    let canary = |value: f64, n: u64| Quantiles { n, ..p99(value) };
    triggers("client_limited", Severity::Invalid, |r, _| r.client.lateness_ms = p99(10.1));
    silent(|r, _| r.client.lateness_ms = p99(9.9));
    silent(|r, _| {
        r.client.lateness_ms = p99(40.0);
        r.latency_ms.ttft_sched.p50 = Some(1_000.0);
    });
    triggers("client_limited", Severity::Invalid, |r, _| r.client.cpu_s = 9.5);
    silent(|r, _| (r.client.cpu_s, r.client.threads) = (9.5, 2));
    triggers("client_limited", Severity::Invalid, |r, _| r.client.canary_itl_error_ms = Some(canary(6.0, 100)));
    silent(|r, _| r.client.canary_ttft_error_ms = Some(canary(1.0, 100)));
    silent(|r, _| r.client.canary_itl_error_ms = Some(canary(60.0, 99)));
    triggers("client_limited", Severity::Invalid, |r, _| r.client.cpu_share = Some(0.95));
    silent(|r, _| (r.client.cpu_s, r.client.cpu_share) = (9.5, Some(0.5)));
}

#[test]
fn saturated_when_the_queue_grows() {
    let open = open();
    // Service takes longer and longer, as behind a queue that grows with every arrival.
    let (requests, events) = records(|k| 100 + 20 * k);
    let (result, found) = summed(&requests, &events);
    let verdict = judge(&CellEvidence::new(&result, &open, found.clone()));
    assert_eq!(has(&verdict, "saturated"), Some(Severity::Invalid), "{verdict:?}");
    let closed = Load::closed(8);
    assert_eq!(has(&judge(&CellEvidence::new(&result, &closed, found)), "saturated"), None);
    // Slow but stable: three seconds each, no growth; the tail past the window is no saturation.
    let (requests, events) = records(|_| 2_000);
    let (result, found) = summed(&requests, &events);
    let verdict = judge(&CellEvidence::new(&result, &open, found));
    assert_eq!(has(&verdict, "saturated"), None, "{verdict:?}");
    let lagging = |arrived, completed| Backlog {
        shortfall: Some(Shortfall { arrived, completed, expected: 1.0, noise: 2.0 }),
        ..Backlog::default()
    };
    triggers("saturated", Severity::Invalid, |_, e| e.requests.backlog = lagging(400, 372));
    silent(|_, e| e.requests.backlog = lagging(400, 374));
    silent(|_, e| e.requests.backlog = lagging(19, 0));
    let growing = |slope, slope_error, n| {
        let growth = Growth { slope, slope_error, rise_ms: 1_000.0, n };
        [
            Backlog { ttft_sched: Some(growth), ..Backlog::default() },
            Backlog { e2e_sched: Some(growth), ..Backlog::default() },
        ]
    };
    for backlog in growing(0.12, 0.03, 100) {
        triggers("saturated", Severity::Invalid, |_, e| e.requests.backlog = backlog);
    }
    for backlog in [growing(0.12, 0.05, 100), growing(0.10, 0.01, 100), growing(5.0, 0.1, 19)].into_iter().flatten() {
        silent(|_, e| e.requests.backlog = backlog);
    }
}

#[test]
fn metrics_missing() {
    triggers("metrics_missing", Severity::Invalid, |r, e| (r.server, e.requests.server) = (None, None));
    triggers("metrics_missing", Severity::Invalid, |r, e| {
        (r.server, e.requests.server) = (Some(ServerSummary::default()), None);
    });
    silent(|r, e| {
        (r.server, e.requests.server) = (None, None);
        e.metrics_expected = false;
    });
}

#[test]
fn metrics_partial() {
    let share = |e: &mut CellEvidence<'_>, covered, scrapes_inside| {
        e.requests.server = e.requests.server.map(|share| ServerShare { covered, scrapes_inside, ..share });
    };
    // A window shorter than the scrape interval, with scrapes just before and after it.
    triggers("metrics_partial", Severity::Warning, |r, e| {
        server(r).scrapes = 0;
        share(e, 1.0, 0);
        e.limits.push(FactorLimit { key: "max_num_seqs".into(), limit: 256.0, reached: Some(0.0) });
    });
    triggers("metrics_partial", Severity::Warning, |_, e| share(e, 0.5, 3));
    triggers("metrics_partial", Severity::Warning, |r, e| {
        server(r).scrapes = 1;
        e.requests.server = None;
    });
    silent(|_, e| share(e, 0.95, 1));
}

/// Scrapes at these instants, with counters as they are at a server that serves `records(|_| 100)` only.
fn scrapes(at_ms: &[i64]) -> Vec<PromSample> {
    let sample = |t_ms: i64, metric: &str, value: f64| PromSample {
        t_ns: t_ms * MS,
        node: "n0".into(),
        engine: "0".into(),
        metric: metric.into(),
        labels: String::new(),
        value,
    };
    let finished = |t_ms: i64| (0..400).filter(|k| k * 25 + 100 <= t_ms).count() as f64;
    let first_tokens = |t_ms: i64| (0..400).filter(|k| k * 25 + 50 <= t_ms).count() as f64;
    let page = |t_ms: &i64| {
        [
            sample(*t_ms, "vllm:request_success_total", finished(*t_ms)),
            sample(*t_ms, "vllm:generation_tokens_total", first_tokens(*t_ms) + finished(*t_ms)),
        ]
    };
    at_ms.iter().flat_map(page).collect()
}

#[test]
fn counters_are_compared_over_the_time_between_the_scrapes() {
    let (requests, events) = records(|_| 100);
    let open = open();
    let judge_window = |start_ms: i64, end_ms: i64, prom: &[PromSample]| {
        let mut input = input(&requests, &events);
        (input.window_start_ns, input.window_end_ns, input.prom) = (start_ms * MS, end_ms * MS, prom);
        input.client.cpu_s = 0.1;
        let result = summarise(&input);
        let found = RequestEvidence::collect(&input);
        let mut evidence = CellEvidence::new(&result, &open, found);
        evidence.metrics_expected = true;
        let codes: Vec<String> = judge(&evidence).reasons.into_iter().map(|reason| reason.code).collect();
        (codes, evidence.requests.server)
    };
    let none: [&str; 0] = [];
    assert_eq!(judge_window(0, 10_000, &scrapes(&[-10, 3_000, 6_000, 11_000])).0, none);
    let (codes, share) = judge_window(4_100, 4_600, &scrapes(&[3_000, 6_000]));
    assert_eq!(codes, ["metrics_partial"], "a short window between two scrapes is no reason for disbelief");
    let share = share.unwrap();
    // 120 requests arrive between the scrapes; those near an edge may fall on either side of it.
    assert!(share.tokens_at_least < 240 && 240 < share.tokens_at_most, "{share:?}");
    assert!(share.tokens_at_least > 200 && share.tokens_at_most < 280, "{share:?}");
    assert_eq!(judge_window(4_100, 4_600, &scrapes(&[3_000])).0, ["metrics_missing"]);
    assert_eq!(judge_window(4_100, 4_600, &scrapes(&[4_700])).0, ["metrics_missing"]);
    let mut busier = scrapes(&[3_000, 6_000]);
    for sample in busier.iter_mut().filter(|sample| sample.t_ns == 6_000 * MS) {
        sample.value += 100.0;
    }
    let (codes, _) = judge_window(4_100, 4_600, &busier);
    assert_eq!(codes, ["foreign_traffic", "token_count_mismatch", "metrics_partial"]);
    let mut lost = scrapes(&[-10, 11_000]);
    lost.retain(|sample| sample.metric.contains("generation"));
    lost[1].value = 700.0;
    assert_eq!(judge_window(0, 10_000, &lost).0, ["token_count_mismatch", "metrics_partial"]);
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
    let tokens = |counted, counted_difference, guessed, guessed_events, guessed_excess| TokenCounts {
        counted,
        counted_difference,
        guessed,
        guessed_events,
        guessed_excess,
    };
    triggers("token_count_mismatch", Severity::Invalid, |_, e| e.requests.tokens = tokens(1_000, 20, 0, 0, 0));
    silent(|_, e| e.requests.tokens = tokens(1_000, 10, 0, 0, 0));
    triggers("token_count_mismatch", Severity::Invalid, |_, e| e.requests.tokens = tokens(0, 0, 1_000, 1_020, 20));
    silent(|_, e| e.requests.tokens = tokens(0, 0, 1_000, 1_005, 5));
    silent(|_, e| e.requests.tokens = TokenCounts::default());
    for generated in [1_600.0, 400.0] {
        triggers("token_count_mismatch", Severity::Invalid, |r, _| server(r).generation_tokens = Some(generated));
    }
    silent(|r, e| {
        server(r).generation_tokens = Some(1_600.0);
        e.servers_per_request = 2;
    });
    silent(|r, _| server(r).generation_tokens = None);
}

#[test]
fn merged_events_are_normal() {
    let tokens = |guessed, guessed_events| TokenCounts { guessed, guessed_events, ..TokenCounts::default() };
    // As seen: the server put two or more tokens into some of its events.
    silent(|_, e| e.requests.tokens = tokens(2_245, 2_148));
    silent(|_, e| e.requests.tokens = tokens(1_000, 800));
    triggers("merged_events", Severity::Warning, |_, e| e.requests.tokens = tokens(1_000, 790));
}

#[test]
fn token_counts_are_told_apart_by_provenance() {
    let (mut requests, events) = records(|_| 100);
    let of = |requests: &[RequestRecord]| summed(requests, &events).1.tokens;
    assert_eq!(of(&requests), TokenCounts { guessed: 800, guessed_events: 800, ..TokenCounts::default() });
    // Two events each: one request more was reported for, two fewer; they must not make up for each other.
    (requests[0].output_tokens, requests[1].output_tokens) = (Some(3), Some(1));
    let guessed = TokenCounts { guessed: 800, guessed_events: 800, guessed_excess: 1, ..TokenCounts::default() };
    assert_eq!(of(&requests), guessed);
    for request in &mut requests {
        request.event_token_source = Some(TokenSource::ServerTokenIds);
    }
    assert_eq!(of(&requests), TokenCounts { counted: 800, counted_difference: 2, ..TokenCounts::default() });
    for request in &mut requests {
        request.token_source = Some(TokenSource::EventCount);
    }
    assert_eq!(of(&requests), TokenCounts::default(), "nothing independent to compare with");
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
    let closed = Load::closed(4);
    let verdict = judged(|_, _| {});
    assert_eq!(has(&verdict, "not_steady"), None);
    let (requests, events) = records(|_| 100);
    let (mut result, found) = summed(&requests, &events);
    result.steady = None;
    let verdict = judge(&CellEvidence::new(&result, &closed, found.clone()));
    assert_eq!(has(&verdict, "not_steady"), Some(Severity::Warning));
    // Slots that pause are not all busy, and nobody expects it.
    let mut evidence = CellEvidence::new(&result, &closed, found.clone());
    evidence.slots_pause = true;
    assert_eq!(has(&judge(&evidence), "not_steady"), None);
    let think_s = Some(crate::pacing::Think::Constant(1.0));
    let pausing = Load::Closed { concurrency: 4, think_s, start: None };
    assert_eq!(has(&judge(&CellEvidence::new(&result, &pausing, found.clone())), "not_steady"), None);
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
fn decode_only_workload() {
    let with = |prompt: u64, answer: u64| {
        move |r: &mut BenchResult, _: &mut CellEvidence<'_>| {
            let n = r.requests.completed;
            (r.input_tokens, r.output_tokens) = (n * prompt, n * answer);
        }
    };
    triggers("decode_only_workload", Severity::Warning, with(1, 250));
    triggers("decode_only_workload", Severity::Warning, with(2, 8));
    silent(with(3, 250));
    silent(with(1, 7));
    // Nobody counted prompts: nothing is known.
    silent(with(0, 250));
}

#[test]
fn every_threshold_is_documented() {
    let table = super::Thresholds::table();
    assert!(
        table.len() > 25
            && table.iter().all(|(name, value, words)| !name.is_empty() && !value.is_empty() && words.len() > 15)
    );
    assert!(table.iter().any(|(name, value, _)| (*name, value.as_str()) == ("advice_kv_full", "0.95")), "{table:?}");
}

#[test]
fn no_kv_transfer() {
    let with = |transfers: Option<f64>, hits: Option<f64>, failed: f64| {
        move |_: &mut BenchResult, e: &mut CellEvidence<'_>| {
            e.kv_transfer = Some(KvTransfer {
                transfers,
                external_hit_tokens: hits,
                failed: Some(failed),
                ..KvTransfer::default()
            });
        }
    };
    triggers("no_kv_transfer", Severity::Invalid, with(None, None, 0.0));
    triggers("no_kv_transfer", Severity::Invalid, with(Some(0.0), Some(0.0), 0.0));
    triggers("no_kv_transfer", Severity::Warning, with(Some(399.0), None, 3.0));
    triggers("no_kv_transfer", Severity::Warning, with(Some(100.0), None, 0.0));
    silent(with(Some(400.0), None, 0.0));
    // Two ranks count each transfer twice, and a connector without NIXL's counters shows only hits.
    silent(with(Some(800.0), Some(0.0), 0.0));
    silent(with(None, Some(5000.0), 0.0));
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

fn shards(missing: &[u32], interrupted: &[u32], uncertainty_ms: Option<f64>, start_skew_ms: f64) -> ShardSummary {
    let member = ShardMember {
        index: 1,
        host: "node1".to_owned(),
        requests: 10,
        clock_offset_ms: 3.0,
        clock_uncertainty_ms: uncertainty_ms,
        clock_method: OffsetMethod::PingPong,
        start_after_ms: start_skew_ms,
    };
    let (missing, interrupted) = (missing.to_vec(), interrupted.to_vec());
    ShardSummary { count: 2, missing, interrupted, start_skew_ms, members: vec![member] }
}

#[test]
fn shard_missing() {
    triggers("shard_missing", Severity::Invalid, |r, _| r.shards = Some(shards(&[0], &[], Some(0.1), 0.0)));
    triggers("shard_missing", Severity::Invalid, |r, _| r.shards = Some(shards(&[], &[1], Some(0.1), 0.0)));
    silent(|r, _| r.shards = Some(shards(&[], &[], Some(0.1), 1.0)));
}

#[test]
fn shard_clock() {
    triggers("shard_clock", Severity::Warning, |r, _| r.shards = Some(shards(&[], &[], None, 0.0)));
    triggers("shard_clock", Severity::Warning, |r, _| r.shards = Some(shards(&[], &[], Some(2.0), 0.0)));
    triggers("shard_clock", Severity::Warning, |r, _| r.shards = Some(shards(&[], &[], Some(0.1), 300.0)));
}

fn precision(is_reached: bool) -> Option<Vec<PrecisionReport>> {
    Some(vec![PrecisionReport {
        metric: PrecisionMetric::Ttft,
        wanted: 0.05,
        reached: Some(if is_reached { 0.04 } else { 0.08 }),
        mean: Some(50.0),
        observations: 500,
        batches: Some(40),
        is_reached,
    }])
}

#[test]
fn precision_not_reached() {
    triggers("precision_not_reached", Severity::Warning, |r, _| r.precision = precision(false));
    silent(|r, _| r.precision = precision(true));
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
