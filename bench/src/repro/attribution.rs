//! Who holds the growth, and which known bug it looks like. Pure.

use pdlab_leak::ledger::{Ledger, Owner};
use pdlab_leak::scenario::Scenario;
use pdlab_leak::signature::{Finding, Signature, known, recognise};

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

/// Lays the growth of the judged process at its owners' doors. A recognised bug claims what it
/// costs per unit, for all units measured; the ledger gives it no more than there is.
pub fn attribute(scenario: &Scenario, measurement: &Measurement) -> Attribution {
    let (start, end) = &measurement.layouts;
    let mut ledger = Ledger::between(start, end);
    let estimate = measurement.judgement.estimate.as_ref();
    let known = known();
    let signature = estimate.and_then(|estimate| {
        let finding = Finding {
            verdict: measurement.judgement.verdict.kind(),
            slope: estimate.slope,
            unit: scenario.unit,
            top_class: Ledger::top_class(start, end),
            ucx: measurement.ucx_version(),
            env: &measurement.env,
        };
        let signature = recognise(&known, &finding)?;
        ledger.claim(&signature.owner, estimate.slope.value * measurement.units());
        Some(signature.clone())
    });
    Attribution { owners: ledger.owners(), explained_ratio: ledger.explained_ratio(), signature }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repro::fixture;

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
}
