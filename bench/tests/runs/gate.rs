//! The gate from start to files.

use std::fs;
use std::path::Path;

use pdlab_bench::gate::baseline::Baseline;
use pdlab_bench::gate::decide::Finding;
use pdlab_bench::gate::{self, Files, GateError, Job, Outcome};
use pdlab_bench::repro::{Exit, Progress};
use pdlab_bench::run_dir::RunDir;
use pdlab_leak::scenario::Scenario;
use tokio_util::sync::CancellationToken;

use crate::fake;

/// One run in `out` against `out/baseline.json`, or to take that baseline.
async fn gate(scenario: &Scenario, out: &Path, update: bool) -> Result<Outcome, GateError> {
    let (baseline, junit, summary) =
        (out.join("baseline.json"), out.join("gate.xml"), out.join("summary.md"));
    let files = Files { baseline: &baseline, junit: Some(&junit), summary: Some(&summary) };
    let dir = RunDir::open(&out.join("run")).expect("the directory can be made");
    let job = Job { scenario, host: &fake::host(), dir: &dir, files };
    let (mut progress, cancel) = (Progress::silent(), CancellationToken::new());
    let outcome = if update {
        gate::update(&job, &mut progress, &cancel).await
    } else {
        let baseline = Baseline::load(&baseline, scenario)?;
        gate::run(&job, baseline, &mut progress, &cancel).await
    };
    assert!(fake::no_child_logs_into(out), "no role outlives the run");
    outcome
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leak_passes_while_the_baseline_allows_it_and_fails_when_it_grows() {
    let _turn = fake::turn().await;
    let out = tempfile::tempdir().unwrap();
    let leaky = fake::scenario("", &[]);
    let taken = gate(&leaky, out.path(), true).await.unwrap();
    assert_eq!(taken.exit, Exit::Matched, "{}", taken.text);

    let same = gate(&leaky, out.path(), false).await.unwrap();
    assert_eq!(same.report.finding, Some(Finding::Within), "{}", same.text);
    assert_eq!(same.exit, Exit::Matched);

    let worse = fake::scenario("", &[("FAKE_LEAK_BYTES", "288")]);
    let worse = gate(&worse, out.path(), false).await.unwrap();
    assert_eq!(worse.report.finding, Some(Finding::Regression), "{}", worse.text);
    assert_eq!(worse.exit.code(), 1);
    let read = |file: &str| fs::read_to_string(out.path().join(file)).unwrap();
    assert!(read("gate.xml").contains("failures=\"1\""), "{}", read("gate.xml"));
    let summary = read("summary.md");
    // Appended to: both runs are there.
    assert!(
        summary.contains("PASS (within)") && summary.contains("FAIL (regression)"),
        "{summary}"
    );
    assert!(summary.contains("FAKE\\_LEAK") || summary.contains("FAKE_LEAK_BYTES"), "{summary}");
    assert!(read("run/gate.json").contains("\"finding\": \"regression\""));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_dies_is_an_error_and_not_a_leak() {
    let _turn = fake::turn().await;
    let out = tempfile::tempdir().unwrap();
    gate(&fake::scenario("", &[]), out.path(), true).await.unwrap();
    let dying = fake::scenario("", &[("FAKE_DECODE", "mortal")]);
    let error = gate(&dying, out.path(), false).await.unwrap_err();
    assert_eq!(error.exit(), Exit::Environment);
    let xml = fs::read_to_string(out.path().join("gate.xml")).unwrap();
    assert!(xml.contains("errors=\"1\"") && xml.contains("out of luck"), "{xml}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_that_are_kept_fail_and_make_no_baseline() {
    let _turn = fake::turn().await;
    let out = tempfile::tempdir().unwrap();
    let hoarder = fake::scenario("", &[("FAKE_PREFILL", "hoarder")]);
    let error = gate(&hoarder, out.path(), true).await.unwrap_err();
    assert!(matches!(&error, GateError::NoBaseline(why) if why.contains("KV blocks")), "{error}");
    assert_eq!(error.exit(), Exit::NotMatched);
    assert!(!out.path().join("baseline.json").exists());
}
