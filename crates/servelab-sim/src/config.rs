//! From settings to the configuration that the engine runs: vLLM's defaults, its refusals in its own words, the split of
//! a model over ranks and the KV capacity that is left. No time is modelled here and nothing is started.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::SimError;
use crate::catalog::{ASSUMED_MAX_POSITION, Attention, GpuSpec, ModelArch, find_gpu, find_model};
use crate::flags::version_key;
use crate::predict::{self, Label};
use crate::settings::SimSettings;
use crate::step_time::Parameters;

pub(crate) mod checks;
mod scheduling;

pub use scheduling::SchedulingFlags;

/// The effective configuration of a simulated server: requested flags, vLLM's defaults, derived capacity.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerConfig {
    /// Model name as given.
    pub model_name: String,
    /// Names in the API, first one primary.
    pub served_names: Vec<String>,
    /// Architecture.
    pub model: ModelArch,
    /// Device.
    pub gpu: GpuSpec,
    /// Claimed vLLM version.
    pub version: String,
    /// Tensor-parallel size.
    pub tp: u32,
    /// Pipeline-parallel size.
    pub pp: u32,
    /// Data-parallel size.
    pub dp: u32,
    /// Experts are spread over all tp × dp ranks.
    pub expert_parallel: bool,
    /// Expert-parallel load balancing.
    pub eplb: bool,
    /// Effective all-to-all backend.
    pub all2all_backend: String,
    /// Longest sequence, tokens.
    pub max_model_len: u32,
    /// Running requests per rank.
    pub max_num_seqs: u32,
    /// Tokens per step and rank.
    pub max_num_batched_tokens: u32,
    /// Prompts may be split over steps.
    pub chunked_prefill: bool,
    /// Largest prompt part per step when several requests are running; 0: no limit.
    pub long_prefill_token_threshold: u32,
    /// Prefix cache on.
    pub prefix_caching: bool,
    /// No CUDA graphs.
    pub enforce_eager: bool,
    /// Tokens per KV block.
    pub block_size: u32,
    /// `auto`, `fp8`, ….
    pub kv_cache_dtype: String,
    /// Model data type as `--dtype` says it.
    pub dtype: String,
    /// `--quantization`, if any.
    pub quantization: Option<String>,
    /// Share of device memory for vLLM (0–1).
    pub gpu_memory_utilization: f64,
    /// Admission limit over waiting and running requests; `None`: no limit.
    pub max_num_queued_reqs: Option<u64>,
    /// Admission limit over prompt tokens that wait for their first token; `None`: no limit.
    pub max_num_queued_tokens: Option<u64>,
    /// `fcfs` or `priority`.
    pub scheduling_policy: String,
    /// Most log-probabilities per token that a request may ask for; negative: no limit.
    pub max_logprobs: i64,
    /// `--enable-auto-tool-choice`.
    pub auto_tool_choice: bool,
    /// `--kv-transfer-config` is given.
    pub has_kv_connector: bool,
    /// Tokens per streamed chunk.
    pub stream_interval: u32,
    /// Flags that only the scheduler knows.
    pub scheduling: SchedulingFlags,
    /// Weight bytes on one rank.
    pub weight_bytes: f64,
    /// Bytes left for KV on one rank.
    pub kv_cache_bytes: f64,
    /// KV bytes of one token on one rank.
    pub kv_bytes_per_token: f64,
    /// KV blocks per rank, null block included.
    pub num_gpu_blocks: u64,
    /// Decode context parallel size: ranks over which one request's keys and values are spread.
    pub dcp: u32,
    /// The next step is prepared while the last one runs.
    pub async_scheduling: bool,
    /// Step-time constants; `None`: the built-in ones of the device.
    pub parameters: Option<Arc<Parameters>>,
    /// Given flags that are accepted but change nothing here.
    pub not_simulated: Vec<String>,
}

const GIB: f64 = (1u64 << 30) as f64;

impl ServerConfig {
    /// The step-time constants that hold for it.
    pub fn constants(&self) -> Result<Arc<Parameters>, SimError> {
        match &self.parameters {
            Some(parameters) => Ok(Arc::clone(parameters)),
            None => Parameters::builtin(&self.gpu).map(Arc::new),
        }
    }

    /// How far what it does may be believed.
    pub fn label(&self) -> Result<Label, SimError> {
        Ok(predict::label(self, &*self.constants()?).0)
    }

