//! Puts a decode process together: transport, pool, connections, churn, worker.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use pdlab_api::error::ErrorBody;
use pdlab_api::fault::FaultKind;
use pdlab_api::ready::{Ready, Role};
use pdlab_api::side_channel::Compatibility;
use pdlab_transport::{Agent, AgentConfig, Faults};
use pdlab_worker::{ApiError, KvPool, Parts, Shared, Worker, WorkerConfig, WorkerError};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::churn::{ChurnConfig, Churner};
use crate::connector::{DecodeConnector, Manners, beat, churn_by_rate, lock};
use crate::figures::Figures;
use crate::handshake;
use crate::heartbeat::Waiting;
use crate::pull::Puller;
use crate::remotes::{Habits, Remotes};
use crate::staging::Staging;

/// How a decode is set up.
#[derive(Debug, Clone)]
pub struct DecodeConfig {
    /// HTTP, engine, cost.
    pub worker: WorkerConfig,
    /// The transport.
    pub agent: AgentConfig,
    /// How long one KV read may take before the prefill counts as lost, and a handshake if that
    /// is shorter than [`handshake::TIMEOUT`].
    pub read_deadline: Duration,
    /// Prefill's lease; heartbeats go out six times in it. vLLM's `kv_lease_duration`, 30 s.
    pub kv_lease: Duration,
    /// Unmap events on purpose.
    pub churn: ChurnConfig,
    /// Decides what is random about the churn.
    pub seed: u64,
    /// Transfers after which the connection to a prefill is dropped and made anew. `None`: it
    /// stays.
    pub reconnect_every: Option<u64>,
}

