//! The prefills that are connected. Each is shaken hands with once, by whoever needs it first;
//! the others wait for the outcome.

use std::collections::HashMap;
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

#[derive(Debug)]
struct Entry {
    address: (String, u16),
    remote: Arc<OnceCell<Arc<Remote>>>,
    used: Instant,
}

/// Remotes by engine id.
#[derive(Debug)]
pub struct Remotes {
    agent: Agent,
    compatibility: Compatibility,
    deadline: Duration,
    entries: Mutex<HashMap<String, Entry>>,
}

impl Remotes {
    /// Connects with `agent`, to prefills of the same layout only; `deadline` bounds a connect.
    pub fn new(agent: Agent, compatibility: Compatibility, deadline: Duration) -> Self {
        Self { agent, compatibility, deadline, entries: Mutex::default() }
    }

    /// The prefill of a pull, connected. A failure is forgotten, so that the next request tries
    /// again.
    pub async fn get(&self, pull: &RemotePrefill) -> Result<Arc<Remote>, ConnectError> {
        let cell = self.cell(pull);
        let connected = cell.get_or_try_init(|| self.connect(pull)).await;
        match connected {
            Ok(remote) => Ok(remote.clone()),
            Err(error) => {
                self.forget_cell(&pull.engine_id, &cell);
                Err(error)
            }
        }
    }

    /// Drops a connection that has failed; the next request makes a new one.
    pub fn forget(&self, engine_id: &str, failed: &Arc<Remote>) {
        let mut entries = self.lock();
        let same = |entry: &Entry| entry.remote.get().is_some_and(|r| Arc::ptr_eq(r, failed));
        if entries.get(engine_id).is_some_and(same) {
            entries.remove(engine_id);
        }
    }

    /// Drops what nobody has used for [`IDLE_LIMIT`].
    pub fn sweep(&self, now: Instant) {
        self.lock().retain(|_, entry| now.saturating_duration_since(entry.used) < IDLE_LIMIT);
    }

    /// Prefills that are connected or being connected.
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

    fn cell(&self, pull: &RemotePrefill) -> Arc<OnceCell<Arc<Remote>>> {
        let address = (pull.host.clone(), pull.port);
        let used = Instant::now();
        let mut entries = self.lock();
        if !entries.contains_key(&pull.engine_id) {
            // Another engine at the same address: the old one has restarted and its state is of
            // no use to anyone (https://github.com/vllm-project/vllm/issues/44424).
            entries.retain(|_, entry| entry.address != address);
        }
        let fresh = || Entry { address, remote: Arc::default(), used };
        let entry = entries.entry(pull.engine_id.clone()).or_insert_with(fresh);
        if entry.remote.get().is_some_and(|remote| !remote.peer.is_alive()) {
            entry.remote = Arc::default();
        }
        entry.used = used;
        entry.remote.clone()
    }

    fn forget_cell(&self, engine_id: &str, cell: &Arc<OnceCell<Arc<Remote>>>) {
        let mut entries = self.lock();
        if entries.get(engine_id).is_some_and(|entry| Arc::ptr_eq(&entry.remote, cell)) {
            entries.remove(engine_id);
        }
    }

    async fn connect(&self, pull: &RemotePrefill) -> Result<Arc<Remote>, ConnectError> {
        let metadata = handshake::ask(pull, &self.compatibility).await?;
        let peer = self.agent.connect(&metadata.agent_metadata, self.deadline).await?;
        Ok(Arc::new(Remote { peer, num_blocks: metadata.num_blocks }))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
