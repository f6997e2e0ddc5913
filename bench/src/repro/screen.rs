//! The result of a run as text that a stranger understands. Pure.
//!
//! The sentences about slopes, doubts and bugs are [`pdlab_leak::explain`]'s; here they are put
//! beside what the run did, and laid out.

use std::path::Path;

use pdlab_leak::attribution::Attribution;
use pdlab_leak::explain::{self, fixed};
use pdlab_leak::gauge::{Axes, Gauge};
use pdlab_leak::result::MitigationResult;
use pdlab_leak::scenario::{Scenario, Transport};
use pdlab_leak::verdict::VerdictKind;

use super::cell::Measurement;
use super::holders;
use super::pace::Step;
use super::report::{self, MitigationRun, RunReport};
use super::sheet::Sheet;
use super::words::{amount, change, counted, grouped, path};

/// The report on a run of `scenario` whose files are in `dir`.
pub fn render(
    scenario: &Scenario,
    measurement: &Measurement,
    attribution: &Attribution,
    report: &RunReport,
    dir: &Path,
) -> String {
    let (result, axes) = (&report.result, measurement.axes);
    let estimate = measurement.judgement.estimate.as_ref();
    let leaks = result.verdict == VerdictKind::Leak;
    let mut page = Sheet::default();
    page.item("verdict", &explain::verdict(&measurement.judgement, axes));
    if let Some(doubt) = &result.doubt {
        page.item("", doubt);
    }
    if let Some(estimate) = estimate.filter(|_| leaks) {
        let now_bytes = report.roles.first().map_or(0, |role| role.rss_bytes);
        let capacity = scenario.capacity(now_bytes);
        page.item("", &explain::consequence(estimate, axes, capacity));
    }
    let expectation = report::expectation(scenario, measurement);
    let asked = expectation.as_ref().is_some_and(|found| found.due.cost_growth_min.is_some());
    if let (true, Some(first_us), Some(last_us)) =
        (asked, result.cost_first_us, result.cost_last_us)
    {
        page.item("", &explain::cost_growth(first_us, last_us, axes.unit));
    }
    page.blank();
    page.item("scenario", &format!("{}: {}", scenario.name, scenario.title));
    page.item("ran on", &ran_on(measurement));
    let blind_spot = explain::blind_spot(measurement.transport);
    if let Some(blind_spot) = blind_spot.filter(|_| scenario.is_about_ucx()) {
        page.item("", blind_spot);
    }
    page.item("growth", &growth(report, axes.gauge));
    if let Some(ratio) = result.quiet_growth_ratio.filter(|_| leaks) {
        page.item("", &explain::quiet(ratio));
    }
    if leaks {
        page.item("held by", &holders::line(report));
    }
    holders::section(&mut page, measurement, attribution, report);
    if let Some(signature) = &attribution.signature {
        // The cures that were proven are in the table; without one the text lists them all.
        let text = explain::signature(signature);
        let lines = if result.mitigations.is_empty() { usize::MAX } else { 1 };
        let text = text.trim_start_matches("Known: ");
        let text: Vec<&str> = text.lines().take(lines).collect();
        page.item("known bug", &text.join("\n"));
    }
    page.item("measured", &measured(measurement));
    if let Some(estimate) = estimate {
        page.item("", &explain::warmup(estimate, axes));
    }
    page.item("meanwhile", &meanwhile(report));
    report.faults.iter().for_each(|fault| page.item("FAULT", fault));
    report.remarks.iter().for_each(|remark| page.item("remark", remark));
    cures(&mut page, report);
    page.blank();
    let due = explain::expectation(expectation.as_ref(), result.matched, axes);
    page.item("expected", &due);
    report.mismatches.iter().for_each(|mismatch| page.item("", &format!("- {mismatch}")));
    page.item("files", &format!("{}/", dir.display()));
    let stacks = if measurement.stacks.is_some() { "stacks.json, stacks.folded, " } else { "" };
    page.item("", &format!("result.json, samples.csv, {stacks}scenario.toml, logs/"));
    page.item("page", &format!("pdlab report {}", dir.display()));
    page.item("took", &format!("{:.1} s in all", report.total_s));
    page.text
}

fn ran_on(measurement: &Measurement) -> String {
    let mut text = path(measurement.transport, measurement.ucx.as_deref());
    if measurement.transport == Transport::Ucx {
        for (name, value) in &measurement.env {
            text += &format!(" {name}={value}");
        }
    }
    text
}

fn growth(report: &RunReport, gauge: Gauge) -> String {
    let parts = report.roles.iter().map(|role| {
        let rss = amount(role.rss_bytes as f64);
        let growth = if gauge.is_bytes() {
            change(role.growth)
        } else {
            format!("{:+.0} {}", role.growth, gauge.label())
        };
        format!("{} {growth} (RSS {rss})", role.process)
    });
    parts.collect::<Vec<_>>().join(", ")
}

fn measured(measurement: &Measurement) -> String {
    let limit = match measurement.ended {
        Step::TimeLimit => "; the scenario's limit on time was reached",
        Step::WorkLimit => "; the scenario's limit on work was reached",
        Step::Enough | Step::GoOn => "",
    };
    format!(
        "{} of {} in {:.1} s{limit}",
        counted(measurement.units() as u64, &measurement.axes.unit.to_string()),
        measurement.judged,
        measurement.duration_s,
    )
}

