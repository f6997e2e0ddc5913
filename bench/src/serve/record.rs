//! What is known of one request when it is over, and of all of them together.

use std::collections::BTreeMap;
use std::time::Instant;

use pdlab_api::timings::Split;

use super::client::Outcome;
use super::distribution::Distribution;
use super::split::Splits;

/// One request. Times are seconds since the start of the load.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Its place in the schedule.
    pub index: u64,
    /// When it was due.
    pub scheduled_s: f64,
    /// When it was due and had a slot: what is counted as its start. The time from
    /// `scheduled_s` to here it waited because of the concurrency limit.
    pub released_s: f64,
    /// When it was really sent. The time from `released_s` to here is the load generator's fault.
    pub sent_s: f64,
    /// When it was over.
    pub ended_s: f64,
    /// From release to the first token; 0 if it failed before one.
    pub ttft_s: f64,
    /// From release to the last token; 0 if there was none.
    pub latency_s: f64,
    /// From one token to the next.
    pub itls_s: Vec<f32>,
    /// Tokens of the prompt, as the server counts or else as planned.
    pub prompt_tokens: u64,
    /// Tokens generated, as the server counts or else the number of steps.
    pub output_tokens: u64,
    /// The generated text, if kept.
    pub text: String,
    /// Time in the server's queue, when it said so.
    pub server_queue_s: Option<f64>,
    /// TTFT by the server's clock, when it said so.
    pub server_ttft_s: Option<f64>,
    /// What TTFT was made of, when the server said so.
    pub split: Option<Split>,
    /// Why it failed, if it did.
    pub error: Option<String>,
}

/// When a request was to start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    pub(super) index: u64,
    pub(super) scheduled: Instant,
    pub(super) released: Instant,
    pub(super) planned_prompt_tokens: u64,
}

impl Record {
    /// The record of a request of a load that began at `start`.
    pub(super) fn new(start: Instant, slot: Slot, outcome: Outcome) -> Self {
        let offset = |at: Instant| at.saturating_duration_since(start).as_secs_f64();
        let answer = outcome.answer;
        let from_release = |at: Option<Instant>| {
            at.map_or(0.0, |at| at.saturating_duration_since(slot.released).as_secs_f64())
        };
        Self {
            index: slot.index,
            scheduled_s: offset(slot.scheduled),
            released_s: offset(slot.released),
            sent_s: offset(outcome.sent_at),
            ended_s: offset(outcome.ended_at),
            ttft_s: from_release(answer.first_at),
            latency_s: from_release(answer.last_at),
            prompt_tokens: answer.prompt_tokens.unwrap_or(slot.planned_prompt_tokens),
            output_tokens: answer.output_tokens(),
            server_queue_s: answer.server_queue.map(|time| time.as_secs_f64()),
            server_ttft_s: answer.server_ttft.map(|time| time.as_secs_f64()),
            split: answer.split,
            itls_s: answer.itls_s,
            text: answer.text,
            error: answer.error,
        }
    }

    /// Wait for a slot, in seconds.
    pub fn queue_s(&self) -> f64 {
        self.released_s - self.scheduled_s
    }

    /// Time per output token after the first, in seconds; none with a single token.
    pub fn tpot_s(&self) -> Option<f64> {
        let gaps = self.output_tokens.checked_sub(1).filter(|&gaps| gaps > 0)?;
        Some((self.latency_s - self.ttft_s) / gaps as f64)
    }
}

/// A service level: the longest that each of these may take, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Goodput {
    /// Time to the first token.
    pub ttft_s: Option<f64>,
    /// Time per output token.
    pub tpot_s: Option<f64>,
    /// Time to the last token.
    pub e2el_s: Option<f64>,
}

impl Goodput {
    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn met(&self, record: &Record) -> bool {
        let within = |limit: Option<f64>, value: f64| limit.is_none_or(|limit| value <= limit);
        within(self.ttft_s, record.ttft_s)
            // A single token has no time per token after it, which meets any limit.
            && within(self.tpot_s, record.tpot_s().unwrap_or(0.0))
            && within(self.e2el_s, record.latency_s)
    }
}

