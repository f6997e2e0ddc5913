//! KV content as a function of the token chain.
//!
//! Every token prefix has a 64-bit [`ChainHash`]. The bytes of a token's KV slot follow from the hash
//! of the prefix that ends in that token, so prefill and decode know the same bytes without
//! exchanging them, and a block that holds anything else is caught: stale (the block's previous
//! owner), foreign (another request's), torn (only partly written), zeroed or shifted.
//!
//! A slot is a sequence of little-endian 64-bit lanes, `hash + lane * STRIDE`. The stride is odd, so
//! no two lanes of a slot are equal and a slot shifted by any number of lanes differs in every lane.
//! A weak generator is enough here, because every bit is compared: what must not happen is that two
//! prefixes share a hash, and that the finalizer of [`ChainHash::next`] makes a matter of 2^-64.

use serde::Serialize;
use thiserror::Error;

/// 2^64 divided by the golden ratio, made odd: the increment of SplitMix64
/// (<https://doi.org/10.1145/2660193.2660195>).
const STRIDE: u64 = 0x9e37_79b9_7f4a_7c15;

/// Bytes of a lane, the unit in which slots are written and compared.
pub const LANE_BYTES: usize = size_of::<u64>();

/// Identifies a token prefix. Equal prefixes of equally seeded chains have equal hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ChainHash(u64);

impl ChainHash {
    /// The hash of the empty prefix. Prefill and decode must seed alike: `model` is the name that
    /// both serve, `salt` keeps runs apart that must not share content.
    pub fn seed(model: &str, salt: u64) -> Self {
        let chain = Self(finalize(salt));
        model.bytes().fold(chain, |chain, byte| chain.next(byte.into()))
    }

    /// The hash of this prefix with `token` appended.
    #[inline]
    pub fn next(self, token: u32) -> Self {
        let step = STRIDE.wrapping_mul(u64::from(token) + 1);
        Self(finalize(self.0.wrapping_add(step)))
    }

    /// The hash as a number.
    #[inline]
    pub fn get(self) -> u64 {
        self.0
    }
}

/// Appends the hash of every prefix of `tokens` to `chain`, continuing from `from`.
pub fn extend_chain(chain: &mut Vec<ChainHash>, from: ChainHash, tokens: &[u32]) {
    chain.reserve(tokens.len());
    let mut hash = from;
    for &token in tokens {
        hash = hash.next(token);
        chain.push(hash);
    }
}

/// Writes the KV bytes of consecutive token slots, one per hash.
///
/// # Panics
/// If `slots` is not exactly `hashes.len() * bytes_per_token` long, or `bytes_per_token` is not a
/// multiple of [`LANE_BYTES`]; both would be a mistake in the caller's address arithmetic.
pub fn fill(slots: &mut [u8], hashes: &[ChainHash], bytes_per_token: usize) {
    assert_slots(slots.len(), hashes.len(), bytes_per_token);
    for (slot, hash) in slots.chunks_exact_mut(bytes_per_token).zip(hashes) {
        let mut value = hash.0;
        for lane in slot.as_chunks_mut::<LANE_BYTES>().0 {
            *lane = value.to_le_bytes();
            value = value.wrapping_add(STRIDE);
        }
    }
}

/// Compares consecutive token slots with what [`fill`] writes for `hashes`.
///
/// # Errors
/// The first byte that differs.
///
/// # Panics
/// As [`fill`].
pub fn verify(slots: &[u8], hashes: &[ChainHash], bytes_per_token: usize) -> Result<(), Corrupt> {
    assert_slots(slots.len(), hashes.len(), bytes_per_token);
    for (index, (slot, hash)) in slots.chunks_exact(bytes_per_token).zip(hashes).enumerate() {
        // Differences are collected over the whole slot: a loop without an exit is one the compiler
        // turns into vector code. Where it differs is asked only when it does.
        let mut value = hash.0;
        let mut difference = 0;
        for lane in slot.as_chunks::<LANE_BYTES>().0 {
            difference |= u64::from_le_bytes(*lane) ^ value;
            value = value.wrapping_add(STRIDE);
        }
        if difference != 0 {
            return Err(locate(slot, index, *hash));
        }
    }
    Ok(())
}

/// KV bytes that are not what their tokens call for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error, Serialize)]
#[error(
    "KV slot {slot} differs at byte {byte_offset}: expected {expected:#018x}, found {found:#018x}"
)]
pub struct Corrupt {
    /// Index of the slot among those compared.
    pub slot: usize,
    /// First byte that differs, counted from the start of the slot.
    pub byte_offset: usize,
    /// The lane around that byte as it should be.
    pub expected: u64,
    /// The lane around that byte as it is.
    pub found: u64,
}

