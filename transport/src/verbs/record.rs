//! What the two sides of a connection tell each other over TCP before the queue pairs talk, and
//! the address in an agent's metadata. Pure; every foreign length is checked before it is used.
//!
//! A frame is a length (4 bytes, little-endian) and a body: magic (4), version (1), kind (1),
//! fields. The reader says [`Hello`], the owner answers with a [`Welcome`], or with a
//! [refusal](Frame::Refusal), which may also come later, as a farewell.

use std::net::{Ipv6Addr, SocketAddr};

use bytes::{BufMut, Bytes, BytesMut};

use super::choice::{LinkLayer, Source, mtu_bytes, mtu_code};
use crate::metadata::{MAX_NAME_BYTES, is_valid_name};
use crate::rdma::MAX_QUEUE_PAIRS;

const MAGIC: &[u8; 4] = b"PDVB";
/// Version 1 is the first. A decoder refuses every other: peers of one cluster are one build.
const VERSION: u8 = 1;
/// Longest body that is looked at.
pub(super) const MAX_FRAME_BYTES: usize = 4096;
/// Longest reason in a refusal, in bytes.
const MAX_REASON_BYTES: usize = 1024;

/// One queue pair: its number and the first packet number it sends, 24 bits each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lane {
    pub(super) qpn: u32,
    pub(super) psn: u32,
}

/// One side's end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct End {
    pub(super) link_layer: LinkLayer,
    /// Bytes.
    pub(super) mtu: u16,
    pub(super) lid: u16,
    /// Unspecified where packets are routed by LID alone.
    pub(super) gid: Ipv6Addr,
    /// The reader: reads it would start at a time. The owner: reads it answers at a time.
    pub(super) rd_atomic: u8,
    pub(super) lanes: Vec<Lane>,
}

impl End {
    pub(super) fn new(source: &Source, rd_atomic: u8, lanes: Vec<Lane>) -> Self {
        let Source { link_layer, lid, gid, mtu, .. } = *source;
        Self { link_layer, mtu, lid, gid, rd_atomic, lanes }
    }
}

/// What the reader says first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    /// The agent that the reader's metadata is of.
    pub(super) instance: u64,
    /// The reader's name.
    pub(super) name: String,
    pub(super) end: End,
}

/// What the owner answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Welcome {
    /// Longest notification that it has room for, in bytes.
    pub(super) notification_bytes: u32,
    pub(super) end: End,
}

/// One message of the exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Hello(Hello),
    Welcome(Welcome),
    /// The owner does not want to, or no longer, and says why.
    Refusal(String),
}

impl Frame {
    /// With its length in front.
    pub(super) fn encode(&self) -> Bytes {
        let mut body = BytesMut::with_capacity(128);
        body.put_slice(MAGIC);
        body.put_u8(VERSION);
        match self {
            Self::Hello(Hello { instance, name, end }) => {
                body.put_u8(1);
                body.put_u64_le(*instance);
                body.put_u8(name.len() as u8);
                body.put_slice(name.as_bytes());
                put_end(&mut body, end);
            }
            Self::Welcome(Welcome { notification_bytes, end }) => {
                body.put_u8(2);
                body.put_u32_le(*notification_bytes);
                put_end(&mut body, end);
            }
            Self::Refusal(reason) => {
                body.put_u8(3);
                body.put_slice(&reason.as_bytes()[..reason.floor_char_boundary(MAX_REASON_BYTES)]);
            }
        }
        let mut frame = BytesMut::with_capacity(4 + body.len());
        frame.put_u32_le(body.len() as u32);
        frame.put_slice(&body);
        frame.freeze()
    }

