//! Whole traces, one for each way in which engines communicate (`scripts/trace-fixtures.py` writes them). Every expected number
//! was worked out by hand from the times in that script.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::path::{Path, PathBuf};

use servelab_core::trace::{CommFamily, Place, TraceReport};
use servelab_trace::{Taxonomy, input, load};

const MS: i64 = 1_000_000;
const US: i64 = 1_000;

fn report(name: &str) -> TraceReport {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/classes").join(name);
    load::measure(&input::discover(&[path]).unwrap(), &Taxonomy::builtin().unwrap(), 2).unwrap()
}

fn close(report: &TraceReport, name: &str, expected: f64) {
    let metric = &report.metrics[name];
    let value = metric.value.unwrap_or_else(|| panic!("{name} is absent: {:?}", metric.absent));
    assert!((value - expected).abs() <= 1e-9 * expected.abs().max(1.0), "{name}: {value}, expected {expected}");
}

fn absent(report: &TraceReport, name: &str, reason: &str) {
    let metric = &report.metrics[name];
    assert_eq!(metric.value, None, "{name}");
    assert!(metric.absent.as_ref().unwrap().contains(reason), "{name}: {:?}", metric.absent);
}

/// Calls, sum, union and exposed part, in microseconds.
fn family(family: &CommFamily) -> (u64, i64, i64, i64) {
    (family.calls, family.sum_ns / US, family.union_ns / US, family.exposed_ns / US)
}

#[test]
fn symmetric_memory_is_most_of_the_communication_and_nccl_a_third() {
    let report = report("vllm_symmetric_memory");
    assert_eq!(
        (report.ranks.as_slice(), report.world_size, report.steps, report.steps_used),
        ([0, 3].as_slice(), Some(8), 5, 3)
    );
    // Five steps on each rank: multimem 100 (rank 3: 130), two-shot 60 of which 20 before the gemm beside it.
    assert_eq!(family(&report.comm["symmetric_memory"]), (20, 5 * (160 + 190), 5 * (160 + 190), 5 * (120 + 150)));
    assert_eq!(family(&report.comm["nccl"]), (10, 800, 800, 800));
    let (first, second) = (&report.per_rank[0], &report.per_rank[1]);
    // From 100 of the first step to 900 of the fifth; idle 200 between steps.
    assert_eq!((first.span_ns, first.busy_ns, first.idle_ns), (4800 * US, 4 * MS, 800 * US));
    assert_eq!((first.compute_ns, second.compute_ns), (5 * 600 * US, 5 * 570 * US));
    assert_eq!((first.comm_ns, first.exposed_comm_ns), (5 * 240 * US, 5 * 200 * US));
    // Rank 3 waits 30 µs in each of five all-reduces; rank 0 comes last to each.
    assert_eq!((first.comm_wait_ns, second.comm_wait_ns), (Some(0), Some(150 * US)));
    close(&report, "straggler_rank", 0.0);
    close(&report, "comm_transfer", 5.0 * 0.240);
    // Marker 400; device work ends 900 after the marker's start.
    close(&report, "iteration_wall_clock", 0.4);
    close(&report, "step_time", 0.9);
    close(&report, "step_interval", 1.0);
    close(&report, "comm_overhead", (240.0 / 900.0 + 270.0 / 900.0) / 2.0);
    close(&report, "comm_overhead_exposed", (200.0 / 900.0 + 230.0 / 900.0) / 2.0);
    // Steps 1, 2, 3: 8, 256 + 7 and 8 tokens.
    close(&report, "throughput_tokens_sec", 279.0 / 2.7e-3);
    close(&report, "output_tokens_sec", 23.0 / 2.7e-3);
    close(&report, "ttft", 0.9);
    close(&report, "coll_call_num", 15.0);
    close(&report, "coll_call_num_per_step", 3.0);
    close(&report, "comm_share_nccl", 800.0 / (800.0 + 1750.0));
    // Eight kernels in each of five steps; all but those of steps 0 and 2 in graphs.
    close(&report, "graph_kernel_share", 24.0 / 40.0);
    absent(&report, "collective_data_volume", "says its size");
    assert!(report.suspects.is_empty(), "{:?}", report.suspects);
    assert!(report.warnings.iter().any(|warning| warning.code == "missing_ranks"));
    let found = |name: &str| report.kernels.iter().find(|kernels| kernels.family == name).unwrap().sum_ns;
    assert_eq!((found("attention"), found("norm")), (10 * 150 * US, 10 * 50 * US));
}

#[test]
fn expert_parallel_traffic_is_found_without_any_nccl() {
    let report = report("deepep");
    let deepep = &report.comm["deepep"];
    // Four steps on two ranks: dispatch 80, combine 120 of which 80 beside a gemm, notify 10.
    assert_eq!(family(deepep), (24, 8 * 210, 8 * 210, 8 * 130));
    let kinds: Vec<(&str, u64, i64)> =
        deepep.kinds.iter().map(|(kind, time)| (kind.as_str(), time.calls, time.sum_ns / US)).collect();
    assert_eq!(kinds, [("combine", 8, 960), ("dispatch", 8, 640), ("notify", 8, 80)]);
    assert_eq!(family(&report.comm["nvshmem"]), (8, 80, 80, 80));
    close(&report, "comm_share_nccl", 0.0);
    // internode_ll and the barrier go over NVSHMEM, intranode does not.
    close(&report, "comm_share_nvshmem", 210.0 / 220.0);
    close(&report, "nodes", 2.0);
    // Compute: 180–380 and 400–480 in each step; step time 520.
    close(&report, "comm_overhead", 220.0 / 520.0);
    close(&report, "comm_overhead_exposed", 140.0 / 520.0);
    close(&report, "compute_comm_overlap", 80.0 / 220.0);
    let moe = report.kernels.iter().find(|kernels| kernels.family == "moe").unwrap();
    assert_eq!((moe.calls, moe.sum_ns), (8, 1600 * US));
}

