//! The command line of `pdlab bench serve`, with the option names of `vllm bench serve`.
//!
//! - `dataset`: what to send. `sampling`: how to generate. Here: whom, how fast, what to report.

mod dataset;
mod sampling;

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::Args;
use pdlab_api::timings;
use serde_json::{Map, Value, json};

use super::report::{Metric, Presentation};
use super::run::Config;
use super::target::REQUEST_TIMEOUT;
use super::{Backend, Error, Goodput, Ramp, RampUp, Rate, Report, Target, result, soak, sweep};
use crate::run_dir::RunDir;
pub use dataset::DatasetOptions;
use sampling::SamplingOptions;

/// Options of `pdlab bench serve`. Names and defaults are those of `vllm bench serve`, except for
/// the last ones.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// API of the server; openai and vllm send prompts as token ids, openai-chat as text
    #[arg(long, default_value = "openai")]
    pub backend: Backend,
    /// Server, such as http://127.0.0.1:8000; replaces --host and --port
    #[arg(long, value_name = "URL")]
    pub base_url: Option<String>,
    /// Host of the server
    #[arg(long, default_value = "127.0.0.1")]
    pub host: String,
    /// Port of the server
    #[arg(long, default_value_t = 8000)]
    pub port: u16,
    /// Path of the requests [default: /v1/completions, for openai-chat /v1/chat/completions]
    #[arg(long, value_name = "PATH")]
    pub endpoint: Option<String>,
    /// Model [default: the first that the server lists]
    #[arg(long)]
    pub model: Option<String>,
    /// Name of the model in requests [default: the model]
    #[arg(long, value_name = "NAME")]
    pub served_model_name: Option<String>,
    /// Headers of every request, such as Authorization=Bearer\ KEY
    #[arg(long, value_name = "NAME=VALUE", num_args = 1.., value_parser = key_value)]
    pub header: Vec<(String, String)>,
    /// JSON object whose fields are added to every request
    #[arg(long, value_name = "JSON", value_parser = json_object)]
    pub extra_body: Option<Map<String, Value>>,
    /// What the request id begins with; its index follows [default: bench-<8 random hex digits>-]
    #[arg(long, value_name = "PREFIX")]
    pub request_id_prefix: Option<String>,
    /// Ask the server what TTFT was made of: queue, prefill, transfer, decode. pdlab's workers
    /// answer, also behind other routers
    #[arg(long)]
    pub split_ttft: bool,
    /// Ask for outputs of full length; always so for random and timed_trace
    #[arg(long)]
    pub ignore_eos: bool,

    #[command(flatten)]
    dataset: DatasetOptions,
    #[command(flatten)]
    sampling: SamplingOptions,

    /// Number of requests; of a trace, its first ones
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub num_prompts: usize,
    /// Threads that send and receive. One sends with the least delay, up to what a core can do; take
    /// more if the result says that the client was the bottleneck
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=64))]
    pub threads: usize,
    /// Seed of prompts and arrivals
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Requests per second; inf sends all at once
    #[arg(long, value_name = "RATE", default_value = "inf")]
    pub request_rate: Rate,
    /// Grow the rate from --ramp-up-start-rps to --ramp-up-end-rps during the run
    #[arg(long, value_name = "HOW", requires = "ramp_up_start_rps", requires = "ramp_up_end_rps")]
    pub ramp_up_strategy: Option<RampUp>,
    /// Requests per second at the first request of a ramp-up
    #[arg(long, value_name = "RATE", requires = "ramp_up_strategy")]
    pub ramp_up_start_rps: Option<u32>,
    /// Requests per second at the last request of a ramp-up
    #[arg(long, value_name = "RATE", requires = "ramp_up_strategy")]
    pub ramp_up_end_rps: Option<u32>,
    /// Find the rate that the server sustains: try LOW requests per second, double the rate until it
    /// is too high or HIGH, then close in on the knee
    #[arg(long, value_name = "LOW:HIGH", value_parser = rates, conflicts_with_all = ["request_rate", "ramp_up_strategy", "num_prompts"])]
    pub sweep: Option<(f64, f64)>,
    /// Seconds for which --sweep sends requests at each rate
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0, requires = "sweep")]
    pub sweep_seconds: f64,
    /// Go on for so long, such as 24h, instead of a number of requests: results by the window, and a
    /// leak verdict on this process and on those of --watch
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, conflicts_with_all = ["sweep", "ramp_up_strategy"])]
    pub duration: Option<Duration>,
    /// What one result of --duration covers
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration, requires = "duration")]
    pub window: Duration,
    /// Processes on this machine to watch for leaks during --duration: addresses of pdlab's roles,
    /// such as http://127.0.0.1:8100, or process numbers
    #[arg(long, value_name = "URL|PID", num_args = 1.., requires = "duration")]
    pub watch: Vec<String>,
    /// Regularity of arrivals: below 1 burstier than Poisson (1), above more even, inf constant
    #[arg(long, default_value_t = 1.0)]
    pub burstiness: f64,
    /// Most requests at a time; the wait for a slot is reported apart from latency
    #[arg(long, value_name = "N")]
    pub max_concurrency: Option<usize>,
    /// One-token requests per second beside the load, one at a time; 0 for none
    #[arg(long, value_name = "RATE", default_value_t = 0.0)]
    pub probe_request_rate: f64,
    /// Requests to send before the measurement
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub num_warmups: usize,
    /// Seconds to wait for the server to answer a first request; 0 for no such check
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub ready_check_timeout_sec: u32,

    /// Distributions to report: ttft, tpot, itl, e2el, client_queue_time,
    /// e2el_including_client_queue
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "ttft,tpot,itl")]
    pub percentile_metrics: Vec<Metric>,
    /// Percentiles to report
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "99", value_parser = percentile)]
    pub metric_percentiles: Vec<f64>,
    /// Service level for goodput: ttft, tpot, e2el with milliseconds, such as ttft:500 tpot:50
    #[arg(long, value_name = "METRIC:MS", num_args = 1.., value_parser = service_level)]
    pub goodput: Vec<(Metric, f64)>,
    /// Write the result file
    #[arg(long)]
    pub save_result: bool,
    /// Write each request's token times, text and error to the result file too
    #[arg(long)]
    pub save_detailed: bool,
    /// Append to the result file instead of replacing it
    #[arg(long)]
    pub append_result: bool,
    /// Directory of the result file [default: here]
    #[arg(long, value_name = "DIR")]
    pub result_dir: Option<PathBuf>,
    /// Name of the result file [default: {label}-{rate}qps[-concurrencyN]-{model}-{time}.json]
    #[arg(long, value_name = "FILE")]
    pub result_filename: Option<PathBuf>,
    /// What else the result file holds
    #[arg(long, value_name = "KEY=VALUE", num_args = 1.., value_parser = key_value)]
    pub metadata: Vec<(String, String)>,
    /// What the result is called [default: the backend]
    #[arg(long)]
    pub label: Option<String>,
    /// No progress
    #[arg(long)]
    pub disable_tqdm: bool,

    /// Processes on this machine whose memory is read during the run
    #[arg(long, value_name = "PID", num_args = 1..)]
    pub watch_pid: Vec<u32>,
    /// Seconds after which a request has failed
    #[arg(long, value_name = "SECONDS", default_value_t = REQUEST_TIMEOUT.as_secs() as u32)]
    pub request_timeout_sec: u32,
    /// End standard output with the result as one line of JSON
    #[arg(long)]
    pub json: bool,
    /// Directory for result.json [default: runs/{UTC time}-bench-serve]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

