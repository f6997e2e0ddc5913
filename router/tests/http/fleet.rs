//! Who gets the legs, and who is taken out.

use std::time::Duration;

use crate::support;
use crate::support::client::{get, post};
use crate::support::fake::{Fake, Step, events, json, send as bytes};
use crate::support::{config, eventually, prefill_answer, serve};
use pdlab_router::PolicyKind;

#[tokio::test]
async fn round_robin_takes_turns_in_each_role() {
    let prefills = [Fake::prefill().await, Fake::prefill().await];
    let decodes = [Fake::decode().await, Fake::decode().await, Fake::decode().await];
    let router = serve(config(&prefills.each_ref(), &decodes.each_ref())).await;
    for _ in 0..6 {
        assert_eq!(post(router.addr, "/v1/completions", "{}").await.status, 200);
    }
    assert_eq!(prefills.each_ref().map(|p| p.received().len()), [3, 3]);
    assert_eq!(decodes.each_ref().map(|d| d.received().len()), [2, 2, 2]);
}

#[tokio::test]
async fn least_loaded_leaves_the_busy_alone() {
    let prefill = Fake::prefill().await;
    let decodes = [Fake::decode().await, Fake::decode().await];
    let mut config = config(&[&prefill], &decodes.each_ref());
    config.policy = PolicyKind::LeastLoaded;
    let router = serve(config).await;
    decodes.iter().for_each(|d| d.next(events(vec![bytes("data: 1\n\n"), Step::Stall])));
    let busy =
        support::client::open(router.addr, hyper::Method::POST, "/v1/completions", &[], "{}")
            .await
            .unwrap();
    let (busy_one, idle_one) = if decodes[0].answering() == 1 { (0, 1) } else { (1, 0) };
    // Its turn to stall has not come; it must not stall now.
    decodes[idle_one].next(json(200, "{}"));
    let taken = decodes[idle_one].received().len();
    assert_eq!(taken, 0);
    let stalled =
        support::client::open(router.addr, hyper::Method::POST, "/v1/completions", &[], "{}")
            .await
            .unwrap();
    assert_eq!(decodes[idle_one].answering(), 1);
    drop(stalled);
    eventually("slot free", || {
        router.handle.workers().iter().map(|w| w.in_flight).sum::<u64>() == 1
    })
    .await;
    for _ in 0..4 {
        assert_eq!(post(router.addr, "/v1/completions", "{}").await.status, 200);
    }
    assert_eq!((decodes[busy_one].received().len(), decodes[idle_one].received().len()), (1, 5));
    drop(busy);
    router.drained().await;
}

#[tokio::test]
async fn an_unhealthy_worker_is_taken_out_and_comes_back() {
    let prefill = Fake::prefill().await;
    let decodes = [Fake::decode().await, Fake::decode().await];
    let router = serve(config(&[&prefill], &decodes.each_ref())).await;
    let healthy = |index: usize| router.handle.workers()[1 + index].healthy;
    decodes[0].healthy(false);
    eventually("out", || !healthy(0)).await;
    for _ in 0..4 {
        assert_eq!(post(router.addr, "/v1/completions", "{}").await.status, 200);
    }
    assert_eq!((decodes[0].received().len(), decodes[1].received().len()), (0, 4));
    assert_eq!(get(router.addr, "/health").await.status, 200);
    let up = |index: usize, value: u8| {
        let line = format!(
            "pdlab_router_worker_up{{role=\"decode\",worker=\"http://{}\"}} {value}",
            decodes[index].addr
        );
        router.handle.metrics().contains(&line)
    };
    assert!(up(0, 0) && up(1, 1));
    decodes[1].healthy(false);
    eventually("both out", || !healthy(1)).await;
    assert_eq!(get(router.addr, "/health").await.status, 503);
    assert_eq!(post(router.addr, "/v1/completions", "{}").await.status, 503);
    decodes[0].healthy(true);
    eventually("back", || healthy(0)).await;
    assert_eq!(post(router.addr, "/v1/completions", "{}").await.status, 200);
    assert_eq!(decodes[0].received().len(), 1);
}

