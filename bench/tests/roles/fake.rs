//! A role that is not one: it takes the command line of prefill, decode or router, prints a ready
//! line and answers the requests that a cluster sends, without engine or transport.
//!
//! The environment says how it misbehaves, `FAKE_PREFILL`, `FAKE_DECODE` or `FAKE_ROUTER` being
//! one of the names in [`Manner`]. `FAKE_LEAK_BYTES` is what a decode keeps per pretended unmap,
//! unless `FAKE_CURE` is set to `1`. What `FAKE_UNUSED` names is reported as UCX reports a variable
//! that nothing reads.

use std::convert::Infallible;
use std::io::Write;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use pdlab_api::ready::{Ready, Role};
use pdlab_api::snapshot::{EngineState, Snapshot, TransportState};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Unmaps that a decode pretends to make per millisecond.
const UNMAPS_PER_MS: u64 = 40;

/// What a role does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Nothing.
    Good,
    /// Prints something else than a ready line.
    Garbage,
    /// Prints other lines before the ready line, and after it, as UCX does when it has to warn.
    Chatty,
    /// Prints the ready line of another role.
    Impostor,
    /// Exits with status 3 at once, after a word on stderr.
    Exit,
    /// Never prints anything.
    Silent,
    /// Serves, and does not go on SIGTERM.
    Deaf,
    /// Serves, and is never healthy.
    Sick,
    /// Serves for a moment, then exits with status 9.
    Mortal,
    /// Serves, and never gives back a block.
    Hoarder,
    /// Serves, and answers no completion.
    Barren,
}

static UNMAPS: AtomicU64 = AtomicU64::new(0);
static REQUESTS: AtomicU64 = AtomicU64::new(0);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let role = match args.first().map(String::as_str) {
        Some("prefill") => Role::Prefill,
        Some("decode") => Role::Decode,
        Some("router") => Role::Router,
        other => {
            eprintln!("a fake role is prefill, decode or router, not {other:?}");
            return ExitCode::from(2);
        }
    };
    if args.contains(&"--die-with-parent".to_owned()) {
        prctl::set_pdeathsig(Signal::SIGKILL).expect("the kernel knows PR_SET_PDEATHSIG");
    }
    let manner = manner(role);
    eprintln!("fake {role} with arguments {args:?} is {manner:?}");
    match manner {
        Manner::Exit => {
            eprintln!("ERROR no libucp here");
            ExitCode::from(3)
        }
        Manner::Silent => std::future::pending().await,
        Manner::Garbage => {
            println!("{{\"listening\": 8000}}");
            std::future::pending().await
        }
        _ => serve(role, manner, port(&args)).await,
    }
}

fn manner(role: Role) -> Manner {
    let name = format!("FAKE_{}", role.as_str().to_uppercase());
    match std::env::var(name).as_deref() {
        Ok("garbage") => Manner::Garbage,
        Ok("chatty") => Manner::Chatty,
        Ok("impostor") => Manner::Impostor,
        Ok("exit") => Manner::Exit,
        Ok("silent") => Manner::Silent,
        Ok("deaf") => Manner::Deaf,
        Ok("sick") => Manner::Sick,
        Ok("mortal") => Manner::Mortal,
        Ok("hoarder") => Manner::Hoarder,
        Ok("barren") => Manner::Barren,
        Ok(other) => panic!("unknown manner {other}"),
        Err(_) => Manner::Good,
    }
}

/// The value of `--port`.
fn port(args: &[String]) -> u16 {
    let value = args.iter().position(|arg| arg == "--port").and_then(|at| args.get(at + 1));
    value.and_then(|value| value.parse().ok()).unwrap_or(0)
}

async fn serve(role: Role, manner: Manner, port: u16) -> ExitCode {
    let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("the port is free");
    let address = listener.local_addr().expect("a bound socket has an address");
    let mut terminated = signal(SignalKind::terminate()).expect("signals can be caught");
    let ucx = std::env::var("FAKE_UCX").ok().filter(|_| role != Role::Router);
    let ready = Ready {
        role: if manner == Manner::Impostor { Role::Router } else { role },
        http: format!("http://{address}"),
        side_channel: None,
        pid: std::process::id(),
        transport: (role != Role::Router)
            .then(|| if ucx.is_some() { "ucx".to_owned() } else { "tcp".to_owned() }),
        ucx_version: ucx,
        faults: Vec::new(),
    };
    if manner == Manner::Chatty {
        println!("[1.0] UCX  WARN  before it is ready");
    }
    if let Ok(name) = std::env::var("FAKE_UNUSED") {
        println!("[1.0] UCX  WARN  unused environment variable: {name} (maybe: FAKE_CURE?)");
    }
    println!("{}", serde_json::to_string(&ready).expect("a ready line is JSON"));
    if manner == Manner::Chatty {
        println!("[2.0] UCX  WARN  and after");
    }
    std::io::stdout().flush().expect("stdout is open");
    if role == Role::Decode {
        tokio::spawn(churn());
    }
    if manner == Manner::Mortal {
        tokio::spawn(async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            eprintln!("ERROR out of luck");
            std::process::exit(9);
        });
    }
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.expect("loopback accepts");
                let service = service_fn(move |request| answer(role, manner, request));
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
            _ = terminated.recv(), if manner != Manner::Deaf => return ExitCode::SUCCESS,
        }
    }
}

