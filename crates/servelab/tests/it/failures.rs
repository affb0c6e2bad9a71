//! Runs in which something goes wrong on the server's side: each failure has a code that `explain` knows, its evidence
//! and its advice, costs only the cells that it hit, and never gets a rank.

use std::collections::BTreeMap;

use servelab_testkit::{Place, TINY, at, number, text};

use super::place;

/// Three cells on one server start, six requests each.
const LADDER: &str = "\
schema: 1
study: ladder
engine: {kind: sim, version: \"0.32.*\", speedup: 4}
model: {id: meta-llama/Llama-3.1-8B}
serve: {max_model_len: 4096, max_num_batched_tokens: 2048}
workloads:
  chat: {dataset: {synth: {input_tokens: 32, output_tokens: 8, seed: 7}}}
load: {closed: {concurrency: [1, 2, 3]}, warmup: {requests: 1}, stop: {requests: 6}}
designs:
  one: {list: {only: {max_num_seqs: 4}}}
";

fn set(place: &Place, study: &str, setting: &str) -> servelab_testkit::Output {
    place.write("study.yaml", study);
    place.servelab("run study.yaml --root out --set").args([setting]).run()
}

fn codes(place: &Place) -> BTreeMap<String, usize> {
    let mut out = BTreeMap::new();
    for (state, code) in place.states("out").into_values() {
        *out.entry(format!("{state} {}", code.unwrap_or_default()).trim().to_owned()).or_insert(0) += 1;
    }
    out
}

fn failure(place: &Place) -> serde_json::Value {
    let cells = place.list("out/cells");
    let with = cells.iter().map(|cell| format!("out/cells/{cell}/attempt-1/failure.json"));
    let path = with.into_iter().find(|path| place.path().join(path).is_file()).unwrap();
    place.json(&path)
}

#[test]
fn a_server_without_memory_fails_with_code_line_and_advice() {
    let place = place();
    let out = set(&place, TINY, "engine.fail=[oom_start]").expect(1);
    assert_eq!(codes(&place), BTreeMap::from([("failed cuda_oom_load".to_owned(), 2)]));
    let failure = failure(&place);
    assert_eq!(text(&failure, "code"), "cuda_oom_load");
    assert!(text(&failure, "line").contains("CUDA out of memory"));
    assert!(text(&failure, "source").contains("serve-0.log:"));
    out.says("cuda_oom_load").says(text(&failure, "advice"));
    // A retry does not cure it, so it is not tried again unasked; and that is said.
    place.servelab("run study.yaml --root out --set engine.fail=[oom_start]").run().says("cuda_oom_load");
    assert!(place.states("out").keys().all(|cell| place.attempts("out", cell).len() == 1));
    place.servelab("run study.yaml --root out --retry cuda_oom_load --set engine.fail=[oom_start]").run().expect(1);
    assert!(place.states("out").keys().all(|cell| place.attempts("out", cell).len() == 2));
    place.wait_until_quiet();
}

#[test]
fn a_context_that_does_not_fit_is_infeasible_with_the_engine_s_numbers() {
    let place = place();
    place.write("study.yaml", TINY);
    let out = place
        .servelab("run study.yaml --root out --set serve.max_model_len=131072 --set serve.gpu_memory_utilization=0.26")
        .run()
        .expect(0);
    assert_eq!(codes(&place), BTreeMap::from([("infeasible kv_too_small".to_owned(), 2)]));
    out.says("infeasible").says("estimated_max_len").says("max_seq_len 131072");
}

/// Requests 1 (readiness), 2–8 (first cell), then the crash in the second cell's window.
#[test]
fn a_server_that_dies_costs_one_cell() {
    let place = place();
    let out = set(&place, LADDER, "engine.fail=[\"crash:12\"]").expect(1);
    let codes = codes(&place);
    assert_eq!(codes.get("failed server_exited"), Some(&1), "{codes:?}\n{}", out.stderr);
    assert_eq!(codes.values().sum::<usize>(), 3, "{codes:?}");
    assert_eq!(codes.len(), 2, "the other two are over: {codes:?}\n{}", out.stderr);
    out.says("server_exited").says("2 ");
    place.wait_until_quiet();
    // It may recover, so the same command tries it again.
    place.servelab("run study.yaml --root out").args(["--set", "engine.fail=[\"crash:12\"]"]).run().expect(0);
    let latest: Vec<usize> = place.states("out").keys().map(|cell| place.attempts("out", cell).len()).collect();
    assert_eq!(latest.iter().sum::<usize>(), 4, "one cell was tried twice: {latest:?}");
    place.wait_until_quiet();
}

/// What the server does to most requests, and what the cell is called for it.
#[test]
fn answers_that_are_none_make_a_cell_invalid_and_unranked() {
    for (fail, code) in [
        ("zero:0.8", "zero_tokens"),
        ("503:0.8", "http_503"),
        ("inband:0.8", "in_band_error"),
        ("truncate:0.8", "truncated_stream"),
    ] {
        let place = place();
        place.write("study.yaml", TINY);
        let setting = format!("engine.fail=[\"{fail}\"]");
        let options = ["--only", "seqs_4", "--set", &setting, "--set", "load.stop={requests: 20}"];
        let out = place.servelab("run study.yaml --root out").args(options).run();
        out.clone().expect(0).says("invalid");
        let cell = place.list("out/cells").pop().unwrap();
        let result = place.json(&format!("out/cells/{cell}/attempt-1/result.json"));
        let failed = number(&result, &format!("failures.{code}"));
        assert!(failed >= 10.0 && failed == number(&result, "requests.failed"), "{fail}: {}", at(&result, "failures"));
        assert_eq!(at(&result, "verdict.ok").as_bool(), Some(false), "{fail}");
        assert_eq!(place.states("out")[&cell].0, "invalid", "{fail}");
        let report = place.servelab("report study.yaml --root out --json").args(options).run().expect(0).json();
        assert_eq!(text(&report, "rows.0.state"), "invalid", "{fail}");
        let text = place.servelab("report study.yaml --root out").args(options).run().expect(0).stdout;
        let ranking = text.split("Ranking").nth(1).unwrap_or_default();
        assert!(!ranking.lines().any(|line| line.trim_start().starts_with("1 ")), "{fail} was ranked:\n{text}");
        let strict = place.servelab("report study.yaml --root out --strict").args(options).run();
        assert_eq!(strict.code, Some(1), "{fail}: {}", strict.stderr);
    }
}
