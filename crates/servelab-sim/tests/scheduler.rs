//! The scheduler against vLLM's own: scenarios whose every decision was recorded from the real one
//! (`scripts/scheduler-trace/trace.py`) are replayed, and must be the same to the token and to the block. A larger
//! recording is replayed when SERVELAB_SCHEDULER_TRACE names one (`cargo xtask verify scheduler`).

#![expect(clippy::panic, reason = "helpers of tests fail by panicking")]

use std::collections::VecDeque;
use std::path::PathBuf;

use serde::Deserialize;
use servelab_sim::engine::{Content, EngineConfig, Job, Policy, Scheduler, Seq, Slot, Speculation, Watch};

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    max_num_seqs: Option<u32>,
    max_num_batched_tokens: Option<u32>,
    max_num_scheduled_tokens: u32,
    max_model_len: Option<u32>,
    block_size: Option<u32>,
    num_blocks: Option<u64>,
    prefix_caching: Option<bool>,
    chunked_prefill: Option<bool>,
    long_prefill_token_threshold: u32,
    long_prefill_adaptive: bool,
    reserve_full_prompt: Option<bool>,
    watermark: f64,
    policy: Option<String>,
    r#async: bool,
    draft_tokens: u32,
    acceptance: Vec<f64>,
    lookahead_tokens: u32,
    seed: u64,
}

