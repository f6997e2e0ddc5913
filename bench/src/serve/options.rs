//! The command line of `pdlab bench serve`, with the option names of `vllm bench serve`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::{Map, Value};

use super::report::{Metric, Presentation};
use super::run::Config;
use super::target::REQUEST_TIMEOUT;
use super::trace::Labels;
use super::{Backend, Dataset, Error, Goodput, Random, Rate, Report, Target, TimedTrace, result};
use crate::run_dir::RunDir;

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
    /// Ask for outputs of full length; always so for random and timed_trace
    #[arg(long)]
    pub ignore_eos: bool,

    /// What to send
    #[arg(long, value_name = "NAME", default_value = "random")]
    pub dataset_name: DatasetName,
    /// File of the dataset
    #[arg(long, value_name = "FILE")]
    pub dataset_path: Option<PathBuf>,
    /// Number of requests; of a trace, its first ones
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub num_prompts: usize,
    /// Seed of prompts and arrivals
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Requests per second; inf sends all at once
    #[arg(long, value_name = "RATE", default_value = "inf")]
    pub request_rate: Rate,
    /// Regularity of arrivals: below 1 burstier than Poisson (1), above more even, inf constant
    #[arg(long, default_value_t = 1.0)]
    pub burstiness: f64,
    /// Most requests at a time; the wait for a slot is reported apart from latency
    #[arg(long, value_name = "N")]
    pub max_concurrency: Option<usize>,
    /// Requests to send before the measurement
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub num_warmups: usize,
    /// Seconds to wait for the server to answer a first request; 0 for no such check
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub ready_check_timeout_sec: u32,

    /// Tokens of a prompt, whatever the dataset calls it
    #[arg(long, value_name = "N")]
    pub input_len: Option<u32>,
    /// Tokens to generate, whatever the dataset calls it
    #[arg(long, value_name = "N")]
    pub output_len: Option<u32>,
    /// random: tokens of a prompt, without the prefix
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub random_input_len: u32,
    /// random: tokens to generate
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub random_output_len: u32,
    /// random: lengths vary by this factor up and down; a number or {"input":R,"output":R}
    #[arg(long, value_name = "RATIO", default_value = "0.0", value_parser = range_ratio)]
    pub random_range_ratio: (f64, f64),
    /// random: tokens that all prompts begin with
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub random_prefix_len: u32,
    /// timed_trace: tokens of a hash id's chunk; 512 for Mooncake's traces
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub timed_trace_chunk_hash_size: u32,
    /// timed_trace: seconds per unit of the timestamps; 0.001 for Mooncake's traces
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    pub timed_trace_sec_multiplier: f64,
    /// timed_trace: field of the time
    #[arg(long, value_name = "FIELD", default_value = "timestamp")]
    pub timed_trace_label_timestamp: String,
    /// timed_trace: field of the prompt's length
    #[arg(long, value_name = "FIELD", default_value = "input_length")]
    pub timed_trace_label_input_length: String,
    /// timed_trace: field of the output's length
    #[arg(long, value_name = "FIELD", default_value = "output_length")]
    pub timed_trace_label_output_length: String,
    /// timed_trace: field of the hash ids
    #[arg(long, value_name = "FIELD", default_value = "hash_ids")]
    pub timed_trace_label_hash_ids: String,

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

