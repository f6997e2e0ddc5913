//! One link as its callers see it.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::driver::Driver;
use super::events::LinkId;
use super::progress::Command;
use crate::backend::{BoxFuture, Helpers, Link, Transfer};
use crate::error::Error;

/// What the two sides of a link share.
#[derive(Debug)]
pub(super) struct LinkState {
    pub(super) id: LinkId,
    /// Name of the agent at the other end.
    pub(super) peer: String,
    /// Why the link ended; the first reason counts.
    reason: OnceLock<String>,
    /// Cancelled when every resource of the link is gone.
    gone: CancellationToken,
}

impl LinkState {
    pub(super) fn new(id: LinkId, peer: String) -> Arc<Self> {
        Arc::new(Self { id, peer, reason: OnceLock::new(), gone: CancellationToken::new() })
    }

    /// The link is no longer alive, for this reason unless there is an earlier one.
    pub(super) fn end(&self, reason: &str) {
        let _ = self.reason.set(reason.to_owned());
    }

    /// Nothing of the link is left.
    pub(super) fn set_gone(&self) {
        self.end("the agent closes");
        self.gone.cancel();
    }

    /// What operations on an ended link get.
    pub(super) fn lost(&self) -> Error {
        let reason = self.reason.get().map_or("the agent closes", String::as_str);
        Error::PeerLost { peer: self.peer.clone(), reason: reason.to_owned() }
    }

    /// What a connect gets that came to nothing.
    pub(super) fn unreachable(&self) -> Error {
        let reason = self.reason.get().map_or("the agent closes", String::as_str);
        Error::Unreachable { peer: self.peer.clone(), reason: reason.to_owned() }
    }
}

/// The handle of a link. Dropping it aborts the link, also before it is connected.
pub(super) struct UcxLink {
    pub(super) state: Arc<LinkState>,
    pub(super) driver: Arc<Driver>,
}

impl Link for UcxLink {
    fn post(&self, transfer: Transfer) {
        self.driver.post(&self.state, transfer);
    }

    fn helpers(&self) -> Helpers {
        if self.driver.callers_drive() { Helpers::One } else { Helpers::Nobody }
    }

    fn help(&self) -> bool {
        self.driver.help(&self.state)
    }

    fn leave(&self) {
        self.driver.leave();
    }

    fn notify(&self, payload: Bytes) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            let (reply, sent) = oneshot::channel();
            self.driver.push(Command::Notify { link: Arc::clone(&self.state), payload, reply });
            sent.await.unwrap_or_else(|_dropped| Err(self.state.lost()))
        })
    }

    fn is_alive(&self) -> bool {
        self.state.reason.get().is_none()
    }

    fn abort(&self, reason: &str) {
        // Reason first, so that whoever sees the end finds it.
        self.state.end(reason);
        if !self.state.gone.is_cancelled() {
            self.driver.push(Command::Abort { link: self.state.id });
        }
    }

    fn closed(&self) -> BoxFuture<'_, ()> {
        self.abort("it was closed on this side");
        Box::pin(self.state.gone.cancelled())
    }
}

impl Drop for UcxLink {
    fn drop(&mut self) {
        self.abort("it was dropped on this side");
    }
}
