//! The files of a matrix, and how an interrupted one goes on.

use std::io;

use pdlab_leak::scenario::Scenario;

use super::result::{Definition, MatrixResult, Run};
use super::{csv, schedule};
use crate::repro::ReproError;
use crate::run_dir::{RunDir, RunDirError};

/// The file that a matrix goes on from.
pub const FILE: &str = "matrix.json";

/// The runs of `definition` that an earlier matrix in `dir` has made, in their order. Those that
/// failed and should not have are left out: what stood in their way may be gone.
///
/// # Errors
/// [`ReproError::Option`] if there is a file of another matrix, or one that is damaged.
pub fn earlier_runs(dir: &RunDir, definition: &Definition) -> Result<Vec<Run>, ReproError> {
    let path = dir.file(FILE);
    let other = |reason: String| {
        ReproError::Option(format!(
            "{} {reason}; choose another directory with --out, or remove it",
            path.display()
        ))
    };
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(other(format!("cannot be read: {error}"))),
    };
    let earlier: MatrixResult = serde_json::from_slice(&text)
        .map_err(|error| other(format!("is no result of a matrix of this pdlab: {error}")))?;
    if earlier.definition != *definition {
        return Err(other(format!("is of another matrix: {}", difference(&earlier, definition))));
    }
    Ok(usable(definition, earlier.runs))
}

/// Writes what there is. Each file is replaced whole, so that it can be read at any time.
///
/// # Errors
/// If it cannot be written.
pub fn write(dir: &RunDir, result: &MatrixResult) -> Result<(), RunDirError> {
    dir.replace_json(FILE, result)?;
    dir.replace("matrix.csv", csv::render(&result.runs).as_bytes())
}

/// Runs that are in the plan, as it has them.
fn usable(definition: &Definition, runs: Vec<Run>) -> Vec<Run> {
    let plan = schedule::schedule(&definition.axes, definition.repeat, definition.seed);
    let planned = |run: &Run| {
        let due = plan.get(run.order as usize);
        due.is_some_and(|due| due.group == run.group && due.set == run.set)
    };
    let settled = |run: &Run| run.reason.is_none() || run.mismatches.is_empty();
    let mut usable: Vec<Run> =
        runs.into_iter().filter(|run| planned(run) && settled(run)).collect();
    usable.sort_by_key(|run| run.order);
    usable.dedup_by_key(|run| run.order);
    usable
}

/// What tells two matrices apart, in a few words.
fn difference(earlier: &MatrixResult, definition: &Definition) -> String {
    let (was, is) = (&earlier.definition, definition);
    let scenario = |definition: &Definition| {
        Scenario::parse(&definition.scenario_toml, super::store::FILE).ok()
    };
    if was.scenario != is.scenario {
        format!("its scenario is {}", was.scenario)
    } else if was.axes != is.axes {
        "its cells are others".to_owned()
    } else if (was.seed, was.repeat) != (is.seed, is.repeat) {
        format!("its seed is {} and its --repeat {}", was.seed, was.repeat)
    } else if scenario(was).map(|was| was.env) != scenario(is).map(|is| is.env) {
        "other UCX_* variables were set".to_owned()
    } else {
        "its scenario was another version of this one, or had other overrides".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::fixture::{definition, run};
    use crate::matrix::result::Outcome;
    use crate::matrix::summary::summarise;
    use std::time::UNIX_EPOCH;

    fn made(definition: &Definition, outcome: Outcome) -> Vec<Run> {
        let plan = schedule::schedule(&definition.axes, definition.repeat, definition.seed);
        let run = |due: schedule::Planned| {
            run(due.order, due.group, &due.set.to_string(), outcome, 0.0, 10.0)
        };
        plan.into_iter().map(run).collect()
    }

    fn written(definition: &Definition, runs: Vec<Run>) -> (tempfile::TempDir, RunDir) {
        let parent = tempfile::tempdir().unwrap();
        let dir = RunDir::create(Some(parent.path()), "matrix", UNIX_EPOCH).unwrap();
        write(&dir, &summarise(definition.clone(), runs)).unwrap();
        (parent, dir)
    }

    #[test]
    fn runs_of_the_same_matrix_are_taken_over() {
        let definition = definition(&["1.19.0"], &["UCX_A=1,2"]);
        let runs = made(&definition, Outcome::Clean)[1..4].to_vec();
        let (_parent, dir) = written(&definition, runs.clone());
        assert_eq!(earlier_runs(&dir, &definition).unwrap(), runs);
        assert!(std::fs::read_to_string(dir.file("matrix.csv")).unwrap().lines().count() == 4);
        std::fs::remove_file(dir.file(FILE)).unwrap();
        assert_eq!(earlier_runs(&dir, &definition).unwrap(), []);
    }

    #[test]
    fn what_failed_without_being_foreseen_is_tried_again() {
        let definition = definition(&["1.19.0"], &["UCX_A=1,2"]);
        let mut runs = made(&definition, Outcome::Failed);
        runs[1].mismatches.push("it failed, which nothing foresees".to_owned());
        let (_parent, dir) = written(&definition, runs);
        let orders: Vec<u32> =
            earlier_runs(&dir, &definition).unwrap().iter().map(|run| run.order).collect();
        assert_eq!(orders, [0, 2, 3, 4]);
    }

    #[test]
    fn another_matrix_or_a_damaged_file_is_refused() {
        let own = definition(&["1.19.0"], &["UCX_A=1,2"]);
        let (_parent, dir) = written(&own, made(&own, Outcome::Clean));
        let refused = |definition: &Definition| {
            let error = earlier_runs(&dir, definition).unwrap_err();
            assert_eq!(error.exit(), crate::repro::Exit::BadInput);
            error.to_string()
        };
        let error = refused(&definition(&["1.22.0"], &["UCX_A=1,2"]));
        assert!(error.contains("its cells are others") && error.contains("--out"), "{error}");
        let error = refused(&Definition { seed: 9, ..own.clone() });
        assert!(error.contains("its seed is 1"), "{error}");
        let mut scenario = Scenario::parse(&own.scenario_toml, "x").unwrap();
        scenario.env.insert("UCX_LOG_LEVEL".into(), "info".into());
        let error = refused(&Definition { scenario_toml: scenario.to_toml(), ..own.clone() });
        assert!(error.contains("other UCX_* variables"), "{error}");

        let whole = std::fs::read(dir.file(FILE)).unwrap();
        std::fs::write(dir.file(FILE), &whole[..whole.len() / 2]).unwrap();
        assert!(refused(&own).contains("no result of a matrix"));
    }
}
