//! `servelab compare`: two sets of results, metric by metric, with what is known about the difference.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};
use servelab_store::import::{import, import_rows};
use servelab_store::versus::{Versus, VersusRequest, versus};
use servelab_store::{ResultRow, Root, RowContext, collect_rows};
use servelab_view::{comparison_text, metric};

use super::stored;
use crate::error::CommandError;
use crate::ui::Ui;

/// Metrics compared unless others are named; those that one side lacks are left out.
const METRICS: [&str; 12] = [
    "throughput_tokens_per_sec",
    "throughput_requests_per_sec",
    "goodput_requests_per_s",
    "success_rate",
    "ttft_p50_ms",
    "ttft_p95_ms",
    "ttft_p99_ms",
    "tpot_p50_ms",
    "tpot_p99_ms",
    "itl_p95_ms",
    "e2e_latency_p50_ms",
    "e2e_latency_p95_ms",
];

/// Arguments of `servelab compare`.
#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// The baseline: a result file, a folder of them, or a label, id or legacy hash under --root
    #[arg(value_name = "A")]
    baseline: String,
    /// The candidate, named in the same ways
    #[arg(value_name = "B")]
    candidate: String,
    /// Compare this metric only (may be repeated): a column of results.csv
    #[arg(long, value_name = "M")]
    metric: Vec<String>,
    /// Folder where results live
    #[arg(long, env = "SERVELAB_ROOT", default_value = "servelab-out", value_name = "DIR")]
    root: PathBuf,
    /// Only this study's results, where several have a point of that name
    #[arg(long, value_name = "NAME")]
    study: Option<String>,
    /// Relative difference in percent that does not matter
    #[arg(long, value_name = "PERCENT", default_value_t = 2.0)]
    margin: f64,
    /// Let simulated results be compared with measured ones
    #[arg(long)]
    mix_simulated: bool,
    /// Exit with 1 when the comparison must not be believed, or the candidate is worse in a metric
    #[arg(long)]
    strict: bool,
    /// Print the comparison as JSON
    #[arg(long)]
    json: bool,
}

/// Rows of one side and where they come from.
struct Side {
    rows: Vec<ResultRow>,
    /// The study, for points of a root; `None` for files.
    study: Option<String>,
}

pub(crate) fn compare(args: &CompareArgs, ui: Ui) -> Result<ExitCode, CommandError> {
    if !(args.margin.is_finite() && args.margin > 0.0) {
        return Err(CommandError::usage("`--margin` is a percentage above 0"));
    }
    let (a, b) = (side(args, &args.baseline, ui)?, side(args, &args.candidate, ui)?);
    let metrics: Vec<String> = if args.metric.is_empty() {
        METRICS.iter().map(|name| (*name).to_owned()).collect()
    } else {
        args.metric.iter().map(|name| stored::metric_column(name)).collect()
    };
    for name in &args.metric {
        let column = stored::metric_column(name);
        if !a.rows.iter().chain(&b.rows).any(|row| metric(row, &column).is_some()) {
            let near = servelab_core::source::did_you_mean(name, METRICS);
            return Err(CommandError::usage(format!("`--metric {name}`: no result has this metric")).hint(
                near.map_or_else(
                    || "the columns of results.csv are the metrics".to_owned(),
                    |near| format!("did you mean `{near}`?"),
                ),
            ));
        }
    }
    let margin = args.margin / 100.0;
    let is_higher_better = |name: &str| servelab_view::is_higher_better(name);
    let request = VersusRequest {
        metrics: &metrics,
        value: &metric,
        is_higher_better: &is_higher_better,
        // Points of one study share prompts and arrivals, repeat by repeat.
        share_inputs: a.study.is_some() && a.study == b.study,
        mix_simulated: args.mix_simulated,
        margin,
    };
    let found = versus(&a.rows, &b.rows, &request);
    if args.json {
        let document = document(&found, args);
        ui.data(&serde_json::to_string_pretty(&document).map_err(|error| CommandError::failed(error.to_string()))?);
    } else {
        let names = (short(&args.baseline), short(&args.candidate));
        ui.data(&comparison_text(&found, (&names.0, &names.1), margin, ui.width()));
    }
    let is_worse =
        found.conditions.iter().flat_map(|c| &c.metrics).any(|m| m.call == servelab_core::verdict::Call::Worse);
    if args.strict && (!found.verdict.ok || is_worse) {
        return Ok(ExitCode::from(1));
    }
    Ok(ExitCode::SUCCESS)
}

