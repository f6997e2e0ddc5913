//! The times of one request that vLLM's histograms are made of.

use std::time::{Duration, Instant};

/// When things happened to a request.
#[derive(Debug, Clone)]
pub(crate) struct Progress {
    pub(crate) arrived: Instant,
    pub(crate) prompt_tokens: usize,
    pub(crate) tokens: u64,
    pub(crate) load_problem: Option<String>,
    first_scheduled: Option<Instant>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
}

impl Progress {
    pub(crate) fn new(arrived: Instant, prompt_tokens: usize) -> Self {
        Self {
            arrived,
            prompt_tokens,
            tokens: 0,
            load_problem: None,
            first_scheduled: None,
            first_token: None,
            last_token: None,
        }
    }

    /// The request is part of a step. On decode this comes after the KV transfer, so that queue
    /// time includes it, as vLLM has it.
    pub(crate) fn scheduled(&mut self, now: Instant) {
        self.first_scheduled.get_or_insert(now);
    }

    /// Counts a token; the time since the one before it.
    pub(crate) fn token(&mut self, now: Instant) -> Option<Duration> {
        self.tokens += 1;
        self.first_token.get_or_insert(now);
        self.last_token.replace(now).map(|last| now - last)
    }

    pub(crate) fn ttft(&self) -> Option<Duration> {
        self.first_token.map(|t| t - self.arrived)
    }

    /// From arrival to the first step.
    pub(crate) fn queue(&self) -> Option<Duration> {
        self.first_scheduled.map(|t| t - self.arrived)
    }

    /// From the first step to the first token.
    pub(crate) fn prefill(&self) -> Option<Duration> {
        Some(self.first_token? - self.first_scheduled?)
    }

    /// From the first token to the last.
    pub(crate) fn decode(&self) -> Option<Duration> {
        Some(self.last_token? - self.first_token?)
    }

    /// From the first step to the last token.
    pub(crate) fn inference(&self) -> Option<Duration> {
        Some(self.last_token? - self.first_scheduled?)
    }

    /// Mean time per token after the first.
    pub(crate) fn per_token(&self) -> Option<Duration> {
        let gaps = u32::try_from(self.tokens.checked_sub(1)?).ok().filter(|n| *n > 0)?;
        Some(self.decode()? / gaps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_vllms_intervals() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let ms = |n| Some(Duration::from_millis(n));
        let mut progress = Progress::new(at(0), 7);
        assert_eq!((progress.ttft(), progress.per_token()), (None, None));
        progress.scheduled(at(10));
        progress.scheduled(at(20));
        assert_eq!(progress.token(at(30)), None);
        assert_eq!(progress.per_token(), None, "one token has no gap");
        assert_eq!(progress.token(at(50)), ms(20));
        progress.token(at(90));
        assert_eq!(progress.queue(), ms(10));
        assert_eq!(progress.ttft(), ms(30));
        assert_eq!(progress.prefill(), ms(20));
        assert_eq!(progress.decode(), ms(60));
        assert_eq!(progress.inference(), ms(80));
        assert_eq!(progress.per_token(), ms(30));
    }
}
