//! The names, help texts and versions of the metrics, as captured from a real server; older names as its release notes give
//! them.

use super::super::counts::HandlerCounts;

/// The first version that has a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Since {
    Always,
    V0_10,
    V0_11,
    V0_12,
}

impl Since {
    pub(super) fn version(self) -> (u32, u32) {
        match self {
            Self::Always => (0, 0),
            Self::V0_10 => (0, 10),
            Self::V0_11 => (0, 11),
            Self::V0_12 => (0, 12),
        }
    }
}

/// A metric.
#[derive(Debug, Clone, Copy)]
pub(super) struct Name {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) since: Since,
}

const fn name(name: &'static str, help: &'static str, since: Since) -> Name {
    Name { name, help, since }
}

pub(super) const RUNNING: Name =
    name("vllm:num_requests_running", "Number of requests in model execution batches.", Since::Always);
pub(super) const WAITING: Name =
    name("vllm:num_requests_waiting", "Number of requests waiting to be processed.", Since::Always);
pub(super) const WAITING_BY_REASON: Name = name(
    "vllm:num_requests_waiting_by_reason",
    "Number of waiting requests by reason. Reason labels: 'capacity' = waiting for scheduling capacity; 'deferred' = deferred by transient constraints (LoRA budget, KV transfer, blocked status). Sum of all reasons equals vllm:num_requests_waiting.",
    Since::V0_12,
);
pub(super) const KV_FETCH: Name = name(
    "vllm:num_requests_kv_fetch_by_stage",
    "Number of waiting requests by async KV load stage. Stage labels: 'waiting_to_start' = needs an async KV load that has not started; 'in_progress' = load started and not yet reported finished; 'completed_waiting' = load finished, request not running yet.",
    Since::V0_12,
);
pub(super) const SLEEP_STATE: Name = name(
    "vllm:engine_sleep_state",
    "Engine sleep state; awake = 0 means engine is sleeping; awake = 1 means engine is awake; weights_offloaded = 1 means sleep level 1; discard_all = 1 means sleep level 2.",
    Since::V0_12,
);
pub(super) const KV_USAGE: Name =
    name("vllm:kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", Since::V0_10);
pub(super) const PREFIX_QUERIES: Name = name(
    "vllm:prefix_cache_queries_total",
    "Prefix cache queries, in terms of number of queried tokens.",
    Since::Always,
);
pub(super) const PREFIX_HITS: Name =
    name("vllm:prefix_cache_hits_total", "Prefix cache hits, in terms of number of cached tokens.", Since::Always);
pub(super) const EXTERNAL_QUERIES: Name = name(
    "vllm:external_prefix_cache_queries_total",
    "External prefix cache queries from KV connector cross-instance cache sharing, in terms of number of queried tokens.",
    Since::V0_12,
);
pub(super) const EXTERNAL_HITS: Name = name(
    "vllm:external_prefix_cache_hits_total",
    "External prefix cache hits from KV connector cross-instance cache sharing, in terms of number of cached tokens.",
    Since::V0_12,
);
pub(super) const MM_QUERIES: Name = name(
    "vllm:mm_cache_queries_total",
    "Multi-modal cache queries, in terms of number of queried items.",
    Since::V0_12,
);
pub(super) const MM_HITS: Name =
    name("vllm:mm_cache_hits_total", "Multi-modal cache hits, in terms of number of cached items.", Since::V0_12);
pub(super) const PREEMPTIONS: Name =
    name("vllm:num_preemptions_total", "Cumulative number of preemption from the engine.", Since::Always);
pub(super) const PROMPT_TOKENS: Name =
    name("vllm:prompt_tokens_total", "Number of prefill tokens processed.", Since::Always);
pub(super) const PROMPT_BY_SOURCE: Name =
    name("vllm:prompt_tokens_by_source_total", "Number of prompt tokens by source.", Since::V0_12);
pub(super) const CACHED_TOKENS: Name =
    name("vllm:prompt_tokens_cached_total", "Number of cached prompt tokens (local + external).", Since::V0_12);
