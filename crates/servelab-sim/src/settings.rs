//! The plain settings of a simulated server. The command line lives in the binary; reading vLLM's flags lives in
//! `flags`; what they resolve to lives in `config`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::catalog::{GpuSpec, ModelArch};
use crate::fail::FailSpec;
use crate::flags::ServingFlags;
use crate::step_time::Parameters;
use crate::text::{DecodeFn, PromptTokenizer};

/// The vLLM version that the simulator claims unless told otherwise.
pub const DEFAULT_VERSION: &str = "0.32.0";

/// Receives the server's log, line by line, without line ends.
pub type LogSink = Arc<dyn Fn(&str) + Send + Sync>;

/// Everything that `servelab sim` can be told.
#[derive(Clone)]
pub struct SimSettings {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Model name or path; any name works.
    pub model: String,
    /// Name in the API; `None` takes `--served-model-name`, else the model name.
    pub served_model_name: Option<String>,
    /// GPU name from the built-in table, `sim` or `cpu`.
    pub gpu: String,
    /// Architecture to simulate; `None` finds or guesses it by the model's name.
    pub model_arch: Option<ModelArch>,
    /// Device to simulate; `None` finds it by name.
    pub gpu_spec: Option<GpuSpec>,
    /// Step-time constants; `None` takes the built-in ones of the device.
    pub parameters: Option<Arc<Parameters>>,
    /// Tensor-parallel size; `None` leaves it to `serving` (default 1).
    pub tp: Option<u32>,
    /// Simulated seconds per real second.
    pub speedup: f64,
    /// Failure injections.
    pub fail: Vec<FailSpec>,
    /// Seed of output texts, lengths and injections.
    pub seed: u64,
    /// vLLM's own flags.
    pub serving: ServingFlags,
    /// The vLLM version to claim, `0.32.0` style.
    pub declared_version: String,
    /// How prompts are counted.
    pub tokenizer: PromptTokenizer,
    /// The way back, for `/detokenize` and `echo`; `None` knows only the simulated model's own words.
    pub decode: Option<DecodeFn>,
    /// What the environment of the process says.
    pub env: SimEnv,
    /// Where log lines go.
    pub log: LogSink,
}

/// The environment variables that vLLM reads and the simulator follows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SimEnv {
    /// `VLLM_API_KEY`: used when `--api-key` is not given.
    pub api_key: Option<String>,
    /// `VLLM_TORCH_PROFILER_DIR`, for versions without `--profiler-config`.
    pub torch_profiler_dir: Option<PathBuf>,
    /// `VLLM_NIXL_SIDE_CHANNEL_HOST`.
    pub side_channel_host: Option<String>,
    /// `VLLM_NIXL_SIDE_CHANNEL_PORT`.
    pub side_channel_port: Option<u16>,
    /// `VLLM_ALLOW_LONG_MAX_MODEL_LEN`.
    pub allow_long_max_model_len: bool,
}

impl SimEnv {
    /// Reads the variables through `get`.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Self {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        Self {
            api_key: get("VLLM_API_KEY"),
            torch_profiler_dir: get("VLLM_TORCH_PROFILER_DIR").map(PathBuf::from),
            side_channel_host: get("VLLM_NIXL_SIDE_CHANNEL_HOST"),
            side_channel_port: get("VLLM_NIXL_SIDE_CHANNEL_PORT").and_then(|text| text.parse().ok()),
            allow_long_max_model_len: get("VLLM_ALLOW_LONG_MAX_MODEL_LEN").is_some_and(|text| text != "0"),
        }
    }
}

impl SimSettings {
    /// Settings with defaults: no failures, real time, seed 0, approximate tokenizer, silent log.
    pub fn new(listen: SocketAddr, model: impl Into<String>, gpu: impl Into<String>) -> Self {
        Self {
            listen,
            model: model.into(),
            served_model_name: None,
            gpu: gpu.into(),
            model_arch: None,
            gpu_spec: None,
            parameters: None,
            tp: None,
            speedup: 1.0,
            fail: Vec::new(),
            seed: 0,
            serving: ServingFlags::default(),
            declared_version: DEFAULT_VERSION.to_owned(),
            tokenizer: PromptTokenizer::Approximate,
            decode: None,
            env: SimEnv::default(),
            log: Arc::new(|_| {}),
        }
    }
}
