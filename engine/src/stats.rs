//! What an engine tells about itself.

use serde::Serialize;

use crate::request::FinishReason;

/// Gauges and counters of an engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct EngineStats {
    /// Requests that take part in every step (`vllm:num_requests_running`).
    pub running: usize,
    /// Requests that wait for a step, whatever they hold. `vllm:num_requests_waiting` is this plus
    /// `waiting_remote`.
    pub waiting: usize,
    /// Requests that wait for their KV from a remote prefill; aborted ones whose read has not ended
    /// included.
    pub waiting_remote: usize,
    /// Finished requests whose blocks wait for a reader.
    pub pinned_requests: usize,
    /// Blocks that can be used: all but the null block.
    pub blocks_total: usize,
    /// Blocks that no request holds, cached or not.
    pub blocks_free: usize,
    /// Blocks that the prefix cache knows, used or free.
    pub blocks_cached: usize,
    /// Blocks that wait for a reader.
    pub blocks_pinned: usize,
    /// Used share of the blocks, 0 to 1 (`vllm:kv_cache_usage_perc`). Pinned blocks are used, cached
    /// ones that nobody holds are free.
    pub kv_usage: f64,
    /// Counters since the start.
    pub totals: Totals,
}

/// Counters since the start of an engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Steps that had something to do.
    pub steps: u64,
    /// Requests admitted.
    pub requests: u64,
    /// Tokens looked up in the prefix cache, on the first admission of each request.
    pub prefix_queries: u64,
    /// Of these, found.
    pub prefix_hits: u64,
    /// Prompt tokens of decode legs that the local cache did not have.
    pub external_queries: u64,
    /// Of these, asked of a remote prefill. Counted at admission, whether or not the load succeeds.
    pub external_hits: u64,
    /// Prompt tokens of requests that reached their first output token.
    pub prompt_tokens: u64,
    /// Of these, computed here.
    pub prompt_tokens_computed: u64,
    /// Of these, found in the prefix cache.
    pub prompt_tokens_cached: u64,
    /// Of these, loaded from a remote prefill.
    pub prompt_tokens_remote: u64,
    /// Output tokens.
    pub generation_tokens: u64,
    /// Times that a request lost its blocks.
    pub preemptions: u64,
    /// Remote loads started, those with nothing to read not counted.
    pub remote_loads: u64,
    /// Remote loads that failed.
    pub remote_load_failures: u64,
    /// Requests ended by a stop token or a stop string.
    pub finished_stop: u64,
    /// Requests ended by length.
    pub finished_length: u64,
    /// Requests aborted.
    pub finished_abort: u64,
    /// Requests ended by an error.
    pub finished_error: u64,
}

impl Totals {
    pub(crate) fn count_finish(&mut self, reason: FinishReason) {
        *match reason {
            FinishReason::Stop => &mut self.finished_stop,
            FinishReason::Length => &mut self.finished_length,
            FinishReason::Abort => &mut self.finished_abort,
            FinishReason::Error => &mut self.finished_error,
        } += 1;
    }
}
