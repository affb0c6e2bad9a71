//! `predict`, `plan --predict`, `report --predict`, `calibrate`: what they print and write.

use std::collections::BTreeSet;

use serde_json::Value;
use servelab_testkit::text;

use super::{example, place};

/// A site with a device, four points of which two differ in a limit that is never reached.
const STUDY: &str = r#"
schema: 1
study: small
engine: {kind: sim, version: "0.32.*", speedup: 100}
model: {id: meta-llama/Llama-3.1-8B, tokenizer: builtin}
deploy: {tp: 1}
serve: {max_model_len: 4096, max_num_batched_tokens: 2048}
workloads: {short: {dataset: {synth: {input_tokens: 128, output_tokens: 32}}}}
load: {closed: {concurrency: [4]}, warmup: {requests: 2}, stop: {requests: 24}}
designs:
  limits: {grid: {max_num_seqs: [2, 64, 128]}, label: "seqs_{max_num_seqs}"}
"#;

#[test]
fn cells_are_predicted_the_same_every_time() {
    let place = place();
    let run = || place.servelab("predict --json --gpu H100").args([example("quickstart")]).run().expect(0);
    let first = run();
    let json = first.json();
    assert_eq!(first.stdout, run().stdout, "nothing random");
    assert_eq!((text(&json, "label"), json["simulated"].as_bool()), ("uncalibrated", Some(true)));
    let cells = json["cells"].as_array().unwrap();
    assert!(cells.len() >= 6);
    for cell in cells {
        assert_eq!(text(cell, "status"), "predicted", "{cell}");
        for name in ["ttft", "tpot", "itl", "e2e"] {
            let quantiles = &cell["latency_ms"][name];
            let at = |key: &str| quantiles[key].as_f64().unwrap();
            assert!(at("p50") > 0.0 && at("p50") <= at("p95") && at("p95") <= at("p99"), "{name}: {quantiles}");
        }
        assert!(cell["throughput"]["output_tokens_per_s"].as_f64().unwrap() > 0.0);
        assert!(cell["kv"]["capacity_tokens"].as_u64().unwrap() > 100_000);
        assert!((0.0..=1.0).contains(&cell["kv"]["peak_usage"].as_f64().unwrap()));
    }
}

#[test]
fn what_cannot_matter_is_said_and_left_out_only_on_request() {
    let place = place();
    place.write("small.yaml", STUDY);
    let json = place.servelab("predict small.yaml --json --gpu H100 --emit-study smaller.yaml").run().expect(0).json();
    let factor = &json["factors"][0];
    assert_eq!(text(factor, "factor"), "max_num_seqs");
    assert_eq!(factor["cannot_matter"].as_bool(), Some(false), "2 limits a load of 4: {factor}");
    let wide = "predict small.yaml --json --gpu H100 --set designs.limits.grid.max_num_seqs=[64,128,256]";
    let json = place.servelab(wide).run().expect(0).json();
    assert_eq!(json["factors"][0]["cannot_matter"].as_bool(), Some(true), "{}", json["factors"]);
    assert_eq!((json["proposal"]["points"].as_u64(), json["proposal"]["of"].as_u64()), (Some(1), Some(3)));
    let ids = |value: &Value, key: &str| -> BTreeSet<String> {
        value["points"].as_array().unwrap().iter().map(|point| text(point, key).to_owned()).collect()
    };
    let all = ids(&place.servelab("plan small.yaml --json").run().expect(0).json(), "id");
    let kept = ids(&place.servelab("plan smaller.yaml --json").run().expect(0).json(), "id");
    assert!(!kept.is_empty() && kept.is_subset(&all), "{kept:?} of {all:?}");
}

#[test]
fn plan_and_text_show_the_prediction() {
    let place = place();
    place.write("small.yaml", STUDY);
    let out = place.servelab("plan small.yaml --predict --gpu H100").run().expect(0).stdout;
    assert!(out.contains("Prediction of small (uncalibrated)") && out.contains("Smallest part"), "{out}");
    let json = place.servelab("plan small.yaml --predict --gpu B200 --json").run().expect(0).json();
    assert_eq!(text(&json["prediction"], "label"), "unvalidated");
    assert_eq!(json["points"].as_array().unwrap().len(), 3);
}

