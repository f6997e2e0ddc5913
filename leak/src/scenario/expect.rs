//! What must come out, by what was really run.
//!
//! One file serves every UCX version, transport and setting, because the expectation depends on them: the same run is
//! a leak on UCX 1.19 and clean on 1.16. So expectations are a list with conditions; the first that holds applies.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Pattern, Scenario, Transport, WarmUp};
use crate::verdict::VerdictKind;
use crate::version::{UcxVersion, VersionRange};

/// `[[expect]]`: an outcome and the conditions under which it is due. A condition that is absent always holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// Holds for these transports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub transport: Vec<Transport>,
    /// Holds for these UCX versions, as the library itself reports them. Never holds where no UCX runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ucx: Option<VersionRange>,
    /// Holds for these churn patterns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub churn: Vec<Pattern>,
    /// Holds if these environment variables have these values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// The verdict that is due.
    pub verdict: VerdictKind,
    /// Lowest slope that is due, in what the gauge counts per unit.
    pub slope_min: f64,
    /// Highest slope that is due.
    pub slope_max: f64,
    /// Name of the first owner of the growth. Absent: not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Owners with a name must hold at least this share of what was gained, if call stacks were traced. Absent: 0.95
    /// where the verdict that is due is a leak, else not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explained_ratio_min: Option<f64>,
    /// Id of the known bug that it must be recognised as. Absent: not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    /// The roles that make no churn may grow by at most this share of what the judged one grows by (0.01 is 1 %).
    /// Absent: not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiet_growth_ratio_max: Option<f64>,
    /// CPU time per unit in the last quarter of the run must be at least so many times that of the first. Absent: not
    /// asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_growth_min: Option<f64>,
    /// At least so many KV reads must have been refused or found corrupt. Absent: not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused_min: Option<u64>,
    /// Up to so many KV blocks may have been found corrupt; none of them may have been served. Default 0: any is a
    /// fault.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub corrupt_max: u64,
    /// Whether something is still held when the load has ended and everything should have been given back. Default
    /// false: that is a fault.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held_after_drain: bool,
    /// What the reader should know about this outcome, a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// `[[mitigation]]`: a change that cures the leak. With it the verdict must be clean.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mitigation {
    /// Name in tables, for example `no-hooks`.
    pub name: String,
    /// The environment variables that make it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<String, String>,
    /// Whether the roles stop making the scenario's mistakes. Default false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drop_faults: bool,
    /// The lease that prefill grants, in seconds. Absent: the scenario's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_lease_seconds: Option<f64>,
    /// The UCX versions that it is known to cure. Absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ucx: Option<VersionRange>,
    /// Units of work to prove it. Absent: as many as the scenario measures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub units: Option<u64>,
    /// What goes before the first sample of the proof. Absent: as in the scenario.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warm_up: Option<WarmUp>,
    /// Lowest slope that counts as cured, in what the gauge counts per unit.
    pub slope_min: f64,
    /// Highest slope that counts as cured.
    pub slope_max: f64,
    /// Whether something is still held when the load has ended: another lease strands blocks too, for its own time.
    /// Default false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held_after_drain: bool,
    /// What the cure costs or risks, a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<String>,
}

impl Mitigation {
    /// What it changes, as tables show it: `NAME=VALUE`, several separated by a space, as the user would write it.
    pub fn setting(&self) -> String {
        let mut parts: Vec<String> =
            self.set.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if let Some(seconds) = self.kv_lease_seconds {
            parts.push(format!("kv_lease_seconds={seconds}"));
        }
        if self.drop_faults {
            parts.push("without the mistake".to_string());
        }
        parts.join(" ")
    }

    /// Whether a run under `conditions` has it in force. What it cures is UCX's unless it changes something else.
    fn in_force(&self, conditions: &Conditions<'_>) -> bool {
        let known = match (self.ucx, conditions.ucx) {
            (Some(range), Some(version)) => range.contains(version),
            (Some(_), None) => false,
            (None, version) => version.is_some() || self.set.is_empty(),
        };
        let set = self.set.iter().all(|(name, value)| conditions.env.get(name) == Some(value));
        let lease = self.kv_lease_seconds.is_none_or(|s| s == conditions.kv_lease_seconds);
        // A scenario that makes no mistake is another scenario.
        known && set && lease && !self.drop_faults
    }
}

