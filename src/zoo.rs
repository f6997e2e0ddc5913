//! `pdlab zoo` and `pdlab gate`: scenarios by the dozen, and one that passes or fails.

use std::time::SystemTime;

use pdlab_bench::cluster::Patience;
use pdlab_bench::gate::baseline::Baseline;
use pdlab_bench::gate::{self, GateArgs, GateError};
use pdlab_bench::repro::options::ucx_variables;
use pdlab_bench::repro::tracing::Tracing;
use pdlab_bench::repro::{Exit, Host, Progress};
use pdlab_bench::run_dir::RunDir;
use pdlab_bench::zoo::calibrate::{self, CalibrateArgs, CalibrationReport};
use pdlab_bench::zoo::list::{self, Listed};
use pdlab_bench::zoo::{self, ZooArgs, ZooCommand, ZooRunArgs};
use pdlab_engine::Model;
use pdlab_leak::scenario::Scenario;

use crate::exit::Failure;
use crate::measure::{
    environment, find_ucx, finish, interruptible, program, say, say_json, tracing,
};

/// `pdlab zoo`.
pub(crate) fn zoo(args: &ZooArgs) -> Result<(), Failure> {
    match &args.command {
        None => show(args.json),
        Some(ZooCommand::Run(args)) => run(args),
        Some(ZooCommand::Calibrate(args)) => calibrate(args),
    }
}

fn show(json: bool) -> Result<(), Failure> {
    let scenarios = Scenario::builtins().map_err(Failure::bad_input)?;
    let listed: Vec<Listed> = scenarios.iter().map(Listed::of).collect();
    if json {
        return say_json(&listed);
    }
    say(&list::table(&listed));
    Ok(())
}

fn run(args: &ZooRunArgs) -> Result<(), Failure> {
    let inherited = ucx_variables(&environment());
    let scenarios = args.scenarios(&inherited).map_err(Failure::bad_input)?;
    let out = RunDir::place(args.out.as_deref(), "zoo", SystemTime::now());
    let tracing = tracing(args.trace)?;
    let host = |scenario: &Scenario| host(scenario, &tracing);
    let width = scenarios.iter().map(|scenario| scenario.name.len()).max().unwrap_or(0);
    let mut progress = Progress::stderr();
    let report = interruptible(async |cancel| {
        let line = |entry: &zoo::entry::Entry| say(&entry.line(width));
        let run = zoo::run(&scenarios, host, &out, &mut progress, &cancel, line);
        run.await.map_err(Failure::environment)
    })?;
    progress.finish();
    say(&format!("\n{}", report.summary()));
    if let Some(file) = &args.junit {
        let unwritten = |e| Failure::environment(format!("cannot write {}: {e}", file.display()));
        zoo::write_junit(&report, file).map_err(unwritten)?;
    }
    if args.json {
        say_json(&report)?;
    }
    if report.entries.len() < report.asked {
        eprintln!("interrupted; the same command with --out {} completes it", out.display());
        return finish(Exit::Interrupted);
    }
    eprintln!("files in {}/", out.display());
    finish(report.exit())
}

fn calibrate(args: &CalibrateArgs) -> Result<(), Failure> {
    let trials = args.trials().map_err(Failure::bad_input)?;
    let asked = trials.len();
    let out = RunDir::place(args.out.as_deref(), "calibrate", SystemTime::now());
    let untraced = Tracing::off("hundreds of runs are judged by their slopes alone");
    let host = |scenario: &Scenario| host(scenario, &untraced);
    let outcomes = interruptible(async |cancel| {
        let ended = |outcome: &calibrate::tally::Outcome, done: usize, total: usize| {
            let verdict =
                outcome.verdict.map_or("failed".to_owned(), |verdict| verdict.to_string());
            eprintln!("{done:>4}/{total}  {} (seed {}): {verdict}", outcome.scenario, outcome.seed);
        };
        let run = calibrate::run(trials, args.jobs, host, &out, &cancel, ended);
        run.await.map_err(Failure::environment)
    })?;
    let report = CalibrationReport::of(&outcomes, asked);
    let dir = RunDir::open(&out).map_err(Failure::environment)?;
    let text = report.markdown();
    dir.write_json("calibration.json", &report).map_err(Failure::environment)?;
    dir.write("calibration.md", text.as_bytes()).map_err(Failure::environment)?;
    say(&text);
    if args.json {
        say_json(&report)?;
    }
    if report.missing > 0 {
        eprintln!("interrupted; the same command with --out {} completes it", out.display());
        return finish(Exit::Interrupted);
    }
    finish(report.exit())
}

/// `pdlab gate`.
pub(crate) fn gate(args: &GateArgs) -> Result<(), Failure> {
    let mut scenario = args.run.resolve(&environment()).map_err(Failure::bad_input)?;
    scenario.measure.prove_mitigations = false;
    // Before anything is started: a gate without a baseline has nothing to say.
    let baseline = if args.update {
        None
    } else {
        Some(Baseline::load(&args.baseline, &scenario).map_err(Failure::bad_input)?)
    };
    let tracing = tracing(args.run.overrides.trace)?;
    let host = host(&scenario, &tracing).map_err(Failure::environment)?;
    let dir = RunDir::create(args.run.out.as_deref(), &scenario.name, SystemTime::now())
        .map_err(Failure::environment)?;
    let files = gate::Files {
        baseline: &args.baseline,
        junit: args.junit.as_deref(),
        summary: args.summary.as_deref(),
    };
    let mut progress = Progress::stderr();
    let outcome = interruptible(async |cancel| {
        let job = gate::Job { scenario: &scenario, host: &host, dir: &dir, files };
        let ran = match baseline {
            Some(baseline) => gate::run(&job, baseline, &mut progress, &cancel).await,
            None => gate::update(&job, &mut progress, &cancel).await,
        };
        ran.map_err(gate_failure)
    })?;
    say(&outcome.text);
    if args.run.json {
        say_json(&outcome.report)?;
    }
    finish(outcome.exit)
}

/// Where `scenario` can run, or why it cannot.
fn host(scenario: &Scenario, tracing: &Tracing) -> Result<Host, String> {
    let told = |failure| match failure {
        Failure::BadInput(why) | Failure::Environment(why) => why,
        Failure::Said(code) => format!("exit code {code}"),
    };
    Model::by_name(&scenario.cluster.model).map_err(|error| error.to_string())?;
    Ok(Host {
        program: program().map_err(told)?,
        ucx: find_ucx(scenario.transport, Some(&scenario.ucx)).map_err(told)?,
        patience: Patience::default(),
        tracing: tracing.clone(),
    })
}

fn gate_failure(error: GateError) -> Failure {
    match error.exit() {
        Exit::BadInput => Failure::bad_input(error),
        Exit::Interrupted => Failure::Said(Exit::Interrupted.code()),
        Exit::NotMatched => {
            eprintln!("{error}");
            Failure::Said(Exit::NotMatched.code())
        }
        _ => Failure::environment(error),
    }
}
