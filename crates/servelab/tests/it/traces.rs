//! `servelab trace` from end to end on small traces that the tests write: what is compared, gated, carded, drawn, exported
//! and kept with a study.

use serde_json::{Value, json};
use servelab_testkit::{Output, Place, TINY, at, number, text};

use super::place;

fn prints(output: &Output, expected: &[&str]) {
    for text in expected {
        assert!(output.stdout.contains(text), "stdout does not say `{text}`:\n{}", output.stdout);
    }
}

/// Steps with a gemm and an all-reduce each; the all-reduce is exposed.
fn kineto(rank: u32, world: u32, gemm_us: u32, comm_us: u32) -> Value {
    let mut events = Vec::new();
    for step in 0..6_u32 {
        let start = 1000 * step;
        let name = if step % 3 == 0 {
            "execute_context_1(32)_generation_0(0)"
        } else {
            "execute_context_0(0)_generation_4(4)"
        };
        events.push(
            json!({"ph": "X", "cat": "user_annotation", "name": name, "pid": 1, "tid": 1, "ts": start, "dur": 900}),
        );
        for (offset, dur, kernel) in [
            (10, gemm_us, "ampere_bf16_gemm"),
            (10 + gemm_us, comm_us, "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)"),
        ] {
            events.push(
                json!({"ph": "X", "cat": "kernel", "name": kernel, "pid": 0, "tid": 7, "ts": start + offset, "dur": dur,
                "args": {"device": 0, "stream": 7, "grid": [64, 1, 1]}}),
            );
        }
    }
    json!({
        "schemaVersion": 1,
        "deviceProperties": [{"id": 0, "name": "NVIDIA H100 80GB HBM3", "numSms": 132}],
        "distributedInfo": {"backend": "nccl", "rank": rank, "world_size": world, "nccl_version": "2.27.3"},
        "traceEvents": events
    })
}

/// Folders `a` (2 ranks), `b` (2 ranks, slower gemm), `one` (1 rank).
fn traces() -> Place {
    let place = place();
    for (folder, world, gemm_us, comm_us) in [("a", 2, 300, 100), ("b", 2, 400, 100), ("one", 1, 550, 0)] {
        for rank in 0..world {
            place.write(
                &format!("{folder}/kineto_trace_{rank}.json"),
                &kineto(rank, world, gemm_us, comm_us).to_string(),
            );
        }
    }
    place
}

#[test]
fn compare_names_what_changed_and_gates_decide() {
    let place = traces();
    let comparison = place.servelab("trace compare a b --json").run().expect(0).json();
    let first = &comparison["changes"][0];
    assert_eq!(text(&comparison, "per"), "step and rank");
    assert_eq!(first["delta_ns"], json!(100_000.0));
    assert!(["gemm", "computing", "ampere_bf16_gemm"].contains(&text(first, "name")), "{first}");
    prints(&place.servelab("trace compare a b").run().expect(0), &["+33.3 %"]);
    let gated = place.servelab("trace compare a b --fail-on kernels.gemm>+5% --fail-on comm.nccl>+5%").run().expect(1);
    prints(&gated, &["FAILED", "passed"]);
    // By the name that scripts use.
    let gated = place.servelab("trace compare a b --fail-on communication_overhead>0.5").run().expect(0);
    prints(&gated, &["passed"]);
    place.servelab("trace compare a b --fail-on kernels.gem>+5%").run().expect(2).says("did you mean `kernels.gemm`?");
    place.servelab("trace compare a b --fail-on kernels.gemm>5%").run().expect(2).says("needs a sign");
}

#[test]
fn a_card_is_made_of_measurements_and_contradictions_point_at_their_line() {
    let place = traces();
    place.write("config.yaml", "model: {name: meta-llama/Llama-3.1-8B}\nparallelism: {tp: 2, pp: 1, ep: 1}\ndata: {batch_size: 4, seq_len: 32, max_tokens: 64}\n");
    place.servelab("trace card a --config config.yaml --out card.yaml").run().expect(0);
    let card = place.read("card.yaml");
    for line in [
        "total_count: 2",
        "model: NVIDIA H100 80GB HBM3",
        "phase: [prefill, decode]",
        "name: nccl",
        "version: \"2.27.3\"",
        "tp: 2",
    ] {
        assert!(card.contains(line), "{line} is not in\n{card}");
    }
    prints(&place.servelab("trace card a --config config.yaml --check card.yaml").run().expect(0), &["agrees"]);
    place.write("card.yaml", &card.replace("total_count: 2", "total_count: 4"));
    let line = card.lines().position(|line| line.contains("total_count: 2")).unwrap() + 1;
    let checked = place.servelab("trace card a --config config.yaml --check card.yaml").run().expect(1);
    prints(&checked, &[&format!("card.yaml:{line}:"), "sum of the parallel degrees", "^^^"]);
    place.write("card.yaml", "version: 1\nworkloads: {}\n");
    place.servelab("trace card a --check card.yaml").run().expect(2).says("did you mean `workload`?");
}