    /// Resolves settings, or refuses them as vLLM would.
    pub fn resolve(settings: &SimSettings) -> Result<Self, SimError> {
        if !(settings.speedup.is_finite() && settings.speedup > 0.0) {
            return Err(SimError::BadSetting {
                name: "speedup",
                value: settings.speedup.to_string(),
                rule: "a finite number above 0",
            });
        }
        let flags = &settings.serving;
        let gpu = match &settings.gpu_spec {
            Some(spec) => spec.clone(),
            None => find_gpu(&settings.gpu)?,
        };
        let mut model = match &settings.model_arch {
            Some(arch) => arch.clone(),
            None => find_model(&settings.model)?,
        };
        let quantization = flags.text("quantization").map(str::to_owned);
        if let Some(bits) = quantization.as_deref().and_then(quantized_bits) {
            model.weight_bits = model.weight_bits.min(bits);
            model.expert_bits = model.expert_bits.map(|own| own.min(bits));
            model.fp4 |= quantization.as_deref() == Some("modelopt_fp4");
        }
        let dtype = flags.text("dtype").unwrap_or("auto").to_owned();
        if matches!(dtype.as_str(), "float32" | "float") && quantization.is_none() {
            model.weight_bits = 32.0;
        }
        let size = |name: &str| flags.integer(name).map(saturating_u32);
        let tp = settings.tp.or(size("tensor_parallel_size")).unwrap_or(1).max(1);
        let pp = size("pipeline_parallel_size").unwrap_or(1).max(1);
        let dp = size("data_parallel_size").unwrap_or(1).max(1);
        let chunked_prefill = flags.switch("enable_chunked_prefill").unwrap_or(true);
        let derived_len = model.max_position.unwrap_or(ASSUMED_MAX_POSITION);
        let auto_len = flags.text("max_model_len") == Some("auto");
        let max_model_len = size("max_model_len").unwrap_or(derived_len);
        let (default_tokens, default_seqs) = batch_defaults(&gpu, tp);
        let max_num_batched_tokens = size("max_num_batched_tokens").unwrap_or(if chunked_prefill {
            default_tokens
        } else {
            default_tokens.max(max_model_len)
        });
        let max_num_seqs = size("max_num_seqs").unwrap_or(default_seqs.min(max_num_batched_tokens));
        let expert_parallel = flags.switch("enable_expert_parallel").unwrap_or(false) && model.experts > 0;
        let mut config = Self {
            model_name: settings.model.clone(),
            served_names: served_names(settings),
            version: settings.declared_version.clone(),
            tp,
            pp,
            dp,
            expert_parallel,
            eplb: flags.switch("enable_eplb").unwrap_or(false),
            all2all_backend: effective_all2all(flags.text("all2all_backend"), &settings.declared_version),
            max_model_len,
            max_num_seqs,
            max_num_batched_tokens,
            chunked_prefill,
            long_prefill_token_threshold: size("long_prefill_token_threshold").unwrap_or(0),
            prefix_caching: flags.switch("enable_prefix_caching").unwrap_or(true),
            enforce_eager: flags.switch("enforce_eager").unwrap_or(false),
            block_size: size("block_size").unwrap_or(16),
            kv_cache_dtype: flags.text("kv_cache_dtype").unwrap_or("auto").to_owned(),
            dtype,
            quantization,
            gpu_memory_utilization: flags.number("gpu_memory_utilization").unwrap_or(default_utilization(settings)),
            max_num_queued_reqs: flags.integer("max_num_queued_reqs"),
            max_num_queued_tokens: flags.integer("max_num_queued_tokens"),
            scheduling_policy: flags.text("scheduling_policy").unwrap_or("fcfs").to_owned(),
            max_logprobs: flags.get("max_logprobs").and_then(Value::as_i64).unwrap_or(20),
            auto_tool_choice: flags.switch("enable_auto_tool_choice").unwrap_or(false),
            has_kv_connector: flags.get("kv_transfer_config").is_some(),
            stream_interval: size("stream_interval").unwrap_or(1).max(1),
            scheduling: SchedulingFlags::of(flags),
            weight_bytes: 0.0,
            kv_cache_bytes: 0.0,
            kv_bytes_per_token: 0.0,
            num_gpu_blocks: 0,
            dcp: size("decode_context_parallel_size").unwrap_or(1).max(1),
            async_scheduling: flags.switch("async_scheduling").unwrap_or_else(|| default_async(settings)),
            parameters: settings.parameters.clone(),
            not_simulated: not_simulated(settings),
            model,
            gpu,
        };
        config.scheduling.strike_out(&mut config.not_simulated);
        checks::check_flags(&config, flags)?;
        config.measure_memory(flags.integer("kv_cache_memory_bytes"), flags.integer("num_gpu_blocks_override"))?;
        if auto_len {
            let fits = config.num_gpu_blocks.saturating_sub(1) * u64::from(config.block_size);
            config.max_model_len = config.max_model_len.min(saturating_u32(fits)).max(1);
        }
        checks::check_capacity(&config)?;
        Ok(config)
    }

