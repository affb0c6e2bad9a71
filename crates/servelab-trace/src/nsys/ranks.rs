//! From rows to ranks. One export can hold several processes, and a process several GPUs: every process and GPU that ran
//! kernels becomes a rank of its own. Copies on a GPU without kernels of that process (a stray context) count for the
//! process's first GPU.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use servelab_core::trace::TraceWarning;

use super::info::Info;
use super::payload::{Layouts, NcclCall, NcclCalls};
use super::rows::{Launch as Call, Range, Rows};
use super::scan::Scan;
use super::{NsysError, NsysFile};
use crate::model::{Collective, DeviceEvent, DeviceFacts, DeviceKind, Lane, Launch, Marker, RankTrace, Traffic};
use crate::names::NameId;
use crate::steps::{StepName, parse};

/// Process and CUDA's number of the GPU within it; a process of −1 is one that the file does not name.
type Key = (i64, i64);

struct Building {
    ranks: BTreeMap<Key, RankTrace>,
    /// Ranks of a process, in order of their first kernel.
    of_process: HashMap<i64, Vec<Key>>,
    n_events: BTreeMap<&'static str, u64>,
    /// What NCCL said about what it launched, by rank and link.
    said: HashMap<(Key, u32), (NcclCall, Option<u32>)>,
}

/// Reads an export: the ranks in it, in order of their GPUs.
///
/// # Errors
/// Where the file is no export. One that is damaged gives what could be read, and its warnings say what is missing.
pub fn read(path: &Path) -> Result<Vec<RankTrace>, NsysError> {
    let file = NsysFile::open(path)?;
    let bytes = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    Ok(read_file(&file, bytes))
}

/// Reads an open export.
pub fn read_file(file: &NsysFile, bytes: u64) -> Vec<RankTrace> {
    let (info, info_scans) = file.info();
    let mut rows = Rows::new(file);
    let mut building = Building {
        ranks: BTreeMap::new(),
        of_process: HashMap::new(),
        n_events: BTreeMap::new(),
        said: HashMap::new(),
    };
    building.device_rows(&mut rows);
    if building.ranks.is_empty() {
        // A file without device events is still one rank: its notes say why it is empty.
        building.rank((-1, 0));
    }
    let n_graph_runs = building.n_events.get("graph").copied().unwrap_or(0);
    let (layouts, layouts_scan) = rows.payload_layouts();
    let mut nccl = NcclCalls::default();
    let markers = building.ranges(&mut rows, &layouts, &mut nccl);
    nccl.finish();
    building.calls(&mut rows, &nccl);
    building.collectives(&mut rows);
    building.sm_activity(&mut rows, &info);

    let info_scans: Vec<Scan> = info_scans.into_iter().chain(layouts_scan).collect();
    let mut warnings = warnings(&info, info_scans.iter().chain(rows.scans()), rows.notes(), n_graph_runs, file);
    let are_graphs_opaque = n_graph_runs > 0;
    let is_truncated = info_scans.iter().chain(rows.scans()).any(|scan| scan.broke_off.is_some());
    let mut ranks = building.ranks;
    for (pid, text, start_ns, end_ns, step) in markers {
        let name = rows.intern(&text);
        for (_, rank) in ranks.iter_mut().filter(|((of, _), _)| *of == pid || *of == -1) {
            rank.markers.push(Marker { name, start_ns, end_ns, step });
        }
    }
    let n_ranks = ranks.len();
    let mut ordered: Vec<(Key, RankTrace)> = ranks.into_iter().collect();
    // Processes that see one GPU each all call it 0: then their order is that of their processes.
    ordered.sort_by_key(|((pid, device), _)| (gpu_of(&info, *pid, *device), *pid));
    let total: u64 = building.n_events.values().sum();
    let mut out = Vec::with_capacity(n_ranks);
    for ((pid, device), mut rank) in ordered {
        rank.names = rows.names().clone();
        describe(&mut rank, &info, (pid, device), file);
        rank.meta.bytes = bytes;
        rank.meta.text_bytes = bytes;
        rank.meta.is_truncated = is_truncated;
        rank.meta.are_graphs_opaque = are_graphs_opaque;
        if n_ranks == 1 {
            rank.meta.rank = info.rank;
            rank.meta.rank_source = info.rank.map(|_| "content");
        }
        rank.totals.events = total;
        rank.totals.categories = building.n_events.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect();
        // Said once, by the first rank of the file.
        rank.warnings.append(&mut warnings);
        rank.finish();
        out.push(rank);
    }
    out
}

impl Building {
    fn rank(&mut self, key: Key) -> &mut RankTrace {
        self.ranks.entry(key).or_insert_with(|| {
            self.of_process.entry(key.0).or_default().push(key);
            RankTrace::default()
        })
    }

