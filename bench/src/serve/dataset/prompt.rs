//! Prompts as a plan: what to send, in a few bytes, until the moment it is sent.
//!
//! A trace of 12,000 requests is 150 million tokens; they are made when their request is due
//! and forgotten when it is written.

use std::sync::Arc;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, SeedableRng};

/// The alphabet of prompts: 64 symbols, so that six random bits choose one.
///
/// All are lower-case letters and spaces, weighted roughly as English text is. Text needs no
/// escapes in JSON, and the same bytes are valid token ids in any vocabulary (real tokenizers
/// have thousands of ids) and are one token each in [`pdlab_api::tokenizer`].
const ALPHABET: &[u8; 64] = b"          eeeeeetttttaaaaooooiiiinnnnssshhhrrrddllluucmmwfgypbvk";

/// Symbols drawn from one 64-bit random number: 10 x 6 bits, the rest is dropped.
const SYMBOLS_PER_DRAW: usize = 10;

/// A stretch of tokens that is a function of its seed: equal seeds, equal tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// What the tokens are derived from.
    pub seed: u64,
    /// Number of tokens.
    pub tokens: u32,
}

/// A prompt: runs one after the other, or a text. Prompts that begin with the same runs share a
/// prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptPlan {
    content: Content,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Content {
    Runs(Vec<Run>),
    /// Someone's words, and how many tokens they are thought to be.
    Text(Arc<str>, u32),
}

impl Default for PromptPlan {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl PromptPlan {
    /// A prompt of these runs.
    pub fn new(runs: Vec<Run>) -> Self {
        Self { content: Content::Runs(runs) }
    }

    /// A prompt of words, which are about so many tokens.
    pub fn text(text: Arc<str>, tokens: u32) -> Self {
        Self { content: Content::Text(text, tokens) }
    }

    /// Length in tokens. Of runs it is exact, and the length of their text in bytes; of words it
    /// is what [`PromptPlan::text`] was told.
    pub fn tokens(&self) -> u64 {
        match &self.content {
            Content::Runs(runs) => runs.iter().map(|run| u64::from(run.tokens)).sum(),
            Content::Text(_, tokens) => u64::from(*tokens),
        }
    }

    /// Appends the prompt as text. Runs give only letters and spaces.
    pub fn write_text(&self, out: &mut Vec<u8>) {
        match &self.content {
            Content::Runs(runs) => {
                out.reserve(self.tokens() as usize);
                for_each_symbol(runs, |symbol| out.push(symbol));
            }
            Content::Text(text, _) => out.extend_from_slice(text.as_bytes()),
        }
    }

    /// Appends the prompt as a JSON string, quotes included.
    pub fn write_json_string(&self, out: &mut Vec<u8>) {
        match &self.content {
            Content::Runs(_) => {
                out.push(b'"');
                self.write_text(out);
                out.push(b'"');
            }
            // Writing to a Vec cannot fail.
            Content::Text(text, _) => drop(serde_json::to_writer(out, &**text)),
        }
    }

    /// Appends the prompt as completions take it: runs as a list of token ids, words as a string,
    /// because only the server knows their ids.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        match &self.content {
            Content::Runs(runs) => write_token_ids(runs, self.tokens(), out),
            Content::Text(..) => self.write_json_string(out),
        }
    }
}

/// Appends runs as a JSON list of token ids, `[104,105]`.
fn write_token_ids(runs: &[Run], tokens: u64, out: &mut Vec<u8>) {
    out.reserve(tokens as usize * 4 + 2);
    out.push(b'[');
    let start = out.len();
    for_each_symbol(runs, |symbol| {
        if symbol >= 100 {
            out.extend_from_slice(&[b'1', b'0' + symbol / 10 % 10, b'0' + symbol % 10, b',']);
        } else {
            out.extend_from_slice(&[b'0' + symbol / 10, b'0' + symbol % 10, b',']);
        }
    });
    if out.len() > start {
        out.pop();
    }
    out.push(b']');
}

fn for_each_symbol(runs: &[Run], mut each: impl FnMut(u8)) {
    for run in runs {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(run.seed);
        let mut left = run.tokens as usize;
        while left > 0 {
            let mut bits = rng.next_u64();
            let take = left.min(SYMBOLS_PER_DRAW);
            for _ in 0..take {
                each(ALPHABET[(bits & 63) as usize]);
                bits >>= 6;
            }
            left -= take;
        }
    }
}

/// The seed of thing number `index` of a kind: distinct streams from one seed of the user.
///
/// The finalizer of SplitMix64 (<https://prng.di.unimi.it/splitmix64.c>), so that neighbouring
/// seeds and indices share nothing.
pub fn derive_seed(seed: u64, kind: u64, index: u64) -> u64 {
    let mix = |value: u64| {
        let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    };
    let step = |state: u64, input: u64| {
        mix(state.wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_add(mix(input)))
    };
    step(step(step(0, seed), kind), index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(plan: &PromptPlan) -> String {
        let mut out = Vec::new();
        plan.write_text(&mut out);
        String::from_utf8(out).unwrap()
    }

    fn ids(plan: &PromptPlan) -> Vec<u32> {
        let mut out = Vec::new();
        plan.write_json(&mut out);
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn equal_runs_are_equal_prefixes() {
        let run = |seed| Run { seed, tokens: 32 };
        let one = text(&PromptPlan::new(vec![run(1), run(2)]));
        let other = text(&PromptPlan::new(vec![run(1), run(3)]));
        assert_eq!(one[..32], other[..32]);
        assert_ne!(one[32..], other[32..]);
    }

    #[test]
    fn an_empty_prompt_is_an_empty_list() {
        assert_eq!(ids(&PromptPlan::default()), Vec::<u32>::new());
    }

    #[test]
    fn words_are_sent_as_they_are() {
        let plan = PromptPlan::text(Arc::from("a \"b\"\n\u{e9}"), 3);
        let mut out = Vec::new();
        plan.write_json(&mut out);
        assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), "a \"b\"\n\u{e9}");
        assert_eq!((plan.tokens(), text(&plan).as_str()), (3, "a \"b\"\n\u{e9}"));
    }

    #[test]
    fn derived_seeds_differ() {
        let mut seeds: Vec<u64> = (0..4)
            .flat_map(|seed| (0..4).flat_map(move |kind| (0..64).map(move |i| (seed, kind, i))))
            .map(|(seed, kind, index)| derive_seed(seed, kind, index))
            .collect();
        seeds.sort_unstable();
        seeds.dedup();
        assert_eq!(seeds.len(), 4 * 4 * 64);
    }

    proptest! {
        #[test]
        fn text_and_token_ids_are_the_same_tokens(
            seed: u64, lengths in prop::collection::vec(0_u32..70, 0..4)
        ) {
            let runs = lengths.iter().enumerate();
            let plan = PromptPlan::new(
                runs.map(|(i, &tokens)| Run { seed: seed ^ i as u64, tokens }).collect());
            let text = text(&plan);
            prop_assert_eq!(text.len() as u64, plan.tokens());
            prop_assert_eq!(pdlab_api::tokenizer::encode(&text), ids(&plan));
            let mut quoted = Vec::new();
            plan.write_json_string(&mut quoted);
            prop_assert_eq!(serde_json::from_slice::<String>(&quoted).unwrap(), text);
        }
    }
}
