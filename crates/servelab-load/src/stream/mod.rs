//! One response as it arrives: HTTP framing, event framing and meaning joined, with the stamps of the metric
//! definitions taken from the instant that each read returned. Sans-IO: the caller brings bytes and stamps, and says how
//! the connection ended; [`ResponseReader::conclude`] then fills the request's record and names the failure, if any.

use servelab_core::record::RequestRecord;

use crate::http1::{Head, ResponseParser};
use crate::sse::Scanner;

#[cfg(test)]
mod definition_tests;
#[cfg(test)]
mod dialect_tests;
pub mod event;
#[cfg(test)]
mod event_tests;
mod facts;
#[cfg(test)]
mod horror_tests;
mod json;
#[cfg(test)]
mod oracle;
mod template;
#[cfg(test)]
mod tests;

use facts::Facts;

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
    /// Output text, reasoning included, when it was to be kept. Several answers follow each other by their index.
    pub text: Option<String>,
    /// Token ids, when the server sent them and the text was to be kept, in the order of the text.
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

impl ResponseReader {
    /// A reader for the next response on a connection. `keep_text` retains the output for exactness checks.
    pub fn new(keep_text: bool) -> Self {
        Self {
            http: ResponseParser::new(),
            scanner: Scanner::new(),
            body: Vec::new(),
            facts: Facts::new(keep_text),
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
        let parsed = http.feed(bytes, |head, data| {
            if head.is_encoded {
                // Nothing in it can be read.
            } else if is_stream(head) {
                if let Err(error) = scanner.feed(data, |event| facts.on_event(t_ns, event, &mut on_tokens)) {
                    facts.break_events(error.to_string());
                }
            } else {
                let limit = if is_success(head) { MAX_JSON_BYTES } else { MAX_ERROR_BYTES };
                let room = limit.saturating_sub(body.len());
                body.extend_from_slice(data.get(..room.min(data.len())).unwrap_or_default());
            }
        });
        let used = match parsed {
            Ok(used) => used,
            Err(error) => {
                facts.break_http(error.to_string());
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
        scanner.finish(|event| facts.on_event(t_ns, event, &mut on_tokens));
        let is_complete = self.http.finish().is_ok();
        if is_complete {
            self.on_complete(t_ns, &mut on_tokens);
        }
        is_complete
    }

    fn progress(&self, left_over: usize) -> Progress {
        if self.facts.is_broken() {
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
        let Some(head) = self.http.head().filter(|head| !head.is_encoded) else { return };
        if is_stream(head) {
            let facts = &mut self.facts;
            self.scanner.finish(|event| facts.on_event(t_ns, event, on_tokens));
        } else if is_success(head) {
            self.facts.on_whole_answer(t_ns, &self.body, on_tokens);
        }
        self.facts.on_end(on_tokens);
    }

    /// Fills `record` with everything seen and decides success. Precedence of failures: HTTP status, compressed body,
    /// error in the body, malformed HTTP, malformed events, the server's own abort, how the connection ended, zero tokens,
    /// too few or too many tokens. A stream that reached `[DONE]` is whole, however its connection ended.
    pub fn conclude(self, end: End, expect: Expectation, record: &mut RequestRecord) -> Conclusion {
        let Self { http, scanner, body, mut facts, bytes_received } = self;
        let head = http.head();
        record.http_status = head.map(|head| i32::from(head.status));
        record.bytes_received = bytes_received;
        facts.fill(record);
        let shortfall = || facts.shortfall(expect, record).map(|(code, detail)| (code, Some(detail)));
        let failure = facts.failure(head, end, &body, scanner.ignored_lines()).or_else(shortfall);
        let (code, detail) = failure.unzip();
        record.failure_code = code.map(str::to_owned);
        let (text, token_ids) = facts.into_output();
        Conclusion { detail: detail.flatten(), text, token_ids }
    }
}

fn is_success(head: Head) -> bool {
    (200..300).contains(&head.status)
}

fn is_stream(head: Head) -> bool {
    head.is_event_stream && is_success(head)
}
