//! What clients see, and what is left behind, when something goes wrong.

use std::time::Duration;

use crate::common::{
    PATIENCE, Role, Trio, eventually, post, post_bytes, prefill_leg, start_router, stream,
};
use serde_json::{Value, json};

const PROMPT: &str = "The quick brown fox jumps over the lazy dog, again and again.";

fn completions(role: &Role) -> String {
    format!("{}/v1/completions", role.url())
}

async fn decode_leg(role: &Role, prompt: &str, params: &Value) -> (u16, Value) {
    let body = json!({"prompt": prompt, "max_tokens": 4, "kv_transfer_params": params});
    post(&completions(role), body).await
}

#[tokio::test]
async fn bad_requests_get_vllms_errors_and_lose_nothing() {
    let trio = Trio::start(&["--max-body-bytes", "100000"], &["--max-body-bytes", "100000"]);
    let long = "x".repeat(40_000);
    for (body, status, word) in [
        (json!({"prompt": PROMPT, "max_tokens": 0}), 400, "max_tokens"),
        (json!({"prompt": PROMPT, "model": "gpt-5"}), 404, "gpt-5"),
        (json!({"prompt": long}), 400, "40000 tokens"),
        (json!({"prompt": []}), 400, "prompt"),
        (json!({"max_tokens": 4}), 400, "prompt"),
        (json!({"prompt": PROMPT, "n": 3}), 400, "`n`"),
        (json!({"prompt": PROMPT, "stream_options": {}}), 400, "stream"),
    ] {
        let (got, answer) = post(&completions(&trio.router), body.clone()).await;
        let error = &answer["error"];
        let message = error["message"].as_str().unwrap_or_default();
        assert_eq!(got, status, "{body}: {answer}");
        assert_eq!(error["code"], status);
        assert!(message.contains(word), "{word}: {message}");
    }
    let (status, answer) = post_bytes(&completions(&trio.router), "{nonsense").await;
    assert_eq!((status, &answer["error"]["code"]), (400, &json!(400)));
    let huge = json!({"prompt": "x".repeat(200_000)}).to_string();
    let (status, answer) = post_bytes(&completions(&trio.decode), huge).await;
    assert_eq!(status, 413, "{answer}");
    assert!(answer["error"]["message"].as_str().unwrap().contains("100000 bytes"));
    trio.drained().await;
}

#[tokio::test]
async fn a_decode_that_refuses_frees_prefill_at_once() {
    let trio = Trio::start(&[], &[]);
    let params = prefill_leg(&trio.prefill, PROMPT).await;
    assert_eq!(trio.prefill.snapshot().await["leases"], 1);
    let body = json!({"prompt": PROMPT, "max_tokens": -1, "kv_transfer_params": params});
    assert_eq!(post(&completions(&trio.decode), body).await.0, 400);
    let prefill = trio.prefill.drained().await;
    assert_eq!(prefill["failures"].get("kv_expired"), None, "freed by the notification");
}

#[tokio::test]
async fn kv_that_nobody_reads_is_freed_when_the_lease_ends() {
    let prefill = Role::start(&[
        "prefill",
        "--transport",
        "tcp",
        "--time-scale",
        "0",
        "--kv-lease-duration",
        "2",
    ]);
    prefill_leg(&prefill, PROMPT).await;
    assert_eq!(prefill.snapshot().await["engine"]["blocks_pinned"], 4);
    let after = prefill.drained().await;
    assert_eq!(after["failures"]["kv_expired"], 1);
}

#[tokio::test]
async fn heartbeats_keep_a_lease_alive_while_a_request_queues() {
    let lease = ["--kv-lease-duration", "2"];
    let prefill = [&["--transport", "tcp", "--time-scale", "0"], &lease[..]].concat();
    let one_at_a_time = ["--transport", "tcp", "--time-scale", "1", "--max-num-seqs", "1"];
    let trio = Trio::start_with(&prefill, &[&one_at_a_time, &lease[..]].concat(), &[]);
    // About five seconds of decode steps, alone in the batch.
    let url = completions(&trio.decode);
    let long = json!({"prompt": "ahead of the queue", "max_tokens": 800, "ignore_eos": true});
    let ahead = tokio::spawn(async move { post(&url, long).await });
    eventually("the long request runs", async || {
        (trio.decode.snapshot().await["engine"]["running"] == 1).then_some(())
    })
    .await;
    let params = prefill_leg(&trio.prefill, PROMPT).await;
    let (status, answer) = decode_leg(&trio.decode, PROMPT, &params).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(ahead.await.unwrap().0, 200);
    let (prefill, _) = trio.drained().await;
    assert_eq!(prefill["failures"].get("kv_expired"), None);
}

