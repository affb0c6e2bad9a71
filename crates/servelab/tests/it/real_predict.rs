//! Predictions of a real vLLM: the example study `vllm-cpu` is measured, two of its four cells calibrate, the two others
//! (half as many sequences per step, so that requests wait) are predicted and compared. Asked for with `SERVELAB_REAL=predict`; the CPU is a device of the user's hardware file.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;
use servelab_testkit::{Deadline, Place, poll, text};

use super::{place, repository};

const LIMIT_S: u64 = 1800;

/// More requests than the example asks for: under a second per cell says little about a mean.
const LONGER: &str = "--set load.stop.requests=240 --set load.open.rate=[12]";

/// `None` when this test was not asked for; asked for and not there is a failure.
fn wanted() -> Option<(PathBuf, PathBuf)> {
    let wanted = std::env::var("SERVELAB_REAL").unwrap_or_default();
    if !wanted.split(',').any(|part| part.trim() == "predict") {
        let _ = std::io::stderr()
            .write_all(b"left out: real_predict, which needs a real vLLM: cargo xtask verify predict\n");
        return None;
    }
    let folder = |name: &str| {
        PathBuf::from(std::env::var(name).unwrap_or_else(|_| panic!("SERVELAB_REAL=predict needs {name}")))
    };
    Some((folder("SERVELAB_VLLM_DIR").join("bin/vllm"), folder("SERVELAB_MODELS_DIR")))
}

/// A small machine as a device: round numbers, nothing measured.
const HARDWARE: &str = r#"{"gpus": [{"name": "two-cores", "device": "cpu", "family": "cpu", "memory_gb": 16,
    "bandwidth_gb_per_s": 20, "bf16_tflops": 0.2, "link_gb_per_s": 10}]}"#;

fn prepare(models: &Path) -> Place {
    let place = place();
    let example = |name: &str| std::fs::read_to_string(repository().join("examples").join(name)).unwrap();
    let site = example("sites/vllm-cpu.yaml");
    let (env, _) = site.split_once("paths:").unwrap();
    place.write("vllm-cpu.yaml", &example("vllm-cpu.yaml"));
    std::fs::create_dir(place.path().join("tmp")).unwrap();
    place.write("sites/vllm-cpu.yaml", &format!("{env}paths: {{models: {models:?}}}\n"));
    place.write("hardware.json", HARDWARE);
    place
}

/// Mean errors of predicted mean TTFT and TPOT against results.csv rows of these cells.
fn errors(prediction: &Value, measured: &[Value], label: &str) -> Vec<f64> {
    let mut out = Vec::new();
    for row in measured.iter().filter(|row| row["labels"].as_str().is_some_and(|labels| labels.contains(label))) {
        let cells = prediction["cells"].as_array().unwrap();
        let cell = cells.iter().find(|cell| cell["cell"] == row["cell_id"]).unwrap();
        for (name, column) in [("ttft", "ttft_mean_ms"), ("tpot", "tpot_mean_ms")] {
            let predicted = cell["latency_ms"][name]["mean"].as_f64().unwrap();
            let found = row[column].as_f64().unwrap();
            let _ = writeln!(
                std::io::stderr(),
                "{label} {} {} {name}: predicted {predicted:.2} ms, measured {found:.2} ms, {:+.1} %",
                text(row, "load_kind"),
                text(cell, "label"),
                100.0 * (predicted / found - 1.0)
            );
            out.push((predicted / found - 1.0).abs());
        }
    }
    out
}

#[test]
fn two_cells_calibrate_and_two_are_predicted() {
    let Some((vllm, models)) = wanted() else { return };
    let place = prepare(&models.canonicalize().unwrap());
    let mut run = place
        .servelab(&format!("run vllm-cpu.yaml {LONGER} --root out --engine-bin"))
        .args([&vllm])
        .env("TMPDIR", &place.path().join("tmp").to_string_lossy())
        .spawn();
    poll("the end of the run", Deadline::in_s(LIMIT_S), || run.has_ended().then_some(()));
    run.wait().expect(0);
    let measured = place.servelab(&format!("report vllm-cpu.yaml {LONGER} --root out --json")).run().expect(0).json();
    let measured = measured["rows"].as_array().unwrap().clone();
    assert_eq!(measured.len(), 4);

    let options = format!("vllm-cpu.yaml {LONGER} --root out --gpu two-cores --hardware hardware.json");
    let predict = format!("predict {options} --json");
    let before = place.servelab(&predict).run().expect(0).json();
    let fit = place.servelab(&format!("calibrate {options} --only seqs_8 --out mine.json")).run().expect(0);
    println!("{}", fit.stdout);
    let after = place.servelab(&format!("{predict} --calibration mine.json")).run().expect(0).json();

    println!("held-out cells, uncalibrated:");
    let plain = errors(&before, &measured, "seqs_4");
    println!("held-out cells, calibrated on the two cells of seqs_8:");
    let calibrated = errors(&after, &measured, "seqs_4");
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    println!("mean error {:.1} % uncalibrated, {:.1} % calibrated", 100.0 * mean(&plain), 100.0 * mean(&calibrated));
    assert_eq!(calibrated.len(), 4);
    assert!(mean(&calibrated) < mean(&plain), "two cells of the same server must help");
}
