//! The command line: clap structures (their doc comments are the help) and the dispatch to `commands`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use servelab_core::study::EngineKind;

use crate::commands;
use crate::error::CommandError;
use crate::study_input::Overrides;
use crate::ui::Ui;

/// The laboratory for LLM serving: turns a study file into evidence you can act on.
#[derive(Debug, Parser)]
#[command(name = "servelab", version, about, max_term_width = 110, propagate_version = true)]
pub(crate) struct Cli {
    /// Say less: no progress, only errors and warnings
    #[arg(long, short, global = true)]
    quiet: bool,
    /// Say more
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write a commented study and site to start from
    Init(commands::init::InitArgs),
    /// Show what a study expands to: points, cells, infeasible ones, cost
    Plan(commands::plan::PlanArgs),
    /// Make and inspect prompt sets
    Dataset(commands::dataset::DatasetArgs),
    /// Run a study on this machine; run it again to go on where it stopped
    Run(commands::run::RunArgs),
    /// Measure one load against any OpenAI-compatible endpoint
    Bench(Box<commands::bench::BenchArgs>),
    /// Hand a study to the site's scheduler; call it again to submit what is left
    Submit(commands::submit::SubmitArgs),
    /// Show how far a study is and what failed
    Status(commands::status::StatusArgs),
    /// Cancel a study's jobs
    Cancel(commands::cancel::CancelArgs),
    /// Show the server logs of a point or cell
    Logs(commands::logs::LogsArgs),
    /// Write tables and reports of a study's results
    Report(commands::report::ReportArgs),
    /// Say which point to use, how sure that is, and print it as a command, a file or a study
    Best(commands::best::BestArgs),
    /// Compare two points, files or folders of results
    Compare(commands::compare::CompareArgs),
    /// Keep what was learnt, with numbers that can be checked against the data
    Finding(commands::finding::FindingArgs),
    /// Read results of other tools, under one set of definitions
    Import(commands::import::ImportArgs),
    /// Predict a study's cells before anything is spent
    Predict(commands::predict::PredictArgs),
    /// Learn from a few measured cells how this server differs from the prediction
    Calibrate(commands::calibrate::CalibrateArgs),
    /// Serve a simulated vLLM over HTTP
    Sim(commands::sim::SimArgs),
    /// Route requests to replicas, or to prefill and decode servers with the hand-over between them
    Router(commands::router::RouterArgs),
    /// Test bandwidth and latency between two nodes, against a study's thresholds
    NetworkTest(commands::network_test::NetworkTestArgs),
    /// Run one rank of a server that spans nodes
    #[command(hide = true)]
    Rank(commands::rank::RankArgs),
    /// Start Ray's head, wait for its nodes, then start a server
    #[command(hide = true)]
    RayHead(commands::ray_head::RayHeadArgs),
    /// Read profiler traces: summary, metrics
    Trace(commands::trace::TraceArgs),
    /// Check this machine and the site behind it
    Doctor(commands::doctor::DoctorArgs),
    /// Explain a verdict or failure code
    Explain(commands::explain::ExplainArgs),
    /// Print a shell completion script
    Completions(commands::docs::CompletionsArgs),
    /// Print the manual page
    Man(commands::docs::ManArgs),
    /// Print the JSON Schema of study or site files
    Schema(commands::schema::SchemaArgs),
}

/// Folder where results live unless told otherwise.
const DEFAULT_ROOT: &str = "servelab-out";

/// What study commands have in common.
#[derive(Debug, Clone, Args)]
pub(crate) struct StudyArgs {
    /// The study file
    #[arg(value_name = "STUDY")]
    pub(crate) study: PathBuf,
    /// Folder where results live
    #[arg(long, env = "SERVELAB_ROOT", default_value = DEFAULT_ROOT, value_name = "DIR")]
    pub(crate) root: PathBuf,
    /// Only this design (may be repeated)
    #[arg(long, value_name = "NAME")]
    pub(crate) design: Vec<String>,
    /// Only this point or cell: a label, an id or its beginning, or a legacy hash (may be repeated)
    #[arg(long, value_name = "LABEL|ID|HASH")]
    pub(crate) only: Vec<String>,
    /// Change a key of the study: `load.stop.requests=20` (may be repeated)
    #[arg(long, value_name = "KEY=YAML")]
    pub(crate) set: Vec<String>,
    /// Use another site: a name or a path
    #[arg(long, value_name = "SITE")]
    pub(crate) site: Option<String>,
    /// Use another engine; makes other points
    #[arg(long, value_enum, value_name = "KIND")]
    pub(crate) engine: Option<EngineArg>,
    /// Path of the engine's executable
    #[arg(long, value_name = "PATH")]
    pub(crate) engine_bin: Option<String>,
    /// At most this many requests per cell; makes other cells
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_requests: Option<u32>,
    /// Folder at which relative paths of the study begin, when it is not the study file's
    #[arg(long, value_name = "DIR", hide = true)]
    pub(crate) study_folder: Option<PathBuf>,
}

