//! Admission of waiting requests, and everything about the blocks of one request: prefix hits, growth, windows that
//! slide, declaring full blocks, giving back.

use super::super::seq::{Slot, Status};
use super::{Blocked, Row, Scheduler};
use crate::random::mix;

/// What the waiting queue is scheduled with.
pub(super) struct Part {
    pub(super) draft_slots: u32,
    pub(super) defer: bool,
    pub(super) threshold: u32,
    /// A prompt part of a running request is planned already.
    pub(super) prefill_planned: bool,
    /// Any running request is planned already.
    pub(super) running_planned: bool,
    pub(super) now_ns: u64,
}

/// What became of the request at the head of a queue.
enum Admission {
    Run(Row),
    Load,
    Stop(Blocked),
}

impl Scheduler {
    /// Waiting requests in order, until one cannot be taken: nobody overtakes it. Those that hold blocks come first.
    pub(super) fn schedule_waiting(&mut self, tokens: &mut u32, inputs: &mut u32, part: &Part) {
        let (mut skipped_holding, mut skipped_waiting) = (0, 0);
        self.blocked = Blocked::Unknown;
        while *tokens > 0 {
            let holding = skipped_holding < self.holding.len();
            let slot = if holding {
                self.holding.get(skipped_holding).copied()
            } else {
                self.waiting.get(skipped_waiting).copied()
            };
            let Some(slot) = slot else {
                self.blocked = Blocked::Empty;
                break;
            };
            if *inputs <= part.draft_slots {
                self.counters.token_limit_hit = true;
                break;
            }
            if self.running.len() >= self.config.max_num_seqs as usize {
                self.counters.seqs_limit_hit = true;
                self.blocked = Blocked::Seqs;
                break;
            }
            let Some(seq) = self.seqs.get(slot) else { break };
            if seq.status == Status::Loading {
                skipped_holding += 1;
                continue;
            }
            if seq.stale > 0 {
                // Tokens from before its preemption are still under way.
                skipped_waiting += 1;
                continue;
            }
            if seq.status == Status::Loaded {
                self.arrived(slot);
            }
            match self.admit(slot, (*tokens).min(*inputs - part.draft_slots), part) {
                Admission::Stop(blocked) => {
                    self.blocked = blocked;
                    break;
                }
                Admission::Load => {
                    // It holds blocks from here on, but computes nothing before its KV has come.
                    self.waiting.remove(skipped_waiting);
                    self.holding.push_back(slot);
                    skipped_holding += 1;
                    self.loads.push(slot);
                }
                Admission::Run(row) => {
                    if holding {
                        self.holding.remove(skipped_holding);
                    } else {
                        self.waiting.remove(skipped_waiting);
                    }
                    self.running.push(slot);
                    *tokens -= row.n_new;
                    *inputs -= row.n_new + part.draft_slots;
                    self.rows.push(row);
                }
            }
        }
        if *tokens == 0 && (skipped_holding < self.holding.len() || skipped_waiting < self.waiting.len()) {
            self.counters.token_limit_hit = true;
        }
        if !part.defer {
            self.capacity_bound = self.n_waiting() > skipped_holding + skipped_waiting;
        }
    }

    /// KV of a remote prompt is there: it can be found by others, and the last token is computed again to go on from.
    fn arrived(&mut self, slot: Slot) {
        let Some(seq) = self.seqs.get_mut(slot) else { return };
        seq.status = if seq.n_preemptions > 0 { Status::Preempted } else { Status::Waiting };
        let computed = seq.computed;
        if computed == seq.n_tokens() {
            seq.computed -= 1;
        }
        self.declare_up_to(slot, computed);
    }

