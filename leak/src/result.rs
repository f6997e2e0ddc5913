//! `result.json` of a run. The names of the fields are relied on from outside: add fields, never rename them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ledger::Owner;
use crate::scenario::{Role, Transport};
use crate::verdict::VerdictKind;
use crate::work::{Unit, Work};

/// What `pdlab repro` found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReproResult {
    /// Name of the scenario.
    pub scenario: String,
    /// What was found.
    pub verdict: VerdictKind,
    /// Why an inconclusive verdict could not be decided, and what would decide it. Null otherwise.
    pub doubt: Option<String>,
    /// What should have been found; null if the scenario foresees nothing for what was run.
    pub expected: Option<VerdictKind>,
    /// Whether verdict, slope and quiet roles came out as expected, and the mitigations too.
    pub matched: bool,
    /// The version that the UCX library reports; null where no UCX ran.
    pub ucx_version: Option<String>,
    /// The transport in use.
    pub transport: Transport,
    /// Environment of the measured roles.
    pub settings: BTreeMap<String, String>,
    /// The role that was judged.
    pub role: Role,
    /// The unit of work.
    pub unit: Unit,
    /// Slope; null if there was too little to estimate from.
    pub slope_bytes_per_unit: Option<f64>,
    /// Lower end of its 95 % interval.
    pub ci_low: Option<f64>,
    /// Upper end of its 95 % interval.
    pub ci_high: Option<f64>,
    /// Growth at the rate of work seen, in 10^6 bytes per minute.
    pub slope_mb_per_min: Option<f64>,
    /// Hours until `memory_limit_bytes` at that rate; null if memory does not grow.
    pub hours_to_limit: Option<f64>,
    /// The limit meant.
    pub memory_limit_bytes: u64,
    /// RSS at the end of the measurement minus RSS at its start, warm-up included.
    pub rss_growth_bytes: i64,
    /// Share of the growth that is laid at a known owner's door; null if nothing grew. See [`crate::ledger`].
    pub explained_ratio: Option<f64>,
    /// Who holds the growth, the largest first.
    pub owners: Vec<Owner>,
    /// The known bug that it looks like.
    pub signature: Option<SignatureRef>,
    /// Largest growth among the roles that make no churn, divided by the judged role's; null if none was measured.
    pub quiet_growth_ratio: Option<f64>,
    /// Work done while measuring.
    pub work: Work,
    /// Units of work spent warming up, found by the estimator and left out of the slope.
    pub warmup_units: Option<f64>,
    /// Samples that the slope rests on.
    pub samples: usize,
    /// Seconds of measurement, start-up of the roles not counted.
    pub duration_s: f64,
    /// Seed of load, churn and bootstrap.
    pub seed: u64,
    /// The cures, each proven in a run of its own.
    pub mitigations: Vec<MitigationResult>,
}

/// A known bug, by reference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignatureRef {
    /// Short name, for example `vllm#24264`.
    pub id: String,
    /// Where it is discussed.
    pub url: String,
}

/// How a cure came out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MitigationResult {
    /// `NAME=VALUE`.
    pub setting: String,
    /// What was found with it.
    pub verdict: VerdictKind,
    /// Whether verdict and slope came out as the scenario says.
    pub matched: bool,
    /// Slope; null if there was too little to estimate from.
    pub slope_bytes_per_unit: Option<f64>,
    /// Lower end of its 95 % interval.
    pub ci_low: Option<f64>,
    /// Upper end of its 95 % interval.
    pub ci_high: Option<f64>,
    /// CPU per unit of work, divided by the CPU per unit without the cure; null if either was not measured.
    pub cost_ratio: Option<f64>,
    /// What the cure costs or risks in words, from the scenario.
    pub cost_note: Option<String>,
}
