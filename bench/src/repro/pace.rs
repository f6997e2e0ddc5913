//! When a measurement has seen enough. Pure.

use pdlab_leak::scenario::Measure;
use pdlab_leak::verdict::VerdictKind;
use serde::{Deserialize, Serialize};

/// Bounds of a measurement.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// Units to measure in any case.
    pub units: f64,
    /// Units at which an undecided measurement gives up.
    pub give_up_units: f64,
    /// Seconds at which any measurement ends.
    pub max_s: f64,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Measure on.
    GoOn,
    /// The work is done and the verdict stands.
    Enough,
    /// The verdict is open, and the scenario's limit on work is reached.
    WorkLimit,
    /// The scenario's limit on time is reached.
    TimeLimit,
}

impl Pace {
    /// The bounds that a scenario sets.
    pub fn of(measure: &Measure) -> Self {
        Self {
            units: measure.units as f64,
            give_up_units: measure.give_up_units() as f64,
            max_s: measure.max_seconds,
        }
    }

    /// What to do after `units` of work in `elapsed_s`, with the verdict so far (`None` before
    /// the first).
    pub fn step(&self, units: f64, elapsed_s: f64, verdict: Option<VerdictKind>) -> Step {
        let decided = verdict.is_some_and(|verdict| verdict != VerdictKind::Inconclusive);
        if units >= self.units && decided {
            Step::Enough
        } else if units >= self.give_up_units && verdict.is_some() {
            Step::WorkLimit
        } else if elapsed_s >= self.max_s {
            Step::TimeLimit
        } else {
            Step::GoOn
        }
    }

    /// Whether it is time to judge: once a second for those who watch, and at once when the work
    /// is done or the time is up. `last` is (units, seconds) of the judgement before.
    pub fn judge_now(&self, last: Option<(f64, f64)>, units: f64, elapsed_s: f64) -> bool {
        /// Seconds between judgements: an estimate takes some milliseconds, a person more.
        const EVERY_S: f64 = 1.0;
        let (last_units, last_s) = last.unwrap_or((0.0, 0.0));
        let crossed = last_units < self.units && units >= self.units;
        crossed || elapsed_s >= last_s + EVERY_S || elapsed_s >= self.max_s
    }

    /// Share of the work that is done, at most 1.
    pub fn progress(&self, units: f64) -> f64 {
        (units / self.units).clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace { units: 100.0, give_up_units: 300.0, max_s: 30.0 };

    #[test]
    fn a_decided_verdict_waits_for_the_work_and_an_open_one_goes_on() {
        use VerdictKind::{Clean, Inconclusive, Leak};
        let step = |units, s, verdict| PACE.step(units, s, verdict);
        assert_eq!(step(99.0, 1.0, Some(Leak)), Step::GoOn);
        assert_eq!(step(100.0, 1.0, None), Step::GoOn);
        assert_eq!(step(100.0, 1.0, Some(Leak)), Step::Enough);
        assert_eq!(step(100.0, 1.0, Some(Clean)), Step::Enough);
        assert_eq!(step(100.0, 1.0, Some(Inconclusive)), Step::GoOn);
        assert_eq!(step(299.0, 29.0, Some(Inconclusive)), Step::GoOn);
        assert_eq!(step(300.0, 29.0, Some(Inconclusive)), Step::WorkLimit);
        assert_eq!(step(50.0, 30.0, Some(Leak)), Step::TimeLimit);
        assert_eq!(step(0.0, 30.0, None), Step::TimeLimit);
    }

    #[test]
    fn judgements_come_every_second_and_when_the_work_is_done() {
        assert!(!PACE.judge_now(None, 10.0, 0.5));
        assert!(PACE.judge_now(None, 10.0, 1.0));
        assert!(!PACE.judge_now(Some((10.0, 1.0)), 20.0, 1.9));
        assert!(PACE.judge_now(Some((10.0, 1.0)), 100.0, 1.1), "the work is done");
        assert!(!PACE.judge_now(Some((100.0, 1.1)), 110.0, 1.2));
        assert!(PACE.judge_now(Some((99.0, 29.9)), 99.0, 30.0), "the time is up");
    }
}
