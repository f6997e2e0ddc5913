//! `pdlab bench plan`: what a model and its prompts mean in KV blocks and bytes, before anything runs.
//!
//! - [`Options`]: the command line. `shape`: the sums, pure. `table`: the result as text.

mod shape;
mod table;

use clap::Args;
use pdlab_engine::{KvGeometry, Model};

use crate::serve::options::DatasetOptions;
use crate::serve::{Error, Rate};
use shape::Arrivals;
pub use shape::{Shape, Spread};
pub use table::table;

/// Options of `pdlab bench plan`. The prompts are those that `pdlab bench serve` would send with the same options and
/// seed.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Model whose KV is moved: a preset of the workers
    #[arg(long, value_name = "NAME", default_value = "llama-3.1-8b")]
    pub kv_model: String,
    /// Tensor parallel size; figures are those of one rank
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub tensor_parallel_size: u32,
    /// Tokens per KV block
    #[arg(long, value_name = "N", default_value_t = pdlab_engine::DEFAULT_BLOCK_SIZE_TOKENS)]
    pub block_size: usize,
    /// Share of the real KV bytes per token that is moved; 1 is full size
    #[arg(long, value_name = "SHARE", default_value_t = 1.0)]
    pub kv_scale: f64,

    #[command(flatten)]
    dataset: DatasetOptions,

    /// Number of requests; of a trace, its first ones
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub num_prompts: usize,
    /// Seed of the prompts
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Requests per second, for the bandwidth that they need; a trace with times has its own
    #[arg(long, value_name = "RATE")]
    pub request_rate: Option<Rate>,
    /// Speed of the link, in Gbit/s, for the time that a request's KV takes on it
    #[arg(long, value_name = "GBIT", value_parser = positive)]
    pub link_gbps: Option<f64>,
    /// Print the result as one JSON object
    #[arg(long)]
    pub json: bool,
}

impl Options {
    /// What the prompts mean for the transport.
    ///
    /// # Errors
    /// On an unknown model, on sizes that cannot be, and on a dataset that cannot be read.
    pub fn shape(&self) -> Result<Shape, Error> {
        let model = Model::by_name(&self.kv_model)
            .map_err(|error| Error::config("--kv-model", error.to_string()))?;
        // The pool does not matter here; the smallest there is.
        let (tp, scale, tokens) = (self.tensor_parallel_size, self.kv_scale, self.block_size);
        let geometry = KvGeometry::new(&model, tp, scale, tokens, 2).map_err(|error| {
            Error::config("--tensor-parallel-size, --kv-scale, --block-size", error.to_string())
        })?;
        let dataset = self.dataset.dataset()?;
        if dataset.is_timed() && self.request_rate.is_some() {
            return Err(Error::config("--request-rate", "the dataset has times of its own"));
        }
        let requests = dataset.requests(self.num_prompts, self.seed)?;
        let arrivals = match (&requests.due, self.request_rate) {
            (Some(due), _) => Arrivals::Recorded(due.last().copied().unwrap_or_default()),
            (None, Some(Rate::PerSecond(rate))) => Arrivals::Rate(rate),
            (None, _) => Arrivals::Unknown,
        };
        Ok(shape::Work {
            model: &model,
            tp,
            geometry,
            dataset: dataset.name(),
            requests: &requests,
            bytes_per_token: self.dataset.bytes_per_token(),
            arrivals,
            link_gbps: self.link_gbps,
        }
        .shape())
    }
}

fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| *number > 0.0 && number.is_finite());
    number.ok_or_else(|| "give a number above 0".to_owned())
}
