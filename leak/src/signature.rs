//! Known bugs, and how to recognise them by the growth they cause.
//!
//! The list is data: `leak/signatures.toml`, compiled in. Without a tracer the evidence is the slope per unit of work,
//! the class of memory that grew, the UCX version, and that no cure is in force: enough to name a suspect, and the
//! text says "looks like". A tracer adds patterns of stacks to the same list.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::estimate::Slope;
use crate::evidence::Evidence;
use crate::gauge::{Axes, Gauge};
use crate::layout::Class;
use crate::result::SignatureRef;
use crate::verdict::VerdictKind;
use crate::version::{UcxVersion, VersionRange};
use crate::work::Unit;

const BUILTIN: &str = include_str!("../signatures.toml");

/// A known bug.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// Short name, for example `vllm#24264`.
    pub id: String,
    /// What it is, a line.
    pub title: String,
    /// Where it is discussed.
    pub url: String,
    /// Where it is fixed, a sentence.
    pub fix: String,
    /// The UCX versions that have it. Absent: it is no bug of UCX.
    pub ucx: Option<VersionRange>,
    /// The unit of work that it grows with.
    pub unit: Unit,
    /// What grows. Absent: memory that is held.
    #[serde(default)]
    pub gauge: Gauge,
    /// Lowest slope that it causes, in what the gauge counts per unit.
    pub slope_min: f64,
    /// Highest slope that it causes.
    pub slope_max: f64,
    /// Where its memory lies. Absent where no memory grows.
    pub class: Option<Class>,
    /// Name of the owner in the ledger.
    pub owner: String,
    /// Settings that stop it.
    #[serde(rename = "cure", default)]
    pub cures: Vec<Cure>,
}

/// A setting that stops a bug.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cure {
    /// Environment variables, all of which must be set.
    pub set: BTreeMap<String, String>,
    /// What it costs or risks, a sentence.
    pub cost: String,
}

/// What was found, as far as signatures look at it.
#[derive(Debug, Clone, Copy)]
pub struct Finding<'a> {
    /// The verdict. Only leaks are recognised.
    pub verdict: VerdictKind,
    /// The slope with its interval.
    pub slope: Slope,
    /// What the slope is of.
    pub axes: Axes,
    /// The class of memory that grew most; see [`crate::ledger::Ledger::top_class`].
    pub top_class: Option<Class>,
    /// The version that the UCX library reports; `None` where no UCX ran.
    pub ucx: Option<UcxVersion>,
    /// Environment of the process.
    pub env: &'a BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    signature: Vec<Signature>,
    evidence: Vec<Evidence>,
}

fn file() -> File {
    toml::from_str(BUILTIN).expect("the compiled-in signatures parse, a test says so")
}

/// The bugs compiled in.
pub fn known() -> Vec<Signature> {
    file().signature
}

/// The counters compiled in whose things take memory; see [`crate::evidence`].
pub fn known_evidence() -> Vec<Evidence> {
    file().evidence
}

/// The first of `signatures` that `finding` looks like.
pub fn recognise<'a>(signatures: &'a [Signature], finding: &Finding<'_>) -> Option<&'a Signature> {
    signatures.iter().find(|signature| signature.matches(finding))
}

impl Signature {
    /// Whether everything that this bug states holds of `finding`. The slope's interval must overlap the bug's range:
    /// one run's estimate may lie beside it.
    pub fn matches(&self, finding: &Finding<'_>) -> bool {
        let slope = finding.slope.low <= self.slope_max && finding.slope.high >= self.slope_min;
        let cured = self.cures.iter().any(|cure| cure.in_force(finding.env));
        finding.verdict == VerdictKind::Leak
            && finding.axes == Axes { gauge: self.gauge, unit: self.unit }
            && self.ucx.is_none_or(|range| finding.ucx.is_some_and(|is| range.contains(is)))
            && (self.class.is_none() || finding.top_class == self.class)
            && slope
            && !cured
    }

    /// The reference for result files.
    pub fn reference(&self) -> SignatureRef {
        SignatureRef { id: self.id.clone(), url: self.url.clone() }
    }
}

