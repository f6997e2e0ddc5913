//! `matrix.json`: what a matrix was to run, what it has run, and what that comes to.
//!
//! [`MatrixResult::runs`] are the facts, one per fresh set of processes, in the order in which they
//! were made. Everything else is computed from them and the [`Definition`]: a [`CellResult`] per
//! combination, which is a square of the heat map, the [`Drift`] of the machine, and the
//! [`Advice`]. The file is written after every run, so one that was interrupted is whole, with
//! cells whose outcome is still `null`.

use std::collections::BTreeMap;
use std::fmt;

use pdlab_leak::gauge::Gauge;
use pdlab_leak::scenario::{Pattern, Role, Transport};
use pdlab_leak::verdict::VerdictKind;
use pdlab_leak::work::Unit;
use serde::{Deserialize, Serialize};

use crate::repro::ignored::Ignored;

/// The content of `matrix.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MatrixResult {
    /// What was to be run.
    pub definition: Definition,
    /// Whether all of it has been run.
    pub complete: bool,
    /// Whether every cell came out as the scenario foresees, or it foresees nothing for it. False
    /// until all has been run.
    pub matched: bool,
    /// One per combination, in the order of the axes: transport, UCX, churn, and settings within
    /// them.
    pub cells: Vec<CellResult>,
    /// How the default moved from its first run to its last, per [`Group`] with more than one.
    pub drift: Vec<Drift>,
    /// What to set, per [`Group`].
    pub advice: Vec<Advice>,
    /// Settings that a UCX has ignored, so that their cells show what the default does.
    pub warnings: Vec<String>,
    /// Every run, in the order in which they were made.
    pub runs: Vec<Run>,
}

/// What a matrix is to run. Runs are taken over from an earlier file only if it has the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Definition {
    /// Name of the scenario.
    pub scenario: String,
    /// One line about it.
    pub title: String,
    /// The role whose memory is judged.
    pub role: Role,
    /// The unit of work that slopes and costs are given per.
    pub unit: Unit,
    /// What is judged, and so what slopes count.
    pub gauge: Gauge,
    /// The combinations.
    pub axes: Axes,
    /// Runs of a cell. The default has more when others are compared with it: one at the start,
    /// one in the middle, one at the end.
    pub repeat: u32,
    /// Seed of the order, the load, the churn and the bootstrap.
    pub seed: u64,
    /// The scenario that all cells start from, as TOML.
    pub scenario_toml: String,
}

/// What varies. No axis is empty, and no value comes twice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Axes {
    /// What moves the KV blocks.
    pub transport: Vec<Transport>,
    /// UCX builds as the user named them: versions, `system`, paths. Transports without UCX have
    /// cells without one.
    pub ucx: Vec<String>,
    /// Churn patterns; one null if the scenario makes no churn.
    pub churn: Vec<Option<Pattern>>,
    /// Settings. The first is [`Setting::default`]: what the others are compared with.
    pub set: Vec<Setting>,
}

/// Environment variables that are set together.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Setting {
    /// By name; none is the default: the scenario's own environment.
    pub set: BTreeMap<String, String>,
}

/// What settings are compared within.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Group {
    /// What moves the KV blocks.
    pub transport: Transport,
    /// The UCX build as the user named it; null where no UCX runs.
    pub ucx: Option<String>,
    /// The churn pattern; null if the scenario makes no churn.
    pub churn: Option<Pattern>,
}

/// How a run or a cell came out. `failed` is never clean: nothing was measured, or something that
/// must not be spoilt the measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Memory grows with work and does not stop.
    Leak,
    /// Memory does not grow, or by less than the margin.
    Clean,
    /// The data do not decide.
    Inconclusive,
    /// It did not run, or not as it must.
    Failed,
}

/// One combination: a square of the heat map. Numbers are the medians of its runs that did not
/// fail; null where there is none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CellResult {
    /// Its row.
    #[serde(flatten)]
    pub group: Group,
    /// What is set, `{}` for the default.
    pub set: Setting,
    /// `default`, or `NAME=VALUE` and so on: [`Setting`] as text.
    pub setting: String,
    /// How it came out; null until it has run. Runs that do not agree are `inconclusive`, unless
    /// one failed, which makes the cell `failed`.
    pub outcome: Option<Outcome>,
    /// Why it failed, or in which way its runs do not agree; else null.
    pub reason: Option<String>,
    /// What the scenario foresees; null if nothing.
    pub expected: Option<Outcome>,
    /// Whether it came out so; null if nothing is foreseen and it did not fail, or if it has not
    /// run.
    pub matched: Option<bool>,
    /// What the scenario says of this outcome, such as the risks of a cure; else null.
    pub note: Option<String>,
    /// Slope, in what the gauge counts per unit of work.
    pub slope_per_unit: Option<f64>,
    /// Lower end of its 95 % interval; with several runs the lowest.
    pub ci_low: Option<f64>,
    /// Upper end; with several runs the highest.
    pub ci_high: Option<f64>,
    /// CPU of the judged process per unit of work, microseconds.
    pub cpu_us_per_unit: Option<f64>,
    /// CPU per unit as a multiple of that of the default run of the same group that was nearest in
    /// time. Null for the default.
    pub cost_ratio: Option<f64>,
    /// Standard error of `cost_ratio`.
    pub cost_error: Option<f64>,
    /// Requests answered per second.
    pub requests_per_s: Option<f64>,
    /// The same as a multiple, paired like `cost_ratio`. Null for the default.
    pub requests_ratio: Option<f64>,
    /// 99th percentile of the time to the last token of a request, milliseconds.
    pub latency_p99_ms: Option<f64>,
    /// Its runs, by [`Run::order`].
    pub runs: Vec<u32>,
}

