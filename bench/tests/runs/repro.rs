//! `repro` from start to files.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use pdlab_bench::repro::pace::Step;
use pdlab_bench::repro::report::RunReport;
use pdlab_bench::repro::{self, Exit, Outcome, Progress, ReproError};
use pdlab_bench::run_dir::RunDir;
use pdlab_leak::result::ReproResult;
use pdlab_leak::scenario::Scenario;
use pdlab_leak::verdict::VerdictKind;
use tokio_util::sync::CancellationToken;

use crate::fake::{host, no_child_logs_into, scenario, turn};

const CURE: &str = r#"
[[mitigation]]
name = "cure"
set = { FAKE_CURE = "1" }
units = 50000
slope_min = -4.0
slope_max = 4.0
cost = "Nothing."
"#;

const DEADLY_CURE: &str = r#"
[[mitigation]]
name = "deadly"
set = { FAKE_DECODE = "exit" }
slope_min = -4.0
slope_max = 4.0
"#;

async fn run(
    scenario: &Scenario,
    out: &Path,
    progress: Progress,
    cancel: &CancellationToken,
) -> Result<Outcome, ReproError> {
    let dir = RunDir::create(Some(out), &scenario.name, SystemTime::now())?;
    let mut progress = progress;
    let outcome = repro::run(scenario, &host(), &dir, &mut progress, cancel).await;
    assert!(no_child_logs_into(out), "no role outlives the run");
    outcome
}