    /// Bytes of one cached element.
    pub fn kv_element_bytes(&self) -> f64 {
        kv_element_bytes(&self.kv_cache_dtype, &self.dtype)
    }

    /// Ranks over which routed experts are spread.
    pub fn expert_ranks(&self) -> u32 {
        self.tp * self.dp
    }

    /// Data-parallel ranks step together: their experts exchange tokens in every layer.
    pub fn lock_step(&self) -> bool {
        self.dp > 1 && self.model.experts > 0
    }

    /// Tokens that the KV cache of one rank holds.
    pub fn kv_cache_tokens(&self) -> u64 {
        self.num_gpu_blocks * u64::from(self.block_size)
    }

    /// How many longest requests the KV cache of one rank holds.
    pub fn max_concurrency(&self) -> f64 {
        let blocks = self.max_model_len.div_ceil(self.block_size);
        self.num_gpu_blocks as f64 / f64::from(blocks.max(1))
    }

    /// `(memory − weights − activations − graphs)·share`, in blocks.
    fn measure_memory(&mut self, kv_bytes: Option<u64>, override_blocks: Option<u64>) -> Result<(), SimError> {
        let params = self.model.params();
        let ranks = f64::from(self.tp * self.pp);
        let expert_bits = self.model.expert_bits.unwrap_or(self.model.weight_bits);
        let tables = (params.head + params.embedding) * 2.0 / f64::from(self.tp);
        self.weight_bytes = params.body * self.model.weight_bits / 8.0 / ranks
            + tables
            + params.experts * expert_bits / 8.0 / f64::from(self.expert_ranks() * self.pp);
        let total_bytes = self.gpu.visible_bytes();
        if self.weight_bytes > total_bytes {
            return Err(SimError::Refused(checks::out_of_memory(self.weight_bytes, total_bytes)));
        }
        let hidden = f64::from(self.model.hidden);
        let widest = f64::from(self.model.dense_ffn.max(self.model.expert_ffn * self.model.experts_per_token));
        let activations =
            f64::from(self.max_num_batched_tokens) * (4.0 * hidden + 2.0 * widest / f64::from(self.tp)) * 2.0
                + f64::from(self.max_num_seqs) * f64::from(self.model.vocab) * 4.0 / f64::from(self.tp);
        let memory = self.constants()?.memory.clone();
        let activations = activations * memory.activation_factor;
        let graphs = if self.enforce_eager || self.gpu.device == "cpu" { 0.0 } else { memory.graph_bytes };
        let runtime = memory.runtime_bytes;
        let share = total_bytes * self.gpu_memory_utilization;
        self.kv_cache_bytes = match kv_bytes {
            Some(bytes) => bytes as f64,
            None => share - self.weight_bytes - activations - graphs - runtime,
        };
        // Windows and recurrent states do not grow with the sequence; a model of windows only is counted in full.
        let growing = self.model.layers.saturating_sub(self.model.window_layers + self.model.linear_layers);
        let growing = if growing == 0 { self.model.layers } else { growing };
        let layers = f64::from(growing.div_ceil(self.pp));
        let elements = self.model.kv_elements_per_layer(self.tp) / f64::from(self.dcp);
        self.kv_bytes_per_token = layers * elements * self.kv_element_bytes();
        let block_bytes = self.kv_bytes_per_token * f64::from(self.block_size);
        match override_blocks {
            Some(blocks) => {
                self.num_gpu_blocks = blocks;
                self.kv_cache_bytes = blocks as f64 * block_bytes;
            }
            // More blocks than 32-bit ids can name would only be an absurdly small model on a huge device.
            None => self.num_gpu_blocks = (self.kv_cache_bytes / block_bytes).floor().clamp(0.0, 16e6) as u64,
        }
        Ok(())
    }

