//! What a process's own counters prove about who holds its growth.
//!
//! A slope says how much, a class of memory says where; both are hints. A counter that has grown by exactly as many
//! things as there were units of work, each of a known size, is evidence. The list of such counters is data: the
//! `[[evidence]]` entries of `leak/signatures.toml`.

use serde::Deserialize;

use crate::gauge::Gauge;
use crate::layout::Class;
use crate::sample::Sample;
use crate::version::{UcxVersion, VersionRange};

/// A counter whose things take memory.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// The counter.
    pub gauge: Gauge,
    /// The UCX versions that it holds for. Absent: with and without UCX.
    pub ucx: Option<VersionRange>,
    /// Bytes that one of them takes.
    pub bytes_each: f64,
    /// Where they lie.
    pub class: Class,
    /// Name of the owner in the ledger.
    pub owner: String,
}

/// Memory that an owner is proven to hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim<'a> {
    /// Name of the owner.
    pub owner: &'a str,
    /// Where the memory lies.
    pub class: Class,
    /// How much was gained.
    pub bytes: f64,
}

/// What the counters prove of the growth from `first` to `last`, two samples of one process.
pub fn claims<'a>(
    evidence: &'a [Evidence],
    ucx: Option<UcxVersion>,
    first: &Sample,
    last: &Sample,
) -> Vec<Claim<'a>> {
    let claim = |evidence: &'a Evidence| {
        let here = match evidence.ucx {
            Some(range) => ucx.is_some_and(|version| range.contains(version)),
            None => true,
        };
        let gained = evidence.gauge.of(last)?.checked_sub(evidence.gauge.of(first)?)?;
        let Evidence { owner, class, .. } = evidence;
        let bytes = gained as f64 * evidence.bytes_each;
        (here && bytes > 0.0).then_some(Claim { owner, class: *class, bytes })
    };
    evidence.iter().filter_map(claim).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Counts;
    use crate::signature::known_evidence;

    fn sample(rcache_queue: Option<u64>) -> Sample {
        Sample { held: Counts { rcache_queue, ..Counts::default() }, ..Sample::default() }
    }

    #[test]
    fn the_queue_of_ucx_1_19_is_144_bytes_an_entry() {
        let known = known_evidence();
        let claimed = |version: Option<&str>, from, to| -> f64 {
            let version = version.map(|version| version.parse().unwrap());
            let claims = claims(&known, version, &sample(from), &sample(to));
            claims.iter().map(|claim| claim.bytes).sum()
        };
        assert_eq!(claimed(Some("1.19.0"), Some(10), Some(1010)), 144_000.0);
        assert_eq!(claimed(Some("1.19.0"), Some(1010), Some(10)), 0.0, "given back");
        assert_eq!(claimed(Some("1.19.0"), None, Some(10)), 0.0, "not known");
        assert_eq!(claimed(None, Some(10), Some(1010)), 0.0, "no UCX, no queue");
    }

    #[test]
    fn the_list_is_sound() {
        for evidence in known_evidence() {
            assert!(evidence.bytes_each > 0.0 && !evidence.owner.is_empty(), "{evidence:?}");
        }
    }
}
