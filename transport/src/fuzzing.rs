//! The decoders of foreign bytes, for fuzzers: built with `--cfg fuzzing` only, as cargo-fuzz does.

/// Puts `data` to every decoder. Must return, whatever they are.
pub fn decode(data: &[u8]) {
    crate::metadata::fuzz(data);
    crate::tcp::fuzz(data);
    #[cfg(feature = "ucx")]
    crate::ucx::fuzz(data);
    #[cfg(feature = "verbs")]
    crate::verbs::fuzz(data);
}
