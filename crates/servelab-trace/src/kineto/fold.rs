//! Folds events into a [`RankTrace`] while they are scanned: device events, launches, step markers and host-side
//! communication are kept, everything else is counted and forgotten.

use super::args::{call_correlation, device, element_bytes, matmul_flops};
use super::header::header;
use super::number::integer;
use super::scan::{RawEvent, Visitor, pairs, unescape, unquoted};
use crate::model::{Collective, DeviceEvent, DeviceKind, HostCall, Lane, Launch, Marker, RankTrace};
use crate::names::NameId;
use crate::steps;
use crate::taxonomy::Taxonomy;

/// Categories that are counted; real traces have about twenty.
const MAX_CATEGORIES: usize = 64;

/// Events later than this are implausible: year 2096.
const MAX_TIME_NS: u64 = 4_000_000_000_000_000_000;
/// Longer events are implausible: 11 days.
const MAX_LENGTH_NS: u64 = 1_000_000_000_000_000;

/// Categories that are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Category {
    Kernel,
    Copy,
    Set,
    Runtime,
    Operator,
    Annotation,
    DeviceAnnotation,
    Metadata,
    Other,
}

fn category(ph: u8, cat: &[u8]) -> Category {
    if ph == b'M' {
        return Category::Metadata;
    }
    if ph != b'X' {
        return Category::Other;
    }
    match cat {
        b"cpu_op" | b"Operator" => Category::Operator,
        b"kernel" | b"Kernel" => Category::Kernel,
        b"cuda_runtime"
        | b"cuda_driver"
        | b"Runtime"
        | b"hip_runtime"
        | b"xpu_runtime"
        | b"privateuse1_runtime"
        | b"mtia_runtime"
        | b"musa_runtime" => Category::Runtime,
        b"gpu_memcpy" | b"Memcpy" => Category::Copy,
        b"gpu_memset" | b"Memset" => Category::Set,
        b"user_annotation" => Category::Annotation,
        b"gpu_user_annotation" => Category::DeviceAnnotation,
        _ => Category::Other,
    }
}

/// What a name of a runtime call or operator means; found once for each name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Role {
    #[default]
    Unknown,
    Nothing,
    Launch,
    GraphLaunch,
    Wait,
    HostComm,
    CommOperator,
    Product,
}

/// See the module.
pub struct Folder<'a> {
    taxonomy: &'a Taxonomy,
    trace: RankTrace,
    /// By number of the name; runtime calls and operators have different names.
    roles: Vec<Role>,
    /// Events by category: a dozen, and neighbours are often alike, so a list with the last ones in front is fastest.
    counts: Vec<(Vec<u8>, u64)>,
    /// Step markers seen on the device, used when the host's are missing.
    device_markers: Vec<Marker>,
    /// Events whose times cannot be.
    implausible: u64,
}

impl<'a> Folder<'a> {
    pub fn new(taxonomy: &'a Taxonomy) -> Self {
        Self {
            taxonomy,
            trace: RankTrace::default(),
            roles: Vec::new(),
            counts: Vec::new(),
            device_markers: Vec::new(),
            implausible: 0,
        }
    }

    pub fn into_trace(mut self) -> RankTrace {
        let counts = self.counts.into_iter();
        self.trace.totals.categories =
            counts.map(|(name, count)| (String::from_utf8_lossy(&name).into_owned(), count)).collect();
        let best = |markers: &[Marker]| markers.iter().map(|marker| marker.step.kind).max();
        if best(&self.device_markers) > best(&self.trace.markers) {
            self.trace.markers = merged(self.device_markers);
            self.trace.are_markers_on_device = true;
        }
        if self.implausible > 0 {
            let detail = format!("{} events with impossible times were left out", self.implausible);
            self.trace.warn("implausible_times", detail);
        }
        self.trace
    }

    fn count(&mut self, cat: &[u8]) {
        match self.counts.iter().position(|(known, _)| known == cat) {
            Some(idx) => {
                if let Some((_, count)) = self.counts.get_mut(idx) {
                    *count += 1;
                }
                if idx > 0 {
                    self.counts.swap(idx - 1, idx);
                }
            }
            // A file that gives every event a category of its own must not cost memory or time without end.
            None if self.counts.len() >= MAX_CATEGORIES => {}
            None => self.counts.push((cat.to_vec(), 1)),
        }
    }

