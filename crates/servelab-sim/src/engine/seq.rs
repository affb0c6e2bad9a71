//! Requests inside the scheduler: a slab with stable indices whose entries (and their block tables) are used again, so
//! that a long run allocates nothing once it has seen its largest batch.

use super::Content;
use crate::blocks::BlockId;

/// Index of a request in the slab. Valid until the request is over.
pub type Slot = u32;

/// What a scheduler has to know of a request.
#[derive(Debug, Clone, Default)]
pub struct Job {
    /// The caller's name for it.
    pub tag: u64,
    /// Prompt tokens, at least 1.
    pub prompt_tokens: u32,
    /// Tokens to generate, at least 1.
    pub output_tokens: u32,
    /// The client's limit, at least `output_tokens`: what the scheduler can foresee.
    pub max_tokens: u32,
    /// What the tokens are.
    pub content: Content,
    /// Smaller first under [`super::Policy::Priority`].
    pub priority: i32,
    /// Simulated nanoseconds.
    pub arrival_ns: u64,
    /// The KV of the prompt is computed elsewhere and has to be fetched.
    pub remote_prompt: bool,
    /// Its blocks stay held when it is over, until they have been fetched ([`super::Scheduler::release`]).
    pub keep_blocks: bool,
}

/// Where a request is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Status {
    /// The slot is empty.
    #[default]
    Vacant,
    /// Never admitted.
    Waiting,
    /// Admitted.
    Running,
    /// Lost its blocks; waits again.
    Preempted,
    /// Has its blocks, and its KV is on the way.
    Loading,
    /// As `Loading`, and everything has come.
    Loaded,
    /// Over, but its blocks are still being read.
    Kept,
}

/// A request and its progress.
#[derive(Debug, Default)]
pub struct Seq {
    /// What was asked.
    pub job: Job,
    pub(crate) status: Status,
    /// Differs between two requests that had the same slot.
    pub(crate) serial: u64,
    /// Tokens generated so far.
    pub generated: u32,
    /// Tokens whose KV is computed or being computed.
    pub(crate) computed: u32,
    /// Tokens that steps under way will sample.
    pub(crate) placeholders: u32,
    /// Draft tokens to verify next.
    pub(crate) drafts: u32,
    /// Tokens in steps under way.
    pub(crate) in_flight: u32,
    /// Of these, from before a preemption.
    pub(crate) stale: u32,
    /// The last step did not reach the end of what was known.
    pub(crate) is_prefill_chunk: bool,
    /// With asynchronous pipelines: not again before this step.
    pub(crate) eligible_step: u64,
    pub(crate) blocks: Vec<BlockId>,
    pub(crate) hashes: Vec<u64>,
    /// Of `blocks`, how many are declared.
    pub(crate) n_declared: u32,
    /// Blocks of windowed layers.
    pub(crate) window_blocks: Vec<BlockId>,
    /// Blocks of windowed layers given back because the window has passed them.
    pub(crate) window_first: u32,
    /// Times that it lost its blocks.
    pub n_preemptions: u32,
    /// Prompt tokens found in the cache at the first admission.
    pub cached_tokens: u32,
    /// Start of the first step that computed any of it.
    pub started_ns: Option<u64>,
    /// When the first token came.
    pub first_token_ns: u64,
    /// When the latest token came.
    pub last_token_ns: u64,
}

impl Seq {
    pub(crate) fn n_tokens(&self) -> u32 {
        self.job.prompt_tokens + self.generated
    }

    fn reset(&mut self, job: Job, serial: u64) {
        self.blocks.clear();
        self.hashes.clear();
        self.window_blocks.clear();
        let (blocks, hashes, window_blocks) = (
            std::mem::take(&mut self.blocks),
            std::mem::take(&mut self.hashes),
            std::mem::take(&mut self.window_blocks),
        );
        *self = Self { job, serial, status: Status::Waiting, blocks, hashes, window_blocks, ..Self::default() };
    }
}

/// The slab.
#[derive(Debug, Default)]
pub(crate) struct Seqs {
    seqs: Vec<Seq>,
    vacant: Vec<Slot>,
    next_serial: u64,
    n_live: usize,
}

impl Seqs {
    pub(crate) fn insert(&mut self, job: Job) -> Slot {
        self.next_serial += 1;
        self.n_live += 1;
        let serial = self.next_serial;
        if let Some(slot) = self.vacant.pop()
            && let Some(seq) = self.seqs.get_mut(slot as usize)
        {
            seq.reset(job, serial);
            return slot;
        }
        let mut seq = Seq::default();
        seq.reset(job, serial);
        self.seqs.push(seq);
        // One push per slot keeps the free list's capacity ahead of the slab.
        self.vacant.reserve(self.seqs.len().saturating_sub(self.vacant.len()));
        (self.seqs.len() - 1) as Slot
    }

    /// Frees a slot; its blocks must be gone.
    pub(crate) fn remove(&mut self, slot: Slot) {
        if let Some(seq) = self.seqs.get_mut(slot as usize)
            && seq.status != Status::Vacant
        {
            seq.status = Status::Vacant;
            seq.serial = 0;
            seq.job.content = Content::Unique; // drops what it shares
            self.vacant.push(slot);
            self.n_live -= 1;
        }
    }

    pub(crate) fn get(&self, slot: Slot) -> Option<&Seq> {
        self.seqs.get(slot as usize)
    }

    pub(crate) fn get_mut(&mut self, slot: Slot) -> Option<&mut Seq> {
        self.seqs.get_mut(slot as usize)
    }

    pub(crate) fn n_live(&self) -> usize {
        self.n_live
    }
}