    /// The effective configuration under vLLM's key names, as `/server_info` shows it.
    pub fn to_vllm_json(&self) -> Value {
        json!({
            "model_config": {
                "model": self.model_name, "served_model_name": self.served_names, "dtype": self.dtype,
                "max_model_len": self.max_model_len, "quantization": self.quantization,
                "enforce_eager": self.enforce_eager,
            },
            "cache_config": {
                "block_size": self.block_size, "gpu_memory_utilization": self.gpu_memory_utilization,
                "cache_dtype": self.kv_cache_dtype, "enable_prefix_caching": self.prefix_caching,
                "num_gpu_blocks": self.num_gpu_blocks, "kv_cache_memory_bytes": self.kv_cache_bytes.max(0.0) as u64,
            },
            "parallel_config": {
                "tensor_parallel_size": self.tp, "pipeline_parallel_size": self.pp, "data_parallel_size": self.dp,
                "enable_expert_parallel": self.expert_parallel, "enable_eplb": self.eplb,
                "all2all_backend": self.all2all_backend,
            },
            "scheduler_config": {
                "max_num_seqs": self.max_num_seqs, "max_num_batched_tokens": self.max_num_batched_tokens,
                "max_model_len": self.max_model_len, "enable_chunked_prefill": self.chunked_prefill,
                "long_prefill_token_threshold": self.long_prefill_token_threshold, "policy": self.scheduling_policy,
                "stream_interval": self.stream_interval, "max_num_queued_reqs": self.max_num_queued_reqs,
            },
            "device_config": {"device": self.gpu.device},
        })
    }

    /// Bytes as GiB, the unit of vLLM's log.
    pub fn gib(bytes: f64) -> f64 {
        bytes / GIB
    }
}

fn served_names(settings: &SimSettings) -> Vec<String> {
    if let Some(name) = &settings.served_model_name {
        return vec![name.clone()];
    }
    let listed: Vec<String> = settings
        .serving
        .get("served_model_name")
        .and_then(Value::as_array)
        .map(|names| names.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        .unwrap_or_default();
    if listed.is_empty() { vec![settings.model.clone()] } else { listed }
}

/// vLLM's API-server defaults by device memory: (tokens per step, sequences).
fn batch_defaults(gpu: &GpuSpec, tp: u32) -> (u32, u32) {
    let gib = gpu.visible_bytes() / GIB;
    if gpu.device == "cpu" {
        if tp > 1 { (4096, 256) } else { (2048, 128) }
    } else if gib >= 160.0 {
        (16_384, 1024)
    } else if gib >= 70.0 && !gpu.name.starts_with("A100") {
        (8192, 1024)
    } else {
        (2048, 256)
    }
}

fn default_utilization(settings: &SimSettings) -> f64 {
    if version_key(&settings.declared_version) < (0, 12) { 0.9 } else { 0.92 }
}

/// Asynchronous scheduling became the default after 0.12, where nothing rules it out.
fn default_async(settings: &SimSettings) -> bool {
    version_key(&settings.declared_version) >= (0, 14)
}

/// `pplx` and `naive` silently became the default backend in current versions.
fn effective_all2all(requested: Option<&str>, version: &str) -> String {
    match requested {
        Some("pplx" | "naive") | None if version_key(version) >= (0, 12) => "allgather_reducescatter".to_owned(),
        Some(name) => name.to_owned(),
        None => "allgather_reducescatter".to_owned(),
    }
}

fn quantized_bits(method: &str) -> Option<f64> {
    match method {
        "fp8" | "fbgemm_fp8" | "compressed-tensors" | "modelopt" => Some(8.0),
        "awq" | "gptq" | "awq_marlin" | "gptq_marlin" | "mxfp4" | "modelopt_fp4" | "bitsandbytes" => Some(4.25),
        _ => None,
    }
}

fn kv_element_bytes(kv_cache_dtype: &str, dtype: &str) -> f64 {
    match kv_cache_dtype {
        "auto" if matches!(dtype, "float32" | "float") => 4.0,
        "auto" | "bfloat16" | "float16" => 2.0,
        name if name.contains("4") && !name.starts_with("fp8") => 0.5,
        name if name.contains("3bit") => 0.375,
        _ => 1.0,
    }
}

fn saturating_u32(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Flags that vLLM acts on and this simulator does not (yet).
fn not_simulated(settings: &SimSettings) -> Vec<String> {
    const IGNORED: [&str; 7] = [
        "speculative_config",
        "prefill_context_parallel_size",
        "kv_offloading_size",
        "cpu_offload_gb",
        "enable_dbo",
        "enable_lora",
        "max_num_scheduled_tokens",
    ];
    let mut names: Vec<String> =
        IGNORED.iter().filter(|name| settings.serving.get(name).is_some()).map(|name| (*name).to_owned()).collect();
    if settings.serving.integer("pipeline_parallel_size").is_some_and(|size| size > 1) {
        names.push("pipeline_parallel_size (memory is split, stages do not overlap)".to_owned());
    }
    names
}

/// True for attention that caches one compressed vector: decode context parallelism has other rules there.
pub(crate) fn is_latent(model: &ModelArch) -> bool {
    model.attention == Attention::Mla
}

#[cfg(test)]
mod tests;
