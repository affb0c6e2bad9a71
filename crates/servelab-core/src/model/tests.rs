use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn close(a: f64, b: f64, tolerance: f64) -> bool {
    (a - b).abs() <= tolerance * b.abs()
}

#[test]
fn every_builtin_model_adds_up_to_its_published_size() {
    assert_eq!(builtin_models().len(), 9, "all models with checked figures");
    for model in builtin_models() {
        let total = (model.shared_params() + model.expert_params()) / 1e9;
        let published = model.params_total_b.expect("published");
        assert!(close(total, published, 0.01), "{}: {total} against {published}", model.name);
        assert!(!model.cite.is_empty() && !model.cite.contains("guess"), "{}", model.name);
    }
    assert_eq!(builtin_gpus().len(), 7);
    assert!(builtin_gpus().iter().all(|gpu| !gpu.cite.contains("guess")));
}

#[test]
fn lookup_is_tolerant_and_not_careless() {
    for (id, expected) in [
        ("zai-org/GLM-4.6", Some("zai-org/GLM-4.6")),
        ("GLM-4.6", Some("zai-org/GLM-4.6")),
        ("/models/glm-4.6/", Some("zai-org/GLM-4.6")),
        ("zai-org/GLM-4.6-FP8", Some("zai-org/GLM-4.6-FP8")),
        ("meta-llama/Llama-3.1-8B-Instruct", Some("meta-llama/Llama-3.1-8B")),
        ("meta-llama/Meta-Llama-3.1-70B-Instruct", Some("meta-llama/Llama-3.1-70B")),
        ("deepseek-ai/DeepSeek-R1", Some("deepseek-ai/DeepSeek-V3")),
        ("openai/gpt-oss-120b", Some("openai/gpt-oss-120b")),
        ("THUDM/glm-4-9b-chat", None),
        ("Qwen/Qwen3-32B-AWQ", None),
        ("", None),
    ] {
        assert_eq!(builtin_model(id).map(|facts| facts.name.clone()).as_deref(), expected, "{id}");
    }
    for (name, expected) in [
        ("H200", Some("H200-SXM-141GB")),
        ("NVIDIA H200", Some("H200-SXM-141GB")),
        ("nvidia-h100-80gb-hbm3", Some("H100-SXM5-80GB")),
        ("AMD Instinct MI300X", Some("MI300X")),
        ("A100", None),
        ("GH200", None),
        ("A100-SXM4-80GB", Some("A100-SXM4-80GB")),
    ] {
        assert_eq!(builtin_gpu(name).map(|gpu| gpu.name.as_str()), expected, "{name}");
    }
}

#[test]
fn kv_bytes_match_the_published_table() {
    for (id, bf16) in [
        ("Llama-3.1-8B", 131_072.0),
        ("Qwen3-32B", 262_144.0),
        ("Qwen3-235B-A22B", 192_512.0),
        ("GLM-4.6", 376_832.0),
        ("DeepSeek-V3", 70_272.0),
        ("Kimi-K2.5", 70_272.0),
        // Half of 73,728: 18 of 36 layers keep a window only.
        ("gpt-oss-120b", 36_864.0),
    ] {
        let model = builtin_model(id).expect(id);
        assert_eq!(kv_bytes_per_token(&model, &MemoryRequest::default()), bf16, "{id}");
        let fp8 = MemoryRequest { kv_bytes: 1.0, ..MemoryRequest::default() };
        assert_eq!(kv_bytes_per_token(&model, &fp8), bf16 / 2.0, "{id}");
    }
    let glm = builtin_model("GLM-4.6").expect("known");
    for (tp, pp, dcp, share) in [(8, 1, 1, 8.0), (16, 1, 1, 8.0), (8, 2, 1, 16.0), (16, 1, 2, 16.0)] {
        let request = MemoryRequest { tp, pp, dcp, ..MemoryRequest::default() };
        assert_eq!(kv_bytes_per_token(&glm, &request), 376_832.0 / share, "tp {tp} pp {pp} dcp {dcp}");
    }
    let deepseek = builtin_model("DeepSeek-V3").expect("known");
    let request = MemoryRequest { tp: 8, ..MemoryRequest::default() };
    assert_eq!(kv_bytes_per_token(&deepseek, &request), 70_272.0, "latent KV is replicated over tp");
}

#[test]
fn the_estimate_agrees_with_a_published_start() {
    let glm = builtin_model("GLM-4.6").expect("known");
    let h200 = builtin_gpu("H200").expect("known");
    let request = MemoryRequest { tp: 8, kv_bytes: 1.0, gpu_memory_utilization: 0.95, ..MemoryRequest::default() };
    let estimate = kv_estimate(&glm, h200, &request);
    let gib = f64::from(1 << 30);
    assert!(close(estimate.weight_bytes / gib, 82.6, 0.01), "{}", estimate.weight_bytes / gib);
    assert!(close(estimate.capacity_tokens as f64, 61.44 * 32_768.0, 0.10), "{}", estimate.capacity_tokens);
    let one_gpu = kv_estimate(&glm, h200, &MemoryRequest { tp: 1, ..request });
    assert_eq!(one_gpu.capacity_tokens, 0);
    assert!(one_gpu.kv_bytes < 0.0);
}

