//! From a run of the scenario to a run of the matrix. Pure.

use pdlab_leak::scenario::Scenario;

use super::result::{Measured, Outcome, Run};
use super::schedule::Planned;
use crate::repro::cell;
use crate::repro::report::RunReport;

/// When and where a run was made.
#[derive(Debug, Clone, PartialEq)]
pub struct Circumstances {
    /// Seconds since 1970 at its start.
    pub started_unix_s: f64,
    /// Seconds it took in all.
    pub total_s: f64,
    /// Its directory within that of the matrix.
    pub dir: String,
}

/// What `outcome` says: what was found, or in which words nothing was. `scenario` is that of the
/// cell.
pub fn record(
    planned: Planned,
    scenario: &Scenario,
    outcome: &Result<RunReport, String>,
    circumstances: Circumstances,
) -> Run {
    let report = outcome.as_ref().ok();
    let reported = report.and_then(|report| report.result.ucx_version.clone());
    let version = reported.and_then(|version| version.parse().ok()).or(scenario.ucx_version());
    let refusal = scenario.refusal(version, &scenario.env);
    let failed = match outcome {
        Err(reason) => Some(reason.clone()),
        Ok(report) if !report.faults.is_empty() => Some(report.faults.join("; ")),
        Ok(_) => None,
    };
    let mismatches = match (&failed, refusal, report) {
        (Some(reason), Some(refusal), _) if reason.contains(&refusal.reason) => Vec::new(),
        (Some(_), Some(refusal), _) => {
            vec![format!("it failed, and not because of {}", refusal.reason)]
        }
        (Some(_), None, _) => vec!["it failed, which nothing foresees".to_owned()],
        (None, Some(_), _) => vec!["it ran, and should have failed".to_owned()],
        (None, None, Some(report)) if report.result.expected.is_some() => report.mismatches.clone(),
        (None, None, _) => Vec::new(),
    };
    let foreseen = report.and_then(|report| report.result.expected);
    let expected = refusal.map_or(foreseen.map(Outcome::from), |_| Some(Outcome::Failed));
    let note = match (refusal, report) {
        (Some(refusal), _) => refusal.note.clone(),
        (None, Some(report)) => {
            let transport = report.result.transport_or_any();
            let ucx = report.result.ucx_version.as_deref();
            cell::expectation(scenario, transport, ucx).and_then(|expectation| expectation.due.note)
        }
        (None, None) => None,
    };
    let Circumstances { started_unix_s, total_s, dir } = circumstances;
    Run {
        order: planned.order,
        group: planned.group,
        set: planned.set,
        started_unix_s,
        total_s,
        outcome: match (&failed, report) {
            (None, Some(report)) => report.result.verdict.into(),
            _ => Outcome::Failed,
        },
        reason: failed,
        expected,
        mismatches,
        note,
        ignored: report.map_or(Vec::new(), |report| report.ignored.clone()),
        remarks: report.map_or(Vec::new(), |report| report.remarks.clone()),
        measured: report.map(measured),
        dir,
    }
}

