//! `pdlab repro`: runs a scenario end to end and says what came out.
//!
//! A cluster is started, loaded with real requests, and watched until the verdict on its memory
//! stands; then it is drained and checked for what it did not give back. If it leaks as the
//! scenario says it must, each of the scenario's cures is proven in a fresh cluster. [`run`] does
//! it all and writes the files; the command line parses options, finds the UCX build, prints the
//! text and exits with the code.
//!
//! It is no judge of its own: slopes, verdicts and known bugs are [`pdlab_leak`]'s.
//!
//! - [`options`]: the command line, and the scenario that it makes.
//! - [`plan`]: from a scenario to processes and requests (pure).
//! - [`cell`]: one cluster, from start to drained. Start here.
//! - [`sampling`]: reads the roles; [`pairing`]: what the counters were at a reading (pure);
//!   [`sample_file`]: keeps what is read. [`crash`]: who is killed meanwhile, if anyone (pure).
//! - [`pace`]: when a measurement has seen enough (pure).
//! - [`check`]: what must hold at the end of every run (pure).
//! - [`cost`], [`growth`]: processor time per unit of work; how much each role grew (pure).
//! - [`tracing`]: whether stacks are taken, and the tracer of a cell.
//! - [`attribution`]: who holds the growth (pure). [`ignored`]: settings without effect.
//! - [`report`]: `result.json`; [`holders`], [`screen`], [`sheet`], [`words`]: the text for people (pure).
//! - [`progress`]: what is seen meanwhile. [`exit`]: errors and exit codes.

pub mod attribution;
pub mod cell;
pub mod check;
pub mod cost;
pub mod crash;
pub mod exit;
pub mod growth;
pub mod holders;
pub mod ignored;
pub mod options;
pub mod pace;
pub mod pairing;
pub mod plan;
pub mod progress;
pub mod report;
pub mod sample_file;
pub mod sampling;
pub mod screen;
pub mod sheet;
pub mod tracing;
pub mod words;

#[cfg(test)]
pub(crate) mod fixture;

use std::time::Instant;

use pdlab_leak::rdma;
use pdlab_leak::scenario::{Mitigation, Scenario};
use pdlab_leak::stacks::folded::folded;
use pdlab_leak::verdict::VerdictKind;
use tokio_util::sync::CancellationToken;

use crate::run_dir::RunDir;
use attribution::attribute;
use cell::{Cell, Measurement};
use report::{RunReport, Trial};

pub use exit::{Exit, ReproError};
pub use options::{OverrideArgs, ReproArgs, Trace};
pub use plan::Host;
pub use progress::Progress;

/// The file of growth by stack, [`pdlab_leak::stacks::Stacks`], if the run was traced.
pub const STACKS: &str = "stacks.json";

/// The same as text for flame graph tools; see [`pdlab_leak::stacks::folded`].
pub const FOLDED: &str = "stacks.folded";

/// What a run came to.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What is in `result.json`.
    pub report: RunReport,
    /// The same for people.
    pub text: String,
    /// [`Exit::Matched`] or [`Exit::NotMatched`].
    pub exit: Exit,
}

/// Runs `scenario`, proves its cures, and writes everything into `dir`. No process is left when
/// it returns.
///
/// # Errors
/// If it comes to no verdict; [`ReproError::exit`] has the exit code. A cure whose proof cannot
/// run is no error: it is reported as failed, and the run has not matched.
pub async fn run(
    scenario: &Scenario,
    host: &Host,
    dir: &RunDir,
    progress: &mut Progress,
    cancel: &CancellationToken,
) -> Result<Outcome, ReproError> {
    let started = Instant::now();
    if let Some(lacking) = lacking(scenario) {
        return Err(ReproError::Unavailable(lacking));
    }
    dir.write("scenario.toml", scenario.to_toml().as_bytes())?;
    let log_dir = dir.make_dir("logs")?;
    let name = scenario.name.as_str();
    let samples = dir.file("samples.csv");
    let cell = Cell { scenario, host, name, log_dir: &log_dir, samples: Some(&samples) };
    let measurement = cell::run(cell, progress, cancel).await?;
    progress.phase(format_args!("{name}: {}", measurement.judgement.verdict.kind()));

    if let Some(stacks) = &measurement.stacks {
        dir.write_json(STACKS, stacks)?;
        dir.write(FOLDED, folded(stacks, 1.0).as_bytes())?;
    }
    let attribution = attribute(scenario, &measurement);
    let report = |trials: &[Trial<'_>], complete| RunReport {
        complete,
        ..RunReport::new(
            scenario,
            &measurement,
            &attribution,
            trials,
            started.elapsed().as_secs_f64(),
        )
    };
    let mut trials = Vec::new();
    for mitigation in report::cures(scenario, &measurement) {
        // What is known so far is kept if the proofs are interrupted.
        dir.write_json("result.json", &report(&trials, false))?;
        trials.push(try_cure(scenario, mitigation, host, dir, progress, cancel).await?);
    }
    progress.finish();
    let report = report(&trials, true);
    dir.write_json("result.json", &report)?;
    let text = screen::render(scenario, &measurement, &attribution, &report, dir.path());
    let exit = if report.result.matched { Exit::Matched } else { Exit::NotMatched };
    Ok(Outcome { report, text, exit })
}

/// What this machine lacks without which `scenario` shows nothing, a sentence; `None` if there is nothing.
pub fn lacking(scenario: &Scenario) -> Option<String> {
    let lacks = scenario.rdma && rdma::active_device().is_none();
    lacks.then(|| {
        let name = &scenario.name;
        format!(
            "{name} needs an RDMA device with an active port, and there is none here; \
             scripts/rdma-vm -- pdlab repro {name} runs it on a virtual machine that has two"
        )
    })
}

/// Tries one cure in a cluster of its own. Only what ends the whole run is an error here.
async fn try_cure<'a>(
    scenario: &Scenario,
    mitigation: &'a Mitigation,
    host: &Host,
    dir: &RunDir,
    progress: &mut Progress,
    cancel: &CancellationToken,
) -> Result<Trial<'a>, ReproError> {
    let name = mitigation.name.as_str();
    let file = file_name(name);
    let cured = scenario.with_mitigation(mitigation);
    let log_dir = dir.make_dir(&format!("logs/{file}"))?;
    let samples = dir.make_dir("mitigations")?.join(format!("{file}.csv"));
    let cell = Cell { scenario: &cured, host, name, log_dir: &log_dir, samples: Some(&samples) };
    let outcome = match cell::run(cell, progress, cancel).await {
        Ok(measurement) => {
            progress.phase(format_args!("{name}: {}", told(&measurement)));
            Ok(measurement)
        }
        Err(ReproError::Interrupted) => return Err(ReproError::Interrupted),
        Err(error) => {
            progress.phase(format_args!("{name}: failed: {error}"));
            Err(error.to_string())
        }
    };
    Ok(Trial { mitigation, scenario: cured, outcome })
}

fn told(measurement: &Measurement) -> String {
    match measurement.judgement.verdict.kind() {
        VerdictKind::Clean => "clean, it cures the leak".to_owned(),
        other => other.to_string(),
    }
}

/// `name` as a file name: a scenario file may call a cure anything, slashes included.
pub(crate) fn file_name(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    name.chars().map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cure_cannot_choose_where_its_files_go() {
        assert_eq!(file_name("drain-64M"), "drain-64M");
        assert_eq!(file_name("../../etc/x y"), "------etc-x-y");
    }
}
