//! Bad input on the command line: an error that names the thing, the right exit code, nothing left.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::path::Path;
use std::process::{Command, Output};

/// Runs in a directory of its own with a cache of its own; the directory must stay empty.
fn pdlab(args: &[&str]) -> Output {
    let scratch = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_pdlab"))
        .args(args)
        .current_dir(scratch.path())
        .env("PDLAB_CACHE_DIR", scratch.path().join("cache"))
        .output()
        .unwrap();
    let left: Vec<_> = files(scratch.path());
    assert!(left.is_empty(), "{args:?} left {left:?}");
    output
}

fn files(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

fn fails(args: &[&str], code: i32, words: &[&str]) {
    let output = pdlab(args);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {error}");
    for word in words {
        assert!(error.contains(word), "{args:?} does not mention {word}: {error}");
    }
}

#[test]
fn bad_arguments_of_roles_are_named() {
    fails(&["decode", "--model", "gpt-5"], 2, &["gpt-5", "llama-3.1-8b"]);
    fails(&["decode", "--served-model-name", ""], 2, &["--served-model-name", "empty"]);
    fails(&["up", "--served-model-name", "m "], 2, &["--served-model-name", "blank"]);
    fails(&["decode", "--transport", "pigeon"], 2, &["pigeon", "tcp"]);
    fails(&["decode", "--churn-pattern", "sideways"], 2, &["sideways", "disjoint"]);
    fails(&["decode", "--churn-bytes", "0"], 2, &["churn bytes"]);
    fails(&["prefill", "--kv-pages", "3M"], 2, &["3M", "2M", "transparent"]);
    fails(&["prefill", "--kv-scale", "0"], 2, &["kv_scale"]);
    fails(&["prefill", "--num-gpu-blocks", "1"], 2, &["num_blocks"]);
    fails(&["prefill", "--max-model-len", "10000000"], 2, &["max_model_len"]);
    fails(&["prefill", "--kv-lease-duration", "0"], 2, &["kv-lease-duration"]);
    fails(&["decode", "--fault", "rkey-kept"], 2, &["rkey-kept", "PDLAB_ALLOW_FAULTS=1"]);
    fails(&["prefill", "--fault", "leaky"], 2, &["leaky", "notification-unread"]);
    fails(&["decode", "--reconnect-every", "0"], 2, &["--reconnect-every"]);
    fails(&["router"], 2, &["--prefill"]);
    fails(&["router", "--prefill", "ftp://x:1", "--decode", "y:1"], 2, &["ftp://x:1"]);
    fails(&["fly"], 2, &["fly"]);
}

#[test]
fn transfers_that_make_no_sense_move_nothing() {
    let transfer = |args: &[&str], code, words: &[&str]| {
        fails(&[&["bench", "transfer"], args].concat(), code, words);
    };
    transfer(&["--transport", "pigeon"], 2, &["pigeon", "tcp"]);
    transfer(&["--block-size", "12x"], 2, &["--block-size", "12x"]);
    transfer(&["--block-size", "2G"], 2, &["--block-size", "512 B to 1 GiB"]);
    transfer(&["--depth", "0"], 2, &["--depth", "1 or more"]);
    transfer(&["--pattern", "ring"], 2, &["ring", "many-to-one"]);
    transfer(&["--duration", "soon"], 2, &["--duration", "soon"]);
    transfer(&["--duration", "1s", "--bytes", "1G"], 2, &["--bytes", "--duration"]);
    transfer(&["--connect", "here"], 2, &["--connect", "HOST:PORT"]);
    transfer(&["--listen", "127.0.0.1:0", "--connect", "x:1"], 2, &["--listen", "--connect"]);
    transfer(&["--listen", "192.0.2.1:7100"], 3, &["cannot listen on 192.0.2.1:7100"]);
}

#[test]
fn a_plan_is_made_without_a_server_or_refused() {
    let plan = |args: &[&str], words: &[&str]| {
        fails(&[&["bench", "plan"], args].concat(), 2, words);
    };
    plan(&["--kv-model", "gpt-5"], &["--kv-model", "gpt-5", "llama-3.1-8b"]);
    plan(&["--kv-scale", "0"], &["kv_scale"]);
    plan(&["--block-size", "0"], &["block_size"]);
    plan(&["--link-gbps", "0"], &["--link-gbps", "above 0"]);
    plan(&["--dataset-name", "timed_trace"], &["--dataset-path"]);
    let args =
        ["--num-prompts", "10", "--random-input-len", "100", "--request-rate", "2", "--json"];
    let output = pdlab(&[&["bench", "plan"][..], &args].concat());
    let shape: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    // 100 tokens are seven blocks of 16, each of 2 MiB with Llama 3.1 8B.
    assert_eq!(shape["total_bytes"], 10 * 7 * (2 << 20));
    assert_eq!(shape["bytes_per_s"], f64::from(2 * 7 * (2 << 20)));
}

#[test]
fn a_matrix_that_makes_no_sense_runs_nothing() {
    fails(&["matrix", "no-such"], 2, &["no-such", "ucx-rcache-invq"]);
    fails(&["matrix", "--ucx", "1.19.0,9.9.9"], 2, &["9.9.9", "1.19.0"]);
    fails(&["matrix", "--transport", "tcp", "--ucx", ""], 2, &["--ucx", "is empty"]);
    fails(&["matrix", "--ucx", "1.19.0,1.19.0"], 2, &["--ucx lists 1.19.0 twice"]);
    fails(&["matrix", "--set", "A=1,1"], 2, &["--set lists A=1 twice"]);
    fails(&["matrix", "--set", "1M"], 2, &["1M", "NAME=V1,V2"]);
    fails(&["matrix", "--churn", "same,sideways"], 2, &["sideways", "disjoint"]);
    fails(&["matrix", "--transport", "pigeon"], 2, &["pigeon", "tcp"]);
    fails(&["matrix", "--preset", "miracles"], 2, &["miracles", "mitigations"]);
    fails(&["matrix", "--repeat", "0"], 2, &["repeat"]);
}

#[test]
fn ucx_builds_that_are_not_there_are_named() {
    let here = tempfile::tempdir().unwrap();
    let empty = here.path().to_str().unwrap();
    fails(&["ucx", "path", "9.9.9"], 2, &["9.9.9", "1.19.0"]);
    fails(&["ucx", "fetch", "9.9.9"], 2, &["9.9.9", "1.19.0"]);
    fails(&["ucx", "path", "nonsense"], 2, &["nonsense"]);
    fails(&["ucx", "path", empty], 2, &["libucp.so.0", empty]);
    fails(&["ucx", "path", "/no/such/dir"], 2, &["/no/such/dir"]);
    // Known, but the cache of this test is empty.
    fails(&["ucx", "path", "1.19.0"], 3, &["pdlab ucx fetch 1.19.0"]);
    fails(&["decode", "--transport", "ucx", "--ucx", empty], 2, &["libucp.so.0"]);
}

#[test]
fn a_broken_trace_is_named_with_its_line() {
    let scratch = tempfile::tempdir().unwrap();
    let trace = scratch.path().join("trace.jsonl");
    let good = r#"{"timestamp": 0, "input_length": 8, "output_length": 2, "hash_ids": [0]}"#;
    std::fs::write(&trace, format!("{good}\nnot json\n")).unwrap();
    let trace = trace.to_str().unwrap();
    let args = ["bench", "serve", "--dataset-name", "timed_trace", "--dataset-path", trace];
    fails(&args, 2, &[trace, "2"]);
}

#[test]
fn a_port_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    fails(&["decode", "--transport", "tcp", "--port", &port], 3, &[&port, "--port"]);
    let side = ["prefill", "--transport", "tcp", "--side-channel-port", &port];
    fails(&side, 3, &[&port, "--side-channel-port"]);
    fails(&["router", "--prefill", "a:1", "--decode", "b:1", "--port", &port], 3, &[&port]);
}

#[test]
fn doctor_says_what_can_run() {
    let output = pdlab(&["doctor", "--json"]);
    assert!(output.status.success());
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = report["findings"].as_array().unwrap();
    let of = |what: &str| findings.iter().find(|f| f["what"] == what).unwrap();
    assert_eq!(of("transport tcp")["ok"], true);
    assert_eq!(of("transport ucx")["ok"], false, "nothing has been fetched");
    assert_eq!(of("memory readings")["ok"], true);
}

#[test]
fn ucx_list_names_every_version() {
    let output = pdlab(&["ucx", "list"]);
    let list = String::from_utf8_lossy(&output.stdout);
    for name in ["1.16.0", "1.19.0", "1.22.0", "system"] {
        assert!(list.contains(name), "{list}");
    }
}
