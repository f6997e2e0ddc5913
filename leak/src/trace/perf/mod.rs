//! Tracing by perf events: the kernel writes a record, with a copy of the user's stack, when a tracepoint is hit.
//!
//! - [`sys`]: the system calls and the buffer, all of the `unsafe`. [`session`]: events on every thread and CPU.
//! - [`record`]: records decoded; [`points`]: what they mean. [`thin`]: what to do when there are too many. Pure.
//! - [`follow`]: the thread that puts them together.

mod follow;
mod points;
mod record;
mod session;
mod sys;
mod thin;

pub(super) use follow::Follower;

/// Decodes `data` as records of a buffer.
#[cfg(fuzzing)]
pub(super) fn fuzz(data: &[u8]) {
    record::decode(data, |_| {});
}
