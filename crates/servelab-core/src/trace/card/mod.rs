//! Workload cards (`workload_card.yaml`, the CCL-Bench family): their keys, reading with positions, filling from what was
//! measured, writing, and what contradicts the trace. Nothing is filled from a constant or a guess: what no trace and no
//! configuration says stays empty, with the reason beside it.

mod check;
mod fill;
#[cfg(test)]
mod tests;
mod write;

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

pub use check::{Contradiction, check};
pub use fill::{Declared, fill};
pub use write::to_yaml;

use crate::ordered::OneOrMany;
use crate::source::{Diagnostic, SourceId};
use crate::yaml;

/// Version of the section `measured`.
pub const MEASURED_SCHEMA_VERSION: u32 = 1;

/// A workload card.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    /// Version of the card's format: 1.
    pub version: Option<u32>,
    /// What it is about.
    pub description: Option<String>,
    /// Where the model is.
    pub hf_url: Option<String>,
    /// Where the traces are.
    pub trace_url: Option<String>,
    /// Who recorded them.
    pub contributor: Option<String>,
    /// How to reach them.
    pub contact: Option<String>,
    /// Model, data, hardware.
    #[serde(default, deserialize_with = "or_default")]
    pub workload: Workload,
    /// How it ran.
    #[serde(default, rename = "Model-executor", deserialize_with = "or_default")]
    pub executor: Executor,
    /// Traces that metrics come from.
    #[serde(default, deserialize_with = "or_default")]
    pub metric_source: MetricSource,
    /// What was measured; ours.
    pub measured: Option<Measured>,
}

/// Model, data, hardware.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Workload {
    /// The model.
    #[serde(default, deserialize_with = "or_default")]
    pub model: Model,
    /// The data.
    #[serde(default, deserialize_with = "or_default")]
    pub data: Data,
    /// The machines.
    #[serde(default, deserialize_with = "or_default")]
    pub hardware: Hardware,
}

/// The model.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Model {
    /// training, inference, prefill, decode.
    #[serde(default, deserialize_with = "or_default")]
    pub phase: OneOrMany<String>,
    /// Whether it is a mixture of experts.
    pub moe: Option<bool>,
    /// What the trace covers.
    pub granularity: Option<String>,
    /// Its family.
    pub model_family: Option<String>,
    /// Its number format.
    pub precision: Option<String>,
    /// Epochs.
    pub epochs: Option<u64>,
    /// Iterations in the trace.
    pub iteration: Option<u64>,
    /// Its shape.
    #[serde(default, deserialize_with = "or_default")]
    pub model_arch: ModelArch,
}

/// Shape of a model.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelArch {
    /// Parameters; some write `8B`.
    pub num_params: Option<Value>,
    /// Parameters of the embedding.
    pub num_params_embedding: Option<Value>,
    /// Layers.
    pub num_layers: Option<u64>,
    /// Attention heads.
    pub num_heads: Option<u64>,
    /// Dimension of a head.
    pub head_dim: Option<u64>,
}

/// The data.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Data {
    /// Requests or samples per step.
    pub batch_size: Option<u64>,
    /// Tokens of a sample.
    pub seq_len: Option<u64>,
    /// Tokens of a prompt.
    pub input_len: Option<u64>,
    /// Tokens of an answer.
    pub output_len: Option<u64>,
    /// Where the data came from.
    pub dataset: Option<String>,
}

/// The machines.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Hardware {
    /// The network.
    #[serde(default, deserialize_with = "or_default")]
    pub network_topo: NetworkTopo,
    /// The accelerators.
    #[serde(default, deserialize_with = "or_default")]
    pub xpu_spec: XpuSpec,
    /// Driver version.
    pub driver_version: Option<Value>,
}

/// The network.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkTopo {
    /// Its name.
    pub topology: Option<String>,
    /// Between nodes, within a node.
    #[serde(default, deserialize_with = "or_default")]
    pub bandwidth_gbps: OneOrMany<f64>,
}

/// The accelerators.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct XpuSpec {
    /// GPU, TPU, CPU, …
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Which.
    pub model: Option<String>,
    /// In all.
    pub total_count: Option<u64>,
    /// On one node.
    pub count_per_node: Option<u64>,
}

