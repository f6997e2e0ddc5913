//! `result.json` of a run. The names of the fields are relied on from outside: add fields, never rename them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::gauge::Gauge;
use crate::ledger::{Balance, Owner};
use crate::scenario::{Role, Transport};
use crate::signature::Proof;
use crate::stacks::Stacks;
use crate::trace::tier::Tier;
use crate::trace::{Confidence, Counts};
use crate::verdict::VerdictKind;
use crate::work::{Unit, Work};

/// What `pdlab repro` or `pdlab watch` found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReproResult {
    /// Name of the scenario; `watch` where a process was watched that pdlab did not start.
    pub scenario: String,
    /// What was found.
    pub verdict: VerdictKind,
    /// Why an inconclusive verdict could not be decided, and what would decide it. Null otherwise.
    pub doubt: Option<String>,
    /// What should have been found; null if the scenario foresees nothing for what was run.
    pub expected: Option<VerdictKind>,
    /// Whether verdict, slope and quiet roles came out as expected, and the mitigations too. Of a watched process nothing
    /// is expected but that it does not leak.
    pub matched: bool,
    /// The version that the UCX library reports; null where no UCX ran.
    pub ucx_version: Option<String>,
    /// The transport in use; null for a watched process, which moves bytes as it likes.
    pub transport: Option<Transport>,
    /// Environment of the measured roles; of a watched process what UCX reads of it.
    pub settings: BTreeMap<String, String>,
    /// The role that was judged; null for a watched process.
    pub role: Option<Role>,
    /// The unit of work.
    pub unit: Unit,
    /// What was judged.
    pub gauge: Gauge,
    /// Slope in what the gauge counts; null if there was too little to estimate from.
    pub slope_per_unit: Option<f64>,
    /// The same where the gauge counts bytes; null where it does not.
    pub slope_bytes_per_unit: Option<f64>,
    /// Lower end of the slope's 95 % interval, in what the gauge counts.
    pub ci_low: Option<f64>,
    /// Upper end of the slope's 95 % interval.
    pub ci_high: Option<f64>,
    /// Growth at the rate of work seen, in 10^6 bytes per minute; null where the gauge counts no bytes.
    pub slope_mb_per_min: Option<f64>,
    /// Hours until `memory_limit_bytes` at that rate; null if memory does not grow, or is not what was judged.
    pub hours_to_limit: Option<f64>,
    /// The limit meant.
    pub memory_limit_bytes: u64,
    /// RSS at the end of the measurement minus RSS at its start, warm-up included.
    pub rss_growth_bytes: i64,
    /// Share of the growth that is laid at a known owner's door; null if nothing grew. See [`crate::ledger`].
    pub explained_ratio: Option<f64>,
    /// Who holds the growth, the largest first.
    pub owners: Vec<Owner>,
    /// Growth of resident memory by owner; where the gauge counts bytes, `owners` are its rows. Null in files of earlier
    /// versions.
    #[serde(default)]
    pub ledger: Option<Balance>,
    /// How allocations were traced; null in files of earlier versions.
    #[serde(default)]
    pub trace: Option<TraceNote>,
    /// The known bug that it looks like.
    pub signature: Option<SignatureRef>,
    /// Largest growth among the roles that make no churn, divided by the judged role's; null if none was measured.
    pub quiet_growth_ratio: Option<f64>,
    /// CPU time of the judged process per unit, in the first quarter of the measured work, in microseconds; null if
    /// too little was measured.
    pub cost_first_us: Option<f64>,
    /// The same in the last quarter.
    pub cost_last_us: Option<f64>,
    /// The last over the first.
    pub cost_growth: Option<f64>,
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

/// How allocations were traced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TraceNote {
    /// The way: `perf`, `strace`; `proc` where no stacks were taken.
    pub tier: Tier,
    /// Why no stacks were taken, a sentence; null where they were.
    pub why_not: Option<String>,
    /// System calls on the address space that were seen.
    pub samples: u64,
    /// Records that the kernel dropped.
    pub lost: u64,
    /// How far the bytes can be trusted.
    pub confidence: Confidence,
    /// Stacks that gained or gave back something.
    pub stacks: usize,
    /// Bytes that are in no stack, because there were too many.
    pub untracked_bytes: u64,
    /// What else the reader must know.
    pub remarks: Vec<String>,
}

impl TraceNote {
    /// That no stacks were taken, and why.
    pub fn off(why_not: String) -> TraceNote {
        TraceNote { why_not: Some(why_not), ..TraceNote::of(&Stacks::default()) }
    }

    /// What was seen.
    pub fn of(stacks: &Stacks) -> TraceNote {
        let Counts { mmaps, munmaps, mremaps, brks, faults, lost } = stacks.counts;
        TraceNote {
            tier: stacks.tier,
            why_not: None,
            samples: mmaps + munmaps + mremaps + brks + faults,
            lost,
            confidence: stacks.confidence,
            stacks: stacks.stacks.len(),
            untracked_bytes: stacks.untracked_bytes,
            remarks: stacks.remarks.clone(),
        }
    }
}

impl ReproResult {
    /// The transport of a scenario's run. Whoever watches a process does not know it, which is [`Transport::Auto`]:
    /// whatever there is.
    pub fn transport_or_any(&self) -> Transport {
        self.transport.unwrap_or(Transport::Auto)
    }
}