/// A fresh set of processes, measured once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Place in the plan, from 0.
    pub order: u32,
    /// Its row.
    #[serde(flatten)]
    pub group: Group,
    /// What was set.
    pub set: Setting,
    /// Seconds since 1970 at its start, so that runs of an interrupted matrix and of its
    /// continuation lie on one axis.
    pub started_unix_s: f64,
    /// Seconds from the first process started to the last one ended.
    pub total_s: f64,
    /// How it came out.
    pub outcome: Outcome,
    /// Why it failed; else null.
    pub reason: Option<String>,
    /// What the scenario foresees; null if nothing.
    pub expected: Option<Outcome>,
    /// In which ways it is not as foreseen; a failure that nothing foresees is one.
    pub mismatches: Vec<String>,
    /// What the scenario says of this outcome; else null.
    pub note: Option<String>,
    /// Settings that UCX has ignored.
    pub ignored: Vec<Ignored>,
    /// What the reader should know about it, ignored settings included.
    pub remarks: Vec<String>,
    /// What was measured; null if nothing was.
    pub measured: Option<Measured>,
    /// Where its samples, logs and scenario are, within the directory of the matrix.
    pub dir: String,
}

/// What a run measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The transport in use, `auto` resolved.
    pub transport: Transport,
    /// The version that the UCX library reports; null where no UCX ran.
    pub ucx_version: Option<String>,
    /// Slope, in what the gauge counts per unit of work; null if there was too little to estimate
    /// from.
    pub slope_per_unit: Option<f64>,
    /// Lower end of its 95 % interval.
    pub ci_low: Option<f64>,
    /// Upper end.
    pub ci_high: Option<f64>,
    /// Units of work measured.
    pub units: f64,
    /// Seconds of measurement.
    pub duration_s: f64,
    /// CPU of the judged process per unit of work, microseconds; null without work.
    pub cpu_us_per_unit: Option<f64>,
    /// Standard error of it; null if unknown.
    pub cpu_error_us: Option<f64>,
    /// Requests answered, warm-up included.
    pub requests_completed: u64,
    /// Requests that failed, warm-up included.
    pub requests_failed: u64,
    /// Requests answered per second of measurement.
    pub requests_per_s: f64,
    /// 99th percentile of the time to the last token of a request, milliseconds.
    pub latency_p99_ms: f64,
}

/// How the default of a group moved from its first run to its last: what the machine did meanwhile.
/// Ratios are the last over the first; null if one of them failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Drift {
    /// The group.
    #[serde(flatten)]
    pub group: Group,
    /// Runs of the default that did not fail.
    pub runs: u32,
    /// CPU per unit, last over first.
    pub cpu_ratio: Option<f64>,
    /// Requests per second, last over first.
    pub requests_ratio: Option<f64>,
    /// Largest difference between the slopes of any two of them, in what the gauge counts per unit.
    pub slope_range: Option<f64>,
}

/// The answer to "what do I set?".
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Advice {
    /// For whom.
    #[serde(flatten)]
    pub group: Group,
    /// Whether the default leaks; null if it failed or is not decided.
    pub leaks: Option<bool>,
    /// Settings that came out clean where the default leaks, the cheapest first.
    pub cures: Vec<String>,
    /// All of it in a sentence or two.
    pub text: String,
}

impl Setting {
    /// Whether nothing is set.
    pub fn is_default(&self) -> bool {
        self.set.is_empty()
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_default() {
            return f.write_str("default");
        }
        for (i, (name, value)) in self.set.iter().enumerate() {
            let blank = if i == 0 { "" } else { " " };
            write!(f, "{blank}{name}={value}")?;
        }
        Ok(())
    }
}

impl From<VerdictKind> for Outcome {
    fn from(verdict: VerdictKind) -> Self {
        match verdict {
            VerdictKind::Leak => Self::Leak,
            VerdictKind::Clean => Self::Clean,
            VerdictKind::Inconclusive => Self::Inconclusive,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Leak => "leak",
            Self::Clean => "clean",
            Self::Inconclusive => "inconclusive",
            Self::Failed => "failed",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_read_as_the_user_would_write_them() {
        let set = |pairs: &[(&str, &str)]| Setting {
            set: pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        };
        assert_eq!(Setting::default().to_string(), "default");
        assert_eq!(set(&[("B", "2"), ("A", "1")]).to_string(), "A=1 B=2");
    }

    #[test]
    fn a_run_is_one_flat_object() {
        let group = Group { transport: Transport::Ucx, ucx: Some("1.19.0".into()), churn: None };
        let run = Run {
            order: 0,
            group,
            set: Setting::default(),
            started_unix_s: 1.5,
            total_s: 2.0,
            outcome: Outcome::Failed,
            reason: Some("no libucp".into()),
            expected: None,
            mismatches: Vec::new(),
            note: None,
            ignored: Vec::new(),
            remarks: Vec::new(),
            measured: None,
            dir: "cells/0".into(),
        };
        let json = serde_json::to_value(&run).unwrap();
        assert_eq!((&json["ucx"], &json["outcome"]), (&"1.19.0".into(), &"failed".into()));
        assert!(json["set"].as_object().unwrap().is_empty() && json["churn"].is_null());
        assert_eq!(serde_json::from_value::<Run>(json).unwrap(), run);
    }
}
