//! The texts that decode sends to prefill over the transport, as vLLM's NixlConnector words them.

/// A notification from decode to prefill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KvNotification {
    /// `"<remote_request_id>:<readers>"`: the blocks were read (or are not needed); prefill frees
    /// them once it has heard `readers` of these.
    Read {
        /// Prefill's id of the request.
        request_id: String,
        /// How many decode ranks will notify this prefill rank.
        readers: u32,
    },
    /// `"HB:<id>,<id>"`: these requests still wait for their turn to read; renew their leases.
    Heartbeat(Vec<String>),
}

impl KvNotification {
    /// The bytes on the wire.
    pub fn encode(&self) -> String {
        match self {
            KvNotification::Read { request_id, readers } => format!("{request_id}:{readers}"),
            KvNotification::Heartbeat(ids) => format!("HB:{}", ids.join(",")),
        }
    }

    /// Parses foreign bytes; `None` for what is neither form.
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(payload).ok()?;
        if let Some(ids) = text.strip_prefix("HB:") {
            let ids = ids.split(',').filter(|id| !id.is_empty()).map(str::to_owned);
            return Some(KvNotification::Heartbeat(ids.collect()));
        }
        // From the right: router-made request ids contain host:port.
        let (request_id, readers) = text.rsplit_once(':')?;
        let readers = readers.parse().ok().filter(|n| *n > 0)?;
        Some(KvNotification::Read { request_id: request_id.to_owned(), readers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn request_ids_may_hold_addresses() {
        let read = KvNotification::Read {
            request_id: "cmpl-___prefill_addr_http://127.0.0.1:80___x-0-ab".into(),
            readers: 1,
        };
        assert_eq!(KvNotification::decode(read.encode().as_bytes()), Some(read));
    }

    #[test]
    fn garbage_is_refused() {
        for bytes in [&b""[..], b"abc", b"abc:", b"abc:0", b"abc:x", b"\xff:1"] {
            assert_eq!(KvNotification::decode(bytes), None, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = KvNotification::decode(&bytes);
        }

        #[test]
        fn heartbeats_round_trip(ids in prop::collection::vec("[a-z0-9:-]{1,12}", 0..5)) {
            let beat = KvNotification::Heartbeat(ids);
            prop_assert_eq!(KvNotification::decode(beat.encode().as_bytes()), Some(beat));
        }
    }
}
