//! Who holds the growth, and which known bug it looks like: a measurement as [`pdlab_leak`] judges
//! it. Pure.

use pdlab_leak::attribution::{self, Attribution, Grounds};
use pdlab_leak::scenario::Scenario;
use pdlab_leak::signature::Known;

use super::cell::Measurement;

/// Lays the growth of the judged process at its owners' doors.
pub fn attribute(scenario: &Scenario, measurement: &Measurement) -> Attribution {
    let mut own = measurement.samples_of(&measurement.judged);
    let first = own.next();
    let grounds = Grounds {
        axes: scenario.axes(),
        judgement: &measurement.judgement,
        units: measurement.units(),
        samples: first.map(|first| (first, own.last().unwrap_or(first))),
        layouts: (&measurement.layouts.0, &measurement.layouts.1),
        descriptors: &measurement.descriptors,
        stacks: measurement.stacks.as_ref(),
        ucx: measurement.ucx_version(),
        env: &measurement.env,
    };
    attribution::attribute(Known::builtin(), &grounds)
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

    #[test]
    fn a_stack_names_the_bug() {
        let scenario = fixture::scenario();
        let found = attribute(&scenario, &fixture::traced(&scenario));
        assert_eq!(found.signature.as_ref().unwrap().id, "vllm#24264");
        let stack = found.owners[0].stack.as_ref().unwrap();
        for function in ["ucs_rcache_unmapped_callback", "ucs_mpool_grow"] {
            assert!(stack.iter().any(|frame| frame.starts_with(function)), "{stack:?}");
        }
    }
}
