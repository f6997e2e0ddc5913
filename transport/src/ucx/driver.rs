//! Who drives UCX: the progress thread, or callers that wait for a transfer.
//!
//! With completion by event, the thread has everything to itself and sleeps when there is nothing to
//! do. With polling ([`Completion::Poll`]), callers drive the worker of the agent while they wait,
//! which hands nothing over to another thread; the thread does so while nobody waits, for peers whose
//! gets UCX emulates, and looks in now and then on callers that do not come round to it. It sleeps
//! when for a while there was nothing to do: who measures something else is not to find us spinning.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::handle::LinkState;
use super::library::Ucx;
use super::progress::{Command, Progress};
use crate::backend::{Shared, Transfer};
use crate::config::AgentConfig;
use crate::error::Error;
use crate::queue::Queue;
use crate::rdma::Completion;
use crate::unwinding::or_abort;

/// How often a caller progresses in one go; each takes about a microsecond where sockets are asked.
const STEPS: usize = 16;
/// How long the thread leaves the worker to callers before it looks in on them.
const NAP: Duration = Duration::from_millis(1);
/// How long the thread spins before it sleeps until there is an event. Many times what a peer that
/// reads takes from one read to the next.
const SPIN: Duration = Duration::from_millis(10);

/// What the opener learns of an opened backend.
pub(super) struct Opened {
    pub(super) version: String,
    /// Framed for metadata.
    pub(super) address: Bytes,
}

/// UCX of one agent, and its queue.
pub(super) struct Driver {
    pub(super) queue: Queue<Command>,
    /// None before it is opened, and when it is over.
    progress: Mutex<Option<Progress>>,
    completion: Completion,
    /// Callers that wait, and drive.
    waiting: AtomicUsize,
    /// How often a caller has posted, or has had it done; wraps.
    posts: AtomicUsize,
}

impl Driver {
    pub(super) fn new(queue: Queue<Command>, completion: Completion) -> Self {
        let (waiting, posts) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { queue, progress: Mutex::new(None), completion, waiting, posts }
    }

    /// The body of the thread. Returns when everything is released.
    pub(super) fn run(
        &self,
        ucx: &'static Ucx,
        config: &AgentConfig,
        shared: Arc<Shared>,
        opened: oneshot::Sender<Result<Opened, Error>>,
    ) {
        // Transfers live in there while UCX may write into their memory. Without the one who ends
        // them they would stay for ever.
        or_abort(|| {
            match Progress::open(ucx, config, shared) {
                Ok((progress, address)) => {
                    *self.lock() = Some(progress);
                    let version = ucx.version.to_string();
                    // If the opener has gone, there is nobody to close this.
                    if opened.send(Ok(Opened { version, address })).is_ok() {
                        self.drive();
                    }
                    let progress = self.lock().take();
                    drop(progress);
                }
                Err(error) => {
                    let _ = opened.send(Err(error));
                }
            }
            self.queue.close().into_iter().for_each(Command::refuse);
        });
    }

    fn drive(&self) {
        if !self.callers_drive() {
            // Nobody else asks for the lock.
            if let Some(progress) = self.lock().as_mut() {
                progress.run(&self.queue);
            }
            return;
        }
        let mut seen = self.posts.load(SeqCst);
        let mut idle_since = None;
        loop {
            let mut progress = self.lock();
            let Some(open) = progress.as_mut().filter(|open| !open.is_over()) else { return };
            // What was given up may have been the last that this agent waited for.
            let busy = open.turn(&self.queue) | open.expire_if_due();
            // Between two reads of a caller it is in the way, too: it has the lock when the next one
            // is posted.
            let posts = self.posts.load(SeqCst);
            let callers_were_here = std::mem::replace(&mut seen, posts) != posts;
            if busy || callers_were_here || self.waiting.load(SeqCst) > 0 {
                idle_since = None;
            } else if idle_since.get_or_insert_with(Instant::now).elapsed() >= SPIN {
                // With the lock: a caller that comes leaves its transfer in the queue, which ends it.
                open.sleep(&self.queue);
            }
            drop(progress);
            if callers_were_here || self.waiting.load(SeqCst) > 0 {
                // A command ends it. That waiting itself fails says nothing of UCX.
                if self.queue.wait(&[], Some(NAP)).is_err() {
                    thread::sleep(NAP);
                }
            } else if !busy {
                // Whoever wants the processor gets it.
                thread::yield_now();
            }
        }
    }

    pub(super) fn callers_drive(&self) -> bool {
        self.completion == Completion::Poll
    }

    /// Hands a command to the thread.
    pub(super) fn push(&self, command: Command) {
        if let Err(command) = self.queue.push(command) {
            command.refuse();
        }
    }

    /// Posts a transfer: on this thread if callers drive and nobody is ahead of it.
    pub(super) fn post(&self, link: &Arc<LinkState>, transfer: Transfer) {
        if self.callers_drive() {
            self.waiting.fetch_add(1, SeqCst);
            self.posts.fetch_add(1, SeqCst);
            if let Some(mut progress) = self.try_lock()
                && let Some(open) = progress.as_mut()
            {
                return or_abort(|| open.post(link, transfer));
            }
        }
        self.push(Command::Post { link: Arc::clone(link), transfer });
    }

    /// Progresses on the thread of a caller that waits for a transfer of this link. False if that
    /// link is over, and this one is to sleep.
    pub(super) fn help(&self, link: &LinkState) -> bool {
        for _ in 0..STEPS {
            let Some(mut progress) = self.try_lock() else { break };
            // What is over has told everybody who waited.
            let Some(open) = progress.as_mut().filter(|open| open.has(link)) else { return false };
            if or_abort(|| open.step()) {
                break;
            }
        }
        true
    }

    /// A caller for which was posted drives no more.
    pub(super) fn leave(&self) {
        if self.callers_drive() {
            self.waiting.fetch_sub(1, SeqCst);
        }
    }

    /// The lock, for a caller. None if somebody else has it, or if something waits in the queue,
    /// which comes first.
    fn try_lock(&self) -> Option<MutexGuard<'_, Option<Progress>>> {
        let progress = match self.progress.try_lock() {
            Ok(progress) => progress,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        self.queue.is_empty().then_some(progress)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Progress>> {
        // Whoever panics while it holds the lock ends the process.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
