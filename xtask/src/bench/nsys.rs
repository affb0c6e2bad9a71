//! Reading a large Nsight Systems export, made by repeating a small real one: wall time, CPU time, peak memory.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::plan::measure;
use super::release_binary;

/// Size of the export, in MiB.
const MEGABYTES: u64 = 1024;
const RUNS: usize = 3;
/// What reading it may take.
const BUDGET_SECONDS: f64 = 5.0;

/// Makes the export where there is none, reads it; fails over the budget.
pub(crate) fn nsys(root: &Path, small: &Path) -> Result<(), Box<dyn Error>> {
    let binary = release_binary(root)?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let large = target.join("bench-large.sqlite");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["run", "--release", "--locked", "-p", "servelab-trace", "--example", "repeat_nsys", "--"])
        .arg(std::path::absolute(small)?)
        .arg(&large)
        .arg(MEGABYTES.to_string())
        .current_dir(root)
        .status()?;
    if !status.success() {
        return Err("the large export could not be made".into());
    }
    let bytes = std::fs::metadata(&large)?.len();
    let mut runs = Vec::new();
    for _ in 0..RUNS {
        runs.push(measure(Command::new(&binary).args(["trace", "metrics", "--json"]).arg(&large))?);
    }
    std::fs::remove_file(&large)?;
    runs.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    let median = runs.get(RUNS / 2).ok_or("no run")?;
    let peak_mib = runs.iter().map(|run| run.peak_mib).fold(0.0, f64::max);
    let date = crate::first_line(root, "date", &["-u", "+%Y-%m-%d"]);
    let commit = crate::first_line(root, "git", &["rev-parse", "--short=12", "HEAD"]);
    let gigabytes = bytes as f64 / 1e9;
    println!("\n| date | commit | GB | wall s (median of {RUNS}) | GB/s | peak RSS MiB |\n|---|---|---|---|---|---|");
    println!(
        "| {date} | {commit} | {gigabytes:.2} | {:.2} | {:.2} | {peak_mib:.0} |",
        median.seconds,
        gigabytes / median.seconds
    );
    if median.seconds > BUDGET_SECONDS * gigabytes {
        return Err(format!("over the budget of {BUDGET_SECONDS} s per GB").into());
    }
    Ok(())
}
