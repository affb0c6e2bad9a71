//! `xtask bench accuracy`: predictions beside public measured results, which are not part of this repository. Scores per
//! model × GPU and over all; uncalibrated, and calibrated on three points per model × GPU and scored on the others.

mod ops;
mod rows;
mod scores;

use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use servelab_sim::predict::{CalibrationPoint, Fit, fit_calibration, in_parallel, predict_cell};

use rows::{Row, Rows};
use scores::{Pair, print_table};

/// Where the data is and what is compared.
#[derive(Debug, Args)]
pub(crate) struct AccuracyArgs {
    /// The unzipped wheel of aiconfigurator-core: the folder that holds `systems` and `model_configs`
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Rows to read
    #[arg(long, value_enum, default_value_t = Rows::Development)]
    rows: Rows,
    /// Step-time constants to lay over the built-in ones
    #[arg(long, value_name = "FILE")]
    parameters: Option<PathBuf>,
    /// Predictions of another tool for the same rows, as scripts/aiconfigurator/predict.py writes them
    #[arg(long, value_name = "FILE")]
    beside: Option<PathBuf>,
    /// Write every row's measurement and prediction here
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Only uncalibrated predictions
    #[arg(long)]
    uncalibrated: bool,
    /// Only single kernels
    #[arg(long)]
    ops: bool,
}

/// What was predicted for a row.
struct Outcome {
    ttft_ms: f64,
    tpot_ms: f64,
    label: &'static str,
}

/// Predicts and prints.
pub(crate) fn accuracy(args: &AccuracyArgs) -> Result<(), Box<dyn Error>> {
    let overlay = args.parameters.as_ref().map(std::fs::read_to_string).transpose()?;
    if args.ops {
        return ops::ops(&args.data, overlay.as_deref());
    }
    let rows = rows::read(&args.data, args.rows)?;
    if rows.is_empty() {
        return Err("no row of a collocated vLLM server; is this the right folder?".into());
    }
    let outcomes = in_parallel(rows.len(), |index| {
        let row = rows.get(index)?;
        Some(predict(row, args, overlay.as_deref()).map_err(|error| error.to_string()))
    });
    let mut pairs: Vec<Pair<'_>> = Vec::new();
    let mut failures: BTreeMap<String, usize> = BTreeMap::new();
    for (row, outcome) in rows.iter().zip(&outcomes) {
        match outcome {
            Some(Ok(outcome)) => pairs.push(Pair::new(row, outcome.ttft_ms, outcome.tpot_ms, outcome.label)),
            Some(Err(reason)) => *failures.entry(format!("{}: {reason}", row.group())).or_default() += 1,
            None => {}
        }
    }
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_string_pretty(&pairs)?)?;
    }
    let full: Vec<&Pair<'_>> = pairs.iter().filter(|pair| pair.row.has_full_workload).collect();
    let other: Vec<&Pair<'_>> = pairs.iter().filter(|pair| !pair.row.has_full_workload).collect();
    let n_full = rows.iter().filter(|row| row.has_full_workload).count();
    println!("{} rows of collocated vLLM servers, {n_full} with the full workload; uncalibrated", rows.len());
    print_table("full workload, uncalibrated", &full, n_full);
    print_table("client unknown, uncalibrated", &other, rows.len() - n_full);
    for (reason, count) in &failures {
        println!("failed: {count} × {reason}");
    }
    if let Some(path) = &args.beside {
        beside(path, &rows, &pairs)?;
    }
    if !args.uncalibrated {
        calibrated(args, overlay.as_deref(), &rows, &pairs)?;
    }
    Ok(())
}

fn predict(row: &Row, args: &AccuracyArgs, overlay: Option<&str>) -> Result<Outcome, Box<dyn Error>> {
    let config = rows::server(row, &args.data, overlay)?;
    let prediction = predict_cell(&config, &rows::load(row))?;
    let (Some(ttft_ms), Some(tpot_ms)) = (prediction.ttft_ms.mean, prediction.tpot_ms.mean) else {
        return Err(format!("{} requests could never run", prediction.refused).into());
    };
    Ok(Outcome { ttft_ms, tpot_ms, label: prediction.label.name() })
}

