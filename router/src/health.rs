//! When a worker is taken out and when it comes back: a state machine without a clock.
//!
//! ```text
//!             failure_threshold checks failed
//!   Healthy ────────────────────────────────▶ Down
//!    │  ▲ ▲                                    │ ▲
//!    │  │ └──── success_threshold passed ──────┘ │
//!    │  └─ one passed ─ Suspect ─ one failed ────┘
//!    └── a leg failed ──▶ ▲
//! ```
//!
//! A leg that finds nobody home is news, not proof: the worker is *suspect* at once, and the next
//! check, which is brought forward, decides. A new worker starts as a suspect for the same reason.

use crate::config::HealthConfig;

/// How a worker is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Gets legs.
    Healthy,
    /// Gets legs only when nobody is healthy.
    Suspect,
    /// Gets none.
    Down,
}

/// What was learnt about a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A health check was answered 200.
    CheckPassed,
    /// A health check was answered otherwise, or not in time.
    CheckFailed,
    /// A leg could not connect, was cut off, or timed out.
    LegFailed,
}

/// The health of one worker.
#[derive(Debug, Clone)]
pub struct Health {
    config: HealthConfig,
    status: Status,
    /// Checks in a row that speak against the status.
    contrary: u32,
}

impl Health {
    /// A worker of which nothing is known yet.
    pub fn new(config: HealthConfig) -> Self {
        Self { config, status: Status::Suspect, contrary: 0 }
    }

    /// How the worker is seen now.
    pub fn status(&self) -> Status {
        self.status
    }

    /// Takes in an event; returns the status if it changed.
    pub fn apply(&mut self, event: Event) -> Option<Status> {
        let next = match (self.status, event) {
            (Status::Healthy, Event::CheckFailed) => {
                self.after(self.config.failure_threshold, Status::Down)
            }
            (Status::Down, Event::CheckPassed) => {
                self.after(self.config.success_threshold, Status::Healthy)
            }
            (Status::Healthy | Status::Suspect, Event::LegFailed) => Status::Suspect,
            (Status::Suspect, Event::CheckPassed) => Status::Healthy,
            (Status::Suspect, Event::CheckFailed) => Status::Down,
            (Status::Healthy, Event::CheckPassed) | (Status::Down, Event::CheckFailed) => {
                self.contrary = 0;
                self.status
            }
            // A leg that was under way when the worker went down tells nothing new.
            (Status::Down, Event::LegFailed) => Status::Down,
        };
        if next == self.status {
            return None;
        }
        self.status = next;
        self.contrary = 0;
        Some(next)
    }

    fn after(&mut self, threshold: u32, next: Status) -> Status {
        self.contrary += 1;
        if self.contrary >= threshold { next } else { self.status }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Event::{CheckFailed, CheckPassed, LegFailed};
    use proptest::prelude::*;

    fn after(events: &[Event]) -> Status {
        let mut health = Health::new(HealthConfig::default());
        for &event in events {
            health.apply(event);
        }
        health.status()
    }

    #[test]
    fn a_new_worker_is_suspect_until_the_first_check() {
        assert_eq!(after(&[]), Status::Suspect);
        assert_eq!(after(&[CheckPassed]), Status::Healthy);
        assert_eq!(after(&[CheckFailed]), Status::Down);
    }

    #[test]
    fn failures_must_come_in_a_row() {
        assert_eq!(after(&[CheckPassed, CheckFailed, CheckFailed]), Status::Healthy);
        assert_eq!(after(&[CheckPassed, CheckFailed, CheckFailed, CheckFailed]), Status::Down);
        let broken_row = [CheckPassed, CheckFailed, CheckFailed, CheckPassed, CheckFailed];
        assert_eq!(after(&broken_row), Status::Healthy);
    }

    #[test]
    fn a_dead_worker_comes_back_after_two_passes_in_a_row() {
        assert_eq!(after(&[CheckFailed, CheckPassed]), Status::Down);
        assert_eq!(after(&[CheckFailed, CheckPassed, CheckPassed]), Status::Healthy);
        assert_eq!(after(&[CheckFailed, CheckPassed, CheckFailed, CheckPassed]), Status::Down);
    }

    #[test]
    fn a_failed_leg_makes_a_suspect_and_one_check_decides() {
        assert_eq!(after(&[CheckPassed, LegFailed]), Status::Suspect);
        assert_eq!(after(&[CheckPassed, LegFailed, CheckPassed]), Status::Healthy);
        assert_eq!(after(&[CheckPassed, LegFailed, CheckFailed]), Status::Down);
        assert_eq!(after(&[CheckFailed, LegFailed]), Status::Down);
    }

    #[test]
    fn changes_are_told_once() {
        let mut health = Health::new(HealthConfig::default());
        assert_eq!(health.apply(CheckPassed), Some(Status::Healthy));
        assert_eq!(health.apply(CheckPassed), None);
        assert_eq!(health.apply(LegFailed), Some(Status::Suspect));
        assert_eq!(health.apply(LegFailed), None);
    }

    proptest! {
        #[test]
        fn enough_checks_of_one_kind_always_decide(
            history in prop::collection::vec(prop::sample::select(vec![CheckPassed, CheckFailed, LegFailed]), 0..40),
        ) {
            let up = [history.clone(), vec![CheckPassed; 2]].concat();
            prop_assert_eq!(after(&up), Status::Healthy);
            let down = [history, vec![CheckFailed; 3]].concat();
            prop_assert_eq!(after(&down), Status::Down);
        }
    }
}
