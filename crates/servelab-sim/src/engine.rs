//! One data-parallel rank: vLLM's V1 scheduler as a pure state machine. Continuous batching with token and sequence
//! budgets, chunked prefill or not, block allocation with prefix reuse, head-of-line admission and preemption by
//! recompute. It knows no clock: the caller says when a step starts and when its tokens are there.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::blocks::{BlockId, BlockPool};
use crate::config::ServerConfig;
use crate::flags::version_key;
use crate::metrics::EngineMetrics;
use crate::random::mix;
use crate::step_time::StepShape;
use crate::text::OutputText;

mod content;

pub use content::Content;

/// Scheduler limits of one rank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineConfig {
    /// Running requests.
    pub max_num_seqs: u32,
    /// Tokens per step.
    pub max_num_batched_tokens: u32,
    /// Prompts may be split over steps.
    pub chunked_prefill: bool,
    /// Largest prompt part per step; 0: no limit.
    pub long_prefill_token_threshold: u32,
    /// Reuse of computed prefixes.
    pub prefix_caching: bool,
    /// A prompt is admitted only when all of it fits (current vLLM); older versions look at its first part.
    pub reserve_full_prompt: bool,
    /// Tokens per block.
    pub block_size: u32,
    /// Blocks, null block included.
    pub num_blocks: u64,
}

impl EngineConfig {
    /// The limits of one rank of a server.
    pub fn of(config: &ServerConfig) -> Self {
        Self {
            max_num_seqs: config.max_num_seqs,
            max_num_batched_tokens: config.max_num_batched_tokens,
            chunked_prefill: config.chunked_prefill,
            long_prefill_token_threshold: config.long_prefill_token_threshold,
            prefix_caching: config.prefix_caching,
            reserve_full_prompt: version_key(&config.version) >= (0, 12),
            block_size: config.block_size,
            num_blocks: config.num_gpu_blocks,
        }
    }
}

/// Why a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FinishReason {
    /// The model ended its text, or a stop string appeared.
    Stop,
    /// The token limit was reached.
    Length,
    /// The client went away.
    Abort,
}

impl FinishReason {
    /// Name in answers and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Abort => "abort",
        }
    }
}

/// A request as the engine sees it.
#[derive(Debug, Clone)]
pub struct RequestSpec {
    /// Unique among live requests.
    pub id: u64,
    /// Prompt token ids; not empty.
    pub prompt: Arc<[u32]>,
    /// What will be written: its ids decide which generated blocks can be reused.
    pub output: OutputText,
    /// Tokens to generate, at least 1.
    pub output_tokens: u32,
    /// The limit that the client set, for metrics.
    pub max_tokens: u32,
    /// How the request ends after `output_tokens`.
    pub finish: FinishReason,
    /// Simulated nanoseconds.
    pub arrival_ns: u64,
}

/// One request got a token at the end of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Which request.
    pub id: u64,
    /// Tokens generated so far.
    pub n_output: u32,
    /// Set with the last token.
    pub finish: Option<FinishReason>,
}

#[derive(Debug)]
struct Request {
    spec: RequestSpec,
    hashes: Vec<u64>,
    blocks: Vec<BlockId>,
    computed: u32,
    generated: u32,
    n_preemptions: u32,
    started_ns: Option<u64>,
    first_token_ns: u64,
    last_token_ns: u64,
    cached_tokens: u32,
}

impl Request {
    fn n_tokens(&self) -> u32 {
        self.spec.prompt.len() as u32 + self.generated
    }

    fn remaining(&self) -> u32 {
        self.n_tokens() - self.computed
    }
}

/// The scheduler of one rank.
#[derive(Debug)]
pub struct Engine {
    config: EngineConfig,
    pool: BlockPool,
    requests: HashMap<u64, Request>,
    running: Vec<u64>,
    waiting: VecDeque<u64>,
    step: Vec<(u64, u32)>,
    metrics: EngineMetrics,
}

impl Engine {
    /// An idle rank with an empty cache.
    pub fn new(config: EngineConfig) -> Self {
        Self {
            pool: BlockPool::new(usize::try_from(config.num_blocks).unwrap_or(usize::MAX)),
            requests: HashMap::new(),
            running: Vec::new(),
            waiting: VecDeque::new(),
            step: Vec::new(),
            metrics: EngineMetrics::default(),
            config,
        }
    }

