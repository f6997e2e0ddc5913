//! Every KV block: who uses it, what it holds, and which is given away next.
//!
//! A block is *used* while requests refer to it, and *free* otherwise. A free block may still hold
//! the content of a prefix; a prompt that begins with it takes the block back. The policy is vLLM's:
//! blocks worth finding are appended to the free queue, so that the least recently used goes first,
//! others are prepended; and the last blocks of a request are freed first, because fewer prompts
//! share them.

use std::fmt;

use serde::Serialize;

use crate::content::ChainHash;
use crate::free_queue::FreeQueue;
use crate::prefix_cache::PrefixCache;

/// Names a block by its place in the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct BlockId(pub u32);

impl BlockId {
    /// Block 0, which vLLM keeps as a placeholder and never hands out.
    pub const NULL: Self = Self(0);
}

impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "block {}", self.0)
    }
}

/// All blocks of an engine.
#[derive(Debug)]
pub struct BlockPool {
    blocks: Vec<Block>,
    free: FreeQueue,
    cache: PrefixCache,
    num_pinned: usize,
}

#[derive(Clone, Debug, Default)]
struct Block {
    /// Requests that hold this block.
    references: u32,
    /// Those of them that are finished and wait for a reader.
    pins: u32,
    /// The prefix whose content the cache knows to be here.
    registered: Option<ChainHash>,
}

impl BlockPool {
    /// A pool of `num_blocks` free blocks, the null block included in the number.
    ///
    /// # Panics
    /// If there is no block at all; [`crate::KvGeometry`] has checked that.
    pub fn new(num_blocks: usize) -> Self {
        assert!(num_blocks > 0, "a pool has at least the null block");
        Self {
            blocks: vec![Block::default(); num_blocks],
            free: FreeQueue::full(num_blocks),
            cache: PrefixCache::with_capacity(num_blocks),
            num_pinned: 0,
        }
    }

    /// Takes `count` free blocks and appends them to `into`. What they held is forgotten. Returns
    /// false, and takes nothing, when there are not enough.
    pub fn allocate(&mut self, count: usize, into: &mut Vec<BlockId>) -> bool {
        if count > self.free.len() {
            return false;
        }
        for _ in 0..count {
            let id = self.free.pop_front().expect("the length was checked");
            let block = &mut self.blocks[id.0 as usize];
            block.references = 1;
            if let Some(hash) = block.registered.take() {
                self.cache.remove(hash, id);
            }
            into.push(id);
        }
        true
    }

    /// Adds a reference to each of `blocks`; a free one is no longer free.
    pub fn retain(&mut self, blocks: &[BlockId]) {
        for &id in blocks {
            let block = &mut self.blocks[id.0 as usize];
            if block.references == 0 {
                self.free.remove(id);
            }
            block.references += 1;
        }
    }

    /// Drops a reference to each of `blocks`, which are in the order of a request's tokens. Those
    /// without one left are free.
    pub fn release(&mut self, blocks: &[BlockId]) {
        // Each of a request's blocks is in its list once, so freed blocks are the ones at zero after
        // this pass, and the queue order needs one pass from either side.
        for &id in blocks {
            let block = &mut self.blocks[id.0 as usize];
            debug_assert!(block.references > 0, "{id} is released more often than it was taken");
            block.references -= 1;
            if block.references == 0 && block.registered.is_none() {
                self.free.push_front(id);
            }
        }
        for &id in blocks.iter().rev() {
            let block = &self.blocks[id.0 as usize];
            if block.references == 0 && block.registered.is_some() {
                self.free.push_back(id);
            }
        }
    }

    /// Notes that `block` holds the content that ends the prefix `hash`, for others to find.
    pub fn register(&mut self, block: BlockId, hash: ChainHash) {
        let entry = &mut self.blocks[block.0 as usize];
        debug_assert!(
            entry.references > 0 && entry.registered.is_none(),
            "{block} cannot be registered"
        );
        entry.registered = Some(hash);
        self.cache.insert(hash, block);
    }

    /// Marks `blocks`, which their request keeps for a reader.
    pub fn pin(&mut self, blocks: &[BlockId]) {
        for id in blocks {
            let block = &mut self.blocks[id.0 as usize];
            self.num_pinned += usize::from(block.pins == 0);
            block.pins += 1;
        }
    }

    /// Takes one mark of [`BlockPool::pin`] off each of `blocks`.
    pub fn unpin(&mut self, blocks: &[BlockId]) {
        for id in blocks {
            let block = &mut self.blocks[id.0 as usize];
            debug_assert!(block.pins > 0, "{id} is not pinned");
            block.pins -= 1;
            self.num_pinned -= usize::from(block.pins == 0);
        }
    }

    /// The index of content.
    pub fn cache(&self) -> &PrefixCache {
        &self.cache
    }

    /// Requests that refer to `block`.
    pub fn references(&self, block: BlockId) -> u32 {
        self.blocks[block.0 as usize].references
    }

    /// Blocks that can be handed out: all but the null block.
    pub fn num_usable(&self) -> usize {
        self.blocks.len() - 1
    }

    /// Blocks that no request refers to, those with cached content included.
    pub fn num_free(&self) -> usize {
        self.free.len()
    }

    /// Blocks that wait for a reader, each counted once.
    pub fn num_pinned(&self) -> usize {
        self.num_pinned
    }