impl Options {
    /// The run that the options describe. Without `--request-id-prefix` it is a random one.
    ///
    /// Fails on options that do not go together.
    pub fn config(&self) -> Result<Config, Error> {
        let address = format!("http://{}:{}", bracketed(&self.host), self.port);
        let mut config = Config::new(self.base_url.clone().unwrap_or(address));
        config.target = Target {
            endpoint: self.endpoint.clone(),
            backend: self.backend,
            model: self.model.clone(),
            served_model_name: self.served_model_name.clone(),
            headers: self.header.clone(),
            extra_body: self.extra_body(),
            request_id_prefix: self
                .request_id_prefix
                .clone()
                .unwrap_or_else(|| format!("bench-{:08x}-", rand::random::<u32>())),
            request_timeout: Duration::from_secs(self.request_timeout_sec.into()),
            ignore_eos: self.ignore_eos || self.dataset.needs_full_outputs(),
            ..config.target
        };
        Ok(Config {
            dataset: self.dataset.dataset()?,
            num_prompts: self.num_prompts,
            rate: self.request_rate,
            ramp: self.ramp(),
            probe_rate: self.probe_request_rate,
            watch_pids: self.watch_pid.clone(),
            burstiness: self.burstiness,
            max_concurrency: self.max_concurrency,
            seed: self.seed,
            num_warmups: self.num_warmups,
            ready_check_timeout: Duration::from_secs(self.ready_check_timeout_sec.into()),
            goodput: self.goodput_levels()?,
            detailed: self.save_detailed,
            ..config
        })
    }

    /// The sweep, if the options ask for one.
    ///
    /// Fails if a step has no length.
    pub fn sweep_plan(&self) -> Result<Option<sweep::Plan>, Error> {
        let Some((low, high)) = self.sweep else { return Ok(None) };
        let step = Duration::try_from_secs_f64(self.sweep_seconds)
            .ok()
            .filter(|step| !step.is_zero())
            .ok_or_else(|| Error::config("--sweep-seconds", "must be a number above 0"))?;
        Ok(Some(sweep::Plan { low, high, step }))
    }

    /// The soak, if the options ask for one.
    pub fn soak_plan(&self) -> Option<soak::Plan> {
        let duration = self.duration?;
        Some(soak::Plan { duration, window: self.window, watch: self.watch.clone() })
    }

