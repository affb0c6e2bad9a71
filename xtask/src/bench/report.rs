//! From raw records to a report: many cells of a thousand requests each, summarised by the product's own code, reported by
//! its binary, and the same summary by pandas in the same run. Wall time, peak memory.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use clap::Args;
use servelab_core::metrics::{ClientUsage, MetricsInput, summarise};
use servelab_core::record::{ClockEpoch, Phase, RequestRecord, TokenSource};
use servelab_core::result::BenchResult;
use servelab_core::state::CellState;
use servelab_store::{AttemptState, RecordFiles, Root, StateChange, WindowInfo, write_requests};

use super::plan::measure;
use super::release_binary;

const BUDGET_SECONDS: f64 = 30.0;
const BUDGET_MIB: f64 = 2_048.0;
/// How many times as fast as pandas.
const BUDGET_SPEEDUP: f64 = 10.0;
const MS: i64 = 1_000_000;

/// What pandas does with the same files: every statistic of results.csv, cell by cell.
const PANDAS: &str = r#"
import glob, json, os, sys, time
import pandas as pd
start = time.perf_counter()
rows = []
for path in glob.glob(sys.argv[1] + "/cells/*/attempt-1/requests.parquet"):
    d = pd.read_parquet(path, columns=["t_sched", "t_send", "t_first", "t_last", "output_tokens", "n_first"])
    row = {"cell": path.split("/")[-3], "tokens": d.output_tokens.sum(), "n": len(d)}
    d["ttft"] = (d.t_first - d.t_send) / 1e6
    d["ttft_sched"] = (d.t_first - d.t_sched) / 1e6
    d["tpot"] = (d.t_last - d.t_first) / (d.output_tokens - d.n_first) / 1e6
    d["e2e"] = (d.t_last - d.t_send) / 1e6
    for name in ["ttft", "ttft_sched", "tpot", "e2e"]:
        row[name + "_mean"] = d[name].mean()
        row.update(d[name].quantile([0.5, 0.9, 0.95, 0.99]).add_prefix(name + "_"))
    rows.append(row)
pd.DataFrame(rows).to_csv(sys.argv[2], index=False)
json.dump({"seconds": time.perf_counter() - start, "cells": len(rows)}, sys.stdout)
"#;

/// Arguments of `bench report`.
#[derive(Debug, Args)]
pub(crate) struct ReportBenchArgs {
    /// Cells; a multiple of 200
    #[arg(long, default_value_t = 10_000)]
    cells: usize,
    /// Requests of each
    #[arg(long, default_value_t = 1_000)]
    requests: usize,
    /// The product, instead of a release build made now
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// A Python with pandas and pyarrow; without one there is no comparison
    #[arg(long, value_name = "PATH")]
    python: Option<PathBuf>,
}

/// Makes the cells, reports them, removes them; fails over the budget of the full size.
pub(crate) fn report(root: &Path, args: &ReportBenchArgs) -> Result<(), Box<dyn Error>> {
    let binary = match &args.binary {
        Some(path) => path.clone(),
        None => release_binary(root)?,
    };
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let folder = target.join("bench-report");
    let _ = std::fs::remove_dir_all(&folder);
    let outcome = measured(&binary, &folder, args);
    let _ = std::fs::remove_dir_all(&folder);
    outcome
}

fn study(cells: usize) -> String {
    let points: Vec<String> = (1..=(cells / 200).max(1)).map(|i| (i * 8).to_string()).collect();
    format!(
        "schema: 1\nstudy: many\nengine: {{kind: sim, version: \"0.32.*\"}}\nmodel: {{id: meta-llama/Llama-3.1-8B}}\n\
         serve: {{max_model_len: 4096}}\nworkloads: {{chat: {{dataset: {{synth: {{input_tokens: 64, output_tokens: 16, seed: 7}}}}}}}}\n\
         load: {{closed: {{concurrency: [{}]}}, stop: {{requests: 1000}}}}\n\
         designs: {{batch: {{grid: {{max_num_seqs: [{}]}}, label: \"seqs_{{max_num_seqs}}\"}}}}\nrepeats: {{n: 10}}\n",
        (1..=20).map(|i| i.to_string()).collect::<Vec<_>>().join(", "),
        points.join(", ")
    )
}

