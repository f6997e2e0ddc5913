//! Who is to be killed, and when. Pure.

use std::time::{Duration, Instant};

use pdlab_leak::scenario::Scenario;

/// A process that is killed again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crashes {
    victim: usize,
    every: Duration,
    next: Instant,
}

impl Crashes {
    /// What `scenario` asks for from `now` on, if it does; `victim` is the index of the process.
    pub fn of(scenario: &Scenario, victim: usize, now: Instant) -> Option<Self> {
        let every = Duration::from_secs_f64(scenario.cluster.crash_every_seconds?);
        Some(Self { victim, every, next: now + every })
    }

    /// The victim, if one is due. One that is late does not make the next one late.
    pub fn due(&mut self, now: Instant) -> Option<usize> {
        if now < self.next {
            return None;
        }
        while self.next <= now {
            self.next += self.every;
        }
        Some(self.victim)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repro::fixture;

    #[test]
    fn a_crash_is_due_after_every_period_and_never_twice_at_once() {
        let mut scenario = fixture::scenario();
        let start = Instant::now();
        assert_eq!(Crashes::of(&scenario, 2, start), None);
        scenario.cluster.crash_every_seconds = Some(0.5);
        let mut crashes = Crashes::of(&scenario, 2, start).unwrap();
        let mut due = |ms| crashes.due(start + Duration::from_millis(ms));
        assert_eq!([due(499), due(500), due(600), due(1000)], [None, Some(2), None, Some(2)]);
        assert_eq!([due(2700), due(2900), due(3000)], [Some(2), None, Some(2)]);
    }
}
