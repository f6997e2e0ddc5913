//! Clients that leave, and a router that stops.

use std::time::Duration;

use crate::support::client::{open, post};
use crate::support::fake::{Act, Fake, Step, events, send as bytes};
use crate::support::{config, eventually, serve};
use hyper::Method;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const REQUEST: &[u8] = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}";

#[tokio::test]
async fn a_client_that_leaves_during_prefill_aborts_it() {
    let (prefill, decode) = (Fake::prefill().await, Fake::decode().await);
    let router = serve(config(&[&prefill], &[&decode])).await;
    prefill.next(Act::Silence);
    let mut client = TcpStream::connect(router.addr).await.unwrap();
    client.write_all(REQUEST).await.unwrap();
    eventually("prefill asked", || prefill.answering() == 1).await;
    assert_eq!(router.handle.snapshot().http_in_flight, 1);
    drop(client);
    eventually("prefill let go", || prefill.answering() == 0).await;
    router.drained().await;
    assert_eq!(router.failure("client_gone"), 1);
    assert!(decode.received().is_empty());
}

#[tokio::test]
async fn a_client_that_leaves_before_the_first_token_aborts_decode() {
    let (prefill, decode) = (Fake::prefill().await, Fake::decode().await);
    let router = serve(config(&[&prefill], &[&decode])).await;
    for act in [Act::Silence, events(vec![Step::Stall])] {
        decode.next(act);
        let mut client = TcpStream::connect(router.addr).await.unwrap();
        client.write_all(REQUEST).await.unwrap();
        eventually("decode asked", || decode.answering() == 1).await;
        drop(client);
        eventually("decode let go", || decode.answering() == 0).await;
    }
    router.drained().await;
    assert_eq!(router.failure("client_gone"), 2);
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_aborts_decode() {
    let (prefill, decode) = (Fake::prefill().await, Fake::decode().await);
    let router = serve(config(&[&prefill], &[&decode])).await;
    decode.next(events(vec![bytes("data: 1\n\n"), Step::Stall]));
    let client = open(router.addr, Method::POST, "/v1/completions", &[], "{}").await.unwrap();
    assert_eq!((client.status.as_u16(), decode.answering()), (200, 1));
    drop(client);
    eventually("decode let go", || decode.answering() == 0).await;
    router.drained().await;
    assert_eq!(router.failure("client_gone"), 1);
    // Not the worker's fault.
    assert!(router.handle.workers().iter().all(|w| w.healthy));
}

#[tokio::test]
async fn stopping_waits_for_requests_in_flight() {
    let (prefill, decode) = (Fake::prefill().await, Fake::decode().await);
    let router = serve(config(&[&prefill], &[&decode])).await;
    decode.next(events(vec![
        bytes("data: 1\n\n"),
        Step::Pause(Duration::from_millis(100)),
        bytes("data: 2\n\n"),
    ]));
    let addr = router.addr;
    let asked = tokio::spawn(async move { post(addr, "/v1/completions", "{}").await });
    eventually("decode asked", || decode.answering() == 1).await;
    // An unused connection does not hold it up.
    let _idle = TcpStream::connect(addr).await.unwrap();
    router.begin_stop();
    let reply = asked.await.unwrap();
    assert_eq!((reply.body.as_str(), reply.whole), ("data: 1\n\ndata: 2\n\n", true));
    assert_eq!(router.stop().await.cut_connections, 0);
    assert!(TcpStream::connect(addr).await.is_err());
    eventually("no connection left", || prefill.open() + decode.open() == 0).await;
}

#[tokio::test]
async fn stopping_is_bounded() {
    let (prefill, decode) = (Fake::prefill().await, Fake::decode().await);
    let mut config = config(&[&prefill], &[&decode]);
    config.drain_timeout = Duration::from_millis(50);
    let router = serve(config).await;
    decode.next(events(vec![bytes("data: 1\n\n"), Step::Stall]));
    let client = open(router.addr, Method::POST, "/v1/completions", &[], "{}").await.unwrap();
    let handle = router.handle.clone();
    assert_eq!(router.stop().await.cut_connections, 1);
    assert!(handle.snapshot().is_drained());
    eventually("no connection left", || prefill.open() + decode.open() == 0).await;
    drop(client);
}

#[tokio::test]
async fn dropping_a_serving_router_closes_everything() {
    let (prefill, decode) = (Fake::prefill().await, Fake::decode().await);
    let router = pdlab_router::Router::bind(config(&[&prefill], &[&decode])).await.unwrap();
    let addr = router.local_addr();
    let task = tokio::spawn(router.serve(std::future::pending()));
    decode.next(events(vec![bytes("data: 1\n\n"), Step::Stall]));
    let _client = open(addr, Method::POST, "/v1/completions", &[], "{}").await.unwrap();
    task.abort();
    eventually("no connection left", || prefill.open() + decode.open() == 0).await;
}
