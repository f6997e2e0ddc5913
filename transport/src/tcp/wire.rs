//! The frames, as pure data. A header of 24 bytes, little-endian, then a body:
//!
//! | bytes | field |
//! |---|---|
//! | 4 | magic `PDLT` |
//! | 1 | version |
//! | 1 | kind |
//! | 2 | zero |
//! | 8 | id: the read that the frame belongs to, 0 for others |
//! | 8 | length of the body |
//!
//! The connecting side says hello and is welcomed or refused. Then it sends reads and
//! notifications, and gets data or a failure for each read, in the order of the reads.

use bytes::{BufMut, Bytes, BytesMut};

use crate::backend::Block;
use crate::metadata::{MAX_NAME_BYTES, is_valid_name};

const MAGIC: [u8; 4] = *b"PDLT";
/// Version 1 is the first. Both sides refuse every other: peers of one cluster are one build.
const VERSION: u8 = 1;
pub(super) const HEADER_BYTES: usize = 24;
/// On the wire a block is region (4), offset (8), length (8).
const BLOCK_BYTES: usize = 20;
/// Instance, then the name.
pub(super) const MAX_HELLO_BYTES: usize = 8 + MAX_NAME_BYTES;
/// Longest text in a refusal.
pub(super) const MAX_REFUSAL_BYTES: usize = 512;
/// Block index (4), length of the region (8).
pub(super) const FAILURE_BYTES: usize = 12;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Client: I am so and so, and look for this instance. First frame.
    Hello = 1,
    /// Server: come in. No body.
    Welcome = 2,
    /// Server: no, and why. The connection ends after it.
    Refusal = 3,
    /// Client: send me these blocks.
    Read = 4,
    /// Server: the bytes of all blocks, one after the other.
    Data = 5,
    /// Server: one of the blocks is out of range. The connection stays.
    Failure = 6,
    /// Client: for the owner's eyes.
    Notify = 7,
}

const KINDS: [Kind; 7] = [
    Kind::Hello,
    Kind::Welcome,
    Kind::Refusal,
    Kind::Read,
    Kind::Data,
    Kind::Failure,
    Kind::Notify,
];

/// The bytes do not follow the protocol. The text says how.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Malformed(pub(super) String);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) id: u64,
    /// Length of the body, in bytes.
    pub(super) len: u64,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[..4].copy_from_slice(&MAGIC);
        out[4] = VERSION;
        out[5] = self.kind as u8;
        out[8..16].copy_from_slice(&self.id.to_le_bytes());
        out[16..].copy_from_slice(&self.len.to_le_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, Malformed> {
        if bytes[..4] != MAGIC {
            return Err(Malformed("these bytes are not of this protocol".to_owned()));
        }
        if bytes[4] != VERSION {
            let text = format!("protocol version {}, this side speaks {VERSION}", bytes[4]);
            return Err(Malformed(text));
        }
        let kind = KINDS.into_iter().find(|kind| *kind as u8 == bytes[5]);
        let kind = kind.ok_or_else(|| Malformed(format!("unknown frame kind {}", bytes[5])))?;
        Ok(Self { kind, id: u64_at(bytes, 8), len: u64_at(bytes, 16) })
    }

    /// The length of the body, if it is within `limit`.
    pub(super) fn body_len(&self, limit: usize) -> Result<usize, Malformed> {
        usize::try_from(self.len).ok().filter(|len| *len <= limit).ok_or_else(|| {
            let Self { kind, len, .. } = self;
            Malformed(format!("a {kind:?} frame of {len} bytes, the limit is {limit}"))
        })
    }
}

/// One block of a read, as it comes over the wire: anything may be in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WireBlock {
    pub(super) region: u32,
    pub(super) offset: u64,
    pub(super) len: u64,
}

/// Body limit of a read with so many blocks.
pub(super) fn read_bytes(blocks: usize) -> usize {
    blocks.saturating_mul(BLOCK_BYTES)
}

pub(super) fn hello(instance: u64, name: &str) -> Bytes {
    let mut out = frame(Kind::Hello, 0, 8 + name.len());
    out.put_u64_le(instance);
    out.put_slice(name.as_bytes());
    out.freeze()
}

pub(super) fn welcome() -> Bytes {
    frame(Kind::Welcome, 0, 0).freeze()
}

pub(super) fn refusal(reason: &str) -> Bytes {
    let reason = &reason[..reason.floor_char_boundary(MAX_REFUSAL_BYTES)];
    let mut out = frame(Kind::Refusal, 0, reason.len());
    out.put_slice(reason.as_bytes());
    out.freeze()
}

pub(super) fn read(id: u64, blocks: &[Block]) -> Bytes {
    let mut out = frame(Kind::Read, id, read_bytes(blocks.len()));
    for block in blocks {
        out.put_u32_le(block.remote_region);
        out.put_u64_le(block.remote_offset);
        out.put_u64_le(block.len as u64);
    }
    out.freeze()
}

