//! What goes over the wire: requests, connections, and servers that are not there.

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pdlab_bench::serve::progress::{News, Silent};
use pdlab_bench::serve::{
    Backend, Config, Dataset, Error, Progress, Random, Rate, Report, TimedTrace, run,
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::fake::{Ask, Fake, Script};

fn config(fake: &Fake) -> Config {
    let mut config = Config::new(&fake.url);
    let random = Random {
        input_tokens: 20,
        output_tokens: 4,
        input_range_ratio: 0.5,
        prefix_tokens: 8,
        ..Random::default()
    };
    config.dataset = Dataset::Random(random);
    config.num_prompts = 10;
    config
}

async fn send(config: Config) -> Report {
    let report = run(config, &Silent, CancellationToken::new()).await.unwrap();
    assert_eq!(report.totals.failed, 0, "{:?}", report.totals.errors);
    report
}

/// Requests in the order of their ids.
fn by_id(fake: &Fake) -> Vec<Ask> {
    let mut asks = fake.asks();
    asks.sort_by_key(|ask| ask.request_id.rsplit('-').next().unwrap().parse::<u64>().unwrap());
    asks
}

async fn echo() -> Fake {
    Fake::start(|ask| Script::completion(ask, 2, 0, 0)).await
}

#[tokio::test]
async fn equal_seeds_send_equal_requests() {
    let mut bodies = Vec::new();
    for seed in [1, 1, 2] {
        let fake = echo().await;
        let mut config = config(&fake);
        config.seed = seed;
        config.rate = Rate::PerSecond(1000.0);
        send(config).await;
        bodies.push(by_id(&fake).into_iter().map(|ask| ask.body).collect::<Vec<Value>>());
    }
    assert_eq!(bodies[0], bodies[1]);
    assert_ne!(bodies[0], bodies[2]);
    let prompts: Vec<&Vec<Value>> =
        bodies[0].iter().map(|body| body["prompt"].as_array().unwrap()).collect();
    assert!(prompts.iter().all(|prompt| prompt[..8] == prompts[0][..8]));
    assert!(prompts.iter().any(|prompt| prompt.len() != prompts[0].len()));
}

#[tokio::test]
async fn requests_name_themselves_and_carry_what_is_asked_for() {
    let fake = echo().await;
    let mut config = config(&fake);
    config.target.base_url = format!("{}/gateway/", fake.url);
    config.target.endpoint = Some("v2/generate".into());
    config.target.request_id_prefix = "mine-".into();
    config.target.model = Some("org/served".into());
    config.target.served_model_name = Some("fake".into());
    config.target.headers = vec![("Authorization".into(), "Bearer x".into())];
    config.target.extra_body = json!({"top_k": 3}).as_object().unwrap().clone();
    config.num_warmups = 2;
    let report = send(config).await;
    assert_eq!((report.facts.model.as_str(), report.sent), ("org/served", 10));
    let asks = fake.asks();
    assert_eq!(asks.len(), 12);
    for ask in &asks {
        assert_eq!(ask.path, "/gateway/v2/generate");
        assert_eq!(ask.authorization.as_deref(), Some("Bearer x"));
        assert_eq!((&ask.body["model"], &ask.body["top_k"]), (&json!("fake"), &json!(3)));
        assert_eq!(ask.body["stream_options"], json!({"include_usage": true}));
    }
    let ids: Vec<String> = by_id(&fake)[2..].iter().map(|ask| ask.request_id.clone()).collect();
    assert!(ids.contains(&"mine-9".to_owned()), "{ids:?}");
}

#[tokio::test]
async fn chats_send_text_of_the_planned_length() {
    let fake = Fake::start(|_| {
        let delta = json!({"choices": [{"index": 0, "delta": {"content": "a"}}]});
        Script::stream([(0, delta)])
    })
    .await;
    let mut config = config(&fake);
    config.target.backend = Backend::OpenAiChat;
    config.dataset = Dataset::Random(Random { input_tokens: 33, ..Random::default() });
    let report = send(config).await;
    // No usage came: lengths are as planned and as counted.
    assert_eq!((report.totals.prompt_tokens, report.totals.output_tokens), (330, 10));
    for ask in fake.asks() {
        assert_eq!(ask.path, "/v1/chat/completions");
        let text = ask.body["messages"][0]["content"][0]["text"].as_str().unwrap();
        assert_eq!(text.len(), 33);
        assert_eq!(ask.body["max_completion_tokens"], json!(128));
    }
}

#[tokio::test]
async fn traces_keep_their_times_lengths_and_shared_prefixes() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    for (at, input, output, ids) in [
        (0, 40, 3, "[0,1,2]"),
        (100, 36, 2, "[0,1,7]"),
        (200, 10, 1, "[9]"),
        (9e9 as u64, 1, 1, "[3]"),
    ] {
        writeln!(
            file,
            r#"{{"timestamp":{at},"input_length":{input},"output_length":{output},"hash_ids":{ids}}}"#
        )
        .unwrap();
    }
    let fake = echo().await;
    let mut config = config(&fake);
    let trace = TimedTrace { sec_multiplier: 0.001, ..TimedTrace::new(file.path()) };
    config.dataset = Dataset::TimedTrace(trace);
    config.num_prompts = 3;
    let report = send(config).await;
    let due: Vec<f64> = report.records.iter().map(|record| record.scheduled_s).collect();
    assert_eq!(due, [0.0, 0.1, 0.2]);
    assert!(report.records.iter().all(|record| record.sent_s >= record.scheduled_s));
    let asks = by_id(&fake);
    let prompt = |i: usize| asks[i].body["prompt"].as_array().unwrap();
    assert_eq!((prompt(0).len(), prompt(1).len(), prompt(2).len()), (40, 36, 10));
    assert_eq!(prompt(0)[..32], prompt(1)[..32]);
    assert_ne!(prompt(0)[32..36], prompt(1)[32..36]);
    assert_eq!(asks[0].body["max_tokens"], json!(3));
}

