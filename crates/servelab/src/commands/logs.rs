//! `servelab logs`: the server logs of a point or cell, by label; `-f` follows the newest one.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use servelab_core::plan::Plan;
use servelab_store::Root;

use super::{select, stored};
use crate::cli::StudyArgs;
use crate::error::CommandError;
use crate::study_input::StudyInput;
use crate::ui::Ui;

/// Between two looks at a followed log.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(200);

/// Arguments of `servelab logs`.
#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    #[command(flatten)]
    study: StudyArgs,
    /// Go on printing as the log grows
    #[arg(short, long)]
    follow: bool,
    /// Role: serve, prefill, decode, router
    #[arg(long, default_value = "serve")]
    role: String,
    /// Instance of the role
    #[arg(long, default_value_t = 0)]
    rank: u32,
    /// Only print where the log is
    #[arg(long)]
    path: bool,
}

pub(crate) fn logs(args: &LogsArgs, ui: Ui) -> Result<ExitCode, CommandError> {
    let input = StudyInput::load(&args.study.study, &args.study.overrides())?;
    if !args.study.root.exists() {
        return Err(nothing_yet(args));
    }
    let root = Root::open(&args.study.root)?;
    let plan = stored::plan_with_history(&root, &input.study.study)?.ok_or_else(|| nothing_yet(args))?;
    let log = newest_log(&root, &plan, args)?.ok_or_else(|| nothing_yet(args))?;
    if args.path {
        ui.data(&log.display().to_string());
        return Ok(ExitCode::SUCCESS);
    }
    ui.say(&format!("{}:", log.display()));
    let mut file = std::fs::File::open(&log)
        .map_err(|error| CommandError::failed(format!("cannot read `{}`: {error}", log.display())))?;
    let mut at = 0u64;
    loop {
        let mut bytes = Vec::new();
        let read = file.seek(SeekFrom::Start(at)).and_then(|_| file.read_to_end(&mut bytes));
        let read = read.map_err(|error| CommandError::failed(format!("cannot read `{}`: {error}", log.display())))?;
        if read > 0 {
            ui.raw(&String::from_utf8_lossy(&bytes));
            at += read as u64;
        }
        if !args.follow {
            return Ok(ExitCode::SUCCESS);
        }
        std::thread::sleep(FOLLOW_INTERVAL);
    }
}

fn nothing_yet(args: &LogsArgs) -> CommandError {
    CommandError::failed("there is no server log of this yet")
        .hint(format!("start it with `servelab run {}`", args.study.study.display()))
}

/// The log of the newest attempt among the selected cells.
fn newest_log(root: &Root, plan: &Plan, args: &LogsArgs) -> Result<Option<PathBuf>, CommandError> {
    let mut newest: Option<(std::time::SystemTime, PathBuf)> = None;
    for cell in select::cells(plan, &args.study)? {
        for attempt in root.attempts(&cell)? {
            let path = attempt.server_log(&args.role, args.rank);
            let Ok(modified) = path.metadata().and_then(|meta| meta.modified()) else { continue };
            if newest.as_ref().is_none_or(|(best, _)| modified > *best) {
                newest = Some((modified, path));
            }
        }
    }
    Ok(newest.map(|(_, path)| path))
}