#[tokio::test]
async fn a_killed_worker_is_suspect_at_once_and_returns_after_restart() {
    let prefill = Fake::prefill().await;
    let (mut dying, other) = (Fake::decode().await, Fake::decode().await);
    let mut config = config(&[&prefill], &[&dying, &other]);
    // Checks alone would not find out within this test.
    config.health.interval = Duration::from_secs(600);
    let router = serve(config.clone()).await;
    dying.kill().await;
    for _ in 0..4 {
        assert_eq!(post(router.addr, "/v1/completions", "{}").await.status, 200);
    }
    assert_eq!(other.received().len(), 4);
    assert!(!router.handle.workers()[1].healthy);
    // One leg found out; then the brought-forward check took the worker out.
    assert_eq!(router.failure("decode_unreachable"), 1);
    router.stop().await;

    config.health.interval = Duration::from_millis(20);
    let router = support::serve_at_once(config).await;
    eventually("others healthy", || {
        router.handle.workers().iter().filter(|w| w.healthy).count() == 2
    })
    .await;
    let back = Fake::start_at(dying.addr, json(200, "{}")).await;
    eventually("back", || router.handle.workers()[1].healthy).await;
    for _ in 0..2 {
        assert_eq!(post(router.addr, "/v1/completions", "{}").await.status, 200);
    }
    assert_eq!(back.received().len(), 1);
}

#[tokio::test]
async fn a_failed_leg_brings_the_check_forward() {
    let (prefill, decode) = (Fake::prefill().await, Fake::decode().await);
    let mut config = config(&[&prefill], &[&decode]);
    config.health.interval = Duration::from_secs(600);
    let router = serve(config).await;
    decode.next(support::fake::Act::HangUp);
    assert_eq!(post(router.addr, "/v1/completions", "{}").await.status, 502);
    assert_eq!(router.failure("decode_broken"), 1);
    eventually("found to be well", || router.handle.workers()[1].healthy).await;
}

#[tokio::test]
async fn it_answers_for_itself() {
    let prefills = [Fake::prefill().await, Fake::prefill().await];
    let decode = Fake::decode().await;
    let router = serve(config(&prefills.each_ref(), &[&decode])).await;
    let reply = get(router.addr, "/health").await;
    assert_eq!((reply.status.as_u16(), reply.body.as_str()), (200, ""));
    let value = async |path: &str| -> serde_json::Value {
        serde_json::from_str(&get(router.addr, path).await.body).unwrap()
    };
    let healthcheck = value("/healthcheck").await;
    let shape = serde_json::json!({"status":"ok","prefill_instances":2,"decode_instances":1});
    assert_eq!(healthcheck, shape);
    assert_eq!(value("/version").await["version"], "0.33.0");
    prefills[0].next(json(400, "{}"));
    prefills[0].always(json(200, prefill_answer()));
    for _ in 0..3 {
        post(router.addr, "/v1/completions", "{}").await;
    }
    router.drained().await;
    let snapshot = value("/pdlab/snapshot").await;
    assert_eq!((&snapshot["role"], &snapshot["work"]["requests"]), (&"router".into(), &3.into()));
    assert_eq!(snapshot["http_in_flight"], 0);
    let reply = get(router.addr, "/metrics").await;
    assert!(reply.headers["content-type"].to_str().unwrap().contains("openmetrics-text"));
    for line in [
        r#"pdlab_router_requests_total{route="/v1/completions",outcome="ok"} 2"#.to_owned(),
        r#"pdlab_router_requests_total{route="/v1/completions",outcome="refused"} 1"#.to_owned(),
        format!(r#"pdlab_router_legs_total{{role="decode",worker="http://{}"}} 2"#, decode.addr),
    ] {
        assert!(reply.body.contains(&line), "{line} in\n{}", reply.body);
    }
}
