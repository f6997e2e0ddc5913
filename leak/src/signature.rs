//! Known bugs, and how to recognise them: by the stack that maps the memory, and by the growth they cause.
//!
//! The list is data: `leak/signatures.toml`, compiled in. A stack is evidence by itself: it names the code. Without one
//! the evidence is the slope per unit of work, the class of memory that grew, the UCX version, and that no cure is in
//! force: enough to name a suspect. Where a stack was seen and a bug knows its own, the two must agree, whatever the
//! slope.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use crate::estimate::Slope;
use crate::evidence::Evidence;
use crate::gauge::{Axes, Gauge};
use crate::layout::Class;
use crate::result::SignatureRef;
use crate::stacks::pattern::FramePattern;
use crate::stacks::{Namer, StackPattern};
use crate::trace::Frame;
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
    /// Where it, or the same mistake in other code, is discussed, too.
    #[serde(default)]
    pub related: Vec<String>,
    /// Where it is fixed, a sentence.
    pub fix: String,
    /// The UCX versions that have it. Absent: it is no bug of UCX.
    pub ucx: Option<VersionRange>,
    /// The unit of work that it grows with.
    pub unit: Unit,
    /// What grows. Absent: memory that is held.
    #[serde(default)]
    pub gauge: Gauge,
    /// Gauges that show the same in another way, with slopes in the same range and the same owner.
    #[serde(default)]
    pub also: Vec<Gauge>,
    /// Lowest slope that it causes, in what the gauge counts per unit.
    pub slope_min: f64,
    /// Highest slope that it causes.
    pub slope_max: f64,
    /// Where its memory lies. Absent where no memory grows.
    pub class: Option<Class>,
    /// Name of the owner in the ledger.
    pub owner: String,
    /// Stacks that map its memory, any of which is evidence. Empty where none is known.
    #[serde(rename = "stack", default)]
    pub stacks: Vec<StackPattern>,
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
    /// Name of the owner that gained most; `None` if nobody gained.
    pub owner: Option<&'a str>,
    /// The stack that mapped most of what the first owner gained, innermost first; `None` if it is not known by stack.
    pub stack: Option<&'a [Frame]>,
    /// The version that the UCX library reports; `None` where no UCX ran, or none that tells.
    pub ucx: Option<UcxVersion>,
    /// Environment of the process.
    pub env: &'a BTreeMap<String, String>,
}

/// What a bug was recognised by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Proof {
    /// The stack that maps the memory.
    Stack,
    /// The amount of growth per unit of work, and where the memory lies.
    Growth,
}

/// A list of known bugs that cannot be read.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SignatureError {
    /// It is no TOML, or has other keys than it should.
    #[error("{file}: {reason}")]
    File {
        /// The file.
        file: String,
        /// What is wrong, with the line.
        reason: String,
    },
    /// An entry contradicts itself.
    #[error("{file}: {entry}: {reason}")]
    Entry {
        /// The file.
        file: String,
        /// The entry, by its id or owner.
        entry: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Everything that is known about bugs and owners.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// Bugs.
    #[serde(rename = "signature")]
    pub signatures: Vec<Signature>,
    /// Counters whose things take memory; see [`crate::evidence`].
    pub evidence: Vec<Evidence>,
    /// Frames that only hand memory on; see [`Namer`].
    pub plumbing: Vec<FramePattern>,
}

impl Known {
    /// What is compiled in.
    pub fn builtin() -> &'static Known {
        static KNOWN: LazyLock<Known> = LazyLock::new(|| {
            Known::parse(BUILTIN, "signatures.toml")
                .expect("the compiled-in signatures parse, a test says so")
        });
        &KNOWN
    }

    /// Reads `text`, which errors call `file`.
    ///
    /// # Errors
    /// [`SignatureError`] names the line, or the entry and what is wrong with it.
    pub fn parse(text: &str, file: &str) -> Result<Known, SignatureError> {
        let known: Known = toml::from_str(text).map_err(|error| SignatureError::File {
            file: file.to_string(),
            reason: error.to_string(),
        })?;
        let wrong = |entry: &str, reason: &str| SignatureError::Entry {
            file: file.to_string(),
            entry: entry.to_string(),
            reason: reason.to_string(),
        };
        let mut ids = BTreeSet::new();
        for signature in &known.signatures {
            let id = format!("signature \"{}\"", signature.id);
            if let Some(flaw) = signature.flaw() {
                return Err(wrong(&id, flaw));
            }
            if !ids.insert(&signature.id) {
                return Err(wrong(&id, "there is another one with this id"));
            }
        }
        for evidence in &known.evidence {
            if evidence.bytes_each.is_nan() || evidence.bytes_each <= 0.0 {
                let entry = format!("evidence of \"{}\"", evidence.owner);
                return Err(wrong(&entry, "bytes_each must be more than 0"));
            }
        }
        Ok(known)
    }

    /// Names owners of stacks in a process that runs this UCX.
    pub fn namer(&self, ucx: Option<UcxVersion>) -> Namer<'_> {
        Namer { signatures: &self.signatures, plumbing: &self.plumbing, ucx }
    }
}

