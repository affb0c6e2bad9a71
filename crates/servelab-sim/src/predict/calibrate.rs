//! Learns factors on groups of step-time terms from a few measured points: Gauss-Newton on logarithms with a prior at
//! 1, so that a term that the points say nothing about stays where it was. Deterministic; reads nothing.

use std::sync::Arc;

use super::{CellLoad, Prediction, predict_cell};
use crate::SimError;
use crate::config::ServerConfig;
use crate::step_time::Calibration;

/// A cell that was measured.
#[derive(Debug, Clone)]
pub struct CalibrationPoint {
    /// The server.
    pub config: ServerConfig,
    /// What it was offered.
    pub load: CellLoad,
    /// Measured mean time to first token.
    pub ttft_ms: Option<f64>,
    /// Measured mean time per output token.
    pub tpot_ms: Option<f64>,
}

/// What a fit found.
#[derive(Debug, Clone)]
pub struct Fit {
    /// The factors.
    pub calibration: Calibration,
    /// Mean absolute relative error over the points before, of TTFT and TPOT together.
    pub error_before: f64,
    /// The same after.
    pub error_after: f64,
}

/// Factors fitted: decode kernels, prefill kernels, collectives, host, ingress.
const N: usize = 5;
/// Standard deviation of the logarithm of each factor before anything is measured: how far the built-in constants were
/// off on the devices that they were compared on, host terms being the least certain.
const PRIOR: [f64; N] = [0.15, 0.20, 0.30, 0.50, 0.70];
/// Relative error that a measured mean TPOT, and TTFT, is taken to have (runs of the same cell differ by this much).
const TPOT_SIGMA: f64 = 0.03;
const TTFT_SIGMA: f64 = 0.10;
/// Factors stay within e^±this.
const LIMIT: f64 = 1.4;
const ITERATIONS: usize = 5;

type Logs = [f64; N];

/// Fits the factors to the points. Points without any measured value are ignored; without points nothing changes.
pub fn fit_calibration(points: &[CalibrationPoint]) -> Result<Fit, SimError> {
    let used: Vec<&CalibrationPoint> =
        points.iter().filter(|point| point.ttft_ms.is_some() || point.tpot_ms.is_some()).collect();
    let mut x: Logs = [0.0; N];
    let mut r = residuals(&used, &x)?;
    let error_before = mean_error(&used, &x)?;
    let mut best = cost(&r, &x);
    let mut damping = 1e-3;
    for _ in 0..ITERATIONS {
        let mut columns: Vec<Vec<f64>> = Vec::with_capacity(N);
        for term in 0..N {
            let step = 0.05;
            let mut moved = x;
            if let Some(value) = moved.get_mut(term) {
                *value += step;
            }
            let there = residuals(&used, &moved)?;
            columns.push(there.iter().zip(&r).map(|(a, b)| (a - b) / step).collect());
        }
        let step = solve_step(&columns, &r, &x, damping);
        let mut next = x;
        for (value, change) in next.iter_mut().zip(&step) {
            *value = (*value + change).clamp(-LIMIT, LIMIT);
        }
        let there = residuals(&used, &next)?;
        let there_cost = cost(&there, &next);
        if there_cost < best {
            let gain = best - there_cost;
            (x, r, best) = (next, there, there_cost);
            damping *= 0.3;
            if gain < 1e-3 {
                break;
            }
        } else {
            damping *= 10.0;
        }
    }
    let error_after = mean_error(&used, &x)?;
    let mut calibration = factors(&x);
    calibration.points = u32::try_from(used.len()).unwrap_or(u32::MAX);
    Ok(Fit { calibration, error_before, error_after })
}

/// Predicts a point as if it had been calibrated so.
pub fn predict_calibrated(point: &CalibrationPoint, calibration: &Calibration) -> Result<Prediction, SimError> {
    let mut config = point.config.clone();
    let mut parameters = (*config.constants()?).clone();
    parameters.calibration = calibration.clone();
    config.parameters = Some(Arc::new(parameters));
    predict_cell(&config, &point.load)
}

