//! A planned point as the simulated server that stands for it: its own command line is read as the engine would read it,
//! on the device of the site, of `--gpu`, or of the user's hardware file.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde::Deserialize;
use servelab_core::plan::{PlannedPoint, RolePlan};
use servelab_sim::catalog::{GpuSpec, ModelArch, find_gpu};
use servelab_sim::config::ServerConfig;
use servelab_sim::predict::PrefillServers;
use servelab_sim::step_time::Parameters;
use servelab_sim::{DEFAULT_VERSION, SimError, SimSettings, parse_serving_flags};

use crate::commands::calibrate::CalibrationFile;
use crate::error::CommandError;
use crate::study_input::StudyInput;

/// What predictions depend on besides the study.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct PredictOptions {
    /// GPU to predict for, where the site names none: a name from the built-in list or the hardware file
    #[arg(long, value_name = "NAME")]
    pub(crate) gpu: Option<String>,
    /// Devices and step-time constants of your own (JSON: `gpus`, `step_time`)
    #[arg(long, value_name = "FILE")]
    pub(crate) hardware: Option<PathBuf>,
    /// Factors that `servelab calibrate` learnt; used where model, GPU and engine version are the same
    #[arg(long, value_name = "FILE")]
    pub(crate) calibration: Option<PathBuf>,
}

/// A user's devices, and constants over the built-in ones.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Hardware {
    #[serde(default)]
    pub(crate) gpus: Vec<GpuSpec>,
    /// In the form of the built-in table: `default`, `families`, `per_gpu`.
    #[serde(default)]
    step_time: Option<serde_json::Value>,
}

impl Hardware {
    /// Reads the file; nothing without one.
    pub(crate) fn read(path: Option<&Path>) -> Result<Self, CommandError> {
        let Some(path) = path else { return Ok(Self::default()) };
        let text = std::fs::read_to_string(path)
            .map_err(|error| CommandError::usage(format!("cannot read `{}`: {error}", path.display())))?;
        serde_json::from_str(&text).map_err(|error| {
            CommandError::usage(format!("cannot use `{}` as a hardware file: {error}", path.display())).hint(
                "it holds {\"gpus\": [{\"name\", \"device\", \"memory_gb\", …}], \"step_time\": {\"per_gpu\": …}}",
            )
        })
    }

    /// A device by name: the file's own first.
    pub(crate) fn gpu(&self, name: &str) -> Result<GpuSpec, SimError> {
        match self.gpus.iter().find(|gpu| gpu.name == name || gpu.aliases.iter().any(|alias| alias == name)) {
            Some(gpu) => Ok(gpu.clone()),
            None => find_gpu(name),
        }
    }

    /// The device's constants.
    pub(crate) fn parameters(&self, gpu: &GpuSpec) -> Result<Parameters, SimError> {
        let overlay = self.step_time.as_ref().map(ToString::to_string);
        Parameters::resolve(gpu, overlay.as_deref())
    }
}

/// The server that stands for a point.
#[derive(Debug, Clone)]
pub(crate) struct PointServer {
    pub(crate) config: ServerConfig,
    /// Equal servers behind a router that share the load evenly; one of them is simulated.
    pub(crate) replicas: u32,
    /// Servers that generate, all simulated together: more than one only behind `prefill`.
    pub(crate) n_generate: u32,
    /// Servers that compute the prompts, where the point splits the two.
    pub(crate) prefill: Option<PrefillServers>,
    /// Settings that change nothing in the model.
    pub(crate) not_modelled: Vec<String>,
    /// Equal for servers that are the same to the model.
    pub(crate) key: String,
}

/// The server of a point; inner `Err`: why it would not start.
pub(crate) fn server_of(
    input: &StudyInput,
    point: &PlannedPoint,
    options: &PredictOptions,
) -> Result<Result<PointServer, Vec<String>>, CommandError> {
    let role_of = |name: &str| point.roles.iter().find(|role| role.role == name);
    let split = role_of("prefill").zip(role_of("decode"));
    let Some(role) = role_of("serve").or(split.map(|(_, decode)| decode)) else {
        return Ok(Err(vec!["the point has no role that serves".to_owned()]));
    };
    let (config, mut not_modelled) = match server_config(input, point, role, options)? {
        Ok(found) => found,
        Err(reasons) => return Ok(Err(reasons)),
    };
    let mut prefill = None;
    if let Some((role, decode)) = split {
        let (config, more) = match server_config(input, point, role, options)? {
            Ok(found) => found,
            Err(reasons) => return Ok(Err(reasons.into_iter().map(|why| format!("prefill: {why}")).collect())),
        };
        not_modelled.extend(more.into_iter().filter(|name| !not_modelled.contains(name)).collect::<Vec<_>>());
        let same_node = nodes_of(role) == nodes_of(decode);
        prefill = Some(PrefillServers { config, n_servers: role.count.max(1), same_node });
    }
    let (replicas, n_generate) = if prefill.is_some() { (1, role.count.max(1)) } else { (role.count.max(1), 1) };
    let key = format!("{config:?} {n_generate} {prefill:?}");
    Ok(Ok(PointServer { config, replicas, n_generate, prefill, not_modelled, key }))
}

