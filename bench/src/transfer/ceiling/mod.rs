//! Ceilings: what the machine and the best-known tools reach, in the same run.
//!
//! - [`memcpy`](Copies): a copy within one process; no transfer between two can be faster.
//! - [`tool`]: `iperf3` for TCP, `ucx_perftest` of the very library for UCX, `ib_read_bw` and
//!   `ib_read_lat` for RDMA devices: how they are called and what their output says. Pure.
//! - `serving`: the serving side of a tool, beside an agent. `asking`: the other side.

mod asking;
mod memcpy;
mod serving;
pub mod tool;

pub use asking::ask;
pub use memcpy::Copies;
pub use serving::{ToolServer, ToolSite};
pub use tool::Tool;
