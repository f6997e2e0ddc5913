//! Pure data that crosses process boundaries in pdlab: no I/O, no clock, no task.
//!
//! Everything here is either vLLM's wire format, kept to the letter so that foreign routers and
//! clients work unchanged, or pdlab's own small formats between its processes.
//!
//! - [`completion`], [`chat`], [`openai`]: the OpenAI-compatible requests, responses and chunks.
//! - [`error`]: the error body that every HTTP endpoint answers with.
//! - [`kv_transfer`]: `kv_transfer_params`, which the router carries from prefill to decode.
//! - [`side_channel`]: the metadata handshake between decode and prefill (msgpack over ZMQ).
//! - [`notification`]: what decode tells prefill over the transport: "read", "still here".
//! - [`tokenizer`]: the built-in byte-level tokenizer, so that no model files are needed.
//! - [`snapshot`]: what a role owns and has done; the work counters that leaks are measured by.
//! - [`live`]: what the router's live page shows, and what it is told of memory.
//! - [`timings`]: where the time of one request went, for a client that asks.
//! - [`fault`]: the mistakes that a role can be told to make.
//! - [`ready`]: the line a role prints once it serves.
//!
//! Start with [`completion::CompletionRequest`] and [`kv_transfer::KvTransferParams`].

pub mod chat;
pub mod completion;
pub mod error;
pub mod fault;
pub mod kv_transfer;
pub mod live;
pub mod notification;
pub mod openai;
pub mod ready;
pub mod side_channel;
pub mod snapshot;
pub mod timings;
pub mod tokenizer;

/// The vLLM release whose wire format is spoken, as `GET /version` reports it.
pub const VLLM_VERSION: &str = "0.33.0";
