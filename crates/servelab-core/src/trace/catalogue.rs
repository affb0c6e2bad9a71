//! The definition of every trace metric in words; readers of traces compute exactly these, and the documentation page is
//! generated from this table.

use std::fmt::Write as _;

/// Version of the definitions; raised when a formula changes.
pub const TRACE_DEFINITIONS: u32 = 2;

/// How the ranks' numbers become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverRanks {
    /// Arithmetic mean of the ranks that have it.
    Mean,
    /// Largest.
    Max,
    /// Made from all ranks at once.
    Joint,
}

impl OverRanks {
    fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Max => "max",
            Self::Joint => "joint",
        }
    }
}

/// One metric's definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceMetricDoc {
    /// Key under `metrics`.
    pub name: &'static str,
    /// Unit.
    pub unit: &'static str,
    /// Aggregation over ranks.
    pub over_ranks: OverRanks,
    /// Other names under which `--only` finds it: those of scripts and of the CCL-Bench family.
    pub aliases: &'static [&'static str],
    /// What it is.
    pub text: &'static str,
}

const fn doc(
    name: &'static str,
    unit: &'static str,
    over_ranks: OverRanks,
    aliases: &'static [&'static str],
    text: &'static str,
) -> TraceMetricDoc {
    TraceMetricDoc { name, unit, over_ranks, aliases, text }
}

use OverRanks::{Joint, Max, Mean};

