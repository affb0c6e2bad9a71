//! A study of a thousand jobs through a real scheduler: how long handing them over takes, and one status cycle.

use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Instant;

use clap::Args;

use super::release_binary;

/// Targets, in seconds.
const SUBMIT_TARGET_S: f64 = 60.0;
const STATUS_TARGET_S: f64 = 2.0;

/// Arguments of `bench cluster`.
#[derive(Debug, Args)]
pub(crate) struct ClusterArgs {
    /// State folder of a private Slurm, started with `MAX_JOBS=10000 scripts/slurm/start-slurm.sh DIR`
    #[arg(long)]
    slurm: PathBuf,
    /// Jobs
    #[arg(long, default_value_t = 1000)]
    jobs: u32,
    /// As arrays: one call of `sbatch` for many
    #[arg(long)]
    arrays: bool,
}

/// Submits held jobs, asks three times, cancels them.
pub(crate) fn cluster(root: &Path, args: &ClusterArgs) -> Result<(), Box<dyn Error>> {
    let conf = args.slurm.join("etc/slurm.conf");
    if !conf.is_file() {
        return Err(format!("there is no {}; start one with scripts/slurm/start-slurm.sh", conf.display()).into());
    }
    let program = release_binary(root)?;
    let folder = tempfile::tempdir()?;
    let mut study = String::from(
        "schema: 1\nstudy: thousand\nengine: {kind: sim, version: \"0.32.*\"}\nmodel: {id: meta-llama/Llama-3.1-8B}\n\
         serve: {max_model_len: 4096, max_num_batched_tokens: 8192}\n\
         workloads:\n  chat: {dataset: {synth: {input_tokens: 32, output_tokens: 8, seed: 7}}}\n\
         load: {closed: {concurrency: [1]}, stop: {requests: 4}}\ndesigns:\n  batch: {grid: {max_num_seqs: [",
    );
    let seqs: Vec<String> = (1..=args.jobs).map(|n| n.to_string()).collect();
    let _ = writeln!(study, "{}]}}, label: \"seqs_{{max_num_seqs}}\"}}", seqs.join(", "));
    std::fs::write(folder.path().join("study.yaml"), study)?;
    let site = std::fs::read_to_string(root.join("examples/sites/slurm-test.yaml"))?;
    std::fs::write(
        folder.path().join("site.yaml"),
        format!("{site}arrays: {}\nextra_directives: [\"--hold\"]\n", args.arrays),
    )?;
    let call = |words: &[&str]| -> Result<(Output, f64), Box<dyn Error>> {
        let began = Instant::now();
        let out = Command::new(&program)
            .args(words)
            .args(["study.yaml", "--site", "site.yaml", "--root", "out"])
            .current_dir(folder.path())
            .env("SLURM_CONF", &conf)
            .output()?;
        let seconds = began.elapsed().as_secs_f64();
        if !out.status.success() {
            return Err(format!("{}: {}", words.join(" "), String::from_utf8_lossy(&out.stderr)).into());
        }
        Ok((out, seconds))
    };
    println!("| step | seconds | target |\n|---|---|---|");
    let (_, submit_s) = call(&["submit"])?;
    println!("| submit {} jobs | {submit_s:.1} | {SUBMIT_TARGET_S} |", args.jobs);
    let (_, first_s) = call(&["status", "--json"])?;
    println!("| first status: every job's state is written down | {first_s:.2} | |");
    let mut slowest: f64 = 0.0;
    for _ in 0..3 {
        let (out, seconds) = call(&["status", "--json"])?;
        let text = String::from_utf8_lossy(&out.stdout);
        let pending = text.matches("\"state\": \"pending\"").count();
        if pending != args.jobs as usize {
            return Err(format!("{pending} of {} jobs are pending", args.jobs).into());
        }
        slowest = slowest.max(seconds);
    }
    println!("| status, slowest of 3 | {slowest:.2} | {STATUS_TARGET_S} |");
    let (_, again_s) = call(&["submit"])?;
    println!("| submit again: nothing to do | {again_s:.2} | |");
    let (_, cancel_s) = call(&["cancel"])?;
    println!("| cancel all | {cancel_s:.2} | |");
    if submit_s > SUBMIT_TARGET_S || slowest > STATUS_TARGET_S {
        return Err("a target is missed".into());
    }
    Ok(())
}
