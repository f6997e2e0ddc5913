//! Prometheus metrics under vLLM's names, buckets and meanings
//! (<https://github.com/vllm-project/vllm/blob/main/vllm/v1/metrics/loggers.py>).
//!
//! Gauges and totals are taken from the engine's own figures when scraped; histograms are filled
//! as requests go by.

use std::borrow::Cow;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use pdlab_api::fault::FaultKind;
use pdlab_engine::EngineStats;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::progress::Progress;

/// Buckets of time to first token, in seconds.
const TTFT_S: [f64; 22] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];
/// Buckets of inter-token latency, in seconds.
const ITL_S: [f64; 19] = [
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
];
/// Buckets of request phases, in seconds.
const REQUEST_S: [f64; 21] = [
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
];
/// Buckets of tokens per engine step.
const ITERATION_TOKENS: [f64; 13] =
    [1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0];

type FloatGauge = Gauge<f64, AtomicU64>;

/// The worker's metrics. Cheap to update from any thread.
pub struct Metrics {
    registry: Registry,
    series: Series,
}

struct Series {
    running: FloatGauge,
    waiting: FloatGauge,
    waiting_by: Family<Reason, FloatGauge>,
    kv_usage: FloatGauge,
    prefix_queries: Total,
    prefix_hits: Total,
    external_queries: Total,
    external_hits: Total,
    preemptions: Total,
    prompt_tokens: Counter,
    generation_tokens: Counter,
    success: Family<FinishedReason, Counter>,
    ttft: Histogram,
    itl: Histogram,
    per_token: Histogram,
    e2e: Histogram,
    queue: Histogram,
    inference: Histogram,
    prefill: Histogram,
    decode: Histogram,
    request_prompt_tokens: Histogram,
    request_generation_tokens: Histogram,
    max_tokens: Histogram,
    iteration_tokens: Histogram,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// Label `finished_reason`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct FinishedReason(&'static str);

/// Label `reason`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Reason(&'static str);

/// Label `fault`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Fault(&'static str);

impl EncodeLabelSet for Fault {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        [("fault", self.0)].encode(encoder)
    }
}

impl EncodeLabelSet for FinishedReason {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        [("finished_reason", self.0)].encode(encoder)
    }
}

impl EncodeLabelSet for Reason {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        [("reason", self.0)].encode(encoder)
    }
}

/// A counter that follows a total kept elsewhere.
#[derive(Debug, Default, Clone)]
struct Total(Counter);

impl Total {
    fn follow(&self, total: u64) {
        self.0.inc_by(total.saturating_sub(self.0.get()));
    }
}

impl Metrics {
    /// Metrics for one engine. `extend` adds the role's own under the same labels.
    pub fn new(
        model_name: &str,
        config: &pdlab_engine::EngineConfig,
        extend: impl FnOnce(&mut Registry),
    ) -> Self {
        let mut registry = Registry::default();
        let label = |name: &'static str, value: String| (Cow::from(name), Cow::from(value));
        let labels = [label("model_name", model_name.to_owned()), label("engine", "0".into())];
        let r = registry.sub_registry_with_labels(labels.into_iter());
        let lengths = one_two_five(config.max_model_len as f64);
        let series = Series {
            running: gauge(r, "num_requests_running", "Requests in the running batch"),
            waiting: gauge(r, "num_requests_waiting", "Requests that wait for a place"),
            waiting_by: family(
                r,
                "num_requests_waiting_by_reason",
                "Waiting requests: capacity, or deferred for remote KV",
            ),
            kv_usage: gauge(r, "kv_cache_usage_perc", "Share of KV blocks in use, 0 to 1"),
            prefix_queries: total(r, "prefix_cache_queries", "Prompt tokens looked up"),
            prefix_hits: total(r, "prefix_cache_hits", "Prompt tokens found in the prefix cache"),
            external_queries: total(
                r,
                "external_prefix_cache_queries",
                "Prompt tokens asked of a remote prefill",
            ),
            external_hits: total(
                r,
                "external_prefix_cache_hits",
                "Prompt tokens that a remote prefill holds",
            ),
            preemptions: total(r, "num_preemptions", "Requests that lost their blocks"),
            prompt_tokens: counter(r, "prompt_tokens", "Prompt tokens of requests past prefill"),
            generation_tokens: counter(r, "generation_tokens", "Tokens generated"),
            success: family(r, "request_success", "Requests ended, by reason"),
            ttft: histogram(r, "time_to_first_token_seconds", "Arrival to first token", &TTFT_S),
            itl: histogram(r, "inter_token_latency_seconds", "Token to next token", &ITL_S),
            per_token: histogram(
                r,
                "request_time_per_output_token_seconds",
                "Mean time per token after the first",
                &ITL_S,
            ),
            e2e: histogram(r, "e2e_request_latency_seconds", "Arrival to end", &REQUEST_S),
            queue: histogram(r, "request_queue_time_seconds", "Arrival to first step", &REQUEST_S),
            inference: histogram(
                r,
                "request_inference_time_seconds",
                "First step to last token",
                &REQUEST_S,
            ),
            prefill: histogram(
                r,
                "request_prefill_time_seconds",
                "First step to first token",
                &REQUEST_S,
            ),
            decode: histogram(
                r,
                "request_decode_time_seconds",
                "First token to last token",
                &REQUEST_S,
            ),
            request_prompt_tokens: histogram(r, "request_prompt_tokens", "Prompt length", &lengths),
            request_generation_tokens: histogram(
                r,
                "request_generation_tokens",
                "Tokens generated per request",
                &lengths,
            ),
            max_tokens: histogram(
                r,
                "request_params_max_tokens",
                "max_tokens as requested",
                &lengths,
            ),
            iteration_tokens: histogram(
                r,
                "iteration_tokens_total",
                "Tokens computed per engine step",
                &ITERATION_TOKENS,
            ),
        };
        let facts = [
            label("block_size", config.geometry.block_size_tokens.to_string()),
            label("num_gpu_blocks", config.geometry.num_blocks.to_string()),
            label("enable_prefix_caching", config.prefix_caching.to_string()),
        ];
        let info = gauge(
            r.sub_registry_with_labels(facts.into_iter()),
            "cache_config_info",
            "Layout of the KV cache",
        );
        info.set(1.0);
        extend(r);
        Self { registry, series }
    }

