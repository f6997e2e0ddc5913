//! The seam between what every backend shares and what each one does.
//!
//! Shared, and done before a backend is called: range checks on both sides, claims, waiting for a
//! slot, deadlines, cancellation, failure counts, the metadata's encoding, the table of regions.
//! A backend moves the bytes of a [`Transfer`] and keeps it until its device is done with it.

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use crate::config::{AgentConfig, BackendChoice, BackendKind, Limits, UcxBuild};
use crate::counters::{Counters, Held, Snapshot};
use crate::error::Error;
use crate::faults::{Faults, KeptTransfer, KeptTransfers};
use crate::metadata::Metadata;
use crate::notifications::{Notification, Notifications};
use crate::rdma::RdmaSettings;
use crate::region::{ExclusiveClaim, RegionCore};
use crate::tcp;
#[cfg(feature = "ucx")]
use crate::ucx;
#[cfg(feature = "verbs")]
use crate::verbs;

/// What the methods of a backend return: boxed, so that backends can be chosen at run time.
pub(crate) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What an agent shares with its backend. Holds nothing that holds the backend: dropping the last
/// handle of the backend must be possible while its tasks still have this.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) name: String,
    /// Random per agent; also in its metadata. A server refuses clients that look for another.
    pub(crate) instance: u64,
    pub(crate) limits: Limits,
    pub(crate) counters: Counters,
    pub(crate) notifications: Notifications,
    pub(crate) faults: Faults,
    /// Empty without [`Faults::keep_transfers`].
    pub(crate) kept_transfers: Arc<KeptTransfers>,
    /// The runtime in which the agent was opened; for tasks that a destructor must start.
    pub(crate) runtime: Handle,
}

impl Shared {
    /// Delivers a notification from a peer, or counts it as dropped.
    pub(crate) fn deliver(&self, from: &str, payload: Bytes) {
        let notification = Notification { from: from.to_owned(), payload };
        if !self.notifications.push(notification) {
            self.counters.fail("notifications_dropped");
        }
    }
}

/// One opened backend of one agent.
///
/// Dropping it without `close` must release everything too, in the background if need be, and
/// must not block or panic.
pub(crate) trait Backend: Send + Sync + 'static {
    fn kind(&self) -> BackendKind;

    /// Version of the library behind it, as it reports it at run time.
    fn version(&self) -> Option<String>;

    /// Makes `region` readable by peers and returns the key that they need for that. The backend
    /// keeps the `Arc` until `deregister`, at the latest until `close` or drop: the memory must not
    /// be unmapped while a device may reach it.
    fn register(&self, region: &Arc<RegionCore>) -> Result<Bytes, Error>;

    /// Takes the region back: its key is void, and the backend lets go of the `Arc`. No transfer
    /// of this agent is under way in it, and none will be posted. What peers get that read it all
    /// the same is up to the backend.
    fn deregister(&self, region: &RegionCore) -> Result<(), Error>;

    /// What it sets that its library would not, as environment variables: who sets them runs the
    /// library as this backend does.
    fn settings(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    /// Adds what only the backend knows.
    fn observe(&self, _snapshot: &mut Snapshot) {}

    /// Where peers reach this agent, in the backend's own encoding.
    fn address(&self) -> Result<Bytes, Error>;

    /// Connects. `metadata` has been decoded and is of this backend, but its address, keys and
    /// bases are still foreign bytes. Dropping the future gives up and releases what it had.
    /// Success means that the peer has answered where the backend can tell.
    fn connect(&self, metadata: Arc<Metadata>) -> BoxFuture<'_, Result<Arc<dyn Link>, Error>>;

    /// Releases everything: ends every link as `Link::abort` does, deregisters the regions, stops
    /// listening, joins tasks and threads. Resolves when all of it is gone, and every transfer
    /// and [`Held`] with it. May be called again, also after an earlier call was dropped halfway.
    fn close(&self) -> BoxFuture<'_, Result<(), Error>>;
}

/// Who of those that wait for transfers of a link offers its thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Helpers {
    Nobody,
    /// One at a time: more would be in each other's way, and in that of those whose transfers have
    /// ended. The link manages for a while with a helper whose future nobody polls.
    #[cfg_attr(not(feature = "ucx"), expect(dead_code, reason = "UCX asks for it"))]
    One,
    /// Whoever waits.
    #[cfg_attr(not(feature = "verbs"), expect(dead_code, reason = "verbs asks for it"))]
    Everybody,
}

