//! Numbers against what the server was scripted to do.

use std::time::{Duration, Instant};

use pdlab_bench::serve::progress::{News, Silent};
use pdlab_bench::serve::{
    Config, Dataset, Goodput, Presentation, Progress, Random, Rate, Record, Report, run,
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::fake::{Fake, Script};

/// Short prompts at a constant rate.
fn config(fake: &Fake, num_prompts: usize, rate: f64) -> Config {
    let mut config = Config::new(&fake.url);
    let random = Random { input_tokens: 8, output_tokens: 5, ..Random::default() };
    config.dataset = Dataset::Random(random);
    config.num_prompts = num_prompts;
    config.rate = if rate.is_finite() { Rate::PerSecond(rate) } else { Rate::Unlimited };
    config.burstiness = f64::INFINITY;
    config
}

async fn measure(config: Config) -> Report {
    run(config, &Silent, CancellationToken::new()).await.unwrap()
}

fn median_ms(distribution: &pdlab_bench::serve::distribution::Distribution) -> f64 {
    distribution.percentiles(&[50.0])[0] * 1e3
}

/// Scripted waits are lower bounds. A busy machine may be any time later, so the upper bound only
/// catches wrong units; what belongs to which quantity is checked request by request.
fn about(ms: f64, scripted_ms: f64) {
    assert!(ms >= scripted_ms - 1.5 && ms < scripted_ms + 3000.0, "{ms} ms, not {scripted_ms}");
}

#[tokio::test]
async fn latencies_are_those_of_the_script() {
    let fake = Fake::start(|ask| Script::completion(ask, 5, 80, 30)).await;
    let mut config = config(&fake, 12, 40.0);
    config.goodput = Goodput { ttft_s: Some(10.0), ..Goodput::default() };
    config.detailed = true;
    let report = measure(config).await;
    let totals = &report.totals;
    assert_eq!((totals.completed, totals.failed, totals.good), (12, 0, 12));
    assert_eq!((totals.prompt_tokens, totals.output_tokens), (12 * 8, 12 * 5));
    assert_eq!((totals.itl.count(), totals.tpot.count()), (12 * 4, 12));
    about(median_ms(&totals.ttft), 80.0);
    about(median_ms(&totals.tpot), 30.0);
    about(median_ms(&totals.itl), 30.0);
    about(median_ms(&totals.e2el), 200.0);
    assert_eq!(totals.queue.max(), 0.0);
    for record in &report.records {
        let after_first_s: f64 = record.itls_s.iter().copied().map(f64::from).sum();
        assert!((record.latency_s - record.ttft_s - after_first_s).abs() < 1e-4, "{record:?}");
        assert!((record.tpot_s().unwrap() - after_first_s / 4.0).abs() < 1e-4, "{record:?}");
    }
    // The last of 12 is due at 12 / 40 s and takes 0.2 s.
    assert!(report.duration >= Duration::from_millis(495));
    assert!(totals.max_concurrent_requests() >= 2);
}

#[tokio::test]
async fn every_way_to_fail_is_counted_and_none_is_lost() {
    let fake = Fake::start(|ask| {
        let good = Script::completion(ask, 2, 0, 0);
        let mut cut = good.clone();
        cut.steps.truncate(1);
        match ask.index % 8 {
            0 => good,
            1 => Script::refusal(400, r#"{"error":{"message":"too long","code":400}}"#),
            2 => Script::stream([(0, json!({"error": {"message": "KV load failed"}}))]),
            3 => cut,
            4 => Script { cut: true, ..cut },
            5 => Script { content_type: "application/json", ..good },
            6 => Script { steps: vec![(Duration::ZERO, "data: {oops\n\n".into())], ..good },
            _ => Script { steps: vec![(Duration::ZERO, "data: [DONE]\n\n".into())], ..good },
        }
    })
    .await;
    let report = measure(config(&fake, 16, 500.0)).await;
    let totals = &report.totals;
    assert_eq!((totals.completed, totals.failed, report.aborted()), (2, 14, 0));
    let errors = format!("{:?}", totals.errors);
    for part in [
        "HTTP 400: too long\": 2",
        "KV load failed\": 2",
        "the stream ended without [DONE]\": 2",
        "not an event stream",
        "malformed event: ",
        "the stream had no token\": 2",
    ] {
        assert!(errors.contains(part), "{part} is not in {errors}");
    }
    assert_eq!(totals.errors.len(), 7, "{errors}");
    assert_eq!(report.records.iter().filter(|record| record.error.is_some()).count(), 14);
    assert!(report.warnings().iter().any(|w| w == "14 of 16 requests failed"));
    fake.drained().await;
}

/// Requests come every 10 ms, and the server answers nobody during its first 400 ms. A client
/// that waits with sending would see one slow request; those that were due meanwhile must show
/// their wait: half of 50 requests wait at least 100 ms.
#[tokio::test]
async fn a_stalled_server_slows_all_requests_that_were_due() {
    let began = Instant::now();
    let fake = Fake::start(move |ask| {
        let left = Duration::from_millis(400).saturating_sub(began.elapsed());
        Script::completion(ask, 1, left.as_millis() as u64, 0)
    })
    .await;
    let report = measure(config(&fake, 50, 100.0)).await;
    let slow = report.records.iter().filter(|record| record.latency_s >= 0.1).count();
    assert!(slow >= 25, "{slow} requests show the stall");
}

/// The same with one slot: latency from the slot is short, but the wait for it is not lost.
#[tokio::test]
async fn the_wait_for_a_slot_is_counted_apart() {
    let fake = Fake::start(|ask| Script::completion(ask, 1, 20, 0)).await;
    let mut config = config(&fake, 20, 1000.0);
    config.max_concurrency = Some(1);
    let report = measure(config).await;
    assert_eq!(fake.most_busy(), 1);
    about(median_ms(&report.totals.e2el), 20.0);
    let waits: Vec<f64> = report.records.iter().map(|record| record.queue_s()).collect();
    assert!(waits.is_sorted(), "{waits:?}");
    // The last request was due at 20 ms and stood behind 19 of 20 ms each.
    assert!(waits[19] >= 0.35, "{waits:?}");
    let with_queue = report.totals.e2el_with_queue.max();
    assert!((with_queue - waits[19] - report.records[19].latency_s).abs() < 1e-3);
    // Waiting for a slot is no lateness of the client.
    assert!(report.totals.schedule_error.percentiles(&[50.0])[0] < waits[19] / 2.0);
}

/// Keeps the runtime busy once, as a client that is too slow for its load would be.
struct Stalling(std::sync::atomic::AtomicBool);

impl Progress for Stalling {
    fn note(&self, _: &str) {}
    fn update(&self, news: &News) {
        if news.counts.sent > 0 && !self.0.swap(true, std::sync::atomic::Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(300));
        }
    }
    fn finish(&self) {}
}

#[tokio::test]
async fn the_clients_own_lateness_is_measured_and_part_of_latency() {
    let fake = Fake::start(|ask| Script::completion(ask, 1, 0, 0)).await;
    let config = config(&fake, 80, 100.0);
    let progress = Stalling(false.into());
    let report = run(config, &progress, CancellationToken::new()).await.unwrap();
    let [_, p99_ms, max_ms] = report.schedule_error_ms();
    assert!(p99_ms > 200.0 && max_ms > 200.0, "{p99_ms} {max_ms}");
    // 30 requests were due during the stall. Only those that were sent before it can show it
    // without counting from the scheduled time.
    let late = |record: &&Record| record.sent_s - record.scheduled_s > 0.1 && record.ttft_s > 0.1;
    let late = report.records.iter().filter(late).count();
    assert!(late >= 15, "{late} requests show the stall");
    let warnings = report.warnings();
    assert!(warnings.iter().any(|w| w.contains("the client was the bottleneck")), "{warnings:?}");
}

#[tokio::test]
async fn chats_start_with_their_first_content() {
    let fake = Fake::start(|_| {
        let delta = |delta| json!({"choices": [{"index": 0, "delta": delta}]});
        Script::stream([
            (0, delta(json!({"role": "assistant", "content": ""}))),
            (80, delta(json!({"content": "a"}))),
            (30, delta(json!({"content": "b"}))),
            (0, json!({"choices": [], "usage": {"prompt_tokens": 21, "completion_tokens": 2}})),
        ])
    })
    .await;
    let mut config = config(&fake, 4, 100.0);
    config.target.backend = pdlab_bench::serve::Backend::OpenAiChat;
    config.detailed = true;
    let report = measure(config).await;
    about(median_ms(&report.totals.ttft), 80.0);
    assert_eq!((report.totals.prompt_tokens, report.totals.output_tokens), (84, 8));
    assert!(report.records.iter().all(|record| record.text == "ab"));
}

/// All fields that vLLM writes, with and without details.
#[tokio::test]
async fn results_have_vllms_fields() {
    let fake = Fake::start(|ask| match ask.index {
        3 => Script::refusal(503, "{}"),
        _ => Script::completion(ask, 3, 1, 1),
    })
    .await;
    let mut config = config(&fake, 6, f64::INFINITY);
    config.detailed = true;
    config.max_concurrency = Some(3);
    let report = measure(config).await;
    let mut presentation = Presentation {
        percentiles: vec![50.0, 99.9],
        metadata: vec![("gpu".into(), "none".into()), ("completed".into(), "lie".into())],
        ..Presentation::default()
    };
    let basic = report.to_json(&presentation);
    for key in [
        "date",
        "endpoint_type",
        "backend",
        "label",
        "model_id",
        "tokenizer_id",
        "num_prompts",
        "request_rate",
        "burstiness",
        "max_concurrency",
        "duration",
        "completed",
        "failed",
        "total_input_tokens",
        "total_output_tokens",
        "request_throughput",
        "request_goodput",
        "output_throughput",
        "total_token_throughput",
        "max_output_tokens_per_s",
        "max_concurrent_requests",
        "rtfx",
        "latencies",
        "queue_times",
        "mean_ttft_ms",
        "median_ttft_ms",
        "std_ttft_ms",
        "p50_ttft_ms",
        "p99.9_ttft_ms",
        "mean_tpot_ms",
        "std_itl_ms",
        "schedule_error_p50_ms",
        "schedule_error_p99_ms",
        "schedule_error_max_ms",
        "client_cpu_s",
        "origin",
    ] {
        assert!(basic.contains_key(key), "{key} is missing");
    }
    assert_eq!((&basic["completed"], &basic["failed"]), (&json!(5), &json!(1)));
    assert_eq!((&basic["gpu"], &basic["request_rate"]), (&json!("none"), &json!("inf")));
    assert_eq!((&basic["burstiness"], &basic["model_id"]), (&json!("inf"), &json!("fake")));
    assert!(basic["request_goodput"].is_null());
    assert!(!basic.contains_key("mean_e2el_ms") && !basic.contains_key("itls"));

    presentation.detailed = true;
    let detailed = report.to_json(&presentation);
    for key in [
        "latencies",
        "queue_times",
        "input_lens",
        "output_lens",
        "start_times",
        "ttfts",
        "itls",
        "generated_texts",
        "errors",
        "server_queue_times",
        "server_ttfts",
    ] {
        assert_eq!(detailed[key].as_array().map(Vec::len), Some(6), "{key}");
    }
    let errors = detailed["errors"].as_array().unwrap();
    assert_eq!(errors.iter().filter(|error| **error != "").count(), 1);
    assert_eq!(detailed["itls"][0].as_array().unwrap().len(), 2);

    let name = report.file_name(&presentation);
    assert!(name.starts_with("openai-infqps-concurrency3-fake-20"), "{name}");
    assert!(name.ends_with(".json"), "{name}");
    let console = report.console(&presentation);
    for line in [
        "============ Serving Benchmark Result ============",
        "Successful requests:                     5         ",
        "---------------Time to First Token----------------",
        "P99.9 TTFT (ms):  ",
        "P99 schedule error (ms):  ",
        "1 x HTTP 503: {}",
        "warning: 1 of 6 requests failed",
    ] {
        assert!(console.contains(line), "{line:?} is not in\n{console}");
    }
}

#[tokio::test]
async fn stopping_early_gives_a_report_of_what_was_done() {
    let fake =
        Fake::start(|ask| Script::completion(ask, 1, if ask.index < 5 { 0 } else { 60_000 }, 0))
            .await;
    let stop = CancellationToken::new();
    let trigger = async {
        while fake.asks().len() < 10 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stop.cancel();
    };
    let config = config(&fake, 1000, 100.0);
    let (report, ()) = tokio::join!(run(config, &Silent, stop.clone()), trigger);
    let report = report.unwrap();
    assert_eq!((report.totals.completed, report.totals.failed), (5, 0));
    assert!(report.aborted() >= 5 && report.sent < 100, "{} of {}", report.aborted(), report.sent);
    fake.drained().await;
}
