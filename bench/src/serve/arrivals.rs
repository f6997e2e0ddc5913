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

impl Iterator for Arrivals {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.at_s += match &self.gap {
            Gap::None => 0.0,
            Gap::Constant(gap_s) => *gap_s,
            Gap::Gamma(gamma) => gamma.sample(&mut self.rng),
        };
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