    /// Queues a request. False when it could never run: empty, or larger than the whole KV cache.
    pub fn add(&mut self, spec: RequestSpec) -> bool {
        let total = spec.prompt.len() as u64 + u64::from(spec.output_tokens);
        let fits = total.div_ceil(u64::from(self.config.block_size)) <= self.pool.n_usable() as u64;
        let whole_prompt = self.config.chunked_prefill || total <= u64::from(self.config.max_num_batched_tokens);
        if spec.prompt.is_empty()
            || spec.output_tokens == 0
            || !fits
            || !whole_prompt
            || self.requests.contains_key(&spec.id)
        {
            return false;
        }
        let id = spec.id;
        let mut request = Request {
            spec,
            hashes: Vec::new(),
            blocks: Vec::new(),
            computed: 0,
            generated: 0,
            n_preemptions: 0,
            started_ns: None,
            first_token_ns: 0,
            last_token_ns: 0,
            cached_tokens: 0,
        };
        if self.config.prefix_caching {
            extend_hashes(&mut request, self.config.block_size);
        }
        self.requests.insert(id, request);
        self.waiting.push_back(id);
        true
    }

    /// Ends a request whose client went away. False when there is none of that id.
    pub fn abort(&mut self, id: u64) -> bool {
        let Some(mut request) = self.requests.remove(&id) else { return false };
        free_blocks(&mut self.pool, &mut request);
        self.running.retain(|other| *other != id);
        self.waiting.retain(|other| *other != id);
        self.step.retain(|(other, _)| *other != id);
        self.metrics.finished(FinishReason::Abort);
        true
    }

    /// Plans the next step and takes its blocks. `None`: nothing to do. After `Some`, [`Engine::complete`] must follow.
    pub fn schedule(&mut self, now_ns: u64) -> Option<StepShape> {
        debug_assert!(self.step.is_empty(), "the last step is not complete");
        let mut budget = self.config.max_num_batched_tokens;
        let mut shape = StepShape::default();
        let mut preempted = false;
        let mut at = 0;
        'running: while budget > 0 {
            let Some(id) = self.running.get(at).copied() else { break };
            let n_new = self.chunk(id, budget);
            while !self.grow(id, n_new) {
                let Some(victim) = self.running.pop() else { break 'running };
                self.preempt(victim);
                preempted = true;
                if victim == id {
                    break 'running;
                }
            }
            budget -= n_new;
            self.plan(id, n_new, &mut shape);
            at += 1;
        }
        while !preempted && budget > 0 && self.running.len() < self.config.max_num_seqs as usize {
            let Some(id) = self.waiting.front().copied() else { break };
            let Some(n_new) = self.admit(id, budget, now_ns) else { break };
            budget -= n_new;
            self.waiting.pop_front();
            self.running.push(id);
            self.plan(id, n_new, &mut shape);
        }
        (shape.n_requests > 0).then_some(shape)
    }

    /// The planned step is over: counts its tokens and ends what is finished.
    pub fn complete(&mut self, now_ns: u64, sink: &mut dyn FnMut(Progress)) {
        let step = std::mem::take(&mut self.step);
        let mut prompt_tokens = 0;
        let mut new_tokens = 0;
        for &(id, n_new) in &step {
            let Some(request) = self.requests.get_mut(&id) else { continue };
            request.computed += n_new;
            if request.remaining() > 0 {
                continue;
            }
            if request.generated == 0 {
                request.first_token_ns = now_ns;
                prompt_tokens += request.spec.prompt.len() as u64;
                self.metrics.first_token(&request.spec, request.cached_tokens, now_ns);
            } else {
                self.metrics.next_token(now_ns.saturating_sub(request.last_token_ns));
            }
            request.last_token_ns = now_ns;
            request.generated += 1;
            new_tokens += 1;
            let finish = (request.generated >= request.spec.output_tokens).then_some(request.spec.finish);
            sink(Progress { id, n_output: request.generated, finish });
            if finish.is_some()
                && let Some(mut request) = self.requests.remove(&id)
            {
                free_blocks(&mut self.pool, &mut request);
                let times = (request.started_ns.unwrap_or(now_ns), request.first_token_ns, now_ns);
                self.metrics.request_done(&request.spec, request.generated, request.n_preemptions, times);
            }
        }
        let requests = &self.requests;
        self.running.retain(|id| requests.contains_key(id));
        self.metrics.step_done(prompt_tokens, new_tokens);
        self.step = step;
        self.step.clear();
    }

    /// True when there is anything to run or a step is in flight.
    pub fn has_work(&self) -> bool {
        !self.requests.is_empty()
    }

    /// Requests that hold blocks.
    pub fn n_running(&self) -> usize {
        self.running.len()
    }

    /// Requests that wait, preempted ones included.
    pub fn n_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Share of usable KV blocks held (0–1).
    pub fn kv_usage(&self) -> f64 {
        self.pool.usage()
    }

    /// Counters and histograms since the start.
    pub fn metrics(&self) -> &EngineMetrics {
        &self.metrics
    }

    /// Empties the prefix cache; refused while requests hold blocks.
    pub fn reset_prefix_cache(&mut self) -> bool {
        self.pool.reset_cache()
    }

    fn chunk(&self, id: u64, budget: u32) -> u32 {
        let Some(request) = self.requests.get(&id) else { return 0 };
        self.limit_chunk(request.remaining(), budget, self.running.len() > 1)
    }

