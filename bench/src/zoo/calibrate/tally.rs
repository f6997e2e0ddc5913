//! From outcomes to rates with their uncertainty. Pure.

use std::collections::BTreeMap;

use pdlab_leak::verdict::VerdictKind;
use serde::{Deserialize, Serialize};

use super::plan::Part;

/// What one run of a calibration came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// What it counts for.
    pub part: Part,
    /// Its scenario.
    pub scenario: String,
    /// Its seed.
    pub seed: u64,
    /// The verdict; null if the run failed.
    pub verdict: Option<VerdictKind>,
    /// Slope, in the gauge's unit per unit of work.
    pub slope: Option<f64>,
    /// Lower end of its 95 % interval.
    pub low: Option<f64>,
    /// Upper end of its 95 % interval.
    pub high: Option<f64>,
    /// Seconds measured.
    pub seconds: f64,
    /// Why it failed, if it did.
    pub failed: Option<String>,
}

/// `hits` of `runs`, with the 95 % interval of the rate behind them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Rate {
    /// Runs in which it happened.
    pub hits: usize,
    /// Runs that came to an end.
    pub runs: usize,
    /// Lower end of the interval, 0 to 1.
    pub low: f64,
    /// Upper end of the interval, 0 to 1.
    pub high: f64,
}

impl Rate {
    /// The rate behind `hits` of `runs`, by Wilson's score interval
    /// (<https://en.wikipedia.org/wiki/Binomial_proportion_confidence_interval>), which is honest
    /// at 0 % and 100 % too.
    pub fn of(hits: usize, runs: usize) -> Self {
        /// Two-sided 95 % quantile of the normal distribution.
        const Z: f64 = 1.959_964;
        if runs == 0 {
            return Self { hits, runs, low: 0.0, high: 1.0 };
        }
        let (n, p) = (runs as f64, hits as f64 / runs as f64);
        let scale = 1.0 + Z * Z / n;
        let middle = (p + Z * Z / (2.0 * n)) / scale;
        let reach = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt() / scale;
        Self { hits, runs, low: (middle - reach).max(0.0), high: (middle + reach).min(1.0) }
    }
}

/// What the runs of one part, or of one scenario in it, came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tally {
    /// Runs with the verdict "leak".
    pub leak: Rate,
    /// Runs with the verdict "clean".
    pub clean: Rate,
    /// Runs without a verdict.
    pub inconclusive: Rate,
    /// Runs that failed; they count nowhere else.
    pub failed: usize,
    /// Median seconds measured.
    pub median_s: f64,
    /// Longest.
    pub max_s: f64,
}

/// The verdicts of `outcomes`.
pub fn tally<'a>(outcomes: impl Iterator<Item = &'a Outcome>) -> Tally {
    let all: Vec<&Outcome> = outcomes.collect();
    let ended: Vec<&&Outcome> = all.iter().filter(|outcome| outcome.verdict.is_some()).collect();
    let share = |verdict| {
        let hits = ended.iter().filter(|outcome| outcome.verdict == Some(verdict)).count();
        Rate::of(hits, ended.len())
    };
    let mut seconds: Vec<f64> = ended.iter().map(|outcome| outcome.seconds).collect();
    seconds.sort_by(f64::total_cmp);
    Tally {
        leak: share(VerdictKind::Leak),
        clean: share(VerdictKind::Clean),
        inconclusive: share(VerdictKind::Inconclusive),
        failed: all.len() - ended.len(),
        median_s: median(&seconds).unwrap_or(0.0),
        max_s: seconds.last().copied().unwrap_or(0.0),
    }
}

/// The tallies of each scenario of a part.
pub fn by_scenario(outcomes: &[Outcome], part: Part) -> BTreeMap<String, Tally> {
    let of_part = || outcomes.iter().filter(move |outcome| outcome.part == part);
    let names: std::collections::BTreeSet<&String> = of_part().map(|o| &o.scenario).collect();
    names
        .into_iter()
        .map(|name| (name.clone(), tally(of_part().filter(|o| &o.scenario == name))))
        .collect()
}

