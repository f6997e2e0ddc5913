//! Listens, serves connections, drains.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use pdlab_api::ready::Role;
use pdlab_api::snapshot::Snapshot;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::checker;
use crate::config::RouterConfig;
use crate::error::Error;
use crate::fleet::{Fleet, Leg, WorkerState};
use crate::metrics::Metrics;
use crate::request_id::RequestIds;
use crate::routes;
use crate::ui::{self, Ui};

/// Pause after a failed accept. The usual cause is that file descriptors have run out, and trying
/// again at once would only burn a core until some are closed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A router that listens. Dropping it, or the future of [`Router::serve`], closes everything.
pub struct Router {
    listener: TcpListener,
    local_addr: SocketAddr,
    shared: Arc<Shared>,
}

/// Looks at a router while it serves.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

/// How [`Router::serve`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were cut because their requests went on past
    /// [`RouterConfig::drain_timeout`].
    pub cut_connections: usize,
}

/// What all requests share.
pub(crate) struct Shared {
    pub(crate) config: RouterConfig,
    pub(crate) prefill: Fleet,
    pub(crate) decode: Fleet,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) request_ids: RequestIds,
    /// The live page, where it is wanted.
    pub(crate) ui: Option<Ui>,
}

impl Router {
    /// Checks the configuration and takes the address. Workers need not be there yet.
    ///
    /// Fails with [`Error::Setting`] or [`Error::Listen`].
    pub async fn bind(config: RouterConfig) -> Result<Self, Error> {
        config.validate()?;
        let failed = |source| Error::Listen { addr: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(failed)?;
        let local_addr = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, local_addr, shared: Arc::new(Shared::new(config)) })
    }

    /// The address in use, with its real port.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// A handle that stays valid while the router serves, and after.
    pub fn handle(&self) -> Handle {
        Handle { shared: self.shared.clone() }
    }

    /// Work done, requests in flight, failures: what `GET /pdlab/snapshot` answers.
    pub fn snapshot(&self) -> Snapshot {
        self.shared.snapshot()
    }

    /// Serves until `shutdown` completes, then lets requests in flight finish, within
    /// [`RouterConfig::drain_timeout`]. When it returns, every connection is closed and every task
    /// is gone.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) -> Drained {
        let Self { listener, shared, .. } = self;
        let mut checkers = JoinSet::new();
        for worker in shared.prefill.workers().iter().chain(shared.decode.workers()) {
            checkers.spawn(checker::watch(shared.clone(), worker.clone()));
        }
        checkers.spawn(ui::collect(shared.clone()));
        let mut connections = JoinSet::new();
        let draining = CancellationToken::new();
        let mut shutdown = pin!(shutdown);
        loop {
            let has_room = connections.len() < shared.config.max_connections;
            tokio::select! {
                () = &mut shutdown => break,
                accepted = listener.accept(), if has_room => match accepted {
                    Ok((stream, _)) => {
                        connections.spawn(connection(shared.clone(), stream, draining.clone()));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(ended) = connections.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "a connection's task panicked; please report it");
                    }
                }
            }
        }
        drop(listener);
        draining.cancel();
        let all_closed = async { while connections.join_next().await.is_some() {} };
        let in_time = timeout(shared.config.drain_timeout, all_closed).await.is_ok();
        let cut_connections = if in_time { 0 } else { connections.len() };
        connections.shutdown().await;
        checkers.shutdown().await;
        shared.close_unused();
        Drained { cut_connections }
    }
}

impl Handle {
    /// Work done, requests in flight, failures: what `GET /pdlab/snapshot` answers.
    pub fn snapshot(&self) -> Snapshot {
        self.shared.snapshot()
    }

    /// The workers as they are seen now, prefills first.
    pub fn workers(&self) -> Vec<WorkerState> {
        [self.shared.prefill.states(), self.shared.decode.states()].concat()
    }

    /// The metrics in Prometheus' text format: what `GET /metrics` answers.
    pub fn metrics(&self) -> String {
        self.shared.metrics.text()
    }
}

impl Shared {
    fn new(config: RouterConfig) -> Self {
        let metrics = Metrics::new();
        Self {
            prefill: Fleet::new(Leg::Prefill, &config.prefill, &config, &metrics),
            decode: Fleet::new(Leg::Decode, &config.decode, &config, &metrics),
            metrics: Arc::new(metrics),
            request_ids: RequestIds::new(config.request_id_seed),
            ui: config.ui.then(|| Ui::new(config.prefill.len(), config.decode.len())),
            config,
        }
    }

    pub(crate) fn fleet(&self, leg: Leg) -> &Fleet {
        match leg {
            Leg::Prefill => &self.prefill,
            Leg::Decode => &self.decode,
        }
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::new(Role::Router, std::process::id());
        snapshot.work.requests = self.metrics.generations();
        snapshot.http_in_flight = self.metrics.in_flight();
        snapshot.failures = self.metrics.failures();
        snapshot
    }

    fn close_unused(&self) {
        for worker in self.prefill.workers().iter().chain(self.decode.workers()) {
            worker.pool.clear();
        }
    }
}

/// Serves one client until it leaves, or until it is idle while the router drains.
async fn connection(shared: Arc<Shared>, stream: TcpStream, draining: CancellationToken) {
    // Tokens are small and must not wait for each other. A socket that refuses works all the same.
    let _ = stream.set_nodelay(true);
    let patience = shared.config.client_timeout;
    let service = service_fn(move |request| routes::serve(shared.clone(), request));
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(patience)
            .serve_connection(TokioIo::new(stream), service)
    );
    let served = tokio::select! {
        biased;
        served = connection.as_mut() => served,
        () = draining.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        // Clients may leave whenever they like.
        tracing::debug!(%error, "client connection ended");
    }
}
