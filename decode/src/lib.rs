//! The decode service: pulls a prompt's KV out of a remote prefill, checks every block, generates.
//!
//! A request with `do_remote_prefill` waits while its blocks are read: a handshake over the side
//! channel (once per prefill), one transfer with all blocks, a check of every block against what
//! its tokens say it must hold. A block that is not right fails the request and is counted; it is
//! never served. The churn source ([`churn`]) stands in for Python, PyTorch and graph compilation:
//! code that unmaps memory which has nothing to do with transfers, which is what UCX's
//! registration cache trips over (<https://github.com/vllm-project/vllm/issues/24264>).
//!
//! - [`service`]: puts the process together. Start here.
//! - [`connector`]: decode's part of the engine loop.
//! - [`pull`]: one load, from handshake to verified blocks.
//! - [`remotes`]: the prefills that are connected, each shaken hands with once.
//! - [`staging`]: a buffer per transfer, for one of the faults.
//! - [`handshake`]: the question over ZMQ and the checks of the answer.
//! - [`heartbeat`]: which requests still wait for which prefill; pure.
//! - [`figures`]: what snapshots and metrics show.
//! - [`churn`]: unmap events on purpose, counted exactly.

pub mod churn;
pub mod connector;
pub mod figures;
pub mod handshake;
pub mod heartbeat;
pub mod pull;
pub mod remotes;
pub mod service;
pub mod staging;

pub use service::{Decode, DecodeConfig, DecodeError};