#[test]
fn the_generic_kernel_of_rocm_is_what_its_arguments_say() {
    let report = report("rccl_generic");
    let nccl = &report.comm["nccl"];
    assert_eq!(nccl.library, "rccl");
    let kinds: Vec<(&str, u64, i64)> =
        nccl.kinds.iter().map(|(kind, time)| (kind.as_str(), time.calls, time.sum_ns / US)).collect();
    // Rank 1's all-reduces take 60 instead of 50.
    assert_eq!(
        kinds,
        [("all_gather", 6, 600), ("all_reduce", 6, 330), ("all_to_all", 6, 150), ("reduce_scatter", 6, 240)]
    );
    // 2 MiB in 50 and in 60 µs: the mean over ranks of each rank's Σ bytes / Σ time.
    let (fast, slow) = (2_097_152.0 / 50_000.0, 2_097_152.0 / 60_000.0);
    close(&report, "algorithm_bandwidth_all_reduce", (fast + slow) / 2.0);
    close(&report, "bus_bandwidth_all_reduce", (fast + slow) / 2.0 * 2.0 * 7.0 / 8.0);
    // 4 MiB of floats out in 100 µs.
    close(&report, "algorithm_bandwidth_all_gather", 4_194_304.0 / 100_000.0);
    close(&report, "bus_bandwidth_all_gather", 4_194_304.0 / 100_000.0 * 7.0 / 8.0);
    close(&report, "collective_data_volume", 3.0 * (2_097_152.0 + 4_194_304.0 + 2_097_152.0 + 1000.0));
    // 150 µs of gemm per step, from 150 to 300; the all-reduce ends at 150 or 160.
    let exposed = nccl.exposed_ns / US;
    assert_eq!(exposed, 3 * (50 + 100 + 40 + 25) + 3 * (50 + 100 + 40 + 25));
    // Rank 0 is last to each all-reduce; the others are equal.
    close(&report, "comm_wait", 0.030 / 2.0);
    absent(&report, "bandwidth_utilization_allreduce", "does not name its GPU");
    absent(&report, "ttft", "no request or token counts");
    let stats = report.collectives.iter().find(|stats| stats.kind == "all_reduce").unwrap();
    assert_eq!((stats.group.as_deref(), stats.group_size, stats.message_bytes), (Some("2"), Some(8), Some(2_097_152)));
}

#[test]
fn markers_of_sglang_split_prefill_from_decode() {
    let report = report("sglang.json");
    assert_eq!((report.steps, report.steps_used), (5, 3));
    assert_eq!(family(&report.comm["custom_all_reduce"]), (10, 750, 750, 750));
    let kinds: Vec<(&str, u64, Option<u64>, Option<u64>)> = report
        .step_kinds
        .iter()
        .map(|kind| (kind.kind.as_str(), kind.steps, kind.context_tokens, kind.generation_tokens))
        .collect();
    // The first step (prefill) and the last are dropped.
    assert_eq!(kinds, [("decode", 2, Some(0), Some(8)), ("mixed", 1, Some(128), Some(4))]);
    // Markers begin at 10 and last 800; device work ends at 700.
    close(&report, "iteration_wall_clock", 0.8);
    close(&report, "tpot", 0.8);
    close(&report, "throughput_tokens_sec", (4.0 + 4.0 + 128.0 + 4.0) / 2.4e-3);
    close(&report, "output_tokens_sec", 12.0 / 2.4e-3);
    close(&report, "attention_fraction", 300.0 / 650.0);
}

#[test]
fn fused_communication_is_called_fused_and_strangers_are_listed() {
    let report = report("flashinfer_fused.json");
    let fused = &report.comm["fused_allreduce"];
    assert!(fused.is_fused && fused.place == Place::Device);
    assert_eq!(family(fused), (3, 120, 120, 120));
    assert_eq!(report.suspects, ["acme_fast_allreduce_v2"]);
    assert_eq!(report.comm.len(), 1);
}

#[test]
fn hollow_traces_give_reasons_and_no_zero() {
    let report = report("hollow");
    for name in ["comm_overhead", "comm_sum", "coll_call_num", "gpu_busy", "kernels_per_step", "mfu", "comm_share_nccl"]
    {
        absent(&report, name, "hollow");
    }
    close(&report, "iteration_wall_clock", 1.0);
    assert_eq!(report.executions[0].operators, 0);
    let hollow = report.warnings.iter().filter(|warning| warning.code == "hollow").count();
    assert_eq!(hollow, 2, "{:?}", report.warnings);
}
