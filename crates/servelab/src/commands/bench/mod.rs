//! `servelab bench`: one load against any OpenAI-compatible endpoint, measured by the same client, definitions and
//! verdicts as a study's cells. `args` is what may be typed, `content` and `load` make the load, `measure` drives and judges it, `live`
//! shows it meanwhile; here the results are written and printed.

mod args;
mod content;
mod live;
mod load;
mod measure;

use std::path::Path;
use std::process::ExitCode;

use servelab_load::Endpoint;
use servelab_store::{VllmBenchInfo, read_events, read_requests, vllm_bench, write_json, write_prom};

pub(crate) use args::BenchArgs;
use measure::{Measured, measure};

use crate::error::CommandError;
use crate::ui::Ui;

/// Above, `vllm_bench.json` with its lists per request would fill the memory of its readers.
const MOST_VLLM_REQUESTS: u64 = 200_000;

pub(crate) fn bench(args: &BenchArgs, ui: Ui) -> Result<ExitCode, CommandError> {
    let trial = load::trial(args)?;
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
    let mut measured = measure(trial, folder, args.events, ui)?;
    if args.out.is_some() {
        write(args, folder, &mut measured, ui)?;
        ui.say(&format!("wrote {}", folder.display()));
    }
    measured.records.drop_unwanted()?;
    let Measured { result, outcome, .. } = measured;
    if args.json {
        ui.data(&serde_json::to_string_pretty(&result).map_err(|error| CommandError::failed(error.to_string()))?);
    } else {
        ui.data(&servelab_view::bench_text(&result, ui.width()));
    }
    for sample in &outcome.failure_samples {
        ui.say(&format!("request {} failed ({}): {}", sample.request_idx, sample.code, sample.detail));
    }
    Ok(if outcome.interrupted || result.requests.completed == 0 { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

/// Everything beside the records.
fn write(args: &BenchArgs, folder: &Path, measured: &mut Measured, ui: Ui) -> Result<(), CommandError> {
    let Measured { result, outcome, records, endpoint, texts, scraped } = measured;
    if let Some(scraped) = scraped {
        write_prom(&folder.join("prom.parquet"), &scraped.samples)?;
    }
    let info = VllmBenchInfo {
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
        generated_texts: texts.take(),
    };
    if outcome.recorded <= MOST_VLLM_REQUESTS {
        let mut requests = read_requests(records.requests_path())?;
        requests.sort_by_key(|request| request.request_idx);
        let events = read_events(records.events_path())?;
        write_json(&folder.join("vllm_bench.json"), &vllm_bench(&info, &requests, &events))?;
    } else {
        ui.say(&format!("left out vllm_bench.json: it lists every request, and there are {}", outcome.recorded));
    }
    write_json(&folder.join("result.json"), result)?;
    Ok(())
}