#[test]
fn scaling_writes_the_table_and_the_picture() {
    let place = traces();
    let table = place.servelab("trace scaling one a --out scaling --json").run().expect(0).json();
    assert_eq!((number(&table, "rows.0.gpus"), number(&table, "rows.1.gpus")), (1.0, 2.0));
    assert_eq!(number(&table, "rows.0.speedup"), 1.0);
    let csv = place.read("scaling/results_summary.csv");
    assert!(
        csv.starts_with("experiment,gpus,ranks_read,steps,iteration_wall_clock_ms,throughput_tokens_sec,"),
        "{csv}"
    );
    let png = std::fs::read(place.path().join("scaling/scaling_analysis.png")).unwrap();
    assert!(png.starts_with(b"\x89PNG"));
}

#[test]
fn page_export_and_timing_stats_are_written_beside_the_summary() {
    let place = traces();
    place.servelab("trace summary a --html page.html --perfetto export.json").run().expect(0);
    let page = place.read("page.html");
    assert!(page.contains("rank 1: ") && !page.contains("https://"), "the page stands alone");
    let export = place.json("export.json");
    let spans: Vec<&Value> =
        export["traceEvents"].as_array().unwrap().iter().filter(|event| event["ph"] == "X").collect();
    // 2 ranks × 6 steps × (marker, gemm, all-reduce).
    assert_eq!(spans.len(), 36);
    assert!(spans.iter().any(|event| event["cat"] == "comm: nccl" && event["dur"] == 100.0));
    // What was exported is a trace again, with the same kernels.
    place.servelab("trace metrics a --timing-stats times").run().expect(0);
    let stats = place.json("times/timing_stats_1.json");
    assert_eq!(at(&stats, "iteration_times_s").as_array().unwrap().len(), 4);
    assert!((number(&stats, "avg_iteration_time") - 0.0009).abs() < 1e-9, "{stats}");
}

#[test]
fn timing_stats_stand_in_and_hollow_execution_traces_are_called_so() {
    let place = place();
    place.write(
        "run/timing_stats_0.json",
        r#"{"iteration_times_s": [0.5, 0.7], "avg_iteration_time": 0.6, "source": "engine"}"#,
    );
    place.write("run/torch_et_0.json", r#"{"schema": "1.1.1-chakra.0.0.4", "nodes": [{"id": 2, "name": "[pytorch|profiler|execution_trace|thread]"}]}"#);
    let report = place.servelab("trace metrics run --json").run().expect(0).json();
    assert_eq!(number(&report, "metrics.iteration_wall_clock.value"), 600.0);
    assert!(at(&report, "warnings").as_array().unwrap().iter().any(|warning| warning["code"] == "hollow"));
    assert_eq!(at(&report, "metrics.comm_overhead.value"), &Value::Null);
    place.write("run/nsys_0.nsys-rep", "x");
    place.servelab("trace metrics run/nsys_0.nsys-rep").run().expect(2).says("nsys export --type sqlite");
}

#[test]
fn traces_join_their_point_in_the_report() {
    let place = traces();
    place.write("study.yaml", TINY);
    place.servelab("run study.yaml --root out").run().expect(0);
    place.servelab("trace metrics a --attach study.yaml --point seqs_4 --root out").run().expect(0);
    place
        .servelab("trace metrics a --attach study.yaml --point seqs_44 --root out")
        .run()
        .expect(2)
        .says("did you mean `seqs_4`?");
    let report = place.servelab("report study.yaml --root out").run().expect(0);
    prints(&report, &["From profiler traces of these points", "seqs_4"]);
    let rows = place.servelab("report study.yaml --root out --json").run().expect(0).json();
    let shares: Vec<&Value> =
        at(&rows, "rows").as_array().unwrap().iter().map(|row| &row["trace_comm_overhead"]).collect();
    assert!(shares.iter().any(|share| share.as_f64().is_some_and(|share| share > 0.0)), "{shares:?}");
    assert!(shares.contains(&&Value::Null), "other points have none");
}
