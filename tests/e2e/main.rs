//! End-to-end tests: real `pdlab` processes on free ports of the loopback interface.
//!
//! - [`serving`]: what clients see when all is well.
//! - [`failures`]: what they see, and what is left behind, when something goes wrong.
//! - [`faults`]: mistakes on purpose, with and without.
//! - [`foreign`]: foreign routers and clients against our services, unchanged.
//! - [`rdma`]: prefill and decode on RDMA devices.
//! - [`common`]: starts processes and ends them, whatever happens.

mod common;
mod failures;
mod faults;
mod foreign;
mod rdma;
mod serving;
