//! A card from measurements. A configuration may add what traces cannot say (the model's name, the parallel plan, the
//! data); it never replaces what was measured.

use std::collections::BTreeMap;

use super::{Card, Data, Executor, Measured, MeasuredMetric, Parallelization};
use crate::ordered::OneOrMany;
use crate::trace::TraceReport;
use crate::yaml::{Node, NodeValue};

/// What a configuration file says about the run, whatever its layout: keys by the names that engines and frameworks use.
#[derive(Debug, Clone, Default)]
pub struct Declared {
    /// The model.
    pub model: Option<String>,
    /// Its number format.
    pub precision: Option<String>,
    /// The engine.
    pub framework: Option<String>,
    /// Its version.
    pub framework_version: Option<String>,
    /// What the run is for.
    pub description: Option<String>,
    /// Where the data came from.
    pub dataset: Option<String>,
    /// The plan.
    pub plan: Parallelization,
    /// Requests per batch.
    pub batch_size: Option<u64>,
    /// Tokens of a prompt.
    pub seq_len: Option<u64>,
    /// Tokens of an answer.
    pub max_tokens: Option<u64>,
    /// Iterations that were to be recorded.
    pub iterations: Option<u64>,
    /// Whether expert parallelism is on, where only that is said.
    pub is_expert_parallel: Option<bool>,
}

impl Declared {
    /// Reads a tree: experiment files of document 004, studies' points, engines' own settings.
    pub fn from_node(node: &Node) -> Self {
        let mut flat = BTreeMap::new();
        flatten(node, &mut flat, 0);
        let text = |names: &[&str]| {
            names.iter().find_map(|name| match flat.get(*name) {
                Some(NodeValue::Text(text)) if !text.is_empty() => Some(text.clone()),
                Some(NodeValue::Float(x)) => Some(x.to_string()),
                Some(NodeValue::Int(x)) => Some(x.to_string()),
                _ => None,
            })
        };
        let number = |names: &[&str]| {
            names.iter().find_map(|name| match flat.get(*name) {
                Some(NodeValue::Int(n)) => u64::try_from(*n).ok(),
                _ => None,
            })
        };
        let flag = |name: &str| match flat.get(name) {
            Some(NodeValue::Bool(flag)) => Some(*flag),
            _ => None,
        };
        Self {
            model: text(&["model.id", "model.name", "model_path", "hf_model", "model", "model_name"]),
            precision: text(&["model.precision", "precision", "dtype"]),
            framework: text(&["engine.kind", "framework.name", "framework", "engine", "backend"]),
            framework_version: text(&["engine.version", "framework.version", "vllm_version", "engine_version"]),
            description: text(&["description", "purpose"]),
            dataset: text(&["data.dataset", "dataset"]),
            plan: Parallelization {
                dp_replicate: number(&["dp_replicate", "data_parallel_size", "dp", "deploy.dp"]),
                dp_shard: number(&["dp_shard"]),
                tp: number(&["tp", "tensor_parallel_size", "tp_size", "deploy.tp"]),
                pp: number(&["pp", "pipeline_parallel_size", "pp_size", "deploy.pp"]),
                cp: number(&["cp", "context_parallel_size"]),
                ep: number(&["ep", "expert_parallel_size", "ep_size"]),
                pp_mb: number(&["pp_mb"]),
            },
            batch_size: number(&["data.batch_size", "batch_size"]),
            seq_len: number(&["data.seq_len", "seq_len", "input_len"]),
            max_tokens: number(&["data.max_tokens", "max_tokens", "output_len"]),
            iterations: number(&["profile_iterations", "iteration"]),
            is_expert_parallel: flag("enable_expert_parallel"),
        }
    }
}

/// Every scalar under its own key and under its key with the one above; the first of each name counts.
fn flatten(node: &Node, flat: &mut BTreeMap<String, NodeValue>, depth: u32) {
    if depth > 8 {
        return;
    }
    for entry in node.as_map().unwrap_or_default() {
        match &entry.value.value {
            NodeValue::Map(_) => {
                for inner in entry.value.as_map().unwrap_or_default() {
                    if inner.value.as_map().is_none() && inner.value.as_seq().is_none() {
                        flat.entry(format!("{}.{}", entry.key, inner.key)).or_insert_with(|| inner.value.value.clone());
                    }
                }
                flatten(&entry.value, flat, depth + 1);
            }
            NodeValue::Seq(_) => {}
            scalar => {
                flat.entry(entry.key.clone()).or_insert_with(|| scalar.clone());
            }
        }
    }
}

/// The value of the first fact that some input states.
pub(super) fn fact<'r>(report: &'r TraceReport, names: &[&str]) -> Option<&'r str> {
    names.iter().find_map(|name| report.inputs.iter().find_map(|input| input.facts.get(*name))).map(String::as_str)
}

