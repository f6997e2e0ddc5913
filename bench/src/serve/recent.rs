//! The latest requests, for who watches: few enough to be sorted several times per second.

use super::Record;

/// Requests that are looked back at.
const KEPT: usize = 256;

/// Percentiles of the latest requests, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Latencies {
    /// Median time to the first token.
    pub ttft_p50_s: f64,
    /// Its 99th percentile.
    pub ttft_p99_s: f64,
    /// Median time per output token, of requests with more than one.
    pub tpot_p50_s: Option<f64>,
}

/// The latest requests that were answered.
#[derive(Debug, Default)]
pub(super) struct Recent {
    ttfts_s: Ring,
    tpots_s: Ring,
}

impl Recent {
    pub(super) fn add(&mut self, record: &Record) {
        if record.error.is_none() {
            self.ttfts_s.push(record.ttft_s);
            record.tpot_s().into_iter().for_each(|tpot_s| self.tpots_s.push(tpot_s));
        }
    }

    /// None before the first answer.
    pub(super) fn latencies(&self) -> Option<Latencies> {
        let ttfts_s = self.ttfts_s.sorted();
        Some(Latencies {
            ttft_p50_s: rank(&ttfts_s, 0.5)?,
            ttft_p99_s: rank(&ttfts_s, 0.99)?,
            tpot_p50_s: rank(&self.tpots_s.sorted(), 0.5),
        })
    }
}

#[derive(Debug, Default)]
struct Ring {
    values: Vec<f64>,
    next: usize,
}

impl Ring {
    fn push(&mut self, value: f64) {
        if self.values.len() < KEPT {
            self.values.push(value);
        } else {
            self.values[self.next] = value;
            self.next = (self.next + 1) % KEPT;
        }
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.values.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        sorted
    }
}

/// The value that `share` of all do not exceed.
fn rank(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    Some(sorted[(last as f64 * share).round() as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_requests_are_forgotten() {
        let mut ring = Ring::default();
        (0..KEPT + 10).for_each(|i| ring.push(i as f64));
        assert_eq!((ring.values.len(), ring.sorted()[0]), (KEPT, 10.0));
        assert_eq!(rank(&ring.sorted(), 1.0), Some((KEPT + 9) as f64));
        assert_eq!((rank(&[], 0.5), rank(&[3.0], 0.99)), (None, Some(3.0)));
    }
}
