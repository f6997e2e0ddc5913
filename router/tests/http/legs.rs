//! What goes over the wire, byte for byte.

use std::time::Duration;

use crate::support;
use crate::support::client::{get, post, send};
use crate::support::fake::{Act, Fake, Step, events, json, send as text};
use crate::support::{PARAMS, config, serve};
use http_body_util::{BodyExt, Full};
use hyper::Method;
use pdlab_router::ApiKey;

const BODY: &str = r#"{ "model": "m", "prompt": [1,2], "max_tokens": 64, "stream": true, "stream_options": {"include_usage": true}, "min_tokens": 2, "temperature": 0.10, "big": 12345678901234567890123, "x\u0079z": "\u00e9", "kv_transfer_params": {"mine": 1} }"#;

#[tokio::test]
async fn both_legs_are_exact() {
    let (prefill, decode) = (Fake::prefill().await, Fake::decode().await);
    let router = serve(config(&[&prefill], &[&decode])).await;
    let reply = post(router.addr, "/v1/completions", BODY).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    let (prefill, decode) = (prefill.received(), decode.received());
    assert_eq!((prefill.len(), decode.len()), (1, 1));
    assert_eq!(
        prefill[0].body,
        r#"{"kv_transfer_params":{"do_remote_decode":true,"do_remote_prefill":false,"remote_block_ids":null,"remote_engine_id":null,"remote_host":null,"remote_port":null},"stream":false,"max_tokens":1,"model": "m", "prompt": [1,2],"temperature": 0.10, "big": 12345678901234567890123, "x\u0079z": "\u00e9"}"#
    );
    assert_eq!(
        decode[0].body,
        format!(
            r#"{{"kv_transfer_params":{PARAMS},"model": "m", "prompt": [1,2], "max_tokens": 64, "stream": true, "stream_options": {{"include_usage": true}}, "min_tokens": 2, "temperature": 0.10, "big": 12345678901234567890123, "x\u0079z": "\u00e9"}}"#
        )
    );
    for leg in [&prefill[0], &decode[0]] {
        assert_eq!((leg.method.as_str(), leg.path.as_str()), ("POST", "/v1/completions"));
        assert_eq!(leg.headers["content-type"], "application/json");
        assert_eq!(leg.headers["content-length"], leg.body.len().to_string());
    }
}

