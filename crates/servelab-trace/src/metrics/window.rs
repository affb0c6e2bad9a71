//! Steps of one rank: which markers count, which device events belong to each, how long each took.

use crate::model::{DeviceEvent, Marker, RankTrace};
use crate::steps::StepName;

/// Fewest markers of which the first and the last can be spared.
const ENOUGH_STEPS: usize = 3;

/// One step of one rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// What its marker says.
    pub name: StepName,
    /// Start of the marker.
    pub start_ns: i64,
    /// Length of the marker.
    pub marker_ns: i64,
    /// See `step_time` in the catalogue.
    pub time_ns: i64,
    /// True unless it is the first or last of enough.
    pub is_used: bool,
    /// What ran inside it.
    pub load: StepLoad,
}

/// What ran inside a step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StepLoad {
    /// Kernels.
    pub kernels: u64,
    /// Communication kernels, or CPU-side calls.
    pub comm_calls: u64,
    /// Σ of communication.
    pub comm_sum_ns: i64,
    /// Union of communication.
    pub comm_union_ns: i64,
    /// Of it, without computation of the same step.
    pub comm_exposed_ns: i64,
    /// Union of computation.
    pub compute_ns: i64,
    /// Union of CPU-side communication.
    pub host_comm_ns: i64,
}

/// Markers that stand for steps: of the best kind present, none inside another.
pub fn choose(markers: &[Marker]) -> Vec<Marker> {
    let Some(best) = markers.iter().map(|marker| marker.step.kind).max() else { return Vec::new() };
    let mut out: Vec<Marker> = Vec::new();
    for marker in markers.iter().filter(|marker| marker.step.kind == best) {
        if out.last().is_none_or(|last| marker.start_ns >= last.end_ns) {
            out.push(*marker);
        }
    }
    out
}

/// For each device event, the step it belongs to.
pub fn assign(trace: &RankTrace, markers: &[Marker]) -> Vec<Option<u32>> {
    let at = |time: i64| {
        let after = markers.partition_point(|marker| marker.start_ns <= time);
        let idx = after.checked_sub(1)?;
        markers.get(idx).filter(|marker| time < marker.end_ns)?;
        u32::try_from(idx).ok()
    };
    if trace.are_markers_on_device {
        return trace.device.iter().map(|event| at(event.start_ns)).collect();
    }
    let has_launches = !trace.launches.is_empty();
    let step = |event: &DeviceEvent| match trace.launch_of(event) {
        Some(launch) => at(launch.start_ns),
        // With launches in the trace, an event without one came from outside what was recorded.
        None if has_launches => None,
        None => at(event.start_ns),
    };
    trace.device.iter().map(step).collect()
}

/// Steps with their times; `work` is the first start and the last end of device work of each.
pub fn times(markers: &[Marker], work: &[Option<(i64, i64)>]) -> Vec<Step> {
    let mut previous_end: Option<i64> = None;
    let count = markers.len();
    let mut out = Vec::with_capacity(count);
    for (idx, marker) in markers.iter().enumerate() {
        let work = work.get(idx).copied().flatten();
        let end = work.map_or(marker.end_ns, |(_, end)| end.max(marker.end_ns));
        let start = match (previous_end, work) {
            (Some(previous), _) => marker.start_ns.max(previous),
            // Before the first step's work the device was at work that the trace does not show.
            (None, Some((first, _))) if first > marker.end_ns => first,
            (None, _) => marker.start_ns,
        };
        out.push(Step {
            name: marker.step,
            start_ns: marker.start_ns,
            marker_ns: marker.end_ns.saturating_sub(marker.start_ns),
            time_ns: end.saturating_sub(start).max(0),
            is_used: count < ENOUGH_STEPS || (idx > 0 && idx + 1 < count),
            load: StepLoad::default(),
        });
        previous_end = Some(previous_end.map_or(end, |previous| previous.max(end)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::NameId;
    use crate::steps;

    fn marker(name: &str, start_ns: i64, end_ns: i64) -> Marker {
        Marker { name: NameId(0), start_ns, end_ns, step: steps::parse(name).unwrap() }
    }

    #[test]
    fn the_marker_with_counts_wins_and_nested_ones_are_dropped() {
        let markers = [
            marker("ProfilerStep#1", 0, 100),
            marker("step[DECODE bs=1]", 1, 40),
            marker("step[DECODE bs=1]", 2, 30),
            marker("run_batch", 3, 20),
            marker("step[DECODE bs=1]", 40, 60),
        ];
        let chosen = choose(&markers);
        assert_eq!(chosen.iter().map(|marker| marker.start_ns).collect::<Vec<_>>(), [1, 40]);
        assert!(choose(&[]).is_empty());
    }

    #[test]
    fn a_step_ends_with_its_device_work_and_never_counts_time_twice() {
        let markers = [marker("run_batch", 0, 10), marker("run_batch", 10, 20), marker("run_batch", 20, 30)];
        let steps = times(&markers, &[Some((2, 18)), Some((18, 25)), Some((25, 29))]);
        let found: Vec<(i64, bool)> = steps.iter().map(|step| (step.time_ns, step.is_used)).collect();
        assert_eq!(found, [(18, false), (7, true), (5, false)]);
        let alone = times(&markers[..2], &[None, None]);
        assert!(alone.iter().all(|step| step.is_used && step.time_ns == 10));
        // The device was busy with something else until 15.
        let late = times(&markers[..2], &[Some((15, 21)), Some((21, 30))]);
        assert_eq!(late.iter().map(|step| step.time_ns).collect::<Vec<_>>(), [6, 9]);
    }
}