pub(super) const CACHED_BY_SOURCE: Name = name(
    "vllm:prompt_tokens_cached_by_source_total",
    "Prefix-cache hit tokens by the cache tier that supplied them: device (local HBM), host (offloaded to DRAM), disk, p2p (transferred from another vLLM instance) or external_unspecified. Counted at admission; sums to vllm:prefix_cache_hits + vllm:external_prefix_cache_hits.",
    Since::V0_12,
);
pub(super) const GENERATION_TOKENS: Name =
    name("vllm:generation_tokens_total", "Number of generation tokens processed.", Since::Always);
pub(super) const SUCCESS: Name =
    name("vllm:request_success_total", "Count of successfully processed requests.", Since::Always);
pub(super) const ADMISSIONS: Name = name(
    "vllm:admission_rejections_total",
    "Number of admission attempts rejected by a queue limit, by reason.",
    Since::V0_12,
);
pub(super) const REQUEST_PROMPT: Name =
    name("vllm:request_prompt_tokens", "Number of prefill tokens processed.", Since::Always);
pub(super) const REQUEST_GENERATION: Name =
    name("vllm:request_generation_tokens", "Number of generation tokens processed.", Since::Always);
pub(super) const ITERATION_TOKENS: Name =
    name("vllm:iteration_tokens_total", "Histogram of number of tokens per engine_step.", Since::Always);
pub(super) const MAX_GENERATION: Name = name(
    "vllm:request_max_num_generation_tokens",
    "Histogram of maximum number of requested generation tokens.",
    Since::Always,
);
pub(super) const PARAMS_N: Name = name("vllm:request_params_n", "Histogram of the n request parameter.", Since::Always);
pub(super) const PARAMS_MAX_TOKENS: Name =
    name("vllm:request_params_max_tokens", "Histogram of the max_tokens request parameter.", Since::Always);
pub(super) const TTFT: Name =
    name("vllm:time_to_first_token_seconds", "Histogram of time to first token in seconds.", Since::Always);
pub(super) const ITL: Name =
    name("vllm:inter_token_latency_seconds", "Histogram of inter-token latency in seconds.", Since::Always);
pub(super) const TPOT: Name = name(
    "vllm:request_time_per_output_token_seconds",
    "Histogram of time_per_output_token_seconds per request.",
    Since::V0_11,
);
pub(super) const E2E: Name =
    name("vllm:e2e_request_latency_seconds", "Histogram of e2e request latency in seconds.", Since::Always);
pub(super) const QUEUE: Name =
    name("vllm:request_queue_time_seconds", "Histogram of time spent in WAITING phase for request.", Since::Always);
pub(super) const INFERENCE: Name =
    name("vllm:request_inference_time_seconds", "Histogram of time spent in RUNNING phase for request.", Since::Always);
pub(super) const PREFILL: Name =
    name("vllm:request_prefill_time_seconds", "Histogram of time spent in PREFILL phase for request.", Since::Always);
pub(super) const DECODE: Name =
    name("vllm:request_decode_time_seconds", "Histogram of time spent in DECODE phase for request.", Since::Always);
pub(super) const REQUEST_PREEMPTIONS: Name =
    name("vllm:request_num_preemptions", "Histogram of the number of times a request was preempted.", Since::V0_12);
pub(super) const REQUEST_COMPUTED: Name = name(
    "vllm:request_prefill_kv_computed_tokens",
    "Histogram of new KV tokens computed during prefill (excluding cached tokens).",
    Since::V0_12,
);
pub(super) const OLD_KV_USAGE: Name =
    name("vllm:gpu_cache_usage_perc", "GPU KV-cache usage. 1 means 100 percent usage.", Since::Always);
pub(super) const OLD_ITL: Name =
    name("vllm:time_per_output_token_seconds", "Histogram of time per output token in seconds.", Since::Always);
