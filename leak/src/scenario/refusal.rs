//! What cannot run at all, and is known not to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Scenario;
use crate::version::{UcxVersion, VersionRange};

/// `[[refused]]`: settings with which no run comes about. Where they are in force, the failure is what must come out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refusal {
    /// The environment variables that prevent the run.
    pub set: BTreeMap<String, String>,
    /// The UCX versions that refuse them. Absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ucx: Option<VersionRange>,
    /// Words that the failure must have in its reason, so that another failure is not taken for it.
    pub reason: String,
    /// What the reader should know, a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Scenario {
    /// Why a run with these variables on this UCX (`None`: its version is not known before it runs) must fail;
    /// `None` if nothing is known against it.
    pub fn refusal(
        &self,
        ucx: Option<UcxVersion>,
        env: &BTreeMap<String, String>,
    ) -> Option<&Refusal> {
        self.refusals.iter().find(|refusal| {
            let version = match (refusal.ucx, ucx) {
                (Some(range), Some(version)) => range.contains(version),
                (Some(_), None) => false,
                (None, _) => true,
            };
            version && refusal.set.iter().all(|(name, value)| env.get(name) == Some(value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_foreseen_where_all_its_settings_are_in_force() {
        let scenario = Scenario::builtin("ucx-rcache-invq").unwrap();
        let env = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
        };
        let hooks = ("UCX_MEM_MMAP_HOOK_MODE", "none");
        let cache = ("UCX_RCACHE_ENABLE", "y");
        let refusal = scenario.refusal(None, &env(&[hooks, cache])).unwrap();
        assert!(refusal.reason.contains("ucp_init"), "{refusal:?}");
        assert_eq!(scenario.refusal(None, &env(&[hooks])), None);

        let mut dated = scenario.clone();
        dated.refusals[0].ucx = Some("1.17.0..".parse().unwrap());
        let of = |version: &str| {
            dated.refusal(Some(version.parse().unwrap()), &env(&[hooks, cache])).is_some()
        };
        assert!(of("1.19.0") && !of("1.16.0"));
        assert_eq!(dated.refusal(None, &env(&[hooks, cache])), None, "its version is not known");
    }
}
