//! Foreign software against ours, unchanged: vllm-router, the flow of vLLM's toy proxy, and the
//! official OpenAI client. They come from PyPI, into a virtual environment below `target/`.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use crate::common::{Trio, eventually, get, post, stream};
use serde_json::json;

const REQUIREMENTS: &str = include_str!("../foreign/requirements.txt");

/// The virtual environment's `bin` directory; made once, and again when the requirements change.
fn venv_bin() -> &'static Path {
    static BIN: OnceLock<PathBuf> = OnceLock::new();
    BIN.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("foreign-venv");
        let (bin, stamp) = (dir.join("bin"), dir.join("requirements.txt"));
        if std::fs::read_to_string(&stamp).is_ok_and(|made_of| made_of == REQUIREMENTS) {
            return bin;
        }
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&dir));
        let requirements =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign/requirements.txt");
        let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"];
        run(Command::new(bin.join("python")).args(install).arg(requirements));
        std::fs::write(stamp, REQUIREMENTS).unwrap();
        bin
    })
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

pub(crate) fn script(name: &str, args: &[&str]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign").join(name);
    run(Command::new(venv_bin().join("python")).arg(path).args(args));
}

/// Ends with the test.
struct Foreign(Child);

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A port for a program that cannot take a free one itself. Below the range from which the kernel
/// gives out ports (32768 and up), so that no other test is given it before the program listens.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = 20_000 + (std::process::id() % 10_000) as u16;
    loop {
        let port = start + NEXT.fetch_add(1, Ordering::Relaxed) % 2_000;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

#[tokio::test]
async fn the_openai_client_works_against_our_router() {
    let trio = Trio::start(&[], &[]);
    let base = format!("{}/v1", trio.router.url());
    tokio::task::spawn_blocking(move || script("openai_client.py", &[&base])).await.unwrap();
    let (_, decode) = trio.drained().await;
    assert!(decode["work"]["transfers"].as_u64().unwrap() >= 3);
}

#[tokio::test]
async fn the_toy_proxys_flow_works_against_our_workers() {
    let trio = Trio::start(&[], &[]);
    let (prefill, decode) = (trio.prefill.url().to_owned(), trio.decode.url().to_owned());
    let flow = move || script("toy_proxy_flow.py", &[&prefill, &decode]);
    tokio::task::spawn_blocking(flow).await.unwrap();
    let (_, decode) = trio.drained().await;
    // The streamed request repeats the prompt, whose full block is cached by then.
    assert!(decode["work"]["blocks_verified"].as_u64().unwrap() >= 4);
}

#[tokio::test]
async fn vllm_router_drives_our_workers() {
    let trio = Trio::start(&[], &[]);
    let port = free_port().to_string();
    let bin = tokio::task::spawn_blocking(venv_bin).await.unwrap();
    let router = Command::new(bin.join("vllm-router"))
        .args(["--vllm-pd-disaggregation", "--prefill", trio.prefill.url()])
        .args(["--decode", trio.decode.url(), "--policy", "round_robin"])
        .args([
            "--host",
            "127.0.0.1",
            "--port",
            &port,
            "--prometheus-port",
            &free_port().to_string(),
        ])
        .stdin(Stdio::null())
        .spawn();
    let _router = Foreign(router.unwrap());
    let base = format!("http://127.0.0.1:{port}");
    eventually("vllm-router serves", async || {
        let health = reqwest::Client::new().get(format!("{base}/health"));
        let answer = health.timeout(Duration::from_secs(2)).send().await.ok()?;
        answer.status().is_success().then_some(())
    })
    .await;

    let url = format!("{base}/v1/completions");
    let prompt = "Through a router that has never heard of us";
    let body =
        json!({"model": "llama-3.1-8b", "prompt": prompt, "max_tokens": 11, "ignore_eos": true});
    let (status, answer) = post(&url, body.clone()).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["usage"]["completion_tokens"], 11);

    let mut streaming = body;
    streaming["stream"] = json!(true);
    let (events, done) = stream(&url, streaming).await;
    assert!(done);
    let text: String = events.iter().filter_map(|e| e["choices"][0]["text"].as_str()).collect();
    assert_eq!(answer["choices"][0]["text"], text);

    let chat = json!({"model": "llama-3.1-8b", "max_tokens": 6, "ignore_eos": true,
                      "messages": [{"role": "user", "content": "hello"}]});
    let (status, answer) = post(&format!("{base}/v1/chat/completions"), chat).await;
    assert_eq!(status, 200, "{answer}");

    assert_eq!(get(&format!("{}/health", trio.decode.url())).await.0, 200);
    let (_, decode) = trio.drained().await;
    assert!(decode["work"]["transfers"].as_u64().unwrap() >= 2, "KV really moved: {decode}");
    assert_eq!(decode["work"]["requests"], 3);
}