impl Config {
    /// What the script takes when a scenario says nothing.
    fn engine(&self) -> EngineConfig {
        EngineConfig {
            max_num_seqs: self.max_num_seqs.unwrap_or(8),
            max_num_batched_tokens: self.max_num_batched_tokens.unwrap_or(64),
            max_num_scheduled_tokens: self.max_num_scheduled_tokens,
            max_model_len: self.max_model_len.unwrap_or(1024),
            block_size: self.block_size.unwrap_or(4),
            num_blocks: self.num_blocks.unwrap_or(64),
            prefix_caching: self.prefix_caching.unwrap_or(true),
            chunked_prefill: self.chunked_prefill.unwrap_or(true),
            long_prefill_token_threshold: self.long_prefill_token_threshold,
            long_prefill_adaptive: self.long_prefill_adaptive,
            reserve_full_prompt: self.reserve_full_prompt.unwrap_or(true),
            watermark: self.watermark,
            policy: if self.policy.as_deref() == Some("priority") { Policy::Priority } else { Policy::Fcfs },
            speculation: (self.draft_tokens > 0).then(|| Speculation {
                draft_tokens: self.draft_tokens,
                acceptance: self.acceptance.clone(),
                lookahead_tokens: self.lookahead_tokens,
                ..Speculation::default()
            }),
            seed: self.seed,
            ..EngineConfig::default()
        }
        .with_async_scheduling(self.r#async)
    }
}

/// Call before which it comes, prompt, output, limit, priority, kind, what is shared, how much of it.
type Request = (usize, u32, u32, u32, i32, String, u64, u32);

/// Tokens per request, preempted requests, free blocks.
type Call = (Vec<(u64, u32)>, Vec<u64>, usize);

#[derive(Debug, Deserialize)]
struct Trace {
    name: String,
    vllm: String,
    config: Config,
    requests: Vec<Request>,
    /// Prompt tokens found in the cache at the first admission.
    cached: Vec<u32>,
    calls: Vec<Call>,
}

#[derive(Default)]
struct Cached(Vec<(u64, u32)>);

impl Watch for Cached {
    fn tokens(&mut self, _slot: Slot, _seq: &Seq, _n_new: u32, _gap_ns: Option<u64>) {}
    fn done(&mut self, _slot: Slot, seq: &Seq) {
        self.0.push((seq.job.tag, seq.cached_tokens));
    }
}

fn replay(trace: &Trace) -> Result<(), String> {
    let mut scheduler = Scheduler::new(trace.config.engine());
    let depth = if trace.config.r#async { 2 } else { 1 };
    let mut order: VecDeque<usize> = (0..trace.requests.len()).collect();
    order.make_contiguous().sort_by_key(|index| (trace.requests[*index].0, *index));
    let mut live: Vec<(u64, Slot, u32)> = Vec::new();
    let mut cached = Cached::default();
    let mut n_calls = 0;
    while !order.is_empty() || scheduler.has_work() || scheduler.n_under_way() > 0 {
        while let Some(index) = order.pop_front_if(|index| trace.requests[*index].0 <= n_calls) {
            let (_, prompt_tokens, output_tokens, max_tokens, priority, ref kind, shared, tokens) =
                trace.requests[index];
            let content = match kind.as_str() {
                "prefix" => Content::SharedPrefix { family: shared, tokens },
                "turn" => Content::Turn { conversation: shared, family: 0, family_tokens: 0 },
                _ => Content::Unique,
            };
            let job = Job {
                tag: index as u64,
                prompt_tokens,
                output_tokens,
                max_tokens,
                content,
                priority,
                arrival_ns: index as u64,
                ..Job::default()
            };
            let slot = scheduler.add(job).ok_or_else(|| format!("request {index} was refused"))?;
            live.push((index as u64, slot, 0));
        }
        let planned = scheduler.schedule(n_calls as u64, false).is_some();
        let tag = |slot: Slot| scheduler.seq(slot).map_or(u64::MAX, |seq| seq.job.tag);
        let rows: Vec<_> =
            if planned { scheduler.last_step().map(|(slot, n)| (tag(slot), n)).collect() } else { vec![] };
        let mut preempted = Vec::new();
        live.retain_mut(|(id, slot, before)| match scheduler.seq(*slot) {
            Some(seq) if seq.job.tag == *id => {
                if seq.n_preemptions > *before {
                    preempted.push(*id);
                }
                *before = seq.n_preemptions;
                true
            }
            _ => false,
        });
        preempted.sort_unstable();
        let mine: Call = (rows, preempted, scheduler.n_free_blocks());
        let theirs = trace.calls.get(n_calls).ok_or_else(|| format!("call {n_calls}: one more, {mine:?}"))?;
        if mine != *theirs {
            return Err(format!("call {n_calls}: {mine:?}, vLLM {theirs:?}"));
        }
        n_calls += 1;
        if scheduler.n_under_way() == depth || !planned {
            scheduler.complete(n_calls as u64, &mut cached);
        }
    }
    if n_calls != trace.calls.len() {
        return Err(format!("{n_calls} calls, vLLM {}", trace.calls.len()));
    }
    cached.0.sort_unstable();
    let cached: Vec<u32> = cached.0.iter().map(|(_, tokens)| *tokens).collect();
    if cached != trace.cached {
        return Err(format!("cached tokens {cached:?}, vLLM {:?}", trace.cached));
    }
    Ok(())
}

fn check(text: &str) -> (usize, usize) {
    let traces: Result<Vec<Trace>, _> = text.lines().map(serde_json::from_str).collect();
    let traces = traces.unwrap_or_else(|error| panic!("the recording is broken: {error}"));
    let mut n_calls = 0;
    let mut failures = Vec::new();
    for trace in &traces {
        n_calls += trace.calls.len();
        if let Err(difference) = replay(trace) {
            failures.push(format!("{} (vLLM {}): {difference}\n  {:?}", trace.name, trace.vllm, trace.config));
        }
    }
    assert!(failures.is_empty(), "{} of {} differ\n{}", failures.len(), traces.len(), failures.join("\n"));
    (traces.len(), n_calls)
}

#[test]
fn decides_as_the_real_scheduler_did() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/scheduler-0.32.jsonl");
    let (n_traces, n_calls) = check(&std::fs::read_to_string(path).unwrap());
    assert!(n_traces >= 40 && n_calls > 1000, "{n_traces} {n_calls}");
}

#[test]
fn decides_as_the_real_scheduler_does_in_a_fresh_recording() {
    let Some(path) = std::env::var_os("SERVELAB_SCHEDULER_TRACE") else {
        println!("skipped: SERVELAB_SCHEDULER_TRACE names no recording (cargo xtask verify scheduler makes one)");
        return;
    };
    let (n_traces, n_calls) = check(&std::fs::read_to_string(path).unwrap());
    println!("{n_traces} scenarios, {n_calls} scheduling calls: all equal");
}
