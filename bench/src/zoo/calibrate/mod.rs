//! `pdlab zoo calibrate`: how often pdlab is right, measured on real processes.
//!
//! A verdict is only worth as much as is known about its errors. Three questions are put to many
//! runs each: is a small planted leak found, is a leak seen where there is none, and do intervals
//! hold the slope as often as they say?
//!
//! - [`plan`]: the runs to make (pure).
//! - [`tally`]: rates with their uncertainty (pure).
//! - [`report`]: what is printed, and whether it is good enough (pure).

pub mod plan;
pub mod report;
pub mod tally;

use std::fs;
use std::path::Path;

use futures_util::{StreamExt, stream};
use pdlab_leak::scenario::Scenario;
use tokio_util::sync::CancellationToken;

use crate::repro::cell::{self, Cell};
use crate::repro::{Host, Progress, ReproError};
use crate::run_dir::{RunDir, RunDirError};
use plan::Trial;
use tally::Outcome;

pub use plan::{CalibrateArgs, Part};
pub use report::CalibrationReport;

/// The file that holds the outcomes, a JSON object per line, in the order in which they came.
pub const OUTCOMES_FILE: &str = "outcomes.jsonl";

/// Runs `trials`, `jobs` at a time, and calls `ended` with each outcome. Those whose outcome is
/// in `out` already, from an earlier run with the same seeds, are taken from there. When `cancel`
/// is cancelled, what has ended is returned.
///
/// # Errors
/// If the files cannot be written.
pub async fn run(
    trials: Vec<Trial>,
    jobs: u8,
    host: impl Fn(&Scenario) -> Result<Host, String>,
    out: &Path,
    cancel: &CancellationToken,
    mut ended: impl FnMut(&Outcome, usize, usize),
) -> Result<Vec<Outcome>, RunDirError> {
    let dir = RunDir::open(out)?;
    let (mut outcomes, left) = split(trials, &earlier(&dir));
    let total = outcomes.len() + left.len();
    let log_dir = dir.make_dir("logs")?;
    let (host, log_dir) = (&host, &log_dir);
    let mut running = stream::iter(left)
        .map(|trial| async move {
            let name = format!("{}-{}", trial.scenario.name, trial.scenario.seed);
            let log_dir = log_dir.join(&name);
            run_one(trial, &name, host, &log_dir, cancel).await
        })
        .buffer_unordered(usize::from(jobs));
    while let Some(outcome) = running.next().await {
        let Some(outcome) = outcome else { continue };
        dir.append_json_line(OUTCOMES_FILE, &outcome)?;
        outcomes.push(outcome);
        ended(&outcomes[outcomes.len() - 1], outcomes.len(), total);
    }
    Ok(outcomes)
}

/// One run; `None` if it was interrupted, or was not begun because the others were.
async fn run_one(
    trial: Trial,
    name: &str,
    host: impl Fn(&Scenario) -> Result<Host, String>,
    log_dir: &Path,
    cancel: &CancellationToken,
) -> Option<Outcome> {
    if cancel.is_cancelled() {
        return None;
    }
    let scenario = &trial.scenario;
    let measured = async {
        let host = host(scenario)?;
        fs::create_dir_all(log_dir)
            .map_err(|e| format!("cannot make {}: {e}", log_dir.display()))?;
        let cell = Cell { scenario, host: &host, name, log_dir, samples: None };
        match cell::run(cell, &mut Progress::silent(), cancel).await {
            Ok(measurement) => Ok(Some(measurement)),
            Err(ReproError::Interrupted) => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    };
    let mut outcome = Outcome {
        part: trial.part,
        scenario: scenario.name.clone(),
        seed: scenario.seed,
        verdict: None,
        slope: None,
        low: None,
        high: None,
        seconds: 0.0,
        failed: None,
    };
    match measured.await {
        Ok(None) => return None,
        Ok(Some(measurement)) if measurement.faults.is_empty() => {
            let slope = measurement.judgement.estimate.as_ref().map(|estimate| estimate.slope);
            outcome.verdict = Some(measurement.judgement.verdict.kind());
            outcome.slope = slope.map(|slope| slope.value);
            outcome.low = slope.map(|slope| slope.low);
            outcome.high = slope.map(|slope| slope.high);
            outcome.seconds = measurement.duration_s;
            // What went well needs no logs, and there are hundreds of them.
            let _ = fs::remove_dir_all(log_dir);
        }
        Ok(Some(measurement)) => outcome.failed = Some(measurement.faults.join("; ")),
        Err(error) => outcome.failed = Some(error),
    }
    Some(outcome)
}

/// The outcomes that an earlier run has left; a line that it did not finish is not one.
fn earlier(dir: &RunDir) -> Vec<Outcome> {
    let text = fs::read_to_string(dir.file(OUTCOMES_FILE)).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Outcomes of trials that have been made, and the trials that are left. Failed ones are made
/// again.
fn split(trials: Vec<Trial>, earlier: &[Outcome]) -> (Vec<Outcome>, Vec<Trial>) {
    let (mut outcomes, mut left) = (Vec::new(), Vec::new());
    for trial in trials {
        let made = earlier.iter().find(|outcome| {
            outcome.part == trial.part
                && outcome.scenario == trial.scenario.name
                && outcome.seed == trial.scenario.seed
                && outcome.failed.is_none()
        });
        match made {
            Some(outcome) => outcomes.push(outcome.clone()),
            None => left.push(trial),
        }
    }
    (outcomes, left)
}
