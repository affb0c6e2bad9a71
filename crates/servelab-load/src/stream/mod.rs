//! One response as it arrives: HTTP framing, event framing and meaning joined, with the stamps of the metric
//! definitions taken from the instant that each read returned. Sans-IO: the caller brings bytes and stamps, and says how
//! the connection ended; [`ResponseReader::conclude`] then fills the request's record and names the failure, if any.

use servelab_core::record::{RequestRecord, TokenSource};

use crate::codes;
use crate::http1::{Head, ResponseParser};
use crate::sse::{Scanner, SseError};

pub mod event;
#[cfg(test)]
mod tests;

use event::{Chunk, Usage};

/// Largest body kept of an answer that is not a stream.
const MAX_JSON_BYTES: usize = 64 << 20;
/// Largest part kept of an error body.
const MAX_ERROR_BYTES: usize = 64 << 10;

/// How a response came to its end, seen from the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The HTTP response is complete.
    Complete,
    /// The peer closed the connection.
    Closed,
    /// The connection broke.
    Reset,
    /// Our request timeout passed.
    TimedOut,
    /// The run was cancelled.
    Cancelled,
    /// The run's end cut it off.
    Censored,
}

/// What was asked for, as far as it decides success.
#[derive(Debug, Clone, Copy, Default)]
pub struct Expectation {
    /// Output tokens asked for.
    pub requested_output_tokens: Option<i64>,
    /// The server was told not to stop at an end-of-sequence token.
    pub ignore_eos: bool,
}

/// What [`ResponseReader::conclude`] knows beyond the record.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Conclusion {
    /// The server's or our own words about the failure.
    pub detail: Option<String>,
    /// Output text, reasoning included, when it was to be kept.
    pub text: Option<String>,
    /// Token ids, when the server sent them and the text was to be kept.
    pub token_ids: Vec<i64>,
}

/// State of a response after some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// More is to come.
    Open,
    /// `[DONE]` came, but not the end of the HTTP response.
    Done,
    /// The HTTP response is complete.
    Complete {
        /// The connection may carry another request.
        is_reusable: bool,
    },
    /// The bytes make no sense; the connection must be closed.
    Broken,
}

/// Reads one response.
#[derive(Debug)]
pub struct ResponseReader {
    http: ResponseParser,
    scanner: Scanner,
    /// Body of an answer that is not an event stream.
    body: Vec<u8>,
    facts: Facts,
    bytes_received: i64,
}

#[derive(Debug, Default)]
struct Facts {
    keep_text: bool,
    t_hdr: Option<i64>,
    t_first: Option<i64>,
    t_out: Option<i64>,
    t_last: Option<i64>,
    t_usage: Option<i64>,
    t_done: Option<i64>,
    t_finish: Option<i64>,
    t_end: Option<i64>,
    n_first: i64,
    n_events: i64,
    n_ids: i64,
    are_ids_complete: bool,
    /// Every event so far came with token ids or a usage delta.
    are_counts_complete: bool,
    is_any_choice_seen: bool,
    is_any_event_decoded: bool,
    /// The only event carries the whole usage count.
    event_counts_are_usage: bool,
    /// Cumulative output tokens of continuous usage; set from the first chunk on or not at all.
    continuous: Option<i64>,
    final_usage: Option<Usage>,
    id: Option<String>,
    finish_reason: Option<String>,
    in_band_error: Option<String>,
    malformed_event: Option<String>,
    malformed_http: Option<String>,
    server_queue_ms: Option<f64>,
    server_ttft_ms: Option<f64>,
    text: String,
    token_ids: Vec<i64>,
}

impl ResponseReader {
    /// A reader for the next response on a connection. `keep_text` retains the output for exactness checks.
    pub fn new(keep_text: bool) -> Self {
        Self {
            http: ResponseParser::new(),
            scanner: Scanner::new(),
            body: Vec::new(),
            facts: Facts { keep_text, are_ids_complete: true, are_counts_complete: true, ..Facts::default() },
            bytes_received: 0,
        }
    }

    /// Bytes seen so far, head included.
    pub fn bytes_received(&self) -> i64 {
        self.bytes_received
    }

    /// The first token-bearing event has come.
    pub fn has_token(&self) -> bool {
        self.facts.t_first.is_some()
    }

