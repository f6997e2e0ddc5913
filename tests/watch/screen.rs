//! The full-screen view, on a terminal of the test's own.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::termios::{LocalFlags, tcgetattr};
use pdlab_bench::watch::tui::Screen;

use crate::common::{PDLAB, Target, compiled, signal, turn};

/// What the terminal is told when a program takes it, and when it gives it back.
const TAKEN: &str = "\x1b[?1049h";
const GIVEN_BACK: &str = "\x1b[?1049l";

/// A terminal with a program on it.
struct Terminal {
    child: Child,
    keyboard: File,
    pty: OpenptyResult,
    shown: Arc<Mutex<String>>,
}

impl Terminal {
    fn watch(pid: &str, dir: &std::path::Path) -> Self {
        let args = ["watch", "--pid", pid, "--tui", "--json", "--out", "run", "--trace", "off"];
        let limits = ["--interval", "50ms", "--duration", "180s"];
        Self::run(Command::new(PDLAB).args(args).args(limits).current_dir(dir))
    }

    fn run(command: &mut Command) -> Self {
        let size = Winsize { ws_row: 40, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).unwrap();
        let end = || Stdio::from(pty.slave.try_clone().unwrap());
        let child = command
            .env("TERM", "xterm-256color")
            .stdin(end())
            .stderr(end())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let keyboard = File::from(pty.master.try_clone().unwrap());
        let mut screen = File::from(pty.master.try_clone().unwrap());
        let shown = Arc::new(Mutex::new(String::new()));
        let text = Arc::clone(&shown);
        // Ends with the terminal: reading fails once all its other ends are closed.
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = screen.read(&mut bytes) {
                text.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        Self { child, keyboard, pty, shown }
    }

    /// Waits for words on the screen, or for a sequence that the terminal obeys.
    fn wait_for(&self, words: &str) {
        let began = Instant::now();
        let is_there = |text: &str| text.contains(words) || words_of(text).contains(words);
        while !is_there(&self.shown.lock().unwrap()) {
            let text = self.shown.lock().unwrap().clone();
            assert!(began.elapsed() < Duration::from_secs(60), "{words:?} does not come: {text:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether lines are edited and echoed as usual.
    fn is_usual(&self) -> bool {
        let flags = tcgetattr(self.pty.slave.as_fd()).unwrap().local_flags;
        flags.contains(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
    }

    /// Waits until it has ended, with the terminal as it was; the last line of its stdout.
    fn ended(mut self) -> String {
        let began = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(began.elapsed() < Duration::from_secs(60), "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
        self.wait_for(GIVEN_BACK);
        assert!(self.is_usual(), "the terminal is as it was");
        let mut stdout = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
        stdout.lines().last().unwrap_or_default().to_owned()
    }

    fn result(self) -> serde_json::Value {
        serde_json::from_str(&self.ended()).unwrap()
    }
}

/// The words that were written. Blanks that are there already are not written again: the cursor goes on behind them.
fn words_of(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let first = parts.next().unwrap_or_default();
    let rest =
        parts.map(|part| part.trim_start_matches(|c: char| !c.is_ascii_alphabetic()).get(1..));
    let written: Vec<&str> = std::iter::once(first).chain(rest.flatten()).collect();
    written.join(" ").split_whitespace().collect::<Vec<_>>().join(" ")
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn every_way_out_gives_the_terminal_back() {
    let _turn = turn();
    let target = Target::start(Command::new(compiled("grower")).args(["grow", "100000"]));
    type Way = (&'static str, fn(&mut Terminal));
    let ways: [Way; 3] = [
        ("q", |terminal| terminal.keyboard.write_all(b"q").unwrap()),
        ("Ctrl-C", |terminal| terminal.keyboard.write_all(b"\x03").unwrap()),
        ("SIGTERM", |terminal| signal(terminal.child.id(), "TERM")),
    ];
    for (name, end) in ways {
        let dir = tempfile::tempdir().unwrap();
        let mut terminal = Terminal::watch(&target.pid(), dir.path());
        terminal.wait_for(TAKEN);
        for words in ["pdlab watch", "held by", "top stacks", "verdict so far"] {
            terminal.wait_for(words);
        }
        assert!(!terminal.is_usual(), "keys come one by one");
        end(&mut terminal);
        let result = terminal.result();
        assert_eq!(result["watch"]["end"], "asked", "{name}");
        assert!(dir.path().join("run/result.json").exists());
    }
}

#[test]
fn a_process_that_ends_gives_the_terminal_back_too() {
    let _turn = turn();
    let target = Target::start(Command::new("sh").args(["-c", "echo up; sleep 3"]));
    let dir = tempfile::tempdir().unwrap();
    let terminal = Terminal::watch(&target.pid(), dir.path());
    assert_eq!(terminal.result()["watch"]["end"], "exited");
}

#[test]
fn a_panic_gives_the_terminal_back_before_it_speaks() {
    let own = std::env::current_exe().unwrap();
    let test = ["--exact", "screen::panics_with_the_screen_taken", "--ignored", "--nocapture"];
    let terminal = Terminal::run(Command::new(own).args(test));
    terminal.wait_for(TAKEN);
    terminal.wait_for("a panic on purpose");
    let shown = terminal.shown.lock().unwrap().clone();
    let at = |words: &str| shown.find(words).unwrap();
    assert!(at(GIVEN_BACK) < at("a panic on purpose"), "{shown:?}");
    terminal.ended();
}

#[test]
#[ignore = "the test of panics runs it, on a terminal"]
fn panics_with_the_screen_taken() {
    let _screen = Screen::open().unwrap();
    panic!("a panic on purpose");
}
