//! A connection to another agent, and the reads over it.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::agent::Inner;
use crate::backend::{Block, Helpers, Link, Transfer, after};
use crate::error::Error;
use crate::metadata::{Metadata, RemoteRegion};
use crate::region::{ExclusiveClaim, Region};

/// One block to read: from where in which region of the peer, to where in the local region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Descriptor {
    /// Offset in the local region, in bytes.
    pub local_offset: usize,
    /// Offset in the peer's region, in bytes.
    pub remote_offset: u64,
    /// Bytes to move. 0 moves nothing and is checked all the same.
    pub len: usize,
    /// [`RemoteRegion::id`] of the peer's region.
    pub remote_region: u32,
}

impl Descriptor {
    /// A block of the peer's first region.
    #[must_use]
    pub fn new(local_offset: usize, remote_offset: u64, len: usize) -> Self {
        Self { local_offset, remote_offset, len, remote_region: 0 }
    }

    /// The same block, but of another region of the peer.
    #[must_use]
    pub fn in_region(self, remote_region: u32) -> Self {
        Self { remote_region, ..self }
    }
}

/// What a finished read has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadReport {
    /// Bytes that arrived.
    pub bytes: u64,
    /// Blocks with at least one byte.
    pub blocks: usize,
    /// From the call until the data was there and its notification handed over.
    pub duration: Duration,
    /// Of that, until the transfer was handed to the backend: checks, claims, and the wait for
    /// one of [`Limits::reads_per_peer`](crate::Limits::reads_per_peer).
    pub post_duration: Duration,
}

/// Another agent, connected. Clones share the connection; it ends with the last of them.
///
/// A connection that has failed stays failed: [`is_alive`](Peer::is_alive) turns false, every
/// call gives [`Error::PeerLost`], and [`Agent::connect`](crate::Agent::connect) makes a new peer,
/// from the same metadata if the other agent still runs.
#[derive(Clone)]
pub struct Peer {
    inner: Arc<PeerInner>,
}

struct PeerInner {
    // Before `agent`: the link's resources belong to the agent's backend.
    link: Arc<dyn Link>,
    metadata: Arc<Metadata>,
    slots: Arc<Semaphore>,
    /// The turn to help a link that wants one helper.
    helper: Semaphore,
    agent: Arc<Inner>,
}

impl Peer {
    pub(crate) fn new(agent: Arc<Inner>, metadata: Arc<Metadata>, link: Arc<dyn Link>) -> Self {
        let slots = Arc::new(Semaphore::new(agent.shared.limits.reads_per_peer));
        let helper = Semaphore::new(1);
        Self { inner: Arc::new(PeerInner { link, metadata, slots, helper, agent }) }
    }

    /// Name of the agent at the other end.
    #[must_use]
    pub fn remote_name(&self) -> &str {
        &self.inner.metadata.name
    }

    /// What the other agent had registered when it made its metadata.
    #[must_use]
    pub fn regions(&self) -> &[RemoteRegion] {
        &self.inner.metadata.regions
    }