#[tokio::test]
async fn a_read_after_the_lease_is_never_served() {
    let small = ["--num-gpu-blocks", "16", "--kv-lease-duration", "1"];
    let trio = Trio::start(&small, &[]);
    let params = prefill_leg(&trio.prefill, PROMPT).await;
    trio.prefill.drained().await;
    // Other prompts take over the blocks that the parameters still name.
    for n in 0..4 {
        let other = format!("{n}{}", "another prompt altogether ".repeat(8));
        let body = json!({"prompt": other, "max_tokens": 1});
        assert_eq!(post(&completions(&trio.prefill), body).await.0, 200);
    }
    let (status, answer) = decode_leg(&trio.decode, PROMPT, &params).await;
    assert_eq!(status, 500, "{answer}");
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(message.contains("corrupt"), "{message}");
    let decode = trio.decode.drained().await;
    assert!(decode["work"]["corrupt_blocks"].as_u64().unwrap() > 0);
    let late = eventually("prefill counts the late read", async || {
        let failures = trio.prefill.snapshot().await["failures"].clone();
        failures.get("notification_after_expiry").cloned()
    });
    assert_eq!(late.await, 1);
}

#[tokio::test]
async fn clients_that_go_away_free_both_sides() {
    let trio = Trio::start_with(
        &["--transport", "tcp", "--time-scale", "0"],
        &["--transport", "tcp", "--time-scale", "1"],
        &[],
    );
    let client = reqwest::Client::new();
    for _ in 0..3 {
        let body =
            json!({"prompt": PROMPT, "max_tokens": 10_000, "stream": true, "ignore_eos": true});
        let mut response = client.post(completions(&trio.router)).json(&body).send().await.unwrap();
        assert!(response.chunk().await.unwrap().is_some(), "it has begun");
    }
    let (_, decode) = trio.drained().await;
    assert_eq!(decode["work"]["requests"], 3);
    let tokens = decode["work"]["generation_tokens"].as_u64().unwrap();
    assert!(tokens < 30_000, "aborted, not run to the end: {tokens}");
}

#[tokio::test]
async fn a_killed_prefill_is_an_error_in_time_and_decode_survives() {
    let mut trio = Trio::start(&[], &["--kv-read-timeout-ms", "3000"]);
    let params = prefill_leg(&trio.prefill, PROMPT).await;
    trio.prefill.kill();
    let (status, answer) = decode_leg(&trio.decode, PROMPT, &params).await;
    assert_eq!(status, 500, "{answer}");
    assert!(answer["error"]["message"].as_str().unwrap().contains("prefill"));
    trio.decode.drained().await;
    // A new prefill, a new engine: decode shakes hands again.
    let fresh = Role::start(&["prefill", "--transport", "tcp", "--time-scale", "0"]);
    let params = prefill_leg(&fresh, PROMPT).await;
    assert_eq!(decode_leg(&trio.decode, PROMPT, &params).await.0, 200);
}

#[tokio::test]
async fn a_stopped_prefill_ends_in_the_deadline() {
    let trio = Trio::start(&[], &["--kv-read-timeout-ms", "1000"]);
    post(&completions(&trio.router), json!({"prompt": "connects them", "max_tokens": 1})).await;
    let params = prefill_leg(&trio.prefill, PROMPT).await;
    trio.prefill.signal("STOP");
    let (status, answer) = decode_leg(&trio.decode, PROMPT, &params).await;
    assert_eq!(status, 500, "{answer}");
    trio.decode.drained().await;
    trio.prefill.signal("CONT");
    // The connection was given up; the next request makes another.
    let params = prefill_leg(&trio.prefill, PROMPT).await;
    assert_eq!(decode_leg(&trio.decode, PROMPT, &params).await.0, 200);
}

