//! What one agent tells another so that it can connect and read: encoded, checked, decoded.
//!
//! Little-endian, in this order: magic (8 bytes), version (1), backend (1), instance (8), name
//! (length 2 + bytes), address (length 4 + bytes), number of regions (4), then per region: id (4),
//! base (8), length (8), block length (8, 0 for none), blocks (8), remote key (length 4 + bytes);
//! last a 64-bit FNV-1a sum of all that. The sum finds damage, not forgery: what a forged key may
//! do is decided by the owner's device or server.

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::config::BackendKind;
use crate::error::Error;

const MAGIC: &[u8; 8] = b"PDLABMD\n";
/// Version 1 is the first; since version 2 the ids of regions may have gaps. A decoder refuses every other: peers of one cluster are one build.
const VERSION: u8 = 2;
/// Longest metadata that is looked at. 64 regions with keys of a few hundred bytes stay far below.
const MAX_BYTES: usize = 1 << 20;
/// Longest agent name, in bytes: it travels with every hello and stands in every error.
pub(crate) const MAX_NAME_BYTES: usize = 255;

/// How a region is divided into KV blocks. Peers compare it before they read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockLayout {
    /// Bytes in one block.
    pub block_len: u64,
    /// Blocks in the region, from its start.
    pub blocks: u64,
}

impl BlockLayout {
    /// Bytes that all blocks take, or `None` if that exceeds 64 bits.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        self.block_len.checked_mul(self.blocks)
    }
}

/// A region of a peer, as its metadata describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteRegion {
    /// What a descriptor names it by.
    pub id: u32,
    /// Length in bytes.
    pub len: u64,
    /// Its division into blocks, if it has one.
    pub layout: Option<BlockLayout>,
    /// Address of its first byte in the peer's memory.
    pub(crate) base: u64,
    /// What the backend needs to read it.
    pub(crate) remote_key: Bytes,
}

/// Decoded metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Metadata {
    pub(crate) backend: BackendKind,
    pub(crate) name: String,
    /// Tells two agents apart that had the same address one after the other.
    pub(crate) instance: u64,
    /// Where the backend listens, in its own encoding.
    pub(crate) address: Bytes,
    /// Sorted by id. Ids have gaps where regions were deregistered.
    pub(crate) regions: Vec<RemoteRegion>,
}

impl Metadata {
    pub(crate) fn encode(&self) -> Result<Bytes, Error> {
        let mut out = BytesMut::with_capacity(256);
        out.put_slice(MAGIC);
        out.put_u8(VERSION);
        out.put_u8(backend_code(self.backend));
        out.put_u64_le(self.instance);
        out.put_u16_le(self.name.len() as u16);
        out.put_slice(self.name.as_bytes());
        put_long(&mut out, &self.address);
        out.put_u32_le(self.regions.len() as u32);
        for region in &self.regions {
            out.put_u32_le(region.id);
            out.put_u64_le(region.base);
            out.put_u64_le(region.len);
            let layout = region.layout.unwrap_or(BlockLayout { block_len: 0, blocks: 0 });
            out.put_u64_le(layout.block_len);
            out.put_u64_le(layout.blocks);
            put_long(&mut out, &region.remote_key);
        }
        out.put_u64_le(fnv1a(&out));
        if out.len() > MAX_BYTES {
            let (size, limit) = (out.len() as u64, MAX_BYTES as u64);
            return Err(Error::TooLarge { what: "the agent's metadata", size, limit });
        }
        Ok(out.freeze())
    }

