//! Scenarios: what to run, what to measure, and what must come out.
//!
//! A scenario is a TOML file. Parsing is strict: an unknown key, a missing one or a value out of range is an error
//! that names the file, the line and the keys that are known. [`Scenario::builtin`] finds the files that are compiled
//! in, [`Scenario::load`] reads a user's, [`Scenario::apply`] lays the command line over either, and
//! [`Scenario::to_toml`] writes the result beside the measurements, from where it can be run again.

mod check;
mod compare;
mod error;
mod expect;
mod overrides;
mod refusal;
mod settings;

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::gauge::{Axes, Gauge};
use crate::version::UcxVersion;
use crate::work::Unit;

pub use compare::Found;
pub use error::ScenarioError;
pub use expect::{Conditions, Expect, Expectation, Mitigation};
pub use overrides::{Overrides, parse_setting};
pub use refusal::Refusal;
pub use settings::{Churn, Cluster, Fault, Load, Measure, Pattern, Rate, Role, Transport, WarmUp};

/// Files of `leak/scenarios/` by their names.
macro_rules! builtin {
    ($($name:literal,)*) => {
        &[$(($name, include_str!(concat!("../../scenarios/", $name, ".toml"))),)*]
    };
}

/// The files compiled in, in the order in which they are listed; the default is the first.
const BUILTIN: &[(&str, &str)] = builtin![
    // UCX itself.
    "ucx-rcache-invq",
    "ucx-rcache-invtree",
    "ucx-registration-outlives-munmap",
    "ucx-rkey-kept",
    "ucx-endpoint-reconnect",
    "ucx-natural-madvise",
    "ucx-natural-mremap",
    "ucx-natural-threads",
    "ucx-natural-arena",
    // On RDMA devices.
    "rdma-rcache-invq",
    "rdma-memlock-exhaustion",
    "rdma-registrations-outlive-munmap",
    "rdma-reconnect-resources",
    // The transfer path of a connector.
    "region-kept",
    "transfer-kept",
    "notification-unread",
    "remote-kept",
    // Serving.
    "prefill-stranded-reject",
    "prefill-stranded-abort",
    "prefill-stranded-crash",
    "decode-stranded",
    "late-read",
    // Controls.
    "control-healthy-tcp",
    "control-healthy-ucx",
    "control-warm-up",
    "control-kv-first-touch",
    "control-glibc-arena",
    "control-page-cache",
    "control-pool-plateau",
    // Whether all of this would be found.
    "planted-1mb-per-min",
];

/// One experiment. The fields are the keys of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Name on the command line and in results: lower-case letters, digits and dashes.
    pub name: String,
    /// One line for lists.
    pub title: String,
    /// What the scenario models and why it leaks, a paragraph or two.
    pub description: String,
    /// Which real bug or behaviour it stands for, a sentence. Absent where the description says it all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub models: Option<String>,
    /// Where the real bug is discussed, a URL. Absent for controls, which model no bug.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bug: Option<String>,
    /// Whether it is a control: something that must come out clean wherever it runs. Default false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub control: bool,
    /// The unit of work that slopes are given per.
    pub unit: Unit,
    /// The role whose memory is judged.
    pub role: Role,
    /// What moves the KV blocks.
    pub transport: Transport,
    /// Which UCX: a version (`1.19.0`), `system`, or the path of a build. Unused unless `transport` is `ucx` or `auto`.
    pub ucx: String,
    /// Whether it shows anything on RDMA devices only. Default false. Where there is none, it cannot run.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rdma: bool,
    /// Seed of the load, the churn and the bootstrap. Default 1. The same seed gives the same requests.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// How many of each role, and how large.
    pub cluster: Cluster,
    /// Environment of the roles that open a transport (prefill and decode), laid over pdlab's own.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// The requests that flow meanwhile.
    pub load: Load,
    /// The unmap churn. Absent: none is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub churn: Option<Churn>,
    /// Mistakes that the roles make on purpose.
    #[serde(rename = "fault", default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<Fault>,
    /// How much work to measure, how finely, and what counts as clean.
    pub measure: Measure,
    /// What must come out. The first entry whose conditions hold is the expectation.
    #[serde(rename = "expect")]
    pub expects: Vec<Expect>,
    /// Settings that cure the leak, each with the slope it must reach.
    #[serde(rename = "mitigation", default, skip_serializing_if = "Vec::is_empty")]
    pub mitigations: Vec<Mitigation>,
    /// Settings with which it cannot run.
    #[serde(rename = "refused", default, skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<Refusal>,
}

