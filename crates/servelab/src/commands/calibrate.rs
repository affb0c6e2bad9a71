//! `servelab calibrate`: factors on the step-time model from a few measured cells of a study, or result files with a
//! description of the server; scored on points that the fit did not see, and refused where it makes things worse.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::json;
use servelab_sim::predict::{CalibrationPoint, fit_calibration, predict_calibrated};
use servelab_sim::step_time::Calibration;
use servelab_store::{Root, collect_rows};

use super::{select, stored};
use crate::cli::StudyArgs;
use crate::error::CommandError;
use crate::predict::{CellLoads, PredictOptions, load_of_import, servers};
use crate::study_input::StudyInput;
use crate::ui::Ui;

/// Version of the calibration file.
const CALIBRATION_SCHEMA_VERSION: u32 = 1;
/// Fewer measured cells say nothing about a fit: one is left out in turn.
const FEWEST_POINTS: usize = 2;

/// Arguments of `servelab calibrate`.
#[derive(Debug, Args)]
pub(crate) struct CalibrateArgs {
    #[command(flatten)]
    study: StudyArgs,
    #[command(flatten)]
    options: PredictOptions,
    /// Results of another tool, measured on the configuration with this label: `LABEL=PATH` (a file, or a folder with
    /// such files); may be repeated, and stands beside the study's own cells
    #[arg(long, value_name = "LABEL=PATH", value_parser = labelled_path)]
    results: Vec<(String, PathBuf)>,
    /// Where to write the factors
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Print the fit and its scores as JSON
    #[arg(long)]
    json: bool,
}

/// What `calibrate` writes and `predict --calibration` reads.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CalibrationFile {
    schema: u32,
    /// Model, GPU and engine version that the factors hold for.
    model: String,
    gpu: String,
    engine_version: String,
    /// The factors.
    pub(crate) calibration: Calibration,
    /// How good they are.
    scores: Scores,
}

/// Mean absolute relative errors, of mean TTFT and mean TPOT together (0.1 is 10 %).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Scores {
    /// Cells that were fitted.
    cells: usize,
    /// Without calibration.
    uncalibrated: f64,
    /// On the fitted cells.
    fitted: f64,
    /// On cells left out of the fit, one at a time.
    held_out: f64,
    /// The same cells without calibration.
    held_out_uncalibrated: f64,
}

impl CalibrationFile {
    /// Reads a calibration file.
    pub(crate) fn read(path: &Path) -> Result<Self, CommandError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| CommandError::usage(format!("cannot read `{}`: {error}", path.display())))?;
        let file: Self = serde_json::from_str(&text).map_err(|error| {
            CommandError::usage(format!("cannot use `{}` as a calibration: {error}", path.display()))
                .hint("`servelab calibrate STUDY --out FILE` writes one")
        })?;
        if file.schema > CALIBRATION_SCHEMA_VERSION {
            return Err(CommandError::usage(format!(
                "`{}` has calibration schema {}, this version reads up to {CALIBRATION_SCHEMA_VERSION}",
                path.display(),
                file.schema
            )));
        }
        Ok(file)
    }

    /// Whether the factors hold for such a server; the words say why not.
    pub(crate) fn applies_to(&self, model: &str, gpu: &str, version: &str) -> Result<(), String> {
        let minor = |text: &str| text.split('.').take(2).collect::<Vec<_>>().join(".");
        for (what, own, asked) in [
            ("model", self.model.as_str(), model),
            ("GPU", self.gpu.as_str(), gpu),
            ("engine version", &minor(&self.engine_version), &minor(version)),
        ] {
            if own != asked {
                return Err(format!("it was made for {what} {own}, not {asked}"));
            }
        }
        Ok(())
    }
}

