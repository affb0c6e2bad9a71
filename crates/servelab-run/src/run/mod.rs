//! The run loop: decides what is left to do, claims it, starts one server per point and repeat block, measures its cells,
//! and ends in order whatever happens. Everything that is finished is on disk before anything else begins, so a run that
//! is killed anywhere is resumed by the same command.

mod ladder;
mod profiling;
mod side;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::time::{Duration, Instant};

use serde_json::json;
use servelab_core::ids::{CellId, JobId};
use servelab_core::plan::{Load, Plan, PlannedCell, PlannedPoint, RolePlan};
use servelab_core::state::CellState;
use servelab_core::study::{Order, StopRule};
use servelab_store::{AttemptDir, Claim, ClaimInfo, ClaimRequest, FailureReport, JobLife, Liveness, Root};

use crate::cell::{Bench, Measured, Subject};
use crate::control::RunControl;
use crate::diagnosis::ServerFailure;
use crate::environment::Machine;
use crate::envlock::{Surroundings, SurroundingsRequest};
use crate::error::RunError;
use crate::estimate::Estimate;
use crate::job::{Job, job_life, new_job_id, unix_ns};
use crate::launch::{Engine, NotHere, find_program, program, role_to_start, served_model};
use crate::network::{NetworkOptions, NetworkReport, between};
use crate::nodes::Allocation;
use crate::observe::{FailedCell, Observer, RunEvent, RunSummary, ServerPhase, SkippedCell};
use crate::options::RunOptions;
use crate::process::orphan;
use crate::recorder::Recorder;
use crate::resume::{Decision, decide};
use crate::schedule::{ServerStart, starts};
use crate::server::{Launcher, PointServer, StartOutcome, headline};
use crate::source::{PreparedCell, RequestSource};

/// How long an orphaned server may take to end in order.
const ORPHAN_GRACE: Duration = Duration::from_secs(2);

/// What to run, and where.
#[derive(Debug, Clone, Copy)]
pub struct RunInput<'a> {
    /// Where results go.
    pub root: &'a Root,
    /// The study's plan.
    pub plan: &'a Plan,
    /// Cells that this run may try, in any order.
    pub cells: &'a [CellId],
    /// What serves them.
    pub engine: &'a Engine,
    /// Name of the site, for records.
    pub site: &'a str,
    /// Id of this run; made when absent.
    pub job: Option<&'a JobId>,
    /// How to go about it.
    pub options: &'a RunOptions,
}

