//! Records of what profiler traces say: metrics with a value or the reason for its absence, communication and kernel
//! families, collectives, steps, provenance. Readers live in `servelab-trace`, texts in `servelab-view`; both meet here.

pub mod card;
pub mod catalogue;
pub mod compare;
pub mod interval;
pub mod scaling;
pub mod timeline;
pub mod timing;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Version of [`TraceReport`].
pub const TRACE_SCHEMA_VERSION: u32 = 1;

/// Everything that one or more traces of the same run say.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TraceReport {
    /// Always [`TRACE_SCHEMA_VERSION`] when written by this version.
    pub schema: u32,
    /// Version of the metric definitions.
    pub definitions: u32,
    /// Version of the built-in taxonomy, and the user's file when one was given.
    pub taxonomy: String,
    /// Ranks found, ascending.
    pub ranks: Vec<u32>,
    /// Ranks that the run had, as its traces say.
    pub world_size: Option<u32>,
    /// Step markers on the rank with the most of them.
    pub steps: u64,
    /// Of these, how many the step metrics used: without the first and the last.
    pub steps_used: u64,
    /// Every metric by name: a value, or the reason why there is none.
    pub metrics: BTreeMap<String, Metric>,
    /// Communication by family, summed over ranks.
    pub comm: BTreeMap<String, CommFamily>,
    /// Kernels that look like communication and that no rule claimed.
    pub suspects: Vec<String>,
    /// Device time by kernel family, largest first, summed over ranks.
    pub kernels: Vec<KernelFamily>,
    /// Kernels by device time, largest first, summed over ranks.
    pub top_kernels: Vec<KernelTime>,
    /// Collectives by library, kind, group and size.
    pub collectives: Vec<CollectiveStats>,
    /// Steps by kind.
    pub step_kinds: Vec<StepKind>,
    /// Numbers of each rank.
    pub per_rank: Vec<RankSummary>,
    /// What execution traces say about operators; they have no times.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub executions: Vec<ExecutionSummary>,
    /// What was read.
    pub inputs: Vec<TraceInput>,
    /// What a reader must know before believing the numbers: truncation, hollow input, missing ranks.
    pub warnings: Vec<TraceWarning>,
}

/// One number, or why there is none. Exactly one of `value` and `absent` is set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Metric {
    /// The number, aggregated over ranks as the metric's definition says.
    #[serde(serialize_with = "whole")]
    pub value: Option<f64>,
    /// Unit of `value` and `per_rank`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub unit: String,
    /// The same per rank, in the order of [`TraceReport::ranks`]; an element is null where that rank has none.
    #[serde(default, serialize_with = "whole_list")]
    pub per_rank: Option<Vec<Option<f64>>>,
    /// Why there is no value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub absent: Option<String>,
    /// What a reader of the value should know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Metric {
    /// A measured number.
    pub fn of(value: f64, unit: &str) -> Self {
        Self { value: Some(value), unit: unit.to_owned(), ..Self::default() }
    }

    /// Not measured, and why.
    pub fn absent(unit: &str, reason: impl Into<String>) -> Self {
        Self { unit: unit.to_owned(), absent: Some(reason.into()), ..Self::default() }
    }
}

/// One communication family. Sum, union and exposed are different numbers: kernels of one family can overlap each other,
/// and computation can hide them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CommFamily {
    /// Kernels (or host-side calls).
    pub calls: u64,
    /// Σ of their durations.
    pub sum_ns: i64,
    /// Length of their union on each rank, summed over ranks.
    pub union_ns: i64,
    /// Part of the union during which no computation ran, summed over ranks. Host-side calls block their caller, so all of
    /// their union is exposed.
    pub exposed_ns: i64,
    /// The library: nccl, rccl, nvshmem, custom, symmetric_memory, …
    pub library: String,
    /// `device` for kernels, `host` for calls of CPU backends.
    pub place: Place,
    /// True for kernels that also compute, such as all-reduce fused with a norm.
    pub is_fused: bool,
    /// The same by kind: all_reduce, all_gather, dispatch, …
    pub kinds: BTreeMap<String, KindTime>,
}