pub(crate) fn calibrate(args: &CalibrateArgs, ui: Ui) -> Result<ExitCode, CommandError> {
    let input = StudyInput::load(&args.study.study, &args.study.overrides())?;
    let mut points = measured(args, &input)?;
    points.extend(imported(args, &input, ui)?);
    if points.len() < FEWEST_POINTS {
        return Err(CommandError::usage(format!(
            "study `{}` has {} measured cell(s) under `{}`; a calibration needs at least {FEWEST_POINTS}, better 3 to 5",
            input.study.study,
            points.len(),
            args.study.root.display()
        ))
        .hint(format!("measure some first: servelab run {} --max-cells 3", args.study.study.display())));
    }
    let Some(first) = points.first() else {
        return Err(CommandError::failed("no measured cell"));
    };
    let sim_failed = |error: servelab_sim::SimError| CommandError::failed(format!("cannot {error}"));
    let mut fitted = fit_calibration(&points).map_err(sim_failed)?;
    let (mut held_out, mut plain, mut n) = (0.0, 0.0, 0.0);
    for left_out in 0..points.len() {
        let rest: Vec<CalibrationPoint> =
            points.iter().enumerate().filter(|(index, _)| *index != left_out).map(|(_, point)| point.clone()).collect();
        let Some(point) = points.get(left_out) else { continue };
        let fit = fit_calibration(&rest).map_err(sim_failed)?;
        held_out += error_of(point, &fit.calibration).map_err(sim_failed)?;
        plain += error_of(point, &Calibration::default()).map_err(sim_failed)?;
        n += 1.0;
    }
    let scores = Scores {
        cells: points.len(),
        uncalibrated: fitted.error_before,
        fitted: fitted.error_after,
        held_out: held_out / n,
        held_out_uncalibrated: plain / n,
    };
    fitted.calibration.points = u32::try_from(points.len()).unwrap_or(u32::MAX);
    let file = CalibrationFile {
        schema: CALIBRATION_SCHEMA_VERSION,
        model: first.config.model_name.clone(),
        gpu: first.config.gpu.name.clone(),
        engine_version: first.config.version.clone(),
        calibration: fitted.calibration,
        scores,
    };
    let is_worse = file.scores.held_out > file.scores.held_out_uncalibrated;
    if args.json {
        let text = serde_json::to_string_pretty(&json!({"calibration": &file, "refused": is_worse}))
            .map_err(|error| CommandError::failed(error.to_string()))?;
        ui.data(&text);
    } else {
        ui.data(text_of(&file).trim_end());
    }
    if is_worse {
        return Err(CommandError::failed(format!(
            "the calibration is worse than none on cells that it did not see ({:.1} % against {:.1} %); nothing was written",
            100.0 * file.scores.held_out,
            100.0 * file.scores.held_out_uncalibrated
        ))
        .hint("measure more cells, or cells that differ more in load; then calibrate again"));
    }
    let text = serde_json::to_string_pretty(&file).map_err(|error| CommandError::failed(error.to_string()))?;
    servelab_store::write_atomic(&args.out, format!("{text}\n").as_bytes())?;
    ui.say(&format!("wrote {}", args.out.display()));
    Ok(ExitCode::SUCCESS)
}

/// Measured cells of the study with the server and load that the model sees.
fn measured(args: &CalibrateArgs, input: &StudyInput) -> Result<Vec<CalibrationPoint>, CommandError> {
    if !args.study.root.exists() {
        return Ok(Vec::new());
    }
    let root = Root::open(&args.study.root)?;
    let Some(mut plan) = stored::plan_with_history(&root, &input.study.study)? else { return Ok(Vec::new()) };
    let context = stored::row_context(input, &plan);
    select::narrow(&mut plan, &args.study)?;
    let rows = collect_rows(&root, &plan, &context)?;
    let mut loads = CellLoads::new(input, &plan)?;
    let mut points = Vec::new();
    let options = PredictOptions { calibration: None, ..args.options.clone() };
    for row in &rows {
        let Some(result) = &row.result else { continue };
        let is_usable = row.state == servelab_core::state::CellState::Done && result.requests.completed > 0;
        if !is_usable {
            continue;
        }
        let Ok(server) = servers::server_of(input, &row.point, &options)? else { continue };
        // A split deployment has terms that these factors are not about.
        if server.prefill.is_some() {
            continue;
        }
        let load = loads.load_of(&row.cell, server.replicas)?;
        points.push(CalibrationPoint {
            config: server.config,
            load,
            ttft_ms: result.latency_ms.ttft.mean,
            tpot_ms: result.latency_ms.tpot.mean,
        });
    }
    Ok(points)
}

