//! `servelab import`: results of other tools, read under our definitions, judged, and stored beside our own when asked to.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use serde_json::json;
use servelab_store::Root;
use servelab_store::import::{ImportedResult, import as import_paths, store_imports};
use servelab_view::{ImportRow, import_text};

use crate::error::CommandError;
use crate::ui::Ui;

/// Arguments of `servelab import`.
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// Result files, or folders with such files anywhere below
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// Store the results here too, as a study that `report` and `compare` read
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Name of that study
    #[arg(long, value_name = "NAME", default_value = "imported")]
    study: String,
    /// Print the results as JSON
    #[arg(long)]
    json: bool,
    /// Exit with 1 when a verdict says that a result must not be believed
    #[arg(long)]
    strict: bool,
}

pub(crate) fn import(args: &ImportArgs, ui: Ui) -> Result<ExitCode, CommandError> {
    let imports = import_paths(&args.paths).map_err(|error| CommandError::usage(format!("cannot {error}")))?;
    for skipped in imports.skipped.iter().filter(|skipped| skipped.is_problem) {
        ui.always(&format!("warning: `{}` was not imported: {}", skipped.path.display(), skipped.reason));
    }
    if imports.results.is_empty() {
        let looked = imports.skipped.len();
        return Err(CommandError::usage(format!("there is no result in what was named ({looked} other files)"))
            .hint("formats that are read: docs, commands, import"));
    }
    if args.json {
        let list: Vec<serde_json::Value> = imports.results.iter().map(document).collect();
        ui.data(&serde_json::to_string_pretty(&list).map_err(|error| CommandError::failed(error.to_string()))?);
    } else {
        let rows: Vec<ImportRow<'_>> = imports.results.iter().map(row).collect();
        ui.data(&import_text(&rows, ui.width()));
    }
    let others = imports.skipped.iter().filter(|skipped| !skipped.is_problem).count();
    ui.say(&format!("{} results read, {others} other files passed over", imports.results.len()));
    if let Some(folder) = &args.root {
        let root = Root::open_or_create(folder)?;
        let now =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX));
        let stored = store_imports(&root, &args.study, &imports.results, now)?;
        let study = root.study_dir(&args.study)?.join("study.yaml");
        ui.say(&format!("stored {} cells ({} were there already)", stored.written, stored.known));
        ui.say(&format!("next: servelab report {} --root {}", study.display(), folder.display()));
    }
    if args.strict && imports.results.iter().any(|imported| !imported.result.verdict.ok) {
        ui.always("strict: some results must not be believed");
        return Ok(ExitCode::from(1));
    }
    Ok(ExitCode::SUCCESS)
}

fn document(imported: &ImportedResult) -> serde_json::Value {
    json!({
        "path": imported.path,
        "format": imported.format,
        "result": imported.result.to_json(),
        "labels": imported.run.labels,
        "verdict": imported.result.verdict,
    })
}

fn row(imported: &ImportedResult) -> ImportRow<'_> {
    let load = imported.run.load.as_ref().map(servelab_core::plan::Load::describe).unwrap_or_default();
    ImportRow { path: &imported.path, format: imported.format, load, result: &imported.result }
}
