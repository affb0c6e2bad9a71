//! Measurements of the product as a user runs it: a release binary in a fresh process.

mod accuracy;
mod cluster;
mod import;
mod load;
mod nsys;
mod plan;
mod report;
mod sim;
mod sim_server;
mod trace;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Subcommand;

/// What is measured.
#[derive(Debug, Subcommand)]
pub(crate) enum What {
    /// `plan --summary` on a grid of a million points with rules
    Plan,
    /// A thousand jobs through a private Slurm: submit, status, cancel
    Cluster(cluster::ClusterArgs),
    /// Predictions beside public measured results
    Accuracy(accuracy::AccuracyArgs),
    /// `bench` against the reference server: its errors, its CPU time, its ceiling, beside its peers
    Load(load::LoadArgs),
    /// Simulated runs on a virtual clock: requests per second of one core, peak memory at several lengths
    Sim,
    /// One simulated run in this process (what `sim` starts)
    #[command(hide = true)]
    SimRun(sim::SimRunArgs),
    /// The simulated server: token events per second with 2,000 streams
    SimServer(sim_server::SimServerArgs),
    /// `import --json` on ten thousand result files, and on one large one
    Import,
    /// Ten thousand cells of a thousand requests: summaries and `report`, beside pandas
    Report(report::ReportBenchArgs),
    /// `trace metrics` on half a gigabyte of Kineto trace, plain, from gzip and as eight ranks, beside other readers
    Trace(trace::TraceArgs),
    /// `trace metrics` on a gigabyte of Nsight Systems export, made by repeating a small one
    TraceNsys {
        /// The small export
        small: PathBuf,
    },
}

/// Measures and prints.
pub(crate) fn bench(root: &Path, what: &What) -> Result<(), Box<dyn Error>> {
    match what {
        What::Plan => plan::plan(root),
        What::Cluster(args) => cluster::cluster(root, args),
        What::Accuracy(args) => accuracy::accuracy(args),
        What::Load(args) => load::load(root, args),
        What::Sim => sim::sim(root),
        What::SimRun(args) => sim::run(args),
        What::SimServer(args) => sim_server::sim_server(root, args),
        What::Import => import::import(root),
        What::Report(args) => report::report(root, args),
        What::Trace(args) => trace::trace(root, args),
        What::TraceNsys { small } => nsys::nsys(root, small),
    }
}

/// Builds the product as a user would and says where the binary is.
fn release_binary(root: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status =
        Command::new(cargo).args(["build", "--release", "--locked", "-p", "servelab"]).current_dir(root).status()?;
    if !status.success() {
        return Err("the release build failed".into());
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    Ok(target.join("release/servelab"))
}
