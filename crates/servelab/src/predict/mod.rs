//! Predictions of a study's cells: every point's server, every cell's load, simulated on all cores. What follows from
//! them (what cannot matter, what cannot win, what is worth measuring) is in `reduce`; printing is the command's.

pub(crate) mod beside;
mod loads;
pub(crate) mod reduce;
pub(crate) mod servers;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use servelab_core::plan::{Plan, PlanStatus, PlannedCell, PlannedPoint};
use servelab_sim::predict::{CellLoad, Prediction, in_parallel, predict_fleet};

use crate::error::CommandError;
use crate::study_input::StudyInput;
pub(crate) use loads::{CellLoads, DrawnLengths, load_of_import};
pub(crate) use servers::{Hardware, PointServer, PredictOptions};

/// What became of one cell.
pub(crate) struct PredictedCell<'a> {
    pub(crate) cell: &'a PlannedCell,
    pub(crate) point: &'a PlannedPoint,
    /// Equal servers that share the load.
    pub(crate) replicas: u32,
    pub(crate) outcome: Result<Prediction, Vec<String>>,
    /// Settings of the point that the model knows nothing about.
    pub(crate) not_modelled: Vec<String>,
}

impl PredictedCell<'_> {
    /// Output tokens per second of the whole deployment.
    pub(crate) fn throughput(&self) -> Option<f64> {
        self.outcome.as_ref().ok().map(|prediction| prediction.output_tokens_per_s * f64::from(self.replicas))
    }

    /// As `predict --json` prints it.
    pub(crate) fn to_json(&self) -> Value {
        let mut out = json!({
            "cell": self.cell.id, "point": self.point.id, "labels": self.point.labels, "workload": self.cell.workload,
            "load": self.cell.load, "repeat": self.cell.repeat,
        });
        let fields = match &self.outcome {
            Ok(p) => json!({
                "status": "predicted",
                "reasons": [],
                "throughput": {
                    "output_tokens_per_s": p.output_tokens_per_s * f64::from(self.replicas),
                    "requests_per_s": p.requests_per_s * f64::from(self.replicas),
                    "output_tokens_per_s_per_gpu":
                        p.output_tokens_per_s * f64::from(self.replicas) / f64::from(self.point.gpus.max(1)),
                },
                "latency_ms": {"ttft": p.ttft_ms, "tpot": p.tpot_ms, "itl": p.itl_ms, "e2e": p.e2e_ms},
                "kv": {"capacity_tokens": p.kv_capacity_tokens, "peak_usage": p.kv_peak, "mean_usage": p.kv_mean},
                "preemptions": p.preemptions,
                "saturated": p.saturated,
                "completed": p.completed,
                "refused": p.refused,
                "running": {"mean": p.running_mean, "max_per_rank": p.running_max},
                "waiting": {"mean": p.waiting_mean},
                "limits_touched": p.limits,
                "window_s": p.window_s,
                "kv_transfer_ms": p.transfer_mean_ms,
                "label": p.label,
                "label_reasons": p.label_reasons,
                "not_modelled": self.not_modelled,
                "simulated": true,
            }),
            Err(reasons) => json!({
                "status": "infeasible", "reasons": reasons, "throughput": null, "latency_ms": null, "kv": null,
                "preemptions": null, "saturated": null, "label": "unvalidated", "simulated": true,
            }),
        };
        if let (Some(out), Value::Object(fields)) = (out.as_object_mut(), fields) {
            out.extend(fields);
        }
        out
    }
}

/// A cell's server and load, or why it cannot run.
type Ready<'a> = Result<(&'a PointServer, CellLoad), Vec<String>>;

/// Predicts every cell of the plan, on all cores; results in the plan's order, the same on every run.
pub(crate) fn predict_plan<'a>(
    input: &StudyInput,
    plan: &'a Plan,
    options: &PredictOptions,
) -> Result<Vec<PredictedCell<'a>>, CommandError> {
    let points: BTreeMap<&str, &PlannedPoint> = plan.points.iter().map(|point| (point.id.as_str(), point)).collect();
    let servers: BTreeMap<&str, Result<PointServer, Vec<String>>> = plan
        .points
        .iter()
        .map(|point| Ok((point.id.as_str(), servers::server_of(input, point, options)?)))
        .collect::<Result<_, CommandError>>()?;
    let mut loads = CellLoads::new(input, plan)?;
    let mut work: Vec<(&PlannedCell, &PlannedPoint, Ready<'_>)> = Vec::new();
    for cell in &plan.cells {
        let Some(point) = points.get(cell.point.as_str()).copied() else { continue };
        let ready = match (cell.status, servers.get(point.id.as_str())) {
            (PlanStatus::Planned, Some(Ok(server))) => Ok((server, loads.load_of(cell, server.replicas)?)),
            (PlanStatus::Planned, Some(Err(reasons))) => Err(reasons.clone()),
            _ => Err(if cell.reasons.is_empty() { point.reasons.clone() } else { cell.reasons.clone() }),
        };
        work.push((cell, point, ready));
    }
    // Cells whose server and load are the same to the model are simulated once.
    let mut distinct: Vec<(&PointServer, &CellLoad)> = Vec::new();
    let mut job_of: Vec<Option<usize>> = Vec::with_capacity(work.len());
    let mut known: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (_, _, ready) in &work {
        let Ok((server, load)) = ready else {
            job_of.push(None);
            continue;
        };
        let bucket = known.entry(server.key.clone()).or_default();
        let found = bucket.iter().copied().find(|job| distinct.get(*job).is_some_and(|(_, other)| *other == load));
        let job = found.unwrap_or_else(|| {
            distinct.push((*server, load));
            bucket.push(distinct.len() - 1);
            distinct.len() - 1
        });
        job_of.push(Some(job));
    }
    let results = in_parallel(distinct.len(), |index| {
        let (server, load) = distinct.get(index)?;
        let predicted = predict_fleet(&server.config, server.n_generate, server.prefill.as_ref(), load);
        Some(predicted.map_err(|error| vec![error.to_string()]))
    });
    Ok(work
        .iter()
        .zip(&job_of)
        .map(|((cell, point, ready), job)| {
            let outcome = match (ready, job.and_then(|job| results.get(job).cloned().flatten())) {
                (Err(reasons), _) => Err(reasons.clone()),
                (Ok(_), Some(result)) => result.and_then(usable),
                (Ok(_), None) => Err(vec!["the prediction did not end".to_owned()]),
            };
            let (replicas, not_modelled) = match ready {
                Ok((server, _)) => (server.replicas, server.not_modelled.clone()),
                Err(_) => (1, Vec::new()),
            };
            PredictedCell { cell, point, replicas, outcome, not_modelled }
        })
        .collect())
}

fn usable(prediction: Prediction) -> Result<Prediction, Vec<String>> {
    if prediction.completed == 0 {
        return Err(vec![format!(
            "none of {} requests can run: longer than the KV cache or than a step allows",
            prediction.refused
        )]);
    }
    Ok(prediction)
}
