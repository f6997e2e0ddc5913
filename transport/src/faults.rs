//! Releases that an agent leaves out on purpose, to show the leak that follows.
//!
//! Each is a mistake of real connectors, made where they made it: the calls are the real ones, only
//! the last of them is missing. What is kept stays owned. It shows in the
//! [`Snapshot`](crate::Snapshot), and is released when the agent closes or drops.

use std::sync::{Mutex, PoisonError};

use crate::backend::Block;
use crate::counters::Held;

/// What an agent keeps that it should release. Default: nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Handles of finished transfers: the list of blocks and, with UCX, its requests. Each counts
    /// as a transfer in flight; the memory that it wrote to is free all the same.
    pub keep_transfers: bool,
    /// Keys to the memory of peers, of which every transfer unpacks its own. UCX only; an agent
    /// of another backend does not open.
    pub keep_rkeys: bool,
    /// Endpoints and sockets of connections that have ended. One with operations under way is
    /// closed even so, because nothing else ends them.
    pub keep_endpoints: bool,
    /// Notifications: they are handed out in order, and stay queued. The queue has no bound then.
    pub keep_notifications: bool,
}

/// Handles of finished transfers that nobody released.
#[derive(Debug, Default)]
pub(crate) struct KeptTransfers(Mutex<Vec<KeptTransfer>>);

/// What is left of a finished transfer.
#[derive(Debug)]
pub(crate) struct KeptTransfer {
    /// As real handles hold their descriptor lists.
    pub(crate) _blocks: Vec<Block>,
    pub(crate) _in_flight: Held,
}

impl KeptTransfers {
    pub(crate) fn push(&self, kept: KeptTransfer) {
        self.lock().push(kept);
    }

    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<KeptTransfer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
