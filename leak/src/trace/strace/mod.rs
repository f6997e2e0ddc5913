//! Tracing by `strace -k`: where perf events are closed, at the price of stopping the process twice per call.
//!
//! [`text`] parses what strace prints, and is pure; [`follow`] runs strace and keeps the account.

mod follow;
mod text;

pub(super) use follow::Follower;