/// Where communication was seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// Kernels on a GPU.
    #[default]
    Device,
    /// Calls on a CPU.
    Host,
}

/// Calls and time of one kind of collective.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KindTime {
    /// Calls.
    pub calls: u64,
    /// Σ of durations.
    pub sum_ns: i64,
}

/// Device time of one kernel family.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct KernelFamily {
    /// gemm, attention, moe, norm, …; communication families are `comm`.
    pub family: String,
    /// Kernels.
    pub calls: u64,
    /// Σ of durations.
    pub sum_ns: i64,
    /// Share of the Σ over all kernels, 0–1.
    pub share: f64,
}

/// Device time of one kernel.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct KernelTime {
    /// Its name.
    pub name: String,
    /// Its family.
    pub family: String,
    /// Launches.
    pub calls: u64,
    /// Σ of durations.
    pub sum_ns: i64,
    /// Share of the Σ over all kernels, 0–1.
    pub share: f64,
}

/// Collectives of one library, kind, group and message size.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CollectiveStats {
    /// Communication family.
    pub family: String,
    /// all_reduce, all_gather, …
    pub kind: String,
    /// Process group, as the trace names it; null when it does not.
    pub group: Option<String>,
    /// Ranks in the group.
    pub group_size: Option<u32>,
    /// Calls over all ranks.
    pub calls: u64,
    /// Bytes of one message: the larger of input and output of one rank.
    pub message_bytes: Option<u64>,
    /// Σ of durations over ranks.
    pub sum_ns: i64,
    /// Shortest call.
    pub min_ns: i64,
    /// Longest call.
    pub max_ns: i64,
    /// Bytes / time of one rank, decimal gigabytes per second, over Σ; null without bytes.
    pub algorithm_gb_per_s: Option<f64>,
    /// The same scaled to what each link carries (as nccl-tests define it); null without bytes or group size.
    pub bus_gb_per_s: Option<f64>,
    /// The same for the shortest call alone: what the links can do when nobody waits.
    #[serde(default)]
    pub fastest_bus_gb_per_s: Option<f64>,
}

/// Steps of one kind.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StepKind {
    /// prefill, decode, mixed, idle, or unknown (a marker without counts).
    pub kind: String,
    /// Steps used, summed over ranks.
    pub steps: u64,
    /// Σ of step times.
    pub sum_ns: i64,
    /// Σ of context tokens.
    pub context_tokens: Option<u64>,
    /// Σ of generated tokens.
    pub generation_tokens: Option<u64>,
}

/// Numbers of one rank.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RankSummary {
    /// The rank.
    pub rank: u32,
    /// Host, as the trace says.
    pub host: Option<String>,
    /// Step markers.
    pub steps: u64,
    /// First start to last end of all device events; of all host events without a device.
    pub span_ns: i64,
    /// Length of the union of all device events.
    pub busy_ns: i64,
    /// Length of the union of computation.
    pub compute_ns: i64,
    /// Length of the union of communication.
    pub comm_ns: i64,
    /// Communication while no computation ran.
    pub exposed_comm_ns: i64,
    /// Length of the union of copies.
    pub memcpy_ns: i64,
    /// Copies while neither computation nor communication ran.
    pub exposed_memcpy_ns: i64,
    /// Span without any device event.
    pub idle_ns: i64,
    /// Time spent waiting for other ranks inside collectives; null when they cannot be matched.
    pub comm_wait_ns: Option<i64>,
    /// Kernels.
    pub kernels: u64,
    /// Copies and memsets.
    pub copies: u64,
    /// What ran on each stream, the busiest first.
    #[serde(default)]
    pub streams: Vec<StreamSummary>,
}

/// Numbers of one stream of one device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StreamSummary {
    /// Device number.
    pub device: u32,
    /// Stream number.
    pub stream: u32,
    /// Kernels, copies and memsets.
    pub events: u64,
    /// Σ of their durations.
    pub sum_ns: i64,
    /// Length of their union.
    pub busy_ns: i64,
}

