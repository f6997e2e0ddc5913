//! `pdlab matrix`.

use std::collections::BTreeMap;
use std::time::SystemTime;

use pdlab_bench::cluster::Patience;
use pdlab_bench::matrix::options::Matrix;
use pdlab_bench::matrix::{self, Hosts, MatrixArgs};
use pdlab_bench::repro::Progress;
use pdlab_bench::run_dir::RunDir;
use pdlab_engine::Model;

use crate::exit::Failure;
use crate::measure::{
    environment, find_ucx, finish, interruptible, program, repro_failure, say, say_json,
};

pub(crate) fn matrix(args: &MatrixArgs) -> Result<(), Failure> {
    let matrix = args.resolve(&environment()).map_err(repro_failure)?;
    Model::by_name(&matrix.scenario.cluster.model).map_err(Failure::bad_input)?;
    let ucx = find_builds(&matrix)?;
    let hosts = Hosts { program: program()?, ucx, patience: Patience::default() };
    let name = format!("matrix-{}", matrix.scenario.name);
    let path = RunDir::place(args.out.as_deref(), &name, SystemTime::now());
    let dir = RunDir::open(&path).map_err(Failure::environment)?;
    let mut progress = Progress::stderr();
    let outcome = interruptible(async |cancel| {
        let run = matrix::run(&matrix, &hosts, &dir, &mut progress, &cancel);
        run.await.map_err(repro_failure)
    })?;
    say(&outcome.text);
    if args.json {
        say_json(&outcome.result)?;
    }
    finish(outcome.exit)
}

/// Finds every build before the first cell runs. One that does not exist is told first: fetching
/// the others would not help.
fn find_builds(matrix: &Matrix) -> Result<BTreeMap<String, Option<String>>, Failure> {
    let mut found = BTreeMap::new();
    let mut missing = None;
    for group in matrix.definition.axes.groups() {
        let Some(build) = group.ucx else { continue };
        match find_ucx(group.transport, Some(&build)) {
            Ok(directory) => drop(found.insert(build, directory)),
            Err(unknown @ Failure::BadInput(_)) => return Err(unknown),
            Err(other) => drop(missing.get_or_insert(other)),
        }
    }
    missing.map_or(Ok(found), Err)
}
