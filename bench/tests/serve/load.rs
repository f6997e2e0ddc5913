//! The endless load: runs, counts, stops, leaves nothing.

use std::time::Duration;

use pdlab_bench::serve::{Counts, Load, LoadConfig, LoadHandle, Random, Rate};

use crate::fake::{Fake, Script};

fn config(fake: &Fake, rate: Rate) -> LoadConfig {
    let mut config = LoadConfig::new(&fake.url, rate);
    config.dataset = Random { input_tokens: 8, output_tokens: 2, ..Random::default() };
    config
}

async fn until(load: &LoadHandle, reached: impl Fn(&Counts) -> bool) -> Counts {
    let wait = async {
        loop {
            let counts = load.counts();
            if reached(&counts) {
                return counts;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("the load stands still")
}

#[tokio::test]
async fn counts_grow_and_agree_with_the_report() {
    let fake = Fake::start(|ask| match ask.index % 10 {
        9 => Script::refusal(500, "{}"),
        _ => Script::completion(ask, 2, 0, 0),
    })
    .await;
    let load = Load::start(config(&fake, Rate::PerSecond(400.0))).await.unwrap();
    let counts = until(&load, |counts| counts.completed >= 50 && counts.failed >= 5).await;
    assert!(counts.output_tokens >= 2 * counts.completed);
    assert_eq!(counts.prompt_tokens, 8 * counts.completed);
    let report = load.stop().await.unwrap();
    let totals = &report.totals;
    assert!(totals.completed >= counts.completed && totals.failed >= counts.failed);
    assert_eq!(report.sent, totals.completed + totals.failed);
    assert_eq!(report.sent as usize, fake.asks().len());
    assert!(report.records.is_empty());
    assert!(report.facts.num_prompts.is_none());
    fake.drained().await;
}

#[tokio::test]
async fn latencies_can_begin_anew_while_counts_go_on() {
    let fake = Fake::start(|ask| Script::completion(ask, 2, 0, 0)).await;
    let load = Load::start(config(&fake, Rate::PerSecond(400.0))).await.unwrap();
    let before = until(&load, |counts| counts.completed >= 20).await.completed;
    load.forget_latencies();
    until(&load, |counts| counts.completed >= before + 20).await;
    let totals = load.stop().await.unwrap().totals;
    assert!(totals.e2el.count() >= 10, "{}", totals.e2el.count());
    assert!(totals.e2el.count() + before <= totals.completed, "the first are not in it");
}

#[tokio::test]
async fn a_closed_loop_keeps_its_slots_busy_and_never_queues() {
    let fake = Fake::start(|ask| Script::completion(ask, 1, 2, 0)).await;
    let mut config = config(&fake, Rate::Unlimited);
    config.max_concurrency = 3;
    let load = Load::start(config).await.unwrap();
    until(&load, |counts| counts.completed >= 30).await;
    assert!(load.counts().in_flight() <= 3);
    let report = load.stop().await.unwrap();
    assert_eq!((fake.most_busy(), report.totals.failed), (3, 0));
    assert_eq!(report.totals.queue.max(), 0.0);
    assert!(fake.opened() <= 4, "{} connections for 3 slots", fake.opened());
    fake.drained().await;
}

#[tokio::test]
async fn a_server_that_stalls_bounds_the_load_and_cannot_hold_up_its_end() {
    let fake = Fake::start(|ask| Script::completion(ask, 1, 60_000, 0)).await;
    let mut config = config(&fake, Rate::PerSecond(2000.0));
    config.max_concurrency = 16;
    config.drain_timeout = Duration::from_millis(20);
    let load = Load::start(config).await.unwrap();
    until(&load, |counts| counts.sent == 16).await;
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert_eq!(load.counts().in_flight(), 16);
    let report = load.stop().await.unwrap();
    assert_eq!((report.totals.completed, report.aborted()), (0, 16));
    fake.drained().await;
}

#[tokio::test]
async fn dropping_the_handle_ends_everything() {
    let fake = Fake::start(|ask| Script::completion(ask, 1, 60_000, 0)).await;
    let load = Load::start(config(&fake, Rate::PerSecond(500.0))).await.unwrap();
    until(&load, |counts| counts.sent >= 10).await;
    drop(load);
    fake.drained().await;
    let sent = fake.asks().len();
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert_eq!(fake.asks().len(), sent);
}

#[tokio::test]
async fn a_server_that_dies_fails_requests_and_not_the_load() {
    let fake = Fake::start(|ask| Script::completion(ask, 1, 0, 0)).await;
    let load = Load::start(config(&fake, Rate::PerSecond(300.0))).await.unwrap();
    until(&load, |counts| counts.completed >= 10).await;
    drop(fake);
    until(&load, |counts| counts.failed >= 10).await;
    let report = load.stop().await.unwrap();
    let errors = &report.totals.errors;
    assert!(errors.keys().any(|error| error.starts_with("cannot connect")), "{errors:?}");
    assert_eq!(report.aborted(), 0);
}

#[tokio::test]
async fn wrong_settings_are_refused() {
    let fake = Fake::start(|ask| Script::completion(ask, 1, 0, 0)).await;
    let mut wrong = config(&fake, Rate::PerSecond(1.0));
    wrong.max_concurrency = 0;
    let error = Load::start(wrong).await.unwrap_err();
    assert!(error.to_string().starts_with("--max-concurrency"), "{error}");
    assert_eq!(fake.opened(), 0);
}
