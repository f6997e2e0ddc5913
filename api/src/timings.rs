//! Where the time of one request went: what a worker tells a client that asks for it.
//!
//! A client asks with `"vllm_xargs": {"pdlab_timings": 1}` in its body, a field of vLLM's that
//! routers pass on to both legs and that servers without such timings ignore. Prefill then adds
//! [`PrefillTimings`] to its `kv_transfer_params`, and the usage event of decode's stream (or of a
//! worker that does both) has [`RequestMetrics`] under `metrics`, where vLLM has its own
//! per-request metrics. Nothing changes for requests that do not ask.

use serde::{Deserialize, Serialize};

/// The key in `vllm_xargs`.
pub const ASK: &str = "pdlab_timings";

/// The prefill leg of a request, by prefill's clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefillTimings {
    /// From arrival to the first step, in microseconds.
    pub queue_us: u64,
    /// From the first step to the token, in microseconds: the computation of the prompt.
    pub compute_us: u64,
}

/// One load of KV, by decode's clock. A request whose blocks are all cached has none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvLoadTimings {
    /// Bytes read from prefill.
    pub bytes: u64,
    /// Blocks read.
    pub blocks: u64,
    /// Until there was a connection to prefill, in microseconds; close to nothing when there is
    /// one already.
    pub handshake_us: u64,
    /// Of the read, until its data was here, in microseconds.
    pub transfer_us: u64,
}

/// The times of one request; names without a prefix are vLLM's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct RequestMetrics {
    /// From arrival to the first token, in milliseconds.
    pub time_to_first_token_ms: f64,
    /// From the first token to the last, in milliseconds.
    pub generation_time_ms: f64,
    /// From arrival to the first step, in milliseconds; on decode it includes the KV transfer.
    pub queue_time_ms: f64,
    /// What vLLM does not tell.
    pub pdlab: Split,
}

/// What TTFT is made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// The prefill leg; null without one.
    pub prefill: Option<PrefillTimings>,
    /// From arrival at this worker until KV blocks were free for the request, in microseconds;
    /// null if it loaded none.
    pub block_wait_us: Option<u64>,
    /// The load of its KV; null without one.
    pub kv: Option<KvLoadTimings>,
    /// From arrival, or from the end of the load, to the first step, in microseconds.
    pub queue_us: u64,
    /// From the first step to the first token, in microseconds.
    pub first_token_us: u64,
}