    /// False once the connection is known to be gone. A stopped peer counts as alive until a
    /// deadline has passed.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.inner.link.is_alive()
    }

    /// Reads many blocks of the peer's memory into `region`, as one transfer. The peer's program
    /// takes no part in it; when all the data is here, it is sent `notification`, if any.
    ///
    /// Blocks may come in any order but must not overlap locally. When the future resolves, with
    /// success or not, nothing writes into the local ranges any more. After an error their
    /// content is undefined.
    ///
    /// Dropping the future cancels the read: its notification is not sent, but the data may still
    /// arrive, so the local ranges stay [busy](Error::Busy) until it has or `deadline` is over.
    ///
    /// # Errors
    /// [`Error::Deadline`] after `deadline`; if the read was under way, this ends the connection,
    /// because that is the only way to be sure that late data is not written, and other reads on
    /// it get [`Error::PeerLost`]. [`Error::OutOfRange`] and [`Error::Busy`] name the range at fault.
    /// [`Error::TooLarge`], [`Error::NotRegistered`], [`Error::Closed`] as they say.
    pub async fn read(
        &self,
        region: &Region,
        descriptors: &[Descriptor],
        notification: Option<Bytes>,
        deadline: Duration,
    ) -> Result<ReadReport, Error> {
        let result = self.read_by(region, descriptors, notification, deadline).await;
        self.inner.count(result)
    }

    /// Sends a notification on its own: a heartbeat, or a read that turned out empty. Resolves
    /// when it is on its way, which does not say that the peer has looked at it.
    ///
    /// # Errors
    /// [`Error::Deadline`], [`Error::PeerLost`], [`Error::TooLarge`], [`Error::Closed`].
    pub async fn notify(&self, payload: Bytes, deadline: Duration) -> Result<(), Error> {
        let result = async {
            self.inner.check_open("notify a peer")?;
            self.inner.check_notification(&payload)?;
            let sent = self.inner.link.notify(payload);
            self.inner.within("notify", deadline, after(deadline), sent).await
        };
        self.inner.count(result.await)
    }

    /// Ends the connection; resolves when its resources are gone. Reads in flight, on any clone,
    /// get [`Error::PeerLost`].
    pub async fn close(&self) {
        self.inner.link.abort("it was closed on this side");
        self.inner.link.closed().await;
    }

    async fn read_by(
        &self,
        region: &Region,
        descriptors: &[Descriptor],
        notification: Option<Bytes>,
        deadline: Duration,
    ) -> Result<ReadReport, Error> {
        let peer = &self.inner;
        let (started, expires) = (Instant::now(), after(deadline));
        peer.check_open("read from a peer")?;
        if let Some(payload) = &notification {
            peer.check_notification(payload)?;
        }
        let blocks = peer.check_blocks(region, descriptors)?;
        let count = blocks.len();
        let bytes: u64 = blocks.iter().map(|block| block.len as u64).sum();
        peer.agent.shared.counters.transfers_total.fetch_add(1, Relaxed);

        let mut post_duration = started.elapsed();
        if !blocks.is_empty() {
            let slot = peer.within("read from", deadline, expires, peer.slot()).await?;
            let ranges = blocks.iter().map(Block::range).collect();
            let claim = ExclusiveClaim::for_transfer(&region.core, ranges)?;
            let in_flight = peer.agent.shared.counters.transfers_in_flight.hold(1);
            let shared = &peer.agent.shared;
            let keeper = shared.faults.keep_transfers.then(|| Arc::clone(&shared.kept_transfers));
            let (transfer, result) =
                Transfer::new(claim, blocks, notification, in_flight, slot, keeper);
            let cancelled = transfer.cancelled();
            let mut wait = Wait { peer, expires, cancelled, result: Some(result) };
            peer.link.post(transfer);
            post_duration = started.elapsed();
            wait.until_done(deadline).await?;
        } else if let Some(payload) = notification {
            peer.within("notify", deadline, expires, peer.link.notify(payload)).await?;
        }
        peer.agent.shared.counters.bytes_read.fetch_add(bytes, Relaxed);
        Ok(ReadReport { bytes, blocks: count, duration: started.elapsed(), post_duration })
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer")
            .field("remote_name", &self.remote_name())
            .field("is_alive", &self.is_alive())
            .finish_non_exhaustive()
    }
}

impl PeerInner {
    async fn slot(&self) -> Result<tokio::sync::OwnedSemaphorePermit, Error> {
        let slot = Arc::clone(&self.slots).acquire_owned().await;
        slot.map_err(|_closed| self.lost("the connection was closed"))
    }

    /// Runs something that may take until `expires`.
    async fn within<T>(
        &self,
        operation: &'static str,
        deadline: Duration,
        expires: Instant,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let expired = |_| self.deadline(operation, deadline);
        timeout_at(expires, work).await.map_err(expired)?
    }

    fn check_open(&self, operation: &'static str) -> Result<(), Error> {
        if self.agent.is_closing() {
            return Err(Error::Closed { operation });
        }
        if self.link.is_alive() {
            Ok(())
        } else {
            Err(self.lost("the connection has ended before"))
        }
    }

    fn check_notification(&self, payload: &Bytes) -> Result<(), Error> {
        let (size, limit) =
            (payload.len() as u64, self.agent.shared.limits.notification_bytes as u64);
        if size <= limit {
            return Ok(());
        }
        Err(Error::TooLarge { what: "the notification", size, limit })
    }

    /// Checks every descriptor at both ends; those without bytes end here.
    fn check_blocks(
        &self,
        region: &Region,
        descriptors: &[Descriptor],
    ) -> Result<Vec<Block>, Error> {
        if region.core.agent != self.agent.shared.instance {
            return Err(Error::NotRegistered { region: region.core.id });
        }
        let limit = self.agent.shared.limits.descriptors_per_read as u64;
        if descriptors.len() as u64 > limit {
            let size = descriptors.len() as u64;
            return Err(Error::TooLarge { what: "the number of descriptors", size, limit });
        }
        let mut blocks = Vec::with_capacity(descriptors.len());
        for (index, descriptor) in descriptors.iter().enumerate() {
            let local = (descriptor.local_offset as u64, region.len() as u64);
            check_range("local", index, local, descriptor.len as u64)?;
            let remote = self.metadata.index_of(descriptor.remote_region);
            let limit = remote.map_or(0, |at| self.metadata.regions[at].len);
            let remote = (descriptor.remote_offset, limit);
            check_range("remote", index, remote, descriptor.len as u64)?;
            if descriptor.len > 0 {
                blocks.push(Block {
                    local_offset: descriptor.local_offset,
                    remote_region: descriptor.remote_region,
                    remote_offset: descriptor.remote_offset,
                    len: descriptor.len,
                });
            }
        }
        Ok(blocks)
    }

