//! vLLM's V1 scheduler of one rank as a state machine: plans a step from budgets and free blocks, and applies what a step
//! produced. It knows no clock, and several steps may be under way. The order of every decision follows
//! `vllm/v1/core/sched/scheduler.py`; tests replay recorded decisions of the real one.

use std::collections::VecDeque;

use super::limits::{EngineConfig, Policy};
use super::seq::{Job, Seq, Seqs, Slot, Status};
use crate::blocks::{BlockId, BlockPool};
use crate::random::{mix, unit};
use crate::step_time::StepShape;

mod admit;
mod glide;
mod shape;

pub(crate) use glide::Glide;

/// One request's part of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) slot: Slot,
    pub(crate) serial: u64,
    pub(crate) n_new: u32,
    pub(crate) drafts: u32,
    /// The row reaches the end of the known tokens: a token is sampled.
    pub(crate) samples: bool,
    /// Drafts are only there to fill the graph: none can be accepted.
    pub(crate) padded: bool,
}

/// Told what a step produced.
pub trait Watch {
    /// A request got tokens; `gap_ns` since its last ones, `None` for the first.
    fn tokens(&mut self, slot: Slot, seq: &Seq, n_new: u32, gap_ns: Option<u64>);
    /// A request is over; called after `tokens` for its last ones.
    fn done(&mut self, slot: Slot, seq: &Seq);
}

/// Counters since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests that lost their blocks.
    pub preemptions: u64,
    /// Tokens looked up in the prefix cache at first admissions.
    pub prefix_queries: u64,
    /// Of these, found.
    pub prefix_hits: u64,
    /// Draft tokens verified.
    pub draft_tokens: u64,
    /// Of these, accepted.
    pub accepted_tokens: u64,
    /// Tokens generated.
    pub generated: u64,
    /// An admission waited for a free place (`max_num_seqs`).
    pub seqs_limit_hit: bool,
    /// An admission or a prompt part was cut by the budget of a step.
    pub token_limit_hit: bool,
    /// An admission waited for blocks, or a request lost its own.
    pub kv_limit_hit: bool,
}

/// Why the waiting queue was left in the last plan.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Blocked {
    /// Not known: something has changed since.
    #[default]
    Unknown,
    /// The queue was empty.
    Empty,
    /// As many run as may.
    Seqs,
    /// The head's blocks do not fit.
    Kv,
}

/// The scheduler of one rank.
#[derive(Debug)]
pub struct Scheduler {
    config: EngineConfig,
    tokens_per_block: u32,
    pool: BlockPool,
    seqs: Seqs,
    running: Vec<Slot>,
    waiting: VecDeque<Slot>,
    holding: VecDeque<Slot>,
    rows: Vec<Row>,
    under_way: VecDeque<Vec<Row>>,
    spare: Vec<Vec<Row>>,
    hits: Vec<BlockId>,
    loads: Vec<Slot>,
    glide_order: Vec<Slot>,
    glide_starts: Vec<u32>,
    step: u64,
    capacity_bound: bool,
    blocked: Blocked,
    n_shared_outputs: usize,
    counters: Counters,
}

impl Scheduler {
    /// An idle rank with an empty cache.
    pub fn new(config: EngineConfig) -> Self {
        let n_blocks = usize::try_from(config.num_blocks).unwrap_or(usize::MAX);
        Self {
            tokens_per_block: config.tokens_per_block(),
            pool: BlockPool::new(n_blocks, config.undeclared_blocks_first),
            seqs: Seqs::default(),
            running: Vec::new(),
            waiting: VecDeque::new(),
            holding: VecDeque::new(),
            rows: Vec::new(),
            under_way: VecDeque::new(),
            spare: Vec::new(),
            hits: Vec::new(),
            loads: Vec::new(),
            glide_order: Vec::new(),
            glide_starts: Vec::new(),
            step: 0,
            capacity_bound: false,
            blocked: Blocked::Unknown,
            n_shared_outputs: 0,
            counters: Counters::default(),
            config,
        }
    }

