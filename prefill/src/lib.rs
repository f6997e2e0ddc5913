//! The prefill service: computes prompts and keeps their KV for a remote decode to read.
//!
//! A request that ends with `do_remote_decode` leaves its blocks pinned under a lease
//! ([`pins`]). Decode learns where the pool is over the side channel ([`side_channel`]), reads the
//! blocks with one-sided reads that this process never sees, and sends a notification, upon which
//! they are freed. If none comes, the lease expires and is counted.
//!
//! - [`service`]: puts the process together. Start here.
//! - [`connector`]: prefill's part of the engine loop.
//! - [`identity`]: which engine this prefill says it is.
//! - [`pins`]: which request is pinned for whom until when; pure.
//! - [`side_channel`]: answers handshakes over ZMQ.

pub mod connector;
pub mod identity;
pub mod pins;
pub mod service;
pub mod side_channel;

pub use service::{Prefill, PrefillConfig, PrefillError};