/// Engines by name.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum EngineArg {
    /// The simulated engine
    Sim,
    /// vLLM
    Vllm,
    /// SGLang
    Sglang,
    /// llama.cpp's llama-server
    #[value(name = "llamacpp")]
    LlamaCpp,
    /// A server that runs already
    External,
}

impl StudyArgs {
    /// The root as a suggested command must name it; nothing for the default.
    pub(crate) fn root_to_type(&self) -> Option<&str> {
        self.root.to_str().filter(|root| *root != DEFAULT_ROOT && std::env::var_os("SERVELAB_ROOT").is_none())
    }

    pub(crate) fn overrides(&self) -> Overrides {
        Overrides {
            set: self.set.clone(),
            site: self.site.clone(),
            engine: self.engine.map(|engine| match engine {
                EngineArg::Sim => EngineKind::Sim,
                EngineArg::Vllm => EngineKind::Vllm,
                EngineArg::Sglang => EngineKind::Sglang,
                EngineArg::LlamaCpp => EngineKind::LlamaCpp,
                EngineArg::External => EngineKind::External,
            }),
            engine_bin: self.engine_bin.clone(),
            max_requests: self.max_requests,
            help_capture: None,
            folder: self.study_folder.clone(),
        }
    }

    /// The options that change which engine runs, as they must be repeated in a job. `--set` is not among them: it is in
    /// the study that the job reads.
    pub(crate) fn engine_words(&self) -> Vec<String> {
        let mut words = Vec::new();
        let kind = self.engine.and_then(|engine| Some(engine.to_possible_value()?.get_name().to_owned()));
        let requests = self.max_requests.map(|n| n.to_string());
        for (option, value) in
            [("--engine", kind), ("--engine-bin", self.engine_bin.clone()), ("--max-requests", requests)]
        {
            words.extend(value.into_iter().flat_map(|value| [option.to_owned(), value]));
        }
        words
    }
}

/// Parses, runs, and turns the outcome into an exit code.
pub(crate) fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let ui = Ui::new(cli.quiet, cli.verbose);
    match dispatch(cli.command, ui) {
        Ok(code) => code,
        Err(error) => {
            ui.always(&error.text());
            error.exit_code()
        }
    }
}

fn dispatch(command: Command, ui: Ui) -> Result<ExitCode, CommandError> {
    match command {
        Command::Init(args) => commands::init::init(args, ui),
        Command::Plan(args) => commands::plan::plan(&args, ui),
        Command::Dataset(args) => commands::dataset::dataset(args, ui),
        Command::Run(args) => commands::run::run(&args, ui),
        Command::Bench(args) => commands::bench::bench(&args, ui),
        Command::Submit(args) => commands::submit::submit(&args, ui),
        Command::Cancel(args) => commands::cancel::cancel(&args, ui),
        Command::Status(args) => commands::status::status(&args, ui),
        Command::Logs(args) => commands::logs::logs(&args, ui),
        Command::Report(args) => commands::report::report(&args, ui),
        Command::Best(args) => commands::best::best(&args, ui),
        Command::Compare(args) => commands::compare::compare(&args, ui),
        Command::Finding(args) => commands::finding::finding(&args, ui),
        Command::Import(args) => commands::import::import(&args, ui),
        Command::Predict(args) => commands::predict::predict(&args, ui),
        Command::Calibrate(args) => commands::calibrate::calibrate(&args, ui),
        Command::Sim(args) => commands::sim::sim(args, ui),
        Command::NetworkTest(args) => commands::network_test::network_test(&args, ui),
        Command::Router(args) => commands::router::router(args, ui),
        Command::Rank(args) => commands::rank::rank(args, ui),
        Command::RayHead(args) => commands::ray_head::ray_head(args, ui),
        Command::Trace(args) => commands::trace::trace(&args, ui),
        Command::Doctor(args) => commands::doctor::doctor(&args, ui),
        Command::Explain(args) => commands::explain::explain(&args, ui),
        Command::Completions(args) => commands::docs::completions(&args, &mut Cli::command(), ui),
        Command::Man(args) => commands::docs::man(&args, Cli::command(), ui),
        Command::Schema(args) => commands::schema::schema(&args, ui),
    }
}
