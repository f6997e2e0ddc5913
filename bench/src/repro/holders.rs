//! Who holds the growth, as text: the ledger as a table that balances, and the stack behind its
//! first row. Pure.

use pdlab_leak::attribution::Attribution;
use pdlab_leak::explain;
use pdlab_leak::gauge::Gauge;
use pdlab_leak::ledger::{Basis, Beside, Owner};
use pdlab_leak::result::TraceNote;
use pdlab_leak::signature::Known;
use pdlab_leak::verdict::VerdictKind;

use super::cell::Measurement;
use super::report::RunReport;
use super::sheet::{Sheet, WIDTH};
use super::words::{change, grouped};

/// Frames of a stack that are printed, the innermost.
const FRAMES: usize = 12;

/// Owners that hold a twentieth of the growth or more, in a line.
pub fn line(report: &RunReport) -> String {
    let owners = report.result.owners.iter().filter(|owner| owner.share >= 0.05);
    let parts = owners.map(|owner| {
        let much = match owner.count {
            Some(count) => format!("{count:+}"),
            None => change(owner.bytes as f64),
        };
        format!("{} {much} ({:.0} %)", owner.name, 100.0 * owner.share)
    });
    parts.collect::<Vec<_>>().join(", ")
}

/// The ledger, the top stack, and what to do about an owner that nobody knows.
pub fn section(
    page: &mut Sheet,
    measurement: &Measurement,
    attribution: &Attribution,
    report: &RunReport,
) {
    if matches!(measurement.axes.gauge, Gauge::Held | Gauge::Rss) {
        ledger(page, &measurement.judged, attribution);
    }
    devices(page, &attribution.memory.beside);
    if let Some(stack) = top_stack(attribution) {
        page.item("top stack", &stack);
    }
    if report.result.verdict == VerdictKind::Leak
        && attribution.signature.is_none()
        && measurement.axes.gauge.is_bytes()
    {
        page.item("unknown", &unknown(measurement, attribution));
    }
    page.item("traced", &traced(&measurement.trace));
}

/// The table: its rows add up to the difference of the last line.
fn ledger(page: &mut Sheet, process: &str, attribution: &Attribution) {
    let memory = &attribution.memory;
    if memory.rows.is_empty() {
        return;
    }
    page.blank();
    let width = memory.rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
    let width = width.clamp(30, WIDTH - 53);
    let title = format!("ledger of {process}");
    page.line(&format!("{title:width$}  {:>14}  {:>7}  known", "bytes", "share"));
    for row in &memory.rows {
        let name: String = row.name.chars().take(width).collect();
        let share =
            if row.bytes > 0 { format!("{:.1} %", 100.0 * row.share) } else { String::new() };
        page.line(&format!("{name:width$}  {:>14}  {share:>7}  {}", signed(row.bytes), known(row)));
    }
    let total =
        format!("resident, {} to {}", grouped(memory.start_bytes), grouped(memory.end_bytes));
    let ratio = memory
        .explained_ratio
        .map_or(String::new(), |ratio| format!("{:.1} % of gains explained", 100.0 * ratio));
    page.line(&format!(
        "{total:width$}  {:>14}  {:>7}  {ratio}",
        signed(memory.growth_bytes()),
        ""
    ));
    page.blank();
}

/// What is held of devices, which is no part of the sum: pages that are pinned are resident already, or unmapped.
fn devices(page: &mut Sheet, beside: &[Beside]) {
    let line = |row: &Beside| {
        let (start, end) = (grouped(row.start), grouped(row.end));
        format!("{} {start} to {end} ({})", row.name(), signed(row.gained()))
    };
    let lines: Vec<String> = beside.iter().map(line).collect();
    if !lines.is_empty() {
        page.item("devices", &lines.join("\n"));
    }
}

fn known(row: &Owner) -> &'static str {
    match row.basis {
        Basis::None if row.bytes < 0 => "older memory given back",
        Basis::None => "anonymous, by nobody known",
        basis => basis.told(),
    }
}

/// `+57,698,304`.
fn signed(bytes: i64) -> String {
    let sign = if bytes < 0 { "-" } else { "+" };
    format!("{sign}{}", grouped(bytes.unsigned_abs()))
}

