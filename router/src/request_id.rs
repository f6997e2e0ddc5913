//! Ids for requests whose client sent none.

use std::sync::{Mutex, PoisonError};

use hyper::header::HeaderValue;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Makes request ids in the form of a version 4 UUID, as clients and other routers send them.
pub(crate) struct RequestIds(Mutex<StdRng>);

impl RequestIds {
    /// The same seed makes the same ids; without one the system gives it.
    pub(crate) fn new(seed: Option<u64>) -> Self {
        let rng = seed.map_or_else(rand::make_rng, StdRng::seed_from_u64);
        Self(Mutex::new(rng))
    }

    /// A new id, as the value of an `X-Request-Id` header.
    pub(crate) fn next(&self) -> HeaderValue {
        let random = self.0.lock().unwrap_or_else(PoisonError::into_inner).random();
        HeaderValue::from_str(&uuid4(random)).expect("hex digits and dashes fit a header")
    }
}

/// Writes version and variant over random bits
/// (<https://www.rfc-editor.org/rfc/rfc9562#name-uuid-version-4>).
fn uuid4(random: u128) -> String {
    let bits = random & !(0xf << 76) & !(0b11 << 62) | 0x4 << 76 | 0b10 << 62;
    let hex = format!("{bits:032x}");
    let (a, b, c, d, e) = (&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
    format!("{a}-{b}-{c}-{d}-{e}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_the_form_of_a_uuid() {
        assert_eq!(uuid4(0), "00000000-0000-4000-8000-000000000000");
        assert_eq!(uuid4(u128::MAX), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }

    #[test]
    fn a_seed_repeats_and_no_seed_does_not() {
        let (a, b) = (RequestIds::new(Some(7)), RequestIds::new(Some(7)));
        let first = a.next();
        assert_eq!(first, b.next());
        assert_ne!(first, a.next());
        assert_ne!(RequestIds::new(None).next(), RequestIds::new(None).next());
    }
}