    fn limit_chunk(&self, remaining: u32, budget: u32, contended: bool) -> u32 {
        let threshold = self.config.long_prefill_token_threshold;
        let limited = if threshold > 0 && contended { remaining.min(threshold) } else { remaining };
        limited.min(budget)
    }

    fn plan(&mut self, id: u64, n_new: u32, shape: &mut StepShape) {
        let Some(request) = self.requests.get(&id) else { return };
        if n_new == 0 {
            return;
        }
        shape.n_requests += 1;
        shape.n_tokens += n_new;
        if n_new == 1 && request.computed > 0 {
            shape.decode_context_tokens += u64::from(request.computed) + 1;
        } else {
            shape.prefill_tokens += n_new;
            shape.prefill_pairs += f64::from(n_new) * (f64::from(request.computed) + f64::from(n_new) / 2.0);
        }
        self.step.push((id, n_new));
    }

    /// Takes the blocks for `n_new` more tokens; false (and nothing taken) when there are not enough.
    fn grow(&mut self, id: u64, n_new: u32) -> bool {
        let Some(request) = self.requests.get_mut(&id) else { return true };
        let block_size = self.config.block_size;
        let end = request.computed + n_new;
        let missing = (end.div_ceil(block_size) as usize).saturating_sub(request.blocks.len());
        if missing > self.pool.n_free() {
            return false;
        }
        for _ in 0..missing {
            if let Some(block) = self.pool.allocate() {
                request.blocks.push(block);
            }
        }
        if self.config.prefix_caching {
            extend_hashes(request, block_size);
            let full = (request.computed / block_size) as usize..(end / block_size) as usize;
            for index in full {
                if let (Some(block), Some(hash)) = (request.blocks.get(index), request.hashes.get(index)) {
                    self.pool.declare(*block, *hash);
                }
            }
        }
        true
    }

    /// Admits the head of the queue: tokens to compute now, or `None` when it has to wait (and so has everybody behind).
    fn admit(&mut self, id: u64, budget: u32, now_ns: u64) -> Option<u32> {
        let block_size = self.config.block_size;
        let request = self.requests.get(&id)?;
        let reusable = ((request.n_tokens() - 1) / block_size) as usize;
        let hits: Vec<BlockId> =
            request.hashes.iter().take(reusable).map_while(|hash| self.pool.lookup(*hash)).collect();
        let cached = hits.len() as u32 * block_size;
        let remaining = request.n_tokens() - cached;
        if !self.config.chunked_prefill && remaining > budget {
            return None;
        }
        let n_new = self.limit_chunk(remaining, budget, !self.running.is_empty() || self.waiting.len() > 1);
        let reach = if self.config.reserve_full_prompt { request.n_tokens() } else { cached + n_new };
        let revived = hits.iter().filter(|block| self.pool.is_free(**block)).count();
        if reach.div_ceil(block_size) as usize - hits.len() + revived > self.pool.n_free() {
            return None;
        }
        let first_time = request.started_ns.is_none();
        for block in &hits {
            self.pool.share(*block);
        }
        let request = self.requests.get_mut(&id)?;
        request.started_ns.get_or_insert(now_ns);
        request.blocks = hits;
        request.computed = cached;
        if first_time {
            request.cached_tokens = cached;
        }
        if self.config.prefix_caching && first_time {
            let n_prompt = request.spec.prompt.len() as u64;
            self.metrics.prefix_lookup(n_prompt, u64::from(cached));
        }
        let grown = self.grow(id, n_new);
        debug_assert!(grown, "admission counted its blocks");
        Some(n_new)
    }

    fn preempt(&mut self, id: u64) {
        if let Some(request) = self.requests.get_mut(&id) {
            free_blocks(&mut self.pool, request);
            request.computed = 0;
            request.n_preemptions += 1;
        }
        self.step.retain(|(other, _)| *other != id);
        self.waiting.push_front(id);
        self.metrics.preempted();
    }
}

/// Last block first: the start of a prefix is the most useful part and should be evicted last.
fn free_blocks(pool: &mut BlockPool, request: &mut Request) {
    for block in request.blocks.drain(..).rev() {
        pool.release(block);
    }
}

/// Hashes of all full blocks of the tokens known so far; each hash covers everything before it.
fn extend_hashes(request: &mut Request, block_size: u32) {
    let n_prompt = request.spec.prompt.len() as u32;
    let full = (request.n_tokens() / block_size) as usize;
    while request.hashes.len() < full {
        let index = request.hashes.len() as u32;
        let seed = request.hashes.last().copied().unwrap_or(0x5EED);
        let hash = (index * block_size..(index + 1) * block_size).fold(seed, |hash, at| {
            let id = match request.spec.prompt.get(at as usize) {
                Some(id) => *id,
                None => request.spec.output.token_id(at - n_prompt),
            };
            mix(hash, u64::from(id))
        });
        request.hashes.push(hash);
    }
}

#[cfg(test)]
mod tests;
