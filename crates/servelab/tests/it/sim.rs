//! The simulated server as a process: its time and the client's agree at every speed-up, its traces are read by `trace`,
//! and programs that know nothing of it work against it: the `openai` package, vLLM's own benchmark, Prometheus' parser.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use servelab_load::http::{get_text, post_json};
use servelab_testkit::{Place, Spawned, at, number, text};

use super::{place, repository};

const MODEL: &str = "meta-llama/Llama-3.1-8B";
const CALL_LIMIT: std::time::Duration = std::time::Duration::from_secs(60);

fn start(place: &Place, options: &[&str]) -> (Spawned, String) {
    let line = format!("sim --listen 127.0.0.1:0 --model {MODEL} --max-model-len 4096");
    let mut sim = place.servelab(&line).args(options).spawn();
    sim.wait_for("servelab sim listens on ");
    let said = sim.stderr();
    let url = said.split_whitespace().rev().find(|word| word.starts_with("http://")).unwrap().to_owned();
    (sim, url)
}

/// The bound that docs/src/guide/simulator.md names.
const MOST_DEVIATION: f64 = 0.15;

#[test]
fn latencies_agree_at_every_speed_up() {
    let place = place();
    let measured: Vec<[f64; 3]> = ["1", "10", "50"]
        .iter()
        .map(|speedup| {
            let (sim, url) = start(&place, &["--speedup", speedup, "--gpu", "sim", "--fail", "slow:6"]);
            let line = format!(
                "bench --url {url} --model {MODEL} --endpoint completions --concurrency 4 --requests 24 --input-tokens 64 \
                 --output-tokens 24 --ignore-eos --seed 1 --json"
            );
            let result = place.servelab(&line).run().json();
            drop(sim);
            let codes: Vec<&str> =
                at(&result, "verdict.reasons").as_array().unwrap().iter().map(|reason| text(reason, "code")).collect();
            assert!(codes.contains(&"simulated"), "{codes:?}");
            ["latency_ms.ttft.p50", "latency_ms.itl.p50", "latency_ms.e2e.p50"].map(|path| number(&result, path))
        })
        .collect();
    // Against the slowest clock, which the machine disturbs least; a scheduler's tick of real time is 50 simulated ones.
    for (index, name) in ["TTFT", "ITL", "E2E"].iter().enumerate() {
        let base = measured[0][index];
        for row in &measured[1..] {
            let deviation = (row[index] / base - 1.0).abs();
            assert!(deviation < MOST_DEVIATION, "{name}: {measured:?}");
        }
    }
}

#[test]
fn its_traces_are_read() {
    let place = place();
    let folder = place.path().join("traces");
    let profiler = json!({"profiler": "torch", "torch_profiler_dir": folder}).to_string();
    let (sim, url) = start(&place, &["--speedup", "20", "--tensor-parallel-size", "2", "--profiler-config", &profiler]);
    let call = |path: &str| post_json(&format!("{url}{path}"), &json!({}), CALL_LIMIT, None).unwrap();
    assert!(call("/start_profile").is_success());
    assert_eq!(call("/start_profile").status, 409);
    let body = json!({"model": MODEL, "prompt": "a b c d e f", "max_tokens": 6, "ignore_eos": true});
    assert!(post_json(&format!("{url}/v1/completions"), &body, CALL_LIMIT, None).unwrap().is_success());
    assert!(call("/stop_profile").is_success());
    drop(sim);
    let files: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 2, "{files:?}");
    let metrics = place.servelab("trace metrics traces --json").run().expect(0).json();
    assert_eq!((at(&metrics, "ranks"), number(&metrics, "steps")), (&json!([0, 1]), 6.0));
    let nccl = at(&metrics, "comm").as_object().unwrap();
    assert!(nccl.contains_key("nccl"), "{nccl:?}");
    let summary = place.servelab("trace summary traces").run().expect(0);
    for family in ["gemm", "attention", "norm", "nccl"] {
        assert!(summary.stdout.contains(family), "{family}: {}", summary.stdout);
    }
}

/// A Python with the packages that the script imports, or the reason why not.
fn python(packages: &[&str]) -> Option<PathBuf> {
    let named = std::env::var("SERVELAB_CLIENTS_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let imports = packages.iter().map(|package| format!("import {package}")).collect::<Vec<_>>().join("; ");
    let found = Command::new(&named).args(["-c", &imports]).output().is_ok_and(|output| output.status.success());
    if !found {
        let text = format!(
            "left out: {named} has not all of {packages:?}. Install them into a virtual environment DIR and run with \
             SERVELAB_CLIENTS_PYTHON=DIR/bin/python\n"
        );
        // Past libtest's capture: that something was left out must be seen when everything passes.
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
    found.then(|| named.into())
}

fn script(python: &Path, url: &str) -> String {
    let script = repository().join("crates/servelab/tests/it/clients/sim_clients.py");
    let output = Command::new(python).arg(script).args([url, MODEL]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    said
}

#[test]
fn python_clients_work_against_it() {
    let Some(python) = python(&["openai", "prometheus_client"]) else { return };
    let place = place();
    let (sim, url) = start(&place, &["--speedup", "20", "--api-key", "secret", "--max-num-queued-reqs", "64"]);
    assert_eq!(get_text(&format!("{url}/v1/models"), CALL_LIMIT, None).unwrap().status, 401);
    assert!(script(&python, &url).contains("all is well"));
    drop(sim);
}

#[test]
fn vllms_own_benchmark_works_against_it() {
    let wanted = std::env::var("SERVELAB_REAL").unwrap_or_default();
    if !wanted.split(',').any(|part| part.trim() == "vllm") {
        let text = b"left out: vllm bench serve against the simulator; it needs SERVELAB_REAL=vllm as real_vllm does\n";
        let _ = std::io::stderr().write_all(text);
        return;
    }
    let folder = |name: &str| PathBuf::from(std::env::var(name).unwrap_or_else(|_| panic!("it needs {name}")));
    let (vllm, models) = (folder("SERVELAB_VLLM_DIR").join("bin/vllm"), folder("SERVELAB_MODELS_DIR"));
    let place = place();
    let (sim, url) = start(&place, &["--speedup", "1", "--gpu", "sim"]);
    let output = Command::new(vllm)
        .args([
            "bench",
            "serve",
            "--backend",
            "openai",
            "--base-url",
            &url,
            "--model",
            MODEL,
            "--dataset-name",
            "random",
        ])
        .args(["--tokenizer"])
        .arg(models.join("tiny-qwen3"))
        .args(["--random-input-len", "32", "--random-output-len", "16", "--num-prompts", "20", "--ignore-eos"])
        .args(["--save-result", "--result-filename", "vllm.json", "--result-dir"])
        .arg(place.path())
        .env("HF_HUB_OFFLINE", "1")
        .env("VLLM_NO_USAGE_STATS", "1")
        .env("DO_NOT_TRACK", "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    drop(sim);
    let result = place.json("vllm.json");
    assert_eq!((number(&result, "completed"), number(&result, "total_output_tokens")), (20.0, 320.0));
}
