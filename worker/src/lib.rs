//! What prefill and decode share: a vLLM-shaped HTTP server around an engine loop.
//!
//! The engine itself is pure ([`pdlab_engine`]); this crate gives it a clock, a thread, memory to
//! write and clients to answer. What differs between prefill and decode is a [`Connector`].
//!
//! A request comes in through `http`, is checked by [`intake`], becomes a [`job::Job`] in the
//! inbox of the `engine_loop`, and comes back as tokens, which [`generation`] turns into text and
//! [`dialect`] into JSON or server-sent events. Every request is owned by a guard: when the client
//! goes away, the request is aborted.
//!
//! - [`server`]: puts it together, serves, drains. Start here.
//! - `engine_loop`: one thread owns the engine; commands in, outputs out.
//! - [`connector`]: what a role adds to the loop.
//! - [`kv_pool`]: the registered memory, written and verified slot by slot.
//! - [`intake`], [`job`], [`generation`], [`stop`], [`dialect`]: the stations of a request.
//! - [`metrics`], `progress`: vLLM's Prometheus metrics. [`shared`]: counters for snapshots.

pub mod connector;
pub mod dialect;
mod engine_loop;
pub mod generation;
mod http;
pub mod intake;
pub mod job;
pub mod kv_pool;
pub mod metrics;
mod progress;
pub mod server;
pub mod shared;
pub mod stop;

pub use connector::{Connector, Declined, Kept, Load, LoadBlock, Observer};
pub use engine_loop::{Command, EngineHandle, channel};
pub use http::ApiError;
pub use kv_pool::{KvMemory, KvPool};
pub use server::{Parts, Worker, WorkerConfig, WorkerError};
pub use shared::Shared;
