//! Progress threads of agents that were dropped and not closed: the process must not end under them.
//!
//! They release what they hold on their own. If the process exits meanwhile, UCX's destructors would take away what
//! they still use: UCX 1.13 aborts then (`async.c`, on an InfiniBand device), or the heap is found to be damaged.

use std::sync::{Mutex, Once, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// How long the process waits at its end: what a thread may take to leave its links
/// ([`super::progress::LEAVE_TIMEOUT`]), and as much again to release what it holds.
const PATIENCE: Duration = super::progress::LEAVE_TIMEOUT.saturating_mul(2);
/// How often it looks.
const POLL: Duration = Duration::from_millis(1);

/// Of each thread what is cancelled when it has released everything.
static LEAVING: Mutex<Vec<CancellationToken>> = Mutex::new(Vec::new());

/// Makes the end of the process wait for threads that are leaving then. To be called with UCX loaded: what is
/// registered last runs first, so UCX's own handlers come after.
pub(super) fn wait_at_exit() {
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(|| {
        // SAFETY: the handler is a function of this program, which is never unloaded; it takes nothing, does not unwind
        // (below), and touches only a static that no destructor drops. If there is no room for it, nothing waits.
        unsafe { libc::atexit(wait) };
    });
}

/// The thread of a dropped agent leaves; `over` is cancelled when it has released everything.
pub(super) fn leaves(over: CancellationToken) {
    let mut leaving = LEAVING.lock().unwrap_or_else(PoisonError::into_inner);
    leaving.retain(|over| !over.is_cancelled());
    leaving.push(over);
}

extern "C" fn wait() {
    let until = Instant::now() + PATIENCE;
    let all_over = || {
        let leaving = LEAVING.lock().unwrap_or_else(PoisonError::into_inner);
        leaving.iter().all(CancellationToken::is_cancelled)
    };
    while !all_over() && Instant::now() < until {
        thread::sleep(POLL);
    }
}
