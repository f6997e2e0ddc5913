//! Which block holds the content of a token prefix.
//!
//! As in vLLM, two requests that compute the same prefix at the same time each keep their own block;
//! a lookup then finds the one registered first.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};

use crate::block_pool::BlockId;
use crate::content::ChainHash;

/// Blocks by the hash of the prefix that ends with them.
#[derive(Debug)]
pub struct PrefixCache {
    /// The block registered first. Small entries, because lookups go here, and what they cost is
    /// cache misses.
    first: HashMap<ChainHash, BlockId, BuildHasherDefault<AlreadyHashed>>,
    /// Further blocks with the same content, in order of registration; never an empty list.
    further: HashMap<ChainHash, Vec<BlockId>, BuildHasherDefault<AlreadyHashed>>,
    len: usize,
}

impl PrefixCache {
    /// An empty cache that does not have to grow for `num_blocks` blocks: growing is a pause in the
    /// middle of a step.
    pub fn with_capacity(num_blocks: usize) -> Self {
        let first = HashMap::with_capacity_and_hasher(num_blocks, BuildHasherDefault::default());
        Self { first, further: HashMap::default(), len: 0 }
    }

    /// Registers that `block` holds the content that ends the prefix `hash`.
    pub fn insert(&mut self, hash: ChainHash, block: BlockId) {
        self.len += 1;
        match self.first.entry(hash) {
            Entry::Vacant(vacant) => {
                vacant.insert(block);
            }
            Entry::Occupied(_) => self.further.entry(hash).or_default().push(block),
        }
    }

    /// Forgets that `block` holds the content of `hash`.
    pub fn remove(&mut self, hash: ChainHash, block: BlockId) {
        let Entry::Occupied(mut first) = self.first.entry(hash) else {
            debug_assert!(false, "{block} is not registered");
            return;
        };
        self.len -= 1;
        let Some(further) = self.further.get_mut(&hash) else {
            debug_assert_eq!(*first.get(), block, "another block is registered");
            first.remove();
            return;
        };
        if *first.get() == block {
            *first.get_mut() = further.remove(0);
        } else {
            further.retain(|&other| other != block);
        }
        if further.is_empty() {
            self.further.remove(&hash);
        }
    }

    /// The first registered block with the content of `hash`.
    pub fn get(&self, hash: ChainHash) -> Option<BlockId> {
        self.first.get(&hash).copied()
    }

    /// The blocks of the longest cached prefix of `chain`, whose full blocks have `block_size` tokens.
    /// One lookup per block, of constant time whatever the cache holds.
    pub fn longest_prefix(&self, chain: &[ChainHash], block_size: usize) -> Vec<BlockId> {
        let ends = chain.chunks_exact(block_size).filter_map(<[ChainHash]>::last);
        ends.map_while(|&hash| self.get(hash)).collect()
    }

    /// Number of registered blocks.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no block is registered.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Passes a [`ChainHash`] through: it is as well mixed as any hasher could make it.
#[derive(Debug, Default)]
struct AlreadyHashed(u64);

impl Hasher for AlreadyHashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }

    fn write(&mut self, bytes: &[u8]) {
        // Keys other than a ChainHash do not occur; this only keeps the trait's promise.
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::extend_chain;

    fn chain(tokens: usize) -> Vec<ChainHash> {
        let mut chain = Vec::new();
        let tokens: Vec<u32> = (0..tokens as u32).collect();
        extend_chain(&mut chain, ChainHash::seed("m", 0), &tokens);
        chain
    }

    #[test]
    fn the_longest_prefix_ends_at_the_first_gap_and_ignores_a_partial_block() {
        let chain = chain(19);
        let mut cache = PrefixCache::with_capacity(4);
        for (index, block) in [(3, 10), (7, 11), (15, 13)] {
            cache.insert(chain[index], BlockId(block));
        }
        assert_eq!(cache.longest_prefix(&chain, 4), [BlockId(10), BlockId(11)]);
        cache.insert(chain[11], BlockId(12));
        assert_eq!(cache.longest_prefix(&chain, 4).len(), 4);
        assert_eq!(cache.longest_prefix(&chain[..3], 4), []);
    }

    #[test]
    fn duplicates_are_kept_and_found_in_order_of_registration() {
        let hash = chain(1)[0];
        let mut cache = PrefixCache::with_capacity(4);
        for block in [5, 6, 7] {
            cache.insert(hash, BlockId(block));
        }
        assert_eq!((cache.get(hash), cache.len()), (Some(BlockId(5)), 3));
        cache.remove(hash, BlockId(5));
        assert_eq!(cache.get(hash), Some(BlockId(6)));
        cache.remove(hash, BlockId(7));
        assert_eq!(cache.get(hash), Some(BlockId(6)));
        cache.remove(hash, BlockId(6));
        assert_eq!(cache.get(hash), None);
        assert!(cache.is_empty());
    }
}
