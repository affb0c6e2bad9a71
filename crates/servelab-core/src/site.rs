//! The site file: one machine park. Everything here is about *where* and *how*, never about *what is measured*, so none
//! of it enters an id except the hardware class.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::ordered::{OneOrMany, OrderedMap};

/// Version of the site file format.
pub const SITE_SCHEMA_VERSION: u32 = 1;

/// One machine park.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Servelab site")]
pub struct Site {
    /// Format version: 1.
    pub schema: u32,
    /// Name of the site.
    pub site: String,
    /// What starts jobs here.
    #[serde(default)]
    pub scheduler: Scheduler,
    /// Account that is charged.
    pub account: Option<String>,
    /// SLURM partition.
    pub partition: Option<String>,
    /// PBS queue.
    pub queue: Option<String>,
    /// Quality of service.
    pub qos: Option<String>,
    /// Node constraint (SLURM) or extra select resources (PBS), as the scheduler spells it.
    pub constraint: Option<String>,
    /// Reservation to run in.
    pub reservation: Option<String>,
    /// How GPUs are asked for.
    #[serde(default)]
    pub gpus: GpuRequest,
    /// CPU cores per node to ask for.
    pub cpus_per_node: Option<u32>,
    /// Memory per node to ask for, in gigabytes.
    pub mem_gb_per_node: Option<u32>,
    /// Default time limit of a job, `HH:MM:SS` or `D-HH:MM:SS`.
    pub walltime: Option<String>,
    /// Use nodes exclusively; default true.
    pub exclusive: Option<bool>,
    /// Hand jobs with equal resources over as arrays (SLURM): one submission for many. Default false.
    #[serde(default)]
    pub arrays: bool,
    /// Nodes never to be used.
    #[serde(default)]
    pub exclude: OneOrMany<String>,
    /// Further lines for the scheduler, verbatim, without `#SBATCH` or `#PBS`.
    #[serde(default)]
    pub extra_directives: Vec<String>,
    /// The hardware: part of every cell's identity.
    #[serde(default)]
    pub hardware: Hardware,
    /// Environment modules to load.
    #[serde(default)]
    pub modules: OneOrMany<String>,
    /// Python virtual environment with the engine.
    pub venv: Option<String>,
    /// Conda environment with the engine (name or prefix).
    pub conda: Option<String>,
    /// Container with the engine.
    pub container: Option<Container>,
    /// Environment of every job (fabric, caches); not part of identity.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Names of environment variables that hold secrets; inherited, never written down.
    #[serde(default)]
    pub secrets: OneOrMany<String>,
    /// Node-local scratch folder.
    pub scratch: Option<String>,
    /// The network between nodes.
    #[serde(default)]
    pub fabric: Fabric,
    /// Named paths that studies may use as `${site.NAME}`.
    #[serde(default)]
    pub paths: OrderedMap<String>,
    /// Shell lines before the engine starts.
    #[serde(default)]
    pub prologue: OneOrMany<String>,
    /// Shell lines after everything ended.
    #[serde(default)]
    pub epilogue: OneOrMany<String>,
    /// First port of this user's port block; default 20000.
    pub port_base: Option<u16>,
}

/// What starts jobs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scheduler {
    /// This machine, no scheduler.
    #[default]
    Local,
    /// SLURM.
    Slurm,
    /// PBS Pro or OpenPBS.
    Pbs,
}

/// How GPUs are asked for.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GpuRequest {
    /// GPUs on one node.
    pub per_node: Option<u32>,
    /// How the scheduler wants to be asked.
    #[serde(default)]
    pub ask: GpuAsk,
    /// GPU type in the request (`gres: gpu:h200:8`).
    pub kind: Option<String>,
}

/// How the scheduler wants to be asked for GPUs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GpuAsk {
    /// `--gpus-per-node=N`.
    #[default]
    GpusPerNode,
    /// `--gres=gpu:N`.
    Gres,
    /// `-l select=…:ngpus=N` (PBS).
    Select,
    /// GPUs come with the node.
    Implicit,
}

/// The hardware class.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hardware {
    /// GPU model, as in the list of known GPUs (`H200`, `A100-SXM4-40GB`).
    pub gpu: Option<String>,
    /// Memory of one GPU in gigabytes (10⁹ bytes), when the model is not in the list.
    pub gpu_mem_gb: Option<f64>,
    /// Nodes that exist.
    pub nodes: Option<u32>,
}

/// A container with the engine.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Container {
    /// What runs it.
    pub runtime: ContainerRuntime,
    /// Image: a path or a reference.
    pub image: String,
    /// Bind mounts, `host:container`.
    #[serde(default)]
    pub binds: OneOrMany<String>,
}

/// Container runtimes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ContainerRuntime {
    /// Apptainer or Singularity.
    Apptainer,
    /// enroot through SLURM's pyxis plugin.
    Pyxis,
}

/// The network between nodes.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Fabric {
    /// Its name (`infiniband`, `efa`, `slingshot`): part of the hardware class.
    pub kind: Option<String>,
    /// Network interface that carries it.
    pub interface: Option<String>,
}

impl Site {
    /// The site of this machine, when no file names another.
    pub fn local() -> Self {
        Self {
            schema: SITE_SCHEMA_VERSION,
            site: "local".to_owned(),
            scheduler: Scheduler::Local,
            account: None,
            partition: None,
            queue: None,
            qos: None,
            constraint: None,
            reservation: None,
            gpus: GpuRequest::default(),
            cpus_per_node: None,
            mem_gb_per_node: None,
            walltime: None,
            exclusive: None,
            arrays: false,
            exclude: OneOrMany::default(),
            extra_directives: Vec::new(),
            hardware: Hardware::default(),
            modules: OneOrMany::default(),
            venv: None,
            conda: None,
            container: None,
            env: BTreeMap::new(),
            secrets: OneOrMany::default(),
            scratch: None,
            fabric: Fabric::default(),
            paths: OrderedMap::default(),
            prologue: OneOrMany::default(),
            epilogue: OneOrMany::default(),
            port_base: None,
        }
    }

    /// What of the site makes measurements incomparable: GPU model, GPUs per node, fabric.
    pub fn hardware_class(&self) -> serde_json::Value {
        serde_json::json!({
            "gpu": self.hardware.gpu,
            "gpus_per_node": self.gpus.per_node,
            "fabric": self.fabric.kind,
        })
    }
}