    /// Takes the request at the head if its part of this step and its blocks fit.
    fn admit(&mut self, slot: Slot, budget: u32, part: &Part) -> Admission {
        let Some(seq) = self.seqs.get(slot) else { return Admission::Stop(Blocked::Unknown) };
        let fresh = seq.computed == 0;
        let n_tokens = seq.n_tokens();
        let first_time = seq.n_preemptions == 0;
        let hit_tokens = if fresh {
            self.find_hits(slot)
        } else {
            self.hits.clear();
            0
        };
        let Some(seq) = self.seqs.get(slot) else { return Admission::Stop(Blocked::Unknown) };
        let computed = if fresh { hit_tokens } else { seq.computed };
        if fresh && seq.job.remote_prompt && computed < n_tokens {
            return self.start_load(slot, hit_tokens);
        }
        if part.defer && computed + 1 < n_tokens {
            return Admission::Stop(Blocked::Unknown);
        }
        let mut n_new = n_tokens - computed;
        let (mut padded_drafts, mut lookahead) = (0, 0);
        if let Some(spec) = &self.config.speculation {
            lookahead = spec.lookahead_tokens;
            // A decode that joins decodes is padded to their width, so that one graph fits all.
            let joins = !part.prefill_planned && (computed > 0 || part.running_planned);
            let width = 1 + spec.draft_tokens;
            if spec.draft_tokens > 0 && n_new == 1 && joins && computed + width < self.config.longest() {
                if width > budget {
                    return Admission::Stop(Blocked::Unknown);
                }
                n_new = width;
                padded_drafts = spec.draft_tokens;
            }
        }
        if part.threshold > 0 {
            n_new = n_new.min(part.threshold);
        }
        if n_new > budget {
            self.counters.token_limit_hit = true;
            if !self.config.chunked_prefill {
                return Admission::Stop(Blocked::Unknown);
            }
        }
        n_new = n_new.min(budget);
        if !self.fits_admission(slot, n_tokens) || !self.allocate(slot, n_new, hit_tokens, lookahead) {
            self.counters.kv_limit_hit = true;
            return Admission::Stop(Blocked::Kv);
        }
        if fresh && first_time {
            self.count_lookup(slot, hit_tokens);
        }
        let Some(seq) = self.seqs.get_mut(slot) else { return Admission::Stop(Blocked::Unknown) };
        seq.status = Status::Running;
        seq.computed = computed;
        seq.started_ns.get_or_insert(part.now_ns);
        Admission::Run(Row {
            slot,
            serial: seq.serial,
            n_new,
            drafts: padded_drafts,
            samples: false,
            padded: padded_drafts > 0,
        })
    }

    /// Takes the blocks of a prompt that is computed elsewhere.
    fn start_load(&mut self, slot: Slot, hit_tokens: u32) -> Admission {
        let Some(seq) = self.seqs.get(slot) else { return Admission::Stop(Blocked::Unknown) };
        let n_tokens = seq.n_tokens();
        // Loads cannot be preempted: they leave what those already under way still need.
        let spec_blocks =
            self.config.speculation.as_ref().map_or(0, |spec| {
                (1 + spec.draft_tokens + spec.lookahead_tokens).div_ceil(self.tokens_per_block) as usize
            });
        let reserved = self.still_needed() + spec_blocks;
        let watermark = if self.running.is_empty() { 0 } else { self.config.watermark_blocks() };
        let wanted = self.blocks_to_take(slot, n_tokens) + watermark;
        if !self.fits_admission(slot, n_tokens) || wanted + reserved > self.pool.n_free() {
            self.counters.kv_limit_hit = true;
            return Admission::Stop(Blocked::Kv);
        }
        self.take_hits(slot, hit_tokens);
        self.grow(slot, n_tokens);
        self.count_lookup(slot, hit_tokens);
        if let Some(seq) = self.seqs.get_mut(slot) {
            seq.status = Status::Loading;
            seq.computed = n_tokens;
            seq.job.remote_prompt = false;
        }
        Admission::Load
    }

