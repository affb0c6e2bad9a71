//! `servelab submit`: hands what is left of a study to the site's scheduler, one job per configuration and repeat block.
//! Called again it submits only what is still open; `--wait` stays until everything is over; `--dry-run` writes the
//! scripts and submits nothing.

mod snapshot;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use servelab_core::ids::JobId;
use servelab_core::plan::Plan;
use servelab_core::site::Scheduler as SchedulerKind;
use servelab_run::glibc::{self, Glibc};
use servelab_run::jobs::{
    Budget, JobPlanError, JobState, KnownJob, LeftOut, PlanJobs, Planned, Preparation, PreparedJob, SubmitOutcome,
    judge, needless, plan_jobs, prepare, refresh, settle, submit_array, survey,
};
use servelab_run::scheduler::{Scheduler, pbs::Pbs, slurm::Slurm};
use servelab_run::{Engine, RetryPolicy, RunControl, SignalGuard};
use servelab_store::{Root, write_json};

use self::snapshot::Snapshot;
use super::{run, select, stored};
use crate::cli::StudyArgs;
use crate::error::CommandError;
use crate::study_input::StudyInput;
use crate::ui::Ui;

/// First and longest pause between two questions to the scheduler; sixty seconds is polite at large sites.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Tasks of an array where the scheduler does not say how many it takes: Slurm's own default.
const LARGEST_ARRAY: usize = 1001;

/// Arguments of `servelab submit`.
#[derive(Debug, Args)]
pub(crate) struct SubmitArgs {
    #[command(flatten)]
    study: StudyArgs,
    /// Write the scripts and submit nothing
    #[arg(long)]
    dry_run: bool,
    /// Stay until every job is over, submitting more as the budget allows
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
    /// Which failed cells to try again: `failed`, `invalid`, a failure code, or `all`; default: those that may recover
    #[arg(long, value_name = "WHICH")]
    retry: Option<String>,
    /// Path of this program on the nodes, when it is another one there
    #[arg(long = "node-program", value_name = "PATH")]
    program: Option<PathBuf>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Document {
    schema: u32,
    study: String,
    site: String,
    dry_run: bool,
    jobs: Vec<JobRow>,
    waiting_jobs: usize,
    waits_for: Option<String>,
    cells_finished: u64,
    cells_in_work: u64,
    left_out: Vec<LeftOutRow>,
}

#[derive(Debug, Serialize)]
struct JobRow {
    uuid: String,
    scheduler_id: Option<String>,
    state: &'static str,
    reason: Option<String>,
    label: String,
    repeat: u32,
    cells: usize,
    nodes: u32,
    script: String,
}

#[derive(Debug, Serialize)]
struct LeftOutRow {
    cells: u64,
    reason: String,
}

/// What one call, or one round of `--wait`, works with.
struct Submission<'a> {
    args: &'a SubmitArgs,
    input: &'a StudyInput,
    root: &'a Root,
    plan: &'a Plan,
    cells: &'a [servelab_core::ids::CellId],
    engine: Engine,
    retry: RetryPolicy,
    walltime_s: u64,
    scheduler: Box<dyn Scheduler>,
    snapshot: Snapshot,
    ui: Ui,
}

pub(crate) fn submit(args: &SubmitArgs, ui: Ui) -> Result<ExitCode, CommandError> {
    let input = StudyInput::load(&args.study.study, &args.study.overrides())?;
    let scheduler = scheduler(&input)?;
    let walltime_s = walltime_s(&input)?;
    let retry = run::retry_policy(args.retry.as_deref())?;
    let engine = engine_there(&input)?;
    let winners = stored::winners(&args.study.root, &input);
    let plan = input.plan(&winners)?;
    let cells = select::cells(&plan, &args.study)?;
    let root_path = absolute(&args.study.root)?;
    servelab_run::script::check(&input.site, &root_path.join("logs"))
        .map_err(|error| CommandError::usage(error.to_string()))?;
    let root = Root::open_or_create(&root_path)?;
    stored::write_plan(&root, &input, &plan, &args.study.study)?;
    let snapshot = Snapshot::write(&root, &input, args)?;
    let submission = Submission {
        args,
        input: &input,
        root: &root,
        plan: &plan,
        cells: &cells,
        engine,
        retry,
        walltime_s,
        scheduler,
        snapshot,
        ui,
    };
    let round = submission.round()?;
    if !args.wait {
        return submission.show(&round);
    }
    submission.wait(round)
}

