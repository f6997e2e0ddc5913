//! What a calibration came to, and whether it is good enough. Pure.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use super::plan::Part;
use super::tally::{Agreement, Outcome, Rate, Tally, agreement, by_scenario, tally};
use crate::repro::Exit;

/// What is promised, and what `pdlab zoo calibrate` fails on.
///
/// Every planted leak is found.
const SENSITIVITY_MIN: f64 = 1.0;
/// One false alarm in a hundred runs of controls.
const FALSE_ALARMS_MAX: f64 = 0.01;
/// Intervals are of 95 %. Whether they keep that can be known only as well as the number of runs
/// allows, so the promise is broken when even the upper end of the rate's interval is below it.
const COVERAGE_MIN: f64 = 0.95;

/// `calibration.json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CalibrationReport {
    /// Runs with a planted leak; null if none was made.
    pub sensitivity: Option<Tally>,
    /// Runs of all controls; null if none was made.
    pub controls: Option<Tally>,
    /// The same by control.
    pub by_control: BTreeMap<String, Tally>,
    /// How well the slopes of different seeds agree; null if there were not enough.
    pub coverage: Option<Agreement>,
    /// Errors of the runs that failed, and how often they came.
    pub failures: BTreeMap<String, usize>,
    /// Promises that were not kept, in words.
    pub broken: Vec<String>,
    /// Runs that were to be made and were not.
    pub missing: usize,
}

impl CalibrationReport {
    /// What `outcomes` of `asked` runs say.
    pub fn of(outcomes: &[Outcome], asked: usize) -> Self {
        let part = |part| {
            let some = outcomes.iter().any(|outcome| outcome.part == part);
            some.then(|| tally(outcomes.iter().filter(|outcome| outcome.part == part)))
        };
        let mut failures = BTreeMap::new();
        for error in outcomes.iter().filter_map(|outcome| outcome.failed.as_ref()) {
            *failures.entry(error.clone()).or_insert(0) += 1;
        }
        let mut report = Self {
            sensitivity: part(Part::Sensitivity),
            controls: part(Part::Controls),
            by_control: by_scenario(outcomes, Part::Controls),
            coverage: agreement(outcomes, Part::Coverage),
            failures,
            broken: Vec::new(),
            missing: asked.saturating_sub(outcomes.len()),
        };
        report.broken = report.find_broken();
        report
    }

    /// Exit code of the command: a promise that is broken is a finding, a run that failed is not.
    pub fn exit(&self) -> Exit {
        match (self.broken.is_empty(), self.failures.is_empty()) {
            (false, _) => Exit::NotMatched,
            (true, false) => Exit::Environment,
            (true, true) => Exit::Matched,
        }
    }

    fn find_broken(&self) -> Vec<String> {
        let mut broken = Vec::new();
        if let Some(found) = self.sensitivity.as_ref().map(|tally| tally.leak)
            && rate(found) < SENSITIVITY_MIN
        {
            broken.push(format!("a planted leak was found in {} only", of(found)));
        }
        if let Some(alarms) = self.controls.as_ref().map(|tally| tally.leak)
            && rate(alarms) > FALSE_ALARMS_MAX
        {
            broken.push(format!("false alarms in {}", of(alarms)));
        }
        if let Some(covered) = self.coverage.as_ref().map(|agreement| agreement.covered)
            && covered.high < COVERAGE_MIN
        {
            broken.push(format!("intervals of 95 % hold the slope in {} only", of(covered)));
        }
        broken
    }

