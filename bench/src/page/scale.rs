//! From values to places along an axis, with ticks at round numbers.

use crate::repro::words::grouped;

/// An axis: a range of values, and the round numbers in it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    step: f64,
}

impl Scale {
    /// From `low` to `high` exactly, with about `ticks` ticks.
    pub(super) fn exact(low: f64, high: f64, ticks: usize) -> Self {
        let (low, high) = spread(low, high);
        Self { low, high, step: step(high - low, ticks) }
    }

    /// From the tick at or below `low` to the one at or above `high`.
    pub(super) fn rounded(low: f64, high: f64, ticks: usize) -> Self {
        let Self { low, high, step } = Self::exact(low, high, ticks);
        // A hair's breadth beyond a tick is rounding, and no reason for another.
        let slack = 1e-9;
        Self {
            low: (low / step + slack).floor() * step,
            high: (high / step - slack).ceil() * step,
            step,
        }
    }

    /// For changes: from zero, or from the lowest where that is seen below it, up to the highest.
    pub(super) fn changes(low: f64, high: f64, ticks: usize) -> Self {
        let seen = low < -0.04 * high;
        Self::rounded(if seen { low } else { 0.0 }, high.max(0.0), ticks)
    }

    /// The lowest value.
    pub(super) fn low(&self) -> f64 {
        self.low
    }

    /// The highest value.
    pub(super) fn high(&self) -> f64 {
        self.high
    }

    /// Where `value` lies, 0 to 1 from the lowest to the highest.
    pub(super) fn at(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    /// The round numbers on it, in order.
    pub(super) fn ticks(&self) -> Vec<f64> {
        let first = (self.low / self.step - 1e-9).ceil() as i64;
        let last = (self.high / self.step + 1e-9).floor() as i64;
        (first..=last).map(|i| i as f64 * self.step).collect()
    }
}

/// A range that has a length: axes of nothing and of constants are drawn, too.
fn spread(low: f64, high: f64) -> (f64, f64) {
    let low = if low.is_finite() { low } else { 0.0 };
    let high = if high.is_finite() { high.max(low) } else { low };
    // Less than this is lost in the digits of the values themselves.
    let least = 1e-9 * low.abs().max(high.abs());
    if high - low > least { (low, high) } else { (low, low + least.max(1.0)) }
}

/// The smallest of 1, 2 and 5 times a power of ten that gives at most `ticks` steps.
fn step(length: f64, ticks: usize) -> f64 {
    let least = length / ticks.max(1) as f64;
    let power = 10f64.powf(least.log10().floor());
    // The last one is there for a power that rounding has made too small.
    let round = [1.0, 2.0, 5.0, 10.0, 20.0].map(|lead| lead * power);
    round.into_iter().find(|step| *step >= least * (1.0 - 1e-9)).unwrap_or(least)
}

/// How the values of an axis are written: all in one unit, with as many decimals as ticks need.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Notation {
    divisor: f64,
    unit: String,
    decimals: usize,
}