/// Every metric, in the order in which they are shown.
pub const TRACE_METRICS: &[TraceMetricDoc] = &[
    doc(
        "iteration_wall_clock",
        "ms",
        Mean,
        &[
            "avg_step_time",
            "iteration_time",
            "iteration_wall_clock_time",
            "iter_time",
            "wall_time",
            "get_iteration_wall_clock",
        ],
        "Mean length of the step markers used.",
    ),
    doc(
        "step_time",
        "ms",
        Mean,
        &[],
        "Mean step time. A step ends when its marker and the device work launched inside it have ended; its time runs to there from the later of its marker's start and the previous step's end. It equals the marker's length when nothing outlasts the marker. Where the first step's device work begins after its marker ended, its time runs from there: what kept the device busy before is not in the trace.",
    ),
    doc(
        "step_interval",
        "ms",
        Mean,
        &[],
        "Mean distance from one marker's start to the next's, over the markers used.",
    ),
    doc(
        "ttft",
        "ms",
        Mean,
        &["time_to_first_token"],
        "Mean step time of steps that compute prompt tokens (prefill and mixed): what a prompt of one chunk waits for its first token inside the engine. Queueing is not in a trace.",
    ),
    doc(
        "tpot",
        "ms",
        Mean,
        &["time_per_output_token"],
        "Mean step time of pure decode steps: each gives every running request one token (more with speculative decoding).",
    ),
    doc(
        "tpot_with_mixed",
        "ms",
        Mean,
        &[],
        "Σ step time · decoding requests / Σ decoding requests, over decode and mixed steps: what a token waits on average when prefill chunks interrupt.",
    ),
    doc(
        "throughput_tokens_sec",
        "tokens/s",
        Mean,
        &["throughput", "throughput_tokens_per_sec", "get_throughput_tokens_sec"],
        "Σ (context + generated tokens) / Σ step time, from the counts in the markers, never from a configuration.",
    ),
    doc(
        "output_tokens_sec",
        "tokens/s",
        Mean,
        &[],
        "Σ decoding requests / Σ step time: one token for each request in decode.",
    ),
    doc("prefill_time_share", "fraction", Mean, &[], "Σ time of prefill and mixed steps / Σ step time."),
    doc(
        "comm_overhead",
        "fraction",
        Mean,
        &["communication_overhead", "get_comm_overhead"],
        "Σ over steps of the union of communication kernels / Σ step time. Without step markers: over the whole device span, and said so.",
    ),
    doc("comm_overhead_sum", "fraction", Mean, &[], "The same with the sum of durations in place of their union."),
    doc(
        "comm_overhead_exposed",
        "fraction",
        Mean,
        &["exposed_communication"],
        "The same with the part of the union during which no computation of that step ran.",
    ),
    doc(
        "comm_sum",
        "ms",
        Mean,
        &["total_communication_time", "comm_time"],
        "Σ of the durations of communication kernels, whole trace.",
    ),
    doc("comm_union", "ms", Mean, &[], "Length of their union, whole trace."),
    doc("comm_exposed", "ms", Mean, &["exposed_comm_time"], "Part of that union during which no computation ran."),
    doc(
        "comm_share_of_kernels",
        "fraction",
        Mean,
        &["communication_fraction", "communication_ratio"],
        "Σ of communication kernels / Σ of all kernels.",
    ),
    doc(
        "compute_comm_overlap",
        "fraction",
        Mean,
        &["communication_overlap_ratio", "comm_comp_overlap"],
        "|∪comm ∩ ∪compute| / |∪comm|.",
    ),
    doc(
        "coll_call_num",
        "calls",
        Mean,
        &["coll_cal_num", "collective_calls", "get_coll_cal_num"],
        "Communication kernels of every family in the trace of one rank; calls of CPU backends when the trace has no device.",
    ),
    doc("coll_call_num_per_step", "calls", Mean, &[], "Of these, inside the steps used, per step."),
    doc(
        "comm_share_nccl",
        "fraction",
        Joint,
        &["nccl_share"],
        "Σ of NCCL and RCCL kernels / Σ of communication kernels.",
    ),
    doc(
        "comm_share_nvshmem",
        "fraction",
        Joint,
        &["nvshmem_share"],
        "Σ of kernels over NVSHMEM (DeepEP across nodes, pplx, nvshmem) / Σ of communication kernels.",
    ),
    doc(
        "comm_share_custom",
        "fraction",
        Joint,
        &[],
        "The rest: custom and symmetric-memory all-reduce, NVLink kernels, fused communication.",
    ),
    doc(
        "collective_data_volume",
        "bytes",
        Mean,
        &["traffic_volume", "comm_volume"],
        "Σ over collectives with arguments of the larger of input and output of this rank.",
    ),
    doc(
        "algorithm_bandwidth_all_reduce",
        "GB/s",
        Mean,
        &["avg_allreduce_bandwidth"],
        "Σ bytes / Σ duration of this kind; bytes as in `collective_data_volume`.",
    ),
    doc(
        "bus_bandwidth_all_reduce",
        "GB/s",
        Mean,
        &[],
        "Algorithm bandwidth · 2(n−1)/n, n the group's size, as nccl-tests define it.",
    ),
    doc("algorithm_bandwidth_all_gather", "GB/s", Mean, &["avg_allgather_bandwidth"], "As above."),
    doc("bus_bandwidth_all_gather", "GB/s", Mean, &[], "Algorithm bandwidth · (n−1)/n."),
    doc("algorithm_bandwidth_reduce_scatter", "GB/s", Mean, &["avg_reducescatter_bandwidth"], "As above."),
    doc("bus_bandwidth_reduce_scatter", "GB/s", Mean, &[], "Algorithm bandwidth · (n−1)/n."),
    doc("algorithm_bandwidth_all_to_all", "GB/s", Mean, &[], "As above."),
    doc("bus_bandwidth_all_to_all", "GB/s", Mean, &[], "Algorithm bandwidth · (n−1)/n."),
    doc("algorithm_bandwidth_send_recv", "GB/s", Mean, &[], "As above."),
    doc("bus_bandwidth_send_recv", "GB/s", Mean, &[], "The algorithm bandwidth itself."),
    doc(
        "bandwidth_utilization_allreduce",
        "fraction",
        Mean,
        &["scale_up_bw_utility"],
        "Bus bandwidth / the scale-up link of this GPU model in one direction, when the trace names a GPU we know.",
    ),
    doc("bandwidth_utilization_allgather", "fraction", Mean, &[], "As above."),
    doc("bandwidth_utilization_reducescatter", "fraction", Mean, &[], "As above."),
    doc("bandwidth_utilization_alltoall", "fraction", Mean, &[], "As above."),
    doc("bandwidth_utilization_peertopeer", "fraction", Mean, &[], "As above."),
    doc("traffic_window", "ms", Mean, &[], "Mean gap between one stretch of communication and the next."),
    doc(
        "cpu_comm_overhead",
        "fraction",
        Mean,
        &[],
        "Union of CPU-side communication calls inside the steps used / Σ step time. CPU backends block their caller, so all of it is exposed.",
    ),
    doc("cpu_comm", "ms", Mean, &[], "Σ of the durations of CPU-side communication calls, whole trace."),
    doc(
        "comm_transfer",
        "ms",
        Joint,
        &[],
        "Σ over collectives, matched across ranks, of the shortest duration: what moving the data takes. Needs no common clock.",
    ),
    doc(
        "comm_wait",
        "ms",
        Mean,
        &[],
        "Σ over matched collectives of this rank's duration − the shortest: waiting for others.",
    ),
    doc(
        "straggler_rank",
        "rank",
        Joint,
        &["straggler"],
        "The rank that waits least, because the others wait for it. Absent when no rank is last in more than a fair share of collectives.",
    ),
    doc(
        "straggler_score",
        "fraction",
        Joint,
        &["gpu_step_score"],
        "Share of its matched collectives at which the straggler arrived last (had the shortest duration).",
    ),
    doc("straggler_delay", "fraction", Joint, &[], "(max − min) / max of the ranks' Σ of communication."),
    doc("straggler_slowdown", "ratio", Joint, &[], "max / min of the ranks' Σ of communication."),
    doc(
        "load_imbalance",
        "ratio",
        Joint,
        &["load_imbalance_ratio"],
        "max / min over ranks of computation: the union of compute kernels; step time − communication on CPUs.",
    ),
    doc(
        "gpu_busy",
        "fraction",
        Mean,
        &["aggregate_gpu_utilization", "gpu_utilization"],
        "Length of the union of all device events / first start to last end. Busy is not the same as full: see `mean_sm_coverage`.",
    ),
    doc("idle", "fraction", Mean, &["bubble", "bubble_size_pipeline"], "1 − `gpu_busy`."),
    doc(
        "idle_host",
        "ms",
        Mean,
        &[],
        "Idle while the call that launched the next event had not begun: the device waits for the host.",
    ),
    doc("idle_launch", "ms", Mean, &[], "Idle from the beginning of that call to the event's start: launch latency."),
    doc(
        "idle_dependency",
        "ms",
        Mean,
        &[],
        "Idle before events whose call began before the idle did: they wait for other streams, events or other ranks, or follow within a graph.",
    ),
    doc("idle_unknown", "ms", Mean, &[], "Idle before events whose launch is not in the trace."),
    doc(
        "compute_union",
        "ms",
        Mean,
        &["kernel_compute_time", "compute_time"],
        "Length of the union of compute kernels.",
    ),
    doc("total_kernel_time", "ms", Mean, &[], "Σ of the durations of all kernels."),
    doc("total_trace_time", "ms", Mean, &[], "First start to last end of any timed event that was read."),
    doc(
        "mean_sm_coverage",
        "fraction",
        Mean,
        &["sm", "sm_coverage"],
        "Σ min(blocks / SMs, 1) · duration / Σ duration, over kernels whose grid is in the trace. An upper bound of how much of the device a kernel can use.",
    ),
    doc(
        "sm_active",
        "fraction",
        Mean,
        &["sm_utilization", "sm_utilisation"],
        "Share of SMs active by hardware counters (nsys GPU metrics).",
    ),
    doc("memcpy_union", "ms", Mean, &[], "Length of the union of copies."),
    doc(
        "exposed_memcpy",
        "ms",
        Mean,
        &["exposed_memcpy_time"],
        "Part of it during which neither computation nor communication ran.",
    ),
    doc("memory_transfer_overhead", "fraction", Mean, &[], "`memcpy_union` / device span."),
    doc("memcpy_bytes", "bytes", Mean, &[], "Σ of bytes of copies that say how many."),
    doc("average_memory_bandwidth", "GB/s", Mean, &[], "Σ bytes / Σ duration of those copies."),
    doc(
        "launch_delay",
        "us",
        Mean,
        &[],
        "Mean time from the beginning of a launch call to the start of its (first) device event.",
    ),
    doc(
        "queue_length",
        "events",
        Mean,
        &[],
        "Time-mean of device events launched and not yet started, from the first launch to the last start.",
    ),
    doc("queue_length_max", "events", Max, &[], "Largest such number."),
    doc("kernels_per_step", "kernels", Mean, &[], "Kernels of the steps used, per step."),
    doc("graph_kernel_share", "fraction", Mean, &[], "Share of kernels that a graph launch started."),
    doc("host_sync", "ms", Mean, &[], "Σ of calls that wait for the device (…Synchronize)."),
    doc("gemm_fraction", "fraction", Mean, &[], "Σ of this family / Σ of all kernels."),
    doc("attention_fraction", "fraction", Mean, &[], "Σ of this family / Σ of all kernels."),
    doc("moe_fraction", "fraction", Mean, &[], "Σ of this family / Σ of all kernels."),
    doc(
        "compute_bound_fraction",
        "fraction",
        Mean,
        &[],
        "Σ of gemm, attention, moe and convolution / Σ of all kernels: by family, not by counters.",
    ),
    doc(
        "memory_bound_fraction",
        "fraction",
        Mean,
        &[],
        "Σ of the other families without communication / Σ of all kernels.",
    ),
    doc(
        "dominant_kernel_concentration",
        "fraction",
        Mean,
        &[],
        "Σ of the kernel with the largest Σ / Σ of all kernels.",
    ),
    doc(
        "mfu",
        "fraction",
        Mean,
        &["model_flop_utilization"],
        "Σ over matrix products (shapes of aten::mm, addmm, bmm, baddbmm, _scaled_mm) of operations / the dense peak of the GPU model for the type of their operands (8 bits, 16 bits, 32 bits as TF32 at half of it) / the trace's device span. Only with shapes of operators, so not in graph mode; the note says of which types the operations were.",
    ),
    doc(
        "traffic_distribution",
        "fraction",
        Joint,
        &[],
        "Largest share that one kind of communication in one group has of Σ of all communication; `collectives` lists them all.",
    ),
    doc(
        "token_to_expert_assignment",
        "tokens",
        Joint,
        &[],
        "Never measured here: a profiler's trace does not hold what the router decided. Engines log it (vLLM: expert load of EPLB).",
    ),
    doc("ranks_seen", "ranks", Joint, &[], "Ranks among the traces."),
    doc("world_size", "ranks", Joint, &[], "Ranks that the run had, as the traces say."),
    doc("nodes", "nodes", Joint, &[], "Different host names among the traces."),
];

