//! The study file: its types, read with errors that point at the line. What is written here is exactly what the JSON
//! Schema says, because both come from the same types. Composition (`extends`, `--set`) is in `compose`, checks that need
//! more than one key are in `check`, and expansion into points and cells is in `expand`.

pub mod check;
pub mod compose;
mod design;
mod load;
mod policy;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

pub use design::{
    AblationArm, Design, Factor, FromDesign, Kind as DesignKind, ListEntry, Pick, PlaceMode, Topology, TopologyRole,
};
pub use load::{ClosedLoad, LoadSection, OfflineLoad, OpenLoad, SteadyStop, Stop, Warmup};
pub use policy::{
    Accuracy, Budget, CellSlo, Compat, Constraint, Estimate, Expect, LmEval, NetworkGate, NsysProfile, OnViolation,
    Order, Probe, Profile, Ranks, Repeats, Report, RequestSlo, StopRule, Target, TorchProfile,
};

use crate::ordered::{OneOrMany, OrderedMap};
use crate::workload::DatasetSpec;

/// Version of the study file format.
pub const STUDY_SCHEMA_VERSION: u32 = 1;

/// Settings of an engine by semantic name; dots reach into structured settings (`eplb.num_redundant_experts`).
pub type Settings = OrderedMap<Value>;

/// A study: what to try, on what, under which load, judged by which SLO.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Servelab study")]
pub struct Study {
    /// Format version: 1.
    pub schema: u32,
    /// Name of the study; also the name of its folder. Letters, digits, `.`, `_` and `-`.
    pub study: String,
    /// Studies whose keys this one takes over and overrides; paths relative to this file.
    #[serde(default)]
    pub extends: OneOrMany<String>,
    /// What the study is about, for the manifest and the report.
    pub description: Option<String>,
    /// Site file: a name (`sites/NAME.yaml` beside the study) or a path; `local` is this machine.
    pub site: Option<String>,
    /// The serving engine.
    pub engine: Engine,
    /// The model served.
    pub model: Model,
    /// How the model is spread over nodes and GPUs.
    #[serde(default)]
    pub deploy: Deploy,
    /// Engine settings by semantic name, common to all points.
    #[serde(default)]
    pub serve: Settings,
    /// Environment of the engine that changes what is measured (part of a point's identity).
    #[serde(default)]
    pub env: BTreeMap<String, OneOrMany<String>>,
    /// What is asked of the server.
    #[serde(default)]
    pub workloads: OrderedMap<Workload>,
    /// How hard it is asked.
    pub load: LoadSection,
    /// Ways of spanning points.
    pub designs: OrderedMap<Design>,
    /// Rules that every point must satisfy.
    #[serde(default)]
    pub constraints: Vec<Constraint>,
    /// Settings that are found by a first, short start of the server.
    #[serde(default)]
    pub probe: OrderedMap<Probe>,
    /// Service-level objectives.
    #[serde(default)]
    pub slo: Slo,
    /// Named performance targets, shown beside the results.
    #[serde(default)]
    pub targets: OrderedMap<Target>,
    /// Label of the point that others are compared with.
    pub baseline: Option<String>,
    /// Answers compared with the baseline's.
    pub accuracy: Option<Accuracy>,
    /// Rules that end a cell or skip the rest of a load ladder.
    #[serde(default)]
    pub stop_early: Vec<StopRule>,
    /// How often each cell is measured, and in which order.
    #[serde(default)]
    pub repeats: Repeats,
    /// Limits on what may be spent, and the estimates that costs are computed from.
    #[serde(default)]
    pub budget: Budget,
    /// Conditions on the network between nodes.
    pub network: Option<NetworkGate>,
    /// Older names and hashes.
    pub compat: Option<Compat>,
    /// A separate profiling run.
    pub profile: Option<Profile>,
    /// What the report shows.
    #[serde(default)]
    pub report: Report,
}

/// The serving engine.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Engine {
    /// Which engine.
    pub kind: EngineKind,
    /// Declared version, `"0.11.*"` or `"0.32.0"`; decides flag names and rules, and is compared with the one that runs.
    pub version: Option<String>,
    /// Path of the engine's executable, when it is not on PATH.
    pub bin: Option<String>,
    /// Address of a server that runs already (`external`).
    pub url: Option<String>,
    /// Name of the environment variable that holds the API key of an external server.
    pub api_key_env: Option<String>,
    /// Simulator only: simulated seconds per real second.
    pub speedup: Option<f64>,
    /// Simulator only: failures to inject, as `servelab sim --fail` takes them.
    #[serde(default)]
    pub fail: Vec<String>,
    /// Seconds that the engine may take until it answers.
    pub start_timeout_s: Option<f64>,
}

/// Engines that Servelab can start or talk to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EngineKind {
    /// vLLM.
    Vllm,
    /// SGLang.
    Sglang,
    /// llama.cpp's `llama-server`.
    #[serde(rename = "llamacpp")]
    LlamaCpp,
    /// The simulated engine.
    Sim,
    /// Any OpenAI-compatible server, started by somebody else.
    External,
}

