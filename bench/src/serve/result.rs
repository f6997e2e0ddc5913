//! The result file, field by field as `vllm bench serve` writes it.
//!
//! Fields and their units are those of `benchmark` and `main` in
//! <https://github.com/vllm-project/vllm/blob/main/vllm/benchmarks/serve.py>, so that tools for
//! vLLM's results read these. What pdlab adds: `schedule_error_{p50,p99,max}_ms`,
//! `client_queue_{p50,p99,max}_ms`, `client_cpu_s`, `client_cores`, `client_bottleneck`, `aborted`,
//! `errors_by_message`, `warnings`, `dataset_bad_lines`, `distributions` and `timeline` (see
//! `summary`), `ttft_split` (see [`super::split`]), `memory` and `origin`.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::memory::ProcessMemory;
use super::report::Presentation;
use super::{Backend, Error, Ramp, Rate, Record, Report, summary};
use crate::run_dir;

impl Report {
    /// The content of the result file.
    pub fn to_json(&self, presentation: &Presentation) -> Map<String, Value> {
        // vLLM's own fields come after the metadata, so that these cannot replace them.
        let mut result: Map<String, Value> = presentation
            .metadata
            .iter()
            .map(|(key, value)| (key.clone(), Value::from(value.as_str())))
            .collect();
        self.add_facts(&mut result, presentation);
        self.add_numbers(&mut result);
        for metric in &presentation.metrics {
            let (name, samples) = (metric.name(), metric.of(&self.totals));
            let mut ms = |statistic: &str, value_s: f64| {
                result.insert(format!("{statistic}_{name}_ms"), json!(value_s * 1e3));
            };
            ms("mean", samples.mean());
            ms("std", samples.std());
            let (median_s, percentiles) = presentation.percentiles_of(samples);
            ms("median", median_s);
            for (percent, value_s) in percentiles {
                ms(&format!("p{percent}"), value_s);
            }
        }
        self.add_requests(&mut result, presentation.detailed);
        self.add_own(&mut result);
        result
    }

    /// The file's name unless one is given:
    /// `{label}-{rate}qps[-concurrency{n}]-{model}-{YYYYmmdd-HHMMSS}.json`, where a ramp has
    /// `ramp-up-{strategy}-{start}qps-{end}qps` for its rate.
    pub fn file_name(&self, presentation: &Presentation) -> String {
        let facts = &self.facts;
        let rate = match facts.ramp {
            Some(Ramp { strategy, start_rps, end_rps }) => {
                format!("ramp-up-{strategy}-{start_rps}qps-{end_rps}qps")
            }
            None => format!("{}qps", facts.rate),
        };
        let label = presentation.label.clone().unwrap_or_else(|| facts.backend.to_string());
        let concurrency =
            facts.max_concurrency.map(|n| format!("-concurrency{n}")).unwrap_or_default();
        let model = facts.model.rsplit('/').next().unwrap_or_default();
        format!("{label}-{rate}{concurrency}-{model}-{}.json", self.date())
    }

    fn add_facts(&self, result: &mut Map<String, Value>, presentation: &Presentation) {
        let facts = &self.facts;
        let number = |value: f64| {
            if value.is_finite() { json!(value) } else { json!("inf") }
        };
        // There is no tokenizer in between: this is what a prompt was made of.
        let tokenizer = match facts.backend {
            Backend::OpenAiChat => "byte-level",
            Backend::OpenAi | Backend::Vllm => "token-ids",
        };
        result.extend(object(json!({
            "date": self.date(),
            "endpoint_type": facts.backend.to_string(),
            "backend": facts.backend.to_string(),
            "label": presentation.label,
            "model_id": facts.model,
            "tokenizer_id": tokenizer,
            "num_prompts": facts.num_prompts.map_or(self.sent, |n| n as u64),
            "request_rate": match facts.rate {
                Rate::PerSecond(rate) => number(rate),
                Rate::Unlimited => json!("inf"),
            },
            "burstiness": number(facts.burstiness),
            "max_concurrency": facts.max_concurrency,
        })));
        if let Some(Ramp { strategy, start_rps, end_rps }) = facts.ramp {
            let event = |(rps, since): &(u32, Duration)| {
                let at = run_dir::utc_micros(facts.started_at + *since);
                json!({"rps": rps, "timestamp": at})
            };
            result.extend(object(json!({
                "ramp_up_strategy": strategy.to_string(),
                "ramp_up_start_rps": start_rps,
                "ramp_up_end_rps": end_rps,
                "rps_change_events": facts.ramp_changes.iter().map(event).collect::<Vec<_>>(),
            })));
        }
        if let Some(probes) = &self.probes {
            result.insert("probe_request_rate".to_owned(), json!(facts.probe_rate));
            if probes.completed > 0 {
                let percentiles = probes.e2el.percentiles(&[50.0, 99.0]);
                result.extend(object(json!({
                    "probe_completed": probes.completed,
                    "probe_failed": probes.failed,
                    "probe_median_e2el_ms": percentiles[0] * 1e3,
                    "probe_p99_e2el_ms": percentiles[1] * 1e3,
                    "probe_max_e2el_ms": probes.e2el.max() * 1e3,
                })));
            }
        }
    }

