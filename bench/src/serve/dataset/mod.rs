//! What is sent: the datasets of `vllm bench serve`, each read or made into [`Sample`]s.
//!
//! There is no tokenizer here. `random`, `timed_trace`, `burstgpt` and `prefix_repetition` are made
//! of token ids and have exact lengths. `sharegpt` and `custom` are text, whose tokens are estimated
//! from its bytes until the server counts them; the report has the server's count.
//!
//! - [`random`], [`prefix`]: made from a seed. [`trace`], [`burstgpt`]: lengths from a file.
//!   [`sharegpt`], [`custom`]: text from a file.
//! - [`prompt`]: a prompt as a plan of a few bytes. `lines`: what is wrong in a file.

pub mod burstgpt;
pub mod custom;
mod lines;
pub mod prefix;
pub mod prompt;
pub mod random;
pub mod sharegpt;
pub mod trace;

use std::path::PathBuf;
use std::time::Duration;

use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use super::Error;
pub use burstgpt::BurstGpt;
pub use custom::Custom;
pub use prefix::PrefixRepetition;
use prompt::{PromptPlan, derive_seed};
pub use random::Random;
pub use sharegpt::ShareGpt;
pub use trace::TimedTrace;

/// One request of a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// What to send.
    pub prompt: PromptPlan,
    /// How many tokens to ask for.
    pub output_tokens: u32,
}

/// What is sent.
#[derive(Debug, Clone, PartialEq)]
pub enum Dataset {
    /// Random prompts at the configured rate.
    Random(Random),
    /// A few prefixes, each shared by many prompts.
    PrefixRepetition(PrefixRepetition),
    /// Conversations.
    ShareGpt(ShareGpt),
    /// Lengths, and if asked for times, of a recorded day.
    BurstGpt(BurstGpt),
    /// Prompts of the user's own.
    Custom(Custom),
    /// A trace with its own times.
    TimedTrace(TimedTrace),
}

/// A file that requests are read from, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// The file.
    pub path: PathBuf,
    /// Leave out what cannot be read, and count it, instead of refusing the file.
    pub skip_bad_lines: bool,
    /// In random order, as vLLM does unless told otherwise; which one follows from the seed.
    pub shuffle: bool,
    /// Draw requests again when the file has too few.
    pub oversample: bool,
}

impl Source {
    /// vLLM's ways with a file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), skip_bad_lines: false, shuffle: true, oversample: true }
    }
}

/// The requests of a dataset, and what there is to say about where they came from.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Requests {
    /// In the order in which they are to be sent.
    pub samples: Vec<Sample>,
    /// When each is due, since the first, if the dataset has times of its own.
    pub due: Option<Vec<Duration>>,
    /// Lines that could not be read and were skipped.
    pub bad_lines: u64,
    /// What the user should know.
    pub notes: Vec<String>,
}

impl Dataset {
    /// `count` requests of `seed`; fewer if a file has no more and may not be drawn from again.
    ///
    /// Fails on wrong settings and on files that cannot be read or have bad lines.
    pub fn requests(&self, count: usize, seed: u64) -> Result<Requests, Error> {
        match self {
            Self::Random(random) => Ok(Requests {
                samples: random.samples(seed)?.take(count).collect(),
                ..Requests::default()
            }),
            Self::PrefixRepetition(prefixes) => {
                Ok(Requests { samples: prefixes.samples(count, seed)?, ..Requests::default() })
            }
            Self::ShareGpt(conversations) => conversations.requests(count, seed),
            Self::BurstGpt(log) => log.requests(count, seed),
            Self::Custom(custom) => custom.requests(count, seed),
            Self::TimedTrace(trace) => trace.requests(count, seed),
        }
    }

    /// The name in options and results, which is vLLM's.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Random(_) => "random",
            Self::PrefixRepetition(_) => "prefix_repetition",
            Self::ShareGpt(_) => "sharegpt",
            Self::BurstGpt(_) => "burstgpt",
            Self::Custom(_) => "custom",
            Self::TimedTrace(_) => "timed_trace",
        }
    }

    /// Whether the requests bring their times.
    pub fn is_timed(&self) -> bool {
        match self {
            Self::TimedTrace(_) => true,
            Self::BurstGpt(log) => log.self_timed,
            _ => false,
        }
    }
}

/// Kind of the seeds of orders.
const ORDER: u64 = 8;

/// `count` of the `found` requests of a file: shuffled, cut, and drawn again as `source` says.
fn choose<T: Clone>(mut found: Vec<T>, count: usize, source: &Source, seed: u64) -> Vec<T> {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(derive_seed(seed, ORDER, 0));
    if source.shuffle {
        found.shuffle(&mut rng);
    }
    let there = found.len();
    if source.oversample && there > 0 {
        while found.len() < count {
            found.push(found[rng.random_range(0..there)].clone());
        }
    }
    found.truncate(count);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn as_many_as_asked_for_and_each_at_most_once_while_they_last(
            there in 1usize..40, count in 1usize..80, seed: u64, shuffle: bool,
        ) {
            let source = Source { shuffle, ..Source::new("x") };
            let chosen = choose((0..there).collect(), count, &source, seed);
            prop_assert_eq!(chosen.len(), count);
            let mut first: Vec<usize> = chosen.iter().copied().take(there).collect();
            first.sort_unstable();
            first.dedup();
            prop_assert_eq!(first.len(), count.min(there));
            let few = Source { oversample: false, ..source };
            prop_assert_eq!(choose((0..there).collect(), count, &few, seed).len(), count.min(there));
        }
    }

    #[test]
    fn the_order_follows_from_the_seed() {
        let source = Source::new("x");
        let order = |seed| choose((0..50).collect::<Vec<u32>>(), 50, &source, seed);
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
        let plain = Source { shuffle: false, ..source };
        assert_eq!(choose(vec![3, 1, 2], 2, &plain, 1), [3, 1]);
    }
}
