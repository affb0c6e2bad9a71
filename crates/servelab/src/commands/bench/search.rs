//! `servelab bench --search`: the highest rate, or the most requests in flight, that meets an SLO. Which level comes next
//! is decided in `servelab_core::search`; here its trials are run, one after another, on a server that is idle in between.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use servelab_core::metrics::{ClientUsage, MetricsInput, RequestSlo, RequestTimes};
use servelab_core::record::Phase;
use servelab_core::result::BenchResult;
use servelab_core::search::trial::{Runaway, TrialPlan, closed_trial, is_hopeless, open_trial, requests_for};
use servelab_core::search::{
    Axis, Ending, ReportTrial, Search, SearchReport, SearchSettings, SearchSlo, Step, TermKind, TrialEvidence, collect,
};
use servelab_data::PromptSource;
use servelab_load::{ApiKey, FinishedRequest, LiveCounts, LivePhase, http, prometheus};
use servelab_run::RunControl;
use servelab_store::{RecordFiles, write_json};

use super::args::{BenchArgs, api_key, parse_slo};
use super::load;
use super::measure::{Measured, measure, root_url};
use super::observe::{Company, Observer};
use crate::error::CommandError;
use crate::ui::Ui;

/// Requests that show how long one takes on the idle server.
const IDLE_REQUESTS: u32 = 5;
/// Verdicts by which a trial says nothing about how fast the server is.
const NOT_THE_SERVER: [&str; 4] = ["client_limited", "server_restarted", "foreign_traffic", "token_count_mismatch"];
/// After so many such trials in a row the search gives up.
const MOST_DISCARDED: u32 = 3;
const IDLE_LOOK: Duration = Duration::from_millis(100);
const METRICS_TIMEOUT: Duration = Duration::from_secs(5);
/// How sure an end must be to need no more trials.
const CONFIDENCE: f64 = 0.95;
/// A request on a server that is idle again takes at most so many times as long as at the beginning.
const IDLE_AGAIN: f64 = 1.5;
/// And so much longer at most, milliseconds, where that is more.
const IDLE_AGAIN_MS: f64 = 20.0;

/// Arguments of a search.
#[derive(Debug, Clone, Args)]
pub(crate) struct SearchArgs {
    /// Find the highest level of this that meets the SLO
    #[arg(long, value_enum, requires = "slo", conflicts_with_all = ["rate", "concurrency", "duration", "ramp", "replay"])]
    pub(super) search: Option<SearchAxis>,
    /// Lowest level to try
    #[arg(long, value_name = "LEVEL", requires = "search")]
    pub(super) search_min: Option<f64>,
    /// Highest level to try
    #[arg(long, value_name = "LEVEL", requires = "search")]
    pub(super) search_max: Option<f64>,
    /// Width of the answer, relative: 5% or 0.05
    #[arg(long, value_name = "WIDTH", default_value = "5%", requires = "search", value_parser = parse_precision)]
    pub(super) search_precision: f64,
    /// Trials at each end of the answer; an ambiguous end gets up to twice as many
    #[arg(long, value_name = "N", default_value_t = 3, requires = "search", value_parser = clap::value_parser!(u32).range(1..=20))]
    pub(super) search_repeats: u32,
    /// Trials in all, at most
    #[arg(long, value_name = "N", default_value_t = 60, requires = "search", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) search_trials: u32,
}

/// What is searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum SearchAxis {
    /// Requests per second of an open loop
    Rate,
    /// Requests in flight of a closed loop
    Concurrency,
}

fn parse_precision(text: &str) -> Result<f64, String> {
    let value = match text.strip_suffix('%') {
        Some(percent) => percent.trim().parse::<f64>().map(|percent| percent / 100.0),
        None => text.parse::<f64>(),
    };
    match value {
        Ok(value) if (0.001..=1.0).contains(&value) => Ok(value),
        _ => Err(format!("`{text}` is no width between 0.1% and 100%")),
    }
}