    fn add_numbers(&self, result: &mut Map<String, Value>) {
        let totals = &self.totals;
        let goodput = (!self.facts.goodput.is_empty()).then(|| self.per_second(totals.good));
        result.extend(object(json!({
            "duration": self.duration.as_secs_f64(),
            "completed": totals.completed,
            "failed": totals.failed,
            "total_input_tokens": totals.prompt_tokens,
            "total_output_tokens": totals.output_tokens,
            "request_throughput": self.per_second(totals.completed),
            "request_goodput": goodput,
            "output_throughput": self.per_second(totals.output_tokens),
            "total_token_throughput":
                self.per_second(totals.prompt_tokens + totals.output_tokens),
            "max_output_tokens_per_s": totals.max_output_tokens_per_s() as f64,
            "max_concurrent_requests": totals.max_concurrent_requests(),
            // The real-time factor of audio, of which there is none.
            "rtfx": 0.0,
        })));
    }

    fn add_requests(&self, result: &mut Map<String, Value>, detailed: bool) {
        let mut list = |name: &str, value: fn(&Record) -> Value| {
            result.insert(name.to_owned(), self.records.iter().map(value).collect());
        };
        list("latencies", |r| json!(r.latency_s));
        list("queue_times", |r| json!(r.queue_s()));
        if !detailed {
            return;
        }
        list("input_lens", |r| json!(r.prompt_tokens));
        list("output_lens", |r| json!(if r.error.is_none() { r.output_tokens } else { 0 }));
        list("start_times", |r| json!(r.released_s));
        list("ttfts", |r| json!(r.ttft_s));
        list("itls", |r| json!(r.itls_s));
        list("generated_texts", |r| json!(r.text));
        list("errors", |r| json!(r.error.as_deref().unwrap_or_default()));
        list("server_queue_times", |r| json!(r.server_queue_s));
        list("server_ttfts", |r| json!(r.server_ttft_s));
        if self.totals.splits.count() > 0 {
            list("ttft_splits", |r| json!(r.split));
        }
    }

    fn add_own(&self, result: &mut Map<String, Value>) {
        let [p50_ms, p99_ms, max_ms] = self.schedule_error_ms();
        let [queue_p50_ms, queue_p99_ms, queue_max_ms] = self.queue_ms();
        result.extend(object(json!({
            "schedule_error_p50_ms": p50_ms,
            "schedule_error_p99_ms": p99_ms,
            "schedule_error_max_ms": max_ms,
            "client_queue_p50_ms": queue_p50_ms,
            "client_queue_p99_ms": queue_p99_ms,
            "client_queue_max_ms": queue_max_ms,
            "client_bottleneck": self.client_was_bottleneck(),
            "client_cpu_s": self.client_cpu.as_secs_f64(),
            "client_cores": self.client_cores(),
            "aborted": self.aborted(),
            "errors_by_message": self.totals.errors,
            "warnings": self.warnings(),
            "dataset_bad_lines": self.facts.bad_lines,
            "distributions": summary::distributions(&self.totals),
            "timeline": summary::timeline(&self.records),
            "memory": self.memory.iter().map(memory_json).collect::<Vec<_>>(),
            "ttft_split": (self.totals.splits.count() > 0).then(|| self.totals.splits.to_json()),
            "origin": {
                "tool": "pdlab",
                "version": env!("CARGO_PKG_VERSION"),
                "latency_from": "scheduled time, or when a slot was free if that was later",
                "dataset": self.facts.dataset,
                "seed": self.facts.seed,
                "num_warmups": self.facts.num_warmups,
            },
        })));
    }

    /// `20261123-124430`, UTC.
    fn date(&self) -> String {
        run_dir::utc(self.facts.started_at).replace('T', "-").replace('Z', "")
    }
}

/// Writes a result file and the directories above it. With `append` the result becomes one more
/// line of the file, otherwise the file is replaced.
pub fn write(path: &Path, result: &Map<String, Value>, append: bool) -> Result<(), Error> {
    let failed = |path: &Path| {
        let path: PathBuf = path.to_owned();
        move |source| Error::File { action: "write", path, source }
    };
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent).map_err(failed(parent))?;
    }
    let mut file = OpenOptions::new()
        .create(true)
        .write(true)
        .append(append)
        .truncate(!append)
        .open(path)
        .map_err(failed(path))?;
    let mut text = Value::Object(result.clone()).to_string();
    text.push('\n');
    file.write_all(text.as_bytes()).map_err(failed(path))
}

/// `process`, and `points`: seconds since the start and bytes resident.
fn memory_json(memory: &ProcessMemory) -> Value {
    json!({"process": memory.process, "points": memory.points})
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
