//! `pdlab matrix`: one scenario over UCX versions, settings, churn patterns and transports.
//!
//! Every cell is a fresh set of processes, measured as `pdlab repro` does it. Cells run in random
//! order with the default between them, so that what the machine does in the meantime is not taken
//! for what a setting does. The result is written after every run: an interrupted matrix goes on
//! where it was, and a cell that failed is a result of its own, never a clean one.
//!
//! - [`options`]: the command line, and the matrix that it makes. Start here.
//! - [`axes`]: what varies, and the combinations (pure).
//! - [`schedule`]: in which order they run (pure).
//! - [`record`]: a run of the matrix from one of the scenario (pure).
//! - [`summary`]: from runs to cells and drift; [`advice`]: what to set (pure).
//! - [`result`]: what `matrix.json` holds. [`csv`]: `matrix.csv`; [`table`]: the text (pure).
//! - [`store`]: writes them, and takes earlier runs over.

pub mod advice;
pub mod axes;
pub mod csv;
pub mod options;
pub mod record;
pub mod result;
pub mod schedule;
pub mod store;
pub mod summary;
pub mod table;

#[cfg(test)]
pub(crate) mod fixture;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio_util::sync::CancellationToken;

use crate::cluster::Patience;
use crate::repro::report::RunReport;
use crate::repro::tracing::Tracing;
use crate::repro::words;
use crate::repro::{self, Exit, Host, Progress, ReproError};
use crate::run_dir::RunDir;
use options::Matrix;
use record::Circumstances;
use result::{MatrixResult, Run};
use schedule::Planned;

pub use options::MatrixArgs;

/// Where a matrix runs.
#[derive(Debug, Clone)]
pub struct Hosts {
    /// The pdlab binary, which is every role.
    pub program: PathBuf,
    /// What the builds of the UCX axis resolve to: see [`Host::ucx`].
    pub ucx: BTreeMap<String, Option<String>>,
    /// How long to wait for roles.
    pub patience: Patience,
}

/// What a matrix came to.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What is in `matrix.json`.
    pub result: MatrixResult,
    /// The same for people.
    pub text: String,
    /// [`Exit::Matched`], [`Exit::NotMatched`], [`Exit::Environment`] if nothing could be measured,
    /// or [`Exit::Interrupted`].
    pub exit: Exit,
}

/// Runs what is left to run of `matrix`, and writes everything into `dir`, after every run. No
/// process is left when it returns.
///
/// # Errors
/// If `dir` cannot be used: it cannot be written, or holds another matrix. A cell that cannot run
/// and an interruption are none.
pub async fn run(
    matrix: &Matrix,
    hosts: &Hosts,
    dir: &RunDir,
    progress: &mut Progress,
    cancel: &CancellationToken,
) -> Result<Outcome, ReproError> {
    let started = Instant::now();
    let definition = &matrix.definition;
    let plan = schedule::schedule(&definition.axes, definition.repeat, definition.seed);
    let mut runs = store::earlier_runs(dir, definition)?;
    dir.write("scenario.toml", definition.scenario_toml.as_bytes())?;
    let taken_over = runs.len();
    progress.phase(announcement(plan.len(), taken_over));

    let (total, mut made) = (plan.len(), 0);
    let mut interrupted = false;
    for planned in plan {
        if runs.iter().any(|run| run.order == planned.order) {
            continue;
        }
        let label = label(matrix, &planned, total);
        progress.part(Some(label.clone()));
        let run = measure(matrix, hosts, dir, planned, progress, cancel).await;
        progress.part(None);
        let run = match run {
            Err(ReproError::Interrupted) => {
                interrupted = true;
                break;
            }
            run => run?,
        };
        made += 1;
        let left = total - taken_over - made;
        progress.phase(told(&label, &run, started.elapsed() / made as u32 * left as u32));
        runs.push(run);
        store::write(dir, &summary::summarise(definition.clone(), runs.clone()))?;
    }
    runs.sort_by_key(|run| run.order);
    let result = summary::summarise(definition.clone(), runs);
    store::write(dir, &result)?;
    progress.finish();
    let text = table::render(&result, dir.path(), started.elapsed().as_secs_f64());
    let exit = if interrupted { Exit::Interrupted } else { exit(&result) };
    Ok(Outcome { result, text, exit })
}

