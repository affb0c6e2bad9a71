//! Measures one cell against a server that serves: warm-up and window through the load generator, metrics scraped all the
//! while, records written, numbers computed and judged. The caller decides what the outcome means for the server and
//! writes the final state.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use servelab_core::metrics::{counter_resets, kv_transfer};
use servelab_core::plan::{PlannedCell, PlannedPoint, RolePlan};
use servelab_core::result::{BenchResult, Severity};
use servelab_core::state::CellState;
use servelab_core::study::StopRule;
use servelab_core::verdict::{CellEvidence, EffectiveDifference, FactorLimit, RequestEvidence, judge};
use servelab_load::clock::new_epoch;
use servelab_load::prometheus::{ScrapeOptions, ScrapeOutcome, ScrapeTarget, Scraper};
use servelab_load::simtime::slow_samples;
use servelab_load::{
    LiveCounts, LivePhase, LoadControl, LoadError, LoadOutcome, LoadSpec, Target, TlsTrust, http, run_load,
};
use servelab_store::{AttemptDir, StoreError, WindowInfo, write_json};

use crate::control::RunControl;
use crate::crew::{ROUTER, is_split};
use crate::environment::Machine;
use crate::error::RunError;
use crate::legwatch::{LegWatch, request_ids};
use crate::observe::RunEvent;
use crate::options::RunOptions;
use crate::recorder::Recorder;
use crate::records::{FileSink, StoredRecords, SummaryOptions};
use crate::server::PointServer;
use crate::source::PreparedCell;
use crate::telemetry::{self, Telemetry};

const POLL: Duration = Duration::from_millis(20);
const REPORT_EVERY: Duration = Duration::from_millis(200);

/// What a measurement needs besides the cell itself.
pub(crate) struct Bench<'a> {
    pub(crate) options: &'a RunOptions,
    pub(crate) recorder: &'a Recorder<'a>,
    pub(crate) control: &'a RunControl,
    pub(crate) machine: &'a Machine,
    pub(crate) site: &'a str,
    pub(crate) job: &'a str,
    pub(crate) is_simulated: bool,
}

/// One cell and its surroundings.
pub(crate) struct Subject<'a> {
    pub(crate) point: &'a PlannedPoint,
    pub(crate) cell: &'a PlannedCell,
    pub(crate) attempt: &'a AttemptDir,
    pub(crate) prepared: PreparedCell,
    /// Position in the order of the server start, from 0.
    pub(crate) order: u32,
}

/// How a measurement ended, before anybody looked at the server.
pub(crate) struct Measured {
    pub(crate) state: CellState,
    pub(crate) code: Option<String>,
    pub(crate) detail: Option<String>,
    pub(crate) elapsed_s: f64,
    pub(crate) is_saturated: bool,
    /// The `stop_early` rule that ended it, in words.
    pub(crate) stopped_by: Option<String>,
}

/// For the question how fast the server's time runs.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// Why load was cut short.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Cut {
    Cancelled,
    ServerExited,
    /// By a rule of the study, in words.
    StoppedEarly(String),
}

