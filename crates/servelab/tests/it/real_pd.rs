//! Prefill and decode apart on a real vLLM: the example study `vllm-cpu-pd`, KV over NIXL between two processes, beside two
//! replicas. Asked for with `SERVELAB_REAL=pd`. Latencies mean nothing on a small machine; equal answers, counters and
//! the records of both legs do.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;
use servelab_testkit::{Deadline, Place, at, number, poll, strings, text};

use super::{place, repository};

const LIMIT_S: u64 = 2400;
/// As the example says.
const REQUESTS: f64 = 24.0;

/// `None` when this test was not asked for; asked for and not there is a failure.
fn wanted() -> Option<(PathBuf, PathBuf)> {
    let wanted = std::env::var("SERVELAB_REAL").unwrap_or_default();
    if !wanted.split(',').any(|part| part.trim() == "pd") {
        let text = b"left out: real_pd, which needs a real vLLM with NIXL: cargo xtask verify pd\n";
        let _ = std::io::stderr().write_all(text);
        return None;
    }
    let folder =
        |name: &str| PathBuf::from(std::env::var(name).unwrap_or_else(|_| panic!("SERVELAB_REAL=pd needs {name}")));
    Some((folder("SERVELAB_VLLM_DIR").join("bin/vllm"), folder("SERVELAB_MODELS_DIR")))
}

fn prepare(models: &Path) -> Place {
    let place = place();
    let example = |name: &str| std::fs::read_to_string(repository().join("examples").join(name)).unwrap();
    let site = example("sites/vllm-cpu.yaml");
    let (env, _) = site.split_once("paths:").unwrap();
    // NIXL may lie beside the virtual environment instead of in it.
    let nixl = std::env::var("SERVELAB_NIXL_DIR").map_or(String::new(), |folder| format!("  PYTHONPATH: {folder:?}\n"));
    place.write("vllm-cpu-pd.yaml", &example("vllm-cpu-pd.yaml"));
    std::fs::create_dir(place.path().join("tmp")).unwrap();
    place.write("sites/vllm-cpu.yaml", &format!("{env}{nixl}paths: {{models: {models:?}}}\n"));
    place
}

/// The attempt of the only cell of a point.
fn attempt(place: &Place, label: &str) -> (String, String) {
    let plan = place.json("out/studies/vllm-cpu-pd/plan.json");
    let points = at(&plan, "points").as_array().unwrap();
    let point = text(points.iter().find(|point| strings(point, "labels").contains(&label)).unwrap(), "id").to_owned();
    let cells = at(&plan, "cells").as_array().unwrap();
    let cell = text(cells.iter().find(|cell| text(cell, "point") == point).unwrap(), "id").to_owned();
    (point, format!("out/cells/{cell}/attempt-1"))
}

#[test]
fn prefill_and_decode_over_nixl() {
    let Some((vllm, models)) = wanted() else { return };
    let place = prepare(&models);
    let command = place.servelab("run vllm-cpu-pd.yaml --root out --engine-bin").args([&vllm]);
    let mut run = command.env("TMPDIR", &place.path().join("tmp").to_string_lossy()).spawn();
    poll("the end of the run", Deadline::in_s(LIMIT_S), || run.has_ended().then_some(()));
    let output = run.wait().expect(0);
    let _ = std::io::stderr().write_all(output.stdout.as_bytes());
    place.wait_until_quiet();

    let (point, apart) = attempt(&place, "1P-TP1+1D-TP1");
    let proof = place.json(&format!("out/points/{point}/transfer.json"));
    let _ = writeln!(std::io::stderr(), "{proof:#}");
    assert_eq!((at(&proof, "is_proved"), at(&proof, "caches_emptied")), (&Value::Bool(true), &Value::Bool(true)));
    let pair = at(&proof, "pairs.0");
    assert!(text(pair, "alone") == text(pair, "routed") && !text(pair, "alone").is_empty(), "{proof}");
    let moved = place.json(&format!("{apart}/transfer.json"));
    let _ = writeln!(std::io::stderr(), "{moved:#}");
    assert!(number(&moved, "transfers") >= REQUESTS && number(&moved, "bytes") > 0.0, "{moved}");
    let result = place.json(&format!("{apart}/result.json"));
    assert_eq!(number(&result, "requests.completed"), REQUESTS);
    // 16 tokens each, counted by the decode server, as asked for.
    assert_eq!(number(&result, "output_tokens"), REQUESTS * 16.0);
    let legs = place.read(&format!("{apart}/legs.jsonl"));
    let legs: Vec<Value> = legs.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(legs.len() as f64 >= REQUESTS);
    for leg in &legs {
        assert_eq!((text(leg, "outcome"), at(leg, "handed_over")), ("ok", &Value::Bool(true)), "{leg}");
        assert!(number(leg, "prefill.t_end") <= number(leg, "decode.t_send"), "{leg}");
    }

    let (_, replicas) = attempt(&place, "2xTP1");
    let legs = place.read(&format!("{replicas}/legs.jsonl"));
    let used: std::collections::BTreeSet<u64> = legs
        .lines()
        .map(|line| at(&serde_json::from_str::<Value>(line).unwrap(), "decode.server").as_u64().unwrap())
        .collect();
    assert_eq!(used.len(), 2, "both replicas worked");
}
