//! Work that is counted by a page of Prometheus metrics.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::common::{Target, compiled, fails, turn, watch};

/// How the server behaves.
const UP: u8 = 0;
const DOWN: u8 = 1;
const OVER: u8 = 2;

/// A server with a counter, until it is dropped. The counter gains 1,000 per second and begins
/// anew when the server comes back from being down.
struct Server {
    url: String,
    address: std::net::SocketAddr,
    state: Arc<AtomicU8>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(AtomicU8::new(UP));
        let shared = Arc::clone(&state);
        let thread = std::thread::spawn(move || {
            let mut began = Instant::now();
            let mut was_down = false;
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                match shared.load(Ordering::SeqCst) {
                    OVER => return,
                    // Closes the connection without a word.
                    DOWN => was_down = true,
                    _ => {
                        if std::mem::take(&mut was_down) {
                            began = Instant::now();
                        }
                        let _ = stream.read(&mut [0; 4096]);
                        let _ = stream.write_all(answer(began.elapsed()).as_bytes());
                    }
                }
            }
        });
        let url = format!("http://{address}/metrics");
        Self { url, address, state, thread: Some(thread) }
    }

    fn turn(&self, state: u8) {
        self.state.store(state, Ordering::SeqCst);
    }
}

fn answer(elapsed: Duration) -> String {
    let tokens = elapsed.as_secs_f64() * 1000.0;
    let page = format!(
        "# HELP vllm:generation_tokens_total Number of generation tokens processed.\n\
         # TYPE vllm:generation_tokens_total counter\n\
         vllm:generation_tokens_total{{engine=\"0\",model_name=\"a,b\"}} {}\n\
         vllm:generation_tokens_total{{engine=\"1\",model_name=\"a,b\"}} {}\n\
         process_resident_memory_bytes 1.4e9\n",
        tokens / 4.0,
        tokens * 3.0 / 4.0
    );
    let length = page.len();
    format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{page}")
}

impl Drop for Server {
    fn drop(&mut self) {
        self.turn(OVER);
        let _ = std::net::TcpStream::connect(self.address);
        self.thread.take().unwrap().join().unwrap();
    }
}

fn grower() -> Target {
    // 10 MB per second at most, and 1,000 tokens.
    Target::start(Command::new(compiled("grower")).args(["grow", "100000"]))
}

#[test]
fn memory_is_judged_per_token() {
    let _turn = turn();
    let (server, target) = (Server::start(), grower());
    let counted = ["--metrics", &server.url, "--counter", "vllm:generation_tokens_total"];
    let watched =
        watch(&target.pid(), &[&counted[..], &["--until-verdict", "--interval", "100ms"]].concat());
    let result = &watched.result;
    assert_eq!(
        (watched.code, &result["verdict"], &result["unit"]),
        (Some(1), &"leak".into(), &"count".into())
    );
    // 100 allocations per second at most; on a busy machine fewer. A token is a millisecond.
    let slope = result["slope_bytes_per_unit"].as_f64().unwrap();
    assert!((100.0..11_000.0).contains(&slope), "{slope}");
    let (counted, seconds) =
        (result["work"]["counted"].as_u64().unwrap(), result["duration_s"].as_f64().unwrap());
    let ratio = counted as f64 / (1000.0 * seconds);
    assert!((0.8..1.2).contains(&ratio), "{counted} in {seconds} s: both series are summed");
    assert!(
        watched.text.contains("one count is 1 of vllm:generation_tokens_total"),
        "{}",
        watched.text
    );
    assert_eq!(result["watch"]["plan"]["counter"], "vllm:generation_tokens_total");
}

#[test]
fn a_server_that_goes_away_for_a_while_is_a_remark() {
    let _turn = turn();
    let (server, target) = (Server::start(), grower());
    let watched = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_secs(4));
            server.turn(DOWN);
            std::thread::sleep(Duration::from_secs(3));
            server.turn(UP);
        });
        let counted =
            ["--metrics", &server.url, "--counter", "vllm:generation_tokens_total{engine=\"1\"}"];
        watch(
            &target.pid(),
            &[&counted[..], &["--duration", "14s", "--interval", "100ms"]].concat(),
        )
    });
    let remarks = watched.remarks();
    assert!(remarks.contains("the work was not counted"), "{remarks}");
    assert!(remarks.contains("the work was counted again"), "{remarks}");
    assert!(remarks.contains("began anew"), "{remarks}");
    assert!(watched.progress.contains("no readings: "), "{}", watched.progress);
    assert!(watched.result["work"]["counted"].as_u64().unwrap() > 1000, "{}", watched.result);
}

#[test]
fn counters_and_servers_that_are_not_there_are_named() {
    let server = Server::start();
    let own = std::process::id().to_string();
    let watch = |url: &str, counter: &str, code: i32, words: &[&str]| {
        fails(&["--pid", &own, "--metrics", url, "--counter", counter], code, words);
    };
    let nearest = ["vllm:generation_token_total", "vllm:generation_tokens_total"];
    watch(&server.url, "vllm:generation_token_total", 2, &nearest);
    watch(&server.url, "vllm:generation_tokens_total{engine=\"7\"}", 2, &["engine=\"7\""]);
    watch(&server.url, "no counter", 2, &["no counter"]);
    watch("127.0.0.1:9", "c", 2, &["http://HOST:PORT/metrics"]);
    watch("https://127.0.0.1:9/metrics", "c", 2, &["https"]);
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    watch(&format!("http://{closed}/metrics"), "c", 3, &[&closed.to_string(), "is the server up"]);
}