fn qwen3_moe() -> Value {
    json!({"model_type": "qwen3_moe", "num_hidden_layers": 94, "hidden_size": 4096, "intermediate_size": 12288,
        "num_attention_heads": 64, "num_key_value_heads": 4, "head_dim": 128, "vocab_size": 151936,
        "max_position_embeddings": 40960, "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 1536,
        "mlp_only_layers": [], "tie_word_embeddings": false, "torch_dtype": "bfloat16", "sliding_window": null})
}

#[test]
fn configs_of_several_families() {
    let same = |config: Value, id: &str| {
        let read = from_hf_config("x", &config).expect(id);
        let known = builtin_model(id).expect(id);
        let (a, b) = (read.shared_params() + read.expert_params(), known.shared_params() + known.expert_params());
        assert!(close(a, b, 1e-9), "{id}: {a} against {b}");
        assert_eq!(
            (read.layers, read.heads, read.kv_heads, read.head_dim, read.experts, read.mla, read.window),
            (known.layers, known.heads, known.kv_heads, known.head_dim, known.experts, known.mla, known.window),
            "{id}"
        );
        assert_eq!((read.weight_bits, read.expert_bits), (known.weight_bits, known.expert_bits), "{id}");
        read
    };
    let qwen = same(qwen3_moe(), "Qwen3-235B-A22B");
    assert_eq!(qwen.max_position_embeddings, Some(40960));
    same(json!({"text_config": qwen3_moe(), "vision_config": {"hidden_size": 3}}), "Qwen3-235B-A22B");
    same(
        json!({"num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
            "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072, "dtype": "bfloat16",
            "rope_scaling": {"factor": 8.0, "rope_type": "llama3", "original_max_position_embeddings": 8192}}),
        "Llama-3.1-8B",
    );
    same(
        json!({"num_hidden_layers": 92, "hidden_size": 5120, "intermediate_size": 12288, "num_attention_heads": 96,
            "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151552, "max_position_embeddings": 202752,
            "n_routed_experts": 160, "num_experts_per_tok": 8, "n_shared_experts": 1, "moe_intermediate_size": 1536,
            "first_k_dense_replace": 3, "num_nextn_predict_layers": 1}),
        "GLM-4.6",
    );
    let deepseek = same(
        json!({"num_hidden_layers": 61, "hidden_size": 7168, "intermediate_size": 18432, "num_attention_heads": 128,
            "num_key_value_heads": 128, "vocab_size": 129280, "max_position_embeddings": 163840,
            "n_routed_experts": 256, "num_experts_per_tok": 8, "n_shared_experts": 1, "moe_intermediate_size": 2048,
            "first_k_dense_replace": 3, "kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128,
            "v_head_dim": 128, "q_lora_rank": 1536, "quantization_config": {"quant_method": "fp8"},
            "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096}}),
        "DeepSeek-V3",
    );
    assert_eq!(deepseek.max_position_embeddings, Some(163_840));
    let layer_types: Vec<&str> =
        (0..36).map(|i| if i % 2 == 0 { "sliding_attention" } else { "full_attention" }).collect();
    same(
        json!({"num_hidden_layers": 36, "hidden_size": 2880, "intermediate_size": 2880, "num_attention_heads": 64,
            "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 201088, "num_local_experts": 128,
            "experts_per_token": 4, "num_experts_per_tok": 4, "sliding_window": 128, "layer_types": layer_types,
            "quantization_config": {"quant_method": "mxfp4"}}),
        "gpt-oss-120b",
    );
    let awq = json!({"num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 2, "vocab_size": 10,
        "tie_word_embeddings": true, "quantization_config": {"quant_method": "awq", "bits": 4}});
    let awq = from_hf_config("x", &awq).expect("enough");
    assert_eq!((awq.weight_bits, awq.kv_heads, awq.tied, awq.max_position_embeddings), (4.25, 2, true, None));
    let packed = json!({"num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 2, "vocab_size": 10,
        "quantization_config": {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"num_bits": 8}}}}});
    assert_eq!(from_hf_config("x", &packed).expect("enough").weight_bits, 8.0);
}

#[test]
fn incomplete_configs_name_the_key() {
    assert_eq!(from_hf_config("x", &json!({})), Err(ModelError::Missing("num_hidden_layers")));
    assert_eq!(from_hf_config("x", &json!([1])), Err(ModelError::Missing("num_hidden_layers")));
    let config = json!({"num_hidden_layers": 2, "hidden_size": 0});
    assert_eq!(from_hf_config("x", &config), Err(ModelError::Missing("hidden_size")));
}

fn any_json() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-z0-9]{0,6}".prop_map(Value::from),
        Just(json!([])),
        Just(json!({"type": "yarn", "factor": 1e308})),
    ]
}

proptest! {
    #[test]
    fn strange_configs_never_panic(values in prop::collection::vec(any_json(), 14), tp in 0u32..70, dp in 0u32..70) {
        let keys = ["num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size", "head_dim", "num_experts",
            "kv_lora_rank", "rope_scaling", "max_position_embeddings", "quantization_config", "layer_types",
            "sliding_window", "torch_dtype", "first_k_dense_replace"];
        let config: Value = keys.iter().zip(values).map(|(key, value)| ((*key).to_owned(), value)).collect();
        if let Ok(model) = from_hf_config("x", &config) {
            for gpu in builtin_gpus() {
                let request = MemoryRequest { tp, dp, pp: 0, ..MemoryRequest::default() };
                let _ = kv_estimate(&model, gpu, &request);
            }
        }
    }
}