    /// How the result is to be shown.
    pub fn presentation(&self) -> Presentation {
        Presentation {
            metrics: self.percentile_metrics.clone(),
            percentiles: self.metric_percentiles.clone(),
            label: self.label.clone(),
            metadata: self.metadata.clone(),
            detailed: self.save_detailed,
        }
    }

    /// Writes `result.json` to the directory of the run, and the result file if asked for.
    /// Returns their paths.
    pub fn save(&self, report: &Report) -> Result<Vec<PathBuf>, Error> {
        let presentation = self.presentation();
        let result = report.to_json(&presentation);
        let dir = RunDir::create(self.out.as_deref(), "bench-serve", report.facts.started_at)?;
        dir.write_json("result.json", &result)?;
        let mut written = vec![dir.file("result.json")];
        if self.save_result || self.append_result {
            written.push(self.save_result_file(report, &result, self.append_result)?);
        }
        Ok(written)
    }

    /// Writes `result.json` of a sweep to the directory of the run, the full result of each step
    /// in a directory of its own below it, and to the result directory if asked for. Returns the
    /// paths.
    pub fn save_sweep(&self, sweep: &sweep::Sweep) -> Result<Vec<PathBuf>, Error> {
        let presentation = self.presentation();
        let began = sweep.steps.first().map_or(SystemTime::now(), |s| s.report.facts.started_at);
        let dir = RunDir::create(self.out.as_deref(), "bench-sweep", began)?;
        dir.write_json("result.json", &sweep.to_json())?;
        let mut written = vec![dir.file("result.json")];
        for (index, step) in sweep.steps.iter().enumerate() {
            let result = step.report.to_json(&presentation);
            let step_dir = format!("steps/{index:02}");
            dir.make_dir(&step_dir)?;
            let name = format!("{step_dir}/result.json");
            dir.write_json(&name, &result)?;
            written.push(dir.file(&name));
            if self.save_result || self.append_result {
                // One file cannot be replaced by each step: with a name of its own it is a line.
                let append = self.append_result || self.result_filename.is_some();
                written.push(self.save_result_file(&step.report, &result, append)?);
            }
        }
        Ok(written)
    }

    fn save_result_file(
        &self,
        report: &Report,
        result: &Map<String, Value>,
        append: bool,
    ) -> Result<PathBuf, Error> {
        let name = self.result_filename.clone();
        let name = name.unwrap_or_else(|| report.file_name(&self.presentation()).into());
        let path = self.result_dir.clone().unwrap_or_default().join(name);
        result::write(&path, result, append)?;
        Ok(path)
    }

    /// The sampling options, and over them the extra body.
    fn extra_body(&self) -> Map<String, Value> {
        let mut body = self.sampling.fields();
        if self.split_ttft {
            body.insert("vllm_xargs".to_owned(), json!({timings::ASK: 1}));
        }
        body.extend(self.extra_body.clone().unwrap_or_default());
        body
    }

    /// The rate that grows. clap sees to it that its three options come together.
    fn ramp(&self) -> Option<Ramp> {
        let strategy = self.ramp_up_strategy?;
        Some(Ramp { strategy, start_rps: self.ramp_up_start_rps?, end_rps: self.ramp_up_end_rps? })
    }

    fn goodput_levels(&self) -> Result<Goodput, Error> {
        let mut goodput = Goodput::default();
        for &(metric, ms) in &self.goodput {
            let level = match metric {
                Metric::Ttft => &mut goodput.ttft_s,
                Metric::Tpot => &mut goodput.tpot_s,
                Metric::E2el => &mut goodput.e2el_s,
                other => {
                    let problem = format!("{} has no level; use ttft, tpot, e2el", other.name());
                    return Err(Error::config("--goodput", problem));
                }
            };
            *level = Some(ms / 1e3);
        }
        Ok(goodput)
    }
}

/// An IPv6 address as a URL has it.
fn bracketed(host: &str) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() }
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("give NAME=VALUE")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

fn json_object(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|error| format!("not a JSON object: {error}"))
}

fn rates(text: &str) -> Result<(f64, f64), String> {
    let rates =
        text.split_once(':').and_then(|(low, high)| Some((low.parse().ok()?, high.parse().ok()?)));
    rates
        .filter(|(low, high): &(f64, f64)| *low > 0.0 && low <= high && high.is_finite())
        .ok_or_else(|| "give LOW:HIGH in requests per second, such as 1:100".to_owned())
}

fn percentile(text: &str) -> Result<f64, String> {
    let percent = text.parse().ok().filter(|percent| (0.0..=100.0).contains(percent));
    percent.ok_or_else(|| "give a number from 0 to 100".to_owned())
}

fn service_level(text: &str) -> Result<(Metric, f64), String> {
    let (metric, ms) = text.split_once(':').ok_or("give METRIC:MILLISECONDS, such as ttft:500")?;
    let limit = ms.parse().ok().filter(|ms: &f64| *ms >= 0.0 && ms.is_finite());
    let ms = limit.ok_or_else(|| format!("{ms:?} is not a number of milliseconds"))?;
    Ok((metric.parse()?, ms))
}

#[cfg(test)]
mod tests;