#[test]
fn split_deployments_are_predicted_beside_the_others() {
    let place = place();
    let few = "--set load.closed.concurrency=[8] --set repeats.n=1";
    let json = place.servelab(&format!("predict --json {few}")).args([example("pd-gptoss")]).run().expect(0).json();
    let cells = json["cells"].as_array().unwrap();
    assert_eq!(cells.len(), 17);
    for cell in cells {
        assert_eq!(text(cell, "status"), "predicted", "{cell}");
        let is_split = cell["labels"][0].as_str().unwrap().contains("P-TP");
        assert_eq!(cell["kv_transfer_ms"].as_f64().is_some(), is_split, "{cell}");
        if is_split {
            assert_eq!(text(cell, "label"), "unvalidated");
        }
    }
    let place_factor = json["factors"].as_array().unwrap().iter().find(|factor| text(factor, "factor") == "place");
    assert_eq!(place_factor.unwrap()["modelled"].as_bool(), Some(true));
}

#[test]
fn mistakes_are_exit_code_two() {
    let place = place();
    place.write("small.yaml", STUDY);
    place.write("broken.json", "{\"gpus\": 3}");
    for (line, part) in [
        ("predict small.yaml --gpu TPUv9", "TPUv9"),
        ("predict small.yaml --gpu H100 --hardware broken.json", "broken.json"),
        ("predict small.yaml --gpu H100 --calibration absent.json", "absent.json"),
        ("calibrate small.yaml --gpu H100 --out c.json", "at least 2"),
    ] {
        let out = place.servelab(line).run().expect(2);
        assert!(out.stderr.contains(part), "{line}: {}", out.stderr);
    }
    assert!(!place.path().join("c.json").exists());
}

#[test]
fn a_device_of_ones_own_is_used() {
    let place = place();
    place.write("small.yaml", STUDY);
    let hardware = r#"{"gpus": [{"name": "slow", "device": "cuda", "family": "ada", "memory_gb": 48,
        "bandwidth_gb_per_s": 100, "bf16_tflops": 20, "link_gb_per_s": 10}]}"#;
    place.write("hardware.json", hardware);
    let tpot = |options: &str| {
        let line = format!("predict small.yaml --json --only seqs_64 {options}");
        let json = place.servelab(&line).run().expect(0).json();
        json["cells"][0]["latency_ms"]["tpot"]["mean"].as_f64().unwrap()
    };
    // 16 GB of weights at 100 GB/s.
    let slow = tpot("--gpu slow --hardware hardware.json");
    assert!(slow > 150.0 && slow > 10.0 * tpot("--gpu H100"), "{slow}");
}

#[test]
fn measured_cells_calibrate_and_stand_beside_their_prediction() {
    let place = place();
    place.write("small.yaml", &STUDY.replace("concurrency: [4]", "concurrency: [1, 4]"));
    place.servelab("run small.yaml --root out --quiet").run().expect(0);
    let report = place.servelab("report small.yaml --root out --predict --gpu H100").run().expect(0);
    assert!(report.stdout.contains("Predicted beside measured"), "{}", report.stdout);
    assert!(report.stdout.contains("measured on the simulated engine"), "{}", report.stdout);
    let out = place.servelab("calibrate small.yaml --root out --gpu H100 --out mine.json").run();
    // On a busy machine the simulator's own clock may be too coarse to calibrate: refused is an answer as well.
    // On a starved one, cells are marked invalid and cannot be calibrated on.
    if out.stderr.contains("worse than none") || out.stderr.contains("needs at least 2") {
        assert!(!place.path().join("mine.json").exists());
        eprintln!("the fit itself is not tested, for calibrate refused: {}", out.stderr);
        return;
    }
    let out = out.expect(0);
    assert!(out.stdout.contains("left out of the fit"), "{}", out.stdout);
    let json = place.servelab("predict small.yaml --json --gpu H100 --calibration mine.json").run().expect(0).json();
    assert_eq!(text(&json, "label"), "calibrated");
    let other = place.servelab("predict small.yaml --json --gpu H200 --calibration mine.json").run().expect(0).json();
    assert_eq!(text(&other, "label"), "uncalibrated", "a calibration is narrow");
    assert!(other["cells"][0]["not_modelled"].to_string().contains("GPU"), "{}", other["cells"][0]);
    let sim = place.servelab("sim --model x --gpu H100 --calibration mine.json --listen 127.0.0.1:0").run().expect(2);
    assert!(sim.stderr.contains("not x"), "{}", sim.stderr);
}

