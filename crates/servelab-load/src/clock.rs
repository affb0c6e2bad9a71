//! The one monotonic clock of a run: an epoch that ties CLOCK_MONOTONIC to the wall clock once, and readings relative
//! to it. Every stamp of every record comes from here. Sleeping and pacing live in `engine`.

use rustix::time::{ClockId, clock_gettime};
use servelab_core::record::ClockEpoch;

fn read_ns(clock: ClockId) -> i64 {
    let now = clock_gettime(clock);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

/// An epoch at this instant. Make one per run and hand it to everything that stamps.
pub fn new_epoch() -> ClockEpoch {
    ClockEpoch { epoch_monotonic_ns: read_ns(ClockId::Monotonic), epoch_unix_ns: read_ns(ClockId::Realtime) }
}

/// CLOCK_MONOTONIC now, in nanoseconds.
pub fn monotonic_ns() -> i64 {
    read_ns(ClockId::Monotonic)
}

/// Nanoseconds since the epoch.
pub fn now_ns(epoch: ClockEpoch) -> i64 {
    read_ns(ClockId::Monotonic) - epoch.epoch_monotonic_ns
}

/// CPU time of the calling thread (user and system) in nanoseconds.
pub(crate) fn thread_cpu_ns() -> i64 {
    read_ns(ClockId::ThreadCPUTime)
}
