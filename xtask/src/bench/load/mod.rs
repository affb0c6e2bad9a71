//! The load engine against the reference server, which is pinned to one core and knows the truth, and beside it the bare
//! reader and other tools. Prints the tables of docs/src/performance.md and says which targets are missed.

mod judge;
mod peers;
mod run;
mod scenario;
mod stats;
mod table;
mod truth;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::release_binary;
use judge::Judged;
use peers::Peer;
use run::Bench;
use scenario::{CEILING, MANY, SCENARIOS};

/// Options of the benchmark.
#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// Only these loads
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = clap::builder::PossibleValuesParser::new(scenario::names()))]
    only: Vec<String>,
    /// Seconds instead of minutes: shows that everything works; targets are not judged
    #[arg(long)]
    quick: bool,
    /// Other tools to measure beside; each is skipped, with the reason, when it is not prepared
    #[arg(long, value_name = "TOOL", value_delimiter = ',', value_enum)]
    peers: Vec<Peer>,
    /// Folder that `scripts/peers/prepare.sh` has filled
    #[arg(long, value_name = "DIR", default_value = "target/peers")]
    peers_dir: PathBuf,
    /// Core of the server
    #[arg(long, default_value_t = 0, value_name = "N")]
    server_core: usize,
    /// Core of the client
    #[arg(long, default_value_t = 1, value_name = "N")]
    client_core: usize,
    /// How the server waits: `always`, `near`, `never`
    #[arg(long, default_value = "always", value_name = "HOW")]
    server_spin: String,
    /// This `servelab` instead of a fresh release build
    #[arg(long, value_name = "FILE")]
    servelab: Option<PathBuf>,
    /// Keep every result in this folder, and the tables in `tables.md`
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Measures everything that was asked for.
pub(crate) fn load(root: &Path, args: &LoadArgs) -> Result<(), Box<dyn Error>> {
    if cfg!(debug_assertions) {
        println!(
            "this xtask was built without optimisation, so the server is slow: use `cargo run --release -p xtask -- bench load`"
        );
    }
    let servelab = match &args.servelab {
        Some(path) => path.clone(),
        None => release_binary(root)?,
    };
    let scratch = tempfile::tempdir()?;
    let folder = args.out.clone().unwrap_or_else(|| scratch.path().to_path_buf());
    fs::create_dir_all(&folder)?;
    let bench = Bench {
        xtask: std::env::current_exe()?,
        has_start_option: run::has_option(&servelab, "--start ")?,
        servelab,
        server_core: args.server_core,
        client_core: args.client_core,
        server_spin: args.server_spin.clone(),
        folder,
    };
    let idle = run::idle_fraction(Duration::from_secs(1)).unwrap_or(f64::NAN);
    let mut report = table::Report::new(root, &bench, idle, args.quick);
    report.say(&format!("the machine is {:.0} % idle before the start", idle * 100.0));
    let is_wanted = |name: &str| args.only.is_empty() || args.only.iter().any(|only| only == name);
    let mut judged = Vec::new();
    for scenario in SCENARIOS.iter().filter(|scenario| is_wanted(scenario.name)) {
        judged.push(one_scenario(&bench, scenario, args, &mut report)?);
    }
    if !judged.is_empty() {
        report.scenarios(&judged);
    }
    let mut checks: Vec<judge::Check> = judged.into_iter().flat_map(|judged| judged.checks).collect();
    if is_wanted(CEILING) {
        checks.extend(ceiling(&bench, args, &mut report)?);
    }
    if is_wanted(MANY) {
        checks.extend(many(&bench, args, &mut report)?);
    }
    report.checks(&checks);
    report.finish()?;
    let missed = checks.iter().filter(|check| !check.is_met).count();
    if missed > 0 && !args.quick {
        return Err(format!("{missed} of {} targets missed", checks.len()).into());
    }
    Ok(())
}

fn one_scenario(
    bench: &Bench,
    scenario: &scenario::Scenario,
    args: &LoadArgs,
    report: &mut table::Report,
) -> Result<Judged, Box<dyn Error>> {
    let seconds = if args.quick { scenario.quick_seconds } else { scenario.seconds };
    let requests = scenario.requests(args.quick);
    report.say(&format!("{}: {}, {requests} requests", scenario.name, scenario.title));
    let name = format!("{}-floor", scenario.name);
    let floor = || -> Result<Option<run::Floor>, Box<dyn Error>> {
        let Some(streams) = scenario.floor_streams else { return Ok(None) };
        bench.floor(&name, streams, &scenario.answers, (seconds / 4.0).clamp(2.0, 10.0)).map(Some)
    };
    let before = floor()?;
    let own = bench.own(scenario.name, scenario.load, &scenario.answers, requests)?;
    let floor = before.zip(floor()?).map(|(before, after)| before.and(after));
    let mut others = Vec::new();
    for peer in args.peers.iter().filter(|_| scenario.has_peers) {
        match peer.run(bench, &args.peers_dir, scenario, requests) {
            Ok(run) => others.push(run),
            Err(reason) => report.say(&format!("{}: {} is left out: {reason}", scenario.name, peer.name())),
        }
    }
    Ok(Judged::new(scenario, own, floor, others))
}

/// Raises the token rate step by step.
fn ceiling(bench: &Bench, args: &LoadArgs, report: &mut table::Report) -> Result<Vec<judge::Check>, Box<dyn Error>> {
    let (rates, seconds): (&[f64], f64) =
        if args.quick { (&scenario::CEILING_QUICK_RATES, 4.0) } else { (&scenario::CEILING_RATES, 12.0) };
    let mut steps = Vec::new();
    for rate in rates {
        let answers = scenario::ceiling_answers(*rate);
        report.say(&format!("{CEILING}: {rate:.0} tokens/s"));
        // At least two answers of each stream, or there is no steady part.
        let seconds = seconds.max(2.5 * answers.seconds());
        let requests = (rate * seconds / f64::from(answers.tokens)) as u32;
        let load = scenario::Load::Closed { streams: scenario::CEILING_STREAMS, start: scenario::Start::Default };
        let name = format!("{CEILING}-{rate:.0}");
        let own = bench.own(&name, load, &answers, requests)?;
        let floor =
            bench.floor(&format!("{name}-floor"), scenario::CEILING_STREAMS as usize, &answers, seconds.min(5.0))?;
        steps.push(judge::Step::new(*rate, &own, &floor));
    }
    report.ceiling(&steps);
    Ok(judge::ceiling_checks(&steps))
}

/// Ten thousand streams, and the memory that each needs.
fn many(bench: &Bench, args: &LoadArgs, report: &mut table::Report) -> Result<Vec<judge::Check>, Box<dyn Error>> {
    let answers = scenario::MANY_ANSWERS;
    let streams = scenario::MANY_STREAMS;
    let requests = if args.quick { streams } else { 3 * streams };
    report.say(&format!("{MANY}: {requests} requests"));
    let closed = |streams| scenario::Load::Closed { streams, start: scenario::Start::Default };
    let own = bench.own(MANY, closed(streams), &answers, requests)?;
    let floor =
        bench.floor(&format!("{MANY}-floor"), streams as usize, &answers, if args.quick { 3.0 } else { 10.0 })?;
    // The same number of requests and tokens, few at a time: what remains is what open streams need.
    let few = scenario::Answers { first_ms: 5.0, gap_ms: 1.0, ..answers };
    let base = bench.own(&format!("{MANY}-base"), closed(100), &few, requests)?;
    let many = judge::Many::new(own, &floor, &base);
    report.many(&many);
    Ok(many.checks())
}
