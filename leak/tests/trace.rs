//! The tracer on real processes. Where the machine does not let it, a test says so and passes.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use pdlab_leak::trace::{
    CallKind, Confidence, ModuleState, TraceError, TraceOptions, Traced, TracedStack, Tracer,
    tier::Tier,
};

const PAGE: u64 = 4096;
/// For what a loaded machine may take its time over.
const DEADLINE: Duration = Duration::from_secs(60);

/// A process that does what it is told, and ends with the test.
struct Victim {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Victim {
    fn start() -> Victim {
        Victim::spawn(Command::new(program()))
    }

    fn spawn(mut command: Command) -> Victim {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("victim starts");
        let stdin = child.stdin.take().expect("stdin is piped");
        let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let mut victim = Victim { child, stdin, stdout };
        assert_eq!(victim.answer(), "ready");
        victim
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn tell(&mut self, what: &str) -> String {
        writeln!(self.stdin, "{what}").expect("victim listens");
        self.answer()
    }

    fn does(&mut self, what: &str) {
        assert_eq!(self.tell(what), "done", "{what}");
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("victim answers");
        line.trim_end().to_owned()
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The victim, compiled once.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/trace/victim.c");
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("trace-victim");
        let status = Command::new("cc")
            .args([
                "-O1",
                "-fomit-frame-pointer",
                "-fno-optimize-sibling-calls",
                "-pthread",
                "-ldl",
                "-o",
            ])
            .args([&program, &source])
            .status()
            .expect("cc is installed");
        assert!(status.success(), "the victim compiles");
        program
    })
}

/// A library for the victim to load, compiled anew.
fn library() -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/trace/library.c");
    let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join("libtrace-victim.so");
    let status = Command::new("cc")
        .args(["-O1", "-shared", "-fPIC", "-fomit-frame-pointer", "-o"])
        .args([&library, &source])
        .status()
        .expect("cc is installed");
    assert!(status.success(), "the library compiles");
    library
}

fn perf() -> TraceOptions {
    TraceOptions { tier: Some(Tier::Perf), ..TraceOptions::default() }
}

