//! Percentiles of the last seconds, in constant memory.

use std::time::Duration;

use hdrhistogram::Histogram;
use pdlab_api::live::Percentiles;

/// Slots that a window is made of; each holds the times of one tick.
pub(crate) const SLOTS: usize = 15;

/// Longest time told apart, in microseconds: ten minutes, twice the longest patience with a worker.
const MAX_US: u64 = 600_000_000;

/// Significant digits: percentiles are off by one percent at most, and a slot takes 12 KB.
const DIGITS: u8 = 2;

/// Times of the last [`SLOTS`] ticks.
pub(crate) struct Window {
    slots: [Histogram<u32>; SLOTS],
    current: usize,
    merged: Histogram<u64>,
}

impl Window {
    pub(crate) fn new() -> Self {
        Self { slots: std::array::from_fn(|_| empty()), current: 0, merged: empty() }
    }

    /// Takes in a time of the current tick. What is longer than ten minutes counts as ten minutes.
    pub(crate) fn record(&mut self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(MAX_US);
        self.slots[self.current].saturating_record(us.max(1));
    }

    /// Percentiles over the window, and the begin of the next tick.
    pub(crate) fn turn(&mut self) -> Option<Percentiles> {
        self.merged.reset();
        for slot in &self.slots {
            for bucket in slot.iter_recorded() {
                let count = u64::from(bucket.count_at_value());
                self.merged.saturating_record_n(bucket.value_iterated_to(), count);
            }
        }
        self.current = (self.current + 1) % SLOTS;
        self.slots[self.current].reset();
        let samples = self.merged.len();
        let at = |quantile| self.merged.value_at_quantile(quantile);
        (samples > 0).then(|| Percentiles {
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            samples,
        })
    }
}

fn empty<T: hdrhistogram::Counter>() -> Histogram<T> {
    Histogram::new_with_bounds(1, MAX_US, DIGITS).expect("the bounds are constants that fit")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_window_and_leave_it() {
        let mut window = Window::new();
        assert_eq!(window.turn(), None);
        for ms in 1..=100 {
            window.record(Duration::from_millis(ms));
        }
        let near = |us: u64, ms: u64| us.abs_diff(ms * 1000) <= ms * 10;
        let first = window.turn().unwrap();
        assert!(near(first.p50_us, 50) && near(first.p90_us, 90), "{first:?}");
        assert!(near(first.p99_us, 99) && first.samples == 100, "{first:?}");
        // The slot in which they were recorded is the last but one of the window, then the last.
        for _ in 1..SLOTS - 1 {
            assert_eq!(window.turn(), Some(first));
        }
        assert_eq!(window.turn(), Some(first));
        assert_eq!(window.turn(), None);
    }

    #[test]
    fn no_time_is_out_of_bounds() {
        let mut window = Window::new();
        window.record(Duration::ZERO);
        window.record(Duration::MAX);
        let seen = window.turn().unwrap();
        assert_eq!((seen.p50_us, seen.samples), (1, 2));
        assert!(seen.p99_us >= MAX_US * 99 / 100);
    }
}