fn measured(binary: &Path, folder: &Path, args: &ReportBenchArgs) -> Result<(), Box<dyn Error>> {
    std::fs::create_dir_all(folder)?;
    let (study_file, results) = (folder.join("study.yaml"), folder.join("out"));
    std::fs::write(&study_file, study(args.cells))?;
    measure(Command::new(binary).args(["plan", "--write", "--quiet", "--root"]).arg(&results).arg(&study_file))?;
    let root = Root::open(&results)?;
    let plan = root.load_plan("many")?;
    let attempts: Vec<PathBuf> = plan
        .cells
        .iter()
        .map(|cell| Ok(root.cell_dir(&cell.id)?.join("attempt-1")))
        .collect::<Result<_, servelab_store::StoreError>>()?;
    for (seed, attempt) in (1_u64..).zip(&attempts) {
        std::fs::create_dir_all(attempt)?;
        write_requests(&attempt.join("requests.parquet"), &requests(args.requests, seed))?;
    }
    println!("{} cells of {} requests: {} rows", attempts.len(), args.requests, attempts.len() * args.requests);

    let start = Instant::now();
    let summaries = summarised(&attempts, args.requests)?;
    let summary_s = start.elapsed().as_secs_f64();
    for (attempt, result) in attempts.iter().zip(&summaries) {
        finish(attempt, result, args.requests)?;
    }
    drop(summaries);
    let out = folder.join("report");
    let run = measure(
        Command::new(binary)
            .args(["report", "--quiet", "--root"])
            .arg(&results)
            .arg("--out")
            .arg(&out)
            .arg(&study_file),
    )?;
    let page = std::fs::metadata(out.join("report.html"))?.len() as f64 / 1e6;
    let total = summary_s + run.seconds;
    println!("| step | wall s | peak RSS MiB |\n|---|---|---|");
    println!("| every cell's summary from its raw records, two threads | {summary_s:.2} | – |");
    println!(
        "| servelab report: tables, verdicts, effects, page ({page:.1} MB) | {:.2} | {:.0} |",
        run.seconds, run.peak_mib
    );
    println!("| both | {total:.2} | |");
    let mut pandas_s = None;
    if let Some(python) = &args.python {
        let script = folder.join("summary.py");
        std::fs::write(&script, PANDAS)?;
        let csv = folder.join("pandas.csv");
        let run = measure(Command::new(python).arg(&script).arg(&results).arg(&csv))?;
        println!("| pandas: the same summaries, no verdict, no report | {:.2} | {:.0} |", run.seconds, run.peak_mib);
        println!(
            "\nsummaries alone: {:.1} times as fast as pandas; with the whole report {:.1} times",
            run.seconds / summary_s,
            run.seconds / total
        );
        pandas_s = Some(run.seconds);
    }
    if args.cells >= 10_000 && args.requests >= 1_000 {
        let is_slow = pandas_s.is_some_and(|pandas_s| pandas_s / summary_s < BUDGET_SPEEDUP);
        if total > BUDGET_SECONDS || run.peak_mib > BUDGET_MIB || is_slow {
            return Err("over the budget".into());
        }
    }
    Ok(())
}

/// Cell after cell from its file, on two threads.
fn summarised(attempts: &[PathBuf], n: usize) -> Result<Vec<BenchResult>, Box<dyn Error>> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<(usize, BenchResult)>, String> {
        let mut own = Vec::new();
        loop {
            let idx = next.fetch_add(1, Ordering::Relaxed);
            let Some(attempt) = attempts.get(idx) else { return Ok(own) };
            let files = RecordFiles::new(attempt.join("requests.parquet"), None);
            let input = MetricsInput {
                clock: ClockEpoch { epoch_monotonic_ns: 0, epoch_unix_ns: 0 },
                records: Box::new(&files),
                prom: &[],
                window_start_ns: 0,
                window_end_ns: window_ns(n),
                slo: None,
                closed_loop_slots: None,
                client: ClientUsage { cpu_s: 1.0, threads: 1, ..ClientUsage::default() },
            };
            let mut result = summarise(&input);
            drop(input);
            files.check().map_err(|error| error.to_string())?;
            result.verdict.ok = true;
            own.push((idx, result));
        }
    };
    let parts = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| "a thread panicked".to_owned())?)
            .collect::<Result<Vec<_>, String>>()
    })?;
    let mut all: Vec<(usize, BenchResult)> = parts.into_iter().flatten().collect();
    all.sort_by_key(|(idx, _)| *idx);
    Ok(all.into_iter().map(|(_, result)| result).collect())
}

fn window_ns(n: usize) -> i64 {
    (n as i64 + 40) * 10 * MS
}

fn finish(attempt: &Path, result: &BenchResult, n: usize) -> Result<(), Box<dyn Error>> {
    let clock = ClockEpoch { epoch_monotonic_ns: 0, epoch_unix_ns: 0 };
    let window =
        WindowInfo { clock: Some(clock), window_end_ns: window_ns(n), simulated: Some(true), ..WindowInfo::default() };
    let state = AttemptState {
        schema: 1,
        state: CellState::Done,
        code: None,
        detail: None,
        history: vec![StateChange { state: CellState::Done, t_unix_ns: 1 }],
    };
    std::fs::write(attempt.join("result.json"), serde_json::to_vec(result)?)?;
    std::fs::write(attempt.join("window.json"), serde_json::to_vec(&window)?)?;
    std::fs::write(attempt.join("state.json"), serde_json::to_vec(&state)?)?;
    Ok(())
}

/// Requests of one cell; other numbers for every seed.
fn requests(n: usize, seed: u64) -> Vec<RequestRecord> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as i64
    };
    let one = |idx: i64| {
        let mut request = RequestRecord::scheduled(idx, Phase::Window, idx * 10 * MS);
        let send = request.t_sched + next() % MS;
        let first = send + 20 * MS + next() % (30 * MS);
        let tokens = 16 + next() % 32;
        let last = first + (tokens - 1) * (5 * MS + next() % (2 * MS));
        request.t_send = Some(send);
        (request.t_hdr, request.t_first, request.t_last, request.t_done) =
            (Some(first), Some(first), Some(last), Some(last));
        (request.input_tokens, request.output_tokens, request.n_first) = (Some(64), Some(tokens), Some(1));
        request.token_source = Some(TokenSource::ServerUsage);
        request.http_status = Some(200);
        request.finish_reason = Some("stop".to_owned());
        request
    };
    (0..n as i64).map(one).collect()
}