/// `None`, said aloud, where the machine does not allow it.
fn trace(victim: &Victim, options: &TraceOptions) -> Option<Tracer> {
    match Tracer::start(victim.pid(), options) {
        Ok(tracer) => Some(tracer),
        Err(error @ (TraceError::Unavailable { .. } | TraceError::System { .. })) => {
            eprintln!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Tests that look at this process's own threads and files are alone with them.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has the victim do `what` until not every call is followed any more, and gives what was seen by then.
fn thinned(tracer: &Tracer, victim: &mut Victim, what: &str) -> Traced {
    let deadline = Instant::now() + DEADLINE;
    loop {
        victim.does(what);
        let seen = tracer.live();
        if seen.remarks.iter().any(|remark| remark.contains("Too many calls")) {
            return seen;
        }
        assert!(Instant::now() < deadline, "{seen:#?}");
    }
}

fn stacks_of<'a>(traced: &'a Traced, function: &str) -> Vec<&'a TracedStack> {
    let through = |stack: &&TracedStack| {
        stack.frames.iter().any(|frame| frame.function.as_deref() == Some(function))
    };
    traced.stacks.iter().filter(through).collect()
}

fn live(traced: &Traced, function: &str) -> u64 {
    stacks_of(traced, function).iter().map(|stack| stack.live_bytes).sum()
}

#[test]
fn every_way_to_map_memory_is_followed_by_stack() {
    let _alone = alone();
    let mut victim = Victim::start();
    let Some(tracer) = trace(&victim, &perf()) else { return };
    for what in
        ["raw", "raw", "malloc", "early", "late", "fixed", "remap", "partial", "brk", "fork"]
    {
        victim.does(what);
    }
    let traced = tracer.stop();
    let expected = [
        ("raw_leak", 6),
        ("early_leak", 5),
        ("late_leak", 7),
        ("fixed_base", 6),
        ("fixed_over", 2),
        ("remap_base", 4),
        ("remap_grow", 8),
        ("partial_base", 6),
        ("brk_grow", 16),
        ("child_leak", 0),
    ];
    for (function, pages) in expected {
        assert_eq!(live(&traced, function), pages * PAGE, "{function}: {traced:#?}");
    }
    // malloc adds its own header, and so a page.
    assert_eq!(live(&traced, "malloc_leak"), (1 << 20) + PAGE);
    assert_eq!(traced.confidence, Confidence::Complete, "{traced:#?}");
    assert_eq!(stacks_of(&traced, "raw_leak")[0].maps, 2);
    assert_eq!(stacks_of(&traced, "brk_grow")[0].kind, CallKind::Brk);
    assert_eq!(stacks_of(&traced, "remap_grow")[0].kind, CallKind::Mremap);
    assert_eq!(stacks_of(&traced, "partial_base")[0].spans.len(), 2);
    assert!(traced.counts.mmaps >= 8 && traced.counts.munmaps >= 1 && traced.counts.mremaps == 1);
    for stack in &traced.stacks {
        let spans: u64 = stack.spans.iter().map(|span| span.len_bytes()).sum();
        assert_eq!(spans, stack.live_bytes, "{stack:#?}");
    }
    let main = stacks_of(&traced, "raw_leak")[0];
    assert!(main.frames.iter().any(|frame| frame.function.as_deref() == Some("main")), "{main:#?}");
    assert!(
        main.frames.iter().all(|frame| frame.module_state == ModuleState::Present),
        "{main:#?}"
    );
}

#[test]
fn a_process_that_execs_starts_over_and_one_that_ends_keeps_its_last_account() {
    let _alone = alone();
    let mut victim = Victim::start();
    let Some(tracer) = trace(&victim, &perf()) else { return };
    victim.does("raw");
    assert_eq!(victim.tell("exec"), "ready");
    victim.does("after-exec");
    let traced = tracer.live();
    assert_eq!(live(&traced, "raw_leak"), 0, "{traced:#?}");
    assert_eq!(live(&traced, "exec_leak"), 11 * PAGE, "{traced:#?}");
    assert!(traced.remarks.iter().any(|remark| remark.contains("exec")), "{traced:#?}");
    writeln!(victim.stdin, "exit").unwrap();
    victim.child.wait().unwrap();
    let traced = tracer.stop();
    assert_eq!(live(&traced, "exec_leak"), 11 * PAGE, "{traced:#?}");
    assert!(traced.remarks.iter().any(|remark| remark.contains("ended")), "{traced:#?}");
}

#[test]
fn a_churn_is_sampled_and_the_leak_beside_it_is_found_whole() {
    let _alone = alone();
    let mut victim = Victim::start();
    let Some(tracer) = trace(&victim, &perf()) else { return };
    // What leaks from now on is followed one by one.
    let before = thinned(&tracer, &mut victim, "churn 20000");
    victim.does("churn 30000");
    let after = tracer.stop();
    let gained = live(&after, "slow_leak") - live(&before, "slow_leak");
    let leaked = 30 * 5 * PAGE;
    assert!(gained.abs_diff(leaked) <= leaked / 5, "{gained} of {leaked}: {after:#?}");
    // One of it may be live at any time. What the burst at the start lost may lie where a churned mapping lay, and
    // is then taken for it: that is there before and after.
    let churned = live(&after, "churn").saturating_sub(live(&before, "churn"));
    assert!(churned <= 32 * PAGE, "{churned}: {after:#?}");
    let counted = after.counts.mmaps - before.counts.mmaps;
    assert!((30_000..33_000).contains(&counted), "{counted}");
    assert!(after.remarks.iter().any(|remark| remark.contains("65536 B")), "{after:#?}");
}

#[test]
fn what_leaks_beside_a_churn_of_mremap_is_followed_one_by_one() {
    let _alone = alone();
    let mut victim = Victim::start();
    let Some(tracer) = trace(&victim, &perf()) else { return };
    // Not a mapping is sampled: no other call is frequent.
    let before = thinned(&tracer, &mut victim, "resize 20000");
    victim.does("resize 60000");
    let after = tracer.stop();
    let gained = live(&after, "slow_leak") - live(&before, "slow_leak");
    assert_eq!(gained, 60 * 5 * PAGE, "{after:#?}");
    assert!(!after.remarks.iter().any(|remark| remark.contains("could not")), "{after:#?}");
}

#[test]
fn page_faults_are_followed_by_who_touches_memory() {
    let _alone = alone();
    let mut victim = Victim::start();
    let Some(tracer) = trace(&victim, &TraceOptions { page_faults: true, ..perf() }) else {
        return;
    };
    victim.does("touch");
    let traced = tracer.stop();
    let touched: u64 = stacks_of(&traced, "toucher")
        .iter()
        .filter(|stack| stack.kind == CallKind::Fault)
        .map(|stack| stack.live_bytes)
        .sum();
    assert_eq!(touched, 9 * PAGE, "{traced:#?}");
    assert!(traced.counts.faults >= 9);
}

#[test]
fn a_library_is_named_when_it_is_replaced_and_when_it_is_unloaded() {
    let _alone = alone();
    let library = library();
    let mut victim = Victim::start();
    let Some(tracer) = trace(&victim, &perf()) else { return };
    victim.does(&format!("dlopen {}", library.display()));
    let state = |traced: &Traced| {
        let stack = stacks_of(traced, "library_leak")[0];
        assert_eq!(stack.live_bytes, 13 * PAGE, "{traced:#?}");
        let frame =
            stack.frames.iter().find(|frame| frame.function.as_deref() == Some("library_leak"));
        let frame = frame.expect("it is in the stack");
        assert_eq!(frame.module.as_deref(), library.to_str());
        frame.module_state
    };
    assert_eq!(state(&tracer.live()), ModuleState::Present);
    std::fs::remove_file(&library).unwrap();
    std::fs::write(&library, "another one").unwrap();
    assert_eq!(state(&tracer.live()), ModuleState::Replaced);
    victim.does("dlclose");
    assert_eq!(state(&tracer.live()), ModuleState::Unloaded);
    drop(tracer);
    // A tracer that starts when the file is gone from its path finds it all the same.
    victim.does(&format!("dlopen {}", self::library().display()));
    std::fs::remove_file(&library).unwrap();
    let tracer = trace(&victim, &perf()).expect("it was possible a moment ago");
    victim.does("library");
    assert_eq!(state(&tracer.live()), ModuleState::Replaced);
}

#[test]
fn a_process_in_a_container_has_its_own_files_and_numbers() {
    let _alone = alone();
    let mut command = Command::new("unshare");
    // The program is where only the container sees it.
    let script = "mount -t tmpfs tmpfs /mnt && cp \"$0\" /mnt/inside && exec /mnt/inside";
    command.args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script]).arg(program());
    if !Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "true"])
        .status()
        .is_ok_and(|s| s.success())
    {
        eprintln!("skipped: this user may make no namespaces");
        return;
    }
    let mut victim = Victim::spawn(command);
    let children = format!("/proc/{0}/task/{0}/children", victim.pid());
    let inside: u32 = std::fs::read_to_string(children).unwrap().trim().parse().unwrap();
    let tracer = match Tracer::start(inside, &perf()) {
        Ok(tracer) => tracer,
        Err(error) => return eprintln!("skipped: {error}"),
    };
    ["raw", "late"].iter().for_each(|what| victim.does(what));
    let traced = tracer.stop();
    assert_eq!(
        (live(&traced, "raw_leak"), live(&traced, "late_leak")),
        (3 * PAGE, 7 * PAGE),
        "{traced:#?}"
    );
    let module = stacks_of(&traced, "raw_leak")[0]
        .frames
        .iter()
        .find(|frame| frame.function.as_deref() == Some("raw_leak"));
    assert_eq!(module.and_then(|frame| frame.module.as_deref()), Some("/mnt/inside"));
}

