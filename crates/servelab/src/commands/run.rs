//! `servelab run`: measures what is left of a study on this machine. Resuming is implied: the same command goes on where
//! it stopped, and says what it leaves alone and why.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use servelab_core::ids::JobId;
use servelab_core::metrics::RequestSlo;
use servelab_core::plan::Plan;
use servelab_core::study::EngineKind;
use servelab_load::ApiKey;
use servelab_run::doctor::{Health, Subject, examine};
use servelab_run::jobs::Intent;
use servelab_run::{
    Engine, LaunchOptions, Ordering, RetryPolicy, RunControl, RunInput, RunOptions, RunSummary, SignalGuard,
};
use servelab_store::Root;

use super::progress::Progress;
use super::{select, stored};
use crate::cli::StudyArgs;
use crate::error::CommandError;
use crate::requests::StudyRequests;
use crate::study_input::StudyInput;
use crate::ui::Ui;

const DEFAULT_ORDER_SEED: u64 = 42;
pub(crate) const DEFAULT_PORT_BASE: u16 = 20_000;
const DEFAULT_START_TIMEOUT_S: f64 = 1800.0;
const SIM_START_TIMEOUT_S: f64 = 60.0;

/// Arguments of `servelab run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    study: StudyArgs,
    /// Try at most this many cells
    #[arg(long, value_name = "N")]
    max_cells: Option<usize>,
    /// Which failed cells to try again: `failed`, `invalid`, a failure code, or `all`; default: those that may recover
    #[arg(long, value_name = "WHICH")]
    retry: Option<String>,
    /// Do not write events.parquet (one row per token-bearing event)
    #[arg(long)]
    no_events: bool,
    /// Be this submitted job: its cells, its records
    #[arg(long, value_name = "UUID", hide = true)]
    job: Option<String>,
}

/// Seconds since 1970 at which a run inside an allocation has to end; set by job scripts.
const STOP_AT_ENV: &str = "SERVELAB_STOP_AT";

pub(crate) fn run(args: &RunArgs, ui: Ui) -> Result<ExitCode, CommandError> {
    let Some(job) = args.job.as_deref().map(JobId::new) else { return measure(args, None, ui) };
    let root = Root::open(&args.study.root)?;
    let intent = servelab_run::jobs::intent(&root, &job)?;
    if let Err(holder) = servelab_run::take_job(&root, &job)? {
        ui.always(&format!("job {} is run by {holder}; nothing to do here", job.short()));
        return Ok(ExitCode::SUCCESS);
    }
    let outcome = measure(args, Some(&intent), ui);
    if let Err(error) = &outcome {
        // Whoever tracks the job shall not have to look for its log to know why.
        servelab_run::jobs::note_failure(&root, &job, error.text().trim_start_matches("error: "))?;
    }
    outcome
}

fn measure(args: &RunArgs, intent: Option<&Intent>, ui: Ui) -> Result<ExitCode, CommandError> {
    let input = StudyInput::load(&args.study.study, &args.study.overrides())?;
    let winners = stored::winners(&args.study.root, &input);
    let plan = input.plan(&winners)?;
    let cells = match intent {
        Some(intent) => intent.cells.clone(),
        None => select::cells(&plan, &args.study)?,
    };
    let retry = retry_policy(args.retry.as_deref())?;
    let engine = engine(&input)?;
    let mut source = StudyRequests::new(&input, &plan)?;
    let root = Root::open_or_create(&args.study.root)?;
    if intent.is_none() {
        stored::write_plan(&root, &input, &plan, &args.study.study)?;
    }
    let mut options = options(args, &input, &plan, retry)?;
    options.accuracy = source.accuracy_plan()?;
    options.profile = super::profiles::plan(&input.study, args.study.max_requests.is_some());
    let control = Arc::new(RunControl::new());
    if let Some(left) = time_left() {
        control.stop_at(Instant::now() + left);
    }
    let _signals = SignalGuard::install(Arc::clone(&control))
        .map_err(|error| CommandError::failed(format!("cannot watch for signals: {error}")))?;
    if let Some(intent) = intent {
        preflight(&root, intent, &input, &plan, ui)?;
    }
    let progress = Progress::new(ui, &plan);
    let run_input = RunInput {
        root: &root,
        plan: &plan,
        cells: &cells,
        engine: &engine,
        site: &input.site.site,
        job: intent.map(|intent| &intent.job),
        options: &options,
    };
    let outcome = servelab_run::run(&run_input, &mut source, &progress, &control);
    progress.close();
    let resume = resume_command();
    let summary = outcome.map_err(|error| {
        CommandError::failed(format!("cannot {error}")).hint(format!("nothing finished is lost; go on with: {resume}"))
    })?;
    finish(&summary, &root, &plan, &input, ui, intent.is_none().then_some(resume.as_str()))
}

