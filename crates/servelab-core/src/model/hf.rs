//! A Hugging Face `config.json` as [`ModelFacts`]. Families spell the same thing differently; the names tried here cover
//! Llama 2–4, Qwen 2/3 (MoE, Next), GLM-4, DeepSeek, Mixtral, MiniMax, gpt-oss, Gemma 2/3, Phi, Nemotron and what is built
//! like them. Hybrids become layers of the nearest kind; what cannot be said is an error that names the key.

use serde_json::Value;

use super::{Experts, Mla, ModelFacts, Window};

/// Why a config does not describe a model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// A size without which nothing can be computed.
    #[error("find `{0}` in config.json; is it the config of a language model?")]
    Missing(&'static str),
}

/// Reads the architecture. `name` is only a label.
pub fn from_hf_config(name: &str, config: &Value) -> Result<ModelFacts, ModelError> {
    let text = ["text_config", "llm_config", "language_config"].iter().find_map(|key| config.get(*key));
    let keys = Keys { inner: text.unwrap_or(config), outer: config };
    let listed = keys.need(&["num_hidden_layers", "n_layer", "num_layers"], "num_hidden_layers")?;
    let pattern = HybridPattern::read(&keys);
    let layers = pattern.map_or(listed, |pattern| pattern.mixers());
    let hidden = keys.need(&["hidden_size", "n_embd", "d_model"], "hidden_size")?;
    let heads = keys.need(&["num_attention_heads", "n_head"], "num_attention_heads")?;
    let vocab = keys.need(&["vocab_size"], "vocab_size")?;
    let mla = keys.number(&["kv_lora_rank"]).map(|kv_lora| Mla {
        kv_lora,
        rope: keys.number(&["qk_rope_head_dim"]).unwrap_or(64),
        nope: keys.number(&["qk_nope_head_dim"]).unwrap_or(128),
        v: keys.number(&["v_head_dim"]).unwrap_or(128),
        q_lora: keys.number(&["q_lora_rank"]).unwrap_or(0),
    });
    let ffn = keys.number(&["intermediate_size", "ffn_hidden_size", "n_inner"]).unwrap_or(4 * hidden);
    let experts = experts(&keys, layers, ffn, pattern);
    let ffn = dense_width(&keys, ffn, hidden, layers, pattern);
    let head_dim = keys.number(&["head_dim"]).unwrap_or(hidden.checked_div(heads).unwrap_or(0));
    let quantization = quantization(&keys);
    let kinds = layer_kinds(&keys, layers, pattern);
    Ok(ModelFacts {
        name: name.to_owned(),
        aliases: Vec::new(),
        layers,
        hidden,
        // Where every layer has experts, `intermediate_size` is the expert's width or a leftover.
        ffn: if experts.is_some_and(|experts| experts.dense_layers == 0) { 0 } else { ffn },
        heads,
        // Latent attention stores one compressed head, whatever the config says about KV heads.
        kv_heads: if mla.is_some() {
            1
        } else {
            keys.number(&["num_key_value_heads", "num_kv_heads", "num_query_groups"])
                .or_else(|| nas_kv_heads(&keys, heads))
                .unwrap_or(heads)
        },
        head_dim: mla.map_or(head_dim, |mla| mla.kv_lora + mla.rope),
        vocab,
        tied: keys.flag("tie_word_embeddings"),
        max_position_embeddings: max_positions(&keys),
        experts,
        mla,
        window: kinds.window,
        linear_layers: kinds.linear_layers,
        weight_bits: quantization.weight_bits,
        expert_bits: quantization.expert_bits,
        block_scaled: quantization.block_scaled,
        fp4: quantization.fp4,
        params_total_b: None,
        params_active_b: None,
        mtp: keys.number(&["num_nextn_predict_layers"]).filter(|layers| *layers > 0),
        index_topk: keys.number(&["index_topk"]),
        cite: "config.json".to_owned(),
    })
}

/// Keys of the language part, else of the whole.
struct Keys<'a> {
    inner: &'a Value,
    outer: &'a Value,
}

