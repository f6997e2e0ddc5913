//! The UCX backend: one-sided gets through any UCX from 1.13 on, opened at run time.
//!
//! What it is not: no UCX is linked, at build time or by the dynamic linker, so one program runs
//! every UCX and starts without one. It knows nothing of builds and versions to fetch; see
//! [`crate::builds`].
//!
//! One thread per agent has everything of UCX and is the only one that calls it; the rest of the
//! process talks to it through a queue. It sleeps on the worker's event descriptor. With polling,
//! callers that wait for a transfer drive the worker in its place.
//!
//! Bottom up:
//! - `ffi`: types, constants, and the table of functions. `library`: opens libucp.
//! - `settings`: which of UCX's defaults differ here, and when.
//! - `context`, `worker`, `endpoint`: owners of UCX's objects; children keep parents alive.
//! - `events`: what callbacks write down. `wire`: what agents say to each other.
//! - `link`: the life of one connection; `crate::flow` says which block to read next.
//! - `rcache`: what UCX's registration cache holds, for snapshots.
//! - `progress`: all of it together. `driver`: the thread behind a `crate::queue`, and callers that poll. `handle`: a
//!   link as seen from elsewhere. `leaving`: threads that outlive their agents.
//!
//! # Memory handles
//! A region is registered once, and every get names its memory handle. Without the handle, UCX
//! would look the buffer up in its registration cache each time, which drains the cache's queue of
//! unmapped ranges and so hides the growth of that queue
//! (<https://github.com/openucx/ucx/pull/11248>) that this program exists to show.
//!
//! # Errors, deadlines, and memory
//! UCX reports a peer that died, but never one that is stopped, and it cannot cancel a get. So a
//! deadline, like a lost peer, ends the link: its endpoint is closed by force, which ends every
//! operation on it without the peer, and each transfer keeps its local bytes until UCX has called
//! back for the last of its operations.
//!
//! # What UCX does to the owner
//! Over InfiniBand the owner's process has no part in a get. Over TCP and shared memory, UCX
//! emulates it: the owner's progress thread answers. (`cma` could do without the owner, but cannot
//! take memory back from a peer, and for an endpoint with error handling UCX wants that of whatever
//! moves bulk data: <https://github.com/openucx/ucx/blob/master/src/ucp/wireup/select.c>.)
//!
//! Over TCP, if the owner fails to answer a get because the reader has just died, while more gets
//! of that reader wait in the socket, UCX aborts the owner's process (up to 1.22; 1.16 may crash
//! instead). Killed at full load, about one reader in ten took its owner along. So links let their
//! gets end before they close, and a cluster that should survive killed readers needs another
//! transport than TCP.
//!
//! # Teardown
//! Gets end, keys are destroyed, endpoints closed, memory is unregistered, worker and context go.
//! After a forced close the gets end only with it, so then the keys come after the endpoint. The
//! library stays loaded: UCX's memory hooks cannot be taken out of a running process.

mod context;
mod driver;
mod endpoint;
mod events;
mod ffi;
mod handle;
mod leaving;
mod library;
mod link;
mod progress;
mod rcache;
mod settings;
mod wire;
mod worker;

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use self::driver::{Driver, Opened};
use self::handle::{LinkState, UcxLink};
use self::library::{Ucx, refused};
use self::progress::Command;
use crate::backend::{Backend, BoxFuture, Link, Probe, Shared};
use crate::config::{AgentConfig, BackendKind, UcxBuild};
use crate::counters::Snapshot;
use crate::error::Error;
use crate::metadata::Metadata;
use crate::queue::Queue;
use crate::region::RegionCore;

