//! From the records of one attempt to `result.json`: counts, rates, distributions, goodput, the steady part. The verdict
//! is left as "not judged"; `verdict::judge` fills it in.

use std::collections::BTreeMap;

use super::compared::{QueueParts, ServerTimesSum};
use super::quantile::Samples;
use super::records::{Records, gaps};
use super::server::server_summary;
use super::smoothness::SmoothnessSum;
use super::stationarity::steady_span;
use super::timing::{ClientQueue, Outcome, RequestTimes, outcome, request_in_window};
use super::window::{InFlight, ThroughputSum};
use crate::record::{ClockEpoch, EventRecord, PromSample, RequestRecord};
use crate::result::{
    BenchResult, ClientQuality, Latencies, Quantiles, RESULT_SCHEMA_VERSION, RequestCounts, Severity, SteadyWindow,
    TailLatencies, Verdict, VerdictReason,
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
    /// From the canary server's writes to the client's stamps, milliseconds.
    pub canary_receive_error_ms: Option<Vec<f64>>,
    /// Seconds that the load threads ran, each; `cpu_s` is a share of it.
    pub busy_s: Option<f64>,
    /// Time over which the first sends of a closed loop were spread, seconds.
    pub spread_s: Option<f64>,
}

/// The raw material of one result. Every stamp is relative to `clock`.
#[derive(Debug)]
pub struct MetricsInput<'a> {
    /// The clock of the stamps.
    pub clock: ClockEpoch,
    /// Requests of every phase with their token events; without events, ICL and ITL are absent and throughput spreads
    /// tokens evenly.
    pub records: Box<dyn Records + 'a>,
    /// Scrapes of the server, from before the window to after it; empty when it shows none.
    pub prom: &'a [PromSample],
    /// Start of the measured window.
    pub window_start_ns: i64,
    /// End of the measured window.
    pub window_end_ns: i64,
    /// Request SLO; goodput is absent without one.
    pub slo: Option<RequestSlo>,
    /// Slots of a closed loop; `None` for other loads, whose steady part is found by stationarity.
    pub closed_loop_slots: Option<u32>,
    /// The client's own resources.
    pub client: ClientUsage,
}

