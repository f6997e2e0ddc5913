//! A worker that does what a test tells it and remembers what it was sent.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep};

/// How a request is answered.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// With a head, then these steps.
    Answer { status: u16, kind: &'static str, length: Option<usize>, steps: Vec<Step> },
    /// With the request's id and the length of its body, after a pause.
    Echo(Duration),
    /// By closing the connection.
    HangUp,
    /// Never.
    Silence,
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Send(Bytes),
    Pause(Duration),
    /// Close the connection in the middle.
    Die,
    /// Send nothing more, and do not end.
    Stall,
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

pub(crate) struct Fake {
    pub(crate) addr: SocketAddr,
    state: Arc<State>,
    server: Option<tokio::task::JoinHandle<()>>,
}

struct State {
    next: Mutex<VecDeque<Act>>,
    otherwise: Mutex<Act>,
    received: Mutex<Vec<Received>>,
    healthy: AtomicBool,
    open: AtomicUsize,
    accepted: AtomicUsize,
    answering: AtomicUsize,
}

/// An answer of this JSON.
pub(crate) fn json(status: u16, body: impl Into<Bytes>) -> Act {
    let body = body.into();
    Act::Answer {
        status,
        kind: "application/json",
        length: Some(body.len()),
        steps: vec![Step::Send(body)],
    }
}

/// A stream of events.
pub(crate) fn events(steps: Vec<Step>) -> Act {
    Act::Answer { status: 200, kind: "text/event-stream; charset=utf-8", length: None, steps }
}

pub(crate) fn send(text: &str) -> Step {
    Step::Send(Bytes::copy_from_slice(text.as_bytes()))
}

impl Fake {
    /// Serves on a free port; answers every request with `otherwise`, and health checks with 200.
    pub(crate) async fn start(otherwise: Act) -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into(), otherwise).await
    }

    pub(crate) async fn start_at(addr: SocketAddr, otherwise: Act) -> Self {
        let listener = TcpListener::bind(addr).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let state = Arc::new(State {
            next: Mutex::default(),
            otherwise: Mutex::new(otherwise),
            received: Mutex::default(),
            healthy: AtomicBool::new(true),
            open: AtomicUsize::new(0),
            accepted: AtomicUsize::new(0),
            answering: AtomicUsize::new(0),
        });
        let server = Some(tokio::spawn(accept(listener, state.clone())));
        Self { addr, state, server }
    }

    pub(crate) async fn prefill() -> Self {
        Self::start(json(200, super::prefill_answer())).await
    }

    pub(crate) async fn decode() -> Self {
        Self::start(json(200, r#"{"id":"cmpl-1","choices":[{"text":"hello"}]}"#)).await
    }

    /// From now on.
    pub(crate) fn always(&self, act: Act) {
        *self.state.otherwise.lock().unwrap() = act;
    }

    /// Once, before anything else.
    pub(crate) fn next(&self, act: Act) {
        self.script().push_back(act);
    }

    /// What is still to be done once, in order.
    pub(crate) fn script(&self) -> MutexGuard<'_, VecDeque<Act>> {
        self.state.next.lock().unwrap()
    }

    pub(crate) fn healthy(&self, healthy: bool) {
        self.state.healthy.store(healthy, SeqCst);
    }

    /// Everything received but health checks.
    pub(crate) fn received(&self) -> Vec<Received> {
        self.state.received.lock().unwrap().clone()
    }

    /// Connections open now.
    pub(crate) fn open(&self) -> usize {
        self.state.open.load(SeqCst)
    }

    /// Connections that were ever used for something else than health checks.
    pub(crate) fn accepted(&self) -> usize {
        self.state.accepted.load(SeqCst)
    }

    /// Requests being answered.
    pub(crate) fn answering(&self) -> usize {
        self.state.answering.load(SeqCst)
    }

    /// Closes everything, like a process that is killed.
    pub(crate) async fn kill(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
            let _ = server.await;
        }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        if let Some(server) = &self.server {
            server.abort();
        }
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    // Aborting this task drops the set, and with it every connection.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.unwrap();
                connections.spawn(connection(stream, state.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(stream: TcpStream, state: Arc<State>) {
    let _open = Count::new(state.clone(), |state| &state.open);
    let used = Arc::new(AtomicBool::new(false));
    let service = service_fn(move |request| answer(state.clone(), used.clone(), request));
    let server = hyper::server::conn::http1::Builder::new();
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(
    state: Arc<State>,
    used: Arc<AtomicBool>,
    request: Request<Incoming>,
) -> Result<Response<Scripted>, HungUp> {
    let (head, body) = request.into_parts();
    if head.uri.path() == "/health" {
        let status = if state.healthy.load(SeqCst) { 200 } else { 503 };
        return Ok(response(status, "text/plain", Some(0), Scripted::empty()));
    }
    if !used.swap(true, SeqCst) {
        state.accepted.fetch_add(1, SeqCst);
    }
    let answering = Count::new(state.clone(), |state| &state.answering);
    let body = body.collect().await.map_err(|_| HungUp)?.to_bytes();
    let id = head.headers.get("x-request-id").map_or("none", |id| id.to_str().unwrap()).to_owned();
    let body_bytes = body.len();
    state.received.lock().unwrap().push(Received {
        method: head.method,
        path: head.uri.to_string(),
        headers: head.headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
    });
    let next = state.next.lock().unwrap().pop_front();
    match next.unwrap_or_else(|| state.otherwise.lock().unwrap().clone()) {
        Act::HangUp => Err(HungUp),
        Act::Echo(pause) => {
            let echo = format!("{id} {body_bytes}").into();
            let steps = [Step::Pause(pause), Step::Send(echo)].into();
            let body = Scripted { steps, pause: None, _answering: Some(answering) };
            Ok(response(200, "text/plain", None, body))
        }
        Act::Silence => std::future::pending().await,
        Act::Answer { status, kind, length, steps } => {
            let body = Scripted { steps: steps.into(), pause: None, _answering: Some(answering) };
            Ok(response(status, kind, length, body))
        }
    }
}

fn response(
    status: u16,
    kind: &'static str,
    length: Option<usize>,
    body: Scripted,
) -> Response<Scripted> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response.headers_mut().insert(CONTENT_TYPE, kind.parse().unwrap());
    response.headers_mut().insert("x-worker-header", "kept".parse().unwrap());
    if let Some(length) = length {
        response.headers_mut().insert(CONTENT_LENGTH, length.into());
    }
    response
}

#[derive(Debug, thiserror::Error)]
#[error("told to hang up")]
struct HungUp;

struct Scripted {
    steps: VecDeque<Step>,
    pause: Option<Pin<Box<Sleep>>>,
    _answering: Option<Count>,
}

impl Scripted {
    fn empty() -> Self {
        Self { steps: VecDeque::new(), pause: None, _answering: None }
    }
}

impl Body for Scripted {
    type Data = Bytes;
    type Error = HungUp;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HungUp>>> {
        loop {
            if let Some(pause) = &mut self.pause {
                std::task::ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            match self.steps.pop_front() {
                None => return Poll::Ready(None),
                Some(Step::Send(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Some(Step::Pause(pause)) => self.pause = Some(Box::pin(sleep(pause))),
                Some(Step::Die) => return Poll::Ready(Some(Err(HungUp))),
                Some(Step::Stall) => {
                    self.steps.push_front(Step::Stall);
                    return Poll::Pending;
                }
            }
        }
    }
}

struct Count {
    state: Arc<State>,
    which: fn(&State) -> &AtomicUsize,
}

impl Count {
    fn new(state: Arc<State>, which: fn(&State) -> &AtomicUsize) -> Self {
        which(&state).fetch_add(1, SeqCst);
        Self { state, which }
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        (self.which)(&self.state).fetch_sub(1, SeqCst);
    }
}

/// A server that passes health checks, answers everything else with these bytes, and hangs up.
pub(crate) async fn raw(answer: String) -> (SocketAddr, tokio::task::AbortHandle) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let read = stream.read(&mut request).await.unwrap();
            let healthy = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            let checked = request[..read].starts_with(b"GET /health");
            let answer = if checked { healthy } else { &answer };
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (addr, server.abort_handle())
}

/// A port on which nobody listens.
pub(crate) async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}