    fn name(&mut self, raw: &[u8]) -> NameId {
        if memchr::memchr(b'\\', raw).is_some() {
            let clean = unescape(raw);
            return self.trace.names.intern_bytes(&clean);
        }
        self.trace.names.intern_bytes(raw)
    }

    fn role(&mut self, id: NameId, find: impl Fn(&Taxonomy, &str) -> Role) -> Role {
        let idx = id.0 as usize;
        if self.roles.len() <= idx {
            self.roles.resize(idx + 1, Role::Unknown);
        }
        let Some(role) = self.roles.get_mut(idx) else { return Role::Nothing };
        if *role == Role::Unknown {
            *role = find(self.taxonomy, self.trace.names.get(id));
        }
        *role
    }

    fn device(&mut self, event: &RawEvent<'_>, kind: DeviceKind, start_ns: i64, dur_ns: i64) {
        let args = device(event.args);
        let number = |text: &[u8]| integer(text).and_then(|n| u32::try_from(n).ok());
        let lane = Lane {
            device: args.device.or_else(|| number(event.pid)).unwrap_or(0),
            stream: args.stream.or_else(|| number(event.tid)).unwrap_or(0),
        };
        let lane = self.trace.lane(lane);
        let name = self.name(event.name);
        let list = &mut self.trace.device;
        if list.len() == list.capacity() {
            // Doubling would leave half of the largest list empty.
            list.reserve_exact(list.len() / 4 + 1024);
        }
        self.trace.device.push(DeviceEvent {
            start_ns,
            dur_ns,
            name,
            correlation: args.correlation,
            blocks: args.blocks,
            lane,
            kind,
        });
        if kind != DeviceKind::Kernel {
            let traffic = self.trace.traffic.entry(name).or_default();
            traffic.calls += 1;
            traffic.sum_ns = traffic.sum_ns.saturating_add(dur_ns);
            if let Some(bytes) = args.bytes {
                traffic.bytes = traffic.bytes.saturating_add(bytes);
                traffic.sized_ns = traffic.sized_ns.saturating_add(dur_ns);
            }
            return;
        }
        let given = args.collective;
        if let Some(kind) = given.kind {
            let kind = self.name(kind);
            let group = given.group.map(|group| self.name(group));
            let group_ranks = given.group_ranks.map(|ranks| self.name(ranks));
            self.trace.collectives.push(Collective {
                name,
                kind,
                group,
                group_ranks,
                group_size: given.group_size,
                in_elements: given.in_elements,
                out_elements: given.out_elements,
                element_bytes: given.dtype.and_then(element_bytes),
                seq: given.seq,
                start_ns,
                dur_ns,
            });
        }
    }

    fn runtime(&mut self, event: &RawEvent<'_>, start_ns: i64, dur_ns: i64) {
        let name = self.name(event.name);
        match self.role(name, |_, name| runtime_role(name)) {
            role @ (Role::Launch | Role::GraphLaunch) => {
                let correlation = call_correlation(event.args);
                if correlation == 0 {
                    return;
                }
                let dur_ns = u32::try_from(dur_ns).unwrap_or(u32::MAX);
                let list = &mut self.trace.launches;
                if list.len() == list.capacity() {
                    list.reserve_exact(list.len() / 4 + 1024);
                }
                self.trace.launches.push(Launch { correlation, dur_ns, start_ns });
                if role == Role::GraphLaunch {
                    self.trace.graph_correlations.push(correlation);
                }
            }
            Role::Wait => {
                self.trace.totals.sync_calls += 1;
                self.trace.totals.sync_ns = self.trace.totals.sync_ns.saturating_add(dur_ns);
            }
            _ => {}
        }
    }

    fn operator(&mut self, event: &RawEvent<'_>, start_ns: i64, dur_ns: i64) {
        let name = self.name(event.name);
        match self.role(name, operator_role) {
            Role::HostComm => self.trace.host_comm.push(HostCall { name, start_ns, dur_ns }),
            Role::CommOperator => self.trace.totals.comm_operators += 1,
            Role::Product => {
                if let Some((flops, precision)) = matmul_flops(event.name, event.args) {
                    if let Some(sum) = self.trace.totals.flops.get_mut(precision as usize) {
                        *sum += flops;
                    }
                    self.trace.totals.flop_operators += 1;
                }
            }
            _ => {}
        }
    }

