//! What models and GPUs are: architecture numbers and data-sheet peaks from the tables in `data/`, and a documented
//! fallback for any other model name. Splitting a model over ranks is `config`'s business, timing is `step_time`'s.

use serde::Deserialize;
use servelab_core::model::{Experts, Mla, ModelFacts, builtin_model, from_hf_config};

use crate::SimError;
use crate::step_time::WeightFormat;

/// Context length assumed for models whose own is not in the table, tokens.
pub const ASSUMED_MAX_POSITION: u32 = 32_768;

/// The attention family, which decides what one cached token costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attention {
    /// Grouped-query (also multi-head) attention: keys and values per KV head.
    Gqa,
    /// Multi-head latent attention: one compressed vector per token and layer.
    Mla,
}

/// Architecture of a model.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelArch {
    /// Name on the model hub.
    pub name: String,
    /// Other names with the same architecture.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Attention family.
    pub attention: Attention,
    /// Transformer layers.
    pub layers: u32,
    /// Hidden size.
    pub hidden: u32,
    /// Intermediate size of dense feed-forward layers; 0 without such.
    pub dense_ffn: u32,
    /// Query heads.
    pub heads: u32,
    /// KV heads (1 for MLA).
    pub kv_heads: u32,
    /// Elements per head (MLA: elements cached per token and layer).
    pub head_dim: u32,
    /// Vocabulary size.
    pub vocab: u32,
    /// Input and output embeddings are the same matrix.
    pub tied_embeddings: bool,
    /// Routed experts per MoE layer; 0 for dense models.
    #[serde(default)]
    pub experts: u32,
    /// Routed experts that each token visits.
    #[serde(default)]
    pub experts_per_token: u32,
    /// Intermediate size of one expert.
    #[serde(default)]
    pub expert_ffn: u32,
    /// Experts that every token visits.
    #[serde(default)]
    pub shared_experts: u32,
    /// Leading layers with a dense feed-forward network in a MoE model.
    #[serde(default)]
    pub dense_layers: u32,
    /// Sliding window, tokens; 0 without.
    #[serde(default)]
    pub window: u32,
    /// Layers that use the sliding window.
    #[serde(default)]
    pub window_layers: u32,
    /// MLA: rank of the query compression; 0 without.
    #[serde(default)]
    pub q_lora: u32,
    /// MLA: rank of the KV compression.
    #[serde(default)]
    pub kv_lora: u32,
    /// MLA: rotary elements per head.
    #[serde(default)]
    pub rope_dim: u32,
    /// MLA: other query-key elements per head.
    #[serde(default)]
    pub nope_dim: u32,
    /// MLA: value elements per head.
    #[serde(default)]
    pub v_dim: u32,
    /// Longest context, tokens, where known.
    #[serde(default)]
    pub max_position: Option<u32>,
    /// Bits per weight of everything but routed experts.
    #[serde(default = "sixteen_bits")]
    pub weight_bits: f64,
    /// Bits per weight of routed experts; `None`: as the rest.
    #[serde(default)]
    pub expert_bits: Option<f64>,
    /// 8-bit weights have a scale per block (DeepSeek's format).
    #[serde(default)]
    pub block_scaled: bool,
    /// Weights below 8 bits are floating-point and multiplied as such where the device can.
    #[serde(default)]
    pub fp4: bool,
    /// Layers with a recurrent state instead of keys and values (linear attention, Mamba).
    #[serde(default)]
    pub linear_layers: u32,
    /// Tokens that sparse attention reads; 0: all.
    #[serde(default)]
    pub index_topk: u32,
    /// Published size, billions of parameters; a cross-check of the arithmetic here.
    #[serde(default)]
    pub total_params_billion: Option<f64>,
    /// Where the numbers come from.
    pub source: String,
}

fn sixteen_bits() -> f64 {
    16.0
}

/// Parameter counts, split by how they are distributed and read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ParamCounts {
    /// Attention, dense and shared feed-forward layers, routers.
    pub body: f64,
    /// Output projection to the vocabulary.
    pub head: f64,
    /// Input embedding (looked up, not multiplied); 0 when tied.
    pub embedding: f64,
    /// All routed experts.
    pub experts: f64,
}

