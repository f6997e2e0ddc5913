//! Which rate to try next, and whether a rate was sustained: pure.
//!
//! A server that keeps up answers the last request as fast as the first; one that does not, builds
//! a queue, and latency grows for as long as requests come. At an offered rate r and a capacity c
//! below it, it grows by r/c - 1 seconds per second. That growth is what is judged, not throughput:
//! the throughput of a short step is diluted by the time that the last requests take.

use std::fmt;

use crate::serve::{Error, Record, Report};

/// Latency may grow by this much per second of load: 5 % beyond the capacity.
const GROWTH_LIMIT: f64 = 0.05;

/// The growth must also be this many standard errors from none, so that noise is no saturation.
const CLEAR_ERRORS: f64 = 3.0;

/// Larger shares of failed requests are not sustained.
const FAILURE_LIMIT: f64 = 0.01;

/// Share of the requests that must meet the service level, if there is one.
const GOOD_SHARE: f64 = 0.9;

/// The knee is known when the lowest rate that failed is within this factor of the highest
/// sustained one.
const PRECISION: f64 = 1.1;

/// Why a rate is too high.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ceiling {
    /// Latency grows with every second: the server has a queue that it does not work off.
    Saturated,
    /// Too many requests miss the service level.
    ServiceLevel,
    /// Too many requests fail.
    Failures,
    /// The load generator could not keep its schedule: nothing is known of the server.
    Client,
}

impl fmt::Display for Ceiling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Saturated => "saturated",
            Self::ServiceLevel => "misses service level",
            Self::Failures => "requests fail",
            Self::Client => "client too slow",
        })
    }
}

/// The growth of latency in a step, in seconds per second, and why its rate is too high, if so.
pub(super) fn judge(report: &Report) -> (f64, Option<Ceiling>) {
    let totals = &report.totals;
    let over = (totals.completed + totals.failed).max(1) as f64;
    let growth = growth(&report.records);
    let missed = totals.completed.saturating_sub(totals.good) as f64;
    let ceiling = if totals.failed as f64 > FAILURE_LIMIT * over {
        Some(Ceiling::Failures)
    } else if report.client_was_bottleneck() {
        Some(Ceiling::Client)
    } else if growth.slope > GROWTH_LIMIT && growth.slope > CLEAR_ERRORS * growth.error {
        Some(Ceiling::Saturated)
    } else if !report.facts.goodput.is_empty() && missed > (1.0 - GOOD_SHARE) * over {
        Some(Ceiling::ServiceLevel)
    } else {
        None
    };
    (growth.slope, ceiling)
}

/// A slope and its standard error, both in seconds per second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Growth {
    slope: f64,
    error: f64,
}

/// The least-squares line through latency, counted from when each request was due, against that
/// time. The first quarter is left out: queues of a server that keeps up fill there, too.
fn growth(records: &[Record]) -> Growth {
    let points: Vec<(f64, f64)> = records
        .iter()
        .skip(records.len() / 4)
        .filter(|record| record.error.is_none())
        .map(|record| (record.scheduled_s, record.queue_s() + record.latency_s))
        .collect();
    let n = points.len() as f64;
    if n < 3.0 {
        return Growth::default();
    }
    let mean = |value: fn(&(f64, f64)) -> f64| points.iter().map(value).sum::<f64>() / n;
    let (x_mean, y_mean) = (mean(|p| p.0), mean(|p| p.1));
    let spread: f64 = points.iter().map(|(x, _)| (x - x_mean).powi(2)).sum();
    if spread == 0.0 {
        return Growth::default();
    }
    let slope = points.iter().map(|(x, y)| (x - x_mean) * (y - y_mean)).sum::<f64>() / spread;
    let residuals: f64 =
        points.iter().map(|(x, y)| (y - y_mean - slope * (x - x_mean)).powi(2)).sum();
    Growth { slope, error: (residuals / (n - 2.0) / spread).sqrt() }
}

/// The search for the knee: rates that double, then halve the distance to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Search {
    low: f64,
    high: f64,
    sustained: Option<f64>,
    failed: Option<f64>,
}

