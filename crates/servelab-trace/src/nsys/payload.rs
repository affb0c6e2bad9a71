//! What NCCL says about its own calls: its NVTX ranges carry a typed payload (bytes of a message, communicator, ranks in it) whose
//! layout stands in tables of the same export. A kernel belongs to the call during which it was launched; calls between
//! `ncclGroupStart` and `ncclGroupEnd` belong to the end of the group, where they are launched together.

use std::collections::HashMap;

use rusqlite::Connection;

use super::rows::Range;
use super::scan::{Scan, may, must, scan};

/// Bytes before the payload: domain, schema, their lengths.
const HEADER_BYTES: usize = 32;
/// Calls that are kept.
const MOST_CALLS: usize = 1 << 22;

/// Where a value stands in a payload.
#[derive(Debug, Clone, Copy, Default)]
struct Layout {
    message: Option<usize>,
    communicator: Option<usize>,
    ranks: Option<usize>,
}

/// Layouts by domain and schema.
#[derive(Debug, Default)]
pub(super) struct Layouts(HashMap<(i64, i64), Layout>);

/// One call of NCCL that moves data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NcclCall {
    pub(super) kind: &'static str,
    /// Bytes of one message: the larger of input and output; `None` when the export does not say.
    pub(super) bytes: Option<u64>,
    /// The communicator.
    pub(super) communicator: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Span {
    start: i64,
    end: i64,
    what: What,
}

#[derive(Debug, Clone, Copy)]
enum What {
    Call(NcclCall),
    GroupStart,
    GroupEnd,
}

/// The calls of all threads.
#[derive(Debug, Default)]
pub(super) struct NcclCalls {
    /// By process and thread, in order of their starts after [`NcclCalls::finish`].
    threads: HashMap<i64, Vec<Span>>,
    /// Ranks of a communicator, by process.
    sizes: HashMap<(i64, u64), u32>,
    n_kept: usize,
}

impl Layouts {
    /// Reads the tables; where there are none, no payload is understood.
    pub(super) fn read(connection: &Connection) -> (Self, Option<Scan>) {
        let mut out = Self::default();
        let columns = [must(&["domainId"]), must(&["schemaId"]), may(&["name"]), may(&["offset"])];
        let outcome = scan(connection, "NVTX_PAYLOAD_SCHEMA_ENTRIES", &columns, |cells| {
            let schema = (cells.int(0)?, cells.int(1)?);
            let offset = usize::try_from(cells.maybe_int(3)?.unwrap_or(0)).ok()?;
            let layout = out.0.entry(schema).or_default();
            let name = cells.text(2).unwrap_or_default().to_ascii_lowercase();
            if name.starts_with("message size") {
                layout.message = Some(offset);
            } else if name.contains("communicator id") {
                layout.communicator = Some(offset);
            } else if name.starts_with("no. of ranks") {
                layout.ranks = Some(offset);
            }
            Some(())
        });
        (out, outcome)
    }

    fn values(&self, blob: &[u8]) -> (Option<u64>, Option<u64>, Option<u32>) {
        let word = |at: usize| {
            let bytes = blob.get(at..)?.first_chunk::<4>()?;
            Some(u32::from_le_bytes(*bytes))
        };
        let long = |at: usize| {
            let bytes = blob.get(at..)?.first_chunk::<8>()?;
            Some(u64::from_le_bytes(*bytes))
        };
        let (Some(domain), Some(schema)) = (word(0), word(8)) else { return (None, None, None) };
        let Some(layout) = self.0.get(&(i64::from(domain), i64::from(schema))) else { return (None, None, None) };
        let at = |offset: Option<usize>| offset.and_then(|offset| offset.checked_add(HEADER_BYTES));
        (at(layout.message).and_then(long), at(layout.communicator).and_then(long), at(layout.ranks).and_then(word))
    }
}

impl NcclCalls {
    /// Looks at one range.
    pub(super) fn take(&mut self, range: &Range<'_>, layouts: &Layouts) {
        let Some(name) = range.text.strip_prefix("nccl") else { return };
        let (bytes, communicator, ranks) = layouts.values(range.payload);
        if let (Some(communicator), Some(ranks)) = (communicator, ranks) {
            self.sizes.insert((range.pid, communicator), ranks);
        }
        let what = if name == "GroupStart" {
            What::GroupStart
        } else if name == "GroupEnd" {
            What::GroupEnd
        } else {
            let Some(kind) = kind_of(name) else { return };
            What::Call(NcclCall { kind, bytes, communicator })
        };
        if self.n_kept < MOST_CALLS {
            self.n_kept += 1;
            let span = Span { start: range.start_nanos, end: range.end_nanos, what };
            self.threads.entry(range.global_tid).or_default().push(span);
        }
    }

