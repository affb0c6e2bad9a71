//! One data-parallel rank: vLLM's V1 scheduler as a pure state machine ([`Scheduler`]), and around it the live server's view
//! of it ([`Engine`]): requests by id, with real tokens, counted in vLLM's metrics. Neither knows a clock: the caller
//! says when a step starts and when its tokens are there.

use std::collections::HashMap;
use std::sync::Arc;

use crate::metrics::EngineMetrics;
use crate::step_time::StepShape;
use crate::text::OutputText;

mod content;
mod limits;
mod scheduler;
mod seq;

pub use content::Content;
pub use limits::{EngineConfig, Graphs, Policy, SlidingWindow, Speculation};
pub(crate) use scheduler::Glide;
pub use scheduler::{Counters, Scheduler, Watch};
pub use seq::{Job, Seq, Slot};

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
    /// The limit that the client set.
    pub max_tokens: u32,
    /// How the request ends after `output_tokens`.
    pub finish: FinishReason,
    /// Simulated nanoseconds.
    pub arrival_ns: u64,
    /// Smaller first, where the server schedules by priority.
    pub priority: i32,
    /// The KV of the prompt was computed elsewhere and is here when the request is queued.
    pub remote_prompt: bool,
}

/// One request got tokens at the end of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Which request.
    pub id: u64,
    /// Tokens generated so far.
    pub n_output: u32,
    /// Set with the last token.
    pub finish: Option<FinishReason>,
}

/// A rank of a live server.
#[derive(Debug)]
pub struct Engine {
    scheduler: Scheduler,
    slots: HashMap<u64, Slot>,
    specs: Vec<Option<RequestSpec>>,
    loads: Vec<Slot>,
    metrics: EngineMetrics,
}

impl Engine {
    /// An idle rank with an empty cache.
    pub fn new(config: EngineConfig) -> Self {
        Self {
            scheduler: Scheduler::new(config),
            slots: HashMap::new(),
            specs: Vec::new(),
            loads: Vec::new(),
            metrics: EngineMetrics::default(),
        }
    }

    /// Queues a request. False when it could never run: empty, or larger than the whole KV cache.
    pub fn add(&mut self, spec: RequestSpec) -> bool {
        if self.slots.contains_key(&spec.id) {
            return false;
        }
        let Ok(prompt_tokens) = u32::try_from(spec.prompt.len()) else { return false };
        let job = Job {
            tag: spec.id,
            prompt_tokens,
            output_tokens: spec.output_tokens,
            max_tokens: spec.max_tokens,
            content: Content::Tokens { prompt: Arc::clone(&spec.prompt), output: spec.output },
            arrival_ns: spec.arrival_ns,
            priority: spec.priority,
            remote_prompt: spec.remote_prompt,
            ..Job::default()
        };
        let Some(slot) = self.scheduler.add(job) else { return false };
        self.slots.insert(spec.id, slot);
        let at = slot as usize;
        if self.specs.len() <= at {
            self.specs.resize_with(at + 1, || None);
        }
        if let Some(place) = self.specs.get_mut(at) {
            *place = Some(spec);
        }
        true
    }

    /// Ends a request whose client went away. False when there is none of that id.
    pub fn abort(&mut self, id: u64) -> bool {
        let Some(slot) = self.slots.remove(&id) else { return false };
        self.scheduler.abort(slot);
        if let Some(place) = self.specs.get_mut(slot as usize) {
            *place = None;
        }
        self.metrics.finished(FinishReason::Abort);
        true
    }

    /// Plans the next step and takes its blocks. `None`: nothing to do. After `Some`, [`Engine::complete`] must follow.
    pub fn schedule(&mut self, now_ns: u64) -> Option<StepShape> {
        self.schedule_throttled(now_ns, false)
    }

