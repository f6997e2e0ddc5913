//! The live page over real sockets: what it answers, what it measures, what it refuses.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::time::Duration;

use crate::support::client::{get, post, send};
use crate::support::fake::{Fake, Step, events, json};
use crate::support::{Serving, config, eventually, serve};
use hyper::Method;
use hyper::header::CONTENT_TYPE;
use pdlab_api::live::{LiveHealth, LiveState};
use pdlab_api::ready::Role;
use pdlab_api::snapshot::Snapshot;
use pdlab_router::RouterConfig;

fn with_page(prefill: &Fake, decode: &Fake) -> RouterConfig {
    RouterConfig { ui: true, ..config(&[prefill], &[decode]) }
}

async fn state(serving: &Serving, after: u64) -> LiveState {
    let reply = get(serving.addr, &format!("/ui/state?after={after}")).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    serde_json::from_str(&reply.body).unwrap()
}

/// The first state of which something is true.
async fn until(serving: &Serving, what: &str, is_so: impl Fn(&LiveState) -> bool) -> LiveState {
    for _ in 0..2_000 {
        let state = state(serving, 0).await;
        if is_so(&state) {
            return state;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never: {what}");
}

#[tokio::test]
async fn without_it_there_is_no_page() {
    let (prefill, decode) = (Fake::prefill().await, Fake::decode().await);
    let serving = serve(config(&[&prefill], &[&decode])).await;
    for path in ["/ui", "/ui/state"] {
        assert_eq!(get(serving.addr, path).await.status, 404, "{path}");
    }
    assert_eq!(post(serving.addr, "/ui/memory", "{}").await.status, 404);
    serving.stop().await;
}

#[tokio::test]
async fn the_page_comes_with_a_strict_policy_and_bad_questions_are_refused() {
    let (prefill, decode) = (Fake::prefill().await, Fake::decode().await);
    let serving = serve(with_page(&prefill, &decode)).await;
    for (path, kind) in
        [("/ui", "text/html"), ("/ui/page.js", "text/javascript"), ("/ui/page.css", "text/css")]
    {
        let reply = get(serving.addr, path).await;
        assert_eq!(reply.status, 200, "{path}");
        assert!(reply.headers[CONTENT_TYPE].to_str().unwrap().starts_with(kind), "{path}");
        let policy = reply.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    }
    assert_eq!(get(serving.addr, "/ui/nothing").await.status, 404);
    assert_eq!(get(serving.addr, "/uix").await.status, 404);
    assert_eq!(get(serving.addr, "/ui/state?after=x").await.status, 400);
    assert_eq!(post(serving.addr, "/ui", "").await.status, 405);
    assert_eq!(get(serving.addr, "/ui/memory").await.status, 405);

    let memory = async |kind: &'static str, body: String| {
        let headers = [("content-type", kind)];
        send(serving.addr, Method::POST, "/ui/memory", &headers, body).await
    };
    let process = |name: &str| {
        format!(
            r#"{{"processes":[{{"process":"{name}","rss_bytes":7,"held_bytes":5,"fds":3,"threads":2,
            "slope":null,"verdict":"clean","says":"fine"}}]}}"#
        )
    };
    assert_eq!(memory("text/plain", process("decode-0")).await.status, 415);
    assert_eq!(memory("application/json", "{".into()).await.status, 400);
    assert_eq!(memory("application/json", " ".repeat(300 << 10)).await.status, 413);
    let stranger = memory("application/json", process("decode-1")).await;
    assert!(stranger.status == 400 && stranger.body.contains("decode-1"), "{}", stranger.body);
    assert_eq!(memory("application/json", process("decode-0")).await.status, 200);
    let state = until(&serving, "memory is shown", |s| s.roles[2].memory.is_some()).await;
    assert_eq!(state.roles[2].memory.as_ref().unwrap().rss_bytes, 7);
    until(&serving, "and is in a point", |s| {
        s.points.iter().any(|point| point.rss_bytes == [None, None, Some(7)])
    })
    .await;
    serving.stop().await;
}

#[tokio::test]
async fn streams_are_timed_and_workers_are_seen() {
    let token = |text: &str| Step::Send(format!("data: {{\"t\":\"{text}\"}}\n\n").into());
    let gap = || Step::Pause(Duration::from_millis(30));
    let steps = vec![
        gap(),
        token("a"),
        gap(),
        token("b"),
        gap(),
        token("c"),
        Step::Send("data: [DONE]\n\n".into()),
    ];
    let (prefill, decode) = (Fake::prefill().await, Fake::start(events(steps)).await);
    let serving = serve(with_page(&prefill, &decode)).await;
    let asked = r#"{"prompt":"x","stream":true}"#;
    assert_eq!(post(serving.addr, "/v1/completions", asked).await.status, 200);
    // The tick under way may have begun within the stream; the one after it has seen all of it.
    let ended = state(&serving, 0).await.next;
    let timed = until(&serving, "another tick", |s| s.next > ended + 1).await;
    let point = timed.points.last().unwrap();
    let (ttft, itl) = (point.ttft.unwrap(), point.itl.unwrap());
    assert_eq!(ttft.samples, 1);
    assert!(ttft.p50_us >= 29_000, "{ttft:?}");
    // A busy machine may read two tokens at once. The end of the stream is no token.
    assert!((1..=2).contains(&itl.samples), "{itl:?}");
    assert!(timed.roles.iter().all(|role| role.health == LiveHealth::Up), "{:?}", timed.roles);
    // The fakes answer everything with a completion, which is no snapshot.
    assert_eq!(timed.roles.iter().filter(|role| role.snapshot.is_some()).count(), 1);
    let names: Vec<&str> = timed.roles.iter().map(|role| &*role.name).collect();
    assert_eq!(names, ["router", "prefill-0", "decode-0"]);
    serving.drained().await;
    serving.stop().await;
}

#[tokio::test]
async fn snapshots_of_workers_are_shown_and_their_loss_is_an_event() {
    let mut snapshot = Snapshot::new(Role::Decode, 42);
    snapshot.work.requests = 5;
    let answer = serde_json::to_string(&snapshot).unwrap();
    let (prefill, decode) = (Fake::prefill().await, Fake::start(json(200, answer)).await);
    let serving = serve(with_page(&prefill, &decode)).await;
    let seen =
        until(&serving, "a snapshot", |s| s.roles.len() == 3 && s.roles[2].snapshot.is_some());
    assert_eq!(seen.await.roles[2].snapshot.as_ref().unwrap(), &snapshot);
    drop(decode);
    let lost = until(&serving, "the loss", |s| {
        let events = s.events.as_deref().unwrap_or_default();
        events.iter().any(|event| event.role == "decode-0" && event.text.starts_with("lost"))
    });
    let lost = lost.await;
    assert_eq!(lost.roles[2].health, LiveHealth::Down);
    assert!(lost.roles[2].why.is_some());
    let next = state(&serving, lost.next).await;
    assert!(next.points.len() <= 2, "only what is new: {:?}", next.points);
    eventually("nothing is in flight", || serving.handle.snapshot().is_drained()).await;
    serving.stop().await;
}
