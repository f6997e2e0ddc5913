//! The worker with the least to do.

use super::{Candidate, Policy, RoundRobin};

/// Takes the worker with the fewest legs in flight; equals take turns.
///
/// The turns matter: without them an idle fleet would send everything to its first worker.
#[derive(Debug, Default)]
pub struct LeastLoaded {
    turn: RoundRobin,
    idlest: Vec<Candidate>,
}

impl Policy for LeastLoaded {
    fn pick(&mut self, candidates: &[Candidate]) -> Option<usize> {
        let least = candidates.iter().map(|c| c.in_flight).min()?;
        self.idlest.clear();
        self.idlest.extend(candidates.iter().filter(|c| c.in_flight == least));
        let chosen = self.idlest[self.turn.pick(&self.idlest)?];
        candidates.iter().position(|c| *c == chosen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pick(policy: &mut LeastLoaded, loads: &[u64]) -> Option<usize> {
        let candidates: Vec<_> = loads
            .iter()
            .enumerate()
            .map(|(worker, &in_flight)| Candidate { worker, in_flight })
            .collect();
        policy.pick(&candidates)
    }

    #[test]
    fn takes_the_idlest() {
        let mut policy = LeastLoaded::default();
        assert_eq!(pick(&mut policy, &[3, 1, 2]), Some(1));
        assert_eq!(pick(&mut policy, &[3, 4, 2]), Some(2));
        assert_eq!(pick(&mut policy, &[]), None);
    }

    #[test]
    fn equals_take_turns() {
        let mut policy = LeastLoaded::default();
        let picks: Vec<_> = (0..4).map(|_| pick(&mut policy, &[0, 5, 0]).unwrap()).collect();
        assert_eq!(picks, [0, 2, 0, 2]);
    }
}
