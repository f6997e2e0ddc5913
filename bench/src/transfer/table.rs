//! The result as text. Pure.

use std::fmt::Write;

use super::plan::{Limit, Op, Register};
use super::result::{CeilingPoint, Point, TransferReport};
use super::stats::Spread;
use super::words::{micros, size};
use crate::repro::words::{counted, grouped};

/// The screen of a run that is over.
pub fn table(report: &TransferReport, files: &str) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut text, report, files);
    text
}

fn write(out: &mut String, report: &TransferReport, files: &str) -> std::fmt::Result {
    let plan = &report.plan;
    let flows = plan.flows().len();
    writeln!(
        out,
        "{}, {}, {}; {} after {} ms of warm-up; {}",
        plan.pattern.name(),
        counted(plan.peers as u64, "peer"),
        counted(flows as u64, "flow"),
        match plan.limit {
            Limit::Millis(ms) => format!("{} s", ms as f64 / 1e3),
            Limit::Bytes(bytes) => format!("{} per flow", size(bytes)),
        },
        plan.warmup_ms,
        counted(plan.rounds as u64, "alternating round"),
    )?;
    for agent in &report.agents {
        let library =
            agent.library.as_deref().map_or(String::new(), |version| format!(" {version}"));
        writeln!(
            out,
            "agent {} over {}{library} on {} ({}): {}",
            agent.index, agent.transport, agent.host, agent.data_host, agent.why
        )?;
    }
    writeln!(out)?;
    let width = report.points.iter().map(|point| point.cell.label().len()).max().unwrap_or(0);
    writeln!(
        out,
        "{:<width$} {:>6} {:>13}  {:>7} {:>8} {:>8} {:>8} {:>9}  {:>11}",
        "", "GB/s", "(range)", "flow", "p50 µs", "p99 µs", "p99.9", "transfers", "CPU s/GB"
    )?;
    for point in &report.points {
        row(out, point, width)?;
    }
    writeln!(out)?;
    writeln!(
        out,
        "GB/s of all flows, median over rounds; flow: the slowest flow's. CPU: sources + targets."
    )?;
    if plan.cells.iter().any(|cell| cell.op == Op::Write) {
        writeln!(
            out,
            "A write is asked for by the source, read by the target and acknowledged to the source."
        )?;
    }
    if plan.cells.iter().any(|cell| cell.register == Register::Each) {
        writeln!(out, "Registered each: times include registering the memory and taking it back.")?;
    }
    if plan.verify {
        let verified: u64 = report.points.iter().map(|point| point.verified_blocks).sum();
        writeln!(
            out,
            "{} verified, {} corrupt. Checking takes its share of the bandwidth.",
            counted(verified, "block"),
            grouped(report.corrupt_blocks())
        )?;
        for corrupt in report.points.iter().filter_map(|point| point.first_corrupt.as_ref()) {
            writeln!(out, "CORRUPT {corrupt}")?;
        }
    }
    for missing in &report.missing {
        writeln!(out, "not compared: {missing}")?;
    }
    if let Some(failure) = &report.failure {
        writeln!(out, "ENDED EARLY: {failure}")?;
    }
    if report.interrupted {
        writeln!(out, "Interrupted: what had been measured until then.")?;
    }
    writeln!(out, "files    {files}/result.json")?;
    writeln!(out, "page     pdlab report {files}")
}

fn row(out: &mut String, point: &Point, width: usize) -> std::fmt::Result {
    let rate = &point.bytes_per_s;
    let slowest =
        point.flows.iter().map(|flow| flow.bytes_per_s.median).fold(f64::INFINITY, f64::min);
    let latency = &point.latency;
    let cpu = |spread: Option<Spread>| {
        spread.map_or("–".to_owned(), |spread| format!("{:.2}", spread.median))
    };
    let cpu = match (point.cpu_s_per_gb.sources, point.cpu_s_per_gb.targets) {
        (None, None) => cpu(point.cpu_s_per_gb.all),
        (sources, targets) => format!("{} + {}", cpu(sources), cpu(targets)),
    };
    writeln!(
        out,
        "{:<width$} {:>6} {:>13}  {:>7} {:>8} {:>8} {:>8} {:>9}  {:>11}",
        point.cell.label(),
        gb(rate.median),
        format!("{}–{}", gb(rate.low), gb(rate.high)),
        gb(slowest),
        micros(latency.p50_us),
        micros(latency.p99_us),
        micros(latency.p999_us),
        grouped(latency.samples),
        cpu,
    )?;
    for ceiling in &point.ceilings {
        let text = against(ceiling);
        if !text.is_empty() {
            writeln!(out, "    {text}")?;
        }
    }
    Ok(())
}

/// `0.97 (0.95–1.02) of ucx_perftest's 4.81 GB/s`.
pub fn against(ceiling: &CeilingPoint) -> String {
    let name = &ceiling.name;
    let range = |ratio: Spread| format!("{:.2} ({:.2}–{:.2})", ratio.median, ratio.low, ratio.high);
    let bandwidth = ceiling
        .bandwidth_ratio
        .zip(ceiling.bytes_per_s)
        .map(|(ratio, rate)| format!("{} of {name}'s {} GB/s", range(ratio), gb(rate.median)));
    let latency = ceiling
        .latency_ratio
        .zip(ceiling.latency_us)
        .map(|(ratio, us)| format!("{} times {name}'s {} µs", range(ratio), micros(us.median)));
    [bandwidth, latency].into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// 10^9 bytes per second with three digits.
pub fn gb(bytes_per_s: f64) -> String {
    match bytes_per_s / 1e9 {
        rate if rate < 0.0995 => format!("{rate:.3}"),
        rate if rate < 9.995 => format!("{rate:.2}"),
        rate => format!("{rate:.1}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::result::tests::report;

    #[test]
    fn every_figure_has_its_unit_its_range_and_its_samples() {
        let text = table(&report(), "runs/x");
        for part in [
            "many-to-one, 1 peer, 1 flow; 1 MiB per flow after 0 ms of warm-up; 1 alternating round",
            "tcp read 64 KiB x 4 1 MiB",
            "4.00     2.00–4.00",
            "0.12 + 0.38",
            "2.00 (1.00–2.00) of ucx_perftest's 2.00 GB/s; 2.00 (2.00–2.00) times ucx_perftest's 10.0 µs",
            "9 blocks verified, 0 corrupt",
            "pdlab report runs/x",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        assert!(text.lines().all(|line| line.chars().count() <= 110), "{text}");
        assert!(!text.contains("ENDED EARLY") && !text.contains("CORRUPT"));
    }

    #[test]
    fn what_went_wrong_is_said() {
        let mut report = report();
        report.failure = Some("agent 1: it has gone".to_owned());
        report.points[0].first_corrupt = Some("block at offset 0".to_owned());
        report.missing.push("iperf3: it is not installed".to_owned());
        let text = table(&report, "x");
        for part in ["ENDED EARLY: agent 1", "CORRUPT block at", "not compared: iperf3"] {
            assert!(text.contains(part), "{text}");
        }
        assert_eq!([0.0123e9, 0.5e9, 12.3e9].map(gb), ["0.012", "0.50", "12.3"]);
    }
}
