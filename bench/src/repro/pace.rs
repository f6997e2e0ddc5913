//! When a measurement has seen enough. Pure.

use pdlab_leak::estimate::WANTED_SAMPLES;
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
    /// Samples to take in any case: a fast machine does the work before enough of them are taken,
    /// and work that nobody has looked at decides nothing.
    pub samples: usize,
    /// Seconds at which any measurement ends.
    pub max_s: f64,
}

/// How far a measurement has come.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Progress {
    /// Units of work done.
    pub units: f64,
    /// Samples of the judged process taken.
    pub samples: usize,
    /// Seconds since it began.
    pub elapsed_s: f64,
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
            samples: WANTED_SAMPLES,
            max_s: measure.max_seconds,
        }
    }

    /// What to do now, with the verdict so far (`None` before the first).
    pub fn step(&self, now: Progress, verdict: Option<VerdictKind>) -> Step {
        let decided = verdict.is_some_and(|verdict| verdict != VerdictKind::Inconclusive);
        if self.done(now) && decided {
            Step::Enough
        } else if self.done(now) && now.units >= self.give_up_units && verdict.is_some() {
            Step::WorkLimit
        } else if now.elapsed_s >= self.max_s {
            Step::TimeLimit
        } else {
            Step::GoOn
        }
    }

    /// Whether it is time to judge: once a second for those who watch, and at once when the work
    /// is done or the time is up. `last` is how far it was at the judgement before.
    pub fn judge_now(&self, last: Option<Progress>, now: Progress) -> bool {
        /// Seconds between judgements: an estimate takes some milliseconds, a person more.
        const EVERY_S: f64 = 1.0;
        let last = last.unwrap_or_default();
        let crossed = !self.done(last) && self.done(now);
        crossed || now.elapsed_s >= last.elapsed_s + EVERY_S || now.elapsed_s >= self.max_s
    }

    /// Whether the work is done, and was looked at often enough.
    fn done(&self, now: Progress) -> bool {
        now.units >= self.units && now.samples >= self.samples
    }

    /// Share of the work that is done, at most 1.
    pub fn share(&self, units: f64) -> f64 {
        (units / self.units).clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace { units: 100.0, give_up_units: 300.0, samples: 40, max_s: 30.0 };

    fn at(units: f64, elapsed_s: f64) -> Progress {
        Progress { units, samples: 40, elapsed_s }
    }

    #[test]
    fn a_decided_verdict_waits_for_the_work_and_an_open_one_goes_on() {
        use VerdictKind::{Clean, Inconclusive, Leak};
        let step = |units, s, verdict| PACE.step(at(units, s), verdict);
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
    fn work_that_is_done_faster_than_samples_are_taken_is_not_the_end() {
        use VerdictKind::{Clean, Inconclusive};
        let fast = |samples, elapsed_s| Progress { units: 500.0, samples, elapsed_s };
        assert_eq!(PACE.step(fast(22, 1.1), Some(Inconclusive)), Step::GoOn);
        assert_eq!(PACE.step(fast(39, 1.9), Some(Clean)), Step::GoOn);
        assert!(PACE.judge_now(Some(fast(39, 1.9)), fast(40, 1.95)), "now it was looked at enough");
        assert_eq!(PACE.step(fast(40, 1.95), Some(Clean)), Step::Enough);
        assert_eq!(PACE.step(fast(40, 1.95), Some(Inconclusive)), Step::WorkLimit);
        assert_eq!(PACE.step(fast(22, 30.0), Some(Inconclusive)), Step::TimeLimit);
    }

    #[test]
    fn judgements_come_every_second_and_when_the_work_is_done() {
        assert!(!PACE.judge_now(None, at(10.0, 0.5)));
        assert!(PACE.judge_now(None, at(10.0, 1.0)));
        assert!(!PACE.judge_now(Some(at(10.0, 1.0)), at(20.0, 1.9)));
        assert!(PACE.judge_now(Some(at(10.0, 1.0)), at(100.0, 1.1)), "the work is done");
        assert!(!PACE.judge_now(Some(at(100.0, 1.1)), at(110.0, 1.2)));
        assert!(PACE.judge_now(Some(at(99.0, 29.9)), at(99.0, 30.0)), "the time is up");
    }
}