/// The bugs compiled in.
pub fn known() -> Vec<Signature> {
    Known::builtin().signatures.clone()
}

/// The counters compiled in whose things take memory; see [`crate::evidence`].
pub fn known_evidence() -> Vec<Evidence> {
    Known::builtin().evidence.clone()
}

/// The first of `signatures` that `finding` looks like, and by what. A stack goes before growth.
pub fn recognise<'a>(
    signatures: &'a [Signature],
    finding: &Finding<'_>,
) -> Option<(&'a Signature, Proof)> {
    let by = |proof: Proof| {
        signatures.iter().filter(move |signature| signature.proof(finding) == Some(proof))
    };
    let stack = closest(by(Proof::Stack), finding.stack.unwrap_or_default());
    let stack = stack.map(|signature| (signature, Proof::Stack));
    stack.or_else(|| by(Proof::Growth).next().map(|signature| (signature, Proof::Growth)))
}

/// Of `signatures` that have the stack `frames` (innermost first), the one whose pattern says most; the first of equals.
pub fn closest<'a>(
    signatures: impl Iterator<Item = &'a Signature>,
    frames: &[Frame],
) -> Option<&'a Signature> {
    let mut best: Option<(usize, &Signature)> = None;
    for signature in signatures {
        let matching = signature.stacks.iter().filter(|stack| stack.matches(frames));
        let Some(weight) = matching.map(StackPattern::frame_count).max() else { continue };
        if best.is_none_or(|(most, _)| weight > most) {
            best = Some((weight, signature));
        }
    }
    best.map(|(_, signature)| signature)
}

impl Signature {
    /// What shows that `finding` is this bug; `None` if nothing does. The slope's interval must overlap the bug's range:
    /// one run's estimate may lie beside it. Of what is counted and is no memory, the owner must be the bug's.
    pub fn proof(&self, finding: &Finding<'_>) -> Option<Proof> {
        let cured = self.cures.iter().any(|cure| cure.in_force(finding.env));
        let version = |unknown: bool| {
            self.ucx.is_none_or(|range| finding.ucx.map_or(unknown, |is| range.contains(is)))
        };
        if finding.verdict != VerdictKind::Leak || cured {
            return None;
        }
        if let Some(frames) = finding.stack.filter(|_| !self.stacks.is_empty()) {
            return (version(true) && self.has_stack(frames)).then_some(Proof::Stack);
        }
        let slope = finding.slope.low <= self.slope_max && finding.slope.high >= self.slope_min;
        let owner = self.class.is_some() || finding.owner.is_none_or(|owner| owner == self.owner);
        let shown = self.also.iter().chain([&self.gauge]);
        let grows =
            shown.map(|&gauge| Axes { gauge, unit: self.unit }).any(|axes| axes == finding.axes)
                && version(false)
                && (self.class.is_none() || finding.top_class == self.class)
                && slope
                && owner;
        grows.then_some(Proof::Growth)
    }

    /// Whether `frames`, innermost first, are a stack that maps its memory.
    pub fn has_stack(&self, frames: &[Frame]) -> bool {
        self.stacks.iter().any(|stack| stack.matches(frames))
    }

    /// What contradicts itself in it.
    fn flaw(&self) -> Option<&'static str> {
        let web = |url: &String| url.starts_with("https://");
        match self {
            _ if self.id.is_empty() || self.title.is_empty() || self.owner.is_empty() => {
                Some("id, title and owner must say something")
            }
            _ if !web(&self.url) || !self.related.iter().all(web) => {
                Some("url and related must begin with https://")
            }
            _ if self.slope_min.is_nan() || self.slope_max.is_nan() => {
                Some("slope_min and slope_max must be numbers")
            }
            _ if self.slope_min > self.slope_max => Some("slope_min is above slope_max"),
            _ if (self.gauge == Gauge::Held) != self.class.is_some() => Some(
                "class is where the memory lies: it goes with the gauge \"held\" and with no other",
            ),
            _ if self.cures.iter().any(|cure| cure.set.is_empty()) => {
                Some("a cure must set something")
            }
            _ => None,
        }
    }

    /// The reference for result files.
    pub fn reference(&self) -> SignatureRef {
        SignatureRef { id: self.id.clone(), url: self.url.clone(), proof: None }
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
mod tests;