impl ParamCounts {
    /// All parameters.
    pub fn total(self) -> f64 {
        self.body + self.head + self.embedding + self.experts
    }
}

impl ModelArch {
    /// The architecture that a Hugging Face config describes, or the project's list of models knows.
    pub fn from_facts(facts: &ModelFacts) -> Self {
        let experts = facts.experts;
        let mla = facts.mla;
        let expert = |get: fn(&Experts) -> u32| experts.as_ref().map_or(0, get);
        let latent = |get: fn(&Mla) -> u32| mla.as_ref().map_or(0, get);
        Self {
            name: facts.name.clone(),
            aliases: Vec::new(),
            attention: if mla.is_some() { Attention::Mla } else { Attention::Gqa },
            layers: facts.layers,
            hidden: facts.hidden,
            dense_ffn: facts.ffn,
            heads: facts.heads,
            kv_heads: facts.kv_heads,
            head_dim: facts.head_dim,
            vocab: facts.vocab,
            tied_embeddings: facts.tied,
            experts: expert(|experts| experts.total),
            experts_per_token: expert(|experts| experts.per_token),
            expert_ffn: expert(|experts| experts.ffn),
            shared_experts: expert(|experts| experts.shared),
            dense_layers: expert(|experts| experts.dense_layers),
            window: facts.window.map_or(0, |window| window.tokens),
            window_layers: facts.window.map_or(0, |window| window.layers),
            q_lora: latent(|mla| mla.q_lora),
            kv_lora: latent(|mla| mla.kv_lora),
            rope_dim: latent(|mla| mla.rope),
            nope_dim: latent(|mla| mla.nope),
            v_dim: latent(|mla| mla.v),
            max_position: facts.max_position_embeddings.map(|tokens| u32::try_from(tokens).unwrap_or(u32::MAX)),
            weight_bits: facts.weight_bits,
            expert_bits: experts.map(|_| facts.expert_bits),
            block_scaled: facts.block_scaled,
            fp4: facts.fp4,
            linear_layers: facts.linear_layers,
            index_topk: facts.index_topk.unwrap_or(0),
            total_params_billion: facts.params_total_b,
            source: facts.cite.clone(),
        }
    }

    /// How the weights outside routed experts are multiplied, on a device with or without FP4 arithmetic.
    pub fn weight_format(&self, has_fp4: bool) -> WeightFormat {
        self.format_of(self.weight_bits, has_fp4)
    }

    /// The same for routed experts.
    pub fn expert_format(&self, has_fp4: bool) -> WeightFormat {
        self.format_of(self.expert_bits.unwrap_or(self.weight_bits), has_fp4)
    }

    fn format_of(&self, bits: f64, has_fp4: bool) -> WeightFormat {
        match bits {
            bits if bits > 8.5 => WeightFormat::Bf16,
            bits if bits >= 7.5 && self.block_scaled => WeightFormat::Fp8Block,
            bits if bits >= 7.5 => WeightFormat::Fp8,
            _ if self.fp4 && has_fp4 => WeightFormat::Fp4,
            _ => WeightFormat::WeightOnly,
        }
    }

    /// Layers with routed experts.
    pub fn moe_layers(&self) -> u32 {
        if self.experts == 0 { 0 } else { self.layers.saturating_sub(self.dense_layers) }
    }