    /// Brings calls into order; groups take over the calls in them.
    pub(super) fn finish(&mut self) {
        for spans in self.threads.values_mut() {
            spans.sort_by_key(|span| span.start);
            let mut group: Option<Vec<NcclCall>> = None;
            for span in spans.iter_mut() {
                match (span.what, &mut group) {
                    (What::GroupStart, _) => group = Some(Vec::new()),
                    (What::Call(call), Some(calls)) => calls.push(call),
                    (What::GroupEnd, _) => {
                        if let Some(call) = group.take().and_then(|calls| together(&calls)) {
                            span.what = What::Call(call);
                        }
                    }
                    (What::Call(_), None) => {}
                }
            }
        }
    }

    /// The call during which something was launched, with the ranks of its communicator.
    pub(super) fn at(&self, pid: i64, global_tid: i64, time: i64) -> Option<(NcclCall, Option<u32>)> {
        let spans = self.threads.get(&global_tid)?;
        let after = spans.partition_point(|span| span.start <= time);
        let span = spans.get(after.checked_sub(1)?).filter(|span| time < span.end)?;
        let What::Call(mut call) = span.what else { return None };
        let ranks = call.communicator.and_then(|communicator| self.sizes.get(&(pid, communicator))).copied();
        // NCCL names the bytes of one rank's part; the whole is what the other side of these holds.
        if matches!(call.kind, "all_gather" | "reduce_scatter" | "all_to_all") {
            call.bytes = call.bytes.zip(ranks).and_then(|(bytes, ranks)| bytes.checked_mul(u64::from(ranks)));
        }
        Some((call, ranks))
    }
}

/// What a group of calls is as one: sends and receives move the larger of both sums; other groups only when they hold one call.
fn together(calls: &[NcclCall]) -> Option<NcclCall> {
    if let [only] = calls {
        return Some(NcclCall { kind: if is_peer(only.kind) { "send_recv" } else { only.kind }, ..*only });
    }
    let first = calls.first()?;
    if !calls.iter().all(|call| is_peer(call.kind)) {
        return None;
    }
    let sum = |kind: &str| calls.iter().filter(|call| call.kind == kind).map(|call| call.bytes).sum::<Option<u64>>();
    let bytes = sum("send").zip(sum("recv")).map(|(sent, received)| sent.max(received));
    let communicator = first.communicator.filter(|own| calls.iter().all(|call| call.communicator == Some(*own)));
    Some(NcclCall { kind: "send_recv", bytes, communicator })
}

fn is_peer(kind: &str) -> bool {
    matches!(kind, "send" | "recv")
}

/// What a call of NCCL does, by its name without `nccl`.
fn kind_of(name: &str) -> Option<&'static str> {
    [
        ("AllReduce", "all_reduce"),
        ("AllGather", "all_gather"),
        ("ReduceScatter", "reduce_scatter"),
        ("Broadcast", "broadcast"),
        ("Bcast", "broadcast"),
        ("Reduce", "reduce"),
        ("AlltoAll", "all_to_all"),
        ("AllToAll", "all_to_all"),
        ("Gather", "gather"),
        ("Scatter", "scatter"),
        ("Send", "send"),
        ("Recv", "recv"),
    ]
    .into_iter()
    .find(|(call, _)| name.starts_with(call))
    .map(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(kind: &'static str, bytes: u64) -> NcclCall {
        NcclCall { kind, bytes: Some(bytes), communicator: Some(9) }
    }

    #[test]
    fn groups_are_one_call_where_that_means_something() {
        let send_recv = NcclCall { kind: "send_recv", bytes: Some(30), communicator: Some(9) };
        assert_eq!(together(&[call("send", 10), call("recv", 30), call("send", 15)]), Some(send_recv));
        assert_eq!(together(&[call("all_reduce", 5)]), Some(call("all_reduce", 5)));
        assert_eq!(together(&[call("all_reduce", 5), call("all_reduce", 6)]), None);
        assert_eq!(together(&[call("send", 7)]).unwrap().kind, "send_recv");
        assert_eq!(together(&[]), None);
    }

    #[test]
    fn short_payloads_say_nothing() {
        let layouts = Layouts(HashMap::from([((1, 5), Layout { message: Some(8), ..Layout::default() })]));
        let mut blob = vec![0_u8; 48];
        blob[0] = 1;
        blob[8] = 5;
        blob[40..48].copy_from_slice(&4096_u64.to_le_bytes());
        assert_eq!(layouts.values(&blob).0, Some(4096));
        for cut in 0..48 {
            assert_eq!(layouts.values(&blob[..cut]).0, None);
        }
        blob[8] = 6;
        assert_eq!(layouts.values(&blob).0, None);
    }
}
