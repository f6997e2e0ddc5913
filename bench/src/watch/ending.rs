//! When a watch is over. Pure.

use pdlab_leak::estimate::WANTED_SAMPLES;
use pdlab_leak::verdict::VerdictKind;
use serde::{Deserialize, Serialize};

use super::plan::Plan;

/// Why a watch ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// Ctrl-C, `q`, or a signal.
    Asked,
    /// `--duration` is over.
    Duration,
    /// `--until-verdict`, and it stands.
    Verdict,
    /// The process has ended.
    Exited,
    /// The process may no longer be read, as the message says.
    Lost(String),
}

/// Judgements in a row that must agree before a verdict stands. They come once a second, and one that was open before
/// may be decided by a fluctuation.
const STANDS: u32 = 5;

/// Decides when it is enough.
#[derive(Debug, Clone, Default)]
pub struct Ending {
    verdict: Option<VerdictKind>,
    in_a_row: u32,
}

impl Ending {
    /// Takes note of a judgement on so many readings. Returns the end if it is reached.
    pub fn judged(&mut self, plan: &Plan, verdict: VerdictKind, readings: u64) -> Option<End> {
        self.in_a_row = if self.verdict == Some(verdict) { self.in_a_row + 1 } else { 1 };
        self.verdict = Some(verdict);
        let stands = verdict != VerdictKind::Inconclusive
            && self.in_a_row >= STANDS
            && readings >= WANTED_SAMPLES as u64;
        (plan.until_verdict && stands).then_some(End::Verdict)
    }

    /// The end of a watch that has lasted `elapsed_s`, if it is reached.
    pub fn due(plan: &Plan, elapsed_s: f64) -> Option<End> {
        plan.duration_s.filter(|duration_s| elapsed_s >= *duration_s).map(|_| End::Duration)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::plan::tests::plan;
    use VerdictKind::{Clean, Inconclusive, Leak};
    use pdlab_leak::work::Unit;

    #[test]
    fn a_verdict_must_stand_before_it_ends_the_watch() {
        let plan = Plan { until_verdict: true, ..plan(Unit::Second) };
        let mut ending = Ending::default();
        let mut after = |verdicts: &[VerdictKind], readings| {
            verdicts.iter().fold(None, |_, verdict| ending.judged(&plan, *verdict, readings))
        };
        assert_eq!(after(&[Leak; 4], 100), None);
        assert_eq!(after(&[Inconclusive], 100), None, "it did not stand");
        assert_eq!(after(&[Inconclusive; 50], 100), None);
        assert_eq!(after(&[Leak; 4], 100), None);
        assert_eq!(after(&[Clean; 4], 100), None, "another verdict is no confirmation");
        assert_eq!(after(&[Clean], 100), Some(End::Verdict));
        assert_eq!(after(&[Clean], 39), None, "too few readings");
    }

    #[test]
    fn without_limits_it_goes_on() {
        let plan = plan(Unit::Second);
        let mut ending = Ending::default();
        assert!((0..100).all(|_| ending.judged(&plan, Leak, 1000).is_none()));
        assert_eq!(Ending::due(&plan, 1e9), None);
    }

    #[test]
    fn time_is_up_at_the_duration() {
        let plan = Plan { duration_s: Some(10.0), ..plan(Unit::Second) };
        assert_eq!(Ending::due(&plan, 9.9), None);
        assert_eq!(Ending::due(&plan, 10.0), Some(End::Duration));
    }
}
