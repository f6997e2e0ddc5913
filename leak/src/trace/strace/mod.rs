//! Tracing by `strace -k`: where perf events are closed, at the price of stopping the process twice per call.
//!
//! [`text`] parses what strace prints, and is pure; [`follow`] runs strace and keeps the account.

mod follow;
mod text;

pub(super) use follow::Follower;

/// Parses `data` as lines of output.
#[cfg(fuzzing)]
pub(super) fn fuzz(data: &[u8]) {
    let mut parser = text::Parser::new([1]);
    for line in String::from_utf8_lossy(data).lines() {
        parser.line(line, &mut |_| {});
    }
}
