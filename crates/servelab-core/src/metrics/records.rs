//! How computations go through raw records: request by request, each with its token events, as often as needed. In
//! memory here; the store has the same over files, so that a run of any length can be summarised.

use std::borrow::Cow;
use std::fmt::Debug;

use crate::record::{EventRecord, RequestRecord};

/// Requests of every phase with their token events.
pub trait Records: Debug {
    /// Shows every request once, with its token-bearing events by time, always in the same order.
    fn visit(&self, each: &mut dyn FnMut(&RequestRecord, &[EventRecord]));
}

impl<T: Records + ?Sized> Records for &T {
    fn visit(&self, each: &mut dyn FnMut(&RequestRecord, &[EventRecord])) {
        (**self).visit(each);
    }
}

/// Records in memory.
#[derive(Debug)]
pub struct RecordSlices<'a> {
    requests: &'a [RequestRecord],
    events: Cow<'a, [EventRecord]>,
}

impl<'a> RecordSlices<'a> {
    /// Orders the events by request and time, unless they are in order.
    pub fn new(requests: &'a [RequestRecord], events: &'a [EventRecord]) -> Self {
        let key = |event: &EventRecord| (event.request_idx, event.t_ns);
        if events.iter().all(|event| event.n_tokens > 0) && events.is_sorted_by_key(key) {
            return Self { requests, events: events.into() };
        }
        let mut sorted: Vec<EventRecord> = events.iter().copied().filter(|event| event.n_tokens > 0).collect();
        sorted.sort_by_key(key);
        Self { requests, events: sorted.into() }
    }

    /// The token-bearing events of one request, by time.
    pub fn of(&self, request_idx: i64) -> &[EventRecord] {
        let start = self.events.partition_point(|event| event.request_idx < request_idx);
        let tail = self.events.get(start..).unwrap_or_default();
        let length = tail.partition_point(|event| event.request_idx <= request_idx);
        tail.get(..length).unwrap_or_default()
    }
}

impl Records for RecordSlices<'_> {
    fn visit(&self, each: &mut dyn FnMut(&RequestRecord, &[EventRecord])) {
        for request in self.requests {
            each(request, self.of(request.request_idx));
        }
    }
}

/// Gaps between neighbouring token-bearing events of one request: (nanoseconds, tokens of the later event).
pub fn gaps(events: &[EventRecord]) -> impl Iterator<Item = (i64, u64)> {
    events
        .iter()
        .zip(events.iter().skip(1))
        .map(|(before, after)| (after.t_ns.saturating_sub(before.t_ns), u64::try_from(after.n_tokens).unwrap_or(0)))
}