impl Notation {
    /// Bytes, in powers of 1000.
    pub(super) fn bytes(scale: &Scale) -> Self {
        let units = [(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")];
        let largest = scale.low.abs().max(scale.high.abs());
        let (divisor, unit) =
            units.into_iter().find(|(size, _)| largest >= *size).unwrap_or((1.0, "B"));
        Self::new(scale, divisor, unit.to_owned())
    }

    /// Things called `plural`, by the million where there are many.
    pub(super) fn counts(scale: &Scale, plural: &str) -> Self {
        if scale.high.abs() >= 1e6 {
            Self::new(scale, 1e6, format!("million {plural}"))
        } else {
            Self::new(scale, 1.0, plural.to_owned())
        }
    }

    fn new(scale: &Scale, divisor: f64, unit: String) -> Self {
        let decimals = -(scale.step / divisor).log10().floor();
        Self { divisor, unit, decimals: decimals.clamp(0.0, 9.0) as usize }
    }

    /// The unit, for the title of the axis.
    pub(super) fn unit(&self) -> &str {
        &self.unit
    }

    /// `value` without its unit for machines: a decimal more than ticks have, nothing grouped.
    pub(super) fn number(&self, value: f64) -> String {
        let text = format!("{:.*}", self.decimals + 1, value / self.divisor);
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    }

    /// `value` without its unit.
    pub(super) fn label(&self, value: f64) -> String {
        let value = value / self.divisor;
        let text = format!("{:.*}", self.decimals, value.abs());
        let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
        let whole = whole.parse().map_or(whole.to_owned(), grouped);
        let is_zero = text.bytes().all(|byte| matches!(byte, b'0' | b'.'));
        let sign = if value < 0.0 && !is_zero { "-" } else { "" };
        format!("{sign}{whole}{rest}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn labels(notation: &Notation, scale: &Scale) -> Vec<String> {
        scale.ticks().into_iter().map(|tick| notation.label(tick)).collect()
    }

    #[test]
    fn ticks_are_round_numbers_in_one_unit() {
        let scale = Scale::rounded(71.3e6, 148.2e6, 5);
        let bytes = Notation::bytes(&scale);
        assert_eq!(bytes.unit(), "MB");
        assert_eq!(labels(&bytes, &scale), ["60", "80", "100", "120", "140", "160"]);

        let scale = Scale::exact(0.0, 401_504.0, 4);
        let counts = Notation::counts(&scale, "unmaps");
        assert_eq!((counts.unit(), scale.at(401_504.0)), ("unmaps", 1.0));
        assert_eq!(labels(&counts, &scale), ["0", "200,000", "400,000"]);

        let scale = Scale::exact(0.0, 1.6e6, 4);
        let counts = Notation::counts(&scale, "unmaps");
        assert_eq!(counts.unit(), "million unmaps");
        assert_eq!(labels(&counts, &scale), ["0.0", "0.5", "1.0", "1.5"]);
    }

    #[test]
    fn what_falls_has_a_minus_and_nothing_has_none() {
        let scale = Scale::rounded(-1.2e6, 0.1e6, 4);
        let bytes = Notation::bytes(&scale);
        assert_eq!(labels(&bytes, &scale), ["-1.5", "-1.0", "-0.5", "0.0", "0.5"]);
        assert_eq!(bytes.label(-1.0), "0.0");
        assert_eq!([bytes.number(-1.5e6), bytes.number(70e6)], ["-1.5", "70"]);
    }

    #[test]
    fn what_barely_falls_below_zero_gets_no_room_there() {
        assert_eq!(Scale::changes(-2e4, 5.8e7, 4).low(), 0.0);
        assert_eq!(Scale::changes(-3e7, 5.8e7, 4).low(), -5e7);
        assert_eq!(Scale::changes(-5.0, -1.0, 4).at(0.0), 1.0);
    }

    #[test]
    fn an_axis_of_nothing_is_an_axis() {
        let flat = Scale::rounded(5e7, 5e7, 4);
        assert!(flat.at(5e7).is_finite());
        let none = Scale::rounded(f64::INFINITY, f64::NEG_INFINITY, 4);
        assert!(none.at(0.0).is_finite() && none.ticks().len() <= 6);
    }

    proptest! {
        #[test]
        fn every_value_lies_between_the_ends_and_ticks_are_few(
            low in -1e15..1e15f64,
            length in 0.0..1e15f64,
            share in 0.0..=1.0f64,
            ticks in 1usize..9,
        ) {
            let scale = Scale::rounded(low, low + length, ticks);
            let at = scale.at(low + share * length);
            prop_assert!((-1e-6..=1.0 + 1e-6).contains(&at), "{at}");
            let count = scale.ticks().len();
            prop_assert!((2..=ticks + 3).contains(&count), "{count} ticks on {scale:?}");
            let places: Vec<f64> = scale.ticks().iter().map(|tick| scale.at(*tick)).collect();
            prop_assert!(places.windows(2).all(|pair| pair[0] < pair[1]));
        }
    }
}