fn meanwhile(report: &RunReport) -> String {
    let work = &report.result.work;
    format!(
        "{} answered ({:.0} per second), {} failed; {} of KV moved in {}; {} verified, {} corrupt",
        counted(work.requests, "request"),
        report.requests_per_s,
        grouped(report.requests_failed),
        amount(work.kv_bytes as f64),
        counted(work.transfers, "transfer"),
        counted(work.blocks_verified, "block"),
        grouped(work.corrupt_blocks),
    )
}

fn cures(page: &mut Sheet, report: &RunReport) {
    let runs = report.result.mitigations.iter().zip(&report.mitigation_runs);
    if runs.len() == 0 {
        return;
    }
    let axes = Axes { gauge: report.result.gauge, unit: report.result.unit };
    let width = report.mitigation_runs.iter().map(|run| run.setting.len()).max().unwrap_or(0);
    let slope = format!("{axes} (95 % CI)");
    let cpu = format!("CPU per {}", axes.unit);
    page.blank();
    page.line(&format!(
        "{:width$}  {slope:>24}  {:12}  {cpu:13}  requests/s",
        "cures proven", "verdict"
    ));
    for (cure, run) in runs {
        page.line(&format!("{:width$}  {}", run.setting, cells(cure, run, axes.gauge)));
        if let Some(reason) = &run.failed {
            page.indented(&format!("failed: {reason}"));
        } else if !cure.matched {
            page.indented("NOT as expected: a cure must come out clean");
        }
        if let Some(note) = &cure.cost_note {
            page.indented(note);
        }
    }
    page.line(
        "CPU of the whole process, serving included, and requests/s: 1.00 is without the cure.",
    );
}

fn cells(cure: &MitigationResult, run: &MitigationRun, gauge: Gauge) -> String {
    let slope = match (cure.slope_per_unit, cure.ci_low, cure.ci_high) {
        (Some(slope), Some(low), Some(high)) => {
            let [slope, low, high] = [slope, low, high].map(|value| fixed(value, gauge));
            format!("{slope} ({low} to {high})")
        }
        _ => "-".to_owned(),
    };
    let verdict = match &run.failed {
        Some(_) => "failed".to_owned(),
        None => cure.verdict.to_string(),
    };
    let cost = match (cure.cost_ratio, run.cost_error) {
        (Some(ratio), Some(error)) => format!("{ratio:.2} ± {error:.2}"),
        (Some(ratio), None) => format!("{ratio:.2}"),
        (None, _) => "-".to_owned(),
    };
    let requests = run.request_ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
    format!("{slope:>24}  {verdict:12}  {cost:13}  {requests}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repro::attribution::attribute;
    use crate::repro::fixture;
    use crate::repro::report::Trial;

    fn rendered(measurement: &Measurement, trials: &[Trial<'_>]) -> String {
        let scenario = fixture::scenario();
        let attribution = attribute(&scenario, measurement);
        let report = RunReport::new(&scenario, measurement, &attribution, trials, 31.4);
        render(&scenario, measurement, &attribution, &report, Path::new("runs/x"))
    }

    #[test]
    fn a_leak_reads_from_the_verdict_to_the_files() {
        let scenario = fixture::scenario();
        let measurement = fixture::measurement(&scenario, 144.0, 20_000.0);
        let cure = &scenario.mitigations[2];
        let trial =
            |outcome| Trial { mitigation: cure, scenario: scenario.with_mitigation(cure), outcome };
        let trials = [
            trial(Ok(fixture::measurement(&scenario, 0.0, 0.0))),
            trial(Err("decode-0 died".to_owned())),
        ];
        assert_eq!(rendered(&measurement, &trials), include_str!("screen_leak.txt"));
    }

    #[test]
    fn tcp_says_what_it_cannot_show() {
        let mut scenario = fixture::scenario();
        scenario.transport = Transport::Tcp;
        let mut measurement = fixture::measurement(&scenario, 0.0, 0.0);
        measurement.transport = Transport::Tcp;
        measurement.ucx = None;
        let text = rendered(&measurement, &[]);
        assert!(text.starts_with("verdict    CLEAN. 0.0 B per unmap"), "{text}");
        assert!(text.contains("cannot show UCX's leaks"), "{text}");
        assert!(!text.contains("held by") && !text.contains("MB/min"), "{text}");
        assert!(text.contains("expected   As expected: clean"), "{text}");
    }

    #[test]
    fn faults_and_remarks_are_told() {
        let scenario = fixture::scenario();
        let mut measurement = fixture::measurement(&scenario, 144.0, 0.0);
        measurement.faults.push("no KV block was verified".to_owned());
        measurement.remarks.push("2 of 500 requests failed".to_owned());
        let text = rendered(&measurement, &[]);
        assert!(text.contains("FAULT      no KV block was verified"), "{text}");
        assert!(text.contains("remark     2 of 500 requests failed"), "{text}");
        assert!(text.contains("expected   NOT as expected"), "{text}");
    }

    #[test]
    fn no_line_is_wider_than_a_terminal() {
        let scenario = fixture::scenario();
        let text = rendered(&fixture::measurement(&scenario, 144.0, 20_000.0), &[]);
        let widest = text.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(widest <= crate::repro::sheet::WIDTH, "{widest}");
    }
}
