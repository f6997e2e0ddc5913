//! What a gate found, for people and for CI systems: text, Markdown, JUnit. Pure.

use std::fmt::Write;
use std::path::Path;

use pdlab_leak::gauge::Axes;
use pdlab_leak::result::ReproResult;
use pdlab_leak::verdict::VerdictKind;

use super::baseline::Baseline;
use super::decide::{Decision, Finding};
use crate::junit::{self, Case, Outcome};
use crate::repro::report::RunReport;

/// One line: what it is and why.
pub fn line(decision: &Decision) -> String {
    let word = if decision.finding.exit().code() == 0 { "PASS" } else { "FAIL" };
    let word = if decision.finding == Finding::Undecided { "UNDECIDED" } else { word };
    format!("{word} ({}): {}", decision.finding.name(), decision.reason)
}

/// Markdown for the page of a CI job: what was found beside the baseline, the plot (Markdown
/// too), and how to see more.
pub fn markdown(
    decision: &Decision,
    report: &RunReport,
    baseline: &Baseline,
    plot: &str,
    dir: &Path,
) -> String {
    let result = &report.result;
    let mut text = format!("### pdlab gate: {}\n\n", cell(&result.scenario));
    let _ = writeln!(text, "**{}**\n", cell(&line(decision)));
    let per = Axes { gauge: result.gauge, unit: result.unit }.to_string();
    let _ = writeln!(text, "| | baseline | this run |\n|---|---|---|");
    let mut row = |name: &str, base: String, now: String| {
        let _ = writeln!(text, "| {name} | {} | {} |", cell(&base), cell(&now));
    };
    row("verdict", baseline.verdict.to_string(), result.verdict.to_string());
    row(
        &per,
        slope(baseline.slope_per_unit, baseline.ci_low, baseline.ci_high),
        slope(result.slope_per_unit, result.ci_low, result.ci_high),
    );
    row("passes up to", format!("{:.1} {per}", decision.limit_per_unit), String::new());
    row("transport", baseline.transport.to_string(), result.transport_or_any().to_string());
    row("UCX", ucx(baseline.ucx_version.as_ref()), ucx(result.ucx_version.as_ref()));
    for (name, base, now) in settings(baseline, result) {
        row(&format!("`{}`", cell(&name)), base, now);
    }
    text.push('\n');
    text.push_str(plot.trim_end());
    text.push_str("\n\n");
    if let Some(signature) = &result.signature {
        let _ = writeln!(text, "Known bug: [{}]({})\n", cell(&signature.id), signature.url);
    }
    let work = &result.work;
    let _ = writeln!(
        text,
        "{} {}s measured over {} samples in {:.1} s; {} requests, {} KV blocks verified, {} corrupt.",
        report.units,
        result.unit,
        result.samples,
        result.duration_s,
        work.requests,
        work.blocks_verified,
        work.corrupt_blocks,
    );
    for remark in report.faults.iter().chain(&report.remarks) {
        let _ = writeln!(text, "- {}", cell(remark));
    }
    let _ = writeln!(text, "\nThe whole run as a page: `pdlab report {}`", dir.display());
    text
}

/// Markdown for a run that came to nothing.
pub fn markdown_error(scenario: &str, error: &str) -> String {
    format!("### pdlab gate: {}\n\n**ERROR**: {}\n", cell(scenario), cell(error))
}

/// JUnit XML with one case for memory and one for the KV blocks.
pub fn xml(decision: &Decision, report: &RunReport, text: &str) -> String {
    let result = &report.result;
    let seconds = report.total_s;
    let memory = match decision.finding {
        Finding::Clean | Finding::Within | Finding::Improved => Outcome::Passed,
        Finding::Leak | Finding::Regression => Outcome::Failed(line(decision)),
        Finding::Undecided => Outcome::Errored(line(decision)),
        Finding::Fault => Outcome::Skipped("a fault spoiled the measurement".to_owned()),
    };
    let blocks = match decision.finding {
        Finding::Fault => Outcome::Failed(decision.reason.clone()),
        _ => Outcome::Passed,
    };
    let case = |what: &str, seconds, outcome, output: &str| Case {
        name: format!("{}: {what}", result.scenario),
        seconds,
        outcome,
        output: output.to_owned(),
    };
    let cases = [
        case("memory is within the baseline", seconds, memory, text),
        case("KV blocks are right and given back", 0.0, blocks, ""),
    ];
    junit::xml("pdlab gate", &cases)
}

