//! Puts a worker together: engine thread, HTTP server, drain.

use std::future::IntoFuture;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use pdlab_api::fault::FaultKind;
use pdlab_api::ready::Role;
use pdlab_engine::{ConfigError, CostModel, Engine, EngineConfig};
use pdlab_transport::Agent;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::connector::{Connector, Observer};
use crate::engine_loop::{Command, EngineHandle, EngineLoop};
use crate::http::{self, Front};
use crate::intake::Limits;
use crate::kv_pool::{KvMemory, KvPool};
use crate::metrics::{self, Metrics};
use crate::shared::Shared;

/// How a worker is set up; resolved once on the command line.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// Prefill or decode.
    pub role: Role,
    /// Where HTTP is served; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The name that requests give as `model`; the preset's by default.
    pub served_model_name: String,
    /// The engine: model, blocks, batch limits.
    pub engine: EngineConfig,
    /// What the KV pool is made of.
    pub kv_memory: KvMemory,
    /// How long steps take.
    pub cost: CostModel,
    /// Largest request body in bytes; more is answered with 413. 100,000 token ids are about
    /// 700 kB of JSON.
    pub max_body_bytes: usize,
    /// How long requests may take to end after a shutdown was asked for; then they are dropped.
    pub drain_timeout: Duration,
    /// Mistakes to make on purpose; none but for who studies leaks.
    pub faults: Vec<FaultKind>,
}

/// Why a worker could not start or serve.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The HTTP port.
    #[error("cannot listen on {addr}: {source}: choose another --port, or 0 for a free one")]
    Listen {
        /// Where.
        addr: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The engine's settings.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The engine thread.
    #[error("cannot start the engine thread: {0}")]
    Thread(std::io::Error),
    /// The HTTP server.
    #[error("serving HTTP failed: {0}")]
    Serve(std::io::Error),
}

/// What a role brings to its worker.
pub struct Parts<C> {
    /// Settings.
    pub config: WorkerConfig,
    /// The transport, with the pool registered.
    pub agent: Agent,
    /// The KV pool.
    pub pool: KvPool,
    /// Both ends of the engine's channel, made by [`crate::channel`].
    pub channel: (EngineHandle, Receiver<Command>),
    /// Counters that the role's tasks share with the worker.
    pub shared: Arc<Shared>,
    /// The role's part of the engine loop.
    pub connector: C,
    /// What the role shows of itself.
    pub observer: Arc<dyn Observer>,
    /// Routes beyond vLLM's.
    pub routes: axum::Router,
}

/// A worker that listens and computes; [`Worker::serve`] answers.
pub struct Worker {
    listener: TcpListener,
    addr: SocketAddr,
    app: axum::Router,
    engine: EngineHandle,
    thread: std::thread::JoinHandle<()>,
    drain_timeout: Duration,
}

impl Worker {
    /// Listens and starts the engine thread.
    pub async fn bind<C: Connector>(parts: Parts<C>) -> Result<Self, WorkerError> {
        let Parts { config, agent, pool, channel, shared, connector, observer, routes } = parts;
        let (handle, inbox) = channel;
        let addr = config.listen;
        let listen = |source| WorkerError::Listen { addr, source };
        let listener = TcpListener::bind(addr).await.map_err(listen)?;
        let addr = listener.local_addr().map_err(listen)?;
        let model_name = config.served_model_name;
        for fault in &config.faults {
            let (mistake, bug) = (fault.mistake(), fault.bug());
            tracing::warn!(%fault, bug, "a mistake is made on purpose: this process {mistake}");
        }
        let metrics = Metrics::new(&model_name, &config.engine, |r| {
            metrics::faults(r, &config.faults);
            observer.register(r);
        });
        let metrics = Arc::new(metrics);
        let limits = Limits {
            model_name,
            max_model_len: config.engine.max_model_len,
            vocab_size: config.engine.model.vocab_size,
        };
        let front = Front {
            role: config.role,
            limits,
            model_root: config.engine.model.name.to_owned(),
            max_body_bytes: config.max_body_bytes,
            engine: handle.clone(),
            shared: shared.clone(),
            metrics: metrics.clone(),
            observer,
            agent,
            kv_pool: pool.range(),
            next_id: AtomicU64::new(1),
            created: http::unix_seconds(),
        };
        let engine = Engine::new(config.engine)?;
        shared.publish(engine.stats());
        let engine_loop = EngineLoop {
            engine,
            cost: config.cost,
            pool,
            connector,
            inbox,
            shared,
            metrics,
            jobs: std::collections::HashMap::new(),
            started: Instant::now(),
        };
        let thread = engine_loop.spawn().map_err(WorkerError::Thread)?;
        let app = http::routes(Arc::new(front)).merge(routes);
        let drain_timeout = config.drain_timeout;
        Ok(Self { listener, addr, app, engine: handle, thread, drain_timeout })
    }

    /// Where HTTP is served.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Answers until `stop`, then lets requests end within the drain timeout. Returns when the
    /// engine thread has ended and no connection is left.
    pub async fn serve(self, stop: CancellationToken) -> Result<(), WorkerError> {
        use axum::serve::ListenerExt;
        let listener = self.listener.tap_io(|stream| {
            // Small writes are tokens; waiting to fill a packet would only delay them.
            let _ = stream.set_nodelay(true);
        });
        let serving = axum::serve(listener, self.app)
            .with_graceful_shutdown(stop.clone().cancelled_owned())
            .into_future();
        tokio::pin!(serving);
        let served = tokio::select! {
            served = &mut serving => served,
            () = async {
                stop.cancelled().await;
                tokio::time::sleep(self.drain_timeout).await;
            } => {
                tracing::warn!("requests still running after {:?}: dropped", self.drain_timeout);
                Ok(())
            }
        };
        self.engine.send(Command::Shutdown);
        // The loop looks at its inbox at least every tick, and steps are bounded.
        let joined = tokio::task::spawn_blocking(move || self.thread.join()).await;
        if !matches!(joined, Ok(Ok(()))) {
            tracing::error!("the engine thread panicked");
        }
        served.map_err(WorkerError::Serve)
    }
}
