//! The studies that tests run, and where sample files of other people's tools lie.

use std::path::PathBuf;

/// Two points × one load on the simulator, two cells of about a second each: enough for several scrapes of the server's
/// metrics inside every window.
pub const TINY: &str = "\
schema: 1
study: tiny
engine: {kind: sim, version: \"0.32.*\"}
model: {id: meta-llama/Llama-3.1-8B}
serve: {max_model_len: 4096, max_num_batched_tokens: 2048}
workloads:
  chat: {dataset: {synth: {input_tokens: 64, output_tokens: 16, seed: 7}}}
load: {closed: {concurrency: [2]}, warmup: {requests: 2}, stop: {duration_s: 0.8}}
designs:
  batch: {grid: {max_num_seqs: [4, 64]}, label: \"seqs_{max_num_seqs}\"}
";

/// One point and one cell on the simulator, measured for so long.
pub fn one_cell(study: &str, duration_s: u32) -> String {
    TINY.replace("study: tiny", &format!("study: {study}"))
        .replace("[4, 64]", "[4]")
        .replace("duration_s: 0.8", &format!("duration_s: {duration_s}"))
}

/// A study with many cells of a few hundredths of a second: `points` points × `levels` load levels × `repeats`. So short a
/// window may end as `invalid`, which is as finished as `done`: only what happens to cells matters here, not what they
/// measure.
pub fn brisk(points: u32, levels: u32, repeats: u32) -> String {
    let list = |n: u32| (1..=n).map(|i| i.to_string()).collect::<Vec<_>>().join(", ");
    let seqs = (1..=points).map(|i| (i * 4).to_string()).collect::<Vec<_>>().join(", ");
    format!(
        "schema: 1
study: brisk
engine: {{kind: sim, version: \"0.32.*\", speedup: 4}}
model: {{id: meta-llama/Llama-3.1-8B}}
serve: {{max_model_len: 4096, max_num_batched_tokens: 2048}}
workloads:
  chat: {{dataset: {{synth: {{input_tokens: 32, output_tokens: 8, seed: 7}}}}}}
load: {{closed: {{concurrency: [{}]}}, warmup: {{requests: 1}}, stop: {{requests: 4}}}}
designs:
  batch: {{grid: {{max_num_seqs: [{seqs}]}}, label: \"seqs_{{max_num_seqs}}\"}}
repeats: {{n: {repeats}}}
",
        list(levels)
    )
}

/// Sample files that do not belong to this repository, when they lie beside it. Tests that need them say so and pass
/// where they are absent.
pub fn samples(below: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared").join(below);
    if path.exists() {
        return Some(path);
    }
    let text = format!("left out: there are no sample files at {}\n", path.display());
    let _ = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
    None
}
