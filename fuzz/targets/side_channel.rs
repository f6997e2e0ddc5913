//! What prefill and decode say to each other beside the blocks.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pdlab_api::notification::KvNotification;
use pdlab_api::side_channel::{Handshake, Query};

fuzz_target!(|data: &[u8]| {
    if let Some(read) = KvNotification::decode(data) {
        assert_eq!(KvNotification::decode(read.encode().as_bytes()), Some(read));
    }
    if let Ok(query) = Query::decode(data) {
        assert_eq!(Query::decode(&query.encode()).ok(), Some(query));
    }
    if let Ok(handshake) = Handshake::decode(data) {
        let _ = handshake.metadata();
    }
});
