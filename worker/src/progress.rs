//! The times of one request that vLLM's histograms are made of.

use std::time::{Duration, Instant};

use pdlab_api::timings::{KvLoadTimings, PrefillTimings, RequestMetrics, Split};

/// When things happened to a request.
#[derive(Debug, Clone)]
pub(crate) struct Progress {
    pub(crate) arrived: Instant,
    pub(crate) prompt_tokens: usize,
    pub(crate) tokens: u64,
    pub(crate) load_problem: Option<String>,
    load_began: Option<Instant>,
    loaded: Option<(Instant, KvLoadTimings)>,
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
            load_began: None,
            loaded: None,
            first_scheduled: None,
            first_token: None,
            last_token: None,
        }
    }

    /// There are blocks for the KV that is to be loaded.
    pub(crate) fn load_began(&mut self, now: Instant) {
        self.load_began.get_or_insert(now);
    }

    /// The KV is here.
    pub(crate) fn loaded(&mut self, now: Instant, timings: KvLoadTimings) {
        self.loaded = Some((now, timings));
    }

    /// Where the time went; none before the first token. `prefill` is what the prefill leg says.
    pub(crate) fn metrics(&self, prefill: Option<PrefillTimings>) -> Option<RequestMetrics> {
        let (scheduled, first_token) = (self.first_scheduled?, self.first_token?);
        let ready = self.loaded.map_or(self.arrived, |(at, _)| at);
        Some(RequestMetrics {
            time_to_first_token_ms: milliseconds(first_token - self.arrived),
            generation_time_ms: milliseconds(self.decode()?),
            queue_time_ms: milliseconds(scheduled - self.arrived),
            pdlab: Split {
                prefill,
                block_wait_us: self.load_began.map(|at| microseconds(at - self.arrived)),
                kv: self.loaded.map(|(_, timings)| timings),
                queue_us: microseconds(scheduled.saturating_duration_since(ready)),
                first_token_us: microseconds(first_token.saturating_duration_since(scheduled)),
            },
        })
    }

    /// The prefill leg, as it is told to decode.
    pub(crate) fn prefill_timings(&self) -> Option<PrefillTimings> {
        let (queue_us, compute_us) = (microseconds(self.queue()?), microseconds(self.prefill()?));
        Some(PrefillTimings { queue_us, compute_us })
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

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn microseconds(time: Duration) -> u64 {
    time.as_micros() as u64
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

    #[test]
    fn a_ttft_splits_into_what_it_was_spent_on() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut progress = Progress::new(at(0), 7);
        assert_eq!(progress.metrics(None), None);
        progress.load_began(at(3));
        let kv = KvLoadTimings { bytes: 64, blocks: 1, handshake_us: 1000, transfer_us: 4000 };
        progress.loaded(at(9), kv);
        progress.scheduled(at(11));
        progress.token(at(16));
        let prefill = PrefillTimings { queue_us: 1, compute_us: 2 };
        let metrics = progress.metrics(Some(prefill)).unwrap();
        assert_eq!((metrics.time_to_first_token_ms, metrics.queue_time_ms), (16.0, 11.0));
        let split = metrics.pdlab;
        assert_eq!(
            (split.block_wait_us, split.queue_us, split.first_token_us),
            (Some(3000), 2000, 5000)
        );
        assert_eq!((split.kv, split.prefill), (Some(kv), Some(prefill)));
        let own = progress.prefill_timings().unwrap();
        assert_eq!(own, PrefillTimings { queue_us: 11_000, compute_us: 5000 });
    }
}
