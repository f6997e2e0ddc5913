//! What callers do on their own threads: post when nobody is ahead of them, which saves them from
//! waking the progress thread; and, if the settings say so, poll for the completions that they wait
//! for ([`Completion::Poll`](crate::rdma::Completion::Poll)). The thread leaves such links to them.

use std::sync::{Arc, MutexGuard, TryLockError};

use super::Context;
use super::handle::LinkState;
use super::link::Link;
use super::progress::{Command, Progress};
use crate::backend::Transfer;
use crate::unwinding::or_abort;

/// How often a caller polls in one go, which takes some 50 µs: longer than a read on RDMA hardware,
/// so that it rarely goes back to its runtime with nothing, which wakes another thread there to see
/// what there is to do; and not too long for the other tasks of its own. Counted and not timed,
/// because looking at the clock takes as long as polling.
const POLLS: usize = 512;

impl Context {
    /// The lock, for a caller. None if somebody else is at it or something waits in the queue,
    /// which comes first and is the thread's: it may be about to sleep, and would not look again
    /// at what others took from there.
    fn try_progress(&self) -> Option<MutexGuard<'_, Progress>> {
        let progress = match self.progress.try_lock() {
            Ok(progress) => progress,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        self.queue.is_empty().then_some(progress)
    }

    /// Posts a transfer: on this thread if nobody is ahead of it. Where something is under way and
    /// completions wake the thread, it is the thread's: it takes together what has come together,
    /// and a wake-up for several transfers is cheaper than one for each.
    pub(super) fn post(&self, state: &Arc<LinkState>, transfer: Transfer) {
        let is_ours = |progress: &Progress| {
            let link = progress.links.get(&state.id);
            self.callers_poll() || link.is_none_or(|link| !link.is_busy())
        };
        let Some(mut progress) = self.try_progress().filter(|progress| is_ours(progress)) else {
            return self.push(Command::Post { link: Arc::clone(state), transfer });
        };
        or_abort(|| {
            progress.post(self, state, transfer);
            let Some(link) = progress.links.get_mut(&state.id) else { return };
            let armed = link.armed;
            // Ends when its queue pairs are full, at the latest.
            while link.pump() {}
            // As before: it will report what was posted now, too.
            link.armed = armed;
            self.let_it_report(link);
        });
    }

    /// Looks for completions of a link on the thread of a caller that waits for one. False if that
    /// link is over, and this one is to sleep.
    pub(super) fn help(&self, state: &LinkState) -> bool {
        for _ in 0..POLLS {
            let Some(mut progress) = self.try_progress() else { break };
            // One that is over has told everybody who waited.
            let Some(link) = progress.links.get_mut(&state.id) else { return false };
            let any = or_abort(|| {
                let any = link.poll() | link.pump();
                self.let_it_report(link);
                any
            });
            drop(progress);
            if any {
                break;
            }
            std::hint::spin_loop();
        }
        true
    }

    /// A caller helps with this link no more.
    pub(super) fn leave(&self, state: &LinkState) {
        let Some(mut progress) = self.try_progress() else {
            // Whoever is at it may have looked at the link before this caller had left.
            return self.push(Command::Look);
        };
        if let Some(link) = progress.links.get_mut(&state.id).filter(|link| link.is_busy()) {
            or_abort(|| self.let_it_report(link));
        }
    }

    /// Arms the queue of a link, unless callers look after it. A link that ends is the thread's.
    fn let_it_report(&self, link: &mut Link) {
        while link.is_to_report() && !link.armed {
            link.arm();
            // One that came before it was armed reports nothing.
            if link.poll() | link.pump() {
                link.armed = false;
            }
        }
        if link.is_ending() {
            self.push(Command::Look);
        }
    }
}
