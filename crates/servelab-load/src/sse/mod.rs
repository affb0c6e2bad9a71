//! Sans-IO scanner for server-sent events. Bytes go in, split anywhere; complete events come out as borrowed slices.
//! Only framing happens here: line ends (LF, CRLF, CR), comments, `data:` joining, the byte-order mark. What an event
//! means is decided in `stream`. The usual event, one `data:` line and a blank line inside one read, is never copied.

use memchr::memchr2;

#[cfg(test)]
mod tests;

/// Most bytes that one event may hold before the stream counts as malformed.
pub const MAX_EVENT_BYTES: usize = 32 << 20;

/// A larger buffer for split lines is given back after use.
const KEPT_BYTES: usize = 4 << 10;

/// Why a byte stream is not a usable event stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SseError {
    /// One event outgrew [`MAX_EVENT_BYTES`].
    #[error("one server-sent event is larger than {MAX_EVENT_BYTES} bytes")]
    EventTooLarge,
}

/// One event as it was framed. `data` holds the joined `data:` lines without the final line end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SseEvent<'a> {
    /// The `event:` field, empty when there was none.
    pub kind: &'a [u8],
    /// The `data:` lines, joined by LF.
    pub data: &'a [u8],
}

/// Incremental scanner; feed it reads in order.
#[derive(Debug, Default)]
pub struct Scanner {
    /// Bytes of a line whose end has not been seen.
    partial: Vec<u8>,
    /// Finished `data:` lines of the current event, each followed by LF.
    data: Vec<u8>,
    kind: Vec<u8>,
    has_data: bool,
    /// The last byte was CR: an LF that follows belongs to it.
    skip_lf: bool,
    started: bool,
    ignored_lines: u64,
}

/// Borrowed first `data:` line of an event that may end inside the same read.
type Held<'a> = Option<&'a [u8]>;

impl Scanner {
    /// A scanner at the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lines so far that are neither a field of the format nor a comment. A body that is not an event stream at all
    /// shows up here.
    pub fn ignored_lines(&self) -> u64 {
        self.ignored_lines
    }

    /// Consumes one read and hands every event that it completes to `sink`.
    pub fn feed(&mut self, bytes: &[u8], mut sink: impl FnMut(SseEvent<'_>)) -> Result<(), SseError> {
        let mut rest = bytes;
        let mut held: Held<'_> = None;
        while !rest.is_empty() {
            if self.skip_lf {
                self.skip_lf = false;
                if let Some(after) = rest.strip_prefix(b"\n") {
                    rest = after;
                    continue;
                }
            }
            let Some(end) = memchr2(b'\n', b'\r', rest) else {
                self.partial.extend_from_slice(rest);
                break;
            };
            let (line, tail) = rest.split_at(end);
            self.skip_lf = tail.first() == Some(&b'\r');
            rest = tail.get(1..).unwrap_or_default();
            if self.partial.is_empty() {
                self.line(line, &mut held, &mut sink);
            } else {
                let mut whole = std::mem::take(&mut self.partial);
                whole.extend_from_slice(line);
                // The rebuilt line lives only here, so what it leaves behind must be copied before it goes.
                let mut short_held: Held<'_> = None;
                self.line(&whole, &mut short_held, &mut sink);
                self.keep(short_held);
                // A long line was an exception; its buffer is not kept for the rest of the stream.
                if whole.capacity() <= KEPT_BYTES {
                    whole.clear();
                    self.partial = whole;
                }
            }
            self.check_size(held)?;
        }
        self.keep(held);
        self.check_size(None)
    }

    /// The stream ended. A last event without its blank line is handed out all the same: servers that close right
    /// after `data: [DONE]` exist, and whether a stream was cut off is judged by its contents.
    pub fn finish(&mut self, mut sink: impl FnMut(SseEvent<'_>)) {
        let whole = std::mem::take(&mut self.partial);
        let mut held: Held<'_> = None;
        if !whole.is_empty() {
            self.line(&whole, &mut held, &mut sink);
        }
        self.dispatch(held, &mut sink);
    }

    fn check_size(&self, held: Held<'_>) -> Result<(), SseError> {
        let size = self.partial.len() + self.data.len() + held.map_or(0, <[u8]>::len);
        if size > MAX_EVENT_BYTES { Err(SseError::EventTooLarge) } else { Ok(()) }
    }

    fn keep(&mut self, held: Held<'_>) {
        if let Some(line) = held {
            self.data.extend_from_slice(line);
            self.data.push(b'\n');
        }
    }

    fn line<'a>(&mut self, line: &'a [u8], held: &mut Held<'a>, sink: &mut impl FnMut(SseEvent<'_>)) {
        let line = if self.started {
            line
        } else {
            self.started = true;
            line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line)
        };
        if line.is_empty() {
            self.dispatch(held.take(), sink);
            return;
        }
        let (name, value) = match memchr::memchr(b':', line) {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &line[line.len()..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match name {
            b"data" => {
                if self.has_data {
                    self.keep(held.take());
                    self.keep(Some(value));
                } else {
                    self.has_data = true;
                    *held = Some(value);
                }
            }
            b"event" => {
                self.kind.clear();
                self.kind.extend_from_slice(value);
            }
            // Older llama.cpp servers send `error: {…}`, a field of their own.
            b"error" => {
                self.kind.clear();
                self.kind.extend_from_slice(b"error");
                self.keep(held.take());
                self.keep(Some(value));
                self.has_data = true;
            }
            b"" | b"id" | b"retry" => {}
            _ => self.ignored_lines += 1,
        }
    }

    fn dispatch(&mut self, held: Held<'_>, sink: &mut impl FnMut(SseEvent<'_>)) {
        if self.has_data {
            let data = match held {
                Some(line) => line,
                None => self.data.strip_suffix(b"\n").unwrap_or(&self.data),
            };
            sink(SseEvent { kind: &self.kind, data });
        }
        self.has_data = false;
        self.kind.clear();
        if self.data.capacity() > KEPT_BYTES {
            self.data = Vec::new();
        } else {
            self.data.clear();
        }
    }
}
