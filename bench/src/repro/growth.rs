//! How much each role grew, and how the quiet ones compare to the judged one. Pure.

use pdlab_leak::estimate::{Series, estimate};
use pdlab_leak::gauge::Axes;
use pdlab_leak::sample::Sample;
use pdlab_leak::scenario::Scenario;
use pdlab_leak::work::Unit;
use serde::{Deserialize, Serialize};

use super::cell::Measurement;

/// Growth of one process while it was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoleGrowth {
    /// Label of the process, such as `decode-0`.
    pub process: String,
    /// What was gained after the warm-up in what the gauge counts, along the fitted line; negative
    /// if it was given back.
    pub growth: f64,
    /// RSS at the end.
    pub rss_bytes: u64,
}

/// Growth of every process, the judged one first.
pub fn of_roles(scenario: &Scenario, measurement: &Measurement) -> Vec<RoleGrowth> {
    let mut processes = vec![measurement.judged.as_str()];
    for sample in &measurement.samples {
        if !processes.contains(&sample.process.as_str()) {
            processes.push(&sample.process);
        }
    }
    let growth = |process: &str| {
        let samples: Vec<&Sample> = measurement.samples_of(process).collect();
        let growth = if process == measurement.judged {
            judged(scenario, measurement)
        } else {
            quiet(scenario, measurement, &samples)
        };
        RoleGrowth {
            process: process.to_owned(),
            growth,
            rss_bytes: samples.last().map_or(0, |sample| sample.memory.rss_bytes),
        }
    };
    processes.into_iter().map(growth).collect()
}

/// The largest growth among the processes without churn, as a share of the judged one's. `None`
/// if all make churn, or if the judged one grew by less than what readings can be trusted for:
/// a share of next to nothing says nothing.
pub fn quiet_ratio(scenario: &Scenario, growth: &[RoleGrowth]) -> Option<f64> {
    let (judged, others) = growth.split_first()?;
    let noisy = scenario.churn.as_ref().map(|churn| churn.role.name());
    let quiet = others.iter().filter(|role| noisy.is_none_or(|noisy| !is(&role.process, noisy)));
    let largest = quiet.map(|role| role.growth).reduce(f64::max)?;
    let trusted = judged.growth >= scenario.measure.gauge.min_growth();
    trusted.then(|| largest.max(0.0) / judged.growth)
}

/// Whether `process` (`decode-0`, `router`) is one of `role`.
fn is(process: &str, role: &str) -> bool {
    process.strip_prefix(role).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

fn judged(scenario: &Scenario, measurement: &Measurement) -> f64 {
    match &measurement.judgement.estimate {
        Some(estimate) => estimate.growth(),
        None => {
            let samples: Vec<&Sample> = measurement.samples_of(&measurement.judged).collect();
            difference(scenario, &samples)
        }
    }
}

/// A process without churn has no work of its own that growth could follow, so its line is over
/// time; its growth is taken over the same seconds as the judged one's.
fn quiet(scenario: &Scenario, measurement: &Measurement, samples: &[&Sample]) -> f64 {
    let axes = Axes { unit: Unit::Second, ..scenario.axes() };
    let series = Series::of(samples.iter().copied(), axes);
    match (estimate(&series, scenario.seed), &measurement.judgement.estimate) {
        (Ok(own), Some(judged)) => own.per_s() * judged.seconds,
        _ => difference(scenario, samples),
    }
}

fn difference(scenario: &Scenario, samples: &[&Sample]) -> f64 {
    let mut levels = samples.iter().filter_map(|sample| scenario.measure.gauge.of(sample));
    let first = levels.next().unwrap_or(0);
    levels.next_back().map_or(0.0, |last| last as f64 - first as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repro::fixture;

    #[test]
    fn quiet_roles_are_measured_over_the_same_seconds_as_the_judged_one() {
        let scenario = fixture::scenario();
        // 144 B per unmap at 40,000 unmaps per second for 5 s; prefill gains 20 kB per second.
        let measurement = fixture::measurement(&scenario, 144.0, 20_000.0);
        let growth = of_roles(&scenario, &measurement);
        let names: Vec<&str> = growth.iter().map(|role| role.process.as_str()).collect();
        assert_eq!(names, ["decode-0", "prefill-0", "router"]);
        let near = |value: f64, wanted: f64| (value - wanted).abs() < 0.03 * wanted;
        assert!(near(growth[0].growth, 144.0 * 200_000.0), "{growth:?}");
        assert!(near(growth[1].growth, 100_000.0), "{growth:?}");
        assert_eq!(growth[2].growth, 0.0);
        let ratio = quiet_ratio(&scenario, &growth).unwrap();
        assert!(near(ratio, 100_000.0 / 28_800_000.0), "{ratio}");
    }

    #[test]
    fn a_share_of_nothing_is_not_given() {
        let scenario = fixture::scenario();
        let measurement = fixture::measurement(&scenario, 0.0, 20_000.0);
        assert_eq!(quiet_ratio(&scenario, &of_roles(&scenario, &measurement)), None);
    }

    #[test]
    fn roles_that_churn_are_not_quiet() {
        let role = |process: &str, growth| RoleGrowth {
            process: process.to_owned(),
            growth,
            rss_bytes: 0,
        };
        let growth = [role("decode-0", 1e6), role("decode-1", 9e5), role("router", -5.0)];
        assert_eq!(quiet_ratio(&fixture::scenario(), &growth), Some(0.0));
        assert_eq!(quiet_ratio(&fixture::scenario(), &growth[..2]), None);
    }
}