impl<'a> Keys<'a> {
    fn get(&self, key: &str) -> Option<&'a Value> {
        let present = |value: &&Value| !value.is_null();
        self.inner.get(key).filter(present).or_else(|| self.outer.get(key).filter(present))
    }

    fn wide(&self, names: &[&str]) -> Option<f64> {
        names.iter().find_map(|name| self.get(name)?.as_f64())
    }

    fn number(&self, names: &[&str]) -> Option<u32> {
        let number = self.wide(names)?;
        // No dimension comes near this; beyond it, sums of a few would overflow.
        (0.0..=1e8).contains(&number).then_some(number as u32)
    }

    fn need(&self, names: &[&str], shown: &'static str) -> Result<u32, ModelError> {
        self.number(names).filter(|number| *number > 0).ok_or(ModelError::Missing(shown))
    }

    fn flag(&self, name: &str) -> bool {
        self.get(name).and_then(Value::as_bool).unwrap_or(false)
    }

    fn text(&self, name: &str) -> &'a str {
        self.get(name).and_then(Value::as_str).unwrap_or("")
    }
}

/// Nemotron-H writes one letter per block: `M` a recurrent mixer, `*` attention, `-` a feed-forward layer, `E` experts.
#[derive(Debug, Clone, Copy)]
struct HybridPattern {
    recurrent: u32,
    attention: u32,
    dense: u32,
    experts: u32,
}

impl HybridPattern {
    fn read(keys: &Keys<'_>) -> Option<Self> {
        let text = keys.get("hybrid_override_pattern").and_then(Value::as_str)?;
        let count = |wanted: char| u32::try_from(text.chars().filter(|kind| *kind == wanted).count()).unwrap_or(0);
        let pattern = Self { recurrent: count('M'), attention: count('*'), dense: count('-'), experts: count('E') };
        (pattern.mixers() > 0).then_some(pattern)
    }

    fn mixers(self) -> u32 {
        self.recurrent + self.attention
    }
}

fn experts(keys: &Keys<'_>, layers: u32, ffn: u32, pattern: Option<HybridPattern>) -> Option<Experts> {
    let total = keys.number(&["n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts"])?;
    if total < 2 {
        return None;
    }
    let expert_ffn = keys
        .number(&["moe_intermediate_size", "expert_ffn_hidden_size", "moe_ffn_hidden_size"])
        .filter(|width| *width > 0)
        .unwrap_or(ffn);
    let shared_width = keys
        .number(&["shared_expert_intermediate_size", "moe_shared_expert_intermediate_size"])
        .unwrap_or_else(|| if keys.get("interleave_moe_layer_step").is_some() { expert_ffn } else { 0 });
    let shared = keys
        .number(&["n_shared_experts", "num_shared_experts", "moe_num_shared_experts"])
        .unwrap_or(shared_width.checked_div(expert_ffn).unwrap_or(0));
    Some(Experts {
        total,
        per_token: keys
            .number(&["num_experts_per_tok", "num_experts_per_token", "experts_per_token", "moe_topk", "moe_k"])
            .unwrap_or(1),
        shared,
        ffn: expert_ffn,
        dense_layers: dense_layers(keys, layers, pattern).min(layers),
    })
}

/// Layers without experts, however the family says it.
fn dense_layers(keys: &Keys<'_>, layers: u32, pattern: Option<HybridPattern>) -> u32 {
    let len = |list: &Vec<Value>| u32::try_from(list.len()).unwrap_or(0);
    if let Some(pattern) = pattern {
        return layers.saturating_sub(pattern.experts);
    }
    if let Some(list) = keys.get("moe_layer_freq").and_then(Value::as_array) {
        return u32::try_from(list.iter().filter(|flag| flag.as_u64() == Some(0)).count()).unwrap_or(0);
    }
    let leading = keys.number(&["first_k_dense_replace", "num_dense_layers"]);
    let every = keys.number(&["interleave_moe_layer_step", "decoder_sparse_step", "moe_layer_frequency"]);
    match (leading, every) {
        (Some(leading), _) => leading,
        // A layer with experts, then one without, …
        (None, Some(every)) if every > 1 => layers - layers / every,
        // Qwen lists single dense layers instead of a leading block.
        (None, _) => keys.get("mlp_only_layers").and_then(Value::as_array).map_or(0, len),
    }
}

