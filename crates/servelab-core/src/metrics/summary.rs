//! From the records of one attempt to `result.json`: counts, rates, distributions, goodput, the steady part. The verdict
//! is left as "not judged"; `verdict::judge` fills it in.

use std::collections::BTreeMap;

use super::quantile::Samples;
use super::server::server_summary;
use super::timing::{ClientQueue, EventIndex, Outcome, RequestTimes, outcome, request_in_window};
use super::window::{InFlight, throughput};
use crate::record::{ClockEpoch, EventRecord, PromSample, RequestRecord};
use crate::result::{
    BenchResult, ClientQuality, Latencies, Quantiles, RESULT_SCHEMA_VERSION, RequestCounts, Severity, SteadyWindow,
    Verdict, VerdictReason,
};

/// Limits that a request must meet to be good, milliseconds. A limit that is `None` is always met.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RequestSlo {
    /// On TTFT (t_first − t_send).
    pub ttft_ms: Option<f64>,
    /// On TPOT. A request with too few tokens to have one meets it.
    pub tpot_ms: Option<f64>,
    /// On the largest smoothed inter-token gap of the request.
    pub itl_ms: Option<f64>,
    /// On E2E (t_last − t_send).
    pub e2e_ms: Option<f64>,
}

/// What the load generator knows about itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ClientUsage {
    /// CPU seconds (user + system) of the load threads over the window.
    pub cpu_s: f64,
    /// Load threads.
    pub threads: u32,
    /// TTFT errors of the canary stream in milliseconds; `None` when no canary ran.
    pub canary_ttft_error_ms: Option<Vec<f64>>,
    /// Inter-token errors of the canary stream in milliseconds; `None` when no canary ran.
    pub canary_itl_error_ms: Option<Vec<f64>>,
}

/// The raw material of one result. Every stamp is relative to `clock`.
#[derive(Debug, Clone)]
pub struct MetricsInput<'a> {
    /// The clock of the stamps.
    pub clock: ClockEpoch,
    /// Requests of every phase.
    pub requests: &'a [RequestRecord],
    /// Token events of every phase; without any, ICL and ITL are absent and throughput spreads tokens evenly.
    pub events: &'a [EventRecord],
    /// Scrapes of the server, from before the window to after it; empty when it shows none.
    pub prom: &'a [PromSample],
    /// Start of the measured window.
    pub window_start_ns: i64,
    /// End of the measured window.
    pub window_end_ns: i64,
    /// Request SLO; goodput is absent without one.
    pub slo: Option<RequestSlo>,
    /// Slots of a closed loop; `None` for other loads, whose steady part is not looked for.
    pub closed_loop_slots: Option<u32>,
    /// The client's own resources.
    pub client: ClientUsage,
}

/// Computes every metric. See [`super::METRIC_DOCS`] for the definitions.
pub fn summarise(input: &MetricsInput<'_>) -> BenchResult {
    let events = EventIndex::new(input.events);
    let in_flight = InFlight::of(input.requests);
    let (start_ns, end_ns) = (input.window_start_ns, input.window_end_ns);
    let mut counts = RequestCounts::default();
    let mut failures = BTreeMap::new();
    let mut token_source = BTreeMap::new();
    let (mut input_tokens, mut output_tokens) = (0_u64, 0_u64);
    let mut lateness = Samples::default();
    for request in input.requests.iter().filter(|request| request_in_window(request)) {
        counts.scheduled += 1;
        if let Some(queue) = ClientQueue::of(request) {
            counts.sent += 1;
            lateness.push(millis(queue.lateness_ns));
        }
        match outcome(request) {
            Outcome::Completed => {
                counts.completed += 1;
                input_tokens += count(request.input_tokens);
                output_tokens += count(request.output_tokens);
                let source = request.token_source.map_or("unknown", |source| source.name());
                *token_source.entry(source.to_owned()).or_default() += 1;
            }
            Outcome::Failed(code) => {
                counts.failed += 1;
                *failures.entry(code.to_owned()).or_default() += 1;
            }
            Outcome::Censored => counts.censored += 1,
        }
    }
    BenchResult {
        schema: RESULT_SCHEMA_VERSION,
        clock: input.clock,
        requests: counts,
        failures,
        duration_s: seconds(start_ns, end_ns),
        input_tokens,
        output_tokens,
        token_source,
        throughput: throughput(input.requests, &events, start_ns, end_ns),
        goodput_requests_per_s: attainment(input)
            .map(|attained| attained.met as f64 / seconds(start_ns, end_ns))
            .filter(|rate| rate.is_finite()),
        concurrency: in_flight.over(start_ns, end_ns),
        latency_ms: latencies(input.requests.iter(), &events),
        client: ClientQuality {
            lateness_ms: lateness.quantiles(),
            cpu_s: input.client.cpu_s,
            threads: input.client.threads,
            canary_ttft_error_ms: canary(input.client.canary_ttft_error_ms.as_deref()),
            canary_itl_error_ms: canary(input.client.canary_itl_error_ms.as_deref()),
        },
        steady: steady(input, &events, &in_flight),
        verdict: not_judged(),
        server: (!input.prom.is_empty()).then(|| server_summary(input.prom, start_ns, end_ns)),
        shards: None,
        precision: None,
    }
}