/// What the job's first node is like, kept with the job. What really prevents the work is met by the work; this tells why.
fn preflight(root: &Root, intent: &Intent, input: &StudyInput, plan: &Plan, ui: Ui) -> Result<(), CommandError> {
    let is_vllm = input.study.engine.kind == EngineKind::Vllm;
    let points: Vec<_> = plan.points.iter().filter(|point| is_vllm && point.id == intent.point).cloned().collect();
    let servers = super::doctor::servers(&points);
    let mut site = input.site.clone();
    // It gave this allocation: a thousand jobs need not ask it again.
    site.scheduler = servelab_core::site::Scheduler::Local;
    let engine = super::doctor::engine_program(input);
    let findings = examine(&Subject {
        site: &site,
        root: root.path(),
        engine: engine.as_deref(),
        model: input.study.model.path.is_some().then(|| Path::new(input.model_path.as_str())),
        trusts_model_code: input.study.model.trust_remote_code,
        port_base: site.port_base.unwrap_or(DEFAULT_PORT_BASE),
        servers: &servers,
    });
    for finding in findings.iter().filter(|finding| finding.health > Health::Skipped) {
        ui.always(&format!("preflight {}: {}: {}", finding.health.name(), finding.check, finding.detail));
    }
    servelab_store::write_json(&root.job_dir(&intent.job)?.join("preflight.json"), &findings)?;
    Ok(())
}

/// How long the allocation around this run still lasts.
fn time_left() -> Option<Duration> {
    let at: u64 = std::env::var(STOP_AT_ENV).ok()?.trim().parse().ok()?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(Duration::from_secs(at).saturating_sub(now))
}

pub(crate) fn retry_policy(text: Option<&str>) -> Result<RetryPolicy, CommandError> {
    Ok(match text {
        None => RetryPolicy::Default,
        Some("failed") => RetryPolicy::Failed,
        Some("invalid") => RetryPolicy::Invalid,
        Some("all") => RetryPolicy::All,
        Some(code) if servelab_core::codes::explain(code).is_some() => RetryPolicy::Code(code.to_owned()),
        Some(other) => {
            return Err(CommandError::usage(format!("`--retry {other}`: there is no such failure code"))
                .hint("write `failed`, `invalid`, `all`, or a code that `servelab explain` lists"));
        }
    })
}

fn engine(input: &StudyInput) -> Result<Engine, CommandError> {
    let engine = &input.study.engine;
    Ok(match engine.kind {
        EngineKind::Sim => Engine::Sim {
            program: match &engine.bin {
                Some(path) => PathBuf::from(path),
                None => std::env::current_exe()
                    .map_err(|error| CommandError::failed(format!("cannot find this program's own file: {error}")))?,
            },
        },
        EngineKind::Vllm | EngineKind::Sglang | EngineKind::LlamaCpp => {
            check_model(input)?;
            let program = PathBuf::from(engine.bin.as_deref().unwrap_or(match engine.kind {
                EngineKind::Vllm => "vllm",
                EngineKind::LlamaCpp => "llama-server",
                _ => "python3",
            }));
            let search_path = std::env::var_os("PATH");
            if servelab_run::launch::find_program(&program, search_path.as_deref()).is_none() {
                return Err(CommandError::failed(format!(
                    "the engine's program `{}` was not found",
                    program.display()
                ))
                .hint("install it, name it with `--engine-bin PATH`, or try the study without it: `--engine sim`"));
            }
            Engine::Process { program: engine.bin.as_ref().map(PathBuf::from) }
        }
        EngineKind::External => Engine::External {
            url: engine.url.clone().ok_or_else(|| {
                CommandError::usage("an external engine needs `engine.url`")
                    .hint("--set engine.url=http://127.0.0.1:8000")
            })?,
        },
    })
}

/// A model path that is a path must be there; an id is the engine's business.
fn check_model(input: &StudyInput) -> Result<(), CommandError> {
    let path = Path::new(&input.model_path);
    if input.study.model.path.is_some() && !path.exists() {
        return Err(CommandError::usage(format!("there is no model at `{}`", path.display())).hint(format!(
            "fetch it: `huggingface-cli download {} --local-dir {}`, or name another place: `--set model.path=DIR`",
            input.study.model.id,
            path.display()
        )));
    }
    Ok(())
}

