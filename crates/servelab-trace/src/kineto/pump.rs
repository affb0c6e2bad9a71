//! Moves a stream through the document scanner: one buffer, refilled when what is left is not a whole event.

use std::io::{self, Read};

use super::scan::{Document, Malformed, Visitor};

/// Fits into a second-level cache, so that what was read is still near when it is scanned.
const WINDOW_BYTES: usize = 512 * 1024;
/// No event or header value of a real trace comes near this.
const MAX_WINDOW_BYTES: usize = 256 * 1024 * 1024;

/// How a stream ended.
#[derive(Debug)]
pub struct Outcome {
    /// Events walked.
    pub events: u64,
    /// Bytes that came.
    pub text_bytes: u64,
    /// True when there was a list of events.
    pub has_events: bool,
    /// The stream failed.
    pub error: Option<io::Error>,
    malformed: Option<Malformed>,
    is_complete: bool,
    is_too_long: bool,
    stopped_at: u64,
}

impl Outcome {
    /// What is wrong with the stream, as a code and a sentence; `None` when it was read to its proper end.
    pub fn problem(&self) -> Option<(&'static str, String)> {
        if let Some(Malformed { at, what }) = &self.malformed {
            return Some(("malformed", format!("malformed at byte {at} of the text: {what}")));
        }
        if let Some(error) = &self.error {
            return Some((
                "truncated",
                format!("the file is damaged after byte {} of the text: {error}", self.text_bytes),
            ));
        }
        if self.is_too_long {
            let limit = MAX_WINDOW_BYTES >> 20;
            return Some((
                "malformed",
                format!("the value at byte {} of the text is longer than {limit} MiB", self.stopped_at),
            ));
        }
        if !self.is_complete {
            return Some((
                "truncated",
                format!("the file ends before its end, after byte {} of the text", self.text_bytes),
            ));
        }
        None
    }
}

/// Reads everything.
pub fn pump<V: Visitor>(mut text: impl Read, visitor: &mut V) -> Outcome {
    let mut document = Document::default();
    let mut buffer = vec![0_u8; WINDOW_BYTES];
    let (mut filled, mut text_bytes) = (0, 0_u64);
    let mut outcome = Outcome {
        events: 0,
        text_bytes: 0,
        has_events: false,
        error: None,
        malformed: None,
        is_complete: false,
        is_too_long: false,
        stopped_at: 0,
    };
    loop {
        let mut is_end = false;
        while filled < buffer.len() {
            let Some(space) = buffer.get_mut(filled..) else { break };
            match text.read(space) {
                Ok(0) => {
                    is_end = true;
                    break;
                }
                Ok(n) => {
                    filled += n;
                    text_bytes += n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    outcome.error = Some(error);
                    is_end = true;
                    break;
                }
            }
        }
        match document.feed(buffer.get(..filled).unwrap_or_default(), visitor) {
            Ok(used) => {
                buffer.copy_within(used..filled, 0);
                filled -= used;
                if is_end {
                    break;
                }
                if filled == buffer.len() {
                    if filled >= MAX_WINDOW_BYTES {
                        outcome.is_too_long = true;
                        break;
                    }
                    buffer.resize(filled * 2, 0);
                }
            }
            Err(malformed) => {
                outcome.malformed = Some(malformed);
                break;
            }
        }
    }
    outcome.events = document.events();
    outcome.text_bytes = text_bytes;
    outcome.has_events = document.has_events();
    outcome.is_complete = document.is_complete();
    outcome.stopped_at = document.at();
    outcome
}