/// What was really run, as far as expectations depend on it.
#[derive(Debug, Clone, Copy)]
pub struct Conditions<'a> {
    /// The transport in use, `auto` resolved.
    pub transport: Transport,
    /// The version that the opened library reports; `None` where no UCX runs.
    pub ucx: Option<UcxVersion>,
    /// The churn, if any is made.
    pub churn: Option<Pattern>,
    /// The environment of the measured roles: the scenario's with all settings laid over it.
    pub env: &'a BTreeMap<String, String>,
    /// Seconds of prefill's lease.
    pub kv_lease_seconds: f64,
}

/// The outcome that is due.
#[derive(Debug, Clone, PartialEq)]
pub struct Expectation {
    /// What must come out.
    pub due: Expect,
    /// The mitigation in force, by name, if the expectation is a mitigation's.
    pub mitigation: Option<String>,
}

impl Expectation {
    fn of_mitigation(mitigation: &Mitigation) -> Expectation {
        Expectation { due: mitigation.expect(), mitigation: Some(mitigation.name.clone()) }
    }
}

impl Scenario {
    /// What must come out under `conditions`, or `None` if the file foresees nothing for them.
    ///
    /// A mitigation in force (its variables all set, its UCX in use) comes before the `[[expect]]` entries.
    pub fn expectation(&self, conditions: &Conditions<'_>) -> Option<Expectation> {
        let cure = self.mitigations.iter().find(|mitigation| mitigation.in_force(conditions));
        if let Some(mitigation) = cure {
            return Some(Expectation::of_mitigation(mitigation));
        }
        let due = self.expects.iter().find(|expect| expect.applies(conditions))?;
        Some(Expectation { due: due.clone(), mitigation: None })
    }

    /// The mitigations worth proving in a run with `expectation`: none where nothing leaks, and none twice.
    pub fn mitigations_to_prove(&self, expectation: &Expectation) -> &[Mitigation] {
        let leaks = expectation.due.verdict == VerdictKind::Leak;
        if leaks && self.measure.prove_mitigations { &self.mitigations } else { &[] }
    }

    /// This scenario with a mitigation in force: its changes made, its work, its outcome the only one that is due, no
    /// further mitigations.
    pub fn with_mitigation(&self, mitigation: &Mitigation) -> Scenario {
        let mut cured = self.clone();
        cured.env.extend(mitigation.set.clone());
        if mitigation.drop_faults {
            cured.faults.clear();
        }
        if let Some(seconds) = mitigation.kv_lease_seconds {
            cured.cluster.kv_lease_seconds = seconds;
        }
        if let Some(warm_up) = mitigation.warm_up {
            cured.measure.warm_up = warm_up;
        }
        if let Some(units) = mitigation.units {
            cured.measure.max_units = Some(cured.measure.give_up_units().max(units));
            cured.measure.units = units;
        }
        cured.expects = vec![mitigation.expect()];
        cured.mitigations.clear();
        cured
    }
}

impl Mitigation {
    /// What must come out with it.
    fn expect(&self) -> Expect {
        let clean = Expect::new(VerdictKind::Clean, self.slope_min, self.slope_max);
        let held_after_drain = self.held_after_drain;
        Expect { note: self.cost.clone(), held_after_drain, ..clean }
    }
}

impl Expect {
    /// This verdict and slope, whatever is run, and nothing else asked.
    pub fn new(verdict: VerdictKind, slope_min: f64, slope_max: f64) -> Expect {
        Expect {
            transport: Vec::new(),
            ucx: None,
            churn: Vec::new(),
            env: BTreeMap::new(),
            verdict,
            slope_min,
            slope_max,
            owner: None,
            explained_ratio_min: None,
            signature: None,
            quiet_growth_ratio_max: None,
            cost_growth_min: None,
            refused_min: None,
            corrupt_max: 0,
            held_after_drain: false,
            note: None,
        }
    }

    /// The least share of the growth that must have an owner where call stacks were traced, if any.
    pub fn explained_ratio_due(&self) -> Option<f64> {
        /// A twentieth may be noise: pages that come and go while the mappings are read, stacks of threads.
        const LEAK: f64 = 0.95;
        self.explained_ratio_min.or((self.verdict == VerdictKind::Leak).then_some(LEAK))
    }

    fn applies(&self, conditions: &Conditions<'_>) -> bool {
        let transport = self.transport.is_empty() || self.transport.contains(&conditions.transport);
        let ucx = self
            .ucx
            .is_none_or(|range| conditions.ucx.is_some_and(|version| range.contains(version)));
        let churn = self.churn.is_empty()
            || conditions.churn.is_some_and(|churn| self.churn.contains(&churn));
        let env = self.env.iter().all(|(name, value)| conditions.env.get(name) == Some(value));
        transport && ucx && churn && env
    }
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}