    /// Reads foreign bytes: every length is checked before it is used.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > MAX_BYTES {
            let (size, limit) = (bytes.len() as u64, MAX_BYTES as u64);
            return Err(Error::TooLarge { what: "the peer's metadata", size, limit });
        }
        let Some((body, sum)) = bytes.split_last_chunk::<8>() else {
            return Err(bad("it is truncated"));
        };
        let mut body = Cursor(body);
        if body.array::<8>()? != *MAGIC {
            return Err(bad("it does not begin like metadata of this transport"));
        }
        let version = body.u8()?;
        if version != VERSION {
            return Err(bad(&format!("it has version {version}, this side reads {VERSION}")));
        }
        if u64::from_le_bytes(*sum) != fnv1a(&bytes[..bytes.len() - 8]) {
            return Err(bad("its checksum is wrong: it was truncated or damaged on the way"));
        }
        let backend = body.u8()?;
        let backend = backend_of(backend)
            .ok_or_else(|| bad(&format!("its backend, number {backend}, is unknown here")))?;
        let instance = body.u64()?;
        let name_len = usize::from(body.u16()?);
        let name = std::str::from_utf8(body.take(name_len)?)
            .ok()
            .filter(|name| is_valid_name(name))
            .ok_or_else(|| bad("its agent name is no UTF-8 of 1 to 255 bytes"))?
            .to_owned();
        let address = body.long()?;
        let count = body.u32()?;
        // No capacity from the count: it is foreign, and each region must first prove its bytes.
        let mut regions = Vec::new();
        let mut least_id = 0;
        for _ in 0..count {
            let region = region(&mut body, least_id)?;
            least_id = u64::from(region.id) + 1;
            regions.push(region);
        }
        if !body.0.is_empty() {
            return Err(bad("it has bytes left over"));
        }
        Ok(Self { backend, name, instance, address, regions })
    }

    /// Where in `regions` the one with this id is.
    pub(crate) fn index_of(&self, id: u32) -> Option<usize> {
        self.regions.binary_search_by_key(&id, |region| region.id).ok()
    }
}

/// Whether an agent may be called so.
pub(crate) fn is_valid_name(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len())
}

fn region(body: &mut Cursor<'_>, least_id: u64) -> Result<RemoteRegion, Error> {
    let id = body.u32()?;
    if u64::from(id) < least_id {
        return Err(bad("its regions are not numbered in order"));
    }
    let (base, len) = (body.u64()?, body.u64()?);
    if base.checked_add(len).is_none() {
        return Err(bad(&format!("region {id} exceeds the address space")));
    }
    let layout = BlockLayout { block_len: body.u64()?, blocks: body.u64()? };
    if layout.bytes().is_none_or(|bytes| bytes > len) {
        return Err(bad(&format!("the blocks of region {id} exceed its length")));
    }
    let layout = (layout.block_len > 0).then_some(layout);
    Ok(RemoteRegion { id, len, layout, base, remote_key: body.long()? })
}

fn backend_code(kind: BackendKind) -> u8 {
    match kind {
        BackendKind::Tcp => 1,
        BackendKind::Ucx => 2,
        BackendKind::Verbs => 3,
    }
}

fn backend_of(code: u8) -> Option<BackendKind> {
    BackendKind::ALL.iter().copied().find(|kind| backend_code(*kind) == code)
}

fn put_long(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u32_le(bytes.len() as u32);
    out.put_slice(bytes);
}

fn bad(reason: &str) -> Error {
    Error::BadMetadata { reason: reason.to_owned() }
}

/// FNV-1a, 64 bits (<https://www.rfc-editor.org/rfc/rfc9923>). Each step is a bijection of the
/// state, so a change of any one byte always changes the sum.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The bytes that are still to be read.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Error> {
        let (head, tail) = self.0.split_at_checked(len).ok_or_else(|| bad("it is truncated"))?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (head, tail) = self.0.split_first_chunk().ok_or_else(|| bad("it is truncated"))?;
        self.0 = tail;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, Error> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Result<u16, Error> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, Error> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Error> {
        self.array().map(u64::from_le_bytes)
    }

    fn long(&mut self) -> Result<Bytes, Error> {
        let len = self.u32()? as usize;
        self.take(len).map(Bytes::copy_from_slice)
    }
}