/// Runs what is left to do.
pub fn run(
    input: &RunInput<'_>,
    source: &mut dyn RequestSource,
    observer: &dyn Observer,
    control: &RunControl,
) -> Result<RunSummary, RunError> {
    let started = Instant::now();
    let job_id = match input.job {
        Some(job) => job.clone(),
        None => new_job_id().map_err(|source| RunError::System { action: "make a job id", source })?,
    };
    let study_dir = input.root.study_dir(&input.plan.study)?;
    make_folder(&study_dir)?;
    let recorder = Recorder { events: input.root.events_path(&input.plan.study)?, observer };
    let todo = Todo::find(input)?;
    let starts = starts(input.plan, &todo.cells, input.options.ordering);
    reap_orphans(input.root, &recorder);
    let allocation = Allocation::detect();
    preflight(input, &starts, allocation.nodes.len())?;

    let summary = RunSummary { finished_before: todo.finished, skipped: todo.skipped.clone(), ..RunSummary::default() };
    observer.event(&RunEvent::Started {
        job: job_id.clone(),
        to_run: todo.cells.len() as u64,
        finished_before: todo.finished,
        skipped: todo.skipped.clone(),
    });
    let is_submitted = input.root.job_dir(&job_id)?.join("intent.json").exists();
    let has_side_work = !side::without_answers(input).is_empty() || !profiling::without_profile(input).is_empty();
    let is_idle = starts.is_empty() && !has_side_work;
    if is_idle && is_submitted {
        // Whoever tracks the job must learn that it is over.
        Job::start(input.root, &job_id, &json!(null))?.finish("finished", json!({"cells": {}}))?;
    }
    if is_idle {
        // Nothing to do leaves no other trace on disk.
        observer.event(&RunEvent::Finished(summary.clone()));
        return Ok(summary);
    }
    let job = Job::start(input.root, &job_id, &intent(input, &job_id, &starts))?;
    recorder.job(&job_id, "started", None)?;
    let mut run = Run {
        input,
        control,
        recorder: &recorder,
        job: &job,
        job_id: &job_id,
        launcher: Launcher {
            root: input.root,
            job_dir: input.root.job_dir(&job_id)?,
            engine: input.engine,
            options: &input.options.launch,
            recorder: &recorder,
            control,
            machine: Machine::detect(),
            surroundings: Surroundings::detect(&SurroundingsRequest {
                engine: starts.iter().find_map(|start| engine_program(input, start, allocation.nodes.len())),
                nodes: &allocation.nodes,
                study_folder: input.options.study_folder.as_deref(),
                container_image: input.options.container_image.as_deref(),
            }),
            allocation,
            starts: Cell::new(0),
            point_folder: None,
        },
        reruns: todo.reruns,
        estimate: Estimate::new(todo.cells.iter().copied(), starts.len() as u64),
        total: todo.cells.len() as u64,
        ended: 0,
        summary,
        network: None,
        held: Vec::new(),
    };
    run.progress();
    let mut outcome = Ok(());
    for start in &starts {
        if control.is_stopping() {
            break;
        }
        outcome = run.start(start, source);
        if let Err(error) = &outcome {
            run.give_up(error);
            break;
        }
    }
    if outcome.is_ok() && !control.is_stopping() {
        outcome = run.side_work(source);
    }
    let was_cut = [CellState::Cancelled, CellState::Timeout].iter().any(|state| run.summary.states.contains_key(state));
    let is_complete = run.ended == run.total && !was_cut;
    let mut summary = run.summary;
    summary.interrupted = control.is_stopping() && !is_complete;
    summary.elapsed_s = started.elapsed().as_secs_f64();
    let state = match &outcome {
        Err(_) => "failed",
        Ok(()) if summary.interrupted => "interrupted",
        Ok(()) => "finished",
    };
    let states: HashMap<&str, u64> = summary.states.iter().map(|(state, n)| (state.name(), *n)).collect();
    let cause = (summary.interrupted && control.is_out_of_time()).then_some("walltime");
    let error = outcome.as_ref().err().map(ToString::to_string);
    let detail = json!({"cells": states, "error": error, "cause": cause, "saved_s": summary.saved_s});
    let noted = job.finish(state, &detail).and_then(|()| recorder.job(&job_id, state, Some(detail)));
    outcome?;
    noted?;
    observer.event(&RunEvent::Finished(summary.clone()));
    Ok(summary)
}

