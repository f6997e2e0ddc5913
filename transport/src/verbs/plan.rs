//! From blocks to work requests: which bytes each of them moves, and which memory regions they
//! are in. Pure.
//!
//! Memory is registered in chunks of one length, the last one shorter, because devices limit the
//! length of a memory region. A piece of a block lies in one chunk on either side and within the
//! longest message of the port.

use bytes::{BufMut, Bytes, BytesMut};

use crate::backend::Block;

/// Chunks begin on such a boundary, so that they consist of whole huge pages.
const CHUNK_UNIT: u64 = 2 << 20;
const PAGE: u64 = 4096;

/// Bytes per chunk for memory of `len` bytes: all of it, if `limit` allows.
pub(super) fn chunk_len(len: u64, limit: u64) -> u64 {
    let limit = match limit {
        limit if limit >= CHUNK_UNIT => limit / CHUNK_UNIT * CHUNK_UNIT,
        limit => (limit / PAGE * PAGE).max(PAGE),
    };
    len.min(limit)
}

/// Chunks that `len` bytes take.
pub(super) fn chunks(len: u64, chunk_len: u64) -> u64 {
    len.div_ceil(chunk_len)
}

/// The keys of a region, as its metadata carries them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RemoteKeys {
    pub(super) chunk_len: u64,
    /// One rkey per chunk.
    pub(super) rkeys: Vec<u32>,
}

const KEYS_MAGIC: &[u8; 4] = b"PDVK";

impl RemoteKeys {
    /// Magic, chunk length (8), number of keys (4), keys (4 each); little-endian.
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(16 + 4 * self.rkeys.len());
        out.put_slice(KEYS_MAGIC);
        out.put_u64_le(self.chunk_len);
        out.put_u32_le(self.rkeys.len() as u32);
        self.rkeys.iter().for_each(|rkey| out.put_u32_le(*rkey));
        out.freeze()
    }

    /// Reads foreign bytes: the keys of a region of `len` bytes.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(super) fn decode(bytes: &[u8], len: u64) -> Result<Self, String> {
        let bad = |what: &str| Err(format!("a key of its is {what}"));
        let Some((head, rest)) = bytes.split_first_chunk::<16>() else {
            return bad("truncated");
        };
        let (magic, numbers) = head.split_at(4);
        if magic != KEYS_MAGIC {
            return bad("of another make");
        }
        let (chunk_len, count) = numbers.split_at(8);
        let chunk_len = u64::from_le_bytes(chunk_len.try_into().expect("split at its length"));
        let count = u32::from_le_bytes(count.try_into().expect("four of sixteen bytes are left"));
        if chunk_len == 0 || len == 0 || chunks(len, chunk_len) != u64::from(count) {
            return bad("for another length of memory");
        }
        if chunk_len < len && !chunk_len.is_multiple_of(PAGE) {
            return bad("cut where no page ends");
        }
        if rest.len() as u64 != 4 * u64::from(count) {
            return bad("truncated");
        }
        let (keys, _none) = rest.as_chunks::<4>();
        Ok(Self { chunk_len, rkeys: keys.iter().map(|key| u32::from_le_bytes(*key)).collect() })
    }
}

/// What one work request reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Of the transfer's blocks, the one that this is part of.
    pub(super) block: usize,
    /// Bytes from the start of the block.
    pub(super) offset: usize,
    pub(super) len: u32,
    /// Index of the chunk of the local region.
    pub(super) local_chunk: usize,
    pub(super) rkey: u32,
}

