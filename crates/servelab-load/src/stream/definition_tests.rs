//! Scripted answers with known stamps, read byte by byte as they would come, and every metric of the definitions worked
//! out by hand: to the microsecond, and where it is a difference of stamps to the nanosecond.

use std::collections::BTreeMap;

use servelab_core::metrics::{
    Attainment, ClientUsage, MetricsInput, RecordSlices, RequestSlo, attainment, event_counts_are_guesses, smoothness,
    summarise,
};
use servelab_core::record::{ClockEpoch, EventRecord, Phase, RequestRecord, TokenSource};
use servelab_core::result::{BenchResult, Quantiles};

use super::*;

const MS: i64 = 1_000_000;
const US: i64 = 1_000;

/// A request and what the server does, as (instant in µs, bytes).
struct Script {
    phase: Phase,
    sched_us: i64,
    slot_us: Option<i64>,
    connect_us: Option<(i64, i64)>,
    send_us: i64,
    expect: Expectation,
    reads: Vec<(i64, String)>,
    end: (i64, End),
}

/// A chunk with one event.
fn event(data: &str) -> String {
    let body = format!("data: {data}\n\n");
    format!("{:x}\r\n{body}\r\n", body.len())
}

const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

fn text(text: &str) -> String {
    event(&format!(r#"{{"choices":[{{"index":0,"delta":{{"content":"{text}"}},"finish_reason":null}}]}}"#))
}

fn ids(ids: &str) -> String {
    event(&format!(r#"{{"choices":[{{"index":0,"delta":{{"content":"x"}},"token_ids":{ids},"finish_reason":null}}]}}"#))
}

fn usage(prompt: i64, completion: i64, metrics: &str) -> String {
    event(&format!(
        r#"{{"choices":[],"usage":{{"prompt_tokens":{prompt},"completion_tokens":{completion}}}{metrics}}}"#
    ))
}

impl Script {
    fn new(sched_us: i64, send_us: i64, reads: Vec<(i64, String)>) -> Self {
        let last = reads.last().map_or(send_us, |(t, _)| *t);
        Self {
            phase: Phase::Window,
            sched_us,
            slot_us: None,
            connect_us: None,
            send_us,
            expect: Expectation::default(),
            reads,
            end: (last, End::Complete),
        }
    }

    /// What the load engine does with sockets, without them.
    fn play(&self, idx: i64, events: &mut Vec<EventRecord>) -> RequestRecord {
        let mut record = RequestRecord::scheduled(idx, self.phase, self.sched_us * US);
        record.t_slot = self.slot_us.map(|t| t * US);
        record.t_conn0 = self.connect_us.map(|(t, _)| t * US);
        record.t_conn1 = self.connect_us.map(|(_, t)| t * US);
        record.t_send = Some(self.send_us * US);
        record.requested_output_tokens = self.expect.requested_output_tokens;
        let mut reader = ResponseReader::new(false);
        for (t_us, bytes) in &self.reads {
            let t_ns = t_us * US;
            let mut push = |n_tokens| events.push(EventRecord { request_idx: idx, t_ns, n_tokens });
            // All bytes of a read have its stamp, however they are cut.
            for byte in bytes.as_bytes().chunks(1) {
                reader.feed(t_ns, byte, &mut push);
            }
        }
        reader.conclude(self.end.1, self.expect, &mut record);
        record.t_done.get_or_insert(self.end.0 * US);
        record
    }
}

/// Six requests over one second.
///
/// | | sched | slot | send | what happens (ms) |
/// |---|---|---|---|---|
/// | 0 | 10 | 13 | 20 | connect 14–18; role 50; reasoning 120.5; output 140.5, 150.5; usage 151 (4 tokens); done 152 |
/// | 1 | 100 | – | 100 | 2 tokens at 200, 3 at 230, 1 at 240, by token ids; usage 6; done 241 |
/// | 2 | 200 | – | 201 | one event with all of its 5 tokens at 301 |
/// | 3 | 300 | – | 300 | times out at 800 after one token at 400 |
/// | 4 | 400 | – | 400 | 200 with no token, done at 450 |
/// | 5 | 900 | – | 900 | cut off at 1000 by the end of the run |
fn script() -> Vec<Script> {
    let delta = |delta: &str| event(&format!(r#"{{"choices":[{{"index":0,"delta":{delta},"finish_reason":null}}]}}"#));
    let done = || event("[DONE]") + "0\r\n\r\n";
    let stop = || event(r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#);
    let times = r#","metrics":{"time_to_first_token_ms":90.0,"queue_time_ms":5.0,"generation_time_ms":30.0,"mean_itl_ms":10.0}"#;
    let mut first = Script::new(
        10_000,
        20_000,
        vec![
            (49_000, HEAD.to_owned()),
            (50_000, delta(r#"{"role":"assistant","content":""}"#)),
            (120_500, delta(r#"{"reasoning":"hm"}"#)),
            (140_500, text("a")),
            (150_500, text("b") + &stop()),
            (151_000, usage(7, 4, times)),
            (152_000, done()),
        ],
    );
    (first.slot_us, first.connect_us) = (Some(13_000), Some((14_000, 18_000)));
    let second = Script::new(
        100_000,
        100_000,
        vec![
            (199_000, HEAD.to_owned()),
            (200_000, ids("[1,2]")),
            (230_000, ids("[3,4,5]")),
            (240_000, ids("[6]") + &stop() + &usage(8, 6, "")),
            (241_000, done()),
        ],
    );
    let body = r#"{"choices":[{"index":0,"message":{"content":"whole"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":5}}"#;
    let whole = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let third = Script::new(200_000, 201_000, vec![(301_000, whole)]);
    let mut fourth = Script::new(300_000, 300_000, vec![(400_000, HEAD.to_owned() + &text("a"))]);
    fourth.end = (800_000, End::TimedOut);
    let fifth = Script::new(400_000, 400_000, vec![(450_000, HEAD.to_owned() + &stop() + &done())]);
    let mut sixth = Script::new(900_000, 900_000, vec![]);
    sixth.end = (1_000_000, End::Censored);
    vec![first, second, third, fourth, fifth, sixth]
}

fn played(scripts: &[Script]) -> (Vec<RequestRecord>, Vec<EventRecord>) {
    let mut events = Vec::new();
    let records = scripts.iter().enumerate().map(|(idx, script)| script.play(idx as i64, &mut events)).collect();
    (records, events)
}

fn input<'a>(requests: &'a [RequestRecord], events: &'a [EventRecord], slo: Option<RequestSlo>) -> MetricsInput<'a> {
    MetricsInput {
        clock: ClockEpoch { epoch_monotonic_ns: 0, epoch_unix_ns: 0 },
        records: Box::new(RecordSlices::new(requests, events)),
        prom: &[],
        window_start_ns: 0,
        window_end_ns: 1_000 * MS,
        slo,
        closed_loop_slots: None,
        client: ClientUsage::default(),
    }
}

fn result(slo: Option<RequestSlo>) -> BenchResult {
    let (requests, events) = played(&script());
    summarise(&input(&requests, &events, slo))
}

#[track_caller]
fn near(got: Option<f64>, expected_ms: f64) {
    let got = got.unwrap();
    assert!((got - expected_ms).abs() < 0.000_5, "{got} ms instead of {expected_ms} ms");
}

/// All samples of a distribution through its mean, extremes and median.
#[track_caller]
fn samples(got: &Quantiles, mut expected_ms: Vec<f64>) {
    expected_ms.sort_by(f64::total_cmp);
    let n = expected_ms.len();
    assert_eq!(got.n, n as u64);
    near(got.mean, expected_ms.iter().sum::<f64>() / n as f64);
    near(got.max, expected_ms[n - 1]);
    // numpy's type 7: position p·(n − 1), between neighbours by its fraction.
    for (p, got) in [(0.5, got.p50), (0.9, got.p90), (0.95, got.p95), (0.99, got.p99)] {
        let at = p * (n - 1) as f64;
        let (low, high) = (expected_ms[at.floor() as usize], expected_ms[at.ceil() as usize]);
        near(got, low + (high - low) * at.fract());
    }
}

#[test]
fn stamps_of_each_request_to_the_nanosecond() {
    let (requests, events) = played(&script());
    let ms = |stamp: Option<i64>| stamp.map(|t| t as f64 / 1e6);
    let stamps = |r: &RequestRecord| [r.t_hdr, r.t_first, r.t_out, r.t_last, r.t_usage, r.t_done].map(ms);
    let some = |stamps: [f64; 6]| stamps.map(Some);
    assert_eq!(stamps(&requests[0]), some([49.0, 120.5, 140.5, 150.5, 151.0, 152.0]));
    assert_eq!(stamps(&requests[1]), some([199.0, 200.0, 200.0, 240.0, 240.0, 241.0]));
    assert_eq!(stamps(&requests[2]), some([301.0, 301.0, 301.0, 301.0, 301.0, 301.0]));
    assert_eq!(stamps(&requests[3]), [Some(400.0), Some(400.0), Some(400.0), Some(400.0), None, Some(800.0)]);
    assert_eq!(stamps(&requests[4]), [Some(450.0), None, None, None, None, Some(450.0)]);
    assert_eq!(stamps(&requests[5]), [None, None, None, None, None, Some(1_000.0)]);
    let codes: Vec<Option<&str>> = requests.iter().map(|r| r.failure_code.as_deref()).collect();
    assert_eq!(codes, [None, None, None, Some("request_timeout"), Some("zero_tokens"), Some("censored")]);
    let counted: Vec<(i64, i32)> = events.iter().map(|event| (event.request_idx, event.n_tokens)).collect();
    assert_eq!(counted, [(0, 1), (0, 1), (0, 1), (1, 2), (1, 3), (1, 1), (2, 5), (3, 1)]);
}

#[test]
fn latencies_by_hand() {
    let latency = result(None).latency_ms;
    samples(&latency.ttft, vec![100.5, 100.0, 100.0]);
    samples(&latency.ttft_sched, vec![110.5, 100.0, 101.0]);
    samples(&latency.ttfo, vec![120.5, 100.0, 100.0]);
    samples(&latency.icl, vec![20.0, 10.0, 30.0, 10.0]);
    // Smoothed: the gap of 30 ms before three tokens is three times 10 ms.
    samples(&latency.itl, vec![20.0, 10.0, 10.0, 10.0, 10.0, 10.0]);
    // (150.5 − 120.5)/(4 − 1); (240 − 200)/(6 − 2); undefined, never zero, where all came at once.
    samples(&latency.tpot, vec![10.0, 10.0]);
    samples(&latency.tpot_vllm, vec![10.0, 8.0, 0.0]);
    samples(&latency.e2e, vec![130.5, 140.0, 100.0]);
    samples(&latency.e2e_sched, vec![140.5, 140.0, 101.0]);
}

#[test]
fn counts_and_provenance() {
    let (requests, _) = played(&script());
    let sources: Vec<_> = requests.iter().map(|r| (r.output_tokens, r.token_source, r.event_token_source)).collect();
    use TokenSource::{EventCount, ServerTokenIds, ServerUsage};
    assert_eq!(sources[0], (Some(4), Some(ServerUsage), Some(EventCount)), "usage says 4, the events are a guess of 3");
    assert_eq!(sources[1], (Some(6), Some(ServerUsage), Some(ServerTokenIds)));
    assert_eq!(sources[2], (Some(5), Some(ServerUsage), Some(ServerUsage)));
    assert_eq!(sources[3], (Some(1), Some(EventCount), Some(EventCount)));
    assert_eq!(sources[4], (None, None, None), "silence is not zero");
    assert!(event_counts_are_guesses(&requests[0]) && !event_counts_are_guesses(&requests[1]));

    let result = result(None);
    let counts = result.requests;
    assert_eq!((counts.scheduled, counts.sent, counts.completed, counts.failed, counts.censored), (6, 6, 3, 2, 1));
    assert_eq!(result.failures, BTreeMap::from([("request_timeout".into(), 1), ("zero_tokens".into(), 1)]));
    assert_eq!((result.input_tokens, result.output_tokens), (24, 15));
    assert_eq!(result.token_source, BTreeMap::from([("server_usage".into(), 3)]));
    // Tokens by their events inside the window: 4 (its 3 events weigh 4/3), 6, 5, and the one of the failure.
    near(Some(result.throughput.output_tokens_per_s), 16.0);
    near(Some(result.throughput.requests_per_s), 3.0);
}

#[test]
fn concurrency_is_the_integral_of_what_was_in_flight() {
    // 20–152, 100–241, 201–301, 300–800, 400–450, 900–1000.
    let concurrency = result(None).concurrency;
    near(Some(concurrency.mean), (132.0 + 141.0 + 100.0 + 500.0 + 50.0 + 100.0) / 1_000.0);
    assert_eq!(concurrency.max, 2);
}

#[test]
fn the_time_before_the_send_has_three_parts() {
    let client = result(None).client;
    samples(&client.slot_wait_ms, vec![3.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    samples(&client.connect_ms, vec![4.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    samples(&client.lateness_ms, vec![3.0, 0.0, 1.0, 0.0, 0.0, 0.0]);
}

#[test]
fn goodput_counts_everything_scheduled_and_not_cut_off() {
    let (requests, events) = played(&script());
    let check = |slo: RequestSlo, met: u64| {
        let input = input(&requests, &events, Some(slo));
        assert_eq!(attainment(&input), Some(Attainment { met, scheduled: 5, censored: 1 }), "{slo:?}");
        near(summarise(&input).goodput_requests_per_s, met as f64);
    };
    let none = RequestSlo::default();
    check(none, 3);
    check(RequestSlo { ttft_ms: Some(100.0), ..none }, 2);
    check(RequestSlo { ttft_ms: Some(100.5), ..none }, 3);
    check(RequestSlo { tpot_ms: Some(9.999), ..none }, 1);
    check(RequestSlo { itl_ms: Some(10.0), ..none }, 2);
    check(RequestSlo { e2e_ms: Some(130.5), ..none }, 2);
    assert_eq!(attainment(&input(&requests, &events, None)), None);
}

#[test]
fn smoothness_and_fluidity_by_hand() {
    let (requests, events) = played(&script());
    let slo = RequestSlo { ttft_ms: Some(100.2), tpot_ms: Some(15.0), ..RequestSlo::default() };
    let smooth = result(Some(slo)).smoothness.unwrap();
    samples(&smooth.max_gap_ms, vec![20.0, 30.0]);
    near(Some(smooth.stall_threshold_ms), 15.0);
    near(Some(smooth.stall_share), 0.5);
    // 0: first 0.3 ms late, so the next is due at 115.5 after the send: 120.5 is late again, 130.5 in time (135.5).
    // 1: 2 tokens at 100 in time, 3 at 130 (due 130.2, 145.2, 160.2), 1 at 140: all. 2: all in time.
    samples(&smooth.fluidity.unwrap(), vec![1.0 / 3.0, 1.0, 1.0]);
    // Without limits, a stall is more than five medians.
    let plain = result(None).smoothness.unwrap();
    assert_eq!((plain.fluidity, plain.stall_share), (None, 0.0));
    near(Some(plain.stall_threshold_ms), 75.0);
    assert_eq!(smoothness(&RecordSlices::new(&requests, &events), 20.0).stall_share, Some(0.25));
}

#[test]
fn the_server_s_own_times_and_the_residual() {
    let times = result(None).server_times.unwrap();
    samples(&times.queue_ms, vec![5.0]);
    samples(&times.ttft_ms, vec![95.0]);
    samples(&times.itl_ms, vec![10.0]);
    samples(&times.e2e_ms, vec![125.0]);
    samples(&times.ttft_residual_ms, vec![5.5]);
    samples(&times.e2e_residual_ms, vec![5.5]);
}

#[test]
fn failures_count_in_the_tail() {
    let tail = result(None).latency_with_failures_ms.unwrap();
    let ttft = tail.ttft;
    assert_eq!((ttft.n, ttft.failed), (5, 2));
    // Nearest rank of 100, 100, 100.5, ∞, ∞: the third is the median, the fifth every higher one.
    near(ttft.p50, 100.5);
    assert_eq!((ttft.p90, ttft.p99), (None, None));
    near(tail.e2e_sched.p50, 140.5);
}

#[test]
fn a_warm_up_request_gives_load_and_tokens_and_is_counted_nowhere() {
    let mut scripts = script();
    scripts[1].phase = Phase::Warmup;
    let (requests, events) = played(&scripts);
    let result = summarise(&input(&requests, &events, None));
    assert_eq!((result.requests.scheduled, result.requests.completed, result.output_tokens), (5, 2, 9));
    assert_eq!(result.latency_ms.ttft.n, 2);
    near(Some(result.throughput.output_tokens_per_s), 16.0);
    near(Some(result.concurrency.mean), 1.023);
}

#[test]
fn mismatches_are_seen_and_early_stops_are_no_samples() {
    let expect = Expectation { requested_output_tokens: Some(4), ignore_eos: true };
    let done = || event("[DONE]") + "0\r\n\r\n";
    let reads = |count: i64| vec![(10, HEAD.to_owned()), (20, ids("[1,2]") + &usage(1, count, "") + &done())];
    let played = |count: i64, expect: Expectation| {
        let mut script = Script::new(0, 0, reads(count));
        script.expect = expect;
        script.play(0, &mut Vec::new())
    };
    // Two ids, and a usage that says four: the more trusted count is kept, the sources say that there were two.
    let record = played(4, Expectation::default());
    let sources = (record.output_tokens, record.token_source, record.event_token_source);
    assert_eq!(sources, (Some(4), Some(TokenSource::ServerUsage), Some(TokenSource::ServerTokenIds)));
    assert_eq!(played(3, expect).failure_code.as_deref(), Some("early_stop"));
    assert_eq!(played(4, expect).failure_code, None);
    assert_eq!(played(5, expect).failure_code.as_deref(), Some("over_delivery"));
}
