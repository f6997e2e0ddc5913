//! Puts a prefill process together: transport, pool, side channel, worker.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pdlab_api::fault::FaultKind;
use pdlab_api::ready::{Ready, Role};
use pdlab_api::side_channel::{AgentMetadata, Compatibility};
use pdlab_transport::{Agent, AgentConfig};
use pdlab_worker::{EngineHandle, KvPool, Parts, Shared, Worker, WorkerConfig, WorkerError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::connector::{Figures, PrefillConnector};
use crate::identity::Identity;
use crate::side_channel::{SideChannel, SideChannelError};

/// How a prefill is set up.
#[derive(Debug, Clone)]
pub struct PrefillConfig {
    /// HTTP, engine, cost.
    pub worker: WorkerConfig,
    /// The transport.
    pub agent: AgentConfig,
    /// Host of the side channel: bound, and told to decode. vLLM's
    /// `VLLM_NIXL_SIDE_CHANNEL_HOST`.
    pub side_channel_host: String,
    /// Port of the side channel, 0 for a free one. vLLM's `VLLM_NIXL_SIDE_CHANNEL_PORT`.
    pub side_channel_port: u16,
    /// How long blocks stay pinned for a decode that neither reads nor sends heartbeats. vLLM's
    /// `kv_lease_duration`, 30 s.
    pub kv_lease: Duration,
    /// This engine's id, made fresh at every start.
    pub engine_id: String,
    /// Answers after which it takes a new id, when nobody is reading: how peers come and go
    /// without a process that does. `None`: never.
    pub renew_engine_every: Option<u64>,
}

/// Why a prefill could not start or serve.
#[derive(Debug, thiserror::Error)]
pub enum PrefillError {
    /// The transport.
    #[error("prefill: {0}")]
    Transport(#[from] pdlab_transport::Error),
    /// The side channel.
    #[error("prefill: {0}")]
    SideChannel(#[from] SideChannelError),
    /// HTTP and engine.
    #[error("prefill: {0}")]
    Worker(#[from] WorkerError),
}

/// A prefill that listens; [`Prefill::serve`] answers.
pub struct Prefill {
    worker: Worker,
    agent: Agent,
    side_channel: SideChannel,
    handshake: watch::Receiver<Bytes>,
    mute: bool,
    engine: EngineHandle,
    ready: Ready,
}

impl Prefill {
    /// Opens the transport, registers the pool, listens on both ports.
    pub async fn bind(mut config: PrefillConfig) -> Result<Self, PrefillError> {
        let faults = config.worker.faults.clone();
        config.agent.faults.keep_notifications = faults.contains(&FaultKind::NotificationUnread);
        let agent = Agent::open(config.agent).await?;
        let pool =
            KvPool::register(&agent, config.worker.engine.geometry, config.worker.kv_memory)?;
        let side_channel =
            SideChannel::bind(&config.side_channel_host, config.side_channel_port).await?;
        let (metadata, compatibility) = describe(&config.worker, &agent, config.engine_id)?;
        let address = (config.side_channel_host, side_channel.port());
        let endpoint = format!("{}:{}", address.0, address.1);
        let identity = Identity::new(address, metadata, compatibility, config.renew_engine_every);
        let handshake = identity.handshake();

        let channel = pdlab_worker::channel();
        let engine = channel.0.clone();
        let shared = Arc::new(Shared::default());
        let figures = Arc::new(Figures::new(endpoint.clone()));
        let connector = PrefillConnector::new(
            identity,
            config.kv_lease,
            figures.clone(),
            shared.clone(),
            engine.clone(),
        );
        let worker = Worker::bind(Parts {
            config: config.worker,
            agent: agent.clone(),
            pool,
            channel,
            shared,
            connector,
            observer: figures,
            routes: axum::Router::new(),
        })
        .await?;
        let ready = Ready {
            role: Role::Prefill,
            http: format!("http://{}", worker.local_addr()),
            side_channel: Some(endpoint),
            pid: std::process::id(),
            transport: Some(agent.backend().to_string()),
            ucx_version: agent.version(),
            faults: faults.clone(),
        };
        let mute = faults.contains(&FaultKind::Mute);
        Ok(Self { worker, agent, side_channel, handshake, mute, engine, ready })
    }

    /// What the ready line says.
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// Answers until `stop`, then drains: HTTP, engine, side channel, transport, in this order.
    pub async fn serve(self, stop: CancellationToken) -> Result<(), PrefillError> {
        let background = CancellationToken::new();
        let handshakes = self.side_channel.serve(self.handshake, self.mute, background.clone());
        let handshakes = tokio::spawn(handshakes);
        let notifications = tokio::spawn(forward(self.agent.clone(), self.engine));
        let served = self.worker.serve(stop).await;
        background.cancel();
        let closed = self.agent.close().await;
        // Both end by themselves now: one was cancelled, the other's agent is closed.
        let _ = tokio::join!(handshakes, notifications);
        served?;
        Ok(closed?)
    }
}

/// Hands the transport's notifications to the engine loop.
async fn forward(agent: Agent, engine: EngineHandle) {
    while let Some(notification) = agent.next_notification().await {
        engine.notified(notification.payload);
    }
}

/// What decode is told in a handshake.
fn describe(
    worker: &WorkerConfig,
    agent: &Agent,
    engine_id: String,
) -> Result<(AgentMetadata, Compatibility), pdlab_transport::Error> {
    let geometry = &worker.engine.geometry;
    let metadata = AgentMetadata::one_region(
        engine_id,
        agent.metadata()?.to_vec(),
        geometry.num_blocks as u32,
        geometry.block_bytes as u64,
        geometry.block_size_tokens as u32,
    );
    let compatibility = Compatibility {
        model: worker.engine.model.name.to_owned(),
        block_size: geometry.block_size_tokens as u32,
        bytes_per_token: geometry.bytes_per_token as u64,
    };
    Ok((metadata, compatibility))
}
