//! JUnit XML, which every CI system reads. Pure.
//!
//! A case fails if the software under test is at fault, and errs if the lab or the machine is.

use std::time::Duration;

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

/// One thing that was checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// What was checked.
    pub name: String,
    /// Seconds it took.
    pub seconds: f64,
    /// What came of it.
    pub outcome: Outcome,
    /// Text for people; shown with the case.
    pub output: String,
}

/// What came of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It holds.
    Passed,
    /// It does not, in a line.
    Failed(String),
    /// It could not be checked, in a line.
    Errored(String),
    /// It was not checked, in a line.
    Skipped(String),
}

/// The XML of one suite of `cases`.
pub fn xml(suite: &str, cases: &[Case]) -> String {
    let mut report = Report::new("pdlab");
    let mut group = TestSuite::new(suite);
    for case in cases {
        let mut status = match &case.outcome {
            Outcome::Passed => TestCaseStatus::success(),
            Outcome::Failed(_) => TestCaseStatus::non_success(NonSuccessKind::Failure),
            Outcome::Errored(_) => TestCaseStatus::non_success(NonSuccessKind::Error),
            Outcome::Skipped(_) => TestCaseStatus::skipped(),
        };
        match &case.outcome {
            Outcome::Passed => {}
            Outcome::Failed(why) | Outcome::Errored(why) => {
                // The message is what most viewers show, the text what the others do.
                status.set_message(why.as_str()).set_description(why.as_str());
            }
            Outcome::Skipped(why) => {
                status.set_message(why.as_str());
            }
        }
        let mut written = TestCase::new(case.name.as_str(), status);
        written.set_classname(suite).set_time(Duration::from_secs_f64(case.seconds.max(0.0)));
        if !case.output.is_empty() {
            written.set_system_out(case.output.as_str());
        }
        group.add_test_case(written);
    }
    report.add_test_suite(group);
    report.to_string().expect("writing XML into memory does not fail")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(name: &str, outcome: Outcome) -> Case {
        Case { name: name.into(), seconds: 1.5, outcome, output: String::new() }
    }

    #[test]
    fn failures_errors_and_skips_are_counted_apart() {
        let cases = [
            case("a", Outcome::Passed),
            case("b", Outcome::Failed("leaks".into())),
            case("c", Outcome::Errored("no UCX".into())),
            case("d", Outcome::Skipped("not asked for".into())),
        ];
        let read = Report::deserialize_from_str(&xml("zoo", &cases)).unwrap();
        let suite = &read.test_suites[0];
        assert_eq!((suite.tests, suite.failures, suite.errors), (4, 1, 1));
        assert!(matches!(suite.test_cases[3].status, TestCaseStatus::Skipped { .. }));
        assert_eq!(suite.test_cases[1].name.as_str(), "b");
        assert_eq!(suite.test_cases[0].time, Some(Duration::from_millis(1500)));
    }

    #[test]
    fn hostile_text_stays_text() {
        let mut hostile = case("a<b>\"&", Outcome::Failed("]]></failure><x>".into()));
        hostile.output = "\u{1b}[31mred\u{1b}[0m ]]> </system-out>".into();
        let read = Report::deserialize_from_str(&xml("x", &[hostile])).unwrap();
        assert_eq!(read.test_suites[0].test_cases.len(), 1);
        assert_eq!(read.test_suites[0].test_cases[0].name.as_str(), "a<b>\"&");
    }
}
