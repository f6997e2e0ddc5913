//! What to send.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::Value;

use super::json_object;
use crate::serve::Error;
use crate::serve::dataset::sharegpt::BYTES_PER_TOKEN;
use crate::serve::dataset::trace::Labels;
use crate::serve::dataset::{
    BurstGpt, Custom, Dataset, PrefixRepetition, Random, ShareGpt, Source, TimedTrace,
};

/// Datasets and their lengths.
#[derive(Debug, Clone, Args)]
pub struct DatasetOptions {
    /// What to send
    #[arg(long, value_name = "NAME", default_value = "random")]
    dataset_name: DatasetName,
    /// File of the dataset
    #[arg(long, value_name = "FILE")]
    dataset_path: Option<PathBuf>,
    /// Keep the order of the dataset
    #[arg(long)]
    disable_shuffle: bool,
    /// Send no request of a file twice, even if there are fewer than --num-prompts
    #[arg(long)]
    no_oversample: bool,
    /// Leave out lines of a file that cannot be read, and count them, instead of refusing the file
    #[arg(long)]
    skip_bad_lines: bool,
    /// Send requests at the times that the dataset has; always so for timed_trace
    #[arg(long)]
    self_timed: bool,

    /// Tokens of a prompt, whatever the dataset calls it
    #[arg(long, value_name = "N")]
    input_len: Option<u32>,
    /// Tokens to generate, whatever the dataset calls it
    #[arg(long, value_name = "N")]
    output_len: Option<u32>,
    /// random: tokens of a prompt, without the prefix
    #[arg(long, value_name = "N", default_value_t = 1024)]
    random_input_len: u32,
    /// random: tokens to generate
    #[arg(long, value_name = "N", default_value_t = 128)]
    random_output_len: u32,
    /// random: lengths vary by this factor up and down; a number or {"input":R,"output":R}
    #[arg(long, value_name = "RATIO", default_value = "0.0", value_parser = range_ratio)]
    random_range_ratio: (f64, f64),
    /// random: tokens that all prompts begin with
    #[arg(long, value_name = "N", default_value_t = 0)]
    random_prefix_len: u32,
    /// prefix_repetition: tokens of a prefix
    #[arg(long, value_name = "N", default_value_t = 256)]
    prefix_repetition_prefix_len: u32,
    /// prefix_repetition: tokens after it
    #[arg(long, value_name = "N", default_value_t = 256)]
    prefix_repetition_suffix_len: u32,
    /// prefix_repetition: number of prefixes
    #[arg(long, value_name = "N", default_value_t = 10)]
    prefix_repetition_num_prefixes: usize,
    /// prefix_repetition: tokens to generate
    #[arg(long, value_name = "N", default_value_t = 128)]
    prefix_repetition_output_len: u32,
    /// sharegpt: tokens to generate [default: as many as the recorded answer has]
    #[arg(long, value_name = "N")]
    sharegpt_output_len: Option<u32>,
    /// custom: tokens to generate [default: what each line says]
    #[arg(long, value_name = "N", value_parser = custom_output_len, allow_hyphen_values = true)]
    custom_output_len: Option<OutputLen>,
    /// sharegpt, custom: bytes of text that are about one token; 1 for pdlab's own workers
    #[arg(long, value_name = "BYTES", default_value_t = BYTES_PER_TOKEN)]
    bytes_per_token: f64,
    /// timed_trace: tokens of a hash id's chunk; 512 for Mooncake's traces
    #[arg(long, value_name = "N", default_value_t = 16)]
    timed_trace_chunk_hash_size: u32,
    /// timed_trace: seconds per unit of the timestamps; 0.001 for Mooncake's traces
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    timed_trace_sec_multiplier: f64,
    /// timed_trace: field of the time
    #[arg(long, value_name = "FIELD", default_value = "timestamp")]
    timed_trace_label_timestamp: String,
    /// timed_trace: field of the prompt's length
    #[arg(long, value_name = "FIELD", default_value = "input_length")]
    timed_trace_label_input_length: String,
    /// timed_trace: field of the output's length
    #[arg(long, value_name = "FIELD", default_value = "output_length")]
    timed_trace_label_output_length: String,
    /// timed_trace: field of the hash ids
    #[arg(long, value_name = "FIELD", default_value = "hash_ids")]
    timed_trace_label_hash_ids: String,
}

/// Datasets by their names in vLLM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum DatasetName {
    /// Random prompts of random length.
    Random,
    /// A few prefixes, each shared by many prompts.
    PrefixRepetition,
    /// Conversations, from --dataset-path.
    #[value(name = "sharegpt")]
    ShareGpt,
    /// Lengths of BurstGPT's log, from --dataset-path.
    #[value(name = "burstgpt")]
    BurstGpt,
    /// Prompts of your own, from --dataset-path: {"prompt": "...", "output_tokens": N} a line.
    Custom,
    /// A trace with times, from --dataset-path.
    TimedTrace,
}

