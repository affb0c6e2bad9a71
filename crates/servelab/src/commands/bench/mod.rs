//! `servelab bench`: one load against any OpenAI-compatible endpoint, measured by the same client, definitions and
//! verdicts as a study's cells. `args` is what may be typed, `content` and `load` make the load, `measure` drives and judges
//! it, `live` shows it meanwhile, `observe` looks on; `until` ends it, `search` repeats it, `shard` spreads it over
//! processes and `merge` puts their records together. Here the results are written and printed.

mod args;
mod content;
mod live;
mod load;
mod measure;
mod merge;
mod observe;
mod search;
mod shard;
mod until;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use servelab_core::result::BenchResult;
use servelab_load::{Endpoint, LoadOutcome};
use servelab_run::{RunControl, SignalGuard, StoredRecords};
use servelab_store::{VllmBenchInfo, read_events, read_requests, vllm_bench, write_json, write_prom};

pub(crate) use args::BenchArgs;
use measure::{Measured, measure};
use observe::{Company, Nobody, Observer};
use shard::Membership;
use until::UntilArgs;

use crate::error::CommandError;
use crate::ui::Ui;

/// Above, `vllm_bench.json` with its lists per request would fill the memory of its readers.
const MOST_VLLM_REQUESTS: u64 = 200_000;

pub(crate) fn bench(args: &BenchArgs, ui: Ui) -> Result<ExitCode, CommandError> {
    let switch = Arc::new(RunControl::new());
    let _signals = SignalGuard::install(Arc::clone(&switch))
        .map_err(|error| CommandError::failed(format!("cannot watch for signals: {error}")))?;
    if let (false, Some(out)) = (args.shards.merge.is_empty(), &args.out) {
        let merge::Merged { result, outcome, records } = merge::merge(&args.shards.merge, out, args.events)?;
        records.drop_unwanted()?;
        ui.say(&format!("wrote {}", out.display()));
        return show(args, &result, &outcome, ui);
    }
    let scratch = match &args.out {
        Some(_) => None,
        None => Some(tempfile::tempdir().map_err(|error| {
            CommandError::failed(format!("cannot make a folder for the records: {error}"))
                .hint("name one with `--out DIR`, or set TMPDIR")
        })?),
    };
    let folder = match (&args.out, &scratch) {
        (Some(folder), _) => folder.as_path(),
        (None, Some(scratch)) => scratch.path(),
        (None, None) => Path::new("."),
    };
    if let Some(axis) = args.search.search {
        return search::search(args, axis, folder, &switch, ui);
    }
    match args.shards.membership(args)? {
        Some(membership) => sharded(args, &membership, &switch, ui),
        None => alone(args, folder, &switch, ui),
    }
}

/// The whole load from this process.
fn alone(args: &BenchArgs, folder: &Path, switch: &RunControl, ui: Ui) -> Result<ExitCode, CommandError> {
    let args = &UntilArgs::bounded(args);
    let mut trial = load::trial(args)?;
    let mut precision = UntilArgs::watch(args, &mut trial)?;
    let mut nobody = Nobody;
    let observer: &mut dyn Observer = match &mut precision {
        Some(precision) => precision,
        None => &mut nobody,
    };
    let company = Company { observer, is_lost: &mut |_| false, scrapes: true };
    let mut measured = measure(trial, folder, args.events, company, switch, ui)?;
    if args.out.is_some() {
        write(args, folder, &mut measured, ui)?;
        ui.say(&format!("wrote {}", folder.display()));
    }
    measured.records.drop_unwanted()?;
    show(args, &measured.result, &measured.outcome, ui)
}