/// `intent.json`: what this run means to do, in which order.
fn intent(input: &RunInput<'_>, job_id: &JobId, starts: &[ServerStart<'_>]) -> serde_json::Value {
    let ordering = input.options.ordering;
    json!({
        "schema": 1, "job": job_id, "study": input.plan.study, "host": crate::process::host(),
        "pid": std::process::id(), "t_unix_ns": unix_ns(), "site": input.site,
        "order": match ordering.order {
            Order::RandomBlocks => "random-blocks",
            Order::AsWritten => "as-written",
        },
        "order_seed": ordering.seed,
        "same_server": ordering.same_server,
        "starts": starts.iter().map(|start| json!({
            "point": start.point.id, "block": start.block,
            "cells": start.cells.iter().map(|cell| &cell.id).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
    })
}

/// Cells by what has to happen to them.
struct Todo<'a> {
    cells: Vec<&'a PlannedCell>,
    reruns: HashMap<CellId, u32>,
    finished: u64,
    skipped: Vec<SkippedCell>,
}

impl<'a> Todo<'a> {
    fn find(input: &RunInput<'a>) -> Result<Self, RunError> {
        let planned: HashMap<&CellId, &'a PlannedCell> = input.plan.cells.iter().map(|cell| (&cell.id, cell)).collect();
        let mut todo = Self { cells: Vec::new(), reruns: HashMap::new(), finished: 0, skipped: Vec::new() };
        let mut seen = HashSet::new();
        for id in input.cells.iter().filter(|id| seen.insert(*id)) {
            let Some(cell) = planned.get(id).copied() else {
                return Err(RunError::UnknownCell { cell: id.clone() });
            };
            match decide(input.root, cell, &input.options.retry)? {
                Decision::Finished => todo.finished += 1,
                Decision::Skip(skipped) => todo.skipped.push(skipped),
                Decision::Run { rerun_after } => {
                    todo.reruns.extend(rerun_after.map(|attempt| (id.clone(), attempt)));
                    todo.cells.push(cell);
                }
            }
        }
        if let Some(most) = input.options.max_cells {
            // The first ones in the order in which they would run.
            let starts = starts(input.plan, &todo.cells, input.options.ordering);
            todo.cells = starts.iter().flat_map(|start| start.cells.iter().copied()).take(most).collect();
        }
        Ok(todo)
    }
}

/// One error before anything is claimed beats the same failure in every cell.
fn preflight(input: &RunInput<'_>, starts: &[ServerStart<'_>], n_nodes: usize) -> Result<(), RunError> {
    let roles = starts.iter().filter_map(|start| role_to_start(input.engine, start.point, n_nodes).ok().flatten());
    let Some(program) = roles.into_iter().find_map(|role| program(input.engine, role)) else { return Ok(()) };
    match find_program(program, search_path(input).as_deref()) {
        Some(_) => Ok(()),
        None => Err(RunError::EngineNotFound { program: program.to_owned() }),
    }
}

/// The program that serves a start, as the shell finds it.
fn engine_program(input: &RunInput<'_>, start: &ServerStart<'_>, n_nodes: usize) -> Option<std::path::PathBuf> {
    let role = role_to_start(input.engine, start.point, n_nodes).ok().flatten()?;
    find_program(program(input.engine, role)?, search_path(input).as_deref())
}

/// Where programs are looked for: the site's PATH, else ours.
fn search_path(input: &RunInput<'_>) -> Option<std::ffi::OsString> {
    let site_path = input.options.launch.env.iter().find(|(name, _)| name == "PATH").map(|(_, path)| path.into());
    site_path.or_else(|| std::env::var_os("PATH"))
}

fn reap_orphans(root: &Root, recorder: &Recorder<'_>) {
    let Ok(jobs) = fs::read_dir(root.path().join("jobs")) else { return };
    for job in jobs.filter_map(Result::ok) {
        for reaped in orphan::reap(&job.path().join("servers"), ORPHAN_GRACE) {
            let n = reaped.ended.len();
            recorder.notice(format!("ended {n} processes that a killed run had left behind ({})", reaped.token));
        }
    }
}

fn make_folder(path: &std::path::Path) -> Result<(), RunError> {
    fs::create_dir_all(path).map_err(|source| RunError::System { action: "make the study's folder", source })
}

/// A claimed cell.
struct Held<'a> {
    cell: &'a PlannedCell,
    attempt: AttemptDir,
}

struct Run<'a> {
    input: &'a RunInput<'a>,
    control: &'a RunControl,
    recorder: &'a Recorder<'a>,
    job: &'a Job,
    job_id: &'a JobId,
    launcher: Launcher<'a>,
    reruns: HashMap<CellId, u32>,
    estimate: Estimate,
    total: u64,
    ended: u64,
    summary: RunSummary,
    /// What the network between the first two nodes does, once it was tested.
    network: Option<Result<NetworkReport, String>>,
    /// Claimed and not over yet.
    held: Vec<AttemptDir>,
}

