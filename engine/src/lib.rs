//! A pure model of a vLLM engine: which request computes which tokens in which step, and which
//! KV block holds them. It follows the scheduler and the KV cache manager of vLLM 0.33.
//!
//! It is **not** an inference engine, and it does nothing by itself: no task, no clock, no socket,
//! no memory pool. A driver calls it in a loop, moves the bytes that it names, and waits for as long
//! as the cost model says. The same calls in the same order give the same answers.
//!
//! # The life of a request
//!
//! 1. [`Engine::add`] checks it, hashes its prompt into a chain ([`content`]) and queues it: `WAITING`.
//! 2. [`Engine::schedule`] looks its prompt up in the prefix cache, takes blocks for it and gives it
//!    a share of the step's token budget: `RUNNING`. The driver writes the KV bytes that
//!    [`Step::writes`] names and waits for [`CostModel::step_time`].
//! 3. [`Engine::finish_step`] returns a token for every request whose known tokens are all computed,
//!    and ends those that hit a stop token or a limit: their blocks are free again, and the full ones
//!    stay findable by their hash until someone needs the space.
//!
//! The two legs of a disaggregated request differ at the ends only. On the prefill side
//! ([`KvMode::ProduceForRemote`]) the prompt's blocks stay pinned after the end, until
//! [`Engine::release`]: the reader has notified, or its lease ([`lease`]) has run out. On the decode
//! side ([`KvMode::FromRemote`]) the first step takes blocks and asks for a [`RemoteLoad`]:
//! `WAITING_FOR_REMOTE_KVS`, until [`Engine::remote_loaded`] or [`Engine::remote_failed`]. It then
//! computes its last prompt token again, as vLLM does, because that is where its own first token
//! comes from.
//!
//! # Map
//!
//! - [`engine`]: the calls above; the one type that a driver holds. [`admission`]: which requests it
//!   takes; [`event`]: what it answers; `audit`: whether it has lost anything.
//! - `scheduler`: one step: running requests first, then waiting ones; preemption. `request_table`:
//!   the requests by slot and by id.
//! - [`step`]: what a step is to do: tokens computed, slots written, loads started.
//! - [`request`]: what a driver asks for, the states, the reasons of an end.
//! - `kv_cache`: blocks of one request: prefix hits, growth, registration, release.
//! - [`block_pool`], [`prefix_cache`], `free_queue`: reference counts, content index, eviction order.
//! - [`content`]: the bytes of a KV slot as a function of the tokens before it.
//! - [`sampler`]: the next token as a function of the same chain.
//! - [`model`], [`geometry`]: presets; bytes per token, per block, per pool.
//! - [`cost`]: how long a step takes. [`lease`]: when a pinned request expires.
//! - [`config`], [`stats`]: settings in, gauges and counters out.

pub mod admission;
mod audit;
pub mod block_pool;
pub mod config;
pub mod content;
pub mod cost;
pub mod engine;
pub mod event;
mod free_queue;
pub mod geometry;
mod kv_cache;
pub mod lease;
pub mod model;
pub mod prefix_cache;
pub mod request;
mod request_table;
pub mod sampler;
mod scheduler;
pub mod stats;
pub mod step;

pub use admission::AdmitError;
pub use block_pool::BlockId;
pub use config::{ConfigError, EngineConfig, LoadFailurePolicy};
pub use content::{ChainHash, Corrupt};
pub use cost::{CostModel, CostTable, Hardware};
pub use engine::Engine;
pub use event::{AbortOutcome, Event, ExpectedBlock, Finished};
pub use geometry::{DEFAULT_BLOCK_SIZE_TOKENS, KvGeometry};
pub use lease::LeaseTable;
pub use model::{Dtype, KvShape, Model, UnknownModel};
pub use request::{FinishReason, KvMode, NewRequest, RequestId, RequestState};
pub use sampler::EOS_TOKEN_ID;
pub use stats::{EngineStats, Totals};
pub use step::{Computed, RemoteLoad, SlotWrite, Step, StepLoad};
