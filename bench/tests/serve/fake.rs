//! An OpenAI-compatible server that does what a script says.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// One request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    /// In the order of arrival, from 0.
    pub(crate) index: usize,
    pub(crate) path: String,
    pub(crate) request_id: String,
    pub(crate) authorization: Option<String>,
    pub(crate) body: Value,
}

/// How to answer.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    pub(crate) status: u16,
    pub(crate) content_type: &'static str,
    /// Wait, then send.
    pub(crate) steps: Vec<(Duration, String)>,
    /// Break the connection after the last step instead of ending the answer.
    pub(crate) cut: bool,
    /// Close the connection after the answer.
    pub(crate) close: bool,
}

impl Script {
    pub(crate) fn stream(events: impl IntoIterator<Item = (u64, Value)>) -> Self {
        let step = |(ms, event)| (Duration::from_millis(ms), format!("data: {event}\n\n"));
        let mut steps: Vec<(Duration, String)> = events.into_iter().map(step).collect();
        steps.push((Duration::ZERO, "data: [DONE]\n\n".to_owned()));
        Self { status: 200, content_type: "text/event-stream", steps, cut: false, close: false }
    }

    /// `tokens` tokens: the first after `ttft_ms`, each other `itl_ms` after the one before, and
    /// the usage.
    pub(crate) fn completion(ask: &Ask, tokens: u64, ttft_ms: u64, itl_ms: u64) -> Self {
        let prompt = ask.body["prompt"].as_array().map_or(0, Vec::len);
        let token = |i| {
            let wait_ms = if i == 0 { ttft_ms } else { itl_ms };
            (wait_ms, json!({"choices": [{"index": 0, "text": format!("{i} ")}]}))
        };
        let usage = json!({"choices": [], "usage": {
            "prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": 0}});
        Self::stream((0..tokens).map(token).chain([(0, usage)]))
    }

    pub(crate) fn refusal(status: u16, body: &str) -> Self {
        Self {
            status,
            content_type: "application/json",
            steps: vec![(Duration::ZERO, body.to_owned())],
            cut: false,
            close: false,
        }
    }
}

/// Answers by a script; ends when dropped.
pub(crate) struct Fake {
    pub(crate) url: String,
    state: Arc<State>,
    _connections: JoinSet<()>,
}

struct State {
    script: Box<dyn Fn(&Ask) -> Script + Send + Sync>,
    asks: Mutex<Vec<Ask>>,
    open: AtomicUsize,
    opened: AtomicUsize,
    busy: AtomicUsize,
    most_busy: AtomicUsize,
}

impl Fake {
    pub(crate) async fn start(script: impl Fn(&Ask) -> Script + Send + Sync + 'static) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = TcpListener::bind(address).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(State {
            script: Box::new(script),
            asks: Mutex::default(),
            open: AtomicUsize::new(0),
            opened: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            most_busy: AtomicUsize::new(0),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(&state)));
        Self { url, state, _connections: tasks }
    }

    /// The requests so far, without those for the list of models.
    pub(crate) fn asks(&self) -> Vec<Ask> {
        self.state.asks.lock().unwrap().clone()
    }

    /// Connections that are open.
    pub(crate) fn open(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }

    /// Connections that were ever opened.
    pub(crate) fn opened(&self) -> usize {
        self.state.opened.load(Ordering::SeqCst)
    }

    /// Most answers that were under way at a time.
    pub(crate) fn most_busy(&self) -> usize {
        self.state.most_busy.load(Ordering::SeqCst)
    }

    /// Waits until no connection is open.
    pub(crate) async fn drained(&self) {
        let empty = async {
            while self.open() > 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), empty).await.expect("connections stay open");
    }
}

/// Adds one while it lives.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(counter: &'a AtomicUsize) -> Self {
        counter.fetch_add(1, Ordering::SeqCst);
        Self(counter)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        socket.set_nodelay(true).unwrap();
        let state = Arc::clone(&state);
        connections.spawn(async move {
            state.opened.fetch_add(1, Ordering::SeqCst);
            let _open = Counted::new(&state.open);
            let service = service_fn(|request| answer(request, Arc::clone(&state)));
            let server = hyper::server::conn::http1::Builder::new();
            // A client that goes away is part of the tests.
            let _ = server.serve_connection(TokioIo::new(socket), service).await;
        });
    }
}

type Answer = Response<http_body_util::combinators::UnsyncBoxBody<Bytes, &'static str>>;

async fn answer(request: Request<Incoming>, state: Arc<State>) -> Result<Answer, Infallible> {
    let (head, body) = request.into_parts();
    if head.uri.path().ends_with("/v1/models") {
        let card = json!({"id": "fake", "object": "model", "created": 0, "owned_by": "vllm",
            "root": "fake", "parent": null, "max_model_len": 100});
        let list = json!({"object": "list", "data": [card]}).to_string();
        return Ok(respond(Script::refusal(200, &list), None));
    }
    let header = |name: &str| head.headers.get(name).map(|v| v.to_str().unwrap().to_owned());
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let ask = {
        let mut asks = state.asks.lock().unwrap();
        let ask = Ask {
            index: asks.len(),
            path: head.uri.path().to_owned(),
            request_id: header("x-request-id").unwrap_or_default(),
            authorization: header("authorization"),
            body: serde_json::from_slice(&body).unwrap_or_default(),
        };
        asks.push(ask.clone());
        ask
    };
    let script = (state.script)(&ask);
    Ok(respond(script, Some(state)))
}

fn respond(script: Script, state: Option<Arc<State>>) -> Answer {
    let head =
        Response::builder().status(script.status).header("content-type", script.content_type);
    let head = if script.close { head.header("connection", "close") } else { head };
    head.body(BodyExt::boxed_unsync(StreamBody::new(play(script, state)))).unwrap()
}

/// The answer under way; counts itself until it is over or dropped.
struct Busy(Option<Arc<State>>);

impl Busy {
    fn new(state: Option<Arc<State>>) -> Self {
        if let Some(state) = &state {
            let busy = state.busy.fetch_add(1, Ordering::SeqCst) + 1;
            state.most_busy.fetch_max(busy, Ordering::SeqCst);
        }
        Self(state)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if let Some(state) = &self.0 {
            state.busy.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

fn play(
    script: Script,
    state: Option<Arc<State>>,
) -> impl Stream<Item = Result<Frame<Bytes>, &'static str>> {
    let steps = script.steps.into_iter();
    stream::unfold((steps, script.cut, Busy::new(state)), |(mut steps, cut, busy)| async move {
        match steps.next() {
            Some((wait, text)) => {
                if !wait.is_zero() {
                    tokio::time::sleep(wait).await;
                }
                Some((Ok(Frame::data(Bytes::from(text))), (steps, cut, busy)))
            }
            None if cut => Some((Err("cut"), (steps, false, busy))),
            None => None,
        }
    })
}
