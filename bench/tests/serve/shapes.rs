//! Load shapes and datasets as the server sees them.

use std::io::Write;
use std::time::{Duration, Instant};

use pdlab_bench::serve::dataset::{Custom, PrefixRepetition, Source};
use pdlab_bench::serve::progress::{News, Silent};
use pdlab_bench::serve::sweep::{Plan, sweep};
use pdlab_bench::serve::{
    Config, Dataset, Error, Presentation, Progress, Ramp, RampUp, Random, Rate, Report, run,
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::fake::{Fake, Script};

fn config(fake: &Fake, num_prompts: usize) -> Config {
    let mut config = Config::new(&fake.url);
    let random = Random { input_tokens: 8, output_tokens: 1, ..Random::default() };
    config.dataset = Dataset::Random(random);
    config.num_prompts = num_prompts;
    config
}

async fn measure(config: Config) -> Report {
    run(config, &Silent, CancellationToken::new()).await.unwrap()
}

fn custom(lines: &str, skip_bad_lines: bool) -> (tempfile::NamedTempFile, Dataset) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(lines.as_bytes()).unwrap();
    let source = Source { shuffle: false, skip_bad_lines, ..Source::new(file.path()) };
    (file, Dataset::Custom(Custom { source, output_tokens: None, bytes_per_token: 4.0 }))
}

#[tokio::test]
async fn a_ramp_sends_its_last_requests_faster_than_its_first() {
    let fake = Fake::start(|ask| Script::completion(ask, 1, 0, 0)).await;
    let mut config = config(&fake, 60);
    config.burstiness = f64::INFINITY;
    config.ramp = Some(Ramp { strategy: RampUp::Linear, start_rps: 20, end_rps: 400 });
    let report = measure(config).await;
    let due: Vec<f64> = report.records.iter().map(|record| record.scheduled_s).collect();
    assert!((due[0] - 1.0 / 20.0).abs() < 1e-3, "{due:?}");
    assert!((due[59] - due[58] - 1.0 / 400.0).abs() < 1e-3, "{due:?}");
    let json = report.to_json(&Presentation::default());
    assert_eq!(json["ramp_up_strategy"], "linear");
    let events = json["rps_change_events"].as_array().unwrap();
    assert_eq!(
        (events.len(), &events[0]["rps"], &events[380]["rps"]),
        (381, &20.into(), &400.into())
    );
    let name = report.file_name(&Presentation::default());
    assert!(name.starts_with("openai-ramp-up-linear-20qps-400qps-fake-"), "{name}");
}

#[tokio::test]
async fn probes_run_beside_the_load_and_do_not_count_as_load() {
    let fake = Fake::start(|ask| Script::completion(ask, 1, 5, 0)).await;
    let mut config = config(&fake, 20);
    config.rate = Rate::PerSecond(40.0);
    config.probe_rate = 50.0;
    let report = measure(config).await;
    let probes = report.probes.as_ref().unwrap();
    assert_eq!((report.totals.completed, probes.failed), (20, 0));
    let asked = fake.asks().iter().filter(|ask| ask.request_id.contains("-probe-")).count();
    assert_eq!(probes.completed, asked as u64);
    assert!(asked >= 2 && probes.e2el.percentiles(&[50.0])[0] >= 0.004);
    let probe = fake.asks().into_iter().find(|ask| ask.request_id.contains("-probe-")).unwrap();
    assert_eq!(
        (probe.body["prompt"].as_str(), probe.body["max_tokens"].as_u64()),
        (Some("Hi"), Some(1))
    );
    let json = report.to_json(&Presentation::default());
    assert_eq!(json["probe_completed"], probes.completed);
    assert!(report.console(&Presentation::default()).contains("Median probe E2EL (ms):"));
}

#[tokio::test]
async fn prefixes_come_as_often_as_planned() {
    let fake = Fake::start(|ask| Script::completion(ask, 1, 0, 0)).await;
    let mut config = config(&fake, 9);
    let prefixes = PrefixRepetition {
        prefix_tokens: 32,
        suffix_tokens: 4,
        prefixes: 2,
        ..PrefixRepetition::default()
    };
    config.dataset = Dataset::PrefixRepetition(prefixes);
    let report = measure(config).await;
    assert_eq!(report.totals.completed, 8, "nine are no multiple of two");
    let mut first: Vec<String> = fake
        .asks()
        .iter()
        .map(|ask| format!("{:?}", &ask.body["prompt"].as_array().unwrap()[..32]))
        .collect();
    first.sort();
    first.dedup();
    assert_eq!(first.len(), 2);
}

