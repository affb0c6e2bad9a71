//! Numbers of one rank, all integers: what the device did, by class, family and step. Afterwards the trace itself is no
//! longer needed.

use std::collections::BTreeMap;
use std::sync::Arc;

use servelab_core::trace::interval::{Interval, IntervalSet};
use servelab_core::trace::{CommFamily, KindTime, Place, StreamSummary, TraceWarning};

use super::classes::{COMPUTE_SET, COPY_SET, Classes};
use super::idle::{Idle, Queue, idle, queue};
use super::sweep::Coverage;
use super::window::{self, Step};
use crate::model::{Collective, DeviceEvent, DeviceKind, RankMeta, RankTrace, Totals};
use crate::names::NameId;
use crate::taxonomy::Taxonomy;

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct RankAnalysis {
    /// Facts of the trace.
    pub meta: RankMeta,
    /// Counts over the file.
    pub totals: Totals,
    /// What limits it.
    pub warnings: Vec<TraceWarning>,
    /// What the device did; `None` without a device event.
    pub device: Option<DeviceAnalysis>,
    /// CPU-side communication by family.
    pub host: BTreeMap<String, CommFamily>,
    /// Steps, in order.
    pub steps: Vec<Step>,
    /// Communication, in order of its start.
    pub calls: Vec<CommCall>,
    /// Kernels that sound like communication and are not known as such.
    pub suspects: Vec<String>,
}

/// What one device did.
#[derive(Debug, Clone, Default)]
pub struct DeviceAnalysis {
    /// First start to last end.
    pub span_ns: i64,
    /// Union of everything.
    pub busy_ns: i64,
    /// Union of computation.
    pub compute_ns: i64,
    /// Union of communication.
    pub comm_ns: i64,
    /// Of it, without computation.
    pub exposed_comm_ns: i64,
    /// Of it, with computation.
    pub hidden_comm_ns: i64,
    /// Union of copies.
    pub copy_ns: i64,
    /// Of it, without computation and communication.
    pub exposed_copy_ns: i64,
    /// Communication by family.
    pub comm: BTreeMap<String, CommFamily>,
    /// Calls and time by kernel name, with its family.
    pub kernels: BTreeMap<String, KernelTotal>,
    /// Number of kernels.
    pub kernel_count: u64,
    /// Σ of their durations.
    pub kernel_ns: i64,
    /// Copies and memsets.
    pub copies: u64,
    /// Σ of bytes of copies that say how many, and of their durations.
    pub copied: (u64, i64),
    /// Why it was idle.
    pub idle: Idle,
    /// Launches against starts.
    pub queue: Option<Queue>,
    /// Σ min(blocks / SMs, 1) · duration, and Σ duration of kernels with a grid.
    pub coverage: Option<(f64, i64)>,
    /// Number and Σ of gaps between stretches of communication.
    pub comm_gaps: (u64, i64),
    /// Name of the device that ran most.
    pub gpu: Option<String>,
    /// What ran on each stream, the busiest first.
    pub streams: Vec<StreamSummary>,
}

/// Calls and time of one kernel name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelTotal {
    /// Family; communication families are called `comm`.
    pub family: String,
    /// Calls.
    pub calls: u64,
    /// Σ of durations.
    pub sum_ns: i64,
}

/// One communication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommCall {
    /// Family.
    pub family: Arc<str>,
    /// Library.
    pub library: Arc<str>,
    /// Kind; empty when unknown.
    pub kind: Arc<str>,
    /// Process group, when the trace names it.
    pub group: Option<Arc<str>>,
    /// What tells the group from others across ranks: its name with its ranks, or the ranks of the parallel group that the
    /// trace's configuration gives for this kind of call. `None` when nothing says who takes part.
    pub members: Option<Arc<str>>,
    /// Ranks in it.
    pub group_size: Option<u32>,
    /// Sequence number in it.
    pub seq: Option<u64>,
    /// Bytes of one message.
    pub bytes: Option<u64>,
    /// Start.
    pub start_ns: i64,
    /// Length.
    pub dur_ns: i64,
    /// Step it belongs to.
    pub step: Option<u32>,
    /// Device or host.
    pub place: Place,
}