    /// The rank that a copy counts for.
    fn nearest(&mut self, key: Key) -> &mut RankTrace {
        let key = if self.ranks.contains_key(&key) {
            key
        } else {
            self.of_process.get(&key.0).and_then(|keys| keys.first()).copied().unwrap_or(key)
        };
        self.rank(key)
    }

    fn device_rows(&mut self, rows: &mut Rows<'_>) {
        let mut n = 0;
        rows.kernels(|kernel, _| {
            n += 1;
            let rank = self.rank((kernel.pid.unwrap_or(-1), kernel.device));
            let correlation = low_bits(kernel.correlation);
            if kernel.graph_node.is_some() && correlation != 0 && rank.graph_correlations.last() != Some(&correlation) {
                rank.graph_correlations.push(correlation);
            }
            let blocks = kernel.n_blocks.and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
            push(rank, kernel.start_nanos, kernel.end_nanos, kernel.device, kernel.stream, |event| {
                (event.name, event.correlation, event.blocks) = (kernel.name, correlation, blocks);
            });
        });
        self.n_events.insert("kernel", n);
        let (mut n, graph) = (0, rows.intern("CUDA graph"));
        rows.graph_runs(|run| {
            n += 1;
            let correlation = low_bits(run.correlation);
            let rank = self.rank((run.pid.unwrap_or(-1), run.device));
            if correlation != 0 {
                rank.graph_correlations.push(correlation);
            }
            push(rank, run.start_nanos, run.end_nanos, run.device, run.stream, |event| {
                (event.name, event.correlation, event.kind) = (graph, correlation, DeviceKind::Graph);
            });
        });
        self.n_events.insert("graph", n);
        let (mut n, kinds) = (0, COPY_KINDS.map(|kind| rows.intern(kind)));
        rows.copies(|copy| {
            n += 1;
            let name = usize::try_from(copy.kind).ok().and_then(|kind| kinds.get(kind)).unwrap_or(&kinds[0]);
            let rank = self.nearest((copy.pid.unwrap_or(-1), copy.device));
            traffic(rank, *name, copy.end_nanos - copy.start_nanos, copy.n_bytes);
            push(rank, copy.start_nanos, copy.end_nanos, copy.device, copy.stream, |event| {
                (event.name, event.correlation, event.kind) = (*name, low_bits(copy.correlation), DeviceKind::Copy);
            });
        });
        self.n_events.insert("gpu_memcpy", n);
        let (mut n, name) = (0, rows.intern("Memset (Device)"));
        rows.sets(|set| {
            n += 1;
            let rank = self.nearest((set.pid.unwrap_or(-1), set.device));
            traffic(rank, name, set.end_nanos - set.start_nanos, set.n_bytes);
            push(rank, set.start_nanos, set.end_nanos, set.device, set.stream, |event| {
                (event.name, event.correlation, event.kind) = (name, low_bits(set.correlation), DeviceKind::Set);
            });
        });
        self.n_events.insert("gpu_memset", n);
    }

    /// Calls that put work on a device, and those that wait for it.
    fn calls(&mut self, rows: &mut Rows<'_>, nccl: &NcclCalls) {
        #[derive(Clone, Copy, PartialEq)]
        enum Use {
            Launches,
            Waits,
            Neither,
        }
        let mut uses: HashMap<NameId, Use> = HashMap::new();
        let mut n = 0;
        rows.launches(|call: Call, names| {
            n += 1;
            let used = *uses.entry(call.name).or_insert_with(|| {
                let name = names.get(call.name);
                if name.contains("Synchronize") {
                    Use::Waits
                } else if name.contains("Launch") || name.contains("Memcpy") || name.contains("Memset") {
                    Use::Launches
                } else {
                    Use::Neither
                }
            });
            let nanos = call.end_nanos - call.start_nanos;
            let every = [(-1, 0)];
            let keys = self.of_process.get(&call.pid).map_or(&every[..], Vec::as_slice);
            for key in keys {
                let Some(rank) = self.ranks.get_mut(key) else { continue };
                rank.cover(call.start_nanos, call.end_nanos);
                match used {
                    Use::Launches => {
                        let correlation = low_bits(Some(call.correlation));
                        rank.launches.push(Launch {
                            correlation,
                            dur_ns: u32::try_from(nanos).unwrap_or(u32::MAX),
                            start_ns: call.start_nanos,
                        });
                        if let Some(said) = nccl.at(call.pid, call.global_tid, call.start_nanos) {
                            self.said.insert((*key, correlation), said);
                        }
                    }
                    Use::Waits => {
                        rank.totals.sync_calls += 1;
                        rank.totals.sync_ns = rank.totals.sync_ns.saturating_add(nanos);
                    }
                    Use::Neither => {}
                }
            }
        });
        self.n_events.insert("cuda_runtime", n);
    }

