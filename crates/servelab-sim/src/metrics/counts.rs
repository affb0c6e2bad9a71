//! What the server counts around its engines: refusals, parameters of finished requests, KV fetches, HTTP requests.

use std::collections::BTreeMap;

use super::{Histogram, REQUEST_TOKENS};
use crate::handover::Fetch;

const N_CHOICES: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0];
const TRANSFER_S: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 5.0];
const POST_S: &[f64] = &[0.001, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 5.0];
const TRANSFER_BYTES: &[f64] = &[
    2048.0,
    8192.0,
    32_768.0,
    131_072.0,
    524_288.0,
    2_097_152.0,
    8_388_608.0,
    33_554_432.0,
    134_217_728.0,
    536_870_912.0,
    2_147_483_648.0,
    8_589_934_592.0,
];
const DESCRIPTORS: &[f64] =
    &[10.0, 20.0, 30.0, 50.0, 75.0, 100.0, 200.0, 400.0, 1000.0, 2000.0, 4000.0, 10_000.0, 20_000.0, 50_000.0];
const HTTP_S: &[f64] = &[0.1, 0.5, 1.0];
const HTTP_FINE_S: &[f64] = &[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 7.5, 10.0, 30.0, 60.0,
];

/// Parameters of the finished requests of one rank.
#[derive(Debug, Clone)]
pub(super) struct RankCounts {
    pub(super) params_n: Histogram,
    pub(super) longest_output: Histogram,
}

/// KV fetched from prefill servers.
#[derive(Debug, Clone)]
pub struct KvCounts {
    /// Prompt tokens that were looked for elsewhere.
    pub queried_tokens: u64,
    /// Of these, fetched.
    pub fetched_tokens: u64,
    /// Fetches that failed.
    pub failed: u64,
    pub(super) seconds: Histogram,
    pub(super) post_seconds: Histogram,
    pub(super) bytes: Histogram,
    pub(super) descriptors: Histogram,
}

impl KvCounts {
    fn new() -> Self {
        Self {
            queried_tokens: 0,
            fetched_tokens: 0,
            failed: 0,
            seconds: Histogram::new(TRANSFER_S),
            post_seconds: Histogram::new(POST_S),
            bytes: Histogram::new(TRANSFER_BYTES),
            descriptors: Histogram::new(DESCRIPTORS),
        }
    }

    pub(crate) fn observe(&mut self, fetch: &Fetch, n_tokens: u64) {
        self.queried_tokens += n_tokens;
        self.fetched_tokens += n_tokens;
        self.seconds.observe(fetch.seconds);
        // Posting costs little and does not depend on the size.
        self.post_seconds.observe(0.0003);
        self.bytes.observe(fetch.bytes as f64);
        self.descriptors.observe(fetch.descriptors as f64);
    }
}

/// One answered HTTP request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HttpRequest {
    pub(crate) handler: &'static str,
    pub(crate) method: &'static str,
    pub(crate) status: u16,
    pub(crate) seconds: f64,
    pub(crate) request_bytes: usize,
    pub(crate) response_bytes: usize,
}

/// Sizes and durations of one kind of HTTP request. Durations are wall time, as only this server's own.
#[derive(Debug, Clone)]
pub(super) struct HandlerCounts {
    pub(super) n: u64,
    pub(super) request_bytes: u64,
    pub(super) response_bytes: u64,
    pub(super) seconds: Histogram,
}

/// HTTP requests by handler, method and class of status.
#[derive(Debug, Clone)]
pub struct HttpCounts {
    pub(super) by_status: BTreeMap<(&'static str, &'static str, u16), u64>,
    pub(super) by_handler: BTreeMap<(&'static str, &'static str), HandlerCounts>,
    pub(super) fine_seconds: Histogram,
}

impl HttpCounts {
    fn new() -> Self {
        Self { by_status: BTreeMap::new(), by_handler: BTreeMap::new(), fine_seconds: Histogram::new(HTTP_FINE_S) }
    }

    pub(crate) fn observe(&mut self, request: &HttpRequest) {
        *self.by_status.entry((request.handler, request.method, request.status / 100)).or_default() += 1;
        let counts = self.by_handler.entry((request.handler, request.method)).or_insert_with(|| HandlerCounts {
            n: 0,
            request_bytes: 0,
            response_bytes: 0,
            seconds: Histogram::new(HTTP_S),
        });
        counts.n += 1;
        counts.request_bytes += request.request_bytes as u64;
        counts.response_bytes += request.response_bytes as u64;
        counts.seconds.observe(request.seconds);
        self.fine_seconds.observe(request.seconds);
    }
}

/// Everything that the server counts itself.
#[derive(Debug, Clone)]
pub struct ServerCounts {
    /// Start of the server, seconds since 1970.
    pub started_unix_s: f64,
    /// Requests refused because the queue was full.
    pub rejected_requests: u64,
    /// Requests refused because too many prompt tokens were waiting.
    pub rejected_tokens: u64,
    /// KV fetched from prefill servers.
    pub kv: KvCounts,
    /// HTTP requests.
    pub http: HttpCounts,
    pub(super) ranks: Vec<RankCounts>,
}

impl ServerCounts {
    pub(crate) fn new(n_ranks: usize, started_unix_s: f64) -> Self {
        let rank = RankCounts { params_n: Histogram::new(N_CHOICES), longest_output: Histogram::new(REQUEST_TOKENS) };
        Self {
            started_unix_s,
            rejected_requests: 0,
            rejected_tokens: 0,
            kv: KvCounts::new(),
            http: HttpCounts::new(),
            ranks: vec![rank; n_ranks.max(1)],
        }
    }

    /// A choice of a request ended: `n` choices were asked for, the longest has `longest` tokens.
    pub(crate) fn choice_done(&mut self, rank: usize, n: u32, longest: u32) {
        if let Some(counts) = self.ranks.get_mut(rank) {
            counts.params_n.observe(f64::from(n));
            counts.longest_output.observe(f64::from(longest));
        }
    }
}