/// Analyses one trace.
pub fn analyse(trace: &RankTrace, taxonomy: &Taxonomy) -> RankAnalysis {
    let markers = window::choose(&trace.markers);
    let owners = window::assign(trace, &markers);
    let mut work: Vec<Option<(i64, i64)>> = vec![None; markers.len()];
    for (event, owner) in trace.device.iter().zip(&owners) {
        if let Some(work) = owner.and_then(|step| work.get_mut(step as usize)) {
            let (start, end) = work.unwrap_or((event.start_ns, event.end_ns()));
            *work = Some((start, end.max(event.end_ns())));
        }
    }
    let mut out = RankAnalysis {
        meta: trace.meta.clone(),
        totals: trace.totals.clone(),
        warnings: trace.warnings.clone(),
        steps: window::times(&markers, &work),
        ..RankAnalysis::default()
    };
    if !trace.device.is_empty() {
        let classes = Classes::of(trace, taxonomy);
        device_steps(trace, &classes, &owners, &mut out.steps);
        out.calls = device_calls(trace, &classes, &owners, taxonomy);
        out.device = Some(device(trace, &classes, &out.calls));
        out.suspects = suspects(trace, &classes);
    }
    host(trace, taxonomy, &mut out);
    if trace.device.is_empty() {
        // Two sorts of calls in one list could not be told apart when ranks are compared.
        out.calls = host_calls(trace, taxonomy, &out.steps);
    }
    out
}

fn interval(event: &DeviceEvent) -> Interval {
    Interval::new(event.start_ns, event.end_ns())
}

fn device(trace: &RankTrace, classes: &Classes, calls: &[CommCall]) -> DeviceAnalysis {
    let coverage = Coverage::of(trace.device.iter().map(|event| (interval(event), classes.bit(event))));
    let comm_set = classes.comm_set();
    let mut out = DeviceAnalysis {
        span_ns: coverage.span(),
        busy_ns: coverage.any_of(!0),
        compute_ns: coverage.any_of(COMPUTE_SET),
        comm_ns: coverage.any_of(comm_set),
        exposed_comm_ns: coverage.any_without(comm_set, COMPUTE_SET),
        hidden_comm_ns: coverage.both(comm_set, COMPUTE_SET),
        copy_ns: coverage.any_of(COPY_SET),
        exposed_copy_ns: coverage.any_without(COPY_SET, COMPUTE_SET | comm_set),
        idle: idle(trace),
        queue: queue(trace),
        comm_gaps: gaps(calls),
        ..DeviceAnalysis::default()
    };
    for (idx, class) in classes.comm.iter().enumerate() {
        let set = Classes::family_set(idx);
        let family = out.comm.entry(class.family.clone()).or_default();
        family.union_ns = coverage.any_of(set);
        family.exposed_ns = coverage.any_without(set, COMPUTE_SET);
        family.library.clone_from(&class.library);
        family.is_fused = class.is_fused;
    }
    for call in calls {
        if let Some(family) = out.comm.get_mut(call.family.as_ref()) {
            count(family, call);
        }
    }
    kernels(trace, classes, &mut out);
    out.streams = streams(trace);
    out
}

/// What each stream did; events are ascending by start.
fn streams(trace: &RankTrace) -> Vec<StreamSummary> {
    let mut ends = vec![i64::MIN; trace.lanes.len()];
    let mut out: Vec<StreamSummary> = trace
        .lanes
        .iter()
        .map(|lane| StreamSummary { device: lane.device, stream: lane.stream, ..StreamSummary::default() })
        .collect();
    for event in &trace.device {
        let lane = usize::from(event.lane);
        if let (Some(stream), Some(until)) = (out.get_mut(lane), ends.get_mut(lane)) {
            stream.events += 1;
            stream.sum_ns = stream.sum_ns.saturating_add(event.dur_ns);
            let from = event.start_ns.max(*until);
            stream.busy_ns = stream.busy_ns.saturating_add(event.end_ns().saturating_sub(from).max(0));
            *until = event.end_ns().max(*until);
        }
    }
    out.sort_by_key(|stream| (std::cmp::Reverse(stream.busy_ns), stream.device, stream.stream));
    out
}

