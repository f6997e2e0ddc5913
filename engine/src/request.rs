//! Requests: what a driver asks for, the states they pass through, and how they end.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::block_pool::BlockId;
use crate::content::ChainHash;

/// Names a request towards the engine. The driver maps it to the ids of the wire, which are strings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId(pub u64);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where the KV of a request's prompt comes from, and who reads it afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvMode {
    /// Computed and used here.
    Local,
    /// The prefill leg (`do_remote_decode`): after a normal end the prompt's blocks stay pinned until
    /// [`crate::Engine::release`].
    ProduceForRemote,
    /// The decode leg (`do_remote_prefill`): KV of the prompt is read from a remote prefill.
    FromRemote {
        /// Tokens whose KV the remote holds; vLLM's `remote_num_tokens`, else the prompt's length.
        /// What exceeds the prompt is not read.
        remote_tokens: usize,
    },
}

/// A request as it comes in.
#[derive(Clone, Debug)]
pub struct NewRequest {
    /// Unique among the requests that the engine holds, finished but pinned ones included.
    pub id: RequestId,
    /// The prompt, at least one token.
    pub tokens: Vec<u32>,
    /// The output ends after this many tokens, at least 1 (or at the model's length, if that is sooner).
    pub max_tokens: usize,
    /// No stop token is drawn before this many tokens.
    pub min_tokens: usize,
    /// [`crate::EOS_TOKEN_ID`] is not drawn at all.
    pub ignore_eos: bool,
    /// Tokens that end the output, besides [`crate::EOS_TOKEN_ID`].
    pub stop_token_ids: Vec<u32>,
    /// Which leg of a disaggregated request this is, if any.
    pub kv: KvMode,
}

/// vLLM's states, with their names as [`fmt::Display`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum RequestState {
    /// Queued, or back from a remote load and eligible for the next step.
    Waiting,
    /// Holds blocks that a remote read fills.
    WaitingForRemoteKvs,
    /// Takes part in every step.
    Running,
    /// Lost its blocks to an older request; keeps its output and computes its KV again.
    Preempted,
    /// Over. Still held when blocks are pinned for a reader, or a remote read has yet to end.
    Finished(FinishReason),
}

impl fmt::Display for RequestState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Waiting => "WAITING",
            Self::WaitingForRemoteKvs => "WAITING_FOR_REMOTE_KVS",
            Self::Running => "RUNNING",
            Self::Preempted => "PREEMPTED",
            Self::Finished(FinishReason::Stop) => "FINISHED_STOPPED",
            Self::Finished(FinishReason::Length) => "FINISHED_LENGTH_CAPPED",
            Self::Finished(FinishReason::Abort) => "FINISHED_ABORTED",
            Self::Finished(FinishReason::Error) => "FINISHED_ERROR",
        })
    }
}

/// Why a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// A stop token, or a stop string that the front end found.
    Stop,
    /// `max_tokens` or the model's length.
    Length,
    /// The client went away.
    Abort,
    /// Its KV could not be loaded.
    Error,
}

impl FinishReason {
    /// The `finish_reason` of the OpenAI protocol and of vLLM's metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Abort => "abort",
            Self::Error => "error",
        }
    }
}

impl fmt::Display for FinishReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A request as the engine holds it. Its tokens are gone: their chain is all that the cache, the
/// content and the sampler need.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) id: RequestId,
    /// Counts admissions. Tells this request from an earlier one under the same id or slot.
    pub(crate) serial: u64,
    pub(crate) state: RequestState,
    /// Hash of every prefix: prompt, then output.
    pub(crate) chain: Vec<ChainHash>,
    pub(crate) num_prompt_tokens: usize,
    /// Tokens whose KV is in `blocks`, or will be once the remote load ends.
    pub(crate) num_computed: usize,
    pub(crate) blocks: Vec<BlockId>,
    /// Leading blocks that the prefix cache knows.
    pub(crate) num_registered: usize,
    pub(crate) max_tokens: usize,
    pub(crate) min_tokens: usize,
    pub(crate) ignore_eos: bool,
    pub(crate) stop_token_ids: Vec<u32>,
    pub(crate) kv: KvMode,
    /// A remote transfer was started (at most one per request), so preemption recomputes locally.
    pub(crate) remote_asked: bool,
    /// A remote read may still write into `blocks`.
    pub(crate) loading: bool,
    /// Prompt tokens found in the prefix cache at admission.
    pub(crate) cached_tokens: usize,
    /// Prompt tokens that the remote load brings.
    pub(crate) remote_tokens: usize,
    pub(crate) num_preemptions: usize,
}

impl Request {
    pub(crate) fn num_tokens(&self) -> usize {
        self.chain.len()
    }

    pub(crate) fn num_output_tokens(&self) -> usize {
        self.chain.len() - self.num_prompt_tokens
    }

    /// Finished, and its blocks wait for a reader.
    pub(crate) fn is_pinned(&self) -> bool {
        matches!(self.state, RequestState::Finished(_)) && !self.loading
    }

    /// Tokens a remote could still bring: some for a decode leg that has not asked yet.
    pub(crate) fn remote_offer(&self) -> Option<usize> {
        match self.kv {
            KvMode::FromRemote { remote_tokens } if !self.remote_asked => {
                Some(remote_tokens.min(self.num_prompt_tokens))
            }
            _ => None,
        }
    }
}
