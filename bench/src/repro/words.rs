//! Numbers and short phrases for people. Pure.

use std::collections::BTreeMap;
use std::path::Path;

use pdlab_leak::explain::fixed;
use pdlab_leak::gauge::{Axes, Gauge};
use pdlab_leak::scenario::Transport;
use pdlab_leak::verdict::Judgement;

use super::pace::Pace;
use crate::cluster::ClusterPlan;

/// `1 prefill, 2 decodes and the router`.
pub fn processes(plan: &ClusterPlan) -> String {
    let prefills = counted(u64::from(plan.prefill_count), "prefill");
    let decodes = counted(u64::from(plan.decode_count), "decode");
    format!("{prefills}, {decodes} and the router")
}

/// `UCX 1.19.0`, `TCP`: what moves the blocks.
pub fn path(transport: Transport, ucx: Option<&str>) -> String {
    match (transport, ucx) {
        (Transport::Ucx, Some(version)) => format!("UCX {version}"),
        (Transport::Ucx, None) => "UCX".to_owned(),
        (Transport::Tcp, _) => "TCP".to_owned(),
        (Transport::Verbs, _) => "RDMA verbs".to_owned(),
        (Transport::Auto, _) => "the best transport found".to_owned(),
    }
}

/// Where a measurement stands.
pub fn live(
    cell: &str,
    pace: &Pace,
    axes: Axes,
    units: f64,
    elapsed_s: f64,
    judgement: &Judgement,
) -> String {
    let percent = 100.0 * pace.share(units);
    let rate = grouped((units / elapsed_s.max(1e-9)) as u64);
    let unit = axes.unit;
    let done = format!("{cell}: {percent:3.0} %, {} {unit}s at {rate}/s", grouped(units as u64));
    format!("{done}, {}", so_far(axes, judgement))
}

/// The slope and the verdict as they stand: `144.0 B per unmap (143.9 to 144.1), leak so far`.
pub fn so_far(axes: Axes, judgement: &Judgement) -> String {
    match &judgement.estimate {
        Some(estimate) => {
            let slope = &estimate.slope;
            let text = |value| fixed(value, axes.gauge);
            format!(
                "{} {axes} ({} to {}), {} so far",
                text(slope.value),
                text(slope.low),
                text(slope.high),
                judgement.verdict.kind()
            )
        }
        None => "too early for an estimate".to_owned(),
    }
}

/// That what was to be judged is not told.
pub fn untold(process: &str, gauge: Gauge) -> String {
    format!(
        "{process} does not tell {}: this transport, or this version of UCX, does not show it",
        gauge.subject()
    )
}

/// Why a load that gets no answers is given up.
pub fn stalled(
    waited_s: f64,
    completed: u64,
    failed: u64,
    errors: &BTreeMap<String, u64>,
    log_dir: &Path,
) -> String {
    let mut text = format!(
        "the cluster does not serve: {completed} requests answered and {failed} failed within \
         {waited_s:.1} s"
    );
    for (error, count) in errors.iter().take(3) {
        text += &format!("\n    {count}x {error}");
    }
    text + &format!("\nthe logs of the roles are in {}", log_dir.display())
}

/// `1 decode`, `2 decodes`.
pub fn counted(n: u64, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{} {noun}s", grouped(n)) }
}

/// `1,234,567`.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `36.2 MB`, in powers of 1000, as rates of growth are given; with a sign for a change.
pub fn change(bytes: f64) -> String {
    let sign = if bytes < 0.0 { "-" } else { "+" };
    format!("{sign}{}", amount(bytes.abs()))
}

/// `36.2 MB`, in powers of 1000.
pub fn amount(bytes: f64) -> String {
    let (value, unit) = match bytes {
        b if b >= 1e12 => (b / 1e12, "TB"),
        b if b >= 1e9 => (b / 1e9, "GB"),
        b if b >= 1e6 => (b / 1e6, "MB"),
        b if b >= 1e3 => (b / 1e3, "kB"),
        b => return format!("{b:.0} B"),
    };
    format!("{value:.1} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use pdlab_leak::estimate::{Point, Series};
    use pdlab_leak::verdict::{Criteria, judge};
    use pdlab_leak::work::Unit;

    const PACE: Pace = Pace { units: 200_000.0, give_up_units: 1e6, samples: 40, max_s: 30.0 };

    #[test]
    fn amounts_are_short() {
        assert_eq!(amount(999.4), "999 B");
        assert_eq!(change(36_150_000.0), "+36.1 MB");
        assert_eq!(change(-2e9), "-2.0 GB");
        assert_eq!([grouped(0), grouped(999), grouped(1_234_567)], ["0", "999", "1,234,567"]);
        assert_eq!(counted(1, "decode"), "1 decode");
    }

    #[test]
    fn the_live_line_says_how_far_and_how_fast() {
        let point = |i: u64| {
            let work = 1000.0 * i as f64;
            Point { work, level: 1e8 + 144.0 * work, t_s: i as f64 / 40.0 }
        };
        let series = Series::new((0..100).map(point));
        let criteria = Criteria::new(Gauge::Held, 4.0);
        let axes = Axes { gauge: Gauge::Held, unit: Unit::Unmap };
        assert_eq!(
            live("default", &PACE, axes, 99_000.0, 2.5, &judge(&series, &criteria, 1)),
            "default:  50 %, 99,000 unmaps at 39,600/s, 144.0 B per unmap (144.0 to 144.0), leak so far"
        );
        let few = judge(&Series::default(), &criteria, 1);
        assert!(live("x", &PACE, axes, 0.0, 0.0, &few).ends_with("too early for an estimate"));
    }

    #[test]
    fn a_stall_names_the_errors_and_the_logs() {
        let errors = BTreeMap::from([("HTTP 500: no".to_owned(), 8)]);
        assert_eq!(
            stalled(1.25, 0, 8, &errors, Path::new("runs/x/logs")),
            "the cluster does not serve: 0 requests answered and 8 failed within 1.2 s\n    \
             8x HTTP 500: no\nthe logs of the roles are in runs/x/logs"
        );
    }
}
