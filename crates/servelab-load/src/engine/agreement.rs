//! What all threads of a run agree on: the window, its end, how the first sends are spread. Atomics only.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed, Ordering::SeqCst};

use crate::spec::Stop;

const UNKNOWN: i64 = i64::MAX;

/// Shared by the threads of a run.
#[derive(Debug)]
pub(crate) struct Agreement {
    /// Smallest slot instant of a window request.
    window_start_ns: AtomicI64,
    /// End of the window once known.
    stop_ns: AtomicI64,
    /// First instant at which a slot found no request left.
    ran_out_ns: AtomicI64,
    spread_start_ns: AtomicI64,
    spread_ns: AtomicI64,
    is_satisfied: AtomicBool,
    duration_ns: Option<i64>,
}

impl Agreement {
    pub(crate) fn new(stop: Stop) -> Self {
        let duration_ns = match stop {
            Stop::Duration { ns } => Some(ns),
            Stop::AllRequests | Stop::Steady { .. } | Stop::WhenEnough { .. } => None,
        };
        Self {
            window_start_ns: AtomicI64::new(UNKNOWN),
            stop_ns: AtomicI64::new(UNKNOWN),
            ran_out_ns: AtomicI64::new(UNKNOWN),
            spread_start_ns: AtomicI64::new(UNKNOWN),
            spread_ns: AtomicI64::new(0),
            is_satisfied: AtomicBool::new(false),
            duration_ns,
        }
    }

    /// The condition for an early end of the window holds.
    pub(crate) fn satisfy(&self) {
        self.is_satisfied.store(true, Relaxed);
    }

    pub(crate) fn is_satisfied(&self) -> bool {
        self.is_satisfied.load(Relaxed)
    }

    /// The window begins at `t_ns`, unless it began earlier.
    pub(crate) fn begin_window(&self, t_ns: i64) {
        let before = self.window_start_ns.fetch_min(t_ns, Relaxed);
        if let Some(duration) = self.duration_ns {
            self.stop_ns.fetch_min(before.min(t_ns) + duration, Relaxed);
        }
    }

    pub(crate) fn window_start_ns(&self) -> Option<i64> {
        known(&self.window_start_ns)
    }

    /// Ends the window at `t_ns`, unless it ends earlier.
    pub(crate) fn stop_at(&self, t_ns: i64) {
        self.stop_ns.fetch_min(t_ns, Relaxed);
    }

    pub(crate) fn stop_ns(&self) -> Option<i64> {
        known(&self.stop_ns)
    }

    pub(crate) fn has_stopped(&self, t_ns: i64) -> bool {
        t_ns >= self.stop_ns.load(Relaxed)
    }

    /// At `t_ns` something was free to send and nothing was left.
    pub(crate) fn run_out(&self, t_ns: i64) {
        self.ran_out_ns.fetch_min(t_ns, Relaxed);
    }

    pub(crate) fn ran_out_ns(&self) -> Option<i64> {
        known(&self.ran_out_ns)
    }

    /// The first sends begin at `start_ns` and are spread over `ns`; said once.
    pub(crate) fn set_spread(&self, start_ns: i64, ns: i64) {
        if self.spread().is_none() {
            self.spread_ns.store(ns, SeqCst);
            self.spread_start_ns.store(start_ns, SeqCst);
        }
    }

    /// Start and length of the spread, once known.
    pub(crate) fn spread(&self) -> Option<(i64, i64)> {
        let start_ns = Some(self.spread_start_ns.load(SeqCst)).filter(|t| *t != UNKNOWN)?;
        Some((start_ns, self.spread_ns.load(SeqCst)))
    }
}

fn known(cell: &AtomicI64) -> Option<i64> {
    Some(cell.load(Relaxed)).filter(|t| *t != UNKNOWN)
}