    /// Limits and rules.
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// Queues a request. `None` when it could never run: empty, or larger than the whole KV cache.
    pub fn add(&mut self, mut job: Job) -> Option<Slot> {
        let longest = self.config.longest();
        if job.prompt_tokens == 0 || job.output_tokens == 0 || job.prompt_tokens >= longest {
            return None;
        }
        job.output_tokens = job.output_tokens.min(longest - job.prompt_tokens);
        job.max_tokens = job.max_tokens.max(job.output_tokens);
        let total = u64::from(job.prompt_tokens) + u64::from(job.output_tokens);
        let needed = self.blocks_for(u32::try_from(total).ok()?, true);
        let in_one_piece = self.config.chunked_prefill || total <= u64::from(self.config.token_budget());
        if needed > self.pool.n_usable() || !in_one_piece {
            return None;
        }
        let shared_output = self.config.prefix_caching && job.content.output_is_shared();
        self.n_shared_outputs += usize::from(shared_output);
        let slot = self.seqs.insert(job);
        if self.config.prefix_caching {
            self.extend_hashes(slot);
        }
        self.enqueue(slot, false);
        self.blocked = Blocked::Unknown;
        Some(slot)
    }

    /// Ends a request whose client went away.
    pub fn abort(&mut self, slot: Slot) {
        if self.seqs.get(slot).is_none_or(|seq| seq.status == Status::Vacant) {
            return;
        }
        self.running.retain(|other| *other != slot);
        self.waiting.retain(|other| *other != slot);
        self.holding.retain(|other| *other != slot);
        self.loads.retain(|other| *other != slot);
        self.free_blocks(slot);
        self.forget(slot);
    }

    /// Plans the next step with anything in it, as vLLM's loop does: a call that only took blocks away from requests is
    /// followed by another one at once. `None` when there is nothing to compute.
    pub fn plan(&mut self, now_ns: u64, throttled: bool) -> Option<StepShape> {
        loop {
            let preemptions = self.counters.preemptions;
            let shape = self.schedule(now_ns, throttled);
            if shape.is_some() || self.counters.preemptions == preemptions {
                return shape;
            }
        }
    }

    /// One scheduling call: plans a step and takes its blocks; `None` when nothing is in it. `throttled` defers prompts, as
    /// lock-step ranks do between two prefill steps.
    pub fn schedule(&mut self, now_ns: u64, throttled: bool) -> Option<StepShape> {
        self.step += 1;
        let mut tokens = self.config.token_budget();
        let mut inputs = self.config.max_num_batched_tokens;
        let draft_slots = self.config.speculation.as_ref().map_or(0, |spec| spec.draft_slots);
        let defer = throttled && !self.capacity_bound && self.running.iter().any(|slot| !self.is_prefill_chunk(*slot));
        let threshold = self.prefill_threshold();
        let (preempted, prefill_planned) =
            self.schedule_running(&mut tokens, &mut inputs, draft_slots, defer, threshold);
        if preempted {
            self.blocked = Blocked::Unknown;
        } else {
            let running_planned = !self.rows.is_empty();
            let part = admit::Part { draft_slots, defer, threshold, prefill_planned, running_planned, now_ns };
            self.schedule_waiting(&mut tokens, &mut inputs, &part);
        }
        if self.rows.is_empty() {
            return None;
        }
        let shape = self.shape();
        self.advance();
        let rows = std::mem::replace(&mut self.rows, self.spare.pop().unwrap_or_default());
        self.under_way.push_back(rows);
        Some(shape)
    }

    /// Puts an empty step under way: what an idle rank does while lock-step ranks compute.
    pub fn push_dummy(&mut self) {
        let rows = self.spare.pop().unwrap_or_default();
        self.under_way.push_back(rows);
    }

    /// The oldest step under way is over: counts its tokens and ends what is finished.
    pub fn complete(&mut self, now_ns: u64, watch: &mut impl Watch) {
        let Some(mut rows) = self.under_way.pop_front() else { return };
        let mut any_done = false;
        for row in &rows {
            any_done |= self.settle(row, now_ns, watch);
        }
        if any_done {
            let seqs = &self.seqs;
            self.running.retain(|slot| seqs.get(*slot).is_some_and(|seq| seq.status == Status::Running));
            self.blocked = Blocked::Unknown;
        }
        rows.clear();
        self.spare.push(rows);
    }

    /// The KV of a remote prompt has arrived.
    pub fn loaded(&mut self, slot: Slot) {
        if let Some(seq) = self.seqs.get_mut(slot)
            && seq.status == Status::Loading
        {
            seq.status = Status::Loaded;
            self.blocked = Blocked::Unknown;
        }
    }

