//! What predictions say about a study before it is run: the order of its points, factors that change nothing under its
//! load, points that cannot win, and the smallest part of it that keeps the answer. Nothing is ever left out silently:
//! the proposal is shown, with a reason for every point that it does without.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use servelab_core::plan::Plan;
use servelab_core::study::Study;
use servelab_sim::predict::{Label, Prediction};

use super::PredictedCell;

/// Predictions that differ by less than this are the same: the model resolves no more.
const SAME: f64 = 0.005;
/// How far behind the best a point must be predicted so that it cannot win, by label: three times the mean error in
/// throughput on devices that were compared with measurements, twice that where nothing was.
fn margin(label: Label) -> f64 {
    match label {
        Label::Calibrated => 0.20,
        Label::Uncalibrated => 0.30,
        Label::Unvalidated => 0.60,
    }
}

/// Settings whose effect is in the model. All others must be measured, whatever is predicted.
const MODELLED: [&str; 36] = [
    "max_num_seqs",
    "max_num_batched_tokens",
    "gpu_memory_utilization",
    "max_model_len",
    "kv_cache_dtype",
    "block_size",
    "enable_chunked_prefill",
    "long_prefill_token_threshold",
    "enable_prefix_caching",
    "enforce_eager",
    "enable_expert_parallel",
    "enable_eplb",
    "async_scheduling",
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "data_parallel_size",
    "decode_context_parallel_size",
    "num_gpu_blocks_override",
    "quantization",
    "tp",
    "pp",
    "dp",
    "replicas",
    "dcp",
    "mode",
    "place",
    "p.count",
    "p.tp",
    "p.pp",
    "p.dp",
    "d.count",
    "d.tp",
    "d.pp",
    "d.dp",
    "max_num_scheduled_tokens",
    "scheduling_policy",
];

/// One point's place.
pub(crate) struct PointView {
    pub(crate) id: String,
    pub(crate) labels: Vec<String>,
    pub(crate) factors: BTreeMap<String, Value>,
    /// 1 is best; `None` where nothing could be predicted.
    pub(crate) rank: Option<usize>,
    /// Mean output tokens per second over its cells, whole deployment.
    pub(crate) throughput: Option<f64>,
    pub(crate) gpus: u32,
    pub(crate) ttft_p95_ms: Option<f64>,
    pub(crate) tpot_mean_ms: Option<f64>,
    pub(crate) meets_slo: Option<bool>,
    pub(crate) label: Label,
    /// Why the proposal does without it; empty: it is kept.
    pub(crate) dropped: Vec<String>,
}

/// What one factor does.
pub(crate) struct FactorView {
    pub(crate) name: String,
    pub(crate) is_modelled: bool,
    /// Largest relative change of throughput or latency between points that differ in nothing else; `None` where no two
    /// points do.
    pub(crate) largest_change: Option<f64>,
    pub(crate) pairs: usize,
    pub(crate) because: String,
}

impl PointView {
    /// Output tokens per second and GPU.
    pub(crate) fn per_gpu(&self) -> Option<f64> {
        self.throughput.map(|throughput| throughput / f64::from(self.gpus.max(1)))
    }
}

impl FactorView {
    /// A modelled factor that changed nothing in any pair.
    pub(crate) fn cannot_matter(&self) -> bool {
        self.is_modelled && self.largest_change.is_some_and(|change| change < SAME)
    }
}

/// Everything that follows.
pub(crate) struct Reduction {
    pub(crate) points: Vec<PointView>,
    pub(crate) factors: Vec<FactorView>,
    pub(crate) node_hours_all: f64,
    pub(crate) node_hours_kept: f64,
}

impl Reduction {
    pub(crate) fn n_kept(&self) -> usize {
        self.points.iter().filter(|point| point.dropped.is_empty()).count()
    }

