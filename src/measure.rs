//! `pdlab repro`, `pdlab up`, `pdlab bench`: everything that starts or loads other processes.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::time::SystemTime;

use pdlab_bench::cluster::up::{self, Addresses, UpArgs};
use pdlab_bench::cluster::{ClusterError, Patience};
use pdlab_bench::repro::tracing::Tracing;
use pdlab_bench::repro::{self, Exit, Host, Progress, ReproArgs, ReproError, Trace};
use pdlab_bench::run_dir::RunDir;
use pdlab_bench::{serve, workload};
use pdlab_engine::Model;
use pdlab_leak::scenario::Transport;
use pdlab_leak::trace::{probe, tier};
use pdlab_transport::builds::BuildSpec;
use tokio_util::sync::CancellationToken;

use crate::exit::Failure;
use crate::roles::stop_signal;
use crate::transport_args::{DEFAULT_UCX, resolve};

/// `pdlab repro`.
pub(crate) fn repro(args: &ReproArgs) -> Result<(), Failure> {
    let scenario = args.resolve(&environment()).map_err(repro_failure)?;
    Model::by_name(&scenario.cluster.model).map_err(Failure::bad_input)?;
    let host = Host {
        program: program()?,
        ucx: find_ucx(scenario.transport, Some(&scenario.ucx))?,
        patience: Patience::default(),
        tracing: tracing(args.overrides.trace)?,
    };
    let dir = RunDir::create(args.out.as_deref(), &scenario.name, SystemTime::now())
        .map_err(Failure::environment)?;
    let mut progress = Progress::stderr();
    let outcome = interruptible(async |cancel| {
        repro::run(&scenario, &host, &dir, &mut progress, &cancel).await.map_err(repro_failure)
    })?;
    say(&outcome.text);
    if args.json {
        say_json(&outcome.report)?;
    }
    finish(outcome.exit)
}

/// `pdlab up`.
pub(crate) fn up(args: &UpArgs) -> Result<(), Failure> {
    Model::by_name(&args.model).map_err(Failure::bad_input)?;
    let ucx = find_ucx(args.transport, args.ucx.as_deref())?;
    let plan = args.plan(program()?, ucx).map_err(Failure::bad_input)?;
    let dir = RunDir::create(args.out.as_deref(), "up", SystemTime::now())
        .map_err(Failure::environment)?;
    let log_dir = dir.make_dir("logs").map_err(Failure::environment)?;
    let shown = |addresses: &Addresses| {
        for role in &addresses.roles {
            let over = role.transport.as_deref().unwrap_or("HTTP");
            eprintln!("{:<8} {} over {over}, pid {}", role.role.as_str(), role.http, role.pid);
        }
        eprintln!("logs     {}", addresses.logs.display());
        if let Some(ui) = &addresses.ui {
            eprintln!("live     {ui}");
        }
        eprintln!("Ctrl-C ends it. Try:");
        eprintln!(
            "  curl {}/v1/completions -H 'Content-Type: application/json' \
             -d '{{\"prompt\": \"Hello\", \"max_tokens\": 16}}'",
            addresses.url
        );
        if args.json {
            // Addresses are plain strings and numbers.
            let _ = say_json(addresses);
        } else {
            say(&addresses.url);
        }
    };
    interruptible(async |cancel| {
        let ended = up::run(&plan, &log_dir, Patience::default(), &cancel, shown).await;
        ended.map(|_| ()).map_err(cluster_failure)
    })
}

/// `pdlab bench serve`.
pub(crate) fn serve(options: &serve::Options) -> Result<(), Failure> {
    let config = options.config().map_err(serve_failure)?;
    if let Some(plan) = options.sweep_plan().map_err(serve_failure)? {
        return sweep(options, &config, plan);
    }
    if let Some(plan) = options.soak_plan() {
        return soak(options, &config, &plan);
    }
    let progress = serve::progress::on_stderr(options.disable_tqdm);
    let report = interruptible_on(options.threads, async |cancel| {
        serve::run(config, &*progress, cancel).await.map_err(serve_failure)
    })?;
    let presentation = options.presentation();
    say(&report.console(&presentation));
    for path in options.save(&report).map_err(serve_failure)? {
        eprintln!("saved {}", path.display());
    }
    if options.json {
        say_json(&report.to_json(&presentation))?;
    }
    // A benchmark in which nothing worked has measured nothing.
    let nothing_worked = report.totals.completed == 0 && report.totals.failed > 0;
    if nothing_worked { Err(Failure::Said(1)) } else { Ok(()) }
}

/// `pdlab bench plan`.
pub(crate) fn plan(options: &workload::Options) -> Result<(), Failure> {
    let shape = options.shape().map_err(serve_failure)?;
    if options.json {
        return say_json(&shape);
    }
    say(&workload::table(&shape));
    Ok(())
}

