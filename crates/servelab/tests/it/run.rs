//! `servelab run` on the simulator: what it leaves on disk, what it skips when it is run again, and which options make
//! it do less.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use servelab_testkit::{Place, Signal, TINY, at, brisk, keys, number, strings, text};

use super::place;

/// State and number of cells in it.
fn counts(place: &Place, root: &str) -> BTreeMap<String, usize> {
    let mut out = BTreeMap::new();
    for (state, _) in place.states(root).into_values() {
        *out.entry(state).or_insert(0) += 1;
    }
    out
}

#[track_caller]
fn finished(place: &Place, root: &str, n: usize) {
    let counts = counts(place, root);
    let over: usize = ["done", "invalid"].iter().filter_map(|state| counts.get(*state)).sum();
    assert_eq!((over, counts.values().sum::<usize>()), (n, n), "{counts:?}");
}

#[test]
fn a_study_runs_to_its_end_and_a_second_run_has_nothing_to_do() {
    let place = place();
    place.write("study.yaml", TINY);
    let out = place.servelab("run study.yaml --root out").run().expect(0);
    assert!(out.stdout.contains("ALL RESULTS ARE SIMULATED") && out.stdout.contains("Answer"), "{}", out.stdout);
    assert!(!out.stdout.contains("cells to measure"), "progress is talk, not data");
    assert_eq!(counts(&place, "out"), BTreeMap::from([("done".to_owned(), 2)]), "{}", out.stderr);
    out.says("2 cells to measure").says("2 done").says("report: out/reports/tiny/");
    assert_eq!(
        place.list("out/studies/tiny"),
        ["MANIFEST.md", "events.jsonl", "labels.json", "plan.json", "study.yaml"]
    );
    let plan = place.json("out/studies/tiny/plan.json");
    let points: BTreeSet<&str> = at(&plan, "points").as_array().unwrap().iter().map(|p| text(p, "id")).collect();
    assert_eq!(place.list("out/points"), points.into_iter().collect::<Vec<_>>());
    for point in place.list("out/points") {
        for file in ["config.json", "command.txt", "effective.json", "env.lock.json"] {
            assert!(place.list(&format!("out/points/{point}")).iter().any(|name| name == file), "{file}");
        }
    }
    for cell in place.list("out/cells") {
        let attempt = format!("out/cells/{cell}/attempt-1");
        let files = place.list(&attempt);
        for file in ["state.json", "requests.parquet", "events.parquet", "prom.parquet", "window.json", "result.json"] {
            assert!(files.iter().any(|name| name == file), "{file} is not among {files:?}");
        }
        assert_eq!(place.list(&format!("{attempt}/server")), ["serve-0.log"]);
        contract_of_a_result(&place.json(&format!("{attempt}/result.json")));
        let history = place.json(&format!("{attempt}/state.json"));
        let states: Vec<&str> =
            at(&history, "history").as_array().unwrap().iter().map(|step| text(step, "state")).collect();
        assert_eq!(states, ["server_starting", "ready", "warming", "measuring", "collecting", "done"]);
    }
    // One line per state change, each a document of its own.
    let events = place.read("out/studies/tiny/events.jsonl");
    for line in events.lines() {
        let event = servelab_testkit::parse(line);
        assert!(at(&event, "t_unix_ns").is_u64() && !text(&event, "kind").is_empty(), "{line}");
    }
    place.wait_until_quiet();
    assert_eq!(place.list("out/reports/tiny").len(), 1, "the report is there without being asked for");

    let before = place.files();
    let again = place.servelab("run study.yaml --root out").run().expect(0);
    again.says("2 finished earlier").says("nothing left to do");
    assert!(again.elapsed < Duration::from_secs(5), "{:?}", again.elapsed);
    assert_eq!(place.files(), before, "a run with nothing to do leaves no trace");
}

/// Keys that scripts rely on (CONTRACT).
fn contract_of_a_result(result: &Value) {
    assert_eq!(at(result, "schema").as_u64(), Some(1));
    for path in [
        "clock.epoch_monotonic_ns",
        "clock.epoch_unix_ns",
        "requests.scheduled",
        "requests.sent",
        "requests.completed",
        "requests.failed",
        "requests.censored",
        "duration_s",
        "input_tokens",
        "output_tokens",
        "throughput.output_tokens_per_s",
        "throughput.requests_per_s",
        "concurrency.mean",
        "concurrency.max",
        "client.cpu_s",
        "client.threads",
    ] {
        assert!(number(result, path) >= 0.0, "{path}");
    }
    for latency in ["ttft", "ttft_sched", "ttfo", "icl", "itl", "tpot", "tpot_vllm", "e2e", "e2e_sched"] {
        let quantiles = at(result, &format!("latency_ms.{latency}"));
        let wanted = ["mean", "p50", "p90", "p95", "p99", "max", "n", "ci95"];
        assert!(keys(quantiles).is_superset(&BTreeSet::from(wanted)), "{latency}: {quantiles}");
        assert!(number(quantiles, "n") > 0.0 && number(quantiles, "p50") <= number(quantiles, "max"), "{latency}");
    }
    assert!(keys(result).contains("goodput_requests_per_s") && keys(result).contains("steady"));
    assert_eq!(keys(at(result, "failures")).len(), 0);
    assert!(number(result, "token_source.server_usage") > 0.0);
    assert!(at(result, "verdict.ok").is_boolean());
    for reason in at(result, "verdict.reasons").as_array().unwrap() {
        assert!(!text(reason, "code").is_empty() && !text(reason, "detail").is_empty());
    }
    assert_eq!(number(result, "requests.failed"), 0.0);
    assert_eq!(
        number(result, "output_tokens"),
        16.0 * number(result, "requests.completed"),
        "exactly what was asked for"
    );
}