    /// Frees the blocks of a request that was over but kept them.
    pub fn release(&mut self, slot: Slot) {
        if self.seqs.get(slot).is_some_and(|seq| seq.status == Status::Kept) {
            self.free_blocks(slot);
            self.forget(slot);
        }
    }

    /// Requests that took blocks for a remote prompt in the last plan: their transfers start now.
    pub fn take_loads(&mut self, sink: &mut impl FnMut(Slot, &Seq)) {
        for slot in self.loads.drain(..) {
            if let Some(seq) = self.seqs.get(slot) {
                sink(slot, seq);
            }
        }
    }

    /// True when there is anything to run or a step is under way.
    pub fn has_work(&self) -> bool {
        self.seqs.n_live() > 0
    }

    /// Requests that are admitted.
    pub fn n_running(&self) -> usize {
        self.running.len()
    }

    /// Requests that wait, preempted ones and those that wait for their KV included.
    pub fn n_waiting(&self) -> usize {
        self.waiting.len() + self.holding.len()
    }

    /// Steps under way.
    pub fn n_under_way(&self) -> usize {
        self.under_way.len()
    }

    /// Free KV blocks.
    pub fn n_free_blocks(&self) -> usize {
        self.pool.n_free()
    }

    /// KV blocks that can be held at all.
    pub fn n_usable_blocks(&self) -> usize {
        self.pool.n_usable()
    }

    /// KV blocks held.
    pub fn n_held_blocks(&self) -> usize {
        self.pool.n_usable() - self.pool.n_free()
    }

    /// Share of usable KV blocks held (0–1).
    pub fn kv_usage(&self) -> f64 {
        self.pool.usage()
    }

    /// Admitted requests, in order of admission.
    pub fn running(&self) -> &[Slot] {
        &self.running
    }

    /// Counters since the start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// A live request.
    pub fn seq(&self, slot: Slot) -> Option<&Seq> {
        self.seqs.get(slot).filter(|seq| seq.status != Status::Vacant)
    }

