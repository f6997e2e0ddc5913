//! The agent: one opened backend, its regions, and the way to peers and back down to nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::time::timeout_at;

use crate::backend::{self, Backend, Shared, after};
use crate::config::{AgentConfig, BackendKind};
use crate::counters::{Counters, Held, Snapshot};
use crate::error::Error;
use crate::mapping::Mapping;
use crate::metadata::{BlockLayout, MAX_NAME_BYTES, Metadata, RemoteRegion, is_valid_name};
use crate::notifications::{Notification, Notifications};
use crate::peer::Peer;
use crate::region::{Region, RegionCore};

/// A process's end of the transport. Clones are handles of the same agent.
#[derive(Clone)]
pub struct Agent {
    inner: Arc<Inner>,
}

/// What agents and peers share. Dropping it drops the backend, which tears everything down.
pub(crate) struct Inner {
    pub(crate) shared: Arc<Shared>,
    backend: Arc<dyn Backend>,
    /// Why it is this backend.
    why: String,
    regions: Mutex<Regions>,
    closing: AtomicBool,
    /// Held while closing, so that every caller returns only when it is done. True: it is done.
    closed: tokio::sync::Mutex<bool>,
}

/// What is registered, by id.
#[derive(Default)]
struct Regions {
    registered: BTreeMap<u32, Registered>,
    /// Ids are never used again: a peer that still has the metadata of a region that is gone must
    /// not find another in its place.
    next_id: u32,
}

struct Registered {
    remote: RemoteRegion,
    _count: Held,
    _bytes: Held,
}