/// What a round did.
struct Round {
    planned: Planned,
    rows: Vec<JobRow>,
    /// A refusal ends a round: it would be the same for every job.
    refused: Option<String>,
    /// So does silence: every further submission would wait as long.
    silent: Option<String>,
    news: u64,
}

impl Submission<'_> {
    /// Learns how the jobs are, settles what is over, submits what is open.
    fn round(&self) -> Result<Round, CommandError> {
        let study = &self.input.study.study;
        let mut known = survey(self.root, study, now())?;
        let mut news = 0;
        if !self.args.dry_run && !known.is_empty() {
            let refreshed = refresh(self.root, &known, &*self.scheduler)?;
            if let Some(trouble) = &refreshed.trouble {
                self.ui.always(&format!("warning: cannot {trouble}; jobs stay as they were last known"));
            }
            news = refreshed.news;
            if news > 0 {
                known = survey(self.root, study, now())?;
            }
        }
        news += settle(self.root, &known, now())?;
        let budget = &self.input.study.budget;
        let limits = Budget { max_jobs: budget.max_jobs, node_hours: budget.node_hours };
        let input = PlanJobs {
            root: self.root,
            plan: self.plan,
            cells: self.cells,
            known: &known,
            engine: &self.engine,
            retry: &self.retry,
            ordering: run::ordering(self.input),
            walltime_s: self.walltime_s,
            budget: if self.args.dry_run { Budget::default() } else { limits },
        };
        let planned = plan_jobs(&input)?;
        if !self.args.dry_run {
            news += self.take_back(&needless(&input)?)?;
        }
        let prepared = self.prepare(&known, &planned)?;
        let mut round = Round { planned, rows: Vec::new(), refused: None, silent: None, news };
        for together in together(&prepared) {
            if self.args.dry_run {
                round.rows.extend(together.iter().map(|job| row(job, JobState::Prepared, None, None)));
                continue;
            }
            self.hand_over(&together, &mut round)?;
            if round.refused.is_some() || round.silent.is_some() {
                break;
            }
        }
        Ok(round)
    }

    /// Cancels queued jobs for which nothing is left to do. Returns how many.
    fn take_back(&self, jobs: &[&KnownJob]) -> Result<u64, CommandError> {
        let ids: Vec<_> = jobs.iter().filter_map(|job| job.scheduler_id().cloned()).collect();
        if ids.is_empty() {
            return Ok(0);
        }
        if let Err(error) = self.scheduler.cancel(&ids) {
            // They will find out themselves when they start.
            self.ui.always(&format!("warning: {} jobs with nothing left to do stay queued: {error}", ids.len()));
            return Ok(0);
        }
        let mut node_hours = 0.0;
        for job in jobs {
            servelab_run::jobs::note(self.root, job.id(), servelab_run::jobs::JobEvent::CancelAsked)?;
            node_hours += f64::from(job.intent.nodes) * job.intent.walltime_s as f64 / 3600.0;
        }
        let list: Vec<&str> = ids.iter().map(servelab_run::scheduler::SchedulerId::as_str).collect();
        self.ui.always(&format!(
            "nothing is left to do for {} queued jobs ({}): cancelled, {node_hours:.2} node-hours are free again",
            ids.len(),
            list.join(", ")
        ));
        Ok(ids.len() as u64)
    }

    fn prepare(&self, known: &[KnownJob], planned: &Planned) -> Result<Vec<PreparedJob>, CommandError> {
        let command = |job: &JobId| self.snapshot.command(self.root, job, self.args);
        let preparation = Preparation {
            root: self.root,
            study: &self.input.study.study,
            site: &self.input.site,
            known,
            walltime_s: self.walltime_s,
            command: &command,
            glibc: self.snapshot.glibc,
            largest_array: self.input.site.arrays.then(|| self.scheduler.largest_array().unwrap_or(LARGEST_ARRAY)),
        };
        prepare(&preparation, &planned.now).map_err(|error| match error {
            JobPlanError::Store(error) => error.into(),
            JobPlanError::Script(error) => CommandError::usage(error.to_string()),
        })
    }

    /// One job, or the jobs of an array.
    fn hand_over(&self, jobs: &[&PreparedJob], round: &mut Round) -> Result<(), CommandError> {
        let Some(first) = jobs.first() else { return Ok(()) };
        let place = first.intent.array.as_ref();
        let outcome = match place {
            None => servelab_run::jobs::submit(self.root, &first.intent.job, &first.script, &*self.scheduler)?,
            Some(place) => {
                let ids: Vec<&JobId> = jobs.iter().map(|job| &job.intent.job).collect();
                submit_array(self.root, &ids, &first.script.with_file_name(&place.script), &*self.scheduler)?
            }
        };
        for (index, job) in (0..).zip(jobs) {
            let (state, id, reason) = match &outcome {
                SubmitOutcome::Submitted(id) => {
                    let id = if place.is_some() { id.task(index) } else { id.clone() };
                    (JobState::Submitted, Some(id.to_string()), None)
                }
                SubmitOutcome::Unanswered(text) => {
                    round.silent = Some(text.clone());
                    (JobState::Submitting, None, Some(text.clone()))
                }
                SubmitOutcome::Busy(holder) => {
                    (JobState::Submitting, None, Some(format!("left to somebody else: {holder}")))
                }
                SubmitOutcome::Refused(text) | SubmitOutcome::NotHere(text) => {
                    round.refused = Some(text.clone());
                    (JobState::Refused, None, Some(text.clone()))
                }
            };
            let row = row(job, state, id, reason);
            if self.args.wait {
                self.ui.say(&format!("{} {} {}", row.scheduler_id.as_deref().unwrap_or("-"), row.label, row.state));
            }
            round.rows.push(row);
        }
        Ok(())
    }

    fn show(&self, round: &Round) -> Result<ExitCode, CommandError> {
        if self.args.json {
            let document = Document {
                schema: 1,
                study: self.input.study.study.clone(),
                site: self.input.site.site.clone(),
                dry_run: self.args.dry_run,
                jobs: round.rows.iter().map(JobRow::copy).collect(),
                waiting_jobs: round.planned.later.len(),
                waits_for: round.planned.waits_for.clone(),
                cells_finished: round.planned.finished,
                cells_in_work: round.planned.in_work,
                left_out: left_out(&round.planned),
            };
            let text =
                serde_json::to_string_pretty(&document).map_err(|error| CommandError::failed(error.to_string()))?;
            self.ui.data(&text);
        } else {
            self.ui.data(&self.text(round));
        }
        match (&round.refused, &round.silent) {
            (Some(text), _) => Err(self.refusal(text)),
            (None, Some(text)) => Err(CommandError::failed(text.clone()).hint(
                "the scheduler may have the job all the same; the same command looks for it first, then goes on",
            )),
            (None, None) => Ok(ExitCode::SUCCESS),
        }
    }

    fn refusal(&self, text: &str) -> CommandError {
        let folder = self.root.path().join("studies").join(&self.input.study.study).join("scripts");
        CommandError::failed(text).hint(format!(
            "nothing more was submitted; check account, partition or queue and limits in the site file; the scripts are in {}",
            folder.display()
        ))
    }

    fn text(&self, round: &Round) -> String {
        let mut out = String::new();
        let n = round.rows.len();
        let cells: usize = round.rows.iter().map(|row| row.cells).sum();
        let study = &self.input.study.study;
        let verb = if self.args.dry_run { "written, not submitted" } else { "submitted" };
        match n {
            0 => out.push_str(&format!("Study {study}: no job to submit.\n")),
            _ => out.push_str(&format!("Study {study}: {n} jobs with {cells} cells {verb}.\n")),
        }
        for row in &round.rows {
            let id = row.scheduler_id.as_deref().unwrap_or("-");
            let reason = row.reason.as_ref().map(|reason| format!("  {reason}")).unwrap_or_default();
            out.push_str(&format!(
                "  {id:<12} {:<10} {} (repeat {}, {} cells, {} nodes){reason}\n",
                row.state, row.label, row.repeat, row.cells, row.nodes
            ));
        }
        if let Some(waits_for) = &round.planned.waits_for {
            out.push_str(&format!("{} more jobs wait: {waits_for}.\n", round.planned.later.len()));
        }
        if round.planned.in_work > 0 {
            out.push_str(&format!("{} cells are in the hands of jobs already.\n", round.planned.in_work));
        }
        if round.planned.finished > 0 {
            out.push_str(&format!("{} cells are finished.\n", round.planned.finished));
        }
        for left in left_out(&round.planned) {
            out.push_str(&format!("left out, {} cells: {}\n", left.cells, left.reason));
        }
        if n > 0 {
            let folder = self.root.path().join("studies").join(study).join("scripts");
            out.push_str(&format!("scripts: {}\n", folder.display()));
        }
        let file = self.args.study.study.to_string_lossy();
        let how = stored::how_to_run(self.input, &file, self.args.study.root_to_type());
        let extra: Vec<&str> = self.args.study.site.iter().flat_map(|site| ["--site", site.as_str()]).collect();
        let next = if self.args.dry_run { "submit" } else { "status" };
        out.push_str(&format!("next: {}\n", how.command(next, &extra)));
        out
    }

    /// Goes on until nothing is in flight and nothing more can be submitted.
    fn wait(&self, first: Round) -> Result<ExitCode, CommandError> {
        let control = Arc::new(RunControl::new());
        let _signals = SignalGuard::install(Arc::clone(&control))
            .map_err(|error| CommandError::failed(format!("cannot watch for signals: {error}")))?;
        let mut round = first;
        let mut pause = FIRST_PAUSE;
        let mut said = String::new();
        loop {
            if let Some(text) = &round.refused {
                return Err(self.refusal(text));
            }
            let known = survey(self.root, &self.input.study.study, now())?;
            let views: Vec<_> = known.iter().map(|job| (job, judge(job))).collect();
            let active: Vec<_> = views.iter().filter(|(_, view)| view.state.is_active()).collect();
            let line = progress_line(&views.iter().map(|(_, view)| view.state).collect::<Vec<_>>());
            if line != said {
                self.ui.say(&line);
                said = line;
            }
            if active.is_empty() && round.planned.now.is_empty() {
                break;
            }
            if !active.is_empty() && active.iter().all(|(_, view)| view.never_runs) {
                let (job, view) = &active[0];
                let id = job.scheduler_id().map(ToString::to_string).unwrap_or_default();
                return Err(CommandError::failed(format!(
                    "the jobs that are left can never run: {id}: {}",
                    view.reason.as_deref().unwrap_or("no reason given")
                ))
                .hint("`servelab cancel` takes them back; then change the site file or the study"));
            }
            // The scheduler is asked seldom; a job's own record is a look at a file.
            let ends: Vec<PathBuf> = active
                .iter()
                .filter(|(job, _)| job.exit.is_none())
                .filter_map(|(job, _)| Some(self.root.job_dir(job.id()).ok()?.join("exit.json")))
                .collect();
            if !pause_until(pause, &control, &|| ends.iter().any(|end| end.exists())) {
                self.ui.always(
                    "stopped waiting; the jobs go on. `servelab status` shows them, the same command waits again",
                );
                return Ok(ExitCode::from(1));
            }
            round = self.round()?;
            pause =
                if round.news > 0 || !round.rows.is_empty() { FIRST_PAUSE } else { (pause * 3 / 2).min(LONGEST_PAUSE) };
        }
        let planned = &round.planned;
        let failed = planned.skipped.iter().any(|cell| cell.code.is_some()) || !planned.left_out.is_empty();
        if let Some((folder, answer)) = super::report::write_default(self.root, self.input, self.ui.width())? {
            self.ui.data(&answer);
            self.ui.say(&format!("report: {}", folder.join("report.html").display()));
        }
        if let Some(waits_for) = &planned.waits_for {
            self.ui.always(&format!("{} jobs were not submitted: {waits_for}", planned.later.len()));
            return Ok(ExitCode::from(1));
        }
        Ok(if failed { ExitCode::from(1) } else { ExitCode::SUCCESS })
    }
}