impl<'a> Run<'a> {
    /// One server start with all its cells.
    fn start(&mut self, start: &ServerStart<'_>, source: &mut dyn RequestSource) -> Result<(), RunError> {
        let started = Instant::now();
        let role = match role_to_start(self.input.engine, start.point, self.launcher.allocation.nodes.len()) {
            Ok(role) => role,
            Err(NotHere(reason)) => return self.skip_all(start, &reason),
        };
        let mut queue = self.claim(start)?;
        if queue.is_empty() {
            self.estimate.start_ended(None);
            return Ok(());
        }
        if let Some(failure) = self.network_failure(start.point) {
            self.estimate.start_ended(None);
            return self.fail_all(queue, &failure);
        }
        self.recorder.observer.event(&RunEvent::Start {
            point: start.point.id.clone(),
            labels: start.point.labels.clone(),
            cells: queue.iter().map(|held| held.cell.id.clone()).collect(),
        });
        for held in &queue {
            self.recorder.cell(&held.attempt, CellState::ServerStarting, None, None)?;
        }
        self.recorder.server_progress(&start.point.id, ServerPhase::Preparing, 0.0, None);
        let cells: Vec<&PlannedCell> = queue.iter().map(|held| held.cell).collect();
        let prepared = match source.prepare(start.point, &cells, &served_model(start.point, role)) {
            Ok(prepared) if prepared.len() == cells.len() => prepared,
            Ok(prepared) => {
                let detail = format!("{} sets of requests came for {} cells", prepared.len(), cells.len());
                self.estimate.start_ended(None);
                return self.fail_all(queue, &ServerFailure::new("prepare_failed", detail, None));
            }
            Err(error) => {
                self.estimate.start_ended(None);
                return self.fail_all(queue, &ServerFailure::new(&error.code, error.detail, None));
            }
        };
        let mut prepared: HashMap<CellId, PreparedCell> =
            cells.iter().map(|cell| cell.id.clone()).zip(prepared).collect();

        let mut server: Option<Box<PointServer>> = None;
        let mut was_up = false;
        let mut order = 0;
        while !queue.is_empty() {
            if self.control.is_stopping() {
                break;
            }
            let running = match server.take() {
                Some(running) => running,
                None => match self.launch(start, role, &queue, &mut was_up)? {
                    StartOutcome::Up(running) => running,
                    StartOutcome::Cancelled => break,
                    StartOutcome::Failed(failure) => {
                        let detail = headline(&failure.report);
                        let elapsed_s = started.elapsed().as_secs_f64();
                        self.recorder.server(&start.point.id, ServerPhase::Failed, elapsed_s, Some(detail))?;
                        if !was_up {
                            self.estimate.start_ended(None);
                        }
                        return self.fail_all(queue, &failure);
                    }
                },
            };
            let held = queue.remove(0);
            let Some(requests) = prepared.remove(&held.cell.id) else { continue };
            let mut measured = self.one_cell(start, &held, requests, order, running)?;
            order += 1;
            server = measured.server.take();
            self.skip_higher(&held, &measured, &mut queue)?;
        }
        if let Some(running) = server {
            self.ask_for_answers(start.point, &running)?;
            self.launcher.stop(start.point, running)?;
        }
        for held in queue {
            let why = "the run was asked to end before this cell";
            self.end(&held, CellState::Cancelled, Some("interrupted"), Some(why), None)?;
        }
        Ok(())
    }

    /// What the study's `network` section holds against starting a point here. The network is tested once in a run.
    fn network_failure(&mut self, point: &PlannedPoint) -> Option<ServerFailure> {
        let gate = &self.input.options.gate;
        let launch = &self.input.options.launch;
        let value_of = |name: &str| {
            let roles = point.roles.iter().find_map(|role| role.env.get(name).cloned());
            let site = || launch.env.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
            roles.or_else(site).or_else(|| std::env::var(name).ok())
        };
        let mut why = gate.forbidden(&value_of);
        let spans = point.nodes > 1 && self.launcher.allocation.nodes.len() > 1;
        if why.is_none() && spans && gate.measures() {
            let allocation = &self.launcher.allocation;
            let tested = self.network.get_or_insert_with(|| {
                let program = launch.program.as_deref().ok_or("this program's own file is not known")?;
                let options = NetworkOptions::default();
                between(allocation, program, launch.fabric_interface.as_deref(), &options)
                    .map_err(|error| format!("failed to {error}"))
            });
            why = match tested {
                Ok(report) => {
                    // For people; the gate's answer does not depend on it.
                    let _ = servelab_store::write_json(&self.launcher.job_dir.join("network.json"), report);
                    gate.failing(report)
                }
                Err(error) => Some(error.clone()),
            };
        }
        let advice = "servelab network-test shows what the network does; change it, or the study's `network` section";
        why.map(|why| ServerFailure::new("network_gate", why, Some(advice)))
    }

