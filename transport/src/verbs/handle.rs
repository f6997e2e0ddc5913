//! One link as its callers see it.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::Context;
use super::progress::Command;
use super::queues::LinkId;
use crate::backend::{BoxFuture, Helpers, Link, Transfer};
use crate::error::Error;

/// What the two sides of a link, and the task that holds its socket, share.
#[derive(Debug)]
pub(super) struct LinkState {
    pub(super) id: LinkId,
    /// Name of the agent at the other end.
    pub(super) peer: String,
    /// Why the link ended; the first reason counts.
    reason: OnceLock<String>,
    /// Callers that look for completions, because they wait for one.
    pub(super) waiting: AtomicUsize,
    /// Cancelled when its queue pairs, queue and buffers are gone.
    pub(super) buried: CancellationToken,
    /// Cancelled when its socket is, too.
    pub(super) gone: CancellationToken,
}

impl LinkState {
    pub(super) fn new(id: LinkId, peer: String) -> Arc<Self> {
        let (buried, gone) = (CancellationToken::new(), CancellationToken::new());
        let waiting = AtomicUsize::new(0);
        Arc::new(Self { id, peer, reason: OnceLock::new(), waiting, buried, gone })
    }

    /// The link is no longer alive, for this reason unless there is an earlier one.
    pub(super) fn end(&self, reason: &str) {
        let _ = self.reason.set(reason.to_owned());
    }

    pub(super) fn is_alive(&self) -> bool {
        self.reason.get().is_none()
    }

    /// What operations on an ended link get.
    pub(super) fn lost(&self) -> Error {
        let reason = self.reason.get().map_or("the agent closes", String::as_str);
        Error::PeerLost { peer: self.peer.clone(), reason: reason.to_owned() }
    }
}

/// The handle of a link. Dropping it aborts the link.
pub(super) struct VerbsLink {
    pub(super) state: Arc<LinkState>,
    pub(super) context: Arc<Context>,
}

impl Link for VerbsLink {
    fn post(&self, transfer: Transfer) {
        if self.context.callers_poll() {
            // First: the thread is not to have the link report.
            self.state.waiting.fetch_add(1, SeqCst);
        }
        self.context.post(&self.state, transfer);
    }

    fn helpers(&self) -> Helpers {
        if self.context.callers_poll() { Helpers::Everybody } else { Helpers::Nobody }
    }

    fn help(&self) -> bool {
        self.context.help(&self.state)
    }

    fn leave(&self) {
        if self.context.callers_poll() && self.state.waiting.fetch_sub(1, SeqCst) == 1 {
            self.context.leave(&self.state);
        }
    }

    fn notify(&self, payload: Bytes) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            let (reply, sent) = oneshot::channel();
            self.context.push(Command::Notify { link: Arc::clone(&self.state), payload, reply });
            sent.await.unwrap_or_else(|_dropped| Err(self.state.lost()))
        })
    }

    fn is_alive(&self) -> bool {
        self.state.is_alive()
    }

    fn abort(&self, reason: &str) {
        // Reason first, so that whoever sees the end finds it.
        self.state.end(reason);
        if !self.state.buried.is_cancelled() {
            self.context.push(Command::Abort { link: self.state.id });
        }
    }

    fn closed(&self) -> BoxFuture<'_, ()> {
        self.abort("it was closed on this side");
        Box::pin(self.state.gone.cancelled())
    }
}

impl Drop for VerbsLink {
    fn drop(&mut self) {
        self.abort("it was dropped on this side");
    }
}
