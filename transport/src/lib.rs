//! Moves KV bytes between processes, by one-sided reads out of registered memory.
//!
//! The shape is the one that disaggregated LLM serving uses: every process opens an [`Agent`],
//! registers its KV pool once as a [`Region`], and hands out opaque metadata. Whoever holds that
//! metadata connects, gets a [`Peer`], and [reads](Peer::read) many blocks as one transfer. The
//! owner of the blocks is not consulted; it learns of the read from the [`Notification`] that the
//! reader attaches, which arrives only after all the data has.
//!
//! What this crate is not: it knows no request, no block table and no lease. It never writes into
//! a peer's memory. It reads no environment variable and prints nothing.
//!
//! # Modules
//! - `agent`: opens a backend, keeps the table of regions, connects, drains.
//! - `peer`: checks descriptors, takes claims, enforces deadlines, keeps cancelled reads owned.
//! - [`mapping`], [`file_view`], `region`, `claims`: memory, who may touch which bytes of it, and until when.
//! - `metadata`: the bytes that one agent hands to another, and a decoder that trusts none of them.
//! - `backend`: what a backend must guarantee. `tcp` needs nothing but sockets; `ucx` (cargo feature
//!   `ucx`) opens libucp at run time; `verbs` (cargo feature `verbs`) opens libibverbs at run time.
//! - `queue`, `flow`, `unwinding`: what the progress threads of `ucx` and `verbs` share.
//! - [`builds`]: which UCX to open: versions to fetch, the system's, or a path.
//! - `counters`, `notifications`: what the [`Snapshot`] shows, and the bounded inbox.
//! - `faults`: releases that are left out on purpose, off unless asked for.
//! - [`rdma`]: which device, port and GID `verbs` takes, and how deep its queues are.
//! - [`config`], [`error`]: limits with their defaults; every way to fail, with its cure.
//!
//! # Example
//! ```
//! use std::time::Duration;
//!
//! use pdlab_transport::{Agent, AgentConfig, BackendChoice, BackendKind, Descriptor, Mapping};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = |name: &str| {
//!     let mut config = AgentConfig::new(name);
//!     config.choice = BackendChoice::Only(BackendKind::Tcp);
//!     config
//! };
//! // The owner registers its memory and hands out metadata.
//! let owner = Agent::open(config("prefill")).await?;
//! let mut memory = Mapping::anonymous(8192)?;
//! memory.as_mut_slice().fill(7);
//! owner.register(memory)?;
//! let metadata = owner.metadata()?;
//!
//! // The reader needs nothing else.
//! let reader = Agent::open(config("decode")).await?;
//! let region = reader.register(Mapping::anonymous(8192)?)?;
//! let deadline = Duration::from_secs(5);
//! let peer = reader.connect(&metadata, deadline).await?;
//! let blocks = [Descriptor::new(0, 4096, 4096), Descriptor::new(4096, 0, 4096)];
//! let report = peer.read(&region, &blocks, Some("got it".into()), deadline).await?;
//! assert_eq!(report.bytes, 8192);
//! assert!(region.read(0..8192, |bytes| bytes.iter().all(|byte| *byte == 7))?);
//! assert_eq!(owner.next_notification().await.unwrap().payload, "got it");
//!
//! reader.close().await?;
//! owner.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Thread safety
//! [`Agent`], [`Region`] and [`Peer`] are cheap clones of shared state and may be used from any
//! thread. Futures must be polled inside the tokio runtime in which the agent was opened, or
//! another one that lives as long.
//!
//! # Resource cleanup
//! [`Agent::close`] returns when tasks, sockets, endpoints and registrations are gone. Dropping
//! the last [`Agent`] and [`Peer`] without it starts the same teardown in the background.

#![expect(
    unsafe_code,
    reason = "memory mappings, raw scatter-gather I/O and FFI; each block argues its safety"
)]

mod agent;
mod backend;
pub mod builds;
mod claims;
pub mod config;
mod counters;
pub mod error;
mod faults;
pub mod file_view;
#[cfg(any(feature = "ucx", feature = "verbs"))]
mod flow;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod mapping;
mod metadata;
mod notifications;
mod peer;
#[cfg(any(feature = "ucx", feature = "verbs"))]
mod queue;
pub mod rdma;
mod region;
mod tcp;
#[cfg(feature = "ucx")]
mod ucx;
#[cfg(any(feature = "ucx", feature = "verbs"))]
mod unwinding;
#[cfg(feature = "verbs")]
mod verbs;

pub use agent::Agent;
pub use backend::{Probe, probe};
pub use config::{AgentConfig, BackendChoice, BackendKind, Limits, UcxBuild};
pub use counters::Snapshot;
pub use error::Error;
pub use faults::Faults;
pub use mapping::{Mapping, Pages};
pub use metadata::{BlockLayout, RemoteRegion};
pub use notifications::Notification;
pub use peer::{Descriptor, Peer, ReadReport};
pub use rdma::RdmaSettings;
pub use region::Region;