#[test]
fn thousands_of_mappings_are_kept_up_to_the_bound() {
    let _alone = alone();
    let mut victim = Victim::start();
    let bounded = TraceOptions { max_regions: 5_000, max_samples_per_s: 1_000_000, ..perf() };
    let Some(tracer) = trace(&victim, &bounded) else { return };
    victim.does("many 20000");
    let traced = tracer.stop();
    let spans: usize = traced.stacks.iter().map(|stack| stack.spans.len()).sum();
    assert!(spans <= 5_000 + traced.stacks.len(), "{spans}");
    assert!(traced.untracked_bytes > 0 || traced.counts.lost > 0, "{:?}", traced.counts);
}

#[test]
fn strace_sees_the_same() {
    let _alone = alone();
    let mut victim = Victim::start();
    let options = TraceOptions { tier: Some(Tier::Strace), ..TraceOptions::default() };
    let Some(tracer) = trace(&victim, &options) else { return };
    for what in ["raw", "early", "late", "fixed", "remap", "partial", "brk", "fork"] {
        victim.does(what);
    }
    let traced = tracer.live();
    let expected = [
        ("raw_leak", 3),
        ("early_leak", 5),
        ("late_leak", 7),
        ("fixed_base", 6),
        ("fixed_over", 2),
        ("remap_base", 4),
        ("remap_grow", 8),
        ("partial_base", 6),
        ("brk_grow", 16),
        ("child_leak", 0),
    ];
    for (function, pages) in expected {
        assert_eq!(live(&traced, function), pages * PAGE, "{function}: {traced:#?}");
    }
    assert_eq!(traced.confidence, Confidence::Complete);
    drop(tracer);
    // It is let go, and goes on.
    victim.does("raw");
}

