//! Runs of `pdlab bench serve` as one page: latencies, the run over time, what TTFT was made of,
//! memory. Several runs stand beside each other.
//!
//! - here: a run as its result file has it. `view`: the page. `plot`: its drawings. [`sweep`]: a run at many rates.

mod plot;
pub mod sweep;
mod view;

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::error::PageError;

pub(super) use view::render;

/// Runs that one page can tell apart by colour.
pub const MOST_RUNS: usize = 5;

/// One run, from its `result.json`. Fields are described where they are written
/// (`bench/src/serve/result.rs`).
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct BenchRun {
    /// The directory's name.
    #[serde(skip)]
    pub name: String,
    date: String,
    model_id: String,
    backend: String,
    /// A number, or "inf".
    request_rate: Value,
    burstiness: Value,
    max_concurrency: Option<u64>,
    ramp_up_strategy: Option<String>,
    ramp_up_start_rps: Option<u64>,
    ramp_up_end_rps: Option<u64>,
    num_prompts: u64,
    duration: f64,
    completed: u64,
    failed: u64,
    total_input_tokens: u64,
    total_output_tokens: u64,
    request_throughput: f64,
    request_goodput: Option<f64>,
    output_throughput: f64,
    schedule_error_p99_ms: f64,
    client_queue_p99_ms: f64,
    client_cores: f64,
    #[serde(default)]
    warnings: Vec<String>,
    #[serde(default)]
    errors_by_message: BTreeMap<String, u64>,
    /// By metric, pairs of percent and milliseconds.
    distributions: BTreeMap<String, Vec<(f64, f64)>>,
    timeline: Timeline,
    ttft_split: Option<TtftSplit>,
    #[serde(default)]
    memory: Vec<ProcessMemory>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Timeline {
    interval_s: f64,
    intervals: Vec<Interval>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Interval {
    completed: u64,
    failed: u64,
    tokens: u64,
    ttft_p50_ms: Option<f64>,
    ttft_p99_ms: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct TtftSplit {
    requests: u64,
    parts: BTreeMap<String, PartTimes>,
    kv_loads: u64,
    kv_bytes_per_request: f64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
struct PartTimes {
    mean_ms: f64,
    p99_ms: f64,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct ProcessMemory {
    process: String,
    /// Seconds since the start, and bytes resident then.
    points: Vec<(f64, f64)>,
}

impl BenchRun {
    /// Whether a `result.json` is one of these.
    pub(super) fn is_one(json: &str) -> bool {
        let value: Value = serde_json::from_str(json).unwrap_or_default();
        value["origin"]["tool"] == "pdlab" && value["timeline"].is_object()
    }

    /// The run of the directory `name`.
    pub(super) fn parse(name: &str, json: &str) -> Result<Self, PageError> {
        let run: Self = serde_json::from_str(json)
            .map_err(|error| PageError::json(format!("{name}/result.json"), &error))?;
        Ok(Self { name: name.to_owned(), ..run })
    }

    /// A percentile in milliseconds, if the metric was measured.
    fn percentile(&self, metric: &str, percent: f64) -> Option<f64> {
        let points = self.distributions.get(metric)?;
        points.iter().find(|(at, _)| *at == percent).map(|(_, ms)| *ms)
    }

    /// How fast requests came, in words.
    fn load(&self) -> String {
        let limit = self.max_concurrency.map(|n| format!(", at most {n} at a time"));
        let rate = match (&self.ramp_up_strategy, self.ramp_up_start_rps, self.ramp_up_end_rps) {
            (Some(how), Some(start), Some(end)) => {
                format!("{start} to {end} requests/s ({how} ramp)")
            }
            _ => match self.request_rate.as_f64() {
                Some(rate) => format!("{rate} requests/s"),
                None => "all requests at once".to_owned(),
            },
        };
        rate + &limit.unwrap_or_default()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::json;

    /// A result with a split and memory, as the load generator writes it.
    pub(in crate::page) fn result(rate: f64) -> String {
        let points: Vec<Value> =
            (0..=100).map(|p| json!([p, f64::from(p) * 2.0 / rate + 1.0])).collect();
        let interval = json!({"sent": 5, "completed": 5, "failed": 0, "tokens": 50,
            "ttft_p50_ms": 12.0, "ttft_p99_ms": 30.0});
        let part = |ms: f64| json!({"mean_ms": ms, "median_ms": ms, "p99_ms": ms * 2.0});
        json!({
            "date": "20261123-124430", "model_id": "llama-3.1-8b", "backend": "openai",
            "request_rate": rate, "burstiness": 1.0, "max_concurrency": null, "num_prompts": 100,
            "duration": 20.0, "completed": 99, "failed": 1, "total_input_tokens": 1000,
            "total_output_tokens": 990, "request_throughput": 4.95, "request_goodput": null,
            "output_throughput": 49.5, "schedule_error_p99_ms": 0.2, "client_queue_p99_ms": 0.0,
            "client_cores": 0.05, "warnings": ["1 of 100 requests failed <b>"],
            "errors_by_message": {"HTTP 500: x": 1},
            "distributions": {"ttft": points, "tpot": points, "e2el": points, "itl": points},
            "timeline": {"interval_s": 1.0, "intervals": vec![interval; 20]},
            "ttft_split": {"requests": 99, "kv_loads": 99, "kv_bytes": 99_000_000,
                "kv_blocks": 990, "kv_bytes_per_request": 1e6,
                "parts": {"prefill_queue": part(1.0), "prefill": part(20.0),
                    "block_wait": part(0.1), "handshake": part(0.1), "transfer": part(4.0),
                    "decode_queue": part(0.5), "decode": part(6.0), "other": part(0.8)}},
            "memory": [{"process": "client", "points": [[0.0, 2e7], [19.0, 2.1e7]]}],
            "origin": {"tool": "pdlab"},
        })
        .to_string()
    }

    fn run(name: &str, rate: f64) -> BenchRun {
        BenchRun::parse(name, &result(rate)).unwrap()
    }

    #[test]
    fn results_of_benchmarks_are_told_from_others() {
        assert!(BenchRun::is_one(&result(5.0)));
        assert!(!BenchRun::is_one("{}") && !BenchRun::is_one("oops"));
        let error = BenchRun::parse("r", "{\"date\":").unwrap_err().to_string();
        assert!(error.contains("r/result.json") && error.contains("cut off"), "{error}");
    }

    #[test]
    fn a_page_shows_what_was_measured_and_escapes_it() {
        let page = render(&[run("one", 5.0)]);
        for part in [
            "id=\"ttft\"",
            "id=\"timeline\"",
            "id=\"split\"",
            "id=\"memory\"",
            "KV transfer",
            "1.0 MB",
            "1 of 100 requests failed &lt;b&gt;",
            "5 requests/s",
        ] {
            assert!(page.contains(part), "{part} is not in the page");
        }
        assert!(!page.contains("<script"));
    }

    #[test]
    fn runs_stand_beside_each_other() {
        let page = render(&[run("one", 5.0), run("two", 10.0)]);
        assert!(page.contains("run-0") && page.contains("run-1") && page.contains("two"));
        let alone = render(&[run("one", 5.0)]);
        assert!(page.matches("<path").count() > alone.matches("<path").count());
    }

    #[test]
    fn a_foreign_server_leaves_out_what_it_does_not_tell() {
        let mut run = run("one", 5.0);
        run.ttft_split = None;
        run.memory.clear();
        run.distributions.clear();
        run.timeline.intervals.clear();
        let page = render(&[run]);
        assert!(!page.contains("id=\"split\"") && !page.contains("id=\"memory\""));
    }
}
