//! `servelab trace`: what profiler traces say. One file per subcommand.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use servelab_trace::TraceError;

use crate::error::CommandError;
use crate::ui::Ui;

mod attach;
mod card;
mod compare;
mod measure;
mod outputs;

/// Arguments of `servelab trace`.
#[derive(Debug, Args)]
pub(crate) struct TraceArgs {
    #[command(subcommand)]
    command: TraceCommand,
}

pub(crate) use outputs::write_timings;

#[derive(Debug, Subcommand)]
enum TraceCommand {
    /// The few numbers that explain a run, for reading
    Summary(measure::SummaryArgs),
    /// Every metric with its value or the reason why there is none
    Metrics(measure::MetricsArgs),
    /// What changed between two traces, and gates for CI
    Compare(compare::CompareArgs),
    /// Write a workload card from what was measured, or check one
    Card(card::CardArgs),
    /// Speed-up and communication share over configurations of different sizes
    Scaling(compare::ScalingArgs),
}

pub(crate) fn trace(args: &TraceArgs, ui: Ui) -> Result<ExitCode, CommandError> {
    match &args.command {
        TraceCommand::Summary(args) => measure::summary(args, ui),
        TraceCommand::Metrics(args) => measure::metrics(args, ui),
        TraceCommand::Compare(args) => compare::run(args, ui),
        TraceCommand::Card(args) => card::run(args, ui),
        TraceCommand::Scaling(args) => compare::run_scaling(args, ui),
    }
}

impl From<TraceError> for CommandError {
    fn from(error: TraceError) -> Self {
        Self::usage(format!("cannot {error}"))
    }
}

pub(crate) fn json(value: &impl serde::Serialize) -> Result<String, CommandError> {
    serde_json::to_string_pretty(value).map_err(|error| CommandError::failed(error.to_string()))
}
