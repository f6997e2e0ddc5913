//! The decoders of foreign bytes that are nobody else's business, for fuzzers: built with `--cfg fuzzing` only, as
//! cargo-fuzz does.

/// Puts `data` to every decoder. Must return, whatever they are.
pub fn decode(data: &[u8]) {
    crate::trace::fuzz(data);
    crate::rdma::fuzz(data);
}