/// Cuts blocks into pieces. `remote` gives the keys of a peer's region; the ranges were checked
/// against the regions, so every chunk exists.
pub(super) fn pieces<'a>(
    blocks: &[Block],
    local_chunk_len: u64,
    max_message: u32,
    remote: impl Fn(u32) -> &'a RemoteKeys,
) -> Vec<Piece> {
    let mut pieces = Vec::with_capacity(blocks.len());
    for (index, block) in blocks.iter().enumerate() {
        let keys = remote(block.remote_region);
        let mut offset = 0;
        while offset < block.len {
            let local = (block.local_offset + offset) as u64;
            let far = block.remote_offset + offset as u64;
            let len = ((block.len - offset) as u64)
                .min(u64::from(max_message))
                .min(local_chunk_len - local % local_chunk_len)
                .min(keys.chunk_len - far % keys.chunk_len);
            pieces.push(Piece {
                block: index,
                offset,
                len: len as u32,
                local_chunk: (local / local_chunk_len) as usize,
                rkey: keys.rkeys[(far / keys.chunk_len) as usize],
            });
            offset += len as usize;
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys(len: u64, chunk_len: u64) -> RemoteKeys {
        let rkeys = (0..chunks(len, chunk_len) as u32).map(|index| 0xAB00 + index).collect();
        RemoteKeys { chunk_len, rkeys }
    }

    #[test]
    fn memory_is_one_chunk_if_the_device_allows() {
        assert_eq!(chunk_len(10 << 20, u64::MAX), 10 << 20);
        assert_eq!(chunk_len(10 << 20, 5 << 20), 4 << 20);
        assert_eq!(chunk_len(10 << 20, 10_000), 8192);
        assert_eq!(chunk_len(100, 4096), 100);
        assert_eq!(chunks(10 << 20, 4 << 20), 3);
    }

    #[test]
    fn keys_round_trip_and_damage_is_found() {
        let good = keys(10_000, 4096);
        let bytes = good.encode();
        assert_eq!(RemoteKeys::decode(&bytes, 10_000), Ok(good));
        for len in 0..bytes.len() {
            RemoteKeys::decode(&bytes[..len], 10_000).unwrap_err();
        }
        for byte in 0..16 {
            let mut forged = bytes.to_vec();
            forged[byte] ^= 0x41;
            RemoteKeys::decode(&forged, 10_000).unwrap_err();
        }
        RemoteKeys::decode(&bytes, 1 << 40).unwrap_err();
    }

    proptest! {
        #[test]
        fn arbitrary_keys_do_no_harm(
            bytes in prop::collection::vec(any::<u8>(), 0..64),
            len in any::<u64>(),
        ) {
            let _ = RemoteKeys::decode(&bytes, len);
            let framed = [KEYS_MAGIC, &bytes[..]].concat();
            let _ = RemoteKeys::decode(&framed, len);
        }

        /// Every byte of every block is moved once, in order, within one chunk on either side.
        #[test]
        fn pieces_tile_their_blocks(
            spans in prop::collection::vec((0..50_000_usize, 0..50_000_u64, 1..30_000_usize), 1..6),
            local_chunk in 4096..40_000_u64,
            remote_chunk in 4096..40_000_u64,
            max_message in 256..70_000_u32,
        ) {
            let blocks: Vec<Block> = spans
                .iter()
                .map(|&(local_offset, remote_offset, len)| Block { local_offset, remote_region: 0, remote_offset, len })
                .collect();
            let keys = keys(80_000, remote_chunk);
            let pieces = pieces(&blocks, local_chunk, max_message, |_| &keys);
            let mut covered = vec![0_usize; blocks.len()];
            for piece in &pieces {
                let block = &blocks[piece.block];
                prop_assert_eq!(covered[piece.block], piece.offset);
                covered[piece.block] += piece.len as usize;
                prop_assert!((1..=max_message).contains(&piece.len));
                let (near, last) = ((block.local_offset + piece.offset) as u64, u64::from(piece.len) - 1);
                prop_assert_eq!(near / local_chunk, piece.local_chunk as u64);
                prop_assert_eq!((near + last) / local_chunk, piece.local_chunk as u64);
                let far = block.remote_offset + piece.offset as u64;
                prop_assert_eq!(far / remote_chunk, (far + last) / remote_chunk);
                prop_assert_eq!(piece.rkey, 0xAB00 + (far / remote_chunk) as u32);
            }
            prop_assert!(covered.iter().zip(&blocks).all(|(covered, block)| *covered == block.len));
        }
    }
}
