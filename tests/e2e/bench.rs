//! `pdlab bench serve` against real roles: the split of TTFT, a soak with verdicts, a page.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::common::{PDLAB, Trio};

fn bench(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(PDLAB);
    command.args(["bench", "serve", "--disable-tqdm", "--json"]).args(args);
    command.current_dir(dir).output().unwrap()
}

fn result(output: &Output) -> Value {
    let stdout = String::from_utf8_lossy(&output.stdout);
    let last = stdout.lines().last().unwrap_or_default();
    let error = String::from_utf8_lossy(&output.stderr);
    serde_json::from_str(last).unwrap_or_else(|_| panic!("no result: {stdout} {error}"))
}

#[tokio::test]
async fn ttft_splits_into_what_the_roles_say_and_makes_a_page() {
    let trio = Trio::start(&[], &[]);
    let scratch = tempfile::tempdir().unwrap();
    let load = ["--num-prompts", "12", "--input-len", "64", "--output-len", "4", "--split-ttft"];
    let place = ["--base-url", trio.router.url(), "--out", "run", "--save-detailed"];
    let output = bench(scratch.path(), &[&load[..], &place].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let result = result(&output);
    assert_eq!((&result["completed"], &result["failed"]), (&12.into(), &0.into()));

    let split = &result["ttft_split"];
    assert_eq!((&split["requests"], &split["kv_loads"]), (&12.into(), &12.into()), "{split}");
    let (_, decode) = trio.drained().await;
    assert_eq!(split["kv_bytes"], decode["work"]["kv_bytes"]);
    assert_eq!(split["kv_blocks"], decode["work"]["blocks_verified"]);
    let mean = |part: &str| split["parts"][part]["mean_ms"].as_f64().unwrap();
    assert!(mean("transfer") > 0.0 && mean("handshake") > 0.0, "{split}");
    // The parts of a request are its TTFT, unless clocks of different processes disagree.
    let sum: f64 = split["parts"].as_object().unwrap().keys().map(|part| mean(part)).sum();
    let ttft_ms = result["mean_ttft_ms"].as_f64().unwrap();
    assert!(sum >= ttft_ms * 0.99 && sum <= ttft_ms * 1.5, "{sum} ms of {ttft_ms} ms: {split}");
    for told in result["ttft_splits"].as_array().unwrap() {
        assert_eq!(told["kv"]["blocks"], 4, "{told}");
    }

    let page = Command::new(PDLAB).args(["report", "run"]).current_dir(scratch.path()).output();
    assert!(page.unwrap().status.success());
    let html = std::fs::read_to_string(scratch.path().join("run/report.html")).unwrap();
    assert!(html.contains("What TTFT is made of") && html.contains("Resident memory"));
}

#[tokio::test]
async fn who_does_not_ask_is_told_nothing() {
    let trio = Trio::start(&[], &[]);
    let scratch = tempfile::tempdir().unwrap();
    let load = ["--num-prompts", "3", "--input-len", "64", "--output-len", "2"];
    let output = bench(scratch.path(), &[&load[..], &["--base-url", trio.router.url()]].concat());
    assert!(result(&output)["ttft_split"].is_null());
}

#[tokio::test]
async fn a_soak_ends_in_order_with_windows_and_a_verdict_on_each_role() {
    let trio = Trio::start(&[], &[]);
    let scratch = tempfile::tempdir().unwrap();
    let load = ["--input-len", "32", "--output-len", "2", "--request-rate", "40"];
    let time = ["--duration", "7s", "--window", "3s", "--out", "soak"];
    let who = ["--base-url", trio.router.url(), "--watch", trio.prefill.url(), trio.decode.url()];
    let output = bench(scratch.path(), &[&load[..], &time, &who].concat());
    let result = result(&output);
    assert_eq!((&result["mode"], &result["failed"]), (&"soak".into(), &0.into()), "{result}");
    let roles = result["roles"].as_array().unwrap();
    let names: Vec<&str> = roles.iter().map(|r| r["process"].as_str().unwrap()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    assert!(names[0] == "client" && names[1].starts_with("prefill"), "{names:?}");
    assert!(roles.iter().all(|role| role["rss_last_bytes"].as_u64().unwrap() > 0));

    let windows =
        std::fs::read_to_string(scratch.path().join("soak/windows/windows-000000.jsonl")).unwrap();
    let windows: Vec<Value> =
        windows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(result["windows"], windows.len());
    let completed: u64 = windows.iter().map(|w| w["completed"].as_u64().unwrap()).sum();
    assert_eq!(result["completed"], completed, "no request is counted twice or lost");
    assert!(windows.iter().all(|w| w["p99_ttft_ms"].is_number() && w["roles"].is_array()));
    trio.drained().await;
}