async fn finished(scenario: &Scenario, out: &Path) -> Result<Outcome, ReproError> {
    run(scenario, out, Progress::silent(), &CancellationToken::new()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leak_is_found_its_cure_is_proven_and_everything_is_written() {
    let _turn = turn().await;
    let out = tempfile::tempdir().unwrap();
    let scenario = scenario(CURE, &[]);
    let outcome = finished(&scenario, out.path()).await.unwrap();
    let result = &outcome.report.result;
    assert_eq!(outcome.exit, Exit::Matched, "{}", outcome.text);
    assert_eq!((result.verdict, result.expected), (VerdictKind::Leak, Some(VerdictKind::Leak)));
    assert!((130.0..158.0).contains(&result.slope_bytes_per_unit.unwrap()), "{}", outcome.text);
    assert!(result.work.unmaps >= 60_000 && result.work.blocks_verified > 0);
    assert!(outcome.report.requests_completed > 0 && outcome.report.requests_failed == 0);
    assert_eq!(result.mitigations.len(), 1);
    assert_eq!(result.mitigations[0].verdict, VerdictKind::Clean, "{}", outcome.text);
    assert!(result.mitigations[0].cost_ratio.is_some());

    let read = |file: &str| std::fs::read_to_string(out.path().join(file)).unwrap();
    let written: ReproResult = serde_json::from_str(&read("result.json")).unwrap();
    assert_eq!(&written, result);
    assert_eq!(Scenario::parse(&read("scenario.toml"), "scenario.toml").unwrap(), scenario);
    let samples = pdlab_leak::csv::read(read("samples.csv").as_bytes()).unwrap();
    assert!(samples.iter().any(|sample| sample.process == "router"));
    assert!(read("mitigations/cure.csv").lines().count() > 24);
    for log in
        ["logs/decode-0.log", "logs/prefill-0.log", "logs/router.log", "logs/cure/decode-0.log"]
    {
        assert!(read(log).starts_with("fake "), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cure_that_cannot_run_is_failed_and_never_clean() {
    let _turn = turn().await;
    let out = tempfile::tempdir().unwrap();
    let outcome = finished(&scenario(DEADLY_CURE, &[]), out.path()).await.unwrap();
    assert_eq!(outcome.exit, Exit::NotMatched);
    let cure = &outcome.report.result.mitigations[0];
    assert_eq!((cure.verdict, cure.matched), (VerdictKind::Inconclusive, false));
    let reason = outcome.report.mitigation_runs[0].failed.as_ref().unwrap();
    assert!(reason.contains("ERROR no libucp here"), "{reason}");
    assert!(
        outcome.text.contains("failed: decode-0 ended before it was ready"),
        "{}",
        outcome.text
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_found_before_the_proofs_were_interrupted_is_kept() {
    let _turn = turn().await;
    let out = tempfile::tempdir().unwrap();
    let cancel = CancellationToken::new();
    let wire = Tripwire { word: "cure: starting", cancel: cancel.clone(), seen: Arc::default() };
    let result = run(&scenario(CURE, &[]), out.path(), Progress::lines(wire), &cancel).await;
    assert_eq!(result.unwrap_err().exit(), Exit::Interrupted);
    let written = std::fs::read(out.path().join("result.json")).unwrap();
    let report: RunReport = serde_json::from_slice(&written).unwrap();
    assert_eq!((report.result.verdict, report.complete), (VerdictKind::Leak, false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_verdict_measures_on_to_its_limit_and_says_what_would_decide_it() {
    let _turn = turn().await;
    let out = tempfile::tempdir().unwrap();
    let mut scenario = scenario(CURE, &[]);
    // At most 20 samples until then, where an estimate needs 24; the work is done long before.
    scenario.measure.sample_interval_ms = 100;
    scenario.measure.units = 10_000;
    scenario.measure.max_units = Some(20_000);
    scenario.measure.max_seconds = 1.9;
    let outcome = finished(&scenario, out.path()).await.unwrap();
    let (report, text) = (&outcome.report, &outcome.text);
    assert_eq!(report.result.verdict, VerdictKind::Inconclusive, "{text}");
    assert_eq!(outcome.exit, Exit::NotMatched);
    assert_eq!(report.limit_reached, Some(Step::TimeLimit), "{text}");
    let doubt = report.result.doubt.as_ref().unwrap();
    assert!(doubt.ends_with("sample more often or measure longer."), "{doubt}");
    assert!(text.contains(doubt) && text.contains("limit on time was reached"), "{text}");
    assert!(report.result.mitigations.is_empty(), "what is open has no cure to prove");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_held_in_the_end_is_no_fault_where_it_is_due() {
    let _turn = turn().await;
    let out = tempfile::tempdir().unwrap();
    let mut scenario = scenario("", &[("FAKE_PREFILL", "hoarder")]);
    scenario.expects[0].held_after_drain = true;
    let outcome = finished(&scenario, out.path()).await.unwrap();
    assert_eq!(outcome.exit, Exit::Matched, "{}", outcome.text);
    assert!(outcome.report.faults.is_empty());
    let held = outcome.report.held_after_drain.as_ref().unwrap();
    assert!(held.starts_with("prefill-0 still holds 4 KV blocks"), "{held}");
    assert!(outcome.report.remarks.contains(held));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_without_the_leak_is_clean_and_tries_no_cure() {
    let _turn = turn().await;
    let out = tempfile::tempdir().unwrap();
    let mut scenario = scenario(CURE, &[("FAKE_LEAK_BYTES", "0")]);
    scenario.env.remove("FAKE_UCX");
    let outcome = finished(&scenario, out.path()).await.unwrap();
    assert_eq!(outcome.exit, Exit::Matched, "{}", outcome.text);
    assert_eq!(outcome.report.result.verdict, VerdictKind::Clean);
    assert!(outcome.report.result.mitigations.is_empty());
    assert!(outcome.text.contains("it cannot show UCX's leaks"), "{}", outcome.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_that_are_not_given_back_spoil_the_run() {
    let _turn = turn().await;
    let out = tempfile::tempdir().unwrap();
    let outcome =
        finished(&scenario("", &[("FAKE_PREFILL", "hoarder")]), out.path()).await.unwrap();
    assert_eq!(outcome.exit, Exit::NotMatched);
    assert!(outcome.report.faults[0].starts_with("prefill-0 still holds 4 KV blocks"));
    assert!(outcome.text.contains("FAULT"), "{}", outcome.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_dies_is_an_error_of_the_environment_in_its_own_words() {
    let _turn = turn().await;
    let out = tempfile::tempdir().unwrap();
    let error =
        finished(&scenario("", &[("FAKE_DECODE", "mortal")]), out.path()).await.unwrap_err();
    assert_eq!(error.exit(), Exit::Environment);
    assert!(error.to_string().contains("ERROR out of luck"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_answers_nothing_is_given_up_soon() {
    let _turn = turn().await;
    let out = tempfile::tempdir().unwrap();
    let error =
        finished(&scenario("", &[("FAKE_ROUTER", "barren")]), out.path()).await.unwrap_err();
    assert_eq!(error.exit(), Exit::Environment);
    let text = error.to_string();
    assert!(text.contains("0 requests answered") && text.contains("502"), "{text}");
}

/// Cancels once it has seen a word.
struct Tripwire {
    word: &'static str,
    cancel: CancellationToken,
    seen: Arc<Mutex<String>>,
}

impl Write for Tripwire {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut seen = self.seen.lock().expect("no writer panics");
        seen.push_str(&String::from_utf8_lossy(bytes));
        if seen.contains(self.word) {
            self.cancel.cancel();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_run_ends_in_order() {
    let _turn = turn().await;
    let out = tempfile::tempdir().unwrap();
    for word in ["starting", "unmaps at"] {
        let cancel = CancellationToken::new();
        let seen = Arc::new(Mutex::new(String::new()));
        let wire = Tripwire { word, cancel: cancel.clone(), seen: Arc::clone(&seen) };
        let result = run(&scenario("", &[]), out.path(), Progress::lines(wire), &cancel).await;
        assert_eq!(result.unwrap_err().exit(), Exit::Interrupted);
        assert!(seen.lock().unwrap().contains(word));
        let samples = std::fs::read(out.path().join("samples.csv")).unwrap_or_default();
        let taken = pdlab_leak::csv::read(&samples[..]).map_or(0, |samples| samples.len());
        assert_eq!(taken > 0, word == "unmaps at", "what was seen is kept");
    }
}
