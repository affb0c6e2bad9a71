//! `servelab predict`: every cell of a study on the simulated engine's virtual clock, before anything is spent; which
//! factors cannot matter, which points cannot win, and the smallest part of the study that keeps the answer.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use servelab_core::plan::Plan;

use super::{select, stored};
use crate::cli::StudyArgs;
use crate::error::CommandError;
use crate::predict::reduce::{Reduction, reduce, reduced_study};
use crate::predict::{PredictOptions, PredictedCell, predict_plan};
use crate::study_input::StudyInput;
use crate::ui::Ui;

/// Arguments of `servelab predict`.
#[derive(Debug, Args)]
pub(crate) struct PredictArgs {
    #[command(flatten)]
    study: StudyArgs,
    #[command(flatten)]
    options: PredictOptions,
    /// Print every cell as JSON
    #[arg(long)]
    json: bool,
    /// Show at most this many points
    #[arg(long, default_value_t = 30, value_name = "N")]
    max_points: usize,
    /// Write the proposed part of the study as a study file; put it beside the original, so that its paths hold
    #[arg(long, value_name = "FILE")]
    emit_study: Option<PathBuf>,
}

pub(crate) fn predict(args: &PredictArgs, ui: Ui) -> Result<ExitCode, CommandError> {
    let input = StudyInput::load(&args.study.study, &args.study.overrides())?;
    let mut plan = input.plan(&stored::winners(&args.study.root, &input))?;
    select::narrow(&mut plan, &args.study)?;
    let cells = predict_plan(&input, &plan, &args.options)?;
    let reduction = reduce(&plan, &input.study, &cells);
    if let Some(path) = &args.emit_study {
        let document = reduced_study(&input.doc.to_json(), &plan, &reduction)
            .map_err(|why| CommandError::usage(format!("cannot propose a smaller study: {why}")))?;
        let text = serde_json::to_string_pretty(&document).map_err(|error| CommandError::failed(error.to_string()))?;
        let header = format!("# Proposed by `servelab predict {}`. JSON is YAML.\n", args.study.study.display());
        servelab_store::write_atomic(path, format!("{header}{text}\n").as_bytes())?;
        ui.say(&format!("wrote {}", path.display()));
    }
    if args.json {
        let text = serde_json::to_string_pretty(&to_json(&plan, &cells, &reduction))
            .map_err(|error| CommandError::failed(error.to_string()))?;
        ui.data(&text);
    } else {
        ui.data(prediction_text(&plan, &cells, &reduction, args.max_points).trim_end());
    }
    Ok(ExitCode::SUCCESS)
}

/// What `predict --json` and `plan --predict --json` say.
pub(crate) fn to_json(plan: &Plan, cells: &[PredictedCell<'_>], reduction: &Reduction) -> serde_json::Value {
    let mut out = json!({
        "schema": 1,
        "study": plan.study,
        "simulated": true,
        "label": worst_label(cells),
        "cells": cells.iter().map(PredictedCell::to_json).collect::<Vec<_>>(),
        "node_hours": plan.node_hours,
    });
    if let (Some(out), serde_json::Value::Object(more)) = (out.as_object_mut(), reduction.to_json()) {
        out.extend(more);
    }
    out
}

fn worst_label(cells: &[PredictedCell<'_>]) -> &'static str {
    let worst = cells.iter().filter_map(|cell| cell.outcome.as_ref().ok()).map(|p| p.label).max();
    worst.map_or("unvalidated", servelab_sim::predict::Label::name)
}

/// The prediction for people.
pub(crate) fn prediction_text(
    plan: &Plan,
    cells: &[PredictedCell<'_>],
    reduction: &Reduction,
    max_points: usize,
) -> String {
    let mut out = String::new();
    let predicted = cells.iter().filter(|cell| cell.outcome.is_ok()).count();
    let _ = writeln!(
        out,
        "Prediction of {} ({}): {predicted} of {} cells, simulated, nothing was measured.",
        plan.study,
        worst_label(cells),
        cells.len()
    );
    let mut reasons: Vec<&String> = cells
        .iter()
        .filter_map(|cell| cell.outcome.as_ref().ok())
        .flat_map(|prediction| &prediction.label_reasons)
        .chain(cells.iter().flat_map(|cell| &cell.not_modelled))
        .collect();
    reasons.sort();
    reasons.dedup();
    for reason in reasons {
        let _ = writeln!(out, "  note: {reason}");
    }
    let number = |value: Option<f64>, digits: usize| value.map_or("-".to_owned(), |value| format!("{value:.digits$}"));
    let mut order: Vec<_> = reduction.points.iter().collect();
    order.sort_by_key(|point| (point.rank.is_none(), point.rank));
    let width = order.iter().take(max_points).filter_map(|p| p.labels.first()).map(|l| l.chars().count()).max();
    let width = width.unwrap_or(5).clamp(5, 48);
    let _ = writeln!(
        out,
        "\n{:>4}  {:width$}  {:>10}  {:>9}  {:>10}  {:>9}  {:>5}  {:>4}  verdict",
        "rank", "point", "tok/s", "tok/s/GPU", "TTFT p95", "TPOT", "KV", "SLO"
    );
    for point in order.iter().take(max_points) {
        let own = || cells.iter().filter(|cell| cell.point.id.as_str() == point.id);
        let kv = own().filter_map(|cell| cell.outcome.as_ref().ok()).map(|p| p.kv_peak).fold(f64::NAN, f64::max);
        let is_saturated = own().any(|cell| cell.outcome.as_ref().is_ok_and(|p| p.saturated));
        let mut verdict = point.dropped.join("; ");
        if is_saturated {
            verdict = format!("saturated{}{verdict}", if verdict.is_empty() { "" } else { "; " });
        }
        let label: String = point.labels.first().map_or("-", String::as_str).chars().take(width).collect();
        let _ = writeln!(
            out,
            "{:>4}  {label:width$}  {:>10}  {:>9}  {:>10}  {:>9}  {:>5}  {:>4}  {verdict}",
            point.rank.map_or("-".to_owned(), |rank| rank.to_string()),
            number(point.throughput, 0),
            number(point.per_gpu(), 1),
            number(point.ttft_p95_ms, 0),
            number(point.tpot_mean_ms, 2),
            if kv.is_finite() { format!("{:.0} %", 100.0 * kv) } else { "-".to_owned() },
            point.meets_slo.map_or("-", |meets| if meets { "yes" } else { "no" }),
        );
    }
    if order.len() > max_points {
        let _ = writeln!(out, "      … {} more (--max-points, --json)", order.len() - max_points);
    }
    if !reduction.factors.is_empty() {
        let _ = writeln!(out, "\nFactors under this load:");
        for factor in &reduction.factors {
            let word = match (factor.cannot_matter(), factor.is_modelled) {
                (true, _) => "cannot matter",
                (false, true) if factor.largest_change.is_some() => "matters",
                (false, true) => "unknown",
                (false, false) => "unknown",
            };
            let _ = writeln!(out, "  {:32}  {word:13}  {}", factor.name, factor.because);
        }
    }
    let _ = writeln!(
        out,
        "\nSmallest part that keeps the answer: {} of {} points, {:.1} of {:.1} node-hours (a proposal: nothing was left \
         out; `--emit-study FILE` writes it).",
        reduction.n_kept(),
        reduction.points.len(),
        reduction.node_hours_kept,
        reduction.node_hours_all
    );
    out
}
