//! One incoming connection as the progress thread sees it. Its peer's reads are the device's
//! business alone; here are only notifications, and the end.

use std::sync::{Arc, OnceLock};

use tokio_util::sync::{CancellationToken, DropGuard};

use super::memory::Buffers;
use super::queues::{CompletionQueue, LinkId, Polled, QueuePair};
use super::status::of_completion;
use crate::backend::Shared;
use crate::error::Error;

/// What the progress thread and the task that holds the socket share.
#[derive(Debug, Default)]
pub(super) struct InboundState {
    /// Cancelled when the connection is of no use any more.
    pub(super) broken: CancellationToken,
    /// Why; the first reason counts.
    pub(super) reason: OnceLock<String>,
    /// Cancelled when its queue pairs, queue and buffers are gone.
    pub(super) gone: CancellationToken,
}

pub(super) struct Inbound {
    // The following drop in this order: see `Link`.
    pairs: Vec<QueuePair>,
    buffers: Buffers,
    queue: CompletionQueue,
    pub(super) id: LinkId,
    /// The peer's name.
    name: String,
    /// The queue will report; until then there is nothing in it.
    pub(super) armed: bool,
    pub(super) state: Arc<InboundState>,
    shared: Arc<Shared>,
    /// Last: whoever waits for this finds nothing left.
    _gone: DropGuard,
}

impl Inbound {
    /// Takes over queue pairs that are not connected yet, and posts room for messages to the
    /// first one.
    ///
    /// # Errors
    /// What the device says.
    pub(super) fn new(
        (id, name): (LinkId, String),
        pairs: Vec<QueuePair>,
        buffers: Buffers,
        queue: CompletionQueue,
        shared: &Arc<Shared>,
    ) -> Result<Self, Error> {
        let state = Arc::new(InboundState::default());
        let _gone = state.gone.clone().drop_guard();
        let shared = Arc::clone(shared);
        let inbound = Self { pairs, buffers, queue, id, name, armed: false, state, shared, _gone };
        (0..super::link::MESSAGES).try_for_each(|buffer| inbound.make_room(buffer))?;
        Ok(inbound)
    }

    pub(super) fn pairs(&self) -> &[QueuePair] {
        &self.pairs
    }

    /// Delivers what has arrived. False if there was nothing.
    pub(super) fn poll(&mut self) -> bool {
        let Polled::Some(completions) = self.queue.poll() else {
            self.fail("rdma_queue_overrun", "its completion queue failed");
            return false;
        };
        let any = !completions.is_empty();
        for completion in completions {
            if completion.status != 0 {
                if let Some(failure) = of_completion(completion.status) {
                    self.fail(failure.kind, failure.text);
                } else {
                    self.end("its queue pair failed");
                }
                continue;
            }
            let buffer = completion.tag as usize;
            // SAFETY: the receive into this buffer has completed, and none was posted since.
            let payload = unsafe { self.buffers.message(buffer, completion.len as usize) };
            self.shared.deliver(&self.name, payload);
            if let Err(error) = self.make_room(buffer) {
                self.end(&error.to_string());
            }
        }
        any
    }

    /// Asks for a report on the next completion.
    pub(super) fn arm(&mut self) {
        self.queue.arm();
        self.armed = true;
    }

    /// The connection is broken, for a reason that is counted.
    pub(super) fn fail(&self, kind: &'static str, reason: &str) {
        if !self.state.broken.is_cancelled() {
            self.shared.counters.fail(kind);
        }
        self.end(reason);
    }

    pub(super) fn has_pair_at(&self, address: usize) -> bool {
        self.pairs.iter().any(|pair| pair.is_at(address))
    }

    fn end(&self, reason: &str) {
        // Reason first, so that whoever sees the end finds it.
        let _ = self.state.reason.set(reason.to_owned());
        self.state.broken.cancel();
    }

    fn make_room(&self, buffer: usize) -> Result<(), Error> {
        let place = (self.buffers.address(buffer), self.buffers.len as u32, self.buffers.lkey());
        // SAFETY: the buffer lives as long as the queue pair, and is not looked at until the
        // receive has completed.
        unsafe { self.pairs[0].post_receive(buffer as u64, place) }
    }
}
