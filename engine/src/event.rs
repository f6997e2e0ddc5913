//! What an engine answers: tokens, ends, what became of an abort, what a block should hold.

use serde::Serialize;

use crate::block_pool::BlockId;
use crate::content::ChainHash;
use crate::request::{FinishReason, RequestId};

/// Something that the front end is to be told. Of one request, the end follows directly after the
/// last token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An output token.
    Token {
        /// The request.
        id: RequestId,
        /// The token.
        token: u32,
        /// Its place in the output, from 0.
        index: usize,
    },
    /// The end of a request. Boxed, because it is rare and tokens are not.
    Finished(Box<Finished>),
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// The request.
    pub id: RequestId,
    /// Why it ended.
    pub reason: FinishReason,
    /// The token of `stop_token_ids` that ended it (`stop_reason` in the protocol); not set for
    /// [`crate::EOS_TOKEN_ID`].
    pub stop_token: Option<u32>,
    /// The prompt's blocks in order, pinned for a remote reader until [`crate::Engine::release`]. Set for a
    /// [`crate::KvMode::ProduceForRemote`] request that stopped or reached its length.
    pub kept_blocks: Option<Vec<BlockId>>,
    /// Tokens of the prompt, which is what the kept blocks hold.
    pub num_prompt_tokens: usize,
    /// Tokens of the output.
    pub num_output_tokens: usize,
    /// Prompt tokens that the prefix cache had.
    pub cached_tokens: usize,
    /// Prompt tokens that were loaded from a remote prefill.
    pub remote_tokens: usize,
    /// Times that the request lost its blocks.
    pub num_preemptions: usize,
}

/// What became of an abort.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AbortOutcome {
    /// Its blocks are free.
    Freed,
    /// It had no blocks yet, but a remote prefill keeps some for it: the driver should notify the
    /// remote, as if it had read them.
    FreedNotifyRemote,
    /// A remote read may still write into its blocks. They are free after
    /// [`crate::Engine::remote_loaded`] or [`crate::Engine::remote_failed`].
    KeptUntilLoaded,
    /// It has finished already. If its blocks are pinned they stay so: an abort that comes late frees
    /// nothing (<https://github.com/vllm-project/vllm/pull/25067>).
    Ignored,
    /// There is no such request.
    Unknown,
}

/// A block of a request, and what its filled slots should hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpectedBlock<'a> {
    /// The block.
    pub block: BlockId,
    /// One hash per filled slot, from slot 0.
    pub hashes: &'a [ChainHash],
}