/// The metric of this name or alias, in any case and with any of `_-./ ` between its words; `scripts/get_x.sh` and
/// `x_group_6` find `x`.
pub fn trace_metric(name: &str) -> Option<&'static TraceMetricDoc> {
    let find = |wanted: &str| {
        TRACE_METRICS
            .iter()
            .find(|doc| std::iter::once(&doc.name).chain(doc.aliases).any(|known| plain(known) == wanted))
    };
    let whole = plain(name);
    // Names of teams are numbers behind the metric's own.
    let bare = whole.trim_end_matches(|c: char| c.is_ascii_digit());
    find(&whole).or_else(|| find(bare.strip_suffix("group").unwrap_or(bare)))
}

/// Names like a wrong one, for a hint.
pub fn similar_trace_metrics(name: &str) -> Vec<&'static str> {
    let wanted = plain(name);
    let mut near: Vec<(f64, &'static str)> = TRACE_METRICS
        .iter()
        .map(|doc| {
            let likeness = std::iter::once(&doc.name)
                .chain(doc.aliases)
                .map(|known| strsim::jaro_winkler(&plain(known), &wanted))
                .fold(0.0, f64::max);
            (likeness, doc.name)
        })
        .filter(|(likeness, _)| *likeness > 0.8)
        .collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0));
    near.into_iter().take(3).map(|(_, name)| name).collect()
}

