//! What the command line lays over a scenario.

use super::{Pattern, Scenario, ScenarioError, Transport};

/// Overrides of a scenario; `None` and empty leave it as it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Overrides {
    /// `--ucx`: a version, `system` or a path.
    pub ucx: Option<String>,
    /// `--transport`.
    pub transport: Option<Transport>,
    /// `--set NAME=VALUE`, in the order given; see [`parse_setting`].
    pub set: Vec<(String, String)>,
    /// `--churn`: the pattern. It needs a scenario that makes churn.
    pub churn: Option<Pattern>,
    /// `--unmaps` or another unit: how much to measure. Mitigations are proven with at most as much.
    pub units: Option<u64>,
    /// `--seed`.
    pub seed: Option<u64>,
    /// `Some(false)` for `--no-mitigations`.
    pub prove_mitigations: Option<bool>,
}

/// Splits the `NAME=VALUE` of `--set`. The value may be empty and may contain `=`.
pub fn parse_setting(text: &str) -> Result<(String, String), ScenarioError> {
    let wrong = || ScenarioError::Setting { text: text.to_string() };
    let (name, value) = text.split_once('=').ok_or_else(wrong)?;
    if is_variable_name(name) && !value.contains('\0') {
        Ok((name.to_string(), value.to_string()))
    } else {
        Err(wrong())
    }
}

impl Scenario {
    /// This scenario with `overrides` laid over it, checked again.
    pub fn apply(&self, overrides: &Overrides) -> Result<Scenario, ScenarioError> {
        let mut changed = self.clone();
        if let Some(ucx) = &overrides.ucx {
            changed.ucx.clone_from(ucx);
        }
        if let Some(transport) = overrides.transport {
            changed.transport = transport;
        }
        changed.env.extend(overrides.set.iter().cloned());
        if let Some(pattern) = overrides.churn {
            let churn = changed.churn.as_mut();
            churn.ok_or_else(|| ScenarioError::NoChurn { name: self.name.clone() })?.pattern =
                pattern;
        }
        if let Some(units) = overrides.units {
            let patience = self.measure.give_up_units() as f64 / self.measure.units as f64;
            changed.measure.max_units = Some((units as f64 * patience) as u64);
            changed.measure.units = units;
            for mitigation in &mut changed.mitigations {
                mitigation.units = mitigation.units.map(|own| own.min(units));
            }
        }
        if let Some(seed) = overrides.seed {
            changed.seed = seed;
        }
        if let Some(prove) = overrides.prove_mitigations {
            changed.measure.prove_mitigations = prove;
        }
        changed.check().map_err(|flaw| flaw.in_overrides(&self.name))?;
        Ok(changed)
    }
}

/// Whether `name` can be the name of an environment variable: letters, digits and underscores, no digit first.
pub(super) fn is_variable_name(name: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.starts_with(|c: char| word(c) && !c.is_ascii_digit()) && name.chars().all(word)
}
