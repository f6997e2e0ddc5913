//! When requests are due: pure, a function of rate, burstiness and seed.
//!
//! The gaps are those of vLLM's benchmark: gamma distributed with shape = burstiness and
//! scale = 1 / (rate x burstiness), which is a Poisson process at burstiness 1 and a constant
//! rate at infinity (`get_request` in
//! <https://github.com/vllm-project/vllm/blob/main/vllm/benchmarks/serve.py>).

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use rand_distr::{Distribution, Gamma};

use super::Error;

/// Requests per second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rate {
    /// A finite rate above zero.
    PerSecond(f64),
    /// `inf`: every request is due at once, or whenever a slot is free.
    Unlimited,
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<f64>() {
            Ok(rate) if rate == f64::INFINITY => Ok(Self::Unlimited),
            Ok(rate) if rate > 0.0 => Ok(Self::PerSecond(rate)),
            _ => Err(format!("{text:?} is not a rate; give requests per second above 0, or inf")),
        }
    }
}

impl fmt::Display for Rate {
    /// As Python prints a float, because result files and their names carry it that way.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PerSecond(rate) => write!(f, "{rate:?}"),
            Self::Unlimited => f.write_str("inf"),
        }
    }
}

/// How the rate grows during a ramp-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum RampUp {
    /// By equal steps from request to request.
    Linear,
    /// By equal factors from request to request.
    Exponential,
}

impl fmt::Display for RampUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Linear => "linear",
            Self::Exponential => "exponential",
        })
    }
}

/// A rate that changes from the first request to the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ramp {
    /// How it grows.
    pub strategy: RampUp,
    /// Requests per second at the first request.
    pub start_rps: u32,
    /// Requests per second at the last request.
    pub end_rps: u32,
}

impl Ramp {
    /// The rate at request `index` of `count`, in requests per second.
    pub fn rate_at(&self, index: usize, count: usize) -> f64 {
        let progress = index as f64 / (count.max(2) - 1) as f64;
        let (start, end) = (f64::from(self.start_rps), f64::from(self.end_rps));
        match self.strategy {
            RampUp::Linear => start + (end - start) * progress,
            RampUp::Exponential => start * (end / start).powf(progress),
        }
    }

    /// The due times of exactly `count` requests: each gap is drawn at the rate of its request.
    /// They are not stretched, as vLLM does not stretch them either.
    ///
    /// Fails if a rate is zero, if the rate falls, or on a wrong burstiness.
    pub fn schedule(
        &self,
        count: usize,
        burstiness: f64,
        seed: u64,
    ) -> Result<Vec<Duration>, Error> {
        if self.start_rps == 0 {
            return Err(Error::config("--ramp-up-start-rps", "must be at least 1"));
        }
        if self.end_rps < self.start_rps {
            let problem = format!("{} is below the start of {}", self.end_rps, self.start_rps);
            return Err(Error::config("--ramp-up-end-rps", problem));
        }
        // Gaps of one request per second, divided by the rate of each request.
        let mut unit = Arrivals::new(Rate::PerSecond(1.0), burstiness, seed)?;
        let mut at_s = 0.0;
        let due = |index| {
            at_s += unit.gap_s() / self.rate_at(index, count);
            seconds(at_s)
        };
        Ok((0..count).map(due).collect())
    }

    /// When the rate passed each whole number, given when requests were `due`: pairs of requests
    /// per second and time since the start. The start is the first.
    pub fn changes(&self, due: &[Duration]) -> Vec<(u32, Duration)> {
        let mut changes = vec![(self.start_rps, Duration::ZERO)];
        let mut last = self.start_rps;
        for (index, &at) in due.iter().enumerate() {
            let rate = self.rate_at(index, due.len()) as u32;
            changes.extend((last + 1..=rate).map(|rps| (rps, at)));
            last = last.max(rate);
        }
        changes
    }
}

/// The endless sequence of due times, counted from the start of the load.
///
/// An unlimited rate yields zero for ever.
#[derive(Debug, Clone)]
pub struct Arrivals {
    gap: Gap,
    rng: Xoshiro256PlusPlus,
    at_s: f64,
}

