//! From any thread to the progress thread: commands, and a bell that wakes it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Commands of type `C`, in order. Its users bound it: each has a limited number under way.
#[derive(Debug)]
pub(crate) struct Queue<C> {
    state: Mutex<State<C>>,
    /// The thread waits or is about to: ring the bell after a push.
    asleep: AtomicBool,
    bell: OwnedFd,
}

#[derive(Debug)]
struct State<C> {
    commands: VecDeque<C>,
    closed: bool,
}

impl<C> Queue<C> {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: creates a descriptor and touches no memory of ours.
        let bell = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if bell < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just opened, and nobody else's.
        let bell = unsafe { OwnedFd::from_raw_fd(bell) };
        let state = Mutex::new(State { commands: VecDeque::new(), closed: false });
        Ok(Self { state, asleep: AtomicBool::new(false), bell })
    }

    /// Hands a command over, or back if the thread takes no more.
    pub(crate) fn push(&self, command: C) -> Result<(), C> {
        let mut state = self.state();
        if state.closed {
            return Err(command);
        }
        state.commands.push_back(command);
        drop(state);
        if self.asleep.swap(false, SeqCst) {
            let one = 1_u64.to_ne_bytes();
            // SAFETY: eight valid bytes to an open descriptor. It fails only if the counter is
            // full, and then the bell rings already.
            unsafe { libc::write(self.bell.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        }
        Ok(())
    }

    /// Takes everything that waits, and leaves `spare`, an empty list, in its place.
    pub(crate) fn take(&self, spare: VecDeque<C>) -> VecDeque<C> {
        debug_assert!(spare.is_empty());
        let mut state = self.state();
        if state.commands.is_empty() {
            return spare;
        }
        std::mem::replace(&mut state.commands, spare)
    }

    /// Whether nothing waits. What was taken may still be under way.
    pub(crate) fn is_empty(&self) -> bool {
        self.state().commands.is_empty()
    }

    /// Takes no more; what waits comes back.
    pub(crate) fn close(&self) -> VecDeque<C> {
        let mut state = self.state();
        state.closed = true;
        std::mem::take(&mut state.commands)
    }

    /// Waits until one of `events` is readable, a command comes, or `timeout` is over.
    pub(crate) fn wait(
        &self,
        events: &[BorrowedFd<'_>],
        timeout: Option<Duration>,
    ) -> io::Result<()> {
        self.asleep.store(true, SeqCst);
        // A command pushed before the store above rang no bell; one pushed after it does.
        if self.state().commands.is_empty() {
            poll(events.iter().copied().chain([self.bell.as_fd()]), timeout)?;
        }
        self.asleep.store(false, SeqCst);
        let mut count = [0_u8; 8];
        // SAFETY: room for the eight bytes of the counter. The descriptor does not block; that it
        // has not rung is no error.
        unsafe { libc::read(self.bell.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State<C>> {
        // Nothing panics while the lock is held, so a poisoned one is still good.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits until one of the descriptors is readable.
fn poll<'a>(
    descriptors: impl Iterator<Item = BorrowedFd<'a>>,
    timeout: Option<Duration>,
) -> io::Result<()> {
    let entry = |descriptor: BorrowedFd<'a>| libc::pollfd {
        fd: descriptor.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let mut entries: Vec<libc::pollfd> = descriptors.map(entry).collect();
    // Rounded up: waking early would only mean to wait again.
    let timeout_ms = timeout.map_or(-1, |timeout| {
        i32::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
    });
    let count = entries.len() as libc::nfds_t;
    // SAFETY: `count` valid entries, whose descriptors are borrowed and so open.
    let ready = unsafe { libc::poll(entries.as_mut_ptr(), count, timeout_ms) };
    if ready >= 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;

    /// A descriptor that is never readable.
    fn silence() -> OwnedFd {
        Queue::<()>::new().unwrap().bell
    }

    #[test]
    fn commands_come_in_order_and_wake_the_sleeper() {
        const COUNT: u32 = 20_000;
        let queue = Arc::new(Queue::new().unwrap());
        let pusher = Arc::clone(&queue);
        let pushing = thread::spawn(move || {
            for n in 0..COUNT {
                pusher.push(n).unwrap();
            }
        });
        let silence = silence();
        let (mut seen, mut spare) = (0, VecDeque::new());
        while seen < COUNT {
            spare = queue.take(spare);
            if spare.is_empty() {
                // Without a timeout: a lost wake-up would hang here.
                queue.wait(&[silence.as_fd()], None).unwrap();
            }
            for n in spare.drain(..) {
                assert_eq!(n, seen);
                seen += 1;
            }
        }
        pushing.join().unwrap();
    }

    #[test]
    fn a_closed_queue_hands_everything_back() {
        let queue = Queue::new().unwrap();
        queue.push(1).unwrap();
        assert_eq!(queue.close(), [1]);
        assert_eq!(queue.push(2), Err(2));
        assert!(queue.take(VecDeque::new()).is_empty());
    }

    #[test]
    fn a_wait_ends_by_its_timeout_or_the_other_descriptor() {
        let queue = Queue::<()>::new().unwrap();
        let silence = silence();
        queue.wait(&[silence.as_fd()], Some(Duration::from_millis(1))).unwrap();
        let other = Queue::new().unwrap();
        other.asleep.store(true, SeqCst);
        other.push(()).unwrap();
        queue.wait(&[silence.as_fd(), other.bell.as_fd()], None).unwrap();
    }
}
