//! How much memory is churned, and how.

use serde::{Deserialize, Serialize};

use super::Pattern;

/// Settings of the churn source.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChurnConfig {
    /// How.
    pub pattern: Pattern,
    /// Bytes of an operation. For most patterns of a mapping, rounded up to pages; for `random` and
    /// `heap` the largest; for `plant` exactly what stays.
    pub bytes: usize,
    /// Mappings kept alive by `disjoint` (the pieces between the holes), `random` and `pool`,
    /// buffers registered by `register`, buffers of a burst of `heap`. Each mapping may be an entry
    /// in the kernel's map of the process, which holds 65,530 by default.
    pub resident: usize,
    /// Operations after every engine step.
    pub per_step: f64,
    /// Operations for every generated token.
    pub per_token: f64,
    /// Operations per second, whether or not there is work.
    pub rate: f64,
}

impl Default for ChurnConfig {
    fn default() -> Self {
        Self {
            pattern: Pattern::Same,
            bytes: 4096,
            resident: 1024,
            per_step: 0.0,
            per_token: 0.0,
            rate: 0.0,
        }
    }
}

impl ChurnConfig {
    /// Largest mapping and resident set that are taken.
    const BYTES_MAX: usize = 1 << 30;
    /// See [`ChurnConfig::resident`].
    pub const RESIDENT_MAX: usize = 60_000;
    /// Most bytes that a pattern keeps touched on purpose: more would end the machine, not show
    /// anything.
    const TOUCHED_MAX: usize = 8 << 30;
    const EVENTS_MAX: f64 = 1e6;

    /// Says which field is out of range.
    pub fn validate(&self) -> Result<(), String> {
        if !(1..=Self::BYTES_MAX).contains(&self.bytes) {
            return Err(format!("churn bytes is {}: use 1 to {}", self.bytes, Self::BYTES_MAX));
        }
        if !(1..=Self::RESIDENT_MAX).contains(&self.resident) {
            let (is, max) = (self.resident, Self::RESIDENT_MAX);
            return Err(format!("churn resident is {is}: use 1 to {max}"));
        }
        let touched = self.bytes.saturating_mul(self.resident);
        if matches!(self.pattern, Pattern::Heap | Pattern::Pool) && touched > Self::TOUCHED_MAX {
            return Err(format!(
                "churn bytes times resident is {touched}: use at most {}",
                Self::TOUCHED_MAX
            ));
        }
        for (name, value) in
            [("per_step", self.per_step), ("per_token", self.per_token), ("rate", self.rate)]
        {
            if !(0.0..=Self::EVENTS_MAX).contains(&value) {
                return Err(format!("churn {name} is {value}: use 0 to {}", Self::EVENTS_MAX));
            }
        }
        Ok(())
    }

    /// Operations owed after a step that generated this many tokens.
    pub fn owed(&self, tokens: u64) -> f64 {
        self.per_step + self.per_token * tokens as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_out_of_range_are_named() {
        let bad = |config: ChurnConfig| config.validate().unwrap_err();
        assert!(bad(ChurnConfig { bytes: 0, ..Default::default() }).contains("bytes"));
        assert!(bad(ChurnConfig { rate: -1.0, ..Default::default() }).contains("rate"));
        assert!(bad(ChurnConfig { per_step: f64::NAN, ..Default::default() }).contains("per_step"));
        assert!(bad(ChurnConfig { resident: 0, ..Default::default() }).contains("resident"));
        let huge = ChurnConfig { pattern: Pattern::Pool, bytes: 1 << 30, ..Default::default() };
        assert!(bad(huge).contains("bytes times resident"));
        assert_eq!(ChurnConfig::default().validate(), Ok(()));
    }
}