    pub(crate) fn to_json(&self) -> Value {
        let points: Vec<Value> = self
            .points
            .iter()
            .map(|point| {
                json!({
                    "point": point.id, "labels": point.labels, "rank": point.rank,
                    "output_tokens_per_s": point.throughput,
                    "output_tokens_per_s_per_gpu": point.per_gpu(), "ttft_p95_ms": point.ttft_p95_ms,
                    "tpot_mean_ms": point.tpot_mean_ms, "meets_slo": point.meets_slo, "label": point.label,
                    "kept": point.dropped.is_empty(), "dropped_because": point.dropped,
                })
            })
            .collect();
        let factors: Vec<Value> = self
            .factors
            .iter()
            .map(|factor| {
                json!({
                    "factor": factor.name, "modelled": factor.is_modelled, "cannot_matter": factor.cannot_matter(),
                    "largest_change": factor.largest_change, "pairs": factor.pairs, "because": factor.because,
                })
            })
            .collect();
        json!({
            "points": points, "factors": factors,
            "proposal": {
                "points": self.n_kept(), "of": self.points.len(), "node_hours": self.node_hours_kept,
                "node_hours_all": self.node_hours_all,
            },
        })
    }
}

/// Draws the conclusions.
pub(crate) fn reduce(plan: &Plan, study: &Study, cells: &[PredictedCell<'_>]) -> Reduction {
    let mut of_point: BTreeMap<&str, Vec<&PredictedCell<'_>>> = BTreeMap::new();
    for cell in cells {
        of_point.entry(cell.point.id.as_str()).or_default().push(cell);
    }
    let mut points: Vec<PointView> = plan
        .points
        .iter()
        .map(|point| {
            let own = of_point.get(point.id.as_str()).map(Vec::as_slice).unwrap_or_default();
            let predictions: Vec<&Prediction> = own.iter().filter_map(|cell| cell.outcome.as_ref().ok()).collect();
            let mean = |value: &dyn Fn(&PredictedCell<'_>) -> Option<f64>| {
                let values: Vec<f64> = own.iter().filter_map(|cell| value(cell)).collect();
                (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
            };
            let latency = |get: &dyn Fn(&Prediction) -> Option<f64>| mean(&|cell| get(cell.outcome.as_ref().ok()?));
            let mut dropped = Vec::new();
            if predictions.is_empty() {
                let reasons: Vec<String> =
                    own.iter().filter_map(|cell| cell.outcome.as_ref().err()).flatten().cloned().collect();
                let reason = reasons.first().cloned().unwrap_or_else(|| "it has no cell to run".to_owned());
                dropped.push(format!("infeasible: {reason}"));
            }
            PointView {
                id: point.id.as_str().to_owned(),
                labels: point.labels.clone(),
                factors: point.factors.clone(),
                rank: None,
                throughput: mean(&|cell| cell.throughput()),
                gpus: point.gpus,
                ttft_p95_ms: latency(&|p| p.ttft_ms.p95),
                tpot_mean_ms: latency(&|p| p.tpot_ms.mean),
                meets_slo: meets_slo(study, &predictions),
                label: predictions.iter().map(|p| p.label).max().unwrap_or(Label::Unvalidated),
                dropped,
            }
        })
        .collect();
    // A study that reports per node or GPU compares deployments of different sizes.
    let yields: fn(&PointView) -> Option<f64> =
        if study.report.normalise.is_some() { PointView::per_gpu } else { |point| point.throughput };
    rank(&mut points, yields);
    let factors = factors(plan, &points, &of_point);
    mark_equal(plan, study, &mut points, &factors);
    mark_hopeless(study, &mut points, yields);
    let node_hours_all = plan.node_hours.sequential;
    let share = |points: &[PointView]| {
        let kept: BTreeSet<&str> =
            points.iter().filter(|point| point.dropped.is_empty()).map(|point| point.id.as_str()).collect();
        let runnable = plan.points.iter().filter(|point| point.status == servelab_core::plan::PlanStatus::Planned);
        let (mut all, mut left) = (0.0, 0.0);
        for point in runnable {
            let nodes = f64::from(point.nodes.max(1));
            all += nodes;
            if kept.contains(point.id.as_str()) {
                left += nodes;
            }
        }
        if all > 0.0 { left / all } else { 0.0 }
    };
    let node_hours_kept = node_hours_all * share(&points);
    Reduction { points, factors, node_hours_all, node_hours_kept }
}

/// Whether every cell keeps the limits of `slo.cell` that are predicted; `None` without such limits.
fn meets_slo(study: &Study, predictions: &[&Prediction]) -> Option<bool> {
    let mut checked = false;
    let mut meets = true;
    for (metric, limit) in study.slo.cell.0.iter() {
        for prediction in predictions {
            let Some(value) = metric_of(prediction, metric) else { continue };
            checked = true;
            let floor = servelab_core::study::CellSlo::is_floor(metric);
            meets &= if floor { value >= *limit } else { value <= *limit };
        }
    }
    checked.then_some(meets && !predictions.is_empty())
}

/// `ttft_p95_ms`, `throughput_tok_s`, … of a prediction.
pub(crate) fn metric_of(p: &Prediction, metric: &str) -> Option<f64> {
    match metric {
        "throughput_tok_s" => return Some(p.output_tokens_per_s),
        "throughput_req_s" => return Some(p.requests_per_s),
        _ => {}
    }
    let (name, rest) = metric.split_once('_')?;
    let quantiles = match name {
        "ttft" => &p.ttft_ms,
        "itl" => &p.itl_ms,
        "tpot" => &p.tpot_ms,
        "e2e" => &p.e2e_ms,
        _ => return None,
    };
    match rest {
        "mean_ms" => quantiles.mean,
        "p50_ms" => quantiles.p50,
        "p90_ms" => quantiles.p90,
        "p95_ms" => quantiles.p95,
        "p99_ms" => quantiles.p99,
        _ => None,
    }
}

/// Those that keep the SLO first, then by throughput; where throughput is the same (an open loop below saturation), by
/// time per token.
fn rank(points: &mut [PointView], yields: fn(&PointView) -> Option<f64>) {
    let mut order: Vec<usize> = (0..points.len()).collect();
    let key = |index: &usize| {
        points.get(*index).map(|p| (p.throughput.is_some() && p.meets_slo != Some(false), yields(p), p.tpot_mean_ms))
    };
    order.sort_by(|a, b| {
        let (Some(a), Some(b)) = (key(a), key(b)) else { return std::cmp::Ordering::Equal };
        let rounded = |t: Option<f64>| t.map_or(i64::MIN, |t| (t.max(1e-9).ln() / 0.01).round() as i64);
        b.0.cmp(&a.0)
            .then_with(|| rounded(b.1).cmp(&rounded(a.1)))
            .then_with(|| a.2.unwrap_or(f64::MAX).total_cmp(&b.2.unwrap_or(f64::MAX)))
    });
    for (place, index) in order.into_iter().enumerate() {
        if let Some(point) = points.get_mut(index)
            && point.throughput.is_some()
        {
            point.rank = Some(place + 1);
        }
    }
}

/// For each factor: the largest change between points that differ in it alone.
fn factors(plan: &Plan, points: &[PointView], of_point: &BTreeMap<&str, Vec<&PredictedCell<'_>>>) -> Vec<FactorView> {
    let varied: BTreeSet<&String> = plan
        .points
        .iter()
        .flat_map(|point| point.factors.keys())
        .filter(|name| {
            let values: BTreeSet<String> =
                plan.points.iter().map(|p| p.factors.get(*name).map(Value::to_string).unwrap_or_default()).collect();
            values.len() > 1
        })
        .collect();
    varied
        .into_iter()
        .map(|name| {
            let mut groups: BTreeMap<String, Vec<&PointView>> = BTreeMap::new();
            for point in points.iter().filter(|point| point.throughput.is_some()) {
                let rest: BTreeMap<&String, &Value> =
                    point.factors.iter().filter(|(other, _)| *other != name).collect();
                groups.entry(serde_json::to_string(&rest).unwrap_or_default()).or_default().push(point);
            }
            let (mut largest, mut pairs) = (None::<f64>, 0);
            for members in groups.values().filter(|members| members.len() > 1) {
                let Some(first) = members.first() else { continue };
                for other in members.iter().skip(1) {
                    pairs += 1;
                    let change = change(of_point.get(first.id.as_str()), of_point.get(other.id.as_str()));
                    largest = Some(largest.map_or(change, |most| most.max(change)));
                }
            }
            let is_modelled = MODELLED.contains(&name.as_str());
            let because = because(name, is_modelled, largest, of_point);
            FactorView { name: name.clone(), is_modelled, largest_change: largest, pairs, because }
        })
        .collect()
}

/// Largest relative change of a mean latency or of throughput over the cells that both points have.
fn change(a: Option<&Vec<&PredictedCell<'_>>>, b: Option<&Vec<&PredictedCell<'_>>>) -> f64 {
    let (Some(a), Some(b)) = (a, b) else { return f64::INFINITY };
    let mut largest = 0.0_f64;
    for cell in a {
        let twin = b.iter().find(|other| {
            other.cell.workload == cell.cell.workload
                && other.cell.load == cell.cell.load
                && other.cell.repeat == cell.cell.repeat
        });
        let (Ok(one), Some(Ok(two))) = (&cell.outcome, twin.map(|twin| &twin.outcome)) else { return f64::INFINITY };
        let values = |p: &Prediction, rate| [p.ttft_ms.mean, p.tpot_ms.mean, p.e2e_ms.p95, rate];
        let rates = (cell.throughput(), twin.and_then(|twin| twin.throughput()));
        for (x, y) in values(one, rates.0).into_iter().zip(values(two, rates.1)) {
            if let (Some(x), Some(y)) = (x, y)
                && x > 0.0
            {
                largest = largest.max((y / x - 1.0).abs());
            }
        }
    }
    largest
}

fn because(
    name: &str,
    is_modelled: bool,
    largest: Option<f64>,
    of_point: &BTreeMap<&str, Vec<&PredictedCell<'_>>>,
) -> String {
    if !is_modelled {
        return "not in the model: only a measurement tells".to_owned();
    }
    let Some(largest) = largest else { return "no two points differ in it alone".to_owned() };
    if largest >= SAME {
        return format!("changes a predicted value by up to {:.0} %", 100.0 * largest.min(9.99));
    }
    let all = || of_point.values().flatten().filter_map(|cell| cell.outcome.as_ref().ok());
    match name {
        "max_num_seqs" => {
            let most = all().map(|p| p.running_max).max().unwrap_or(0);
            format!("never reached: at most {most} requests run at a time on a rank")
        }
        "gpu_memory_utilization" | "kv_cache_dtype" | "num_gpu_blocks_override" | "max_model_len" => {
            let most = all().map(|p| p.kv_peak).fold(0.0, f64::max);
            format!("the KV cache is at most {:.0} % full", 100.0 * most)
        }
        "enable_prefix_caching" => "the workload's prompts share no prefix".to_owned(),
        "enable_eplb" => "expert balance is one factor in the model, and no cell is bound by it".to_owned(),
        _ => "no predicted value changes under this load".to_owned(),
    }
}

/// Of points that differ only in factors that cannot matter, one is enough: the baseline, else the first.
fn mark_equal(plan: &Plan, study: &Study, points: &mut [PointView], factors: &[FactorView]) {
    let silent: BTreeSet<&str> =
        factors.iter().filter(|factor| factor.cannot_matter()).map(|factor| factor.name.as_str()).collect();
    if silent.is_empty() {
        return;
    }
    let is_baseline =
        |point: &PointView| study.baseline.as_ref().is_some_and(|baseline| point.labels.contains(baseline));
    let mut groups: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (index, point) in points.iter().enumerate().filter(|(_, point)| point.dropped.is_empty()) {
        let rest: BTreeMap<&String, &Value> =
            point.factors.iter().filter(|(name, _)| !silent.contains(name.as_str())).collect();
        let shape = plan.points.get(index).map(|p| p.config.pointer("/deploy").map(Value::to_string));
        groups.entry(format!("{shape:?}{}", serde_json::to_string(&rest).unwrap_or_default())).or_default().push(index);
    }
    for members in groups.values().filter(|members| members.len() > 1) {
        let keep = members
            .iter()
            .copied()
            .find(|index| points.get(*index).is_some_and(is_baseline))
            .or_else(|| members.first().copied());
        let Some(keep) = keep else { continue };
        let twin = points.get(keep).and_then(|point| point.labels.first().cloned()).unwrap_or_default();
        for index in members.iter().copied().filter(|index| *index != keep) {
            if let Some(point) = points.get_mut(index) {
                point.dropped.push(format!("differs from `{twin}` only in factors that cannot matter under this load"));
            }
        }
    }
}

/// Points so far behind that the model's error cannot bring them to the top; only where throughput is what differs.
fn mark_hopeless(study: &Study, points: &mut [PointView], yields: fn(&PointView) -> Option<f64>) {
    let best = points.iter().filter_map(yields).fold(0.0, f64::max);
    let best_tpot = points.iter().filter_map(|point| point.tpot_mean_ms).fold(f64::INFINITY, f64::min);
    for point in points.iter_mut().filter(|point| point.dropped.is_empty()) {
        if study.baseline.as_ref().is_some_and(|baseline| point.labels.contains(baseline)) {
            continue;
        }
        let margin = margin(point.label);
        let (Some(throughput), Some(tpot)) = (yields(point), point.tpot_mean_ms) else { continue };
        let behind = 1.0 - throughput / best.max(1e-9);
        let slower = tpot / best_tpot.max(1e-9) - 1.0;
        // A setting that is not in the model could still lift it.
        let has_unknown = point.factors.keys().any(|name| !MODELLED.contains(&name.as_str()));
        if behind > margin && slower > -margin && !has_unknown {
            point.dropped.push(format!(
                "cannot win: {:.0} % behind the best in throughput, more than the model's error ({:.0} %)",
                100.0 * behind,
                100.0 * margin
            ));
        }
    }
}

/// The study without the points that the proposal does without, as a document that `plan` accepts.
///
/// # Errors
/// In words, why this study cannot be cut: designs whose points are not lists of settings.
pub(crate) fn reduced_study(document: &Value, plan: &Plan, reduction: &Reduction) -> Result<Value, String> {
    let kept: BTreeSet<&str> =
        reduction.points.iter().filter(|point| point.dropped.is_empty()).map(|point| point.id.as_str()).collect();
    let mut whole: BTreeSet<&str> = BTreeSet::new();
    for design in &plan.designs {
        if matches!(design.kind.as_str(), "topology" | "from") {
            whole.insert(design.name.as_str());
        }
    }
    let mut document = document.clone();
    let designs = document
        .get_mut("designs")
        .and_then(Value::as_object_mut)
        .ok_or("the study has no designs: it is one point already")?;
    // A design that takes another's winners needs that other one whole.
    let sources: BTreeSet<String> = designs
        .values()
        .filter_map(|design| design.pointer("/from/design").and_then(Value::as_str).map(str::to_owned))
        .collect();
    let mut list = serde_json::Map::new();
    for point in plan.points.iter().filter(|point| kept.contains(point.id.as_str())) {
        let is_in_whole = point.designs.iter().any(|name| whole.contains(name.as_str()) || sources.contains(name));
        let Some(label) = point.labels.first().filter(|_| !is_in_whole) else { continue };
        let settings: serde_json::Map<String, Value> =
            point.factors.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        list.insert(label.clone(), Value::Object(settings));
    }
    designs.retain(|name, _| whole.contains(name.as_str()) || sources.contains(name));
    if !list.is_empty() {
        designs.insert("kept".to_owned(), json!({"purpose": "what a prediction left of the study", "list": list}));
    }
    if designs.is_empty() {
        return Err("the prediction left no point to measure".to_owned());
    }
    if let Some(study) = document.as_object_mut() {
        let name = study.get("study").and_then(Value::as_str).unwrap_or("study").to_owned();
        study.insert("study".to_owned(), Value::String(format!("{name}-reduced")));
        study.remove("extends");
        let still = list_labels(plan, &kept);
        if study.get("baseline").and_then(Value::as_str).is_some_and(|baseline| !still.contains(baseline)) {
            study.remove("baseline");
        }
    }
    Ok(document)
}

fn list_labels<'a>(plan: &'a Plan, kept: &BTreeSet<&str>) -> BTreeSet<&'a str> {
    plan.points
        .iter()
        .filter(|point| kept.contains(point.id.as_str()))
        .flat_map(|point| point.labels.iter().map(String::as_str))
        .collect()
}