impl Cure {
    /// Whether `env` sets all of it.
    pub fn in_force(&self, env: &BTreeMap<String, String>) -> bool {
        self.set.iter().all(|(name, value)| env.get(name) == Some(value))
    }

    /// `NAME=VALUE`, several separated by a space.
    pub fn setting(&self) -> String {
        let pairs: Vec<String> =
            self.set.iter().map(|(name, value)| format!("{name}={value}")).collect();
        pairs.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slope(value: f64) -> Slope {
        Slope { value, low: value - 0.1, high: value + 0.1 }
    }

    fn finding(env: &BTreeMap<String, String>) -> Finding<'_> {
        Finding {
            verdict: VerdictKind::Leak,
            slope: slope(144.0),
            axes: Axes { gauge: Gauge::Held, unit: Unit::Unmap },
            top_class: Some(Class::Anonymous),
            ucx: Some(UcxVersion::new(1, 19, 0)),
            env,
        }
    }

    fn id(finding: &Finding<'_>) -> Option<String> {
        recognise(&known(), finding).map(|signature| signature.id.clone())
    }

    #[test]
    fn the_list_is_sound() {
        let known = known();
        assert!(known.len() >= 2);
        for signature in &known {
            assert!(signature.slope_min <= signature.slope_max, "{}", signature.id);
            assert!(signature.url.starts_with("https://"), "{}", signature.id);
            // What UCX does, a setting of UCX may stop; what an application does, only its own repair.
            assert_eq!(signature.ucx.is_some(), !signature.cures.is_empty(), "{}", signature.id);
            assert_eq!(
                signature.gauge == Gauge::Held,
                signature.class.is_some(),
                "{}",
                signature.id
            );
        }
        let ids: std::collections::BTreeSet<&str> =
            known.iter().map(|signature| signature.id.as_str()).collect();
        assert_eq!(ids.len(), known.len());
    }

    #[test]
    fn each_bug_is_recognised_by_its_own_version() {
        let env = BTreeMap::new();
        assert_eq!(id(&finding(&env)).as_deref(), Some("vllm#24264"));
        let newer =
            Finding { ucx: Some(UcxVersion::new(1, 22, 0)), slope: slope(150.0), ..finding(&env) };
        assert_eq!(id(&newer).as_deref(), Some("ucx#11248"));
    }

    #[test]
    fn what_is_counted_is_recognised_by_its_gauge() {
        let env = BTreeMap::new();
        let axes = Axes { gauge: Gauge::Fds, unit: Unit::Reconnect };
        let sockets =
            Finding { axes, slope: slope(2.0), top_class: None, ucx: None, ..finding(&env) };
        assert_eq!(id(&sockets).as_deref(), Some("nixl#2025"));
        let leases = Finding { axes: Axes { gauge: Gauge::Leases, ..axes }, ..sockets };
        assert_eq!(id(&leases), None);
    }

    #[test]
    fn whatever_does_not_fit_is_not_recognised() {
        let none = BTreeMap::new();
        let fits = finding(&none);
        let strangers = [
            Finding { verdict: VerdictKind::Clean, ..fits },
            Finding { verdict: VerdictKind::Inconclusive, ..fits },
            Finding { slope: slope(288.0), ..fits },
            Finding { slope: slope(20.0), ..fits },
            Finding { axes: Axes { unit: Unit::Request, ..fits.axes }, ..fits },
            Finding { axes: Axes { gauge: Gauge::Rss, ..fits.axes }, ..fits },
            Finding { top_class: Some(Class::Heap), ..fits },
            Finding { top_class: None, ..fits },
            Finding { ucx: Some(UcxVersion::new(1, 16, 0)), ..fits },
            Finding { ucx: None, ..fits },
        ];
        for stranger in strangers {
            assert_eq!(id(&stranger), None, "{stranger:?}");
        }
        let cured = BTreeMap::from([("UCX_MEM_MMAP_HOOK_MODE".to_string(), "none".to_string())]);
        assert_eq!(id(&finding(&cured)), None, "with its cure in force it must be something else");
        let harmless =
            BTreeMap::from([("UCX_MEM_MMAP_HOOK_MODE".to_string(), "reloc".to_string())]);
        assert!(
            id(&finding(&harmless)).is_some(),
            "another value of the same variable cures nothing"
        );
    }
}