/// Width of dense feed-forward layers, as that of a gated layer in every block.
fn dense_width(keys: &Keys<'_>, ffn: u32, hidden: u32, layers: u32, pattern: Option<HybridPattern>) -> u32 {
    if let Some(pattern) = pattern {
        // These layers have two matrices instead of three, and are fewer than the mixers.
        let width = f64::from(ffn) * f64::from(pattern.dense) * 2.0 / (3.0 * f64::from(layers.max(1)));
        return width as u32;
    }
    if let Some(blocks) = keys.get("block_configs").and_then(Value::as_array) {
        // Searched architectures give a multiplier per block, 0 where the layer was taken out.
        let sum: f64 = blocks
            .iter()
            .filter_map(|block| block.pointer("/ffn/ffn_mult")?.as_f64())
            .filter(|x| (0.0..64.0).contains(x))
            .sum();
        return (sum / f64::from(layers.max(1)) * 2.0 / 3.0 * f64::from(hidden)) as u32;
    }
    keys.number(&["intermediate_size_mlp"]).unwrap_or(ffn)
}

/// Searched architectures say how many query heads share a KV head, per block.
fn nas_kv_heads(keys: &Keys<'_>, heads: u32) -> Option<u32> {
    let blocks = keys.get("block_configs")?.as_array()?;
    let group = blocks.iter().find_map(|block| block.pointer("/attention/n_heads_in_group")?.as_u64())?;
    heads.checked_div(u32::try_from(group).ok()?).filter(|kv| *kv > 0)
}

/// vLLM allows what the positions allow after scaling; where it is unclear whether `max_position_embeddings` already
/// contains the factor, the larger answer stands, so that no runnable point is refused.
fn max_positions(keys: &Keys<'_>) -> Option<u64> {
    let plain = keys.wide(&["max_position_embeddings", "n_positions", "max_sequence_length", "seq_length"])?;
    let scaling = keys.get("rope_scaling").or_else(|| keys.get("rope_parameters"));
    let scaled = scaling.and_then(|scaling| {
        let kind = scaling.get("rope_type").or_else(|| scaling.get("type")).and_then(Value::as_str).unwrap_or("");
        let factor = scaling.get("factor")?.as_f64()?;
        match kind {
            "yarn" | "deepseek_yarn" => {
                let original = scaling.get("original_max_position_embeddings").and_then(Value::as_f64);
                Some(original.unwrap_or(plain) * factor)
            }
            "linear" | "dynamic" => Some(plain * factor),
            _ => None,
        }
    });
    let limit = plain.max(scaled.unwrap_or(plain));
    (limit.is_finite() && limit >= 1.0).then_some(limit as u64)
}

/// Layers by what they keep of the past.
struct LayerKinds {
    window: Option<Window>,
    linear_layers: u32,
}