    /// Counts a failure on its way out; a connection that ends with its agent is `Closed`.
    fn count<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        let error = match result {
            Ok(value) => return Ok(value),
            Err(Error::PeerLost { .. }) if self.agent.is_closing() => {
                Error::Closed { operation: "finish the operation" }
            }
            Err(error) => error,
        };
        self.agent.shared.counters.fail(error.kind());
        Err(error)
    }

    fn lost(&self, reason: &str) -> Error {
        Error::PeerLost { peer: self.metadata.name.clone(), reason: reason.to_owned() }
    }

    fn deadline(&self, operation: &'static str, after: Duration) -> Error {
        Error::Deadline { operation, peer: self.metadata.name.clone(), after }
    }
}

/// A posted read whose caller waits. If the caller leaves, the deadline is enforced without it.
struct Wait<'a> {
    peer: &'a Arc<PeerInner>,
    expires: Instant,
    /// Tells the backend that nobody waits for the transfer any more.
    cancelled: Arc<AtomicBool>,
    /// Taken when the result is there.
    result: Option<oneshot::Receiver<Result<(), Error>>>,
}

impl Wait<'_> {
    async fn until_done(&mut self, deadline: Duration) -> Result<(), Error> {
        let dropped = |_| Err(self.peer.lost("the backend gave the transfer up"));
        let result = self.result.as_mut().expect("only this function takes it, at its end");
        let link = &self.peer.link;
        let finished = {
            let mut expired = pin!(sleep_until(self.expires));
            let helpers = link.helpers();
            let mut turn = pin!(self.peer.helper.acquire());
            // Some when it is our turn, which ends with this block.
            let mut ours = None;
            let ended = poll_fn(|context| {
                let mut finished = Pin::new(&mut *result).poll(context);
                if finished.is_pending()
                    && helpers == Helpers::One
                    && ours.is_none()
                    && let Poll::Ready(permit) = turn.as_mut().poll(context)
                {
                    ours = permit.ok();
                }
                let helps = ours.is_some() || helpers == Helpers::Everybody;
                if finished.is_pending() && helps && link.help() {
                    finished = Pin::new(&mut *result).poll(context);
                    if finished.is_pending() {
                        // Others of this thread have their turn; then it helps again.
                        context.waker().wake_by_ref();
                    }
                }
                if finished.is_ready() {
                    return finished.map(Some);
                }
                expired.as_mut().poll(context).map(|()| None)
            });
            ended.await
        };
        let finished = match finished {
            Some(finished) => finished.unwrap_or_else(dropped),
            None => {
                link.abort(DEADLINE_PASSED);
                // Not bounded by time: the caller must not get its bytes back before the device
                // has let go of them, and `abort` guarantees that it will.
                let finished = result.await.unwrap_or_else(dropped);
                finished.map_err(|_| self.peer.deadline("read from", deadline))
            }
        };
        self.result = None;
        finished
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.peer.link.leave();
        let Some(result) = self.result.take() else { return };
        self.cancelled.store(true, Relaxed);
        let shared = &self.peer.agent.shared;
        shared.counters.fail("cancelled");
        // Weak: when the peer goes too, nothing needs to wait for the deadline.
        let (link, expires) = (Arc::downgrade(&self.peer.link), self.expires);
        shared.runtime.spawn(async move {
            if timeout_at(expires, result).await.is_err()
                && let Some(link) = link.upgrade()
            {
                link.abort(DEADLINE_PASSED);
            }
        });
    }
}

const DEADLINE_PASSED: &str = "a read on it passed its deadline";

/// `limit` is the region's length; nothing at all fits into a region that does not exist.
fn check_range(
    side: &str,
    index: usize,
    (offset, limit): (u64, u64),
    len: u64,
) -> Result<(), Error> {
    if limit > 0 && offset.checked_add(len).is_some_and(|end| end <= limit) {
        return Ok(());
    }
    let what = format!("the {side} range of descriptor {index}");
    Err(Error::OutOfRange { what, offset, len, limit })
}