    /// Rows of the step planned last: request, tokens.
    pub fn last_step(&self) -> impl Iterator<Item = (Slot, u32)> + '_ {
        self.under_way.back().into_iter().flatten().map(|row| (row.slot, row.n_new))
    }

    /// Waiting requests that were preempted.
    pub fn preempted(&self) -> impl Iterator<Item = Slot> + '_ {
        self.waiting
            .iter()
            .copied()
            .filter(|slot| self.seqs.get(*slot).is_some_and(|seq| seq.status == Status::Preempted))
    }

    /// Leading tokens of a request that this rank has in its cache now: what a prefix-aware router asks.
    pub fn cached_prefix(&self, job: &Job, hashes: &mut Vec<u64>) -> u32 {
        if !self.config.prefix_caching {
            return 0;
        }
        hashes.clear();
        job.content.extend_hashes(hashes, job.prompt_tokens, job.prompt_tokens, self.tokens_per_block);
        let found = hashes.iter().take_while(|hash| self.pool.lookup(**hash).is_some()).count();
        found as u32 * self.tokens_per_block
    }

    /// Empties the prefix cache; refused while requests hold blocks.
    pub fn reset_prefix_cache(&mut self) -> bool {
        self.pool.reset_cache()
    }

    fn is_prefill_chunk(&self, slot: Slot) -> bool {
        self.seqs.get(slot).is_some_and(|seq| seq.is_prefill_chunk)
    }

    /// The largest prompt part of this step; 0: no limit. A request that is alone starves nobody.
    fn prefill_threshold(&self) -> u32 {
        let n_eligible = (self.running.len() + self.n_waiting()) as u32;
        let threshold = self.config.long_prefill_token_threshold;
        if threshold == 0 || (self.config.long_prefill_needs_company && n_eligible <= 1) {
            return 0;
        }
        if self.config.long_prefill_adaptive {
            return threshold.max(self.config.max_num_batched_tokens / n_eligible.max(1));
        }
        threshold
    }

    /// Running requests first, in order. Returns whether anybody was preempted, and whether a prompt part is planned.
    fn schedule_running(
        &mut self,
        tokens: &mut u32,
        inputs: &mut u32,
        draft_slots: u32,
        defer: bool,
        threshold: u32,
    ) -> (bool, bool) {
        let longest = self.config.longest();
        let lookahead = self.config.speculation.as_ref().map_or(0, |spec| spec.lookahead_tokens);
        let (mut preempted, mut prefill_planned) = (false, false);
        let mut at = 0;
        while *tokens > 0 {
            let Some(slot) = self.running.get(at).copied() else { break };
            if *inputs <= draft_slots {
                self.counters.token_limit_hit = true;
                break;
            }
            let Some(seq) = self.seqs.get(slot) else { break };
            // The steps under way reach the client's limit for sure: one more would compute for nothing.
            let reaches_limit = seq.placeholders > 0
                && seq.computed + 2 - seq.placeholders.min(seq.computed + 2)
                    >= seq.job.prompt_tokens + seq.job.max_tokens;
            if reaches_limit || self.step < seq.eligible_step || (defer && seq.is_prefill_chunk) {
                at += 1;
                continue;
            }
            let wanted = (seq.n_tokens() + seq.drafts + seq.placeholders).saturating_sub(seq.computed);
            let limited = if threshold > 0 { wanted.min(threshold) } else { wanted };
            let n_new = limited
                .min(*tokens)
                .min(*inputs - draft_slots)
                .min(longest.saturating_sub(seq.computed).saturating_sub(1));
            self.counters.token_limit_hit |= n_new < limited;
            if n_new == 0 {
                at += 1;
                continue;
            }
            let (serial, is_chunk, drafts) = (seq.serial, seq.is_prefill_chunk, seq.drafts);
            let drafts = drafts.min((n_new + seq.computed).saturating_sub(seq.n_tokens() + seq.placeholders));
            let mut granted = true;
            while !self.allocate(slot, n_new, 0, lookahead) {
                preempted = true;
                let victim = self.victim();
                let Some(index) = victim else {
                    granted = false;
                    break;
                };
                let loser = self.running.remove(index);
                at -= usize::from(index < at);
                if let Some(row) = self.rows.iter().position(|row| row.slot == loser) {
                    let row = self.rows.remove(row);
                    *tokens += row.n_new;
                    *inputs += row.n_new + draft_slots;
                }
                self.preempt(loser);
                if loser == slot {
                    granted = false;
                    break;
                }
            }
            if !granted {
                break;
            }
            prefill_planned |= is_chunk;
            self.rows.push(Row { slot, serial, n_new, drafts, samples: false, padded: false });
            *tokens -= n_new;
            *inputs -= n_new + draft_slots;
            at += 1;
            if let Some(seq) = self.seqs.get_mut(slot) {
                seq.drafts = 0;
            }
        }
        (preempted, prefill_planned)
    }

    /// Who loses its blocks next: an index of `running`.
    fn victim(&self) -> Option<usize> {
        if self.config.policy == Policy::Fcfs {
            return self.running.len().checked_sub(1);
        }
        let key = |slot: &Slot| self.seqs.get(*slot).map(|seq| (seq.job.priority, seq.job.arrival_ns));
        let largest = self.running.iter().map(key).max()?;
        self.running.iter().position(|slot| key(slot) == largest)
    }

    fn preempt(&mut self, slot: Slot) {
        self.counters.preemptions += 1;
        self.counters.kv_limit_hit = true;
        self.reveal(slot);
        self.free_blocks(slot);
        if let Some(seq) = self.seqs.get_mut(slot) {
            seq.status = Status::Preempted;
            seq.computed = 0;
            seq.drafts = 0;
            // What is under way still delivers its tokens, but no longer moves these counters.
            seq.stale = seq.in_flight;
            seq.placeholders = 0;
            seq.n_preemptions += 1;
        }
        self.enqueue(slot, true);
    }

    /// Puts a request into the queue: by priority where that is the policy, else at the end or (preempted) in front.
    fn enqueue(&mut self, slot: Slot, front: bool) {
        match self.config.policy {
            Policy::Priority => {
                let seqs = &self.seqs;
                let key = |slot: &Slot| {
                    seqs.get(*slot).map(|seq| (seq.job.priority, seq.job.arrival_ns, seq.job.tag, seq.serial))
                };
                let mine = key(&slot);
                let at = self.waiting.partition_point(|other| key(other) < mine);
                self.waiting.insert(at, slot);
            }
            Policy::Fcfs if front => self.waiting.push_front(slot),
            Policy::Fcfs => self.waiting.push_back(slot),
        }
    }

    /// Counts the planned tokens as computed and says which rows will sample.
    fn advance(&mut self) {
        let asynchronous = self.config.async_scheduling;
        let draft_tokens = self.config.speculation.as_ref().map_or(0, |spec| spec.draft_tokens);
        let stagger = u64::from(self.config.pipeline_stages.max(1));
        for row in &mut self.rows {
            let Some(seq) = self.seqs.get_mut(row.slot) else { continue };
            seq.computed += row.n_new;
            seq.in_flight += row.n_new;
            seq.is_prefill_chunk = seq.computed < seq.n_tokens() + seq.placeholders;
            row.samples = !seq.is_prefill_chunk;
            if asynchronous && row.samples {
                seq.placeholders += 1 + row.drafts;
                seq.drafts = draft_tokens;
                if stagger > 1 {
                    seq.eligible_step = self.step + stagger;
                }
            }
        }
    }

    /// Applies one row of a finished step; true when the request is over.
    fn settle(&mut self, row: &Row, now_ns: u64, watch: &mut impl Watch) -> bool {
        let asynchronous = self.config.async_scheduling;
        let caching = self.config.prefix_caching;
        let Some(seq) = self.seqs.get_mut(row.slot) else { return false };
        if seq.serial != row.serial || matches!(seq.status, Status::Vacant | Status::Kept) {
            return false;
        }
        seq.in_flight -= row.n_new;
        let stale = seq.stale > 0;
        seq.stale = seq.stale.saturating_sub(row.n_new);
        if !row.samples {
            return false;
        }
        let accepted = match (&self.config.speculation, row.drafts) {
            (Some(spec), drafts) if drafts > 0 => {
                let draw = unit(mix(mix(self.config.seed, seq.job.tag), u64::from(seq.generated)));
                let offered = if row.padded { 0 } else { drafts as usize };
                let accepted = spec.acceptance.iter().take(offered).take_while(|share| draw < **share).count() as u32;
                self.counters.draft_tokens += u64::from(drafts);
                self.counters.accepted_tokens += u64::from(accepted);
                if !stale {
                    seq.computed = seq.computed.saturating_sub(drafts - accepted);
                    seq.placeholders = seq.placeholders.saturating_sub(drafts - accepted);
                }
                accepted
            }
            _ => 0,
        };
        let n_new = (1 + accepted).min(seq.job.output_tokens - seq.generated);
        let gap_ns = (seq.generated > 0).then(|| now_ns.saturating_sub(seq.last_token_ns));
        if seq.generated == 0 {
            seq.first_token_ns = now_ns;
        }
        seq.generated += n_new;
        seq.last_token_ns = now_ns;
        if asynchronous && !stale {
            seq.placeholders = seq.placeholders.saturating_sub(n_new);
        }
        // Synchronous drafters propose after the step; asynchronous ones have their places already.
        if !asynchronous && let Some(spec) = &self.config.speculation {
            seq.drafts = if seq.status == Status::Running { spec.draft_tokens } else { 0 };
        }
        self.counters.generated += u64::from(n_new);
        let done = seq.generated >= seq.job.output_tokens;
        let was_running = seq.status == Status::Running;
        if asynchronous && caching && was_running {
            let known = seq.computed - seq.placeholders.min(seq.computed);
            self.declare_up_to(row.slot, known);
        }
        if let Some(seq) = self.seqs.get(row.slot) {
            watch.tokens(row.slot, seq, n_new, gap_ns);
            if done {
                watch.done(row.slot, seq);
            }
        }
        if done {
            self.finish(row.slot, was_running);
        }
        done
    }

    fn finish(&mut self, slot: Slot, was_running: bool) {
        if !was_running {
            self.waiting.retain(|other| *other != slot);
            self.holding.retain(|other| *other != slot);
        }
        let Some(seq) = self.seqs.get_mut(slot) else { return };
        if seq.job.keep_blocks {
            seq.status = Status::Kept;
        } else {
            self.free_blocks(slot);
            self.forget(slot);
        }
    }

    fn forget(&mut self, slot: Slot) {
        if let Some(seq) = self.seqs.get(slot) {
            let shared_output = self.config.prefix_caching && seq.job.content.output_is_shared();
            self.n_shared_outputs -= usize::from(shared_output);
        }
        self.seqs.remove(slot);
        self.blocked = Blocked::Unknown;
    }
}
