//! Kept-alive HTTP/1.1 connections to one worker.
//!
//! A connection has no task: whoever uses it polls it. So a byte from a worker wakes exactly the
//! task that passes it on, and dropping a request closes its socket, which is how a worker learns
//! that nobody wants the answer any more.

mod connection;
mod reply;

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Request;
use prometheus_client::metrics::gauge::Gauge;
use tokio::net::TcpStream;
use tokio::time::Instant;

pub(crate) use connection::Connection;
pub(crate) use reply::{CollectError, Reply, ReplyBody};

use crate::config::WorkerUrl;
use crate::legs::Pieces;

/// The connections to one worker.
pub(crate) struct Pool {
    url: WorkerUrl,
    connect_timeout: Duration,
    keep_alive: Duration,
    max_idle: usize,
    /// Last in, first out: under light load the others grow old and are closed.
    idle: Mutex<Idle>,
    open: Gauge,
}

/// Boxed, because a connection is large and changes hands with every request.
type Idle = Vec<Box<Connection>>;

/// A request got no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// No connection, so the worker knows nothing of the request.
    #[error("{0}")]
    Connect(String),
    /// A kept-alive connection ended instead of answering. The worker may have closed it just
    /// then, as servers do, or may have died over this request.
    #[error("closed a kept-alive connection without answering")]
    Stale,
    /// A fresh connection ended instead of answering.
    #[error("closed the connection without answering: {0}")]
    Closed(String),
}

impl Pool {
    /// No connections yet. `open` counts those that exist, used or not.
    pub(crate) fn new(
        url: WorkerUrl,
        connect_timeout: Duration,
        keep_alive: Duration,
        max_idle: usize,
        open: Gauge,
    ) -> Self {
        Self { url, connect_timeout, keep_alive, max_idle, idle: Mutex::default(), open }
    }

    /// Sends a request and waits for the head of its answer.
    pub(crate) async fn send(
        self: &Arc<Self>,
        mut request: Request<Pieces>,
    ) -> Result<Reply, SendError> {
        loop {
            let (mut connection, reused) = match self.check_out().await {
                Some(connection) => (connection, true),
                None => (Box::new(self.connect().await?), false),
            };
            match connection.request(request).await {
                Ok(head) => return Ok(Reply::new(head, connection, self.clone())),
                Err(failed) => match failed.unsent {
                    // Closed before a byte was written: the worker has certainly not seen it.
                    Some(unsent) if reused => request = unsent,
                    None if reused => return Err(SendError::Stale),
                    _ => return Err(SendError::Closed(full(&failed.error))),
                },
            }
        }
    }

    /// Opens a connection that is not in the pool.
    pub(crate) async fn connect(&self) -> Result<Connection, SendError> {
        let connect = TcpStream::connect(self.url.authority());
        let stream = match tokio::time::timeout(self.connect_timeout, connect).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(SendError::Connect(error.to_string())),
            Err(_) => {
                let waited = self.connect_timeout;
                return Err(SendError::Connect(format!("no connection within {waited:?}")));
            }
        };
        Connection::open(stream, self.open.clone())
            .await
            .map_err(|error| SendError::Connect(full(&error)))
    }

    /// Closes what has been unused for too long or was closed by the worker.
    pub(crate) async fn sweep(&self) {
        poll_fn(|cx| {
            let now = Instant::now();
            self.lock().retain_mut(|c| !c.is_older_than(self.keep_alive, now) && c.is_alive(cx));
            Poll::Ready(())
        })
        .await;
    }

    /// Closes all unused connections.
    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    /// A connection that is alive as far as can be known.
    async fn check_out(&self) -> Option<Box<Connection>> {
        poll_fn(|cx| Poll::Ready(self.take_alive(cx))).await
    }

    fn take_alive(&self, cx: &mut Context<'_>) -> Option<Box<Connection>> {
        let now = Instant::now();
        loop {
            let mut connection = self.lock().pop()?;
            if !connection.is_older_than(self.keep_alive, now) && connection.is_alive(cx) {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection whose answer has been read to the end.
    fn put_back(&self, mut connection: Box<Connection>) {
        connection.rest(Instant::now());
        let mut idle = self.lock();
        if idle.len() < self.max_idle {
            idle.push(connection);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Idle> {
        // The list is whole between any two statements, so a panic elsewhere does not spoil it.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An error of hyper's with its cause, which its own text leaves out.
pub(crate) fn full(error: &hyper::Error) -> String {
    std::error::Error::source(error)
        .map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}
