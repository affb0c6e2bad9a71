//! Profiling runs: a server of its own with a profiler, after the measured cells. The load is the point's first one, as
//! whole batches; prompts come from the same source as those of cells.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use servelab_core::flags::{Dialect, FlagTable, FlagVerdict};
use servelab_core::ids::CellId;
use servelab_core::metrics::{Outcome, outcome};
use servelab_core::plan::{Load, PlanStatus, PlannedCell, PlannedPoint, StopAt};
use servelab_core::version::VersionSpec;
use servelab_load::clock::new_epoch;
use servelab_load::http::{get_text, post_json};
use servelab_load::{FinishedRequest, LoadControl, LoadSpec, RecordSink, Target, TlsTrust, run_load};
use servelab_store::write_json;

use super::side::measured_points;
use super::{Run, RunInput, search_path};
use crate::error::RunError;
use crate::launch::{Engine, find_program, role_to_start, served_model};
use crate::observe::ServerPhase;
use crate::options::LaunchOptions;
use crate::profile::{self, PROFILE_SCHEMA, ProfilePlan, ProfileRecord, RAW};
use crate::server::{Launcher, PointServer, StartOutcome, headline};
use crate::source::{PreparedCell, RequestSource};

/// Folder in a point's folder.
const FOLDER: &str = "profile";
const RECORD: &str = "profile.json";
/// Traces of many steps are written for minutes.
const STOP_LIMIT: Duration = Duration::from_secs(1800);
const START_LIMIT: Duration = Duration::from_secs(300);
const ASK_LIMIT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);
/// Requests at a time when the point's load is an open one.
const OPEN_BATCH: u32 = 8;

/// Points with measured cells and without a profile; none where the study asks for no profile, and none of a run that was
/// told how many cells to try.
pub(super) fn without_profile<'a>(input: &RunInput<'a>) -> Vec<&'a PlannedPoint> {
    let is_possible = !matches!(input.engine, Engine::External { .. });
    if input.options.profile.is_none() || input.options.max_cells.is_some() || !is_possible {
        return Vec::new();
    }
    let has_record = |point: &&PlannedPoint| {
        let folder = input.root.point_dir(&point.id).map(|folder| folder.join(FOLDER));
        folder.is_ok_and(|folder| folder.join(RECORD).is_file())
    };
    measured_points(input).into_iter().filter(|point| !has_record(point)).collect()
}

/// One iteration of the profiled load.
struct Iteration {
    cell: PlannedCell,
    requests: u32,
    /// Requests per unit in which the cell's stop rule counts.
    per_unit: u32,
}

impl Iteration {
    /// From the point's first cell that can run, an offline one before others.
    fn of(input: &RunInput<'_>, point: &PlannedPoint) -> Option<Self> {
        let cells =
            || input.plan.cells.iter().filter(|cell| cell.point == point.id && cell.status == PlanStatus::Planned);
        let offline = cells().find(|cell| matches!(cell.load, Load::Offline { .. }));
        let mut cell = offline.or_else(|| cells().next())?.clone();
        let (requests, per_unit) = match &cell.load {
            Load::Offline { batch_size, .. } => (*batch_size, *batch_size),
            Load::Closed { concurrency, .. } => (*concurrency, 1),
            Load::Open { .. } | Load::Ramp { .. } | Load::Replay { .. } => (OPEN_BATCH, 1),
        };
        if per_unit == 1 {
            cell.load = Load::closed(requests);
        }
        cell.settings.warmup_requests = 0;
        cell.settings.ignore_eos = true;
        Some(Self { cell, requests, per_unit })
    }

    /// Prompt and output tokens, where the load says them.
    fn lengths(&self) -> Option<(u32, u32)> {
        match &self.cell.load {
            Load::Offline { seq_len, max_tokens, .. } => Some((*seq_len, *max_tokens)),
            _ => None,
        }
    }

    /// So many iterations as a cell that no plan has: its prompts are its own.
    fn times(&self, name: &str, iterations: u32) -> PlannedCell {
        let mut cell = self.cell.clone();
        cell.id = CellId::new(format!("{}-{name}", self.cell.id));
        cell.workload.clone_from(&self.cell.workload);
        cell.settings.stop = StopAt::Requests(iterations.saturating_mul(self.requests) / self.per_unit.max(1));
        // Streams of prompts are named after the repeat: these must differ from every measured one.
        cell.repeat = if name == "warm" { u32::MAX - 1 } else { u32::MAX };
        cell
    }
}

