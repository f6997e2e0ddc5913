//! The result of a load, and how it reads on a terminal.

use std::fmt::{self, Write};
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use super::distribution::Distribution;
use super::driver::Over;
use super::memory::ProcessMemory;
use super::probe::Probes;
use super::split::Part;
use super::{Backend, Goodput, Ramp, Rate, Record, Totals};

/// What was run.
#[derive(Debug, Clone)]
pub struct Facts {
    /// When the load began.
    pub started_at: SystemTime,
    /// Which API was spoken.
    pub backend: Backend,
    /// The model.
    pub model: String,
    /// The dataset's name.
    pub dataset: &'static str,
    /// Lines of the dataset that could not be read and were skipped.
    pub bad_lines: u64,
    /// Requests per second that were asked for.
    pub rate: Rate,
    /// One-token requests per second beside the load.
    pub probe_rate: f64,
    /// The rate that grew instead.
    pub ramp: Option<Ramp>,
    /// Requests per second of the ramp, and since when, counted from the start.
    pub ramp_changes: Vec<(u32, Duration)>,
    /// Regularity of arrivals.
    pub burstiness: f64,
    /// Most requests at a time.
    pub max_concurrency: Option<usize>,
    /// Requests that were planned; none for an endless load.
    pub num_prompts: Option<usize>,
    /// Requests before the first measured one.
    pub num_warmups: usize,
    /// Seed of arrivals and prompts.
    pub seed: u64,
    /// The service level.
    pub goodput: Goodput,
}

/// The result of a load.
#[derive(Debug, Clone)]
pub struct Report {
    /// What was run.
    pub facts: Facts,
    /// All requests summed up.
    pub totals: Totals,
    /// Each request in the order of the schedule; empty for an endless load.
    pub records: Vec<Record>,
    /// From the start to the end of the last request.
    pub duration: Duration,
    /// Requests that were sent.
    pub sent: u64,
    /// Processor time of this process during the load.
    pub client_cpu: Duration,
    /// Small requests beside the load, if there were any.
    pub probes: Option<Probes>,
    /// Memory of this process, and of those that were to be watched.
    pub memory: Vec<ProcessMemory>,
}

/// A quantity that the report can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// Time to the first token.
    Ttft,
    /// Time per output token after the first.
    Tpot,
    /// Time from token to token.
    Itl,
    /// Time to the last token.
    E2el,
    /// Wait for a slot of `--max-concurrency`.
    ClientQueueTime,
    /// Time from when the request was due to the last token.
    E2elIncludingClientQueue,
}

/// What to show of a report, and under which label. The default is vLLM's.
#[derive(Debug, Clone, PartialEq)]
pub struct Presentation {
    /// The distributions to show.
    pub metrics: Vec<Metric>,
    /// Their percentiles, 0 to 100.
    pub percentiles: Vec<f64>,
    /// What the result is called; the backend's name if none.
    pub label: Option<String>,
    /// What else the result file holds.
    pub metadata: Vec<(String, String)>,
    /// Whether the result file holds the times of each token and the texts.
    pub detailed: bool,
}

impl Default for Presentation {
    fn default() -> Self {
        Self {
            metrics: vec![Metric::Ttft, Metric::Tpot, Metric::Itl],
            percentiles: vec![99.0],
            label: None,
            metadata: Vec::new(),
            detailed: false,
        }
    }
}

impl Presentation {
    /// The median, and each percentile with its value, in seconds. One call, because each sorts.
    pub(super) fn percentiles_of(&self, samples: &Distribution) -> (f64, Vec<(f64, f64)>) {
        let wanted: Vec<f64> = std::iter::once(50.0).chain(self.percentiles.clone()).collect();
        let values = samples.percentiles(&wanted);
        (values[0], self.percentiles.iter().copied().zip(values[1..].iter().copied()).collect())
    }
}

impl Metric {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Ttft,
        Self::Tpot,
        Self::Itl,
        Self::E2el,
        Self::ClientQueueTime,
        Self::E2elIncludingClientQueue,
    ];

    /// The name in options and result files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ttft => "ttft",
            Self::Tpot => "tpot",
            Self::Itl => "itl",
            Self::E2el => "e2el",
            Self::ClientQueueTime => "client_queue_time",
            Self::E2elIncludingClientQueue => "e2el_including_client_queue",
        }
    }

    /// The short and the long name on a terminal.
    fn titles(self) -> (&'static str, &'static str) {
        match self {
            Self::Ttft => ("TTFT", "Time to First Token"),
            Self::Tpot => ("TPOT", "Time per Output Token (excl. 1st token)"),
            Self::Itl => ("ITL", "Inter-token Latency"),
            Self::E2el => ("E2EL", "End-to-end Latency"),
            Self::ClientQueueTime => ("Client Queue Time", "Client Queue Time"),
            Self::E2elIncludingClientQueue => {
                ("E2EL incl. queue", "End-to-end Latency incl. client queue")
            }
        }
    }

    /// The samples of this quantity.
    pub fn of(self, totals: &Totals) -> &Distribution {
        match self {
            Self::Ttft => &totals.ttft,
            Self::Tpot => &totals.tpot,
            Self::Itl => &totals.itl,
            Self::E2el => &totals.e2el,
            Self::ClientQueueTime => &totals.queue,
            Self::E2elIncludingClientQueue => &totals.e2el_with_queue,
        }
    }
}