/// Jobs that are handed over in one: arrays, in the order of their tasks, and every other job by itself.
fn together(jobs: &[PreparedJob]) -> Vec<Vec<&PreparedJob>> {
    let mut all: Vec<Vec<&PreparedJob>> = Vec::new();
    for job in jobs {
        let array = |job: &PreparedJob| job.intent.array.as_ref().map(|place| place.array.clone());
        let is_of = |known: &&mut Vec<&PreparedJob>| known.first().and_then(|first| array(first)) == array(job);
        match all.iter_mut().find(is_of).filter(|_| job.intent.array.is_some()) {
            Some(known) => known.push(job),
            None => all.push(vec![job]),
        }
    }
    all
}

fn left_out(planned: &Planned) -> Vec<LeftOutRow> {
    let mut rows: Vec<LeftOutRow> = planned
        .left_out
        .iter()
        .map(|LeftOut { n_cells, reason }| LeftOutRow { cells: *n_cells, reason: reason.clone() })
        .collect();
    for cell in &planned.skipped {
        match rows.iter_mut().find(|row| row.reason == cell.reason) {
            Some(row) => row.cells += 1,
            None => rows.push(LeftOutRow { cells: 1, reason: cell.reason.clone() }),
        }
    }
    rows
}

fn row(job: &PreparedJob, state: JobState, id: Option<String>, reason: Option<String>) -> JobRow {
    let intent = &job.intent;
    JobRow {
        uuid: intent.job.to_string(),
        scheduler_id: id,
        state: state.name(),
        reason,
        label: intent.labels.first().cloned().unwrap_or_else(|| intent.point.short().to_owned()),
        repeat: intent.block + 1,
        cells: intent.cells.len(),
        nodes: intent.nodes,
        script: job.script.display().to_string(),
    }
}