impl Agent {
    /// Opens the chosen backend in the current tokio runtime.
    ///
    /// # Errors
    /// [`Error::Open`] or [`Error::Unsupported`] if the backend is not usable here;
    /// [`Error::BadConfig`] for a name or address that cannot be.
    pub async fn open(config: AgentConfig) -> Result<Self, Error> {
        if !is_valid_name(&config.name) {
            let len = config.name.len();
            let reason = format!("its name has 1 to {MAX_NAME_BYTES} bytes, this one has {len}");
            return Err(Error::BadConfig { reason });
        }
        let (limits, faults) = (&config.limits, config.faults);
        let notifications = if faults.keep_notifications {
            Notifications::that_stay()
        } else {
            Notifications::new(limits.notifications_queued, limits.notifications_queued_bytes)
        };
        let shared = Arc::new(Shared {
            name: config.name.clone(),
            instance: random(),
            limits: limits.clone(),
            counters: Counters::default(),
            notifications,
            faults,
            kept_transfers: Arc::default(),
            runtime: Handle::current(),
        });
        let (backend, why) = backend::open(&config, &shared).await?;
        if faults.keep_rkeys && backend.kind() != BackendKind::Ucx {
            let reason = format!("{} has no remote keys that could be kept", backend.kind());
            return Err(Error::BadConfig { reason });
        }
        tracing::debug!(name = %config.name, backend = %backend.kind(), %why, "agent opened");
        let inner = Inner {
            shared,
            backend,
            why,
            regions: Mutex::default(),
            closing: AtomicBool::new(false),
            closed: tokio::sync::Mutex::new(false),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Registers memory, once, at start: the KV pool. It stays registered until it is
    /// [deregistered](Self::deregister) or the agent [closes](Self::close), and mapped until the
    /// last clone of the region is gone too.
    ///
    /// # Errors
    /// [`Error::Register`] names the limit; [`Error::TooLarge`] after
    /// [`Limits::regions`](crate::Limits::regions); [`Error::Closed`].
    pub fn register(&self, mapping: Mapping) -> Result<Region, Error> {
        self.inner.register(mapping, None)
    }

    /// Like [`register`](Self::register), and tells peers how the memory is divided.
    ///
    /// # Errors
    /// Also [`Error::Register`] if the blocks do not fit.
    pub fn register_blocks(&self, mapping: Mapping, layout: BlockLayout) -> Result<Region, Error> {
        let len = mapping.len();
        if layout.block_len == 0 || layout.bytes().is_none_or(|bytes| bytes > len as u64) {
            let BlockLayout { block_len, blocks } = layout;
            let reason = format!("{blocks} blocks of {block_len} bytes do not divide this memory");
            return Err(Error::Register { len, reason });
        }
        self.inner.register(mapping, Some(layout))
    }

    /// Takes memory back. It is the caller's to know that no peer reads it any more: TCP refuses
    /// such reads, verbs ends the peer's connection; UCX serves them with whatever is at that
    /// address, and may end this process if nothing is. The region's bytes stay readable and writable here.
    ///
    /// # Errors
    /// [`Error::Busy`] while a transfer into it is under way or somebody reads or writes it here;
    /// [`Error::NotRegistered`] the second time, or if it is another agent's; [`Error::Closed`].
    pub fn deregister(&self, region: &Region) -> Result<(), Error> {
        self.inner.deregister(&region.core)
    }

    /// What a peer needs to connect and read: address, and every region registered so far with
    /// its key. Opaque and checked; hand it over by any means.
    ///
    /// # Errors
    /// [`Error::Closed`], or what the backend reports.
    pub fn metadata(&self) -> Result<Bytes, Error> {
        self.inner.check_open("make metadata")?;
        let regions =
            self.inner.regions().registered.values().map(|region| region.remote.clone()).collect();
        let metadata = Metadata {
            backend: self.backend(),
            name: self.inner.shared.name.clone(),
            instance: self.inner.shared.instance,
            address: self.inner.backend.address()?,
            regions,
        };
        metadata.encode()
    }

    /// Connects to the agent that made `metadata`.
    ///
    /// # Errors
    /// [`Error::BadMetadata`], [`Error::BackendMismatch`], [`Error::Unreachable`],
    /// [`Error::Deadline`] after `deadline`, [`Error::Closed`].
    pub async fn connect(&self, metadata: &[u8], deadline: Duration) -> Result<Peer, Error> {
        let result = self.inner.connect(metadata, deadline).await;
        if let Err(error) = &result {
            self.inner.shared.counters.fail(error.kind());
        }
        let (metadata, link) = result?;
        Ok(Peer::new(Arc::clone(&self.inner), metadata, link))
    }

    /// The next thing a peer has told this agent, in order of arrival. `None` once the agent
    /// closes. Cancel safe; several callers share the queue.
    pub async fn next_notification(&self) -> Option<Notification> {
        self.inner.shared.notifications.next().await
    }

    /// What the agent holds and has done.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let queued = self.inner.shared.notifications.len() as u64;
        let mut snapshot = self.inner.shared.counters.snapshot(queued);
        self.inner.backend.observe(&mut snapshot);
        snapshot
    }

    /// Where registered memory lies: first address and length of each region, in the order of their ids.
    #[must_use]
    pub fn regions(&self) -> Vec<(u64, u64)> {
        let regions = self.inner.regions();
        regions.registered.values().map(|region| (region.remote.base, region.remote.len)).collect()
    }

    /// This agent's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.shared.name
    }

    /// The backend that is in use.
    #[must_use]
    pub fn backend(&self) -> BackendKind {
        self.inner.backend.kind()
    }

    /// Why it is this backend, for people.
    #[must_use]
    pub fn why(&self) -> &str {
        &self.inner.why
    }

    /// Version of the library behind the backend, such as `1.19.0`; `None` for TCP.
    #[must_use]
    pub fn version(&self) -> Option<String> {
        self.inner.backend.version()
    }

    /// Settings that differ from the defaults of the library behind the backend, as environment
    /// variables, for a tool that is to be compared with this agent. Empty for TCP. Variables that
    /// the user has set are not among them.
    #[must_use]
    pub fn settings(&self) -> Vec<(String, String)> {
        self.inner.backend.settings()
    }