impl Bench<'_> {
    pub(crate) fn measure(&self, mut subject: Subject<'_>, server: &mut PointServer) -> Result<Measured, RunError> {
        let started = Instant::now();
        let attempt = subject.attempt;
        write_json(&attempt.path().join("effective.json"), &server.effective)?;
        self.recorder.cell(attempt, CellState::Warming, None, None)?;
        server.settle(self.control);
        let clock = new_epoch();
        let pages = server.metric_pages(&self.machine.host).into_iter();
        let targets: Vec<ScrapeTarget> = pages.map(|(node, url)| ScrapeTarget { node, url }).collect();
        let options = ScrapeOptions {
            interval_ns: nanos(self.options.scrape_interval.as_secs_f64()),
            api_key: self.options.launch.api_key.clone(),
            ..ScrapeOptions::default()
        };
        let has_gpus = !self.machine.gpus.is_empty();
        let exporter = has_gpus.then(|| telemetry::dcgm(&self.machine.host)).flatten();
        let reader = (has_gpus && exporter.is_none()).then(|| {
            let program = Path::new("nvidia-smi");
            Telemetry::start(program, &self.machine.host, self.options.scrape_interval, clock)
        });
        let scraper = Scraper::start(targets.into_iter().chain(exporter).collect(), &options, clock)
            .map_err(|source| RunError::System { action: "start the metrics scraper", source })?;
        let spec = self.spec(&mut subject, server, clock);
        let speedup = spec.speedup;
        let subject = &subject;
        let legs = server.legs.clone().map(|path| LegWatch::begin(path, spec.request_ids.clone(), clock, speedup));
        let mut sink = FileSink::create(attempt.path(), self.options.keep_events)?;
        let (loaded, cut) = self.drive(subject, server, spec, &mut sink)?;
        self.recorder.cell(attempt, CellState::Collecting, None, None)?;
        let mut scraped = scraper.stop();
        telemetry::without_exporters(&mut scraped.samples);
        let telemetry = reader.flatten().map(Telemetry::stop).unwrap_or_default();
        if !telemetry.is_empty() {
            scraped.samples.extend(telemetry);
            scraped.samples.sort_by_key(|sample| sample.t_ns);
        }
        slow_samples(&mut scraped.samples, speedup);
        let ended = |state, code: &str, detail: String| Measured {
            state,
            code: Some(code.to_owned()),
            detail: Some(detail),
            elapsed_s: started.elapsed().as_secs_f64(),
            is_saturated: false,
            stopped_by: None,
        };
        let outcome = match loaded {
            Ok(outcome) => outcome,
            Err(LoadError::Sink { problem }) => {
                return match sink.into_problem() {
                    Some(error) => Err(error.into()),
                    None => Ok(ended(CellState::Failed, "load_failed", problem)),
                };
            }
            Err(error) => return Ok(ended(CellState::Failed, "load_failed", error.to_string())),
        };
        let records = sink.finish()?;
        self.write_surroundings(subject, server, &outcome, &scraped)?;
        if let Some(legs) = legs {
            legs.write(&attempt.path().join("legs.jsonl"))?;
        }
        let stopped_by = match cut {
            Some(Cut::Cancelled) => {
                records.drop_unwanted()?;
                return Ok(ended(CellState::Cancelled, "interrupted", "the run was asked to end".to_owned()));
            }
            Some(Cut::ServerExited) => {
                records.drop_unwanted()?;
                return Ok(ended(CellState::Failed, "server_exited", "the server ended during the load".to_owned()));
            }
            Some(Cut::StoppedEarly(rule)) => Some(rule),
            None => None,
        };
        let result = self.judge(subject, server, &outcome, &scraped, &records)?;
        records.drop_unwanted()?;
        attempt.write_result(&result)?;
        let first = result.verdict.reasons.iter().find(|reason| reason.severity == Severity::Invalid);
        // A window that a rule cut short is none to compare with, whatever its numbers say.
        let is_whole = result.verdict.ok && stopped_by.is_none();
        let code = first.map(|reason| reason.code.clone());
        let detail = first.map(|reason| reason.detail.clone());
        Ok(Measured {
            state: if is_whole { CellState::Done } else { CellState::Invalid },
            code: code.or_else(|| stopped_by.as_ref().map(|_| "stopped_early".to_owned())),
            detail: match (&stopped_by, detail) {
                (Some(rule), Some(detail)) => Some(format!("{detail}; ended early: {rule}")),
                (Some(rule), None) => Some(format!("ended early: {rule}")),
                (None, detail) => detail,
            },
            elapsed_s: started.elapsed().as_secs_f64(),
            is_saturated: result.verdict.reasons.iter().any(|reason| reason.code == "saturated"),
            stopped_by,
        })
    }

    fn spec(
        &self,
        subject: &mut Subject<'_>,
        server: &PointServer,
        clock: servelab_core::record::ClockEpoch,
    ) -> LoadSpec {
        let prepared = &mut subject.prepared;
        let source = std::mem::replace(&mut prepared.requests, Box::new(std::iter::empty()));
        let target = Target {
            base_url: server.base_url.clone(),
            endpoint: prepared.endpoint,
            api_key: self.options.launch.api_key.clone(),
            trust: TlsTrust::default(),
        };
        let mut spec = LoadSpec::new(target, clock, std::iter::empty(), prepared.pacing, prepared.stop);
        spec.source = source;
        spec.warmup = prepared.warmup;
        spec.request_timeout_ns = nanos(subject.cell.settings.request_timeout_s).max(1_000_000);
        spec.drain_timeout_ns = spec.drain_timeout_ns.min(spec.request_timeout_ns);
        spec.request_ids = server.legs.as_ref().map(|_| request_ids(clock));
        spec.threads = self.options.load_threads.max(1);
        // A simulator says how fast its time runs; a real server says nothing.
        let health = format!("{}/health", server.base_url);
        let reply = http::get_text(&health, ASK_TIMEOUT, self.options.launch.api_key.as_ref());
        spec.speedup = reply.ok().and_then(|reply| reply.speedup).unwrap_or(1.0);
        spec
    }

    /// Runs the load in a thread of its own and watches it, the server and the stop switch.
    fn drive(
        &self,
        subject: &Subject<'_>,
        server: &mut PointServer,
        spec: LoadSpec,
        sink: &mut FileSink,
    ) -> Result<(Result<LoadOutcome, LoadError>, Option<Cut>), RunError> {
        let planned = subject.prepared.planned;
        let control = LoadControl::new();
        let started = Instant::now();
        let mut cut = None;
        let mut is_measuring = false;
        let mut next_report = started;
        thread::scope(|scope| {
            let load = thread::Builder::new()
                .name("load".to_owned())
                .spawn_scoped(scope, || run_load(spec, sink, &control))
                .map_err(|source| RunError::System { action: "start the load thread", source })?;
            while !load.is_finished() {
                let counts = control.counts();
                if !is_measuring && counts.phase != LivePhase::Connecting && counts.phase != LivePhase::Warming {
                    is_measuring = true;
                    if let Err(error) = self.recorder.cell(subject.attempt, CellState::Measuring, None, None) {
                        control.cancel();
                        let _ = load.join();
                        return Err(error.into());
                    }
                }
                if cut.is_none() {
                    cut = self.reason_to_cut(&counts, server);
                    if cut.is_some() {
                        control.cancel();
                    }
                }
                if Instant::now() >= next_report {
                    next_report = Instant::now() + REPORT_EVERY;
                    let elapsed_s = started.elapsed().as_secs_f64();
                    let cell = subject.cell.id.clone();
                    self.recorder.observer.event(&RunEvent::Load { cell, counts, planned, elapsed_s });
                }
                thread::sleep(POLL);
            }
            let loaded = load.join().unwrap_or(Err(LoadError::Thread { index: 0 }));
            if !is_measuring && loaded.is_ok() {
                self.recorder.cell(subject.attempt, CellState::Measuring, None, None)?;
            }
            Ok((loaded, cut))
        })
    }

    fn reason_to_cut(&self, counts: &LiveCounts, server: &mut PointServer) -> Option<Cut> {
        if self.control.is_stopping() {
            return Some(Cut::Cancelled);
        }
        if server.has_exited() {
            return Some(Cut::ServerExited);
        }
        if counts.phase != LivePhase::Measuring {
            return None;
        }
        self.options.stop_early.iter().find_map(|rule| broken_rule(rule, counts)).map(Cut::StoppedEarly)
    }

    fn write_surroundings(
        &self,
        subject: &Subject<'_>,
        server: &PointServer,
        outcome: &LoadOutcome,
        scraped: &ScrapeOutcome,
    ) -> Result<(), StoreError> {
        let attempt = subject.attempt;
        attempt.write_prom(&scraped.samples)?;
        let gpu = self.machine.gpus.first().map(|gpu| gpu.name.clone());
        attempt.write_window(&WindowInfo {
            clock: Some(outcome.clock),
            window_start_ns: outcome.window_start_ns,
            window_end_ns: outcome.window_end_ns,
            engine_version: server.effective.engine_version.clone(),
            gpu_model: self.options.gpu_model.clone().or(gpu),
            site: Some(self.site.to_owned()),
            simulated: Some(self.is_simulated),
            nodes: vec![self.machine.host.clone()],
            job: Some(self.job.to_owned()),
            order: Some(subject.order),
            engine: server.effective.engine.clone(),
            probed: server.probed.clone(),
        })
    }

    fn judge(
        &self,
        subject: &Subject<'_>,
        server: &PointServer,
        outcome: &LoadOutcome,
        scraped: &ScrapeOutcome,
        records: &StoredRecords,
    ) -> Result<BenchResult, StoreError> {
        let load = &subject.cell.load;
        let options = SummaryOptions {
            prom: &scraped.samples,
            slo: self.options.slo,
            closed_loop_slots: load.busy_slots().filter(|_| !subject.prepared.slots_pause),
        };
        let (mut result, requests): (BenchResult, RequestEvidence) = records.summarise(outcome, options)?;
        let mut evidence = CellEvidence::new(&result, load, requests);
        evidence.success_required = self.options.success_required;
        evidence.metrics_expected = !server.is_external() || scraped.targets.iter().any(|target| target.n_ok > 0);
        evidence.effective_differs = differences(server);
        evidence.debug_logging = server.effective.debug_logging;
        evidence.ignore_eos = subject.cell.settings.ignore_eos;
        evidence.limits = self.limits(subject.point, &result);
        evidence.server_resets = counter_resets(&scraped.samples, outcome.window_start_ns, outcome.window_end_ns);
        evidence.servers_per_request = if is_split(subject.point) { 2 } else { 1 };
        if is_split(subject.point)
            && let Some(transfer) = kv_transfer(&scraped.samples, outcome.window_start_ns, outcome.window_end_ns)
        {
            write_json(&subject.attempt.path().join("transfer.json"), &transfer)?;
            evidence.kv_transfer = Some(transfer);
        }
        evidence.slots_pause = subject.prepared.slots_pause;
        evidence.expected_prefix_hit_rate = subject.prepared.expected_prefix_hit_rate;
        evidence.simulated = self.is_simulated;
        let verdict = judge(&evidence);
        result.verdict = verdict;
        Ok(result)
    }

    /// Varied upper limits, with how close the run came to them.
    fn limits(&self, point: &PlannedPoint, result: &BenchResult) -> Vec<FactorLimit> {
        let is_varied = self.options.varied.iter().any(|name| name == "max_num_seqs");
        let number = |section: &str, name: &str| point.config.get(section)?.get(name)?.as_f64();
        let Some(limit) = number("serve", "max_num_seqs").filter(|_| is_varied) else { return Vec::new() };
        // The limit holds per data-parallel rank, the metric is summed over all of them.
        let dp = |role: &RolePlan| {
            let section = match role.role.as_str() {
                "prefill" => "/deploy/p/dp",
                "decode" => "/deploy/d/dp",
                _ => "/deploy/dp",
            };
            point.config.pointer(section).and_then(serde_json::Value::as_f64).unwrap_or(1.0).max(1.0)
        };
        let roles = point.roles.iter().filter(|role| role.role != ROUTER);
        let ranks = roles.map(|role| dp(role) * f64::from(role.count)).sum::<f64>().max(1.0);
        let reached = result.server.as_ref().and_then(|server| server.running_max);
        vec![FactorLimit { key: "max_num_seqs".to_owned(), limit: limit * ranks, reached }]
    }
}

fn differences(server: &PointServer) -> Vec<EffectiveDifference> {
    let text = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let differences = server.effective.differences.iter().map(|difference| EffectiveDifference {
        key: difference.key.clone(),
        requested: text(&difference.requested),
        effective: text(&difference.effective),
    });
    differences.collect()
}

/// The rule in words, when these counts break it.
fn broken_rule(rule: &StopRule, counts: &LiveCounts) -> Option<String> {
    let over = counts.done + counts.failed;
    let is_enough = |after: u32| over >= u64::from(after).max(1);
    match rule {
        StopRule::SuccessBelow { below, after } if is_enough(*after) && (counts.done as f64) < below * over as f64 => {
            Some(format!("{} of {over} requests succeeded (success_below: {below})", counts.done))
        }
        StopRule::ServerErrorsAbove { above, after }
            if is_enough(*after) && counts.server_errors as f64 > above * over as f64 =>
        {
            Some(format!(
                "the server failed {} of {over} requests (server_errors_above: {above})",
                counts.server_errors
            ))
        }
        _ => None,
    }
}

fn nanos(seconds: f64) -> i64 {
    (seconds * 1e9) as i64
}