/// The output function of SplitMix64 in Stafford's variant 13: a bijection in which every input bit
/// flips every output bit with probability close to one half.
#[inline]
pub(crate) fn finalize(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

fn assert_slots(bytes: usize, slots: usize, bytes_per_token: usize) {
    assert!(
        bytes_per_token > 0 && bytes_per_token.is_multiple_of(LANE_BYTES),
        "bytes_per_token {bytes_per_token} is not a multiple of {LANE_BYTES}"
    );
    assert_eq!(
        Some(bytes),
        slots.checked_mul(bytes_per_token),
        "{slots} slots of {bytes_per_token} bytes do not span the given bytes"
    );
}

#[cold]
fn locate(slot: &[u8], index: usize, hash: ChainHash) -> Corrupt {
    let lanes = slot.as_chunks::<LANE_BYTES>().0.iter();
    let expected = (0..).map(|lane: u64| hash.0.wrapping_add(lane.wrapping_mul(STRIDE)));
    lanes
        .map(|lane| u64::from_le_bytes(*lane))
        .zip(expected)
        .enumerate()
        .find(|(_, (found, expected))| found != expected)
        .map(|(lane, (found, expected))| Corrupt {
            slot: index,
            // The lowest byte of a little-endian lane comes first in memory.
            byte_offset: lane * LANE_BYTES + (found ^ expected).trailing_zeros() as usize / 8,
            expected,
            found,
        })
        .expect("the caller saw a difference in this slot")
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES_PER_TOKEN: usize = 64;

    fn chain(tokens: &[u32]) -> Vec<ChainHash> {
        let mut chain = Vec::new();
        extend_chain(&mut chain, ChainHash::seed("model", 0), tokens);
        chain
    }

    fn block(hashes: &[ChainHash]) -> Vec<u8> {
        let mut bytes = vec![0; hashes.len() * BYTES_PER_TOKEN];
        fill(&mut bytes, hashes, BYTES_PER_TOKEN);
        bytes
    }

    fn check(bytes: &[u8], hashes: &[ChainHash]) -> Result<(), Corrupt> {
        verify(bytes, hashes, BYTES_PER_TOKEN)
    }

    #[test]
    fn what_was_filled_verifies() {
        let hashes = chain(&[1, 2, 3, 4]);
        assert_eq!(check(&block(&hashes), &hashes), Ok(()));
    }

    #[test]
    fn slots_can_be_filled_one_by_one() {
        let hashes = chain(&[1, 2, 3, 4]);
        let mut bytes = vec![0xee; 4 * BYTES_PER_TOKEN];
        for (slot, hash) in bytes.chunks_exact_mut(BYTES_PER_TOKEN).zip(&hashes) {
            fill(slot, std::slice::from_ref(hash), BYTES_PER_TOKEN);
        }
        assert_eq!(bytes, block(&hashes));
    }

    #[test]
    fn a_chain_depends_on_every_earlier_token_and_on_the_seed() {
        let base = chain(&[1, 2, 3]);
        let changed = chain(&[9, 2, 3]);
        assert!(base.iter().zip(&changed).all(|(a, b)| a != b));
        assert_ne!(ChainHash::seed("model", 0), ChainHash::seed("model", 1));
        assert_ne!(ChainHash::seed("model", 0), ChainHash::seed("other", 0));
        assert_ne!(chain(&[0]), chain(&[0, 0])[1..]);
    }

    #[test]
    fn stale_data_of_the_previous_owner_is_found_in_the_first_slot() {
        let (old, new) = (chain(&[1, 2, 3, 4]), chain(&[5, 6, 7, 8]));
        let corrupt = check(&block(&old), &new).unwrap_err();
        assert_eq!((corrupt.slot, corrupt.found), (0, old[0].get()));
        assert_eq!(corrupt.expected, new[0].get());
    }

    #[test]
    fn a_foreign_block_with_the_same_tokens_but_another_prefix_is_found() {
        let (mine, foreign) = (chain(&[1, 7, 7, 7]), chain(&[2, 7, 7, 7]));
        assert!(check(&block(&foreign)[BYTES_PER_TOKEN..], &mine[1..]).is_err());
    }

    #[test]
    fn a_torn_block_names_the_first_byte_that_is_missing() {
        let hashes = chain(&[1, 2, 3, 4]);
        let whole = block(&hashes);
        for torn_at in [1, 63, 64, 65, 130, 4 * BYTES_PER_TOKEN - 1] {
            let mut torn = whole.clone();
            torn[torn_at..].iter_mut().for_each(|byte| *byte = !*byte);
            let corrupt = check(&torn, &hashes).unwrap_err();
            assert_eq!(corrupt.slot, torn_at / BYTES_PER_TOKEN);
            assert_eq!(corrupt.byte_offset, torn_at % BYTES_PER_TOKEN);
        }
    }

    #[test]
    fn a_single_flipped_bit_is_found_wherever_it_is() {
        let hashes = chain(&[1, 2]);
        let whole = block(&hashes);
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let corrupt = check(&flipped, &hashes).unwrap_err();
            assert_eq!(corrupt.slot * BYTES_PER_TOKEN + corrupt.byte_offset, bit / 8);
        }
    }

    #[test]
    fn a_zeroed_slot_is_found() {
        let hashes = chain(&[1, 2, 3]);
        let mut bytes = block(&hashes);
        bytes[BYTES_PER_TOKEN..2 * BYTES_PER_TOKEN].fill(0);
        let corrupt = check(&bytes, &hashes).unwrap_err();
        assert_eq!((corrupt.slot, corrupt.found), (1, 0));
    }

    #[test]
    fn shifted_data_is_found_for_every_shift() {
        let hashes = chain(&[1, 2, 3, 4]);
        let whole = block(&hashes);
        for shift in 1..whole.len() {
            let mut shifted = whole.clone();
            shifted.rotate_left(shift);
            assert!(check(&shifted, &hashes).is_err(), "shift by {shift}");
        }
    }

    #[test]
    #[should_panic(expected = "do not span")]
    fn a_length_that_does_not_match_the_hashes_is_a_bug_of_the_caller() {
        fill(&mut [0; 100], &chain(&[1]), BYTES_PER_TOKEN);
    }
}