impl Scenario {
    /// The scenario compiled in under `name`.
    pub fn builtin(name: &str) -> Result<Scenario, ScenarioError> {
        let (file, text) =
            BUILTIN.iter().find(|(builtin, _)| *builtin == name).ok_or_else(|| {
                ScenarioError::Unknown {
                    name: name.to_string(),
                    known: Scenario::builtin_names().join(", "),
                }
            })?;
        Scenario::parse(text, &format!("{file}.toml"))
    }

    /// The names of the scenarios compiled in, the default first.
    pub fn builtin_names() -> Vec<&'static str> {
        BUILTIN.iter().map(|(name, _)| *name).collect()
    }

    /// All scenarios compiled in, the default first.
    pub fn builtins() -> Result<Vec<Scenario>, ScenarioError> {
        BUILTIN.iter().map(|(name, _)| Scenario::builtin(name)).collect()
    }

    /// What the user named: a builtin, or else a file if it looks like one (it has a slash or ends in `.toml`).
    pub fn find(name_or_path: &str) -> Result<Scenario, ScenarioError> {
        if name_or_path.contains('/') || name_or_path.ends_with(".toml") {
            Scenario::load(Path::new(name_or_path))
        } else {
            Scenario::builtin(name_or_path)
        }
    }

    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Scenario, ScenarioError> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|source| ScenarioError::Read { file: file.clone(), source })?;
        Scenario::parse(&text, &file)
    }

    /// Parses and checks `text`; `file` is the name that errors give.
    pub fn parse(text: &str, file: &str) -> Result<Scenario, ScenarioError> {
        let scenario: Scenario =
            toml::from_str(text).map_err(|error| ScenarioError::from_toml(file, text, &error))?;
        scenario.check().map_err(|flaw| flaw.in_file(file, text))?;
        Ok(scenario)
    }

    /// The scenario as TOML, with every default and override spelt out. [`Scenario::parse`] reads it back unchanged.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self)
            .expect("strings, numbers and tables of them always have a TOML form")
    }

    /// What is judged over which work.
    pub fn axes(&self) -> Axes {
        Axes { gauge: self.measure.gauge, unit: self.unit }
    }

    /// What runs out if the gauge grows, in what it counts; `None` where nothing is known to. A process whose RSS is
    /// `rss_bytes` has so much of its memory limit left; of KV blocks it is the whole pool.
    pub fn capacity(&self, rss_bytes: u64) -> Option<Capacity> {
        match self.measure.gauge {
            gauge if gauge.is_bytes() => {
                Some(Capacity { taken: rss_bytes, of: self.measure.memory_limit_bytes })
            }
            // Block 0 is never given out.
            Gauge::KvBlocks => {
                Some(Capacity { taken: 0, of: u64::from(self.cluster.num_gpu_blocks) - 1 })
            }
            _ => None,
        }
    }

    /// Whether an outcome depends on UCX, so that a run without it shows less than it could.
    pub fn is_about_ucx(&self) -> bool {
        let on_ucx =
            |expect: &Expect| expect.ucx.is_some() || expect.transport.contains(&Transport::Ucx);
        self.expects.iter().any(on_ucx)
    }

    /// The version in `ucx`, or `None` for `system` and paths, whose version is known once the library is open.
    pub fn ucx_version(&self) -> Option<UcxVersion> {
        self.ucx.parse().ok()
    }
}

/// What runs out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// What is taken already.
    pub taken: u64,
    /// What there is.
    pub of: u64,
}

fn default_seed() -> u64 {
    1
}

#[cfg(test)]
mod tests;