/// The last two parts of a path: a table's header has little room.
fn short(name: &str) -> String {
    let parts: Vec<&str> = name.split('/').filter(|part| !part.is_empty()).collect();
    if parts.len() <= 2 {
        name.to_owned()
    } else {
        parts.iter().skip(parts.len() - 2).copied().collect::<Vec<_>>().join("/")
    }
}

fn side(args: &CompareArgs, name: &str, ui: Ui) -> Result<Side, CommandError> {
    let path = Path::new(name);
    if path.exists() {
        let imports = import(&[path.to_owned()]).map_err(|error| CommandError::usage(format!("cannot {error}")))?;
        for skipped in imports.skipped.iter().filter(|skipped| skipped.is_problem) {
            ui.always(&format!("warning: `{}` was not read: {}", skipped.path.display(), skipped.reason));
        }
        if imports.results.is_empty() {
            return Err(CommandError::usage(format!("there is no result in `{name}`")));
        }
        return Ok(Side { rows: import_rows(&imports.results), study: None });
    }
    from_root(args, name)
}

fn from_root(args: &CompareArgs, name: &str) -> Result<Side, CommandError> {
    let unknown = |detail: &str| {
        CommandError::usage(format!("`{name}` is no file or folder, and {detail}"))
            .hint("name a result file, a folder of them, or a label, id or legacy hash of a study under --root")
    };
    if !args.root.exists() {
        return Err(unknown(&format!("there are no results under `{}`", args.root.display())));
    }
    let root = Root::open(&args.root)?;
    let mut found: Vec<Side> = Vec::new();
    let mut labels: Vec<String> = Vec::new();
    for study in root.studies()?.into_iter().filter(|study| args.study.as_ref().is_none_or(|only| only == study)) {
        let Some(mut plan) = stored::plan_with_history(&root, &study)? else { continue };
        labels.extend(plan.points.iter().flat_map(|point| point.labels.iter().cloned()));
        let is_prefix = |id: &str| name.len() >= 6 && id.starts_with(name);
        let points: Vec<_> = plan
            .points
            .iter()
            .filter(|point| {
                point.labels.iter().any(|label| label == name)
                    || point.legacy_hashes.values().any(|hash| hash == name)
                    || is_prefix(point.id.as_str())
            })
            .map(|point| point.id.clone())
            .collect();
        plan.cells.retain(|cell| points.contains(&cell.point) || is_prefix(cell.id.as_str()));
        if plan.cells.is_empty() {
            continue;
        }
        let rows = collect_rows(&root, &plan, &RowContext::default())?;
        let rows: Vec<ResultRow> = rows.into_iter().filter(|row| row.attempt.is_some()).collect();
        found.push(Side { rows, study: Some(study) });
    }
    if found.len() > 1 {
        let studies: Vec<&str> = found.iter().filter_map(|side| side.study.as_deref()).collect();
        return Err(CommandError::usage(format!("`{name}` is in several studies: {}", studies.join(", ")))
            .hint("choose one with --study NAME"));
    }
    match found.pop() {
        Some(side) if side.rows.is_empty() => Err(CommandError::failed(format!("`{name}` has no result yet"))),
        Some(side) => Ok(side),
        None => {
            let near = servelab_core::source::did_you_mean(name, labels.iter().map(String::as_str));
            let error = unknown("no study under the root has a point or cell of that name");
            Err(match near {
                Some(near) => error.hint(format!("did you mean `{near}`?")),
                None => error,
            })
        }
    }
}

fn document(found: &Versus, args: &CompareArgs) -> Value {
    let finite = |x: f64| if x.is_finite() { json!(x) } else { Value::Null };
    let list: Vec<Value> = found
        .conditions
        .iter()
        .flat_map(|condition| condition.metrics.iter().map(move |metric| (condition, metric)))
        .map(|(condition, metric)| {
            let c = &metric.comparison;
            json!({
                "condition": condition.condition,
                "metric": metric.metric,
                "a": {"mean": c.baseline, "n": c.n_baseline},
                "b": {"mean": c.candidate, "n": c.n_candidate},
                "difference": c.difference.estimate,
                "ci95": [finite(c.difference.low), finite(c.difference.high)],
                "relative": c.relative,
                "is_paired": c.is_paired,
                "p": c.p,
                "p_holm": metric.p_adjusted,
                "p_permutation": c.p_permutation,
                "effect_size": c.effect_size,
                "call": metric.call.name(),
                "repeats_needed": metric.repeats_needed,
            })
        })
        .collect();
    json!({"schema": 1, "a": args.baseline, "b": args.candidate, "margin_percent": args.margin, "comparisons": list, "verdict": found.verdict})
}
