//! From prompts to blocks and bytes. Pure.

use std::collections::HashSet;
use std::time::Duration;

use pdlab_engine::{ChainHash, KvGeometry, Model};
use serde::Serialize;

use crate::serve::dataset::Requests;
use crate::serve::dataset::prompt::PromptPlan;

/// How often a request comes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Arrivals {
    /// As recorded: the last one so long after the first.
    Recorded(Duration),
    /// So many per second.
    Rate(f64),
    /// As fast as they are answered.
    Unknown,
}

/// What is to be reckoned.
pub(super) struct Work<'a> {
    pub(super) model: &'a Model,
    pub(super) tp: u32,
    pub(super) geometry: KvGeometry,
    pub(super) dataset: &'static str,
    pub(super) requests: &'a Requests,
    /// Bytes of a text that are taken for a token.
    pub(super) bytes_per_token: f64,
    pub(super) arrivals: Arrivals,
    pub(super) link_gbps: Option<f64>,
}

/// What a workload means for whoever moves its KV. Bytes and blocks are those of one rank.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Shape {
    /// Model preset.
    pub model: &'static str,
    /// Tensor parallel size.
    pub tensor_parallel_size: u32,
    /// Tokens of a block.
    pub block_size_tokens: usize,
    /// Bytes of KV per token.
    pub bytes_per_token: u64,
    /// Bytes of a block, all layers together.
    pub block_bytes: u64,
    /// Layers. vLLM registers a region for each, so that a block is as many descriptors.
    pub layers: u32,
    /// Where the prompts came from.
    pub dataset: &'static str,
    /// Number of requests.
    pub requests: u64,
    /// Lines of a file that were left out.
    pub bad_lines: u64,
    /// Tokens of a prompt.
    pub prompt_tokens: Spread,
    /// Tokens that are asked for.
    pub output_tokens: Spread,
    /// Blocks of a prompt, the last one counted whole: what moves from prefill to decode.
    pub blocks: Spread,
    /// Bytes on the wire of a request.
    pub bytes: Spread,
    /// Blocks that decode holds in the end: prompt and output.
    pub blocks_held: Spread,
    /// Whole blocks that an earlier request began with, too.
    pub shared_blocks: u64,
    /// All blocks.
    pub total_blocks: u64,
    /// All bytes on the wire, if every block moves.
    pub total_bytes: u64,
    /// The same if a decode kept every block that it ever saw: the least there can be.
    pub distinct_bytes: u64,
    /// Requests per second, where that is known.
    pub requests_per_s: Option<f64>,
    /// Bytes per second that they need on average.
    pub bytes_per_s: Option<f64>,
    /// Speed of the link, Gbit/s, if one was given.
    pub link_gbps: Option<f64>,
    /// Time of a request's bytes on that link when it has it to itself, milliseconds.
    pub link_ms: Option<Spread>,
    /// What else there is to say about the dataset.
    pub notes: Vec<String>,
}

/// How a quantity is spread over the requests. Percentiles are values that occur (nearest rank).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// Mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Largest.
    pub max: f64,
}

impl Spread {
    fn of(values: impl IntoIterator<Item = f64>) -> Spread {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let rank = |share: f64| {
            let rank = (share * values.len() as f64).ceil().max(1.0) as usize;
            values.get(rank - 1).copied().unwrap_or(0.0)
        };
        let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
        Spread { mean, p50: rank(0.5), p90: rank(0.9), p99: rank(0.99), max: rank(1.0) }
    }
}

impl Work<'_> {
    pub(super) fn shape(&self) -> Shape {
        let (model, geometry, samples) = (self.model, self.geometry, &self.requests.samples);
        let block_bytes = geometry.block_bytes as u64;
        let blocks_of = |tokens: u64| geometry.blocks_for(tokens as usize) as u64;
        let over = |value: &dyn Fn(usize) -> f64| Spread::of((0..samples.len()).map(value));
        let prompt = |i: usize| samples[i].prompt.tokens();
        let output = |i: usize| u64::from(samples[i].output_tokens);
        let bytes = |i: usize| blocks_of(prompt(i)) * block_bytes;

        let total_blocks: u64 = (0..samples.len()).map(|i| blocks_of(prompt(i))).sum();
        let shared_blocks = self.shared_blocks();
        let total_bytes = total_blocks * block_bytes;
        let requests_per_s = match self.arrivals {
            Arrivals::Rate(rate) => Some(rate),
            // n requests are n - 1 gaps.
            Arrivals::Recorded(last) if !last.is_zero() => {
                Some((samples.len() as f64 - 1.0) / last.as_secs_f64())
            }
            _ => None,
        };
        let link_ms = |gbps: f64| over(&|i| bytes(i) as f64 * 8.0 / (gbps * 1e9) * 1e3);
        Shape {
            model: model.name,
            tensor_parallel_size: self.tp,
            block_size_tokens: geometry.block_size_tokens,
            bytes_per_token: geometry.bytes_per_token as u64,
            block_bytes,
            layers: model.layers,
            dataset: self.dataset,
            requests: samples.len() as u64,
            bad_lines: self.requests.bad_lines,
            prompt_tokens: over(&|i| prompt(i) as f64),
            output_tokens: over(&|i| output(i) as f64),
            blocks: over(&|i| blocks_of(prompt(i)) as f64),
            bytes: over(&|i| bytes(i) as f64),
            blocks_held: over(&|i| blocks_of(prompt(i) + output(i)) as f64),
            shared_blocks,
            total_blocks,
            total_bytes,
            distinct_bytes: (total_blocks - shared_blocks) * block_bytes,
            requests_per_s,
            bytes_per_s: requests_per_s
                .map(|rate| rate * total_bytes as f64 / samples.len().max(1) as f64),
            link_gbps: self.link_gbps,
            link_ms: self.link_gbps.map(link_ms),
            notes: self.requests.notes.clone(),
        }
    }

    /// Whole blocks that a request has in common with an earlier one, from the start of the prompt on: what an engine
    /// finds in its prefix cache if nothing is ever evicted.
    fn shared_blocks(&self) -> u64 {
        let mut seen = HashSet::new();
        let mut text = Vec::new();
        let mut shared = 0;
        for sample in &self.requests.samples {
            text.clear();
            sample.prompt.write_text(&mut text);
            let block = self.block_text_bytes(&sample.prompt, text.len());
            let mut hash = ChainHash::seed(self.model.name, 0);
            let mut found = true;
            for bytes in text.chunks_exact(block) {
                hash = bytes.iter().fold(hash, |hash, &byte| hash.next(u32::from(byte)));
                found &= !seen.insert(hash.get());
                shared += u64::from(found);
            }
        }
        shared
    }

    /// Bytes of a prompt's text that make a block. Made prompts have a byte per token; words are estimated.
    fn block_text_bytes(&self, prompt: &PromptPlan, text_bytes: usize) -> usize {
        let tokens = self.geometry.block_size_tokens;
        let exact = prompt.tokens() == text_bytes as u64;
        let bytes = if exact { tokens as f64 } else { tokens as f64 * self.bytes_per_token };
        (bytes.round() as usize).max(1)
    }
}

