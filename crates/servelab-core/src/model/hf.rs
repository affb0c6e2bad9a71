//! A Hugging Face `config.json` as [`ModelFacts`]. Families spell the same thing differently; the names tried here cover
//! Llama, Qwen 2/3 (MoE), GLM-4, DeepSeek, Mixtral, gpt-oss and what is built like them.

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
    let layers = keys.need(&["num_hidden_layers", "n_layer", "num_layers"], "num_hidden_layers")?;
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
    let experts = experts(&keys, layers, ffn);
    let head_dim = keys.number(&["head_dim"]).unwrap_or(hidden.checked_div(heads).unwrap_or(0));
    let (weight_bits, expert_bits) = weight_bits(&keys);
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
            keys.number(&["num_key_value_heads", "num_kv_heads"]).unwrap_or(heads)
        },
        head_dim: mla.map_or(head_dim, |mla| mla.kv_lora + mla.rope),
        vocab,
        tied: keys.flag("tie_word_embeddings"),
        max_position_embeddings: max_positions(&keys),
        experts,
        mla,
        window: window(&keys, layers),
        weight_bits,
        expert_bits,
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

fn experts(keys: &Keys<'_>, layers: u32, ffn: u32) -> Option<Experts> {
    let total = keys.number(&["n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts"])?;
    if total < 2 {
        return None;
    }
    let expert_ffn = keys.number(&["moe_intermediate_size", "expert_ffn_hidden_size"]).unwrap_or(ffn);
    let shared_width = keys.number(&["shared_expert_intermediate_size"]).unwrap_or(0);
    let shared = keys
        .number(&["n_shared_experts", "num_shared_experts", "moe_num_shared_experts"])
        .unwrap_or(shared_width.checked_div(expert_ffn).unwrap_or(0));
    let dense_layers = keys.number(&["first_k_dense_replace"]).unwrap_or_else(|| {
        // Qwen lists single dense layers instead of a leading block.
        keys.get("mlp_only_layers").and_then(Value::as_array).map_or(0, |list| u32::try_from(list.len()).unwrap_or(0))
    });
    Some(Experts {
        total,
        per_token: keys.number(&["num_experts_per_tok", "experts_per_token", "moe_topk", "moe_k"]).unwrap_or(1),
        shared,
        ffn: expert_ffn,
        dense_layers: dense_layers.min(layers),
    })
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

fn window(keys: &Keys<'_>, layers: u32) -> Option<Window> {
    let tokens = keys.number(&["sliding_window"]).unwrap_or(0);
    if let Some(kinds) = keys.get("layer_types").and_then(Value::as_array) {
        let full = kinds.iter().filter(|kind| kind.as_str() == Some("full_attention")).count();
        let bounded = layers.saturating_sub(u32::try_from(full).unwrap_or(layers));
        return (bounded > 0).then_some(Window { tokens, layers: bounded });
    }
    // Without a list per layer, a window counts for all layers unless the config switches it off.
    let is_used = keys.get("use_sliding_window").and_then(Value::as_bool).unwrap_or(true);
    (tokens > 0 && is_used).then_some(Window { tokens, layers })
}

fn weight_bits(keys: &Keys<'_>) -> (f64, f64) {
    let dtype = match keys.text("torch_dtype") {
        "" => keys.text("dtype"),
        dtype => dtype,
    };
    let plain = if dtype.contains("32") { 32.0 } else { 16.0 };
    let Some(quantization) = keys.get("quantization_config") else {
        return (plain, plain);
    };
    let method = quantization.get("quant_method").and_then(Value::as_str).unwrap_or("");
    match method {
        // Scales add a quarter bit; attention and embeddings stay as they are.
        "mxfp4" => (plain, 4.25),
        "fp8" | "fbgemm_fp8" | "modelopt" => (8.0, 8.0),
        _ => {
            let groups = quantization.get("config_groups").and_then(Value::as_object);
            let group_bits =
                groups.and_then(|groups| groups.values().find_map(|group| group.pointer("/weights/num_bits")));
            let bits = quantization.get("bits").or(group_bits).and_then(Value::as_f64);
            let bits = bits.filter(|bits| (1.0..=16.0).contains(bits));
            bits.map_or((plain, plain), |bits| if bits < 8.0 { (bits + 0.25, bits + 0.25) } else { (bits, bits) })
        }
    }
}
