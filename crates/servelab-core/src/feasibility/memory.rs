//! Rules about GPU memory. They rest on an estimate, so a point is refused only where even an engine without any working
//! space could not hold one full sequence; closer calls are warnings.

use serde_json::Value;

use super::{Findings, PointView, RoleView, Settings, count, grouped};
use crate::model::{GpuFacts, MemoryRequest, ModelFacts, kv_estimate};

/// The most generous default of the known versions (0.9 before, 0.92 later).
const DEFAULT_UTILIZATION: f64 = 0.92;

const GIB: f64 = (1u64 << 30) as f64;

pub(super) fn check_role(point: &PointView<'_>, role: &RoleView<'_>, out: &mut Findings<'_>) {
    let settings = role.settings;
    let utilization = settings.get("gpu_memory_utilization").and_then(Value::as_f64);
    if let Some(utilization) = utilization
        && !(utilization > 0.0 && utilization <= 1.0)
    {
        let text = format!("gpu_memory_utilization {utilization} is not a fraction above 0 and up to 1");
        return out.infeasible("memory_fraction", text);
    }
    let (Some(model), Some(gpu)) = (point.model, point.gpu) else {
        return;
    };
    let kv_dtype = settings.get("kv_cache_dtype").and_then(Value::as_str).unwrap_or("auto");
    if kv_dtype.starts_with("fp8") && gpu.fp8_tflops.is_none() {
        let text = format!("kv_cache_dtype {kv_dtype} on {}, which has no FP8 arithmetic", gpu.name);
        out.warn("fp8_kv_slow", text);
    }
    // Both move memory in ways that the estimate does not follow.
    if ["cpu_offload_gb", "num_gpu_blocks_override", "offload_backend"].iter().any(|name| settings.get(name).is_some())
    {
        return;
    }
    check_capacity(model, gpu, role, kv_dtype, utilization.unwrap_or(DEFAULT_UTILIZATION), out);
}

fn check_capacity(
    model: &ModelFacts,
    gpu: &GpuFacts,
    role: &RoleView<'_>,
    kv_dtype: &str,
    utilization: f64,
    out: &mut Findings<'_>,
) {
    let settings = role.settings;
    let dcp = count(settings, "decode_context_parallel_size").and_then(|dcp| u32::try_from(dcp).ok()).unwrap_or(1);
    let defaults = MemoryRequest::default();
    let request = MemoryRequest {
        tp: role.deploy.tp,
        pp: role.deploy.pp,
        dp: role.deploy.dp,
        dcp: dcp.max(role.deploy.dcp),
        redundant_experts: count(settings, "eplb.num_redundant_experts")
            .filter(|_| super::is_true(settings, "enable_eplb"))
            .and_then(|redundant| u32::try_from(redundant).ok())
            .unwrap_or(0),
        weight_bits: weight_bits(model, settings),
        kv_bytes: kv_element_bytes(kv_dtype, settings),
        gpu_memory_utilization: utilization,
        max_num_batched_tokens: count(settings, "max_num_batched_tokens").unwrap_or(defaults.max_num_batched_tokens),
        max_num_seqs: count(settings, "max_num_seqs").unwrap_or(defaults.max_num_seqs),
    };
    let estimate = kv_estimate(model, gpu, &request);
    let gib = |bytes: f64| format!("{:.1} GiB", bytes / GIB);
    let (weights, budget) = (gib(estimate.weight_bytes), gib(estimate.budget_bytes));
    if estimate.weight_bytes >= estimate.budget_bytes {
        let text = format!(
            "the weights of {} do not fit: about {weights} per GPU, {utilization} of a {} is {budget} (estimate)",
            model.name, gpu.name
        );
        return out.infeasible("weights_too_large", text);
    }
    // `auto` lets the engine shorten the window until it fits.
    let wanted = match settings.get("max_model_len") {
        Some(_) => count(settings, "max_model_len"),
        None => model.max_position_embeddings,
    };
    let Some(wanted) = wanted.filter(|_| estimate.bytes_per_token > 0.0) else {
        return;
    };
    let fixed = count(settings, "kv_cache_memory_bytes").map(|bytes| bytes as f64);
    let best_case = fixed.unwrap_or(estimate.budget_bytes - estimate.weight_bytes) / estimate.bytes_per_token;
    let likely = fixed.map_or(estimate.capacity_tokens, |_| best_case as u64);
    if likely >= wanted {
        return;
    }
    let (wanted_text, per_token) = (grouped(wanted), grouped(estimate.bytes_per_token.round() as u64));
    if best_case < wanted as f64 {
        let most = grouped(best_case as u64);
        let room = gib(best_case * estimate.bytes_per_token);
        let text = format!(
            "one sequence of max_model_len {wanted_text} does not fit the KV cache: at most {most} tokens in {room} \
             ({per_token} bytes per token and GPU; {budget} less {weights} of weights; estimate)"
        );
        out.infeasible("kv_capacity", text);
    } else {
        let likely = grouped(likely);
        let text = format!(
            "one sequence of max_model_len {wanted_text} may not fit the KV cache: about {likely} tokens \
             ({per_token} bytes per token and GPU; {budget} less {weights} of weights and working space; estimate)"
        );
        out.warn("kv_capacity", text);
    }
}

/// Bits per weight that the settings ask for, where they differ from the model's files.
fn weight_bits(model: &ModelFacts, settings: &dyn Settings) -> Option<f64> {
    let smallest = model.weight_bits.min(model.expert_bits);
    let quantization = settings.get("quantization").and_then(Value::as_str).unwrap_or("");
    let wanted = match quantization {
        "fp8" | "ptpc_fp8" => 8.0,
        "bitsandbytes" => 4.5,
        _ => match settings.get("dtype").and_then(Value::as_str) {
            Some("float32" | "float") if smallest >= 16.0 => return Some(32.0),
            _ => return None,
        },
    };
    (wanted < smallest).then_some(wanted)
}

fn kv_element_bytes(kv_dtype: &str, settings: &dyn Settings) -> f64 {
    if kv_dtype.starts_with("fp8") || kv_dtype.starts_with("int8") {
        1.0
    } else if kv_dtype.contains("fp4") || kv_dtype.contains("int4") || kv_dtype.contains("bit") {
        0.5
    } else if matches!(settings.get("dtype").and_then(Value::as_str), Some("float32" | "float")) {
        4.0
    } else {
        2.0
    }
}
