//! Matrices from start to files, interrupted and taken up again.

use std::io::Write;
use std::path::Path;

use clap::Parser;
use pdlab_bench::matrix::options::{Matrix, MatrixArgs};
use pdlab_bench::matrix::result::{CellResult, MatrixResult, Outcome};
use pdlab_bench::matrix::{self, Hosts};
use pdlab_bench::repro::{Exit, Progress};
use pdlab_bench::run_dir::RunDir;
use tokio_util::sync::CancellationToken;

use crate::fake;

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    matrix: MatrixArgs,
}

/// A cluster that cannot start, and why that is as it should be.
const REFUSED: &str = r#"
[[refused]]
set = { FAKE_DECODE = "exit" }
reason = "no libucp here"

[[mitigation]]
name = "cure"
set = { FAKE_CURE = "1" }
slope_min = -4.0
slope_max = 4.0
"#;

/// The matrix of the fake scenario over `set`.
fn matrix(set: &str) -> Matrix {
    let dir = tempfile::tempdir().expect("there is room for a file");
    let file = dir.path().join("fake.toml");
    let mut scenario = fake::scenario(REFUSED, &[]);
    // Soon over where samples come in time, and patient where they do not.
    let measure = &mut scenario.measure;
    (measure.units, measure.max_units, measure.max_seconds) = (40_000, Some(4_000_000), 60.0);
    std::fs::write(&file, scenario.to_toml()).expect("it can be written");
    let file = file.display().to_string();
    let words = ["matrix", &file, "--set", set];
    let args = Cli::try_parse_from(words).expect("the options are valid").matrix;
    args.resolve(&Default::default()).expect("the matrix makes sense")
}

async fn run(
    matrix: &Matrix,
    out: &Path,
    progress: Progress,
    cancel: &CancellationToken,
) -> matrix::Outcome {
    let host = fake::host();
    let ucx = [("1.19.0".to_owned(), None)].into();
    let hosts = Hosts { program: host.program, ucx, patience: host.patience };
    let dir = RunDir::open(out).expect("it is there");
    let mut progress = progress;
    let outcome = matrix::run(matrix, &hosts, &dir, &mut progress, cancel).await;
    assert!(fake::no_child_logs_into(out), "no role outlives the matrix");
    outcome.expect("the files can be written")
}

fn read(out: &Path) -> MatrixResult {
    let text = std::fs::read_to_string(out.join("matrix.json")).expect("it is written");
    serde_json::from_str(&text).expect("it is a result")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_cell_is_a_run_of_its_own_and_a_failed_one_is_never_clean() {
    let _turn = fake::turn().await;
    let out = tempfile::tempdir().unwrap();
    let set = "FAKE_CURE=1,FAKE_DECODE=exit,FAKE_PREFILL=hoarder,FAKE_UNUSED=FAKE_UNUSED";
    let never = CancellationToken::new();
    let outcome = run(&matrix(set), out.path(), Progress::silent(), &never).await;
    let cell = |setting: &str| -> &CellResult {
        outcome.result.cells.iter().find(|cell| cell.setting == setting).unwrap()
    };
    let default = cell("default");
    assert_eq!((default.outcome, default.matched), (Some(Outcome::Leak), Some(true)));
    assert_eq!(default.runs.len(), 3, "first, in the middle, last");
    let cure = cell("FAKE_CURE=1");
    assert_eq!((cure.outcome, cure.matched), (Some(Outcome::Clean), Some(true)), "{cure:?}");
    assert!(cure.cost_ratio.is_some() && cure.latency_p99_ms.is_some());

    let refused = cell("FAKE_DECODE=exit");
    assert_eq!((refused.outcome, refused.matched), (Some(Outcome::Failed), Some(true)));
    assert!(refused.reason.as_ref().unwrap().contains("ERROR no libucp here"), "{refused:?}");
    let hoarder = cell("FAKE_PREFILL=hoarder");
    assert_eq!((hoarder.outcome, hoarder.matched), (Some(Outcome::Failed), Some(false)));
    assert!(hoarder.reason.as_ref().unwrap().contains("still holds 4 KV blocks"), "{hoarder:?}");

    assert_eq!(
        outcome.result.warnings,
        [
            "UCX 1.19.0 ignores FAKE_UNUSED: nothing that runs here reads it; did you mean FAKE_CURE?"
        ]
    );
    assert_eq!(outcome.result.drift.len(), 1);
    assert_eq!(outcome.result.advice[0].cures, ["FAKE_CURE=1"]);
    assert!(outcome.result.complete && !outcome.result.matched);
    assert_eq!(outcome.exit, Exit::NotMatched, "{}", outcome.text);
    assert!(outcome.text.contains("FAKE_CURE=1, which is clean"), "{}", outcome.text);

    assert_eq!(read(out.path()), outcome.result);
    let csv = std::fs::read_to_string(out.path().join("matrix.csv")).unwrap();
    let rows = csv.lines().filter(|line| line.contains(",auto,1.19.0,same,"));
    assert_eq!(rows.count(), outcome.result.runs.len());
    for run in &outcome.result.runs {
        let dir = out.path().join(&run.dir);
        assert!(dir.join("scenario.toml").exists(), "{}", run.dir);
        assert_eq!(dir.join("samples.csv").exists(), run.measured.is_some(), "{}", run.dir);
    }
}

/// Cancels once it has seen some lines.
struct AfterLines {
    left: usize,
    cancel: CancellationToken,
}

impl Write for AfterLines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
        self.left = self.left.saturating_sub(lines);
        if self.left == 0 {
            self.cancel.cancel();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_matrix_keeps_what_it_has_and_goes_on_from_there() {
    let _turn = fake::turn().await;
    let out = tempfile::tempdir().unwrap();
    let matrix = matrix("FAKE_CURE=1");
    let cancel = CancellationToken::new();
    // What there is to do, and two runs.
    let lines = Progress::lines(AfterLines { left: 3, cancel: cancel.clone() });
    let outcome = run(&matrix, out.path(), lines, &cancel).await;
    assert_eq!(outcome.exit, Exit::Interrupted);
    assert!(outcome.text.contains("Not complete"), "{}", outcome.text);
    let part = read(out.path());
    assert_eq!((part.runs.len(), part.complete, part.matched), (2, false, false));

    let never = CancellationToken::new();
    let outcome = run(&matrix, out.path(), Progress::silent(), &never).await;
    assert_eq!(outcome.exit, Exit::Matched, "{}", outcome.text);
    assert_eq!(outcome.result.runs.len(), 4);
    assert_eq!(outcome.result.runs[..2], part.runs, "they are not made again");
    assert_eq!(read(out.path()), outcome.result);
}