    /// Ends every connection, deregisters, and returns when tasks, sockets, endpoints and
    /// registrations are gone. Operations in flight get [`Error::Closed`]. Idempotent.
    ///
    /// # Errors
    /// What the backend could not release.
    pub async fn close(&self) -> Result<(), Error> {
        let inner = &self.inner;
        inner.closing.store(true, SeqCst);
        let mut closed = inner.closed.lock().await;
        if !*closed {
            // Whoever was registering when `closing` was set has finished after this.
            drop(inner.regions());
            inner.backend.close().await?;
            inner.regions().registered.clear();
            inner.shared.kept_transfers.clear();
            inner.shared.notifications.close();
            *closed = true;
        }
        Ok(())
    }
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent")
            .field("name", &self.name())
            .field("backend", &self.backend())
            .finish_non_exhaustive()
    }
}

impl Inner {
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(SeqCst)
    }

    fn check_open(&self, operation: &'static str) -> Result<(), Error> {
        if self.is_closing() { Err(Error::Closed { operation }) } else { Ok(()) }
    }

    fn register(&self, mapping: Mapping, layout: Option<BlockLayout>) -> Result<Region, Error> {
        // Held across the backend's call: ids are given in order, and `close` waits for it.
        let mut regions = self.regions();
        self.check_open("register memory")?;
        let (count, limit) = (regions.registered.len() as u64, self.shared.limits.regions as u64);
        if count >= limit {
            return Err(Error::TooLarge { what: "the number of regions", size: count + 1, limit });
        }
        let id = regions.next_id;
        regions.next_id = id.checked_add(1).ok_or(Error::TooLarge {
            what: "the number of regions ever registered",
            size: 1 << 32,
            limit: u32::MAX.into(),
        })?;
        let len = mapping.len() as u64;
        let core = Arc::new(RegionCore::new(id, self.shared.instance, mapping, layout));
        let remote_key = self.backend.register(&core)?;
        let base = core.base() as u64;
        let registered = Registered {
            remote: RemoteRegion { id, len, layout, base, remote_key },
            _count: self.shared.counters.regions.hold(1),
            _bytes: self.shared.counters.registered_bytes.hold(len),
        };
        regions.registered.insert(id, registered);
        Ok(Region { core })
    }

    fn deregister(&self, region: &RegionCore) -> Result<(), Error> {
        let mut regions = self.regions();
        self.check_open("deregister memory")?;
        if region.agent != self.shared.instance {
            return Err(Error::NotRegistered { region: region.id });
        }
        region.retire()?;
        self.backend.deregister(region)?;
        regions.registered.remove(&region.id);
        Ok(())
    }

    async fn connect(
        &self,
        metadata: &[u8],
        deadline: Duration,
    ) -> Result<(Arc<Metadata>, Arc<dyn backend::Link>), Error> {
        let operation = "connect to";
        self.check_open("connect to a peer")?;
        let metadata = Arc::new(Metadata::decode(metadata)?);
        let peer = metadata.name.clone();
        let (ours, theirs) = (self.backend.kind(), metadata.backend);
        if ours != theirs {
            return Err(Error::BackendMismatch { peer, ours, theirs });
        }
        let connecting = self.backend.connect(Arc::clone(&metadata));
        let link = timeout_at(after(deadline), connecting)
            .await
            .map_err(|_| Error::Deadline { operation, peer, after: deadline })??;
        if self.is_closing() {
            link.abort("the agent closes");
            return Err(Error::Closed { operation: "connect to a peer" });
        }
        Ok((metadata, link))
    }

    fn regions(&self) -> MutexGuard<'_, Regions> {
        // Entries come and go whole, so a poisoned table is still good.
        self.regions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A number that no other agent has, with all likelihood: the hasher's keys come from the
/// system's random source, once per process, and differ by one from agent to agent.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}