    /// Consumes one read that returned at `t_ns`. Each token-bearing event is reported as its number of tokens.
    pub fn feed(&mut self, t_ns: i64, bytes: &[u8], mut on_tokens: impl FnMut(i32)) -> Progress {
        if bytes.is_empty() {
            return self.progress(0);
        }
        self.bytes_received += bytes.len() as i64;
        let Self { http, scanner, body, facts, .. } = self;
        facts.t_hdr.get_or_insert(t_ns);
        let mut sse_outcome: Result<(), SseError> = Ok(());
        let parsed = http.feed(bytes, |head, data| {
            if is_stream(head) {
                let fed = scanner.feed(data, |event| facts.on_event(t_ns, event.data, &mut on_tokens));
                sse_outcome = sse_outcome.clone().and(fed);
            } else {
                let limit = if is_success(head) { MAX_JSON_BYTES } else { MAX_ERROR_BYTES };
                let room = limit.saturating_sub(body.len());
                body.extend_from_slice(data.get(..room.min(data.len())).unwrap_or_default());
            }
        });
        if let Err(error) = sse_outcome {
            facts.malformed_event.get_or_insert(error.to_string());
        }
        let used = match parsed {
            Ok(used) => used,
            Err(error) => {
                facts.malformed_http.get_or_insert(error.to_string());
                return Progress::Broken;
            }
        };
        if http.is_complete() {
            self.on_complete(t_ns, &mut on_tokens);
        }
        self.progress(bytes.len() - used)
    }

    /// The peer closed the connection at `t_ns`. True when that properly ended the response.
    pub fn close(&mut self, t_ns: i64, mut on_tokens: impl FnMut(i32)) -> bool {
        let Self { scanner, facts, .. } = self;
        scanner.finish(|event| facts.on_event(t_ns, event.data, &mut on_tokens));
        let is_complete = self.http.finish().is_ok();
        if is_complete {
            self.on_complete(t_ns, &mut on_tokens);
        }
        is_complete
    }

    fn progress(&self, left_over: usize) -> Progress {
        if self.facts.malformed_http.is_some() || self.facts.malformed_event.is_some() {
            Progress::Broken
        } else if self.http.is_complete() {
            let is_keep_alive = self.http.head().is_some_and(|head| head.is_keep_alive);
            Progress::Complete { is_reusable: is_keep_alive && left_over == 0 }
        } else if self.facts.t_done.is_some() {
            Progress::Done
        } else {
            Progress::Open
        }
    }

    fn on_complete(&mut self, t_ns: i64, on_tokens: &mut impl FnMut(i32)) {
        if self.facts.t_end.replace(t_ns).is_some() {
            return;
        }
        let Some(head) = self.http.head() else { return };
        if is_stream(head) {
            let facts = &mut self.facts;
            self.scanner.finish(|event| facts.on_event(t_ns, event.data, on_tokens));
        } else if is_success(head) {
            self.facts.on_whole_answer(t_ns, &self.body, on_tokens);
        }
        self.facts.on_end(on_tokens);
    }

    /// Fills `record` with everything seen and decides success. Precedence of failures: HTTP status, error in the
    /// body, malformed HTTP, malformed events, how the connection ended, zero tokens, early stop. A stream that reached
    /// `[DONE]` is whole, however its connection ended.
    pub fn conclude(self, end: End, expect: Expectation, record: &mut RequestRecord) -> Conclusion {
        let Self { http, scanner, body, facts, bytes_received } = self;
        let head = http.head();
        record.http_status = head.map(|head| i32::from(head.status));
        record.bytes_received = bytes_received;
        facts.fill(record);
        let (code, detail) = match facts.failure(head, end, &body, &scanner) {
            Some((code, detail)) => (Some(code), detail),
            None => shortfall(expect, record),
        };
        record.failure_code = code.map(str::to_owned);
        let text = facts.keep_text.then_some(facts.text);
        Conclusion { detail, text, token_ids: facts.token_ids }
    }
}

/// Failures of a response that is otherwise whole.
fn shortfall(expect: Expectation, record: &RequestRecord) -> (Option<&'static str>, Option<String>) {
    let got = record.output_tokens.unwrap_or(0);
    if got == 0 || record.t_last.is_none() {
        return (Some(codes::ZERO_TOKENS), Some("the response carried no token".to_owned()));
    }
    match expect.requested_output_tokens {
        Some(asked) if expect.ignore_eos && got < asked => {
            (Some(codes::EARLY_STOP), Some(format!("{got} of {asked} output tokens")))
        }
        _ => (None, None),
    }
}

fn is_success(head: Head) -> bool {
    (200..300).contains(&head.status)
}

fn is_stream(head: Head) -> bool {
    head.is_event_stream && is_success(head)
}