/// `pdlab bench serve --sweep`.
fn sweep(
    options: &serve::Options,
    config: &serve::Config,
    plan: serve::sweep::Plan,
) -> Result<(), Failure> {
    let progress = serve::progress::on_stderr(options.disable_tqdm);
    let found = interruptible_on(options.threads, async |cancel| {
        serve::sweep::sweep(config, plan, &*progress, &cancel).await.map_err(serve_failure)
    })?;
    say(&found.console());
    for path in options.save_sweep(&found).map_err(serve_failure)? {
        eprintln!("saved {}", path.display());
    }
    if options.json {
        say_json(&found.to_json())?;
    }
    Ok(())
}

/// `pdlab bench serve --duration`. Exit code 1 if a process that is watched leaks.
fn soak(
    options: &serve::Options,
    config: &serve::Config,
    plan: &serve::soak::Plan,
) -> Result<(), Failure> {
    let dir = RunDir::create(options.out.as_deref(), "bench-soak", SystemTime::now())
        .map_err(Failure::environment)?;
    let progress = serve::progress::on_stderr(options.disable_tqdm);
    let presentation = options.presentation();
    let found = interruptible_on(options.threads, async |cancel| {
        serve::soak::soak(config, plan, &dir, &presentation, &*progress, &cancel)
            .await
            .map_err(serve_failure)
    })?;
    say(&found.console());
    let result = found.to_json(SystemTime::now());
    dir.write_json("result.json", &result).map_err(Failure::environment)?;
    eprintln!("saved {}", dir.path().display());
    if options.json {
        say_json(&result)?;
    }
    if found.leaks() { Err(Failure::Said(1)) } else { Ok(()) }
}

/// Runs until it ends by itself; SIGINT and SIGTERM cancel it in order.
pub(crate) fn interruptible<T>(
    work: impl AsyncFnOnce(CancellationToken) -> Result<T, Failure>,
) -> Result<T, Failure> {
    interruptible_on(2, work)
}

/// The same on so many threads.
pub(crate) fn interruptible_on<T>(
    threads: usize,
    work: impl AsyncFnOnce(CancellationToken) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let runtime = pdlab_bench::runtime::with_threads(threads)
        .map_err(|e| Failure::environment(format!("cannot start the runtime: {e}")))?;
    runtime.block_on(async {
        let cancel = CancellationToken::new();
        let signalled = stop_signal()?;
        let canceller = cancel.clone();
        let waiting = tokio::spawn(async move {
            signalled.await;
            eprintln!("ending in order");
            canceller.cancel();
        });
        let outcome = work(cancel).await;
        waiting.abort();
        outcome
    })
}

/// What a mode of tracing means on this machine.
pub(crate) fn tracing(mode: Trace) -> Result<Tracing, Failure> {
    Tracing::choose(mode, &tier::assess(&probe::facts(None))).map_err(repro_failure)
}

/// The build that the roles are to open, as a path, so that every role opens the same.
pub(crate) fn find_ucx(
    transport: Transport,
    named: Option<&str>,
) -> Result<Option<String>, Failure> {
    let spec: BuildSpec = named.unwrap_or(DEFAULT_UCX).parse().map_err(Failure::bad_input)?;
    match transport {
        Transport::Ucx => {}
        // With auto, TCP is there when UCX is not.
        Transport::Auto => return Ok(resolve(&spec).ok().map(|build| path(&build.directory))),
        _ => return Ok(None),
    }
    Ok(Some(path(&resolve(&spec)?.directory)))
}

fn path(directory: &std::path::Path) -> String {
    directory.display().to_string()
}

/// This binary, which is every role.
pub(crate) fn program() -> Result<PathBuf, Failure> {
    std::env::current_exe()
        .map_err(|e| Failure::environment(format!("cannot find the pdlab binary itself: {e}")))
}

/// What of the environment can be read as text.
pub(crate) fn environment() -> BTreeMap<String, String> {
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    std::env::vars_os().filter_map(text).collect()
}

/// Output for whoever reads stdout; if nobody does, the files are there.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
}

pub(crate) fn say_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let json = serde_json::to_string(value)
        .map_err(|e| Failure::environment(format!("cannot write the result as JSON: {e}")))?;
    say(&json);
    Ok(())
}

pub(crate) fn finish(exit: Exit) -> Result<(), Failure> {
    match exit {
        Exit::Matched => Ok(()),
        other => Err(Failure::Said(other.code())),
    }
}

pub(crate) fn repro_failure(error: ReproError) -> Failure {
    match error.exit() {
        Exit::BadInput => Failure::bad_input(error),
        Exit::Interrupted => Failure::Said(Exit::Interrupted.code()),
        _ => Failure::environment(error),
    }
}

fn cluster_failure(error: ClusterError) -> Failure {
    Failure::environment(error)
}

fn serve_failure(error: serve::Error) -> Failure {
    if error.is_bad_input() { Failure::bad_input(error) } else { Failure::environment(error) }
}