/// Runs the search and prints what was found. Every trial's records stay in `folder`.
pub(super) fn search(
    args: &BenchArgs,
    axis: SearchAxis,
    folder: &Path,
    switch: &RunControl,
    ui: Ui,
) -> Result<ExitCode, CommandError> {
    let typed = args.slo.clone().unwrap_or_default();
    let slo = parse_slo(&typed)?;
    // Wrong bounds are told before anything is sent.
    let settings = |start: f64| SearchSettings {
        axis: match axis {
            SearchAxis::Rate => Axis::Rate,
            SearchAxis::Concurrency => Axis::Concurrency,
        },
        start,
        min: args.search.search_min,
        max: args.search.search_max,
        precision: args.search.search_precision,
        repeats: args.search.search_repeats,
        max_trials: args.search.search_trials,
        confidence: CONFIDENCE,
    };
    let wrong = |error: servelab_core::search::SearchError| CommandError::usage(format!("`--search`: {error}"));
    Search::new(settings(1.0), slo.clone()).map_err(wrong)?;
    let mut runner = Runner {
        args,
        source: load::open(args)?,
        api_key: api_key(args)?,
        folder,
        switch,
        ui,
        slo: slo.clone(),
        idle: None,
        number: 0,
    };
    let idle = runner.measure_idle()?;
    runner.idle = Some(idle);
    let start = match axis {
        SearchAxis::Rate => 1.0 / idle.request_s,
        SearchAxis::Concurrency => 1.0,
    };
    let mut search = Search::new(settings(start), slo).map_err(wrong)?;
    let mut trials: Vec<ReportTrial> = Vec::new();
    let mut discarded_in_a_row = 0;
    let mut problem = (idle.counted >= 3 && idle.good == 0).then(|| {
        format!("not one of {} requests met the limits on the idle server, one at a time: no load can", idle.counted)
    });
    while let (None, Step::Trial { level, repeat }) = (&problem, search.next_step()) {
        let outcome = match runner.trial(axis, level, repeat) {
            Ok(outcome) => outcome,
            Err(error) => {
                // What was found so far stays.
                problem = Some(error.text().trim_start_matches("error: ").to_owned());
                continue;
            }
        };
        match outcome {
            Outcome::Trial(evidence, mut trial) => {
                if trial.discarded {
                    discarded_in_a_row += 1;
                    ui.say(&format!(
                        "search: left out, it says nothing about the server ({})",
                        trial.verdict.join(", ")
                    ));
                } else {
                    discarded_in_a_row = 0;
                    search.record(level, *evidence);
                }
                if discarded_in_a_row >= MOST_DISCARDED {
                    problem = Some(format!(
                        "{MOST_DISCARDED} trials in a row say nothing about the server ({})",
                        trial.verdict.join(", ")
                    ));
                }
                match runner.wait_until_idle() {
                    Ok(idle_after_s) => trial.idle_after_s = idle_after_s,
                    Err(words) => {
                        problem.get_or_insert(words);
                    }
                }
                trials.push(trial);
            }
            Outcome::Interrupted => problem = Some("interrupted".to_owned()),
        }
        let report = SearchReport::of(&search, typed.clone(), idle.request_s, trials.clone());
        write_json(&folder.join("search.json"), &SearchReport { problem: problem.clone(), ..report })?;
    }
    let mut report = SearchReport::of(&search, typed, idle.request_s, trials);
    report.problem = problem;
    write_json(&folder.join("search.json"), &report)?;
    if args.out.is_some() {
        ui.say(&format!("wrote {}", folder.display()));
    }
    if args.json {
        ui.data(&serde_json::to_string_pretty(&report).map_err(|error| CommandError::failed(error.to_string()))?);
    } else {
        ui.data(&servelab_view::search_text(&report, ui.width()));
    }
    let is_success = report.problem.is_none() && report.passes.is_some() && report.ending != Ending::Unfinished;
    Ok(if is_success { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// One request at a time on the idle server.
#[derive(Debug, Clone, Copy)]
struct Idle {
    request_s: f64,
    good: u64,
    counted: u64,
}

enum Outcome {
    Trial(Box<TrialEvidence>, ReportTrial),
    Interrupted,
}

struct Runner<'a> {
    args: &'a BenchArgs,
    source: PromptSource,
    api_key: Option<ApiKey>,
    folder: &'a Path,
    switch: &'a RunControl,
    ui: Ui,
    slo: SearchSlo,
    idle: Option<Idle>,
    number: u32,
}

impl Runner<'_> {
    /// The arguments of one trial: other arrivals for each.
    fn arguments(&mut self) -> BenchArgs {
        self.number += 1;
        let mut args = self.args.clone();
        args.search.search = None;
        // Far apart, so that no trial's seed is another search's.
        args.seed = self.args.seed.wrapping_add(u64::from(self.number).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        args.requests = None;
        args
    }

    fn trial_folder(&self) -> PathBuf {
        self.folder.join(format!("trial-{:03}", self.number))
    }

    /// A few requests, one at a time: how long one takes when nothing else is there.
    fn measure_idle(&mut self) -> Result<Idle, CommandError> {
        self.ui.say("search: requests one at a time on the idle server");
        let mut args = self.arguments();
        (args.concurrency, args.rate) = (Some(1), None);
        (args.requests, args.warmup) = (Some(IDLE_REQUESTS), 1);
        let measured = self.run(&args, &mut Watching::nothing(), &mut |_| false)?;
        if measured.outcome.interrupted {
            return Err(CommandError::failed("interrupted before the search began"));
        }
        let e2e = measured.result.latency_ms.e2e.p50;
        let request_s = e2e.filter(|ms| *ms > 0.0).map(|ms| ms / 1e3).ok_or_else(|| {
            let code = measured.result.failures.keys().next().cloned().unwrap_or_else(|| "no answer".to_owned());
            CommandError::failed(format!("not one request succeeded on the idle server ({code})"))
                .hint("try `servelab bench --concurrency 1 --requests 1` with the same options")
        })?;
        let evidence = self.evidence(&measured, false)?;
        measured.records.drop_unwanted()?;
        self.ui.say(&format!("search: one request takes {} s", number(request_s)));
        Ok(Idle { request_s, good: evidence.good, counted: evidence.counted })
    }

    /// One trial of a level.
    fn trial(&mut self, axis: SearchAxis, level: f64, repeat: u32) -> Result<Outcome, CommandError> {
        let idle_s = self.idle.map_or(1.0, |idle| idle.request_s);
        let least = match self.args.requests {
            Some(n) => u64::from(n),
            None => requests_for(self.slo.strictest_share(), self.args.search.search_repeats),
        };
        let slo_s = self.slo.request.and_then(|limits| longest_s(&limits));
        let mut args = self.arguments();
        let plan = match axis {
            SearchAxis::Rate => {
                args.rate = Some(level);
                open_trial(level, idle_s, least, slo_s)
            }
            SearchAxis::Concurrency => {
                #[expect(clippy::cast_possible_truncation, reason = "whole and checked to be in range")]
                let slots = level as u32;
                args.concurrency = Some(slots);
                closed_trial(u64::from(slots), idle_s, least, slo_s)
            }
        };
        let TrialPlan { requests, warmup, window_s, .. } = plan;
        args.requests = Some(u32::try_from(requests).unwrap_or(u32::MAX));
        args.warmup = u32::try_from(warmup.max(u64::from(self.args.warmup))).unwrap_or(u32::MAX);
        self.ui.say(&format!(
            "search: trial {} at {} {}{}: {requests} requests, about {}",
            self.number - 1,
            number(level),
            unit(axis),
            if repeat > 0 { format!(", repeat {repeat}") } else { String::new() },
            servelab_core::units::human_duration(window_s),
        ));
        let misses = Arc::new(AtomicU64::new(0));
        let limits = self.slo.request;
        let mut watching = Watching { limits, misses: Arc::clone(&misses) };
        let share = self.slo.terms.iter().find(|term| term.kind == TermKind::Request).and_then(|term| term.share);
        let mut runaway = (axis == SearchAxis::Rate).then(|| Runaway::new(level, idle_s));
        let mut began: Option<Instant> = None;
        let (mut has_run_away, mut was_lost) = (false, false);
        let mut is_lost = |counts: &LiveCounts| {
            if !matches!(counts.phase, LivePhase::Measuring | LivePhase::Draining) {
                return false;
            }
            let t_s = began.get_or_insert_with(Instant::now).elapsed().as_secs_f64();
            let in_flight = u64::try_from(counts.in_flight).unwrap_or(0);
            has_run_away |= counts.phase == LivePhase::Measuring
                && runaway.as_mut().is_some_and(|runaway| runaway.push(t_s, in_flight));
            was_lost |= has_run_away || share.is_some_and(|share| is_hopeless(misses.load(Relaxed), requests, share));
            was_lost
        };
        let measured = self.run_with_drain(&args, plan.drain_s, &mut watching, &mut is_lost)?;
        if self.switch.is_stopping() {
            return Ok(Outcome::Interrupted);
        }
        let codes: Vec<String> = measured.result.verdict.reasons.iter().map(|reason| reason.code.clone()).collect();
        let is_growing = codes.iter().any(|code| code == "saturated") || has_run_away;
        let evidence = self.evidence(&measured, is_growing)?;
        measured.records.drop_unwanted()?;
        Ok(Outcome::Trial(
            Box::new(evidence.clone()),
            report(level, repeat, &evidence, &measured.result, was_lost, codes),
        ))
    }

    fn run(
        &mut self,
        args: &BenchArgs,
        observer: &mut dyn Observer,
        is_lost: &mut dyn FnMut(&LiveCounts) -> bool,
    ) -> Result<Measured, CommandError> {
        self.run_with_drain(args, args.timeout, observer, is_lost)
    }

    fn run_with_drain(
        &mut self,
        args: &BenchArgs,
        longest_s: f64,
        observer: &mut dyn Observer,
        is_lost: &mut dyn FnMut(&LiveCounts) -> bool,
    ) -> Result<Measured, CommandError> {
        let name = format!("search-{}", self.number);
        let mut trial = load::search_trial(args, &mut self.source, &name)?;
        #[expect(clippy::cast_possible_truncation, reason = "both are checked to be far below 2^63 ns")]
        let longest_ns = (longest_s * 1e9) as i64;
        trial.spec.drain_timeout_ns = longest_ns.min(trial.spec.request_timeout_ns);
        let folder = self.trial_folder();
        let company = Company { observer, is_lost, scrapes: true };
        let measured = measure(trial, &folder, args.events, company, self.switch, self.ui)?;
        write_json(&folder.join("result.json"), &measured.result)?;
        Ok(measured)
    }

    /// What a trial's records say about the SLO.
    fn evidence(&self, measured: &Measured, is_saturated: bool) -> Result<TrialEvidence, CommandError> {
        let records = &measured.records;
        let files = RecordFiles::new(records.requests_path().to_path_buf(), Some(records.events_path().to_path_buf()));
        let evidence = {
            let input = MetricsInput {
                clock: measured.outcome.clock,
                records: Box::new(&files),
                prom: &[],
                window_start_ns: measured.outcome.window_start_ns,
                window_end_ns: measured.outcome.window_end_ns,
                slo: self.slo.request,
                closed_loop_slots: None,
                client: ClientUsage::default(),
            };
            collect(&self.slo, &input, is_saturated)
        };
        files.check()?;
        Ok(evidence)
    }

    /// Until nothing is left of the trial before, so that it does not weigh on the next. By the server's own gauges where
    /// it shows them, else by a single request that is as fast as in the beginning. Returns the seconds that it took.
    fn wait_until_idle(&mut self) -> Result<Option<f64>, String> {
        let began = Instant::now();
        let idle_s = self.idle.map_or(1.0, |idle| idle.request_s);
        let patience = Duration::from_secs_f64((20.0 * idle_s).clamp(30.0, 1_800.0));
        let url = format!("{}/metrics", root_url(&self.args.url));
        loop {
            if self.switch.is_stopping() {
                return Ok(None);
            }
            let is_idle = match busy_requests(&url, self.api_key.as_ref()) {
                Some(busy) => busy < 0.5,
                None => self.is_quick_again(idle_s)?,
            };
            if is_idle {
                return Ok(Some(began.elapsed().as_secs_f64()));
            }
            if began.elapsed() > patience {
                return Err(format!(
                    "the server was still busy {:.0} s after a trial; more trials would measure its leftovers",
                    patience.as_secs_f64()
                ));
            }
            std::thread::sleep(IDLE_LOOK);
        }
    }

    fn is_quick_again(&mut self, idle_s: f64) -> Result<bool, String> {
        let mut args = self.arguments();
        (args.concurrency, args.rate, args.requests, args.warmup) = (Some(1), None, Some(1), 0);
        args.no_canary = true;
        let measured = self.run(&args, &mut Watching::nothing(), &mut |_| false).map_err(|error| error.text())?;
        let _ = std::fs::remove_dir_all(self.trial_folder());
        let allowed = (IDLE_AGAIN * idle_s * 1e3).max(idle_s * 1e3 + IDLE_AGAIN_MS);
        Ok(measured.result.latency_ms.e2e.p50.is_some_and(|ms| ms <= allowed))
    }
}

/// Four digits are enough for talk.
fn number(x: f64) -> String {
    if x >= 100.0 { format!("{x:.0}") } else { format!("{x:.3}") }
}

fn unit(axis: SearchAxis) -> &'static str {
    match axis {
        SearchAxis::Rate => "requests/s",
        SearchAxis::Concurrency => "in flight",
    }
}

/// The longest time that the limits allow to a request's part that the client waits for.
fn longest_s(limits: &RequestSlo) -> Option<f64> {
    limits.e2e_ms.or(limits.ttft_ms).map(|ms| ms / 1e3)
}

/// Running and waiting requests by the server's gauges; `None` where it shows none.
fn busy_requests(url: &str, api_key: Option<&ApiKey>) -> Option<f64> {
    const GAUGES: [&str; 6] = [
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "sglang:num_running_reqs",
        "sglang:num_queue_reqs",
        "llamacpp:requests_processing",
        "llamacpp:requests_deferred",
    ];
    let reply = http::get_text(url, METRICS_TIMEOUT, api_key).ok().filter(|reply| reply.is_success())?;
    let samples = prometheus::parse(&reply.body).samples;
    let gauges: Vec<f64> =
        samples.iter().filter(|sample| GAUGES.contains(&sample.name.as_str())).map(|sample| sample.value).collect();
    (!gauges.is_empty()).then(|| gauges.iter().sum())
}

fn report(
    level: f64,
    repeat: u32,
    evidence: &TrialEvidence,
    result: &BenchResult,
    cut_short: bool,
    verdict: Vec<String>,
) -> ReportTrial {
    ReportTrial {
        level,
        repeat,
        scheduled: result.requests.scheduled,
        good: evidence.good,
        counted: evidence.counted,
        window_s: result.duration_s,
        saturated: evidence.is_saturated,
        cut_short,
        discarded: verdict.iter().any(|code| NOT_THE_SERVER.contains(&code.as_str())),
        ttft_ms: [result.latency_ms.ttft.p50, result.latency_ms.ttft.p95],
        tpot_ms: [result.latency_ms.tpot.p50, result.latency_ms.tpot.p95],
        output_tokens_per_s: result.throughput.output_tokens_per_s,
        verdict,
        idle_after_s: None,
    }
}

/// Counts requests that missed the limits while a trial runs. The limit on single gaps is left to the records.
struct Watching {
    limits: Option<RequestSlo>,
    misses: Arc<AtomicU64>,
}

impl Watching {
    fn nothing() -> Self {
        Self { limits: None, misses: Arc::new(AtomicU64::new(0)) }
    }
}

impl Observer for Watching {
    fn finished(&mut self, request: &FinishedRequest) {
        let Some(limits) = self.limits.filter(|_| request.record.phase == Phase::Window) else { return };
        let times = RequestTimes::of(&request.record);
        let over = |ns: Option<f64>, limit_ms: Option<f64>| ns.zip(limit_ms).is_some_and(|(ns, ms)| ns / 1e6 > ms);
        let is_missed = !request.record.is_success()
            || over(times.ttft_ns.map(|ns| ns as f64), limits.ttft_ms)
            || over(times.tpot_ns, limits.tpot_ms)
            || over(times.e2e_ns.map(|ns| ns as f64), limits.e2e_ms);
        if is_missed {
            self.misses.fetch_add(1, Relaxed);
        }
    }
}
