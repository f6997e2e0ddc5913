//! Kept-alive HTTP/1.1 connections to one server.
//!
//! Each connection is driven by the task whose request it carries, not by a task of its own: a
//! token then wakes one task instead of two, and dropping a request closes its connection, which
//! is what a client that goes away looks like.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Mutex;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::target::Address;

/// A connection that idled this long is not used again. Servers close idle connections, uvicorn
/// after 5 s (<https://www.uvicorn.org/settings/#timeouts>); a request that meets the closing
/// would count as failed although the server is well.
const IDLE_LIMIT: Duration = Duration::from_secs(4);

/// How long the end of a body may take after everything of interest in it has come.
const TAIL_TIMEOUT: Duration = Duration::from_millis(100);

/// The idle connections to one server; what is busy is owned by its request.
#[derive(Debug)]
pub(super) struct Pool {
    peers: Vec<SocketAddr>,
    idle: Mutex<Vec<(Kept, Instant)>>,
}

/// Boxed, because a connection is large and changes hands with every request.
type Kept = Box<Connection>;

/// One connection, with at most one request on it.
#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// None once the connection has ended.
    driver: Option<http1::Connection<TokioIo<TcpStream>, Full<Bytes>>>,
    reused: bool,
}

impl Pool {
    /// Resolves the address. Nothing is connected yet.
    pub(super) async fn new(address: &Address) -> std::io::Result<Self> {
        let peers = tokio::net::lookup_host((address.host.as_str(), address.port)).await?.collect();
        Ok(Self { peers, idle: Mutex::default() })
    }

    /// Sends a request on an idle connection, or on a new one if there is none. Returns the
    /// connection with the head of the answer.
    ///
    /// A kept connection that turns out to be closed before the request was written is no
    /// failure: the next one is taken.
    pub(super) async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<(Kept, Response<Incoming>), String> {
        loop {
            let mut connection = match self.take_idle() {
                Some(connection) => connection,
                None => Box::new(self.connect().await?),
            };
            let answer = connection.sender.try_send_request(request);
            match connection.drive(answer).await {
                Ok(response) => return Ok((connection, response)),
                Err(mut error) => match error.take_message() {
                    Some(unsent) if connection.reused => request = unsent,
                    _ => return Err(describe(&error.into_error())),
                },
            }
        }
    }

    /// Reads what is left of an answer and keeps the connection, or drops it if the server does
    /// not end the answer soon.
    pub(super) async fn give_back(&self, mut connection: Kept, mut body: Incoming) {
        let rest = async { while let Some(Ok(_)) = connection.frame(&mut body).await {} };
        if tokio::time::timeout(TAIL_TIMEOUT, rest).await.is_err() {
            return;
        }
        // The driver needs one more turn to see that the answer is over.
        connection.drive(poll_fn(|_| Poll::Ready(()))).await;
        if connection.driver.is_some() && connection.sender.is_ready() {
            connection.reused = true;
            self.lock().push((connection, Instant::now()));
        }
    }

    fn take_idle(&self) -> Option<Kept> {
        let mut idle = self.lock();
        let (connection, since) = idle.pop()?;
        if since.elapsed() < IDLE_LIMIT {
            return Some(connection);
        }
        // The last one returned is the youngest, so all others are too old as well.
        idle.clear();
        None
    }

    async fn connect(&self) -> Result<Connection, String> {
        let stream = TcpStream::connect(&self.peers[..]).await.map_err(|error| {
            // EMFILE and ENFILE.
            let cure = match error.raw_os_error() {
                Some(23 | 24) => "; raise `ulimit -n` or set --max-concurrency",
                _ => "",
            };
            format!("cannot connect: {error}{cure}")
        })?;
        // Requests are written whole; waiting for more to send would only add latency.
        stream.set_nodelay(true).map_err(|error| format!("cannot set TCP_NODELAY: {error}"))?;
        let (sender, driver) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| describe(&error))?;
        Ok(Connection { sender, driver: Some(driver), reused: false })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(Kept, Instant)>> {
        self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Connection {
    /// The next data of a body; none at its end.
    pub(super) async fn frame(&mut self, body: &mut Incoming) -> Option<Result<Bytes, String>> {
        loop {
            return match self.drive(body.frame()).await? {
                Ok(frame) => match frame.into_data() {
                    Ok(data) => Some(Ok(data)),
                    Err(_trailers) => continue,
                },
                Err(error) => Some(Err(describe(&error))),
            };
        }
    }

    /// Awaits something about this connection while moving its bytes.
    async fn drive<F: Future>(&mut self, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|cx| {
            self.poll_driver(cx);
            future.as_mut().poll(cx)
        })
        .await
    }

    fn poll_driver(&mut self, cx: &mut Context<'_>) {
        if let Some(driver) = &mut self.driver
            && Pin::new(driver).poll(cx).is_ready()
        {
            // Its error, if any, reaches the request through the sender or the body.
            self.driver = None;
        }
    }
}

/// The error with its causes, which hyper keeps apart.
fn describe(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::Target;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    async fn pool_for(listener: &TcpListener) -> Pool {
        let target = Target::new(format!("http://{}", listener.local_addr().unwrap()));
        Pool::new(&target.address().unwrap()).await.unwrap()
    }

    fn request() -> Request<Full<Bytes>> {
        Request::builder().uri("/").header("host", "x").body(Full::default()).unwrap()
    }

    /// Accepts a connection and answers so many requests on it.
    async fn answer(listener: &TcpListener, requests: usize) -> TcpStream {
        let (mut socket, _) = listener.accept().await.unwrap();
        for _ in 0..requests {
            assert!(socket.read(&mut [0; 1024]).await.unwrap() > 0);
            socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        }
        socket
    }

    async fn ask(pool: &Pool) {
        let (mut connection, response) = pool.send(request()).await.unwrap();
        let mut body = response.into_body();
        assert_eq!(connection.frame(&mut body).await.unwrap().unwrap(), "ok");
        pool.give_back(connection, body).await;
    }

    #[tokio::test]
    async fn a_connection_serves_one_request_after_the_other() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pool = pool_for(&listener).await;
        let client = async {
            ask(&pool).await;
            ask(&pool).await;
        };
        tokio::join!(client, answer(&listener, 2));
        assert_eq!(pool.lock().len(), 1);
    }

    #[tokio::test]
    async fn a_connection_that_was_closed_while_idle_is_replaced() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pool = pool_for(&listener).await;
        let ((), socket) = tokio::join!(ask(&pool), answer(&listener, 1));
        assert_eq!(pool.lock().len(), 1);
        drop(socket);
        // The runtime must have seen the end of the connection.
        tokio::time::sleep(Duration::from_millis(5)).await;
        tokio::join!(ask(&pool), answer(&listener, 1));
    }

    #[tokio::test]
    async fn a_new_connection_that_is_closed_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pool = pool_for(&listener).await;
        let (sent, ()) = tokio::join!(pool.send(request()), async {
            let (mut socket, _) = listener.accept().await.unwrap();
            assert!(socket.read(&mut [0; 1024]).await.unwrap() > 0);
        });
        assert!(sent.unwrap_err().contains("connection closed"));
        assert!(pool.lock().is_empty());
    }
}
