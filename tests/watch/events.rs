//! What happens to a process while it is watched, and to the watch.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{PDLAB, Target, compiled, fails, is_root, signal, turn, watch, watched};

fn grower(what: &str, number: &str) -> Command {
    let mut command = Command::new(compiled("grower"));
    command.args([what, number]);
    command
}

/// A shell that says it is up, and does `then` after it was watched for a while.
fn shell(then: &str) -> Target {
    Target::start(Command::new("sh").args(["-c", &format!("echo up; {then}")]))
}

#[test]
fn bad_input_is_named_and_leaves_nothing() {
    fails(&["--pid", "4194399"], 2, &["4194399", "never existed"]);
    fails(&["--pid", "self"], 2, &["self"]);
    fails(&[], 2, &["--pid"]);
    let own = std::process::id().to_string();
    let own = own.as_str();
    fails(&["--pid", own, "--counter", "c"], 2, &["--metrics"]);
    fails(&["--pid", own, "--metrics", "http://127.0.0.1:1/metrics"], 2, &["--counter"]);
    fails(&["--pid", own, "--unit-from", "metrics"], 2, &["--metrics URL", "--counter NAME"]);
    fails(&["--pid", own, "--unit-from", "unmaps", "--trace", "off"], 2, &["--trace off"]);
    fails(&["--pid", own, "--gauge", "leases"], 2, &["leases", "held"]);
    fails(&["--pid", own, "--duration", "soon"], 2, &["soon", "10m"]);
    fails(&["--pid", own, "--out", "/proc/x"], 3, &["/proc/x", "--out"]);
    fails(&["--pid", own, "--tui"], 3, &["--tui", "terminal"]);
}