/// Computes every metric. See [`super::METRIC_DOCS`] for the definitions.
pub fn summarise(input: &MetricsInput<'_>) -> BenchResult {
    let (start_ns, end_ns) = (input.window_start_ns, input.window_end_ns);
    let mut in_flight = InFlight::default();
    let mut counts = RequestCounts::default();
    let mut failures = BTreeMap::new();
    let mut token_source = BTreeMap::new();
    let (mut input_tokens, mut output_tokens) = (0_u64, 0_u64);
    let (mut n_gaps, mut n_zero_gaps) = (0_u64, 0_u64);
    let mut queue_parts = QueueParts::default();
    let mut smoothness = SmoothnessSum::new(input.slo);
    let mut server_times = ServerTimesSum::default();
    let mut throughput = ThroughputSum::new(start_ns, end_ns);
    let mut latencies = LatencySamples::default();
    let mut attained = Attainment::default();
    input.records.visit(&mut |request, events| {
        in_flight.add(request);
        throughput.add(request, events);
        if !request_in_window(request) {
            return;
        }
        counts.scheduled += 1;
        if let Some(queue) = ClientQueue::of(request) {
            counts.sent += 1;
            queue_parts.push(queue);
        }
        if let Some(slo) = input.slo {
            attained.add(request, events, slo);
        }
        match outcome(request) {
            Outcome::Completed => {
                counts.completed += 1;
                input_tokens += count(request.input_tokens);
                output_tokens += count(request.output_tokens);
                let source = request.token_source.map_or("unknown", |source| source.name());
                *token_source.entry(source.to_owned()).or_default() += 1;
                latencies.add(request, events);
                smoothness.add(request, events);
                server_times.add(request);
                for (gap_ns, _) in gaps(events) {
                    n_gaps += 1;
                    n_zero_gaps += u64::from(gap_ns == 0);
                }
            }
            Outcome::Failed(code) => {
                counts.failed += 1;
                *failures.entry(code.to_owned()).or_default() += 1;
            }
            Outcome::Censored => counts.censored += 1,
        }
    });
    in_flight.sort();
    let latency_with_failures_ms = latencies.with_failures(counts.failed);
    let smoothness = smoothness.summary(&latencies.icl);
    let latency_ms = latencies.distributions();
    let client = &input.client;
    let busy_s = client.busy_s.map(|busy_s| busy_s * f64::from(client.threads)).filter(|busy_s| *busy_s > 0.0);
    BenchResult {
        schema: RESULT_SCHEMA_VERSION,
        clock: input.clock,
        requests: counts,
        failures,
        duration_s: seconds(start_ns, end_ns),
        input_tokens,
        output_tokens,
        token_source,
        throughput: throughput.rates(),
        goodput_requests_per_s: input
            .slo
            .map(|_| attained.met as f64 / seconds(start_ns, end_ns))
            .filter(|rate| rate.is_finite()),
        concurrency: in_flight.over(start_ns, end_ns),
        steady: steady(input, &in_flight, latency_ms.e2e.mean),
        latency_ms,
        client: ClientQuality {
            lateness_ms: queue_parts.lateness.quantiles(),
            slot_wait_ms: queue_parts.slot_wait.quantiles(),
            connect_ms: queue_parts.connect.quantiles(),
            cpu_s: client.cpu_s,
            threads: client.threads,
            canary_ttft_error_ms: canary(client.canary_ttft_error_ms.as_deref()),
            canary_itl_error_ms: canary(client.canary_itl_error_ms.as_deref()),
            canary_receive_error_ms: canary(client.canary_receive_error_ms.as_deref()),
            cpu_share: busy_s.map(|busy_s| client.cpu_s / busy_s),
            zero_gap_share: (n_gaps > 0).then(|| n_zero_gaps as f64 / n_gaps as f64),
            spread_s: client.spread_s,
        },
        verdict: not_judged(),
        server: (!input.prom.is_empty()).then(|| server_summary(input.prom, start_ns, end_ns)),
        shards: None,
        precision: None,
        smoothness,
        server_times: server_times.summary(),
        latency_with_failures_ms: Some(latency_with_failures_ms),
        import: None,
    }
}

/// How many requests met every SLO, of all that were scheduled in the window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attainment {
    /// Requests that succeeded and met every limit.
    pub met: u64,
    /// Every request scheduled in the window, failed and timed out ones included; censored ones are left out.
    pub scheduled: u64,
    /// Requests cut off by the end of the run, in neither number above.
    pub censored: u64,
}

impl Attainment {
    fn add(&mut self, request: &RequestRecord, events: &[EventRecord], slo: RequestSlo) {
        match outcome(request) {
            Outcome::Censored => self.censored += 1,
            Outcome::Failed(_) => self.scheduled += 1,
            Outcome::Completed => {
                self.scheduled += 1;
                self.met += u64::from(meets_limits(request, events, slo));
            }
        }
    }
}

