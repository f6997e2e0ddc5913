//! How precisely and how cheaply the load generator keeps a schedule: so many one-token requests
//! per second, from one thread, to a server that does nothing, on a thread of its own.
//!
//! `cargo bench -p pdlab-bench --bench pace [-- RATE [SECONDS]]`, 5,000 for 5 s by default.
//! Prints the schedule error, the latency, and the processor time of the client's thread.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use pdlab_bench::serve::progress::Silent;
use pdlab_bench::serve::{Config, Dataset, Random, Rate, run};
use tokio_util::sync::CancellationToken;

const MODELS: &str = r#"{"object":"list","data":[{"id":"m","object":"model","created":0,"owned_by":"vllm","root":"m","parent":null,"max_model_len":1}]}"#;

const EVENTS: &str = "data: {\"choices\":[{\"index\":0,\"text\":\" a\"}]}\n\n\
    data: {\"choices\":[],\"usage\":{\"prompt_tokens\":16,\"completion_tokens\":1}}\n\n\
    data: [DONE]\n\n";

fn response(content_type: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// Answers each request of a connection; requests are small enough to come in one read.
fn serve(mut socket: TcpStream) {
    let models = response("application/json", MODELS);
    let events = response("text/event-stream", EVENTS);
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = socket.read(&mut buffer) {
        let answer = if buffer[..read].starts_with(b"GET") { &models } else { &events };
        if socket.write_all(answer).is_err() {
            return;
        }
    }
}

fn start_server() -> std::io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}", listener.local_addr()?);
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            // Without it, answers would wait for acknowledgements.
            let _ = socket.set_nodelay(true);
            thread::spawn(move || serve(socket));
        }
    });
    Ok(url)
}

/// Processor time of the calling thread in seconds.
fn thread_cpu_s() -> f64 {
    let time = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_THREAD);
    let seconds =
        |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    time.map(|usage| seconds(usage.user_time()) + seconds(usage.system_time())).unwrap_or_default()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Cargo passes `--bench`.
    let mut numbers = std::env::args().skip(1).filter_map(|word| word.parse::<f64>().ok());
    let rate = numbers.next().unwrap_or(5000.0);
    let seconds = numbers.next().unwrap_or(5.0);

    let mut config = Config::new(start_server()?);
    config.dataset =
        Dataset::Random(Random { input_tokens: 16, output_tokens: 1, ..Random::default() });
    config.rate = Rate::PerSecond(rate);
    config.num_prompts = (rate * seconds) as usize;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let before_s = thread_cpu_s();
    let report = runtime.block_on(run(config, &Silent, CancellationToken::new()))?;
    let cpu_s = thread_cpu_s() - before_s;

    let [p50_ms, p99_ms, max_ms] = report.schedule_error_ms();
    let ttft = report.totals.ttft.percentiles(&[50.0, 99.0]);
    let completed = report.totals.completed;
    println!("{completed} requests, {} failed, at {rate} per second", report.totals.failed);
    println!("schedule error: p50 {p50_ms:.3} ms, p99 {p99_ms:.3} ms, max {max_ms:.3} ms");
    println!("TTFT: p50 {:.3} ms, p99 {:.3} ms", ttft[0] * 1e3, ttft[1] * 1e3);
    println!(
        "client: {cpu_s:.2} s of one core, {:.1} us per request, {:.0} requests per core-second",
        cpu_s / completed as f64 * 1e6,
        completed as f64 / cpu_s
    );
    Ok(())
}