#[tokio::test]
async fn words_of_the_user_arrive_as_text() {
    let fake = Fake::start(|ask| Script::completion(ask, 1, 0, 0)).await;
    let (_file, dataset) = custom(r#"{"prompt":"a \"b\"\n","output_tokens":3}"#, false);
    let report = measure(Config { dataset, ..config(&fake, 2) }).await;
    assert_eq!(report.totals.completed, 2, "drawn again");
    let ask = &fake.asks()[0];
    assert_eq!(ask.body["prompt"], "a \"b\"\n");
    assert_eq!(ask.body["max_tokens"], 3);
}

/// Keeps what it is told.
#[derive(Default)]
struct Notes(std::sync::Mutex<Vec<String>>);

impl Progress for Notes {
    fn note(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
    fn update(&self, _: &News) {}
    fn finish(&self) {}
}

#[tokio::test]
async fn bad_lines_refuse_the_run_or_are_counted_in_its_result() {
    let fake = Fake::start(|ask| Script::completion(ask, 1, 0, 0)).await;
    let lines = "{\"prompt\":\"a\",\"output_tokens\":1}\noops\n";
    let (_file, dataset) = custom(lines, false);
    let strict = Config { dataset, ..config(&fake, 1) };
    let error = run(strict, &Silent, CancellationToken::new()).await.unwrap_err();
    assert!(matches!(error, Error::Dataset { bad: 1, .. }) && error.is_bad_input(), "{error}");
    assert!(fake.asks().is_empty());

    let (_file, dataset) = custom(lines, true);
    let notes = Notes::default();
    let lenient = Config { dataset, ..config(&fake, 1) };
    let report = run(lenient, &notes, CancellationToken::new()).await.unwrap();
    assert_eq!(report.to_json(&Presentation::default())["dataset_bad_lines"], 1);
    assert!(notes.0.lock().unwrap()[0].contains("skipped 1 bad line(s)"));
}

/// With one slot for a server that takes 20 ms, all wait; the result says how long, and warns.
#[tokio::test]
async fn waits_for_a_slot_are_told_and_warned_of() {
    let fake = Fake::start(|ask| Script::completion(ask, 1, 20, 0)).await;
    let mut config = config(&fake, 12);
    config.rate = Rate::PerSecond(1000.0);
    config.max_concurrency = Some(1);
    let report = measure(config).await;
    let json = report.to_json(&Presentation::default());
    let p50_ms = json["client_queue_p50_ms"].as_f64().unwrap();
    assert!(p50_ms >= 80.0, "{p50_ms}");
    let warnings = report.warnings();
    assert!(warnings.iter().any(|text| text.contains("for one of 1 slots")), "{warnings:?}");
    let timeline = &json["timeline"]["intervals"];
    let completed: u64 =
        timeline.as_array().unwrap().iter().map(|i| i["completed"].as_u64().unwrap()).sum();
    assert_eq!(completed, 12);
    assert_eq!(json["distributions"]["ttft"].as_array().unwrap().len(), 103);
}

#[tokio::test]
async fn progress_has_live_percentiles() {
    struct Seen(std::sync::Mutex<Option<News>>);
    impl Progress for Seen {
        fn note(&self, _: &str) {}
        fn update(&self, news: &News) {
            *self.0.lock().unwrap() = Some(*news);
        }
        fn finish(&self) {}
    }
    let fake = Fake::start(|ask| Script::completion(ask, 3, 30, 2)).await;
    let seen = Seen(std::sync::Mutex::default());
    run(config(&fake, 4), &seen, CancellationToken::new()).await.unwrap();
    let news = seen.0.lock().unwrap().unwrap();
    let recent = news.recent.unwrap();
    assert!(recent.ttft_p50_s >= 0.029 && recent.ttft_p99_s >= recent.ttft_p50_s, "{recent:?}");
    assert!(recent.tpot_p50_s.unwrap() >= 0.0 && news.elapsed >= Duration::from_millis(30));
}

/// A server that answers 10 ms each, one after the other, can do 100 per second. How far below that
/// the sweep stops depends on the machine, too; beyond it nothing is sustained.
#[tokio::test]
async fn a_sweep_never_calls_overload_sustained() {
    let free = std::sync::Mutex::new(Instant::now());
    let fake = Fake::start(move |ask| {
        let mut free = free.lock().unwrap();
        *free = (*free).max(Instant::now()) + Duration::from_millis(10);
        let wait = free.saturating_duration_since(Instant::now());
        Script::completion(ask, 1, wait.as_millis() as u64, 0)
    })
    .await;
    let plan = Plan { low: 25.0, high: 400.0, step: Duration::from_millis(1500) };
    let stop = CancellationToken::new();
    let found = sweep(&config(&fake, 1), plan, &Silent, &stop).await.unwrap();
    assert!(!found.stopped && !found.steps.is_empty());
    let failed = found.failed.unwrap();
    assert!(failed <= 200.0, "{}", found.console());
    assert!(found.sustained.is_none_or(|rate| rate < 120.0), "{}", found.console());
    let json = found.to_json();
    assert_eq!(json["steps"].as_array().unwrap().len(), found.steps.len());
    assert_eq!(json["failed_rps"], failed);
    assert!(found.console().contains("are not"), "{}", found.console());
}

#[tokio::test]
async fn what_a_server_tells_of_ttft_is_kept() {
    let fake = Fake::start(|_| {
        let told = json!({"time_to_first_token_ms": 9.0, "queue_time_ms": 4.0, "pdlab": {
            "prefill": {"queue_us": 1000, "compute_us": 2000}, "block_wait_us": 300,
            "kv": {"bytes": 4096, "blocks": 2, "handshake_us": 100, "transfer_us": 700},
            "queue_us": 50, "first_token_us": 900}});
        let token = json!({"choices": [{"index": 0, "text": "a"}]});
        let usage = json!({"choices": [], "metrics": told,
            "usage": {"prompt_tokens": 8, "completion_tokens": 1, "total_tokens": 9}});
        Script::stream([(20, token), (0, usage)])
    })
    .await;
    let report = measure(config(&fake, 3)).await;
    let json = report.to_json(&Presentation { detailed: true, ..Presentation::default() });
    let split = &json["ttft_split"];
    assert_eq!((&split["requests"], &split["kv_bytes"]), (&json!(3), &json!(3 * 4096)));
    let mean = |part: &str| split["parts"][part]["mean_ms"].as_f64().unwrap();
    assert!((mean("transfer") - 0.7).abs() < 1e-3 && (mean("prefill") - 2.0).abs() < 1e-3);
    // The rest of at least 20 ms.
    assert!(mean("other") >= 14.0, "{split}");
    assert_eq!(json["ttft_splits"][0]["kv"]["blocks"], 2);
}
