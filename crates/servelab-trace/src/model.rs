//! What a reader makes of one rank's trace, whatever the format: device events in compact columns, launches, step markers,
//! host-side communication, and facts about the run. Times are i64 nanoseconds on the trace's own clock.

use std::collections::BTreeMap;

use servelab_core::trace::TraceWarning;

use crate::names::{NameId, Names};

/// One rank's trace.
#[derive(Debug, Clone, Default)]
pub struct RankTrace {
    /// Facts about the run and the file.
    pub meta: RankMeta,
    /// Names of everything below.
    pub names: Names,
    /// Device and stream by [`DeviceEvent::lane`].
    pub lanes: Vec<Lane>,
    /// Kernels, copies and memsets, in no particular order until [`RankTrace::finish`] sorted them by start.
    pub device: Vec<DeviceEvent>,
    /// Arguments of collectives that kernels (or CPU-side calls) carried.
    pub collectives: Vec<Collective>,
    /// Runtime and driver calls that put work on a device, by correlation after [`RankTrace::finish`].
    pub launches: Vec<Launch>,
    /// Correlations of graph launches.
    pub graph_correlations: Vec<u32>,
    /// Step markers, by start after [`RankTrace::finish`].
    pub markers: Vec<Marker>,
    /// True when the markers are those of the device: they hold its work, not the calls that launched it.
    pub are_markers_on_device: bool,
    /// Calls of CPU-side communication.
    pub host_comm: Vec<HostCall>,
    /// Bytes and time by kind of copy (`Memcpy HtoD …`, `Memset …`).
    pub traffic: BTreeMap<NameId, Traffic>,
    /// Counts and totals over the whole file.
    pub totals: Totals,
    /// What limits this trace.
    pub warnings: Vec<TraceWarning>,
}

/// Facts about the run and the file.
#[derive(Debug, Clone, Default)]
pub struct RankMeta {
    /// Path as given.
    pub path: String,
    /// kineto, nsys, …
    pub format: &'static str,
    /// The rank; readers leave it empty when the content does not say.
    pub rank: Option<u32>,
    /// Where the rank came from.
    pub rank_source: Option<&'static str>,
    /// Ranks of the run.
    pub world_size: Option<u32>,
    /// nccl, gloo, …
    pub backend: Option<String>,
    /// Host name.
    pub host: Option<String>,
    /// Process groups: name → (description, ranks).
    pub groups: BTreeMap<String, (String, Vec<u32>)>,
    /// Devices: number → name and multiprocessors.
    pub devices: BTreeMap<u32, DeviceFacts>,
    /// Wall-clock nanoseconds of time 0.
    pub base_unix_ns: Option<i64>,
    /// Versions and settings by name, as written.
    pub facts: BTreeMap<String, String>,
    /// Size on disk and after decompression.
    pub bytes: u64,
    /// Size after decompression.
    pub text_bytes: u64,
    /// True when the file ends early.
    pub is_truncated: bool,
    /// True when kernels inside graphs are missing from the trace (nsys in graph mode): device time is then of whole graphs.
    pub are_graphs_opaque: bool,
}

/// One device.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DeviceFacts {
    /// As the driver calls it; may be empty (ROCm).
    pub name: String,
    /// Multiprocessors (SMs or CUs).
    pub multiprocessors: Option<u32>,
}

/// A device and one of its streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane {
    /// Device number.
    pub device: u32,
    /// Stream number.
    pub stream: u32,
}

/// What ran on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeviceKind {
    /// A kernel.
    Kernel,
    /// A copy.
    Copy,
    /// A memset.
    Set,
    /// A whole graph whose kernels are not in the trace.
    Graph,
}

/// One event on a device: 32 bytes, because there are hundreds of thousands per gigabyte of trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceEvent {
    /// Start.
    pub start_ns: i64,
    /// Length, never negative.
    pub dur_ns: i64,
    /// Name.
    pub name: NameId,
    /// Links to the [`Launch`]; 0 when unknown. Wider numbers are cut to their low 32 bits on both sides.
    pub correlation: u32,
    /// Thread blocks of a kernel; 0 when unknown.
    pub blocks: u32,
    /// Index into [`RankTrace::lanes`].
    pub lane: u16,
    /// What it is.
    pub kind: DeviceKind,
}

impl DeviceEvent {
    /// First nanosecond after it.
    pub fn end_ns(&self) -> i64 {
        self.start_ns.saturating_add(self.dur_ns)
    }
}