/// How well the slopes of many seeds agree.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Agreement {
    /// The median slope of all runs.
    pub median: f64,
    /// Smallest slope.
    pub min: f64,
    /// Largest slope.
    pub max: f64,
    /// Median width of the intervals.
    pub median_width: f64,
    /// Intervals that hold the median of all the *other* runs' slopes. The truth is not known;
    /// the other runs know it far better than one run does.
    pub covered: Rate,
}

/// The agreement of the slopes of a part; `None` with fewer than three.
pub fn agreement(outcomes: &[Outcome], part: Part) -> Option<Agreement> {
    let found: Vec<(f64, f64, f64)> = outcomes
        .iter()
        .filter(|outcome| outcome.part == part)
        .filter_map(|outcome| Some((outcome.slope?, outcome.low?, outcome.high?)))
        .collect();
    if found.len() < 3 {
        return None;
    }
    let mut slopes: Vec<f64> = found.iter().map(|(slope, ..)| *slope).collect();
    slopes.sort_by(f64::total_cmp);
    let mut widths: Vec<f64> = found.iter().map(|(_, low, high)| high - low).collect();
    widths.sort_by(f64::total_cmp);
    let covered = found.iter().filter(|(slope, low, high)| {
        let mut others = slopes.clone();
        let own = others.iter().position(|other| other == slope);
        others.remove(own.expect("every slope is among them"));
        median(&others).is_some_and(|truth| (*low..=*high).contains(&truth))
    });
    Some(Agreement {
        median: median(&slopes)?,
        min: slopes[0],
        max: slopes[slopes.len() - 1],
        median_width: median(&widths)?,
        covered: Rate::of(covered.count(), found.len()),
    })
}

/// The median of sorted numbers.
fn median(sorted: &[f64]) -> Option<f64> {
    let (low, high) = (sorted.len().checked_sub(1)? / 2, sorted.len() / 2);
    Some(f64::midpoint(sorted[low], sorted[high]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(verdict: VerdictKind, slope: f64, reach: f64) -> Outcome {
        Outcome {
            part: Part::Coverage,
            scenario: "x".into(),
            seed: 1,
            verdict: Some(verdict),
            slope: Some(slope),
            low: Some(slope - reach),
            high: Some(slope + reach),
            seconds: slope,
            failed: None,
        }
    }

    #[test]
    fn rates_know_how_little_they_know() {
        let never = Rate::of(0, 200);
        assert!(never.low == 0.0 && (0.018..0.02).contains(&never.high), "{never:?}");
        let half = Rate::of(50, 100);
        assert!((half.low - 0.4038).abs() < 1e-3 && (half.high - 0.5962).abs() < 1e-3, "{half:?}");
        assert_eq!((Rate::of(0, 0).low, Rate::of(0, 0).high), (0.0, 1.0));
    }

    #[test]
    fn failed_runs_count_apart() {
        let mut broken = outcome(VerdictKind::Leak, 1.0, 1.0);
        (broken.verdict, broken.failed) = (None, Some("died".into()));
        let runs = [
            outcome(VerdictKind::Leak, 3.0, 1.0),
            outcome(VerdictKind::Clean, 1.0, 1.0),
            outcome(VerdictKind::Clean, 2.0, 1.0),
            broken,
        ];
        let found = tally(runs.iter());
        assert_eq!((found.leak.hits, found.clean.hits, found.leak.runs), (1, 2, 3));
        assert_eq!((found.failed, found.median_s, found.max_s), (1, 2.0, 3.0));
    }

    #[test]
    fn an_interval_must_hold_what_the_others_found() {
        let mut runs: Vec<Outcome> =
            (0..9).map(|i| outcome(VerdictKind::Leak, 144.0 + f64::from(i) / 10.0, 0.5)).collect();
        runs.push(outcome(VerdictKind::Leak, 200.0, 0.5));
        let found = agreement(&runs, Part::Coverage).unwrap();
        assert_eq!((found.covered.hits, found.covered.runs), (9, 10));
        assert!((144.0..145.0).contains(&found.median) && found.max == 200.0);
        assert!(agreement(&runs, Part::Controls).is_none());
    }
}
