//! What clients get wrong.

use crate::support::client::{Reply, get, post, send};
use crate::support::fake::{Fake, json};
use crate::support::{config, serve};
use hyper::Method;
use pdlab_api::error::ErrorBody;
use pdlab_router::{Error, Router};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn error(reply: &Reply) -> ErrorBody {
    let body: ErrorBody = serde_json::from_str(&reply.body).expect("vLLM's error shape");
    assert_eq!(body.error.code, reply.status.as_u16());
    assert_eq!(reply.headers["content-type"], "application/json");
    body
}

#[tokio::test]
async fn bodies_that_cannot_be_routed_are_refused_before_any_worker() {
    let (prefill, decode) = (Fake::prefill().await, Fake::decode().await);
    let mut config = config(&[&prefill], &[&decode]);
    config.max_body_bytes = 1_000;
    let router = serve(config).await;
    for body in ["", "nonsense", "[1]", "{\"a\":1", "{} x"] {
        let reply = post(router.addr, "/v1/completions", body).await;
        assert_eq!(reply.status, 400, "{body}");
        assert!(error(&reply).error.message.contains("must be a JSON object"), "{}", reply.body);
    }
    let reply = post(router.addr, "/v1/completions", vec![b' '; 1_001]).await;
    assert_eq!(reply.status, 413);
    let message = error(&reply).error.message;
    assert!(message.contains("1000 bytes") && message.contains("max_body_bytes"), "{message}");
    assert_eq!(post(router.addr, "/tokenize", vec![b' '; 1_001]).await.status, 413);
    assert!(prefill.received().is_empty() && decode.received().is_empty());
    // The largest that is still taken.
    let mut body = br#"{"a":1"#.to_vec();
    body.resize(999, b' ');
    body.push(b'}');
    assert_eq!(post(router.addr, "/v1/completions", body).await.status, 200);
    router.drained().await;
    assert_eq!(router.handle.snapshot().work.requests, 7);
}

#[tokio::test]
async fn a_body_of_unknown_length_meets_the_same_limit() {
    let (prefill, decode) = (Fake::prefill().await, Fake::decode().await);
    let mut config = config(&[&prefill], &[&decode]);
    config.max_body_bytes = 10;
    let router = serve(config).await;
    let mut stream = tokio::net::TcpStream::connect(router.addr).await.unwrap();
    let head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(b"8\r\n        \r\n8\r\n        \r\n0\r\n\r\n").await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
}

#[tokio::test]
async fn who_asks_before_sending_too_much_is_told_at_once() {
    let (prefill, decode) = (Fake::prefill().await, Fake::decode().await);
    let mut config = config(&[&prefill], &[&decode]);
    config.max_body_bytes = 10;
    let router = serve(config).await;
    let mut stream = tokio::net::TcpStream::connect(router.addr).await.unwrap();
    let head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 11\r\nexpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
}

#[tokio::test]
async fn a_client_that_stops_sending_is_told_and_let_go() {
    let (prefill, decode) = (Fake::prefill().await, Fake::decode().await);
    let mut config = config(&[&prefill], &[&decode]);
    config.client_timeout = std::time::Duration::from_millis(50);
    let router = serve(config).await;
    let mut stream = tokio::net::TcpStream::connect(router.addr).await.unwrap();
    let head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 11\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 408"));
    // So is one that says nothing at all.
    let mut silent = tokio::net::TcpStream::connect(router.addr).await.unwrap();
    assert_eq!(silent.read_to_end(&mut answer).await.unwrap(), 0);
}

#[tokio::test]
async fn unknown_paths_and_wrong_methods_have_vllms_shape() {
    let (prefill, decode) = (Fake::prefill().await, Fake::decode().await);
    let router = serve(config(&[&prefill], &[&decode])).await;
    let reply = get(router.addr, "/v1/nothing").await;
    let body = error(&reply);
    assert_eq!((reply.status.as_u16(), body.error.kind.as_str()), (404, "Not Found"));
    assert!(body.error.message.contains("/v1/nothing"));
    let reply = get(router.addr, "/v1/completions").await;
    assert_eq!((reply.status.as_u16(), &reply.headers["allow"]), (405, &"POST".parse().unwrap()));
    assert_eq!(error(&reply).error.kind, "Method Not Allowed");
    assert_eq!(post(router.addr, "/health", "").await.status, 405);
    let reply = send(router.addr, Method::DELETE, "/v1/models", &[], "").await;
    assert_eq!((reply.status.as_u16(), &reply.headers["allow"]), (405, &"GET".parse().unwrap()));
}

#[tokio::test]
async fn refusals_of_either_worker_reach_the_client() {
    let (prefill, decode) = (Fake::prefill().await, Fake::decode().await);
    let router = serve(config(&[&prefill], &[&decode])).await;
    let refusal = ErrorBody::not_found("no such model").with_param("model").to_json();
    prefill.next(json(404, refusal.clone()));
    let reply = post(router.addr, "/v1/completions", "{}").await;
    assert_eq!((reply.status.as_u16(), &reply.body), (404, &refusal));
    assert_eq!(reply.headers["x-worker-header"], "kept");
    assert!(decode.received().is_empty());
    let refusal = ErrorBody::bad_request("max_tokens must be at least 1").to_json();
    decode.next(json(400, refusal.clone()));
    let reply = post(router.addr, "/v1/completions", "{}").await;
    assert_eq!((reply.status.as_u16(), reply.body), (400, refusal));
    // A refusal is an answer: nobody else is asked.
    assert_eq!((prefill.received().len(), decode.received().len()), (2, 1));
    router.drained().await;
    assert!(router.handle.snapshot().failures.is_empty());
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (prefill, decode) = (Fake::prefill().await, Fake::decode().await);
    let mut config = config(&[&prefill], &[&decode]);
    config.listen = taken.local_addr().unwrap();
    let Err(error) = Router::bind(config.clone()).await else { panic!("the port is taken") };
    assert!(matches!(error, Error::Listen { .. }));
    let text = error.to_string();
    assert!(text.contains(&config.listen.to_string()) && text.contains("port 0"), "{text}");
    config.decode.clear();
    assert!(matches!(Router::bind(config).await, Err(Error::Setting { setting: "decode", .. })));
}
