//! `pdlab gate`: a run that passes or fails, for continuous integration.
//!
//! A baseline says what a scenario showed when somebody looked and agreed. The gate runs the
//! scenario again, usually on another build of UCX or with other settings, and is open if nothing
//! leaks, or if what leaks is what leaked before. What to run, how to measure and what counts as
//! a leak are [`repro`]'s and [`pdlab_leak`]'s.
//!
//! - [`options`]: the command line.
//! - [`baseline`]: the file to compare with.
//! - [`decide`](mod@decide): pass or fail (pure).
//! - [`summary`]: the same as text, Markdown and JUnit XML (pure).

pub mod baseline;
pub mod decide;
pub mod options;
pub mod summary;

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use pdlab_leak::scenario::Scenario;
use pdlab_leak::verdict::VerdictKind;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::page;
use crate::page::growth::{Growth, Rule};
use crate::repro::report::RunReport;
use crate::repro::{self, Exit, Host, Progress, ReproError};
use crate::run_dir::RunDir;
use baseline::{Baseline, BaselineError};
use decide::{Finding, decide};

pub use options::GateArgs;

/// Where to write what was found.
#[derive(Debug, Clone, Copy)]
pub struct Files<'a> {
    /// The baseline.
    pub baseline: &'a Path,
    /// JUnit XML, replaced.
    pub junit: Option<&'a Path>,
    /// Markdown, appended to: a CI job's page has other parts.
    pub summary: Option<&'a Path>,
}

/// What a gate came to.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What `--json` prints, and what is in `gate.json`.
    pub report: GateReport,
    /// The same for people.
    pub text: String,
    /// The exit code.
    pub exit: Exit,
}

/// `gate.json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GateReport {
    /// What was found; null after `--update`.
    pub finding: Option<Finding>,
    /// Why, in a sentence.
    pub reason: String,
    /// The slope up to which the gate is open, in the gauge's unit per unit of work.
    pub limit_per_unit: Option<f64>,
    /// What was compared with, or has been written.
    pub baseline: Baseline,
    /// The run, as in its `result.json`.
    pub run: RunReport,
}

/// A gate that came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// The baseline.
    #[error(transparent)]
    Baseline(#[from] BaselineError),
    /// The run.
    #[error(transparent)]
    Run(#[from] ReproError),
    /// A file cannot be written.
    #[error("cannot write {}: {source}", file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A run that is no measure for others.
    #[error("no baseline was written: {0}")]
    NoBaseline(String),
}

impl GateError {
    /// What the shell gets.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Baseline(BaselineError::Write { .. }) | Self::Write { .. } => Exit::Environment,
            Self::Baseline(_) => Exit::BadInput,
            Self::Run(error) => error.exit(),
            Self::NoBaseline(_) => Exit::NotMatched,
        }
    }
}

/// What runs, where, and how it can be followed and ended.
#[derive(Debug)]
pub struct Job<'a> {
    /// The scenario.
    pub scenario: &'a Scenario,
    /// The machine.
    pub host: &'a Host,
    /// Where the files of the run go.
    pub dir: &'a RunDir,
    /// Where the baseline is and the findings go.
    pub files: Files<'a>,
}

/// Runs the scenario and compares it with `baseline`. What was found is written; so is that a run
/// has come to nothing.
///
/// # Errors
/// [`GateError`]; [`GateError::exit`] has the exit code.
pub async fn run(
    job: &Job<'_>,
    baseline: Baseline,
    progress: &mut Progress,
    cancel: &CancellationToken,
) -> Result<Outcome, GateError> {
    let (outcome, files) = (job.measure(progress, cancel).await?, &job.files);
    let report = outcome.report;
    baseline
        .check_transport(report.result.transport_or_any())
        .map_err(|reason| BaselineError::Unusable { file: files.baseline.to_owned(), reason })?;
    let margin = job.scenario.measure.margin_per_unit;
    let decision = decide(&report.result, &report.faults, &baseline, margin);
    let text = format!("{}\n\ngate       {}\n", outcome.text.trim_end(), summary::line(&decision));
    let plot = plot(job, &report);
    files.write(&summary::xml(&decision, &report, &text), || {
        summary::markdown(&decision, &report, &baseline, &plot, job.dir.path())
    })?;
    let exit = decision.finding.exit();
    let report = GateReport {
        finding: Some(decision.finding),
        reason: decision.reason,
        limit_per_unit: Some(decision.limit_per_unit),
        baseline,
        run: report,
    };
    job.dir.write_json("gate.json", &report).map_err(ReproError::from)?;
    Ok(Outcome { report, text, exit })
}

/// Runs the scenario and writes the baseline from what is found, a leak included: who takes a
/// baseline of a leak knows it and wants to hear when it grows.
///
/// # Errors
/// [`GateError::NoBaseline`] if the run had faults or came to no verdict.
pub async fn update(
    job: &Job<'_>,
    progress: &mut Progress,
    cancel: &CancellationToken,
) -> Result<Outcome, GateError> {
    let outcome = job.measure(progress, cancel).await?;
    let report = outcome.report;
    if !report.faults.is_empty() {
        return Err(GateError::NoBaseline(report.faults.join("; ")));
    }
    if report.result.verdict == VerdictKind::Inconclusive {
        return Err(GateError::NoBaseline(report.result.doubt.unwrap_or_default()));
    }
    let baseline = Baseline::of(&report.result);
    baseline.save(job.files.baseline)?;
    let reason = summary::updated(&baseline, job.files.baseline);
    let text = format!("{}\n\ngate       {reason}\n", outcome.text.trim_end());
    let report = GateReport { finding: None, reason, limit_per_unit: None, baseline, run: report };
    Ok(Outcome { report, text, exit: Exit::Matched })
}

impl Job<'_> {
    async fn measure(
        &self,
        progress: &mut Progress,
        cancel: &CancellationToken,
    ) -> Result<repro::Outcome, GateError> {
        let error = match repro::run(self.scenario, self.host, self.dir, progress, cancel).await {
            Ok(outcome) => return Ok(outcome),
            Err(error) => error,
        };
        let (name, text) = (&self.scenario.name, error.to_string());
        let markdown = || summary::markdown_error(name, &text);
        self.files.write(&summary::xml_error(name, &text), markdown)?;
        Err(error.into())
    }
}

impl Files<'_> {
    fn write(&self, xml: &str, markdown: impl FnOnce() -> String) -> Result<(), GateError> {
        if let Some(file) = self.junit {
            fs::write(file, xml).map_err(unwritten(file))?;
        }
        if let Some(file) = self.summary {
            let append = || {
                let mut page = OpenOptions::new().create(true).append(true).open(file)?;
                page.write_all(markdown().as_bytes())
            };
            append().map_err(unwritten(file))?;
        }
        Ok(())
    }
}

/// The run as a plot in Markdown; nothing if its samples cannot be read back, which is no reason
/// to withhold the finding.
fn plot(job: &Job<'_>, report: &RunReport) -> String {
    let judged = report.roles.first().map_or("", |role| role.process.as_str());
    let samples = fs::read(job.dir.file("samples.csv")).unwrap_or_default();
    let samples = pdlab_leak::csv::read(&samples[..]).unwrap_or_default();
    let growth = Growth::of(&samples, judged, Rule::of(job.scenario));
    growth.map_or_else(String::new, |growth| page::markdown(&growth))
}

fn unwritten(file: &Path) -> impl FnOnce(io::Error) -> GateError {
    move |source| GateError::Write { file: file.to_owned(), source }
}