#[tokio::test]
async fn the_router_retries_elsewhere_when_a_worker_dies() {
    // A short lease: what the dead decode was to read is freed by nothing else.
    let tcp = ["--transport", "tcp", "--time-scale", "0", "--kv-lease-duration", "2"];
    let role = |name: &'static str| Role::start(&[&[name], &tcp[..]].concat());
    let (first, mut second) = (role("prefill"), role("prefill"));
    let (alive, mut dead) = (role("decode"), role("decode"));
    let router = start_router(&[&first, &second], &[&alive, &dead]);
    let ask =
        async || post(&completions(&router), json!({"prompt": PROMPT, "max_tokens": 2})).await;
    for _ in 0..4 {
        assert_eq!(ask().await.0, 200);
    }
    second.kill();
    dead.kill();
    for _ in 0..8 {
        let (status, answer) = ask().await;
        assert_eq!(status, 200, "{answer}");
    }
    alive.drained().await;
    first.drained().await;
}

#[tokio::test]
async fn nobody_left_is_a_503_that_names_them() {
    let mut trio = Trio::start(&[], &[]);
    trio.decode.kill();
    let (status, answer) = eventually("decode is taken out", async || {
        let body = json!({"prompt": PROMPT, "max_tokens": 2});
        let (status, answer) = post(&completions(&trio.router), body).await;
        (status == 503).then_some((status, answer))
    })
    .await;
    assert_eq!(answer["error"]["code"], status);
    assert!(answer["error"]["message"].as_str().unwrap().contains("decode"), "{answer}");
}

#[tokio::test]
async fn a_decode_that_dies_in_the_middle_is_seen_by_the_client() {
    let mut trio = Trio::start_with(
        &["--transport", "tcp", "--time-scale", "0"],
        &["--transport", "tcp", "--time-scale", "1"],
        &[],
    );
    let url = completions(&trio.router);
    let body = json!({"prompt": PROMPT, "max_tokens": 5000, "stream": true, "ignore_eos": true});
    let streaming = tokio::spawn(async move { stream(&url, body).await });
    eventually("the stream runs", async || {
        let tokens = trio.decode.snapshot().await["work"]["generation_tokens"].as_u64()?;
        (tokens > 3).then_some(())
    })
    .await;
    trio.decode.kill();
    let (events, _) = tokio::time::timeout(PATIENCE, streaming).await.unwrap().unwrap();
    let last = events.last().unwrap();
    assert!(last["error"]["message"].is_string(), "{last}");
    trio.prefill.drained().await;
    trio.router.drained().await;
}

#[tokio::test]
async fn garbage_on_the_side_channel_hurts_nobody() {
    use std::io::Write;
    let trio = Trio::start(&[], &[]);
    let endpoint = trio.prefill.ready["side_channel"].as_str().unwrap();
    for garbage in [&b""[..], b"GET / HTTP/1.1\r\n\r\n", &[0xff; 64], &[0; 4096]] {
        let mut socket = std::net::TcpStream::connect(endpoint).unwrap();
        let _ = socket.write_all(garbage);
    }
    let body = json!({"prompt": PROMPT, "max_tokens": 2});
    let url = completions(&trio.router);
    let asked = tokio::time::timeout(Duration::from_secs(20), post(&url, body));
    assert_eq!(asked.await.unwrap().0, 200);
    trio.drained().await;
}

#[tokio::test]
async fn prefills_of_another_layout_are_refused_by_name() {
    let tcp = ["--transport", "tcp", "--time-scale", "0"];
    let prefill = Role::start(
        &[&["prefill", "--kv-scale", "0.5", "--num-gpu-blocks", "64"], &tcp[..]].concat(),
    );
    let decode = Role::start(&[&["decode"], &tcp[..]].concat());
    let params = prefill_leg(&prefill, PROMPT).await;
    let (status, answer) = decode_leg(&decode, PROMPT, &params).await;
    assert_eq!(status, 500);
    assert!(answer["error"]["message"].as_str().unwrap().contains("not compatible"), "{answer}");
    decode.drained().await;
}

#[tokio::test]
async fn forged_block_ids_are_refused() {
    let trio = Trio::start(&[], &[]);
    let good = prefill_leg(&trio.prefill, PROMPT).await;
    for (ids, word) in [(json!([[1, 2, 3, 999_999]]), "999999"), (json!([[1]]), "1 blocks")] {
        let mut params = good.clone();
        params["remote_block_ids"] = ids;
        let (status, answer) = decode_leg(&trio.decode, PROMPT, &params).await;
        assert_eq!(status, 500, "{answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains(word), "{answer}");
    }
    assert_eq!(decode_leg(&trio.decode, PROMPT, &good).await.0, 200);
    trio.drained().await;
}