/// Another tool's predictions, scored on the rows that both can predict.
fn beside(path: &std::path::Path, rows: &[Row], ours: &[Pair<'_>]) -> Result<(), Box<dyn Error>> {
    #[derive(serde::Deserialize)]
    struct Theirs {
        id: String,
        ttft: Option<f64>,
        tpot: Option<f64>,
    }
    let theirs: Vec<Theirs> = serde_json::from_str(&std::fs::read_to_string(path)?)?;
    let known: BTreeMap<&str, (f64, f64)> =
        theirs.iter().filter_map(|row| Some((row.id.as_str(), (row.ttft?, row.tpot?)))).collect();
    let n_full = rows.iter().filter(|row| row.has_full_workload).count();
    let pairs: Vec<Pair<'_>> = rows
        .iter()
        .filter(|row| row.has_full_workload)
        .filter_map(|row| known.get(row.id.as_str()).map(|(ttft, tpot)| Pair::new(row, *ttft, *tpot, "other tool")))
        .collect();
    let both: Vec<&Pair<'_>> = pairs.iter().collect();
    print_table("full workload, the other tool", &both, n_full);
    let same: Vec<&Pair<'_>> =
        ours.iter().filter(|pair| pair.row.has_full_workload && known.contains_key(pair.row.id.as_str())).collect();
    print_table("the same rows, uncalibrated", &same, n_full);
    Ok(())
}

/// Three points per model × GPU, spread over the group's own order of TPOT; everything else is scored.
fn calibrated(
    args: &AccuracyArgs,
    overlay: Option<&str>,
    rows: &[Row],
    pairs: &[Pair<'_>],
) -> Result<(), Box<dyn Error>> {
    let mut groups: BTreeMap<String, Vec<&Pair<'_>>> = BTreeMap::new();
    for pair in pairs.iter().filter(|pair| pair.row.has_full_workload) {
        groups.entry(pair.row.group()).or_default().push(pair);
    }
    let mut after: Vec<(Row, f64, f64)> = Vec::new();
    for (group, members) in &groups {
        let chosen = three_points(members);
        let mut points = Vec::new();
        for index in &chosen {
            let Some(pair) = members.get(*index) else { continue };
            points.push(CalibrationPoint {
                config: rows::server(pair.row, &args.data, overlay)?,
                load: rows::load(pair.row),
                ttft_ms: Some(pair.row.ttft_ms),
                tpot_ms: Some(pair.row.tpot_ms),
            });
        }
        let Fit { calibration, .. } = fit_calibration(&points)?;
        println!("{group}: {calibration:?} from {}", chosen.len());
        let rest: Vec<&&Pair<'_>> =
            members.iter().enumerate().filter(|(index, _)| !chosen.contains(index)).map(|(_, pair)| pair).collect();
        let outcomes = in_parallel(rest.len(), |index| {
            let row = rest.get(index)?.row;
            let mut config = rows::server(row, &args.data, overlay).ok()?;
            let mut parameters = config.parameters.as_ref()?.as_ref().clone();
            parameters.calibration = calibration.clone();
            config.parameters = Some(Arc::new(parameters));
            let prediction = predict_cell(&config, &rows::load(row)).ok()?;
            Some((row.clone(), prediction.ttft_ms.mean?, prediction.tpot_ms.mean?))
        });
        after.extend(outcomes.into_iter().flatten());
    }
    let scored: Vec<Pair<'_>> =
        after.iter().map(|(row, ttft, tpot)| Pair::new(row, *ttft, *tpot, "calibrated")).collect();
    let refs: Vec<&Pair<'_>> = scored.iter().collect();
    let n_full = rows.iter().filter(|row| row.has_full_workload).count();
    print_table("full workload, 3 points per model × GPU, scored on the rest", &refs, n_full);
    Ok(())
}

/// Positions at a sixth, a half and five sixths of the group in order of measured TPOT.
fn three_points(members: &[&Pair<'_>]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..members.len()).collect();
    let tpot = |index: &usize| members.get(*index).map_or(0.0, |pair| pair.row.tpot_ms);
    order.sort_by(|a, b| tpot(a).total_cmp(&tpot(b)));
    let n = order.len();
    let mut chosen: Vec<usize> = [n / 6, n / 2, (5 * n) / 6].iter().filter_map(|at| order.get(*at).copied()).collect();
    chosen.dedup();
    chosen
}
