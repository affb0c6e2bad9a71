//! The rows that metrics need, table by table, as plain values in nanoseconds of the recording's own clock. What is not
//! in a version of the format is `None`.

use std::collections::HashMap;

use crate::names::{NameId, Names};

use super::names::{FileNames, Lookup};
use super::payload::Layouts;
use super::scan::{Column, Scan, may, must, scan};
use super::{NsysFile, info::pid_of};

/// A kernel that ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernel {
    /// Start, in nanoseconds.
    pub start_nanos: i64,
    /// End, in nanoseconds.
    pub end_nanos: i64,
    /// CUDA's number of the GPU, within its process.
    pub device: i64,
    /// The stream.
    pub stream: i64,
    /// Links to the call that launched it.
    pub correlation: Option<i64>,
    /// The process.
    pub pid: Option<i64>,
    /// Name with template arguments.
    pub name: NameId,
    /// Blocks of the grid.
    pub n_blocks: Option<i64>,
    /// Set when the kernel ran as part of a CUDA graph that was traced node by node.
    pub graph_node: Option<i64>,
}

/// One run of a whole CUDA graph; its kernels were not recorded one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GraphRun {
    /// Start, in nanoseconds.
    pub start_nanos: i64,
    /// End, in nanoseconds.
    pub end_nanos: i64,
    /// CUDA's number of the GPU, within its process.
    pub device: i64,
    /// The stream.
    pub stream: i64,
    /// Links to the call that launched it.
    pub correlation: Option<i64>,
    /// The process.
    pub pid: Option<i64>,
    /// The graph.
    pub graph: Option<i64>,
}

/// A copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copy {
    /// Start, in nanoseconds.
    pub start_nanos: i64,
    /// End, in nanoseconds.
    pub end_nanos: i64,
    /// CUDA's number of the GPU, within its process.
    pub device: i64,
    /// The stream.
    pub stream: i64,
    /// Links to the call that launched it.
    pub correlation: Option<i64>,
    /// The process.
    pub pid: Option<i64>,
    /// Bytes that were moved.
    pub n_bytes: i64,
    /// CUDA's number of the direction: 1 host to device, 2 device to host, 8 device to device, 10 peer to peer.
    pub kind: i64,
}

/// Memory that was filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Set {
    /// Start, in nanoseconds.
    pub start_nanos: i64,
    /// End, in nanoseconds.
    pub end_nanos: i64,
    /// CUDA's number of the GPU, within its process.
    pub device: i64,
    /// The stream.
    pub stream: i64,
    /// Links to the call that launched it.
    pub correlation: Option<i64>,
    /// The process.
    pub pid: Option<i64>,
    /// Bytes that were filled.
    pub n_bytes: i64,
}

/// A call of the CUDA runtime or driver on the CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launch {
    /// Start, in nanoseconds.
    pub start_nanos: i64,
    /// End, in nanoseconds.
    pub end_nanos: i64,
    /// Links to what it launched.
    pub correlation: i64,
    /// The process.
    pub pid: i64,
    /// Process and thread, as the file numbers them.
    pub global_tid: i64,
    /// Name of the function.
    pub name: NameId,
}

/// An NVTX range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range<'a> {
    /// Start, in nanoseconds.
    pub start_nanos: i64,
    /// End, in nanoseconds.
    pub end_nanos: i64,
    /// Process and thread, as the file numbers them.
    pub global_tid: i64,
    /// The process.
    pub pid: i64,
    /// Number of the NVTX domain; 0 is the default one.
    pub domain: i64,
    /// Its text.
    pub text: &'a str,
    /// Its typed payload as stored; empty without one.
    pub payload: &'a [u8],
}

/// One sample of a hardware counter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GpuSample {
    /// When, in nanoseconds.
    pub at_nanos: i64,
    /// The GPU: the low byte of the type.
    pub gpu: i64,
    /// Number of the type and of the metric, as `TARGET_INFO_GPU_METRICS` names them.
    pub metric: (i64, i64),
    /// The value; for shares, in percent.
    pub value: f64,
}

/// Reads tables; keeps the texts and how each table went.
pub struct Rows<'c> {
    file: &'c NsysFile,
    names: FileNames,
    lookup: Lookup<'c>,
    scans: Vec<Scan>,
}

/// Past this many different ids, texts of NVTX ranges are fetched again when they return.
const MOST_RANGE_TEXTS: usize = 1 << 15;

