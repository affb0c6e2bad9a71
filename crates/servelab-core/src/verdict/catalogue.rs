//! The verdict codes and the thresholds behind them, in one place: `explain`, the documentation and the rules all read
//! this table.

use crate::result::Severity;

/// Declares every threshold once: its words, its type, its value.
macro_rules! thresholds {
    ($($(#[doc = $doc:literal])+ $name:ident: $kind:ty = $value:literal;)+) => {
        /// Where each rule begins to speak.
        #[derive(Debug, Clone, Copy, PartialEq)]
        pub struct Thresholds {
            $($(#[doc = $doc])+ pub $name: $kind,)+
        }

        impl Thresholds {
            /// The thresholds in force.
            pub const DEFAULT: Self = Self { $($name: $value,)+ };

            /// Name, value and words of each, for the documentation.
            pub fn table() -> Vec<(&'static str, String, &'static str)> {
                let all = Self::DEFAULT;
                vec![$((stringify!($name), all.$name.to_string(), concat!($($doc,)+).trim()),)+]
            }
        }
    };
}

thresholds! {
    /// Success rate below which a cell is invalid when the study's SLO names none (0–1).
    success_invalid: f64 = 0.95;
    /// Success rate below which a warning stands (0–1).
    success_warning: f64 = 0.99;
    /// Lateness p99 that is always forgiven, milliseconds.
    lateness_p99_ms: f64 = 10.0;
    /// Lateness p99 beyond this share of the median TTFT from the schedule is the client's fault (0–1).
    lateness_share_of_ttft: f64 = 0.05;
    /// Canary error p99 that is always forgiven, milliseconds.
    canary_p99_ms: f64 = 5.0;
    /// CPU time per load thread and second of the window above which the client is saturated (0–1).
    client_cpu: f64 = 0.90;
    /// Completions below this share of the arrivals mean saturation (0–1).
    sustained_share: f64 = 0.95;
    /// Standard deviations that a lag or a slope must exceed to be no accident.
    backlog_noise: f64 = 3.0;
    /// Growth of a time from the schedule that means a growing queue, seconds per second of arrivals, with many requests.
    growth_slope: f64 = 0.05;
    /// With n requests, this over n is added to `growth_slope`.
    growth_slope_requests: f64 = 6.5;
    /// Growth over all arrivals that is always forgiven, milliseconds.
    growth_rise_ms: f64 = 50.0;
    /// Requests below which no backlog is read.
    growth_min_requests: u64 = 20;
    /// Share of ended requests that stopped early under `ignore_eos` beyond which the cell is invalid (0–1).
    early_stop_share: f64 = 0.01;
    /// Relative difference between two token counts beyond which they disagree (0–1).
    token_mismatch: f64 = 0.01;
    /// Share of the reported tokens without an event of their own beyond which ITL is called one per chunk (0–1).
    merged_share: f64 = 0.20;
    /// Share of the window that the scrapes must cover (0–1).
    scrapes_cover: f64 = 0.90;
    /// Samples below which a p99 is little more than the maximum.
    p99_samples: u64 = 100;
    /// Finished requests on the server beyond ours, as a share of ours, that reveal somebody else's traffic (0–1).
    foreign_share: f64 = 0.05;
    /// Uncertainty of a shard's clock above which readers are told, milliseconds.
    shard_clock_ms: f64 = 1.0;
    /// Time between the starts of two shards' windows above which readers are told, milliseconds.
    shard_skew_ms: f64 = 100.0;
    /// Transfers below this share of the completed requests mean that decode computed some prompts (0–1).
    transfer_share: f64 = 0.95;
    /// Prefix-cache hit rate above the expected one that confounds (absolute, 0–1).
    prefix_hit_excess: f64 = 0.05;
    /// Mean prompt tokens up to which a workload has no prefill worth the name.
    decode_only_prompt: f64 = 2.0;
    /// Mean answer tokens from which on that matters.
    decode_only_answer: f64 = 8.0;
    /// Relative difference between another tool's summary and what its per-request data give (0–1).
    recomputed: f64 = 0.01;
    /// Advice: KV-cache usage from which on the cache is what limits (0–1).
    advice_kv_full: f64 = 0.95;
    /// Advice: KV-cache usage below which there is room (0–1).
    advice_kv_room: f64 = 0.80;
    /// Advice: waiting requests (mean) from which on there is a queue.
    advice_queue: f64 = 1.0;
    /// Advice: share of the limit on running requests from which on it binds (0–1).
    advice_binds: f64 = 0.98;
    /// Advice: share of the limit on running requests below which the load does not fill it (0–1).
    advice_idle: f64 = 0.50;
}

/// What `explain` says about one code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerdictDoc {
    /// The code.
    pub code: &'static str,
    /// The worst severity it can have.
    pub severity: Severity,
    /// When it is given.
    pub meaning: &'static str,
    /// What to do.
    pub advice: &'static str,
}

const fn invalid(code: &'static str, meaning: &'static str, advice: &'static str) -> VerdictDoc {
    VerdictDoc { code, severity: Severity::Invalid, meaning, advice }
}

const fn warning(code: &'static str, meaning: &'static str, advice: &'static str) -> VerdictDoc {
    VerdictDoc { code, severity: Severity::Warning, meaning, advice }
}

/// Every verdict code.
pub const VERDICTS: &[VerdictDoc] = &[
    invalid(
        "not_judged",
        "The numbers were computed but no check has looked at them.",
        "Run `servelab report` on the study again.",
    ),
    invalid(
        "success_low",
        "No request succeeded, or the success rate is below the study's `slo.cell.success` (default 0.95). Between that and 0.99 it is a warning.",
        "Look at `failures` in result.json and `servelab explain` its codes; lower the load or fix the server, then `--retry invalid`.",
    ),
    invalid(
        "shard_missing",
        "The load was spread over several processes, and some of them left no records or did not finish: the server saw another load than the result speaks of.",
        "Look at the output of the shards named; run all of them again.",
    ),
    invalid(
        "zero_token_successes",
        "Responses with an HTTP success carried not one token. They count as failures, and something is wrong with the server or the prompts.",
        "Send one such request by hand; check max_model_len, chat template and stop strings.",
    ),
    invalid(
        "client_limited",
        "The load generator itself was late (lateness p99 above 10 ms and above 5 % of the median TTFT), erred on its canary stream, or used more than 90 % of its CPUs.",
        "Give the client free cores, more threads, or its own machine; do not trust latencies of this cell.",
    ),
    invalid(
        "saturated",
        "An open load offered more than the server sustained: completions below 95 % of the arrivals (and by more than chance explains), or TTFT or E2E time from the schedule growing with every arrival by more than 0.05 + 6.5/n seconds per second over n requests. Latencies then measure the length of the run.",
        "Use lower rates for latency; take throughput capacity from a closed loop.",
    ),
    invalid(
        "metrics_missing",
        "The server's metrics were expected, and not one scrape succeeded in the window or on both sides of it.",
        "Check that /metrics is reachable from the client and not switched off (--disable-log-stats).",
    ),
    invalid(
        "effective_differs",
        "The engine logged another configuration than the one requested.",
        "Read points/<id>/effective.json; correct the study or the engine version.",
    ),
    invalid(
        "debug_logging",
        "The server logged at DEBUG level, which slows it by an unknown amount.",
        "Unset VLLM_LOGGING_LEVEL and similar, then `--retry invalid`.",
    ),
    invalid(
        "early_stops",
        "Requests stopped before their requested length although ignore_eos was set. Above 1 % of the requests the cell is invalid, below a warning.",
        "Check that the endpoint honours ignore_eos and that max_model_len leaves room for the answer.",
    ),
    invalid(
        "token_count_mismatch",
        "Two counts of the same output tokens differ by more than 1 %: the server's usage and the token ids or running usage in its events, or more token events than reported tokens, or the server's generation counter and what this client's requests account for. Fewer events than tokens are normal and no mismatch.",
        "Look at `token_source` and `event_token_source`; a proxy that drops or repeats chunks, or another client on the server, are the usual causes.",
    ),
    invalid(
        "server_restarted",
        "The server's counters fell or its process start time changed inside the window.",
        "Read the server log for the crash, then `--retry invalid`.",
    ),
    invalid(
        "foreign_traffic",
        "The server finished more requests than this client sent.",
        "Make sure that nobody else uses the server during the window.",
    ),
    invalid(
        "no_kv_transfer",
        "Prefill and decode ran apart, but the transfer counters stayed at zero, or a request through both was not answered as by the decode server alone. With some transfers failed or missing (below 95 % of the requests) it is a warning.",
        "Set kv_load_failure_policy=fail; check the side channel (VLLM_NIXL_SIDE_CHANNEL_HOST) and the network (`servelab network-test`); read points/<id>/transfer.json.",
    ),
    invalid(
        "prefix_cache_confounded",
        "The prefix-cache hit rate exceeds what the workload implies by more than 0.05: prompts share prefixes or were sent before.",
        "Reset the prefix cache between cells, use disjoint prompts, or state the hit rate in the workload.",
    ),
    warning(
        "metrics_partial",
        "The scrapes of the server's metrics do not cover the window well: none fell into it, or they end before it. Gauges then come from just before and after it or are absent, and counter increases belong to another stretch of time.",
        "Measure for several scrape intervals; if scrapes failed, look at the server's load and log.",
    ),
    warning(
        "shard_clock",
        "The shards' clocks could be compared only to more than 1 ms, or their windows began more than 100 ms apart. Latencies of single requests do not depend on it; in-flight counts and the edges of the window do.",
        "Use a TCP barrier across hosts (`--barrier tcp://HOST:PORT`), and hosts whose clocks are kept by NTP or PTP.",
    ),
    warning(
        "precision_not_reached",
        "`--until ci=` was given, and the run ended at its upper bound before every watched mean was known that well.",
        "Raise `--duration` or `--requests`, or ask for a wider interval.",
    ),
    warning(
        "merged_events",
        "More than 20 % of the output tokens had no event of their own: the server put several tokens into one event and did not say how many. ITL is then a latency per chunk. Throughput and TPOT use the reported counts and stand.",
        "Compare TPOT instead of ITL, or let the server send token ids or continuous usage.",
    ),
    warning(
        "not_steady",
        "A closed loop never kept its slots busy for the larger part of the window.",
        "Send several times as many requests as there are slots.",
    ),
    warning(
        "preemptions",
        "The engine preempted requests because KV-cache blocks ran out; their work was done twice.",
        "Lower max_num_seqs or the load, or give the KV cache more memory.",
    ),
    warning(
        "factor_not_exercised",
        "A varied limit was never reached, so this cell says nothing about it.",
        "Raise the load until the limit binds, or take the factor out of the study.",
    ),
    warning(
        "too_few_samples",
        "Fewer than 100 successes: the p99 is little more than the maximum.",
        "Raise `load.stop`; 368 samples give the p99 a confidence interval.",
    ),
    warning(
        "decode_only_workload",
        "Prompts have hardly more than one token and answers many. Such a load does not model decoding after a real prefill: the KV cache starts empty, so attention reads far less than it would (vLLM issue 25986).",
        "Measure decode with the prompts of the real workload, behind a prefill or with a KV cache that is filled.",
    ),
    invalid(
        "duplicate_data",
        "An imported result holds the very measurements of another one under another name: one run was copied, not repeated.",
        "Keep one of the two; a repeat must be measured.",
    ),
    warning(
        "recomputed_differs",
        "An imported file has a summary and per-request data, and they differ by more than 1 %: the tool defines a number differently, or one of the two was edited.",
        "Trust the recomputed number, or look up the tool's definition.",
    ),
    warning(
        "aggregates_only",
        "An imported file has no per-request data: percentiles, and what counts as a success, are the tool's own.",
        "Save per-request data next time (vllm: --save-detailed).",
    ),
    invalid(
        "simulated_mix",
        "A comparison has simulated results on one side and measured ones on the other.",
        "Compare like with like; `--mix-simulated` allows it where the simulator itself is in question.",
    ),
    invalid(
        "nothing_comparable",
        "The two sides of a comparison have no workload and load in common.",
        "Measure both under the same load, or name results that were.",
    ),
    warning(
        "conditions_differ",
        "Each side of a comparison was measured under one load, and not the same: the difference is that of the loads too.",
        "Measure both under the same load.",
    ),
    warning(
        "version_mix",
        "The results compared come from different engine versions.",
        "Repeat one side with the other's version, unless the version is what you compare.",
    ),
    warning(
        "hardware_mix",
        "The results compared come from different GPU models.",
        "Repeat one side on the other's hardware, unless the hardware is what you compare.",
    ),
    warning(
        "results_left_out",
        "Some results of a side must not be believed and were left out of the comparison.",
        "Look at their verdicts; measure again with `--retry invalid`.",
    ),
    warning(
        "one_repeat",
        "A side of a comparison has a single repeat, so nobody knows how much repeats scatter and whether the difference means anything.",
        "Set `repeats: {n: 3}` or more.",
    ),
    warning(
        "within_noise",
        "Not one metric of a comparison differs by more than the scatter of the repeats explains.",
        "Add as many repeats as the comparison names, or accept that the two are equal for your purpose (`--margin`).",
    ),
    warning(
        "simulated",
        "The numbers come from the simulator, not from hardware.",
        "Never compare them with measured cells.",
    ),
];

/// Looks a code up.
pub fn verdict_doc(code: &str) -> Option<&'static VerdictDoc> {
    VERDICTS.iter().find(|doc| doc.code == code)
}
