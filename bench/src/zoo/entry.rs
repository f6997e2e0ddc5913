//! One scenario of a zoo run: what came of it, as a record and as a line. Pure.

use pdlab_leak::gauge::{Axes, Gauge};
use pdlab_leak::verdict::VerdictKind;
use pdlab_leak::work::Unit;
use serde::{Deserialize, Serialize};

use crate::junit::{Case, Outcome};
use crate::repro::report::RunReport;

/// What came of one scenario.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name, and the directory of its run beside `zoo.json`.
    pub scenario: String,
    /// Its title.
    pub title: String,
    /// The bug it stands for; null for controls.
    pub bug: Option<String>,
    /// How it ended.
    pub status: Status,
    /// Seconds it took, cures included.
    pub seconds: f64,
    /// Whether it was found done, from an earlier run in the same directory.
    pub resumed: bool,
    /// What was measured; null if nothing was.
    pub finding: Option<Finding>,
}

/// How a scenario ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is", content = "why")]
pub enum Status {
    /// As its file says it must.
    Matched,
    /// Not so: what differs.
    NotMatched(Vec<String>),
    /// It could not be run, or ended with an error.
    Failed(String),
    /// It was not run, because the machine lacks what it is about.
    Skipped(String),
}

/// What a scenario showed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// The verdict.
    pub verdict: VerdictKind,
    /// The verdict that was due.
    pub expected: Option<VerdictKind>,
    /// What was judged.
    pub gauge: Gauge,
    /// Per what.
    pub unit: Unit,
    /// The slope, in the gauge's unit per unit of work.
    pub slope_per_unit: Option<f64>,
    /// Lower end of its 95 % interval.
    pub ci_low: Option<f64>,
    /// Upper end of its 95 % interval.
    pub ci_high: Option<f64>,
    /// Who holds most of the growth.
    pub owner: Option<String>,
    /// Share of the growth that has a name.
    pub explained_ratio: Option<f64>,
    /// Cures that were tried.
    pub cures: usize,
    /// Those that cured it.
    pub cures_proven: usize,
}

impl Entry {
    /// The entry of a run that ended with a report.
    pub fn of(report: &RunReport, title: &str, bug: Option<&str>, resumed: bool) -> Self {
        let result = &report.result;
        let leaks = result.verdict == VerdictKind::Leak;
        let owner = result.owners.first().filter(|_| leaks);
        Self {
            scenario: result.scenario.clone(),
            title: title.to_owned(),
            bug: bug.map(str::to_owned),
            status: if result.matched {
                Status::Matched
            } else {
                Status::NotMatched(report.mismatches.clone())
            },
            seconds: report.total_s,
            resumed,
            finding: Some(Finding {
                verdict: result.verdict,
                expected: result.expected,
                gauge: result.gauge,
                unit: result.unit,
                slope_per_unit: result.slope_per_unit,
                ci_low: result.ci_low,
                ci_high: result.ci_high,
                owner: owner.map(|owner| owner.name.clone()),
                explained_ratio: result.explained_ratio,
                cures: result.mitigations.len(),
                cures_proven: result.mitigations.iter().filter(|cure| cure.matched).count(),
            }),
        }
    }

    /// The entry of a scenario that came to nothing after `seconds`.
    pub fn failed(name: &str, title: &str, bug: Option<&str>, seconds: f64, why: String) -> Self {
        Self {
            scenario: name.to_owned(),
            title: title.to_owned(),
            bug: bug.map(str::to_owned),
            status: Status::Failed(why),
            seconds,
            resumed: false,
            finding: None,
        }
    }

    /// The entry of a scenario that was not run, and why.
    pub fn skipped(name: &str, title: &str, bug: Option<&str>, why: String) -> Self {
        Self { status: Status::Skipped(why), ..Self::failed(name, title, bug, 0.0, String::new()) }
    }