/// Datasets by their names in vLLM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum DatasetName {
    /// Random prompts of random length.
    Random,
    /// A trace with times, from --dataset-path.
    TimedTrace,
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
            extra_body: self.extra_body.clone().unwrap_or_default(),
            request_id_prefix: self
                .request_id_prefix
                .clone()
                .unwrap_or_else(|| format!("bench-{:08x}-", rand::random::<u32>())),
            request_timeout: Duration::from_secs(self.request_timeout_sec.into()),
            ..config.target
        };
        Ok(Config {
            dataset: self.dataset()?,
            num_prompts: self.num_prompts,
            rate: self.request_rate,
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
            let name = self.result_filename.clone();
            let name = name.unwrap_or_else(|| report.file_name(&presentation).into());
            let path = self.result_dir.clone().unwrap_or_default().join(name);
            result::write(&path, &result, self.append_result)?;
            written.push(path);
        }
        Ok(written)
    }

    fn dataset(&self) -> Result<Dataset, Error> {
        match self.dataset_name {
            DatasetName::Random => {
                let (input_range_ratio, output_range_ratio) = self.random_range_ratio;
                Ok(Dataset::Random(Random {
                    input_tokens: self.input_len.unwrap_or(self.random_input_len),
                    output_tokens: self.output_len.unwrap_or(self.random_output_len),
                    input_range_ratio,
                    output_range_ratio,
                    prefix_tokens: self.random_prefix_len,
                }))
            }
            DatasetName::TimedTrace => {
                if self.input_len.is_some() || self.output_len.is_some() {
                    let problem = "a trace has its own lengths; leave --input-len and --output-len";
                    return Err(Error::config("--dataset-name", problem));
                }
                let path = self.dataset_path.clone().ok_or_else(|| {
                    Error::config("--dataset-path", "timed_trace needs the file of the trace")
                })?;
                Ok(Dataset::TimedTrace(TimedTrace {
                    path,
                    chunk_hash_tokens: self.timed_trace_chunk_hash_size,
                    sec_multiplier: self.timed_trace_sec_multiplier,
                    labels: Labels {
                        timestamp: self.timed_trace_label_timestamp.clone(),
                        input_length: self.timed_trace_label_input_length.clone(),
                        output_length: self.timed_trace_label_output_length.clone(),
                        hash_ids: self.timed_trace_label_hash_ids.clone(),
                    },
                }))
            }
        }
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

fn range_ratio(text: &str) -> Result<(f64, f64), String> {
    if let Ok(ratio) = text.parse() {
        return Ok((ratio, ratio));
    }
    let map = json_object(text).ok();
    let field = |name| map.as_ref().and_then(|map| map.get(name)).and_then(Value::as_f64);
    field("input")
        .zip(field("output"))
        .ok_or_else(|| r#"give a number such as 0.5, or {"input":0.5,"output":0.1}"#.to_owned())
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
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        options: Options,
    }

    fn parse(line: &str) -> Result<Options, String> {
        let words = std::iter::once("serve").chain(line.split_whitespace());
        Command::try_parse_from(words).map(|c| c.options).map_err(|error| error.to_string())
    }

    fn config(line: &str) -> Config {
        parse(line).unwrap().config().unwrap()
    }

    #[test]
    fn defaults_are_vllms() {
        let config = config("");
        assert_eq!(config.target.base_url, "http://127.0.0.1:8000");
        assert_eq!((config.num_prompts, config.seed, config.rate), (1000, 0, Rate::Unlimited));
        assert_eq!(config.dataset, Dataset::Random(Random::default()));
        assert!(config.target.ignore_eos && config.target.model.is_none());
        let prefix = config.target.request_id_prefix;
        assert!(prefix.starts_with("bench-") && prefix.len() == 15, "{prefix}");
        assert_eq!(parse("").unwrap().presentation(), Presentation::default());
    }

    #[test]
    fn a_full_command_line() {
        let options = parse(
            "--backend openai-chat --host ::1 --port 9 --endpoint /x --model m \
             --served-model-name s --header A=b=c D=e --extra-body {\"top_k\":1} \
             --request-id-prefix p- --num-prompts 5 --seed 7 --request-rate 2.5 --burstiness inf \
             --max-concurrency 3 --num-warmups 1 --ready-check-timeout-sec 4 --input-len 30 \
             --random-output-len 6 --random-range-ratio {\"input\":0.5,\"output\":0.25} \
             --random-prefix-len 2 --percentile-metrics ttft,e2el --metric-percentiles 50,99.9 \
             --goodput ttft:500 tpot:50 --metadata k=v --label l --save-result --save-detailed \
             --result-dir d --result-filename f --disable-tqdm --json --out o --ignore-eos",
        )
        .unwrap();
        let config = options.config().unwrap();
        assert_eq!(config.target.base_url, "http://[::1]:9");
        assert_eq!(config.target.headers[0], ("A".into(), "b=c".into()));
        assert_eq!(config.target.headers[1], ("D".into(), "e".into()));
        assert_eq!(config.target.extra_body["top_k"], 1);
        assert_eq!((config.rate, config.burstiness), (Rate::PerSecond(2.5), f64::INFINITY));
        assert_eq!(config.ready_check_timeout, Duration::from_secs(4));
        let random = Random {
            input_tokens: 30,
            output_tokens: 6,
            input_range_ratio: 0.5,
            output_range_ratio: 0.25,
            prefix_tokens: 2,
        };
        assert_eq!(config.dataset, Dataset::Random(random));
        let goodput = Goodput { ttft_s: Some(0.5), tpot_s: Some(0.05), e2el_s: None };
        assert_eq!(config.goodput, goodput);
        let presentation = options.presentation();
        assert_eq!(presentation.metrics, [Metric::Ttft, Metric::E2el]);
        assert_eq!(presentation.percentiles, [50.0, 99.9]);
        assert!(presentation.detailed && config.detailed);
    }

    #[test]
    fn a_trace_takes_its_own_options() {
        let line = "--dataset-name timed_trace --dataset-path t.jsonl \
                    --timed-trace-chunk-hash-size 512 --timed-trace-sec-multiplier 0.001 \
                    --timed-trace-label-timestamp at";
        let Dataset::TimedTrace(trace) = config(line).dataset else { panic!("not a trace") };
        assert_eq!((trace.chunk_hash_tokens, trace.sec_multiplier), (512, 0.001));
        assert_eq!(
            (trace.labels.timestamp.as_str(), trace.labels.hash_ids.as_str()),
            ("at", "hash_ids")
        );
        let error = |line| parse(line).unwrap().config().unwrap_err().to_string();
        assert!(error("--dataset-name timed_trace").starts_with("--dataset-path"));
        let lengths = "--dataset-name timed_trace --dataset-path t --input-len 3";
        assert!(error(lengths).contains("its own lengths"));
    }

    #[test]
    fn mistakes_name_the_option_and_the_cure() {
        for (line, part) in [
            ("--ramp-up-strategy linear", "unexpected argument '--ramp-up-strategy'"),
            ("--request-rate 0", "above 0, or inf"),
            ("--backend grpc", "possible values: openai, openai-chat, vllm"),
            ("--dataset-name hf", "possible values: random, timed_trace"),
            ("--percentile-metrics ttft,speed", "the metrics are ttft, tpot"),
            ("--metric-percentiles 101", "from 0 to 100"),
            ("--goodput ttft", "METRIC:MILLISECONDS"),
            ("--goodput ttft:fast", "not a number of milliseconds"),
            ("--metadata k", "NAME=VALUE"),
            ("--extra-body [1]", "not a JSON object"),
            ("--random-range-ratio wide", "a number such as 0.5"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(part), "{line}: {error}");
        }
        let error = parse("--goodput itl:5").unwrap().config().unwrap_err().to_string();
        assert_eq!(error, "--goodput: itl has no level; use ttft, tpot, e2el");
    }
}
