//! Who holds what the watched process gained, and which known bug it looks like. Pure.

use pdlab_leak::attribution::{self, Attribution, Grounds};
use pdlab_leak::descriptors::Descriptors;
use pdlab_leak::ledger::Ledger;
use pdlab_leak::sample::Sample;
use pdlab_leak::sampler::Survey;
use pdlab_leak::signature::{Known, Signature};
use pdlab_leak::stacks::Stacks;
use pdlab_leak::stacks::growth::Moment;
use pdlab_leak::verdict::Judgement;

use super::plan::Plan;

/// What a process holds, at one moment.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// Its memory by class and by address.
    pub survey: Survey,
    /// What a tracer has seen until then, if one runs.
    pub moment: Option<Moment>,
    /// Its open file descriptors.
    pub descriptors: Descriptors,
}

/// Growth by stack between two moments that a tracer has seen.
pub fn stacks(start: &State, end: &State) -> Option<Stacks> {
    Some(Stacks::between(start.moment.as_ref()?, end.moment.as_ref()?))
}

/// Known bugs of the process's UCX that make the same kind of memory grow, by another unit of work than the one that was
/// measured: they are not recognised by this slope, and would be by one of their own.
pub fn suspects(plan: &Plan, start: &State, end: &State) -> Vec<Signature> {
    let Some(class) = Ledger::top_class(&start.survey.layout, &end.survey.layout) else {
        return Vec::new();
    };
    let version = plan.target.ucx.as_deref().and_then(|version| version.parse().ok());
    let fits = |signature: &Signature| {
        let cured = signature.cures.iter().any(|cure| cure.in_force(&plan.target.settings));
        signature.unit != plan.unit
            && signature.class == Some(class)
            && signature.ucx.zip(version).is_some_and(|(range, version)| range.contains(version))
            && !cured
    };
    Known::builtin().signatures.iter().filter(|known| fits(known)).cloned().collect()
}

/// Lays what was gained from `start` to `end` at its owners' doors. `ends` are the first reading and the last, between
/// which `units` of work were done; `stacks` is what a tracer saw between the two, if one ran.
pub fn attribute(
    plan: &Plan,
    judgement: &Judgement,
    states: (&State, &State),
    ends: (&Sample, &Sample),
    units: f64,
    stacks: Option<&Stacks>,
) -> Attribution {
    let (start, end) = states;
    let grounds = Grounds {
        axes: plan.axes(),
        judgement,
        units,
        samples: Some(ends),
        layouts: (&start.survey.layout, &end.survey.layout),
        descriptors: &(start.descriptors.clone(), end.descriptors.clone()),
        stacks,
        ucx: plan.target.ucx.as_deref().and_then(|version| version.parse().ok()),
        env: &plan.target.settings,
    };
    attribution::attribute(Known::builtin(), &grounds)
}
