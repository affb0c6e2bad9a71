//! `servelab trace summary` and `servelab trace metrics`: traces in, numbers out.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use servelab_core::trace::TraceReport;
use servelab_core::trace::catalogue::{similar_trace_metrics, trace_metric};
use servelab_trace::{Taxonomy, input, load};
use servelab_view::{trace_metrics_text, trace_summary_text};

use crate::error::CommandError;
use crate::files::read_text;
use crate::ui::Ui;

/// What commands over traces have in common.
#[derive(Debug, Args)]
pub(crate) struct SourceArgs {
    /// Trace files, or folders of them: one file per rank
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Own rules for kernel names, in front of the built-in ones
    #[arg(long, value_name = "FILE")]
    taxonomy: Option<PathBuf>,
    /// Files read at the same time; all processors unless given
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
}

impl SourceArgs {
    pub(crate) fn taxonomy(&self) -> Result<Taxonomy, CommandError> {
        let Some(path) = &self.taxonomy else { return Ok(Taxonomy::builtin()?) };
        let name = path.to_string_lossy();
        let text = read_text(&name).map_err(|reason| CommandError::usage(format!("cannot read `{name}`: {reason}")))?;
        Ok(Taxonomy::with_user_rules(&name, &text)?)
    }

    pub(crate) fn threads(&self) -> usize {
        self.threads.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get)
    }

    pub(crate) fn report(&self) -> Result<TraceReport, CommandError> {
        let taxonomy = self.taxonomy()?;
        let inputs = input::discover(&self.paths)?;
        Ok(load::measure(&inputs, &taxonomy, self.threads())?)
    }
}

/// Arguments of `servelab trace summary`.
#[derive(Debug, Args)]
pub(crate) struct SummaryArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// Print the whole report as JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `servelab trace metrics`.
#[derive(Debug, Args)]
pub(crate) struct MetricsArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// Only this metric, by its name or the name that scripts use (may be repeated)
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn summary(args: &SummaryArgs, ui: Ui) -> Result<ExitCode, CommandError> {
    let report = args.source.report()?;
    if args.json {
        ui.data(&json(&report)?);
    } else {
        ui.data(&trace_summary_text(&report, ui.width()));
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn metrics(args: &MetricsArgs, ui: Ui) -> Result<ExitCode, CommandError> {
    let mut only = Vec::new();
    for name in &args.only {
        let Some(doc) = trace_metric(name) else {
            let near = similar_trace_metrics(name);
            let hint = if near.is_empty() {
                "`servelab trace metrics PATH` lists them all".to_owned()
            } else {
                format!(
                    "did you mean {}?",
                    near.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" or ")
                )
            };
            return Err(CommandError::usage(format!("there is no trace metric `{name}`")).hint(hint));
        };
        only.push(doc.name);
    }
    let mut report = args.source.report()?;
    if args.json {
        if !only.is_empty() {
            report.metrics.retain(|name, _| only.contains(&name.as_str()));
        }
        ui.data(&json(&report)?);
    } else {
        ui.data(&trace_metrics_text(&report, &only, ui.width()));
    }
    Ok(ExitCode::SUCCESS)
}

fn json(report: &TraceReport) -> Result<String, CommandError> {
    serde_json::to_string_pretty(report).map_err(|error| CommandError::failed(error.to_string()))
}