impl FromStr for Metric {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|metric| metric.name() == text).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            format!("{text:?} is not a metric; the metrics are {known}")
        })
    }
}

/// A lateness up to this is that of timers and schedulers, whatever the load.
const NEGLIGIBLE_LATENESS_S: f64 = 1e-3;

/// Lateness beyond this share of the median TTFT distorts what is measured.
const LATENESS_SHARE: f64 = 0.1;

impl Report {
    pub(super) fn new(
        facts: Facts,
        over: Over,
        sent: u64,
        wall: Duration,
        client_cpu: Duration,
    ) -> Self {
        let Over { totals, mut records, .. } = over;
        records.sort_unstable_by_key(|record| record.index);
        let last_end = Duration::try_from_secs_f64(totals.last_end_s).unwrap_or(wall);
        let duration = if last_end.is_zero() { wall } else { last_end };
        Self {
            facts,
            totals,
            records,
            duration,
            sent,
            client_cpu,
            probes: None,
            memory: Vec::new(),
        }
    }

    /// Requests that were under way when the load was stopped and the drain timeout was over.
    pub fn aborted(&self) -> u64 {
        self.sent - self.totals.completed - self.totals.failed - self.totals.abandoned
    }

    /// So many per second of the load.
    pub fn per_second(&self, count: u64) -> f64 {
        let duration_s = self.duration.as_secs_f64();
        if duration_s > 0.0 { count as f64 / duration_s } else { 0.0 }
    }

    /// How far the client was late: p50, p99 and maximum in milliseconds. Its own fault, and part
    /// of the latencies.
    pub fn schedule_error_ms(&self) -> [f64; 3] {
        let lateness = &self.totals.schedule_error;
        let percentiles = lateness.percentiles(&[50.0, 99.0]);
        [percentiles[0], percentiles[1], lateness.max()].map(|s| s * 1e3)
    }

    /// Processors that this process kept busy, on average.
    pub fn client_cores(&self) -> f64 {
        let duration_s = self.duration.as_secs_f64();
        if duration_s > 0.0 { self.client_cpu.as_secs_f64() / duration_s } else { 0.0 }
    }

    /// How long requests waited for a slot of `--max-concurrency`: p50, p99 and maximum in
    /// milliseconds. No part of the latencies but of those including the client's queue.
    pub fn queue_ms(&self) -> [f64; 3] {
        let queue = &self.totals.queue;
        let percentiles = queue.percentiles(&[50.0, 99.0]);
        [percentiles[0], percentiles[1], queue.max()].map(|s| s * 1e3)
    }

    /// Whether the client's lateness distorts what was measured.
    pub fn client_was_bottleneck(&self) -> bool {
        let [_, late_ms, _] = self.schedule_error_ms();
        let ttft_ms = self.totals.ttft.percentiles(&[50.0])[0] * 1e3;
        late_ms > NEGLIGIBLE_LATENESS_S * 1e3 && late_ms > LATENESS_SHARE * ttft_ms
    }