fn factors(x: &Logs) -> Calibration {
    let [decode, prefill, collectives, host, ingress] = x.map(f64::exp);
    Calibration { decode_kernels: decode, prefill_kernels: prefill, collectives, host, ingress, points: 0 }
}

/// Logarithms of predicted / measured, in units of the measurement's error.
fn residuals(points: &[&CalibrationPoint], x: &Logs) -> Result<Vec<f64>, SimError> {
    let calibration = factors(x);
    let mut out = Vec::with_capacity(2 * points.len());
    for point in points {
        let prediction = predict_calibrated(point, &calibration)?;
        let mut push = |measured: Option<f64>, predicted: Option<f64>, sigma: f64| {
            if let (Some(measured), Some(predicted)) = (measured, predicted)
                && measured > 0.0
                && predicted > 0.0
            {
                out.push((predicted / measured).ln() / sigma);
            }
        };
        push(point.tpot_ms, prediction.tpot_ms.mean, TPOT_SIGMA);
        push(point.ttft_ms, prediction.ttft_ms.mean, TTFT_SIGMA);
    }
    Ok(out)
}

fn mean_error(points: &[&CalibrationPoint], x: &Logs) -> Result<f64, SimError> {
    let calibration = factors(x);
    let (mut sum, mut n) = (0.0, 0.0);
    for point in points {
        let prediction = predict_calibrated(point, &calibration)?;
        for (measured, predicted) in
            [(point.tpot_ms, prediction.tpot_ms.mean), (point.ttft_ms, prediction.ttft_ms.mean)]
        {
            if let (Some(measured), Some(predicted)) = (measured, predicted) {
                sum += (predicted / measured - 1.0).abs();
                n += 1.0;
            }
        }
    }
    Ok(if n > 0.0 { sum / n } else { 0.0 })
}

/// Robust (an outlying run counts linearly, not squared) plus the prior.
fn cost(residuals: &[f64], x: &Logs) -> f64 {
    let data: f64 = residuals.iter().map(|r| if r.abs() <= 3.0 { r * r } else { 6.0 * r.abs() - 9.0 }).sum();
    data + x.iter().zip(&PRIOR).map(|(value, sigma)| (value / sigma).powi(2)).sum::<f64>()
}

/// Solves (JᵀWJ + P + λ) d = −(JᵀWr + P x), with weights that hold outliers down.
fn solve_step(columns: &[Vec<f64>], r: &[f64], x: &Logs, damping: f64) -> Logs {
    let weights: Vec<f64> = r.iter().map(|r| if r.abs() <= 3.0 { 1.0 } else { 3.0 / r.abs() }).collect();
    let dot = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).zip(&weights).map(|((a, b), w)| a * b * w).sum() };
    let mut matrix = [[0.0; N + 1]; N];
    for (row, a) in matrix.iter_mut().zip(columns) {
        for (cell, b) in row.iter_mut().zip(columns) {
            *cell = dot(a, b);
        }
        row[N] = -dot(a, r);
    }
    for (term, row) in matrix.iter_mut().enumerate() {
        let prior = PRIOR.get(term).copied().unwrap_or(1.0).powi(-2);
        if let Some(diagonal) = row.get_mut(term) {
            *diagonal += prior + damping;
        }
        row[N] -= prior * x.get(term).copied().unwrap_or(0.0);
    }
    solve(matrix)
}

