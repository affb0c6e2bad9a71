//! `servelab trace`: what profiler traces say. One file per subcommand.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use servelab_trace::TraceError;

use crate::error::CommandError;
use crate::ui::Ui;

mod measure;

/// Arguments of `servelab trace`.
#[derive(Debug, Args)]
pub(crate) struct TraceArgs {
    #[command(subcommand)]
    command: TraceCommand,
}

#[derive(Debug, Subcommand)]
enum TraceCommand {
    /// The few numbers that explain a run, for reading
    Summary(measure::SummaryArgs),
    /// Every metric with its value or the reason why there is none
    Metrics(measure::MetricsArgs),
}

pub(crate) fn trace(args: &TraceArgs, ui: Ui) -> Result<ExitCode, CommandError> {
    match &args.command {
        TraceCommand::Summary(args) => measure::summary(args, ui),
        TraceCommand::Metrics(args) => measure::metrics(args, ui),
    }
}

impl From<TraceError> for CommandError {
    fn from(error: TraceError) -> Self {
        Self::usage(format!("cannot {error}"))
    }
}
