//! One result from the records of several shards: every record is laid on one clock, and every number computed from all of
//! them. Streams from file to file, so its memory does not grow with the load.

use std::path::{Path, PathBuf};

use servelab_core::metrics::{Records as _, RequestSlo, counter_resets};
use servelab_core::record::PromSample;
use servelab_core::result::BenchResult;
use servelab_core::search::SearchSlo;
use servelab_core::shard::{Layout, SHARD_SCHEMA_VERSION, ShardManifest, lay_out, place_event, place_request};
use servelab_core::verdict::{CellEvidence, judge};
use servelab_load::LoadOutcome;
use servelab_run::{StoredRecords, SummaryOptions};
use servelab_store::{RecordFiles, RecordWriter, read_json, read_prom, write_json, write_prom};

use crate::error::CommandError;

/// All shards as one.
pub(super) struct Merged {
    pub(super) result: BenchResult,
    pub(super) outcome: LoadOutcome,
    pub(super) records: StoredRecords,
}

/// Merges the shards in `folders` into `out` and judges the whole. Shards that are not there are named in the result.
pub(super) fn merge(folders: &[PathBuf], out: &Path, keep_events: bool) -> Result<Merged, CommandError> {
    let mut found: Vec<(PathBuf, ShardManifest)> = Vec::new();
    for folder in expand(folders)? {
        let path = folder.join("shard.json");
        let manifest: ShardManifest = read_json(&path)?;
        if manifest.schema > SHARD_SCHEMA_VERSION {
            return Err(CommandError::usage(format!(
                "`{}` has format {}; this version reads up to {SHARD_SCHEMA_VERSION}",
                path.display(),
                manifest.schema
            )));
        }
        found.push((folder, manifest));
    }
    let wrong = |error: servelab_core::shard::MergeError| CommandError::usage(error.to_string());
    let mut layout = lay_out(found.iter().map(|(_, manifest)| manifest.clone()).collect()).map_err(wrong)?;
    std::fs::create_dir_all(out)
        .map_err(|error| CommandError::failed(format!("cannot make `{}`: {error}", out.display())))?;
    let records = StoredRecords::at(out, keep_events);
    write_records(&found, &mut layout, &records)?;
    let reference = layout.members.first().map(|(manifest, _)| manifest.clone());
    let Some(reference) = reference else { return Err(wrong(servelab_core::shard::MergeError::Empty)) };
    let prom = scrapes(&found, &layout)?;
    let slo: Option<RequestSlo> = match &reference.slo {
        Some(typed) => SearchSlo::parse(typed).map_err(|error| CommandError::usage(error.to_string()))?.request,
        None => None,
    };
    let outcome = LoadOutcome {
        clock: reference.clock,
        window_start_ns: layout.window_start_ns,
        window_end_ns: layout.window_end_ns,
        recorded: layout.summary.members.iter().map(|member| member.requests).sum(),
        failure_samples: Vec::new(),
        cpu_s: layout.cpu_s,
        busy_s: layout.busy_s,
        threads: layout.threads,
        interrupted: !layout.summary.interrupted.is_empty(),
        ran_out: false,
        is_satisfied: None,
        spread_ns: None,
        canary: None,
    };
    let options = SummaryOptions { prom: &prom, slo, closed_loop_slots: reference.closed_loop_slots };
    let (mut result, requests) = records.summarise(&outcome, options)?;
    result.shards = Some(layout.summary);
    let mut evidence = CellEvidence::new(&result, &reference.load, requests);
    evidence.metrics_expected = !prom.is_empty();
    evidence.ignore_eos = reference.ignore_eos;
    evidence.server_resets = counter_resets(&prom, outcome.window_start_ns, outcome.window_end_ns);
    let verdict = judge(&evidence);
    result.verdict = verdict;
    if !prom.is_empty() {
        write_prom(&out.join("prom.parquet"), &prom)?;
    }
    write_json(&out.join("result.json"), &result)?;
    Ok(Merged { result, outcome, records })
}

/// The folders named; one that holds shards stands for all of them.
fn expand(folders: &[PathBuf]) -> Result<Vec<PathBuf>, CommandError> {
    let mut all = Vec::new();
    for folder in folders {
        if folder.join("shard.json").is_file() {
            all.push(folder.clone());
            continue;
        }
        let entries = std::fs::read_dir(folder)
            .map_err(|error| CommandError::usage(format!("cannot read `{}`: {error}", folder.display())))?;
        let mut inside: Vec<PathBuf> =
            entries.flatten().map(|entry| entry.path()).filter(|path| path.join("shard.json").is_file()).collect();
        if inside.is_empty() {
            return Err(CommandError::usage(format!("there is no shard in `{}`", folder.display()))
                .hint("name folders that hold shard.json, or the folder that holds those"));
        }
        inside.sort();
        all.append(&mut inside);
    }
    Ok(all)
}

fn write_records(
    found: &[(PathBuf, ShardManifest)],
    layout: &mut Layout,
    records: &StoredRecords,
) -> Result<(), CommandError> {
    let mut requests = RecordWriter::create(records.requests_path())?;
    let mut events = RecordWriter::create(records.events_path())?;
    for ((manifest, shift), member) in layout.members.iter().zip(&mut layout.summary.members) {
        let Some((folder, _)) = found.iter().find(|(_, other)| other.shard == manifest.shard) else { continue };
        let own_events = folder.join("events.parquet");
        let files = RecordFiles::new(folder.join("requests.parquet"), Some(own_events).filter(|path| path.is_file()));
        let mut problem: Option<CommandError> = None;
        files.visit(&mut |request, own| {
            if problem.is_some() {
                return;
            }
            let written = place_request(request, manifest.shard, *shift)
                .map_err(|error| CommandError::usage(error.to_string()))
                .and_then(|request| Ok(requests.push(&request)?))
                .and_then(|()| own.iter().try_for_each(|event| Ok(events.push(&place_event(event, *shift))?)));
            member.requests += 1;
            problem = written.err();
        });
        files.check()?;
        if let Some(problem) = problem {
            return Err(problem);
        }
    }
    requests.finish()?;
    events.finish()?;
    Ok(())
}

/// The server was scraped by shard 0 alone.
fn scrapes(found: &[(PathBuf, ShardManifest)], layout: &Layout) -> Result<Vec<PromSample>, CommandError> {
    let mut all = Vec::new();
    for (manifest, shift) in &layout.members {
        let folder = found.iter().find(|(_, other)| other.shard == manifest.shard).map(|(folder, _)| folder);
        let Some(path) = folder.map(|folder| folder.join("prom.parquet")).filter(|path| path.is_file()) else {
            continue;
        };
        let samples = read_prom(&path)?.into_iter();
        all.extend(samples.map(|sample| PromSample { t_ns: sample.t_ns.saturating_add(*shift), ..sample }));
    }
    Ok(all)
}
