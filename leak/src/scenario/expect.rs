//! What must come out, by what was really run.
//!
//! One file serves every UCX version, transport and setting, because the expectation depends on them: the same run is
//! a leak on UCX 1.19 and clean on 1.16. So expectations are a list with conditions; the first that holds applies.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Pattern, Scenario, Transport};
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
    /// Lowest slope that is due, bytes per unit.
    pub slope_min: f64,
    /// Highest slope that is due, bytes per unit.
    pub slope_max: f64,
    /// The roles that make no churn may grow by at most this share of what the judged one grows by (0.01 is 1 %).
    /// Absent: not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiet_growth_ratio_max: Option<f64>,
    /// What the reader should know about this outcome, a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// `[[mitigation]]`: a setting that cures the leak. With it the verdict must be clean.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mitigation {
    /// Name in tables, for example `no-hooks`.
    pub name: String,
    /// The environment variables that make it.
    pub set: BTreeMap<String, String>,
    /// The UCX versions that it is known to cure. Absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ucx: Option<VersionRange>,
    /// Units of work to prove it. Absent: as many as the scenario measures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub units: Option<u64>,
    /// Lowest slope that counts as cured, bytes per unit.
    pub slope_min: f64,
    /// Highest slope that counts as cured, bytes per unit.
    pub slope_max: f64,
    /// What the cure costs or risks, a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<String>,
}

impl Mitigation {
    /// `NAME=VALUE`, several separated by a space: as the user would write it.
    pub fn setting(&self) -> String {
        let pairs: Vec<String> =
            self.set.iter().map(|(name, value)| format!("{name}={value}")).collect();
        pairs.join(" ")
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
}

/// The outcome that is due.
#[derive(Debug, Clone, PartialEq)]
pub struct Expectation {
    /// The verdict that is due.
    pub verdict: VerdictKind,
    /// Lowest slope, bytes per unit.
    pub slope_min: f64,
    /// Highest slope, bytes per unit.
    pub slope_max: f64,
    /// Bound on the growth of quiet roles as a share of the judged one's.
    pub quiet_growth_ratio_max: Option<f64>,
    /// What the reader should know, a sentence.
    pub note: Option<String>,
    /// The mitigation in force, by name, if the expectation is a mitigation's.
    pub mitigation: Option<String>,
}

impl Expectation {
    /// Whether a run came out as it must. `quiet_growth_ratio` is the largest growth of a role without churn divided
    /// by the judged role's; `None` if nothing else was measured.
    pub fn matches(
        &self,
        verdict: VerdictKind,
        slope_bytes_per_unit: f64,
        quiet_growth_ratio: Option<f64>,
    ) -> bool {
        let quiet = match (self.quiet_growth_ratio_max, quiet_growth_ratio) {
            (Some(max), Some(ratio)) => ratio <= max,
            _ => true,
        };
        verdict == self.verdict
            && (self.slope_min..=self.slope_max).contains(&slope_bytes_per_unit)
            && quiet
    }

    fn of_mitigation(mitigation: &Mitigation) -> Expectation {
        Expectation {
            verdict: VerdictKind::Clean,
            slope_min: mitigation.slope_min,
            slope_max: mitigation.slope_max,
            quiet_growth_ratio_max: None,
            note: mitigation.cost.clone(),
            mitigation: Some(mitigation.name.clone()),
        }
    }
}

impl Scenario {
    /// What must come out under `conditions`, or `None` if the file foresees nothing for them.
    ///
    /// A mitigation in force (its variables all set, its UCX in use) comes before the `[[expect]]` entries.
    pub fn expectation(&self, conditions: &Conditions<'_>) -> Option<Expectation> {
        let cured = self.mitigations.iter().find(|mitigation| {
            let known = match (mitigation.ucx, conditions.ucx) {
                (_, None) => false,
                (None, Some(_)) => true,
                (Some(range), Some(version)) => range.contains(version),
            };
            known
                && mitigation
                    .set
                    .iter()
                    .all(|(name, value)| conditions.env.get(name) == Some(value))
        });
        if let Some(mitigation) = cured {
            return Some(Expectation::of_mitigation(mitigation));
        }
        self.expects.iter().find(|expect| expect.applies(conditions)).map(|expect| Expectation {
            verdict: expect.verdict,
            slope_min: expect.slope_min,
            slope_max: expect.slope_max,
            quiet_growth_ratio_max: expect.quiet_growth_ratio_max,
            note: expect.note.clone(),
            mitigation: None,
        })
    }

    /// The mitigations worth proving in a run with `expectation`: none where nothing leaks, and none twice.
    pub fn mitigations_to_prove(&self, expectation: &Expectation) -> &[Mitigation] {
        let leaks = expectation.verdict == VerdictKind::Leak;
        if leaks && self.measure.prove_mitigations { &self.mitigations } else { &[] }
    }

    /// This scenario with a mitigation in force: its variables set, its work, no further mitigations to prove.
    pub fn with_mitigation(&self, mitigation: &Mitigation) -> Scenario {
        let mut cured = self.clone();
        cured.env.extend(mitigation.set.clone());
        if let Some(units) = mitigation.units {
            cured.measure.max_units = Some(cured.measure.give_up_units().max(units));
            cured.measure.units = units;
        }
        cured.measure.prove_mitigations = false;
        cured
    }
}

impl Expect {
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