fn options(args: &RunArgs, input: &StudyInput, plan: &Plan, retry: RetryPolicy) -> Result<RunOptions, CommandError> {
    let study = &input.study;
    let default_timeout =
        if study.engine.kind == EngineKind::Sim { SIM_START_TIMEOUT_S } else { DEFAULT_START_TIMEOUT_S };
    let ready_timeout = Duration::try_from_secs_f64(study.engine.start_timeout_s.unwrap_or(default_timeout))
        .map_err(|error| CommandError::usage(format!("`engine.start_timeout_s`: {error}")))?;
    let api_key = match &study.engine.api_key_env {
        None => None,
        Some(name) => {
            let key = std::env::var(name).map_err(|_| {
                CommandError::usage(format!("the environment variable `{name}` (engine.api_key_env) is not set"))
                    .hint(format!("export {name}=… before the run; the key is never written down"))
            })?;
            Some(ApiKey::new(key).map_err(|error| CommandError::usage(error.to_string()))?)
        }
    };
    let mut secrets: Vec<String> = input.site.secrets.iter().cloned().collect();
    secrets.extend(study.engine.api_key_env.clone());
    let mut varied: Vec<String> = plan.points.iter().flat_map(|point| point.factors.keys().cloned()).collect();
    varied.sort_unstable();
    varied.dedup();
    Ok(RunOptions {
        launch: LaunchOptions {
            env: input.site.env.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            secrets,
            port_base: input.site.port_base.unwrap_or(DEFAULT_PORT_BASE),
            ready_timeout,
            api_key,
            fabric_interface: input.site.fabric.interface.clone(),
            program: std::env::current_exe().ok(),
            ..LaunchOptions::default()
        },
        ordering: ordering(input),
        retry,
        max_cells: args.max_cells,
        slo: study.slo.request.map(|slo| RequestSlo {
            ttft_ms: slo.ttft_ms,
            tpot_ms: slo.tpot_ms,
            itl_ms: None,
            e2e_ms: slo.e2e_ms,
        }),
        success_required: study.slo.cell.0.get("success").copied(),
        varied,
        stop_early: study.stop_early.clone(),
        keep_events: !args.no_events,
        gate: super::network_test::gate_of(input),
        gpu_model: input.site.hardware.gpu.clone(),
        study_folder: args.study.study.canonicalize().ok().and_then(|path| Some(path.parent()?.to_owned())),
        container_image: input.site.container.as_ref().map(|container| container.image.clone()),
        ..RunOptions::default()
    })
}

/// Order of server starts and cells.
pub(crate) fn ordering(input: &StudyInput) -> Ordering {
    let repeats = &input.study.repeats;
    Ordering {
        order: repeats.order,
        seed: repeats.seed.unwrap_or(DEFAULT_ORDER_SEED),
        same_server: repeats.same_server,
    }
}

/// The command line as it was typed, for people to repeat.
fn resume_command() -> String {
    let mut words = std::env::args().map(|word| shell_word(&word));
    let program = words.next().unwrap_or_else(|| "servelab".to_owned());
    let program = Path::new(&program).file_name().map_or_else(|| program.clone(), |name| name.to_string_lossy().into());
    std::iter::once(program).chain(words).collect::<Vec<_>>().join(" ")
}

fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

fn finish(
    summary: &RunSummary,
    root: &Root,
    plan: &Plan,
    input: &StudyInput,
    ui: Ui,
    resume: Option<&str>,
) -> Result<ExitCode, CommandError> {
    let counts: Vec<String> = summary.states.iter().map(|(state, n)| format!("{n} {}", state.name())).collect();
    let this_run = match (counts.is_empty(), summary.finished_before, summary.skipped.len()) {
        (false, ..) => counts.join(", "),
        (true, 0, skipped) if skipped > 0 => "no cell can run; the reasons are above".to_owned(),
        (true, ..) => "nothing left to do".to_owned(),
    };
    let before = match summary.finished_before {
        0 => String::new(),
        n => format!("; {n} finished earlier"),
    };
    ui.say(&format!(
        "{}: {this_run}{before} ({})",
        input.study.study,
        servelab_core::units::human_duration(summary.elapsed_s)
    ));
    for failed in &summary.failures {
        ui.always(&format!("  failed {} {}: {}", failed.cell.short(), failed.code, failed.detail));
        if let Some(advice) = &failed.advice {
            ui.always(&format!("         {advice}"));
        }
    }
    if summary.interrupted {
        match resume {
            Some(resume) => ui.always(&format!("stopped; nothing finished is lost. Go on with: {resume}")),
            None => ui.always("stopped; nothing finished is lost. `servelab submit` takes up the rest."),
        }
        return Ok(ExitCode::from(1));
    }
    super::profiles::read(root, plan, ui)?;
    // One of many jobs: the report is for whoever looks at all of them.
    if resume.is_some()
        && let Some((folder, answer)) = super::report::write_default(root, input, ui.width())?
    {
        ui.data(&answer);
        ui.say(&format!("report: {}", folder.join("report.html").display()));
    }
    let all_tried = summary.failures.is_empty() && summary.not_startable == 0;
    Ok(if all_tried { ExitCode::SUCCESS } else { ExitCode::from(1) })
}