pub(super) const GPU_FACTS: [&str; 3] = ["gpu", "gpu_name", "device"];
pub(super) const DRIVER_FACTS: [&str; 2] = ["driver_version", "driver"];
pub(super) const NCCL_FACTS: [&str; 2] = ["nccl_version", "nccl"];

/// Ranks of the run: as the traces say, else as many as were read when nothing contradicts it.
pub(super) fn world_size(report: &TraceReport) -> Option<u64> {
    report.world_size.map(u64::from)
}

/// Most ranks on one host, where every rank names its host and all ranks were read.
fn per_node(report: &TraceReport) -> Option<u64> {
    if report.world_size.is_none_or(|size| size as usize != report.per_rank.len()) {
        return None;
    }
    let mut hosts: BTreeMap<&str, u64> = BTreeMap::new();
    for rank in &report.per_rank {
        *hosts.entry(rank.host.as_deref()?).or_default() += 1;
    }
    hosts.into_values().max()
}

/// The communication library that took most time.
pub(super) fn main_library(report: &TraceReport) -> Option<String> {
    report
        .comm
        .values()
        .filter(|family| family.calls > 0)
        .max_by_key(|family| family.sum_ns)
        .map(|family| family.library.clone())
}

/// Phases by the steps of an engine; empty when no marker says.
pub(super) fn phases(report: &TraceReport) -> Vec<String> {
    let has = |kind: &str| report.step_kinds.iter().any(|step| step.kind == kind && step.steps > 0);
    let mut phases = Vec::new();
    if has("prefill") || has("mixed") {
        phases.push("prefill".to_owned());
    }
    if has("decode") || has("mixed") {
        phases.push("decode".to_owned());
    }
    phases
}

/// Fills a card.
pub fn fill(report: &TraceReport, declared: Option<&Declared>, tool_version: &str) -> Card {
    let empty = Declared::default();
    let declared = declared.unwrap_or(&empty);
    let mut card = Card { version: Some(1), description: declared.description.clone(), ..Card::default() };
    card.hf_url = declared
        .model
        .as_ref()
        .filter(|model| model.split('/').count() == 2 && !model.starts_with(['/', '.']))
        .map(|model| format!("https://huggingface.co/{model}"));
    let model = &mut card.workload.model;
    model.phase = OneOrMany(phases(report));
    let has_kernels = report.per_rank.iter().any(|rank| rank.kernels > 0);
    if has_kernels && report.kernels.iter().any(|family| family.family == "moe" && family.calls > 0) {
        model.moe = Some(true);
    }
    model.model_family = declared.model.as_ref().map(|model| model.rsplit('/').next().unwrap_or(model).to_owned());
    model.precision = declared.precision.clone();
    model.iteration = (report.steps > 0).then_some(report.steps);
    card.workload.data = Data {
        batch_size: declared.batch_size,
        seq_len: declared.seq_len,
        input_len: None,
        output_len: declared.max_tokens,
        dataset: declared.dataset.clone(),
    };
    let xpu = &mut card.workload.hardware.xpu_spec;
    xpu.model = fact(report, &GPU_FACTS).map(str::to_owned);
    xpu.kind = if has_kernels {
        Some("GPU".to_owned())
    } else {
        report.comm.values().any(|family| family.place == crate::trace::Place::Host).then(|| "CPU".to_owned())
    };
    xpu.total_count = world_size(report);
    xpu.count_per_node = per_node(report);
    card.workload.hardware.driver_version = fact(report, &DRIVER_FACTS).map(Into::into);
    card.executor = Executor::default();
    card.executor.framework.name = match (&declared.framework, &declared.framework_version) {
        (Some(name), Some(version)) => Some(format!("{name} {version}")),
        (name, _) => name.clone(),
    };
    card.executor.model_plan_parallelization = declared.plan.clone();
    card.executor.communication_library.name = main_library(report);
    card.executor.communication_library.version = fact(report, &NCCL_FACTS).map(Into::into);
    let mut formats: Vec<String> = report.inputs.iter().map(|input| input.format.clone()).collect();
    formats.sort();
    formats.dedup();
    card.metric_source.traces = OneOrMany(formats);
    card.measured = Some(measured(report, tool_version));
    card
}

fn measured(report: &TraceReport, tool_version: &str) -> Measured {
    let mut measured = Measured {
        schema: super::MEASURED_SCHEMA_VERSION,
        tool: Some(format!("servelab {tool_version}")),
        definitions: report.definitions,
        taxonomy: Some(report.taxonomy.clone().into()),
        ranks: report.ranks.clone(),
        world_size: report.world_size,
        steps: report.steps,
        ..Measured::default()
    };
    for (name, metric) in &report.metrics {
        match (metric.value, &metric.absent) {
            (Some(value), _) => {
                measured.metrics.insert(name.clone(), MeasuredMetric { value, unit: metric.unit.clone() });
            }
            (None, reason) => {
                let reason = reason.clone().unwrap_or_else(|| "not measured".to_owned());
                measured.absent.insert(name.clone(), reason);
            }
        }
    }
    measured
}