struct UcxBackend {
    ucx: &'static Ucx,
    shared: Arc<Shared>,
    /// Our defaults below the user's variables.
    settings: Vec<(String, String)>,
    opened: Opened,
    driver: Arc<Driver>,
    next_link: AtomicU32,
    /// Cancelled when the thread has released everything.
    over: CancellationToken,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Loads `config.ucx` and starts the progress thread.
pub(crate) async fn open(
    config: &AgentConfig,
    shared: Arc<Shared>,
) -> Result<Arc<dyn Backend>, Error> {
    let build = chosen(config.ucx.as_ref())?;
    let ucx = Ucx::load(build)?;
    let queue = Queue::new().map_err(|error| {
        refused(format!("cannot create an eventfd: {error}; check `ulimit -n`"))
    })?;
    let driver = Arc::new(Driver::new(queue, config.ucx_completion));
    let over = CancellationToken::new();
    let (tell, opened) = oneshot::channel();
    let thread = {
        let (config, over) = (config.clone(), over.clone().drop_guard());
        let driver = Arc::clone(&driver);
        let shared = Arc::clone(&shared);
        let body = move || {
            driver.run(ucx, &config, shared, tell);
            drop(driver);
            drop(over);
        };
        let builder = thread::Builder::new().name("pdlab-ucx".into());
        builder.spawn(body).map_err(|error| refused(format!("cannot start a thread: {error}")))?
    };
    let opened = opened.await.unwrap_or_else(|_| Err(refused("its thread ended".into())))?;
    let settings = settings::defaults(ucx.version, &config.ucx_variables, config.listen);
    let settings =
        settings.iter().map(|setting| (setting.variable(), setting.value.to_owned())).collect();
    let thread = Mutex::new(Some(thread));
    let next_link = AtomicU32::new(0);
    Ok(Arc::new(UcxBackend { ucx, shared, settings, opened, driver, next_link, over, thread }))
}

/// Whether `build` can be loaded, without opening anything in it.
pub(crate) fn probe(build: Option<&UcxBuild>) -> Probe {
    let loaded = chosen(build).and_then(|build| Ok((build, Ucx::load(build)?)));
    let (usable, detail) = match loaded {
        Ok((build, ucx)) => (true, format!("UCX {} from {}", ucx.version, build.libucp.display())),
        Err(error) => (false, error.to_string()),
    };
    Probe { backend: BackendKind::Ucx, usable, detail }
}

fn chosen(build: Option<&UcxBuild>) -> Result<&UcxBuild, Error> {
    build.ok_or_else(|| {
        refused("no UCX build was chosen; name a version, `system`, or a path with `--ucx`".into())
    })
}

impl Backend for UcxBackend {
    fn kind(&self) -> BackendKind {
        BackendKind::Ucx
    }

    fn version(&self) -> Option<String> {
        Some(self.opened.version.clone())
    }

    /// Blocks for as long as UCX takes to register the memory.
    fn register(&self, region: &Arc<RegionCore>) -> Result<Bytes, Error> {
        let (reply, registered) = mpsc::sync_channel(1);
        let closed = || Error::Closed { operation: "register memory" };
        let command = Command::Register { region: Arc::clone(region), reply };
        self.driver.queue.push(command).map_err(|_refused| closed())?;
        registered.recv().unwrap_or_else(|_dropped| Err(closed()))
    }

    fn deregister(&self, region: &RegionCore) -> Result<(), Error> {
        let (reply, deregistered) = mpsc::sync_channel(1);
        let closed = || Error::Closed { operation: "deregister memory" };
        let command = Command::Deregister { region: region.id, reply };
        self.driver.queue.push(command).map_err(|_refused| closed())?;
        deregistered.recv().map_err(|_dropped| closed())
    }

    fn address(&self) -> Result<Bytes, Error> {
        Ok(self.opened.address.clone())
    }

    fn settings(&self) -> Vec<(String, String)> {
        self.settings.clone()
    }

    fn observe(&self, snapshot: &mut Snapshot) {
        snapshot.rkeys = Some(self.shared.counters.rkeys.get());
        if let Some(figures) = self.ucx.rcache.figures() {
            snapshot.rcache_regions = Some(figures.regions);
            snapshot.rcache_bytes = Some(figures.bytes);
            snapshot.rcache_queue = Some(figures.queue);
        }
    }

    fn connect(&self, metadata: Arc<Metadata>) -> BoxFuture<'_, Result<Arc<dyn Link>, Error>> {
        Box::pin(async move {
            let id = self.next_link.fetch_add(1, Relaxed);
            let state = LinkState::new(id, metadata.name.clone());
            // Made before the command: if this future is dropped, the handle aborts the link.
            let link = UcxLink { state: Arc::clone(&state), driver: Arc::clone(&self.driver) };
            let (reply, connected) = oneshot::channel();
            let closed = || Error::Closed { operation: "connect to a peer" };
            let command = Command::Connect { link: state, metadata, reply };
            self.driver.queue.push(command).map_err(|_refused| closed())?;
            connected.await.unwrap_or_else(|_dropped| Err(closed()))?;
            Ok(Arc::new(link) as Arc<dyn Link>)
        })
    }

    fn close(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            // Refused only if the thread is over already.
            let _ = self.driver.queue.push(Command::Close);
            self.over.cancelled().await;
            let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(thread) = thread {
                // It has nothing left to do but to return. A panic in it would have ended the
                // process.
                let _ = thread.join();
            }
            Ok(())
        })
    }
}

impl Drop for UcxBackend {
    fn drop(&mut self) {
        // The thread releases everything on its own; nobody waits for it but the end of the process.
        if self.driver.queue.push(Command::Close).is_ok() {
            leaving::leaves(self.over.clone());
        }
    }
}

/// Puts `data` to the decoders of messages and of what metadata carries.
#[cfg(fuzzing)]
pub(crate) fn fuzz(data: &[u8]) {
    let _ = wire::Greeting::decode(data);
    let _ = wire::sender(data);
    let _ = wire::unframe_address(data);
}