impl EngineKind {
    /// The name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vllm => "vllm",
            Self::Sglang => "sglang",
            Self::LlamaCpp => "llamacpp",
            Self::Sim => "sim",
            Self::External => "external",
        }
    }
}

/// The model served.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// The model's public id, `org/name`.
    pub id: String,
    /// Where its files are; `${site.models}` and other paths of the site file may be used.
    pub path: Option<String>,
    /// Revision (commit or tag) of the model.
    pub revision: Option<String>,
    /// Name under which the server offers it; default: its id.
    pub served_name: Option<String>,
    /// Allow code from the model's repository.
    #[serde(default)]
    pub trust_remote_code: bool,
    /// Tokenizer that counts prompt tokens: `builtin`, or a folder with `tokenizer.json`. Default: the model's own where
    /// it can be read, else `builtin`.
    pub tokenizer: Option<String>,
}

/// How the model is spread over nodes and GPUs.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Deploy {
    /// `collocated` (default) or `pd`.
    pub mode: Option<DeployMode>,
    /// Nodes of one point; for `pd` and replicas computed from the shape when absent.
    pub nodes: Option<u32>,
    /// GPUs used on each node; default: the site's.
    pub gpus_per_node: Option<u32>,
    /// Tensor parallel size.
    pub tp: Option<u32>,
    /// Pipeline parallel size.
    pub pp: Option<u32>,
    /// Data parallel size.
    pub dp: Option<u32>,
    /// Data parallel ranks on one node.
    pub dp_local: Option<u32>,
    /// Independent server instances behind one router.
    pub replicas: Option<u32>,
    /// How several nodes are joined.
    pub launch: Option<Launch>,
    /// Placement of roles on nodes.
    pub place: Option<PlaceMode>,
    /// How the router spreads requests over several servers: `round-robin` (default), `least-loaded`, `session`.
    pub router: Option<RouterPolicy>,
    /// Prefill role (`pd`).
    pub p: Option<RoleShape>,
    /// Decode role (`pd`).
    pub d: Option<RoleShape>,
}

/// How requests find one of several servers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RouterPolicy {
    /// One after the other.
    #[default]
    RoundRobin,
    /// The server with the fewest requests under way.
    LeastLoaded,
    /// The same server for all turns of a conversation.
    Session,
}

impl RouterPolicy {
    /// The name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round-robin",
            Self::LeastLoaded => "least-loaded",
            Self::Session => "session",
        }
    }

    /// By its name in files.
    pub fn of_name(name: &str) -> Option<Self> {
        [Self::RoundRobin, Self::LeastLoaded, Self::Session].into_iter().find(|policy| policy.name() == name)
    }
}

/// Whether prefill and decode share a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeployMode {
    /// One server does both.
    Collocated,
    /// Prefill and decode servers, with KV transfer between them.
    Pd,
}

/// How several nodes are joined into one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum Launch {
    /// A Ray cluster.
    #[serde(rename = "ray")]
    Ray,
    /// vLLM's own multiprocessing.
    #[serde(rename = "mp")]
    Mp,
    /// vLLM's data-parallel RPC.
    #[serde(rename = "dp-rpc")]
    DpRpc,
}

impl Launch {
    /// The name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ray => "ray",
            Self::Mp => "mp",
            Self::DpRpc => "dp-rpc",
        }
    }
}

/// One role of a disaggregated deployment.
#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RoleShape {
    /// Server instances.
    pub count: Option<u32>,
    /// Tensor parallel size of each.
    pub tp: Option<u32>,
    /// Pipeline parallel size of each.
    pub pp: Option<u32>,
    /// Data parallel size of each.
    pub dp: Option<u32>,
}

/// What is asked of the server.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// Where prompts come from.
    pub dataset: DatasetSpec,
    /// Limits on answers.
    #[serde(default)]
    pub output: Output,
    /// Allow prompts to be used more than once within a server start.
    #[serde(default)]
    pub reuse: bool,
    /// `completions` (default for text prompts) or `chat` (default for messages).
    pub endpoint: Option<EndpointKind>,
    /// Sampling temperature; default 0.
    pub temperature: Option<f64>,
}

/// Limits on answers.
#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// Cap on output tokens.
    pub max: Option<u32>,
    /// Generate exactly the asked number of tokens, whatever the model says; default true, so that points are compared
    /// on equal work.
    pub ignore_eos: Option<bool>,
}

/// Which HTTP endpoint is driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EndpointKind {
    /// `/v1/completions`.
    Completions,
    /// `/v1/chat/completions`.
    Chat,
}

/// Service-level objectives.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Slo {
    /// Limits on a cell's statistics.
    #[serde(default)]
    pub cell: CellSlo,
    /// Limits on every single request: goodput counts those that meet them all.
    pub request: Option<RequestSlo>,
}
