//! The `prefix_repetition` dataset: a few prefixes, each shared by equally many prompts.

use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;

use super::prompt::{PromptPlan, Run, derive_seed};
use super::{Error, Sample};

/// Lengths and number of prefixes. The default is that of `vllm bench serve`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrefixRepetition {
    /// Tokens of a prefix.
    pub prefix_tokens: u32,
    /// Tokens that follow, different in each prompt.
    pub suffix_tokens: u32,
    /// Number of prefixes.
    pub prefixes: usize,
    /// Tokens to generate.
    pub output_tokens: u32,
    /// Prompts of different prefixes in random order; otherwise one prefix after the other.
    pub shuffle: bool,
}

impl Default for PrefixRepetition {
    fn default() -> Self {
        Self {
            prefix_tokens: 256,
            suffix_tokens: 256,
            prefixes: 10,
            output_tokens: 128,
            shuffle: true,
        }
    }
}

/// Kinds of things that seeds are derived for.
const PREFIX: u64 = 9;
const SUFFIX: u64 = 10;
const ORDER: u64 = 11;

impl PrefixRepetition {
    /// As many prompts of each prefix as `count` allows; what is left over is not sent, as in vLLM.
    ///
    /// Fails if there are fewer requests than prefixes, or a length is zero.
    pub fn samples(&self, count: usize, seed: u64) -> Result<Vec<Sample>, Error> {
        if self.prefixes == 0 {
            return Err(Error::config("--prefix-repetition-num-prefixes", "must be at least 1"));
        }
        if self.output_tokens == 0 {
            return Err(Error::config("--prefix-repetition-output-len", "must be at least 1"));
        }
        if self.prefix_tokens == 0 && self.suffix_tokens == 0 {
            let problem = "prompts would be empty; give a prefix or a suffix";
            return Err(Error::config("--prefix-repetition-prefix-len", problem));
        }
        let each = count / self.prefixes;
        if each == 0 {
            let problem = format!(
                "{count} is fewer than the {} prefixes; raise it or lower \
                 --prefix-repetition-num-prefixes",
                self.prefixes
            );
            return Err(Error::config("--num-prompts", problem));
        }
        let run = |kind, index: usize, tokens| Run {
            seed: derive_seed(seed, kind, index as u64),
            tokens,
        };
        let sample = |index: usize| Sample {
            prompt: PromptPlan::new(vec![
                run(PREFIX, index / each, self.prefix_tokens),
                run(SUFFIX, index, self.suffix_tokens),
            ]),
            output_tokens: self.output_tokens,
        };
        let mut samples: Vec<Sample> = (0..each * self.prefixes).map(sample).collect();
        if self.shuffle {
            let mut rng = Xoshiro256PlusPlus::seed_from_u64(derive_seed(seed, ORDER, 0));
            samples.shuffle(&mut rng);
        }
        Ok(samples)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn text(sample: &Sample) -> String {
        let mut out = Vec::new();
        sample.prompt.write_text(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_prefix_is_shared_by_equally_many_and_no_suffix_is() {
        let dataset = PrefixRepetition {
            prefix_tokens: 20,
            suffix_tokens: 12,
            prefixes: 3,
            ..PrefixRepetition::default()
        };
        let texts: Vec<String> = dataset.samples(20, 1).unwrap().iter().map(text).collect();
        let mut prefixes: BTreeMap<&str, usize> = BTreeMap::new();
        texts.iter().for_each(|text| *prefixes.entry(&text[..20]).or_default() += 1);
        assert_eq!(prefixes.values().copied().collect::<Vec<_>>(), [6, 6, 6]);
        let mut suffixes: Vec<&str> = texts.iter().map(|text| &text[20..]).collect();
        suffixes.sort_unstable();
        suffixes.dedup();
        assert_eq!(suffixes.len(), 18);
    }

    #[test]
    fn seeds_decide_the_order() {
        let samples = |seed| PrefixRepetition::default().samples(40, seed).unwrap();
        assert_eq!(samples(1), samples(1));
        assert_ne!(samples(1), samples(2));
    }

    #[test]
    fn fewer_requests_than_prefixes_are_refused() {
        let error = PrefixRepetition::default().samples(9, 1).unwrap_err().to_string();
        assert!(error.starts_with("--num-prompts: 9 is fewer than the 10 prefixes"), "{error}");
        let none = PrefixRepetition { prefixes: 0, ..PrefixRepetition::default() };
        assert!(none.samples(9, 1).unwrap_err().to_string().contains("at least 1"));
    }
}
