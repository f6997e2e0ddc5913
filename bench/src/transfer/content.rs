//! What the bytes of a source are, so that a target knows what it must find. Pure.
//!
//! Eight bytes at a time, a hash of the run's seed, the source and the offset: no two words of a
//! run are alike, so a block that is stale, torn, shifted or another source's is seen.

use std::hash::Hasher;

/// Bytes of a word; sources and blocks are whole words.
pub const WORD_BYTES: usize = 8;

/// The content of one source's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    key: u64,
}

impl Content {
    /// That of agent `source` in the run with `seed`.
    pub fn new(seed: u64, source: usize) -> Self {
        let mut hasher = std::hash::DefaultHasher::new();
        hasher.write_u64(seed);
        hasher.write_u64(source as u64);
        Self { key: hasher.finish() }
    }

    /// Writes what belongs at `offset`, in whole words.
    pub fn fill(self, bytes: &mut [u8], offset: u64) {
        let first = offset / WORD_BYTES as u64;
        for (chunk, word) in bytes.as_chunks_mut::<WORD_BYTES>().0.iter_mut().zip(first..) {
            *chunk = self.word(word);
        }
    }

    /// The offset of the first word that is not what belongs there, if any.
    pub fn check(self, bytes: &[u8], offset: u64) -> Option<u64> {
        let first = offset / WORD_BYTES as u64;
        let wrong = bytes
            .as_chunks::<WORD_BYTES>()
            .0
            .iter()
            .zip(first..)
            .find(|(chunk, word)| **chunk != self.word(*word))?;
        Some(wrong.1 * WORD_BYTES as u64)
    }

    /// The finalizer of SplitMix64 (<https://prng.di.unimi.it/splitmix64.c>): a permutation, so
    /// different words stay different.
    fn word(self, index: u64) -> [u8; WORD_BYTES] {
        let mut z = index.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ self.key;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).to_le_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_changed_byte_is_found(
            words in 1..64_usize,
            at in any::<prop::sample::Index>(),
            flip in 1..=255_u8,
            offset in 0..1_000_u64,
        ) {
            let (content, offset) = (Content::new(7, 3), offset * 8);
            let mut bytes = vec![0; words * WORD_BYTES];
            content.fill(&mut bytes, offset);
            prop_assert_eq!(content.check(&bytes, offset), None);
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            prop_assert_eq!(content.check(&bytes, offset), Some(offset + (at / 8 * 8) as u64));
        }
    }

    #[test]
    fn blocks_of_elsewhere_are_wrong() {
        let mut bytes = vec![0; 4096];
        Content::new(1, 1).fill(&mut bytes, 4096);
        assert_eq!(Content::new(1, 1).check(&bytes, 4096), None);
        assert_eq!(Content::new(1, 1).check(&bytes, 0), Some(0), "another block");
        assert_eq!(Content::new(1, 2).check(&bytes, 4096), Some(4096), "another source");
        assert_eq!(Content::new(2, 1).check(&bytes, 4096), Some(4096), "another run");
        assert_eq!(Content::new(1, 1).check(&[0; 64], 0), Some(0), "never written");
    }
}
