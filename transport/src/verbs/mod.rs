//! The verbs backend: RDMA reads over reliable connections, on InfiniBand and RoCE.
//!
//! What it is not: it links no libibverbs, neither at build time nor by the dynamic linker, so a
//! program with it starts on any machine. It knows nothing of rdma_cm: the two sides tell each
//! other their queue pairs over a TCP connection.
//!
//! Pure, and tested without a device:
//! - `choice`: port, GID, MTU, depth of reads. `record`: what the two sides tell each other.
//! - `plan`: from blocks to work requests. `ring`: what was posted, and what a completion retires.
//! - `status`: the names of what goes wrong, with the cure.
//!
//! On the device, bottom up:
//! - `ffi`, `library`: types, the table of functions, and how it is opened.
//! - `device`, `queues`, `memory`: owners of the library's objects; children hold their parents.
//! - `link`, `inbound`: a connection that reads, and one that is read over. `progress`: the thread
//!   that drives them. `callers`: what callers do in its place. `exchange`: sockets. `handle`: a link
//!   as its callers see it.
//!
//! # One-sided
//! A peer's device answers reads without the peer's process, also while that is stopped. What a
//! peer may read is what it was given a key for; with a forged key it gets a remote access error,
//! and its connection ends on both sides.
//!
//! # Ordering and notifications
//! A transfer's blocks are spread over the queue pairs of its link. Its notification is sent when
//! all of them have arrived, and counts as sent when the peer's device has acknowledged it: then it
//! lies in a buffer of the peer's process. So an agent that closes has nothing to wait for.
//!
//! # Teardown
//! Queue pairs go to the error state, which flushes what is posted; then they are destroyed, then
//! buffers, then queues, and with the last of them the device.

mod callers;
mod choice;
mod device;
mod exchange;
mod ffi;
mod handle;
mod inbound;
mod library;
mod link;
mod memory;
mod plan;
mod progress;
mod queues;
mod record;
mod ring;
mod status;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::choice::{Port, Source, initiator_depth, source};
use self::device::Device;
use self::library::refused;
use self::link::MESSAGES;
use self::memory::Registration;
use self::progress::{Command, Progress};
use self::queues::{Channel, LinkId};
use crate::backend::{Backend, BoxFuture, Link, Probe, Shared};
use crate::config::{AgentConfig, BackendKind};
use crate::counters::Snapshot;
use crate::error::Error;
use crate::metadata::Metadata;
use crate::queue::Queue;
use crate::rdma::{Completion, RdmaSettings};
use crate::region::RegionCore;

/// What the progress thread, tasks and callers share.
struct Context {
    shared: Arc<Shared>,
    settings: RdmaSettings,
    device: Arc<Device>,
    /// As it was when the agent was opened.
    port: Port,
    source: Source,
    /// Reads that a queue pair starts at a time.
    rd_atomic: u8,
    /// Reads outstanding per queue pair.
    depth: usize,
    channel: Arc<Channel>,
    queue: Arc<Queue<Command>>,
    progress: Mutex<Progress>,
    memory: RwLock<BTreeMap<u32, Arc<Registration>>>,
    next_id: AtomicU32,
    /// Why the device is of no use any more.
    failed: OnceLock<String>,
    /// Cancelled at the end.
    ended: CancellationToken,
    tasks: TaskTracker,
}

impl Context {
    fn memory(&self) -> RwLockReadGuard<'_, BTreeMap<u32, Arc<Registration>>> {
        // Entries come and go whole, so a poisoned table is still good.
        self.memory.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_id(&self) -> LinkId {
        self.next_id.fetch_add(1, Relaxed)
    }

    /// Whether those that wait for a transfer look for its completion themselves.
    fn callers_poll(&self) -> bool {
        self.settings.completion == Completion::Poll
    }

    /// Whether connections can be made at this moment.
    fn check_port(&self) -> Result<(), String> {
        if let Some(reason) = self.failed.get() {
            return Err(reason.clone());
        }
        let state = self.device.port_state(self.port.number).map_err(|error| error.to_string())?;
        let now = Port { state, ..self.port.clone() };
        if now.is_active() { Ok(()) } else { Err(now.state_in_words()) }
    }
}

