//! `servelab logs`: the server logs of a point or cell, and what the client of its job printed, by label; `-f` follows the
//! newest ones.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::Args;
use servelab_core::ids::CellId;
use servelab_core::plan::Plan;
use servelab_run::jobs::survey;
use servelab_store::Root;

use super::{select, stored, submit};
use crate::cli::StudyArgs;
use crate::error::CommandError;
use crate::study_input::StudyInput;
use crate::ui::Ui;

/// Between two looks at a followed log.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(200);

/// The role of the program that sends the load: a job's `servelab run`.
const CLIENT: &str = "client";
/// Servers and clients together.
const ALL: &str = "all";

/// Arguments of `servelab logs`.
#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    #[command(flatten)]
    study: StudyArgs,
    /// Go on printing as the log grows
    #[arg(short, long)]
    follow: bool,
    /// Role: serve, prefill, decode, router; `client` for what the job's run printed, `all` for everything, each line with
    /// its source in front
    #[arg(long, default_value = "serve")]
    role: String,
    /// Instance of the role
    #[arg(long, default_value_t = 0)]
    rank: u32,
    /// Only print where the logs are
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
    let mut logs = find(&root, &plan, args)?;
    if logs.is_empty() {
        return Err(nothing_yet(args));
    }
    if args.path {
        let paths: Vec<String> = logs.iter().map(|log| log.path.display().to_string()).collect();
        ui.data(&paths.join("\n"));
        return Ok(ExitCode::SUCCESS);
    }
    for log in &logs {
        ui.say(&format!("{}:", log.path.display()));
    }
    let is_one = logs.len() == 1;
    loop {
        for log in &mut logs {
            let text = log.more()?;
            if is_one {
                ui.raw(&text);
            } else {
                ui.raw(&log.lines(&text, args.follow));
            }
        }
        if !args.follow {
            return Ok(ExitCode::SUCCESS);
        }
        std::thread::sleep(FOLLOW_INTERVAL);
    }
}

fn nothing_yet(args: &LogsArgs) -> CommandError {
    let what = match args.role.as_str() {
        CLIENT => "there is no job that printed anything about this yet",
        _ => "there is no server log of this yet",
    };
    CommandError::failed(what).hint(format!("start it with `servelab run {}`", args.study.study.display()))
}

/// A log that is printed from its beginning.
struct Log {
    name: String,
    path: PathBuf,
    at: u64,
    /// A line that is not complete yet.
    rest: String,
}

impl Log {
    fn new(name: String, path: PathBuf) -> Self {
        Self { name, path, at: 0, rest: String::new() }
    }

    /// What was written since the last look.
    fn more(&mut self) -> Result<String, CommandError> {
        let failed = |error| CommandError::failed(format!("cannot read `{}`: {error}", self.path.display()));
        let mut file = std::fs::File::open(&self.path).map_err(failed)?;
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(self.at)).and_then(|_| file.read_to_end(&mut bytes)).map_err(failed)?;
        self.at += bytes.len() as u64;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Whole lines with the log's name in front; the last one waits for its end where more may come.
    fn lines(&mut self, text: &str, more_may_come: bool) -> String {
        self.rest.push_str(text);
        let mut out = String::new();
        while let Some((line, rest)) = self.rest.split_once('\n') {
            out.push_str(&format!("{} | {line}\n", self.name));
            self.rest = rest.to_owned();
        }
        if !more_may_come && !self.rest.is_empty() {
            out.push_str(&format!("{} | {}\n", self.name, std::mem::take(&mut self.rest)));
        }
        out
    }
}

/// The newest logs among the selected cells.
fn find(root: &Root, plan: &Plan, args: &LogsArgs) -> Result<Vec<Log>, CommandError> {
    let cells = select::cells(plan, &args.study)?;
    let mut logs = Vec::new();
    match args.role.as_str() {
        CLIENT => logs.extend(client_log(root, plan, &cells)?.map(|path| Log::new(CLIENT.to_owned(), path))),
        ALL => {
            logs.extend(server_logs(root, &cells)?);
            logs.extend(client_log(root, plan, &cells)?.map(|path| Log::new(CLIENT.to_owned(), path)));
        }
        role => {
            let mut newest: Option<(SystemTime, PathBuf)> = None;
            for cell in &cells {
                for attempt in root.attempts(cell)? {
                    let path = attempt.server_log(role, args.rank);
                    let Ok(modified) = path.metadata().and_then(|meta| meta.modified()) else { continue };
                    if newest.as_ref().is_none_or(|(best, _)| modified > *best) {
                        newest = Some((modified, path));
                    }
                }
            }
            logs.extend(newest.map(|(_, path)| Log::new(format!("{role}-{}", args.rank), path)));
        }
    }
    Ok(logs)
}

/// Every server log of the attempt that wrote last.
fn server_logs(root: &Root, cells: &[CellId]) -> Result<Vec<Log>, CommandError> {
    let mut newest: Option<(SystemTime, Vec<PathBuf>)> = None;
    for cell in cells {
        for attempt in root.attempts(cell)? {
            let folder = attempt.path().join("server");
            let entries = std::fs::read_dir(&folder).into_iter().flatten().filter_map(Result::ok);
            let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
            paths.sort();
            let modified = paths.iter().filter_map(|path| path.metadata().ok()?.modified().ok()).max();
            if let Some(modified) = modified.filter(|at| newest.as_ref().is_none_or(|(best, _)| at > best)) {
                newest = Some((modified, paths));
            }
        }
    }
    let name = |path: &PathBuf| path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let paths = newest.map(|(_, paths)| paths).unwrap_or_default();
    Ok(paths.into_iter().map(|path| Log::new(name(&path), path)).collect())
}

/// What the newest job for these cells printed: `logs/vllm_<label>_<job id>.out`.
fn client_log(root: &Root, plan: &Plan, cells: &[CellId]) -> Result<Option<PathBuf>, CommandError> {
    let jobs = survey(root, &plan.study, submit::now())?;
    let of_cells = jobs.iter().rev().filter(|job| job.intent.cells.iter().any(|cell| cells.contains(cell)));
    let path = |job: &servelab_run::jobs::KnownJob| {
        let name = job.intent.script.strip_prefix("run_")?.rsplit_once("_head.")?.0.to_owned();
        let path = root.logs_dir().join(format!("vllm_{name}_{}.out", job.scheduler_id()?));
        path.exists().then_some(path)
    };
    Ok(of_cells.filter_map(path).next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_and_carry_their_source() {
        let mut log = Log::new("serve-0".to_owned(), PathBuf::new());
        assert_eq!(log.lines("one\ntw", true), "serve-0 | one\n");
        assert_eq!(log.lines("o\n", true), "serve-0 | two\n");
        assert_eq!(log.lines("end", false), "serve-0 | end\n");
    }
}