pub(super) fn failure(id: u64, block: u32, region_len: u64) -> Bytes {
    let mut out = frame(Kind::Failure, id, FAILURE_BYTES);
    out.put_u32_le(block);
    out.put_u64_le(region_len);
    out.freeze()
}

pub(super) fn notify(payload: &[u8]) -> Bytes {
    let mut out = frame(Kind::Notify, 0, payload.len());
    out.put_slice(payload);
    out.freeze()
}

/// Instance and name out of a hello.
pub(super) fn decode_hello(body: &[u8]) -> Result<(u64, &str), Malformed> {
    let Some((instance, name)) = body.split_first_chunk() else {
        return Err(Malformed("a hello without an instance".to_owned()));
    };
    let name = std::str::from_utf8(name).ok().filter(|name| is_valid_name(name));
    let name = name.ok_or_else(|| Malformed("a hello without a proper name".to_owned()))?;
    Ok((u64::from_le_bytes(*instance), name))
}

pub(super) fn decode_read(body: &[u8]) -> Result<Vec<WireBlock>, Malformed> {
    let (blocks, rest) = body.as_chunks::<BLOCK_BYTES>();
    if blocks.is_empty() || !rest.is_empty() {
        return Err(Malformed(format!("a read of {} bytes is no list of blocks", body.len())));
    }
    let block = |bytes: &[u8; BLOCK_BYTES]| WireBlock {
        region: u32_at(bytes, 0),
        offset: u64_at(bytes, 4),
        len: u64_at(bytes, 12),
    };
    Ok(blocks.iter().map(block).collect())
}

/// Block index and length of its region out of a failure.
pub(super) fn decode_failure(body: &[u8; FAILURE_BYTES]) -> (u32, u64) {
    (u32_at(body, 0), u64_at(body, 4))
}

fn frame(kind: Kind, id: u64, len: usize) -> BytesMut {
    let mut out = BytesMut::with_capacity(HEADER_BYTES + len);
    out.put_slice(&Header { kind, id, len: len as u64 }.encode());
    out
}

fn u32_at<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes of a longer array"))
}

fn u64_at<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes of a longer array"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(frame: &[u8]) -> (Header, &[u8]) {
        let (header, body) = frame.split_first_chunk().unwrap();
        let header = Header::decode(header).unwrap();
        assert_eq!(header.len, body.len() as u64);
        (header, body)
    }

    #[test]
    fn frames_round_trip() {
        let frame = hello(7, "decode-1");
        let (header, body) = split(&frame);
        assert_eq!((header.kind, header.id), (Kind::Hello, 0));
        assert_eq!(decode_hello(body), Ok((7, "decode-1")));

        let blocks = [
            Block { local_offset: 5, remote_region: 1, remote_offset: u64::MAX, len: 3 },
            Block { local_offset: 0, remote_region: 0, remote_offset: 9, len: 1 },
        ];
        let frame = read(11, &blocks);
        let (header, body) = split(&frame);
        assert_eq!((header.kind, header.id), (Kind::Read, 11));
        let expected = [
            WireBlock { region: 1, offset: u64::MAX, len: 3 },
            WireBlock { region: 0, offset: 9, len: 1 },
        ];
        assert_eq!(decode_read(body).unwrap(), expected);

        let frame = failure(3, 17, 4096);
        let (header, body) = split(&frame);
        assert_eq!((header.kind, header.id), (Kind::Failure, 3));
        assert_eq!(decode_failure(body.try_into().unwrap()), (17, 4096));

        assert_eq!(split(&notify(b"hi")).1, b"hi");
        assert_eq!(split(&welcome()).0.kind, Kind::Welcome);
        assert_eq!(split(&refusal(&"ü".repeat(400))).1.len(), MAX_REFUSAL_BYTES);
    }

    #[test]
    fn foreign_headers_are_named() {
        let good = Header { kind: Kind::Read, id: 1, len: 40 }.encode();
        let with = |at: usize, byte: u8| {
            let mut bytes = good;
            bytes[at] = byte;
            Header::decode(&bytes).unwrap_err().to_string()
        };
        assert!(with(0, b'G').contains("not of this protocol"));
        assert!(with(4, 2).contains("version 2"));
        assert!(with(5, 99).contains("kind 99"));
        let header = Header::decode(&good).unwrap();
        assert_eq!(header.body_len(40), Ok(40));
        assert!(header.body_len(39).is_err());
        assert!(Header { len: u64::MAX, ..header }.body_len(usize::MAX - 1).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bodies_do_no_harm(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_hello(&body);
            if let Ok(blocks) = decode_read(&body) {
                prop_assert_eq!(blocks.len() * BLOCK_BYTES, body.len());
            }
            if let Some(header) = body.first_chunk() {
                let _ = Header::decode(header);
            }
        }
    }
}
