//! Waiting until an instant, to within microseconds.
//!
//! Tokio's timers tick once a millisecond, which is as much as the whole schedule error that a
//! load of thousands of requests per second may have. A timerfd fires to the kernel's resolution
//! (no timer slack either), wakes the runtime as any socket does, and costs two system calls per
//! wait; no core spins.

use std::fs::File;
use std::os::fd::AsFd;
use std::time::Instant;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::net::unix::pipe;

/// A timer for one waiter.
#[derive(Debug)]
pub(super) struct Pacer {
    timer: TimerFd,
    /// The same timer as something that the runtime can await. Reading a timerfd is reading a
    /// pipe that holds eight bytes after each expiration, and the runtime has no other safe way
    /// to watch a descriptor that is not a socket.
    expirations: pipe::Receiver,
}

impl Pacer {
    /// Takes two file descriptors. Must be called inside a tokio runtime.
    pub(super) fn new() -> std::io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        let expirations = File::from(timer.as_fd().try_clone_to_owned()?);
        Ok(Self { timer, expirations: pipe::Receiver::from_file_unchecked(expirations)? })
    }

    /// Returns at `due`, or at once if that has passed. Returns whether it had to wait.
    ///
    /// Dropping the future is harmless: the next wait sets the timer anew.
    pub(super) async fn until(&mut self, due: Instant) -> std::io::Result<bool> {
        let mut waited = false;
        loop {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(waited);
            }
            waited = true;
            let expiration = Expiration::OneShot(TimeSpec::from_duration(left));
            self.timer.set(expiration, TimerSetTimeFlags::empty())?;
            self.expirations.readable().await?;
            // Setting the timer forgets earlier expirations, but the runtime may still hold the
            // readiness of one: then there is nothing to read, and the loop waits again.
            match self.expirations.try_read(&mut [0; 8]) {
                Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn never_returns_early_and_waits_again() {
        let mut pacer = Pacer::new().unwrap();
        for wait_us in [300, 1, 2_000] {
            let due = Instant::now() + Duration::from_micros(wait_us);
            pacer.until(due).await.unwrap();
            assert!(Instant::now() >= due);
        }
        assert!(!pacer.until(Instant::now()).await.unwrap());
    }

    #[tokio::test]
    async fn a_dropped_wait_leaves_nothing_behind() {
        let mut pacer = Pacer::new().unwrap();
        let later = Instant::now() + Duration::from_secs(3600);
        let dropped = tokio::time::timeout(Duration::from_millis(1), pacer.until(later)).await;
        assert!(dropped.is_err());
        let due = Instant::now() + Duration::from_millis(5);
        assert!(pacer.until(due).await.unwrap());
        assert!(Instant::now() >= due);
    }
}
