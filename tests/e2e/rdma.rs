//! Prefill on one RDMA device, decode on another, over verbs and over UCX's reliable connections.
//! Every block that arrives is verified. Without `PDLAB_RDMA_DEVICE` each says that it is skipped;
//! `scripts/rdma-tests` runs them in a machine that has two devices.

use std::ops::Range;

use pdlab_leak::rdma::{Census, Objects};
use serde_json::json;

use crate::common::{Role, Trio, post};

/// The devices of prefill and decode, or `None` with the reason printed.
fn devices() -> Option<(String, String)> {
    let Some(device) = std::env::var("PDLAB_RDMA_DEVICE").ok().filter(|name| !name.is_empty())
    else {
        eprintln!("skipped: PDLAB_RDMA_DEVICE names no RDMA device");
        return None;
    };
    let peer = std::env::var("PDLAB_RDMA_PEER_DEVICE").unwrap_or_else(|_| device.clone());
    Some((peer, device))
}

const REQUESTS: u64 = 6;

/// Sends prompts of several blocks, other ones for other numbers.
async fn ask(trio: &Trio, numbers: Range<u64>) {
    for request in numbers {
        let prompt = format!("{request} tells of {}", "a long way over the wire ".repeat(12));
        let body = json!({"prompt": prompt, "max_tokens": 4});
        let (status, answer) = post(&format!("{}/v1/completions", trio.router.url()), body).await;
        assert_eq!(status, 200, "{answer}");
    }
}

/// Sends prompts and checks that each block came over, and right.
async fn blocks_arrive(trio: &Trio) {
    ask(trio, 0..REQUESTS).await;
    let (prefill, decode) = trio.drained().await;
    assert_eq!(decode["work"]["transfers"], REQUESTS);
    let verified =
        decode["work"]["blocks_verified"].as_u64().expect("a decode that serves counts its blocks");
    assert!(verified >= REQUESTS * 10, "{verified} blocks of prompts of more than 300 tokens");
    assert_eq!(decode["work"]["corrupt_blocks"], 0);
    assert_eq!(decode["work"]["kv_bytes"], decode["transport"]["bytes_read"]);
    assert_eq!(prefill["engine"]["blocks_pinned"], 0);
}

#[tokio::test]
async fn rdma_over_verbs() {
    let Some((prefill, decode)) = devices() else { return };
    let verbs = ["--transport", "verbs", "--time-scale", "0", "--rdma-device"];
    let trio = Trio::start_with(
        &[&verbs[..], &[&prefill]].concat(),
        &[&verbs[..], &[&decode]].concat(),
        &[],
    );
    assert_eq!(trio.decode.ready["transport"], "verbs");
    blocks_arrive(&trio).await;
    let snapshot = trio.decode.snapshot().await;
    assert_eq!(snapshot["transport"]["queue_pairs"], 2, "{snapshot}");
    // What the kernel counts for both does not grow with requests, and goes with the processes.
    let pids = [trio.prefill.pid(), trio.decode.pid()];
    let mut census = Census::open();
    let mut held = || pids.map(|pid| census.read().of(pid).unwrap());
    let before = held();
    assert!(before.iter().all(|objects| objects.queue_pairs == 2), "{before:?}");
    ask(&trio, REQUESTS..2 * REQUESTS).await;
    trio.drained().await;
    assert_eq!(held(), before);
    let Trio { router, prefill, decode } = trio;
    for role in [router, decode, prefill] {
        assert_eq!(role.terminate(), Some(0));
    }
    assert_eq!(held(), [Objects::default(); 2]);
}

/// With `auto`, a device is taken without a word.
#[tokio::test]
async fn rdma_is_what_auto_takes() {
    let Some((prefill, _)) = devices() else { return };
    let role = Role::start(&["prefill", "--transport", "auto", "--rdma-device", &prefill]);
    assert_eq!(role.ready["transport"], "verbs");
    assert_eq!(role.terminate(), Some(0));
}

#[tokio::test]
async fn rdma_over_ucx() {
    let Some((prefill, decode)) = devices() else { return };
    let Some(ucx) = std::env::var("PDLAB_TEST_UCX").ok().filter(|ucx| !ucx.is_empty()) else {
        eprintln!("skipped: PDLAB_TEST_UCX names no UCX");
        return;
    };
    let flags = ["--transport", "ucx", "--ucx", &ucx, "--time-scale", "0"];
    let start = |role: &str, device: &str| {
        let env = [("UCX_TLS", "rc_v,self"), ("UCX_NET_DEVICES", &*format!("{device}:1"))];
        Role::start_with(&[&[role][..], &flags].concat(), &env)
    };
    let (prefill, decode) = (start("prefill", &prefill), start("decode", &decode));
    assert_eq!(decode.ready["transport"], "ucx");
    let router = crate::common::start_router(&[&prefill], &[&decode]);
    blocks_arrive(&Trio { router, prefill, decode }).await;
}

/// What cannot be is bad input, or the environment, and says which.
#[test]
fn rdma_settings_that_cannot_be() {
    if cfg!(not(feature = "verbs")) {
        eprintln!("skipped: built without the cargo feature `verbs`");
        return;
    }
    let fails = |flags: &[&str], code: i32, words: &str| {
        let args = [&["prefill", "--transport", "verbs"], flags].concat();
        let output = std::process::Command::new(crate::common::PDLAB).args(args).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(text.contains(words), "{text}");
    };
    fails(&["--rdma-mtu", "1500"], 2, "1500");
    fails(&["--rdma-queue-pairs", "0"], 2, "queue pairs");
    // Where there is no device at all, and where there are others.
    fails(&["--rdma-device", "nope"], 3, "RDMA device");
}