#[derive(Debug, Clone)]
enum Gap {
    None,
    Constant(f64),
    Gamma(Gamma<f64>),
}

impl Arrivals {
    /// Arrivals at `rate` with gaps as bursty as `burstiness` says: below 1 burstier than
    /// Poisson, above 1 more even, infinite for equal gaps.
    ///
    /// Fails if burstiness or rate is not above zero.
    pub fn new(rate: Rate, burstiness: f64, seed: u64) -> Result<Self, Error> {
        let wrong_burstiness = || {
            Error::config("--burstiness", format!("{burstiness} must be a number above 0, or inf"))
        };
        if burstiness.is_nan() || burstiness <= 0.0 {
            return Err(wrong_burstiness());
        }
        let gap = match rate {
            Rate::Unlimited => Gap::None,
            Rate::PerSecond(rate) if !(rate > 0.0 && rate.is_finite()) => {
                return Err(Error::config("--request-rate", "must be above 0, or inf"));
            }
            Rate::PerSecond(rate) if burstiness == f64::INFINITY => Gap::Constant(1.0 / rate),
            Rate::PerSecond(rate) => Gap::Gamma(
                Gamma::new(burstiness, 1.0 / (rate * burstiness))
                    .map_err(|_| wrong_burstiness())?,
            ),
        };
        Ok(Self { gap, rng: Xoshiro256PlusPlus::seed_from_u64(seed), at_s: 0.0 })
    }
}

impl Arrivals {
    /// The next gap in seconds.
    fn gap_s(&mut self) -> f64 {
        match &self.gap {
            Gap::None => 0.0,
            Gap::Constant(gap_s) => *gap_s,
            Gap::Gamma(gamma) => gamma.sample(&mut self.rng),
        }
    }
}

impl Iterator for Arrivals {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.at_s += self.gap_s();
        Some(seconds(self.at_s))
    }
}

/// The due times of exactly `count` requests, stretched so that the last one is due at
/// count / rate, as vLLM does: runs of different seeds then offer the same average rate.
///
/// Fails as [`Arrivals::new`] does.
pub fn schedule(
    count: usize,
    rate: Rate,
    burstiness: f64,
    seed: u64,
) -> Result<Vec<Duration>, Error> {
    let mut due: Vec<Duration> = Arrivals::new(rate, burstiness, seed)?.take(count).collect();
    if let (Rate::PerSecond(rate), Some(last)) = (rate, due.last())
        && !last.is_zero()
    {
        let stretch = count as f64 / rate / last.as_secs_f64();
        for at in &mut due {
            *at = seconds(at.as_secs_f64() * stretch);
        }
    }
    Ok(due)
}

