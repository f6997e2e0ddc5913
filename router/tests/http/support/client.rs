//! A client that sends one request per connection and does not retry.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{HeaderMap, Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// What came of the body.
    pub(crate) body: String,
    /// The body ended as announced.
    pub(crate) whole: bool,
}

/// An answer of which the body is still to come. Dropping it closes the connection.
pub(crate) struct Open {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Incoming,
    driver: tokio::task::JoinHandle<()>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

pub(crate) async fn get(addr: SocketAddr, path: &str) -> Reply {
    send(addr, Method::GET, path, &[], "").await
}

pub(crate) async fn post(addr: SocketAddr, path: &str, body: impl Into<Bytes>) -> Reply {
    send(addr, Method::POST, path, &[], body).await
}

pub(crate) async fn send(
    addr: SocketAddr,
    method: Method,
    path: &str,
    headers: &[(&'static str, &str)],
    body: impl Into<Bytes>,
) -> Reply {
    let mut open = open(addr, method, path, headers, body).await.unwrap();
    let mut body = Vec::new();
    let mut whole = true;
    while let Some(frame) = open.body.frame().await {
        match frame {
            Ok(frame) => body.extend_from_slice(&frame.into_data().unwrap()),
            Err(_) => whole = false,
        }
    }
    let (status, headers) = (open.status, std::mem::take(&mut open.headers));
    Reply { status, headers, body: String::from_utf8(body).unwrap(), whole }
}

/// Sends and waits for the head of the answer.
pub(crate) async fn open(
    addr: SocketAddr,
    method: Method,
    path: &str,
    headers: &[(&'static str, &str)],
    body: impl Into<Bytes>,
) -> Result<Open, hyper::Error> {
    let stream = TcpStream::connect(addr).await.unwrap();
    let (mut sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(async {
        let _ = driver.await;
    });
    let mut request = Request::builder().method(method).uri(path).header("host", addr.to_string());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = sender.send_request(request.body(Full::new(body.into())).unwrap()).await;
    let (head, body) = answer?.into_parts();
    Ok(Open { status: head.status, headers: head.headers, body, driver })
}