    /// The line that is printed when the scenario has ended, names padded to `width`.
    pub fn line(&self, width: usize) -> String {
        let found = match &self.finding {
            Some(finding) => finding.text(),
            None => "no verdict".to_owned(),
        };
        let ended = match &self.status {
            Status::Matched => "as expected".to_owned(),
            Status::NotMatched(why) => format!("NOT as expected: {}", why.join("; ")),
            Status::Failed(why) => format!("FAILED: {}", first_line(why)),
            Status::Skipped(why) => return format!("{:<width$}  skipped: {why}", self.scenario),
        };
        let again = if self.resumed { ", done before" } else { "" };
        let (name, seconds) = (&self.scenario, self.seconds);
        format!("{name:<width$}  {found}; {ended} ({seconds:.0} s{again})")
    }

    /// It as a case of a test suite.
    pub fn case(&self) -> Case {
        let outcome = match &self.status {
            Status::Matched => Outcome::Passed,
            Status::NotMatched(why) => Outcome::Failed(why.join("; ")),
            Status::Failed(why) => Outcome::Errored(why.clone()),
            Status::Skipped(why) => Outcome::Skipped(why.clone()),
        };
        let mut output = self.title.clone();
        if let Some(finding) = &self.finding {
            output += &format!("\n{}", finding.text());
        }
        if let Some(bug) = &self.bug {
            output += &format!("\n{bug}");
        }
        Case { name: self.scenario.clone(), seconds: self.seconds, outcome, output }
    }
}

impl Finding {
    /// `144.5 B per unmap (144.3 to 144.7)`.
    pub(crate) fn slope_text(&self) -> Option<String> {
        let axes = Axes { gauge: self.gauge, unit: self.unit };
        let (slope, low, high) = (self.slope_per_unit?, self.ci_low?, self.ci_high?);
        Some(format!("{slope:.1} {axes} ({low:.1} to {high:.1})"))
    }

    /// `leak, 144.5 B per unmap (144.3 to 144.7), held by heap, 2 of 2 cures proven`.
    fn text(&self) -> String {
        let mut text = self.verdict.to_string();
        if let Some(slope) = self.slope_text() {
            text += &format!(", {slope}");
        }
        if let Some(owner) = &self.owner {
            text += &format!(", held by {owner}");
        }
        if self.cures > 0 {
            text += &format!(", {} of {} cures proven", self.cures_proven, self.cures);
        }
        text
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repro::fixture;

    fn entry(bytes_per_unmap: f64) -> Entry {
        let scenario = fixture::scenario();
        let measurement = fixture::measurement(&scenario, bytes_per_unmap, 0.0);
        let report = fixture::report(&scenario, &measurement);
        Entry::of(&report, &scenario.title, scenario.bug.as_deref(), false)
    }

    #[test]
    fn a_line_says_what_was_found_and_whether_that_was_due() {
        let line = entry(144.0).line(20);
        assert!(line.starts_with("ucx-rcache-invq       leak, 144.0 B per unmap ("), "{line}");
        assert!(line.contains("held by UCX registration cache"), "{line}");
        assert!(line.contains("; as expected ("), "{line}");
        let line = entry(500.0).line(0);
        assert!(line.contains("NOT as expected: "), "{line}");
    }

    #[test]
    fn a_failure_is_no_clean_run() {
        let failed = Entry::failed("x", "X", None, 1.0, "decode died\nlog".into());
        assert_eq!(failed.line(3), "x    no verdict; FAILED: decode died (1 s)");
        assert_eq!(failed.case().outcome, Outcome::Errored("decode died\nlog".into()));
    }

    #[test]
    fn what_was_skipped_is_neither_a_failure_nor_a_clean_run() {
        let skipped = Entry::skipped("x", "X", None, "no RDMA device".into());
        assert_eq!(skipped.line(3), "x    skipped: no RDMA device");
        assert_eq!(skipped.case().outcome, Outcome::Skipped("no RDMA device".into()));
    }

    #[test]
    fn entries_are_read_back() {
        let skipped = Entry::skipped("z", "Z", None, "no RDMA device".into());
        let failed = Entry::failed("x", "X", None, 1.0, "y".into());
        for entry in [entry(144.0), entry(500.0), failed, skipped] {
            let json = serde_json::to_string(&entry).unwrap();
            assert_eq!(serde_json::from_str::<Entry>(&json).unwrap(), entry);
        }
    }
}
