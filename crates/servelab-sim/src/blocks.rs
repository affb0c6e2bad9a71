//! KV-cache blocks of one rank: the queue of free blocks in vLLM's order, reference counts, and the prefix cache over full
//! blocks. Index-based lists, nothing is allocated after [`BlockPool::new`]. Which request holds which blocks, and when
//! it gets or loses them, is the scheduler's business.

/// Index of a block. Block 0 is the null block: never handed out, and "none" in every link.
pub type BlockId = u32;

const NONE: BlockId = 0;

#[derive(Debug, Clone, Copy, Default)]
struct Block {
    references: u32,
    previous: BlockId,
    next: BlockId,
    chain_previous: BlockId,
    chain_next: BlockId,
    state: Declared,
}

/// What is known about the content of a block.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Declared {
    /// Nothing: not full, or not computed.
    #[default]
    No,
    /// Full, and nobody will ever look for it: it is only evicted later than a block that is not full.
    Own,
    /// Full, and to be found under this hash.
    Shared(u64),
}

/// Blocks for which room is reserved at once: more than any real device has, so that a run never moves them; absurd
/// capacities (a tiny model on a large device) grow when they are used.
const RESERVED: usize = 1 << 20;

/// Hash chains; beyond, they only get longer.
const MOST_BUCKETS: usize = 1 << 18;

/// First and last block of a list.
#[derive(Debug, Clone, Copy, Default)]
struct Ends {
    head: BlockId,
    tail: BlockId,
}

/// A pool of equally sized blocks. Free blocks keep their content until they are handed out again.
///
/// Order of reuse, as in vLLM: blocks without declared content first, the last freed one first; then blocks that were
/// never used; then declared ones, least recently freed first.
#[derive(Debug)]
pub struct BlockPool {
    /// Blocks handed out at least once; the machine commits memory only for these.
    blocks: Vec<Block>,
    n_blocks: u32,
    first: Ends,
    last: Ends,
    n_free: usize,
    undeclared_first: bool,
    buckets: Vec<Ends>,
}

impl BlockPool {
    /// A pool of `n_blocks` blocks including the null block. `undeclared_first` is how current vLLM frees; older
    /// versions put every freed block at the end.
    pub fn new(n_blocks: usize, undeclared_first: bool) -> Self {
        let n_blocks = u32::try_from(n_blocks).unwrap_or(u32::MAX).max(1);
        let mut blocks = Vec::with_capacity((n_blocks as usize).min(RESERVED));
        blocks.push(Block::default());
        let n_buckets = (n_blocks as usize).next_power_of_two().min(MOST_BUCKETS);
        Self {
            blocks,
            n_blocks,
            first: Ends::default(),
            last: Ends::default(),
            n_free: n_blocks as usize - 1,
            undeclared_first,
            buckets: vec![Ends::default(); n_buckets],
        }
    }

    /// Blocks that can be handed out in total (all but the null block).
    pub fn n_usable(&self) -> usize {
        self.n_blocks as usize - 1
    }

    /// Blocks that nobody holds, declared or not.
    pub fn n_free(&self) -> usize {
        self.n_free
    }

    /// Share of usable blocks that are held (0–1).
    pub fn usage(&self) -> f64 {
        if self.n_usable() == 0 { 0.0 } else { 1.0 - self.n_free as f64 / self.n_usable() as f64 }
    }

    /// The block that holds this content, if any: of several, the one declared first.
    pub fn lookup(&self, hash: u64) -> Option<BlockId> {
        let mut id = self.buckets.get(self.bucket(hash))?.head;
        while id != NONE {
            let block = self.blocks.get(id as usize)?;
            if block.state == Declared::Shared(hash) {
                return Some(id);
            }
            id = block.chain_next;
        }
        None
    }

    /// True when nobody holds the block.
    pub fn is_free(&self, id: BlockId) -> bool {
        self.blocks.get(id as usize).is_some_and(|block| block.references == 0)
    }