/// Arguments of one collective.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Collective {
    /// Name of the kernel or call.
    pub name: NameId,
    /// Kind as the trace names it (`allreduce`, `_allgather_base`, …).
    pub kind: NameId,
    /// Process group, when named.
    pub group: Option<NameId>,
    /// Its ranks as the trace writes them: names of groups can repeat.
    pub group_ranks: Option<NameId>,
    /// How many ranks it has.
    pub group_size: Option<u32>,
    /// Elements into the collective on this rank.
    pub in_elements: Option<u64>,
    /// Elements out of it.
    pub out_elements: Option<u64>,
    /// Bytes of one element; `None` for an unknown type.
    pub element_bytes: Option<u32>,
    /// Sequence number within the group, when the trace has one.
    pub seq: Option<u64>,
    /// Start.
    pub start_ns: i64,
    /// Length.
    pub dur_ns: i64,
}

/// A call that put work on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Launch {
    /// Links to [`DeviceEvent::correlation`].
    pub correlation: u32,
    /// Length, cut at 4.29 s.
    pub dur_ns: u32,
    /// Start.
    pub start_ns: i64,
}

/// One step marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marker {
    /// Its name.
    pub name: NameId,
    /// Start.
    pub start_ns: i64,
    /// First nanosecond after it.
    pub end_ns: i64,
    /// What the name says.
    pub step: crate::steps::StepName,
}

/// One call of CPU-side communication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostCall {
    /// Its name.
    pub name: NameId,
    /// Start.
    pub start_ns: i64,
    /// Length.
    pub dur_ns: i64,
}

/// Copies of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// How many.
    pub calls: u64,
    /// Σ of durations.
    pub sum_ns: i64,
    /// Σ of bytes where given.
    pub bytes: u64,
    /// Σ of durations of those with bytes.
    pub sized_ns: i64,
}

/// Counts and totals over the whole file.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    /// Events of any kind.
    pub events: u64,
    /// Events by category.
    pub categories: BTreeMap<String, u64>,
    /// First start of any timed event.
    pub first_ns: Option<i64>,
    /// Last end of any timed event.
    pub last_ns: Option<i64>,
    /// Σ of durations of calls that wait for the device (cudaStreamSynchronize, …).
    pub sync_ns: i64,
    /// Such calls.
    pub sync_calls: u64,
    /// Communication operators seen on the host (record_param_comms, c10d::…): says what kernels are missing.
    pub comm_operators: u64,
    /// Σ of floating-point operations that operators carried, by [`Precision`].
    pub flops: [f64; 4],
    /// Operators that carried them.
    pub flop_operators: u64,
    /// Share of SMs active from hardware counters (nsys GPU_METRICS), 0–1.
    pub sm_active: Option<f64>,
}

/// Of the operands of a matrix product: what a GPU's peak depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// Eight bits.
    Fp8,
    /// Sixteen bits, BF16 or FP16.
    Half,
    /// 32 bits.
    Single,
    /// Not told, or another one.
    Unknown,
}

impl Precision {
    /// All, in the order of [`Totals::flops`].
    pub const ALL: [Self; 4] = [Self::Fp8, Self::Half, Self::Single, Self::Unknown];
}

impl RankTrace {
    /// The number of a lane, new or known.
    pub fn lane(&mut self, lane: Lane) -> u16 {
        // A trace has a handful of streams, and neighbours in the file are neighbours on a stream.
        let found = self.lanes.iter().rposition(|known| *known == lane);
        let idx = found.unwrap_or_else(|| {
            self.lanes.push(lane);
            self.lanes.len() - 1
        });
        u16::try_from(idx).unwrap_or(u16::MAX)
    }

    /// Notes that something timed happened.
    pub fn cover(&mut self, start_ns: i64, end_ns: i64) {
        let totals = &mut self.totals;
        totals.first_ns = Some(totals.first_ns.map_or(start_ns, |first| first.min(start_ns)));
        totals.last_ns = Some(totals.last_ns.map_or(end_ns, |last| last.max(end_ns)));
    }

    /// Adds a warning.
    pub fn warn(&mut self, code: &str, detail: impl Into<String>) {
        self.warnings.push(TraceWarning { code: code.to_owned(), detail: detail.into() });
    }

    /// Brings everything into the order that the metrics expect. Every reader calls it last.
    pub fn finish(&mut self) {
        self.device.sort_unstable_by_key(|event| (event.start_ns, event.dur_ns, event.lane, event.name));
        self.launches.sort_unstable();
        self.graph_correlations.sort_unstable();
        self.graph_correlations.dedup();
        self.markers.sort_by_key(|marker| (marker.start_ns, std::cmp::Reverse(marker.end_ns)));
        self.host_comm.sort_unstable_by_key(|call| (call.start_ns, call.dur_ns));
        self.collectives.sort_by_key(|collective| collective.start_ns);
    }

    /// The launch of a device event.
    pub fn launch_of(&self, event: &DeviceEvent) -> Option<&Launch> {
        if event.correlation == 0 {
            return None;
        }
        let idx = self.launches.partition_point(|launch| launch.correlation < event.correlation);
        self.launches.get(idx).filter(|launch| launch.correlation == event.correlation)
    }
}
