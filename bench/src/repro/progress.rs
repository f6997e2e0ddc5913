//! What a person sees while a run goes on: phases, and once a second where it stands.

use std::fmt;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget};

/// Where progress goes. Nothing of it is part of the result.
pub struct Progress {
    started: Instant,
    sink: Sink,
    /// The part of a larger run that is under way.
    part: Option<String>,
}

enum Sink {
    /// Every message is a line: logs, pipes, tests.
    Lines(Box<dyn Write + Send>),
    /// Phases are lines, the state is one line that is redrawn: terminals.
    Spinner(ProgressBar),
    Silent,
}

/// How often a spinner turns.
const SPIN: Duration = Duration::from_millis(100);

impl Progress {
    /// To stderr: a spinner on a terminal, else lines.
    pub fn stderr() -> Self {
        if std::io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.enable_steady_tick(SPIN);
            Self::new(Sink::Spinner(bar))
        } else {
            Self::lines(std::io::stderr())
        }
    }

    /// Lines to `out`. What cannot be written is lost: progress must not end a run.
    pub fn lines(out: impl Write + Send + 'static) -> Self {
        Self::new(Sink::Lines(Box::new(out)))
    }

    /// To nobody.
    pub fn silent() -> Self {
        Self::new(Sink::Silent)
    }

    fn new(sink: Sink) -> Self {
        Self { started: Instant::now(), sink, part: None }
    }

    /// Time since the run began.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// What follows belongs to this part of a larger run, of which only the outcome is worth
    /// keeping: its phases are seen while they last, under its name. `None`: to the larger run
    /// itself.
    pub fn part(&mut self, name: Option<String>) {
        self.part = name;
    }

    /// A phase begins, or something worth keeping on the screen happened.
    pub fn phase(&mut self, text: impl fmt::Display) {
        if self.part.is_some() {
            return self.state(text);
        }
        let line = stamped(self.elapsed(), &text.to_string());
        match &mut self.sink {
            Sink::Lines(out) => drop(writeln!(out, "{line}")),
            Sink::Spinner(bar) => bar.println(line),
            Sink::Silent => {}
        }
    }

    /// Nothing more will be drawn: the screen is free for the result.
    pub fn finish(&mut self) {
        if let (Sink::Spinner(bar), None) = (&self.sink, &self.part) {
            bar.finish_and_clear();
        }
    }

    /// Where things stand; the next one replaces it.
    pub fn state(&mut self, text: impl fmt::Display) {
        let text = match &self.part {
            Some(part) => format!("{part}: {text}"),
            None => text.to_string(),
        };
        let line = stamped(self.elapsed(), &text);
        match &mut self.sink {
            Sink::Lines(_) if self.part.is_some() => {}
            Sink::Lines(out) => drop(writeln!(out, "{line}")),
            Sink::Spinner(bar) => bar.set_message(line),
            Sink::Silent => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress").field("started", &self.started).finish_non_exhaustive()
    }
}

fn stamped(elapsed: Duration, text: &str) -> String {
    format!("[{:5.1} s] {text}", elapsed.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_carry_the_time_since_the_start() {
        assert_eq!(stamped(Duration::from_millis(12_345), "warm"), "[ 12.3 s] warm");
        assert_eq!(stamped(Duration::ZERO, "start"), "[  0.0 s] start");
    }

    #[test]
    fn a_part_of_a_larger_run_leaves_no_lines() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut progress = Progress::lines(writer);
        progress.part(Some("1 of 2".to_owned()));
        progress.phase("starting");
        progress.state("50 %");
        progress.part(None);
        progress.phase("1 of 2: clean");
        drop(progress);
        let mut text = String::new();
        std::io::Read::read_to_string(&mut reader, &mut text).unwrap();
        assert_eq!(text.lines().count(), 1);
        assert!(text.ends_with("1 of 2: clean\n"), "{text}");
    }

    #[test]
    fn a_sink_that_is_gone_does_not_end_the_run() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut progress = Progress::lines(writer);
        progress.phase("one");
        progress.state("two");
    }
}
