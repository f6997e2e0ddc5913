//! Zoo runs from start to files, and calibrations.

use std::path::Path;

use pdlab_bench::repro::{Exit, Progress};
use pdlab_bench::zoo::calibrate::plan::{Part, Trial};
use pdlab_bench::zoo::calibrate::{self, CalibrationReport};
use pdlab_bench::zoo::entry::Status;
use pdlab_bench::zoo::{self, ZooReport};
use pdlab_leak::scenario::Scenario;
use pdlab_leak::verdict::VerdictKind;
use tokio_util::sync::CancellationToken;

use crate::fake;

fn named(name: &str, set: &[(&str, &str)]) -> Scenario {
    Scenario { name: name.to_owned(), ..fake::scenario("", set) }
}

/// Runs them, cancelling after `stop_after` entries; the report, and which were really run.
async fn zoo(scenarios: &[Scenario], out: &Path, stop_after: usize) -> (ZooReport, Vec<String>) {
    let cancel = CancellationToken::new();
    let mut ran = Vec::new();
    let ended = |entry: &zoo::entry::Entry| {
        if !entry.resumed {
            ran.push(entry.scenario.clone());
        }
        if ran.len() == stop_after {
            cancel.cancel();
        }
    };
    let host = |scenario: &Scenario| match scenario.name.as_str() {
        "elsewhere" => Err("no UCX 9.9.9 here".to_owned()),
        _ => Ok(fake::host()),
    };
    let mut progress = Progress::silent();
    let run = zoo::run(scenarios, host, out, &mut progress, &cancel, ended);
    let report = run.await.expect("the files can be written");
    assert!(fake::no_child_logs_into(out), "no role outlives the run");
    (report, ran)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_done_is_not_done_again_and_the_rest_is() {
    let _turn = fake::turn().await;
    let out = tempfile::tempdir().unwrap();
    let (leaks, dies) = (named("leaks", &[]), named("dies", &[("FAKE_DECODE", "exit")]));
    let odd = named("odd", &[("FAKE_LEAK_BYTES", "500")]);
    // Second is what would be over at once, if it were begun in spite of the interruption.
    let scenarios = [leaks.clone(), named("elsewhere", &[]), dies, odd];

    let (report, ran) = zoo(&scenarios, out.path(), 1).await;
    assert_eq!((report.entries.len(), report.asked, ran), (1, 4, vec!["leaks".to_owned()]));

    let (report, ran) = zoo(&scenarios, out.path(), usize::MAX).await;
    assert_eq!(ran, ["elsewhere", "dies", "odd"]);
    let status: Vec<&Status> = report.entries.iter().map(|entry| &entry.status).collect();
    assert_eq!(status[0], &Status::Matched);
    assert!(matches!(status[1], Status::Failed(why) if why.contains("9.9.9")));
    assert!(matches!(status[2], Status::Failed(why) if why.contains("no libucp here")));
    assert!(matches!(status[3], Status::NotMatched(why) if !why.is_empty()), "{:?}", status[3]);
    assert_eq!(report.exit(), Exit::NotMatched);
    let written = std::fs::read(out.path().join("zoo.json")).unwrap();
    assert_eq!(serde_json::from_slice::<ZooReport>(&written).unwrap(), report);
    assert!(report.xml().contains("failures=\"1\"") && report.xml().contains("errors=\"2\""));

    // Another seed is another run, in the place of the old one.
    let (report, ran) = zoo(&[Scenario { seed: 7, ..leaks }], out.path(), usize::MAX).await;
    assert_eq!((report.entries.len(), ran.len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_calibration_counts_verdicts_and_is_completed_later() {
    let _turn = fake::turn().await;
    let out = tempfile::tempdir().unwrap();
    let trial = |part, seed, set| {
        let mut scenario = named("fake", set);
        scenario.seed = seed;
        Trial { part, scenario }
    };
    let trials = vec![
        trial(Part::Sensitivity, 1, &[]),
        trial(Part::Controls, 1, &[("FAKE_LEAK_BYTES", "0")]),
        trial(Part::Controls, 2, &[("FAKE_DECODE", "exit")]),
    ];
    let host = |_: &Scenario| Ok(fake::host());
    for missing in [2, 0] {
        let cancel = CancellationToken::new();
        let first_only = |_: &calibrate::tally::Outcome, _: usize, _: usize| {
            if missing > 0 {
                cancel.cancel();
            }
        };
        let run = calibrate::run(trials.clone(), 1, host, out.path(), &cancel, first_only);
        let outcomes = run.await.unwrap();
        let report = CalibrationReport::of(&outcomes, trials.len());
        assert_eq!(report.missing, missing, "{}", report.markdown());
        assert_eq!(report.sensitivity.as_ref().unwrap().leak.hits, 1);
        if missing == 0 {
            assert_eq!(outcomes.len(), 3);
            assert_eq!(outcomes[1].verdict, Some(VerdictKind::Clean), "{:?}", outcomes[1]);
            assert_eq!(report.controls.as_ref().unwrap().failed, 1);
            assert_eq!(report.exit(), Exit::Environment);
        }
    }
    assert!(fake::no_child_logs_into(out.path()), "no role outlives the run");
}