/// How it ran.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Executor {
    /// The software.
    #[serde(default, deserialize_with = "or_default")]
    pub framework: Framework,
    /// How the model was split.
    #[serde(default, deserialize_with = "or_default")]
    pub model_plan_parallelization: Parallelization,
    /// The communication library.
    #[serde(default, deserialize_with = "or_default")]
    pub communication_library: CommunicationLibrary,
    /// Network protocols.
    #[serde(default, deserialize_with = "or_default")]
    pub protocol_selection: OneOrMany<String>,
}

/// The software.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Framework {
    /// vllm, sglang, …; may name its version.
    pub name: Option<String>,
    /// Its compiler.
    pub compiler_tool_selection: Option<String>,
}

/// How the model was split.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Parallelization {
    /// Replicas.
    pub dp_replicate: Option<u64>,
    /// Shards of data parallelism.
    pub dp_shard: Option<u64>,
    /// Tensor parallel size.
    pub tp: Option<u64>,
    /// Pipeline stages.
    pub pp: Option<u64>,
    /// Context parallel size.
    pub cp: Option<u64>,
    /// Expert parallel size; over the same GPUs as the others.
    pub ep: Option<u64>,
    /// Micro-batches of the pipeline.
    pub pp_mb: Option<u64>,
}

impl Parallelization {
    /// GPUs that the degrees span: their product. Expert parallelism uses the GPUs of the others. `None` when none is given.
    pub fn n_gpus(&self) -> Option<u64> {
        let degrees = [self.dp_replicate, self.dp_shard, self.tp, self.pp, self.cp];
        if degrees.iter().all(Option::is_none) {
            return None;
        }
        // 0 and −1 mean "not used" in some frameworks.
        degrees.into_iter().flatten().filter(|degree| *degree > 0).try_fold(1_u64, u64::checked_mul)
    }

    /// The sum of the degrees: what a known tool writes as the number of GPUs.
    pub fn sum(&self) -> u64 {
        [self.dp_replicate, self.dp_shard, self.tp, self.pp, self.cp, self.ep]
            .into_iter()
            .flatten()
            .fold(0, u64::saturating_add)
    }
}

/// The communication library.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CommunicationLibrary {
    /// NCCL, RCCL, …
    pub name: Option<String>,
    /// Its version.
    pub version: Option<Value>,
    /// Its environment.
    #[serde(default, deserialize_with = "or_default")]
    pub env: BTreeMap<String, Value>,
}

/// Traces that metrics come from.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricSource {
    /// Kinds of traces.
    #[serde(default, deserialize_with = "or_default")]
    pub traces: OneOrMany<String>,
    /// Traces of single metrics.
    #[serde(default, deserialize_with = "or_default")]
    pub metrics_specific_trace: OneOrMany<String>,
}

/// What was measured.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Measured {
    /// [`MEASURED_SCHEMA_VERSION`].
    pub schema: u32,
    /// What wrote it.
    pub tool: Option<String>,
    /// Version of the metrics' definitions.
    pub definitions: u32,
    /// Version of the kernel families.
    pub taxonomy: Option<Value>,
    /// Ranks that were read.
    #[serde(default, deserialize_with = "or_default")]
    pub ranks: Vec<u32>,
    /// Ranks of the run.
    pub world_size: Option<u32>,
    /// Steps.
    pub steps: u64,
    /// Metrics with their values.
    #[serde(default, deserialize_with = "or_default")]
    pub metrics: BTreeMap<String, MeasuredMetric>,
    /// Metrics that were not measured, and why.
    #[serde(default, deserialize_with = "or_default")]
    pub absent: BTreeMap<String, String>,
}

/// A measured number.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MeasuredMetric {
    /// The number.
    pub value: f64,
    /// Its unit.
    pub unit: String,
}

/// Cards leave sections and values empty.
fn or_default<'de, T: Default + Deserialize<'de>, D: serde::Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Reads a card.
///
/// # Errors
/// What is wrong with it, with its place; unknown keys come with a suggestion.
pub fn read(source: SourceId, text: &str) -> Result<(Card, yaml::Node), Diagnostic> {
    let node = yaml::parse(source, text)?;
    let card: Card = yaml::from_node(&node)?;
    if let Some(version) = card.version
        && version != 1
    {
        return Err(Diagnostic::at(
            node.span_at(&["version"]),
            format!("version {version} of workload cards is unknown"),
        )
        .with_hint("this version of Servelab reads version 1"));
    }
    Ok((card, node))
}