    /// Reads a body, without the length in front of it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn decode(body: &[u8]) -> Result<Self, String> {
        let mut body = Cursor(body);
        if body.array::<4>()? != *MAGIC {
            return Err("it does not speak this protocol".to_owned());
        }
        let version = body.u8()?;
        if version != VERSION {
            return Err(format!("it speaks version {version}, this side version {VERSION}"));
        }
        let frame = match body.u8()? {
            1 => {
                let instance = body.u64()?;
                let len = usize::from(body.u8()?);
                let name = std::str::from_utf8(body.take(len)?).ok();
                let name = name.filter(|name| is_valid_name(name));
                let name = name.ok_or("its name is no UTF-8 of 1 to 255 bytes")?.to_owned();
                Self::Hello(Hello { instance, name, end: body.end()? })
            }
            2 => Self::Welcome(Welcome { notification_bytes: body.u32()?, end: body.end()? }),
            3 => {
                let text = body.take(body.0.len().min(MAX_REASON_BYTES))?;
                Self::Refusal(String::from_utf8_lossy(text).into_owned())
            }
            kind => return Err(format!("a message of unknown kind {kind}")),
        };
        if body.0.is_empty() { Ok(frame) } else { Err("bytes left over in a message".to_owned()) }
    }
}

const _: () = assert!(MAX_NAME_BYTES <= u8::MAX as usize, "a name's length is one byte");

fn put_end(out: &mut BytesMut, end: &End) {
    out.put_u8(match end.link_layer {
        LinkLayer::InfiniBand => 1,
        LinkLayer::Ethernet => 2,
    });
    out.put_u8(mtu_code(end.mtu));
    out.put_u16_le(end.lid);
    out.put_slice(&end.gid.octets());
    out.put_u8(end.rd_atomic);
    out.put_u8(end.lanes.len() as u8);
    for lane in &end.lanes {
        out.put_u32_le(lane.qpn);
        out.put_u32_le(lane.psn);
    }
}

/// The address in an agent's metadata: the magic and where it listens.
pub(super) fn encode_address(listen: SocketAddr, link_layer: LinkLayer) -> Bytes {
    let layer = match link_layer {
        LinkLayer::InfiniBand => "ib",
        LinkLayer::Ethernet => "roce",
    };
    format!("PDVB{VERSION} {layer} {listen}").into()
}

/// Reads an address; foreign bytes.
///
/// # Errors
/// What is wrong with it.
pub(super) fn decode_address(bytes: &[u8]) -> Result<(SocketAddr, LinkLayer), String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "its address is no text")?;
    let mut words = text.split(' ');
    let version = words.next().and_then(|word| word.strip_prefix("PDVB"));
    let version = version.ok_or("its address is of another make")?;
    if version.parse() != Ok(VERSION) {
        return Err(format!("it speaks version {version}, this side version {VERSION}"));
    }
    let layer = match words.next() {
        Some("ib") => LinkLayer::InfiniBand,
        Some("roce") => LinkLayer::Ethernet,
        _ => return Err("its address names no link layer".to_owned()),
    };
    let listen = words.next().and_then(|word| word.parse().ok());
    let listen = listen.filter(|_| words.next().is_none());
    Ok((listen.ok_or("its address is no socket address")?, layer))
}

