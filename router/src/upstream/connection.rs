//! One connection to a worker.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use prometheus_client::metrics::gauge::Gauge;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::legs::Pieces;

/// A connection and the machine that drives it.
pub(crate) struct Connection {
    sender: http1::SendRequest<Pieces>,
    driver: http1::Connection<TokioIo<TcpStream>, Pieces>,
    /// The driver has finished and must not be polled again.
    closed: bool,
    unused_since: Instant,
    _open: Open,
}

/// Counts a connection for as long as it exists.
struct Open(Gauge);

/// A request that got no answer.
pub(crate) struct Failed {
    pub(crate) error: hyper::Error,
    /// The request, if nothing of it was written.
    pub(crate) unsent: Option<Request<Pieces>>,
}

impl Connection {
    /// Speaks HTTP/1.1 on a stream.
    pub(crate) async fn open(stream: TcpStream, open: Gauge) -> Result<Self, hyper::Error> {
        // Without it a small leg waits for the acknowledgement of the one before. A socket that
        // refuses the option works all the same.
        let _ = stream.set_nodelay(true);
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
        open.inc();
        let unused_since = Instant::now();
        Ok(Self { sender, driver, closed: false, unused_since, _open: Open(open) })
    }

    /// Sends a request and waits for the head of the answer. Dropping the future leaves the
    /// connection unusable: drop it too.
    pub(crate) async fn request(
        &mut self,
        request: Request<Pieces>,
    ) -> Result<Response<Incoming>, Failed> {
        let mut answer = pin!(self.sender.try_send_request(request));
        let answered = poll_fn(|cx| {
            // First the driver, which writes the request and finds the answer.
            let _ = drive(&mut self.driver, &mut self.closed, cx);
            answer.as_mut().poll(cx)
        });
        answered.await.map_err(|mut failed| {
            let unsent = failed.take_message();
            Failed { unsent, error: failed.into_error() }
        })
    }

    /// Lets the connection read and write. Errors show in the answer that they concern.
    pub(crate) fn drive(&mut self, cx: &mut Context<'_>) {
        let _ = drive(&mut self.driver, &mut self.closed, cx);
    }

    /// Can take another request: the last one is over and nobody hung up.
    pub(crate) fn is_alive(&mut self, cx: &mut Context<'_>) -> bool {
        self.drive(cx);
        !self.closed && self.sender.is_ready()
    }

    /// Has been unused for longer than this.
    pub(crate) fn is_older_than(&self, age: Duration, now: Instant) -> bool {
        now.duration_since(self.unused_since) >= age
    }

    /// Is unused from now on.
    pub(crate) fn rest(&mut self, now: Instant) {
        self.unused_since = now;
    }
}

fn drive(
    driver: &mut http1::Connection<TokioIo<TcpStream>, Pieces>,
    closed: &mut bool,
    cx: &mut Context<'_>,
) -> Poll<()> {
    if !*closed && Pin::new(driver).poll(cx).is_ready() {
        *closed = true;
    }
    if *closed { Poll::Ready(()) } else { Poll::Pending }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}
