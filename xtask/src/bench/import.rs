//! Reading other tools' results: ten thousand detailed vLLM files with a median of 30 KB, and one large one. Wall time,
//! peak memory.

use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::plan::measure;
use super::release_binary;

const FILES: usize = 10_000;
/// Tokens per answer; with it the median file has 30 KB.
const TOKENS: usize = 40;
const REQUESTS: [usize; 5] = [10, 24, 34, 48, 96];
const LARGE_REQUESTS: usize = 250_000;
/// What ten thousand files may take.
const BUDGET_SECONDS: f64 = 10.0;
/// What must be read of the large file per second.
const BUDGET_MB_PER_S: f64 = 200.0;

/// Makes the files, reads them, removes them; fails over the budget.
pub(crate) fn import(root: &Path) -> Result<(), Box<dyn Error>> {
    let binary = release_binary(root)?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let folder = target.join("bench-import");
    let outcome = measured(&binary, &folder);
    let _ = std::fs::remove_dir_all(&folder);
    outcome
}

fn measured(binary: &Path, folder: &Path) -> Result<(), Box<dyn Error>> {
    let many = folder.join("many");
    let (mut bytes, mut sizes) = (0, Vec::new());
    for file in 0..FILES {
        let text = result(REQUESTS.get(file % REQUESTS.len()).copied().unwrap_or(1), file as u64);
        let below = many.join(format!("run{}", file / 100));
        std::fs::create_dir_all(&below)?;
        std::fs::write(below.join(format!("conc{}-{file}.json", file % 100)), &text)?;
        bytes += text.len();
        sizes.push(text.len());
    }
    sizes.sort_unstable();
    let large = folder.join("large.json");
    let text = result(LARGE_REQUESTS, 1);
    std::fs::write(&large, &text)?;
    let large_bytes = text.len();
    drop(text);
    println!("| files | MB | median KB | wall s | MB/s | peak RSS MiB |\n|---|---|---|---|---|---|");
    let run = |path: &Path| measure(Command::new(binary).args(["import", "--json", "--quiet"]).arg(path));
    let first = run(&many)?;
    let mb = |bytes: usize| bytes as f64 / 1e6;
    let median = sizes.get(sizes.len() / 2).copied().unwrap_or(0);
    for (files, total, median, run) in [(FILES, bytes, median, &first), (1, large_bytes, large_bytes, &run(&large)?)] {
        println!(
            "| {files} | {:.0} | {:.0} | {:.2} | {:.0} | {:.0} |",
            mb(total),
            median as f64 / 1e3,
            run.seconds,
            mb(total) / run.seconds,
            run.peak_mib
        );
        let over = if files == 1 { mb(total) / run.seconds < BUDGET_MB_PER_S } else { run.seconds > BUDGET_SECONDS };
        if over {
            return Err("over the budget".into());
        }
    }
    Ok(())
}

/// A detailed result of `vllm bench serve`; every file has other numbers.
fn result(requests: usize, seed: u64) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1_u64 << 53) as f64
    };
    let list = |values: &mut dyn FnMut() -> f64, n: usize| {
        let mut out = String::from("[");
        for idx in 0..n {
            let _ = write!(out, "{}{}", if idx == 0 { "" } else { ", " }, values());
        }
        out.push(']');
        out
    };
    let ttfts = list(&mut || 0.05 + 0.1 * next(), requests);
    let starts = list(&mut || 1000.0 + 10.0 * next(), requests);
    let mut itls = String::from("[");
    for idx in 0..requests {
        let gaps = list(&mut || 0.01 + 0.01 * next(), TOKENS - 1);
        let _ = write!(itls, "{}{gaps}", if idx == 0 { "" } else { ", " });
    }
    itls.push(']');
    let same = |value: &str| format!("[{}]", vec![value; requests].join(", "));
    let (inputs, outputs, errors) = (same("128"), same(&TOKENS.to_string()), same("\"\""));
    format!(
        "{{\"date\": \"20260101-000000\", \"endpoint_type\": \"vllm\", \"backend\": \"vllm\", \"label\": null, \"model_id\": \"m\", \
         \"num_prompts\": {requests}, \"request_rate\": \"inf\", \"burstiness\": 1.0, \"max_concurrency\": 16, \"duration\": 11.0, \
         \"completed\": {requests}, \"total_input_tokens\": {}, \"total_output_tokens\": {}, \"request_throughput\": 1.0, \
         \"output_throughput\": 1.0, \"total_token_throughput\": 1.0, \"input_lens\": {inputs}, \"output_lens\": {outputs}, \
         \"ttfts\": {ttfts}, \"itls\": {itls}, \"start_times\": {starts}, \"errors\": {errors}}}",
        128 * requests,
        TOKENS * requests
    )
}