/// The bytes that are still to be read.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], String> {
        let (head, tail) = self.0.split_at_checked(len).ok_or("a message is truncated")?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (head, tail) = self.0.split_first_chunk().ok_or("a message is truncated")?;
        self.0 = tail;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, String> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Result<u16, String> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    fn end(&mut self) -> Result<End, String> {
        let link_layer = match self.u8()? {
            1 => LinkLayer::InfiniBand,
            2 => LinkLayer::Ethernet,
            other => return Err(format!("link layer {other} is unknown here")),
        };
        let mtu = self.u8()?;
        let mtu = mtu_bytes(mtu.into()).ok_or_else(|| format!("MTU code {mtu} is none"))?;
        let lid = self.u16()?;
        let gid = Ipv6Addr::from(self.array::<16>()?);
        let rd_atomic = self.u8()?;
        if rd_atomic == 0 {
            return Err("it can do no RDMA reads".to_owned());
        }
        let count = self.u8()?;
        if !(1..=MAX_QUEUE_PAIRS).contains(&count) {
            return Err(format!("{count} queue pairs, and there can be 1 to {MAX_QUEUE_PAIRS}"));
        }
        let mut lanes = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            let lane = Lane { qpn: self.u32()?, psn: self.u32()? };
            if (lane.qpn | lane.psn) >> 24 != 0 {
                return Err("a number of a queue pair or packet exceeds 24 bits".to_owned());
            }
            lanes.push(lane);
        }
        Ok(End { link_layer, mtu, lid, gid, rd_atomic, lanes })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn end() -> End {
        End {
            link_layer: LinkLayer::Ethernet,
            mtu: 4096,
            lid: 3,
            gid: "fd77::1".parse().unwrap(),
            rd_atomic: 16,
            lanes: vec![Lane { qpn: 17, psn: 0xFF_FFFF }, Lane { qpn: 18, psn: 0 }],
        }
    }

    fn samples() -> [Frame; 3] {
        [
            Frame::Hello(Hello { instance: 42, name: "decode-0".to_owned(), end: end() }),
            Frame::Welcome(Welcome { notification_bytes: 16 << 10, end: end() }),
            Frame::Refusal("no".to_owned()),
        ]
    }

    #[test]
    fn frames_round_trip() {
        for frame in samples() {
            let bytes = frame.encode();
            let (len, body) = bytes.split_first_chunk::<4>().unwrap();
            assert_eq!(u32::from_le_bytes(*len) as usize, body.len());
            assert!(body.len() <= MAX_FRAME_BYTES);
            assert_eq!(Frame::decode(body), Ok(frame));
        }
    }

    #[test]
    fn truncated_and_longer_frames_are_refused() {
        for frame in &samples()[..2] {
            let bytes = frame.encode();
            for len in 4..bytes.len() {
                Frame::decode(&bytes[4..len]).unwrap_err();
            }
            Frame::decode(&[&bytes[4..], b"x"].concat()).unwrap_err();
        }
    }

    #[test]
    fn another_version_says_so() {
        let mut body = samples()[0].encode()[4..].to_vec();
        body[4] = 9;
        assert!(Frame::decode(&body).unwrap_err().contains("version 9"));
        assert!(decode_address(b"PDVB9 roce 1.2.3.4:5").unwrap_err().contains("version 9"));
    }

    #[test]
    fn a_long_reason_is_cut_at_a_letter() {
        let bytes = Frame::Refusal("ä".repeat(2000)).encode();
        let Ok(Frame::Refusal(reason)) = Frame::decode(&bytes[4..]) else { panic!() };
        assert_eq!(reason, "ä".repeat(MAX_REASON_BYTES / 2));
    }

    #[test]
    fn addresses_round_trip() {
        for (listen, layer) in
            [("127.0.0.1:80", LinkLayer::Ethernet), ("[fd77::1]:9", LinkLayer::InfiniBand)]
        {
            let listen: SocketAddr = listen.parse().unwrap();
            assert_eq!(decode_address(&encode_address(listen, layer)), Ok((listen, layer)));
        }
        for text in [
            "",
            "nowhere",
            "PDVB1 roce",
            "PDVB1 roce 1.2.3.4",
            "PDVB1 x 1.2.3.4:5",
            "PDVB1 ib 1.2.3.4:5 6",
        ] {
            decode_address(text.as_bytes()).unwrap_err();
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Frame::decode(&bytes);
            let _ = decode_address(&bytes);
        }

        /// Behind the right magic and version: what is accepted is what it would be encoded as.
        #[test]
        fn hostile_content_does_no_harm(at in 5..80_usize, patch in prop::collection::vec(any::<u8>(), 1..12)) {
            for frame in samples() {
                let mut body = frame.encode()[4..].to_vec();
                for (byte, new) in body.iter_mut().skip(at).zip(&patch) {
                    *byte = *new;
                }
                if let Ok(frame @ (Frame::Hello(_) | Frame::Welcome(_))) = Frame::decode(&body) {
                    prop_assert_eq!(&frame.encode()[4..], &body[..]);
                }
            }
        }
    }
}