    /// Counts parameters from the shapes; norms and biases are left out (well under 0.1 %).
    pub fn params(&self) -> ParamCounts {
        let f = f64::from;
        let (hidden, heads) = (f(self.hidden), f(self.heads));
        let attention = match self.attention {
            Attention::Gqa => {
                let head_dim = f(self.head_dim);
                2.0 * hidden * heads * head_dim + 2.0 * hidden * f(self.kv_heads) * head_dim
            }
            Attention::Mla => {
                let qk = f(self.nope_dim) + f(self.rope_dim);
                let query = if self.q_lora > 0 {
                    hidden * f(self.q_lora) + f(self.q_lora) * heads * qk
                } else {
                    hidden * heads * qk
                };
                let latent = hidden * (f(self.kv_lora) + f(self.rope_dim))
                    + f(self.kv_lora) * heads * (f(self.nope_dim) + f(self.v_dim));
                query + latent + heads * f(self.v_dim) * hidden
            }
        };
        let moe_layers = f(self.moe_layers());
        let dense_layers = f(self.layers) - moe_layers;
        let expert = 3.0 * hidden * f(self.expert_ffn);
        let body = f(self.layers) * attention
            + dense_layers * 3.0 * hidden * f(self.dense_ffn)
            + moe_layers * (f(self.shared_experts) * expert + hidden * f(self.experts));
        let table = f(self.vocab) * hidden;
        ParamCounts {
            body,
            head: table,
            embedding: if self.tied_embeddings { 0.0 } else { table },
            experts: moe_layers * f(self.experts) * expert,
        }
    }

    /// Elements cached per token and layer on one of `tp` ranks.
    pub fn kv_elements_per_layer(&self, tp: u32) -> f64 {
        match self.attention {
            Attention::Gqa => 2.0 * f64::from((self.kv_heads / tp.max(1)).max(1)) * f64::from(self.head_dim),
            Attention::Mla => f64::from(self.head_dim),
        }
    }
}

/// Data-sheet peaks of one device.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuSpec {
    /// Name, also the key of its step-time constants.
    pub name: String,
    /// Other names.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// `cuda` or `cpu`, as vLLM's `device_config` says it.
    pub device: String,
    /// Memory, 1e9 bytes.
    pub memory_gb: f64,
    /// Memory bandwidth, 1e9 bytes per second.
    pub bandwidth_gb_per_s: f64,
    /// Dense BF16 peak, 1e12 operations per second.
    pub bf16_tflops: f64,
    /// Dense FP8 peak where the device has one.
    pub fp8_tflops: Option<f64>,
    /// Dense FP4 peak where the device has one.
    #[serde(default)]
    pub fp4_tflops: Option<f64>,
    /// Scale-up link, one direction per device, 1e9 bytes per second.
    pub link_gb_per_s: f64,
    /// Network card per device, 1e9 bits per second.
    #[serde(default = "usual_nic")]
    pub nic_gbit_per_s: f64,
    /// Devices that the scale-up link joins.
    #[serde(default = "usual_node")]
    pub gpus_per_node: u32,
    /// Architecture family, a key of the step-time constants: `hopper`, `ampere`, `blackwell`, `ada`, `cdna`, `cpu`.
    #[serde(default)]
    pub family: String,
    /// Where the numbers come from.
    #[serde(default)]
    pub source: String,
}

impl GpuSpec {
    /// Bytes that an engine sees: what vendors call GB is reported as GiB, less 1 % (79.2 of 80 on H100, 139.8 of 141 on
    /// H200).
    pub fn visible_bytes(&self) -> f64 {
        if matches!(self.family.as_str(), "sim" | "cpu" | "") {
            return self.memory_gb * 1e9;
        }
        self.memory_gb * 0.99 * (1u64 << 30) as f64
    }
}

fn usual_nic() -> f64 {
    400.0
}

fn usual_node() -> u32 {
    8
}

#[derive(Deserialize)]
struct Table<T> {
    #[serde(rename = "note")]
    _note: String,
    entries: Vec<T>,
}

/// All built-in models.
pub fn models() -> Result<Vec<ModelArch>, SimError> {
    parse_table("models.json", include_str!("../data/models.json"))
}

/// All built-in GPUs and pseudo-devices.
pub fn gpus() -> Result<Vec<GpuSpec>, SimError> {
    parse_table("gpus.json", include_str!("../data/gpus.json"))
}

fn parse_table<T: serde::de::DeserializeOwned>(table: &'static str, text: &str) -> Result<Vec<T>, SimError> {
    serde_json::from_str::<Table<T>>(text)
        .map(|parsed| parsed.entries)
        .map_err(|error| SimError::BuiltinTable { table, reason: error.to_string() })
}

