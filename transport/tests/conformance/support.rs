//! What the cases share: agents of a backend, memory with known content, waiting.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use pdlab_transport::rdma::Completion;
use pdlab_transport::{
    Agent, AgentConfig, BackendChoice, BackendKind, Descriptor, Error, Mapping, Notification, Peer,
    ReadReport, Region, UcxBuild,
};
use tokio::task::JoinHandle;

use crate::wire;

/// Long enough for anything that should happen, also on an emulated processor; short enough that a
/// hang is a failure.
pub(crate) const SOON: Duration = Duration::from_secs(60);
/// Deadline of what is expected to run into it.
pub(crate) const BRIEF: Duration = Duration::from_millis(400);

/// The backend under test.
#[derive(Clone, Debug)]
pub(crate) struct Backend {
    pub(crate) kind: BackendKind,
    pub(crate) ucx: Option<UcxBuild>,
    /// Some if bytes move over RDMA: always for verbs, and for UCX if it is told to.
    pub(crate) rdma: Option<Rdma>,
}

/// The devices of the two hosts that a test plays; one device may be both.
#[derive(Clone, Debug)]
pub(crate) struct Rdma {
    /// `PDLAB_RDMA_DEVICE`: of whoever reads.
    pub(crate) device: String,
    /// `PDLAB_RDMA_PEER_DEVICE`, else the same: of whoever is read from.
    pub(crate) peer_device: String,
    /// `PDLAB_RDMA_COMPLETION`, else the default.
    pub(crate) completion: Completion,
}

impl Rdma {
    fn find() -> Option<Self> {
        let device = std::env::var("PDLAB_RDMA_DEVICE").ok().filter(|name| !name.is_empty())?;
        let peer_device =
            std::env::var("PDLAB_RDMA_PEER_DEVICE").unwrap_or_else(|_| device.clone());
        Some(Self { device, peer_device, completion: completion("PDLAB_RDMA_COMPLETION") })
    }

    pub(crate) fn devices(&self) -> [String; 2] {
        [self.device.clone(), self.peer_device.clone()]
    }
}

/// What a variable says of completions, else the default.
fn completion(variable: &str) -> Completion {
    let how = std::env::var(variable).ok().filter(|how| !how.is_empty());
    how.map(|how| how.parse().unwrap()).unwrap_or_default()
}

impl Backend {
    /// The backend, or why it cannot be tested here.
    pub(crate) fn find(kind: BackendKind) -> Result<Self, String> {
        match kind {
            BackendKind::Ucx => Ok(Self { kind, ucx: Some(ucx_build()?), rdma: Rdma::find() }),
            BackendKind::Verbs if cfg!(not(feature = "verbs")) => {
                Err("built without the cargo feature `verbs`".to_owned())
            }
            BackendKind::Verbs => {
                let rdma = Rdma::find().ok_or(
                    "PDLAB_RDMA_DEVICE names no RDMA device; scripts/rdma-tests runs this in a \
                     machine that has two",
                )?;
                Ok(Self { kind, ucx: None, rdma: Some(rdma) })
            }
            _ => Ok(Self { kind, ucx: None, rdma: None }),
        }
    }

    /// Whether a peer can be stopped in the middle of a read; why not.
    pub(crate) fn can_stop_peers(&self) -> Result<(), String> {
        self.rdma.as_ref().map_or(Ok(()), |rdma| wire::can_cut(&rdma.devices()))
    }

    pub(crate) fn config(&self, name: &str) -> AgentConfig {
        let mut config = AgentConfig::new(name);
        config.choice = BackendChoice::Only(self.kind);
        config.ucx = self.ucx.clone();
        if let Some(rdma) = &self.rdma {
            // Servers and readers are on different hosts, as it were.
            let serves = name.starts_with("server") || matches!(name, "child" | "two");
            let device = if serves { &rdma.peer_device } else { &rdma.device };
            config.rdma.device = Some(device.clone());
            config.rdma.completion = rdma.completion;
        }
        config.ucx_completion = completion("PDLAB_UCX_COMPLETION");
        config.ucx_variables =
            std::env::vars().filter(|(name, _)| name.starts_with("UCX_")).collect();
        config
    }

    pub(crate) async fn agent(&self, name: &str) -> Agent {
        Agent::open(self.config(name)).await.unwrap()
    }

    /// An agent whose first region holds [`pattern`] of `seed`.
    pub(crate) async fn server(&self, name: &str, len: usize, seed: u8) -> (Agent, Region) {
        let agent = self.agent(name).await;
        let region = agent.register(filled(len, seed)).unwrap();
        (agent, region)
    }

    /// An agent with an empty region.
    pub(crate) async fn client(&self, name: &str, len: usize) -> (Agent, Region) {
        let agent = self.agent(name).await;
        let region = agent.register(Mapping::anonymous(len).unwrap()).unwrap();
        (agent, region)
    }
}

#[cfg(feature = "ucx")]
fn ucx_build() -> Result<UcxBuild, String> {
    use pdlab_transport::builds::{BuildSpec, Builds};

    let spec = std::env::var("PDLAB_TEST_UCX").map_err(|_| "PDLAB_TEST_UCX is not set")?;
    let spec: BuildSpec = spec.parse().map_err(|error| format!("{error}"))?;
    let home = std::env::var_os("HOME").ok_or("HOME is not set")?;
    let cache = std::env::var_os("PDLAB_CACHE_DIR")
        .map_or_else(|| std::path::Path::new(&home).join(".cache/pdlab"), Into::into);
    Builds::new(&cache).resolve(&spec).map_err(|error| error.to_string())
}

