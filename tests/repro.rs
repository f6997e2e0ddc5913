//! `pdlab repro` on real processes: over TCP always, over real UCX where a build is at hand.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

const PDLAB: &str = env!("CARGO_BIN_EXE_pdlab");

/// Measurements take turns: two clusters on two cores would disturb each other.
static TURN: Mutex<()> = Mutex::new(());

fn pdlab(args: &[&str], dir: &Path) -> Output {
    let mut command = Command::new(PDLAB);
    // Settings of the caller would change what a run shows.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("UCX_")) {
        command.env_remove(name);
    }
    let output = command.args(args).current_dir(dir).output().unwrap();
    assert!(children(dir).is_empty(), "{args:?} left processes");
    output
}

/// Processes of ours that still run in this directory.
fn children(dir: &Path) -> Vec<String> {
    let dir = dir.canonicalize().unwrap();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let here =
        processes.filter(|p| std::fs::read_link(p.path().join("cwd")).is_ok_and(|cwd| cwd == dir));
    here.map(|p| p.file_name().to_string_lossy().into_owned()).collect()
}

/// Runs a scenario; the exit code, the result, and the text.
fn repro(args: &[&str]) -> (Option<i32>, Value, String) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = tempfile::tempdir().unwrap();
    let fixed = ["repro", "--no-mitigations", "--json", "--out", "run"];
    let output = pdlab(&[&fixed[..], args].concat(), dir.path());
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let last = stdout.lines().last().unwrap_or_default();
    let result: Value = serde_json::from_str(last).unwrap_or_else(|_| panic!("{args:?}: {stderr}"));
    for file in ["result.json", "samples.csv", "scenario.toml", "logs"] {
        assert!(dir.path().join("run").join(file).exists(), "{file}");
    }
    eprintln!("{stdout}");
    (output.status.code(), result, stdout)
}

/// Real requests moved real blocks, and all of them were right.
fn moved_kv(result: &Value) {
    let work = &result["work"];
    for counter in ["requests", "transfers", "kv_bytes", "blocks_verified", "unmaps"] {
        assert!(work[counter].as_u64().unwrap() > 0, "{counter}: {work}");
    }
    assert_eq!(work["corrupt_blocks"], 0);
}

/// Whether this UCX build can be opened here; says why it is skipped if not.
fn has_ucx(version: &str) -> bool {
    if !cfg!(feature = "ucx") {
        eprintln!("skipped: built without the feature `ucx`");
        return false;
    }
    let path = Command::new(PDLAB).args(["ucx", "path", version]).output().unwrap();
    let here = path.status.success();
    if !here {
        eprintln!("skipped: {}", String::from_utf8_lossy(&path.stderr).trim());
    }
    here
}

#[test]
fn over_tcp_nothing_leaks_and_it_says_what_that_means() {
    let (code, result, text) = repro(&["--transport", "tcp", "--unmaps", "100000"]);
    assert_eq!((code, &result["verdict"]), (Some(0), &"clean".into()), "{result}");
    assert_eq!(result["ucx_version"], Value::Null);
    assert!(text.contains("cannot show UCX's leaks"), "{text}");
    moved_kv(&result);
}

#[test]
fn ucx_1_19_leaks_144_bytes_per_unmap() {
    if !has_ucx("1.19.0") {
        return;
    }
    let (code, result, text) = repro(&[]);
    assert_eq!((code, &result["verdict"]), (Some(0), &"leak".into()), "{result}");
    let slope = result["slope_bytes_per_unit"].as_f64().unwrap();
    assert!((141.0..147.0).contains(&slope), "{slope}");
    assert!(result["work"]["unmaps"].as_u64().unwrap() >= 200_000);
    assert!(result["quiet_growth_ratio"].as_f64().unwrap() < 0.01);
    assert_eq!(result["signature"]["id"], "vllm#24264");
    assert!(text.contains("24264"), "{text}");
    moved_kv(&result);
}

/// Whether the perf tier applies here; says why it is skipped if not.
fn can_trace() -> bool {
    use pdlab_leak::trace::{probe, tier};
    let perf = tier::assess(&probe::facts(None)).into_iter().find(|a| a.tier == tier::Tier::Perf);
    let perf = perf.unwrap();
    perf.obstacles.iter().for_each(|obstacle| eprintln!("skipped: {obstacle}"));
    perf.usable()
}

/// The rows of the ledger add up to what smaps says, to the byte.
fn balances(result: &Value) -> i64 {
    let ledger = &result["ledger"];
    let number = |value: &Value| value.as_i64().unwrap();
    let rows = ledger["rows"].as_array().unwrap();
    let sum: i64 = rows.iter().map(|row| number(&row["bytes"])).sum();
    assert_eq!(sum, number(&ledger["end_bytes"]) - number(&ledger["start_bytes"]), "{ledger}");
    sum
}

#[test]
fn the_stack_that_grows_the_queue_of_ucx_1_19_is_found() {
    if !has_ucx("1.19.0") || !can_trace() {
        return;
    }
    let (code, result, text) = repro(&["--trace", "on", "--unmaps", "150000"]);
    assert_eq!((code, &result["verdict"]), (Some(0), &"leak".into()), "{result}");
    assert!(balances(&result) > 144 * 140_000, "{result}");
    let owner = &result["owners"][0];
    assert_eq!(owner["name"], "UCX registration cache, invalidation queue");
    assert_eq!(owner["basis"], "stack", "{result}");
    let stack: Vec<&str> =
        owner["stack"].as_array().unwrap().iter().map(|frame| frame.as_str().unwrap()).collect();
    let at = |function: &str| stack.iter().position(|frame| frame.starts_with(function));
    let (grow, callback) = (at("ucs_mpool_grow"), at("ucs_rcache_unmapped_callback"));
    assert!(grow.is_some() && grow < callback, "{stack:?}");
    assert_eq!(result["signature"]["id"], "vllm#24264");
    assert_eq!(result["signature"]["proof"], "stack");
    assert!(result["explained_ratio"].as_f64().unwrap() >= 0.95, "{result}");
    assert_eq!(result["trace"]["tier"], "perf");
    assert!(result["trace"]["samples"].as_u64().unwrap() > 0, "{result}");
    for words in ["ledger of decode-0", "ucs_rcache_unmapped_callback", "stacks.folded"] {
        assert!(text.contains(words), "{words} is not in {text}");
    }
}

