//! Definitions and runs as tests want them.

use pdlab_leak::gauge::Gauge;
use pdlab_leak::scenario::{Pattern, Role, Scenario, Transport};
use pdlab_leak::work::Unit;

use super::axes;
use super::result::{Axes, Definition, Group, Measured, Outcome, Run, Setting};
use crate::repro::options::DEFAULT_SCENARIO;

/// The default scenario over these builds and settings, once.
pub(crate) fn definition(builds: &[&str], set: &[&str]) -> Definition {
    let scenario = Scenario::builtin(DEFAULT_SCENARIO).unwrap();
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let axes = Axes::new(&scenario, &[], &owned(builds), &[], &owned(set)).unwrap();
    Definition {
        scenario: scenario.name.clone(),
        title: scenario.title.clone(),
        role: Role::Decode,
        unit: Unit::Unmap,
        gauge: Gauge::Held,
        axes,
        repeat: 1,
        seed: 1,
        scenario_toml: scenario.to_toml(),
    }
}

/// The row of a UCX version.
pub(crate) fn ucx(version: &str) -> Group {
    Group { transport: Transport::Ucx, ucx: Some(version.to_owned()), churn: Some(Pattern::Same) }
}

/// A run of 8 s that began 10 s times its place after the first, as foreseen, with an error of
/// 0.7 % on its CPU time.
pub(crate) fn run(
    order: u32,
    group: Group,
    set: &str,
    outcome: Outcome,
    slope: f64,
    cpu_us: f64,
) -> Run {
    let failed = outcome == Outcome::Failed;
    let measured = Measured {
        transport: group.transport,
        ucx_version: group.ucx.clone(),
        slope_per_unit: Some(slope),
        ci_low: Some(slope - 0.5),
        ci_high: Some(slope + 0.5),
        units: 80_000.0,
        duration_s: 2.0,
        cpu_us_per_unit: Some(cpu_us),
        cpu_error_us: Some(0.007 * cpu_us),
        requests_completed: 500,
        requests_failed: 0,
        requests_per_s: 1000.0 / cpu_us,
        latency_p99_ms: 4.0 * cpu_us,
    };
    Run {
        order,
        group,
        set: setting(set),
        started_unix_s: 1_795_000_000.0 + 10.0 * f64::from(order),
        total_s: 8.0,
        outcome,
        reason: failed.then(|| "decode-0 ended before it was ready\nerror: no libucp".to_owned()),
        expected: Some(outcome),
        mismatches: Vec::new(),
        note: None,
        ignored: Vec::new(),
        remarks: Vec::new(),
        measured: (!failed).then_some(measured),
        dir: format!("cells/{order}"),
    }
}

/// `default` or what a `--set` of one alternative makes.
pub(crate) fn setting(text: &str) -> Setting {
    axes::settings(&[text.to_owned()]).unwrap().pop().unwrap()
}
