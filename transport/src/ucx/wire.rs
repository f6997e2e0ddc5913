//! The bytes that two agents exchange over UCX, and around it: encoded, and decoded with suspicion.
//!
//! Metadata carries UCX's worker address and keys inside of a small frame each, so that foreign
//! bytes end here and not in UCX's own decoder, which trusts its input. Three active messages:
//! - **hello** (reader to owner): "are you the agent with this instance number?"
//! - **answer** (owner to reader): "I am this one". Also says that every message before the hello
//!   has arrived, because messages of one endpoint arrive in order.
//! - **notification**: the sender's name as the header, the payload as the data.

use bytes::{BufMut, Bytes, BytesMut};

/// Ids of active messages, set aside for this transport. Part of the protocol: never reused.
pub(super) const HELLO: u32 = 17;
pub(super) const ANSWER: u32 = 18;
pub(super) const NOTIFICATION: u32 = 19;

const ADDRESS_TAG: &[u8; 4] = b"UCXA";
const KEY_TAG: &[u8; 4] = b"UCXK";

/// Header of hello and answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Greeting {
    /// The reader's number for this exchange, sent back as it is.
    pub(super) token: u64,
    /// Hello: the instance that the reader looks for. Answer: the instance that answers.
    pub(super) instance: u64,
}

impl Greeting {
    pub(super) const BYTES: usize = 16;

    pub(super) fn encode(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.token.to_le_bytes());
        bytes[8..].copy_from_slice(&self.instance.to_le_bytes());
        bytes
    }

    pub(super) fn decode(header: &[u8]) -> Option<Self> {
        let header: &[u8; Self::BYTES] = header.try_into().ok()?;
        let (token, instance) = header.split_first_chunk::<8>()?;
        let instance = instance.first_chunk()?;
        Some(Self { token: u64::from_le_bytes(*token), instance: u64::from_le_bytes(*instance) })
    }
}

/// The sender's name out of a notification's header.
pub(super) fn sender(header: &[u8]) -> Option<&str> {
    std::str::from_utf8(header).ok().filter(|name| crate::metadata::is_valid_name(name))
}

/// A worker address for metadata.
pub(super) fn frame_address(address: &[u8]) -> Bytes {
    frame(ADDRESS_TAG, address)
}

/// The worker address in metadata, or what is wrong with it.
pub(super) fn unframe_address(framed: &[u8]) -> Result<&[u8], &'static str> {
    unframe(ADDRESS_TAG, framed).ok_or("its address is no UCX worker address")
}

/// A remote key for metadata.
pub(super) fn frame_key(key: &[u8]) -> Bytes {
    frame(KEY_TAG, key)
}

/// The remote key in metadata, or what is wrong with it.
pub(super) fn unframe_key(framed: &[u8]) -> Result<&[u8], &'static str> {
    unframe(KEY_TAG, framed).ok_or("one of its remote keys is no UCX key")
}

/// Tag, length (4 bytes, little-endian), content.
fn frame(tag: &[u8; 4], content: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(8 + content.len());
    out.put_slice(tag);
    out.put_u32_le(content.len() as u32);
    out.put_slice(content);
    out.freeze()
}

/// The content, if the frame is whole and not empty.
fn unframe<'a>(tag: &[u8; 4], framed: &'a [u8]) -> Option<&'a [u8]> {
    let (found, rest) = framed.split_first_chunk::<4>()?;
    let (len, content) = rest.split_first_chunk::<4>()?;
    let whole = found == tag && u32::from_le_bytes(*len) as usize == content.len();
    (whole && !content.is_empty()).then_some(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_round_trip_and_whatever_else_is_refused() {
        let framed = frame_address(b"worker");
        assert_eq!(unframe_address(&framed), Ok(&b"worker"[..]));
        assert_eq!(unframe_key(&frame_key(b"key")), Ok(&b"key"[..]));
        assert!(unframe_key(&framed).is_err());
        assert!(unframe_address(&frame_address(b"")).is_err());
        for len in 0..framed.len() {
            assert!(unframe_address(&framed[..len]).is_err(), "{len}");
        }
        assert!(unframe_address(&[&framed[..], b"x"].concat()).is_err());
    }

    #[test]
    fn greetings_round_trip_and_have_one_length() {
        let greeting = Greeting { token: 7, instance: u64::MAX - 1 };
        let bytes = greeting.encode();
        assert_eq!(Greeting::decode(&bytes), Some(greeting));
        assert_eq!(Greeting::decode(&bytes[1..]), None);
        assert_eq!(Greeting::decode(&[&bytes[..], b"x"].concat()), None);
    }

    #[test]
    fn senders_have_names() {
        assert_eq!(sender(b"decode-0"), Some("decode-0"));
        assert_eq!(sender(b""), None);
        assert_eq!(sender(&[0xff, 0xfe]), None);
        assert_eq!(sender(&[b'a'; 256]), None);
    }
}
