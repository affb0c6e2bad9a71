//! `servelab status`: how far a study is, what failed and why, and which jobs worked on it.

use std::collections::{BTreeMap, HashMap};
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use serde_json::Value;
use servelab_core::codes;
use servelab_core::failures::propose;
use servelab_core::ids::{CellId, JobId};
use servelab_core::state::CellState;
use servelab_run::jobs::{JobState, KnownJob, judge, refresh, settle, survey};
use servelab_store::{ResultRow, Root, collect_rows, read_json};
use servelab_view::{JobLine, StatusInput, status_text};

use super::{select, stored, submit};
use crate::cli::StudyArgs;
use crate::error::CommandError;
use crate::study_input::StudyInput;
use crate::ui::Ui;

/// Arguments of `servelab status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    study: StudyArgs,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct StatusDocument {
    schema: u32,
    study: String,
    cells: BTreeMap<&'static str, u64>,
    jobs: Vec<JobStatus>,
    /// Of jobs that were submitted; those of a run on this machine are not counted.
    node_hours: NodeHours,
    failures: Vec<FailureStatus>,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct NodeHours {
    /// By jobs that are over.
    used: f64,
    /// At most, by jobs that run or wait.
    reserved: f64,
    /// What `stop_early` saved, as long as those cells would have taken.
    saved: f64,
}

impl NodeHours {
    fn of(known: &[KnownJob]) -> Self {
        let now = submit::now();
        let mut hours = Self { used: 0.0, reserved: 0.0, saved: 0.0 };
        for job in known {
            let is_active = judge(job).state.is_active();
            let sum = if is_active { &mut hours.reserved } else { &mut hours.used };
            *sum += job.node_hours(now, is_active);
            hours.saved += job.saved_node_hours();
        }
        hours
    }
}

#[derive(Debug, Serialize)]
struct JobStatus {
    uuid: String,
    scheduler_id: Option<String>,
    state: String,
    reason: Option<String>,
}

#[derive(Debug, Serialize)]
struct FailureStatus {
    cell: String,
    code: Option<String>,
    line: Option<String>,
    advice: Option<String>,
    /// A neighbouring configuration, in words; nothing is changed by itself.
    proposal: Option<String>,
}

pub(crate) fn status(args: &StatusArgs, ui: Ui) -> Result<ExitCode, CommandError> {
    let input = StudyInput::load(&args.study.study, &args.study.overrides())?;
    let root = if args.study.root.exists() { Some(Root::open(&args.study.root)?) } else { None };
    let stored_plan = match &root {
        Some(root) => stored::plan_with_history(root, &input.study.study)?,
        None => None,
    };
    let mut plan = match stored_plan {
        Some(plan) => plan,
        None => input.plan(&|_| None)?,
    };
    select::narrow(&mut plan, &args.study)?;
    let known = match &root {
        Some(root) => scheduler_jobs(root, &input, ui)?,
        None => Vec::new(),
    };
    let mut rows = match &root {
        Some(root) => collect_rows(root, &plan, &stored::row_context(&input, &plan))?,
        None => Vec::new(),
    };
    show_queued(&mut rows, &known);
    let mut jobs = match &root {
        Some(root) => jobs(root, &input.study.study)?,
        None => Vec::new(),
    };
    jobs.extend(known.iter().map(|job| {
        let view = judge(job);
        JobStatus {
            uuid: job.id().to_string(),
            scheduler_id: job.scheduler_id().map(ToString::to_string),
            state: view.state.name().to_owned(),
            reason: match (view.reason, view.never_runs) {
                (Some(reason), true) => Some(format!("can never run: {reason}")),
                (reason, _) => reason,
            },
        }
    }));
    let file = args.study.study.to_string_lossy();
    let how = stored::how_to_run(&input, &file, args.study.root_to_type());
    if rows.is_empty() && known.is_empty() && !args.json {
        ui.data(&format!(
            "Study {}: nothing measured yet; {} cells planned, {} can run.\nnext: {}",
            plan.study,
            plan.counts.cells,
            plan.counts.runnable_cells,
            how.measure(&[])
        ));
        return Ok(ExitCode::SUCCESS);
    }
    if args.json {
        let mut cells = BTreeMap::new();
        for row in &rows {
            *cells.entry(row.state.name()).or_insert(0) += 1;
        }
        if rows.is_empty() {
            cells.insert(CellState::Planned.name(), plan.cells.len() as u64);
        }
        let document = StatusDocument {
            schema: 1,
            study: plan.study.clone(),
            cells,
            jobs,
            node_hours: NodeHours::of(&known),
            failures: rows.iter().filter_map(failure).collect(),
        };
        ui.data(&serde_json::to_string_pretty(&document).map_err(|error| CommandError::failed(error.to_string()))?);
        return Ok(ExitCode::SUCCESS);
    }
    let lines: Vec<JobLine<'_>> = jobs
        .iter()
        .map(|job| JobLine {
            uuid: &job.uuid,
            scheduler_id: job.scheduler_id.as_deref(),
            state: &job.state,
            reason: job.reason.as_deref(),
        })
        .collect();
    let hours = NodeHours::of(&known);
    let node_hours = (!known.is_empty()).then(|| {
        let saved = if hours.saved > 0.0 { format!("; stop_early saved {:.2}", hours.saved) } else { String::new() };
        format!("Node-hours: {:.2} used, {:.2} reserved{saved}.", hours.used, hours.reserved)
    });
    let input = StatusInput {
        plan: &plan,
        rows: &rows,
        jobs: &lines,
        node_hours: node_hours.as_deref(),
        how,
        width: ui.width(),
    };
    ui.data(&status_text(&input));
    Ok(ExitCode::SUCCESS)
}