    fn annotation(&mut self, event: &RawEvent<'_>, start_ns: i64, dur_ns: i64, is_on_device: bool) {
        let name = self.name(event.name);
        let text = self.trace.names.get(name);
        if let Some(step) = steps::parse(text) {
            let marker = Marker { name, start_ns, end_ns: start_ns.saturating_add(dur_ns), step };
            if is_on_device {
                self.device_markers.push(marker);
            } else {
                self.trace.markers.push(marker);
            }
            return;
        }
        if !is_on_device && self.role(name, operator_role) == Role::HostComm {
            self.trace.host_comm.push(HostCall { name, start_ns, dur_ns });
        }
    }

    /// `process_name` may say what a process is when nothing else does.
    fn metadata(&mut self, event: &RawEvent<'_>) {
        if event.name != b"process_name" || self.trace.meta.facts.contains_key("process") {
            return;
        }
        for (key, value) in pairs(event.args) {
            let text = unquoted(value);
            if key == b"name" && !text.is_empty() && text.len() < 100 {
                let text = String::from_utf8_lossy(&unescape(text)).into_owned();
                self.trace.meta.facts.insert("process".to_owned(), text);
            }
        }
    }
}

/// On the device, a marker stands once for each stream that worked under it.
fn merged(mut markers: Vec<Marker>) -> Vec<Marker> {
    markers.sort_by_key(|marker| (marker.start_ns, marker.end_ns));
    let mut out: Vec<Marker> = Vec::with_capacity(markers.len());
    for marker in markers {
        match out.last_mut().filter(|last| last.name == marker.name && marker.start_ns < last.end_ns) {
            Some(last) => last.end_ns = last.end_ns.max(marker.end_ns),
            None => out.push(marker),
        }
    }
    out
}

fn runtime_role(name: &str) -> Role {
    if name.contains("GraphLaunch") {
        Role::GraphLaunch
    } else if name.contains("Launch") || name.contains("Memcpy") || name.contains("Memset") {
        Role::Launch
    } else if name.contains("Synchronize") {
        Role::Wait
    } else {
        Role::Nothing
    }
}

fn operator_role(taxonomy: &Taxonomy, name: &str) -> Role {
    if matches!(name, "aten::mm" | "aten::addmm" | "aten::bmm" | "aten::baddbmm" | "aten::_scaled_mm") {
        Role::Product
    } else if name == "record_param_comms" || name.starts_with("c10d::") {
        Role::CommOperator
    } else if taxonomy.host_call(name).is_some() {
        Role::HostComm
    } else {
        Role::Nothing
    }
}

impl Visitor for Folder<'_> {
    fn header(&mut self, key: &[u8], value: &[u8]) {
        header(&mut self.trace.meta, key, value);
    }

    fn skips(&mut self, ph: u8, cat: &[u8]) -> bool {
        self.count(cat);
        category(ph, cat) == Category::Other
    }

    fn event(&mut self, event: &RawEvent<'_>) {
        let category = category(event.ph, event.cat);
        if category == Category::Metadata {
            self.metadata(event);
            return;
        }
        let (Some(start_ns), Some(dur_ns)) = (event.ts_ns, event.dur_ns) else {
            if matches!(category, Category::Kernel | Category::Copy | Category::Set) {
                self.implausible += 1;
            }
            return;
        };
        // A time beyond any run is a lie, and sums over it would mean nothing.
        if start_ns.unsigned_abs() > MAX_TIME_NS || dur_ns.unsigned_abs() > MAX_LENGTH_NS {
            self.implausible += 1;
            return;
        }
        // A negative length is a profiler's mistake; counted as an instant, it can hide nothing else.
        let dur_ns = dur_ns.max(0);
        self.trace.cover(start_ns, start_ns.saturating_add(dur_ns));
        match category {
            Category::Kernel => self.device(event, DeviceKind::Kernel, start_ns, dur_ns),
            Category::Copy => self.device(event, DeviceKind::Copy, start_ns, dur_ns),
            Category::Set => self.device(event, DeviceKind::Set, start_ns, dur_ns),
            Category::Runtime => self.runtime(event, start_ns, dur_ns),
            Category::Operator => self.operator(event, start_ns, dur_ns),
            Category::Annotation => self.annotation(event, start_ns, dur_ns, false),
            Category::DeviceAnnotation => self.annotation(event, start_ns, dur_ns, true),
            Category::Metadata | Category::Other => {}
        }
    }
}