    /// Blocks that admitted prompts and loads still lack.
    fn still_needed(&self) -> usize {
        let lacking = |slot: &Slot| {
            let Some(seq) = self.seqs.get(*slot) else { return 0 };
            if seq.status == Status::Running && seq.computed >= seq.n_tokens() {
                return 0;
            }
            let spec = self.config.speculation.as_ref();
            let extra = spec.map_or(0, |spec| 1 + spec.draft_tokens + spec.lookahead_tokens);
            self.blocks_for(seq.n_tokens() + extra, true).saturating_sub(self.held(*slot))
        };
        self.running.iter().chain(&self.holding).map(lacking).sum()
    }

    fn count_lookup(&mut self, slot: Slot, hit_tokens: u32) {
        if !self.config.prefix_caching {
            return;
        }
        if let Some(seq) = self.seqs.get_mut(slot) {
            seq.cached_tokens = hit_tokens;
            self.counters.prefix_queries += u64::from(seq.n_tokens());
            self.counters.prefix_hits += u64::from(hit_tokens);
        }
    }

    /// Groups of layers that keep every block, and the window that the others slide.
    fn groups(&self) -> (usize, usize, u32) {
        match self.config.sliding_window {
            Some(window) => (window.full_groups as usize, window.window_groups as usize, window.tokens),
            None => (1, 0, 0),
        }
    }

    /// Blocks that a sequence of `n_tokens` holds when it is there; `capped`: what the windowed layers hold at most.
    pub(super) fn blocks_for(&self, n_tokens: u32, capped: bool) -> usize {
        let (full, windowed, window) = self.groups();
        let blocks = n_tokens.div_ceil(self.tokens_per_block) as usize;
        let mut sliding = blocks;
        if capped && windowed > 0 {
            let under_way = self.config.concurrent_batches.max(1) * self.config.max_num_batched_tokens;
            let most = window.saturating_sub(1).saturating_add(under_way).min(self.config.longest());
            sliding = sliding.min(most.div_ceil(self.tokens_per_block) as usize + 1);
        }
        blocks * full + sliding * windowed
    }

    fn held(&self, slot: Slot) -> usize {
        self.seqs.get(slot).map_or(0, |seq| seq.blocks.len() + seq.window_blocks.len())
    }

    /// The longest run of cached blocks from the start, short of the last token (it has to be computed to go on from):
    /// left in `hits`. Returns its tokens.
    fn find_hits(&mut self, slot: Slot) -> u32 {
        self.hits.clear();
        let (full, ..) = self.groups();
        if !self.config.prefix_caching || full == 0 {
            return 0;
        }
        self.extend_hashes(slot);
        let Some(seq) = self.seqs.get(slot) else { return 0 };
        let reusable = ((seq.n_tokens() - 1) / self.tokens_per_block) as usize;
        for hash in seq.hashes.iter().take(reusable) {
            let before = self.hits.len();
            for group in 0..full {
                match self.pool.lookup(group_hash(*hash, group)) {
                    Some(block) => self.hits.push(block),
                    None => break,
                }
            }
            if self.hits.len() < before + full {
                self.hits.truncate(before);
                break;
            }
        }
        if self.config.speculation.as_ref().is_some_and(|spec| spec.drops_last_hit) {
            self.hits.truncate(self.hits.len().saturating_sub(full));
        }
        (self.hits.len() / full) as u32 * self.tokens_per_block
    }

    /// Blocks that leave the free queue when the sequence reaches `end` tokens: new ones, and hits that nobody holds.
    fn blocks_to_take(&self, slot: Slot, end: u32) -> usize {
        let revived = self.hits.iter().filter(|block| self.pool.is_free(**block)).count();
        self.new_blocks(slot, end, self.hits.len()) + revived
    }

