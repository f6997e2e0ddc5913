//! Whether a run passes, given the baseline. Pure.

use pdlab_leak::gauge::Axes;
use pdlab_leak::result::ReproResult;
use pdlab_leak::verdict::VerdictKind;
use serde::{Deserialize, Serialize};

use super::baseline::Baseline;
use crate::repro::Exit;

/// What a gate found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Finding {
    /// Nothing leaks, and nothing did.
    Clean,
    /// It leaks, as it did when the baseline was taken.
    Within,
    /// What leaked when the baseline was taken leaks no more.
    Improved,
    /// It leaks, and did not.
    Leak,
    /// It leaks more than it did.
    Regression,
    /// KV blocks were wrong or not given back, or nothing was served: whatever memory did, this
    /// is not to be shipped.
    Fault,
    /// The measurement came to no verdict.
    Undecided,
}

/// A finding with its reason.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// What it is.
    pub finding: Finding,
    /// The slope up to which the gate is open, in the gauge's unit per unit of work.
    pub limit_per_unit: f64,
    /// Why, in a sentence.
    pub reason: String,
}

impl Finding {
    /// Exit code of the command.
    pub fn exit(self) -> Exit {
        match self {
            Self::Clean | Self::Within | Self::Improved => Exit::Matched,
            Self::Leak | Self::Regression | Self::Fault => Exit::NotMatched,
            // Neither may a gate pass what it has not seen, nor blame the software under test.
            Self::Undecided => Exit::Environment,
        }
    }

    /// The name in files and on the screen.
    pub fn name(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Within => "within",
            Self::Improved => "improved",
            Self::Leak => "leak",
            Self::Regression => "regression",
            Self::Fault => "fault",
            Self::Undecided => "undecided",
        }
    }
}

/// Decides on a run with these `faults`. `margin` is the slope that the scenario counts as none.
pub fn decide(result: &ReproResult, faults: &[String], base: &Baseline, margin: f64) -> Decision {
    let leaked = base.verdict == VerdictKind::Leak;
    let high = base.ci_high.filter(|_| leaked).unwrap_or(0.0).max(0.0);
    let limit_per_unit = (high * (1.0 + base.tolerance)).max(margin);
    let (finding, reason) = if faults.is_empty() {
        compare(result, leaked, limit_per_unit)
    } else {
        (Finding::Fault, faults.join("; "))
    };
    Decision { finding, limit_per_unit, reason }
}

fn compare(result: &ReproResult, leaked: bool, limit: f64) -> (Finding, String) {
    let per = Axes { gauge: result.gauge, unit: result.unit };
    let slope = result.slope_per_unit.unwrap_or(0.0);
    let now = format!("{slope:.1} {per}");
    match (result.verdict, leaked) {
        (VerdictKind::Clean, false) => {
            (Finding::Clean, format!("{now}; the baseline is clean too"))
        }
        (VerdictKind::Clean, true) => (
            Finding::Improved,
            format!("{now}; the baseline leaks: take it again with --update, so that it stays so"),
        ),
        (VerdictKind::Leak, false) => (Finding::Leak, format!("{now}; the baseline is clean")),
        (VerdictKind::Leak, true) if result.ci_low.is_some_and(|low| low > limit) => {
            (Finding::Regression, format!("{now}; the baseline allows {limit:.1}"))
        }
        (VerdictKind::Leak, true) => {
            (Finding::Within, format!("{now}; the baseline leaks too and allows {limit:.1}"))
        }
        (VerdictKind::Inconclusive, true) if result.ci_high.is_some_and(|high| high <= limit) => (
            Finding::Within,
            format!("whether it leaks is open, but not above {limit:.1} {per}, as the baseline"),
        ),
        (VerdictKind::Inconclusive, _) => {
            let doubt = result.doubt.as_deref().unwrap_or("The measurement came to no verdict.");
            (Finding::Undecided, doubt.to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repro::fixture;

    /// A result with this verdict, slope and interval.
    fn found(verdict: VerdictKind, slope: f64, low: f64, high: f64) -> ReproResult {
        let scenario = fixture::scenario();
        let measurement = fixture::measurement(&scenario, 144.0, 0.0);
        let mut result = fixture::report(&scenario, &measurement).result;
        result.verdict = verdict;
        result.slope_per_unit = Some(slope);
        (result.ci_low, result.ci_high) = (Some(low), Some(high));
        result
    }

    fn gate(now: &ReproResult, then: &ReproResult) -> Finding {
        decide(now, &[], &Baseline::of(then), 4.0).finding
    }

    #[test]
    fn verdicts_are_compared() {
        use VerdictKind::{Clean, Inconclusive, Leak};
        let clean = found(Clean, 0.0, -0.1, 0.1);
        let leak = found(Leak, 144.0, 143.0, 145.0);
        let more = found(Leak, 288.0, 287.0, 289.0);
        let slightly_more = found(Leak, 150.0, 148.0, 152.0);
        let open = found(Inconclusive, 80.0, 10.0, 150.0);
        let wide_open = found(Inconclusive, 80.0, -90.0, 250.0);
        for (now, then, finding) in [
            (&clean, &clean, Finding::Clean),
            (&clean, &leak, Finding::Improved),
            (&leak, &clean, Finding::Leak),
            (&leak, &leak, Finding::Within),
            (&slightly_more, &leak, Finding::Within),
            (&more, &leak, Finding::Regression),
            (&open, &leak, Finding::Within),
            (&wide_open, &leak, Finding::Undecided),
            (&open, &clean, Finding::Undecided),
        ] {
            assert_eq!(gate(now, then), finding, "{:?} after {:?}", now.verdict, then.verdict);
        }
    }

    #[test]
    fn a_fault_fails_whatever_memory_did() {
        let clean = found(VerdictKind::Clean, 0.0, -0.1, 0.1);
        let faults = ["3 KV blocks did not hold what they must".to_owned()];
        let decision = decide(&clean, &faults, &Baseline::of(&clean), 4.0);
        assert_eq!(decision.finding.exit(), Exit::NotMatched);
        assert_eq!(decision.reason, faults[0]);
    }

    #[test]
    fn only_what_was_seen_to_be_good_passes() {
        let codes = [
            (Finding::Clean, 0),
            (Finding::Within, 0),
            (Finding::Improved, 0),
            (Finding::Leak, 1),
            (Finding::Regression, 1),
            (Finding::Fault, 1),
            (Finding::Undecided, 3),
        ];
        for (finding, code) in codes {
            assert_eq!(finding.exit().code(), code, "{finding:?}");
        }
    }

    #[test]
    fn the_tolerance_of_the_baseline_counts() {
        let leak = found(VerdictKind::Leak, 144.0, 143.0, 145.0);
        let more = found(VerdictKind::Leak, 165.0, 164.0, 166.0);
        let mut baseline = Baseline::of(&leak);
        assert_eq!(decide(&more, &[], &baseline, 4.0).finding, Finding::Regression);
        baseline.tolerance = 0.2;
        assert_eq!(decide(&more, &[], &baseline, 4.0).finding, Finding::Within);
    }
}