/// Makes one run. Only what ends the whole matrix is an error here.
async fn measure(
    matrix: &Matrix,
    hosts: &Hosts,
    dir: &RunDir,
    planned: Planned,
    progress: &mut Progress,
    cancel: &CancellationToken,
) -> Result<Run, ReproError> {
    if cancel.is_cancelled() {
        return Err(ReproError::Interrupted);
    }
    let scenario = matrix.cell(&planned.group, &planned.set)?;
    let build = planned.group.ucx.as_ref();
    let host = Host {
        program: hosts.program.clone(),
        ucx: build.and_then(|build| hosts.ucx.get(build).cloned().flatten()),
        patience: hosts.patience,
        // Cells are compared by what they cost.
        tracing: Tracing::off("a matrix compares what settings cost"),
    };
    let now = SystemTime::now();
    let started = Instant::now();
    let cell_dir = cell_name(&planned);
    let own_dir = RunDir::create(Some(&dir.file(&cell_dir)), &scenario.name, now)?;
    let outcome = match repro::run(&scenario, &host, &own_dir, progress, cancel).await {
        Ok(outcome) => Ok(outcome.report),
        Err(
            error @ (ReproError::Interrupted | ReproError::RunDir(_) | ReproError::Write { .. }),
        ) => return Err(error),
        Err(error) => Err(error.to_string()),
    };
    let circumstances = Circumstances {
        started_unix_s: now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
        total_s: started.elapsed().as_secs_f64(),
        dir: cell_dir,
    };
    Ok(record::record(planned, &scenario, &outcome as &Result<RunReport, String>, circumstances))
}

/// `cells/007-ucx-1.19.0-UCX-MEM-EVENTS-n`: in the order of the runs, and readable.
fn cell_name(planned: &Planned) -> String {
    /// Longer names say no more, and file systems have limits.
    const LONGEST: usize = 80;
    let build = planned.group.ucx.as_deref().unwrap_or_default();
    let build = build.rsplit('/').next().unwrap_or_default();
    let name = format!("{}-{build}-{}", planned.group.transport, planned.set);
    let name: String = repro::file_name(&name).chars().take(LONGEST).collect();
    format!("cells/{:03}-{name}", planned.order)
}

fn label(matrix: &Matrix, planned: &Planned, total: usize) -> String {
    let row = advice::name(&matrix.definition, &planned.group);
    format!("[{}/{total}] {row} {}", planned.order + 1, planned.set)
}

fn announcement(total: usize, taken_over: usize) -> String {
    let runs = words::counted(total as u64, "run");
    match taken_over {
        0 => runs,
        n => format!("{runs}, {} taken over from an earlier start", words::grouped(n as u64)),
    }
}

/// What came of a run, and how long the rest will take.
fn told(label: &str, run: &Run, left: Duration) -> String {
    let slope = run.measured.as_ref().and_then(|measured| measured.slope_per_unit);
    let slope = slope.map_or(String::new(), |slope| format!(", slope {slope:.1}"));
    let off = if run.mismatches.is_empty() { "" } else { ", NOT as expected" };
    let ignored: String = run.ignored.iter().map(|ignored| format!(", {ignored}")).collect();
    let minutes = left.as_secs_f64() / 60.0;
    format!("{label}: {}{slope}{off}{ignored}; {minutes:.1} min left", run.outcome)
}

fn exit(result: &MatrixResult) -> Exit {
    let measured = result.runs.iter().any(|run| run.measured.is_some());
    match (result.matched, measured) {
        (true, _) => Exit::Matched,
        (false, true) => Exit::NotMatched,
        (false, false) => Exit::Environment,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fixture::{setting, ucx};

    #[test]
    fn a_cell_cannot_choose_where_its_files_go() {
        let mut planned =
            Planned { order: 7, group: ucx("1.19.0"), set: setting("UCX_MEM_EVENTS=n") };
        assert_eq!(cell_name(&planned), "cells/007-ucx-1-19-0-UCX-MEM-EVENTS-n");
        planned.group.ucx = Some("/opt/../x y".to_owned());
        planned.set = setting(&format!("A=../../{}", "x".repeat(300)));
        let name = cell_name(&planned);
        assert!(name.starts_with("cells/007-ucx-x-y-A-------xxx") && name.len() < 100, "{name}");
    }

    #[test]
    fn the_exit_code_tells_a_surprise_from_a_machine_that_cannot() {
        use result::Outcome::{Clean, Failed};
        let result = |outcomes: &[result::Outcome], mismatch: bool| {
            let definition = fixture::definition(&["1.19.0"], &[]);
            let mut runs: Vec<Run> = (0..)
                .zip(outcomes)
                .map(|(order, outcome)| {
                    fixture::run(order, ucx("1.19.0"), "default", *outcome, 0.0, 1.0)
                })
                .collect();
            if mismatch {
                runs[0].mismatches.push("x".to_owned());
            }
            summary::summarise(definition, runs)
        };
        assert_eq!(exit(&result(&[Clean], false)), Exit::Matched);
        assert_eq!(exit(&result(&[Clean], true)), Exit::NotMatched);
        assert_eq!(exit(&result(&[Failed], false)), Exit::Matched, "it is foreseen");
        assert_eq!(exit(&result(&[Failed], true)), Exit::Environment);
    }
}
