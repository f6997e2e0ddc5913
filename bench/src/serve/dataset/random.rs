//! The `random` dataset: prompts and outputs of random length, with an optional shared prefix.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use super::prompt::{PromptPlan, Run, derive_seed};
use super::{Error, Sample};

/// Lengths of random prompts and outputs. The default is that of `vllm bench serve`.
#[derive(Debug, Clone, PartialEq)]
pub struct Random {
    /// Tokens of a prompt, the shared prefix not counted.
    pub input_tokens: u32,
    /// Tokens of an output.
    pub output_tokens: u32,
    /// How far the lengths of prompts vary: uniform over length x (1 ± ratio), below 1.
    pub input_range_ratio: f64,
    /// The same for the lengths of outputs.
    pub output_range_ratio: f64,
    /// Tokens that all prompts begin with.
    pub prefix_tokens: u32,
}

impl Default for Random {
    fn default() -> Self {
        Self {
            input_tokens: 1024,
            output_tokens: 128,
            input_range_ratio: 0.0,
            output_range_ratio: 0.0,
            prefix_tokens: 0,
        }
    }
}

/// Kinds of things that seeds are derived for.
const PREFIX: u64 = 1;
const PROMPT: u64 = 2;
const LENGTHS: u64 = 3;

impl Random {
    /// The endless sequence of requests of this seed.
    ///
    /// Fails if a ratio is not in 0..1 or a prompt could be empty.
    pub fn samples(&self, seed: u64) -> Result<Samples, Error> {
        for ratio in [self.input_range_ratio, self.output_range_ratio] {
            if !(0.0..1.0).contains(&ratio) {
                let problem = format!("{ratio} is out of range; give a number from 0 to below 1");
                return Err(Error::config("--random-range-ratio", problem));
            }
        }
        if self.output_tokens == 0 {
            return Err(Error::config("--random-output-len", "must be at least 1"));
        }
        let input = Bounds::new(self.input_tokens, self.input_range_ratio);
        if self.prefix_tokens == 0 && input.low == 0 {
            let problem = "a prompt could be empty; give a longer one or a shorter range";
            return Err(Error::config("--random-input-len", problem));
        }
        let output = Bounds::new(self.output_tokens, self.output_range_ratio);
        Ok(Samples {
            input,
            output: Bounds { low: output.low.max(1), ..output },
            prefix: Run { seed: derive_seed(seed, PREFIX, 0), tokens: self.prefix_tokens },
            seed,
            lengths: Xoshiro256PlusPlus::seed_from_u64(derive_seed(seed, LENGTHS, 0)),
            index: 0,
        })
    }
}

/// The sequence that [`Random::samples`] gives.
#[derive(Debug, Clone)]
pub struct Samples {
    input: Bounds,
    output: Bounds,
    prefix: Run,
    seed: u64,
    lengths: Xoshiro256PlusPlus,
    index: u64,
}

/// An inclusive range of lengths in tokens.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    low: u32,
    high: u32,
}

impl Bounds {
    /// Rounded outwards, as vLLM does.
    fn new(length: u32, ratio: f64) -> Self {
        let length = f64::from(length);
        Self {
            low: (length * (1.0 - ratio)).floor() as u32,
            high: (length * (1.0 + ratio)).ceil() as u32,
        }
    }

    fn draw(self, rng: &mut Xoshiro256PlusPlus) -> u32 {
        rng.random_range(self.low..=self.high)
    }
}

impl Iterator for Samples {
    type Item = Sample;

    fn next(&mut self) -> Option<Sample> {
        let tokens = self.input.draw(&mut self.lengths);
        let own = Run { seed: derive_seed(self.seed, PROMPT, self.index), tokens };
        self.index += 1;
        Some(Sample {
            prompt: PromptPlan::new(vec![self.prefix, own]),
            output_tokens: self.output.draw(&mut self.lengths),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(sample: &Sample) -> String {
        let mut out = Vec::new();
        sample.prompt.write_text(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lengths_fill_their_range() {
        let random = Random {
            input_tokens: 10,
            output_tokens: 1,
            input_range_ratio: 0.25,
            output_range_ratio: 0.9,
            prefix_tokens: 3,
        };
        let samples: Vec<Sample> = random.samples(5).unwrap().take(2000).collect();
        let inputs = samples.iter().map(|s| s.prompt.tokens() - 3);
        assert_eq!((inputs.clone().min(), inputs.max()), (Some(7), Some(13)));
        let outputs = samples.iter().map(|s| s.output_tokens);
        assert_eq!((outputs.clone().min(), outputs.max()), (Some(1), Some(2)));
    }

    #[test]
    fn prefixes_are_shared_and_the_rest_is_not() {
        let random = Random { input_tokens: 20, prefix_tokens: 16, ..Random::default() };
        let texts: Vec<String> = random.samples(0).unwrap().take(2).map(|s| text(&s)).collect();
        assert_eq!(texts[0][..16], texts[1][..16]);
        assert_ne!(texts[0][16..], texts[1][16..]);
    }

    #[test]
    fn seeds_replay() {
        let texts = |seed| -> Vec<String> {
            let random = Random { input_tokens: 20, input_range_ratio: 0.5, ..Random::default() };
            random.samples(seed).unwrap().take(9).map(|s| text(&s)).collect()
        };
        assert_eq!(texts(1), texts(1));
        assert_ne!(texts(1), texts(2));
    }

    #[test]
    fn wrong_lengths_are_named() {
        let error = |random: Random| random.samples(0).unwrap_err().to_string();
        let ratio = Random { input_range_ratio: 1.0, ..Random::default() };
        assert!(error(ratio).starts_with("--random-range-ratio: 1 is out of range"));
        let empty = Random { input_tokens: 0, ..Random::default() };
        assert!(error(empty).starts_with("--random-input-len"));
        let silent = Random { output_tokens: 0, ..Random::default() };
        assert!(error(silent).starts_with("--random-output-len"));
    }
}