fn count(family: &mut CommFamily, call: &CommCall) {
    family.calls += 1;
    family.sum_ns = family.sum_ns.saturating_add(call.dur_ns);
    let kind = if call.kind.is_empty() { "unknown" } else { &call.kind };
    let kind: &mut KindTime = family.kinds.entry(kind.to_owned()).or_default();
    kind.calls += 1;
    kind.sum_ns = kind.sum_ns.saturating_add(call.dur_ns);
}

/// Number and Σ of gaps between stretches of communication; calls are ascending by start.
fn gaps(calls: &[CommCall]) -> (u64, i64) {
    let (mut number, mut sum, mut until) = (0, 0_i64, None);
    for call in calls {
        let end = call.start_ns.saturating_add(call.dur_ns);
        if let Some(until) = until.filter(|until| call.start_ns > *until) {
            number += 1;
            sum = sum.saturating_add(call.start_ns.saturating_sub(until));
        }
        until = Some(until.map_or(end, |until: i64| until.max(end)));
    }
    (number, sum)
}

fn kernels(trace: &RankTrace, classes: &Classes, out: &mut DeviceAnalysis) {
    let mut by_name: Vec<(u64, i64)> = vec![(0, 0); trace.names.len()];
    let mut by_device: BTreeMap<u32, i64> = BTreeMap::new();
    let (mut covered, mut with_grid, mut has_size) = (0.0, 0_i64, false);
    let sizes: Vec<(u32, Option<u32>)> = trace
        .lanes
        .iter()
        .map(|lane| (lane.device, trace.meta.devices.get(&lane.device).and_then(|facts| facts.multiprocessors)))
        .collect();
    for event in &trace.device {
        if matches!(event.kind, DeviceKind::Copy | DeviceKind::Set) {
            out.copies += 1;
            continue;
        }
        if event.kind == DeviceKind::Graph {
            continue;
        }
        out.kernel_count += 1;
        out.kernel_ns = out.kernel_ns.saturating_add(event.dur_ns);
        if let Some((calls, sum_ns)) = by_name.get_mut(event.name.0 as usize) {
            *calls += 1;
            *sum_ns = sum_ns.saturating_add(event.dur_ns);
        }
        let Some(&(device, size)) = sizes.get(usize::from(event.lane)) else { continue };
        let sum = by_device.entry(device).or_default();
        *sum = sum.saturating_add(event.dur_ns);
        if let Some(size) = size {
            has_size = true;
            if event.blocks > 0 {
                #[expect(clippy::cast_precision_loss, reason = "a share of a whole trace")]
                let dur = event.dur_ns as f64;
                covered += (f64::from(event.blocks) / f64::from(size)).min(1.0) * dur;
                with_grid = with_grid.saturating_add(event.dur_ns);
            }
        }
    }
    out.coverage = (has_size && with_grid > 0).then_some((covered, with_grid));
    for ((id, name), (calls, sum_ns)) in trace.names.iter().zip(by_name) {
        let Some(kernel) = classes.kernel(id) else { continue };
        let family = if kernel.class.class.is_comm() { "comm" } else { kernel.class.family.as_str() };
        let total = out.kernels.entry(name.to_owned()).or_default();
        total.family = family.to_owned();
        total.calls += calls;
        total.sum_ns = total.sum_ns.saturating_add(sum_ns);
    }
    for (name, traffic) in &trace.traffic {
        // Memsets move nothing between memories.
        if !trace.names.get(*name).to_ascii_lowercase().contains("memset") {
            out.copied.0 = out.copied.0.saturating_add(traffic.bytes);
            out.copied.1 = out.copied.1.saturating_add(traffic.sized_ns);
        }
    }
    let busiest = by_device.iter().max_by_key(|(_, sum)| **sum).map(|(device, _)| *device);
    let facts = busiest.and_then(|device| trace.meta.devices.get(&device));
    out.gpu = facts.map(|facts| facts.name.clone()).filter(|name| !name.is_empty());
}