/// Two runs of a detailed `vllm bench serve` file, on a server that is slower than predicted.
fn foreign_result(concurrency: u32, ttft_s: f64, itl_s: f64) -> String {
    let n = 24;
    let list = |value: String| format!("[{}]", vec![value; n].join(","));
    let gaps = format!("[{}]", vec![itl_s.to_string(); 31].join(","));
    let starts: Vec<String> = (0..n as u32)
        .map(|index| format!("{:.4}", 100.0 + f64::from(index / concurrency) * (ttft_s + 31.0 * itl_s)))
        .collect();
    let duration = f64::from(n as u32 / concurrency) * (ttft_s + 31.0 * itl_s);
    format!(
        r#"{{"date": "20261125-120000", "endpoint_type": "vllm", "label": null, "model_id": "m", "tokenizer_id": "m",
        "num_prompts": {n}, "request_rate": "inf", "burstiness": 1.0, "max_concurrency": {concurrency},
        "duration": {duration}, "completed": {n}, "failed": 0, "total_input_tokens": {}, "total_output_tokens": {},
        "request_throughput": 1.0, "output_throughput": 1.0, "total_token_throughput": 1.0,
        "input_lens": {}, "output_lens": {}, "ttfts": {}, "itls": {}, "generated_texts": {}, "errors": {},
        "start_times": [{}]}}"#,
        128 * n,
        32 * n,
        list("128".into()),
        list("32".into()),
        list(ttft_s.to_string()),
        list(gaps),
        list("\"x\"".into()),
        list("\"\"".into()),
        starts.join(",")
    )
}

#[test]
fn results_of_another_tool_calibrate() {
    let place = place();
    place.write("small.yaml", STUDY);
    std::fs::create_dir(place.path().join("theirs")).unwrap();
    for (concurrency, ttft_s, itl_s) in [(1, 0.030, 0.0105), (4, 0.040, 0.0110), (8, 0.050, 0.0116)] {
        place.write(&format!("theirs/c{concurrency}.json"), &foreign_result(concurrency, ttft_s, itl_s));
    }
    let command = "calibrate small.yaml --gpu H100 --results seqs_64=theirs --out mine.json --json";
    let fit = place.servelab(command).run().expect(0).json();
    let scores = &fit["calibration"]["scores"];
    let score = |name: &str| scores[name].as_f64().unwrap();
    assert_eq!(scores["cells"].as_u64(), Some(3), "{fit}");
    assert!(score("fitted") < 0.05 && score("held_out") < score("held_out_uncalibrated"), "{fit}");
    let json = place.servelab("predict small.yaml --json --gpu H100 --calibration mine.json").run().expect(0).json();
    assert_eq!(text(&json, "label"), "calibrated");
    let wide = json["cells"].as_array().unwrap().iter().find(|cell| cell["labels"][0] == "seqs_64").unwrap();
    let tpot = wide["latency_ms"]["tpot"]["mean"].as_f64().unwrap();
    assert!((tpot / 11.0 - 1.0).abs() < 0.05, "{tpot}");

    let wrong = place.servelab("calibrate small.yaml --gpu H100 --results nosuch=theirs --out x.json").run();
    let wrong = wrong.expect(2);
    assert!(wrong.stderr.contains("known: seqs_2, seqs_64, seqs_128"), "{}", wrong.stderr);
    place.servelab("calibrate small.yaml --gpu H100 --results theirs --out x.json").run().expect(2);
    assert!(!place.path().join("x.json").exists());
}
