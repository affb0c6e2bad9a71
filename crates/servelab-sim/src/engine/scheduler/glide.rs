//! Fast-forward: while the batch is the same set of decodes step after step, a step is a few additions and the blocks of
//! those requests that start a new one, instead of a walk over the batch. The results are those of single steps, to the
//! block: tests compare both.

use super::super::seq::Status;
use super::{Blocked, Scheduler};
use crate::step_time::StepShape;

/// A batch of decodes that goes on unchanged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Glide {
    /// Steps that can be taken before a request may end.
    pub(crate) steps: u32,
    /// Steps taken.
    pub(crate) taken: u32,
    /// Shape of the next step to be planned.
    pub(crate) shape: StepShape,
    /// Requests in it.
    pub(crate) n_requests: u32,
}

impl Scheduler {
    /// Starts a fast-forward between the end of a step (now) and the plan of the next one, if the batch allows it. Nothing
    /// is changed before [`Scheduler::glide_step`].
    pub(crate) fn glide_start(&mut self, now_ns: u64) -> Option<Glide> {
        let depth = self.config.concurrent_batches.max(1);
        let plain = self.config.speculation.is_none() && self.config.sliding_window.is_none();
        let depth_ok = depth == 1 || (self.config.async_scheduling && self.config.pipeline_stages <= 1);
        let batch = self.running.len();
        if batch == 0 || !plain || !depth_ok || self.under_way.len() + 1 != depth as usize {
            return None;
        }
        // The waiting queue must stay as it is, whatever the steps do to free blocks: they only take them.
        let queue_rests = match self.blocked {
            Blocked::Empty => self.waiting.is_empty(),
            Blocked::Seqs => batch >= self.config.max_num_seqs as usize,
            Blocked::Kv => self.n_shared_outputs == 0,
            Blocked::Unknown => false,
        };
        let rows_fit = batch <= self.config.max_num_batched_tokens.min(self.config.token_budget()) as usize;
        let same_rows = self.under_way.iter().all(|rows| {
            rows.len() == batch
                && rows.iter().zip(&self.running).all(|(row, slot)| row.slot == *slot && row.n_new == 1 && row.samples)
        });
        if !queue_rests || !rows_fit || !same_rows {
            return None;
        }
        let ahead = depth - 1;
        let mut left = u32::MAX;
        let mut context = 0;
        for slot in &self.running {
            let seq = self.seqs.get(*slot)?;
            let steady = seq.status == Status::Running
                && !seq.is_prefill_chunk
                && seq.stale == 0
                && seq.last_token_ns == now_ns
                && seq.placeholders == if self.config.async_scheduling { ahead } else { 0 }
                && seq.n_tokens() + seq.placeholders == seq.computed + 1;
            if !steady {
                return None;
            }
            left = left.min(seq.job.output_tokens - seq.generated);
            context += u64::from(seq.computed + 1);
        }
        // The step in which a request ends, and (asynchronously) those planned around it, are taken one by one.
        let steps = left.saturating_sub(1 + ahead);
        if steps == 0 {
            return None;
        }
        self.sort_by_block_position();
        let n = batch as u32;
        let mut shape = StepShape {
            n_requests: n,
            n_tokens: n,
            decode_context_tokens: context,
            decode_window_tokens: context,
            expert_imbalance: self.config.expert_imbalance,
            ..StepShape::default()
        };
        self.pad(&mut shape, Some(1));
        Some(Glide { steps, taken: 0, shape, n_requests: n })
    }

    /// True when one more step can be taken.
    pub(crate) fn glide_fits(&self, glide: &Glide) -> bool {
        let size = self.tokens_per_block as usize;
        let starts = (size - glide.taken as usize % size) % size;
        glide.taken < glide.steps && self.glide_group(starts).len() <= self.pool.n_free()
    }

    /// Positions in `glide_order` of the requests that were `residue` tokens into a block at the start.
    fn glide_group(&self, residue: usize) -> std::ops::Range<usize> {
        let at = |index: usize| self.glide_starts.get(index).map_or(self.glide_order.len(), |at| *at as usize);
        at(residue)..at(residue + 1)
    }

    /// Plans one more step ([`Scheduler::glide_fits`] said so): takes its blocks, and gives its shape.
    pub(crate) fn glide_step(&mut self, glide: &mut Glide) -> StepShape {
        let size = self.tokens_per_block as usize;
        // Computing token number t starts a new block when t is a multiple of the block size, and fills one when t + 1 is.
        let starts = (size - glide.taken as usize % size) % size;
        let fills = (2 * size - 1 - glide.taken as usize % size) % size;
        let starting = self.glide_group(starts);
        // Asynchronous plans know the token that fills a block one step later.
        let filled = self.glide_group(if self.config.async_scheduling { starts } else { fills });
        for at in starting {
            let Some(slot) = self.glide_order.get(at).copied() else { continue };
            if let Some(seq) = self.seqs.get_mut(slot)
                && let Some(block) = self.pool.allocate()
            {
                seq.blocks.push(block);
            }
        }
        if self.config.prefix_caching {
            for at in filled {
                if let Some(slot) = self.glide_order.get(at).copied()
                    && let Some(seq) = self.seqs.get(slot)
                {
                    let n_tokens = (seq.n_declared + 1) * self.tokens_per_block;
                    self.declare_known(slot, n_tokens);
                }
            }
        }
        let shape = glide.shape;
        glide.taken += 1;
        glide.shape.decode_context_tokens += u64::from(glide.n_requests);
        glide.shape.decode_window_tokens = glide.shape.decode_context_tokens;
        shape
    }

    /// Counts the steps taken; `now_ns` is when the last step that is over ended (as many ended as were planned).
    pub(crate) fn glide_end(&mut self, glide: &Glide, now_ns: u64) {
        if glide.taken == 0 {
            return;
        }
        for slot in &self.running {
            if let Some(seq) = self.seqs.get_mut(*slot) {
                seq.computed += glide.taken;
                seq.generated += glide.taken;
                seq.last_token_ns = now_ns;
            }
        }
        self.step += u64::from(glide.taken);
        self.counters.generated += u64::from(glide.taken) * u64::from(glide.n_requests);
    }

    /// Running requests, grouped by how far the next token is into its block, each group in their order.
    fn sort_by_block_position(&mut self) {
        let size = self.tokens_per_block as usize;
        self.glide_starts.clear();
        self.glide_starts.resize(size + 1, 0);
        self.glide_order.clear();
        self.glide_order.resize(self.running.len(), 0);
        let position = |seq_computed: u32| seq_computed as usize % size;
        for slot in &self.running {
            if let Some(seq) = self.seqs.get(*slot)
                && let Some(count) = self.glide_starts.get_mut(position(seq.computed) + 1)
            {
                *count += 1;
            }
        }
        let mut sum = 0;
        for count in &mut self.glide_starts {
            sum += *count;
            *count = sum;
        }
        // Fill from the back, so that the starts end up where they belong and the order is kept.
        for slot in self.running.iter().rev() {
            if let Some(seq) = self.seqs.get(*slot)
                && let Some(end) = self.glide_starts.get_mut(position(seq.computed) + 1)
            {
                *end -= 1;
                if let Some(place) = self.glide_order.get_mut(*end as usize) {
                    *place = *slot;
                }
            }
        }
        // Each entry now holds the start of the group before it.
        self.glide_starts.remove(0);
        self.glide_starts.push(self.running.len() as u32);
    }
}
