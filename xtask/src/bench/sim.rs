//! The speed and memory of simulated runs on a virtual clock: requests per second of one core, and peak memory at
//! several lengths. Each run is a fresh process, so that its peak is its own.

use std::error::Error;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use clap::{Args, ValueEnum};
use servelab_sim::config::ServerConfig;
use servelab_sim::engine::{Content, EngineConfig, Speculation};
use servelab_sim::simulate::{Deployment, OpenLoop, Server, SimRequest, Window, simulate};
use servelab_sim::step_time::RooflineStepTime;
use servelab_sim::{SimSettings, parse_serving_flags};

use crate::system;

/// The work that others were measured on: Llama-3-8B on one A100, 1024 prompt and 128 output tokens, 8 requests/s.
const MODEL: &str = "Llama-3.1-8B"; // the shape of Llama-3-8B
const GPU: &str = "A100-80GB";
const GAP_NS: u64 = 125_000_000;
const RUNS: usize = 5;
/// What the run must reach: requests per second of user CPU time.
const GOAL_PER_S: f64 = 100_000.0;
const MOST_SLOWDOWN: f64 = 3.0;

/// What is switched on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Features {
    /// Chunked prefill, no prefix cache
    Plain,
    /// Prefix cache, half of each prompt shared with every fourth request
    Prefix,
    /// Also asynchronous scheduling, conversations and a long-prefill threshold
    Async,
    /// Also two drafts per step
    All,
}

/// One run in this process.
#[derive(Debug, Args)]
pub(crate) struct SimRunArgs {
    #[arg(long)]
    requests: u64,
    #[arg(long, value_enum)]
    features: Features,
    /// Take steps one by one
    #[arg(long)]
    slow: bool,
}

/// Prints requests, CPU seconds, steps and the peak of this process's memory.
pub(crate) fn run(args: &SimRunArgs) -> Result<(), Box<dyn Error>> {
    let mut settings = SimSettings::new(SocketAddr::from(([127, 0, 0, 1], 0)), MODEL, GPU);
    let flags = ["--max-num-seqs", "256", "--max-model-len", "8192"].map(str::to_owned);
    settings.serving = parse_serving_flags(&flags, "0.32.0")?;
    let config = ServerConfig::resolve(&settings)?;
    let step_time = RooflineStepTime::new(&config)?;
    let rich = matches!(args.features, Features::Async | Features::All);
    let engine = EngineConfig {
        prefix_caching: args.features != Features::Plain,
        long_prefill_token_threshold: if rich { 1500 } else { 0 },
        speculation: (args.features == Features::All).then(|| Speculation {
            draft_tokens: 2,
            acceptance: vec![0.7, 0.4],
            ..Speculation::default()
        }),
        ..EngineConfig::of(&config).with_async_scheduling(rich)
    };
    let server = Server { engine, ..Server::of(&config, &step_time) };
    let mut deployment = Deployment::single(server);
    deployment.fast_forward = !args.slow;
    let features = args.features;
    let requests = (0..args.requests).map(move |at| {
        let content = match features {
            Features::Plain => Content::Unique,
            Features::Prefix => Content::SharedPrefix { family: at % 4, tokens: 512 },
            Features::Async | Features::All => Content::Turn { conversation: at, family: at % 4, family_tokens: 512 },
        };
        (at * GAP_NS, SimRequest { content, ..SimRequest::new(1024, 128) })
    });
    let cpu_before = system::thread_cpu_ns();
    let mut ttft_ns = 0;
    let summary = simulate(&deployment, OpenLoop::new(requests), Window::default(), &mut |served| {
        ttft_ns += served.ttft_ns();
    })?;
    let cpu_s = (system::thread_cpu_ns() - cpu_before) as f64 / 1e9;
    let rss_kib = system::peak_rss_kib(std::process::id()).unwrap_or(0);
    let mean_ttft_ms = ttft_ns as f64 / 1e6 / summary.completed.max(1) as f64;
    println!(
        "{} {cpu_s} {} {rss_kib} {mean_ttft_ms:.3} {:.2}",
        summary.completed, summary.pool.steps, summary.pool.running_mean
    );
    Ok(())
}

#[derive(Debug, Clone, Copy)]
struct Measured {
    requests: f64,
    cpu_s: f64,
    steps: f64,
    rss_kib: f64,
    ttft_ms: f64,
    running: f64,
}

fn measure(requests: u64, features: Features, slow: bool) -> Result<Measured, Box<dyn Error>> {
    let name = features.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["bench", "sim-run", "--requests", &requests.to_string(), "--features", &name]);
    if slow {
        command.arg("--slow");
    }
    let output = command.output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    let text = String::from_utf8(output.stdout)?;
    let numbers: Vec<f64> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    match numbers.as_slice() {
        [requests, cpu_s, steps, rss_kib, ttft_ms, running] => Ok(Measured {
            requests: *requests,
            cpu_s: *cpu_s,
            steps: *steps,
            rss_kib: *rss_kib,
            ttft_ms: *ttft_ms,
            running: *running,
        }),
        _ => Err(format!("a run said {text:?}").into()),
    }
}

fn median(requests: u64, features: Features, slow: bool) -> Result<Measured, Box<dyn Error>> {
    let mut runs = (0..RUNS).map(|_| measure(requests, features, slow)).collect::<Result<Vec<_>, _>>()?;
    runs.sort_by(|a, b| a.cpu_s.total_cmp(&b.cpu_s));
    runs.get(RUNS / 2).copied().ok_or_else(|| "no run".into())
}

/// Prints the table; fails when a goal is missed.
pub(crate) fn sim(root: &Path) -> Result<(), Box<dyn Error>> {
    let date = crate::first_line(root, "date", &["-u", "+%Y-%m-%d"]);
    let commit = crate::first_line(root, "git", &["rev-parse", "--short=12", "HEAD"]);
    println!(
        "{MODEL} on {GPU}, 1024/128 tokens, 8 requests/s, one thread, median of {RUNS} fresh processes, CPU time of the run\n\n\
         | date | commit | features | requests | requests/s of CPU | steps/s of CPU | peak RSS MiB | mean TTFT ms | mean running |\n\
         |---|---|---|---|---|---|---|---|---|"
    );
    let row = |label: &str, run: &Measured| {
        println!(
            "| {date} | {commit} | {label} | {:.0} | {:.0} | {:.0} | {:.1} | {:.2} | {:.1} |",
            run.requests,
            run.requests / run.cpu_s,
            run.steps / run.cpu_s,
            run.rss_kib / 1024.0,
            run.ttft_ms,
            run.running
        );
        run.requests / run.cpu_s
    };
    let plain = row("plain", &median(4000, Features::Plain, false)?);
    let mut slowest = f64::INFINITY;
    for (label, features) in [
        ("prefix cache", Features::Prefix),
        ("+ asynchronous, conversations, threshold", Features::Async),
        ("+ speculation", Features::All),
    ] {
        slowest = slowest.min(row(label, &median(4000, features, false)?));
    }
    row("plain, step by step", &median(4000, Features::Plain, true)?);
    for requests in [40_000, 400_000] {
        row("plain", &measure(requests, Features::Plain, false)?);
    }
    if plain < GOAL_PER_S || slowest * MOST_SLOWDOWN < GOAL_PER_S {
        return Err(format!("below the goal of {GOAL_PER_S} requests/s, and a third of it with all features").into());
    }
    Ok(())
}
