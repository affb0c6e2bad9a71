//! `servelab finding`: what was learnt, as Markdown whose numbers are bound to cells; `check` computes them anew and says
//! which no longer stand.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use servelab_core::finding::{FindingText, read_finding};
use servelab_core::metrics::RepeatStats;
use servelab_store::best::{BestRequest, best};
use servelab_store::finding::check_number;
use servelab_store::{ResultRow, Root, collect_rows, write_atomic};
use servelab_view::{
    DraftPoint, FindingDraft, FindingLine, Objective, finding_check_text, finding_template, meets_cell_slo, metric,
};

use super::{select, stored};
use crate::cli::StudyArgs;
use crate::error::CommandError;
use crate::study_input::StudyInput;
use crate::ui::Ui;

/// Metrics of a new finding, unless others are named.
const METRICS: [&str; 3] = ["throughput_tokens_per_sec", "ttft_p95_ms", "itl_p95_ms"];

/// Arguments of `servelab finding`.
#[derive(Debug, Args)]
pub(crate) struct FindingArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Begin a finding: a Markdown file with the numbers of the best point and the next one, bound to their cells
    New(NewArgs),
    /// List the findings of a study
    List(ListArgs),
    /// Compute every number of the findings anew; exit code 1 when one no longer stands
    Check(CheckArgs),
}