/// The shape of `requests`.
#[cfg(test)]
pub(super) fn of_requests(requests: &Requests, arrivals: Arrivals) -> Shape {
    let model = Model::by_name("llama-3.1-8b").expect("a preset");
    let geometry = KvGeometry::new(&model, 1, 1.0, 16, 2).expect("sizes that can be");
    let link_gbps = Some(400.0);
    let dataset = "random";
    Work {
        model: &model,
        tp: 1,
        geometry,
        dataset,
        requests,
        bytes_per_token: 4.0,
        arrivals,
        link_gbps,
    }
    .shape()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::dataset::Sample;
    use crate::serve::dataset::prompt::Run;
    use std::sync::Arc;

    fn runs(runs: &[(u64, u32)], output_tokens: u32) -> Sample {
        let runs = runs.iter().map(|&(seed, tokens)| Run { seed, tokens }).collect();
        Sample { prompt: PromptPlan::new(runs), output_tokens }
    }

    fn requests(samples: Vec<Sample>) -> Requests {
        Requests { samples, ..Requests::default() }
    }

    #[test]
    fn a_prompt_moves_as_whole_blocks() {
        let shape = of_requests(&requests(vec![runs(&[(1, 33)], 15)]), Arrivals::Rate(10.0));
        // Llama 3.1 8B: 32 layers, key and value of 8 heads of 128 elements of 2 bytes.
        assert_eq!((shape.bytes_per_token, shape.block_bytes), (131_072, 2 << 20));
        assert_eq!((shape.blocks.max, shape.bytes.max), (3.0, 3.0 * (2 << 20) as f64));
        assert_eq!(shape.blocks_held.max, 3.0, "48 tokens are three blocks");
        assert_eq!(shape.bytes_per_s, Some(10.0 * 3.0 * (2 << 20) as f64));
        let ms = shape.link_ms.unwrap().max;
        assert!((ms - 6_291_456.0 * 8.0 / 400e9 * 1e3).abs() < 1e-9, "{ms}");
    }

    #[test]
    fn what_prompts_begin_with_alike_is_counted_once() {
        let shape = of_requests(
            &requests(vec![
                runs(&[(1, 64), (2, 32)], 1),
                runs(&[(1, 64), (3, 32)], 1),
                // The same, but not from the start.
                runs(&[(9, 16), (1, 64)], 1),
                // Shares all that the first has but the block that it ends in.
                runs(&[(1, 64), (2, 30)], 1),
            ]),
            Arrivals::Unknown,
        );
        assert_eq!(shape.shared_blocks, 4 + 5);
        assert_eq!(shape.total_blocks, 6 + 6 + 5 + 6);
        assert_eq!(shape.distinct_bytes, 14 * shape.block_bytes);
        assert_eq!((shape.requests_per_s, shape.bytes_per_s), (None, None));
    }

    #[test]
    fn words_are_blocks_of_about_as_many_bytes() {
        let text = |text: String| Sample {
            prompt: PromptPlan::text(Arc::from(text.as_str()), (text.len() / 4) as u32),
            output_tokens: 1,
        };
        let same = "x".repeat(128);
        let shape = of_requests(
            &requests(vec![text(same.clone() + &"a".repeat(64)), text(same + &"b".repeat(64))]),
            Arrivals::Recorded(Duration::from_secs(2)),
        );
        assert_eq!((shape.total_blocks, shape.shared_blocks), (6, 2));
        assert_eq!(shape.requests_per_s, Some(0.5));
    }

    #[test]
    fn nothing_is_a_shape_as_well() {
        let shape = of_requests(&Requests::default(), Arrivals::Rate(1.0));
        assert_eq!((shape.requests, shape.total_bytes, shape.bytes.max), (0, 0, 0.0));
        assert_eq!(shape.bytes_per_s, Some(0.0));
    }

    #[test]
    fn percentiles_are_values_that_occur() {
        let spread = Spread::of((1..=100).map(f64::from));
        assert_eq!((spread.p50, spread.p90, spread.p99, spread.max), (50.0, 90.0, 99.0, 100.0));
        assert_eq!(spread.mean, 50.5);
    }
}
