//! The front door: one OpenAI-compatible address before many prefill and decode workers.
//!
//! A request goes out twice. The *prefill leg* asks for one token with empty transfer parameters;
//! the answer says where the prompt's KV lies. The *decode leg* is the client's own body with
//! those parameters, and its answer streams back as it comes.
//!
//! It is a router and no more: it holds no model, no tokenizer and no KV, and it never reads the
//! tokens that pass through it. It decides nothing by its own clock or environment: everything
//! that can vary is in [`RouterConfig`].
//!
//! What decides, without I/O:
//! - [`legs`]: rewrites the client's body into the two legs, splicing bytes instead of re-encoding.
//! - [`policy`]: which worker gets a leg; one file per policy.
//! - [`health`]: when a worker is taken out and when it comes back.
//! - `retry`: whether a failed attempt is worth another one.
//!
//! What acts:
//! - `server`: listens, serves connections, drains. Start with [`Router`].
//! - `routes`: which path does what; answers what needs no worker.
//! - `intake`: reads a client's body within its limit.
//! - `forward`: the life of a completion, leg by leg; `single`: of a request for one worker.
//! - `call`: one request to one worker.
//! - `relay`: passes decode's bytes on, and says so when they end too early.
//! - `fleet`, `checker`: the workers, who is free, who is alive.
//! - `upstream`: kept-alive connections to workers, driven by the request that uses them.
//! - `ui`: the live page, for people.
//! - `metrics`, `answer`, `headers`, `request_id`, `failure`: what the names say.
//!
//! # A request owns everything it uses
//!
//! Connections to workers have no task of their own: the future that serves the client polls them.
//! A client that goes away drops that future, and with it both legs, their sockets and their
//! counters. There is nothing left to clean up. (A client that closes only its sending side has gone
//! away too: over HTTP/1.1 the two look alike.)
//!
//! # What the client sees when workers fail
//!
//! | what happened | answer |
//! |---|---|
//! | a worker refused (4xx) | the worker's answer |
//! | prefill failed, or decode failed before its first byte | another attempt with a fresh prefill leg, up to [`RouterConfig::retries`] |
//! | no attempt left, the worker had answered 5xx | the worker's answer |
//! | no attempt left, no worker could be reached | 503, naming them |
//! | no attempt left, a worker hung up | 502, naming it |
//! | no attempt left, a worker was silent for too long | 504, naming it |
//! | prefill's answer has no usable `kv_transfer_params` | 502, quoting it |
//! | decode failed in the middle of an event stream | an `error` event, then `[DONE]`, as vLLM ends its own failed streams |
//! | decode failed in the middle of any other body | the connection is cut, so that the part cannot pass for the whole |
//!
//! Other routers send decode on without parameters when prefill gave none. Decode then computes
//! the prompt itself and the answer looks right: disaggregation that quietly is not. Here that is
//! an error.

mod answer;
mod call;
mod checker;
mod config;
mod error;
mod failure;
mod fleet;
mod forward;
mod headers;
pub mod health;
mod intake;
pub mod legs;
mod metrics;
pub mod policy;
mod relay;
mod request_id;
mod retry;
mod routes;
mod server;
mod single;
mod ui;
mod upstream;

pub use config::{ApiKey, HealthConfig, RouterConfig, WorkerUrl};
pub use error::Error;
pub use fleet::{Leg, WorkerState};
pub use policy::PolicyKind;
pub use server::{Drained, Handle, Router};
