//! Work as a counter of another program tells it: it only goes forward, whatever the counter does. Pure.

use std::collections::BTreeMap;

use super::exposition::{Selector, readings};

/// Sums up what the series of a counter gained since the first look.
///
/// Each series is followed alone, as Prometheus' `increase` does: one that falls has begun anew, and one that appears
/// later has begun at zero.
#[derive(Debug, Clone, Default)]
pub struct Odometer {
    /// The last value of every series, by its labels.
    last: BTreeMap<String, f64>,
    begun: bool,
    counted: f64,
    resets: u64,
}

impl Odometer {
    /// What was counted since the first look.
    pub fn counted(&self) -> u64 {
        self.counted as u64
    }

    /// How often a series fell.
    pub fn resets(&self) -> u64 {
        self.resets
    }

    /// Takes a look at `page`; false if it has no series of `selector`.
    pub fn look(&mut self, selector: &Selector, page: &str) -> bool {
        let mut found = false;
        for reading in readings(page).filter(|reading| selector.takes(reading)) {
            found = true;
            if !reading.value.is_finite() {
                continue;
            }
            let last = self.last.insert(format!("{:?}", reading.labels), reading.value);
            match last {
                Some(last) if reading.value >= last => self.counted += reading.value - last,
                Some(_) => {
                    self.resets += 1;
                    self.counted += reading.value.max(0.0);
                }
                None if self.begun => self.counted += reading.value.max(0.0),
                None => {}
            }
        }
        self.begun |= found;
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counted(pages: &[&str]) -> Vec<u64> {
        let selector: Selector = "c".parse().unwrap();
        let mut odometer = Odometer::default();
        let mut count = |page: &&str| {
            odometer.look(&selector, page);
            odometer.counted()
        };
        pages.iter().map(&mut count).collect()
    }

    #[test]
    fn it_begins_at_zero_and_sums_the_series() {
        assert_eq!(
            counted(&["c{a=\"1\"} 100\nc{a=\"2\"} 7", "c{a=\"1\"} 103\nc{a=\"2\"} 9"]),
            [0, 5]
        );
    }

    #[test]
    fn a_counter_that_begins_anew_goes_on() {
        assert_eq!(counted(&["c 100", "c 110", "c 4", "c 5"]), [0, 10, 14, 15]);
        let (selector, mut odometer) = ("c".parse().unwrap(), Odometer::default());
        for page in ["c 100", "c 4", "x 1"] {
            odometer.look(&selector, page);
        }
        assert_eq!(odometer.resets(), 1, "a page without the counter resets nothing");
    }

    #[test]
    fn one_series_that_goes_and_comes_does_not_reset_the_others() {
        let both = "c{a=\"1\"} 100\nc{a=\"2\"} 50";
        assert_eq!(counted(&[both, "c{a=\"1\"} 101", both, "c{a=\"3\"} 7"])[..3], [0, 1, 101]);
        assert_eq!(counted(&["c{a=\"1\"} 100", "c{a=\"3\"} 7"]), [0, 7]);
    }

    #[test]
    fn what_is_no_number_counts_nothing() {
        assert_eq!(counted(&["c 1", "c NaN", "c +Inf", "c 3"]), [0, 0, 0, 2]);
    }

    proptest! {
        #[test]
        fn it_never_goes_back(values in proptest::collection::vec(-1e6..1e9f64, 1..20)) {
            let pages: Vec<String> = values.iter().map(|value| format!("c {value}")).collect();
            let pages: Vec<&str> = pages.iter().map(String::as_str).collect();
            prop_assert!(counted(&pages).is_sorted());
        }
    }
}
