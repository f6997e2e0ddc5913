//! `pdlab watch`: the memory of a process that pdlab did not start.

use std::time::SystemTime;

use pdlab_bench::repro::Exit;
use pdlab_bench::run_dir::RunDir;
use pdlab_bench::watch::report::NAME;
use pdlab_bench::watch::target::Target;
use pdlab_bench::watch::{Display, Session, WatchArgs, WatchError};

use crate::exit::Failure;
use crate::measure::{finish, interruptible, say, say_json};

/// `pdlab watch`.
pub(crate) fn watch(args: &WatchArgs) -> Result<(), Failure> {
    let outcome = interruptible(async |cancel| {
        let plan = args.plan(Target::inspect(args.pid)).map_err(failure)?;
        let session = Session::begin(plan).await.map_err(failure)?;
        // Before the directory: what cannot be shown as asked for leaves nothing.
        let mut display =
            if args.tui { Display::screen().map_err(failure)? } else { Display::lines() };
        let dir = RunDir::create(args.out.as_deref(), NAME, SystemTime::now())
            .map_err(Failure::environment)?;
        let outcome = session.run(&dir, &mut display, &cancel).await;
        display.finish();
        outcome.map_err(failure)
    })?;
    say(&outcome.text);
    if args.json {
        say_json(&outcome.report)?;
    }
    finish(outcome.exit)
}

fn failure(error: WatchError) -> Failure {
    match error.exit() {
        Exit::BadInput => Failure::bad_input(error),
        _ => Failure::environment(error),
    }
}
