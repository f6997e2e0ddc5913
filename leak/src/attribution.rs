//! Who holds growth, and which known bug it looks like: all evidence put into one ledger, the strongest first. Pure.

use std::collections::BTreeMap;

use crate::descriptors::Descriptors;
use crate::evidence::claims;
use crate::gauge::{Axes, Gauge};
use crate::layout::{Class, Layout};
use crate::ledger::{Balance, Basis, Ledger, Owner, beside};
use crate::result::SignatureRef;
use crate::sample::Sample;
use crate::signature::{Finding, Known, Proof, Signature, recognise};
use crate::stacks::namer::Namer;
use crate::stacks::{StackGrowth, Stacks};
use crate::verdict::Judgement;
use crate::version::UcxVersion;

/// What growth is attributed by.
#[derive(Debug, Clone, Copy)]
pub struct Grounds<'a> {
    /// What was judged, over which work.
    pub axes: Axes,
    /// What came of it.
    pub judgement: &'a Judgement,
    /// Units of work from the first sample to the last.
    pub units: f64,
    /// The first and the last sample of the process, if its counters are known.
    pub samples: Option<(&'a Sample, &'a Sample)>,
    /// Its memory by class at the start and at the end.
    pub layouts: (&'a Layout, &'a Layout),
    /// Its open file descriptors at the start and at the end.
    pub descriptors: &'a (Descriptors, Descriptors),
    /// What a tracer has seen, if one ran.
    pub stacks: Option<&'a Stacks>,
    /// The version that the UCX library reports; `None` where none runs, or none that tells.
    pub ucx: Option<UcxVersion>,
    /// Environment of the process, as far as it is known.
    pub env: &'a BTreeMap<String, String>,
}

/// Who holds it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Attribution {
    /// Who holds what the gauge counts, the largest first. Where it counts memory, these are the rows of `memory`.
    pub owners: Vec<Owner>,
    /// Share of it that named owners hold; `None` if nothing grew.
    pub explained_ratio: Option<f64>,
    /// Growth of resident memory by owner, whatever the gauge counts.
    pub memory: Balance,
    /// The bug that it looks like.
    pub signature: Option<Signature>,
    /// What it was recognised by.
    pub proof: Option<Proof>,
    /// The stack that mapped most of what the first owner of memory gained; `None` if it is not known by stack.
    pub top: Option<StackGrowth>,
}

impl Attribution {
    /// The bug, as result files refer to it.
    pub fn reference(&self) -> Option<SignatureRef> {
        let signature = self.signature.as_ref()?;
        Some(SignatureRef { proof: self.proof, ..signature.reference() })
    }
}

/// Lays growth at its owners' doors. What a tracer saw comes before counters of the process that prove what their things
/// take; a recognised bug then claims what it costs per unit, for all units measured. The ledger gives nobody what
/// somebody on stronger evidence has.
pub fn attribute(known: &Known, grounds: &Grounds<'_>) -> Attribution {
    let namer = known.namer(grounds.ucx);
    let mut memory = memory(known, &namer, grounds);
    let counted = counted(grounds);
    let owners = |memory: &Ledger| counted.as_ref().unwrap_or(memory).owners();
    let top = top(&memory, &namer, grounds.stacks);
    let first = owners(&memory).into_iter().find(|owner| owner.share > 0.0);
    let recognised = grounds.judgement.estimate.as_ref().and_then(|estimate| {
        let finding = Finding {
            verdict: grounds.judgement.verdict.kind(),
            slope: estimate.slope,
            axes: grounds.axes,
            top_class: Ledger::top_class(grounds.layouts.0, grounds.layouts.1),
            owner: first.as_ref().map(|owner| owner.name.as_str()),
            // Of what is no memory, a stack that maps memory says nothing.
            stack: top
                .as_ref()
                .filter(|_| grounds.axes.gauge.is_bytes())
                .map(|stack| stack.frames.as_slice()),
            ucx: grounds.ucx,
            env: grounds.env,
        };
        let (signature, proof) = recognise(&known.signatures, &finding)?;
        if let Some(class) = signature.class.filter(|_| proof == Proof::Growth) {
            let bytes = estimate.slope.value * grounds.units;
            memory.claim(&signature.owner, class, bytes, Basis::Amount);
        }
        Some((signature.clone(), proof))
    });
    let (signature, proof) = recognised.unzip();
    let explained_ratio = counted.as_ref().unwrap_or(&memory).explained_ratio();
    Attribution {
        owners: owners(&memory),
        explained_ratio,
        memory: Balance {
            beside: grounds.samples.map_or_else(Vec::new, |(first, last)| beside(first, last)),
            ..memory.balance()
        },
        signature,
        proof,
        top,
    }
}

/// Growth of memory by owner, as far as address space, stacks and counters tell.
fn memory(known: &Known, namer: &Namer<'_>, grounds: &Grounds<'_>) -> Ledger {
    let mut ledger = Ledger::between(grounds.layouts.0, grounds.layouts.1);
    if let Some(stacks) = grounds.stacks {
        stacks.shares(namer).iter().for_each(|share| ledger.trace(share));
        for class in Class::ALL.into_iter().filter(|class| *class != Class::Anonymous) {
            if let Some(stack) = stacks.grower(class) {
                ledger.grown_by(class, stack);
            }
        }
    }
    if let Some((first, last)) = grounds.samples {
        for claim in claims(&known.evidence, grounds.ucx, first, last) {
            ledger.claim(claim.owner, claim.class, claim.bytes, Basis::Counter);
        }
    }
    ledger
}

/// Growth of what the gauge counts, where that is not memory that the process holds.
fn counted(grounds: &Grounds<'_>) -> Option<Ledger> {
    let gauge = grounds.axes.gauge;
    if matches!(gauge, Gauge::Held | Gauge::Rss) {
        return None;
    }
    let (first, last) = grounds.samples?;
    Some(Ledger::counted(gauge, first, last, grounds.descriptors))
}

/// The stack behind the first owner of memory, if that is known by stack.
fn top(ledger: &Ledger, namer: &Namer<'_>, stacks: Option<&Stacks>) -> Option<StackGrowth> {
    let first = ledger.owners().into_iter().find(|owner| owner.share > 0.0)?;
    if first.basis != Basis::Stack {
        return None;
    }
    stacks?.largest_of(&first.name, namer).cloned()
}

#[cfg(test)]
mod tests;