fn suspects(trace: &RankTrace, classes: &Classes) -> Vec<String> {
    let names = trace.names.iter();
    names
        .filter(|(id, _)| classes.kernel(*id).is_some_and(|kernel| kernel.class.is_suspect))
        .map(|(_, name)| name.to_owned())
        .collect()
}

fn device_steps(trace: &RankTrace, classes: &Classes, owners: &[Option<u32>], steps: &mut [Step]) {
    let mut by_step: Vec<Vec<u32>> = vec![Vec::new(); steps.len()];
    for (idx, owner) in owners.iter().enumerate() {
        if let (Some(list), Ok(idx)) = (owner.and_then(|step| by_step.get_mut(step as usize)), u32::try_from(idx)) {
            list.push(idx);
        }
    }
    let comm_set = classes.comm_set();
    for (step, list) in steps.iter_mut().zip(by_step) {
        let events = || list.iter().filter_map(|idx| trace.device.get(*idx as usize));
        let coverage = Coverage::of(events().map(|event| (interval(event), classes.bit(event))));
        let load = &mut step.load;
        for event in events().filter(|event| event.kind == DeviceKind::Kernel) {
            load.kernels += 1;
            if classes.kernel(event.name).is_some_and(|kernel| kernel.class.class.is_comm()) {
                load.comm_calls += 1;
                load.comm_sum_ns = load.comm_sum_ns.saturating_add(event.dur_ns);
            }
        }
        load.comm_union_ns = coverage.any_of(comm_set);
        load.comm_exposed_ns = coverage.any_without(comm_set, COMPUTE_SET);
        load.compute_ns = coverage.any_of(COMPUTE_SET);
    }
}

/// Texts that calls share.
#[derive(Default)]
struct Texts(BTreeMap<String, Arc<str>>);

impl Texts {
    fn get(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.0.get(text) {
            return Arc::clone(known);
        }
        let new: Arc<str> = Arc::from(text);
        self.0.insert(text.to_owned(), Arc::clone(&new));
        new
    }
}

fn device_calls(trace: &RankTrace, classes: &Classes, owners: &[Option<u32>], taxonomy: &Taxonomy) -> Vec<CommCall> {
    let mut texts = Texts::default();
    let mut out = Vec::new();
    for (event, owner) in trace.device.iter().zip(owners) {
        let Some(kernel) = classes.kernel(event.name).filter(|kernel| kernel.class.class.is_comm()) else { continue };
        let args = arguments(trace, event.name, event.start_ns, event.dur_ns);
        // What the collective says of itself beats what its kernel is called: RCCL has one generic kernel for all.
        let said = args.map(|args| trace.names.get(args.kind).to_ascii_lowercase());
        let kind = match &said {
            Some(said) => taxonomy.kind(said).unwrap_or(said),
            None => kernel.class.kind.as_str(),
        };
        let bytes = args.and_then(message_bytes);
        out.push(CommCall {
            family: texts.get(&kernel.class.family),
            library: texts.get(&kernel.class.library),
            kind: texts.get(kind),
            group: args.and_then(|args| args.group).map(|group| texts.get(trace.names.get(group))),
            members: members(trace, args, kind).map(|members| texts.get(&members)),
            group_size: args.and_then(|args| args.group_size),
            seq: args.and_then(|args| args.seq),
            bytes,
            start_ns: event.start_ns,
            dur_ns: event.dur_ns,
            step: *owner,
            place: Place::Device,
        });
    }
    out
}