impl Facts {
    fn on_event(&mut self, t_ns: i64, data: &[u8], on_tokens: &mut impl FnMut(i32)) {
        if self.t_done.is_some() || self.malformed_event.is_some() {
            return;
        }
        let may_skip_decode = self.is_any_event_decoded && self.continuous.is_none() && !self.keep_text;
        if may_skip_decode && event::is_plain_token(data) {
            self.are_ids_complete = false;
            self.are_counts_complete = false;
            self.is_any_choice_seen = true;
            self.on_token_event(t_ns, 1, true, on_tokens);
            return;
        }
        if event::is_done_mark(data) {
            self.t_done = Some(t_ns);
            return;
        }
        match event::decode(data) {
            Some(chunk) => self.on_chunk(t_ns, chunk, on_tokens),
            None => {
                let shown: String = String::from_utf8_lossy(data).chars().take(200).collect();
                self.malformed_event = Some(format!("not a JSON object: {shown}"));
            }
        }
    }

    fn on_chunk(&mut self, t_ns: i64, chunk: Chunk, on_tokens: &mut impl FnMut(i32)) {
        self.is_any_event_decoded = true;
        if let Some(error) = chunk.error {
            self.in_band_error.get_or_insert(error);
            return;
        }
        self.id = self.id.take().or(chunk.id);
        self.server_queue_ms = chunk.server_queue_ms.or(self.server_queue_ms);
        self.server_ttft_ms = chunk.server_ttft_ms.or(self.server_ttft_ms);
        let usage_tokens = chunk.usage.and_then(|usage| usage.completion_tokens);
        let mut delta = 0;
        if chunk.has_choices {
            // Only a server that counts from its first chunk on counts continuously. Others attach the total to the
            // last chunk, which must not look like one event with all tokens.
            if !self.is_any_choice_seen && usage_tokens.is_some() {
                self.continuous = Some(0);
            }
            self.is_any_choice_seen = true;
            if let (Some(before), Some(now)) = (self.continuous, usage_tokens) {
                delta = (now - before).max(0);
                self.continuous = Some(now.max(before));
            }
        }
        if let Some(usage) = chunk.usage
            && (!chunk.has_choices || chunk.finish_reason.is_some())
        {
            self.final_usage = Some(usage);
            self.t_usage = Some(t_ns);
        }
        let n_ids = chunk.token_ids.as_ref().map_or(0, |ids| ids.len() as i64);
        let pieces = i64::from(chunk.output_pieces) + i64::from(chunk.reasoning_pieces);
        if self.keep_text {
            self.text.push_str(&chunk.text);
            self.token_ids.extend(chunk.token_ids.unwrap_or_default());
        }
        if pieces > 0 || n_ids > 0 || delta > 0 {
            self.n_ids += n_ids;
            self.are_ids_complete &= n_ids > 0;
            self.are_counts_complete &= n_ids > 0 || delta > 0;
            let n = [n_ids, delta, pieces].into_iter().find(|n| *n > 0).unwrap_or(1);
            let is_output = chunk.output_pieces > 0 || chunk.reasoning_pieces == 0;
            self.on_token_event(t_ns, n, is_output, on_tokens);
        }
        if chunk.finish_reason.is_some() {
            self.t_finish.get_or_insert(t_ns);
            self.finish_reason = self.finish_reason.take().or(chunk.finish_reason);
        }
    }

    fn on_token_event(&mut self, t_ns: i64, n: i64, is_output: bool, on_tokens: &mut impl FnMut(i32)) {
        if self.t_first.is_none() {
            self.t_first = Some(t_ns);
            self.n_first = n;
        }
        if is_output {
            self.t_out.get_or_insert(t_ns);
        }
        self.t_last = Some(t_ns);
        self.n_events += n;
        on_tokens(i32::try_from(n).unwrap_or(i32::MAX));
    }

    /// A JSON answer instead of a stream: everything arrives at its last byte.
    fn on_whole_answer(&mut self, t_ns: i64, body: &[u8], on_tokens: &mut impl FnMut(i32)) {
        let Some(mut chunk) = event::decode(body) else {
            let shown: String = String::from_utf8_lossy(body).chars().take(200).collect();
            self.malformed_http = Some(format!("the body is neither an event stream nor JSON: {shown}"));
            return;
        };
        self.t_done = Some(t_ns);
        let total = chunk.usage.and_then(|usage| usage.completion_tokens);
        let usage = chunk.usage.take();
        if let (Some(total), true) = (total.filter(|total| *total > 0), chunk.error.is_none()) {
            // One event with all tokens, however many choices there are.
            let is_output = chunk.output_pieces > 0 || chunk.reasoning_pieces == 0;
            (chunk.output_pieces, chunk.reasoning_pieces) = (0, 0);
            let ids = chunk.token_ids.take();
            self.n_ids += ids.as_ref().map_or(0, |ids| ids.len() as i64);
            if self.keep_text {
                self.token_ids.extend(ids.unwrap_or_default());
            }
            self.on_token_event(t_ns, total, is_output, on_tokens);
            self.event_counts_are_usage = true;
        }
        self.on_chunk(t_ns, chunk, on_tokens);
        if usage.is_some() {
            self.final_usage = usage;
            self.t_usage = Some(t_ns);
        }
    }

