//! The prefills that are connected. Each is shaken hands with once, by whoever needs it first;
//! the others wait for the outcome.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pdlab_api::kv_transfer::RemotePrefill;
use pdlab_api::side_channel::Compatibility;
use pdlab_transport::{Agent, Peer};
use tokio::sync::OnceCell;

use crate::handshake::{self, HandshakeError};

/// How long a prefill that nobody asks for stays connected; vLLM's `engine_ttl`.
pub const IDLE_LIMIT: Duration = Duration::from_secs(3600);

/// A connected prefill.
#[derive(Debug)]
pub struct Remote {
    /// The connection.
    pub peer: Peer,
    /// Blocks in its pool; ids are below this.
    pub num_blocks: u32,
    transfers: AtomicU64,
}

/// A prefill that could not be connected.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Over the side channel.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// Over the transport.
    #[error(transparent)]
    Transport(#[from] pdlab_transport::Error),
}

/// How connections are made and when they are dropped.
#[derive(Debug, Clone, Copy)]
pub struct Habits {
    /// How long prefill may take to answer a handshake.
    pub handshake_timeout: Duration,
    /// How long a connect may take.
    pub connect_timeout: Duration,
    /// Transfers over a connection after which it is dropped; the next request makes a new one.
    /// `None`: it stays.
    pub reconnect_every: Option<u64>,
    /// The fault [`FaultKind::RemoteKept`](pdlab_api::fault::FaultKind::RemoteKept): records of
    /// prefills that are gone stay.
    pub keep_gone: bool,
}

#[derive(Debug)]
struct Entry {
    address: (String, u16),
    remote: Arc<OnceCell<Arc<Remote>>>,
    used: Instant,
    /// There was a connection to this address before.
    again: bool,
}

/// Remotes by engine id.
#[derive(Debug)]
pub struct Remotes {
    agent: Agent,
    compatibility: Compatibility,
    habits: Habits,
    entries: Mutex<HashMap<String, Entry>>,
    reconnects: AtomicU64,
}

impl Remotes {
    /// Connects with `agent`, to prefills of the same layout only.
    pub fn new(agent: Agent, compatibility: Compatibility, habits: Habits) -> Self {
        let (entries, reconnects) = (Mutex::default(), AtomicU64::new(0));
        Self { agent, compatibility, habits, entries, reconnects }
    }

    /// The prefill of a pull, connected. A failure is forgotten, so that the next request tries
    /// again.
    pub async fn get(&self, pull: &RemotePrefill) -> Result<Arc<Remote>, ConnectError> {
        let (cell, again) = self.cell(pull);
        let connected = cell.get_or_try_init(|| self.connect(pull, again)).await;
        match connected {
            Ok(remote) => Ok(remote.clone()),
            Err(error) => {
                self.forget_cell(&pull.engine_id, &cell);
                Err(error)
            }
        }
    }

    /// Drops a connection; the next request makes a new one.
    pub fn disconnect(&self, engine_id: &str, remote: &Arc<Remote>) {
        let mut entries = self.lock();
        let same = |entry: &Entry| entry.remote.get().is_some_and(|r| Arc::ptr_eq(r, remote));
        if let Some(entry) = entries.get_mut(engine_id).filter(|entry| same(entry)) {
            entry.renew();
        }
    }

    /// Counts a transfer over this connection, which may be its last.
    pub fn transferred(&self, engine_id: &str, remote: &Arc<Remote>) {
        let transfers = remote.transfers.fetch_add(1, Relaxed) + 1;
        if self.habits.reconnect_every.is_some_and(|limit| transfers >= limit) {
            self.disconnect(engine_id, remote);
        }
    }

    /// Drops what nobody has used for [`IDLE_LIMIT`].
    pub fn sweep(&self, now: Instant) {
        if self.habits.keep_gone {
            return;
        }
        self.lock().retain(|_, entry| now.saturating_duration_since(entry.used) < IDLE_LIMIT);
    }

    /// Connections made to where there was one before.
    pub fn reconnects(&self) -> u64 {
        self.reconnects.load(Relaxed)
    }

    /// Prefills that are remembered, whether or not there is a connection just now.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Drops all connections.
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// Where the connection is or will be, and whether it will not be the first.
    fn cell(&self, pull: &RemotePrefill) -> (Arc<OnceCell<Arc<Remote>>>, bool) {
        let address = (pull.host.clone(), pull.port);
        let used = Instant::now();
        let mut entries = self.lock();
        let mut again = false;
        if !entries.contains_key(&pull.engine_id) {
            // Another engine at the same address: the old one has restarted and its state is of
            // no use to anyone (https://github.com/vllm-project/vllm/issues/44424).
            again = entries.values().any(|entry| entry.address == address);
            if again && !self.habits.keep_gone {
                entries.retain(|_, entry| entry.address != address);
            }
        }
        let fresh = || Entry { address, remote: Arc::default(), used, again };
        let entry = entries.entry(pull.engine_id.clone()).or_insert_with(fresh);
        if entry.remote.get().is_some_and(|remote| !remote.peer.is_alive()) {
            entry.renew();
        }
        entry.used = used;
        (entry.remote.clone(), entry.again)
    }

    fn forget_cell(&self, engine_id: &str, cell: &Arc<OnceCell<Arc<Remote>>>) {
        let mut entries = self.lock();
        if entries.get(engine_id).is_some_and(|entry| Arc::ptr_eq(&entry.remote, cell)) {
            entries.remove(engine_id);
        }
    }

    async fn connect(
        &self,
        pull: &RemotePrefill,
        again: bool,
    ) -> Result<Arc<Remote>, ConnectError> {
        let Habits { handshake_timeout, connect_timeout, .. } = self.habits;
        let metadata = handshake::ask(pull, &self.compatibility, handshake_timeout).await?;
        let peer = self.agent.connect(&metadata.agent_metadata, connect_timeout).await?;
        if again {
            self.reconnects.fetch_add(1, Relaxed);
        }
        let transfers = AtomicU64::new(0);
        Ok(Arc::new(Remote { peer, num_blocks: metadata.num_blocks, transfers }))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// Lets go of the connection; whoever still reads over it keeps it until it is done.
    fn renew(&mut self) {
        self.remote = Arc::default();
        self.again = true;
    }
}
