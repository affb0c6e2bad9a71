//! What a format module hands over: one measured run with every unit made explicit, from a file's own summary, from
//! per-request data, or both. Nothing here knows a file format; turning a run into a result is `result`'s.

use std::collections::BTreeMap;

use servelab_core::plan::Load;
use servelab_core::record::{EventRecord, Phase, RequestRecord, TokenSource};
use servelab_core::result::ServerSummary;

/// What is known about the instants at which requests were sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Arrivals {
    /// Nothing: requests carry durations only.
    #[default]
    Unknown,
    /// Every request has its stamp.
    Measured,
    /// Laid out from the rate and the order of the file; good enough to see a queue grow, not for rates.
    Reconstructed,
}

/// A latency of the summary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Latency {
    /// Time to first token.
    Ttft,
    /// Time to first token from the instant at which the request should have been sent.
    TtftSched,
    /// Time to the first token that is not reasoning.
    Ttfo,
    /// Gap between chunks.
    Icl,
    /// Gap per token.
    Itl,
    /// Mean time per token after the first, per request.
    Tpot,
    /// Whole request.
    E2e,
}

impl Latency {
    /// Its key in `latency_ms`.
    pub fn key(self) -> &'static str {
        match self {
            Self::Ttft => "ttft",
            Self::TtftSched => "ttft_sched",
            Self::Ttfo => "ttfo",
            Self::Icl => "icl",
            Self::Itl => "itl",
            Self::Tpot => "tpot",
            Self::E2e => "e2e",
        }
    }
}

/// Statistics of one latency as the tool gives them, milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct StatedMs {
    /// Mean.
    pub mean: Option<f64>,
    /// Median.
    pub p50: Option<f64>,
    /// 90th percentile.
    pub p90: Option<f64>,
    /// 95th percentile.
    pub p95: Option<f64>,
    /// 99th percentile.
    pub p99: Option<f64>,
    /// Largest.
    pub max: Option<f64>,
    /// Samples, when the tool says how many.
    pub n: Option<u64>,
}

impl StatedMs {
    /// True when nothing is known.
    pub fn is_empty(&self) -> bool {
        [self.mean, self.p50, self.p90, self.p95, self.p99, self.max].iter().all(Option::is_none)
    }
}

/// One run of another tool.
#[derive(Debug, Clone, Default)]
pub struct Run {
    /// Model name.
    pub model: Option<String>,
    /// What the engine is called, when the file says so.
    pub engine: Option<String>,
    /// Its version.
    pub engine_version: Option<String>,
    /// GPU model.
    pub gpu_model: Option<String>,
    /// GPUs in use.
    pub gpus: Option<u32>,
    /// Name of the data set.
    pub dataset: Option<String>,
    /// When it ran, as the file spells it; orders repeats.
    pub date: Option<String>,
    /// Serving settings that the content of the file vouches for.
    pub settings: BTreeMap<String, serde_json::Value>,
    /// Names and notes in the content: label, metadata, tags.
    pub labels: BTreeMap<String, String>,
    /// Facts that only names of files or folders say.
    pub hints: BTreeMap<String, String>,
    /// The load, when the file says so.
    pub load: Option<Load>,
    /// Requests that were to be sent.
    pub scheduled: Option<u64>,
    /// Successes by the tool's own reckoning.
    pub completed: Option<u64>,
    /// Failures by the tool's own reckoning.
    pub failed: Option<u64>,
    /// Length of the run, seconds.
    pub duration_s: Option<f64>,
    /// Prompt tokens of successes.
    pub input_tokens: Option<u64>,
    /// Output tokens of successes.
    pub output_tokens: Option<u64>,
    /// Output tokens per second.
    pub output_tokens_per_s: Option<f64>,
    /// Successes per second.
    pub requests_per_s: Option<f64>,
    /// Requests per second that met the tool's own SLO.
    pub goodput_requests_per_s: Option<f64>,
    /// Mean requests in flight.
    pub concurrency_mean: Option<f64>,
    /// Most requests in flight.
    pub concurrency_max: Option<u64>,
    /// The tool's latencies, milliseconds.
    pub stated: BTreeMap<Latency, StatedMs>,
    /// Per-request data.
    pub requests: Vec<RequestRecord>,
    /// Per-token data.
    pub events: Vec<EventRecord>,
    /// What is known about arrivals.
    pub arrivals: Arrivals,
    /// True when prompt tokens are known per request (or in total).
    pub input_tokens_known: bool,
    /// True when the instant at which a request should have been sent is known.
    pub schedule_known: bool,
    /// True when requests carry their time to first token.
    pub ttft_known: bool,
    /// Numbers of the server.
    pub server: Option<ServerSummary>,
    /// The format has a place for them.
    pub server_expected: bool,
    /// The engine was a simulator.
    pub simulated: Option<bool>,
    /// How definitions differ, and what was assumed.
    pub notes: Vec<String>,
}

/// One request as other tools describe it, seconds. What is `None` is not in the file.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seen<'a> {
    /// Send.
    pub send_s: Option<f64>,
    /// When it should have been sent, on the same clock.
    pub sched_s: Option<f64>,
    /// From the send to the first token.
    pub ttft_s: Option<f64>,
    /// From the send to the last token.
    pub e2e_s: Option<f64>,
    /// Prompt tokens.
    pub input: Option<f64>,
    /// Output tokens.
    pub output: Option<f64>,
    /// Gaps between chunks after the first.
    pub gaps_s: &'a [f64],
    /// Why it failed; `Some("")` is a failure without a reason, `None` a success by the tool's word.
    pub error: Option<&'a str>,
    /// Cut off by the end of the run.
    pub is_censored: bool,
}

