//! `servelab trace compare`: two traces or folders of ranks, what changed, and gates for CI. `servelab trace scaling`: many
//! of them by their number of GPUs.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use servelab_core::source::did_you_mean;
use servelab_core::trace::TraceReport;
use servelab_core::trace::catalogue::trace_metric;
use servelab_core::trace::compare::{Gate, GateOutcome, TraceComparison, compare};
use servelab_core::trace::scaling::scaling;
use servelab_view::{compare_text, scaling_svg, scaling_text, svg_to_png};

use super::measure::SourceOptions;
use crate::error::CommandError;
use crate::ui::Ui;

/// Arguments of `servelab trace compare`.
#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// The baseline: a trace, or a folder of ranks
    #[arg(value_name = "A")]
    a: PathBuf,
    /// What is compared with it
    #[arg(value_name = "B")]
    b: PathBuf,
    #[command(flatten)]
    options: SourceOptions,
    /// Exit with 1 when this holds (may be repeated): `iteration_wall_clock>+5%` (change in percent), `ttft>+0.2` (change in
    /// its unit), `comm_overhead>0.3` (value of B), `kernels.gemm>+10%`, `exposed.nccl>+1` (milliseconds)
    #[arg(long, value_name = "EXPR", allow_hyphen_values = true)]
    fail_on: Vec<String>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &CompareArgs, ui: Ui) -> Result<ExitCode, CommandError> {
    let gates = args
        .fail_on
        .iter()
        .map(|text| {
            Gate::parse(text).map(canonical).map_err(|reason| CommandError::usage(format!("`--fail-on`: {reason}")))
        })
        .collect::<Result<Vec<Gate>, _>>()?;
    let a = args.options.report(std::slice::from_ref(&args.a))?;
    let b = args.options.report(std::slice::from_ref(&args.b))?;
    let comparison = compare(&args.a.display().to_string(), &a, &args.b.display().to_string(), &b);
    let outcomes = gates.iter().map(|gate| decide(gate, &comparison)).collect::<Result<Vec<_>, _>>()?;
    if args.json {
        #[derive(serde::Serialize)]
        struct Document<'a> {
            #[serde(flatten)]
            comparison: &'a TraceComparison,
            gates: &'a [GateOutcome],
        }
        ui.data(&super::json(&Document { comparison: &comparison, gates: &outcomes })?);
    } else {
        ui.data(&compare_text(&comparison, &outcomes, ui.width()));
    }
    Ok(if outcomes.iter().any(|outcome| outcome.failed) { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

/// Metrics may be called by the names that scripts use.
fn canonical(gate: Gate) -> Gate {
    let name = trace_metric(gate.name()).map(|doc| doc.name);
    match name {
        Some(name) => gate.renamed(name),
        None => gate,
    }
}

fn decide(gate: &Gate, comparison: &TraceComparison) -> Result<GateOutcome, CommandError> {
    gate.check(comparison).ok_or_else(|| {
        let names = Gate::names(comparison);
        let near = did_you_mean(gate.name(), names.iter().map(String::as_str));
        CommandError::usage(format!("`--fail-on`: neither side knows `{}`", gate.name())).hint(near.map_or_else(
            || "names are metrics (`servelab trace metrics`), kernels.FAMILY, comm.FAMILY, exposed.FAMILY and part.idle".to_owned(),
            |near| format!("did you mean `{near}`?"),
        ))
    })
}

/// Arguments of `servelab trace scaling`.
#[derive(Debug, Args)]
pub(crate) struct ScalingArgs {
    /// A folder of ranks (or a trace) for each configuration
    #[arg(required = true, value_name = "DIR")]
    runs: Vec<PathBuf>,
    #[command(flatten)]
    options: SourceOptions,
    /// Folder for results_summary.csv, scaling_analysis.svg and scaling_analysis.png
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run_scaling(args: &ScalingArgs, ui: Ui) -> Result<ExitCode, CommandError> {
    let mut runs: Vec<(String, TraceReport)> = Vec::new();
    for path in &args.runs {
        runs.push((label(path, &args.runs), args.options.report(std::slice::from_ref(path))?));
    }
    let table = scaling(&runs);
    if let Some(out) = &args.out {
        std::fs::create_dir_all(out)
            .map_err(|error| CommandError::failed(format!("cannot make `{}`: {error}", out.display())))?;
        let svg = scaling_svg(&table);
        let png = svg_to_png(&svg, 2.0).map_err(|error| CommandError::failed(format!("cannot {error}")))?;
        servelab_store::write_atomic(&out.join("results_summary.csv"), table.to_csv().as_bytes())?;
        servelab_store::write_atomic(&out.join("scaling_analysis.svg"), svg.as_bytes())?;
        servelab_store::write_atomic(&out.join("scaling_analysis.png"), &png)?;
        ui.say(&format!("wrote results_summary.csv, scaling_analysis.svg, scaling_analysis.png to {}", out.display()));
    }
    if args.json {
        ui.data(&super::json(&table)?);
    } else {
        ui.data(&scaling_text(&table, ui.width()));
    }
    Ok(ExitCode::SUCCESS)
}

/// The last part of a path, or the whole where that is not unique.
fn label(path: &Path, all: &[PathBuf]) -> String {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let own = name(path);
    let is_unique = !own.is_empty() && all.iter().filter(|other| name(other) == own).count() == 1;
    if is_unique { own } else { path.display().to_string() }
}