    /// Takes one more reference on a block found by [`BlockPool::lookup`].
    pub fn share(&mut self, id: BlockId) {
        if self.is_free(id) {
            self.unlink_free(id);
        }
        if let Some(block) = self.blocks.get_mut(id as usize) {
            block.references += 1;
        }
    }

    /// Hands out a block, evicting its content. `None` when every block is held.
    pub fn allocate(&mut self) -> Option<BlockId> {
        let id = if self.first.head != NONE {
            self.first.head
        } else if self.blocks.len() < self.n_blocks as usize {
            let id = self.blocks.len() as BlockId;
            self.blocks.push(Block { references: 1, ..Block::default() });
            self.n_free -= 1;
            return Some(id);
        } else if self.last.head != NONE {
            self.last.head
        } else {
            return None;
        };
        self.unlink_free(id);
        self.forget(id);
        self.blocks.get_mut(id as usize)?.references = 1;
        Some(id)
    }

    /// Declares the content of a held, full block, to be found by others. The same content may be held by several blocks.
    pub fn declare(&mut self, id: BlockId, hash: u64) {
        let bucket = self.bucket(hash);
        let Some(ends) = self.buckets.get_mut(bucket) else { return };
        let tail = std::mem::replace(&mut ends.tail, id);
        if tail == NONE {
            ends.head = id;
        } else if let Some(before) = self.blocks.get_mut(tail as usize) {
            before.chain_next = id;
        }
        if let Some(block) = self.blocks.get_mut(id as usize) {
            debug_assert!(block.state == Declared::No, "block {id} declared twice");
            block.chain_previous = tail;
            block.chain_next = NONE;
            block.state = Declared::Shared(hash);
        }
    }

    /// Declares a held, full block whose content nobody will look for.
    pub fn declare_own(&mut self, id: BlockId) {
        if let Some(block) = self.blocks.get_mut(id as usize) {
            block.state = Declared::Own;
        }
    }

    /// Makes a held block that was declared with [`BlockPool::declare_own`] findable after all.
    pub fn reveal(&mut self, id: BlockId, hash: u64) {
        if let Some(block) = self.blocks.get_mut(id as usize)
            && block.state == Declared::Own
        {
            block.state = Declared::No;
            self.declare(id, hash);
        }
    }

    /// Gives back one reference on each block of a request, in the order of its tokens: the last ones are reused first,
    /// since the start of a prefix is its most useful part.
    pub fn release_all(&mut self, ids: &[BlockId]) {
        let mut cursor = NONE;
        for &id in ids.iter().rev() {
            let Some(block) = self.blocks.get_mut(id as usize) else { continue };
            if id == NONE {
                continue;
            }
            debug_assert!(block.references > 0, "block {id} released twice");
            block.references = block.references.saturating_sub(1);
            if block.references > 0 {
                continue;
            }
            let to_front = self.undeclared_first && block.state == Declared::No;
            self.n_free += 1;
            if to_front {
                self.insert_first(id, cursor);
                cursor = id;
            } else {
                self.push_last(id);
            }
        }
    }

    /// Forgets all declared content. Refused (false) while any block is held, as in vLLM.
    pub fn reset_cache(&mut self) -> bool {
        if self.n_free != self.n_usable() {
            return false;
        }
        self.buckets.fill(Ends::default());
        for block in &mut self.blocks {
            block.state = Declared::No;
            block.chain_previous = NONE;
            block.chain_next = NONE;
        }
        true
    }

    fn bucket(&self, hash: u64) -> usize {
        hash as usize & (self.buckets.len() - 1)
    }

    fn forget(&mut self, id: BlockId) {
        let Some(block) = self.blocks.get_mut(id as usize) else { return };
        let state = std::mem::take(&mut block.state);
        let Declared::Shared(hash) = state else { return };
        let (previous, next) = (block.chain_previous, block.chain_next);
        let bucket = self.bucket(hash);
        let Some(ends) = self.buckets.get_mut(bucket) else { return };
        if previous == NONE {
            ends.head = next;
        } else if let Some(before) = self.blocks.get_mut(previous as usize) {
            before.chain_next = next;
        }
        if next == NONE {
            ends.tail = previous;
        } else if let Some(after) = self.blocks.get_mut(next as usize) {
            after.chain_previous = previous;
        }
    }