const WHERE: [Column; 6] = [
    must(&["start"]),
    must(&["end"]),
    must(&["deviceId"]),
    must(&["streamId"]),
    may(&["correlationId"]),
    may(&["globalPid"]),
];

fn columns<const N: usize>(more: [Column; N]) -> Vec<Column> {
    WHERE.into_iter().chain(more).collect()
}

impl<'c> Rows<'c> {
    /// Prepares reading.
    pub fn new(file: &'c NsysFile) -> Self {
        Self { file, names: FileNames::default(), lookup: Lookup::new(&file.connection), scans: Vec::new() }
    }

    /// Texts by the numbers in the rows.
    pub fn names(&self) -> &Names {
        &self.names.names
    }

    /// Where values stand in the payloads of ranges.
    pub(super) fn payload_layouts(&self) -> (Layouts, Option<Scan>) {
        Layouts::read(&self.file.connection)
    }

    /// Number of a text that is not in the file.
    pub fn intern(&mut self, text: &str) -> NameId {
        self.names.names.intern(text)
    }

    /// How each table that exists was read, in the order of reading.
    pub fn scans(&self) -> &[Scan] {
        &self.scans
    }

    /// What a reader of the numbers must know about the file.
    pub fn notes(&self) -> Vec<String> {
        let mut notes: Vec<String> = self.file.unmerged_journal().into_iter().collect();
        notes.extend(self.scans.iter().filter_map(Scan::note));
        if self.lookup.n_missing > 0 {
            notes.push(format!("{} names are missing in table StringIds", self.lookup.n_missing));
        }
        notes
    }

    /// Kernels that were recorded one by one.
    pub fn kernels(&mut self, mut each: impl FnMut(Kernel, &Names)) {
        let columns = columns([
            must(&["demangledName", "shortName"]),
            may(&["gridX"]),
            may(&["gridY"]),
            may(&["gridZ"]),
            may(&["graphNodeId"]),
        ]);
        let (names, lookup) = (&mut self.names, &mut self.lookup);
        let outcome = scan(&self.file.connection, "CUPTI_ACTIVITY_KIND_KERNEL", &columns, |cells| {
            let (start_nanos, end_nanos) = cells.span(0, 1)?;
            let n_blocks = match (cells.maybe_int(7)?, cells.maybe_int(8)?, cells.maybe_int(9)?) {
                (Some(x), Some(y), Some(z)) => x.checked_mul(y).and_then(|xy| xy.checked_mul(z)).filter(|n| *n > 0),
                _ => None,
            };
            let kernel = Kernel {
                start_nanos,
                end_nanos,
                device: cells.int(2)?,
                stream: cells.int(3)?,
                correlation: cells.maybe_int(4)?,
                pid: cells.maybe_int(5)?.map(pid_of),
                name: names.of(lookup, cells.int(6)?),
                n_blocks,
                graph_node: cells.maybe_int(10)?.filter(|node| *node != 0),
            };
            each(kernel, &names.names);
            Some(())
        });
        self.scans.extend(outcome);
    }

    /// Runs of whole CUDA graphs.
    pub fn graph_runs(&mut self, mut each: impl FnMut(GraphRun)) {
        let columns = columns([may(&["graphId"])]);
        let outcome = scan(&self.file.connection, "CUPTI_ACTIVITY_KIND_GRAPH_TRACE", &columns, |cells| {
            let (start_nanos, end_nanos) = cells.span(0, 1)?;
            each(GraphRun {
                start_nanos,
                end_nanos,
                device: cells.int(2)?,
                stream: cells.int(3)?,
                correlation: cells.maybe_int(4)?,
                pid: cells.maybe_int(5)?.map(pid_of),
                graph: cells.maybe_int(6)?,
            });
            Some(())
        });
        self.scans.extend(outcome);
    }

    /// Copies.
    pub fn copies(&mut self, mut each: impl FnMut(Copy)) {
        let columns = columns([must(&["bytes"]), must(&["copyKind"])]);
        let outcome = scan(&self.file.connection, "CUPTI_ACTIVITY_KIND_MEMCPY", &columns, |cells| {
            let (start_nanos, end_nanos) = cells.span(0, 1)?;
            each(Copy {
                start_nanos,
                end_nanos,
                device: cells.int(2)?,
                stream: cells.int(3)?,
                correlation: cells.maybe_int(4)?,
                pid: cells.maybe_int(5)?.map(pid_of),
                n_bytes: cells.int(6)?,
                kind: cells.int(7)?,
            });
            Some(())
        });
        self.scans.extend(outcome);
    }