    /// Tokens without visible text (special tokens, half a character) may leave no event behind. The client first
    /// knows of them at the finish reason, or at the usage.
    fn on_end(&mut self, on_tokens: &mut impl FnMut(i32)) {
        let total = self.final_usage.and_then(|usage| usage.completion_tokens).unwrap_or(0);
        if self.t_first.is_none()
            && total > 0
            && self.in_band_error.is_none()
            && let Some(t_ns) = self.t_finish.or(self.t_usage)
        {
            self.on_token_event(t_ns, total, true, on_tokens);
            self.event_counts_are_usage = true;
        }
    }

    /// Where the token counts of the events come from.
    fn event_source(&self) -> Option<TokenSource> {
        self.t_first?;
        Some(if self.event_counts_are_usage {
            TokenSource::ServerUsage
        } else if self.are_ids_complete {
            TokenSource::ServerTokenIds
        } else if self.are_counts_complete {
            TokenSource::ContinuousUsage
        } else {
            TokenSource::EventCount
        })
    }

    fn count(&self) -> Option<(i64, TokenSource)> {
        let usage = self.final_usage.and_then(|usage| usage.completion_tokens).filter(|n| *n > 0);
        let ids = Some(self.n_ids).filter(|n| self.are_ids_complete && *n > 0);
        let continuous = self.continuous.filter(|n| *n > 0);
        let events = Some(self.n_events).filter(|n| *n > 0);
        usage
            .map(|n| (n, TokenSource::ServerUsage))
            .or(ids.map(|n| (n, TokenSource::ServerTokenIds)))
            .or(continuous.map(|n| (n, TokenSource::ContinuousUsage)))
            .or(events.map(|n| (n, TokenSource::EventCount)))
    }

    fn fill(&self, record: &mut RequestRecord) {
        record.t_hdr = self.t_hdr;
        record.t_first = self.t_first;
        record.t_out = self.t_out;
        record.t_last = self.t_last;
        record.t_usage = self.t_usage;
        record.t_done = self.t_done;
        record.event_token_source = self.event_source();
        record.n_first = self.t_first.map(|_| self.n_first);
        record.response_id = self.id.clone();
        record.finish_reason = self.finish_reason.clone();
        record.server_queue_ms = self.server_queue_ms;
        record.server_ttft_ms = self.server_ttft_ms;
        if let Some(prompt) = self.final_usage.and_then(|usage| usage.prompt_tokens) {
            record.input_tokens = Some(prompt);
        }
        match self.count() {
            Some((n, source)) => {
                record.output_tokens = Some(n);
                record.token_source = Some(source);
            }
            None => {
                // A server that says zero is believed; silence stays unknown.
                record.output_tokens = self.final_usage.and_then(|usage| usage.completion_tokens);
                record.token_source = record.output_tokens.map(|_| TokenSource::ServerUsage);
            }
        }
    }

    fn failure(
        &self,
        head: Option<Head>,
        end: End,
        body: &[u8],
        scanner: &Scanner,
    ) -> Option<(&'static str, Option<String>)> {
        if let Some(head) = head
            && let Some(code) = codes::of_status(head.status)
        {
            return Some((code, Some(format!("{}: {}", head.status, event::error_detail(body)))));
        }
        if let Some(message) = &self.in_band_error {
            return Some((codes::IN_BAND_ERROR, Some(message.clone())));
        }
        if let Some(message) = &self.malformed_http {
            return Some((codes::MALFORMED_HTTP, Some(message.clone())));
        }
        if let Some(message) = &self.malformed_event {
            return Some((codes::MALFORMED_SSE, Some(message.clone())));
        }
        if self.t_done.is_some() {
            return None;
        }
        let text = |message: &str| Some(message.to_owned());
        match end {
            End::TimedOut => Some((codes::REQUEST_TIMEOUT, None)),
            End::Cancelled => Some((codes::CANCELLED, None)),
            End::Censored => Some((codes::CENSORED, None)),
            End::Reset => Some((codes::CONNECTION_RESET, text("connection reset"))),
            End::Closed if self.t_hdr.is_none() => {
                Some((codes::CONNECTION_RESET, text("closed before the first response byte")))
            }
            End::Closed => Some((codes::TRUNCATED_STREAM, text("closed inside the response"))),
            End::Complete if self.finish_reason.is_some() => None,
            End::Complete if !self.is_any_event_decoded && scanner.ignored_lines() > 0 => {
                Some((codes::MALFORMED_SSE, text("the body holds lines that are no events")))
            }
            End::Complete if self.t_first.is_none() => None,
            End::Complete => Some((codes::TRUNCATED_STREAM, text("ended without [DONE] or a finish reason"))),
        }
    }
}