/// Decodes `data` as it is, and with the checksum that it should have: a fuzzer does not guess one.
#[cfg(fuzzing)]
pub(crate) fn fuzz(data: &[u8]) {
    let mut summed = data.to_vec();
    summed.put_u64_le(fnv1a(data));
    for bytes in [data, &summed] {
        if let Ok(metadata) = Metadata::decode(bytes) {
            let again = metadata.encode().expect("what was decoded is within the limits");
            assert_eq!(Metadata::decode(&again).expect("what was encoded decodes"), metadata);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Metadata {
        let region = |id, layout| RemoteRegion {
            id,
            len: 1 << 20,
            layout,
            base: 0x7f00_0000_0000,
            remote_key: Bytes::from_static(b"key"),
        };
        Metadata {
            backend: BackendKind::Ucx,
            name: "prefill-0".to_owned(),
            instance: 42,
            address: Bytes::from_static(b"worker address"),
            regions: vec![
                region(0, Some(BlockLayout { block_len: 4096, blocks: 256 })),
                region(1, None),
                region(7, None),
            ],
        }
    }

    /// `body` with the sum that it should have.
    fn sealed(body: &[u8]) -> Vec<u8> {
        let mut bytes = body.to_vec();
        bytes.extend(fnv1a(body).to_le_bytes());
        bytes
    }

    #[test]
    fn round_trips() {
        let metadata = sample();
        assert_eq!(Metadata::decode(&metadata.encode().unwrap()).unwrap(), metadata);
    }

    #[test]
    fn regions_are_found_by_id() {
        let found = [0, 1, 2, 7, 8].map(|id| sample().index_of(id));
        assert_eq!(found, [Some(0), Some(1), None, Some(2), None]);
    }

    #[test]
    fn ids_out_of_order_are_refused() {
        let mut metadata = sample();
        metadata.regions.swap(1, 2);
        assert_eq!(
            Metadata::decode(&metadata.encode().unwrap()).unwrap_err().kind(),
            "bad_metadata"
        );
    }

    #[test]
    fn every_truncation_and_every_flipped_bit_is_found() {
        let bytes = sample().encode().unwrap();
        for len in 0..bytes.len() {
            assert_eq!(Metadata::decode(&bytes[..len]).unwrap_err().kind(), "bad_metadata");
        }
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Metadata::decode(&damaged).unwrap_err().kind(), "bad_metadata", "bit {bit}");
        }
    }

    #[test]
    fn another_version_says_so() {
        let mut bytes = sample().encode().unwrap().to_vec();
        bytes[8] = 9;
        let error = Metadata::decode(&bytes).unwrap_err().to_string();
        assert!(error.contains("version 9"), "{error}");
    }

    #[test]
    fn oversized_input_is_refused_unread() {
        assert_eq!(Metadata::decode(&vec![0; MAX_BYTES + 1]).unwrap_err().kind(), "too_large");
    }

    #[test]
    fn a_huge_region_count_costs_nothing() {
        let encoded = Metadata { regions: Vec::new(), ..sample() }.encode().unwrap();
        let mut body = encoded[..encoded.len() - 8].to_vec();
        let at = body.len() - 4;
        body[at..].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(Metadata::decode(&sealed(&body)).unwrap_err().kind(), "bad_metadata");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = Metadata::decode(&bytes);
        }

        /// Past the checksum: a valid frame around hostile content.
        #[test]
        fn hostile_content_under_a_right_checksum_does_no_harm(
            at in 10..150_usize,
            patch in prop::collection::vec(any::<u8>(), 1..24),
            cut in 0..150_usize,
        ) {
            let encoded = sample().encode().unwrap();
            let mut body = encoded[..encoded.len() - 8].to_vec();
            for (byte, new) in body.iter_mut().skip(at).zip(&patch) {
                *byte = *new;
            }
            body.truncate(body.len().saturating_sub(cut).max(9));
            if let Ok(metadata) = Metadata::decode(&sealed(&body)) {
                for region in &metadata.regions {
                    prop_assert!(region.base.checked_add(region.len).is_some());
                    let blocks = region.layout.and_then(|layout| layout.bytes()).unwrap_or(0);
                    prop_assert!(blocks <= region.len);
                }
                prop_assert_eq!(Metadata::decode(&metadata.encode().unwrap()).unwrap(), metadata);
            }
        }
    }
}