/// One connection to one peer. Dropping the last handle is an `abort`; handles may be dropped
/// anywhere, also outside of a runtime.
pub(crate) trait Link: Send + Sync + 'static {
    /// Starts a transfer; must not block. The backend calls [`Transfer::finish`] exactly once,
    /// when its device will touch the local ranges no more, whatever happened. Several transfers
    /// may be in flight (at most `Limits::reads_per_peer`) and may finish in any order.
    ///
    /// With a notification: it is sent after the last byte has arrived here, unless the transfer
    /// failed or nobody waits any more ([`Transfer::take_notification`] decides that), and the
    /// transfer finishes when the notification needs nothing more from this process than that the
    /// link is not aborted. A `close` of the agent right after a finished read must not lose it.
    fn post(&self, transfer: Transfer);

    /// Who of those that wait for transfers is to [`help`](Self::help). Always the same.
    fn helpers(&self) -> Helpers {
        Helpers::Nobody
    }

    /// Who waits for a posted transfer offers its thread for a moment, every time before it sleeps.
    /// True: it was of use, and is again; do not sleep, but let others of your thread have their
    /// turn.
    fn help(&self) -> bool {
        false
    }

    /// Who has posted a transfer helps no more: it has its result, or has gone without. Called
    /// once per `post`.
    fn leave(&self) {}

    /// Sends a notification, in order with those of this link's finished transfers. Resolves as
    /// for `post`; dropping the future may or may not still send it.
    fn notify(&self, payload: Bytes) -> BoxFuture<'_, Result<(), Error>>;

    /// False once the connection is known to be gone. Never true again.
    fn is_alive(&self) -> bool;

    /// Tears the connection down. Must not block, may be called more than once and together with
    /// everything else. Every transfer in flight finishes with [`Error::PeerLost`], as soon as
    /// the device is done with it: that must not depend on the peer, which may be stopped.
    fn abort(&self, reason: &str);

    /// Resolves when an aborted link's resources are gone; calls `abort` if nobody has.
    fn closed(&self) -> BoxFuture<'_, ()>;
}

/// One block to move. The ranges were checked against the local region and the peer's metadata.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block {
    /// Offset in the transfer's region.
    pub(crate) local_offset: usize,
    /// Id of a region that exists in the peer's metadata.
    pub(crate) remote_region: u32,
    /// Offset in that region; add its `base` for an address.
    pub(crate) remote_offset: u64,
    /// Bytes; never 0.
    pub(crate) len: usize,
}

/// A read that a backend carries out. Owns the local bytes until it is finished or dropped.
#[derive(Debug)]
pub(crate) struct Transfer {
    // Fields drop in this order: the bytes are free and the counts are right before the caller
    // hears of it.
    claim: ExclusiveClaim,
    blocks: Vec<Block>,
    notification: Option<Bytes>,
    in_flight: Held,
    slot: OwnedSemaphorePermit,
    cancelled: Arc<AtomicBool>,
    /// Some: where the handle goes instead of being released.
    keeper: Option<Arc<KeptTransfers>>,
    done: oneshot::Sender<Result<(), Error>>,
}

impl Transfer {
    pub(crate) fn new(
        claim: ExclusiveClaim,
        blocks: Vec<Block>,
        notification: Option<Bytes>,
        in_flight: Held,
        slot: OwnedSemaphorePermit,
        keeper: Option<Arc<KeptTransfers>>,
    ) -> (Self, oneshot::Receiver<Result<(), Error>>) {
        let (done, result) = oneshot::channel();
        let cancelled = Arc::default();
        let transfer =
            Self { claim, blocks, notification, in_flight, slot, cancelled, keeper, done };
        (transfer, result)
    }

    /// A flag to set when nobody waits for the result any more.
    pub(crate) fn cancelled(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.cancelled)
    }

    /// The local region, for its memory handle.
    pub(crate) fn region(&self) -> &Arc<RegionCore> {
        self.claim.region()
    }

    /// What to move: at least one block.
    pub(crate) fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// Where a block goes. Valid for `block.len` bytes, and nobody else in this process reads or
    /// writes them, while the transfer lives.
    pub(crate) fn destination(&self, block: &Block) -> *mut u8 {
        let range = block.range();
        debug_assert!(range.end <= self.region().len(), "blocks are checked before they get here");
        // SAFETY: the range was checked to lie inside of the mapping, which the claim keeps alive.
        unsafe { self.region().base().add(range.start) }
    }

    /// The notification to send now that the data is there. `None` if there is none, or if the
    /// caller has gone: who gave up on a read must not have it acknowledged.
    pub(crate) fn take_notification(&mut self) -> Option<Bytes> {
        self.notification.take().filter(|_| !self.cancelled.load(Relaxed))
    }

    /// Bytes of the notification that may be sent; 0 without one.
    #[cfg(feature = "verbs")]
    pub(crate) fn notification_len(&self) -> usize {
        self.notification.as_ref().map_or(0, Bytes::len)
    }

    /// Ends the transfer: the local bytes are free from here on.
    pub(crate) fn finish(self, result: Result<(), Error>) {
        let Self { claim, blocks, in_flight, slot, keeper, done, .. } = self;
        drop((claim, slot));
        match keeper {
            None => drop(in_flight),
            Some(keeper) => keeper.push(KeptTransfer { _blocks: blocks, _in_flight: in_flight }),
        }
        // Nobody may be waiting any more; then there is nobody to tell.
        let _ = done.send(result);
    }
}