/// Seconds as a duration; what is too large for one is as good as never.
fn seconds(s: f64) -> Duration {
    Duration::try_from_secs_f64(s).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_ramp_goes_from_its_start_to_its_end() {
        let ramp = |strategy| Ramp { strategy, start_rps: 2, end_rps: 8 };
        let rates = |strategy| [0, 1, 2].map(|index| ramp(strategy).rate_at(index, 3));
        assert_eq!(rates(RampUp::Linear), [2.0, 5.0, 8.0]);
        assert_eq!(rates(RampUp::Exponential), [2.0, 4.0, 8.0]);
        assert_eq!(ramp(RampUp::Linear).rate_at(0, 1), 2.0);
    }

    #[test]
    fn a_ramp_of_equal_gaps_has_the_gaps_of_its_rates() {
        let ramp = Ramp { strategy: RampUp::Linear, start_rps: 1, end_rps: 4 };
        let due = ramp.schedule(4, f64::INFINITY, 1).unwrap();
        let expected_s = [1.0, 1.5, 1.5 + 1.0 / 3.0, 1.75 + 1.0 / 3.0];
        for (at, expected_s) in due.iter().zip(expected_s) {
            assert!((at.as_secs_f64() - expected_s).abs() < 1e-6, "{due:?}");
        }
        let changes = ramp.changes(&due);
        let rates: Vec<u32> = changes.iter().map(|(rps, _)| *rps).collect();
        assert_eq!((rates, changes[0].1, changes[3].1), (vec![1, 2, 3, 4], Duration::ZERO, due[3]));
    }

    #[test]
    fn wrong_ramps_are_named() {
        let error = |start_rps, end_rps| {
            let ramp = Ramp { strategy: RampUp::Linear, start_rps, end_rps };
            ramp.schedule(2, 1.0, 1).unwrap_err().to_string()
        };
        assert!(error(0, 1).starts_with("--ramp-up-start-rps"));
        assert!(error(3, 2).starts_with("--ramp-up-end-rps: 2 is below the start of 3"));
    }

    fn gaps_s(rate: f64, burstiness: f64, count: usize) -> Vec<f64> {
        let due: Vec<f64> = Arrivals::new(Rate::PerSecond(rate), burstiness, 7)
            .unwrap()
            .take(count)
            .map(|at| at.as_secs_f64())
            .collect();
        std::iter::once(due[0]).chain(due.windows(2).map(|w| w[1] - w[0])).collect()
    }

    fn mean_and_variation(gaps: &[f64]) -> (f64, f64) {
        let n = gaps.len() as f64;
        let mean = gaps.iter().sum::<f64>() / n;
        let variance = gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / n;
        (mean, variance.sqrt() / mean)
    }

    #[test]
    fn gamma_gaps_have_the_rate_and_the_burstiness() {
        // The coefficient of variation of a gamma distribution is 1 / sqrt(shape). With 40,000
        // gaps the bounds below are more than five standard errors wide.
        for burstiness in [0.25_f64, 1.0, 4.0] {
            let (mean, variation) = mean_and_variation(&gaps_s(50.0, burstiness, 40_000));
            assert!((mean * 50.0 - 1.0).abs() < 0.06, "burstiness {burstiness}: mean {mean}");
            let expected = 1.0 / burstiness.sqrt();
            assert!(
                (variation / expected - 1.0).abs() < 0.08,
                "burstiness {burstiness}: variation {variation}, not {expected}"
            );
        }
    }

    #[test]
    fn infinite_burstiness_is_a_metronome() {
        for gap in gaps_s(8.0, f64::INFINITY, 100) {
            assert!((gap - 0.125).abs() < 1e-6, "{gap}");
        }
    }

    #[test]
    fn an_unlimited_rate_has_everything_due_at_once() {
        let due = schedule(5, Rate::Unlimited, 1.0, 0).unwrap();
        assert_eq!(due, [Duration::ZERO; 5]);
    }

    #[test]
    fn seeds_replay() {
        let with_seed = |seed| schedule(50, Rate::PerSecond(10.0), 1.0, seed).unwrap();
        assert_eq!(with_seed(3), with_seed(3));
        assert_ne!(with_seed(3), with_seed(4));
    }

    #[test]
    fn wrong_rates_and_burstiness_are_named() {
        for bad in ["0", "-1", "NaN", "fast"] {
            assert!(bad.parse::<Rate>().unwrap_err().contains("above 0, or inf"), "{bad}");
        }
        let error = schedule(1, Rate::PerSecond(1.0), 0.0, 0).unwrap_err();
        assert!(error.to_string().starts_with("--burstiness: 0 must be"), "{error}");
        assert!(schedule(1, Rate::PerSecond(f64::NAN), 1.0, 0).is_err());
    }

    #[test]
    fn rates_print_as_python_prints_them() {
        assert_eq!("10".parse::<Rate>().unwrap().to_string(), "10.0");
        assert_eq!("inf".parse::<Rate>().unwrap().to_string(), "inf");
    }

    proptest! {
        #[test]
        fn the_last_request_is_due_at_count_over_rate(
            count in 1_usize..200, rate in 0.1_f64..1000.0, burstiness in 0.1_f64..10.0, seed: u64
        ) {
            let due = schedule(count, Rate::PerSecond(rate), burstiness, seed).unwrap();
            prop_assert_eq!(due.len(), count);
            prop_assert!(due.is_sorted());
            let last = due[count - 1].as_secs_f64();
            prop_assert!((last - count as f64 / rate).abs() < 1e-6 * (1.0 + last));
        }
    }
}