fn layer_kinds(keys: &Keys<'_>, layers: u32, pattern: Option<HybridPattern>) -> LayerKinds {
    let size = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let tokens = keys.number(&["sliding_window", "attention_chunk_size", "sliding_window_size"]).unwrap_or(0);
    let windowed = |layers: u32| (layers > 0 && tokens > 0).then_some(Window { tokens, layers });
    let full = |window| LayerKinds { window, linear_layers: 0 };
    if let Some(pattern) = pattern {
        return LayerKinds { window: None, linear_layers: pattern.recurrent };
    }
    if let Some(kinds) = keys.get("layer_types").and_then(Value::as_array) {
        let count = |names: &[&str]| {
            size(kinds.iter().filter(|kind| kind.as_str().is_some_and(|kind| names.contains(&kind))).count())
        };
        let bounded = count(&["sliding_attention", "chunked_attention", "local_attention"]);
        let kept = count(&["full_attention", "attention", "global_attention"]);
        // Whatever is neither keeps a state of a fixed size.
        let linear = layers.saturating_sub(bounded + kept);
        return LayerKinds { window: windowed(bounded), linear_layers: linear };
    }
    if let Some(recurrent) = keys.get("linear_attn_config").and_then(|config| config.get("kda_layers")?.as_array()) {
        return LayerKinds { window: None, linear_layers: size(recurrent.len()).min(layers) };
    }
    if let Some(every) = keys.number(&["full_attention_interval"]).filter(|every| *every > 1) {
        return LayerKinds { window: None, linear_layers: layers - layers / every };
    }
    if let Some(blocks) = keys.get("block_configs").and_then(Value::as_array) {
        let gone = |block: &&Value| {
            let flag = |name: &str| block.pointer(name).and_then(Value::as_bool).unwrap_or(false);
            flag("/attention/no_op") || flag("/attention/replace_with_linear")
        };
        return LayerKinds { window: None, linear_layers: size(blocks.iter().filter(gone).count()).min(layers) };
    }
    if let Some(flags) = keys.get("hybrid_layer_pattern").and_then(Value::as_array) {
        return full(windowed(size(flags.iter().filter(|flag| flag.as_u64() == Some(1)).count())));
    }
    // A window that covers every position is none.
    if max_positions(keys).is_some_and(|longest| u64::from(tokens) >= longest) {
        return full(None);
    }
    if let Some(every) = keys.number(&["sliding_window_pattern", "_sliding_window_pattern"]).filter(|every| *every > 1)
    {
        return full(windowed(layers - layers / every));
    }
    if keys.text("model_type").starts_with("gemma2") {
        return full(windowed(layers / 2));
    }
    // Without a list per layer, a window counts for all layers unless the config switches it off.
    let is_used = keys.get("use_sliding_window").and_then(Value::as_bool).unwrap_or(true);
    full(windowed(if is_used { layers } else { 0 }))
}

/// How weights are stored.
struct Quantization {
    weight_bits: f64,
    expert_bits: f64,
    block_scaled: bool,
    fp4: bool,
}

fn quantization(keys: &Keys<'_>) -> Quantization {
    let dtype = match keys.text("torch_dtype") {
        "" => keys.text("dtype"),
        dtype => dtype,
    };
    let plain = if dtype.contains("32") { 32.0 } else { 16.0 };
    let unquantized = Quantization { weight_bits: plain, expert_bits: plain, block_scaled: false, fp4: false };
    let Some(quantization) = keys.get("quantization_config") else {
        return unquantized;
    };
    let text = |name: &str| quantization.get(name).and_then(Value::as_str).unwrap_or("");
    // Lists of modules left alone; where they name attention, only the feed-forward part (the experts) is quantised.
    let spares_attention = ["ignore", "modules_to_not_convert", "exclude_modules", "ignored_layers"]
        .iter()
        .filter_map(|name| quantization.get(*name)?.as_array())
        .flatten()
        .filter_map(Value::as_str)
        .any(|name| name.contains("self_attn") && !["norm", "indexer", "kv_b"].iter().any(|part| name.contains(part)));
    let body = |bits: f64| if spares_attention { plain } else { bits };
    let of = |bits: f64| Quantization { weight_bits: body(bits), expert_bits: bits, block_scaled: false, fp4: false };
    let nvfp4 = || Quantization { fp4: true, ..of(4.5) };
    match text("quant_method") {
        // Scales add a quarter bit; attention and embeddings stay as they are.
        "mxfp4" => Quantization { weight_bits: plain, expert_bits: 4.25, block_scaled: false, fp4: true },
        "fp8" => Quantization {
            block_scaled: quantization.get("weight_block_size").is_some_and(|size| !size.is_null()),
            ..of(8.0)
        },
        "fbgemm_fp8" => of(8.0),
        "modelopt_fp4" => nvfp4(),
        "modelopt" if text("quant_algo").contains("FP4") => nvfp4(),
        "modelopt" => of(8.0),
        _ if text("format").contains("nvfp4") => nvfp4(),
        _ => {
            let groups = quantization.get("config_groups").and_then(Value::as_object);
            let group_bits =
                groups.and_then(|groups| groups.values().find_map(|group| group.pointer("/weights/num_bits")));
            let bits = quantization.get("bits").or(group_bits).and_then(Value::as_f64);
            match bits.filter(|bits| (1.0..=16.0).contains(bits)) {
                Some(bits) if bits < 8.0 => of(bits + 0.25),
                Some(bits) => of(bits),
                None => unquantized,
            }
        }
    }
}
