//! Telling the user how a run goes.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Counts;
use super::recent::Latencies;

/// Takes news of a run. Called a few times per second from the runtime: must not block for long.
pub trait Progress: Send + Sync {
    /// Something happened that is worth a line.
    fn note(&self, text: &str);
    /// How far the run is.
    fn update(&self, news: &News);
    /// Nothing more will come.
    fn finish(&self);
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct News {
    /// Since the first request could be sent.
    pub elapsed: Duration,
    /// Requests of the whole run.
    pub planned: u64,
    /// What has been done.
    pub counts: Counts,
    /// How the latest requests fared; none before the first answer.
    pub recent: Option<Latencies>,
}

/// Says nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn note(&self, _: &str) {}
    fn update(&self, _: &News) {}
    fn finish(&self) {}
}

/// On standard error: a bar on a terminal, otherwise a line now and then.
///
/// With `quiet` only notes are shown.
pub fn on_stderr(quiet: bool) -> Box<dyn Progress> {
    if quiet {
        Box::new(Lines { every: Duration::MAX, next: Mutex::default() })
    } else if std::io::stderr().is_terminal() {
        Box::new(Bar::new())
    } else {
        let every = Duration::from_secs(5);
        Box::new(Lines { every, next: Mutex::new(every) })
    }
}

struct Bar {
    bar: ProgressBar,
}

impl Bar {
    fn new() -> Self {
        let style = ProgressStyle::with_template(
            "{bar:30} {pos}/{len} requests, {elapsed} elapsed, {eta} left, {msg}",
        );
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { bar }
    }
}

impl Progress for Bar {
    fn note(&self, text: &str) {
        self.bar.println(text);
    }

    fn update(&self, news: &News) {
        self.bar.set_length(news.planned);
        self.bar.set_message(rates(news));
        self.bar.set_position(news.counts.completed + news.counts.failed);
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

struct Lines {
    every: Duration,
    next: Mutex<Duration>,
}

impl Progress for Lines {
    fn note(&self, text: &str) {
        // Nobody is left to tell if standard error is closed.
        let _ = writeln!(std::io::stderr(), "{text}");
    }

    fn update(&self, news: &News) {
        let mut next = self.next.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if self.every < Duration::MAX && news.elapsed >= *next {
            *next = news.elapsed + self.every;
            self.note(&line(news));
        }
    }

    fn finish(&self) {}
}

fn line(news: &News) -> String {
    let over = news.counts.completed + news.counts.failed;
    let elapsed_s = news.elapsed.as_secs_f64();
    format!("{elapsed_s:.0} s: {over}/{} requests, {}", news.planned, rates(news))
}

fn rates(news: &News) -> String {
    let per_second = |count: u64| count as f64 / news.elapsed.as_secs_f64().max(1e-3);
    let Counts { completed, failed, output_tokens, .. } = news.counts;
    let mut text = format!(
        "{:.1} req/s, {:.0} tok/s, {} under way, {failed} failed",
        per_second(completed),
        per_second(output_tokens),
        news.counts.in_flight(),
    );
    if let Some(Latencies { ttft_p50_s, ttft_p99_s, tpot_p50_s }) = news.recent {
        text += &format!(", TTFT p50 {:.1} p99 {:.1} ms", ttft_p50_s * 1e3, ttft_p99_s * 1e3);
        if let Some(tpot_p50_s) = tpot_p50_s {
            text += &format!(", TPOT p50 {:.1} ms", tpot_p50_s * 1e3);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_how_far_and_how_fast() {
        let counts =
            Counts { sent: 50, completed: 40, failed: 2, output_tokens: 900, ..Counts::default() };
        let news = News { elapsed: Duration::from_secs(4), planned: 100, counts, recent: None };
        assert_eq!(
            line(&news),
            "4 s: 42/100 requests, 10.0 req/s, 225 tok/s, 8 under way, 2 failed"
        );
        let recent = Latencies { ttft_p50_s: 0.0123, ttft_p99_s: 0.2, tpot_p50_s: Some(0.0101) };
        let text = line(&News { recent: Some(recent), ..news });
        assert!(text.ends_with("2 failed, TTFT p50 12.3 p99 200.0 ms, TPOT p50 10.1 ms"), "{text}");
    }
}