    /// As [`Engine::schedule`]; `throttled` defers prompts.
    pub fn schedule_throttled(&mut self, now_ns: u64, throttled: bool) -> Option<StepShape> {
        let mut shape = self.scheduler.plan(now_ns, throttled);
        let loads = &mut self.loads;
        self.scheduler.take_loads(&mut |slot, _| loads.push(slot));
        if !self.loads.is_empty() {
            // A live server queues a request when its KV has come: what has blocks now is loaded.
            self.loads.drain(..).for_each(|slot| self.scheduler.loaded(slot));
            if shape.is_none() {
                shape = self.scheduler.plan(now_ns, throttled);
            }
        }
        let counters = self.scheduler.counters();
        self.metrics.preemptions = counters.preemptions;
        self.metrics.prefix_queries = counters.prefix_queries;
        self.metrics.prefix_hits = counters.prefix_hits;
        shape
    }

    /// Puts an empty step under way: other ranks of the lock step compute.
    pub fn push_dummy(&mut self) {
        self.scheduler.push_dummy();
    }

    /// The oldest planned step is over: counts its tokens and ends what is finished.
    pub fn complete(&mut self, now_ns: u64, sink: &mut dyn FnMut(Progress)) {
        let mut watch = LiveWatch {
            specs: &mut self.specs,
            slots: &mut self.slots,
            metrics: &mut self.metrics,
            sink,
            now_ns,
            prompt_tokens: 0,
            new_tokens: 0,
        };
        self.scheduler.complete(now_ns, &mut watch);
        let (prompt_tokens, new_tokens) = (watch.prompt_tokens, watch.new_tokens);
        self.metrics.step_done(prompt_tokens, new_tokens);
    }

    /// True when there is anything to run or a step is in flight.
    pub fn has_work(&self) -> bool {
        self.scheduler.has_work()
    }

    /// Most requests that run at a time.
    pub fn max_num_seqs(&self) -> u32 {
        self.scheduler.config().max_num_seqs
    }

    /// Requests that hold blocks.
    pub fn n_running(&self) -> usize {
        self.scheduler.n_running()
    }

    /// Requests that wait, preempted ones included.
    pub fn n_waiting(&self) -> usize {
        self.scheduler.n_waiting()
    }

    /// Share of usable KV blocks held (0–1).
    pub fn kv_usage(&self) -> f64 {
        self.scheduler.kv_usage()
    }

    /// Counters and histograms since the start.
    pub fn metrics(&self) -> &EngineMetrics {
        &self.metrics
    }

    /// Limits and rules.
    pub fn config(&self) -> &EngineConfig {
        self.scheduler.config()
    }

    /// Empties the prefix cache; refused while requests hold blocks.
    pub fn reset_prefix_cache(&mut self) -> bool {
        self.scheduler.reset_prefix_cache()
    }
}

/// Passes on what a step produced, and counts it.
struct LiveWatch<'a> {
    specs: &'a mut Vec<Option<RequestSpec>>,
    slots: &'a mut HashMap<u64, Slot>,
    metrics: &'a mut EngineMetrics,
    sink: &'a mut dyn FnMut(Progress),
    now_ns: u64,
    prompt_tokens: u64,
    new_tokens: u64,
}

impl Watch for LiveWatch<'_> {
    fn tokens(&mut self, slot: Slot, seq: &Seq, n_new: u32, gap_ns: Option<u64>) {
        let Some(Some(spec)) = self.specs.get(slot as usize) else { return };
        self.new_tokens += u64::from(n_new);
        match gap_ns {
            None => {
                self.prompt_tokens += u64::from(seq.job.prompt_tokens);
                self.metrics.first_token(spec, seq.cached_tokens, self.now_ns);
            }
            Some(gap_ns) => self.metrics.next_token(gap_ns),
        }
        let finish = (seq.generated >= seq.job.output_tokens).then_some(spec.finish);
        (self.sink)(Progress { id: spec.id, n_output: seq.generated, finish });
    }

    fn done(&mut self, slot: Slot, seq: &Seq) {
        let Some(spec) = self.specs.get_mut(slot as usize).and_then(Option::take) else { return };
        self.slots.remove(&spec.id);
        let times = (seq.started_ns.unwrap_or(self.now_ns), seq.first_token_ns, self.now_ns);
        self.metrics.request_done(&spec, seq.generated, seq.n_preemptions, times);
    }
}

#[cfg(test)]
mod tests;