/// See [`CommCall::members`].
fn members(trace: &RankTrace, args: Option<&Collective>, kind: &str) -> Option<String> {
    if let Some(group) = args.and_then(|args| args.group) {
        let name = trace.names.get(group);
        let ranks = args.and_then(|args| args.group_ranks).map(|ranks| trace.names.get(ranks).to_owned());
        let known = || trace.meta.groups.get(name).map(|(_, ranks)| format!("{ranks:?}"));
        return Some(format!("{name} {}", ranks.or_else(known).unwrap_or_default()));
    }
    // Custom kernels and those in graphs name no group; tensor and expert parallelism each have one that this rank is in.
    let own = trace.meta.rank?;
    let wanted = if matches!(kind, "dispatch" | "combine" | "notify") { "ep" } else { "tp" };
    let mut fitting = trace.meta.groups.values().filter(|(description, ranks)| {
        let description = description.to_ascii_lowercase();
        let description = description.trim_start_matches("mesh_");
        let is_wanted = description == wanted
            || description.strip_prefix(wanted).is_some_and(|rest| rest.starts_with([':', '_', ' ', '-']));
        is_wanted && ranks.len() > 1 && ranks.contains(&own)
    });
    let (_, ranks) = fitting.next()?;
    fitting.next().is_none().then(|| format!("{wanted} {ranks:?}"))
}

/// The arguments that stand at a kernel or a call.
fn arguments(trace: &RankTrace, name: NameId, start_ns: i64, dur_ns: i64) -> Option<&Collective> {
    let first = trace.collectives.partition_point(|args| args.start_ns < start_ns);
    let same_start = trace.collectives.get(first..)?.iter().take_while(|args| args.start_ns == start_ns);
    same_start.into_iter().find(|args| args.name == name && args.dur_ns == dur_ns)
}

/// Bytes of one message: the larger of input and output.
fn message_bytes(args: &Collective) -> Option<u64> {
    let elements = args.in_elements.unwrap_or(0).max(args.out_elements.unwrap_or(0));
    elements.checked_mul(u64::from(args.element_bytes?)).filter(|bytes| *bytes > 0)
}

fn host_calls(trace: &RankTrace, taxonomy: &Taxonomy, steps: &[Step]) -> Vec<CommCall> {
    let mut texts = Texts::default();
    let mut out = Vec::new();
    for call in &trace.host_comm {
        let Some(class) = taxonomy.host_call(trace.names.get(call.name)) else { continue };
        let after = steps.partition_point(|step| step.start_ns <= call.start_ns);
        let step = after.checked_sub(1).and_then(|idx| {
            let step = steps.get(idx)?;
            (call.start_ns < step.start_ns.saturating_add(step.marker_ns)).then(|| u32::try_from(idx).ok())?
        });
        // Only an execution trace tells what a call on the host moved.
        let args = arguments(trace, call.name, call.start_ns, call.dur_ns);
        out.push(CommCall {
            family: texts.get(&class.family),
            library: texts.get(&class.library),
            kind: texts.get(&class.kind),
            group: args.and_then(|args| args.group).map(|group| texts.get(trace.names.get(group))),
            members: members(trace, args, &class.kind).map(|members| texts.get(&members)),
            group_size: args.and_then(|args| args.group_size),
            seq: None,
            bytes: args.and_then(message_bytes),
            start_ns: call.start_ns,
            dur_ns: call.dur_ns,
            step,
            place: Place::Host,
        });
    }
    out
}

fn host(trace: &RankTrace, taxonomy: &Taxonomy, out: &mut RankAnalysis) {
    let calls = host_calls(trace, taxonomy, &out.steps);
    let whole = |call: &CommCall| Interval::new(call.start_ns, call.start_ns.saturating_add(call.dur_ns));
    for call in &calls {
        let family = out.host.entry(call.family.to_string()).or_default();
        family.place = Place::Host;
        family.library = call.family.to_string();
        count(family, call);
    }
    for (name, family) in &mut out.host {
        let union: IntervalSet = calls.iter().filter(|call| call.family.as_ref() == name).map(whole).collect();
        family.union_ns = union.length();
        family.exposed_ns = family.union_ns;
    }
    let has_device = out.device.is_some();
    let union: IntervalSet = calls.iter().map(whole).collect();
    for step in &mut out.steps {
        let window = Interval::new(step.start_ns, step.start_ns.saturating_add(step.marker_ns));
        step.load.host_comm_ns = union.intersect(&IntervalSet::from_iter([window])).length();
    }
    if !has_device {
        for call in &calls {
            if let Some(step) = call.step.and_then(|step| out.steps.get_mut(step as usize)) {
                step.load.comm_calls += 1;
            }
        }
    }
}
