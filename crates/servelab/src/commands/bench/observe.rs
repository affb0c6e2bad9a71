//! Those who look on while a load runs: they see each finished request on its way to the files, may say when enough was
//! seen, and may have the load cut short.

use servelab_core::metrics::RequestTimes;
use servelab_core::precision::{PrecisionMetric, PrecisionReport, PrecisionWatch};
use servelab_core::record::{Phase, RequestRecord};
use servelab_load::{FinishedRequest, LiveCounts, RecordSink};
use std::collections::BTreeMap;

/// Sees finished requests; called from the recorder's thread.
pub(super) trait Observer: Send {
    /// One more request has ended.
    fn finished(&mut self, request: &FinishedRequest);

    /// Has enough been seen? Asked when the load stops upon it.
    fn is_enough(&mut self) -> bool {
        false
    }

    /// What is known of the watched means.
    fn precision(&self) -> Option<Vec<PrecisionReport>> {
        None
    }
}

/// Nobody looks on.
pub(super) struct Nobody;

impl Observer for Nobody {
    fn finished(&mut self, _: &FinishedRequest) {}
}

/// Who looks on, and what would have the load cut short.
pub(super) struct Company<'a> {
    pub(super) observer: &'a mut dyn Observer,
    /// Looked at many times a second; true ends the load at once.
    pub(super) is_lost: &'a mut dyn FnMut(&LiveCounts) -> bool,
    /// Scrape the server's metrics.
    pub(super) scrapes: bool,
}

/// A sink with an observer in front.
pub(super) struct Observed<'a, S> {
    pub(super) sink: &'a mut S,
    pub(super) observer: &'a mut dyn Observer,
}

impl<S: RecordSink> RecordSink for Observed<'_, S> {
    fn finished(&mut self, request: &FinishedRequest) -> Result<(), String> {
        self.observer.finished(request);
        self.sink.finished(request)
    }

    fn is_enough(&mut self) -> bool {
        self.observer.is_enough()
    }
}

/// Width of a slice of time, nanoseconds.
const SLICE_NS: i64 = 100_000_000;
/// Requests of different load threads arrive in batches; a slice is complete when a later request ended so many slices
/// after it.
const SETTLED: i64 = 20;

/// Watches means until they are known well enough.
pub(super) struct Precision {
    watch: PrecisionWatch,
    slices: Slices,
}

impl Precision {
    pub(super) fn new(watch: PrecisionWatch) -> Self {
        Self { watch, slices: Slices::default() }
    }
}

impl Observer for Precision {
    fn finished(&mut self, request: &FinishedRequest) {
        let record = &request.record;
        let watch = &mut self.watch;
        self.slices.add(record, |tokens, requests| {
            watch.push(PrecisionMetric::OutputThroughput, tokens);
            watch.push(PrecisionMetric::RequestThroughput, requests);
        });
        if record.phase != Phase::Window || !record.is_success() {
            return;
        }
        let times = RequestTimes::of(record);
        for (metric, ns) in [
            (PrecisionMetric::Ttft, times.ttft_ns.map(|ns| ns as f64)),
            (PrecisionMetric::TtftSched, times.ttft_sched_ns.map(|ns| ns as f64)),
            (PrecisionMetric::Tpot, times.tpot_ns),
            (PrecisionMetric::E2e, times.e2e_ns.map(|ns| ns as f64)),
        ] {
            if let Some(ns) = ns {
                self.watch.push(metric, ns / 1e6);
            }
        }
    }

    fn is_enough(&mut self) -> bool {
        self.watch.is_satisfied()
    }

    fn precision(&self) -> Option<Vec<PrecisionReport>> {
        Some(self.watch.reports())
    }
}

/// Output tokens and completions per slice of time, at the instant at which their request ended.
#[derive(Default)]
struct Slices {
    /// Instant of the first window request's slot.
    origin_ns: Option<i64>,
    /// Slices that may still grow, by number since time zero of the clock.
    open: BTreeMap<i64, (f64, f64)>,
    /// The next slice to be handed over.
    next: Option<i64>,
}

impl Slices {
    /// Adds a request and hands over slices that are complete, as amounts per second.
    fn add(&mut self, record: &RequestRecord, mut emit: impl FnMut(f64, f64)) {
        if record.phase == Phase::Window {
            let start = record.t_slot.unwrap_or(record.t_sched);
            self.origin_ns = Some(self.origin_ns.map_or(start, |origin| origin.min(start)));
        }
        let Some(end_ns) = record.t_last.filter(|_| record.is_success()) else { return };
        let slice = end_ns.div_euclid(SLICE_NS);
        if self.next.is_none_or(|next| slice >= next) {
            let open = self.open.entry(slice).or_default();
            open.0 += record.output_tokens.unwrap_or(0) as f64;
            open.1 += 1.0;
        }
        let Some(origin_ns) = self.origin_ns else { return };
        // The slice in which the window begins is not a whole one.
        let mut next = self.next.unwrap_or(origin_ns.div_euclid(SLICE_NS) + 1);
        let per_second = 1e9 / SLICE_NS as f64;
        while next + SETTLED <= slice {
            let (tokens, requests) = self.open.remove(&next).unwrap_or_default();
            emit(tokens * per_second, requests * per_second);
            next += 1;
        }
        self.open.retain(|slice, _| *slice >= next);
        self.next = Some(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(phase: Phase, slot_ms: i64, end_ms: i64, tokens: i64) -> RequestRecord {
        let mut record = RequestRecord::scheduled(0, phase, slot_ms * 1_000_000);
        record.t_last = Some(end_ms * 1_000_000);
        record.output_tokens = Some(tokens);
        record
    }

    #[test]
    fn slices_hold_what_ended_in_them_whenever_it_began() {
        let mut slices = Slices::default();
        let mut seen = Vec::new();
        let records = [
            ended(Phase::Warmup, 0, 50, 100),
            ended(Phase::Warmup, 0, 250, 7),
            ended(Phase::Window, 120, 310, 10),
            // Out of order, as batches of several threads are.
            ended(Phase::Window, 130, 270, 3),
            ended(Phase::Window, 300, 2_510, 1),
        ];
        for record in &records {
            slices.add(record, |tokens, requests| seen.push((tokens, requests)));
        }
        // The window begins at 120 ms; whole slices begin at 200 ms.
        assert_eq!(seen.iter().take(3).copied().collect::<Vec<_>>(), [(100.0, 20.0), (100.0, 10.0), (0.0, 0.0)]);
        assert_eq!(seen.len(), 4, "{seen:?}");
    }
}