pub(super) const ESTIMATES: [Name; 3] = [
    name(
        "vllm:estimated_flops_per_gpu_total",
        "Estimated number of floating point operations per GPU (for Model Flops Utilization calculations).",
        Since::V0_12,
    ),
    name(
        "vllm:estimated_read_bytes_per_gpu_total",
        "Estimated number of bytes read from memory per GPU (for Model Flops Utilization calculations).",
        Since::V0_12,
    ),
    name(
        "vllm:estimated_write_bytes_per_gpu_total",
        "Estimated number of bytes written to memory per GPU (for Model Flops Utilization calculations).",
        Since::V0_12,
    ),
];
pub(super) const NIXL_HISTOGRAMS: [Name; 4] = [
    name("vllm:nixl_xfer_time_seconds", "Histogram of transfer duration for NIXL KV Cache transfers.", Since::V0_11),
    name("vllm:nixl_post_time_seconds", "Histogram of transfer post time for NIXL KV Cache transfers.", Since::V0_11),
    name("vllm:nixl_bytes_transferred", "Histogram of bytes transferred per NIXL KV Cache transfers.", Since::V0_11),
    name("vllm:nixl_num_descriptors", "Histogram of number of descriptors per NIXL  KV Cache transfers.", Since::V0_11),
];
pub(super) const NIXL_COUNTERS: [Name; 4] = [
    name(
        "vllm:nixl_num_failed_transfers_total",
        "Number of failed NIXL KV Cache transfers, including handshake and notification failures. NOTE: KV expiry is tracked separately in vllm:nixl_num_kv_expired_reqs.",
        Since::V0_12,
    ),
    name(
        "vllm:nixl_num_failed_notifications_total",
        "Number of failed NIXL KV Cache notifications. Retained for compatibility; these failures are also included in vllm:nixl_num_failed_transfers.",
        Since::V0_12,
    ),
    name(
        "vllm:nixl_num_kv_expired_reqs_total",
        "Number of requests that had their KV expire. NOTE: This metric is tracked on the P instance.",
        Since::V0_12,
    ),
    name(
        "vllm:nixl_num_notifications_after_expiry_total",
        "Number of completion notifications for requests that were no longer tracked, usually because their KV lease expired. The KV blocks may have been reused before the transfer finished. Counted per notification (one per remote rank), not per request.",
        Since::V0_12,
    ),
];

/// Name, help and value of a summary of sizes.
pub(super) type SizeSummary = (&'static str, &'static str, fn(&HandlerCounts) -> u64);

pub(super) const HTTP_SIZES: [SizeSummary; 2] = [
    (
        "http_request_size_bytes",
        "Content length of incoming requests by handler. Only value of header is respected. Otherwise ignored. No percentile calculated. ",
        |own| own.request_bytes,
    ),
    (
        "http_response_size_bytes",
        "Content length of outgoing responses by handler. Only value of header is respected. Otherwise ignored. No percentile calculated. ",
        |own| own.response_bytes,
    ),
];
pub(super) const HTTP_FINE: (&str, &str) = (
    "http_request_duration_highr_seconds",
    "Latency with many buckets but no API specific labels. Made for more accurate percentile calculations. ",
);
pub(super) const HTTP_COARSE: (&str, &str) = (
    "http_request_duration_seconds",
    "Latency with only few buckets by handler. Made to be only used if aggregation by handler is important. ",
);

/// Name, kind, help and value of what Python's client says about its process, here about this one.
pub(super) fn process_values(started_unix_s: f64) -> Vec<(&'static str, &'static str, &'static str, f64)> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bytes = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        Some(line.trim().trim_end_matches(" kB").parse::<f64>().ok()? * 1024.0)
    };
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let mut values = Vec::new();
    for (name, help, key) in [
        ("process_virtual_memory_bytes", "Virtual memory size in bytes.", "VmSize:"),
        ("process_resident_memory_bytes", "Resident memory size in bytes.", "VmRSS:"),
    ] {
        values.extend(bytes(key).map(|bytes| (name, "gauge", help, bytes)));
    }
    let help = "Start time of the process since unix epoch in seconds.";
    values.push(("process_start_time_seconds", "gauge", help, started_unix_s));
    let help = "Total user and system CPU time spent in seconds.";
    values.push(("process_cpu_seconds_total", "counter", help, cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9));
    values
}
