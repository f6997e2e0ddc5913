//! Bodies of requests, as router, prefill and decode read them.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use pdlab_api::chat::ChatRequest;
use pdlab_api::completion::CompletionRequest;
use pdlab_api::kv_transfer::KvTransferParams;
use pdlab_router::legs::ClientBody;

fuzz_target!(|data: &[u8]| {
    if let Ok(body) = ClientBody::parse(Bytes::copy_from_slice(data)) {
        // Whatever the router takes for a request, it hands on as JSON.
        let leg = body.prefill_leg().to_bytes();
        serde_json::from_slice::<serde::de::IgnoredAny>(&leg).expect("the prefill leg is JSON");
    }
    let _ = serde_json::from_slice::<CompletionRequest>(data);
    let _ = serde_json::from_slice::<ChatRequest>(data);
    if let Ok(params) = serde_json::from_slice::<KvTransferParams>(data) {
        let _ = params.transfer();
    }
});
