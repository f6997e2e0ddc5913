//! `pdlab zoo`: the scenarios that come with pdlab, listed, run, and used to measure the measuring.
//!
//! A zoo run is many runs of [`repro`], each in its own directory, with one line
//! each. It can be interrupted and completed later.
//!
//! - [`options`]: the command line.
//! - [`entry`]: what came of one scenario (pure).
//! - [`list`]: the list (pure).
//! - [`calibrate`]: how often verdicts are right.

pub mod calibrate;
pub mod entry;
pub mod list;
pub mod options;

use std::fs;
use std::io;
use std::path::Path;
use std::time::Instant;

use pdlab_leak::scenario::Scenario;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::junit;
use crate::repro::report::RunReport;
use crate::repro::{self, Exit, Host, Progress, ReproError};
use crate::run_dir::{RunDir, RunDirError};
use entry::{Entry, Status};

pub use options::{ZooArgs, ZooCommand, ZooRunArgs};

/// The file that holds a [`ZooReport`].
pub const ZOO_FILE: &str = "zoo.json";

/// What a zoo run came to, so far: `zoo.json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ZooReport {
    /// Scenarios that were to run.
    pub asked: usize,
    /// What came of those that have ended, in order.
    pub entries: Vec<Entry>,
}

impl ZooReport {
    fn count(&self, of: fn(&Status) -> bool) -> usize {
        self.entries.iter().filter(|entry| of(&entry.status)).count()
    }

    /// Exit code of the command.
    pub fn exit(&self) -> Exit {
        if self.entries.iter().any(|entry| matches!(entry.status, Status::NotMatched(_))) {
            Exit::NotMatched
        } else if self.entries.iter().any(|entry| matches!(entry.status, Status::Failed(_))) {
            Exit::Environment
        } else {
            Exit::Matched
        }
    }

    /// The last line.
    pub fn summary(&self) -> String {
        let matched = self.count(|status| matches!(status, Status::Matched));
        let differ = self.count(|status| matches!(status, Status::NotMatched(_)));
        let failed = self.count(|status| matches!(status, Status::Failed(_)));
        let skipped = self.count(|status| matches!(status, Status::Skipped(_)));
        let left = self.asked.saturating_sub(self.entries.len());
        let seconds: f64 = self.entries.iter().map(|entry| entry.seconds).sum();
        let mut text = format!(
            "{} of {} scenarios as expected, {differ} not, {failed} failed",
            matched, self.asked
        );
        if skipped > 0 {
            text += &format!(", {skipped} skipped");
        }
        if left > 0 {
            text += &format!(", {left} not run");
        }
        text + &format!("; {:.0} min {:02.0} s of runs", (seconds / 60.0).floor(), seconds % 60.0)
    }

    /// JUnit XML, a case per scenario.
    pub fn xml(&self) -> String {
        let cases: Vec<_> = self.entries.iter().map(Entry::case).collect();
        junit::xml("pdlab zoo", &cases)
    }
}

/// Runs `scenarios` one after the other into directories of `out`, calling `ended` with each
/// entry. `host` says where a scenario can run, or why it cannot. Those that an earlier run has
/// completed there are not run again, unless their file or the settings have changed.
/// `zoo.json` is up to date after each.
///
/// A scenario that fails is an entry like any other. When `cancel` is cancelled, the report has
/// those that have ended; nothing of the one under way is kept.
///
/// # Errors
/// If the files cannot be written.
pub async fn run(
    scenarios: &[Scenario],
    host: impl Fn(&Scenario) -> Result<Host, String>,
    out: &Path,
    progress: &mut Progress,
    cancel: &CancellationToken,
    mut ended: impl FnMut(&Entry),
) -> Result<ZooReport, RunDirError> {
    let dir = RunDir::open(out)?;
    let mut report = ZooReport { asked: scenarios.len(), entries: Vec::new() };
    for scenario in scenarios {
        let entry = match completed(&out.join(&scenario.name), scenario) {
            Some(earlier) => Some(Entry::of(&earlier, &scenario.title, bug(scenario), true)),
            None => run_one(scenario, &host, out, progress, cancel).await?,
        };
        let Some(entry) = entry else { break };
        ended(&entry);
        report.entries.push(entry);
        dir.write_json(ZOO_FILE, &report)?;
    }
    Ok(report)
}

/// One scenario; `None` if it was interrupted.
async fn run_one(
    scenario: &Scenario,
    host: impl Fn(&Scenario) -> Result<Host, String>,
    out: &Path,
    progress: &mut Progress,
    cancel: &CancellationToken,
) -> Result<Option<Entry>, RunDirError> {
    // Begun now, it could fail before it is interrupted, or be skipped, and be told as something that was tried.
    if cancel.is_cancelled() {
        return Ok(None);
    }
    let began = Instant::now();
    if let Some(why) = repro::lacking(scenario) {
        return Ok(Some(Entry::skipped(&scenario.name, &scenario.title, bug(scenario), why)));
    }
    let host = match host(scenario) {
        Ok(host) => host,
        Err(why) => return Ok(Some(failed(scenario, began, why))),
    };
    let path = out.join(&scenario.name);
    let dir = RunDir::create(Some(&path), &scenario.name, std::time::SystemTime::now())?;
    Ok(match repro::run(scenario, &host, &dir, progress, cancel).await {
        Ok(outcome) => {
            // The text belongs to the run: in a zoo run nobody sees it on the screen.
            dir.write("report.txt", outcome.text.as_bytes())?;
            Some(Entry::of(&outcome.report, &scenario.title, bug(scenario), false))
        }
        Err(ReproError::Interrupted) => None,
        Err(error) => Some(failed(scenario, began, error.to_string())),
    })
}

fn failed(scenario: &Scenario, began: Instant, why: String) -> Entry {
    let seconds = began.elapsed().as_secs_f64();
    Entry::failed(&scenario.name, &scenario.title, bug(scenario), seconds, why)
}

fn bug(scenario: &Scenario) -> Option<&str> {
    scenario.bug.as_deref()
}

/// The report of a run in `dir` that has ended, if it was of the same scenario in every detail.
fn completed(dir: &Path, scenario: &Scenario) -> Option<RunReport> {
    let toml = fs::read_to_string(dir.join("scenario.toml")).ok()?;
    if toml != scenario.to_toml() {
        return None;
    }
    let json = fs::read(dir.join("result.json")).ok()?;
    let report: RunReport = serde_json::from_slice(&json).ok()?;
    report.complete.then_some(report)
}

/// Writes the JUnit file.
///
/// # Errors
/// If it cannot be written.
pub fn write_junit(report: &ZooReport, file: &Path) -> io::Result<()> {
    fs::write(file, report.xml())
}
