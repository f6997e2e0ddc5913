//! The baseline file: what a gate compares with.
//!
//! It is a part of `result.json`, so any result can be taken as a baseline as it is. What is kept
//! for good is better written by `pdlab gate --update`, which leaves out what only describes that
//! one run.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use pdlab_leak::gauge::Gauge;
use pdlab_leak::result::ReproResult;
use pdlab_leak::scenario::{Scenario, Transport};
use pdlab_leak::verdict::VerdictKind;
use pdlab_leak::work::Unit;
use serde::{Deserialize, Serialize};

/// What was found when the baseline was taken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// Name of the scenario; a gate on another one refuses it.
    pub scenario: String,
    /// The unit of work, likewise.
    pub unit: Unit,
    /// What was judged, likewise.
    pub gauge: Gauge,
    /// The transport in use, likewise.
    pub transport: Transport,
    /// The UCX in use. Another one is no error: to compare versions is what a gate is for.
    pub ucx_version: Option<String>,
    /// Environment of the roles. Other settings are told, and no error.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
    /// What was found.
    pub verdict: VerdictKind,
    /// Slope, in the gauge's unit per unit of work.
    pub slope_per_unit: Option<f64>,
    /// Lower end of its 95 % interval.
    pub ci_low: Option<f64>,
    /// Upper end of its 95 % interval.
    pub ci_high: Option<f64>,
    /// Share by which a slope may exceed `ci_high` and still be within the baseline.
    #[serde(default = "default_tolerance")]
    pub tolerance: f64,
}

/// Slopes of the same leak differ by some percent between machines and builds (allocators round
/// up, chunks are not used to the last entry); a leak that is new, or counted twice, differs by
/// far more.
fn default_tolerance() -> f64 {
    0.05
}

/// A baseline that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BaselineError {
    /// The file cannot be read.
    #[error(
        "cannot read the baseline {}: {source}; make one with `pdlab gate --update --baseline \
         {} {scenario}`",
        file.display(), file.display()
    )]
    Read {
        /// The file.
        file: PathBuf,
        /// The scenario that is to be gated.
        scenario: String,
        /// Why not.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("cannot write the baseline {}: {source}", file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file is empty.
    #[error(
        "the baseline {} is empty; make it with `pdlab gate --update --baseline {} {scenario}`",
        file.display(), file.display()
    )]
    Empty {
        /// The file.
        file: PathBuf,
        /// The scenario that is to be gated.
        scenario: String,
    },
    /// The file is no baseline.
    #[error(
        "{} is no baseline: {source}; give a file written by `pdlab gate --update`, or a run's \
         result.json", file.display()
    )]
    Invalid {
        /// The file.
        file: PathBuf,
        /// What is wrong, with the line.
        source: serde_json::Error,
    },
    /// The file holds no usable finding, or was made for something else.
    #[error("the baseline {} {reason}", file.display())]
    Unusable {
        /// The file.
        file: PathBuf,
        /// What does not fit, and what to do.
        reason: String,
    },
}

impl Baseline {
    /// What `result` is as a baseline.
    pub fn of(result: &ReproResult) -> Self {
        Self {
            scenario: result.scenario.clone(),
            unit: result.unit,
            gauge: result.gauge,
            transport: result.transport_or_any(),
            ucx_version: result.ucx_version.clone(),
            settings: result.settings.clone(),
            verdict: result.verdict,
            slope_per_unit: result.slope_per_unit,
            ci_low: result.ci_low,
            ci_high: result.ci_high,
            tolerance: default_tolerance(),
        }
    }

    /// Reads `file` and checks that it is one for `scenario`. A gate finds out before it starts
    /// anything that it would have nothing to compare with.
    ///
    /// # Errors
    /// Whatever is wrong with it.
    pub fn load(file: &Path, scenario: &Scenario) -> Result<Self, BaselineError> {
        let named = || scenario.name.clone();
        let text = fs::read_to_string(file).map_err(|source| BaselineError::Read {
            file: file.to_owned(),
            scenario: named(),
            source,
        })?;
        if text.trim().is_empty() {
            return Err(BaselineError::Empty { file: file.to_owned(), scenario: named() });
        }
        let baseline: Self = serde_json::from_str(&text)
            .map_err(|source| BaselineError::Invalid { file: file.to_owned(), source })?;
        let unusable = |reason| BaselineError::Unusable { file: file.to_owned(), reason };
        baseline.check(scenario).map_err(unusable)?;
        Ok(baseline)
    }