/// Finds a GPU by name, alias or the name `nvidia-smi` prints; case and punctuation do not matter.
pub fn find_gpu(name: &str) -> Result<GpuSpec, SimError> {
    let wanted = plain(name);
    let wanted = wanted.strip_prefix("nvidia").unwrap_or(&wanted);
    let wanted = wanted.strip_prefix("amdinstinct").unwrap_or(wanted);
    let gpus = gpus()?;
    let known = gpus.iter().map(|gpu| gpu.name.as_str()).collect::<Vec<_>>().join(", ");
    gpus.iter()
        .find(|gpu| std::iter::once(&gpu.name).chain(&gpu.aliases).any(|alias| plain(alias) == wanted))
        .cloned()
        .ok_or_else(|| SimError::UnknownGpu { name: name.to_owned(), known })
}

/// Finds a model by hub name, by the last component of a path, or with an `-Instruct`/`-FP8`/… ending taken off; any
/// other name gets [`guessed_model`].
pub fn find_model(name: &str) -> Result<ModelArch, SimError> {
    if let Some(arch) = read_config(name)? {
        return Ok(arch);
    }
    let models = models()?;
    let base = name.trim_end_matches('/').rsplit('/').next().unwrap_or(name);
    let mut candidate = plain(base);
    let fp8 = candidate.ends_with("fp8");
    loop {
        let hit = models.iter().find(|model| {
            let hub = model.name.rsplit('/').next().unwrap_or(&model.name);
            std::iter::once(hub).chain(model.aliases.iter().map(String::as_str)).any(|alias| plain(alias) == candidate)
        });
        if let Some(model) = hit {
            let mut model = model.clone();
            if fp8 {
                model.weight_bits = model.weight_bits.min(8.0);
            }
            return Ok(model);
        }
        let shorter = ["instruct", "chat", "base", "fp8", "it", "bf16", "2507"]
            .iter()
            .find_map(|suffix| candidate.strip_suffix(suffix))
            .map(str::to_owned);
        match shorter {
            Some(shorter) => candidate = shorter,
            None => {
                return Ok(
                    builtin_model(name).map_or_else(|| guessed_model(base), |facts| ModelArch::from_facts(&facts))
                );
            }
        }
    }
}

/// The architecture in the `config.json` of a model folder; `None` where there is no such file.
fn read_config(folder: &str) -> Result<Option<ModelArch>, SimError> {
    let path = std::path::Path::new(folder).join("config.json");
    if !path.is_file() {
        return Ok(None);
    }
    let unusable = |reason: String| SimError::BadModelConfig { path: path.display().to_string(), reason };
    let text = std::fs::read_to_string(&path).map_err(|error| unusable(error.to_string()))?;
    let config = serde_json::from_str(&text).map_err(|error| unusable(error.to_string()))?;
    let name = folder.trim_end_matches('/').rsplit('/').next().unwrap_or(folder);
    let facts = from_hf_config(name, &config).map_err(|error| unusable(error.to_string()))?;
    Ok(Some(ModelArch::from_facts(&facts)))
}

/// A dense model of the size that the name tells (`…-8B`, `0.6b`, `350m`; 1B when it tells none), with Llama-like
/// proportions. Good enough to run anything anywhere; never a statement about that model.
pub fn guessed_model(name: &str) -> ModelArch {
    let billions = size_in_name(name).unwrap_or(1.0).clamp(0.01, 2_000.0);
    // Llama-like proportions: params ≈ 13.5·L·h² with h ≈ 128·L, so L ≈ (params / (13.5·128²))^(1/3).
    let layers = (billions * 1e9 / (13.5 * 128.0 * 128.0)).cbrt().round().max(2.0);
    let heads = (layers / 8.0).ceil() * 8.0;
    let hidden = heads * 128.0;
    let kv_heads = if heads >= 8.0 { 8.0 } else { heads };
    let attention = 2.0 * hidden * hidden + 2.0 * hidden * kv_heads * 128.0;
    let vocab = 32_000.0;
    let body_per_layer = ((billions * 1e9 - 2.0 * vocab * hidden) / layers - attention).max(hidden * hidden);
    ModelArch {
        name: name.to_owned(),
        aliases: Vec::new(),
        attention: Attention::Gqa,
        layers: layers as u32,
        hidden: hidden as u32,
        dense_ffn: (body_per_layer / (3.0 * hidden)) as u32,
        heads: heads as u32,
        kv_heads: kv_heads as u32,
        head_dim: 128,
        vocab: vocab as u32,
        tied_embeddings: false,
        experts: 0,
        experts_per_token: 0,
        expert_ffn: 0,
        shared_experts: 0,
        dense_layers: 0,
        window: 0,
        window_layers: 0,
        q_lora: 0,
        kv_lora: 0,
        rope_dim: 0,
        nope_dim: 0,
        v_dim: 0,
        max_position: None,
        weight_bits: 16.0,
        expert_bits: None,
        block_scaled: false,
        fp4: false,
        linear_layers: 0,
        index_topk: 0,
        total_params_billion: None,
        source: format!("guessed from the name: dense, {billions} B parameters"),
    }
}

