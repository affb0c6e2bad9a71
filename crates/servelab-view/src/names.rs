//! Names of metrics and settings as people read them. The definitions stand in `servelab_core::metrics`; a name that is
//! not known here is shown as it is.

/// `ttft_p95_ms` → `TTFT P95 (ms)`; knows the names of SLOs and of the results table.
pub fn metric_title(name: &str) -> String {
    let fixed = match name {
        "success" | "success_rate" => "Success rate",
        "throughput_tok_s" | "throughput_tokens_per_sec" => "Throughput (tok/s)",
        "throughput_req_s" | "throughput_requests_per_sec" => "Throughput (req/s)",
        "goodput" | "goodput_requests_per_s" => "Goodput (req/s)",
        "total_tokens_generated" => "Output tokens",
        "total_time_s" => "Window (s)",
        "failed_requests" => "Failed requests",
        "prom_preemptions" => "Preemptions",
        "prom_cache_usage" => "KV-cache usage, mean",
        "prom_cache_usage_max" => "KV-cache usage, max",
        "prom_requests_running" => "Running requests, mean",
        "prom_requests_waiting" => "Waiting requests, mean",
        "prom_prefix_hit_rate" => "Prefix hits",
        "prom_queue_time_mean_ms" => "Queue (ms)",
        "prom_prefill_time_mean_ms" => "Prefill (ms)",
        "prom_decode_time_mean_ms" => "Decode (ms)",
        "prom_ttft_mean_ms" => "TTFT, server (ms)",
        "prom_itl_mean_ms" => "ITL, server (ms)",
        "spec_acceptance_rate" => "Drafts accepted",
        "spec_mean_length" => "Tokens per step",
        "gpu_power_mean_w" => "Power (W)",
        "gpu_energy_j" => "Energy (J)",
        "gpu_busy" => "GPU busy",
        "gpu_sm_active" => "SMs active",
        "gpu_memory_used_max_mib" => "GPU memory (MiB)",
        "energy_per_token_j" => "Energy per token (J)",
        "model_memory_gib" => "Model memory (GiB)",
        "kv_cache_tokens" => "KV cache (tokens)",
        "kv_cache_blocks" => "KV blocks",
        "available_kv_gib" => "KV memory (GiB)",
        "kv_max_concurrency" => "Max concurrency",
        "kv_max_concurrency_tokens" => "of requests of (tokens)",
        "model_load_s" => "Load (s)",
        "compile_s" => "Compile (s)",
        "graph_capture_s" => "Graphs (s)",
        "engine_init_s" => "Init (s)",
        "server_ready_s" => "Ready (s)",
        _ => "",
    };
    if !fixed.is_empty() {
        return fixed.to_owned();
    }
    latency_title(name).unwrap_or_else(|| name.to_owned())
}

fn latency_title(name: &str) -> Option<String> {
    let (latency, statistic) = name.strip_suffix("_ms")?.rsplit_once('_')?;
    let known = ["mean", "p50", "p90", "p95", "p99"].contains(&statistic);
    let title = match latency {
        "e2e" | "e2e_latency" => "E2E latency",
        "ttft" => "TTFT",
        "ttft_sched" => "TTFT from schedule",
        "e2e_sched" => "E2E from schedule",
        "ttfo" => "TTFO",
        "icl" => "ICL",
        "itl" => "ITL",
        "tpot" => "TPOT",
        _ => return None,
    };
    let statistic = if statistic == "mean" { "mean".to_owned() } else { statistic.to_uppercase() };
    known.then(|| format!("{title} {statistic} (ms)"))
}

/// True for metrics that are fractions and read better as percent.
pub fn is_fraction(name: &str) -> bool {
    matches!(
        name,
        "success"
            | "success_rate"
            | "prom_cache_usage"
            | "prom_cache_usage_max"
            | "prom_prefix_hit_rate"
            | "spec_acceptance_rate"
            | "gpu_busy"
            | "gpu_sm_active"
    )
}

/// Is more of a metric better? Rates and shares of success are; times, failures, preemptions and queues are not.
pub fn is_higher_better(name: &str) -> bool {
    name.starts_with("throughput")
        || name.starts_with("goodput")
        || name.starts_with("success")
        || name == "total_tokens_generated"
        || name.starts_with("spec_")
        || name == "prom_prefix_hit_rate"
        || name.starts_with("kv_cache_")
        || name == "kv_max_concurrency"
}

/// The value of a metric: percent for fractions, four significant digits otherwise.
pub fn metric_value(name: &str, value: Option<f64>) -> String {
    use crate::text::number;
    match value {
        Some(value) if is_fraction(name) => number::percent(value),
        value => number::optional(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles() {
        let check = |name: &str, expected: &str| assert_eq!(metric_title(name), expected);
        check("ttft_p95_ms", "TTFT P95 (ms)");
        check("e2e_latency_mean_ms", "E2E latency mean (ms)");
        check("ttft_sched_p99_ms", "TTFT from schedule P99 (ms)");
        check("throughput_tok_s", "Throughput (tok/s)");
        check("my_metric", "my_metric");
        check("ttft_p42_ms", "ttft_p42_ms");
        check("_ms", "_ms");
        for name in servelab_core::study::CellSlo::metric_names() {
            assert_ne!(metric_title(&name), name, "every SLO metric has a title");
        }
        assert_eq!(metric_value("success", Some(0.998)), "99.8 %");
        assert_eq!(metric_value("ttft_p95_ms", None), "-");
    }
}