/// Why a decode could not start or serve.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The transport.
    #[error("decode: {0}")]
    Transport(#[from] pdlab_transport::Error),
    /// HTTP and engine.
    #[error("decode: {0}")]
    Worker(#[from] WorkerError),
}

/// A decode that listens; [`Decode::serve`] answers.
pub struct Decode {
    worker: Worker,
    agent: Agent,
    puller: Puller,
    waiting: Arc<Mutex<Waiting>>,
    churn: Arc<Mutex<Churner>>,
    shared: Arc<Shared>,
    tasks: TaskTracker,
    give_up: Option<CancellationToken>,
    kv_lease: Duration,
    ready: Ready,
}

impl Decode {
    /// Opens the transport, registers the pool, listens.
    pub async fn bind(mut config: DecodeConfig) -> Result<Self, DecodeError> {
        let faults = config.worker.faults.clone();
        let has = |kind| faults.contains(&kind);
        config.agent.faults = Faults {
            keep_transfers: has(FaultKind::TransferKept),
            keep_rkeys: has(FaultKind::RkeyKept),
            keep_endpoints: has(FaultKind::EndpointKept),
            keep_notifications: false,
        };
        let regions = &mut config.agent.limits.regions;
        // Room for the churn that registers, which can be switched on at any time.
        *regions += ChurnConfig::RESIDENT_MAX;
        if has(FaultKind::RegionKept) {
            *regions = usize::MAX;
        }
        let patient = has(FaultKind::NoReadDeadline);
        let or_never = |time| if patient { Duration::MAX } else { time };
        let read_deadline = or_never(config.read_deadline);
        let agent = Agent::open(config.agent).await?;
        let engine_config = &config.worker.engine;
        let pool = KvPool::register(&agent, engine_config.geometry, config.worker.kv_memory)?;
        let compatibility = Compatibility {
            model: engine_config.model.name.to_owned(),
            block_size: engine_config.geometry.block_size_tokens as u32,
            bytes_per_token: engine_config.geometry.bytes_per_token as u64,
        };
        let habits = Habits {
            handshake_timeout: or_never(handshake::TIMEOUT.min(config.read_deadline)),
            connect_timeout: read_deadline,
            reconnect_every: config.reconnect_every,
            keep_gone: has(FaultKind::RemoteKept),
        };
        let remotes = Arc::new(Remotes::new(agent.clone(), compatibility, habits));
        let figures = Arc::new(Figures::new(remotes.clone()));
        let shared = Arc::new(Shared::default());
        let puller = Puller {
            pool: pool.clone(),
            remotes,
            read_deadline,
            shared: shared.clone(),
            figures: figures.clone(),
            staging: has(FaultKind::RegionKept).then(|| Arc::new(Staging::new(agent.clone()))),
        };
        let channel = pdlab_worker::channel();
        let waiting = Arc::new(Mutex::new(Waiting::default()));
        let churner = Churner::new(config.churn, config.seed, agent.clone());
        let churn = Arc::new(Mutex::new(churner));
        let (tasks, give_up) = (TaskTracker::new(), CancellationToken::new());
        let connector = DecodeConnector {
            puller: puller.clone(),
            runtime: tokio::runtime::Handle::current(),
            tasks: tasks.clone(),
            give_up: give_up.clone(),
            engine: channel.0.clone(),
            waiting: waiting.clone(),
            churn: churn.clone(),
            shared: shared.clone(),
            manners: Manners::new(&faults, config.kv_lease),
        };
        let worker = Worker::bind(Parts {
            config: config.worker,
            agent: agent.clone(),
            pool,
            channel,
            shared: shared.clone(),
            connector,
            observer: figures,
            routes: churn_routes(churn.clone(), shared.clone()),
        })
        .await?;
        let ready = Ready {
            role: Role::Decode,
            http: format!("http://{}", worker.local_addr()),
            side_channel: None,
            pid: std::process::id(),
            transport: Some(agent.backend().to_string()),
            ucx_version: agent.version(),
            faults: faults.clone(),
        };
        let (give_up, kv_lease) = (patient.then_some(give_up), config.kv_lease);
        Ok(Self { worker, agent, puller, waiting, churn, shared, tasks, give_up, kv_lease, ready })
    }

    /// What the ready line says.
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// Answers until `stop`, then drains: HTTP, engine, loads, transport, in this order.
    pub async fn serve(self, stop: CancellationToken) -> Result<(), DecodeError> {
        let background = CancellationToken::new();
        let beats = beat(self.puller.clone(), self.waiting, self.kv_lease, background.clone());
        let churning = churn_by_rate(self.churn, self.shared, background.clone());
        let (beats, churning) = (tokio::spawn(beats), tokio::spawn(churning));
        let served = self.worker.serve(stop).await;
        background.cancel();
        let _ = tokio::join!(beats, churning);
        // Loads are bounded by their deadline, if they have one, and own blocks of the pool until
        // then.
        if let Some(give_up) = self.give_up {
            give_up.cancel();
        }
        self.tasks.close();
        self.tasks.wait().await;
        self.puller.remotes.clear();
        let closed = self.agent.close().await;
        served?;
        Ok(closed?)
    }
}

type Churn = State<(Arc<Mutex<Churner>>, Arc<Shared>)>;

/// `GET` and `POST /pdlab/churn`: the settings of the churn source, changed while it runs.
fn churn_routes(churn: Arc<Mutex<Churner>>, shared: Arc<Shared>) -> axum::Router {
    axum::Router::new()
        .route("/pdlab/churn", get(show_churn))
        .route("/pdlab/churn", post(set_churn))
        .with_state((churn, shared))
}

async fn show_churn(State((churn, _)): Churn) -> Response {
    axum::Json(*lock(&churn).config()).into_response()
}

async fn set_churn(
    State((churn, shared)): Churn,
    body: axum::body::Bytes,
) -> Result<Response, ApiError> {
    let bad = |why: String| ApiError(ErrorBody::bad_request(format!("churn settings: {why}")));
    // What is not named keeps its value.
    let changes: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&body).map_err(|e| bad(e.to_string()))?;
    let mut churner = lock(&churn);
    let mut settings = serde_json::to_value(churner.config()).map_err(|e| bad(e.to_string()))?;
    if let Some(settings) = settings.as_object_mut() {
        settings.extend(changes);
    }
    let config: ChurnConfig = serde_json::from_value(settings).map_err(|e| bad(e.to_string()))?;
    config.validate().map_err(bad)?;
    let unmapped = churner.configure(config);
    Shared::add(&shared.unmaps, unmapped);
    Ok(axum::Json(config).into_response())
}
