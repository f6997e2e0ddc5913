//! `pdlab bench transfer`: KV-shaped block transfers between agents in processes of their own, on
//! one host or several, with the ceiling measured beside them.
//!
//! One process coordinates and moves nothing itself. Every agent is a process that listens: started
//! here as a child, or by hand on another host. The coordinator tells each over a control connection
//! what to open, whom to connect to, and what to move; bytes go between the agents alone.
//!
//! What is measured is the transport's own contract, whatever the backend: a new one needs nothing
//! here.
//!
//! # Modules
//! - [`options`]: the command line. [`plan`]: the cells of a sweep and the memory they need;
//!   [`topology`]: who moves bytes to whom. Pure.
//! - [`mod@run`]: start here. Rounds over all cells in turn, ceilings between them.
//! - [`fleet`]: agents as the coordinator sees them. [`wire`]: what they say to each other.
//! - [`listen`](mod@listen), [`session`]: an agent in the service of a coordinator.
//! - `pull`, `read`, `write`: moving blocks. [`content`]: what must arrive.
//! - [`ceiling`]: memcpy, `iperf3`, `ucx_perftest`, `ib_read_bw`.
//! - [`stats`], [`result`], [`table`](mod@table), [`words`]: figures and how they are shown. Pure.

pub mod ceiling;
pub mod content;
pub mod error;
pub mod fleet;
pub mod listen;
pub mod options;
pub mod plan;
mod pull;
mod read;
pub mod result;
pub mod run;
pub mod session;
pub mod stats;
pub mod table;
pub mod topology;
pub mod wire;
pub mod words;
mod write;

pub use error::{Error, Refusal};
pub use fleet::{Listening, Sites};
pub use listen::listen;
pub use options::Options;
pub use result::TransferReport;
pub use run::{Setting, run};
pub use session::{Home, Wish};
pub use table::table;
