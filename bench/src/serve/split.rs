//! What TTFT is made of, as the server tells it: queue, prefill, transfer, decode.
//!
//! pdlab's own workers answer [`pdlab_api::timings`] to who asks; foreign servers do not, and then
//! there is no split. Parts are measured by the clock of the process that spent them, as intervals,
//! so clocks need not agree. What no process claims (the router, the network, this client) is the
//! rest of the client's TTFT.

use pdlab_api::timings::Split;
use serde_json::{Map, Value, json};

use super::distribution::Distribution;

/// A part of TTFT, in the order in which a request goes through them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// From arrival at prefill to its first step.
    PrefillQueue,
    /// The computation of the prompt.
    Prefill,
    /// From arrival at decode until KV blocks were free.
    BlockWait,
    /// Until decode had a connection to prefill.
    Handshake,
    /// The read of the KV.
    Transfer,
    /// At decode, from the KV (or from arrival, without a transfer) to the first step.
    DecodeQueue,
    /// The step of decode that made the first token.
    Decode,
    /// Router, network, and whatever nobody else claims.
    Other,
}

impl Part {
    /// All of them, in order.
    pub const ALL: [Self; 8] = [
        Self::PrefillQueue,
        Self::Prefill,
        Self::BlockWait,
        Self::Handshake,
        Self::Transfer,
        Self::DecodeQueue,
        Self::Decode,
        Self::Other,
    ];

    /// Its name in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::PrefillQueue => "prefill_queue",
            Self::Prefill => "prefill",
            Self::BlockWait => "block_wait",
            Self::Handshake => "handshake",
            Self::Transfer => "transfer",
            Self::DecodeQueue => "decode_queue",
            Self::Decode => "decode",
            Self::Other => "other",
        }
    }

    /// Its name for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::PrefillQueue => "Prefill queue",
            Self::Prefill => "Prefill",
            Self::BlockWait => "Wait for KV blocks",
            Self::Handshake => "Handshake",
            Self::Transfer => "KV transfer",
            Self::DecodeQueue => "Decode queue",
            Self::Decode => "Decode",
            Self::Other => "Router and network",
        }
    }
}

/// The parts of a TTFT of `ttft_s`, in seconds and in the order of [`Part::ALL`].
pub fn parts_s(split: &Split, ttft_s: f64) -> [f64; 8] {
    let s = |us: u64| us as f64 / 1e6;
    let prefill = split.prefill.unwrap_or_default();
    let kv = split.kv.unwrap_or_default();
    let mut parts = [
        s(prefill.queue_us),
        s(prefill.compute_us),
        s(split.block_wait_us.unwrap_or(0)),
        s(kv.handshake_us),
        s(kv.transfer_us),
        s(split.queue_us),
        s(split.first_token_us),
        0.0,
    ];
    parts[7] = (ttft_s - parts.iter().sum::<f64>()).max(0.0);
    parts
}

/// The splits of many requests.
#[derive(Debug, Clone, Default)]
pub struct Splits {
    parts: [Distribution; 8],
    kv_bytes: u64,
    kv_blocks: u64,
    loads: u64,
}

impl Splits {
    /// Adds a request that was answered.
    pub(super) fn add(&mut self, split: &Split, ttft_s: f64) {
        for (distribution, s) in self.parts.iter_mut().zip(parts_s(split, ttft_s)) {
            distribution.add(s);
        }
        if let Some(kv) = split.kv {
            self.kv_bytes += kv.bytes;
            self.kv_blocks += kv.blocks;
            self.loads += 1;
        }
    }

    /// Requests that told.
    pub fn count(&self) -> u64 {
        self.parts[0].count()
    }

    /// The times of a part.
    pub fn of(&self, part: Part) -> &Distribution {
        &self.parts[part as usize]
    }

    /// Bytes on the wire per request that loaded KV, on average.
    pub fn mean_kv_bytes(&self) -> f64 {
        if self.loads > 0 { self.kv_bytes as f64 / self.loads as f64 } else { 0.0 }
    }

    /// `ttft_split`: `requests` that told, `parts` (each with `mean_ms`, `median_ms`, `p99_ms`), and
    /// of the `kv_loads`: `kv_bytes`, `kv_blocks`, `kv_bytes_per_request`.
    pub(super) fn to_json(&self) -> Value {
        let part = |part: Part| {
            let times = self.of(part);
            let percentiles = times.percentiles(&[50.0, 99.0]);
            let value = json!({
                "mean_ms": times.mean() * 1e3,
                "median_ms": percentiles[0] * 1e3,
                "p99_ms": percentiles[1] * 1e3,
            });
            (part.name().to_owned(), value)
        };
        json!({
            "requests": self.count(),
            "parts": Part::ALL.into_iter().map(part).collect::<Map<String, Value>>(),
            "kv_loads": self.loads,
            "kv_bytes": self.kv_bytes,
            "kv_blocks": self.kv_blocks,
            "kv_bytes_per_request": self.mean_kv_bytes(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pdlab_api::timings::{KvLoadTimings, PrefillTimings};

    fn split() -> Split {
        Split {
            prefill: Some(PrefillTimings { queue_us: 1000, compute_us: 20_000 }),
            block_wait_us: Some(2000),
            kv: Some(KvLoadTimings {
                bytes: 4096,
                blocks: 2,
                handshake_us: 500,
                transfer_us: 3000,
            }),
            queue_us: 100,
            first_token_us: 5000,
        }
    }

    #[test]
    fn the_parts_sum_up_to_the_ttft() {
        let parts = parts_s(&split(), 0.04);
        assert!((parts.iter().sum::<f64>() - 0.04).abs() < 1e-12);
        assert!((parts[7] - 0.0084).abs() < 1e-9, "{parts:?}");
        // A clock that ticks coarsely must not make a negative rest.
        assert_eq!(parts_s(&split(), 0.001)[7], 0.0);
    }

    #[test]
    fn requests_without_a_load_do_not_thin_out_the_bytes() {
        let mut splits = Splits::default();
        splits.add(&split(), 0.04);
        splits.add(&Split::default(), 0.01);
        assert_eq!((splits.count(), splits.mean_kv_bytes()), (2, 4096.0));
        assert!((splits.of(Part::Other).max() - 0.01).abs() < 1e-9);
        let json = splits.to_json();
        assert_eq!((&json["kv_loads"], &json["kv_blocks"]), (&json!(1), &json!(2)));
        assert!((json["parts"]["prefill"]["mean_ms"].as_f64().unwrap() - 10.0).abs() < 1e-6);
    }
}
