//! Why a device was idle, and how far the host was ahead of it.

use crate::model::RankTrace;

/// Idle time by cause.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Idle {
    /// The call that launched the next event had not begun.
    pub host_ns: i64,
    /// From the beginning of that call to the event's start.
    pub launch_ns: i64,
    /// The call had begun before the device went idle.
    pub dependency_ns: i64,
    /// The launch is not in the trace.
    pub unknown_ns: i64,
}

/// Launches against starts.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Queue {
    /// Launches that have a device event.
    pub launches: u64,
    /// Σ of first start − beginning of the call.
    pub delay_ns: i64,
    /// Time-mean of events launched and not yet started.
    pub mean: f64,
    /// Largest such number.
    pub max: u64,
    /// Kernels that a graph launch started.
    pub graph_kernels: u64,
}

/// Splits the gaps between stretches of device work. Events must be ascending by start.
pub fn idle(trace: &RankTrace) -> Idle {
    let mut out = Idle::default();
    let mut busy_until: Option<i64> = None;
    for event in &trace.device {
        if let Some(until) = busy_until.filter(|until| event.start_ns > *until) {
            let gap = event.start_ns.saturating_sub(until);
            match trace.launch_of(event) {
                None => out.unknown_ns = out.unknown_ns.saturating_add(gap),
                Some(launch) if launch.start_ns <= until => out.dependency_ns = out.dependency_ns.saturating_add(gap),
                Some(launch) => {
                    let host = launch.start_ns.min(event.start_ns).saturating_sub(until);
                    out.host_ns = out.host_ns.saturating_add(host);
                    out.launch_ns = out.launch_ns.saturating_add(gap.saturating_sub(host));
                }
            }
        }
        busy_until = Some(busy_until.map_or(event.end_ns(), |until| until.max(event.end_ns())));
    }
    out
}

/// How far the host was ahead. A launch counts once, at its first device event, however many kernels its graph has.
pub fn queue(trace: &RankTrace) -> Option<Queue> {
    let mut out = Queue::default();
    let mut is_seen = vec![false; trace.launches.len()];
    // Times at which something enters and leaves the queue: the largest lists of the whole analysis, so nothing else is in them.
    let (mut enters, mut leaves): (Vec<i64>, Vec<i64>) = (Vec::new(), Vec::new());
    for event in &trace.device {
        let Some(launch) = trace.launch_of(event) else { continue };
        if trace.graph_correlations.binary_search(&event.correlation).is_ok() {
            out.graph_kernels += 1;
        }
        let idx = trace.launches.partition_point(|known| known.correlation < launch.correlation);
        let Some(seen) = is_seen.get_mut(idx) else { continue };
        if std::mem::replace(seen, true) {
            continue;
        }
        out.launches += 1;
        out.delay_ns = out.delay_ns.saturating_add(event.start_ns.saturating_sub(launch.start_ns));
        // Clocks of host and device may disagree by a little: an event never leaves a queue before it entered.
        enters.push(launch.start_ns);
        leaves.push(event.start_ns.max(launch.start_ns));
    }
    if out.launches == 0 {
        return None;
    }
    enters.sort_unstable();
    leaves.sort_unstable();
    let (first, last) = (enters.first().copied().unwrap_or(0), leaves.last().copied().unwrap_or(0));
    let (mut length, mut area, mut at): (u64, f64, i64) = (0, 0.0, first);
    let mut entering = enters.into_iter().peekable();
    for leave in leaves {
        // At the same instant entering comes first: nothing leaves that did not enter.
        while let Some(enter) = entering.next_if(|enter| *enter <= leave) {
            area += waited(length, at, enter);
            length += 1;
            out.max = out.max.max(length);
            at = enter;
        }
        area += waited(length, at, leave);
        length = length.saturating_sub(1);
        at = leave;
    }
    let span = last.saturating_sub(first);
    #[expect(clippy::cast_precision_loss, reason = "a mean over a whole trace")]
    if span > 0 {
        out.mean = area / span as f64;
    }
    Some(out)
}

#[expect(clippy::cast_precision_loss, reason = "a mean over a whole trace")]
fn waited(length: u64, from: i64, to: i64) -> f64 {
    length as f64 * to.saturating_sub(from) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DeviceEvent, DeviceKind, Launch};
    use crate::names::NameId;

    fn event(start_ns: i64, dur_ns: i64, correlation: u32) -> DeviceEvent {
        DeviceEvent { start_ns, dur_ns, name: NameId(0), correlation, blocks: 0, lane: 0, kind: DeviceKind::Kernel }
    }

    #[test]
    fn gaps_are_split_by_who_was_late() {
        let mut trace = RankTrace {
            device: vec![event(100, 10, 1), event(112, 8, 2), event(140, 10, 3), event(155, 5, 9), event(158, 1, 9)],
            launches: vec![
                Launch { correlation: 1, start_ns: 90, dur_ns: 5 },
                Launch { correlation: 2, start_ns: 95, dur_ns: 5 },
                Launch { correlation: 3, start_ns: 130, dur_ns: 5 },
            ],
            ..RankTrace::default()
        };
        trace.finish();
        let found = idle(&trace);
        assert_eq!(found, Idle { dependency_ns: 2, host_ns: 10, launch_ns: 10, unknown_ns: 5 });
        let found = queue(&trace).unwrap();
        // Events wait 10, 17 and 10 ns in the queue, over 50 ns.
        assert_eq!((found.launches, found.delay_ns, found.max), (3, 37, 2));
        assert!((found.mean - 37.0 / 50.0).abs() < 1e-12);
        assert_eq!(queue(&RankTrace::default()), None);
    }
}
