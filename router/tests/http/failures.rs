//! What happens when workers fail.

use std::time::Duration;

use crate::support::client::{Reply, get, post};
use crate::support::fake::{Act, Fake, Step, events, json, nobody, raw, send as bytes};
use crate::support::{PARAMS, Serving, config, eventually, prefill_answer, serve, serve_at_once};

const STREAM: &str = r#"{"stream":true}"#;

async fn ask(router: &Serving) -> Reply {
    post(router.addr, "/v1/completions", STREAM).await
}

fn part() -> Step {
    bytes("data: {\"choices\":[{\"text\":\"a\"}]}\n\n")
}

#[tokio::test]
async fn a_failed_prefill_is_retried_on_another() {
    let (bad, good, decode) = (Fake::prefill().await, Fake::prefill().await, Fake::decode().await);
    let router = serve(config(&[&bad, &good], &[&decode])).await;
    let causes = [
        Act::HangUp,
        json(500, "{}"),
        json(200, "<html>"),
        json(200, r#"{"kv_transfer_params":null}"#),
        events(vec![bytes("{"), Step::Pause(Duration::from_millis(5)), Step::Die]),
    ];
    for (round, cause) in causes.into_iter().enumerate() {
        // Round robin alternates, so that it may be the other's turn.
        for fake in [&bad, &good] {
            fake.next(cause.clone());
        }
        assert_eq!(ask(&router).await.status, 502 - 2 * u16::from(round == 1), "{cause:?}");
        assert_eq!(ask(&router).await.status, 200, "{cause:?}");
        eventually("healthy again", || router.handle.workers().iter().all(|w| w.healthy)).await;
        bad.next(cause.clone());
        for _ in 0..2 {
            assert_eq!(ask(&router).await.status, 200, "{cause:?}");
        }
        eventually("healthy again", || router.handle.workers().iter().all(|w| w.healthy)).await;
    }
    router.drained().await;
}

#[tokio::test]
async fn a_failed_decode_is_retried_with_a_fresh_prefill_leg() {
    let (prefill, bad, good) = (Fake::prefill().await, Fake::decode().await, Fake::decode().await);
    let router = serve(config(&[&prefill], &[&bad, &good])).await;
    let error_event = r#"data: {"error": {"message":"KV load failed","type":"InternalServerError","param":null,"code":500}}"#;
    let causes = [
        Act::HangUp,
        json(503, "{}"),
        events(vec![Step::Pause(Duration::from_millis(5)), Step::Die]),
        events(vec![]),
        events(vec![bytes(&format!("{error_event}\n\n")), bytes("data: [DONE]\n\n")]),
    ];
    for cause in causes {
        let prefills = prefill.received().len();
        let decodes = bad.received().len() + good.received().len();
        bad.next(cause.clone());
        for _ in 0..2 {
            assert_eq!(ask(&router).await.status, 200, "{cause:?}");
        }
        assert_eq!(prefill.received().len() - prefills, 3, "{cause:?}");
        assert_eq!(bad.received().len() + good.received().len() - decodes, 3, "{cause:?}");
        eventually("healthy again", || router.handle.workers().iter().all(|w| w.healthy)).await;
    }
    // The id stays, so that logs of all attempts can be put together.
    let ids: std::collections::BTreeSet<_> = prefill
        .received()
        .iter()
        .map(|r| r.headers["x-request-id"].clone().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(ids.len(), 10);
    router.drained().await;
    let metrics = router.handle.metrics();
    assert!(metrics.contains("pdlab_router_retries_total{leg=\"decode\"} 5"), "{metrics}");
}

#[tokio::test]
async fn a_5xx_of_decode_may_be_cured_by_another_prefill() {
    let (p1, p2, decode) = (Fake::prefill().await, Fake::prefill().await, Fake::decode().await);
    let router = serve(config(&[&p1, &p2], &[&decode])).await;
    decode.next(json(500, "{}"));
    assert_eq!(ask(&router).await.status, 200);
    assert_eq!((p1.received().len(), p2.received().len(), decode.received().len()), (1, 1, 2));
}

#[tokio::test]
async fn the_last_5xx_is_passed_through() {
    let (prefill, decode) = (Fake::prefill().await, Fake::decode().await);
    let router = serve(config(&[&prefill], &[&decode])).await;
    decode.always(json(500, r#"{"error":"d"}"#));
    let reply = ask(&router).await;
    assert_eq!((reply.status.as_u16(), reply.body.as_str()), (500, r#"{"error":"d"}"#));
    prefill.always(json(503, r#"{"error":"p"}"#));
    let reply = ask(&router).await;
    assert_eq!((reply.status.as_u16(), reply.body.as_str()), (503, r#"{"error":"p"}"#));
    // An error event is passed on with its status 200, as the worker meant it.
    prefill.always(json(200, prefill_answer()));
    let event = r#"data: {"error":{"message":"m","type":"t","param":null,"code":500}}"#;
    let stream = format!("{event}\n\ndata: [DONE]\n\n");
    decode.always(events(vec![bytes(&stream)]));
    let reply = ask(&router).await;
    assert_eq!((reply.status.as_u16(), reply.body), (200, stream));
    router.drained().await;
}

#[tokio::test]
async fn retries_are_bounded() {
    let prefills = [Fake::prefill().await, Fake::prefill().await, Fake::prefill().await];
    let decode = Fake::decode().await;
    let mut config = config(&prefills.each_ref(), &[&decode]);
    config.retries = 1;
    let router = serve(config).await;
    prefills.iter().for_each(|prefill| prefill.always(json(500, "{}")));
    assert_eq!(ask(&router).await.status, 500);
    assert_eq!(prefills.iter().map(|prefill| prefill.received().len()).sum::<usize>(), 2);
}

#[tokio::test]
async fn garbage_is_named_and_quoted() {
    let (prefill, decode) = (Fake::prefill().await, Fake::decode().await);
    let router = serve(config(&[&prefill], &[&decode])).await;
    for (garbage, problem) in [
        ("<html>", "not a JSON object"),
        (r#"{"id":"x"}"#, "no kv_transfer_params"),
        (r#"{"kv_transfer_params":null}"#, "no kv_transfer_params"),
        (r#"{"kv_transfer_params":{"do_remote_decode":true}}"#, "do_remote_prefill"),
    ] {
        prefill.next(json(200, garbage));
        let reply = ask(&router).await;
        assert_eq!(reply.status, 502);
        let body: pdlab_api::error::ErrorBody = serde_json::from_str(&reply.body).unwrap();
        let message = body.error.message;
        for part in [problem, garbage, &format!("prefill worker http://{}", prefill.addr)] {
            assert!(message.contains(part), "{part} in {message}");
        }
    }
    prefill.next(json(200, "x".repeat(100_000)));
    let reply = ask(&router).await;
    assert!(reply.body.len() < 1_000 && reply.body.contains('…'), "{}", reply.body);
    // Never to decode: it would compute the prompt itself, and nobody would notice.
    assert!(decode.received().is_empty());
    decode.next(events(vec![]));
    let reply = ask(&router).await;
    assert_eq!(reply.status, 502);
    assert!(reply.body.contains("an empty body"), "{}", reply.body);
    assert_eq!(router.failure("prefill_garbage"), 5);
}

#[tokio::test]
async fn a_stream_that_breaks_ends_with_an_error_event() {
    let (prefill, decode) = (Fake::prefill().await, Fake::decode().await);
    let router = serve(config(&[&prefill], &[&decode])).await;
    let pause = Step::Pause(Duration::from_millis(10));
    decode.next(events(vec![part(), pause.clone(), Step::Die]));
    let reply = ask(&router).await;
    assert_eq!((reply.status.as_u16(), reply.whole), (200, true));
    let events_in = |body: &str| -> Vec<String> {
        body.split("\n\n").filter(|e| !e.is_empty()).map(str::to_owned).collect()
    };
    let seen = events_in(&reply.body);
    assert_eq!((seen.len(), seen[2].as_str()), (3, "data: [DONE]"));
    let error: pdlab_api::error::ErrorBody =
        serde_json::from_str(seen[1].strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!(error.error.code, 502);
    assert!(error.error.message.contains(&decode.addr.to_string()), "{}", error.error.message);
    // In the middle of an event: the error starts on a line of its own.
    decode.next(events(vec![part(), bytes("data: {\"cho"), pause, Step::Die]));
    let seen = events_in(&ask(&router).await.body);
    assert_eq!((seen.len(), seen[1].as_str()), (4, "data: {\"cho"));
    assert!(seen[2].starts_with("data: {\"error\""));
    router.drained().await;
    assert_eq!((router.failure("decode_mid_stream"), router.failure("cut")), (2, 2));
    // The client had tokens already, so nobody else was asked.
    assert_eq!(decode.received().len(), 2);
}

#[tokio::test]
async fn a_body_that_breaks_does_not_pass_for_whole() {
    let (prefill, decode) = (Fake::prefill().await, Fake::decode().await);
    let router = serve(config(&[&prefill], &[&decode])).await;
    let pause = Step::Pause(Duration::from_millis(10));
    for length in [Some(100), None] {
        decode.next(Act::Answer {
            status: 200,
            kind: "application/json",
            length,
            steps: vec![bytes("{\"id\":"), pause.clone(), Step::Die],
        });
        let reply = ask(&router).await;
        assert_eq!((reply.body.as_str(), reply.whole), ("{\"id\":", false));
        eventually("healthy again", || router.handle.workers().iter().all(|w| w.healthy)).await;
    }
    router.drained().await;
    assert_eq!(router.failure("cut"), 2);
}

#[tokio::test]
async fn silence_is_bounded_on_every_leg() {
    let (prefill, decode) = (Fake::prefill().await, Fake::decode().await);
    let mut config = config(&[&prefill], &[&decode]);
    config.prefill_timeout = Duration::from_millis(50);
    config.idle_timeout = Duration::from_millis(50);
    let router = serve(config).await;
    prefill.next(Act::Silence);
    let reply = ask(&router).await;
    assert_eq!(reply.status, 504);
    assert!(reply.body.contains("prefill worker") && reply.body.contains("50ms"), "{}", reply.body);
    for act in [Act::Silence, events(vec![Step::Stall])] {
        eventually("healthy again", || router.handle.workers().iter().all(|w| w.healthy)).await;
        decode.next(act);
        let reply = ask(&router).await;
        assert_eq!(reply.status, 504);
        assert!(reply.body.contains("decode worker"), "{}", reply.body);
    }
    eventually("healthy again", || router.handle.workers().iter().all(|w| w.healthy)).await;
    decode.next(events(vec![part(), Step::Stall]));
    let reply = ask(&router).await;
    assert_eq!(reply.status, 200);
    assert!(reply.body.contains("was silent for 50ms"), "{}", reply.body);
    router.drained().await;
    // Both legs were let go: nobody computes for a client that was told it failed.
    eventually("legs closed", || prefill.answering() + decode.answering() == 0).await;
    assert_eq!((router.failure("prefill_timeout"), router.failure("decode_timeout")), (1, 2));
}

#[tokio::test]
async fn nobody_there_is_503_with_names() {
    let (prefill, decode) = (Fake::prefill().await, Fake::decode().await);
    let mut config = config(&[&prefill], &[&decode]);
    let gone = nobody().await;
    config.decode = vec![gone.into()];
    let router = serve_at_once(config).await;
    eventually("prefill healthy", || router.handle.workers()[0].healthy).await;
    eventually("decode down", || !router.handle.workers()[1].healthy).await;
    let reply = ask(&router).await;
    assert_eq!(reply.status, 503);
    assert!(reply.body.contains(&format!("decode worker http://{gone}")), "{}", reply.body);
    assert!(reply.body.contains("refused"), "{}", reply.body);
    let reply = get(router.addr, "/health").await;
    assert_eq!(reply.status, 503);
    assert!(reply.body.contains(&gone.to_string()) && reply.body.contains("\"code\":503"));
    router.drained().await;
}

#[tokio::test]
async fn connections_closed_while_unused_do_not_cost_an_attempt() {
    let (mut prefill, mut decode) = (Fake::prefill().await, Fake::decode().await);
    let mut config = config(&[&prefill], &[&decode]);
    config.retries = 0;
    // Far apart, so that nobody but the request finds out.
    config.health.interval = Duration::from_secs(600);
    config.worker_keep_alive = Duration::from_secs(600);
    let router = serve(config).await;
    assert_eq!(ask(&router).await.status, 200);
    let restart = async |fake: &mut Fake, act: Act| {
        fake.kill().await;
        *fake = Fake::start_at(fake.addr, act).await;
    };
    restart(&mut prefill, json(200, prefill_answer())).await;
    restart(&mut decode, json(200, "{}")).await;
    assert_eq!(ask(&router).await.status, 200);
    assert_eq!((prefill.received().len(), decode.received().len()), (1, 1));
    // One that is closed just when it is used: the router cannot tell, and goes round again.
    decode.next(Act::HangUp);
    assert_eq!(ask(&router).await.status, 200);
    assert_eq!(decode.received().len(), 3);
    assert_eq!(router.failure("decode_stale_connection"), 1);
    assert!(decode.received()[2].body.contains(PARAMS));
}

#[tokio::test]
async fn after_a_stale_connection_the_others_are_not_trusted() {
    let (prefill, decode) = (Fake::prefill().await, Fake::decode().await);
    let mut config = config(&[&prefill], &[&decode]);
    config.health.interval = Duration::from_secs(600);
    config.worker_keep_alive = Duration::from_secs(600);
    let router = serve(config).await;
    decode.always(Act::Echo(Duration::from_millis(50)));
    tokio::join!(ask(&router), ask(&router), ask(&router));
    let before = decode.accepted();
    assert!(before > 1, "the test needs several connections, not {before}");
    decode.next(Act::HangUp);
    assert_eq!(ask(&router).await.status, 200);
    assert_eq!(decode.accepted(), before + 1);
    eventually("others closed", || decode.open() == 1).await;
}

#[tokio::test]
async fn connections_unused_for_too_long_are_not_used_again() {
    let (prefill, decode) = (Fake::prefill().await, Fake::decode().await);
    let mut config = config(&[&prefill], &[&decode]);
    // Nobody sweeps; the request itself must look.
    config.health.interval = Duration::from_secs(600);
    config.worker_keep_alive = Duration::from_millis(20);
    let router = serve(config).await;
    for _ in 0..2 {
        assert_eq!(ask(&router).await.status, 200);
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    assert_eq!((prefill.accepted(), decode.accepted()), (2, 2));
}

#[tokio::test]
async fn a_worker_that_does_not_speak_http_is_named() {
    let (addr, server) = raw("SSH-2.0-OpenSSH_9.2\r\n".to_owned()).await;
    let decode = Fake::decode().await;
    let mut config = config(&[&decode], &[&decode]);
    config.prefill = vec![addr.into()];
    let router = serve(config).await;
    let reply = ask(&router).await;
    assert_eq!(reply.status, 502);
    assert!(reply.body.contains(&format!("prefill worker http://{addr}")), "{}", reply.body);
    assert!(reply.body.contains("invalid HTTP"), "{}", reply.body);
    server.abort();
}

#[tokio::test]
async fn workers_may_close_after_every_answer() {
    let (closing, server) = raw(format!("HTTP/1.0 200 OK\r\n\r\n{}", prefill_answer())).await;
    let (prefill, decode) = (Fake::prefill().await, Fake::decode().await);
    let mut first = config(&[&prefill], &[&decode]);
    first.prefill = vec![closing.into()];
    let mut second = config(&[&prefill], &[&decode]);
    second.decode = vec![closing.into()];
    for config in [first, second] {
        let router = serve(config).await;
        for _ in 0..3 {
            let reply = ask(&router).await;
            assert_eq!((reply.status.as_u16(), reply.whole), (200, true));
            assert!(reply.body.ends_with('}'), "{}", reply.body);
        }
        router.drained().await;
        assert!(router.handle.snapshot().failures.is_empty());
    }
    server.abort();
}