impl Block {
    /// The local bytes, as a range of the transfer's region.
    pub(crate) fn range(&self) -> Range<usize> {
        self.local_offset..self.local_offset + self.len
    }
}

/// Whether a backend can be used here, and why or why not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Probe {
    /// The backend.
    pub backend: BackendKind,
    /// Whether an agent could be opened with it.
    pub usable: bool,
    /// The version found, or what is missing and how to get it.
    pub detail: String,
}

/// Looks at every backend, without opening an agent. `ucx` is the build that would be opened,
/// `rdma` names the device.
#[must_use]
pub fn probe(ucx: Option<&UcxBuild>, rdma: &RdmaSettings) -> Vec<Probe> {
    let tcp = Probe {
        backend: BackendKind::Tcp,
        usable: true,
        detail: "sockets of the operating system; cannot show leaks of UCX".to_owned(),
    };
    vec![tcp, probe_ucx(ucx), probe_verbs(rdma)]
}

/// Opens the chosen backend; says also why it is that one.
pub(crate) async fn open(
    config: &AgentConfig,
    shared: &Arc<Shared>,
) -> Result<(Arc<dyn Backend>, String), Error> {
    match config.choice {
        BackendChoice::Only(kind) => {
            let backend = open_one(kind, config, shared).await?;
            Ok((backend, format!("{kind} was asked for")))
        }
        BackendChoice::Auto => {
            let verbs = match open_one(BackendKind::Verbs, config, shared).await {
                Ok(backend) => return Ok((backend, "an RDMA device is usable here".to_owned())),
                Err(error) => error,
            };
            let ucx = match open_one(BackendKind::Ucx, config, shared).await {
                Ok(backend) => {
                    let why = format!("ucx is usable here, and verbs is not: {verbs}");
                    return Ok((backend, why));
                }
                Err(error) => error,
            };
            let backend = open_one(BackendKind::Tcp, config, shared).await?;
            let why = format!("tcp, because ucx is not usable: {ucx}; nor is verbs: {verbs}");
            Ok((backend, why))
        }
    }
}

async fn open_one(
    kind: BackendKind,
    config: &AgentConfig,
    shared: &Arc<Shared>,
) -> Result<Arc<dyn Backend>, Error> {
    match kind {
        BackendKind::Tcp => tcp::open(config, Arc::clone(shared)).await,
        BackendKind::Ucx => open_ucx(config, shared).await,
        BackendKind::Verbs => open_verbs(config, shared).await,
    }
}

#[cfg(feature = "ucx")]
async fn open_ucx(config: &AgentConfig, shared: &Arc<Shared>) -> Result<Arc<dyn Backend>, Error> {
    ucx::open(config, Arc::clone(shared)).await
}

#[cfg(feature = "ucx")]
fn probe_ucx(build: Option<&UcxBuild>) -> Probe {
    ucx::probe(build)
}

#[cfg(not(feature = "ucx"))]
async fn open_ucx(_config: &AgentConfig, _shared: &Arc<Shared>) -> Result<Arc<dyn Backend>, Error> {
    Err(Error::Unsupported { reason: UCX_NOT_BUILT.to_owned() })
}

#[cfg(not(feature = "ucx"))]
fn probe_ucx(_build: Option<&UcxBuild>) -> Probe {
    Probe { backend: BackendKind::Ucx, usable: false, detail: UCX_NOT_BUILT.to_owned() }
}

#[cfg(not(feature = "ucx"))]
const UCX_NOT_BUILT: &str =
    "this program was built without UCX; build it with `cargo build --features ucx`";

#[cfg(feature = "verbs")]
async fn open_verbs(config: &AgentConfig, shared: &Arc<Shared>) -> Result<Arc<dyn Backend>, Error> {
    verbs::open(config, Arc::clone(shared)).await
}

#[cfg(feature = "verbs")]
fn probe_verbs(settings: &RdmaSettings) -> Probe {
    verbs::probe(settings)
}

#[cfg(not(feature = "verbs"))]
async fn open_verbs(
    _config: &AgentConfig,
    _shared: &Arc<Shared>,
) -> Result<Arc<dyn Backend>, Error> {
    Err(Error::Unsupported { reason: VERBS_NOT_BUILT.to_owned() })
}

#[cfg(not(feature = "verbs"))]
fn probe_verbs(_settings: &RdmaSettings) -> Probe {
    Probe { backend: BackendKind::Verbs, usable: false, detail: VERBS_NOT_BUILT.to_owned() }
}

#[cfg(not(feature = "verbs"))]
const VERBS_NOT_BUILT: &str =
    "this program was built without verbs; build it with `cargo build --features verbs`";

/// The moment `timeout` from now. A timeout too long for the clock means a century.
pub(crate) fn after(timeout: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    let now = Instant::now();
    now.checked_add(timeout).unwrap_or_else(|| now + CENTURY)
}