/// Pretends to unmap, and keeps memory for it if it is told to.
async fn churn() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
    let cured = number("FAKE_CURE") == Some(1u64);
    let leak_bytes = if cured { 0 } else { number("FAKE_LEAK_BYTES").unwrap_or(0) };
    let mut kept: Vec<Vec<u8>> = Vec::new();
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    loop {
        ticks.tick().await;
        let unmaps = 5 * UNMAPS_PER_MS;
        let made = UNMAPS.fetch_add(unmaps, Ordering::Relaxed) + unmaps;
        REQUESTS.fetch_add(1, Ordering::Relaxed);
        // Something to see for who measures processor time, which comes in ticks of 10 ms.
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(1) {
            std::hint::spin_loop();
        }
        // In chunks of whole pages, as UCX's pool grows: 28 pages is about 800 entries.
        let due = (made * leak_bytes / (28 * 4096)) as usize;
        while kept.len() < due {
            kept.push(vec![1; 28 * 4096]);
        }
    }
}

async fn answer(
    role: Role,
    manner: Manner,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    Ok(match parts.uri.path() {
        "/health" if manner == Manner::Sick => status(StatusCode::SERVICE_UNAVAILABLE),
        "/health" => status(StatusCode::OK),
        "/pdlab/snapshot" => {
            let snapshot = snapshot(role, manner);
            let json = serde_json::to_vec(&snapshot).expect("a snapshot is JSON");
            Response::new(Full::from(json))
        }
        "/v1/models" => {
            let card = serde_json::json!({
                "id": "fake", "object": "model", "created": 0, "owned_by": "vllm",
                "root": "fake", "parent": null, "max_model_len": 4096,
            });
            let models = serde_json::json!({"object": "list", "data": [card]});
            Response::new(Full::from(models.to_string()))
        }
        "/v1/completions" if manner == Manner::Barren => status(StatusCode::BAD_GATEWAY),
        "/v1/completions" => completion(&body),
        _ => status(StatusCode::NOT_FOUND),
    })
}

fn status(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

fn snapshot(role: Role, manner: Manner) -> Snapshot {
    let mut snapshot = Snapshot::new(role, std::process::id());
    let requests = REQUESTS.load(Ordering::Relaxed);
    snapshot.work.requests = requests;
    if role != Role::Router {
        let free = if manner == Manner::Hoarder { 5 } else { 9 };
        snapshot.engine =
            Some(EngineState { blocks_total: 9, blocks_free: free, ..EngineState::default() });
        snapshot.transport = Some(TransportState { regions: 1, ..TransportState::default() });
    }
    if role == Role::Decode {
        snapshot.work.unmaps = UNMAPS.load(Ordering::Relaxed);
        snapshot.work.transfers = requests;
        snapshot.work.blocks_verified = 4 * requests;
        snapshot.work.kv_bytes = 4 * 65536 * requests;
        snapshot.work.generation_tokens = 8 * requests;
    }
    snapshot
}

/// A stream of as many tokens as were asked for, all at once.
fn completion(body: &[u8]) -> Response<Full<Bytes>> {
    let request: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let tokens = request["max_tokens"].as_u64().unwrap_or(1);
    let chunk = |choices: serde_json::Value, usage: serde_json::Value| {
        let chunk = serde_json::json!({
            "id": "cmpl-fake", "object": "text_completion", "created": 0, "model": "fake",
            "choices": choices, "usage": usage,
        });
        format!("data: {chunk}\n\n")
    };
    let mut text = String::new();
    for token in 1..=tokens {
        let finish = if token == tokens { Some("length") } else { None };
        let choice = serde_json::json!([
            {"index": 0, "text": "x", "logprobs": null, "finish_reason": finish}
        ]);
        text += &chunk(choice, serde_json::Value::Null);
    }
    let usage = serde_json::json!(
        {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": tokens + 1}
    );
    text += &chunk(serde_json::json!([]), usage);
    text += "data: [DONE]\n\n";
    let mut response = Response::new(Full::from(text));
    response.headers_mut().insert(
        hyper::header::CONTENT_TYPE,
        hyper::header::HeaderValue::from_static("text/event-stream"),
    );
    response
}