/// A length, or -1 for each line's own, as vLLM has it.
type OutputLen = Option<u32>;

impl DatasetOptions {
    /// The dataset.
    ///
    /// Fails without a file that it needs, and on options that are not for it.
    pub(crate) fn dataset(&self) -> Result<Dataset, Error> {
        let own_times = [DatasetName::TimedTrace, DatasetName::BurstGpt];
        if self.self_timed && !own_times.contains(&self.dataset_name) {
            let problem = "the dataset has no times; use timed_trace or burstgpt";
            return Err(Error::config("--self-timed", problem));
        }
        if !(self.bytes_per_token > 0.0 && self.bytes_per_token.is_finite()) {
            return Err(Error::config("--bytes-per-token", "must be a number above 0"));
        }
        let own_lengths = || match (self.input_len, self.output_len) {
            (None, None) => Ok(()),
            _ => Err(Error::config(
                "--dataset-name",
                "a trace has its own lengths; leave --input-len and --output-len",
            )),
        };
        let own_prompts = || match self.input_len {
            None => Ok(()),
            Some(_) => Err(Error::config("--input-len", "the dataset has its own prompts")),
        };
        Ok(match self.dataset_name {
            DatasetName::Random => Dataset::Random(self.random()),
            DatasetName::PrefixRepetition => {
                own_prompts()?;
                Dataset::PrefixRepetition(PrefixRepetition {
                    prefix_tokens: self.prefix_repetition_prefix_len,
                    suffix_tokens: self.prefix_repetition_suffix_len,
                    prefixes: self.prefix_repetition_num_prefixes,
                    output_tokens: self.output_len.unwrap_or(self.prefix_repetition_output_len),
                    shuffle: !self.disable_shuffle,
                })
            }
            DatasetName::ShareGpt => {
                own_prompts()?;
                Dataset::ShareGpt(ShareGpt {
                    source: self.source()?,
                    output_tokens: self.output_len.or(self.sharegpt_output_len),
                    bytes_per_token: self.bytes_per_token,
                })
            }
            DatasetName::Custom => {
                own_prompts()?;
                Dataset::Custom(Custom {
                    source: self.source()?,
                    output_tokens: self.output_len.or(self.custom_output_len.flatten()),
                    bytes_per_token: self.bytes_per_token,
                })
            }
            DatasetName::BurstGpt => {
                own_lengths()?;
                Dataset::BurstGpt(BurstGpt { source: self.source()?, self_timed: self.self_timed })
            }
            DatasetName::TimedTrace => {
                own_lengths()?;
                Dataset::TimedTrace(self.trace()?)
            }
        })
    }

    /// Bytes of a text that are taken for a token.
    pub(crate) fn bytes_per_token(&self) -> f64 {
        self.bytes_per_token
    }

    /// Datasets whose lengths mean nothing unless outputs are as long as asked for; vLLM does so
    /// for the same.
    pub(super) fn needs_full_outputs(&self) -> bool {
        matches!(self.dataset_name, DatasetName::Random | DatasetName::TimedTrace)
    }

    fn random(&self) -> Random {
        let (input_range_ratio, output_range_ratio) = self.random_range_ratio;
        Random {
            input_tokens: self.input_len.unwrap_or(self.random_input_len),
            output_tokens: self.output_len.unwrap_or(self.random_output_len),
            input_range_ratio,
            output_range_ratio,
            prefix_tokens: self.random_prefix_len,
        }
    }

    fn trace(&self) -> Result<TimedTrace, Error> {
        Ok(TimedTrace {
            source: self.source()?,
            chunk_hash_tokens: self.timed_trace_chunk_hash_size,
            sec_multiplier: self.timed_trace_sec_multiplier,
            labels: Labels {
                timestamp: self.timed_trace_label_timestamp.clone(),
                input_length: self.timed_trace_label_input_length.clone(),
                output_length: self.timed_trace_label_output_length.clone(),
                hash_ids: self.timed_trace_label_hash_ids.clone(),
            },
        })
    }

    fn source(&self) -> Result<Source, Error> {
        let path = self.dataset_path.clone().ok_or_else(|| {
            let name = self.dataset_name.to_possible_value();
            let name = name.as_ref().map_or("it", |value| value.get_name());
            Error::config("--dataset-path", format!("{name} needs the file of the dataset"))
        })?;
        Ok(Source {
            path,
            skip_bad_lines: self.skip_bad_lines,
            shuffle: !self.disable_shuffle,
            oversample: !self.no_oversample,
        })
    }
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

fn custom_output_len(text: &str) -> Result<OutputLen, String> {
    match text {
        "-1" => Ok(None),
        _ => text
            .parse()
            .map(Some)
            .map_err(|_| "give a number of tokens, or -1 for what each line says".to_owned()),
    }
}