#[test]
fn without_a_trace_the_ledger_balances_and_says_why_there_are_no_stacks() {
    let run = ["region-kept", "--transport", "tcp", "--unmaps", "600", "--trace", "off"];
    // What TCP keeps beside the buffers is less than UCX does, which is what the scenario foresees.
    let (_, result, text) = repro(&run);
    assert_eq!(result["verdict"], "leak", "{result}");
    balances(&result);
    let owner = &result["owners"][0];
    assert_eq!((&owner["name"], &owner["basis"]), (&"memory regions".into(), &"address".into()));
    assert!(result["explained_ratio"].as_f64().unwrap() >= 0.95, "{result}");
    assert_eq!(result["trace"]["why_not"], "--trace off");
    assert!(text.contains("No stacks: --trace off"), "{text}");
}

/// A registration per transfer would hide the leak, and this UCX is quick to make one.
#[test]
fn ucx_1_20_1_leaks_because_no_transfer_registers_anything() {
    if !has_ucx("1.20.1") {
        return;
    }
    let (code, result, _) = repro(&["--ucx", "1.20.1", "--unmaps", "150000"]);
    assert_eq!((code, &result["verdict"]), (Some(0), &"leak".into()), "{result}");
    moved_kv(&result);
}

#[test]
fn ucx_1_22_and_1_16_do_not_leak() {
    for version in ["1.22.0", "1.16.0"] {
        if !has_ucx(version) {
            continue;
        }
        let (code, result, _) = repro(&["--ucx", version, "--unmaps", "200000"]);
        assert_eq!((code, &result["verdict"]), (Some(0), &"clean".into()), "{version}: {result}");
        assert!(result["ucx_version"].as_str().unwrap().starts_with(version), "{result}");
        moved_kv(&result);
    }
}

#[test]
fn a_setting_that_cures_is_clean_under_its_own_expectation() {
    if !has_ucx("1.19.0") {
        return;
    }
    let set = ["--set", "UCX_RCACHE_MAX_UNRELEASED=64M", "--unmaps", "150000"];
    let (code, result, _) = repro(&set);
    assert_eq!((code, &result["verdict"]), (Some(0), &"clean".into()), "{result}");
    assert_eq!(result["settings"]["UCX_RCACHE_MAX_UNRELEASED"], "64M");
}

#[test]
fn a_mistake_on_purpose_is_counted_named_and_expected() {
    let (code, result, text) = repro(&["transfer-kept", "--transport", "tcp", "--unmaps", "1000"]);
    assert_eq!((code, &result["verdict"]), (Some(0), &"leak".into()), "{result}");
    assert_eq!((&result["gauge"], &result["unit"]), (&"transfers".into(), &"transfer".into()));
    let slope = result["slope_per_unit"].as_f64().unwrap();
    assert!((0.99..1.01).contains(&slope), "{slope}");
    assert_eq!(result["slope_bytes_per_unit"], Value::Null, "handles are no bytes");
    assert_eq!(result["owners"][0]["name"], "transfer handles");
    assert_eq!(result["signature"]["id"], "vllm#18204");
    assert!(result["held_after_drain"].as_str().unwrap().contains("transfers in flight"));
    assert_eq!(result["faults"], serde_json::json!([]), "it was to be expected");
    assert!(text.contains("LEAK. 1.0 transfer handles per transfer"), "{text}");
}

#[test]
fn bad_input_is_named_and_leaves_nothing() {
    let fails = |args: &[&str], code: i32, words: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        let output = pdlab(&[&["repro"], args].concat(), dir.path());
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {error}");
        for word in words {
            assert!(error.contains(word), "{args:?} does not mention {word}: {error}");
        }
        let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
        assert!(left.is_empty(), "{args:?} left {left:?}");
    };
    fails(&["no-such-scenario"], 2, &["no-such-scenario", "ucx-rcache-invq"]);
    fails(&["--ucx", "9.9.9"], 2, &["9.9.9", "1.19.0"]);
    fails(&["--transport", "pigeon"], 2, &["pigeon"]);
    fails(&["--set", "NOVALUE"], 2, &["NOVALUE"]);
    fails(&["--unmaps", "0"], 2, &["unmaps"]);
    fails(&["--trace", "maybe"], 2, &["maybe", "auto"]);

    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("mine.toml");
    let builtin = include_str!("../leak/scenarios/ucx-rcache-invq.toml");
    let path = file.to_str().unwrap().to_owned();
    std::fs::write(&file, builtin.replace("kv_scale =", "kv_skale =")).unwrap();
    let line = builtin.lines().position(|line| line.starts_with("kv_scale")).unwrap() + 1;
    fails(&[&path], 2, &["kv_skale", &format!("line {line}"), "kv_scale"]);
    std::fs::write(&file, builtin.replace("llama-3.1-8b", "gpt-5")).unwrap();
    fails(&[&path], 2, &["gpt-5", "llama-3.1-8b"]);
}
