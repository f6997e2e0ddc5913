//! One step of the engine: what it computes, which KV slots that fills, which loads it starts.

use std::ops::Range;

use serde::Serialize;

use crate::block_pool::BlockId;
use crate::content::ChainHash;
use crate::request::RequestId;

/// The work of one step, from [`crate::Engine::schedule`] to [`crate::Engine::finish_step`].
///
/// The driver starts the [`RemoteLoad`]s, performs [`Step::writes`], waits for the step's cost, and
/// hands it back. The writes must be done before the next `schedule` and even for a request that is
/// aborted meanwhile: the prefix cache already counts on them.
#[must_use = "a step that is not finished computes nothing"]
#[derive(Debug, Default)]
pub struct Step {
    /// Tokens computed, running requests first.
    pub computed: Vec<Computed>,
    /// Reads to start from remote prefills.
    pub remote_loads: Vec<RemoteLoad>,
    /// Requests that lost their blocks to make room in this step.
    pub preempted: Vec<RequestId>,
    /// The size of the work, for [`crate::CostModel::step_time`].
    pub load: StepLoad,
    writes: Vec<WriteRecord>,
    hashes: Vec<ChainHash>,
}

impl Step {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.computed.is_empty() && self.remote_loads.is_empty() && self.preempted.is_empty()
    }

    /// The KV slots that this step fills, block by block.
    pub fn writes(&self) -> impl Iterator<Item = SlotWrite<'_>> {
        self.writes.iter().map(|write| SlotWrite {
            block: write.block,
            first_slot: write.first_slot as usize,
            hashes: &self.hashes[write.hashes.start as usize..write.hashes.end as usize],
        })
    }

    /// An empty step with room for `sequences` requests that compute one token each.
    pub(crate) fn with_capacity(sequences: usize) -> Self {
        Self {
            computed: Vec::with_capacity(sequences),
            writes: Vec::with_capacity(sequences),
            hashes: Vec::with_capacity(sequences),
            ..Self::default()
        }
    }

    /// Records that `hashes` are computed into `blocks`, starting at token `start_token`.
    pub(crate) fn record_writes(
        &mut self,
        blocks: &[BlockId],
        block_size: usize,
        start_token: usize,
        hashes: &[ChainHash],
    ) {
        let mut token = start_token;
        let end_token = start_token + hashes.len();
        let mut hash = self.hashes.len();
        self.hashes.extend_from_slice(hashes);
        while token < end_token {
            let (index, first_slot) = (token / block_size, token % block_size);
            let count = (block_size - first_slot).min(end_token - token);
            self.writes.push(WriteRecord {
                block: blocks[index],
                first_slot: first_slot as u32,
                hashes: hash as u32..(hash + count) as u32,
            });
            token += count;
            hash += count;
        }
    }
}

/// Tokens of one request that a step computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Computed {
    /// The request.
    pub id: RequestId,
    /// First token, counted from the start of the prompt.
    pub start_token: usize,
    /// Number of tokens.
    pub num_tokens: usize,
    /// Where the request is, and which admission of its id is meant.
    pub(crate) slot: u32,
    pub(crate) serial: u64,
}

/// A read of a prompt's KV from the remote prefill.
///
/// The remote's block list starts at the prompt's first block. The leading `first_block_index` of
/// them are not to be read, because the local prefix cache has them. When `local_blocks` is empty there is nothing
/// to read at all: the driver only notifies the remote, and calls nothing back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteLoad {
    /// The request, now `WAITING_FOR_REMOTE_KVS` unless there is nothing to read.
    pub id: RequestId,
    /// Where block `first_block_index`, and those after it, go.
    pub local_blocks: Vec<BlockId>,
    /// Index in the prompt of the first block to read.
    pub first_block_index: usize,
    /// Tokens to read; the last block may be partly filled.
    pub num_tokens: usize,
}

/// KV slots of one block to be written with [`crate::content::fill`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotWrite<'a> {
    /// The block.
    pub block: BlockId,
    /// First slot in the block; it starts at byte `first_slot * bytes_per_token`.
    pub first_slot: usize,
    /// One hash per slot.
    pub hashes: &'a [ChainHash],
}

/// The size of a step's work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StepLoad {
    /// Requests that compute something.
    pub sequences: u64,
    /// Tokens computed, prompts and outputs together.
    pub tokens: u64,
    /// Of these, all but the one token that a request with output computes per step of decode.
    pub prefill_tokens: u64,
    /// Tokens whose KV is read: the context of every request, once.
    pub context_tokens: u64,
    /// Pairs of a computed token and a token that it attends to.
    pub attended_pairs: u64,
}

impl StepLoad {
    /// Adds a request that computes `num_tokens` after `start_token` earlier ones.
    pub(crate) fn add(&mut self, start_token: usize, num_tokens: usize, prefill: bool) {
        let (start, count) = (start_token as u64, num_tokens as u64);
        self.sequences += 1;
        self.tokens += count;
        self.prefill_tokens += if prefill { count } else { 0 };
        self.context_tokens += start + count;
        self.attended_pairs += count * start + count * (count + 1) / 2;
    }
}

/// A [`SlotWrite`] whose hashes are a range of the step's. Small, because a step has one or more per
/// running request.
#[derive(Debug)]
struct WriteRecord {
    block: BlockId,
    first_slot: u32,
    hashes: Range<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_cut_at_block_boundaries() {
        let blocks = [BlockId(7), BlockId(3), BlockId(9)];
        let hashes: Vec<ChainHash> = (0..7).map(|n| ChainHash::seed("m", n)).collect();
        let mut step = Step::default();
        step.record_writes(&blocks, 4, 3, &hashes);
        step.record_writes(&blocks, 4, 11, &hashes[..1]);
        let writes: Vec<_> = step.writes().collect();
        let expected = [
            (BlockId(7), 3, &hashes[..1]),
            (BlockId(3), 0, &hashes[1..5]),
            (BlockId(9), 0, &hashes[5..]),
            (BlockId(9), 3, &hashes[..1]),
        ];
        let expected =
            expected.map(|(block, first_slot, hashes)| SlotWrite { block, first_slot, hashes });
        assert_eq!(writes, expected);
    }

    #[test]
    fn load_counts_context_once_per_sequence_and_pairs_per_token() {
        let mut load = StepLoad::default();
        load.add(0, 3, true);
        load.add(10, 1, false);
        assert_eq!((load.sequences, load.tokens, load.prefill_tokens), (2, 4, 3));
        assert_eq!(load.context_tokens, 3 + 11);
        assert_eq!(load.attended_pairs, 1 + 2 + 3 + 11);
    }
}
