//! Each worker in turn.

use super::{Candidate, Policy};

/// Takes the next worker after the last one taken, in the order of the configuration.
///
/// It remembers the worker rather than a count, so that the turn is kept when others drop out or
/// come back.
#[derive(Debug, Default)]
pub struct RoundRobin {
    last: Option<usize>,
}

impl Policy for RoundRobin {
    fn pick(&mut self, candidates: &[Candidate]) -> Option<usize> {
        let next = candidates.iter().position(|c| self.last.is_none_or(|last| c.worker > last));
        let index = next.unwrap_or(0);
        self.last = Some(candidates.get(index)?.worker);
        Some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pick(policy: &mut RoundRobin, workers: &[usize]) -> Option<usize> {
        let candidates: Vec<_> =
            workers.iter().map(|&worker| Candidate { worker, in_flight: 9 }).collect();
        policy.pick(&candidates).map(|index| workers[index])
    }

    #[test]
    fn takes_turns() {
        let mut policy = RoundRobin::default();
        let picks: Vec<_> = (0..5).map(|_| pick(&mut policy, &[0, 1, 2]).unwrap()).collect();
        assert_eq!(picks, [0, 1, 2, 0, 1]);
    }

    #[test]
    fn keeps_the_turn_when_workers_come_and_go() {
        let mut policy = RoundRobin::default();
        assert_eq!(pick(&mut policy, &[0, 1, 2]), Some(0));
        assert_eq!(pick(&mut policy, &[0, 2]), Some(2));
        assert_eq!(pick(&mut policy, &[]), None);
        assert_eq!(pick(&mut policy, &[0, 1, 2]), Some(0));
        assert_eq!(pick(&mut policy, &[0]), Some(0));
        assert_eq!(pick(&mut policy, &[0, 1, 2]), Some(1));
    }
}