    fn new_blocks(&self, slot: Slot, end: u32, n_hits: usize) -> usize {
        let (full, windowed, window) = self.groups();
        let Some(seq) = self.seqs.get(slot) else { return 0 };
        let blocks = end.div_ceil(self.tokens_per_block) as usize;
        let missing = (blocks * full).saturating_sub(seq.blocks.len() + n_hits);
        if windowed == 0 {
            return missing;
        }
        // Blocks wholly before the window of the next token are never taken.
        let start = if seq.blocks.is_empty() && n_hits > 0 {
            (n_hits / full.max(1)) as u32 * self.tokens_per_block
        } else {
            seq.computed
        };
        let skipped = (start + 1).saturating_sub(window) / self.tokens_per_block;
        let first = seq.window_first.max(skipped) as usize;
        let have = seq.window_first as usize + seq.window_blocks.len() / windowed;
        missing + blocks.saturating_sub(have.max(first)) * windowed
    }

    /// The admission gates beyond the blocks of this step: the whole sequence, where the version looks at it, and the
    /// watermark while anything runs.
    fn fits_admission(&self, slot: Slot, n_tokens: u32) -> bool {
        let watermark = if self.running.is_empty() { 0 } else { self.config.watermark_blocks() };
        let free = self.pool.n_free();
        if self.config.reserve_full_prompt {
            let revived = self.hits.iter().filter(|block| self.pool.is_free(**block)).count();
            let held = self.held(slot) + self.hits.len();
            let needed = self.blocks_for(n_tokens.min(self.config.longest()), true).saturating_sub(held) + revived;
            return needed + watermark <= free;
        }
        true
    }

    /// Takes the blocks for `n_new` more tokens after `hit_tokens` found ones (left in `hits`); false, and nothing taken,
    /// when there are not enough.
    pub(super) fn allocate(&mut self, slot: Slot, n_new: u32, hit_tokens: u32, lookahead: u32) -> bool {
        let Some(seq) = self.seqs.get(slot) else { return true };
        let admission = seq.status != Status::Running;
        if !admission {
            self.hits.clear();
        }
        let known = seq.n_tokens();
        let start = if admission && seq.computed == 0 { hit_tokens } else { seq.computed };
        let end = start + n_new;
        let processed = start - seq.in_flight.min(start);
        let reach = (end + lookahead).min(self.config.longest());
        self.slide(slot, processed);
        let watermark = if admission && !self.running.is_empty() { self.config.watermark_blocks() } else { 0 };
        if self.blocks_to_take(slot, reach) + watermark > self.pool.n_free() {
            return false;
        }
        if admission {
            self.take_hits(slot, hit_tokens);
        }
        self.grow(slot, reach);
        if self.config.prefix_caching {
            self.declare_up_to(slot, end.min(known));
        }
        true
    }

    fn take_hits(&mut self, slot: Slot, hit_tokens: u32) {
        let Some(seq) = self.seqs.get_mut(slot) else { return };
        if !seq.blocks.is_empty() {
            return;
        }
        for block in &self.hits {
            self.pool.share(*block);
        }
        seq.blocks.extend_from_slice(&self.hits);
        seq.n_declared = hit_tokens / self.tokens_per_block;
        self.hits.clear();
        if let Some(window) = self.config.sliding_window {
            seq.window_first = (hit_tokens + 1).saturating_sub(window.tokens) / self.tokens_per_block;
        }
    }

    /// Gives the sequence the blocks that it lacks to reach `end` tokens; there must be enough.
    fn grow(&mut self, slot: Slot, end: u32) {
        let (full, windowed, _) = self.groups();
        let Some(seq) = self.seqs.get_mut(slot) else { return };
        let blocks = end.div_ceil(self.tokens_per_block) as usize;
        if seq.blocks.is_empty() {
            let whole = seq.job.prompt_tokens + seq.job.output_tokens;
            seq.blocks.reserve(whole.div_ceil(self.tokens_per_block) as usize * full + full);
        }
        while seq.blocks.len() < blocks * full {
            let Some(block) = self.pool.allocate() else { break };
            seq.blocks.push(block);
        }
        while windowed > 0 && (seq.window_first as usize) * windowed + seq.window_blocks.len() < blocks * windowed {
            let Some(block) = self.pool.allocate() else { break };
            seq.window_blocks.push(block);
        }
    }