fn measured(report: &RunReport) -> Measured {
    let result = &report.result;
    Measured {
        transport: result.transport_or_any(),
        ucx_version: result.ucx_version.clone(),
        slope_per_unit: result.slope_per_unit,
        ci_low: result.ci_low,
        ci_high: result.ci_high,
        units: report.units,
        duration_s: result.duration_s,
        cpu_us_per_unit: report.cpu_us_per_unit,
        cpu_error_us: report.cpu_error_us,
        requests_completed: report.requests_completed,
        requests_failed: report.requests_failed,
        requests_per_s: report.requests_per_s,
        latency_p99_ms: report.latency_p99_ms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::fixture::{setting, ucx};
    use crate::repro::attribution::attribute;
    use crate::repro::fixture;

    /// The record of a run with `set`, whose decode gained `slope` per unmap.
    fn recorded(set: &str, outcome: Result<f64, &str>, fault: Option<&str>) -> Run {
        let planned = Planned { order: 3, group: ucx("1.19.0"), set: setting(set) };
        let mut scenario = fixture::scenario();
        scenario.measure.prove_mitigations = false;
        scenario.env.extend(planned.set.set.clone());
        let outcome = outcome.map_err(str::to_owned).map(|slope| {
            let mut measurement = fixture::measurement(&scenario, slope, 0.0);
            measurement.faults.extend(fault.map(str::to_owned));
            let attribution = attribute(&scenario, &measurement);
            RunReport::new(&scenario, &measurement, &attribution, &[], 8.0)
        });
        let dir = "cells/3".to_owned();
        let circumstances = Circumstances { started_unix_s: 1.0, total_s: 8.0, dir };
        record(planned, &scenario, &outcome, circumstances)
    }

    const DRAIN: &str = "UCX_RCACHE_MAX_UNRELEASED=64M";
    const REFUSED: &str = "UCX_MEM_MMAP_HOOK_MODE=none UCX_RCACHE_ENABLE=y";

    #[test]
    fn a_leak_and_a_cure_as_foreseen_have_no_mismatch() {
        let leak = recorded("default", Ok(144.0), None);
        assert_eq!((leak.outcome, leak.expected), (Outcome::Leak, Some(Outcome::Leak)));
        assert_eq!((leak.mismatches.len(), leak.reason), (0, None));
        let measured = leak.measured.unwrap();
        assert!((measured.slope_per_unit.unwrap() - 144.0).abs() < 0.1, "{measured:?}");
        assert!(measured.cpu_us_per_unit.unwrap() > 0.0 && measured.latency_p99_ms > 0.0);
        let cured = recorded(DRAIN, Ok(0.0), None);
        assert_eq!((cured.outcome, cured.expected), (Outcome::Clean, Some(Outcome::Clean)));
        assert!(cured.mismatches.is_empty() && cured.note.is_some(), "{cured:?}");
        let useless = recorded(DRAIN, Ok(144.0), None);
        assert!(useless.mismatches[0].contains("the verdict is leak"), "{useless:?}");
    }

    #[test]
    fn a_fault_makes_a_run_failed_whatever_its_slope() {
        let run = recorded(DRAIN, Ok(0.0), Some("no KV block was verified"));
        assert_eq!(run.outcome, Outcome::Failed);
        assert_eq!(run.reason.as_deref(), Some("no KV block was verified"));
        assert_eq!(run.mismatches, ["it failed, which nothing foresees"]);
    }

    #[test]
    fn a_failure_is_fine_where_it_is_foreseen_and_for_its_own_reason() {
        let foreseen = recorded(REFUSED, Err("decode: ucp_init of UCX 1.19.0 failed"), None);
        assert_eq!((foreseen.outcome, foreseen.expected), (Outcome::Failed, Some(Outcome::Failed)));
        assert!(foreseen.mismatches.is_empty() && foreseen.measured.is_none());
        let other = recorded(REFUSED, Err("out of memory"), None);
        assert!(other.mismatches[0].contains("not because of ucp_init"), "{other:?}");
        let ran = recorded(REFUSED, Ok(0.0), None);
        assert_eq!(ran.mismatches, ["it ran, and should have failed"]);
        let unforeseen = recorded("default", Err("ucp_init failed"), None);
        assert_eq!(unforeseen.mismatches, ["it failed, which nothing foresees"]);
        assert_eq!(unforeseen.expected, None);
    }

    #[test]
    fn where_nothing_is_foreseen_nothing_is_wrong() {
        let planned = Planned { order: 0, group: ucx("1.22.0"), set: setting("default") };
        let mut scenario = fixture::scenario();
        scenario.expects.clear();
        scenario.mitigations.clear();
        let measurement = fixture::measurement(&scenario, 144.0, 0.0);
        let attribution = attribute(&scenario, &measurement);
        let report = RunReport::new(&scenario, &measurement, &attribution, &[], 8.0);
        let dir = String::new();
        let circumstances = Circumstances { started_unix_s: 1.0, total_s: 8.0, dir };
        let run = record(planned, &scenario, &Ok(report), circumstances);
        assert_eq!((run.outcome, run.expected, run.mismatches.len()), (Outcome::Leak, None, 0));
    }
}