    fn push_last(&mut self, id: BlockId) {
        let tail = std::mem::replace(&mut self.last.tail, id);
        if let Some(block) = self.blocks.get_mut(id as usize) {
            block.previous = tail;
            block.next = NONE;
        }
        if tail == NONE {
            self.last.head = id;
        } else if let Some(before) = self.blocks.get_mut(tail as usize) {
            before.next = id;
        }
    }

    /// Puts a block into the first list: after `cursor`, or in front of everything when that is none.
    fn insert_first(&mut self, id: BlockId, cursor: BlockId) {
        let next = match self.blocks.get(cursor as usize) {
            Some(block) if cursor != NONE => block.next,
            _ => self.first.head,
        };
        if let Some(block) = self.blocks.get_mut(id as usize) {
            block.previous = cursor;
            block.next = next;
        }
        if cursor == NONE {
            self.first.head = id;
        } else if let Some(before) = self.blocks.get_mut(cursor as usize) {
            before.next = id;
        }
        if next == NONE {
            self.first.tail = id;
        } else if let Some(after) = self.blocks.get_mut(next as usize) {
            after.previous = id;
        }
    }

    fn unlink_free(&mut self, id: BlockId) {
        let Some(block) = self.blocks.get_mut(id as usize) else { return };
        let (previous, next) = (block.previous, block.next);
        block.previous = NONE;
        block.next = NONE;
        let ends = if self.first.head == id || self.first.tail == id { &mut self.first } else { &mut self.last };
        if ends.head == id {
            ends.head = next;
        }
        if ends.tail == id {
            ends.tail = previous;
        }
        if previous != NONE
            && let Some(before) = self.blocks.get_mut(previous as usize)
        {
            before.next = next;
        }
        if next != NONE
            && let Some(after) = self.blocks.get_mut(next as usize)
        {
            after.previous = previous;
        }
        self.n_free -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, VecDeque};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn null_block_is_never_handed_out() {
        let mut pool = BlockPool::new(4, true);
        let ids: Vec<_> = std::iter::from_fn(|| pool.allocate()).collect();
        assert_eq!(ids, [1, 2, 3]);
        assert_eq!((pool.n_free(), pool.usage()), (0, 1.0));
    }

    #[test]
    fn content_survives_until_the_block_is_needed() {
        let mut pool = BlockPool::new(3, true);
        let (a, b) = (pool.allocate().unwrap(), pool.allocate().unwrap());
        pool.declare(a, 11);
        pool.declare(b, 22);
        pool.release_all(&[a, b]);
        assert_eq!(pool.lookup(11), Some(a));
        pool.share(a);
        assert_eq!((pool.n_free(), pool.allocate()), (1, Some(b)));
        assert_eq!((pool.lookup(22), pool.lookup(11)), (None, Some(a)));
    }

    #[test]
    fn undeclared_blocks_are_reused_first() {
        for (undeclared_first, order) in [(true, [3, 2, 5, 1, 4]), (false, [5, 3, 2, 1, 4])] {
            let mut pool = BlockPool::new(6, undeclared_first);
            let ids: Vec<_> = (0..4).filter_map(|_| pool.allocate()).collect();
            pool.declare(ids[0], 1);
            pool.declare_own(ids[3]);
            pool.release_all(&ids[..3]);
            pool.release_all(&ids[3..]);
            let reused: Vec<_> = std::iter::from_fn(|| pool.allocate()).collect();
            assert_eq!(reused, order);
        }
    }

    #[test]
    fn shared_blocks_are_freed_by_the_last_holder() {
        let mut pool = BlockPool::new(2, true);
        let id = pool.allocate().unwrap();
        pool.share(id);
        pool.release_all(&[id]);
        assert_eq!(pool.n_free(), 0);
        pool.release_all(&[id]);
        assert_eq!(pool.n_free(), 1);
    }