    /// Checks that the pool is consistent, given every reference that should exist (a block once per
    /// holder) and every pin. Takes time in proportion to the pool.
    ///
    /// # Errors
    /// The first contradiction, in words.
    pub fn audit(&self, held: &[BlockId], pinned: &[BlockId]) -> Result<(), String> {
        let mut expected = vec![(0_u32, 0_u32); self.blocks.len()];
        for id in held {
            expected[id.0 as usize].0 += 1;
        }
        for id in pinned {
            expected[id.0 as usize].1 += 1;
        }
        if self.free.iter().count() != self.free.len() {
            return Err(format!("the free queue is not {} blocks long", self.free.len()));
        }
        let (mut registered, mut num_pinned) = (0, 0);
        for (index, (block, expected)) in self.blocks.iter().zip(expected).enumerate() {
            let id = BlockId(index as u32);
            if (block.references, block.pins) != expected {
                let found = (block.references, block.pins);
                return Err(format!(
                    "{id} has (references, pins) {found:?}, its owners make {expected:?}"
                ));
            }
            if id != BlockId::NULL && self.free.contains(id) != (block.references == 0) {
                return Err(format!(
                    "{id} with {} references is in the wrong place",
                    block.references
                ));
            }
            registered += usize::from(block.registered.is_some());
            num_pinned += usize::from(block.pins > 0);
        }
        let null = &self.blocks[BlockId::NULL.0 as usize];
        if null.references > 0 || null.registered.is_some() {
            return Err("the null block is in use".to_owned());
        }
        if (registered, num_pinned) != (self.cache.len(), self.num_pinned) {
            return Err("the counts of cached or pinned blocks are wrong".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: u64) -> ChainHash {
        ChainHash::seed("m", n)
    }

    fn take(pool: &mut BlockPool, count: usize) -> Vec<BlockId> {
        let mut blocks = Vec::new();
        assert!(pool.allocate(count, &mut blocks));
        blocks
    }

    fn ids(ids: &[u32]) -> Vec<BlockId> {
        ids.iter().copied().map(BlockId).collect()
    }

    #[test]
    fn the_null_block_is_never_handed_out() {
        let mut pool = BlockPool::new(4);
        assert_eq!(take(&mut pool, 3), ids(&[1, 2, 3]));
        let mut more = Vec::new();
        assert!(!pool.allocate(1, &mut more) && more.is_empty());
        assert_eq!((pool.num_free(), pool.num_usable()), (0, 3));
    }

    #[test]
    fn unregistered_blocks_are_reused_first_and_registered_ones_tail_first() {
        let mut pool = BlockPool::new(7);
        let held = take(&mut pool, 4);
        for (index, &block) in held[..2].iter().enumerate() {
            pool.register(block, hash(index as u64));
        }
        pool.release(&held);
        // Blocks 3 and 4 hold nothing of use; 5 and 6 were never used; of the cached ones, the first
        // block of the prompt goes last.
        assert_eq!(pool.free.iter().collect::<Vec<_>>(), ids(&[4, 3, 5, 6, 2, 1]));
        assert_eq!(pool.audit(&[], &[]), Ok(()));
    }

    #[test]
    fn a_hit_takes_a_free_block_back_and_counts_a_used_one_again() {
        let mut pool = BlockPool::new(4);
        let held = take(&mut pool, 1);
        pool.register(held[0], hash(0));
        pool.retain(&held);
        pool.release(&held);
        assert_eq!((pool.references(held[0]), pool.num_free()), (1, 2));
        pool.release(&held);
        assert_eq!(pool.num_free(), 3);
        pool.retain(&held);
        assert_eq!((pool.references(held[0]), pool.num_free()), (1, 2));
        assert_eq!(pool.cache().get(hash(0)), Some(held[0]));
        assert_eq!(pool.audit(&held, &[]), Ok(()));
    }

    #[test]
    fn handing_a_cached_block_to_someone_else_forgets_its_content() {
        let mut pool = BlockPool::new(3);
        let held = take(&mut pool, 2);
        pool.register(held[0], hash(0));
        pool.register(held[1], hash(1));
        pool.release(&held);
        assert_eq!(take(&mut pool, 1), [held[1]]);
        assert_eq!(pool.cache().get(hash(1)), None);
        assert_eq!(pool.cache().get(hash(0)), Some(held[0]));
    }

    #[test]
    fn a_block_pinned_twice_counts_once_until_both_are_gone() {
        let mut pool = BlockPool::new(4);
        let held = take(&mut pool, 1);
        pool.retain(&held);
        pool.pin(&held);
        pool.pin(&held);
        assert_eq!(pool.num_pinned(), 1);
        assert_eq!(pool.audit(&[held[0]; 2], &[held[0]; 2]), Ok(()));
        pool.unpin(&held);
        assert_eq!(pool.num_pinned(), 1);
        pool.unpin(&held);
        assert_eq!(pool.num_pinned(), 0);
    }

    #[test]
    fn an_audit_finds_a_lost_and_a_doubly_owned_block() {
        let mut pool = BlockPool::new(4);
        let held = take(&mut pool, 2);
        assert!(pool.audit(&held[..1], &[]).unwrap_err().contains("block 2"));
        assert!(pool.audit(&[held[0], held[0], held[1]], &[]).unwrap_err().contains("block 1"));
        assert!(pool.audit(&held, &held[..1]).unwrap_err().contains("block 1"));
    }
}
