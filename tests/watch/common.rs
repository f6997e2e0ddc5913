//! Processes to watch, and `pdlab watch` on them.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

pub(crate) const PDLAB: &str = env!("CARGO_BIN_EXE_pdlab");

/// Measurements take turns: two at once would disturb each other on two cores.
static TURN: Mutex<()> = Mutex::new(());

pub(crate) fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A program of this folder, compiled once per run of the tests.
pub(crate) fn compiled(name: &str) -> PathBuf {
    static BUILT: LazyLock<Mutex<Vec<String>>> = LazyLock::new(Mutex::default);
    let mut built = BUILT.lock().unwrap();
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if !built.iter().any(|done| done == name) {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/watch").join(name);
        let source = source.with_extension("c");
        run(Command::new("cc")
            .args(["-O1", "-g", "-Wall", "-Wextra", "-o"])
            .arg(&program)
            .arg(source)
            .arg("-ldl"));
        built.push(name.to_owned());
    }
    program
}

pub(crate) fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}\n{error}");
}

/// A process to watch: it has said "up", and ends with the test.
pub(crate) struct Target {
    child: Child,
    stdout: BufReader<ChildStdout>,
    pid: u32,
}

impl Target {
    pub(crate) fn start(command: &mut Command) -> Self {
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("UCX_")) {
            command.env_remove(name);
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while line != "up\n" {
            line.clear();
            assert!(stdout.read_line(&mut line).unwrap() > 0, "{command:?} ended before it was up");
        }
        let pid = child.id();
        Self { child, stdout, pid }
    }

    pub(crate) fn pid(&self) -> String {
        self.pid.to_string()
    }

    /// Watches this descendant of the process instead: `sh`, `unshare` and the like stay around it.
    pub(crate) fn named(mut self, name: &str) -> Self {
        let mut pids = vec![self.pid];
        while let Some(pid) = pids.pop() {
            let called = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
            if called.trim() == name {
                self.pid = pid;
                return self;
            }
            let children =
                std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
            pids.extend(children.split_whitespace().map(|pid| pid.parse::<u32>().unwrap()));
        }
        panic!("there is no {name}");
    }

    /// Ends it; what it has printed since.
    pub(crate) fn end(mut self) -> String {
        signal(self.pid, "TERM");
        let mut text = String::new();
        self.stdout.read_to_string(&mut text).unwrap();
        text
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // What stands around the watched process passes the signal on, or takes it along when it is killed.
        signal(self.child.id(), "TERM");
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(2) && matches!(self.child.try_wait(), Ok(None))
        {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn signal(pid: u32, signal: &str) {
    let _ = Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).output();
}

/// How a watch came out.
pub(crate) struct Watched {
    pub(crate) code: Option<i32>,
    pub(crate) result: Value,
    pub(crate) text: String,
    pub(crate) progress: String,
    pub(crate) dir: tempfile::TempDir,
}

impl Watched {
    pub(crate) fn remarks(&self) -> String {
        self.result["remarks"].to_string()
    }
}

/// Watches `pid`. Ends without a verdict after a time that no loaded machine needs.
pub(crate) fn watch(pid: &str, args: &[&str]) -> Watched {
    let fixed = ["watch", "--pid", pid, "--json", "--out", "run"];
    let limit: &[&str] = if args.contains(&"--duration") { &[] } else { &["--duration", "180s"] };
    let dir = tempfile::tempdir().unwrap();
    let output = pdlab(&[&fixed[..], limit, args].concat(), dir.path());
    watched(output, dir)
}

/// Watches `pid` with a tracer; says why it is skipped where this machine allows none.
pub(crate) fn trace(pid: &str, args: &[&str]) -> Option<Watched> {
    let fixed = ["watch", "--pid", pid, "--json", "--out", "run", "--duration", "180s"];
    let dir = tempfile::tempdir().unwrap();
    let output = pdlab(&[&fixed[..], args].concat(), dir.path());
    if output.status.code() != Some(3) {
        return Some(watched(output, dir));
    }
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("cannot trace") && error.contains(pid), "{error}");
    eprintln!("skipped: {}", error.trim());
    None
}

pub(crate) fn watched(output: Output, dir: tempfile::TempDir) -> Watched {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let progress = String::from_utf8_lossy(&output.stderr).into_owned();
    let last = text.lines().last().unwrap_or_default();
    let result: Value =
        serde_json::from_str(last).unwrap_or_else(|_| panic!("no result: {text}{progress}"));
    for file in ["result.json", "samples.csv", "watch.toml"] {
        assert!(dir.path().join("run").join(file).exists(), "{file}");
    }
    eprintln!("{text}");
    Watched { code: output.status.code(), result, text, progress, dir }
}

pub(crate) fn pdlab(args: &[&str], dir: &Path) -> Output {
    Command::new(PDLAB).args(args).current_dir(dir).env_remove("PDLAB_TRACE").output().unwrap()
}

/// Bad input: the code, and words of the error; nothing is left.
pub(crate) fn fails(args: &[&str], code: i32, words: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let output = pdlab(&[&["watch"], args].concat(), dir.path());
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {error}");
    for word in words {
        assert!(error.contains(word), "{args:?} does not mention {word}: {error}");
    }
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
    assert!(left.is_empty(), "{args:?} left {left:?}");
}

/// The libucp of the UCX build of these tests; says why it is skipped without one.
pub(crate) fn libucp() -> Option<String> {
    let Some(dir) = std::env::var_os("PDLAB_TEST_UCX") else {
        eprintln!("skipped: PDLAB_TEST_UCX names no UCX build");
        return None;
    };
    Some(Path::new(&dir).join("libucp.so.0").to_str().unwrap().to_owned())
}

/// Whether this is root, which other users and namespaces need; says so if not.
pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    let root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}