    fn launch(
        &mut self,
        start: &ServerStart<'_>,
        role: Option<&RolePlan>,
        queue: &[Held<'_>],
        was_up: &mut bool,
    ) -> Result<StartOutcome, RunError> {
        let began = Instant::now();
        let attempts: Vec<AttemptDir> = queue.iter().map(|held| held.attempt.clone()).collect();
        let outcome = self.launcher.start(start.point, role, &attempts)?;
        if matches!(outcome, StartOutcome::Up(_)) {
            // Restarts of a server that died are not planned for, so they do not count down.
            if !std::mem::replace(was_up, true) {
                self.estimate.start_ended(Some(began.elapsed().as_secs_f64()));
            }
            for held in queue {
                self.recorder.cell(&held.attempt, CellState::Ready, None, None)?;
            }
        }
        Ok(outcome)
    }

    /// Measures a cell and decides, with a look at the server, what became of both.
    fn one_cell(
        &mut self,
        start: &ServerStart<'_>,
        held: &Held<'_>,
        requests: PreparedCell,
        order: u32,
        mut server: Box<PointServer>,
    ) -> Result<AfterCell, RunError> {
        let job = self.job_id.to_string();
        let bench = Bench {
            options: self.input.options,
            recorder: self.recorder,
            control: self.control,
            machine: &self.launcher.machine,
            site: self.input.site,
            job: &job,
            is_simulated: self.input.engine.is_simulated(),
        };
        let subject =
            Subject { point: start.point, cell: held.cell, attempt: &held.attempt, prepared: requests, order };
        let measured = bench.measure(subject, &mut server)?;
        let Measured { state, code, detail, elapsed_s, is_saturated, stopped_by } = measured;
        if stopped_by.is_some() {
            let expected_s = self.estimate.expected_s(&held.cell.id).unwrap_or(0.0);
            self.summary.saved_s += (expected_s - elapsed_s).max(0.0);
        }
        // When the run is being ended the server's health no longer matters.
        let failure = if state == CellState::Cancelled { None } else { server.check() };
        if let Some(failure) = failure {
            let text = headline(&failure.report);
            self.recorder.server(&start.point.id, ServerPhase::Failed, elapsed_s, Some(text))?;
            // A server that dies under load is an error, whatever its last words: it did start with this configuration.
            self.fail(held, CellState::Failed, &failure.report)?;
            self.launcher.stop(start.point, server)?;
            return Ok(AfterCell { server: None, is_saturated: false, stopped_by: None });
        }
        match state {
            CellState::Failed => {
                let report = FailureReport {
                    code: code.unwrap_or_else(|| "load_failed".to_owned()),
                    detail: detail.unwrap_or_default(),
                    line: None,
                    source: None,
                    advice: None,
                };
                self.fail(held, CellState::Failed, &report)?;
            }
            state => self.end(held, state, code.as_deref(), detail.as_deref(), Some(elapsed_s))?,
        }
        Ok(AfterCell { server: Some(server), is_saturated, stopped_by })
    }

    fn claim<'c>(&mut self, start: &ServerStart<'c>) -> Result<Vec<Held<'c>>, RunError> {
        let root = self.input.root;
        let info = ClaimInfo::of_this_process(Some(self.job_id.clone()), unix_ns());
        // A submitted job was taken (`take_job`) before its run began.
        let life = |job: &JobId| match self.input.job {
            Some(ours) if ours == job => JobLife::TakenOver,
            _ => job_life(root, job),
        };
        let liveness = Liveness { now_unix_ns: unix_ns(), grace_s: Liveness::DEFAULT_GRACE_S, job_life: &life };
        let mut queue = Vec::new();
        for cell in &start.cells {
            let rerun_after = self.reruns.get(&cell.id).copied();
            let request = ClaimRequest { cell: &cell.id, info: &info, liveness: &liveness, rerun_after };
            match root.claim_cell(&request)? {
                Claim::Acquired(attempt) => {
                    self.job.hold(&attempt);
                    self.held.push(attempt.clone());
                    queue.push(Held { cell, attempt });
                }
                Claim::HeldBy { attempt, info } => {
                    let holder = info.map_or_else(|| "somebody".to_owned(), |info| info.describe());
                    let reason = format!("attempt {attempt} is held by {holder}");
                    self.recorder.notice(format!("  left out {}: {reason}", cell.id.short()));
                    self.leave_out(cell, None, reason);
                }
                Claim::Finished { state, .. } => {
                    let reason = "finished by another run meanwhile".to_owned();
                    self.recorder.notice(format!("  left out {}: {reason}", cell.id.short()));
                    self.leave_out(cell, Some(state.state), reason);
                }
            }
        }
        Ok(queue)
    }

    fn leave_out(&mut self, cell: &PlannedCell, state: Option<CellState>, reason: String) {
        self.estimate.cell_ended(&cell.id, None);
        self.ended += 1;
        self.summary.skipped.push(SkippedCell { cell: cell.id.clone(), state, code: None, reason });
        self.progress();
    }

    fn skip_all(&mut self, start: &ServerStart<'_>, reason: &str) -> Result<(), RunError> {
        self.estimate.start_ended(None);
        let labels = start.point.labels.join(" = ");
        self.recorder.notice(format!("  left out {} cells of {labels}: {reason}", start.cells.len()));
        self.summary.not_startable += start.cells.len() as u64;
        for cell in &start.cells {
            self.leave_out(cell, None, reason.to_owned());
        }
        Ok(())
    }

    fn fail_all(&mut self, queue: Vec<Held<'_>>, failure: &ServerFailure) -> Result<(), RunError> {
        for held in &queue {
            self.fail(held, failure.state, &failure.report)?;
        }
        Ok(())
    }

    fn fail(&mut self, held: &Held<'_>, state: CellState, report: &FailureReport) -> Result<(), RunError> {
        held.attempt.write_failure(report)?;
        if state == CellState::Failed {
            self.summary.failures.push(FailedCell {
                cell: held.cell.id.clone(),
                code: report.code.clone(),
                detail: report.detail.clone(),
                line: report.line.clone(),
                advice: report.advice.clone(),
            });
        }
        self.end(held, state, Some(&report.code), Some(&report.detail), None)
    }

    /// The last word on a cell.
    fn end(
        &mut self,
        held: &Held<'_>,
        state: CellState,
        code: Option<&str>,
        detail: Option<&str>,
        measured_s: Option<f64>,
    ) -> Result<(), RunError> {
        let is_out_of_time = state == CellState::Cancelled && self.control.is_out_of_time();
        let (state, code) = if is_out_of_time { (CellState::Timeout, Some("walltime")) } else { (state, code) };
        self.recorder.cell(&held.attempt, state, code, detail)?;
        self.job.release(&held.cell.id);
        self.held.retain(|attempt| attempt.cell() != &held.cell.id);
        *self.summary.states.entry(state).or_default() += 1;
        self.estimate.cell_ended(&held.cell.id, measured_s);
        self.ended += 1;
        self.progress();
        Ok(())
    }

    fn progress(&self) {
        let remaining_s = self.estimate.remaining_s();
        self.recorder.observer.event(&RunEvent::Progress { done: self.ended, total: self.total, remaining_s });
    }

    /// An error that ends the run: says so in every claimed attempt, as far as that can still be written. What cannot be
    /// written is taken up again anyway, because its owner will be gone.
    fn give_up(&mut self, error: &RunError) {
        let text = error.to_string();
        for attempt in std::mem::take(&mut self.held) {
            let _ = self.recorder.cell(&attempt, CellState::Failed, Some(error.code()), Some(&text));
            *self.summary.states.entry(CellState::Failed).or_default() += 1;
        }
    }
}

/// What is left after a cell.
struct AfterCell {
    server: Option<Box<PointServer>>,
    is_saturated: bool,
    /// The rule that ended it early.
    stopped_by: Option<String>,
}