/// SLO attainment over the window; `None` without an SLO.
pub fn attainment(input: &MetricsInput<'_>) -> Option<Attainment> {
    let slo = input.slo?;
    let mut attained = Attainment::default();
    input.records.visit(&mut |request, events| {
        if request_in_window(request) {
            attained.add(request, events, slo);
        }
    });
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
pub fn smoothness(records: &dyn Records, threshold_ms: f64) -> Smoothness {
    let (mut largest, mut n_gaps, mut stalls) = (Samples::default(), 0_u64, 0_u64);
    records.visit(&mut |request, events| {
        if !request_in_window(request) || !request.is_success() {
            return;
        }
        for (gap_ns, _) in gaps(events) {
            n_gaps += 1;
            stalls += u64::from(millis(gap_ns) > threshold_ms);
        }
        largest.extend(gaps(events).map(|(gap_ns, _)| gap_ns).max().map(millis));
    });
    Smoothness { max_gap_ms: largest.quantiles(), stall_share: (n_gaps > 0).then(|| stalls as f64 / n_gaps as f64) }
}

/// True for a success that is within every limit; `events` are its own.
pub fn meets_limits(request: &RequestRecord, events: &[EventRecord], slo: RequestSlo) -> bool {
    let times = RequestTimes::of(request);
    let within = |value_ms: Option<f64>, limit: Option<f64>| match (value_ms, limit) {
        (Some(value_ms), Some(limit)) => value_ms <= limit,
        // A success without the stamp that a limit needs cannot be shown to meet it.
        (None, Some(_)) => false,
        (_, None) => true,
    };
    let itl_ms = || {
        let gaps = gaps(events).filter(|(_, n)| *n > 0);
        gaps.map(|(gap_ns, n)| millis(gap_ns) / n as f64).fold(0.0, f64::max)
    };
    within(times.ttft_ns.map(millis), slo.ttft_ms)
        && (times.tpot_ns.is_none() || within(times.tpot_ns.map(|ns| ns / 1e6), slo.tpot_ms))
        && (slo.itl_ms.is_none() || within(Some(itl_ms()), slo.itl_ms))
        && within(times.e2e_ns.map(millis), slo.e2e_ms)
}

/// Samples of the window's successes.
#[derive(Debug, Default)]
struct LatencySamples {
    ttft: Samples,
    ttft_sched: Samples,
    ttfo: Samples,
    icl: Samples,
    itl: Samples,
    tpot: Samples,
    tpot_vllm: Samples,
    e2e: Samples,
    e2e_sched: Samples,
}

impl LatencySamples {
    fn add(&mut self, request: &RequestRecord, events: &[EventRecord]) {
        let times = RequestTimes::of(request);
        self.ttft.extend(times.ttft_ns.map(millis));
        self.ttft_sched.extend(times.ttft_sched_ns.map(millis));
        self.ttfo.extend(times.ttfo_ns.map(millis));
        self.tpot.extend(times.tpot_ns.map(|ns| ns / 1e6));
        self.tpot_vllm.extend(times.tpot_vllm_ns.map(|ns| ns / 1e6));
        self.e2e.extend(times.e2e_ns.map(millis));
        self.e2e_sched.extend(times.e2e_sched_ns.map(millis));
        for (gap_ns, n_tokens) in gaps(events) {
            self.icl.push(millis(gap_ns));
            self.itl.push_weighted(millis(gap_ns) / n_tokens as f64, n_tokens);
        }
    }

    fn with_failures(&self, failed: u64) -> TailLatencies {
        TailLatencies {
            ttft: self.ttft.tail(failed),
            ttft_sched: self.ttft_sched.tail(failed),
            e2e: self.e2e.tail(failed),
            e2e_sched: self.e2e_sched.tail(failed),
        }
    }

    fn distributions(self) -> Latencies {
        Latencies {
            ttft: self.ttft.quantiles(),
            ttft_sched: self.ttft_sched.quantiles(),
            ttfo: self.ttfo.quantiles(),
            icl: self.icl.quantiles(),
            itl: self.itl.quantiles(),
            tpot: self.tpot.quantiles(),
            tpot_vllm: self.tpot_vllm.quantiles(),
            e2e: self.e2e.quantiles(),
            e2e_sched: self.e2e_sched.quantiles(),
        }
    }
}

fn steady(input: &MetricsInput<'_>, in_flight: &InFlight, mean_e2e_ms: Option<f64>) -> Option<SteadyWindow> {
    let (window_start_ns, window_end_ns) = (input.window_start_ns, input.window_end_ns);
    let (start_ns, end_ns) = match input.closed_loop_slots.filter(|slots| *slots > 0) {
        Some(slots) => in_flight.busy_span(window_start_ns, window_end_ns, slots)?,
        None => steady_span(in_flight, window_start_ns, window_end_ns, mean_e2e_ms? * 1e6)?,
    };
    let sent_inside = |request: &RequestRecord| request.t_send.is_some_and(|t| start_ns <= t && t <= end_ns);
    let mut throughput = ThroughputSum::new(start_ns, end_ns);
    let mut latencies = LatencySamples::default();
    input.records.visit(&mut |request, events| {
        throughput.add(request, events);
        if request_in_window(request) && sent_inside(request) && outcome(request) == Outcome::Completed {
            latencies.add(request, events);
        }
    });
    let latency_ms = latencies.distributions();
    Some(SteadyWindow {
        start_s: seconds(input.window_start_ns, start_ns),
        end_s: seconds(input.window_start_ns, end_ns),
        n: latency_ms.e2e.n,
        throughput: throughput.rates(),
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