#[derive(Debug, Args)]
struct NewArgs {
    #[command(flatten)]
    study: StudyArgs,
    /// Name of the finding; its file is NAME.md
    #[arg(value_name = "NAME")]
    name: String,
    /// The question that it answers
    #[arg(long, value_name = "TEXT")]
    question: Option<String>,
    /// The point it is about, by label; default: the best one
    #[arg(long, value_name = "LABEL")]
    point: Option<String>,
    /// The point it is compared with, by label; default: the next best one
    #[arg(long, value_name = "LABEL")]
    versus: Option<String>,
    /// A metric it shows (may be repeated)
    #[arg(long, value_name = "M")]
    metric: Vec<String>,
    /// Folder of the findings; default: `findings` beside the study
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct ListArgs {
    #[command(flatten)]
    study: StudyArgs,
    /// Folder of the findings; default: `findings` beside the study
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Print the list as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct CheckArgs {
    #[command(flatten)]
    study: StudyArgs,
    /// Files to check; default: all of the folder
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Folder of the findings; default: `findings` beside the study
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Print what was found as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn finding(args: &FindingArgs, ui: Ui) -> Result<ExitCode, CommandError> {
    match &args.action {
        Action::New(args) => new(args, ui),
        Action::List(args) => list(args, ui),
        Action::Check(args) => check(args, ui),
    }
}

fn folder(dir: Option<&PathBuf>, study: &StudyArgs) -> PathBuf {
    dir.cloned().unwrap_or_else(|| study.study.parent().unwrap_or(Path::new("")).join("findings"))
}

/// The study and its rows.
fn measured(args: &StudyArgs) -> Result<(StudyInput, Vec<ResultRow>), CommandError> {
    let input = StudyInput::load(&args.study, &args.overrides())?;
    let nothing = || {
        let root = args.root.display();
        CommandError::failed(format!("study `{}` has no results under `{root}`", input.study.study))
            .hint(format!("measure first: servelab run {}", args.study.display()))
    };
    if !args.root.exists() {
        return Err(nothing());
    }
    let root = Root::open(&args.root)?;
    let mut plan = stored::plan_with_history(&root, &input.study.study)?.ok_or_else(nothing)?;
    select::narrow(&mut plan, args)?;
    let rows = collect_rows(&root, &plan, &stored::row_context(&input, &plan))?;
    Ok((input, rows))
}

fn new(args: &NewArgs, ui: Ui) -> Result<ExitCode, CommandError> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if args.name.is_empty() || args.name.starts_with('.') || !args.name.chars().all(is_plain) {
        return Err(CommandError::usage(format!("`{}` cannot be a file name", args.name))
            .hint("letters, digits, `-`, `_` and `.`, as in `decode-is-the-bottleneck`"));
    }
    let folder = folder(args.dir.as_ref(), &args.study);
    let path = folder.join(format!("{}.md", args.name.trim_end_matches(".md")));
    if path.exists() {
        return Err(CommandError::usage(format!("`{}` exists already", path.display())).hint("choose another name"));
    }
    let (input, rows) = measured(&args.study)?;
    let metrics: Vec<&str> =
        if args.metric.is_empty() { METRICS.to_vec() } else { args.metric.iter().map(String::as_str).collect() };
    for label in args.point.iter().chain(&args.versus) {
        if !rows.iter().any(|row| row.point.labels.contains(label)) {
            let known = rows.iter().flat_map(|row| row.point.labels.iter().map(String::as_str));
            let near = servelab_core::source::did_you_mean(label, known);
            let error = CommandError::usage(format!("the study has no point `{label}`"));
            return Err(match near {
                Some(near) => error.hint(format!("did you mean `{near}`?")),
                None => error.hint(format!("`servelab plan {}` lists the points", args.study.study.display())),
            });
        }
    }
    let points = points(args, &input, &rows, &metrics)?;
    let title = args.name.trim_end_matches(".md").replace(['-', '_'], " ");
    let text = finding_template(&FindingDraft {
        title: &title,
        question: args.question.as_deref(),
        points: &points,
        study_file: &args.study.study.display().to_string(),
        file: &path.display().to_string(),
    });
    std::fs::create_dir_all(&folder)
        .map_err(|error| CommandError::failed(format!("cannot make `{}`: {error}", folder.display())))?;
    write_atomic(&path, text.as_bytes())?;
    ui.data(&format!("{}\n", path.display()));
    ui.say("write what is marked TODO, then: servelab finding check");
    Ok(ExitCode::SUCCESS)
}

/// The points that the text is about, under the best load of the first of them.
fn points(
    args: &NewArgs,
    input: &StudyInput,
    rows: &[ResultRow],
    metrics: &[&str],
) -> Result<Vec<DraftPoint>, CommandError> {
    let objective = Objective::of_study(&input.study).map_err(|error| CommandError::usage(error.message))?;
    let value = |row: &ResultRow| objective.value(row);
    // A point that was named is shown whether it keeps the limits or not.
    let meets = |row: &ResultRow| args.point.is_some() || meets_cell_slo(&input.study, row);
    let mut out = Vec::new();
    for answer in best(rows, &BestRequest { value: &value, direction: objective.direction(), meets: &meets }) {
        let is =
            |labels: &[String], wanted: &Option<String>| wanted.as_ref().is_none_or(|label| labels.contains(label));
        let Some(first) = answer.entries.iter().find(|entry| is(&entry.group.labels, &args.point)) else { continue };
        let same_load = answer.entries.iter().filter(|entry| entry.group.load == first.group.load);
        let second = same_load
            .filter(|entry| entry.group.point != first.group.point)
            .find(|entry| is(&entry.group.labels, &args.versus));
        for entry in std::iter::once(first).chain(second) {
            let own: Vec<&ResultRow> = rows
                .iter()
                .filter(|row| row.point.id == entry.group.point && row.cell.workload == answer.workload)
                .filter(|row| row.cell.load.describe() == entry.group.load && row.unranked_reason().is_none())
                .collect();
            let mean = |name: &&str| {
                let stats = RepeatStats::of(own.iter().filter_map(|row| metric(row, name)))?;
                Some(((*name).to_owned(), stats.mean))
            };
            out.push(DraftPoint {
                point: entry.group.labels.first().cloned().unwrap_or_else(|| entry.group.point.to_string()),
                workload: answer.workload.clone(),
                load: entry.group.load.clone(),
                values: metrics.iter().filter_map(mean).collect(),
                cells: own.iter().map(|row| row.cell.id.short().to_owned()).collect(),
            });
        }
    }
    Ok(out)
}

/// The findings, by path.
fn read(files: &[PathBuf]) -> Result<Vec<(PathBuf, FindingText)>, CommandError> {
    let one = |path: &PathBuf| {
        let text = std::fs::read_to_string(path)
            .map_err(|error| CommandError::usage(format!("cannot read the finding `{}`: {error}", path.display())))?;
        Ok((path.clone(), read_finding(&text)))
    };
    files.iter().map(one).collect()
}

fn files_of(folder: &Path) -> Result<Vec<PathBuf>, CommandError> {
    if !folder.is_dir() {
        return Err(CommandError::usage(format!("there is no folder `{}`", folder.display()))
            .hint("begin a finding: servelab finding new STUDY NAME"));
    }
    let entries = std::fs::read_dir(folder)
        .map_err(|error| CommandError::failed(format!("cannot list `{}`: {error}", folder.display())))?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    files.sort();
    Ok(files)
}

fn list(args: &ListArgs, ui: Ui) -> Result<ExitCode, CommandError> {
    let found = read(&files_of(&folder(args.dir.as_ref(), &args.study))?)?;
    if args.json {
        let list: Vec<Value> = found
            .iter()
            .map(|(path, text)| {
                json!({"file": path, "title": text.title, "question": text.question, "numbers": text.numbers.len(), "problems": text.problems.len()})
            })
            .collect();
        let whole = json!({"schema": 1, "findings": list});
        ui.data(&serde_json::to_string_pretty(&whole).map_err(|error| CommandError::failed(error.to_string()))?);
        return Ok(ExitCode::SUCCESS);
    }
    for (path, text) in &found {
        let unfinished = if text.problems.is_empty() { "" } else { ", not finished" };
        ui.data(&format!("{}: {} ({} bound numbers{unfinished})\n", path.display(), text.question, text.numbers.len()));
    }
    Ok(ExitCode::SUCCESS)
}

fn check(args: &CheckArgs, ui: Ui) -> Result<ExitCode, CommandError> {
    let files =
        if args.files.is_empty() { files_of(&folder(args.dir.as_ref(), &args.study))? } else { args.files.clone() };
    let found = read(&files)?;
    let (_, rows) = measured(&args.study)?;
    let mut lines: Vec<FindingLine> = Vec::new();
    for (path, text) in &found {
        let file = path.display().to_string();
        lines.extend(text.problems.iter().map(|problem| FindingLine {
            file: file.clone(),
            line: problem.line,
            what: String::new(),
            written: String::new(),
            outcome: Err(problem.message.clone()),
        }));
        for number in &text.numbers {
            let binding = &number.binding;
            let versus = binding.versus.as_ref().map(|versus| format!(" against {versus}, %")).unwrap_or_default();
            lines.push(FindingLine {
                file: file.clone(),
                line: number.line,
                what: format!("{} of {}{versus}", binding.metric, binding.point),
                written: number.written.clone(),
                outcome: Ok(check_number(number, &rows, &metric)),
            });
        }
    }
    if args.json {
        let list: Vec<Value> = lines
            .iter()
            .map(|line| {
                let now = line.outcome.as_ref().ok().and_then(|checked| checked.now);
                json!({"file": line.file, "line": line.line, "what": line.what, "written": line.written, "now": now, "status": line.status(), "reason": line.reason()})
            })
            .collect();
        let whole = json!({"schema": 1, "ok": lines.iter().all(FindingLine::holds), "numbers": list});
        ui.data(&serde_json::to_string_pretty(&whole).map_err(|error| CommandError::failed(error.to_string()))?);
    } else {
        ui.data(&finding_check_text(&lines, ui.width()));
    }
    Ok(if lines.iter().all(FindingLine::holds) { ExitCode::SUCCESS } else { ExitCode::from(1) })
}