struct VerbsBackend {
    context: Arc<Context>,
    listen: SocketAddr,
    /// Cancelled when the thread has released everything.
    over: CancellationToken,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Opens the device of `config.rdma`, listens on a free port of `config.listen`, and starts the
/// progress thread.
pub(crate) async fn open(
    config: &AgentConfig,
    shared: Arc<Shared>,
) -> Result<Arc<dyn Backend>, Error> {
    let settings = config.rdma.clone();
    settings.check().map_err(|reason| Error::BadConfig { reason })?;
    if config.listen.is_unspecified() {
        let reason =
            format!("peers cannot connect to {}; name an address of this host", config.listen);
        return Err(Error::BadConfig { reason });
    }
    let (device, port) = Device::open(&settings)?;
    let source = source(&port, &settings).map_err(refused)?;
    let limits = device.limits;
    let rd_atomic = initiator_depth(&settings, limits.initiator_depth).map_err(refused)?;
    let depth = usize::from(settings.depth);
    if depth + MESSAGES > limits.max_qp_wr as usize {
        let (name, most) = (&device.name, (limits.max_qp_wr as usize).saturating_sub(MESSAGES));
        return Err(refused(format!(
            "{name} takes a depth of {most} at most; {depth} was asked for"
        )));
    }
    let on = |error| refused(format!("cannot listen on {}: {error}", config.listen));
    let listener = TcpListener::bind((config.listen, 0)).await.map_err(on)?;
    let listen = listener.local_addr().map_err(on)?;
    let queue = Queue::new().map_err(|error| {
        refused(format!("cannot create an eventfd: {error}; check `ulimit -n`"))
    })?;
    let channel = Channel::new(&device).map_err(|error| refused(error.to_string()))?;
    tracing::debug!(device = %device.name, port = port.number, ?source, rd_atomic, "RDMA device opened");
    let context = Arc::new(Context {
        shared,
        settings,
        device,
        port,
        source,
        rd_atomic,
        depth,
        channel,
        queue: Arc::new(queue),
        progress: Mutex::default(),
        memory: RwLock::default(),
        next_id: AtomicU32::new(0),
        failed: OnceLock::new(),
        ended: CancellationToken::new(),
        tasks: TaskTracker::new(),
    });
    let over = CancellationToken::new();
    let thread = {
        let (context, over) = (Arc::clone(&context), over.clone().drop_guard());
        let body = move || {
            progress::run(&context);
            drop(context);
            drop(over);
        };
        let builder = thread::Builder::new().name("pdlab-verbs".into());
        builder.spawn(body).map_err(|error| refused(format!("cannot start a thread: {error}")))?
    };
    context.tasks.spawn(exchange::accept(listener, Arc::clone(&context)));
    let thread = Mutex::new(Some(thread));
    Ok(Arc::new(VerbsBackend { context, listen, over, thread }))
}

/// Whether a device can be used, and which. Opens it for a moment.
pub(crate) fn probe(settings: &RdmaSettings) -> Probe {
    let opened = Device::open(settings).and_then(|(device, port)| {
        let source = source(&port, settings).map_err(refused)?;
        Ok((device, port, source))
    });
    let (usable, detail) = match opened {
        Ok((device, port, source)) => {
            let gid = source
                .gid_index
                .map_or(String::new(), |index| format!(", GID {index} ({})", source.gid));
            let (name, number, layer) = (&device.name, port.number, source.link_layer);
            (true, format!("{name} port {number}, {layer}{gid}, MTU {}", source.mtu))
        }
        Err(error) => (false, error.to_string()),
    };
    Probe { backend: BackendKind::Verbs, usable, detail }
}

impl Backend for VerbsBackend {
    fn kind(&self) -> BackendKind {
        BackendKind::Verbs
    }

    /// The library does not tell its version.
    fn version(&self) -> Option<String> {
        None
    }

    /// Blocks for as long as the kernel takes to pin the memory.
    fn register(&self, region: &Arc<RegionCore>) -> Result<Bytes, Error> {
        let context = &self.context;
        let gauge = &context.shared.counters.memory_regions;
        let registration = Registration::new(&context.device, region, &context.settings, gauge)?;
        let keys = registration.keys();
        let mut memory = context.memory.write().unwrap_or_else(PoisonError::into_inner);
        memory.insert(region.id, Arc::new(registration));
        Ok(keys)
    }

    /// A peer that reads it all the same gets a remote access error, and loses its connection.
    fn deregister(&self, region: &RegionCore) -> Result<(), Error> {
        let mut memory = self.context.memory.write().unwrap_or_else(PoisonError::into_inner);
        drop(memory.remove(&region.id));
        Ok(())
    }

    fn address(&self) -> Result<Bytes, Error> {
        Ok(record::encode_address(self.listen, self.context.source.link_layer))
    }

    fn observe(&self, snapshot: &mut Snapshot) {
        let counters = &self.context.shared.counters;
        snapshot.rkeys = Some(counters.rkeys.get());
        snapshot.memory_regions = Some(counters.memory_regions.get());
        snapshot.queue_pairs = Some(counters.queue_pairs.get());
        snapshot.completion_queues = Some(counters.completion_queues.get());
    }

    fn connect(&self, metadata: Arc<Metadata>) -> BoxFuture<'_, Result<Arc<dyn Link>, Error>> {
        Box::pin(async move {
            // While this lives, `close` waits: a link made meanwhile is ended and counted, too.
            let _token = self.context.tasks.token();
            let connecting = exchange::connect(&self.context, metadata);
            let connected = self.context.ended.run_until_cancelled(connecting).await;
            let link = connected.ok_or(Error::Closed { operation: "connect to a peer" })??;
            Ok(Arc::new(link) as Arc<dyn Link>)
        })
    }

    fn close(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            self.context.ended.cancel();
            // Refused only if the thread is over already.
            let _ = self.context.queue.push(Command::Close);
            self.over.cancelled().await;
            let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(thread) = thread {
                // It has nothing left to do but to return. A panic in it would have ended the
                // process.
                let _ = thread.join();
            }
            self.context.tasks.close();
            self.context.tasks.wait().await;
            self.context.memory.write().unwrap_or_else(PoisonError::into_inner).clear();
            Ok(())
        })
    }
}

impl Drop for VerbsBackend {
    fn drop(&mut self) {
        // Tasks and the thread release everything on their own; nobody waits for them.
        self.context.ended.cancel();
        let _ = self.context.queue.push(Command::Close);
    }
}

/// Puts `data` to the decoders of the exchange and of what metadata carries.
#[cfg(fuzzing)]
pub(crate) fn fuzz(data: &[u8]) {
    let _ = record::Frame::decode(data);
    let _ = record::decode_address(data);
    let _ = plan::RemoteKeys::decode(data, 1 << 30);
}