fn labelled_path(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((label, path)) if !label.is_empty() && !path.is_empty() => Ok((label.to_owned(), PathBuf::from(path))),
        _ => Err("expected LABEL=PATH, the label of a configuration of the study and its results".to_owned()),
    }
}

/// Results of other tools as points; those that cannot be used are named with the reason.
fn imported(args: &CalibrateArgs, input: &StudyInput, ui: Ui) -> Result<Vec<CalibrationPoint>, CommandError> {
    if args.results.is_empty() {
        return Ok(Vec::new());
    }
    let plan = input.plan(&stored::winners(&args.study.root, input))?;
    let options = PredictOptions { calibration: None, ..args.options.clone() };
    let mut points = Vec::new();
    for (label, path) in &args.results {
        let Some(point) = plan.points.iter().find(|point| point.labels.contains(label)) else {
            let known: Vec<&str> =
                plan.points.iter().filter_map(|point| point.labels.first()).map(String::as_str).collect();
            return Err(CommandError::usage(format!("no configuration of study `{}` is called `{label}`", plan.study))
                .hint(format!("known: {}", known.join(", "))));
        };
        let server = match servers::server_of(input, point, &options)? {
            Ok(server) if server.prefill.is_none() => server,
            Ok(_) => {
                return Err(CommandError::usage(format!(
                    "`{label}` splits prefill and decode: no factor is about that"
                )));
            }
            Err(reasons) => {
                return Err(CommandError::usage(format!("`{label}` would not start: {}", reasons.join("; "))));
            }
        };
        let found = servelab_store::import::import(std::slice::from_ref(path))
            .map_err(|error| CommandError::usage(format!("cannot {error}")))?;
        if found.results.is_empty() {
            return Err(CommandError::usage(format!("there is no result in `{}`", path.display()))
                .hint("formats that are read: docs, commands, import"));
        }
        for result in &found.results {
            match load_of_import(result, server.replicas) {
                Ok(load) => points.push(CalibrationPoint {
                    config: server.config.clone(),
                    load,
                    ttft_ms: result.result.latency_ms.ttft.mean,
                    tpot_ms: result.result.latency_ms.tpot.mean,
                }),
                Err(why) => ui.always(&format!("warning: `{}` is left out: {why}", result.path)),
            }
        }
    }
    Ok(points)
}

fn error_of(point: &CalibrationPoint, calibration: &Calibration) -> Result<f64, servelab_sim::SimError> {
    let prediction = predict_calibrated(point, calibration)?;
    let errors: Vec<f64> = [(point.ttft_ms, prediction.ttft_ms.mean), (point.tpot_ms, prediction.tpot_ms.mean)]
        .into_iter()
        .filter_map(|(measured, predicted)| Some((predicted? / measured? - 1.0).abs()))
        .collect();
    Ok(errors.iter().sum::<f64>() / errors.len().max(1) as f64)
}

fn text_of(file: &CalibrationFile) -> String {
    let c = &file.calibration;
    format!(
        "Calibration of {} on {} with engine {} from {} measured cells.\n\n\
         factor on                 value\n\
         kernels of decodes        {:.3}\n\
         kernels of prompts        {:.3}\n\
         collectives               {:.3}\n\
         host                      {:.3}\n\
         ingress and response      {:.3}\n\n\
         Mean error of TTFT and TPOT: uncalibrated {:.1} %, fitted {:.1} %; on cells left out of the fit {:.1} %, where it was \
         {:.1} % uncalibrated.\n",
        file.model,
        file.gpu,
        file.engine_version,
        file.scores.cells,
        c.decode_kernels,
        c.prefill_kernels,
        c.collectives,
        c.host,
        c.ingress,
        100.0 * file.scores.uncalibrated,
        100.0 * file.scores.fitted,
        100.0 * file.scores.held_out,
        100.0 * file.scores.held_out_uncalibrated,
    )
}
