use super::*;
use crate::trace::{CommFamily, KernelFamily, KernelTime, Metric};

fn report(steps: u64, ranks: u32, gemm_ns: i64, nccl_ns: i64) -> TraceReport {
    let mut report = TraceReport { steps, ranks: (0..ranks).collect(), ..TraceReport::default() };
    report.kernels.push(KernelFamily { family: "gemm".to_owned(), calls: 10, sum_ns: gemm_ns, share: 1.0 });
    report.top_kernels.push(KernelTime {
        name: "gemm<1>".to_owned(),
        family: "gemm".to_owned(),
        calls: 10,
        sum_ns: gemm_ns,
        share: 1.0,
    });
    report.comm.insert(
        "nccl".to_owned(),
        CommFamily { calls: 4, sum_ns: nccl_ns, union_ns: nccl_ns, exposed_ns: nccl_ns / 2, ..CommFamily::default() },
    );
    for rank in 0..ranks {
        report.per_rank.push(RankSummary {
            rank,
            span_ns: 1000,
            compute_ns: 700,
            idle_ns: 100,
            ..RankSummary::default()
        });
    }
    report.metrics.insert("iteration_wall_clock".to_owned(), Metric::of(10.0, "ms"));
    report.metrics.insert("mfu".to_owned(), Metric::absent("%", "no operator carries its FLOPs"));
    report
}

#[test]
fn times_are_per_step_and_rank_and_the_largest_change_comes_first() {
    let (a, mut b) = (report(10, 2, 2_000_000, 400_000), report(20, 4, 8_000_000, 4_000_000));
    b.metrics.insert("iteration_wall_clock".to_owned(), Metric::of(11.0, "ms"));
    let comparison = compare("A", &a, "B", &b);
    assert_eq!(comparison.per, "step and rank");
    let first = &comparison.changes[0];
    // 2,000,000 / (10 × 2) = 100,000 and 8,000,000 / (20 × 4) = 100,000: no change. 20,000 against 50,000: the first.
    assert_eq!((first.group, first.name.as_str(), first.delta_ns), (Group::CommFamily, "nccl", 30_000.0));
    assert_eq!(first.delta_percent, Some(150.0));
    assert!(comparison.changes.iter().any(|c| c.group == Group::KernelFamily && c.delta_ns == 0.0));
    assert_eq!(comparison.metrics[0].delta_percent, Some(10.0));
    assert_eq!(comparison.metrics[1].absent.as_deref(), Some("A: no operator carries its FLOPs"));
    assert!(comparison.notes[0].contains("A has 2 ranks, B has 4"));
}

#[test]
fn without_steps_times_are_per_rank_and_that_is_said() {
    let comparison = compare("A", &report(0, 1, 10, 10), "B", &report(5, 1, 10, 10));
    assert_eq!(comparison.per, "rank");
    assert!(comparison.notes[0].contains("A has no step markers"));
    let same = compare("A", &report(5, 1, 10, 10), "B", &report(5, 1, 10, 10));
    assert!(same.notes.is_empty() && same.changes.iter().all(|change| change.delta_ns == 0.0));
}

#[test]
fn what_is_only_on_one_side_counts_in_full() {
    let mut b = report(10, 1, 100, 100);
    b.kernels.push(KernelFamily { family: "moe".to_owned(), calls: 1, sum_ns: 50_000, share: 0.5 });
    let comparison = compare("A", &report(10, 1, 100, 100), "B", &b);
    let moe = &comparison.changes[0];
    assert_eq!((moe.name.as_str(), moe.a_ns, moe.b_ns, moe.delta_percent), ("moe", None, Some(5000.0), None));
    assert!(Gate::parse("kernels.moe>+5%").unwrap().check(&comparison).unwrap().failed);
}

#[test]
fn gates_fail_on_what_they_say() {
    let mut b = report(10, 1, 100, 100);
    b.metrics.insert("iteration_wall_clock".to_owned(), Metric::of(10.6, "ms"));
    let comparison = compare("A", &report(10, 1, 100, 100), "B", &b);
    let failed = |text: &str| Gate::parse(text).unwrap().check(&comparison).map(|outcome| outcome.failed);
    assert_eq!(failed("iteration_wall_clock>+5%"), Some(true));
    assert_eq!(failed("iteration_wall_clock > +7%"), Some(false));
    assert_eq!(failed("iteration_wall_clock>+0.5"), Some(true));
    assert_eq!(failed("iteration_wall_clock>10.6"), Some(false));
    assert_eq!(failed("iteration_wall_clock>=10.6"), Some(true));
    assert_eq!(failed("iteration_wall_clock<-5%"), Some(false));
    assert_eq!(failed("part.exposed_communication<=+0%"), Some(true));
    assert_eq!(failed("nothing>+5%"), None);
    assert!(Gate::names(&comparison).contains(&"exposed.nccl".to_owned()));
    let absent = Gate::parse("mfu<-5%").unwrap().check(&comparison).unwrap();
    assert!(absent.failed && absent.found.contains("no operator"), "{absent:?}");
}

#[test]
fn gates_that_say_nothing_are_refused() {
    for text in ["", "x", ">5", "x>", "x>abc", "x>5%", "x=5", "x>+inf"] {
        assert!(Gate::parse(text).is_err(), "{text}");
    }
}