#[test]
fn nothing_is_left_when_a_tracer_is_dropped() {
    let _alone = alone();
    let victim = Victim::start();
    let held = || {
        let count = |what: &str| std::fs::read_dir(format!("/proc/self/{what}")).unwrap().count();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let buffers = maps.lines().filter(|line| line.contains("perf_event")).count();
        (count("fd"), count("task"), buffers)
    };
    let Some(tracer) = trace(&victim, &perf()) else { return };
    drop(tracer);
    let before = held();
    let tracer = trace(&victim, &perf()).expect("it was possible a moment ago");
    assert!(held().2 > 0, "buffers are mapped while it runs");
    drop(tracer);
    assert_eq!(held(), before);
}

#[test]
fn a_process_that_is_gone_and_options_that_cannot_be_are_refused_in_words() {
    let _alone = alone();
    let mut child = Command::new("true").spawn().unwrap();
    let pid = child.id();
    child.wait().unwrap();
    let error = Tracer::start(pid, &TraceOptions::default()).unwrap_err();
    assert!(error.to_string().contains(&format!("process {pid} is gone")), "{error}");
    let victim = Victim::start();
    let odd = TraceOptions { stack_bytes: 13, ..TraceOptions::default() };
    let error = Tracer::start(victim.pid(), &odd).unwrap_err();
    assert!(error.to_string().contains("stack_bytes is 13"), "{error}");
}

#[test]
fn without_stacks_it_says_so() {
    let victim = Victim::start();
    let options = TraceOptions { tier: Some(Tier::Proc), ..TraceOptions::default() };
    let traced = Tracer::start(victim.pid(), &options).unwrap().stop();
    assert_eq!((traced.tier, traced.confidence), (Tier::Proc, Confidence::None));
    assert!(traced.stacks.is_empty() && traced.remarks[0].contains("no stacks"), "{traced:#?}");
}