/// The last `<number>b` or `<number>m` in a name, in billions.
fn size_in_name(name: &str) -> Option<f64> {
    name.to_ascii_lowercase()
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '.'))
        .filter_map(|word| {
            let (digits, unit) = word.split_at_checked(word.len().checked_sub(1)?)?;
            let digits = digits.trim_start_matches(|c: char| c.is_ascii_alphabetic());
            let number = digits.parse::<f64>().ok().filter(|number| number.is_finite() && *number > 0.0)?;
            match unit {
                "b" => Some(number),
                "m" => Some(number / 1e3),
                _ => None,
            }
        })
        .next()
}

fn plain(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_reproduce_the_published_sizes() {
        for model in models().unwrap() {
            let counted = model.params().total() / 1e9;
            let published = model.total_params_billion.unwrap();
            assert!((counted / published - 1.0).abs() < 0.02, "{}: {counted} vs {published}", model.name);
        }
    }

    #[test]
    fn models_are_found_by_path_and_variant() {
        let check = |name: &str, expected: &str| assert_eq!(find_model(name).unwrap().name, expected, "{name}");
        check("zai-org/GLM-4.6", "zai-org/GLM-4.6");
        check("/models/GLM-4.6/", "zai-org/GLM-4.6");
        check("meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B");
        check("deepseek-ai/DeepSeek-R1", "deepseek-ai/DeepSeek-V3");
        check("Qwen/Qwen3-32B-FP8", "Qwen/Qwen3-32B");
        assert_eq!(find_model("Qwen/Qwen3-32B-FP8").unwrap().weight_bits, 8.0);
        check("acme/foo-7b", "foo-7b");
    }

    #[test]
    fn unknown_models_get_the_size_in_their_name() {
        for (name, billions) in
            [("acme/foo-7b", 7.0), ("x-0.6B-chat", 0.6), ("mini-350m", 0.35), ("tiny", 1.0), ("a-70B", 70.0)]
        {
            let counted = find_model(name).unwrap().params().total() / 1e9;
            assert!((counted / billions - 1.0).abs() < 0.25, "{name}: {counted}");
        }
    }

    #[test]
    fn gpus_are_found_by_common_names() {
        let check = |name: &str, expected: &str| assert_eq!(find_gpu(name).unwrap().name, expected, "{name}");
        check("h200", "H200-SXM-141GB");
        check("NVIDIA H200", "H200-SXM-141GB");
        check("A100-80GB", "A100-SXM4-80GB");
        check("AMD Instinct MI300X", "MI300X");
        check("cpu", "cpu");
        check("sim", "sim");
        let error = find_gpu("TPUv9").unwrap_err().to_string();
        assert!(error.contains("TPUv9") && error.contains("H200-SXM-141GB"), "{error}");
    }

    #[test]
    fn cached_bytes_per_token_match_the_published_table() {
        let bytes = |name: &str| {
            let model = find_model(name).unwrap();
            f64::from(model.layers) * model.kv_elements_per_layer(1) * 2.0
        };
        assert_eq!(bytes("Llama-3.1-8B"), 131_072.0);
        assert_eq!(bytes("GLM-4.6"), 376_832.0);
        assert_eq!(bytes("DeepSeek-V3"), 70_272.0);
    }
}