fn failure(row: &ResultRow) -> Option<FailureStatus> {
    if !matches!(row.state, CellState::Failed | CellState::Timeout | CellState::Preempted | CellState::Invalid) {
        return None;
    }
    let report = row.failure.as_ref();
    let code = report.map(|report| report.code.clone()).or_else(|| row.code.clone());
    let advice = report.and_then(|report| report.advice.clone()).or_else(|| {
        let code = code.as_deref()?;
        codes::explain(code).map(|explanation| explanation.advice.clone())
    });
    Some(FailureStatus {
        cell: row.cell.id.to_string(),
        code,
        line: report.and_then(|report| report.line.clone()),
        advice,
        proposal: report
            .and_then(|report| propose(&report.code, &report.detail, &row.point.config))
            .map(|proposal| proposal.describe()),
    })
}

/// Jobs of the site's scheduler, asked about once, with the cells of ended ones settled.
fn scheduler_jobs(root: &Root, input: &StudyInput, ui: Ui) -> Result<Vec<KnownJob>, CommandError> {
    let study = &input.study.study;
    let known = survey(root, study, submit::now())?;
    if known.is_empty() {
        return Ok(known);
    }
    // A results folder may be looked at where there is no scheduler: then the last known words stand.
    let Ok(scheduler) = submit::scheduler(input) else { return Ok(known) };
    let refreshed = refresh(root, &known, &*scheduler)?;
    if let Some(trouble) = refreshed.trouble {
        ui.always(&format!("warning: cannot {trouble}; jobs are shown as they were last known"));
    }
    let known = if refreshed.news > 0 { survey(root, study, submit::now())? } else { known };
    settle(root, &known, submit::now())?;
    Ok(known)
}

/// Cells that nobody has begun stand where their job stands.
fn show_queued(rows: &mut [ResultRow], known: &[KnownJob]) {
    let mut states: HashMap<&CellId, CellState> = HashMap::new();
    for job in known {
        let state = match judge(job).state {
            JobState::Pending => CellState::Pending,
            JobState::Running => CellState::Provisioning,
            JobState::Submitted | JobState::Submitting | JobState::Unknown => CellState::Submitted,
            _ => continue,
        };
        states.extend(job.intent.cells.iter().map(|cell| (cell, state)));
    }
    for row in rows.iter_mut().filter(|row| row.state == CellState::Planned) {
        if let Some(state) = states.get(&row.cell.id) {
            row.state = *state;
        }
    }
}

/// The runs that worked on this study without a scheduler, oldest first.
fn jobs(root: &Root, study: &str) -> Result<Vec<JobStatus>, CommandError> {
    let folder = root.path().join("jobs");
    let mut found: Vec<(i64, JobStatus)> = Vec::new();
    for entry in std::fs::read_dir(&folder).into_iter().flatten().filter_map(Result::ok) {
        let uuid = entry.file_name().to_string_lossy().into_owned();
        let dir = root.job_dir(&JobId::new(uuid.clone()))?;
        let Ok(intent) = read_json::<Value>(&dir.join("intent.json")) else { continue };
        let is_submitted = intent.get("by").is_some();
        if is_submitted || intent.get("study").and_then(Value::as_str) != Some(study) {
            continue;
        }
        let exit: Option<Value> = read_json(&dir.join("exit.json")).ok();
        let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
        let state = match &exit {
            Some(exit) => text(exit, "state").unwrap_or_else(|| "ended".to_owned()),
            None => "running or killed".to_owned(),
        };
        let when = intent.get("t_unix_ns").and_then(Value::as_i64).unwrap_or(0);
        let job = JobStatus { uuid, scheduler_id: text(&intent, "scheduler_id"), state, reason: None };
        found.push((when, job));
    }
    found.sort_by_key(|(when, _)| *when);
    Ok(found.into_iter().map(|(_, job)| job).collect())
}