#[tokio::test]
async fn connections_are_kept_and_their_end_is_no_failure() {
    // Answers end the connection now and then; a server may do so at any time.
    let fake =
        Fake::start(|ask| Script { close: ask.index % 5 == 4, ..Script::completion(ask, 2, 0, 0) })
            .await;
    let mut config = config(&fake);
    config.num_prompts = 50;
    config.max_concurrency = Some(2);
    send(config).await;
    // One for the list of models and again one for each that was ended, never one per request.
    assert!(fake.opened() <= 3 + 10, "{} connections", fake.opened());
    fake.drained().await;
}

#[tokio::test]
async fn a_slow_request_times_out_alone() {
    let fake =
        Fake::start(|ask| Script::completion(ask, 1, if ask.index == 0 { 60_000 } else { 0 }, 0))
            .await;
    let mut config = config(&fake);
    config.target.request_timeout = Duration::from_millis(300);
    let report = run(config, &Silent, CancellationToken::new()).await.unwrap();
    assert_eq!((report.totals.completed, report.totals.failed), (9, 1));
    assert!(report.totals.errors.contains_key("no end within 0.3 s"), "{:?}", report.totals.errors);
    fake.drained().await;
}

async fn failure(config: Config) -> Error {
    run(config, &Silent, CancellationToken::new()).await.unwrap_err()
}

/// A port of this machine that nobody listens on.
fn unused_url() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[tokio::test]
async fn servers_that_are_not_there_are_named() {
    let url = unused_url();
    let error = failure(Config::new(&url)).await;
    assert!(matches!(error, Error::Unreachable { .. }) && !error.is_bad_input());
    assert!(error.to_string().contains(&url) && error.to_string().contains("--base-url"));

    let fake = echo().await;
    let mut config = config(&fake);
    config.target.model = Some("other".into());
    let error = failure(config).await;
    assert!(error.is_bad_input() && error.to_string().contains("it serves fake"), "{error}");
    assert!(fake.asks().is_empty());
}

/// Counts notes.
#[derive(Default)]
struct Notes(AtomicUsize);

impl Progress for Notes {
    fn note(&self, _: &str) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
    fn update(&self, _: &News) {}
    fn finish(&self) {}
}

#[tokio::test]
async fn the_ready_check_waits_for_a_first_answer() {
    let fake = Fake::start(|ask| match ask.index {
        0 => Script::refusal(503, "{}"),
        _ => Script::completion(ask, 1, 0, 0),
    })
    .await;
    let mut config = config(&fake);
    config.ready_check_timeout = Duration::from_secs(30);
    let notes = Notes::default();
    let report = run(config, &notes, CancellationToken::new()).await.unwrap();
    assert_eq!((report.totals.completed, report.totals.failed), (10, 0));
    assert_eq!((notes.0.load(Ordering::SeqCst), fake.asks().len()), (1, 12));

    let mut never = Config::new(unused_url());
    never.ready_check_timeout = Duration::from_millis(20);
    assert!(matches!(failure(never).await, Error::Unreachable { .. }));
}