/// This process's part of the load; shard 0 makes the result of all.
fn sharded(
    args: &BenchArgs,
    membership: &Membership,
    switch: &Arc<RunControl>,
    ui: Ui,
) -> Result<ExitCode, CommandError> {
    let args = &membership.arguments(args);
    let mut trial = load::trial(args)?;
    membership.take_part(&mut trial)?;
    let agreed = membership.meet(args, &mut trial, switch, ui)?;
    let (load, slots) = (trial.load.clone(), trial.load.busy_slots().filter(|_| !trial.slots_pause));
    let is_first = membership.shard.index == 0;
    let company = Company { observer: &mut Nobody, is_lost: &mut |_| false, scrapes: is_first };
    let own = membership.own_folder();
    // Events are needed for the numbers of the whole.
    let mut measured = measure(trial, &own, true, company, switch, ui)?;
    let Some(agreed) = agreed.get() else {
        return Err(CommandError::failed("the load ran without its start; report this"));
    };
    write(args, &own, &mut measured, ui)?;
    membership.finish(agreed, args, (load, slots), &measured)?;
    ui.say(&format!("shard {} wrote {}", membership.shard, own.display()));
    if !is_first {
        return Ok(exit_code(&measured.result, &measured.outcome));
    }
    let folders = membership.wait_for_records(agreed, &measured, switch, ui);
    let merge::Merged { result, outcome, records } = merge::merge(&folders, membership.folder(), args.events)?;
    let info = vllm_info(args, &result, &outcome, measured.endpoint);
    write_vllm(membership.folder(), &info, &outcome, &records, ui)?;
    records.drop_unwanted()?;
    ui.say(&format!("wrote {}", membership.folder().display()));
    show(args, &result, &outcome, ui)
}

/// Prints a result.
fn show(args: &BenchArgs, result: &BenchResult, outcome: &LoadOutcome, ui: Ui) -> Result<ExitCode, CommandError> {
    if args.json {
        ui.data(&serde_json::to_string_pretty(result).map_err(|error| CommandError::failed(error.to_string()))?);
    } else {
        ui.data(&servelab_view::bench_text(result, ui.width()));
    }
    for sample in &outcome.failure_samples {
        ui.say(&format!("request {} failed ({}): {}", sample.request_idx, sample.code, sample.detail));
    }
    Ok(exit_code(result, outcome))
}

fn exit_code(result: &BenchResult, outcome: &LoadOutcome) -> ExitCode {
    let is_incomplete = result.shards.as_ref().is_some_and(|shards| !shards.missing.is_empty());
    let has_failed = outcome.interrupted || result.requests.completed == 0 || is_incomplete;
    if has_failed { ExitCode::from(1) } else { ExitCode::SUCCESS }
}

/// Everything beside the records.
fn write(args: &BenchArgs, folder: &Path, measured: &mut Measured, ui: Ui) -> Result<(), CommandError> {
    let Measured { result, outcome, records, endpoint, texts, scraped } = measured;
    if let Some(scraped) = scraped {
        write_prom(&folder.join("prom.parquet"), &scraped.samples)?;
    }
    let info = VllmBenchInfo { generated_texts: texts.take(), ..vllm_info(args, result, outcome, *endpoint) };
    write_vllm(folder, &info, outcome, records, ui)?;
    write_json(&folder.join("result.json"), result)?;
    Ok(())
}

/// What `vllm_bench.json` says of the load.
fn vllm_info(args: &BenchArgs, result: &BenchResult, outcome: &LoadOutcome, endpoint: Endpoint) -> VllmBenchInfo {
    VllmBenchInfo {
        date: servelab_core::units::utc_stamp(outcome.clock.epoch_unix_ns),
        backend: match endpoint {
            Endpoint::Completions => "openai".to_owned(),
            Endpoint::Chat => "openai-chat".to_owned(),
            native => native.name().to_owned(),
        },
        model: args.model.clone(),
        tokenizer: args.tokenizer.clone(),
        request_rate: args.rate,
        burstiness: args.arrival.strip_prefix("gamma:").and_then(|shape| shape.parse().ok()).unwrap_or(1.0),
        max_concurrency: args.concurrency.or(args.max_concurrency),
        duration_s: result.duration_s,
        goodput_requests_per_s: result.goodput_requests_per_s,
        epoch_monotonic_ns: outcome.clock.epoch_monotonic_ns,
        generated_texts: None,
    }
}

/// `vllm_bench.json`, where it is not too long.
fn write_vllm(
    folder: &Path,
    info: &VllmBenchInfo,
    outcome: &LoadOutcome,
    records: &StoredRecords,
    ui: Ui,
) -> Result<(), CommandError> {
    if outcome.recorded <= MOST_VLLM_REQUESTS {
        let mut requests = read_requests(records.requests_path())?;
        requests.sort_by_key(|request| request.request_idx);
        let events = read_events(records.events_path())?;
        write_json(&folder.join("vllm_bench.json"), &vllm_bench(info, &requests, &events))?;
    } else {
        ui.say(&format!("left out vllm_bench.json: it lists every request, and there are {}", outcome.recorded));
    }
    Ok(())
}