/// One execution trace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExecutionSummary {
    /// Its path.
    pub path: String,
    /// Its rank.
    pub rank: Option<u32>,
    /// Version of its format.
    pub format_version: String,
    /// Nodes in it.
    pub nodes: u64,
    /// Operators among them; 0 in a hollow trace, which a warning says.
    pub operators: u64,
    /// Operators by name, the most frequent first.
    pub by_name: Vec<OperatorCount>,
    /// What was communicated, by kind and size.
    pub collectives: Vec<DescribedCollective>,
    /// Collectives whose time was found in the Kineto trace of the same rank.
    pub linked: u64,
}

/// Calls of one operator.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OperatorCount {
    /// Its name.
    pub name: String,
    /// Calls.
    pub calls: u64,
    /// Shapes and types of its tensors, the most frequent first.
    pub shapes: Vec<(String, u64)>,
}

/// Collectives of one kind and size as an execution trace describes them.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct DescribedCollective {
    /// all_reduce, all_gather, … as the trace names it.
    pub kind: String,
    /// Process group, when it is named.
    pub group: Option<String>,
    /// Ranks in it.
    pub group_size: Option<u32>,
    /// Element type.
    pub dtype: Option<String>,
    /// Elements in.
    pub in_elements: Option<u64>,
    /// Elements out.
    pub out_elements: Option<u64>,
    /// Calls.
    pub calls: u64,
}

/// One file that was read.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TraceInput {
    /// Its path as given.
    pub path: String,
    /// kineto, nsys, execution_trace, timing_stats.
    pub format: String,
    /// Rank, where it is known.
    pub rank: Option<u32>,
    /// Where the rank came from: content, file name, order.
    pub rank_source: Option<String>,
    /// Size on disk.
    pub bytes: u64,
    /// Size after decompression.
    pub text_bytes: u64,
    /// Events seen.
    pub events: u64,
    /// True when the file ends before its end.
    pub is_truncated: bool,
    /// Versions and hardware as the file says: nccl, cuda_driver, gpu, …
    pub facts: BTreeMap<String, String>,
}

/// Something that limits what the numbers mean.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct TraceWarning {
    /// truncated, malformed, hollow, cpu_backend, graph_mode, missing_ranks, duplicate_rank, few_steps, …
    pub code: String,
    /// One sentence with its numbers.
    pub detail: String,
}

/// Whole numbers are written without a fraction, so that counts look like counts.
fn whole<S: serde::Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(x) => serializer.serialize_some(&Plain(*x)),
        None => serializer.serialize_none(),
    }
}

#[expect(clippy::ref_option, reason = "serde gives a reference to the field")]
fn whole_list<S: serde::Serializer>(values: &Option<Vec<Option<f64>>>, serializer: S) -> Result<S::Ok, S::Error> {
    match values {
        Some(list) => serializer.collect_seq(list.iter().map(|x| x.map(Plain))),
        None => serializer.serialize_none(),
    }
}

struct Plain(f64);

impl Serialize for Plain {
    #[expect(clippy::cast_possible_truncation, reason = "only below 2^53, where both are exact")]
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.fract() == 0.0 && self.0.abs() < 9_007_199_254_740_992.0 {
            serializer.serialize_i64(self.0 as i64)
        } else {
            serializer.serialize_f64(self.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_written_as_counts_and_absent_is_null_with_a_reason() {
        let text = serde_json::to_string(&Metric::of(15.0, "calls")).unwrap();
        assert_eq!(text, r#"{"value":15,"unit":"calls","per_rank":null}"#);
        let text = serde_json::to_string(&Metric::absent("ms", "no step marker")).unwrap();
        assert_eq!(text, r#"{"value":null,"unit":"ms","per_rank":null,"absent":"no step marker"}"#);
        let metric = Metric { per_rank: Some(vec![Some(1.0), None, Some(0.25)]), ..Metric::of(0.5, "x") };
        let text = serde_json::to_string(&metric).unwrap();
        assert_eq!(text, r#"{"value":0.5,"unit":"x","per_rank":[1,null,0.25]}"#);
        assert_eq!(serde_json::from_str::<Metric>(&text).unwrap(), metric);
    }
}