    /// The report as Markdown, which reads well on a terminal too.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        if let Some(planted) = &self.sensitivity {
            let _ = writeln!(
                text,
                "Planted leak of 1 MB per minute: found in {} (95 % CI of the rate {}), \
                 median {:.0} s, longest {:.0} s.\n",
                of(planted.leak),
                interval(planted.leak),
                planted.median_s,
                planted.max_s
            );
        }
        if let Some(controls) = &self.controls {
            let _ = writeln!(
                text,
                "False alarms: {} runs of controls (95 % CI of the rate {}).\n",
                of(controls.leak),
                interval(controls.leak)
            );
            let _ = writeln!(
                text,
                "| control | runs | leak | clean | inconclusive | failed | median s |\n\
                 |---|---|---|---|---|---|---|"
            );
            for (name, tally) in &self.by_control {
                let _ = writeln!(
                    text,
                    "| {name} | {} | {} | {} | {} | {} | {:.1} |",
                    tally.leak.runs,
                    tally.leak.hits,
                    tally.clean.hits,
                    tally.inconclusive.hits,
                    tally.failed,
                    tally.median_s
                );
            }
            text.push('\n');
        }
        if let Some(found) = &self.coverage {
            let _ = writeln!(
                text,
                "Slopes of {} seeds: median {:.2}, {:.2} to {:.2}; intervals are {:.2} wide in the \
                 median. The 95 % interval holds the median of the other runs in {} (95 % CI of \
                 the rate {}).\n",
                found.covered.runs,
                found.median,
                found.min,
                found.max,
                found.median_width,
                of(found.covered),
                interval(found.covered)
            );
        }
        for (error, count) in &self.failures {
            let _ = writeln!(text, "- failed, {count} times: {}", error.replace('\n', " "));
        }
        for broken in &self.broken {
            let _ = writeln!(text, "- NOT as promised: {broken}");
        }
        if self.missing > 0 {
            let _ = writeln!(text, "- {} runs were not made", self.missing);
        }
        text.trim_end().to_owned()
    }
}

fn rate(rate: Rate) -> f64 {
    if rate.runs == 0 { 0.0 } else { rate.hits as f64 / rate.runs as f64 }
}

fn of(rate: Rate) -> String {
    format!("{} of {}", rate.hits, rate.runs)
}

fn interval(rate: Rate) -> String {
    format!("{:.1} to {:.1} %", 100.0 * rate.low, 100.0 * rate.high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pdlab_leak::verdict::VerdictKind::{self, Clean, Leak};

    fn outcomes(part: Part, verdict: VerdictKind, slope: f64, count: u64) -> Vec<Outcome> {
        let outcome = |seed| Outcome {
            part,
            scenario: "x".into(),
            seed,
            verdict: Some(verdict),
            slope: Some(slope + seed as f64 / 1000.0),
            low: Some(slope - 1.0),
            high: Some(slope + 1.0),
            seconds: 3.0,
            failed: None,
        };
        (0..count).map(outcome).collect()
    }

    fn report(parts: &[Vec<Outcome>]) -> CalibrationReport {
        let all = parts.concat();
        CalibrationReport::of(&all, all.len())
    }

    #[test]
    fn promises_kept_are_exit_0() {
        let report = report(&[
            outcomes(Part::Sensitivity, Leak, 17.0, 10),
            outcomes(Part::Controls, Clean, 0.0, 198),
            outcomes(Part::Controls, Leak, 9.0, 2),
            outcomes(Part::Coverage, Leak, 144.0, 100),
        ]);
        assert_eq!(report.exit(), Exit::Matched, "{:?}", report.broken);
        let text = report.markdown();
        assert!(text.contains("found in 10 of 10"), "{text}");
        assert!(text.contains("False alarms: 2 of 200"), "{text}");
        assert!(text.contains("in 100 of 100"), "{text}");
    }

    #[test]
    fn every_broken_promise_is_named() {
        let mut coverage = outcomes(Part::Coverage, Leak, 144.0, 80);
        coverage.extend(outcomes(Part::Coverage, Leak, 170.0, 20));
        let report = report(&[
            [outcomes(Part::Sensitivity, Leak, 1.0, 9), outcomes(Part::Sensitivity, Clean, 1.0, 1)]
                .concat(),
            [outcomes(Part::Controls, Leak, 1.0, 3), outcomes(Part::Controls, Clean, 1.0, 197)]
                .concat(),
            coverage,
        ]);
        assert_eq!(report.exit(), Exit::NotMatched);
        assert_eq!(report.broken.len(), 3, "{:?}", report.broken);
    }

    #[test]
    fn failed_runs_are_not_good_ones() {
        let mut runs = outcomes(Part::Controls, Clean, 0.0, 3);
        (runs[0].verdict, runs[0].failed) = (None, Some("decode died".into()));
        let report = CalibrationReport::of(&runs, 5);
        assert_eq!(report.exit(), Exit::Environment);
        assert_eq!((report.controls.as_ref().unwrap().failed, report.missing), (1, 2));
        assert!(report.markdown().contains("1 times: decode died"));
    }
}
