//! The blocks of one request at a time: what the prefix cache offers it, and how it takes, names and
//! returns blocks.

use crate::block_pool::{BlockId, BlockPool};
use crate::request::Request;

/// The block pool as requests see it.
#[derive(Debug)]
pub(crate) struct KvCache {
    pub(crate) pool: BlockPool,
    block_size: usize,
    caching: bool,
}

impl KvCache {
    pub(crate) fn new(num_blocks: usize, block_size: usize, caching: bool) -> Self {
        Self { pool: BlockPool::new(num_blocks), block_size, caching }
    }

    pub(crate) fn block_size(&self) -> usize {
        self.block_size
    }

    pub(crate) fn blocks_for(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.block_size)
    }

    /// The cached blocks that `request` begins with. The last token is never among them, even when
    /// it is cached: it must be computed, because the next token is sampled from its output.
    pub(crate) fn find_prefix(&self, request: &Request) -> Vec<BlockId> {
        if !self.caching {
            return Vec::new();
        }
        let all_but_last = &request.chain[..request.num_tokens() - 1];
        self.pool.cache().longest_prefix(all_but_last, self.block_size)
    }

    /// How many blocks fewer would be free if `tokens` were held by `hits` and new blocks.
    pub(crate) fn blocks_taken_by(&self, hits: &[BlockId], tokens: usize) -> usize {
        let revived = hits.iter().filter(|&&block| self.pool.references(block) == 0);
        self.blocks_for(tokens) - hits.len() + revived.count()
    }

    /// Gives `request`, which has no blocks, the cached ones of its prefix.
    pub(crate) fn adopt(&mut self, request: &mut Request, hits: Vec<BlockId>) {
        self.pool.retain(&hits);
        request.num_registered = hits.len();
        request.num_computed = hits.len() * self.block_size;
        request.blocks = hits;
    }

    /// Gives `request` the blocks that it lacks to hold `tokens`; false if there are not enough.
    pub(crate) fn grow(&mut self, request: &mut Request, tokens: usize) -> bool {
        let missing = self.blocks_for(tokens).saturating_sub(request.blocks.len());
        missing == 0 || self.pool.allocate(missing, &mut request.blocks)
    }

    /// Lets others find the full blocks among the first `tokens` of `request`.
    pub(crate) fn register(&mut self, request: &mut Request, tokens: usize) {
        if !self.caching {
            return;
        }
        let num_full = tokens / self.block_size;
        for index in request.num_registered..num_full {
            let last_token = (index + 1) * self.block_size - 1;
            self.pool.register(request.blocks[index], request.chain[last_token]);
        }
        request.num_registered = request.num_registered.max(num_full);
    }

    /// Takes all blocks from `request`: nothing of it is computed any more.
    pub(crate) fn release(&mut self, request: &mut Request) {
        self.pool.release(&request.blocks);
        request.blocks = Vec::new();
        request.num_registered = 0;
        request.num_computed = 0;
    }

    /// Leaves `request`, which has finished, with the blocks of its prompt, pinned for a reader.
    pub(crate) fn pin_prompt(&mut self, request: &mut Request) {
        let output = request.blocks.split_off(self.blocks_for(request.num_prompt_tokens));
        self.pool.release(&output);
        request.num_computed = request.num_prompt_tokens;
        self.pool.pin(&request.blocks);
    }

    /// Ends [`KvCache::pin_prompt`].
    pub(crate) fn unpin(&mut self, request: &mut Request) {
        self.pool.unpin(&request.blocks);
        self.release(request);
    }
}
