//! One connection to a worker.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Context;
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
    /// None once it has finished. It must be dropped then: a request that it has not taken yet is
    /// handed back only by its drop.
    driver: Option<Driver>,
    unused_since: Instant,
    _open: Open,
}

type Driver = http1::Connection<TokioIo<TcpStream>, Pieces>;

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
        Ok(Self { sender, driver: Some(driver), unused_since, _open: Open(open) })
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
            drive(&mut self.driver, cx);
            answer.as_mut().poll(cx)
        });
        answered.await.map_err(|mut failed| {
            let unsent = failed.take_message();
            Failed { unsent, error: failed.into_error() }
        })
    }

    /// Lets the connection read and write.
    pub(crate) fn drive(&mut self, cx: &mut Context<'_>) {
        drive(&mut self.driver, cx);
    }

    /// Can take another request: the last one is over and nobody hung up.
    pub(crate) fn is_alive(&mut self, cx: &mut Context<'_>) -> bool {
        self.drive(cx);
        self.driver.is_some() && self.sender.is_ready()
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

fn drive(driver: &mut Option<Driver>, cx: &mut Context<'_>) {
    // Errors show in the answer that they concern.
    if driver.as_mut().is_some_and(|driver| Pin::new(driver).poll(cx).is_ready()) {
        *driver = None;
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn a_request_on_a_connection_that_was_just_closed_is_handed_back() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        let open = Gauge::default();
        let mut connection = Connection::open(stream, open.clone()).await.unwrap();
        let served = tokio::spawn(async move {
            let mut request = [0; 1024];
            assert!(server.read(&mut request).await.unwrap() > 0);
            server.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        });
        let request = || {
            let mut request = Request::new(Pieces::from(Bytes::new()));
            request.headers_mut().insert("host", "x".parse().unwrap());
            request
        };
        assert_eq!(connection.request(request()).await.ok().unwrap().status(), 204);
        served.await.unwrap();
        // The server's end is closed, and the connection has not been driven since.
        let failed = connection.request(request()).await.err().unwrap();
        assert!(failed.unsent.is_some(), "{}", failed.error);
        assert_eq!(open.get(), 1);
        drop(connection);
        assert_eq!(open.get(), 0);
    }
}
