//! Latencies and medians. Pure.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Latencies with three significant digits, from 1 ns to whatever comes.
#[derive(Debug, Clone)]
pub struct Latencies(Histogram<u64>);

/// How often each latency was seen: the form that crosses the wire.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts(pub Vec<(u64, u64)>);

/// Percentiles of transfers, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    /// Transfers measured.
    pub samples: u64,
    /// Arithmetic mean.
    pub mean_us: f64,
    /// Half of them took at most this.
    pub p50_us: f64,
    /// 99 of 100.
    pub p99_us: f64,
    /// 999 of 1000.
    pub p999_us: f64,
    /// The slowest.
    pub max_us: f64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self(Histogram::new(3).expect("three digits are within the crate's zero to five"))
    }
}

impl Latencies {
    /// Notes one.
    pub fn record(&mut self, latency: Duration) {
        self.add(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX), 1);
    }

    /// Adds those of another; one that is out of range counts as the nearest that is not.
    pub fn merge(&mut self, counts: &Counts) {
        for &(nanos, count) in &counts.0 {
            self.add(nanos, count);
        }
    }

    /// What was seen.
    pub fn counts(&self) -> Counts {
        let seen = self.0.iter_recorded();
        Counts(seen.map(|step| (step.value_iterated_to(), step.count_at_value())).collect())
    }

    /// Percentiles of all of it; zeros if there is nothing.
    pub fn percentiles(&self) -> Percentiles {
        let all = &self.0;
        if all.is_empty() {
            return Percentiles::default();
        }
        let us = |nanos: u64| nanos as f64 / 1e3;
        Percentiles {
            samples: all.len(),
            mean_us: all.mean() / 1e3,
            p50_us: us(all.value_at_quantile(0.5)),
            p99_us: us(all.value_at_quantile(0.99)),
            p999_us: us(all.value_at_quantile(0.999)),
            max_us: us(all.max()),
        }
    }

    fn add(&mut self, nanos: u64, count: u64) {
        // An hour: no transfer outlives its deadline by that much, and a forged one costs nothing.
        const LONGEST: u64 = 3_600_000_000_000;
        self.0
            .record_n(nanos.clamp(1, LONGEST), count)
            .expect("the histogram resizes itself up to any value");
    }
}

/// A median with the range it came from.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The middle value, or the mean of the middle two.
    pub median: f64,
    /// The smallest.
    pub low: f64,
    /// The largest.
    pub high: f64,
    /// How many rounds.
    pub rounds: usize,
}

impl Spread {
    /// That of `values`; `None` without any that is a number.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        values.sort_unstable_by(f64::total_cmp);
        let (low, high) = (*values.first()?, *values.last()?);
        let rounds = values.len();
        let median = f64::midpoint(values[(rounds - 1) / 2], values[rounds / 2]);
        Some(Self { median, low, high, rounds })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn percentiles_are_those_of_the_samples() {
        let mut latencies = Latencies::default();
        for us in 1..=1000 {
            latencies.record(Duration::from_micros(us));
        }
        let seen = latencies.percentiles();
        assert_eq!(seen.samples, 1000);
        let near = |value: f64, expected: f64| (value - expected).abs() < expected * 0.002;
        assert!(near(seen.p50_us, 500.0) && near(seen.p99_us, 990.0), "{seen:?}");
        assert!(near(seen.p999_us, 999.0) && near(seen.max_us, 1000.0), "{seen:?}");
        assert!(near(seen.mean_us, 500.5), "{seen:?}");
        assert_eq!(Latencies::default().percentiles(), Percentiles::default());
    }

    #[test]
    fn a_median_is_the_middle_or_between_the_middle_two() {
        let spread = Spread::of([3.0, 1.0, 2.0]).unwrap();
        assert_eq!((spread.median, spread.low, spread.high, spread.rounds), (2.0, 1.0, 3.0, 3));
        assert_eq!(Spread::of([1.0, 2.0, f64::NAN]).unwrap().median, 1.5);
        assert_eq!(Spread::of([]), None);
    }

    proptest! {
        /// What was merged from parts is what one would have seen.
        #[test]
        fn parts_merge_into_the_whole(nanos in prop::collection::vec(1..u64::MAX, 0..50)) {
            let (mut whole, mut left, mut right) =
                (Latencies::default(), Latencies::default(), Latencies::default());
            for (i, &nanos) in nanos.iter().enumerate() {
                let part = if i % 2 == 0 { &mut left } else { &mut right };
                part.record(Duration::from_nanos(nanos));
                whole.record(Duration::from_nanos(nanos));
            }
            left.merge(&right.counts());
            prop_assert_eq!(left.counts(), whole.counts());
            prop_assert_eq!(left.percentiles().samples, nanos.len() as u64);
        }

        #[test]
        fn forged_counts_do_no_harm(counts in prop::collection::vec((any::<u64>(), 0..1_000_000_u64), 0..20)) {
            let mut latencies = Latencies::default();
            latencies.merge(&Counts(counts));
            latencies.percentiles();
        }
    }
}