/// Seconds to nanoseconds; what is no time at all is dropped.
pub fn nanos(seconds: f64) -> Option<i64> {
    let ns = seconds * 1e9;
    (ns.is_finite() && ns.abs() < 9.2e18).then_some(ns.round() as i64)
}

fn tokens(count: Option<f64>) -> Option<i64> {
    count.filter(|n| n.is_finite() && *n >= 0.0 && *n < 1e15).map(|n| n.round() as i64)
}

impl Run {
    /// Adds a request. Stamps are relative to `origin_s` on the file's own clock.
    pub fn push(&mut self, origin_s: f64, seen: &Seen<'_>) {
        let idx = self.requests.len() as i64;
        let send = seen.send_s.and_then(|s| nanos(s - origin_s)).unwrap_or(0);
        let sched = seen.sched_s.and_then(|s| nanos(s - origin_s)).unwrap_or(send);
        let mut request = RequestRecord::scheduled(idx, Phase::Window, sched);
        request.t_send = Some(send);
        request.input_tokens = tokens(seen.input);
        let after =
            |seconds: Option<f64>| seconds.filter(|s| *s >= 0.0).and_then(nanos).map(|ns| send.saturating_add(ns));
        let end = after(seen.e2e_s);
        if seen.is_censored {
            request.failure_code = Some("censored".to_owned());
            request.t_done = end;
            self.requests.push(request);
            return;
        }
        if let Some(error) = seen.error {
            request.failure_code = Some(failure_code(error).to_owned());
            request.t_done = end.or(Some(send));
            self.requests.push(request);
            return;
        }
        request.http_status = Some(200);
        request.output_tokens = tokens(seen.output);
        let n = request.output_tokens.unwrap_or(0);
        if n > 0 {
            // A tool that writes 0 has no first token: a real one takes time.
            request.t_first = after(seen.ttft_s.filter(|s| *s > 0.0));
            request.t_out = request.t_first;
            let mut last = request.t_first;
            if let Some(first) = request.t_first {
                request.n_first = Some(1);
                // Without gaps there is nothing to lay out: tokens are then spread evenly up to the last.
                if !seen.gaps_s.is_empty() {
                    self.events.push(EventRecord { request_idx: idx, t_ns: first, n_tokens: 1 });
                }
                let mut at_s = 0.0;
                for gap in seen.gaps_s.iter().filter(|gap| gap.is_finite() && **gap >= 0.0) {
                    at_s += gap;
                    let t_ns = first.saturating_add(nanos(at_s).unwrap_or(0));
                    self.events.push(EventRecord { request_idx: idx, t_ns, n_tokens: 1 });
                    last = Some(t_ns);
                }
            }
            request.t_last = if seen.gaps_s.is_empty() { end.or(last) } else { last.or(end) };
            request.token_source = None::<TokenSource>;
        }
        request.t_done = end.max(request.t_last).or(Some(send));
        self.requests.push(request);
    }
}

/// The closest failure code for a message of another tool.
pub fn failure_code(message: &str) -> &'static str {
    let text = message.get(..message.len().min(4096)).unwrap_or(message).to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if has(&["timeout", "timed out", "http 408"]) {
        return "request_timeout";
    }
    for (words, code) in [
        (["429", "too many requests"], "http_429"),
        (["503", "service unavailable"], "http_503"),
        (["http 5", "internal server error"], "http_5xx"),
        (["http 4", "bad request"], "http_4xx"),
        (["connection refused", "connect call failed"], "connect_refused"),
        (["reset by peer", "server disconnected"], "connection_reset"),
        (["cannot connect", "clientconnectorerror"], "connect_failed"),
        (["payload", "incomplete"], "truncated_stream"),
        (["cancel", "aborted"], "cancelled"),
    ] {
        if has(&words) {
            return code;
        }
    }
    "unknown"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_become_records() {
        let mut run = Run::default();
        let gaps = [0.01, 0.02, f64::NAN];
        run.push(
            100.0,
            &Seen {
                send_s: Some(100.5),
                ttft_s: Some(0.1),
                e2e_s: Some(0.13),
                output: Some(3.0),
                gaps_s: &gaps,
                ..Seen::default()
            },
        );
        run.push(100.0, &Seen { send_s: Some(101.0), error: Some("HTTP 503: busy"), ..Seen::default() });
        run.push(100.0, &Seen { send_s: Some(101.0), output: Some(0.0), e2e_s: Some(2.0), ..Seen::default() });
        let request = &run.requests[0];
        assert_eq!(
            (request.t_send, request.t_first, request.t_last),
            (Some(500_000_000), Some(600_000_000), Some(630_000_000))
        );
        assert!(request.is_success() && run.events.len() == 3);
        assert_eq!(run.requests[1].failure_code.as_deref(), Some("http_503"));
        assert!(servelab_core::metrics::is_zero_token_success(&run.requests[2]));
    }

    #[test]
    fn messages_have_codes() {
        for (message, code) in [
            ("Request timeout", "request_timeout"),
            ("HTTP 408: {\"error\"", "request_timeout"),
            ("HTTP 500: {}", "http_5xx"),
            ("Cannot connect to host", "connect_failed"),
            ("", "unknown"),
        ] {
            assert_eq!(failure_code(message), code, "{message}");
        }
        assert_eq!((nanos(f64::NAN), nanos(1e12), nanos(0.5)), (None, None, Some(500_000_000)));
    }
}
