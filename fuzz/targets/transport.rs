//! Metadata, frames and keys from a peer's transport.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| pdlab_transport::fuzzing::decode(data));