    /// What makes the numbers doubtful, a sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.client_was_bottleneck() {
            let [_, late_ms, _] = self.schedule_error_ms();
            let ttft_ms = self.totals.ttft.percentiles(&[50.0])[0] * 1e3;
            warnings.push(format!(
                "the client was the bottleneck: it sent 1 % of the requests more than \
                 {late_ms:.1} ms late (median TTFT {ttft_ms:.1} ms) and kept {:.2} processors \
                 busy; lower --request-rate or run it on a machine of its own",
                self.client_cores()
            ));
        }
        let [queue_p50_ms, queue_p99_ms, _] = self.queue_ms();
        if let (Rate::PerSecond(_), Some(limit)) = (self.facts.rate, self.facts.max_concurrency)
            && queue_p50_ms > NEGLIGIBLE_LATENESS_S * 1e3
        {
            warnings.push(format!(
                "half of the requests waited more than {queue_p50_ms:.1} ms for one of {limit} \
                 slots (p99 {queue_p99_ms:.1} ms), which TTFT leaves out; see \
                 e2el_including_client_queue, or raise --max-concurrency"
            ));
        }
        if self.totals.failed > 0 {
            let of = self.totals.completed + self.totals.failed;
            warnings.push(format!("{} of {of} requests failed", self.totals.failed));
        }
        if self.aborted() > 0 {
            warnings.push(format!("{} requests were aborted at the end", self.aborted()));
        }
        warnings
    }

    /// The report as `vllm bench serve` prints it, with the client's own part below.
    pub fn console(&self, presentation: &Presentation) -> String {
        let mut block = Block::default();
        block.title("Serving Benchmark Result", '=');
        self.console_requests(&mut block);
        for metric in &presentation.metrics {
            let (short, long) = metric.titles();
            let samples = metric.of(&self.totals);
            block.title(long, '-');
            block.milliseconds("Mean", short, samples.mean());
            let (median_s, percentiles) = presentation.percentiles_of(samples);
            block.milliseconds("Median", short, median_s);
            for (percent, value_s) in percentiles {
                block.milliseconds(&format!("P{percent}"), short, value_s);
            }
        }
        let splits = &self.totals.splits;
        if splits.count() > 0 {
            block.title("What TTFT is made of", '-');
            for part in Part::ALL {
                block.milliseconds("Mean", part.title(), splits.of(part).mean());
            }
            block.real("KV per request (MB):", splits.mean_kv_bytes() / 1e6);
        }
        block.title("Load Generator", '-');
        let [p50_ms, p99_ms, max_ms] = self.schedule_error_ms();
        block.milliseconds("P50", "schedule error", p50_ms / 1e3);
        block.milliseconds("P99", "schedule error", p99_ms / 1e3);
        block.milliseconds("Max", "schedule error", max_ms / 1e3);
        block.milliseconds("P99", "client queue", self.queue_ms()[1] / 1e3);
        block.real("Client CPU time (s):", self.client_cpu.as_secs_f64());
        block.real("Client processors busy:", self.client_cores());
        if let Some(probes) = &self.probes {
            block.title("Probe requests", '-');
            block.value("Probe requests completed:", probes.completed);
            block.value("Probe requests failed:", probes.failed);
            let percentiles = probes.e2el.percentiles(&[50.0, 99.0]);
            block.milliseconds("Median", "probe E2EL", percentiles[0]);
            block.milliseconds("P99", "probe E2EL", percentiles[1]);
            block.milliseconds("Max", "probe E2EL", probes.e2el.max());
        }
        block.title("", '=');
        for (error, count) in &self.totals.errors {
            block.line(format_args!("{count} x {error}"));
        }
        for warning in self.warnings() {
            block.line(format_args!("warning: {warning}"));
        }
        block.text
    }

    fn console_requests(&self, block: &mut Block) {
        let totals = &self.totals;
        block.value("Successful requests:", totals.completed);
        block.value("Failed requests:", totals.failed);
        if let Some(limit) = self.facts.max_concurrency {
            block.value("Maximum request concurrency:", limit);
        }
        if let Rate::PerSecond(rate) = self.facts.rate {
            block.real("Request rate configured (RPS):", rate);
        }
        if let Some(Ramp { start_rps, end_rps, strategy }) = self.facts.ramp {
            block.value(
                "Request rate ramp-up (RPS):",
                format_args!("{start_rps} to {end_rps}, {strategy}"),
            );
        }
        block.real("Benchmark duration (s):", self.duration.as_secs_f64());
        block.value("Total input tokens:", totals.prompt_tokens);
        block.value("Total generated tokens:", totals.output_tokens);
        block.real("Request throughput (req/s):", self.per_second(totals.completed));
        if !self.facts.goodput.is_empty() {
            block.real("Request goodput (req/s):", self.per_second(totals.good));
        }
        block.real("Output token throughput (tok/s):", self.per_second(totals.output_tokens));
        let peak = totals.max_output_tokens_per_s();
        block.real("Peak output token throughput (tok/s):", peak as f64);
        block.real("Peak concurrent requests:", totals.max_concurrent_requests() as f64);
        let all_tokens = totals.prompt_tokens + totals.output_tokens;
        block.real("Total token throughput (tok/s):", self.per_second(all_tokens));
    }
}

/// Text in the two columns that vLLM prints.
#[derive(Debug, Default)]
struct Block {
    text: String,
}

impl Block {
    fn line(&mut self, line: fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{line}");
    }

    fn title(&mut self, title: &str, fill: char) {
        let title =
            if fill == '=' && !title.is_empty() { format!(" {title} ") } else { title.into() };
        let missing = 50_usize.saturating_sub(title.len());
        let line = |count| String::from(fill).repeat(count);
        let (before, after) = (line(missing / 2), line(missing - missing / 2));
        self.line(format_args!("{before}{title}{after}"));
    }

    fn value(&mut self, name: &str, value: impl fmt::Display) {
        self.line(format_args!("{name:<40} {value:<10}"));
    }

    fn real(&mut self, name: &str, value: f64) {
        self.value(name, format_args!("{value:.2}"));
    }

    fn milliseconds(&mut self, which: &str, what: &str, value_s: f64) {
        self.real(&format!("{which} {what} (ms):"), value_s * 1e3);
    }
}
