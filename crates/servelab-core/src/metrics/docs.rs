//! The definition of every metric in words, next to the code that computes it; the documentation page is generated from
//! this table, so the two cannot drift apart unnoticed.

use std::fmt::Write as _;

/// One metric's definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetricDoc {
    /// Name in `result.json` (under `latency_ms` where it is a distribution).
    pub name: &'static str,
    /// Unit.
    pub unit: &'static str,
    /// Formula over the stamps.
    pub formula: &'static str,
    /// What it means and what it leaves out.
    pub text: &'static str,
}

const fn doc(name: &'static str, unit: &'static str, formula: &'static str, text: &'static str) -> MetricDoc {
    MetricDoc { name, unit, formula, text }
}

/// Every metric, in the order of `result.json`.
pub const METRIC_DOCS: &[MetricDoc] = &[
    doc(
        "requests.scheduled",
        "requests",
        "phase = window",
        "Arrivals that the schedule put into the window. Warm-up and drain are never counted. scheduled = completed + failed + censored.",
    ),
    doc("requests.sent", "requests", "t_send known", "Of these, handed to the kernel completely."),
    doc(
        "requests.completed",
        "requests",
        "success",
        "HTTP 2xx, at least one token, stream properly ended, no error event. A 200 with zero tokens is a failure.",
    ),
    doc(
        "requests.failed",
        "requests",
        "failure code other than `censored`",
        "Failed, timed out or refused; `failures` counts them per code.",
    ),
    doc(
        "requests.censored",
        "requests",
        "failure code `censored`, or no end",
        "Cut off by the end of the run: neither success nor failure, and listed so that nobody overlooks them.",
    ),
    doc(
        "duration_s",
        "s",
        "window end − window start",
        "Length of the measured window. Warm-up and drain are outside.",
    ),
    doc(
        "input_tokens, output_tokens",
        "tokens",
        "Σ over completed requests",
        "Provenance per request, most trusted first: server usage, server token ids, continuous usage deltas, client tokenizer, event count. `token_source` counts the requests per provenance.",
    ),
    doc(
        "throughput.output_tokens_per_s",
        "tokens/s",
        "Σ n_k with start < t_k ≤ end, / duration",
        "Tokens whose event arrived inside the window, whatever phase or outcome their request had; not the tokens of requests that merely overlap it. A server may put several tokens into one event: where the tokens per event are guesses (no token ids, no continuous usage) and a request's events sum to M < N, its reported tokens, each of its events counts N/M times. Without event records, n_first tokens count at t_first and the rest is spread evenly up to t_last.",
    ),
    doc(
        "throughput.requests_per_s",
        "requests/s",
        "successes with start < t_last ≤ end, / duration",
        "Completions inside the window, whatever phase they were sent in.",
    ),
    doc(
        "goodput_requests_per_s",
        "requests/s",
        "requests meeting every request SLO / duration",
        "Over requests scheduled in the window. Failures count against it; censored ones are left out. A request with too few tokens for a TPOT meets the TPOT limit. The ITL limit applies to the largest smoothed gap of a request. Absent without a request SLO. Goodput can be gamed: read it beside the smoothness of the streams.",
    ),
    doc(
        "concurrency.mean",
        "requests",
        "∫ in-flight dt / duration",
        "Exact time integral of the in-flight step function of all phases; a request is in flight from t_send to its last stamp, which for a failure is the instant that ended it.",
    ),
    doc("concurrency.max", "requests", "max of the in-flight step function", "Inside the window."),
    doc(
        "ttft",
        "ms",
        "t_first − t_send",
        "Time to first token. t_first is the first event that carries a token (content, reasoning, tool call, token ids, or a usage delta above zero), never an empty role chunk. Successes of the window only, as all distributions here; percentiles are exact, linear (numpy type 7).",
    ),
    doc(
        "ttft_sched",
        "ms",
        "t_first − t_sched",
        "What a user who arrived on time felt: immune to coordinated omission.",
    ),
    doc("ttfo", "ms", "t_out − t_send", "Time to the first token that is not reasoning."),
    doc(
        "icl",
        "ms",
        "t_k − t_{k−1}",
        "Inter-chunk latency: gaps between neighbouring token-bearing events, each counted once.",
    ),
    doc(
        "itl",
        "ms",
        "(t_k − t_{k−1}) / n_k, counted n_k times",
        "Inter-token latency. Smoothed: tokens that arrive in one event share its gap evenly. The first event has no gap. n_k is what the event itself says; without token ids or continuous usage that is one, and where a server merges tokens this is a latency per chunk (warning `merged_events`). TPOT does not depend on it.",
    ),
    doc(
        "tpot",
        "ms",
        "(t_last − t_first) / (N − n_first)",
        "Time per output token after the first event, one value per request. Undefined, never zero, when N ≤ n_first.",
    ),
    doc(
        "tpot_vllm",
        "ms",
        "(t_last − t_first) / (N − 1)",
        "The same as vLLM's benchmark defines it, for comparison. Undefined below two tokens.",
    ),
    doc("e2e", "ms", "t_last − t_send", "End to end, up to the last token. The tail up to `[DONE]` is not in it."),
    doc("e2e_sched", "ms", "t_last − t_sched", "End to end as a user who arrived on time felt it."),
    doc(
        "ci95",
        "ms",
        "order statistics, exact binomial",
        "95 % confidence interval of a quantile within this run, absent with too few samples (6 for p50, 368 for p99). Treats samples as independent; those of one request are not, so it is a lower bound. It says nothing about the spread between runs.",
    ),
    doc(
        "client.lateness_ms",
        "ms",
        "t_send − t_sched − slot wait − connect",
        "How late the client itself was, over every request sent in the window. Waiting for a concurrency slot (t_slot − t_sched) is the experiment's doing, opening a connection (t_conn1 − t_conn0) the network's; neither is in it.",
    ),
    doc(
        "client.slot_wait_ms, client.connect_ms",
        "ms",
        "t_slot − t_sched; t_conn1 − t_conn0",
        "The other two parts of t_send − t_sched, over the same requests; with `client.lateness_ms` they add up to it. A request that found an open connection has a connect of zero.",
    ),
    doc(
        "client.cpu_s",
        "s",
        "user + system time of the load threads",
        "Compared with duration × threads to find a saturated client.",
    ),
    doc(
        "client.canary_ttft_error_ms, client.canary_itl_error_ms",
        "ms",
        "measured − known",
        "Error seen on a stream from an in-process reference server whose timing is known.",
    ),
    doc(
        "steady",
        "",
        "closed loop: first to last instant with all N slots busy; other loads: from where MSER-5 cuts the start to the end of the window",
        "Closed loops: absent when the mean in-flight count in between is below 90 % of the slots. Other loads: the in-flight count (means over 200 parts) loses its start by MSER-5; absent when that is more than half of the window, when the rest still has a trend (99 %, more than a tenth of the mean and half a request), or when it is shorter than ten mean request times. Its latencies are those of requests sent inside it.",
    ),
    doc(
        "smoothness.max_gap_ms",
        "ms",
        "max of t_k − t_{k−1} per request",
        "The worst pause of each successful stream.",
    ),
    doc(
        "smoothness.stall_share, smoothness.stall_threshold_ms",
        "0–1, ms",
        "gaps above the threshold / gaps",
        "The threshold is the request SLO's `itl_ms`, else its `tpot_ms`, else five median gaps of this run; it is printed beside the share.",
    ),
    doc(
        "smoothness.fluidity",
        "0–1",
        "deadlines met / (met + missed) per request",
        "Fluidity index (Etalon, arXiv 2407.07000). The first token is due `ttft_ms` after the send, each further one `tpot_ms` (else `itl_ms`) after the one before; early tokens leave slack. A late token misses its own deadline and every further one that has passed, and the deadlines start anew from it. Absent without these limits. Tokens of one event arrive together.",
    ),
    doc(
        "server_times.queue_ms, server_times.ttft_ms, server_times.itl_ms, server_times.e2e_ms",
        "ms",
        "as the server reports them per request",
        "vLLM with `--enable-per-request-metrics`, SGLang's `meta_info`, llama.cpp's `timings`. TTFT and E2E run from the server's receipt of the request, its queue included (vLLM: queue_time_ms is added to its own). Absent when the server sends none.",
    ),
    doc(
        "server_times.ttft_residual_ms, server_times.e2e_residual_ms",
        "ms",
        "client − server, per request",
        "Network, HTTP layers on both sides and the client's own delay. Negative values mean that two clocks or two definitions differ.",
    ),
    doc(
        "latency_with_failures_ms",
        "ms",
        "nearest rank over completed and failed requests, failures as +∞",
        "Percentiles of `ttft`, `ttft_sched`, `e2e`, `e2e_sched` in which failures are not left out. Null is a percentile that is a failed request. Censored requests are left out.",
    ),
    doc(
        "precision",
        "",
        "batch means, Student's t",
        "With `--until`: per watched mean the relative half-width of its 95 % interval, over at least 32 batches of neighbouring requests (or of slices of 100 ms, for amounts per second), widened by the correlation that is left between neighbouring batches.",
    ),
    doc(
        "shards",
        "",
        "stamps + offset of the shard's clock",
        "With `--shard`: who took part, who is missing, how far apart their windows began, each one's clock beside that of shard 0. All other numbers are computed from the records of all shards on one clock.",
    ),
    doc(
        "server.preemptions, generation_tokens, prompt_tokens, requests_finished",
        "count",
        "counter increase over the window",
        "Summed over engines and nodes, from the last scrape at or before the window to the first at or after it, so up to one scrape period too long on either side; a counter that fell restarted at zero.",
    ),
    doc(
        "server.kv_usage_mean, kv_usage_max",
        "0–1",
        "time-weighted mean, maximum",
        "Share of KV-cache blocks in use; mean over engines, maximum over engines and time. Where no scrape fell into the window, those just before and after it stand for it (warning `metrics_partial`).",
    ),
    doc(
        "server.running_mean, running_max, waiting_mean",
        "requests",
        "time-weighted mean, maximum",
        "Sum over engines; a sample holds until the next scrape, so shorter peaks are missed.",
    ),
    doc(
        "server.prefix_hit_rate",
        "0–1",
        "hits increase / queries increase",
        "Prefix-cache tokens found over tokens looked up, in the window.",
    ),
    doc(
        "server.ttft_mean_ms, itl_mean_ms",
        "ms",
        "Δsum / Δcount of the server's histogram",
        "Means only: the smallest histogram bucket is coarser than the differences that matter.",
    ),
    doc(
        "server.queue_time_mean_ms, prefill_time_mean_ms, decode_time_mean_ms",
        "ms",
        "Δsum / Δcount of the server's histogram",
        "Where a request's time went by the server's own clock: waiting in its queue, from there to the first token, from the first token to the last. Requests that ended in the window.",
    ),
    doc(
        "server.speculation.acceptance_rate, mean_length, acceptance_by_position",
        "0–1, tokens, 0–1",
        "Δaccepted / Δproposed; 1 + Δaccepted / Δdrafts; Δaccepted at a position / Δdrafts",
        "Speculative decoding over the window, all engines together; absent when nothing was drafted.",
    ),
    doc(
        "server.gpu.power_mean_w, power_max_w, energy_j",
        "W, W, J",
        "time-weighted mean and maximum of the sum over GPUs; increase of the energy counter, else mean power × window",
        "From a DCGM exporter at port 9400 of the node, else from nvidia-smi; absent where neither is there. All GPUs of the node count, also idle ones.",
    ),
    doc(
        "server.gpu.busy_mean, sm_active_mean, memory_used_max_mib, sm_clock_mean_mhz",
        "0–1, 0–1, MiB, MHz",
        "time-weighted means over GPUs; maximum of one GPU",
        "`busy_mean` is the share of time in which any kernel ran; only `sm_active_mean` (DCGM profiling metrics) says how many SMs were in use.",
    ),
    doc(
        "energy_per_token_j",
        "J",
        "server.gpu.power_mean_w / throughput.output_tokens_per_s",
        "Energy of all GPUs per output token of the window; a column of the results table.",
    ),
];

/// The documentation page.
pub fn metrics_markdown() -> String {
    let mut page = String::from(
        "# Metric definitions\n\nGenerated from the table beside the code that computes them. Stamps are CLOCK_MONOTONIC nanoseconds per \
         request; every metric is computed from them afterwards.\n\n| metric | unit | formula | meaning and exclusions |\n|---|---|---|---|\n",
    );
    for entry in METRIC_DOCS {
        let cell = |text: &str| text.replace('|', "\\|");
        let names = entry.name.split(", ").map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let _ = writeln!(page, "| {names} | {} | {} | {} |", cell(entry.unit), cell(entry.formula), cell(entry.text));
    }
    page
}