fn plain(name: &str) -> String {
    let file = name.rsplit('/').next().unwrap_or(name);
    let file = file.strip_suffix(".sh").or_else(|| file.strip_suffix(".py")).unwrap_or(file);
    let file = file.strip_prefix("get_").unwrap_or(file);
    file.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

/// The page of definitions.
pub fn trace_metrics_markdown() -> String {
    let mut page = String::from(
        "# Trace metrics\n\nGenerated from the table beside the code (`servelab-core/src/trace/catalogue.rs`). ",
    );
    let _ = writeln!(page, "Version {TRACE_DEFINITIONS} of the definitions.\n");
    page.push_str(PREFACE);
    page.push_str("\n| metric | unit | over ranks | definition | also found as |\n|---|---|---|---|---|\n");
    for doc in TRACE_METRICS {
        let aliases: Vec<String> = doc.aliases.iter().map(|alias| format!("`{alias}`")).collect();
        let text = doc.text.replace('|', "\\|");
        let _ = writeln!(
            page,
            "| `{}` | {} | {} | {} | {} |",
            doc.name,
            doc.unit,
            doc.over_ranks.name(),
            text,
            aliases.join(" ")
        );
    }
    page
}

const PREFACE: &str = "\
All times are integers of nanoseconds until they are printed; a decimal number of microseconds in a trace is never a floating-point \
number on the way. Fractions are 0–1. A metric that was not measured is `null` with its reason, never 0.

**Steps.** Markers are `ProfilerStep#N`; vLLM's `execute_context_R(T)_generation_R(T)` (R requests, T tokens) and its variants; SGLang's \
`step[DECODE bs=…]` and `run_batch`; TensorRT-LLM's `_forward_step N: … ctx reqs, … gen reqs`; ATOM's `prefill[bs=…]`; numbered `iteration 7` \
and `step_7`. When a trace has several sorts, the one with counts is used. The first and the last marker of each \
rank are dropped when there are at least three; with fewer all are used and a warning says so. Device events belong to the step whose \
marker holds the call that launched them; without launches, or when only the device's track has the marker with counts, to the step \
during which they start.

**Communication** is what the [taxonomy](../commands/trace.md#taxonomy) calls so: kernels of every library, not NCCL alone; kernels that \
also compute (all-reduce fused with a norm) count as communication. Sum, union, exposed part and share of a step are four different \
numbers and all are given. Backends that run on CPUs have no kernels: metrics of devices are absent then, and the calls are in `cpu_comm`, \
`coll_call_num` and under `comm` with `place: host`.

**Over ranks** says how one number comes out of several ranks. Ranks without the metric are left out; `per_rank` shows each.

**Collectives are matched across ranks** by group and sequence number where the trace has them, else by order within family and kind among the \
ranks of one group. Calls that name no group (custom kernels, CUDA graphs) belong to the tensor-parallel or expert-parallel group of the \
trace's `pg_config`, else to the ranks that are inside at the same time by the clock of their host, else to all ranks, which a note says. \
When ranks show different numbers of them, nothing is matched and the reason says so.
";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_and_aliases_are_unique() {
        let mut seen = BTreeSet::new();
        for doc in TRACE_METRICS {
            for name in std::iter::once(&doc.name).chain(doc.aliases) {
                let fresh = seen.insert(plain(name));
                assert!(fresh || name.starts_with("get_"), "{name} stands twice");
            }
        }
    }

    #[test]
    fn scripts_find_their_metrics() {
        for (name, expected) in [
            ("ttft", "ttft"),
            ("tpot", "tpot"),
            ("throughput_tokens_sec", "throughput_tokens_sec"),
            ("comm_overhead", "comm_overhead"),
            ("coll_call_num", "coll_call_num"),
            ("./scripts/get_coll_cal_num.sh", "coll_call_num"),
            ("get_iteration_wall_clock", "iteration_wall_clock"),
            ("Avg-Step-Time", "iteration_wall_clock"),
            ("straggler", "straggler_rank"),
            ("ttft_group_4", "ttft"),
            ("TPOT-group_12", "tpot"),
            ("coll_call_num_16", "coll_call_num"),
            ("tools/iter_time/iter_time.py", "iteration_wall_clock"),
            ("comm_comp_overlap_16", "compute_comm_overlap"),
            ("bandwidth_utilization_allreduce_group_6", "bandwidth_utilization_allreduce"),
            ("avg_allgather_bandwidth_group_2", "algorithm_bandwidth_all_gather"),
            ("token_to_expert_assignment", "token_to_expert_assignment"),
        ] {
            assert_eq!(trace_metric(name).map(|doc| doc.name), Some(expected), "{name}");
        }
        assert!(trace_metric("comm_overhed").is_none());
        assert_eq!(similar_trace_metrics("comm_overhed").first(), Some(&"comm_overhead"));
    }
}
