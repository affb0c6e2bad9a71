//! Servers whose time runs faster than the wall's: a simulator says in a header how many of its seconds pass in one of
//! ours. The load is sent that much faster and everything measured is scaled back, so that records and results are in the
//! server's time. Pacing and stamping know nothing of it: what goes in and what comes out is converted here.

use servelab_core::pacing::Think;
use servelab_core::record::{PromSample, RequestRecord};

use crate::sink::{EventLog, FinishedRequest, RecordSink};
use crate::source::{Arrival, RequestSource, Work};
use crate::spec::{LoadOutcome, LoadSpec, Pacing, Spread, Stop};

/// The header that a simulator puts on every answer: `uncalibrated; speedup=50`.
pub const SPEEDUP_HEADER: &str = "x-servelab-sim";

/// The speed-up that the header's value names.
pub fn speedup_of(header: &str) -> Option<f64> {
    let value = header.split(';').find_map(|part| part.trim().strip_prefix("speedup="))?;
    value.parse::<f64>().ok().filter(|speedup| speedup.is_finite() && *speedup > 0.0)
}

fn times(ns: i64, factor: f64) -> i64 {
    (ns as f64 * factor).round() as i64
}

/// The same load in wall time: everything that waits is divided by the speed-up. Establishing connections is no simulated
/// work and keeps its limit.
pub(crate) fn hastened(mut spec: LoadSpec) -> LoadSpec {
    let speedup = std::mem::replace(&mut spec.speedup, 1.0);
    let wall = |ns: i64| times(ns, 1.0 / speedup).max(1);
    if let Pacing::Closed { start, think, .. } = &mut spec.pacing {
        if let Spread::Over { ns } = start {
            *ns = times(*ns, 1.0 / speedup);
        }
        if let Some(pauses) = think {
            pauses.think = match pauses.think {
                Think::Constant(seconds) => Think::Constant(seconds / speedup),
                Think::Exponential(mean) => Think::Exponential(mean / speedup),
            };
        }
    }
    spec.stop = match spec.stop {
        Stop::AllRequests => Stop::AllRequests,
        Stop::Duration { ns } => Stop::Duration { ns: wall(ns) },
        Stop::Steady { min_ns, max_ns } => Stop::Steady { min_ns: wall(min_ns), max_ns: wall(max_ns) },
        Stop::WhenEnough { min_ns, max_ns } => Stop::WhenEnough { min_ns: wall(min_ns), max_ns: wall(max_ns) },
    };
    // A slow machine may fall behind the simulated clock: a request that is only late should not time out.
    spec.request_timeout_ns = wall(spec.request_timeout_ns).max(spec.request_timeout_ns.min(FLOOR_NS));
    spec.drain_timeout_ns = wall(spec.drain_timeout_ns).max(spec.drain_timeout_ns.min(FLOOR_NS));
    spec.source = Box::new(Hastened { inner: spec.source, speedup });
    spec
}

/// Timeouts are not cut below this much wall time.
const FLOOR_NS: i64 = 5_000_000_000;

struct Hastened {
    inner: Box<dyn RequestSource>,
    speedup: f64,
}

impl RequestSource for Hastened {
    fn next(&mut self) -> Result<Option<Arrival>, String> {
        let mut arrival = self.inner.next()?;
        if let Some(arrival) = &mut arrival {
            arrival.at_ns = times(arrival.at_ns, 1.0 / self.speedup);
            if let Work::Conversation(conversation) = &mut arrival.work {
                for turn in &mut conversation.turns {
                    turn.think_ns = times(turn.think_ns, 1.0 / self.speedup);
                }
            }
        }
        Ok(arrival)
    }
}

/// Hands records on in the server's time.
pub(crate) struct Slowed<'a> {
    pub(crate) inner: &'a mut dyn RecordSink,
    pub(crate) speedup: f64,
}

impl RecordSink for Slowed<'_> {
    fn finished(&mut self, request: &FinishedRequest) -> Result<(), String> {
        let mut slowed = request.clone();
        slow_record(&mut slowed.record, self.speedup);
        let mut events = EventLog::default();
        for event in request.events.records(request.record.request_idx) {
            events.push(times(event.t_ns, self.speedup), event.n_tokens);
        }
        slowed.events = events;
        self.inner.finished(&slowed)
    }

    fn is_enough(&mut self) -> bool {
        self.inner.is_enough()
    }
}

fn slow_record(record: &mut RequestRecord, speedup: f64) {
    record.t_sched = times(record.t_sched, speedup);
    for stamp in [
        &mut record.t_slot,
        &mut record.t_conn0,
        &mut record.t_conn1,
        &mut record.t_send,
        &mut record.t_hdr,
        &mut record.t_first,
        &mut record.t_out,
        &mut record.t_last,
        &mut record.t_usage,
        &mut record.t_done,
    ] {
        *stamp = stamp.map(|ns| times(ns, speedup));
    }
}

/// The outcome in the server's time. CPU and busy seconds stay what they are: their ratio says how busy the client was.
pub(crate) fn slow_outcome(outcome: &mut LoadOutcome, speedup: f64) {
    outcome.window_start_ns = times(outcome.window_start_ns, speedup);
    outcome.window_end_ns = times(outcome.window_end_ns, speedup);
    outcome.spread_ns = outcome.spread_ns.map(|ns| times(ns, speedup));
    if let Some(canary) = &mut outcome.canary {
        for errors in [&mut canary.ttft_ns, &mut canary.itl_ns, &mut canary.receive_ns] {
            errors.iter_mut().for_each(|ns| *ns = times(*ns, speedup));
        }
    }
}

/// Scraped samples in the server's time. Their values are the server's already.
pub fn slow_samples(samples: &mut [PromSample], speedup: f64) {
    for sample in samples {
        sample.t_ns = times(sample.t_ns, speedup);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers() {
        assert_eq!(speedup_of("uncalibrated; speedup=50"), Some(50.0));
        assert_eq!(speedup_of("calibrated;speedup=0.5; x"), Some(0.5));
        for other in ["", "speedup", "speedup=", "uncalibrated; speedup=0", "speedup=inf", "speedup=-1"] {
            assert_eq!(speedup_of(other), None, "{other}");
        }
    }

    #[test]
    fn events_keep_their_tokens_and_their_places() {
        struct Keep(Vec<(i64, i64, i32)>);
        impl RecordSink for Keep {
            fn finished(&mut self, request: &FinishedRequest) -> Result<(), String> {
                let sent = request.record.t_send.unwrap_or(0);
                self.0.extend(request.events.records(1).map(|event| (sent, event.t_ns, event.n_tokens)));
                Ok(())
            }
        }
        let mut events = EventLog::default();
        events.push(1_000, 1);
        events.push(1_500, 3);
        let mut record = RequestRecord::scheduled(1, servelab_core::record::Phase::Window, 90);
        record.t_send = Some(100);
        let mut keep = Keep(Vec::new());
        let mut slowed = Slowed { inner: &mut keep, speedup: 50.0 };
        slowed.finished(&FinishedRequest { record, events, output: None, detail: None }).unwrap();
        assert_eq!(keep.0, [(5_000, 50_000, 1), (5_000, 75_000, 3)]);
    }
}