impl Search {
    /// A search from `low` to `high` requests per second.
    ///
    /// Fails unless 0 < low <= high.
    pub fn new(low: f64, high: f64) -> Result<Self, Error> {
        if low > 0.0 && low <= high && high.is_finite() {
            return Ok(Self { low, high, sustained: None, failed: None });
        }
        let problem =
            format!("{low}:{high} is no range of rates; give LOW:HIGH with 0 < LOW <= HIGH");
        Err(Error::config("--sweep", problem))
    }

    /// The rate to try; none when there is nothing left to find out.
    pub fn next(&self) -> Option<f64> {
        match (self.sustained, self.failed) {
            (None, None) => Some(self.low),
            // Not even the lowest.
            (None, Some(_)) => None,
            (Some(sustained), None) if sustained >= self.high => None,
            (Some(sustained), None) => Some((sustained * 2.0).min(self.high)),
            (Some(sustained), Some(failed)) if failed <= sustained * PRECISION => None,
            (Some(sustained), Some(failed)) => Some((sustained * failed).sqrt()),
        }
    }

    /// A rate was tried.
    pub fn saw(&mut self, rate: f64, sustained: bool) {
        let bound = if sustained { &mut self.sustained } else { &mut self.failed };
        *bound = Some(rate);
    }

    /// The highest rate that was sustained and the lowest that was not.
    pub fn bounds(&self) -> (Option<f64>, Option<f64>) {
        (self.sustained, self.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::record::tests::record;
    use proptest::prelude::*;

    /// Requests each 10 ms to a server of the given capacity in requests per second.
    fn served(capacity: f64, count: usize) -> Vec<Record> {
        let mut free_s = 0.0_f64;
        (0..count)
            .map(|i| {
                let due_s = 0.25 + i as f64 / 100.0;
                free_s = free_s.max(due_s) + 1.0 / capacity;
                record(due_s, free_s - due_s, &[])
            })
            .collect()
    }

    #[test]
    fn overload_is_growth_and_keeping_up_is_none() {
        let over = growth(&served(80.0, 400));
        assert!((over.slope - 0.25).abs() < 0.01, "{over:?}");
        let under = growth(&served(125.0, 400));
        assert!(under.slope.abs() < 1e-9, "{under:?}");
        assert_eq!(growth(&served(80.0, 2)), Growth::default());
    }

    #[test]
    fn noise_is_no_saturation() {
        let mut records = served(200.0, 60);
        for (i, record) in records.iter_mut().enumerate() {
            record.latency_s += if i % 7 == 0 { 2.0 } else { 0.0 };
        }
        let noisy = growth(&records);
        assert!(noisy.slope.abs() < CLEAR_ERRORS * noisy.error, "{noisy:?}");
    }

    #[test]
    fn ranges_that_make_no_sense_are_refused() {
        for (low, high) in [(0.0, 1.0), (2.0, 1.0), (1.0, f64::INFINITY), (f64::NAN, 1.0)] {
            assert!(Search::new(low, high).unwrap_err().to_string().starts_with("--sweep: "));
        }
    }

    proptest! {
        #[test]
        fn the_knee_is_found_in_few_steps(capacity in 0.1..5000.0f64, low in 0.5..4.0f64) {
            let high = 2000.0;
            let mut search = Search::new(low, high).unwrap();
            let mut tried = 0;
            while let Some(rate) = search.next() {
                prop_assert!(rate >= low && rate <= high);
                search.saw(rate, rate <= capacity);
                tried += 1;
                prop_assert!(tried < 20);
            }
            match search.bounds() {
                (None, failed) => prop_assert!(capacity < low && failed == Some(low)),
                (Some(sustained), None) => prop_assert!(sustained == high && capacity >= high),
                (Some(sustained), Some(failed)) => {
                    prop_assert!(sustained <= capacity && capacity < failed);
                    prop_assert!(failed <= sustained * PRECISION);
                }
            }
        }
    }
}
