//! Configs of many families, written by hand with the shapes that their model cards state: what each spells its own way.

use serde_json::{Value, json};

use super::*;

/// Adds keys to the least that every config has.
fn with(more: Value) -> Value {
    let mut config = json!({"num_hidden_layers": 48, "hidden_size": 4096, "num_attention_heads": 32, "vocab_size": 100_000,
        "intermediate_size": 12288, "num_key_value_heads": 8});
    if let (Some(config), Value::Object(more)) = (config.as_object_mut(), more) {
        config.extend(more);
    }
    config
}

fn read(more: Value) -> ModelFacts {
    from_hf_config("x", &with(more)).expect("a model")
}

#[test]
fn mixtures_of_experts() {
    let check = |more: Value, expected: (u32, u32, u32, u32, u32)| {
        let experts = read(more.clone()).experts.expect("experts");
        let found = (experts.total, experts.per_token, experts.shared, experts.ffn, experts.dense_layers);
        assert_eq!(found, expected, "{more}");
    };
    // Mixtral: `intermediate_size` is the expert's.
    check(json!({"num_local_experts": 8, "num_experts_per_tok": 2, "intermediate_size": 14336}), (8, 2, 0, 14336, 0));
    // Qwen3-MoE.
    check(json!({"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768}), (128, 8, 0, 768, 0));
    // Qwen2-MoE and Qwen3-Next: the shared expert has a width of its own.
    check(
        json!({"num_experts": 512, "num_experts_per_tok": 10, "moe_intermediate_size": 512,
            "shared_expert_intermediate_size": 512}),
        (512, 10, 1, 512, 0),
    );
    // GLM-4.x and DeepSeek: leading dense layers.
    check(
        json!({"n_routed_experts": 160, "num_experts_per_tok": 8, "n_shared_experts": 1, "moe_intermediate_size": 1536,
            "first_k_dense_replace": 3}),
        (160, 8, 1, 1536, 3),
    );
    // Llama 4: experts in every second layer, dense layers wider than an expert, one shared expert.
    let maverick = json!({"num_local_experts": 128, "num_experts_per_tok": 1, "intermediate_size": 8192,
        "intermediate_size_mlp": 16384, "interleave_moe_layer_step": 2});
    check(maverick.clone(), (128, 1, 1, 8192, 24));
    assert_eq!(read(maverick).ffn, 16384);
    // A list with a flag per layer.
    let flags: Vec<u32> = (0..48).map(|layer| u32::from(layer > 0)).collect();
    check(
        json!({"n_routed_experts": 256, "num_experts_per_tok": 8, "moe_intermediate_size": 2048, "moe_layer_freq": flags}),
        (256, 8, 0, 2048, 1),
    );
    // MiniMax: many small experts, none shared.
    check(json!({"num_local_experts": 256, "num_experts_per_tok": 8, "intermediate_size": 1536}), (256, 8, 0, 1536, 0));
    assert_eq!(read(json!({"num_local_experts": 1})).experts, None, "one expert is a dense layer");
}

#[test]
fn layers_by_what_they_keep() {
    let check = |more: Value, window: Option<(u32, u32)>, linear: u32| {
        let model = read(more.clone());
        assert_eq!(model.window.map(|window| (window.tokens, window.layers)), window, "{more}");
        assert_eq!(model.linear_layers, linear, "{more}");
    };
    check(json!({}), None, 0);
    // Mistral: every layer; Qwen2 switches it off; Phi-3's covers every position.
    check(json!({"sliding_window": 4096}), Some((4096, 48)), 0);
    check(json!({"sliding_window": 4096, "use_sliding_window": false}), None, 0);
    check(json!({"sliding_window": 262_144, "max_position_embeddings": 131_072}), None, 0);
    // Gemma 2: every second layer; Gemma 3: five of six.
    check(json!({"model_type": "gemma2", "sliding_window": 4096}), Some((4096, 24)), 0);
    check(
        json!({"model_type": "gemma3_text", "sliding_window": 1024, "sliding_window_pattern": 6}),
        Some((1024, 40)),
        0,
    );
    let kinds = |full: &str, other: &str, every: usize| -> Value {
        (0..48).map(|layer| if layer % every == every - 1 { full } else { other }).collect::<Vec<_>>().into()
    };
    check(
        json!({"sliding_window": 128, "layer_types": kinds("full_attention", "sliding_attention", 2)}),
        Some((128, 24)),
        0,
    );
    check(
        json!({"attention_chunk_size": 8192, "layer_types": kinds("full_attention", "chunked_attention", 4)}),
        Some((8192, 36)),
        0,
    );
    // Qwen3-Next and 3.5, Kimi linear: a state instead of keys and values.
    check(json!({"layer_types": kinds("full_attention", "linear_attention", 4)}), None, 36);
    check(json!({"full_attention_interval": 4}), None, 36);
    check(json!({"linear_attn_config": {"kda_layers": [1, 2, 3, 5, 6, 7], "full_attn_layers": [4, 8]}}), None, 6);
    let flags: Vec<u32> = (0..48).map(|layer| u32::from(layer % 6 != 0)).collect();
    check(json!({"sliding_window": 128, "hybrid_layer_pattern": flags}), Some((128, 40)), 0);
}

#[test]
fn hybrids_become_layers_of_the_nearest_kind() {
    // Nemotron-H: letters per block.
    let hybrid =
        json!({"hybrid_override_pattern": "M-M-M*-M-M*-", "num_hidden_layers": 12, "intermediate_size": 18432});
    let model = read(hybrid);
    assert_eq!((model.layers, model.linear_layers, model.ffn), (7, 5, 18432 * 5 * 2 / (3 * 7)));
    let experts = json!({"hybrid_override_pattern": "MEMEM*EME", "n_routed_experts": 128, "num_experts_per_tok": 6,
        "moe_intermediate_size": 1856});
    let model = read(experts);
    assert_eq!((model.layers, model.experts.expect("experts").dense_layers), (5, 1));
    // Searched architectures: blocks without attention, feed-forward widths per block, groups of query heads.
    let block = |no_attention: bool, mult: f64| {
        let group = if no_attention { Value::Null } else { json!(8) };
        json!({"attention": {"no_op": no_attention, "n_heads_in_group": group}, "ffn": {"ffn_mult": mult, "no_op": false}})
    };
    let nas = json!({"num_key_value_heads": null, "num_hidden_layers": 4,
        "block_configs": [block(false, 3.0), block(true, 1.0), block(false, 2.0), block(true, 3.0)]});
    let model = read(nas);
    assert_eq!((model.kv_heads, model.linear_layers), (4, 2));
    assert_eq!(model.ffn, (9.0 / 4.0 * 2.0 / 3.0 * 4096.0) as u32);
}

#[test]
fn heads_and_latents() {
    assert_eq!(read(json!({"head_dim": 256, "num_attention_heads": 16})).head_dim, 256, "Gemma says it");
    assert_eq!(read(json!({})).head_dim, 128, "else it follows");
    assert_eq!(read(json!({"num_key_value_heads": null})).kv_heads, 32, "multi-head attention");
    let latent = read(json!({"kv_lora_rank": 512, "q_lora_rank": null, "qk_rope_head_dim": 64}));
    assert_eq!((latent.kv_heads, latent.head_dim, latent.mla.expect("latent").q_lora), (1, 576, 0));
    assert_eq!(read(json!({"kv_lora_rank": 512, "index_topk": 2048})).index_topk, Some(2048));
}

#[test]
fn weight_formats() {
    let check = |quantization: Value, expected: (f64, f64, bool, bool)| {
        let model =
            read(json!({"torch_dtype": "bfloat16", "num_experts": 8, "quantization_config": quantization.clone()}));
        let found = (model.weight_bits, model.expert_bits, model.block_scaled, model.fp4);
        assert_eq!(found, expected, "{quantization}");
    };
    check(json!({"quant_method": "fp8", "weight_block_size": [128, 128]}), (8.0, 8.0, true, false));
    check(json!({"quant_method": "fp8"}), (8.0, 8.0, false, false));
    check(json!({"quant_method": "fbgemm_fp8"}), (8.0, 8.0, false, false));
    check(
        json!({"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]}),
        (16.0, 4.25, false, true),
    );
    check(json!({"quant_method": "modelopt", "quant_algo": "NVFP4"}), (4.5, 4.5, false, true));
    check(
        json!({"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["*self_attn*"]}),
        (16.0, 4.5, false, true),
    );
    check(json!({"quant_method": "modelopt", "quant_algo": "FP8"}), (8.0, 8.0, false, false));
    check(json!({"quant_method": "gptq", "bits": 4}), (4.25, 4.25, false, false));
    // Kimi K2.5: only the experts.
    let groups = json!({"group_0": {"weights": {"num_bits": 4, "type": "int"}}});
    check(
        json!({"quant_method": "compressed-tensors", "config_groups": groups, "ignore": ["lm_head", "re:.*self_attn.*"]}),
        (16.0, 4.25, false, false),
    );
    // Norms and indexers inside attention say nothing about its products.
    check(
        json!({"quant_method": "fp8", "modules_to_not_convert": ["model.layers.0.self_attn.q_norm", "lm_head"]}),
        (8.0, 8.0, false, false),
    );
}

#[test]
fn what_is_missing_is_named() {
    for key in ["num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size"] {
        let mut config = with(json!({}));
        if let Some(config) = config.as_object_mut() {
            config.remove(key);
        }
        let error = from_hf_config("x", &config).expect_err(key).to_string();
        assert!(error.contains(key), "{error}");
        // The same inside the language part of a larger model.
        let error = from_hf_config("x", &json!({"text_config": config})).expect_err(key).to_string();
        assert!(error.contains(key), "{error}");
    }
}