/// JUnit XML of a run that came to nothing.
pub fn xml_error(scenario: &str, error: &str) -> String {
    let case = Case {
        name: format!("{scenario}: memory is within the baseline"),
        seconds: 0.0,
        outcome: Outcome::Errored(error.to_owned()),
        output: String::new(),
    };
    junit::xml("pdlab gate", &[case])
}

/// Settings that either has, with their values, the UCX ones being all that matter.
fn settings(baseline: &Baseline, result: &ReproResult) -> Vec<(String, String, String)> {
    let value = |map: &std::collections::BTreeMap<String, String>, name: &String| {
        map.get(name).cloned().unwrap_or_else(|| "not set".to_owned())
    };
    let mut names: Vec<&String> = baseline.settings.keys().chain(result.settings.keys()).collect();
    names.sort();
    names.dedup();
    names
        .into_iter()
        .map(|name| (name.clone(), value(&baseline.settings, name), value(&result.settings, name)))
        .collect()
}

fn slope(slope: Option<f64>, low: Option<f64>, high: Option<f64>) -> String {
    match (slope, low, high) {
        (Some(slope), Some(low), Some(high)) => {
            format!("{slope:.1} (95 % CI {low:.1} to {high:.1})")
        }
        (Some(slope), ..) => format!("{slope:.1}"),
        _ => "no slope".to_owned(),
    }
}

fn ucx(version: Option<&String>) -> String {
    version.cloned().unwrap_or_else(|| "none".to_owned())
}

/// `text` as a cell of a table, or within a line: nothing in it starts another cell or line, or
/// is markup.
fn cell(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' => safe.push(' '),
            '|' | '<' | '>' | '[' | ']' | '*' | '`' | '\\' => {
                safe.push('\\');
                safe.push(c);
            }
            c => safe.push(c),
        }
    }
    safe
}

/// What a baseline is good for after `--update`.
pub fn updated(baseline: &Baseline, file: &Path) -> String {
    let found = match baseline.verdict {
        VerdictKind::Leak => "a leak; the gate lets it pass until it grows",
        _ => "clean; the gate fails on any leak",
    };
    format!("baseline {} written: {found}", file.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::decide::decide;
    use crate::repro::fixture;

    fn found(bytes_per_unmap: f64) -> RunReport {
        let scenario = fixture::scenario();
        let measurement = fixture::measurement(&scenario, bytes_per_unmap, 0.0);
        fixture::report(&scenario, &measurement)
    }

    fn gated(now: &RunReport, then: &RunReport) -> (Decision, Baseline) {
        let baseline = Baseline::of(&then.result);
        (decide(&now.result, &now.faults, &baseline, 4.0), baseline)
    }

    #[test]
    fn a_leak_is_told_beside_the_clean_baseline() {
        let (leak, clean) = (found(144.0), found(0.0));
        let (decision, baseline) = gated(&leak, &clean);
        let text = markdown(&decision, &leak, &baseline, "PLOT", Path::new("runs/x"));
        assert!(text.contains("FAIL (leak): 144.0 B per unmap"), "{text}");
        assert!(text.contains("| verdict | clean | leak |"), "{text}");
        assert!(text.contains("PLOT") && text.contains("pdlab report runs/x"), "{text}");
        assert!(text.contains("24264"), "{text}");
        let xml = xml(&decision, &leak, "TEXT");
        assert!(xml.contains("failures=\"1\"") && xml.contains("TEXT"), "{xml}");
    }

    #[test]
    fn a_pass_has_no_failure() {
        let clean = found(0.0);
        let (decision, _) = gated(&clean, &clean);
        assert!(line(&decision).starts_with("PASS (clean)"));
        assert!(xml(&decision, &clean, "").contains("failures=\"0\""));
    }

    #[test]
    fn a_setting_cannot_break_the_table() {
        let mut now = found(0.0);
        now.result.settings.insert("UCX_X".into(), "a|b\n| evil | <script>".into());
        let (decision, baseline) = gated(&now, &found(0.0));
        let text = markdown(&decision, &now, &baseline, "", Path::new("x"));
        assert!(text.contains("a\\|b \\| evil \\| \\<script\\>"), "{text}");
    }

    #[test]
    fn an_error_is_no_failure_of_the_software() {
        let xml = xml_error("x", "decode died");
        assert!(xml.contains("errors=\"1\"") && xml.contains("decode died"), "{xml}");
        assert!(markdown_error("x", "a\nb").contains("a b"));
    }
}