/// Gauss-Jordan; the matrix is positive definite thanks to the prior, so no pivoting is needed.
fn solve(mut matrix: [[f64; N + 1]; N]) -> Logs {
    for pivot in 0..N {
        let Some(pivot_row) = matrix.get(pivot).copied() else { continue };
        let divisor = pivot_row.get(pivot).copied().unwrap_or(1.0);
        let scaled = pivot_row.map(|cell| cell / divisor);
        for (index, row) in matrix.iter_mut().enumerate() {
            if index == pivot {
                *row = scaled;
                continue;
            }
            let factor = row.get(pivot).copied().unwrap_or(0.0);
            for (cell, own) in row.iter_mut().zip(&scaled) {
                *cell -= factor * own;
            }
        }
    }
    matrix.map(|row| row[N])
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::super::ArrivalKind;
    use super::*;
    use crate::settings::SimSettings;

    fn point(concurrency: u32, input_tokens: u32) -> CalibrationPoint {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let settings = SimSettings::new(listen, "meta-llama/Llama-3.1-8B", "H100");
        let load = CellLoad {
            arrivals: ArrivalKind::Closed { concurrency, ramp_ns: 1_000_000_000, think_ns: 0 },
            lengths: [(input_tokens, 64)].into(),
            shared_prefix_tokens: 0,
            warmup_requests: concurrency,
            requests: 8 * concurrency,
            duration_ns: None,
        };
        CalibrationPoint { config: ServerConfig::resolve(&settings).unwrap(), load, ttft_ms: None, tpot_ms: None }
    }

    /// The point as a server would measure it that differs from the built-in constants by these factors.
    fn measured(mut point: CalibrationPoint, truth: &Calibration) -> CalibrationPoint {
        let prediction = predict_calibrated(&point, truth).unwrap();
        (point.ttft_ms, point.tpot_ms) = (prediction.ttft_ms.mean, prediction.tpot_ms.mean);
        point
    }

    #[test]
    fn a_slower_server_is_found_and_the_finding_holds_on_cells_that_were_not_shown() {
        let truth = Calibration { decode_kernels: 1.35, prefill_kernels: 1.3, host: 1.5, ..Calibration::default() };
        let shown: Vec<_> =
            [(1, 512), (16, 512), (64, 2048)].map(|(n, input)| measured(point(n, input), &truth)).into();
        let fit = fit_calibration(&shown).unwrap();
        assert_eq!(fit.calibration.points, 3);
        assert!(fit.error_before > 0.15 && fit.error_after < 0.2 * fit.error_before, "{fit:?}");
        let unseen = [measured(point(32, 1024), &truth)];
        let unseen: Vec<&CalibrationPoint> = unseen.iter().collect();
        let logs = [
            fit.calibration.decode_kernels,
            fit.calibration.prefill_kernels,
            fit.calibration.collectives,
            fit.calibration.host,
            fit.calibration.ingress,
        ]
        .map(f64::ln);
        let (before, after) = (mean_error(&unseen, &[0.0; N]).unwrap(), mean_error(&unseen, &logs).unwrap());
        assert!(before > 0.15 && after < 0.05, "{before} {after}");
    }

    #[test]
    fn a_server_as_predicted_is_left_as_it_is() {
        let truth = Calibration::default();
        let fit = fit_calibration(&[measured(point(1, 512), &truth), measured(point(32, 512), &truth)]).unwrap();
        let Calibration { decode_kernels, prefill_kernels, collectives, host, ingress, .. } = fit.calibration;
        for factor in [decode_kernels, prefill_kernels, collectives, host, ingress] {
            assert!((factor - 1.0).abs() < 1e-6, "{factor}");
        }
    }

    #[test]
    fn the_solver_solves() {
        let mut matrix = [[0.0; N + 1]; N];
        for (index, row) in matrix.iter_mut().enumerate() {
            row[index] = 2.0;
            row[N] = index as f64;
        }
        matrix[0][1] = 1.0;
        assert_eq!(solve(matrix), [-0.25, 0.5, 1.0, 1.5, 2.0]);
    }

    #[test]
    fn nothing_measured_changes_nothing() {
        let fit = fit_calibration(&[]).unwrap();
        assert_eq!(fit.calibration, Calibration::default());
    }
}