/// Different errors that are told apart; the rest is counted together.
const MAX_ERRORS: usize = 10;

/// All requests that are over, summed up as they end: memory does not grow with their number
/// once the distributions are full.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    /// Requests answered in full.
    pub completed: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Requests whose client went away before the answer, as planned. No failures.
    pub abandoned: u64,
    /// Requests that met the service level.
    pub good: u64,
    /// Tokens of the prompts of completed requests.
    pub prompt_tokens: u64,
    /// Tokens generated by completed requests.
    pub output_tokens: u64,
    /// When the last request was over, in seconds since the start.
    pub last_end_s: f64,
    /// From release to the first token.
    pub ttft: Distribution,
    /// Time per output token, of requests with more than one.
    pub tpot: Distribution,
    /// Time from token to token, of all requests together.
    pub itl: Distribution,
    /// From release to the last token.
    pub e2el: Distribution,
    /// Wait for a slot.
    pub queue: Distribution,
    /// From the scheduled time to the last token.
    pub e2el_with_queue: Distribution,
    /// What TTFT was made of, of the requests whose server said so.
    pub splits: Splits,
    /// From release to when the request was really sent; of failed requests too.
    pub schedule_error: Distribution,
    /// Messages of failed requests and how often each came.
    pub errors: BTreeMap<String, u64>,
    /// Where the seconds begin, counted from the start of the load.
    seconds_from_s: f64,
    seconds: Vec<Second>,
}

/// What happened in one second of the load.
#[derive(Debug, Clone, Copy, Default)]
struct Second {
    tokens: u64,
    started: u64,
    ended: u64,
}

impl Totals {
    /// Totals of what ends from here on, `now_s` seconds after the start of the load.
    pub(super) fn since(now_s: f64) -> Self {
        Self { seconds_from_s: now_s, ..Self::default() }
    }

    /// Adds a request that is over.
    pub fn add(&mut self, record: &Record, goodput: &Goodput) {
        self.last_end_s = self.last_end_s.max(record.ended_s);
        self.schedule_error.add(record.sent_s - record.released_s);
        if let Some(error) = &record.error {
            self.failed += 1;
            self.count_error(error);
            return;
        }
        self.completed += 1;
        self.good += u64::from(goodput.met(record));
        self.prompt_tokens += record.prompt_tokens;
        self.output_tokens += record.output_tokens;
        self.ttft.add(record.ttft_s);
        if let Some(split) = &record.split {
            self.splits.add(split, record.ttft_s);
        }
        if let Some(tpot_s) = record.tpot_s() {
            self.tpot.add(tpot_s);
        }
        for &itl_s in &record.itls_s {
            self.itl.add(f64::from(itl_s));
        }
        self.e2el.add(record.latency_s);
        self.queue.add(record.queue_s());
        self.e2el_with_queue.add(record.queue_s() + record.latency_s);
        self.count_seconds(record);
    }

    /// Forgets how long requests took; their counts stay.
    pub fn forget_latencies(&mut self) {
        let latencies = [
            &mut self.ttft,
            &mut self.tpot,
            &mut self.itl,
            &mut self.e2el,
            &mut self.queue,
            &mut self.e2el_with_queue,
            &mut self.schedule_error,
        ];
        self.splits = Splits::default();
        latencies.into_iter().for_each(|latency| *latency = Distribution::default());
    }

    /// Most tokens that came within one second of the load.
    pub fn max_output_tokens_per_s(&self) -> u64 {
        self.seconds.iter().map(|second| second.tokens).max().unwrap_or(0)
    }

    /// Most requests that were under way within one second of the load.
    pub fn max_concurrent_requests(&self) -> u64 {
        let mut under_way = 0;
        let mut most = 0;
        for second in &self.seconds {
            under_way += second.started;
            most = most.max(under_way);
            under_way -= second.ended;
        }
        most
    }