#[test]
fn a_process_that_has_ended_and_waits_for_its_parent_is_gone() {
    let mut child = Command::new("true").spawn().unwrap();
    let stat = format!("/proc/{}/stat", child.id());
    let began = Instant::now();
    while !std::fs::read_to_string(&stat).unwrap().contains(") Z ") {
        assert!(began.elapsed() < Duration::from_secs(60), "true does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
    fails(&["--pid", &child.id().to_string()], 2, &["gone"]);
    child.wait().unwrap();
}

#[test]
fn a_process_that_ends_meanwhile_ends_the_watch_with_what_was_seen() {
    let _turn = turn();
    let target = shell("sleep 1");
    let watched = watch(&target.pid(), &["--interval", "50ms", "--trace", "off"]);
    assert!(matches!(watched.code, Some(0 | 4)), "{:?} {}", watched.code, watched.result);
    assert_eq!(watched.result["watch"]["end"], "exited");
    assert!(watched.remarks().contains("ended after"), "{}", watched.remarks());
    assert!(watched.text.contains("until the process ended"), "{}", watched.text);
}

#[test]
fn a_leak_is_told_after_the_process_has_gone() {
    let _turn = turn();
    // 40 readings and more of 10 MB per second.
    let target = Target::start(Command::new("timeout").args([
        "8",
        compiled("grower").to_str().unwrap(),
        "grow",
        "100000",
    ]))
    .named("grower");
    let watched = watch(&target.pid(), &["--interval", "100ms"]);
    assert_eq!(
        (watched.code, &watched.result["verdict"]),
        (Some(1), &"leak".into()),
        "{}",
        watched.result
    );
    assert_eq!(watched.result["watch"]["end"], "exited");
    let owner = &watched.result["owners"][0];
    assert!(owner["bytes"].as_i64().unwrap() > 1_000_000, "the last look at its mappings: {owner}");
}

#[test]
fn a_process_that_executes_another_program_is_measured_anew() {
    let _turn = turn();
    let target = shell(&format!("sleep 3; exec {} grow 100000", compiled("grower").display()));
    let watched = watch(&target.pid(), &["--until-verdict", "--interval", "100ms"]);
    assert_eq!(
        (watched.code, &watched.result["verdict"]),
        (Some(1), &"leak".into()),
        "{}",
        watched.result
    );
    assert!(watched.remarks().contains("sh became grower"), "{}", watched.remarks());
    let process = watched.result["roles"][0]["process"].as_str().unwrap();
    assert!(process.starts_with("grower-") && process.ends_with(".2"), "{process}");
    let samples = std::fs::read_to_string(watched.dir.path().join("run/samples.csv")).unwrap();
    assert!(samples.contains("\nsh-") && samples.contains("\ngrower-"), "both are kept");
}

#[test]
fn control_c_ends_it_with_a_verdict_and_files() {
    let _turn = turn();
    let target = Target::start(&mut grower("grow", "100000"));
    let dir = tempfile::tempdir().unwrap();
    let child = Command::new(PDLAB)
        .args(["watch", "--pid", &target.pid(), "--json", "--out", "run", "--interval", "50ms"])
        .current_dir(dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let samples = dir.path().join("run/samples.csv");
    let began = Instant::now();
    while std::fs::read_to_string(&samples).map_or(0, |text| text.lines().count()) < 60 {
        assert!(began.elapsed() < Duration::from_secs(120), "too few readings");
        std::thread::sleep(Duration::from_millis(20));
    }
    signal(child.id(), "INT");
    let watched = watched(child.wait_with_output().unwrap(), dir);
    assert_eq!(
        (watched.code, &watched.result["verdict"]),
        (Some(1), &"leak".into()),
        "{}",
        watched.result
    );
    assert_eq!(watched.result["watch"]["end"], "asked");
}

#[test]
fn other_gauges_count_what_is_no_memory() {
    let _turn = turn();
    let opening = "import os, time; print('up', flush=True)\n\
                   while True: os.open('/dev/null', 0); time.sleep(0.1)";
    let target = Target::start(Command::new("python3").args(["-c", opening]));
    let watched =
        watch(&target.pid(), &["--gauge", "fds", "--until-verdict", "--interval", "100ms"]);
    assert_eq!(
        (watched.code, &watched.result["verdict"]),
        (Some(1), &"leak".into()),
        "{}",
        watched.result
    );
    assert_eq!(watched.result["owners"][0]["name"], "files and devices");
    assert_eq!(watched.result["slope_bytes_per_unit"], serde_json::Value::Null);
    assert!(watched.text.contains("fds per second"), "{}", watched.text);
}

/// Memory that pdlab itself has used at most, in kB, read while it runs.
fn peak_kb(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok())
}

#[test]
fn a_hundred_thousand_mappings_are_watched_in_bounded_memory() {
    const LIMIT: &str = "/proc/sys/vm/max_map_count";
    /// Puts the limit back once the process that needs it has ended.
    struct Raised(String);
    impl Drop for Raised {
        fn drop(&mut self) {
            let _ = std::fs::write(LIMIT, &self.0);
        }
    }
    let _turn = turn();
    let before = std::fs::read_to_string(LIMIT).unwrap().trim().to_owned();
    let allowed: u64 = before.parse().unwrap();
    let raised = allowed < 110_000 && is_root() && std::fs::write(LIMIT, "200000").is_ok();
    let _raised = raised.then(|| Raised(before));
    if allowed < 110_000 && !raised {
        eprintln!("skipped: {LIMIT} is {allowed}, and cannot be raised");
        return;
    }
    let target = Target::start(&mut grower("maps", "100000"));
    // A reading of a list that changes meanwhile may miss a part of it.
    let maps = format!("/proc/{}/maps", target.pid());
    let counted = || std::fs::read_to_string(&maps).unwrap().lines().count();
    assert!((0..50).any(|_| counted() >= 100_000), "{}", counted());
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(PDLAB)
        .args([
            "watch",
            "--pid",
            &target.pid(),
            "--json",
            "--out",
            "run",
            "--duration",
            "15s",
            "--trace",
            "off",
        ])
        .current_dir(dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        peak = peak.max(peak_kb(child.id()).unwrap_or(0));
        std::thread::sleep(Duration::from_millis(50));
    }
    let watched = watched(child.wait_with_output().unwrap(), dir);
    assert!(matches!(watched.code, Some(0 | 4)), "{}", watched.result);
    assert!(peak > 0 && peak < 300_000, "pdlab used {peak} kB");
    let longest_us: u64 = target.end().trim().parse().unwrap();
    eprintln!("pdlab used {peak} kB; the longest unmap of the process took {longest_us} us");
}
