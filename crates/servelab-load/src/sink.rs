//! What a run measured, as it comes: each finished request with its token events goes to a sink, in the order in which
//! requests end. Writing files and computing numbers is the sink's business; it runs in a thread of its own and never
//! holds up a load thread.

use servelab_core::record::{EventRecord, RequestRecord};

/// Token-bearing events of one request, about four bytes each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventLog {
    first_ns: i64,
    last_ns: i64,
    /// Per event LEB128 of (nanoseconds since the event before) × 2 + (more than one token?), then the tokens if so.
    packed: Vec<u8>,
}

impl EventLog {
    /// Adds an event; instants never descend.
    pub(crate) fn push(&mut self, t_ns: i64, n_tokens: i32) {
        if self.packed.is_empty() {
            self.first_ns = t_ns;
            self.last_ns = t_ns;
        }
        let gap = (t_ns - self.last_ns).max(0).unsigned_abs();
        self.last_ns += gap as i64;
        put(&mut self.packed, gap << 1 | u64::from(n_tokens != 1));
        if n_tokens != 1 {
            put(&mut self.packed, u64::from(n_tokens.unsigned_abs()));
        }
    }

    /// True when there was none.
    pub fn is_empty(&self) -> bool {
        self.packed.is_empty()
    }

    /// The events as records of request `request_idx`.
    pub fn records(&self, request_idx: i64) -> impl Iterator<Item = EventRecord> {
        let (mut at, mut t_ns) = (0, self.first_ns);
        std::iter::from_fn(move || {
            let head = take(&self.packed, &mut at)?;
            t_ns += (head >> 1) as i64;
            let n_tokens = if head & 1 == 0 { 1 } else { take(&self.packed, &mut at)? as i32 };
            Some(EventRecord { request_idx, t_ns, n_tokens })
        })
    }
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take(packed: &[u8], at: &mut usize) -> Option<u64> {
    let (mut value, mut shift) = (0_u64, 0);
    loop {
        let byte = *packed.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
        shift += 7;
    }
}

/// What a request produced, when `keep_text` was set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapturedOutput {
    /// The request.
    pub request_idx: i64,
    /// Reasoning and content in the order of arrival.
    pub text: String,
    /// Token ids where the server sent them.
    pub token_ids: Vec<i64>,
}

/// A request that has ended, well or not.
#[derive(Debug, Clone, PartialEq)]
pub struct FinishedRequest {
    /// Its record.
    pub record: RequestRecord,
    /// Its token-bearing events.
    pub events: EventLog,
    /// Its output, with `keep_text`.
    pub output: Option<CapturedOutput>,
    /// The server's, the kernel's or our own words about its failure.
    pub detail: Option<String>,
}

/// Takes what was measured while the run goes on.
pub trait RecordSink: Send {
    /// One more request has ended. `Err` ends the run with that sentence (a full disk).
    fn finished(&mut self, request: &FinishedRequest) -> Result<(), String>;

    /// With [`crate::Stop::WhenEnough`]: is what was seen so far enough? Asked every now and then.
    fn is_enough(&mut self) -> bool {
        false
    }
}

/// Keeps everything in memory: for tests and short runs.
#[derive(Debug, Clone, Default)]
pub struct MemoryRecords {
    /// In the order in which they ended.
    pub requests: Vec<RequestRecord>,
    /// Grouped by request, in the same order.
    pub events: Vec<EventRecord>,
    /// With `keep_text`.
    pub outputs: Vec<CapturedOutput>,
}

impl MemoryRecords {
    /// Orders requests by phase and index, events and outputs by index.
    pub fn sort(&mut self) {
        self.requests.sort_by_key(|record| (record.phase, record.request_idx));
        self.events.sort_by_key(|event| (event.request_idx, event.t_ns));
        self.outputs.sort_by_key(|output| output.request_idx);
    }
}

impl RecordSink for MemoryRecords {
    fn finished(&mut self, request: &FinishedRequest) -> Result<(), String> {
        self.events.extend(request.events.records(request.record.request_idx));
        self.requests.push(request.record.clone());
        self.outputs.extend(request.output.clone());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn events_come_back(start in -1_000_000_i64..1_000_000, steps in prop::collection::vec((0_i64..1 << 40, 0_i32..1000), 0..60)) {
            let mut log = EventLog::default();
            let mut t_ns = start;
            let mut expected = Vec::new();
            for (step, n_tokens) in steps {
                t_ns += step;
                log.push(t_ns, n_tokens);
                expected.push(EventRecord { request_idx: 7, t_ns, n_tokens });
            }
            prop_assert_eq!(log.records(7).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn the_usual_event_takes_four_bytes() {
        let mut log = EventLog::default();
        for i in 0..101 {
            log.push(i * 20_000_000, 1);
        }
        assert_eq!(log.packed.len(), 1 + 100 * 4);
    }
}