impl JobRow {
    fn copy(&self) -> Self {
        let Self { uuid, scheduler_id, state, reason, label, repeat, cells, nodes, script } = self;
        Self {
            uuid: uuid.clone(),
            scheduler_id: scheduler_id.clone(),
            state,
            reason: reason.clone(),
            label: label.clone(),
            repeat: *repeat,
            cells: *cells,
            nodes: *nodes,
            script: script.clone(),
        }
    }
}

fn progress_line(states: &[JobState]) -> String {
    let mut counts: std::collections::BTreeMap<JobState, usize> = std::collections::BTreeMap::new();
    for state in states {
        *counts.entry(*state).or_insert(0) += 1;
    }
    let counts: Vec<String> = counts.iter().map(|(state, n)| format!("{n} {}", state.name())).collect();
    if counts.is_empty() { "no jobs".to_owned() } else { format!("jobs: {}", counts.join(", ")) }
}

/// Waits, at most until something happens. False when the wait was broken off.
fn pause_until(pause: Duration, control: &RunControl, happened: &dyn Fn() -> bool) -> bool {
    /// Between two looks at a file system that may be far away.
    const LOOK: Duration = Duration::from_secs(2);
    let deadline = Instant::now() + pause;
    let mut look = Instant::now() + LOOK;
    while Instant::now() < deadline {
        if control.is_stopping() {
            return false;
        }
        if Instant::now() >= look {
            if happened() {
                break;
            }
            look = Instant::now() + LOOK;
        }
        std::thread::sleep(Duration::from_millis(100).min(deadline.saturating_duration_since(Instant::now())));
    }
    !control.is_stopping()
}