/// How many requests met every SLO, of all that were scheduled in the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attainment {
    /// Requests that succeeded and met every limit.
    pub met: u64,
    /// Every request scheduled in the window, failed and timed out ones included; censored ones are left out.
    pub scheduled: u64,
    /// Requests cut off by the end of the run, in neither number above.
    pub censored: u64,
}

/// SLO attainment over the window; `None` without an SLO.
pub fn attainment(input: &MetricsInput<'_>) -> Option<Attainment> {
    let slo = input.slo?;
    let events = EventIndex::new(input.events);
    let mut attained = Attainment { met: 0, scheduled: 0, censored: 0 };
    for request in input.requests.iter().filter(|request| request_in_window(request)) {
        match outcome(request) {
            Outcome::Censored => attained.censored += 1,
            Outcome::Failed(_) => attained.scheduled += 1,
            Outcome::Completed => {
                attained.scheduled += 1;
                attained.met += u64::from(meets_limits(request, &events, slo));
            }
        }
    }
    Some(attained)
}

/// Smoothness of the streams: what goodput cannot see.
#[derive(Debug, Clone, PartialEq)]
pub struct Smoothness {
    /// Largest gap between token-bearing events per successful request, milliseconds.
    pub max_gap_ms: Quantiles,
    /// Share of all gaps that exceed the threshold (0–1); `None` without gaps.
    pub stall_share: Option<f64>,
}

/// Largest gaps and the share of gaps above `threshold_ms`, over the window's successful requests.
pub fn smoothness(requests: &[RequestRecord], events: &[EventRecord], threshold_ms: f64) -> Smoothness {
    let events = EventIndex::new(events);
    let (mut largest, mut gaps, mut stalls) = (Samples::default(), 0_u64, 0_u64);
    for request in requests.iter().filter(|request| request_in_window(request) && request.is_success()) {
        let mut max = None;
        for (gap_ns, _) in events.gaps(request.request_idx) {
            gaps += 1;
            stalls += u64::from(millis(gap_ns) > threshold_ms);
            max = max.max(Some(gap_ns));
        }
        largest.extend(max.map(millis));
    }
    Smoothness { max_gap_ms: largest.quantiles(), stall_share: (gaps > 0).then(|| stalls as f64 / gaps as f64) }
}

/// True for a success that is within every limit.
pub fn meets_limits(request: &RequestRecord, events: &EventIndex<'_>, slo: RequestSlo) -> bool {
    let times = RequestTimes::of(request);
    let within = |value_ms: Option<f64>, limit: Option<f64>| match (value_ms, limit) {
        (Some(value_ms), Some(limit)) => value_ms <= limit,
        // A success without the stamp that a limit needs cannot be shown to meet it.
        (None, Some(_)) => false,
        (_, None) => true,
    };
    let itl_ms = || {
        let gaps = events.gaps(request.request_idx).filter(|(_, n)| *n > 0);
        gaps.map(|(gap_ns, n)| millis(gap_ns) / n as f64).fold(0.0, f64::max)
    };
    within(times.ttft_ns.map(millis), slo.ttft_ms)
        && (times.tpot_ns.is_none() || within(times.tpot_ns.map(|ns| ns / 1e6), slo.tpot_ms))
        && (slo.itl_ms.is_none() || within(Some(itl_ms()), slo.itl_ms))
        && within(times.e2e_ns.map(millis), slo.e2e_ms)
}