    /// Memory that was filled.
    pub fn sets(&mut self, mut each: impl FnMut(Set)) {
        let columns = columns([must(&["bytes"])]);
        let outcome = scan(&self.file.connection, "CUPTI_ACTIVITY_KIND_MEMSET", &columns, |cells| {
            let (start_nanos, end_nanos) = cells.span(0, 1)?;
            each(Set {
                start_nanos,
                end_nanos,
                device: cells.int(2)?,
                stream: cells.int(3)?,
                correlation: cells.maybe_int(4)?,
                pid: cells.maybe_int(5)?.map(pid_of),
                n_bytes: cells.int(6)?,
            });
            Some(())
        });
        self.scans.extend(outcome);
    }

    /// Calls of the CUDA runtime and driver.
    pub fn launches(&mut self, mut each: impl FnMut(Launch, &Names)) {
        let columns =
            [must(&["start"]), must(&["end"]), must(&["globalTid"]), must(&["correlationId"]), must(&["nameId"])];
        let (names, lookup) = (&mut self.names, &mut self.lookup);
        let outcome = scan(&self.file.connection, "CUPTI_ACTIVITY_KIND_RUNTIME", &columns, |cells| {
            let (start_nanos, end_nanos) = cells.span(0, 1)?;
            // Calls that start nothing have no number in some versions; nothing links to them.
            let (Some(global_tid), Some(correlation)) = (cells.maybe_int(2)?, cells.maybe_int(3)?) else {
                return Some(());
            };
            let name = names.of(lookup, cells.int(4)?);
            each(
                Launch { start_nanos, end_nanos, correlation, pid: pid_of(global_tid), global_tid, name },
                &names.names,
            );
            Some(())
        });
        self.scans.extend(outcome);
    }

    /// NVTX ranges with an end. Marks, ranges that never ended and names of domains are no ranges.
    pub fn ranges(&mut self, mut each: impl FnMut(Range<'_>)) {
        let columns = [
            must(&["start"]),
            must(&["end"]),
            must(&["eventType"]),
            may(&["text"]),
            may(&["textId"]),
            may(&["globalTid"]),
            may(&["domainId"]),
            may(&["binaryData"]),
        ];
        let lookup = &mut self.lookup;
        let mut texts: HashMap<i64, Box<str>> = HashMap::new();
        let outcome = scan(&self.file.connection, "NVTX_EVENTS", &columns, |cells| {
            // Push/pop and start/end ranges, of NVTX and of its older binding.
            if !matches!(cells.int(2)?, 59 | 60 | 70 | 71) || cells.maybe_int(1)?.is_none() {
                return Some(());
            }
            let (start_nanos, end_nanos) = cells.span(0, 1)?;
            let global_tid = cells.maybe_int(5)?.unwrap_or(0);
            let domain = cells.maybe_int(6)?.unwrap_or(0);
            let payload = cells.bytes(7);
            let mut give = |text: &str| {
                each(Range { start_nanos, end_nanos, global_tid, pid: pid_of(global_tid), domain, text, payload });
            };
            if let Some(text) = cells.text(3) {
                give(text);
            } else if let Some(id) = cells.maybe_int(4)? {
                if texts.len() >= MOST_RANGE_TEXTS {
                    texts.clear();
                }
                give(texts.entry(id).or_insert_with(|| lookup.text(id).unwrap_or_default().into_boxed_str()));
            }
            Some(())
        });
        self.scans.extend(outcome);
    }

    /// Samples of hardware counters, only of the wanted metrics.
    pub fn gpu_samples(&mut self, wanted: &[(i64, i64)], mut each: impl FnMut(GpuSample)) {
        if wanted.is_empty() {
            return;
        }
        let columns = [must(&["timestamp"]), must(&["typeId"]), must(&["metricId"]), must(&["value"])];
        let outcome = scan(&self.file.connection, "GPU_METRICS", &columns, |cells| {
            let metric = (cells.int(1)?, cells.int(2)?);
            if wanted.contains(&metric) {
                each(GpuSample { at_nanos: cells.int(0)?, gpu: metric.0 & 0xFF, metric, value: cells.number(3)? });
            }
            Some(())
        });
        self.scans.extend(outcome);
    }
}
