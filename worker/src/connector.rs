//! What prefill and decode add to the engine loop: vLLM's KV connector, in one trait.

use std::time::Duration;

use bytes::Bytes;
use pdlab_api::kv_transfer::{KvTransferParams, RemotePrefill};
use pdlab_api::snapshot::Snapshot;
use pdlab_engine::{BlockId, ChainHash, RequestId};
use prometheus_client::registry::Registry;

/// The role's part of the engine loop. All calls come from the loop's own thread and must not
/// block: what takes time is handed to a task, which reports back through
/// [`crate::EngineHandle`].
pub trait Connector: Send + 'static {
    /// A request ended and its prompt's blocks are pinned for a remote reader. The answer is what
    /// the client is told.
    fn keep(&mut self, kept: Kept<'_>, now: Duration) -> KvTransferParams;

    /// A request arrived whose KV is at a remote prefill. It may wait here for a place before
    /// [`Connector::load`] or [`Connector::decline`] is called for it.
    fn expect(&mut self, pull: &RemotePrefill);

    /// Blocks are to be read from a remote prefill; the outcome comes back by
    /// [`crate::EngineHandle::loaded`].
    fn load(&mut self, load: Load);

    /// A request will not read what the remote keeps for it. Tell the remote so that it frees.
    fn decline(&mut self, pull: RemotePrefill, why: Declined);

    /// A notification came over the transport. The answer names requests whose pinned blocks are
    /// free again.
    fn notified(&mut self, payload: &Bytes, now: Duration) -> Vec<RequestId>;

    /// Time passed. The answer names requests whose lease has expired.
    fn tick(&mut self, now: Duration) -> Vec<RequestId>;

    /// A step ended that generated this many tokens.
    fn step_done(&mut self, tokens: u64);
}

/// Why a request will not read what a remote keeps for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Declined {
    /// Every block is cached here.
    Cached,
    /// The request was refused.
    Rejected,
    /// Its client went away before the read began.
    Aborted,
}

/// What the role shows of itself; shared with the HTTP side.
pub trait Observer: Send + Sync + 'static {
    /// Adds the role's counters and gauges.
    fn observe(&self, snapshot: &mut Snapshot);

    /// Adds the role's Prometheus metrics. `labels` are `model_name` and `engine`.
    fn register(&self, registry: &mut Registry);
}

/// Blocks pinned for a remote reader.
#[derive(Debug, Clone, Copy)]
pub struct Kept<'a> {
    /// The engine's number of the request.
    pub id: RequestId,
    /// Its id on the wire.
    pub wire_id: &'a str,
    /// The prompt's blocks in order.
    pub blocks: &'a [BlockId],
    /// Tokens of the prompt.
    pub num_tokens: usize,
    /// Prompt tokens that came from the prefix cache.
    pub cached_tokens: usize,
}

/// Blocks to read from a remote prefill.
#[derive(Debug)]
pub struct Load {
    /// The engine's number of the request.
    pub id: RequestId,
    /// Where the blocks are.
    pub pull: RemotePrefill,
    /// Index in the prompt of the first block to read: those before it are cached here.
    pub first_block_index: usize,
    /// Where they go, and what must be in them.
    pub blocks: Vec<LoadBlock>,
}

/// One block of a [`Load`].
#[derive(Debug)]
pub struct LoadBlock {
    /// The local block.
    pub block: BlockId,
    /// One hash per filled slot: what the block must hold afterwards.
    pub hashes: Vec<ChainHash>,
}
