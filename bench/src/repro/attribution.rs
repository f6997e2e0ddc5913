//! Who holds the growth, and which known bug it looks like. Pure.

use pdlab_leak::evidence::claims;
use pdlab_leak::gauge::Gauge;
use pdlab_leak::ledger::{Ledger, Owner};
use pdlab_leak::scenario::Scenario;
use pdlab_leak::signature::{Finding, Signature, known, known_evidence, recognise};

use super::cell::Measurement;

/// What the address space and the list of known bugs say about the growth.
#[derive(Debug, Clone, PartialEq)]
pub struct Attribution {
    /// Who holds it, the largest first.
    pub owners: Vec<Owner>,
    /// Share of it that named owners hold; `None` if nothing grew.
    pub explained_ratio: Option<f64>,
    /// The bug that it looks like.
    pub signature: Option<Signature>,
}

/// Lays the growth of the judged process at its owners' doors. Counters of the process that prove
/// what their things take come first; a recognised bug then claims what it costs per unit, for all
/// units measured. The ledger gives nobody more than there is.
pub fn attribute(scenario: &Scenario, measurement: &Measurement) -> Attribution {
    let (start, end) = &measurement.layouts;
    let mut ledger = ledger(measurement);
    let estimate = measurement.judgement.estimate.as_ref();
    let known = known();
    let signature = estimate.and_then(|estimate| {
        let finding = Finding {
            verdict: measurement.judgement.verdict.kind(),
            slope: estimate.slope,
            axes: scenario.axes(),
            top_class: Ledger::top_class(start, end),
            ucx: measurement.ucx_version(),
            env: &measurement.env,
        };
        let signature = recognise(&known, &finding)?;
        if let Some(class) = signature.class {
            ledger.claim(&signature.owner, class, estimate.slope.value * measurement.units());
        }
        Some(signature.clone())
    });
    Attribution { owners: ledger.owners(), explained_ratio: ledger.explained_ratio(), signature }
}

/// Growth by owner, as far as address space and counters tell.
fn ledger(measurement: &Measurement) -> Ledger {
    let mut own = measurement.samples_of(&measurement.judged);
    let first = own.next();
    let (Some(first), Some(last)) = (first, own.last().or(first)) else { return Ledger::default() };
    let gauge = measurement.axes.gauge;
    if !matches!(gauge, Gauge::Held | Gauge::Rss) {
        return Ledger::counted(gauge, first, last, &measurement.descriptors);
    }
    let (start, end) = &measurement.layouts;
    let mut ledger = Ledger::between(start, end);
    for claim in claims(&known_evidence(), measurement.ucx_version(), first, last) {
        ledger.claim(claim.owner, claim.class, claim.bytes);
    }
    ledger
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repro::fixture;
    use pdlab_leak::sample::Sample;

    #[test]
    fn the_leak_of_ucx_1_19_is_recognised_and_claims_the_growth() {
        let scenario = fixture::scenario();
        let found = attribute(&scenario, &fixture::measurement(&scenario, 144.0, 0.0));
        let signature = found.signature.as_ref().unwrap();
        assert_eq!(signature.id, "vllm#24264");
        assert_eq!(found.owners[0].name, signature.owner);
        assert!(found.explained_ratio.unwrap() > 0.95, "{found:?}");
    }

    #[test]
    fn a_leak_of_another_size_has_no_name() {
        let scenario = fixture::scenario();
        let found = attribute(&scenario, &fixture::measurement(&scenario, 500.0, 0.0));
        assert_eq!(found.signature, None);
        assert_eq!(found.explained_ratio, Some(0.0));
    }

    #[test]
    fn a_counter_that_has_grown_proves_its_owner_without_a_slope() {
        let scenario = fixture::scenario();
        let mut measurement = fixture::measurement(&scenario, 500.0, 0.0);
        let unmaps = |sample: &Sample| Some(sample.work.unmaps);
        for sample in &mut measurement.samples {
            sample.held.rcache_queue = unmaps(sample);
        }
        let found = attribute(&scenario, &measurement);
        assert_eq!(found.signature, None);
        let queue = found.owners.iter().find(|owner| owner.name.ends_with("invalidation queue"));
        assert_eq!(queue.unwrap().bytes, 144 * 200_000);
        assert!((found.explained_ratio.unwrap() - 144.0 / 500.0).abs() < 1e-3, "{found:?}");
    }
}