pub(crate) fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// The site's scheduler.
pub(crate) fn scheduler(input: &StudyInput) -> Result<Box<dyn Scheduler>, CommandError> {
    match input.site.scheduler {
        SchedulerKind::Slurm => Ok(Box::new(Slurm::default())),
        SchedulerKind::Pbs => {
            let secrets = input.site.secrets.iter().cloned().collect();
            Ok(Box::new(Pbs { secrets, ..Pbs::default() }))
        }
        SchedulerKind::Local => Err(CommandError::usage(format!("the site `{}` has no scheduler", input.site.site))
            .hint("measure on this machine with `servelab run`, or name another site: `--site FILE`")),
    }
}

fn walltime_s(input: &StudyInput) -> Result<u64, CommandError> {
    let text = input.study.budget.walltime.as_ref().or(input.site.walltime.as_ref()).ok_or_else(|| {
        CommandError::usage(format!("neither the study nor the site `{}` names a time limit for jobs", input.site.site))
            .hint("write `walltime: \"04:00:00\"` into the site, or `budget: {walltime: …}` into the study")
    })?;
    servelab_core::units::parse_walltime_s(text).filter(|seconds| *seconds > 0).ok_or_else(|| {
        CommandError::usage(format!("`{text}` is no time limit")).hint("write `HH:MM:SS` or `D-HH:MM:SS`")
    })
}

/// The engine as a job will find it. Whether it is installed is known on the nodes only.
fn engine_there(input: &StudyInput) -> Result<Engine, CommandError> {
    use servelab_core::study::EngineKind;
    let engine = &input.study.engine;
    Ok(match engine.kind {
        EngineKind::Sim => Engine::Sim { program: PathBuf::from("servelab") },
        EngineKind::Vllm | EngineKind::Sglang | EngineKind::LlamaCpp => {
            Engine::Process { program: engine.bin.as_ref().map(PathBuf::from) }
        }
        EngineKind::External => {
            return Err(CommandError::usage("an external engine runs already: a job has nothing to start")
                .hint("measure it with `servelab run`"));
        }
    })
}

fn absolute(path: &Path) -> Result<PathBuf, CommandError> {
    std::path::absolute(path)
        .map_err(|error| CommandError::failed(format!("cannot find `{}`: {error}", path.display())))
}