    /// Gives kernels what NCCL said about the call that launched them.
    fn collectives(&mut self, rows: &mut Rows<'_>) {
        let said = std::mem::take(&mut self.said);
        if said.is_empty() {
            return;
        }
        let mut kinds: HashMap<&str, NameId> = HashMap::new();
        for (key, rank) in &mut self.ranks {
            for event in rank.device.iter().filter(|event| event.kind == DeviceKind::Kernel) {
                let Some((call, group_size)) = said.get(&(*key, event.correlation)) else { continue };
                let kind = *kinds.entry(call.kind).or_insert_with(|| rows.intern(call.kind));
                let group = call.communicator.map(|communicator| rows.intern(&format!("{communicator:#x}")));
                rank.collectives.push(Collective {
                    name: event.name,
                    kind,
                    group,
                    group_ranks: None,
                    group_size: *group_size,
                    in_elements: call.bytes,
                    out_elements: None,
                    element_bytes: Some(1),
                    seq: None,
                    start_ns: event.start_ns,
                    dur_ns: event.dur_ns,
                });
            }
        }
    }

    /// Step markers by process; NCCL's own ranges count as communication operators.
    fn ranges(
        &mut self,
        rows: &mut Rows<'_>,
        layouts: &Layouts,
        nccl: &mut NcclCalls,
    ) -> Vec<(i64, String, i64, i64, StepName)> {
        let (mut markers, mut n) = (Vec::new(), 0);
        rows.ranges(|range: Range<'_>| {
            n += 1;
            if let Some((text, step)) = step_of(range.text) {
                markers.push((range.pid, text.to_owned(), range.start_nanos, range.end_nanos, step));
                return;
            }
            nccl.take(&range, layouts);
            if is_collective_call(range.text) {
                for key in self.of_process.get(&range.pid).map_or(&[][..], Vec::as_slice) {
                    if let Some(rank) = self.ranks.get_mut(key) {
                        rank.totals.comm_operators += 1;
                    }
                }
            }
        });
        self.n_events.insert("nvtx", n);
        markers
    }

    /// The mean of the hardware's own count of busy multiprocessors, from first to last device event of each rank.
    fn sm_activity(&mut self, rows: &mut Rows<'_>, info: &Info) {
        let wanted: Vec<(i64, i64)> = info
            .gpu_metrics
            .iter()
            .filter(|(_, name)| {
                let name = name.to_ascii_lowercase();
                name.starts_with("sms active") || name.starts_with("sm active")
            })
            .map(|(metric, _)| *metric)
            .collect();
        let mut windows: Vec<(i64, i64, i64, f64, u64, Key)> = Vec::new();
        for (key, rank) in &self.ranks {
            let start = rank.device.iter().map(|event| event.start_ns).min();
            let end = rank.device.iter().map(DeviceEvent::end_ns).max();
            if let (Some(start), Some(end)) = (start, end) {
                windows.push((gpu_of(info, key.0, key.1), start, end, 0.0, 0, *key));
            }
        }
        let mut n = 0;
        rows.gpu_samples(&wanted, |sample| {
            n += 1;
            for (gpu, start, end, sum, count, _) in &mut windows {
                if *gpu == sample.gpu && (*start..=*end).contains(&sample.at_nanos) {
                    *sum += sample.value;
                    *count += 1;
                }
            }
        });
        self.n_events.insert("gpu_metrics", n);
        for (_, _, _, sum, count, key) in windows {
            if let Some(rank) = self.ranks.get_mut(&key)
                && count > 0
            {
                #[expect(clippy::cast_precision_loss, reason = "a count of samples")]
                let mean = sum / count as f64;
                rank.totals.sm_active = Some(mean / 100.0);
            }
        }
    }
}

const COPY_KINDS: [&str; 14] = [
    "Memcpy (unknown)",
    "Memcpy HtoD",
    "Memcpy DtoH",
    "Memcpy HtoA",
    "Memcpy AtoH",
    "Memcpy AtoA",
    "Memcpy AtoD",
    "Memcpy DtoA",
    "Memcpy DtoD",
    "Memcpy HtoH",
    "Memcpy PtoP",
    "Memcpy HtoD (unified memory)",
    "Memcpy DtoH (unified memory)",
    "Memcpy DtoD (unified memory)",
];

fn low_bits(correlation: Option<i64>) -> u32 {
    u32::try_from(correlation.unwrap_or(0) & 0xFFFF_FFFF).unwrap_or(0)
}

