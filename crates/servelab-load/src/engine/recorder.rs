//! The recorder: a thread of low priority that takes finished requests from the load threads, in batches, and hands them
//! to the sink. It also keeps what people want to see live (recent latencies) and examples of failures. Load threads
//! never wait for it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use servelab_core::record::Phase;

use super::agreement::Agreement;
use super::limits::Limits;
use crate::clock;
use crate::control::{LiveLatency, LoadControl};
use crate::sink::{FinishedRequest, RecordSink};
use crate::spec::{FailureSample, Stop};

const SAMPLES_PER_CODE: usize = 5;
/// Requests and gaps behind the live percentiles.
const RECENT: usize = 2_000;
const RECENT_GAPS: usize = 20_000;
const LIVE_EVERY_NS: i64 = 250_000_000;

/// What the recorder knows at the end.
#[derive(Debug, Default)]
pub(crate) struct Recorded {
    pub(crate) count: u64,
    pub(crate) last_window_end_ns: Option<i64>,
    pub(crate) failure_samples: Vec<FailureSample>,
    /// Why the sink gave up.
    pub(crate) problem: Option<String>,
}

/// Runs until every load thread has dropped its sender.
pub(crate) fn record(
    batches: Receiver<Vec<FinishedRequest>>,
    sink: &mut dyn RecordSink,
    limits: &Limits,
    agreement: &Agreement,
    control: &LoadControl,
) -> Recorded {
    let mut recorded = Recorded::default();
    let mut per_code: BTreeMap<String, usize> = BTreeMap::new();
    let mut recent = Recent::default();
    let mut next_live_ns = 0;
    loop {
        let batch = match batches.recv_timeout(Duration::from_millis(100)) {
            Ok(batch) => batch,
            Err(RecvTimeoutError::Timeout) => Vec::new(),
            Err(RecvTimeoutError::Disconnected) => break,
        };
        for request in &batch {
            recorded.count += 1;
            let record = &request.record;
            if record.phase == Phase::Window {
                recorded.last_window_end_ns = recorded.last_window_end_ns.max(record.t_done);
            }
            keep_sample(request, &mut per_code, &mut recorded.failure_samples);
            recent.push(request);
            if recorded.problem.is_none()
                && let Err(problem) = sink.finished(request)
            {
                recorded.problem = Some(problem);
                control.cancel();
            }
        }
        let now = clock::now_ns(limits.clock);
        if now >= next_live_ns {
            next_live_ns = now + LIVE_EVERY_NS;
            control.set_latency(recent.latency());
        }
        if let Stop::WhenEnough { min_ns, max_ns } = limits.stop
            && let Some(start_ns) = agreement.window_start_ns()
            && agreement.stop_ns().is_none()
        {
            if now >= start_ns + max_ns {
                agreement.stop_at(start_ns + max_ns);
            } else if now >= start_ns + min_ns && sink.is_enough() {
                agreement.satisfy();
                agreement.stop_at(now);
            }
        }
    }
    recorded
}

fn keep_sample(request: &FinishedRequest, per_code: &mut BTreeMap<String, usize>, samples: &mut Vec<FailureSample>) {
    let (Some(code), Some(detail)) = (&request.record.failure_code, &request.detail) else { return };
    let kept = per_code.entry(code.clone()).or_default();
    if *kept < SAMPLES_PER_CODE {
        *kept += 1;
        let request_idx = request.record.request_idx;
        samples.push(FailureSample { request_idx, code: code.clone(), detail: detail.clone() });
    }
}

/// The latest latencies, nanoseconds.
#[derive(Debug, Default)]
struct Recent {
    ttft: VecDeque<i64>,
    gaps: VecDeque<i64>,
}

impl Recent {
    fn push(&mut self, request: &FinishedRequest) {
        let record = &request.record;
        if let (Some(first), Some(sent)) = (record.t_first, record.t_send) {
            self.ttft.push_back(first - sent);
        }
        let mut before = None;
        for event in request.events.records(0) {
            self.gaps.extend(before.map(|before| event.t_ns - before));
            before = Some(event.t_ns);
        }
        self.ttft.drain(..self.ttft.len().saturating_sub(RECENT));
        self.gaps.drain(..self.gaps.len().saturating_sub(RECENT_GAPS));
    }

    fn latency(&self) -> LiveLatency {
        let (ttft, gaps) = (sorted(&self.ttft), sorted(&self.gaps));
        LiveLatency {
            ttft_p50_ns: nearest(&ttft, 0.50),
            ttft_p99_ns: nearest(&ttft, 0.99),
            itl_p50_ns: nearest(&gaps, 0.50),
            itl_p99_ns: nearest(&gaps, 0.99),
        }
    }
}

fn sorted(values: &VecDeque<i64>) -> Vec<i64> {
    let mut values: Vec<i64> = values.iter().copied().collect();
    values.sort_unstable();
    values
}

fn nearest(sorted: &[i64], p: f64) -> Option<i64> {
    let rank = (p * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}
