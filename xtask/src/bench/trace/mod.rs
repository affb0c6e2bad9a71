//! Reading large profiler traces: a real one is repeated to half a gigabyte and read by the released binary, plain, from
//! gzip and as eight ranks at once; other readers get the same file in the same run. CPU time is the process's own, so it
//! holds on a busy machine; wall time holds only on a quiet one.

mod repeat;
mod runs;

use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;

use super::release_binary;
use repeat::Template;
use runs::{Figures, measure, median};

/// Arguments of `bench trace`.
#[derive(Debug, Args)]
pub(crate) struct TraceArgs {
    /// A real trace to repeat, plain or gzip; the project's own fixture unless given
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// Size of one rank's text in MB
    #[arg(long, value_name = "MB", default_value_t = 500)]
    megabytes: u64,
    /// Ranks that are read at once; 0 leaves that part out
    #[arg(long, value_name = "N", default_value_t = 8)]
    ranks: u32,
    /// Runs of each of our own figures; the median counts
    #[arg(long, value_name = "N", default_value_t = 5)]
    runs: usize,
    /// Measure this binary; the released one is built unless given
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Where `scripts/peers/prepare.sh DIR hta` installed the other readers; without it they are left out
    #[arg(long, value_name = "DIR")]
    peers: Option<PathBuf>,
}

/// Where the trace is that is repeated when none is given.
const FIXTURE: &str = "crates/servelab-trace/tests/data/gpu_training_step.json.gz";

/// Targets, per core.
const PLAIN_GB_PER_CPU_S: f64 = 1.0;
const GZIP_GB_PER_CPU_S: f64 = 0.6;
const TIMES_HTA: f64 = 50.0;
const HEAP_MB_PER_GB: f64 = 50.0;
const RANKS_WALL_S_PER_GB: f64 = 3.0 / 4.0;

/// Prints the table; fails when a target is missed.
pub(crate) fn trace(root: &Path, args: &TraceArgs) -> Result<(), Box<dyn Error>> {
    let binary = match &args.binary {
        Some(binary) => std::path::absolute(binary)?,
        None => release_binary(root)?,
    };
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    // Files are large: whatever happens, they go away with the folder.
    let folder = tempfile::Builder::new().prefix("bench-trace-").tempdir_in(&target)?;
    let from = args.from.clone().unwrap_or_else(|| root.join(FIXTURE));
    let mut missed: Vec<String> = Vec::new();
    let mut check = |what: &str, is_met: bool| {
        if !is_met {
            missed.push(what.to_owned());
        }
    };

    let small = folder.path().join("small.json");
    let large = folder.path().join("rank0.json");
    let template = Template::read(&from, 0, args.ranks.max(1))?;
    template.write(&small, 1)?;
    let (rounds, bytes) = template.write(&large, args.megabytes * 1_000_000)?;
    let gigabytes = bytes as f64 / 1e9;
    println!(
        "{}, {rounds} times: {gigabytes:.3} GB, {:.2} M events; {} {}",
        from.file_name().map(|name| name.to_string_lossy()).unwrap_or_default(),
        (rounds * template.events()) as f64 / 1e6,
        crate::first_line(root, "date", &["-u", "+%Y-%m-%d"]),
        crate::first_line(root, "git", &["rev-parse", "--short=12", "HEAD"]),
    );
    println!(
        "\n| what | GB of text | CPU s | wall s | GB per CPU s | peak MiB | heap MB per GB |\n|---|---|---|---|---|---|---|"
    );
    let ours = |path: &Path, threads: &str| {
        let mut command = Command::new(&binary);
        command.args(["trace", "metrics", "--json", "--threads", threads]).arg(path);
        command
    };
    let baseline = measure(&mut ours(&small, "1"))?;
    let row = |what: &str, figures: &Figures, gigabytes: f64, is_ours: bool| {
        let heap = if is_ours { format!("{:.0}", heap_mb(figures, &baseline) / gigabytes) } else { String::new() };
        println!(
            "| {what} | {gigabytes:.2} | {:.2} | {:.2} | {:.2} | {:.0} | {heap} |",
            figures.cpu_s,
            figures.wall_s,
            gigabytes / figures.cpu_s.max(0.01),
            figures.peak_mib
        );
        // A long run: what is known so far is worth seeing.
        let _ = std::io::stdout().flush();
    };

    let plain = median(args.runs, || measure(&mut ours(&large, "1")))?;
    row("`servelab trace metrics`, plain", &plain, gigabytes, true);
    check("1 GB of plain text per CPU second", gigabytes / plain.cpu_s >= PLAIN_GB_PER_CPU_S);
    check("50 MB of heap per GB", heap_mb(&plain, &baseline) / gigabytes <= HEAP_MB_PER_GB);

    if let Some(peers) = &args.peers {
        let python = std::path::absolute(peers)?.join("hta/bin/python");
        for (tool, label) in [
            ("orjson", "orjson, parse only"),
            ("json", "json, parse only"),
            ("hta", "HTA 0.5.0, parse and six analyses"),
        ] {
            let mut command = Command::new(&python);
            command.arg(root.join("scripts/peers/trace_peers.py")).arg(tool).arg(&large);
            // One process each: otherwise its pool's idle workers would count.
            let figures = measure(&mut command)?;
            row(label, &figures, gigabytes, false);
            println!("<!-- {label}: {} -->", figures.said.trim());
            if tool == "hta" {
                let times = figures.cpu_s / plain.cpu_s;
                println!("<!-- HTA needs {times:.0} times our CPU time -->");
                check("50 times less CPU time than HTA", times >= TIMES_HTA);
            }
        }
    }

    let packed = folder.path().join("rank0.json.gz");
    let level = flate2::Compression::default();
    let mut encoder = flate2::write::GzEncoder::new(File::create(&packed)?, level);
    std::io::copy(&mut File::open(&large)?, &mut encoder)?;
    encoder.finish()?;
    std::fs::remove_file(&large)?;
    let gzip = median(args.runs, || measure(&mut ours(&packed, "1")))?;
    row("`servelab trace metrics`, gzip", &gzip, gigabytes, true);
    check("0.6 GB of text from gzip per CPU second", gigabytes / gzip.cpu_s >= GZIP_GB_PER_CPU_S);
    std::fs::remove_file(&packed)?;

    if args.ranks > 0 {
        let ranks = folder.path().join("ranks");
        std::fs::create_dir(&ranks)?;
        let mut total = 0;
        for rank in 0..args.ranks {
            let template = Template::read(&from, rank, args.ranks)?;
            total += template.write(&ranks.join(format!("rank{rank}.json")), args.megabytes * 1_000_000)?.1;
        }
        let total_gb = total as f64 / 1e9;
        let all = median(args.runs.min(3), || measure(&mut ours(&ranks, "2")))?;
        row(&format!("`servelab trace metrics`, {} ranks, 2 threads", args.ranks), &all, total_gb, true);
        check("8 ranks of 500 MB in 3 s on two cores", all.wall_s <= RANKS_WALL_S_PER_GB * total_gb);
    }
    drop(folder);
    if missed.is_empty() { Ok(()) } else { Err(format!("missed: {}", missed.join("; ")).into()) }
}

/// What a run's peak is above that of a run on the same trace once: buffers that do not grow, code and the allocator's own
/// are in both. Files are read, not mapped, so no page of a file is counted.
fn heap_mb(figures: &Figures, baseline: &Figures) -> f64 {
    (figures.peak_mib - baseline.peak_mib).max(0.0) * 1.048_576
}
