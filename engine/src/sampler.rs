//! The next token as a function of the token chain.
//!
//! Prefill and decode, whatever the batch, the chunking or the cache, draw the same token after the
//! same prefix, so two runs can be compared byte by byte. The tokens are bytes: lower-case letters
//! and spaces, so that the text is readable without a model's vocabulary.

use crate::content::{ChainHash, finalize};

/// The end-of-sequence token: the first id past the byte values.
pub const EOS_TOKEN_ID: u32 = 256;

/// What is drawn from, uniformly: each letter once, and enough spaces to make words of about four
/// letters. The length is a power of two, so that the low bits of a hash choose without bias.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz      ";

/// Keeps the draw independent of the bytes of the KV slot, which follow from the same hash.
const DRAW_SALT: u64 = 0x5eed_0f70_6b65_6e73;

/// Draws tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampler {
    /// One token in this many ends the sequence; 0 for never.
    pub eos_one_in: u32,
}

impl Sampler {
    /// The token after the prefix `last`. `eos_allowed` is false while the request ignores
    /// [`EOS_TOKEN_ID`] or has not reached its `min_tokens`; a token in `banned` (its stop tokens,
    /// until then) gives way to the next letter that is not, if there is one.
    #[inline]
    pub fn next(&self, last: ChainHash, eos_allowed: bool, banned: &[u32]) -> u32 {
        let draw = finalize(last.get() ^ DRAW_SALT);
        let (for_eos, for_letter) = ((draw >> 32) as u32, draw as usize % ALPHABET.len());
        if eos_allowed && self.eos_one_in > 0 && for_eos.is_multiple_of(self.eos_one_in) {
            return EOS_TOKEN_ID;
        }
        let letter = |place: usize| u32::from(ALPHABET[place % ALPHABET.len()]);
        let places = for_letter..for_letter + ALPHABET.len();
        let allowed = places.map(letter).find(|letter| !banned.contains(letter));
        allowed.unwrap_or_else(|| letter(for_letter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(sampler: Sampler, eos_allowed: bool, banned: &[u32], count: usize) -> Vec<u32> {
        let mut chain = ChainHash::seed("model", 0);
        let mut tokens = Vec::new();
        for _ in 0..count {
            let token = sampler.next(chain, eos_allowed, banned);
            chain = chain.next(token);
            tokens.push(token);
        }
        tokens
    }

    #[test]
    fn text_is_lower_case_letters_and_spaces_and_uses_all_of_them() {
        let tokens = draws(Sampler { eos_one_in: 0 }, true, &[], 5_000);
        let readable = |&token: &u32| token == 32 || (97..123).contains(&token);
        assert!(tokens.iter().all(readable));
        let distinct: std::collections::BTreeSet<_> = tokens.into_iter().collect();
        assert_eq!(distinct.len(), 27);
    }

    #[test]
    fn eos_comes_about_as_often_as_asked() {
        let tokens = draws(Sampler { eos_one_in: 50 }, true, &[], 20_000);
        let eos = tokens.iter().filter(|&&token| token == EOS_TOKEN_ID).count();
        assert!((300..500).contains(&eos), "{eos} of 20000, 400 expected");
    }

    #[test]
    fn eos_is_suppressed_when_it_is_not_allowed() {
        let tokens = draws(Sampler { eos_one_in: 1 }, false, &[], 1_000);
        assert!(!tokens.contains(&EOS_TOKEN_ID));
        assert_eq!(draws(Sampler { eos_one_in: 1 }, true, &[], 1), [EOS_TOKEN_ID]);
    }

    #[test]
    fn banned_tokens_are_not_drawn_unless_nothing_else_is_left() {
        let vowels: Vec<u32> = b"aeiou ".iter().map(|&byte| byte.into()).collect();
        let tokens = draws(Sampler { eos_one_in: 0 }, true, &vowels, 1_000);
        assert!(tokens.iter().all(|token| !vowels.contains(token)));
        let everything: Vec<u32> = (0..256).collect();
        assert_eq!(draws(Sampler { eos_one_in: 0 }, true, &everything, 10).len(), 10);
    }
}