#[test]
fn max_cells_goes_on_where_it_stopped() {
    let place = place();
    place.write("study.yaml", &brisk(2, 2, 1));
    place.servelab("run study.yaml --root out --max-cells 1").run().expect(0).says("1 cell to measure");
    finished(&place, "out", 1);
    place.servelab("run study.yaml --root out --max-cells 2").run().expect(0).says("1 finished earlier");
    finished(&place, "out", 3);
    place.servelab("run study.yaml --root out").run().expect(0).says("1 cell to measure").says("3 finished earlier");
    finished(&place, "out", 4);
}

#[test]
fn only_and_design_run_a_part() {
    let place = place();
    place.write("study.yaml", &brisk(2, 2, 1));
    place.servelab("run study.yaml --root out --only seqs_8").run().expect(0);
    finished(&place, "out", 2);
    let plan = place.servelab("plan study.yaml --json").run().expect(0).json();
    let cells = at(&plan, "cells").as_array().unwrap();
    let other = cells.iter().find(|cell| !place.states("out").contains_key(text(cell, "id"))).unwrap();
    let id = text(other, "id").get(..8).unwrap().to_owned();
    place.servelab(&format!("run study.yaml --root out --only {id}")).run().expect(0);
    finished(&place, "out", 3);
    assert!(place.states("out").keys().any(|cell| cell.starts_with(&id)));
    place.servelab("run study.yaml --root out --design batch").run().expect(0).says("3 finished earlier");
    finished(&place, "out", 4);
}

#[test]
fn max_requests_makes_smaller_cells_of_their_own() {
    let place = place();
    place.write("study.yaml", TINY);
    place.servelab("run study.yaml --root out --max-requests 3 --only seqs_4").run().expect(0);
    finished(&place, "out", 1);
    let cell = place.list("out/cells").pop().unwrap();
    let result = place.json(&format!("out/cells/{cell}/attempt-1/result.json"));
    assert_eq!(number(&result, "requests.scheduled"), 3.0);
    place.servelab("run study.yaml --root out --only seqs_4").run().expect(0).says("0 finished earlier");
    finished(&place, "out", 2);
}

#[test]
fn a_server_that_runs_already_is_measured_too() {
    let place = place();
    place.write("study.yaml", TINY);
    let mut sim = place
        .servelab("sim --listen 127.0.0.1:0 --model meta-llama/Llama-3.1-8B --max-model-len 4096 --max-num-seqs 4")
        .spawn();
    sim.wait_for("listens on http://");
    let said = sim.stderr();
    let url = said.split_whitespace().find(|word| word.starts_with("http://")).unwrap().to_owned();
    let out = place
        .servelab("run study.yaml --root out --only seqs_4 --engine external --set")
        .args([format!("engine.url={url}")])
        .run()
        .expect(0);
    finished(&place, "out", 1);
    assert!(!sim.has_ended(), "a server that was there before is left alone");
    let plan = place.json("out/studies/tiny/plan.json");
    assert_eq!(text(&plan, "points.0.config.engine.kind"), "external");
    let cell = place.list("out/cells").pop().unwrap();
    let result = place.json(&format!("out/cells/{cell}/attempt-1/result.json"));
    assert!(number(&result, "requests.completed") > 4.0, "{}", out.stderr);
    sim.signal(Signal::TERM);
    assert_eq!(sim.wait().code, Some(0), "the simulator ends in order");
}

#[test]
fn an_endpoint_that_is_not_there_is_named() {
    let place = place();
    place.write("study.yaml", TINY);
    let out = place
        .servelab("run study.yaml --root out --only seqs_4 --engine external --set engine.start_timeout_s=1 --set")
        .args(["engine.url=http://127.0.0.1:1"])
        .run()
        .expect(1);
    out.says("endpoint_unreachable").says("http://127.0.0.1:1").says("check the URL");
}

#[test]
fn the_sizes_of_the_plan_are_the_sizes_of_the_run() {
    let place = place();
    place.write("study.yaml", &brisk(2, 2, 2));
    let plan = place.servelab("plan study.yaml --json").run().expect(0).json();
    place.servelab("run study.yaml --root out").run().expect(0);
    let planned: BTreeSet<String> =
        at(&plan, "cells").as_array().unwrap().iter().map(|cell| text(cell, "id").to_owned()).collect();
    assert_eq!(place.states("out").into_keys().collect::<BTreeSet<_>>(), planned);
    // One server start serves a point's whole ladder: four starts for two points × two repeats.
    let job = place.list("out/jobs").pop().unwrap();
    let intent = place.json(&format!("out/jobs/{job}/intent.json"));
    assert_eq!(at(&intent, "starts").as_array().unwrap().len(), 4);
    let served: usize = at(&intent, "starts").as_array().unwrap().iter().map(|s| strings(s, "cells").len()).sum();
    assert_eq!(served, 8);
    assert_eq!(text(&place.json(&format!("out/jobs/{job}/exit.json")), "state"), "finished");
}

#[test]
fn points_that_cannot_be_started_here_are_named_and_end_in_failure() {
    let place = place();
    // A real engine's servers on two nodes, and there is one. The program is only looked for.
    let study = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/pd-gptoss.yaml");
    let line = format!("run {study} --engine-bin /bin/true --root out --only 8P-TP1+4D-TP2");
    let out = place.servelab(&line).args(["--set", "model.path=/"]).run().expect(1);
    out.says("spread over nodes").says("no cell can run");
}
