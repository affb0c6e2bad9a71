//! The live side of a run: a cancel flag that anybody may set and counters that a progress display may read at any
//! time. The counters are for people; results are computed from records only.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// What the load is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum LivePhase {
    /// Opening connections.
    Connecting = 0,
    /// Sending warm-up requests.
    Warming = 1,
    /// Inside the measured window.
    Measuring = 2,
    /// Waiting for requests in flight after the window.
    Draining = 3,
    /// Over.
    Finished = 4,
}

/// Counts since the start, warm-up included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiveCounts {
    /// What the load is doing.
    pub phase: LivePhase,
    /// Requests taken from the schedule.
    pub scheduled: u64,
    /// Requests written completely.
    pub sent: u64,
    /// Responses whose first token has come.
    pub first_tokens: u64,
    /// Requests that succeeded.
    pub done: u64,
    /// Requests that failed, were cut off or cancelled.
    pub failed: u64,
    /// Of those, requests that the server failed: no connection, 5xx, an error inside the body, a broken answer.
    pub server_errors: u64,
    /// Tokens seen (one per event where the server does not say more).
    pub tokens: u64,
    /// Requests between slot and end.
    pub in_flight: i64,
}

/// Percentiles over the most recent requests and token gaps; `None` before there are any.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LiveLatency {
    /// Median TTFT.
    pub ttft_p50_ns: Option<i64>,
    /// 99th percentile of the TTFT.
    pub ttft_p99_ns: Option<i64>,
    /// Median gap between token-bearing events.
    pub itl_p50_ns: Option<i64>,
    /// 99th percentile of these gaps.
    pub itl_p99_ns: Option<i64>,
}

/// Shared between a run and whoever watches it.
#[derive(Debug, Default)]
pub struct LoadControl {
    cancel: AtomicBool,
    phase: AtomicU8,
    pub(crate) scheduled: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) first_tokens: AtomicU64,
    pub(crate) done: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) server_errors: AtomicU64,
    pub(crate) tokens: AtomicU64,
    pub(crate) in_flight: AtomicI64,
    latency: Mutex<LiveLatency>,
}

impl LoadControl {
    /// A control for one run.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the run within a few tens of milliseconds; records so far are kept.
    pub fn cancel(&self) {
        self.cancel.store(true, Relaxed);
    }

    /// The run was asked to end.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.load(Relaxed)
    }

    /// A reading of all counters; not a consistent cut.
    pub fn counts(&self) -> LiveCounts {
        let phase = match self.phase.load(Relaxed) {
            0 => LivePhase::Connecting,
            1 => LivePhase::Warming,
            2 => LivePhase::Measuring,
            3 => LivePhase::Draining,
            _ => LivePhase::Finished,
        };
        LiveCounts {
            phase,
            scheduled: self.scheduled.load(Relaxed),
            sent: self.sent.load(Relaxed),
            first_tokens: self.first_tokens.load(Relaxed),
            done: self.done.load(Relaxed),
            failed: self.failed.load(Relaxed),
            server_errors: self.server_errors.load(Relaxed),
            tokens: self.tokens.load(Relaxed),
            in_flight: self.in_flight.load(Relaxed),
        }
    }

    /// Recent latencies.
    pub fn latency(&self) -> LiveLatency {
        *self.latency.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_latency(&self, latency: LiveLatency) {
        *self.latency.lock().unwrap_or_else(PoisonError::into_inner) = latency;
    }

    /// Phases only advance: threads reach them at slightly different times.
    pub(crate) fn advance(&self, phase: LivePhase) {
        self.phase.fetch_max(phase as u8, Relaxed);
    }
}