fn push(rank: &mut RankTrace, start: i64, end: i64, device: i64, stream: i64, fill: impl FnOnce(&mut DeviceEvent)) {
    let number = |n: i64| u32::try_from(n).unwrap_or(u32::MAX);
    let lane = rank.lane(Lane { device: number(device), stream: number(stream) });
    let mut event = DeviceEvent {
        start_ns: start,
        dur_ns: end - start,
        name: NameId(0),
        correlation: 0,
        blocks: 0,
        lane,
        kind: DeviceKind::Kernel,
    };
    fill(&mut event);
    rank.cover(start, end);
    rank.device.push(event);
}

fn traffic(rank: &mut RankTrace, name: NameId, nanos: i64, n_bytes: i64) {
    let traffic: &mut Traffic = rank.traffic.entry(name).or_default();
    traffic.calls += 1;
    traffic.sum_ns = traffic.sum_ns.saturating_add(nanos);
    if let Ok(n_bytes) = u64::try_from(n_bytes) {
        traffic.bytes = traffic.bytes.saturating_add(n_bytes);
        traffic.sized_ns = traffic.sized_ns.saturating_add(nanos);
    }
}

fn gpu_of(info: &Info, pid: i64, device: i64) -> i64 {
    info.cuda_devices.get(&(pid, device)).copied().unwrap_or(device)
}

/// The step that a range marks, with its name. PyTorch appends numbers of operators.
fn step_of(text: &str) -> Option<(&str, StepName)> {
    let text = text.split(", op_id = ").next().unwrap_or(text);
    let text = text.split(", seq = ").next().unwrap_or(text);
    parse(text).map(|step| (text, step))
}

/// A call of NCCL that moves data, as NCCL names its ranges.
fn is_collective_call(text: &str) -> bool {
    text.strip_prefix("nccl").is_some_and(|rest| {
        [
            "AllReduce",
            "AllGather",
            "ReduceScatter",
            "Broadcast",
            "Bcast",
            "Reduce",
            "Send",
            "Recv",
            "AllToAll",
            "AlltoAll",
        ]
        .iter()
        .any(|call| rest.starts_with(call))
    })
}

fn describe(rank: &mut RankTrace, info: &Info, (pid, device): Key, file: &NsysFile) {
    let meta = &mut rank.meta;
    meta.path = file.path().display().to_string();
    meta.format = "nsys";
    meta.host = info.host.clone();
    meta.world_size = info.world_size;
    // Times count from the start of the recording, or on the machine's clock as it stood then.
    meta.base_unix_ns =
        info.start_unix_nanos.map(|unix| unix.saturating_sub(info.start_clock_nanos.unwrap_or_default()));
    let gpu = gpu_of(info, pid, device);
    if let Some(found) = info.gpus.iter().find(|known| known.id == gpu) {
        let facts = DeviceFacts {
            name: found.name.clone().unwrap_or_default(),
            multiprocessors: found.n_sms.and_then(|n| u32::try_from(n).ok()),
        };
        if !facts.name.is_empty() {
            meta.facts.insert("gpu".to_owned(), facts.name.clone());
        }
        meta.devices.insert(u32::try_from(device).unwrap_or(u32::MAX), facts);
    }
    let facts = [
        ("nsys", &info.product_version),
        ("nsys_schema", &info.schema_version),
        ("driver_version", &info.driver_version),
        ("cuda_version", &info.cuda_version),
        ("nccl_version", &info.nccl_version),
        ("cuda_graph_trace", &info.graph_trace_mode),
    ];
    for (name, value) in facts {
        if let Some(value) = value {
            meta.facts.insert(name.to_owned(), value.clone());
        }
    }
    if pid >= 0 {
        let process = info.processes.get(&pid).map_or_else(String::new, |name| format!(" ({name})"));
        meta.facts.insert("process".to_owned(), format!("{pid}{process}"));
    }
}

fn warnings<'a>(
    info: &Info,
    scans: impl Iterator<Item = &'a Scan>,
    notes: Vec<String>,
    n_graph_runs: u64,
    file: &NsysFile,
) -> Vec<TraceWarning> {
    let broken: Vec<String> = scans.filter(|scan| scan.broke_off.is_some()).filter_map(Scan::note).collect();
    let name = file.path().display();
    let warning = |code: &str, detail: String| TraceWarning { code: code.to_owned(), detail };
    let mut all: Vec<TraceWarning> =
        broken.iter().map(|note| warning("truncated", format!("`{name}`: {note}"))).collect();
    let rest = notes.into_iter().filter(|note| !broken.contains(note));
    all.extend(rest.map(|note| warning("malformed", format!("`{name}`: {note}"))));
    all.extend(info.diagnostics.iter().map(|text| warning("profiler", format!("`{name}`: {text}"))));
    if n_graph_runs > 0 {
        all.push(warning(
            "graph_mode",
            format!(
                "`{name}`: {n_graph_runs} runs of CUDA graphs were recorded as a whole, so the kernels in them are unknown; \
                 record with --cuda-graph-trace=node to see them"
            ),
        ));
    }
    all
}
