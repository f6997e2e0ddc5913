#![doc = include_str!("../STATISTICS.md")]

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::estimate::{Estimate, Series, TooFew, estimate};
use crate::gauge::Gauge;

/// The verdict alone, as files and results write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VerdictKind {
    /// Memory grows with work and does not stop.
    Leak,
    /// Memory does not grow, or by less than the margin.
    Clean,
    /// The data do not decide.
    Inconclusive,
}

impl fmt::Display for VerdictKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            VerdictKind::Leak => "leak",
            VerdictKind::Clean => "clean",
            VerdictKind::Inconclusive => "inconclusive",
        })
    }
}

/// The verdict, with the reason where there is one to give.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Verdict {
    /// Memory grows with work and does not stop.
    Leak,
    /// Memory does not grow, or by less than the margin.
    Clean,
    /// The data do not decide.
    Inconclusive {
        /// What stands in the way.
        why: Doubt,
        /// What would decide it: measure this many times as much work in all.
        more_work_factor: f64,
    },
}

impl Verdict {
    /// The verdict without its reason.
    pub fn kind(&self) -> VerdictKind {
        match self {
            Verdict::Leak => VerdictKind::Leak,
            Verdict::Clean => VerdictKind::Clean,
            Verdict::Inconclusive { .. } => VerdictKind::Inconclusive,
        }
    }
}

/// Why the data do not decide.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Doubt {
    /// Fewer samples than any estimate needs, or no work between them.
    TooFew(TooFew),
    /// The interval is too wide to tell growth from none.
    Noisy,
    /// It grows, but more slowly at the end than at the start: a pool may be filling up.
    Slowing,
    /// It grew in a few steps and was flat between them: they may be the last.
    Stepwise,
    /// It grew less than readings can be trusted for.
    Small,
    /// It shrank: something is still giving memory back, and could hide a leak.
    Falling,
}

/// What counts as clean and what as a leak.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Criteria {
    /// Slopes within this much of zero are clean, in what the gauge counts per unit.
    pub margin_per_unit: f64,
    /// Growth over the run below this is never a leak. See [`Gauge::min_growth`].
    pub min_growth: f64,
}

impl Criteria {
    /// The usual criteria of `gauge` with this margin.
    pub fn new(gauge: Gauge, margin_per_unit: f64) -> Criteria {
        Criteria { margin_per_unit, min_growth: gauge.min_growth() }
    }
}

/// A verdict with the numbers under it.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    /// The verdict.
    pub verdict: Verdict,
    /// The estimate; absent if there was too little to estimate from.
    pub estimate: Option<Estimate>,
}

/// Estimates and judges a series. The same series and seed give the same judgement.
pub fn judge(series: &Series, criteria: &Criteria, seed: u64) -> Judgement {
    match estimate(series, seed) {
        Ok(estimate) => {
            Judgement { verdict: decide(&estimate, criteria), estimate: Some(estimate) }
        }
        Err(too_few) => Judgement {
            verdict: Verdict::Inconclusive { why: Doubt::TooFew(too_few), more_work_factor: 2.0 },
            estimate: None,
        },
    }
}

/// How much slower the second half must certainly be for growth to count as slowing down. Real leaks vary by a few
/// percent between halves, a pool that fills up (exponentially, in the time of the run) by a quarter and more.
const SLOWER: f64 = 0.9;

/// How many times the noise a leak must have grown by.
const NOISES: f64 = 2.0;

/// The rules, in the order in which `STATISTICS.md` gives them and their reasons.
fn decide(e: &Estimate, criteria: &Criteria) -> Verdict {
    let margin = criteria.margin_per_unit;
    let starts = e.tail.low > margin;
    match e.steps {
        Some(steps) if steps.height > margin * e.units => return doubt(Doubt::Stepwise, 2.0),
        Some(_) if !starts => return Verdict::Clean,
        _ => {}
    }
    if (e.slope.within(margin) && !starts) || e.tail.within(margin) {
        return Verdict::Clean;
    }
    if e.slope.high < -margin {
        return doubt(Doubt::Falling, 2.0);
    }
    let growth = e.growth();
    let grows = e.slope.low > 0.0 && e.slope.value > margin && growth > NOISES * e.noise;
    if !grows {
        return doubt(Doubt::Noisy, work_for(e, margin));
    }
    if growth < criteria.min_growth {
        return doubt(Doubt::Small, (1.5 * criteria.min_growth / growth).clamp(1.5, 10.0));
    }
    let slows_down = e.tail.high < SLOWER * e.head.low;
    let still_warms_up = e.warmup.at_limit && e.tail.value < SLOWER * e.head.value;
    if slows_down || still_warms_up {
        return doubt(Doubt::Slowing, 2.0);
    }
    let goes_on = e.tail.value >= e.slope.value / 2.0 && e.tail.low > -e.tail.value;
    if goes_on { Verdict::Leak } else { doubt(Doubt::Noisy, work_for(e, margin)) }
}

fn doubt(why: Doubt, more_work_factor: f64) -> Verdict {
    Verdict::Inconclusive { why, more_work_factor }
}

/// How many times as much work it takes until the interval is as narrow as the margin, or as the slope if that is
/// larger. The standard error of a slope falls with the power 3/2 of the length of the run.
fn work_for(e: &Estimate, margin: f64) -> f64 {
    let reach = (e.slope.high - e.slope.low) / 2.0;
    let target = margin.max(e.slope.value.abs()) / 2.0;
    (reach / target).powf(2.0 / 3.0).clamp(1.5, 10.0)
}

#[cfg(test)]
mod tests;