#[tokio::test]
async fn long_prompts_arrive_whole_on_both_legs() {
    let (prefill, decode) = (Fake::prefill().await, Fake::decode().await);
    let router = serve(config(&[&prefill], &[&decode])).await;
    let prompt = "é".repeat(500_000);
    let body = format!(r#"{{"prompt":"{prompt}","max_tokens":3}}"#);
    let reply = post(router.addr, "/v1/completions", body.clone()).await;
    assert_eq!(reply.status, 200);
    assert!(prefill.received()[0].body.contains(&prompt));
    let expected = format!(r#"{{"kv_transfer_params":{PARAMS},{}"#, &body[1..]);
    assert!(decode.received()[0].body == expected);
}

#[tokio::test]
async fn one_request_id_goes_to_both() {
    let (prefill, decode) = (Fake::prefill().await, Fake::decode().await);
    let router = serve(config(&[&prefill], &[&decode])).await;
    post(router.addr, "/v1/chat/completions", "{}").await;
    post(router.addr, "/v1/chat/completions", "{}").await;
    let headers = [("x-request-id", "mine-1"), ("authorization", "Bearer k"), ("cookie", "c")];
    send(router.addr, Method::POST, "/v1/chat/completions", &headers, "{}").await;
    let (prefill, decode) = (prefill.received(), decode.received());
    for (p, d) in prefill.iter().zip(&decode) {
        assert_eq!(p.headers["x-request-id"], d.headers["x-request-id"]);
        assert!(!p.headers.contains_key("cookie"));
    }
    let id = |place: usize| prefill[place].headers["x-request-id"].to_str().unwrap();
    assert_eq!((id(0).len(), id(2)), (36, "mine-1"));
    assert_ne!(id(0), id(1));
    assert_eq!(decode[2].headers["authorization"], "Bearer k");
    assert!(!decode[0].headers.contains_key("authorization"));
}

#[tokio::test]
async fn workers_get_the_routers_key_where_the_client_has_none() {
    let (prefill, decode) = (Fake::prefill().await, Fake::decode().await);
    let mut config = config(&[&prefill], &[&decode]);
    config.worker_api_key = Some(ApiKey::new("ours").unwrap());
    let router = serve(config).await;
    post(router.addr, "/v1/completions", "{}").await;
    assert_eq!(prefill.received()[0].headers["authorization"], "Bearer ours");
    assert_eq!(decode.received()[0].headers["authorization"], "Bearer ours");
}

#[tokio::test]
async fn streams_pass_unchanged_and_as_they_come() {
    let (prefill, decode) = (Fake::prefill().await, Fake::decode().await);
    let parts = ["data: {\"a\":1}\n\n", ": ping\n\ndata: {\"b", "\":2}\n\n", "data: [DONE]\n\n"];
    let mut steps = Vec::new();
    for part in parts {
        steps.extend([text(part), Step::Pause(Duration::from_millis(5))]);
    }
    decode.always(events(steps));
    let router = serve(config(&[&prefill], &[&decode])).await;
    for _ in 0..3 {
        let reply = post(router.addr, "/v1/completions", r#"{"stream":true}"#).await;
        assert_eq!((reply.body, reply.whole), (parts.concat(), true));
        assert_eq!(reply.headers["content-type"], "text/event-stream; charset=utf-8");
        assert_eq!(reply.headers["x-worker-header"], "kept");
    }
    router.drained().await;
    // One connection each, kept alive: the router read both answers to their very end.
    assert_eq!((prefill.accepted(), decode.accepted()), (1, 1));
}

#[tokio::test]
async fn the_first_event_does_not_wait_for_the_second() {
    let (prefill, decode) = (Fake::prefill().await, Fake::decode().await);
    decode.always(events(vec![text("data: 1\n\n"), Step::Stall]));
    let router = serve(config(&[&prefill], &[&decode])).await;
    let mut open = support::client::open(router.addr, Method::POST, "/v1/completions", &[], "{}")
        .await
        .unwrap();
    let frame = open.body.frame().await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "data: 1\n\n");
}

#[tokio::test]
async fn what_decode_alone_can_answer_goes_there_unchanged() {
    let (prefill, decode) = (Fake::prefill().await, Fake::decode().await);
    decode.always(json(200, r#"{"object":"list"}"#));
    let router = serve(config(&[&prefill], &[&decode])).await;
    let reply = get(router.addr, "/v1/models").await;
    assert_eq!((reply.status.as_u16(), reply.body.as_str()), (200, r#"{"object":"list"}"#));
    post(router.addr, "/tokenize", r#"{"prompt": "a"}"#).await;
    post(router.addr, "/detokenize", r#"{"tokens": [1]}"#).await;
    let received = decode.received();
    let seen: Vec<_> =
        received.iter().map(|r| (r.method.as_str(), r.path.as_str(), r.body.as_str())).collect();
    assert_eq!(
        seen,
        [
            ("GET", "/v1/models", ""),
            ("POST", "/tokenize", r#"{"prompt": "a"}"#),
            ("POST", "/detokenize", r#"{"tokens": [1]}"#),
        ]
    );
    assert!(prefill.received().is_empty());
    router.drained().await;
    assert_eq!(router.handle.snapshot().work.requests, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_gets_their_own_answer() {
    let (prefill, decode) = (Fake::prefill().await, Fake::decode().await);
    decode.always(Act::Echo(Duration::from_millis(1)));
    let router = serve(config(&[&prefill], &[&decode])).await;
    let addr = router.addr;
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..64 {
        clients.spawn(async move {
            for round in 0..8 {
                let id = format!("{client}-{round}");
                let body = format!(r#"{{"prompt":"{}"}}"#, "x".repeat(client * 700));
                let headers = [("x-request-id", id.as_str())];
                let path = "/v1/completions";
                let bytes = r#"{"kv_transfer_params":,"#.len() + PARAMS.len() + body.len() - 1;
                if (client + round) % 7 == 0 {
                    // Leaves; the answer meant for it must reach nobody else.
                    let asked = send(addr, Method::POST, path, &headers, body);
                    let _ = tokio::time::timeout(Duration::from_micros(500), asked).await;
                } else {
                    let reply = send(addr, Method::POST, path, &headers, body).await;
                    assert_eq!(reply.body, format!("{id} {bytes}"));
                }
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    router.drained().await;
    let stayed = (0..64).flat_map(|c| (0..8).map(move |r| c + r)).filter(|n| n % 7 != 0).count();
    assert!(router.handle.snapshot().work.requests >= stayed as u64);
}

#[tokio::test]
async fn one_client_connection_serves_many_requests() {
    let (prefill, decode) = (Fake::prefill().await, Fake::decode().await);
    decode.next(events(vec![text("data: 1\n\n"), text("data: [DONE]\n\n")]));
    let router = serve(config(&[&prefill], &[&decode])).await;
    let stream = tokio::net::TcpStream::connect(router.addr).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, driver) = hyper::client::conn::http1::handshake(io).await.unwrap();
    let driver = tokio::spawn(driver);
    let cases = [
        ("/v1/completions", "nonsense", 400),
        ("/v1/completions", "{}", 200),
        ("/nowhere", "{}", 404),
        ("/v1/chat/completions", "{}", 200),
    ];
    for (path, body, status) in cases {
        sender.ready().await.unwrap();
        let request = hyper::Request::post(path).header("host", "x");
        let request = request.body(Full::new(bytes::Bytes::from_static(body.as_bytes()))).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.status(), status, "{path} {body}");
        answer.into_body().collect().await.unwrap();
    }
    drop(sender);
    driver.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_slow_client_is_not_taken_for_a_silent_worker() {
    let (prefill, decode) = (Fake::prefill().await, Fake::decode().await);
    let chunk = bytes::Bytes::from(vec![b'x'; 1 << 16]);
    decode.next(events(vec![Step::Send(chunk); 256]));
    let mut config = config(&[&prefill], &[&decode]);
    config.idle_timeout = Duration::from_millis(50);
    let router = serve(config).await;
    let open = support::client::open(router.addr, Method::POST, "/v1/completions", &[], "{}");
    let mut open = open.await.unwrap();
    let mut bytes = 0;
    while let Some(frame) = open.body.frame().await {
        if bytes == 0 {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        bytes += frame.unwrap().into_data().unwrap().len();
    }
    assert_eq!(bytes, 256 << 16);
    router.drained().await;
    assert!(router.handle.snapshot().failures.is_empty());
}

#[tokio::test]
async fn a_stream_may_last_longer_than_a_silence() {
    let (prefill, decode) = (Fake::prefill().await, Fake::decode().await);
    let pause = Step::Pause(Duration::from_millis(100));
    let steps: Vec<_> = (0..12).flat_map(|_| [text("data: 1\n\n"), pause.clone()]).collect();
    decode.next(events(steps));
    let mut config = config(&[&prefill], &[&decode]);
    config.idle_timeout = Duration::from_millis(900);
    let router = serve(config).await;
    let reply = post(router.addr, "/v1/completions", "{}").await;
    assert_eq!(reply.body, "data: 1\n\n".repeat(12));
}