/// Counts what came back.
#[derive(Debug, Default)]
struct Counts {
    completed: u64,
    output_tokens: u64,
}

impl RecordSink for Counts {
    fn finished(&mut self, request: &FinishedRequest) -> Result<(), String> {
        if outcome(&request.record) == Outcome::Completed {
            self.completed += 1;
            let tokens = request.record.output_tokens.and_then(|tokens| u64::try_from(tokens).ok());
            self.output_tokens += tokens.unwrap_or(0);
        }
        Ok(())
    }
}

impl Run<'_> {
    /// Profiles one point; what goes wrong costs the profile, never the run.
    pub(super) fn profile(&mut self, point: &PlannedPoint, source: &mut dyn RequestSource) -> Result<(), RunError> {
        let Some(plan) = self.input.options.profile.clone() else { return Ok(()) };
        let who = point.labels.join(" = ");
        let n_nodes = self.launcher.allocation.nodes.len();
        let Ok(Some(role)) = role_to_start(self.input.engine, point, n_nodes) else { return Ok(()) };
        let Some(iteration) = Iteration::of(self.input, point) else { return Ok(()) };
        let warm = iteration.times("warm", plan.warmup_iterations.max(1));
        let profiled = iteration.times("profiled", plan.profile_iterations.max(1));
        let model = served_model(point, Some(role));
        let prepared = match source.prepare(point, &[&warm, &profiled], &model) {
            Ok(prepared) => prepared,
            Err(error) => {
                self.recorder.notice(format!("  {who}: no profile: {}", error.detail));
                return Ok(());
            }
        };
        let folder = self.input.root.point_dir(&point.id)?.join(FOLDER);
        let raw = folder.join(RAW);
        let make = |source| RunError::System { action: "make the folder of a profile", source };
        // What an interrupted try left there belongs to no record.
        let _ = fs::remove_dir_all(&raw);
        fs::create_dir_all(&raw).map_err(make)?;
        let raw = raw.canonicalize().map_err(make)?;
        let nsys = plan.nsys.as_ref().and_then(|_| find_program("nsys".as_ref(), search_path(self.input).as_deref()));
        let launched = profile::launch(&plan, &raw, takes_flag(point), nsys.as_deref());
        let mut options: LaunchOptions = self.input.options.launch.clone();
        options.env.extend(launched.env);
        options.extra_args.extend(launched.args);
        options.wrapper = launched.wrapper;
        let launcher = Launcher {
            root: self.launcher.root,
            job_dir: self.launcher.job_dir.clone(),
            engine: self.launcher.engine,
            options: &options,
            recorder: self.launcher.recorder,
            control: self.launcher.control,
            machine: self.launcher.machine.clone(),
            surroundings: self.launcher.surroundings.clone(),
            allocation: self.launcher.allocation.clone(),
            starts: Cell::new(self.launcher.starts.get()),
            point_folder: Some(folder.clone()),
        };
        self.recorder.notice(format!(
            "  profiling {who}: {} + {} iterations of {} requests",
            plan.warmup_iterations, plan.profile_iterations, iteration.requests
        ));
        let outcome = launcher.start(point, Some(role), &[])?;
        let done = match outcome {
            StartOutcome::Cancelled => None,
            StartOutcome::Failed(failure) => {
                let detail = headline(&failure.report);
                self.recorder.server(&point.id, ServerPhase::Failed, 0.0, Some(detail.clone()))?;
                self.recorder.notice(format!("  {who}: no profile: {detail}"));
                None
            }
            StartOutcome::Up(server) => {
                let done = self.profiled_load(&server, prepared);
                launcher.stop(point, server)?;
                match done {
                    Ok(counts) => counts,
                    Err(reason) => {
                        self.recorder.notice(format!("  {who}: no profile: {reason}"));
                        None
                    }
                }
            }
        };
        self.launcher.starts.set(launcher.starts.get());
        let Some(counts) = done else { return Ok(()) };
        self.keep(&plan, &iteration, &folder, launched.absent, &counts)?;
        Ok(())
    }

    /// Warm-up, start, the profiled iterations, stop. `None`: the run was asked to end.
    fn profiled_load(&self, server: &PointServer, prepared: Vec<PreparedCell>) -> Result<Option<Counts>, String> {
        let mut prepared = prepared.into_iter();
        let (Some(warm), Some(profiled)) = (prepared.next(), prepared.next()) else {
            return Err("no requests were made".to_owned());
        };
        self.drive_counted(server, warm)?;
        let call = |path: &str, limit: Duration| -> Result<(), String> {
            let url = format!("{}{path}", server.base_url);
            let reply = post_json(&url, &json!({}), limit, self.input.options.launch.api_key.as_ref());
            let reply = reply.map_err(|error| error.to_string())?;
            let body: String = reply.body.chars().take(200).collect();
            if reply.is_success() { Ok(()) } else { Err(format!("{path}: HTTP status {}: {body}", reply.status)) }
        };
        call("/start_profile", START_LIMIT)?;
        let counts = self.drive_counted(server, profiled);
        // Also after a load that went wrong: a profiler left running fills the disk.
        let stopped = call("/stop_profile", STOP_LIMIT);
        let counts = counts?;
        stopped?;
        if counts.completed == 0 && !self.control.is_stopping() {
            return Err("no request succeeded while the profiler ran".to_owned());
        }
        Ok((!self.control.is_stopping()).then_some(counts))
    }

    fn drive_counted(&self, server: &PointServer, mut prepared: PreparedCell) -> Result<Counts, String> {
        let api_key = self.input.options.launch.api_key.clone();
        let health = get_text(&format!("{}/health", server.base_url), ASK_LIMIT, api_key.as_ref());
        let target = Target {
            base_url: server.base_url.clone(),
            endpoint: prepared.endpoint,
            api_key,
            trust: TlsTrust::default(),
        };
        let requests = std::mem::replace(&mut prepared.requests, Box::new(std::iter::empty()));
        let mut spec = LoadSpec::new(target, new_epoch(), std::iter::empty(), prepared.pacing, prepared.stop);
        spec.source = requests;
        spec.warmup = prepared.warmup;
        spec.threads = 1;
        spec.speedup = health.ok().and_then(|reply| reply.speedup).unwrap_or(1.0);
        let control = LoadControl::new();
        let mut counts = Counts::default();
        let loaded = thread::scope(|scope| {
            let load = thread::Builder::new()
                .name("profiled load".to_owned())
                .spawn_scoped(scope, || run_load(spec, &mut counts, &control))
                .map_err(|error| error.to_string())?;
            while !load.is_finished() {
                if self.control.is_stopping() {
                    control.cancel();
                }
                thread::sleep(POLL);
            }
            load.join().map_err(|_| "the load's thread ended early".to_owned())
        });
        loaded?.map_err(|error| error.to_string())?;
        Ok(counts)
    }

    fn keep(
        &self,
        plan: &ProfilePlan,
        iteration: &Iteration,
        folder: &Path,
        absent: BTreeMap<String, String>,
        counts: &Counts,
    ) -> Result<(), RunError> {
        let collected = profile::collect(folder, plan, absent);
        let (files, absent) =
            collected.map_err(|source| RunError::System { action: "name the files of a profile", source })?;
        for (what, reason) in &absent {
            self.recorder.notice(format!("    {what} is absent: {reason}"));
        }
        write_json(
            &folder.join(RECORD),
            &ProfileRecord {
                schema: PROFILE_SCHEMA,
                load: iteration.cell.load.describe(),
                workload: iteration.cell.workload.clone(),
                requests_per_iteration: iteration.requests,
                seq_len: iteration.lengths().map(|(seq_len, _)| seq_len),
                max_tokens: iteration.lengths().map(|(_, max_tokens)| max_tokens),
                warmup_iterations: plan.warmup_iterations.max(1),
                profile_iterations: plan.profile_iterations.max(1),
                completed: counts.completed,
                output_tokens: counts.output_tokens,
                files,
                absent,
                simulated: self.input.engine.is_simulated(),
            },
        )?;
        Ok(())
    }
}

/// Does the declared version have `--profiler-config`? Older ones read the environment.
fn takes_flag(point: &PlannedPoint) -> bool {
    let engine = |name: &str| point.config.get("engine")?.get(name)?.as_str();
    let dialect = engine("kind").and_then(Dialect::of_engine).unwrap_or(Dialect::Vllm);
    let versions = engine("version").and_then(|text| VersionSpec::parse(text).ok());
    let table = FlagTable::builtin(dialect, versions.as_ref());
    !matches!(table.check("profiler_config", &Value::Null), FlagVerdict::NotYet { .. })
}
