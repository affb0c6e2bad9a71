//! `servelab plan`: what a study expands to, before anything is spent. With `--write` the plan and its manifest go to
//! the study's folder under the root; otherwise nothing on disk changes.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{check_engine, select, stored};
use crate::cli::StudyArgs;
use crate::error::CommandError;
use crate::predict::reduce::reduce;
use crate::predict::{PredictOptions, predict_plan};
use crate::study_input::StudyInput;
use crate::ui::Ui;

/// Arguments of `servelab plan`.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    study: StudyArgs,
    /// Print the whole plan as JSON
    #[arg(long, conflicts_with = "summary")]
    json: bool,
    /// Only counts; fast for very large studies
    #[arg(long)]
    summary: bool,
    /// Show at most this many points
    #[arg(long, default_value_t = 60, value_name = "N")]
    max_points: usize,
    /// Write MANIFEST.md and plan.json into the study's folder under the root
    #[arg(long)]
    write: bool,
    /// Print MANIFEST.md instead of the plan
    #[arg(long, conflicts_with_all = ["json", "summary"])]
    manifest: bool,
    /// Predict every cell as well; nothing is measured
    #[arg(long, conflicts_with_all = ["summary", "manifest"])]
    predict: bool,
    #[command(flatten)]
    options: PredictOptions,
    /// A captured `vllm serve --help=all` of the target environment; beats the built-in flag tables
    #[arg(long, value_name = "FILE")]
    help_capture: Option<PathBuf>,
    /// Ask the installed engine whether it takes every distinct flag set (vLLM or SGLang; `--engine-bin` names it)
    #[arg(long, conflicts_with_all = ["summary", "manifest"])]
    check_engine: bool,
}

pub(crate) fn plan(args: &PlanArgs, ui: Ui) -> Result<ExitCode, CommandError> {
    let mut overrides = args.study.overrides();
    overrides.help_capture.clone_from(&args.help_capture);
    let input = StudyInput::load(&args.study.study, &overrides)?;
    if args.summary {
        let summary = input.summary()?;
        ui.data(&servelab_view::summary_text(&summary, ui.width()));
        return Ok(ExitCode::SUCCESS);
    }
    let winners = stored::winners(&args.study.root, &input);
    let mut plan = input.plan(&winners)?;
    select::narrow(&mut plan, &args.study)?;
    if args.write {
        let root = servelab_store::Root::open_or_create(&args.study.root)?;
        let folder = stored::write_plan(&root, &input, &plan, &args.study.study)?;
        ui.say(&format!("wrote {}", folder.display()));
    }
    let check = if args.check_engine { Some(check_engine::check(&input, &plan, ui)?) } else { None };
    let prediction = if args.predict { Some(predict_plan(&input, &plan, &args.options)?) } else { None };
    if args.json {
        let failed = |error: serde_json::Error| CommandError::failed(error.to_string());
        // A plan alone keeps the order of its keys.
        let text = if prediction.is_none() && check.is_none() {
            serde_json::to_string_pretty(&plan).map_err(failed)?
        } else {
            let mut all = serde_json::to_value(&plan).map_err(failed)?;
            let mut add = |name: &str, value| all.as_object_mut().map(|all| all.insert(name.to_owned(), value));
            if let Some(cells) = &prediction {
                let reduction = reduce(&plan, &input.study, cells);
                add("prediction", super::predict::to_json(&plan, cells, &reduction));
            }
            if let Some(check) = &check {
                add("engine_check", serde_json::to_value(check).map_err(failed)?);
            }
            serde_json::to_string_pretty(&all).map_err(failed)?
        };
        ui.data(&text);
    } else if args.manifest {
        ui.data(&stored::manifest(&input, &plan, &args.study.study));
    } else {
        let file = args.study.study.to_string_lossy();
        let options = servelab_view::PlanTextOptions {
            width: ui.width(),
            verbose: ui.is_verbose(),
            max_points: args.max_points,
            how: stored::how_to_run(&input, &file, args.study.root_to_type()),
        };
        ui.data(&servelab_view::plan_text(&plan, &input.study, &options));
        if let Some(cells) = &prediction {
            let reduction = reduce(&plan, &input.study, cells);
            let text = super::predict::prediction_text(&plan, cells, &reduction, args.max_points);
            ui.data(&format!("\n{}", text.trim_end()));
        }
        if let Some(check) = &check {
            ui.data(&format!("\n{}", check_engine::text(check).trim_end()));
        }
    }
    let is_refused = check.is_some_and(|check| check.refused().next().is_some());
    Ok(if is_refused { ExitCode::from(1) } else { ExitCode::SUCCESS })
}