    /// Gives back the blocks of windowed layers that no later token attends to.
    fn slide(&mut self, slot: Slot, processed: u32) {
        let (_, windowed, window) = self.groups();
        if windowed == 0 {
            return;
        }
        let Some(seq) = self.seqs.get_mut(slot) else { return };
        let skipped = (processed + 1).saturating_sub(window) / self.tokens_per_block;
        let n_blocks = (skipped.saturating_sub(seq.window_first) as usize * windowed).min(seq.window_blocks.len());
        if n_blocks > 0 {
            self.pool.release_all(seq.window_blocks.get(..n_blocks).unwrap_or_default());
            seq.window_blocks.drain(..n_blocks);
            seq.window_first += (n_blocks / windowed) as u32;
        }
    }

    pub(super) fn extend_hashes(&mut self, slot: Slot) {
        if let Some(n_tokens) = self.seqs.get(slot).map(super::Seq::n_tokens) {
            self.extend_hashes_to(slot, n_tokens);
        }
    }

    fn extend_hashes_to(&mut self, slot: Slot, n_tokens: u32) {
        if let Some(seq) = self.seqs.get_mut(slot) {
            seq.job.content.extend_hashes(&mut seq.hashes, seq.job.prompt_tokens, n_tokens, self.tokens_per_block);
        }
    }

    /// Declares the full blocks of the first `n_tokens` tokens.
    pub(super) fn declare_up_to(&mut self, slot: Slot, n_tokens: u32) {
        let full_blocks = n_tokens / self.tokens_per_block;
        if self.config.prefix_caching && self.seqs.get(slot).is_some_and(|seq| seq.n_declared < full_blocks) {
            self.declare_known(slot, n_tokens);
        }
    }

    /// As [`Scheduler::declare_up_to`], for tokens that are known whatever the counters say.
    pub(super) fn declare_known(&mut self, slot: Slot, n_tokens: u32) {
        let full_blocks = n_tokens / self.tokens_per_block;
        let (full, ..) = self.groups();
        self.extend_hashes_to(slot, n_tokens);
        let Some(seq) = self.seqs.get_mut(slot) else { return };
        for index in seq.n_declared as usize..full_blocks as usize {
            for group in 0..full {
                let Some(block) = seq.blocks.get(index * full + group) else { continue };
                match seq.hashes.get(index) {
                    Some(hash) => self.pool.declare(*block, group_hash(*hash, group)),
                    None => self.pool.declare_own(*block),
                }
            }
        }
        seq.n_declared = full_blocks;
    }

    /// Makes the blocks that only this request will ever look for findable: it is about to lose them, and looks for them
    /// when it comes back.
    pub(super) fn reveal(&mut self, slot: Slot) {
        let (full, ..) = self.groups();
        let Some(seq) = self.seqs.get_mut(slot) else { return };
        let own = mix(seq.job.tag, seq.serial);
        while seq.hashes.len() < seq.n_declared as usize {
            let index = seq.hashes.len();
            let hash = mix(seq.hashes.last().copied().unwrap_or(own), own);
            seq.hashes.push(hash);
            for group in 0..full {
                if let Some(block) = seq.blocks.get(index * full + group) {
                    self.pool.reveal(*block, group_hash(hash, group));
                }
            }
        }
    }

    pub(super) fn free_blocks(&mut self, slot: Slot) {
        if let Some(seq) = self.seqs.get_mut(slot) {
            self.pool.release_all(&seq.blocks);
            self.pool.release_all(&seq.window_blocks);
            seq.blocks.clear();
            seq.window_blocks.clear();
            seq.window_first = 0;
            seq.n_declared = 0;
        }
    }
}

/// Each group of layers has a block of its own for the same tokens.
fn group_hash(hash: u64, group: usize) -> u64 {
    if group == 0 { hash } else { mix(hash, group as u64) }
}
