//! `pdlab matrix` on real processes, over TCP: to the end, and to Ctrl-C and on from there.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// Two cells of a run each.
const MATRIX: [&str; 9] =
    ["matrix", "--transport", "tcp", "--churn", "same,adjacent", "--unmaps", "20000", "--out", "m"];

fn pdlab(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pdlab"));
    // Settings of the caller would change what a run shows.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("UCX_")) {
        command.env_remove(name);
    }
    command.args(MATRIX).current_dir(dir);
    command
}

/// Processes of ours that still run in this directory.
fn children(dir: &Path) -> usize {
    let dir = dir.canonicalize().unwrap();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let here = |p: &std::fs::DirEntry| {
        std::fs::read_link(p.path().join("cwd")).is_ok_and(|cwd| cwd == dir)
    };
    processes.filter(here).count()
}

fn result(dir: &Path) -> Value {
    let text = std::fs::read_to_string(dir.join("m/matrix.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn a_matrix_ends_with_ctrl_c_keeps_what_it_has_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = pdlab(dir.path()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let first = lines.find(|line| line.as_ref().unwrap().contains("[1/2]"));
    assert!(first.is_some(), "the first run ends");
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
    lines.for_each(drop);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(children(dir.path()), 0);
    let part = result(dir.path());
    assert_eq!((&part["complete"], part["runs"].as_array().unwrap().len()), (&false.into(), 1));

    let output = pdlab(dir.path()).arg("--json").output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{stdout}");
    assert!(stdout.contains("it cannot show UCX's leaks"), "{stdout}");
    assert_eq!(children(dir.path()), 0);
    let whole = result(dir.path());
    assert_eq!(serde_json::from_str::<Value>(stdout.lines().last().unwrap()).unwrap(), whole);
    assert_eq!((&whole["complete"], &whole["matched"]), (&true.into(), &true.into()));
    assert_eq!(whole["runs"][0], part["runs"][0], "it was not made again");
    for cell in whole["cells"].as_array().unwrap() {
        assert_eq!((&cell["outcome"], &cell["ucx"]), (&"clean".into(), &Value::Null), "{cell}");
        assert!(cell["latency_p99_ms"].as_f64().unwrap() > 0.0, "{cell}");
    }
    let csv = std::fs::read_to_string(dir.path().join("m/matrix.csv")).unwrap();
    assert_eq!(csv.lines().count(), 3);
}
