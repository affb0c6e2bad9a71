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

use super::attach::AttachArgs;
use super::json;
use super::outputs::{OutputArgs, write_timings};

/// What commands over traces have in common.
#[derive(Debug, Args)]
pub(crate) struct SourceOptions {
    /// Own rules for kernel names, in front of the built-in ones
    #[arg(long, value_name = "FILE")]
    taxonomy: Option<PathBuf>,
    /// Files read at the same time; all processors unless given
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
}

/// Traces to read, and how.
#[derive(Debug, Args)]
pub(crate) struct SourceArgs {
    /// Trace files, or folders of them: one file per rank
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    options: SourceOptions,
}

impl SourceOptions {
    pub(crate) fn taxonomy(&self) -> Result<Taxonomy, CommandError> {
        let Some(path) = &self.taxonomy else { return Ok(Taxonomy::builtin()?) };
        let name = path.to_string_lossy();
        let text = read_text(&name).map_err(|reason| CommandError::usage(format!("cannot read `{name}`: {reason}")))?;
        Ok(Taxonomy::with_user_rules(&name, &text)?)
    }

    pub(crate) fn threads(&self) -> usize {
        self.threads.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get)
    }

    /// The report of one run.
    pub(crate) fn report(&self, paths: &[PathBuf]) -> Result<TraceReport, CommandError> {
        Ok(self.load(paths, None)?.report)
    }

    /// The report with all that can be made in the same pass.
    pub(crate) fn load(&self, paths: &[PathBuf], n_bins: Option<u32>) -> Result<load::Loaded, CommandError> {
        let inputs = input::discover(paths)?;
        Ok(load::load(&inputs, &self.taxonomy()?, self.threads(), n_bins)?)
    }
}

/// Arguments of `servelab trace summary`.
#[derive(Debug, Args)]
pub(crate) struct SummaryArgs {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    outputs: OutputArgs,
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
    #[command(flatten)]
    attach: AttachArgs,
    /// Write timing_stats_RANK.json files to this folder
    #[arg(long, value_name = "DIR")]
    timing_stats: Option<PathBuf>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn summary(args: &SummaryArgs, ui: Ui) -> Result<ExitCode, CommandError> {
    let SourceArgs { paths, options } = &args.source;
    let loaded = options.load(paths, args.outputs.n_bins())?;
    args.outputs.write(&loaded, paths, options, ui)?;
    let report = loaded.report;
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
    let SourceArgs { paths, options } = &args.source;
    let loaded = options.load(paths, None)?;
    let mut report = loaded.report;
    if let Some(folder) = &args.timing_stats {
        write_timings(folder, &loaded.timings, ui)?;
    }
    args.attach.attach(&report, ui)?;
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
