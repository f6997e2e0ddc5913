//! End-to-end tests: real `pdlab` processes on free ports of the loopback interface.
//!
//! - [`serving`]: what clients see when all is well.
//! - [`failures`]: what they see, and what is left behind, when something goes wrong.
//! - [`faults`]: mistakes on purpose, with and without.
//! - [`foreign`]: foreign routers and clients against our services, unchanged.
//! - [`live`]: the live page in a real browser, which [`chromium`] drives.
//! - [`deploy`]: the files of `deploy/` against what is there.
//! - [`bench`]: the load generator against real roles.
//! - [`rdma`]: prefill and decode on RDMA devices.
//! - [`common`]: starts processes and ends them, whatever happens.

mod bench;
mod chromium;
mod common;
mod deploy;
mod failures;
mod faults;
mod foreign;
mod live;
mod rdma;
mod serving;