/// Distributions over the window's successes among `requests`.
fn latencies<'a>(requests: impl Iterator<Item = &'a RequestRecord>, events: &EventIndex<'_>) -> Latencies {
    let mut ttft = Samples::default();
    let mut ttft_sched = Samples::default();
    let mut ttfo = Samples::default();
    let mut icl = Samples::default();
    let mut itl = Samples::default();
    let mut tpot = Samples::default();
    let mut tpot_vllm = Samples::default();
    let mut e2e = Samples::default();
    let mut e2e_sched = Samples::default();
    for request in requests.filter(|request| request_in_window(request) && outcome(request) == Outcome::Completed) {
        let times = RequestTimes::of(request);
        ttft.extend(times.ttft_ns.map(millis));
        ttft_sched.extend(times.ttft_sched_ns.map(millis));
        ttfo.extend(times.ttfo_ns.map(millis));
        tpot.extend(times.tpot_ns.map(|ns| ns / 1e6));
        tpot_vllm.extend(times.tpot_vllm_ns.map(|ns| ns / 1e6));
        e2e.extend(times.e2e_ns.map(millis));
        e2e_sched.extend(times.e2e_sched_ns.map(millis));
        for (gap_ns, n_tokens) in events.gaps(request.request_idx) {
            icl.push(millis(gap_ns));
            itl.push_weighted(millis(gap_ns) / n_tokens as f64, n_tokens);
        }
    }
    Latencies {
        ttft: ttft.quantiles(),
        ttft_sched: ttft_sched.quantiles(),
        ttfo: ttfo.quantiles(),
        icl: icl.quantiles(),
        itl: itl.quantiles(),
        tpot: tpot.quantiles(),
        tpot_vllm: tpot_vllm.quantiles(),
        e2e: e2e.quantiles(),
        e2e_sched: e2e_sched.quantiles(),
    }
}

fn steady(input: &MetricsInput<'_>, events: &EventIndex<'_>, in_flight: &InFlight) -> Option<SteadyWindow> {
    let slots = input.closed_loop_slots.filter(|slots| *slots > 0)?;
    let (start_ns, end_ns) = in_flight.busy_span(input.window_start_ns, input.window_end_ns, slots)?;
    let sent_inside = |request: &&RequestRecord| request.t_send.is_some_and(|t| start_ns <= t && t <= end_ns);
    let latency_ms = latencies(input.requests.iter().filter(sent_inside), events);
    Some(SteadyWindow {
        start_s: seconds(input.window_start_ns, start_ns),
        end_s: seconds(input.window_start_ns, end_ns),
        n: latency_ms.e2e.n,
        throughput: throughput(input.requests, events, start_ns, end_ns),
        latency_ms,
    })
}

fn canary(errors_ms: Option<&[f64]>) -> Option<Quantiles> {
    Some(errors_ms?.iter().copied().collect::<Samples>().quantiles())
}

fn not_judged() -> Verdict {
    let reason = VerdictReason {
        code: "not_judged".to_owned(),
        detail: "no check has looked at these numbers yet".to_owned(),
        severity: Severity::Invalid,
    };
    Verdict { ok: false, reasons: vec![reason] }
}

fn count(tokens: Option<i64>) -> u64 {
    tokens.and_then(|n| u64::try_from(n).ok()).unwrap_or(0)
}

fn millis(ns: i64) -> f64 {
    ns as f64 / 1e6
}

fn seconds(start_ns: i64, end_ns: i64) -> f64 {
    end_ns.saturating_sub(start_ns) as f64 / 1e9
}
