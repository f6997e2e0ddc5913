//! Whatever happens to requests, nothing of them stays. One test, because it counts what the whole
//! process owns.

#[expect(dead_code, reason = "one test needs a part of it")]
#[path = "http/support/mod.rs"]
mod support;

use std::time::Duration;

use hyper::Method;
use support::client::{get, open, post};
use support::fake::{Act, Fake, Step, events, json, send as bytes};
use support::{config, eventually, serve};

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

#[tokio::test]
async fn two_hundred_requests_of_every_fate_leave_nothing_behind() {
    let prefills = [Fake::prefill().await, Fake::prefill().await];
    let decodes = [Fake::decode().await, Fake::decode().await];
    let mut config = config(&prefills.each_ref(), &decodes.each_ref());
    config.worker_keep_alive = Duration::from_millis(100);
    let router = serve(config).await;
    let all = || prefills.iter().chain(&decodes);
    let quiet = || all().map(Fake::open).sum::<usize>() == 0;
    eventually("quiet before", quiet).await;
    let baseline = (open_files(), tasks());
    assert!(baseline.0 > 0, "without /proc this test would see nothing");

    let die = vec![bytes("data: 1\n\n"), Step::Pause(Duration::from_millis(1)), Step::Die];
    let stall = vec![bytes("data: 1\n\n"), Step::Stall];
    let long = "x".repeat(100_000);
    for round in 0..20 {
        let addr = router.addr;
        let mut fates = Vec::new();
        for fate in 0..10 {
            match fate {
                0 => prefills[round % 2].next(Act::HangUp),
                1 => decodes[round % 2].next(Act::HangUp),
                2 => decodes[round % 2].next(events(die.clone())),
                3 => prefills[round % 2].next(json(200, "garbage")),
                4 => decodes[round % 2].next(json(500, "{}")),
                5 => decodes[round % 2].next(events(stall.clone())),
                _ => {}
            }
            let body = match fate {
                6 => "not json".to_owned(),
                7 => format!(r#"{{"prompt":"{long}"}}"#),
                _ => "{}".to_owned(),
            };
            fates.push(tokio::spawn(async move {
                if fate == 8 {
                    // Leaves at once.
                    let client = open(addr, Method::POST, "/v1/completions", &[], body);
                    let _ = tokio::time::timeout(Duration::from_millis(2), client).await;
                } else {
                    let answer = post(addr, "/v1/completions", body);
                    // Those that meet a stalled decode leave after a while.
                    let _ = tokio::time::timeout(Duration::from_millis(200), answer).await;
                }
            }));
        }
        for fate in fates {
            fate.await.unwrap();
        }
    }
    router.drained().await;
    // Those that left at once may have left before they had sent anything.
    assert!((180..=200).contains(&router.handle.snapshot().work.requests));
    assert_eq!(get(router.addr, "/health").await.status, 200);
    eventually("quiet after", quiet).await;
    eventually("files and tasks as before", || (open_files(), tasks()) == baseline).await;
    assert!(router.handle.workers().iter().all(|w| w.connections == 0 && w.in_flight == 0));
    assert!(all().all(|fake| fake.answering() == 0));

    // It still works after all that; what the fakes still had to say may come first.
    eventually("workers healthy", || router.handle.workers().iter().all(|w| w.healthy)).await;
    all().for_each(|fake| fake.script().clear());
    assert_eq!(post(router.addr, "/v1/completions", "{}").await.status, 200);
    assert_eq!(router.stop().await.cut_connections, 0);
}