#[cfg(not(feature = "ucx"))]
fn ucx_build() -> Result<UcxBuild, String> {
    Err("built without the cargo feature `ucx`".to_owned())
}

/// Runs a case that stops a peer in the middle of a read, where that can be done.
pub(crate) fn run_stopping<F: Future<Output = ()>>(
    kind: BackendKind,
    case: impl FnOnce(Backend) -> F,
) {
    if let Ok(Err(reason)) = Backend::find(kind).map(|backend| backend.can_stop_peers()) {
        eprintln!("skipped on {kind}: a device answers for a stopped process, and {reason}");
        return;
    }
    run(kind, case);
}

/// Runs a case on a backend, in a runtime of its own, with a limit on its time.
pub(crate) fn run<F: Future<Output = ()>>(kind: BackendKind, case: impl FnOnce(Backend) -> F) {
    let backend = match Backend::find(kind) {
        Ok(backend) => backend,
        Err(reason) => {
            eprintln!("skipped on {kind}: {reason}");
            return;
        }
    };
    runtime().block_on(async {
        let limit = 4 * SOON;
        tokio::time::timeout(limit, case(backend)).await.expect("the case hangs");
    });
}

/// Threads for blocking work end soon after it: an idle one, which stays for ten seconds by default, would be counted
/// among what an agent leaves behind.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_keep_alive(Duration::from_millis(50))
        .enable_all()
        .build()
        .unwrap()
}

pub(crate) async fn connect(client: &Agent, server: &Agent) -> Peer {
    client.connect(&server.metadata().unwrap(), SOON).await.unwrap()
}

/// The byte that memory of this seed has at this offset. Neighbours, pages and seeds differ.
pub(crate) fn pattern(seed: u8, offset: usize) -> u8 {
    let mixed = (offset as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed >> 56) as u8 ^ (mixed >> 32) as u8 ^ seed
}

pub(crate) fn filled(len: usize, seed: u8) -> Mapping {
    let mut mapping = Mapping::anonymous(len).unwrap();
    for (offset, byte) in mapping.as_mut_slice().iter_mut().enumerate() {
        *byte = pattern(seed, offset);
    }
    mapping
}

/// Panics unless the destination of every descriptor holds what a server with `seed` has there.
pub(crate) fn assert_arrived(region: &Region, descriptors: &[Descriptor], seed: u8) {
    for descriptor in descriptors {
        let from = descriptor.remote_offset as usize;
        let to = descriptor.local_offset;
        let wrong = region
            .read(to..to + descriptor.len, |bytes| {
                bytes
                    .iter()
                    .enumerate()
                    .find(|(at, byte)| **byte != pattern(seed, from + at))
                    .map(|(at, _)| at)
            })
            .unwrap();
        assert_eq!(wrong, None, "first wrong byte of {descriptor:?}");
    }
}

pub(crate) fn fill(region: &Region, byte: u8) {
    region.write(0..region.len(), |bytes| bytes.fill(byte)).unwrap();
}

pub(crate) fn assert_filled(region: &Region, byte: u8) {
    assert!(
        region.read(0..region.len(), |bytes| bytes.iter().all(|found| *found == byte)).unwrap()
    );
}

/// One descriptor over the whole region.
pub(crate) fn whole(region: &Region) -> [Descriptor; 1] {
    [Descriptor::new(0, 0, region.len())]
}

pub(crate) async fn notified(agent: &Agent) -> Notification {
    tokio::time::timeout(SOON, agent.next_notification()).await.expect("no notification").unwrap()
}

pub(crate) fn payload(text: &str) -> Option<Bytes> {
    Some(Bytes::copy_from_slice(text.as_bytes()))
}

/// Waits until something that happens in the background has happened.
pub(crate) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(SOON, async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what}: still not so"));
}

/// A read of the whole region from a peer that does not answer, once it is on its way: the only one of this client.
pub(crate) async fn read_in_flight(
    client: &Agent,
    peer: &Peer,
    region: &Region,
) -> JoinHandle<Result<ReadReport, Error>> {
    let (peer, region) = (peer.clone(), region.clone());
    let read =
        tokio::spawn(async move { peer.read(&region, &whole(&region), None, 3 * SOON).await });
    until("the read is in flight", || client.snapshot().transfers_in_flight == 1).await;
    read
}

/// Unwraps an error and its kind, so that a case can compare it.
pub(crate) fn kind<T: std::fmt::Debug>(result: Result<T, Error>) -> &'static str {
    result.expect_err("this should fail").kind()
}

pub(crate) fn assert_drained(agent: &Agent) {
    let snapshot = agent.snapshot();
    let gauges = [
        snapshot.regions,
        snapshot.registered_bytes,
        snapshot.endpoints,
        snapshot.connections_accepted,
        snapshot.transfers_in_flight,
        snapshot.notifications_queued,
    ];
    assert_eq!(gauges, [0; 6], "{snapshot:?}");
}