    fn count_seconds(&mut self, record: &Record) {
        let mut at_s = record.released_s + record.ttft_s;
        self.second(at_s).tokens += 1;
        for &itl_s in &record.itls_s {
            at_s += f64::from(itl_s);
            self.second(at_s).tokens += 1;
        }
        self.second(record.released_s).started += 1;
        self.second(record.released_s + record.latency_s).ended += 1;
    }

    fn second(&mut self, at_s: f64) -> &mut Second {
        // What began before counts in the first second.
        let index = (at_s - self.seconds_from_s).max(0.0) as usize;
        if self.seconds.len() <= index {
            self.seconds.resize(index + 1, Second::default());
        }
        &mut self.seconds[index]
    }

    fn count_error(&mut self, error: &str) {
        let known = self.errors.len() < MAX_ERRORS || self.errors.contains_key(error);
        let key = if known { error } else { "other errors" };
        *self.errors.entry(key.to_owned()).or_default() += 1;
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A request that was answered: released and due at these seconds since the start.
    pub(in crate::serve) fn record(released_s: f64, ttft_s: f64, itls_s: &[f32]) -> Record {
        let latency_s = ttft_s + f64::from(itls_s.iter().sum::<f32>());
        Record {
            index: 0,
            scheduled_s: released_s - 0.25,
            released_s,
            sent_s: released_s + 0.001,
            ended_s: released_s + latency_s,
            ttft_s,
            latency_s,
            itls_s: itls_s.to_vec(),
            prompt_tokens: 10,
            output_tokens: 1 + itls_s.len() as u64,
            text: String::new(),
            server_queue_s: None,
            server_ttft_s: None,
            split: None,
            error: None,
        }
    }

    #[test]
    fn sums_and_peaks() {
        let mut totals = Totals::default();
        totals.add(&record(0.5, 0.75, &[0.5, 0.5]), &Goodput::default());
        totals.add(&record(1.5, 0.25, &[]), &Goodput::default());
        assert_eq!((totals.completed, totals.prompt_tokens, totals.output_tokens), (2, 20, 4));
        // Tokens at 1.25, 1.75, 2.25 and 1.75.
        assert_eq!(totals.max_output_tokens_per_s(), 3);
        assert_eq!(totals.max_concurrent_requests(), 2);
        assert_eq!((totals.tpot.count(), totals.itl.count()), (1, 2));
        assert!((totals.tpot.mean() - 0.5).abs() < 1e-9);
        assert!((totals.e2el_with_queue.max() - 2.0).abs() < 1e-9);
        assert!((totals.schedule_error.max() - 0.001).abs() < 1e-9);
        assert!((totals.last_end_s - 2.25).abs() < 1e-9);
    }

    #[test]
    fn goodput_needs_all_levels() {
        let goodput = |ttft, tpot, e2el| Goodput { ttft_s: ttft, tpot_s: tpot, e2el_s: e2el };
        let request = record(0.0, 0.75, &[0.5]);
        assert!(goodput(Some(0.75), Some(0.5), Some(1.25)).met(&request));
        assert!(!goodput(Some(0.7), None, None).met(&request));
        assert!(!goodput(None, Some(0.4), None).met(&request));
        assert!(!goodput(None, None, Some(1.2)).met(&request));
        assert!(goodput(None, Some(0.0), None).met(&record(0.0, 0.75, &[])));
    }

    #[test]
    fn failures_are_counted_by_message() {
        let mut totals = Totals::default();
        for i in 0..30 {
            let error = Some(format!("error {}", i % 15));
            totals.add(&Record { error, ..record(0.0, 0.0, &[]) }, &Goodput::default());
        }
        assert_eq!((totals.completed, totals.failed), (0, 30));
        assert_eq!(totals.errors.values().sum::<u64>(), 30);
        assert_eq!(totals.errors.len(), MAX_ERRORS + 1);
        assert_eq!(totals.errors["other errors"], 10);
    }
}
