//! End-to-end tests: real `pdlab` processes on free ports of the loopback interface.
//!
//! - [`serving`]: what clients see when all is well.
//! - [`failures`]: what they see, and what is left behind, when something goes wrong.
//! - [`faults`]: mistakes on purpose, with and without.
//! - [`foreign`]: foreign routers and clients against our services, unchanged.
//! - [`bench`]: the load generator against real roles.
//! - [`common`]: starts processes and ends them, whatever happens.

mod bench;
mod common;
mod failures;
mod faults;
mod foreign;
mod serving;