/// The innermost frames of the stack behind the first owner, a line each.
fn top_stack(attribution: &Attribution) -> Option<String> {
    let frames = &attribution.top.as_ref()?.frames;
    let mut lines: Vec<String> = frames.iter().take(FRAMES).map(ToString::to_string).collect();
    if frames.len() > FRAMES {
        lines.push(format!("... {} more frames in stacks.json", frames.len() - FRAMES));
    }
    Some(lines.join("\n"))
}

fn unknown(measurement: &Measurement, attribution: &Attribution) -> String {
    let namer = Known::builtin().namer(measurement.ucx_version());
    match &attribution.top {
        Some(top) => explain::owner::unknown_owner(&top.frames, &namer),
        None => explain::owner::unseen_owner(attribution.memory.rows.first()),
    }
}

/// How stacks were taken, or why not.
pub fn traced(trace: &TraceNote) -> String {
    if let Some(why_not) = &trace.why_not {
        return format!("No stacks: {why_not}");
    }
    let mut text = format!(
        "{}: {} calls seen, {} records lost; {}",
        trace.tier,
        grouped(trace.samples),
        grouped(trace.lost),
        trace.confidence,
    );
    if trace.untracked_bytes > 0 {
        text += &format!("; {} B in no stack", grouped(trace.untracked_bytes));
    }
    for remark in &trace.remarks {
        text += &format!("\n{remark}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repro::attribution::attribute;
    use crate::repro::fixture;

    fn rendered(measurement: &Measurement) -> String {
        let scenario = fixture::scenario();
        let attribution = attribute(&scenario, measurement);
        let report = RunReport::new(&scenario, measurement, &attribution, &[], 1.0);
        let mut page = Sheet::default();
        section(&mut page, measurement, &attribution, &report);
        page.text
    }

    #[test]
    fn a_ledger_balances_on_the_screen_and_shows_the_stack() {
        let text = rendered(&fixture::traced(&fixture::scenario()));
        let bytes = |line: &str| -> i64 {
            let number = line.split("  ").map(str::trim).find(|part| part.starts_with(['+', '-']));
            number.unwrap().replace(',', "").parse().unwrap()
        };
        let lines: Vec<&str> = text.lines().collect();
        let end = lines.iter().position(|line| line.starts_with("resident, ")).unwrap();
        let start = lines.iter().position(|line| line.starts_with("ledger of decode-0")).unwrap();
        let sum: i64 = lines[start + 1..end].iter().map(|line| bytes(line)).sum();
        assert_eq!(sum, bytes(lines[end]), "{text}");
        for words in
            ["by stack", "ucs_mpool_grow (libucs.so.0.0.0+0x", "perf tracepoints: 7 calls seen"]
        {
            assert!(text.contains(words), "{words} is not in {text}");
        }
        assert!(!text.contains("unknown"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
    }

    #[test]
    fn what_devices_pin_stands_beside_the_sum() {
        let mut page = Sheet::default();
        devices(&mut page, &[]);
        assert_eq!(page.text, "", "where there is no device, nothing is said");
        devices(&mut page, &[Beside { gauge: Gauge::Pinned, start: 4096, end: 1_052_672 }]);
        assert!(
            page.text.contains("pinned for devices 4,096 to 1,052,672 (+1,048,576)"),
            "{}",
            page.text
        );
    }

    #[test]
    fn an_owner_that_nobody_knows_comes_with_a_next_step() {
        let scenario = fixture::scenario();
        let untraced = rendered(&fixture::measurement(&scenario, 500.0, 0.0));
        assert!(
            untraced.contains("--trace on") && untraced.contains("No stacks: a test"),
            "{untraced}"
        );
        let mut other = fixture::traced(&scenario);
        for stack in &mut other.stacks.as_mut().unwrap().stacks {
            stack
                .frames
                .retain(|frame| frame.function.as_deref() != Some("ucs_rcache_unmapped_callback"));
        }
        let text = rendered(&other);
        assert!(text.contains("No known bug has this stack"), "{text}");
        assert!(text.contains("1.19.0") || text.contains("app"), "{text}");
    }
}