    #[test]
    fn the_same_content_in_two_blocks_is_found_until_both_are_gone() {
        let mut pool = BlockPool::new(4, true);
        let (a, b) = (pool.allocate().unwrap(), pool.allocate().unwrap());
        pool.declare(a, 9);
        pool.declare(b, 9);
        assert_eq!(pool.lookup(9), Some(a));
        pool.release_all(&[a]);
        assert_eq!((pool.allocate(), pool.allocate()), (Some(3), Some(a)));
        assert_eq!(pool.lookup(9), Some(b));
    }

    #[test]
    fn reset_needs_an_idle_pool() {
        let mut pool = BlockPool::new(3, true);
        let id = pool.allocate().unwrap();
        pool.declare(id, 5);
        assert!(!pool.reset_cache());
        pool.release_all(&[id]);
        assert!(pool.reset_cache());
        assert_eq!(pool.lookup(5), None);
    }

    /// The same pool in the plainest words: a queue of ids, maps for the rest.
    struct Plain {
        queue: VecDeque<BlockId>,
        references: BTreeMap<BlockId, u32>,
        declared: BTreeMap<BlockId, Option<u64>>,
        order: Vec<(u64, BlockId)>,
    }

    impl Plain {
        fn lookup(&self, hash: u64) -> Option<BlockId> {
            self.order.iter().find(|(other, _)| *other == hash).map(|(_, id)| *id)
        }

        fn allocate(&mut self) -> Option<BlockId> {
            let id = self.queue.pop_front()?;
            self.declared.remove(&id);
            self.order.retain(|(_, other)| *other != id);
            self.references.insert(id, 1);
            Some(id)
        }

        fn release_all(&mut self, ids: &[BlockId]) {
            let mut front = Vec::new();
            for id in ids.iter().rev() {
                let count = self.references.get_mut(id).unwrap();
                *count -= 1;
                if *count == 0 {
                    if self.declared.contains_key(id) { self.queue.push_back(*id) } else { front.push(*id) }
                }
            }
            for id in front.into_iter().rev() {
                self.queue.push_front(id);
            }
        }
    }

    proptest! {
        /// Whatever is done to it, the pool hands out the blocks that the plain model hands out.
        #[test]
        fn behaves_like_the_plain_pool(
            n_blocks in 2usize..12, actions in prop::collection::vec((0u8..4, 0u64..5, 0usize..6), 0..120),
        ) {
            let mut pool = BlockPool::new(n_blocks, true);
            let mut plain = Plain {
                queue: (1..n_blocks as u32).collect(), references: BTreeMap::new(), declared: BTreeMap::new(), order: vec![],
            };
            let mut held: Vec<Vec<BlockId>> = Vec::new();
            for (action, hash, at) in actions {
                match action {
                    0 => {
                        let id = pool.allocate();
                        prop_assert_eq!(id, plain.allocate());
                        if let Some(id) = id {
                            if at % 2 == 0 { held.push(vec![id]) } else if let Some(last) = held.last_mut() { last.push(id) }
                            else { held.push(vec![id]) }
                        }
                    }
                    1 => {
                        let found = pool.lookup(hash);
                        prop_assert_eq!(found, plain.lookup(hash));
                        if let Some(id) = found {
                            pool.share(id);
                            plain.queue.retain(|other| *other != id);
                            *plain.references.entry(id).or_default() += 1;
                            held.push(vec![id]);
                        }
                    }
                    2 => {
                        let open = held.iter().flatten().copied().find(|id| !plain.declared.contains_key(id));
                        if let Some(id) = open {
                            if at == 0 {
                                pool.declare_own(id);
                                plain.declared.insert(id, None);
                            } else {
                                pool.declare(id, hash);
                                plain.declared.insert(id, Some(hash));
                                plain.order.push((hash, id));
                            }
                        }
                    }
                    _ => if !held.is_empty() {
                        let ids = held.swap_remove(at % held.len());
                        pool.release_all(&ids);
                        plain.release_all(&ids);
                    },
                }
                prop_assert_eq!(pool.n_free(), plain.queue.len());
            }
        }
    }
}