/// A known bug, by reference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignatureRef {
    /// Short name, for example `vllm#24264`.
    pub id: String,
    /// Where it is discussed.
    pub url: String,
    /// What it was recognised by; null in files of earlier versions.
    #[serde(default)]
    pub proof: Option<Proof>,
}

/// How a cure came out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MitigationResult {
    /// What it changes, `NAME=VALUE` or in words.
    pub setting: String,
    /// What was found with it.
    pub verdict: VerdictKind,
    /// Whether verdict and slope came out as the scenario says.
    pub matched: bool,
    /// Slope in what the gauge counts; null if there was too little to estimate from.
    pub slope_per_unit: Option<f64>,
    /// The same where the gauge counts bytes; null where it does not.
    pub slope_bytes_per_unit: Option<f64>,
    /// Lower end of the slope's 95 % interval, in what the gauge counts.
    pub ci_low: Option<f64>,
    /// Upper end of the slope's 95 % interval.
    pub ci_high: Option<f64>,
    /// CPU per unit of work, divided by the CPU per unit without the cure; null if either was not measured.
    pub cost_ratio: Option<f64>,
    /// What the cure costs or risks in words, from the scenario.
    pub cost_note: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Basis;

    fn result() -> ReproResult {
        ReproResult {
            scenario: "ucx-rcache-invq".into(),
            verdict: VerdictKind::Leak,
            doubt: None,
            expected: Some(VerdictKind::Leak),
            matched: true,
            ucx_version: Some("1.19.0".into()),
            transport: Some(Transport::Ucx),
            settings: BTreeMap::from([("UCX_TLS".into(), "tcp".into())]),
            role: Some(Role::Decode),
            unit: Unit::Unmap,
            gauge: Gauge::Held,
            slope_per_unit: Some(144.0),
            slope_bytes_per_unit: Some(144.0),
            ci_low: Some(143.9),
            ci_high: Some(144.1),
            slope_mb_per_min: Some(350.0),
            hours_to_limit: Some(3.2),
            memory_limit_bytes: 64 << 30,
            rss_growth_bytes: 36_000_000,
            explained_ratio: Some(0.98),
            owners: vec![Owner {
                name: "heap".into(),
                bytes: -4096,
                count: None,
                share: 0.0,
                stack: None,
                basis: Basis::Address,
            }],
            ledger: None,
            trace: Some(TraceNote::off("it was not asked for".into())),
            signature: Some(SignatureRef {
                id: "vllm#24264".into(),
                url: "https://github.com/vllm-project/vllm/issues/24264".into(),
                proof: Some(Proof::Stack),
            }),
            quiet_growth_ratio: Some(0.001),
            cost_first_us: Some(20.0),
            cost_last_us: Some(21.0),
            cost_growth: Some(1.05),
            work: Work { unmaps: 250_000, ..Work::default() },
            warmup_units: Some(0.0),
            samples: 120,
            duration_s: 6.0,
            seed: 1,
            mitigations: vec![MitigationResult {
                setting: "UCX_MEM_MMAP_HOOK_MODE=none".into(),
                verdict: VerdictKind::Clean,
                matched: true,
                slope_per_unit: Some(0.1),
                slope_bytes_per_unit: Some(0.1),
                ci_low: Some(-1.0),
                ci_high: Some(1.0),
                cost_ratio: None,
                cost_note: None,
            }],
        }
    }

    #[test]
    fn the_names_that_scripts_rely_on_are_there() {
        let json = serde_json::to_value(result()).unwrap();
        let fixed = [
            "scenario",
            "verdict",
            "expected",
            "matched",
            "ucx_version",
            "transport",
            "settings",
            "role",
            "unit",
            "gauge",
            "slope_per_unit",
            "slope_bytes_per_unit",
            "ci_low",
            "ci_high",
            "slope_mb_per_min",
            "rss_growth_bytes",
            "explained_ratio",
            "owners",
            "signature",
            "work",
            "duration_s",
            "mitigations",
        ];
        for name in fixed {
            assert!(json.get(name).is_some(), "{name}");
        }
        for name in
            ["unmaps", "requests", "transfers", "kv_bytes", "blocks_verified", "corrupt_blocks"]
        {
            assert!(json["work"].get(name).is_some(), "work.{name}");
        }
        for name in ["name", "bytes", "share", "stack"] {
            assert!(json["owners"][0].get(name).is_some(), "owners.{name}");
        }
        for name in ["setting", "slope_bytes_per_unit", "cost_ratio"] {
            assert!(json["mitigations"][0].get(name).is_some(), "mitigations.{name}");
        }
        assert_eq!(json["verdict"], "leak");
        assert_eq!(json["unit"], "unmap");
        assert_eq!(json["transport"], "ucx");
        assert_eq!(json["signature"]["id"], "vllm#24264");
    }

    #[test]
    fn a_result_is_read_as_it_was_written() {
        // A float that a reader without exact rounding gets wrong in its last bit.
        let written = ReproResult { duration_s: 1.533_140_127_999_999_9, ..result() };
        let text = serde_json::to_string(&written).unwrap();
        assert_eq!(serde_json::from_str::<ReproResult>(&text).unwrap(), written);
    }
}
