//! `pdlab report`: the page of a real run, and directories of which there is none.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn pdlab(args: &[&str], dir: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pdlab")).args(args).current_dir(dir).output().unwrap()
}

fn fails(args: &[&str], dir: &Path, code: i32, words: &[&str]) {
    let before = files(dir);
    let output = pdlab(args, dir);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {error}");
    for word in words {
        assert!(error.contains(word), "{args:?} does not mention {word}: {error}");
    }
    assert_eq!(files(dir), before, "{args:?} has changed something");
}

/// Every file below `dir` with its content.
fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files(&path));
        } else {
            all.push((path.display().to_string(), fs::read(&path).unwrap()));
        }
    }
    all.sort();
    all
}

#[test]
fn a_real_run_has_a_page_and_so_has_what_is_left_of_it() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    let run = ["repro", "--transport", "tcp", "--unmaps", "60000", "--json", "--out", "run"];
    let output = pdlab(&run, dir);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.contains("pdlab report run"), "{stdout}");
    let result: Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();

    let output = pdlab(&["report", "run", "--json"], dir);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&said["page"], &said["notes"]), (&"run/report.html".into(), &Value::Array(vec![])));
    let page = fs::read_to_string(dir.join("run/report.html")).unwrap();
    assert_eq!(said["bytes"], page.len());
    let verdict = result["verdict"].as_str().unwrap();
    assert!(page.contains(&format!("<title>{verdict}: ucx-rcache-invq</title>")), "{page}");
    assert!(
        page.contains("cannot show UCX&#39;s leaks") || page.contains("cannot show UCX's leaks")
    );

    // Again, over the page that is there; and elsewhere.
    let again = pdlab(&["report", "run"], dir);
    assert_eq!(String::from_utf8_lossy(&again.stdout), "run/report.html\n");
    assert!(pdlab(&["report", "run", "--out", "page.html"], dir).status.success());
    assert_eq!(fs::read_to_string(dir.join("page.html")).unwrap(), page);

    // Beside itself: nothing differs, and no stacks were taken where nobody could.
    let two = pdlab(&["report", "run", "run", "--json"], dir);
    let said: Value = serde_json::from_slice(&two.stdout).unwrap();
    assert_eq!(said["page"], "run/difference.html");
    let page_of_two = fs::read_to_string(dir.join("run/difference.html")).unwrap();
    assert!(page_of_two.contains("<title>run against run</title>"), "{page_of_two}");
    fails(&["report", "run", "nowhere"], dir, 2, &["nowhere"]);

    // Nothing but a page is overwritten.
    let samples = fs::read_to_string(dir.join("run/samples.csv")).unwrap();
    let onto = ["report", "run", "--out", "run/samples.csv"];
    fails(&onto, dir, 2, &["run/samples.csv", "--out"]);
    fails(&["report", "run", "--out", "no/such/dir.html"], dir, 3, &["no/such/dir.html"]);

    // A crash leaves half a line, and no result.
    fs::remove_file(dir.join("run/result.json")).unwrap();
    fs::write(dir.join("run/samples.csv"), &samples[..samples.len() - 9]).unwrap();
    let output = pdlab(&["report", "run"], dir);
    let notes = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && notes.contains("no result.json"), "{notes}");
    assert!(notes.contains("samples.csv is cut off in line"), "{notes}");
    let page = fs::read_to_string(dir.join("run/report.html")).unwrap();
    assert!(page.contains("This run is incomplete"), "{page}");

    fs::write(dir.join("run/samples.csv"), samples.replacen("decode-0", "decode 0", 1)).unwrap();
    fails(&["report", "run"], dir, 2, &["samples.csv", "decode 0"]);
    fs::remove_file(dir.join("run/samples.csv")).unwrap();
    fails(&["report", "run"], dir, 2, &["run holds no measurement", "logs"]);
}

#[test]
fn what_is_no_run_is_named() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    fs::write(dir.join("file"), "x").unwrap();
    fails(&["report"], dir, 2, &["RUN"]);
    fails(&["report", "nowhere"], dir, 2, &["nowhere"]);
    fails(&["report", "file"], dir, 2, &["file"]);
    fails(&["report", "."], dir, 2, &["result.json", "no directory of a run"]);
}
