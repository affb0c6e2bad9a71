//! KV-cache blocks of one rank: the free list in eviction order, reference counts, and the prefix cache over full
//! blocks. Which request holds which blocks, and when it gets or loses them, is the engine's business.

use std::collections::HashMap;

/// Index of a block. Block 0 is the null block: never handed out.
pub type BlockId = u32;

const NONE: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Block {
    references: u32,
    hash: Option<u64>,
    previous: u32,
    next: u32,
}

/// A pool of equally sized blocks. Free blocks keep their content until they are handed out again, least recently freed
/// first, so that a later request with the same prefix can pick them up.
#[derive(Debug)]
pub struct BlockPool {
    blocks: Vec<Block>,
    head: u32,
    tail: u32,
    n_free: usize,
    cached: HashMap<u64, BlockId>,
}

impl BlockPool {
    /// A pool of `n_blocks` blocks including the null block.
    pub fn new(n_blocks: usize) -> Self {
        let n_blocks = n_blocks.min(NONE as usize - 1);
        let empty = Block { references: 0, hash: None, previous: NONE, next: NONE };
        let mut pool =
            Self { blocks: vec![empty; n_blocks], head: NONE, tail: NONE, n_free: 0, cached: HashMap::new() };
        for id in 1..n_blocks as u32 {
            pool.push_free(id);
        }
        pool
    }

    /// Blocks that can be handed out in total (all but the null block).
    pub fn n_usable(&self) -> usize {
        self.blocks.len().saturating_sub(1)
    }

    /// Blocks that nobody holds, cached or not.
    pub fn n_free(&self) -> usize {
        self.n_free
    }

    /// Share of usable blocks that are held (0–1).
    pub fn usage(&self) -> f64 {
        if self.n_usable() == 0 { 0.0 } else { 1.0 - self.n_free as f64 / self.n_usable() as f64 }
    }

    /// The block that holds this content, if any.
    pub fn lookup(&self, hash: u64) -> Option<BlockId> {
        self.cached.get(&hash).copied()
    }

    /// True when nobody holds the block.
    pub fn is_free(&self, id: BlockId) -> bool {
        self.blocks.get(id as usize).is_some_and(|block| block.references == 0)
    }

    /// Takes one more reference on a block found by [`BlockPool::lookup`].
    pub fn share(&mut self, id: BlockId) {
        if self.is_free(id) {
            self.unlink(id);
        }
        if let Some(block) = self.blocks.get_mut(id as usize) {
            block.references += 1;
        }
    }

    /// Hands out a block, evicting the least recently freed content. `None` when every block is held.
    pub fn allocate(&mut self) -> Option<BlockId> {
        let id = self.head;
        if id == NONE {
            return None;
        }
        self.unlink(id);
        let block = self.blocks.get_mut(id as usize)?;
        block.references = 1;
        if let Some(hash) = block.hash.take() {
            self.cached.remove(&hash);
        }
        Some(id)
    }

    /// Declares the content of a held, full block. Content that another block already holds is not declared twice.
    pub fn declare(&mut self, id: BlockId, hash: u64) {
        if let Some(block) = self.blocks.get_mut(id as usize)
            && block.hash.is_none()
            && !self.cached.contains_key(&hash)
        {
            block.hash = Some(hash);
            self.cached.insert(hash, id);
        }
    }

    /// Gives back one reference.
    pub fn release(&mut self, id: BlockId) {
        let Some(block) = self.blocks.get_mut(id as usize) else { return };
        debug_assert!(block.references > 0, "block {id} released twice");
        block.references = block.references.saturating_sub(1);
        if block.references == 0 {
            self.push_free(id);
        }
    }

    /// Forgets all cached content. Refused (false) while any block is held, as in vLLM.
    pub fn reset_cache(&mut self) -> bool {
        if self.n_free != self.n_usable() {
            return false;
        }
        self.cached.clear();
        for block in &mut self.blocks {
            block.hash = None;
        }
        true
    }

    fn push_free(&mut self, id: BlockId) {
        let tail = self.tail;
        if let Some(block) = self.blocks.get_mut(id as usize) {
            block.previous = tail;
            block.next = NONE;
        }
        match self.blocks.get_mut(tail as usize) {
            Some(last) => last.next = id,
            None => self.head = id,
        }
        self.tail = id;
        self.n_free += 1;
    }

    fn unlink(&mut self, id: BlockId) {
        let Some(block) = self.blocks.get_mut(id as usize) else { return };
        let (previous, next) = (block.previous, block.next);
        block.previous = NONE;
        block.next = NONE;
        match self.blocks.get_mut(previous as usize) {
            Some(before) => before.next = next,
            None => self.head = next,
        }
        match self.blocks.get_mut(next as usize) {
            Some(after) => after.previous = previous,
            None => self.tail = previous,
        }
        self.n_free -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_block_is_never_handed_out() {
        let mut pool = BlockPool::new(4);
        let ids: Vec<_> = std::iter::from_fn(|| pool.allocate()).collect();
        assert_eq!(ids, [1, 2, 3]);
        assert_eq!((pool.n_free(), pool.usage()), (0, 1.0));
    }

    #[test]
    fn content_survives_until_the_block_is_needed() {
        let mut pool = BlockPool::new(3);
        let (a, b) = (pool.allocate().unwrap(), pool.allocate().unwrap());
        pool.declare(a, 11);
        pool.declare(b, 22);
        pool.release(b);
        pool.release(a);
        assert_eq!(pool.lookup(11), Some(a));
        pool.share(a);
        assert_eq!((pool.n_free(), pool.allocate()), (1, Some(b)));
        assert_eq!((pool.lookup(22), pool.lookup(11)), (None, Some(a)));
    }

    #[test]
    fn shared_blocks_are_freed_by_the_last_holder() {
        let mut pool = BlockPool::new(2);
        let id = pool.allocate().unwrap();
        pool.share(id);
        pool.release(id);
        assert_eq!(pool.n_free(), 0);
        pool.release(id);
        assert_eq!(pool.n_free(), 1);
    }

    #[test]
    fn reset_needs_an_idle_pool() {
        let mut pool = BlockPool::new(3);
        let id = pool.allocate().unwrap();
        pool.declare(id, 5);
        assert!(!pool.reset_cache());
        pool.release(id);
        assert!(pool.reset_cache());
        assert_eq!(pool.lookup(5), None);
    }
}