    /// The exposition text, with gauges and totals as of `stats`.
    pub fn render(&self, stats: &EngineStats) -> Result<String, fmt::Error> {
        self.series.running.set(stats.running as f64);
        self.series.waiting.set((stats.waiting + stats.waiting_remote) as f64);
        let by = |reason| self.series.waiting_by.get_or_create_owned(&Reason(reason));
        by("capacity").set(stats.waiting as f64);
        by("deferred").set(stats.waiting_remote as f64);
        self.series.kv_usage.set(stats.kv_usage);
        self.series.prefix_queries.follow(stats.totals.prefix_queries);
        self.series.prefix_hits.follow(stats.totals.prefix_hits);
        self.series.external_queries.follow(stats.totals.external_queries);
        self.series.external_hits.follow(stats.totals.external_hits);
        self.series.preemptions.follow(stats.totals.preemptions);
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    pub(crate) fn step(&self, tokens: u64) {
        self.series.iteration_tokens.observe(tokens as f64);
    }

    pub(crate) fn token(&self, progress: &Progress, gap: Option<Duration>) {
        self.series.generation_tokens.inc();
        match gap {
            Some(gap) => self.series.itl.observe(gap.as_secs_f64()),
            None => {
                self.series.prompt_tokens.inc_by(progress.prompt_tokens as u64);
                observe(&self.series.ttft, progress.ttft());
            }
        }
    }

    pub(crate) fn finished(
        &self,
        progress: &Progress,
        reason: &'static str,
        max_tokens: usize,
        now: Instant,
    ) {
        self.series.success.get_or_create_owned(&FinishedReason(reason)).inc();
        observe(&self.series.e2e, Some(now - progress.arrived));
        observe(&self.series.queue, progress.queue());
        observe(&self.series.prefill, progress.prefill());
        observe(&self.series.decode, progress.decode());
        observe(&self.series.inference, progress.inference());
        observe(&self.series.per_token, progress.per_token());
        self.series.request_prompt_tokens.observe(progress.prompt_tokens as f64);
        self.series.request_generation_tokens.observe(progress.tokens as f64);
        self.series.max_tokens.observe(max_tokens as f64);
    }
}

fn observe(histogram: &Histogram, time: Option<Duration>) {
    if let Some(time) = time {
        histogram.observe(time.as_secs_f64());
    }
}

/// 1, 2, 5, 10, … up to `max`.
fn one_two_five(max: f64) -> Vec<f64> {
    let decades = (0..).map(|exponent| 10_f64.powi(exponent));
    decades.flat_map(|ten| [ten, 2.0 * ten, 5.0 * ten]).take_while(|bound| *bound <= max).collect()
}

fn gauge(r: &mut Registry, name: &str, help: &str) -> FloatGauge {
    let gauge = FloatGauge::default();
    r.register(format!("vllm:{name}"), help, gauge.clone());
    gauge
}

fn counter(r: &mut Registry, name: &str, help: &str) -> Counter {
    let counter = Counter::default();
    r.register(format!("vllm:{name}"), help, counter.clone());
    counter
}

fn total(r: &mut Registry, name: &str, help: &str) -> Total {
    Total(counter(r, name, help))
}

fn family<L, M>(r: &mut Registry, name: &str, help: &str) -> Family<L, M>
where
    L: Clone + std::hash::Hash + Eq + EncodeLabelSet + fmt::Debug + Send + Sync + 'static,
    M: prometheus_client::encoding::EncodeMetric
        + prometheus_client::metrics::TypedMetric
        + Default
        + fmt::Debug
        + Send
        + Sync
        + 'static,
{
    let family = Family::<L, M>::default();
    r.register(format!("vllm:{name}"), help, family.clone());
    family
}

/// Registers a histogram under vLLM's prefix; the roles use it for theirs.
pub fn histogram(r: &mut Registry, name: &str, help: &str, bounds: &[f64]) -> Histogram {
    let histogram = Histogram::new(bounds.iter().copied());
    r.register(format!("vllm:{name}"), help, histogram.clone());
    histogram
}

/// Shows the mistakes that this process makes on purpose.
pub(crate) fn faults(r: &mut Registry, faults: &[FaultKind]) {
    if faults.is_empty() {
        return;
    }
    let family = Family::<Fault, FloatGauge>::default();
    for fault in faults {
        family.get_or_create_owned(&Fault(fault.as_str())).set(1.0);
    }
    r.register("pdlab:fault_info", "Mistakes that are made on purpose", family);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_buckets_end_at_the_model_length() {
        assert_eq!(one_two_five(60.0), [1.0, 2.0, 5.0, 10.0, 20.0, 50.0]);
    }

    #[test]
    fn totals_follow_and_never_go_back() {
        let total = Total::default();
        total.follow(5);
        total.follow(3);
        total.follow(9);
        assert_eq!(total.0.get(), 9);
    }
}