    /// Writes it to `file`, for people to review and to commit.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save(&self, file: &Path) -> Result<(), BaselineError> {
        let write = || {
            let mut json = serde_json::to_string_pretty(self)?;
            json.push('\n');
            fs::write(file, json)
        };
        write().map_err(|source| BaselineError::Write { file: file.to_owned(), source })
    }

    /// What does not fit between it and a run that has been made.
    ///
    /// # Errors
    /// In words.
    pub fn check_transport(&self, transport: Transport) -> Result<(), String> {
        let (was, is) = (self.transport, transport);
        differs("was taken over transport", was, is)
    }

    fn check(&self, scenario: &Scenario) -> Result<(), String> {
        differs("is of scenario", self.scenario.as_str(), scenario.name.as_str())?;
        differs("counts work by", self.unit, scenario.unit)?;
        differs("judges", self.gauge.name(), scenario.measure.gauge.name())?;
        if scenario.transport != Transport::Auto {
            self.check_transport(scenario.transport)?;
        }
        if !(0.0..=10.0).contains(&self.tolerance) {
            return Err(format!(
                "has a tolerance of {}; use 0 to 10, where 0.05 is 5 %",
                self.tolerance
            ));
        }
        match (self.verdict, self.ci_high) {
            (VerdictKind::Inconclusive, _) => {
                Err("came to no verdict itself; take it again with --update".to_owned())
            }
            (VerdictKind::Leak, None) => {
                Err("is of a leak and has no ci_high to compare with; take it again with --update"
                    .to_owned())
            }
            _ => Ok(()),
        }
    }
}

fn differs<T: PartialEq + std::fmt::Display>(what: &str, was: T, is: T) -> Result<(), String> {
    if was == is {
        return Ok(());
    }
    Err(format!(
        "{what} {was}, and the gate is on {is}: give the baseline that belongs to it, or take one \
         with --update"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repro::fixture;

    fn baseline() -> Baseline {
        let scenario = fixture::scenario();
        let measurement = fixture::measurement(&scenario, 144.0, 0.0);
        Baseline::of(&fixture::report(&scenario, &measurement).result)
    }

    fn load(text: &str) -> Result<Baseline, String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("baseline.json");
        fs::write(&file, text).unwrap();
        Baseline::load(&file, &fixture::scenario()).map_err(|error| error.to_string())
    }

    #[test]
    fn what_was_saved_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("baseline.json");
        baseline().save(&file).unwrap();
        assert_eq!(Baseline::load(&file, &fixture::scenario()).unwrap(), baseline());
    }

    #[test]
    fn a_result_is_a_baseline() {
        let scenario = fixture::scenario();
        let measurement = fixture::measurement(&scenario, 144.0, 0.0);
        let report = fixture::report(&scenario, &measurement);
        assert_eq!(load(&serde_json::to_string(&report).unwrap()), Ok(baseline()));
    }

    #[test]
    fn what_is_no_baseline_is_told() {
        assert!(load("").unwrap_err().contains("is empty"));
        assert!(load(" \n").unwrap_err().contains("--update"));
        assert!(load("{").unwrap_err().contains("line 1"));
        assert!(load("{}").unwrap_err().contains("scenario"));
        let missing = Baseline::load(Path::new("/no/such"), &fixture::scenario()).unwrap_err();
        assert!(missing.to_string().contains("/no/such"), "{missing}");
    }

    #[test]
    fn a_baseline_of_something_else_is_refused() {
        let refused = |change: fn(&mut Baseline)| {
            let mut other = baseline();
            change(&mut other);
            load(&serde_json::to_string(&other).unwrap()).unwrap_err()
        };
        assert!(refused(|b| b.scenario = "other".into()).contains("is of scenario other"));
        assert!(refused(|b| b.unit = Unit::Token).contains("counts work by token"));
        assert!(refused(|b| b.gauge = Gauge::Rss).contains("judges rss"));
        assert!(refused(|b| b.transport = Transport::Tcp).contains("transport tcp"));
        assert!(refused(|b| b.verdict = VerdictKind::Inconclusive).contains("no verdict"));
        assert!(refused(|b| b.ci_high = None).contains("ci_high"));
        assert!(refused(|b| b.tolerance = -1.0).contains("tolerance"));
    }
}
