use servelab_core::trace::timeline::{LaneTimeline, RankTimeline, Run, StepSpan};
use servelab_core::trace::{CommFamily, KernelFamily, KernelTime, TraceWarning};

use super::*;

fn report() -> TraceReport {
    let mut report =
        TraceReport { ranks: vec![0], world_size: Some(8), steps: 3, steps_used: 1, ..TraceReport::default() };
    report.metrics.insert("comm_overhead".to_owned(), Metric::of(0.197, "fraction"));
    report.metrics.insert("mfu".to_owned(), Metric::absent("fraction", "no <operator> carries FLOPs"));
    report.kernels.push(KernelFamily { family: "gemm".to_owned(), calls: 1200, sum_ns: 3_000_000, share: 0.8 });
    report.top_kernels.push(KernelTime {
        name: "void k<a&b>(\"x\")".to_owned(),
        family: "gemm".to_owned(),
        ..KernelTime::default()
    });
    report.comm.insert("nccl".to_owned(), CommFamily { calls: 2, library: "nccl".to_owned(), ..CommFamily::default() });
    report.warnings.push(TraceWarning { code: "missing_ranks".to_owned(), detail: "7 of 8 ranks".to_owned() });
    report
}

fn timeline() -> RankTimeline {
    RankTimeline {
        rank: 0,
        span_ns: 1_000_000,
        n_bins: 100,
        steps: vec![StepSpan {
            name: "</title><script>".to_owned(),
            kind: "decode".to_owned(),
            start_ns: 0,
            dur_ns: 500_000,
        }],
        lanes: vec![LaneTimeline {
            name: "GPU 0 stream 7".to_owned(),
            events: 1,
            sum_ns: 10,
            runs: vec![Run { first: 3, len: 4, family: "comm: nccl".to_owned(), filled: 8 }],
        }],
        ..RankTimeline::default()
    }
}

#[test]
fn the_page_stands_alone_and_says_what_is_missing() {
    let page = trace_page(&report(), &[timeline()], "a folder <b>", "1.0");
    for outside in ["http://", "https://", "src=", "url(", "@import"] {
        assert!(!page.contains(outside), "{outside} would need a network");
    }
    for part in [
        "1 of 8 ranks",
        "19.7 %",
        "no &lt;operator&gt; carries FLOPs",
        "missing_ranks",
        "M3 19h4v24h-4z",
        "void k&lt;a&amp;b&gt;(&quot;x&quot;)",
        "a folder &lt;b&gt;",
        "prefers-color-scheme: dark",
        "<html lang=\"en\">",
    ] {
        assert!(page.contains(part), "{part} is not on the page");
    }
    assert_eq!(page.matches("<script>").count(), 1, "names of steps cannot add scripts");
    assert_eq!(page.matches("<table>").count(), page.matches("</table>").count());
    assert_eq!(page.matches("<section").count(), page.matches("</section>").count());
    assert_eq!(page.matches("<div").count(), page.matches("</div>").count());
}

#[test]
fn a_page_without_anything_is_still_a_page() {
    let page = trace_page(&TraceReport::default(), &[], "x", "1");
    assert!(page.contains("No device event") && page.contains("No kernels.") && page.ends_with("</html>\n"));
}
