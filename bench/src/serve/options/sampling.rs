//! How to generate: fields that every request carries.

use clap::Args;
use serde_json::{Map, Value, json};

use super::json_object;

/// Sampling parameters; what is not given is not sent.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct SamplingOptions {
    /// Sampling temperature [default: the server's]
    #[arg(long, value_name = "T")]
    temperature: Option<f64>,
    /// Share of probability to sample from
    #[arg(long, value_name = "P")]
    top_p: Option<f64>,
    /// Number of tokens to sample from
    #[arg(long, value_name = "K", allow_hyphen_values = true)]
    top_k: Option<i64>,
    /// Least probability, relative to the most likely token's
    #[arg(long, value_name = "P")]
    min_p: Option<f64>,
    /// Penalty of tokens by how often they came
    #[arg(long, value_name = "X", allow_hyphen_values = true)]
    frequency_penalty: Option<f64>,
    /// Penalty of tokens that came
    #[arg(long, value_name = "X", allow_hyphen_values = true)]
    presence_penalty: Option<f64>,
    /// Factor against repetition
    #[arg(long, value_name = "X")]
    repetition_penalty: Option<f64>,
    /// Log probabilities to ask for with each token
    #[arg(long, value_name = "N")]
    logprobs: Option<u32>,
    /// Ask for beam search
    #[arg(long)]
    use_beam_search: bool,
    /// JSON object for the chat template, with openai-chat
    #[arg(long, value_name = "JSON", value_parser = json_object)]
    chat_template_kwargs: Option<Map<String, Value>>,
}

impl SamplingOptions {
    /// The fields of a request that they set.
    pub(super) fn fields(&self) -> Map<String, Value> {
        let given = [
            ("temperature", self.temperature.map(|x| json!(x))),
            ("top_p", self.top_p.map(|x| json!(x))),
            ("top_k", self.top_k.map(|x| json!(x))),
            ("min_p", self.min_p.map(|x| json!(x))),
            ("frequency_penalty", self.frequency_penalty.map(|x| json!(x))),
            ("presence_penalty", self.presence_penalty.map(|x| json!(x))),
            ("repetition_penalty", self.repetition_penalty.map(|x| json!(x))),
            ("logprobs", self.logprobs.map(|x| json!(x))),
            ("use_beam_search", self.use_beam_search.then_some(Value::Bool(true))),
            ("chat_template_kwargs", self.chat_template_kwargs.clone().map(Value::Object)),
        ];
        given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }
}
