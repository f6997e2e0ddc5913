//! Who holds what the watched process gained, and which known bug it looks like. Pure.

use pdlab_leak::descriptors::Descriptors;
use pdlab_leak::gauge::Gauge;
use pdlab_leak::layout::Layout;
use pdlab_leak::ledger::Ledger;
use pdlab_leak::sample::Sample;
use pdlab_leak::signature::{Finding, Signature, known, recognise};
use pdlab_leak::verdict::Judgement;

use super::plan::Plan;
use crate::repro::attribution::Attribution;

/// What a process holds, at one moment.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// Its memory by class.
    pub layout: Layout,
    /// Its open file descriptors.
    pub descriptors: Descriptors,
}

/// Known bugs of the process's UCX that make the same kind of memory grow, by another unit of work than the one that was
/// measured: they are not recognised by this slope, and would be by one of their own.
pub fn suspects(plan: &Plan, start: &State, end: &State) -> Vec<Signature> {
    let Some(class) = Ledger::top_class(&start.layout, &end.layout) else { return Vec::new() };
    let version = plan.target.ucx.as_deref().and_then(|version| version.parse().ok());
    let fits = |signature: &Signature| {
        let cured = signature.cures.iter().any(|cure| cure.in_force(&plan.target.settings));
        signature.unit != plan.unit
            && signature.class == Some(class)
            && signature.ucx.zip(version).is_some_and(|(range, version)| range.contains(version))
            && !cured
    };
    known().into_iter().filter(fits).collect()
}

/// Lays what was gained from `start` to `end` at its owners' doors. `ends` are the first reading and the last, between
/// which `units` of work were done.
pub fn attribute(
    plan: &Plan,
    judgement: &Judgement,
    states: (&State, &State),
    ends: (&Sample, &Sample),
    units: f64,
) -> Attribution {
    let (start, end) = states;
    let mut ledger = match plan.gauge {
        Gauge::Held | Gauge::Rss => Ledger::between(&start.layout, &end.layout),
        other => {
            let descriptors = (start.descriptors.clone(), end.descriptors.clone());
            Ledger::counted(other, ends.0, ends.1, &descriptors)
        }
    };
    let known = known();
    let signature = judgement.estimate.as_ref().and_then(|estimate| {
        let finding = Finding {
            verdict: judgement.verdict.kind(),
            slope: estimate.slope,
            axes: plan.axes(),
            top_class: Ledger::top_class(&start.layout, &end.layout),
            ucx: plan.target.ucx.as_deref().and_then(|version| version.parse().ok()),
            env: &plan.target.settings,
        };
        let signature = recognise(&known, &finding)?;
        if let Some(class) = signature.class {
            ledger.claim(&signature.owner, class, estimate.slope.value * units);
        }
        Some(signature.clone())
    });
    Attribution { owners: ledger.owners(), explained_ratio: ledger.explained_ratio(), signature }
}
