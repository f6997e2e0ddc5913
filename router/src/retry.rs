//! Whether a failed attempt is worth another one.
//!
//! An attempt is both legs. After a failed decode leg the prefill leg is run again as well: decode
//! may already have told prefill that the blocks were read, and then they are gone.

use crate::failure::Kind;
use crate::fleet::Leg;

/// What one request has tried.
#[derive(Debug)]
pub(crate) struct Attempts {
    retries_left: u32,
    stale_seen: bool,
    prefill: Vec<usize>,
    decode: Vec<usize>,
}

/// A failed attempt.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Failed {
    /// The leg that failed.
    pub(crate) leg: Leg,
    /// How.
    pub(crate) kind: Kind,
    /// Index of the worker that failed.
    pub(crate) worker: usize,
    /// Index of the prefill worker of the attempt, if there was one.
    pub(crate) prefill: Option<usize>,
}

impl Attempts {
    pub(crate) fn new(retries: u32) -> Self {
        Self { retries_left: retries, stale_seen: false, prefill: vec![], decode: vec![] }
    }

    /// The workers that failed this request.
    pub(crate) fn avoid(&self, leg: Leg) -> &[usize] {
        match leg {
            Leg::Prefill => &self.prefill,
            Leg::Decode => &self.decode,
        }
    }

    /// Takes in a failure and says whether to try again. `others` tells whether a leg has a worker
    /// that is up and not on a list.
    pub(crate) fn again(&mut self, failed: Failed, others: impl Fn(Leg, &[usize]) -> bool) -> bool {
        // A connection that the worker closed while it was unused says nothing against the worker.
        // The next attempt is on a fresh one, so this can excuse only once.
        if failed.kind == Kind::Stale && !self.stale_seen {
            self.stale_seen = true;
            return true;
        }
        match failed.leg {
            Leg::Prefill => self.prefill.push(failed.worker),
            Leg::Decode => self.decode.push(failed.worker),
        }
        let mut elsewhere = others(failed.leg, self.avoid(failed.leg));
        // A decode that answers 5xx may have failed to fetch from a prefill that is gone, so a
        // different prefill is worth a try even with the same decode.
        if failed.leg == Leg::Decode && failed.kind == Kind::Answered {
            self.prefill.extend(failed.prefill);
            elsewhere |= others(Leg::Prefill, &self.prefill);
        }
        let again = elsewhere && self.retries_left > 0;
        self.retries_left = self.retries_left.saturating_sub(1);
        again
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A fleet of this many prefills and decodes, all up.
    fn fleet(prefills: usize, decodes: usize) -> impl Fn(Leg, &[usize]) -> bool {
        move |leg, avoid| {
            let size = if leg == Leg::Prefill { prefills } else { decodes };
            (0..size).any(|worker| !avoid.contains(&worker))
        }
    }

    fn failed(leg: Leg, kind: Kind, worker: usize) -> Failed {
        Failed { leg, kind, worker, prefill: (leg == Leg::Decode).then_some(0) }
    }

    #[test]
    fn a_failed_prefill_needs_another_one() {
        let failure = failed(Leg::Prefill, Kind::Broken, 0);
        assert!(!Attempts::new(2).again(failure, fleet(1, 9)));
        let mut attempts = Attempts::new(2);
        assert!(attempts.again(failure, fleet(2, 1)));
        assert_eq!(
            (attempts.avoid(Leg::Prefill), attempts.avoid(Leg::Decode)),
            (&[0][..], &[][..])
        );
    }

    #[test]
    fn an_unreachable_decode_needs_another_one() {
        let failure = failed(Leg::Decode, Kind::Unreachable, 0);
        assert!(!Attempts::new(2).again(failure, fleet(9, 1)));
        assert!(Attempts::new(2).again(failure, fleet(1, 2)));
    }

    #[test]
    fn a_decode_that_answers_5xx_may_only_need_another_prefill() {
        let failure = failed(Leg::Decode, Kind::Answered, 0);
        assert!(!Attempts::new(2).again(failure, fleet(1, 1)));
        let mut attempts = Attempts::new(2);
        assert!(attempts.again(failure, fleet(2, 1)));
        assert_eq!(attempts.avoid(Leg::Prefill), [0]);
        assert!(!attempts.again(Failed { prefill: Some(1), ..failure }, fleet(2, 1)));
    }

    #[test]
    fn a_stale_connection_is_excused_once() {
        let failure = failed(Leg::Decode, Kind::Stale, 0);
        let mut attempts = Attempts::new(0);
        assert!(attempts.again(failure, fleet(1, 1)));
        assert!(attempts.avoid(Leg::Decode).is_empty());
        assert!(!attempts.again(failure, fleet(9, 9)));
    }

    proptest! {
        #[test]
        fn attempts_are_bounded(
            retries in 0u32..5,
            failures in prop::collection::vec((any::<bool>(), 0..Kind::ALL.len(), 0usize..4), 20),
        ) {
            let mut attempts = Attempts::new(retries);
            let more = failures.iter().take_while(|(decode, kind, worker)| {
                let leg = if *decode { Leg::Decode } else { Leg::Prefill };
                attempts.again(failed(leg, Kind::ALL[*kind], *worker), |_, _| true)
            });
            prop_assert!(more.count() <= retries as usize + 1);
        }
    }
}