fn nodes_of(role: &RolePlan) -> BTreeSet<u32> {
    role.placement.iter().flat_map(|instance| instance.node_gpus.keys().copied()).collect()
}

/// One server of a role, and what of it changes nothing in the model; `Err`: why it would not start.
type Resolved = Result<(ServerConfig, Vec<String>), Vec<String>>;

fn server_config(
    input: &StudyInput,
    point: &PlannedPoint,
    role: &RolePlan,
    options: &PredictOptions,
) -> Result<Resolved, CommandError> {
    let hardware = Hardware::read(options.hardware.as_deref())?;
    let (own, flags) = split_argv(&role.argv);
    let gpu_name = options.gpu.clone().or_else(|| input.site.hardware.gpu.clone()).or(own.gpu).ok_or_else(|| {
        CommandError::usage("neither the site nor the command line says which GPU to predict for")
            .hint("add `--gpu H200`, or `hardware: {gpu: H200-SXM-141GB}` to the site")
    })?;
    let gpu = hardware.gpu(&gpu_name).map_err(|error| CommandError::usage(format!("cannot {error}")))?;
    let mut parameters = hardware.parameters(&gpu).map_err(|error| CommandError::usage(format!("cannot {error}")))?;
    let version = version_of(point, own.version);
    let model_id = point.config.pointer("/model/id").and_then(|id| id.as_str()).unwrap_or(&input.study.model.id);
    let mut not_modelled = Vec::new();
    if let Some(path) = &options.calibration {
        let file = CalibrationFile::read(path)?;
        match file.applies_to(model_id, &gpu.name, &version) {
            Ok(()) => parameters.calibration = file.calibration.clone(),
            Err(why) => not_modelled.push(format!("the calibration is not used: {why}")),
        }
    }
    let mut settings = SimSettings::new(([127, 0, 0, 1], 0).into(), model_id, gpu.name.clone());
    settings.model_arch = input.model_facts().map(ModelArch::from_facts);
    settings.gpu_spec = Some(gpu);
    settings.parameters = Some(Arc::new(parameters));
    settings.declared_version = version;
    settings.tp = own.tp;
    settings.serving = match parse_serving_flags(&flags, &settings.declared_version) {
        Ok(serving) => serving,
        Err(error) => return Ok(Err(vec![error.to_string()])),
    };
    let config = match ServerConfig::resolve(&settings) {
        Ok(config) => config,
        Err(error) => return Ok(Err(vec![first_line(&error.to_string())])),
    };
    not_modelled.extend(config.not_simulated.iter().cloned());
    Ok(Ok((config, not_modelled)))
}

/// What of a command line is the simulator's own, or names the model.
#[derive(Default)]
struct Own {
    gpu: Option<String>,
    version: Option<String>,
    tp: Option<u32>,
}

/// Flags of the serving engine, without program, model and the simulator's own options.
fn split_argv(argv: &[String]) -> (Own, Vec<String>) {
    let mut own = Own::default();
    let mut flags = Vec::new();
    let mut words = argv.iter().skip_while(|word| !word.starts_with("--")).peekable();
    while let Some(word) = words.next() {
        let mut value = || words.next().cloned();
        match word.as_str() {
            "--gpu" => own.gpu = value(),
            "--engine-version" => own.version = value(),
            "--tp" => own.tp = value().and_then(|text| text.parse().ok()),
            "--model" | "--listen" | "--speedup" | "--sim-seed" | "--tokenizer" | "--fail" => {
                value();
            }
            _ => flags.push(word.clone()),
        }
    }
    (own, flags)
}

/// The lowest version that the point's declaration allows: `0.11.*` is 0.11.0.
fn version_of(point: &PlannedPoint, own: Option<String>) -> String {
    let declared = point.config.pointer("/engine/version").and_then(|version| version.as_str());
    let text = own.as_deref().or(declared).unwrap_or(DEFAULT_VERSION);
    let digits: Vec<&str> = text
        .trim_start_matches(|c: char| !c.is_ascii_digit())
        .split('.')
        .take(3)
        .map(|part| if part.chars().all(|c| c.is_ascii_digit()) && !part.is_empty() { part } else { "0" })
        .collect();
    match digits.as_slice() {
        [major, minor, patch] => format!("{major}.{minor}.{patch}"),
        [major, minor] => format!("{major}.{minor}.0"),
        _ => DEFAULT_VERSION.to_owned(),
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or(text).to_owned()
}
