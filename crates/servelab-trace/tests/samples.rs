//! Real traces with exact expected numbers. They lie beside the checkout; without them the test says that it skips.

#![expect(clippy::cast_precision_loss, clippy::unwrap_used, clippy::print_stderr, reason = "a test; skipping is said")]

use std::path::{Path, PathBuf};

use servelab_core::trace::{Place, TraceReport};
use servelab_trace::{Taxonomy, input, load};

fn report(names: &[&str]) -> Option<TraceReport> {
    let places = ["tests/data/samples/kineto", "../../../shared/samples/traces/kineto"]
        .map(|place| Path::new(env!("CARGO_MANIFEST_DIR")).join(place));
    let found = |name: &&str| places.iter().map(|place| place.join(name)).find(|path| path.is_file());
    let Some(paths) = names.iter().map(found).collect::<Option<Vec<PathBuf>>>() else {
        eprintln!("skipped: {names:?} does not lie beside the checkout (../shared/samples/traces/kineto)");
        return None;
    };
    let inputs = input::discover(&paths).unwrap();
    Some(load::measure(&inputs, &Taxonomy::builtin().unwrap(), 2).unwrap())
}

fn reason<'a>(report: &'a TraceReport, name: &str) -> &'a str {
    let metric = &report.metrics[name];
    assert_eq!(metric.value, None, "{name}");
    metric.absent.as_deref().unwrap()
}

#[test]
fn tracelens_gives_the_same_time_line() {
    let Some(report) = report(&["tracelens_mi300_vllm_decode_full.json.gz"]) else { return };
    let rank = &report.per_rank[0];
    // Its gpu_timeline.csv, in milliseconds; doubles of microseconds at 6.5e12 are 1 ns coarse.
    for (ours, theirs) in [
        (rank.compute_ns, 10.674_506_835_937_5),
        (rank.exposed_comm_ns, 0.0),
        (rank.exposed_memcpy_ns, 0.043_190_429_687_5),
        (rank.busy_ns, 10.717_697_265_625),
        (rank.idle_ns, 0.025_484_375),
        (rank.span_ns, 10.743_181_640_625),
    ] {
        assert!((ours as f64 / 1e6 - theirs).abs() < 0.000_6, "{ours} against {theirs}");
    }
    assert_eq!((rank.kernels, rank.copies), (425, 9));
    assert_eq!(report.step_kinds[0].kind, "decode");
    assert_eq!(report.step_kinds[0].generation_tokens, Some(32));
}

#[test]
fn two_cpu_ranks_show_their_straggler_and_no_device_numbers() {
    let names = ["vllm032_cpu_tp2_rank0.pt.trace.json.gz", "vllm032_cpu_tp2_rank1.pt.trace.json.gz"];
    let Some(report) = report(&names) else { return };
    assert_eq!((report.ranks.as_slice(), report.steps, report.steps_used), ([0, 1].as_slice(), 21, 19));
    let shm = &report.comm["shm"];
    assert_eq!(
        (shm.place, shm.calls, shm.kinds["all_reduce"].calls, shm.kinds["all_gather"].calls),
        (Place::Host, 228, 190, 38)
    );
    assert_eq!(report.metrics["straggler_rank"].value, Some(0.0));
    assert_eq!(report.metrics["coll_call_num"].value, Some(114.0));
    for name in ["comm_overhead", "gpu_busy", "mean_sm_coverage", "comm_sum"] {
        assert!(reason(&report, name).contains("CPU backend"), "{name}");
    }
}

#[test]
fn hollow_and_cpu_only_traces_say_so() {
    let Some(report) = report(&["hta_rank_not_found.json.gz"]) else { return };
    assert!(reason(&report, "comm_overhead").contains("hollow"));
    let Some(report) = self::report(&["hta_cpu_only_gloo_rank34.json.gz"]) else { return };
    assert_eq!((report.ranks.as_slice(), report.world_size), ([34].as_slice(), Some(300)));
    assert_eq!(report.comm["gloo"].calls, 10);
    assert!(reason(&report, "comm_overhead").contains("CPU backend"));
    assert!(report.warnings.iter().any(|warning| warning.code == "missing_ranks"));
}

#[test]
fn nccl_is_found_with_its_arguments() {
    let Some(report) = report(&["hta_a100_ddp_nccl_meta.json.gz"]) else { return };
    let nccl = &report.comm["nccl"];
    assert_eq!((nccl.calls, nccl.kinds["all_reduce"].calls, nccl.kinds["broadcast"].calls), (21, 15, 6));
    assert_eq!(report.steps, 3);
}
