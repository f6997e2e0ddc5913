//! From two snapshots of a tracer to growth by stack.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::namer::Namer;
use crate::layout::Class;
use crate::ledger::Share;
use crate::trace::tier::Tier;
use crate::trace::{CallKind, Confidence, Counts, Frame, Span, Traced};

/// What a tracer has seen of a measurement: `stacks.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stacks {
    /// How it was traced.
    pub tier: Tier,
    /// How far the bytes can be trusted.
    pub confidence: Confidence,
    /// System calls seen, in all.
    pub counts: Counts,
    /// Bytes that are in no stack, because there were too many stacks or regions.
    pub untracked_bytes: u64,
    /// What else the reader must know.
    pub remarks: Vec<String>,
    /// Stacks that gained or gave back something, the largest gain first.
    pub stacks: Vec<StackGrowth>,
}

impl Default for Stacks {
    fn default() -> Self {
        Stacks {
            tier: Tier::Proc,
            confidence: Confidence::None,
            counts: Counts::default(),
            untracked_bytes: 0,
            remarks: Vec::new(),
            stacks: Vec::new(),
        }
    }
}

/// What one stack gained while it was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StackGrowth {
    /// The call stack, innermost first.
    pub frames: Vec<Frame>,
    /// Which call it made.
    pub kind: CallKind,
    /// Calls that it has made since the trace began.
    pub maps: u64,
    /// Bytes that it has mapped and not given back (address space).
    pub live_bytes: u64,
    /// Resident bytes gained, by the class that they are counted under.
    pub resident: BTreeMap<Class, i64>,
    /// Whether the bytes are an estimate from a sample of its calls.
    pub estimated: bool,
}

impl StackGrowth {
    /// Growth of one class, for tests and examples.
    pub fn of(frames: Vec<Frame>, class: Class, bytes: i64) -> StackGrowth {
        StackGrowth {
            frames,
            kind: CallKind::Mmap,
            maps: 1,
            live_bytes: bytes.max(0) as u64,
            resident: BTreeMap::from([(class, bytes)]),
            estimated: false,
        }
    }

    /// Resident bytes gained, of every class.
    pub fn gained_bytes(&self) -> i64 {
        self.resident.values().sum()
    }
}

/// A tracer's view at one moment, with the resident bytes of each of its stacks by class, in their order; see
/// [`crate::sampler::Watched::survey`].
#[derive(Debug, Clone, PartialEq)]
pub struct Moment {
    /// What is mapped.
    pub traced: Traced,
    /// How much of it is resident.
    pub resident: Vec<BTreeMap<Class, u64>>,
}

impl Moment {
    /// The spans of each stack, to be surveyed.
    pub fn spans(traced: &Traced) -> Vec<&[Span]> {
        traced.stacks.iter().map(|stack| stack.spans.as_slice()).collect()
    }

    /// Resident bytes by class of the stack at `index`. Where only the largest of its spans are listed, the others are
    /// taken to be as resident as those; where none is, all of it is taken to be, as anonymous memory.
    fn resident_of(&self, index: usize) -> BTreeMap<Class, i64> {
        let stack = &self.traced.stacks[index];
        let listed: u64 = stack.spans.iter().map(Span::len_bytes).sum();
        if listed == 0 {
            return BTreeMap::from([(Class::Anonymous, stack.live_bytes as i64)]);
        }
        let all = stack.live_bytes.max(listed) as f64 / listed as f64;
        let bytes = self.resident.get(index).into_iter().flatten();
        bytes.map(|(class, bytes)| (*class, (*bytes as f64 * all) as i64)).collect()
    }

    fn is_estimate(&self, index: usize) -> bool {
        let stack = &self.traced.stacks[index];
        let listed: u64 = stack.spans.iter().map(Span::len_bytes).sum();
        stack.estimated || listed < stack.live_bytes
    }
}

impl Stacks {
    /// What each stack gained from `start` to `end`, two moments of one trace.
    pub fn between(start: &Moment, end: &Moment) -> Stacks {
        let key = |moment: &Moment, i: usize| {
            let stack = &moment.traced.stacks[i];
            (stack.frames.clone(), stack.kind)
        };
        let mut before: HashMap<(Vec<Frame>, CallKind), BTreeMap<Class, i64>> = HashMap::new();
        for i in 0..start.traced.stacks.len() {
            let known = before.entry(key(start, i)).or_default();
            for (class, bytes) in start.resident_of(i) {
                *known.entry(class).or_default() += bytes;
            }
        }
        let mut stacks: Vec<StackGrowth> = Vec::new();
        for (i, stack) in end.traced.stacks.iter().enumerate() {
            let mut resident = end.resident_of(i);
            for (class, bytes) in before.remove(&key(end, i)).unwrap_or_default() {
                *resident.entry(class).or_default() -= bytes;
            }
            resident.retain(|_, bytes| *bytes != 0);
            stacks.push(StackGrowth {
                frames: stack.frames.clone(),
                kind: stack.kind,
                maps: stack.maps,
                live_bytes: stack.live_bytes,
                resident,
                estimated: end.is_estimate(i),
            });
        }
        // What was there at the start and is gone was given back.
        for ((frames, kind), resident) in before {
            let resident = resident.into_iter().map(|(class, bytes)| (class, -bytes)).collect();
            let growth =
                StackGrowth { frames, kind, maps: 0, live_bytes: 0, resident, estimated: false };
            stacks.push(growth);
        }
        stacks.retain(|stack| !stack.resident.is_empty());
        // In an order of its own, so that the same growth is the same file.
        stacks.sort_by(|a, b| {
            let names = |stack: &StackGrowth| {
                stack.frames.iter().map(ToString::to_string).collect::<Vec<_>>()
            };
            b.gained_bytes().cmp(&a.gained_bytes()).then_with(|| names(a).cmp(&names(b)))
        });
        let Traced { tier, confidence, counts, untracked_bytes, ref remarks, .. } = end.traced;
        Stacks { tier, confidence, counts, untracked_bytes, remarks: remarks.clone(), stacks }
    }

    /// Stacks that mapped memory. Who touched it first is another view of the same bytes.
    pub fn mapped(&self) -> impl Iterator<Item = &StackGrowth> {
        self.stacks.iter().filter(|stack| stack.kind != CallKind::Fault)
    }

    /// Whether anything was seen with stacks.
    pub fn has_stacks(&self) -> bool {
        self.tier != Tier::Proc
    }

    /// The stack that gained most of what belongs to `owner`.
    pub fn largest_of(&self, owner: &str, namer: &Namer<'_>) -> Option<&StackGrowth> {
        let named = |stack: &&StackGrowth| namer.name(&stack.frames).as_deref() == Some(owner);
        self.mapped().filter(named).max_by_key(|stack| stack.gained_bytes())
    }

    /// What goes into the ledger. Anonymous memory goes to its owners by stack; so does what a known owner holds of
    /// memory that only looks like an arena or a thread's stack, by where it lies. Everything else has the name of its
    /// class already.
    pub fn shares(&self, namer: &Namer<'_>) -> Vec<Share> {
        let mut shares: Vec<(Share, i64)> = Vec::new();
        for stack in self.mapped() {
            let known = namer.known(&stack.frames).is_some();
            let Some(owner) = namer.name(&stack.frames) else { continue };
            for (&class, &bytes) in &stack.resident {
                let guessed = matches!(class, Class::Arenas | Class::Stacks);
                if class != Class::Anonymous && !(known && guessed) {
                    continue;
                }
                let same = |(share, _): &&mut (Share, i64)| {
                    share.owner == owner
                        && share.class == class
                        && share.estimated == stack.estimated
                };
                match shares.iter_mut().find(same) {
                    Some((share, largest)) => {
                        share.bytes += bytes;
                        if bytes > *largest {
                            *largest = bytes;
                            share.stack = texts(&stack.frames);
                        }
                    }
                    None => {
                        let (owner, stack_text) = (owner.clone(), texts(&stack.frames));
                        let estimated = stack.estimated;
                        shares.push((
                            Share { owner, class, bytes, estimated, stack: stack_text },
                            bytes,
                        ));
                    }
                }
            }
        }
        // Estimates take what the measured ones leave, the larger ones first.
        shares.sort_by_key(|(share, _)| (share.estimated, std::cmp::Reverse(share.bytes)));
        shares.into_iter().map(|(share, _)| share).collect()
    }

    /// The stack that made `class` grow most, if one did.
    pub fn grower(&self, class: Class) -> Option<Vec<String>> {
        let gained = |stack: &&StackGrowth| stack.resident.get(&class).copied().unwrap_or(0);
        let largest = self.mapped().max_by_key(gained)?;
        (gained(&largest) > 0 && !largest.frames.is_empty()).then(|| texts(&largest.frames))
    }
}

/// The frames as people read them.
pub fn texts(frames: &[Frame]) -> Vec<String> {
    frames.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signature::Known;
    use crate::stacks::fixture::{INVALIDATION_QUEUE, traced};
    use crate::trace::TracedStack;

    const OTHER: &[&str] = &["mmap@libc.so.6", "load_model@app", "main@app"];

    fn moment(stacks: Vec<TracedStack>, resident: &[(Class, u64)]) -> Moment {
        let traced = Traced {
            tier: Tier::Perf,
            stacks,
            counts: Counts::default(),
            confidence: Confidence::Complete,
            untracked_bytes: 0,
            remarks: Vec::new(),
        };
        let resident = resident.iter().map(|&(class, bytes)| BTreeMap::from([(class, bytes)]));
        Moment { traced, resident: resident.collect() }
    }

    #[test]
    fn growth_is_what_is_resident_now_and_was_not_then() {
        let start = moment(
            vec![
                traced(INVALIDATION_QUEUE, &[(0x1000, 0x3000)]),
                traced(OTHER, &[(0x9000, 0xb000)]),
            ],
            &[(Class::Anonymous, 0x2000), (Class::Anonymous, 0x1000)],
        );
        let end = moment(
            vec![traced(INVALIDATION_QUEUE, &[(0x1000, 0x9000)])],
            &[(Class::Anonymous, 0x7000)],
        );
        let stacks = Stacks::between(&start, &end);
        let gained: Vec<i64> = stacks.stacks.iter().map(StackGrowth::gained_bytes).collect();
        assert_eq!(gained, [0x5000, -0x1000]);
        let known = Known::builtin();
        let namer = known.namer(None);
        let shares = stacks.shares(&namer);
        let owners: Vec<(&str, i64)> =
            shares.iter().map(|share| (share.owner.as_str(), share.bytes)).collect();
        assert_eq!(
            owners,
            [("UCX registration cache, invalidation queue", 0x5000), ("load_model (app)", -0x1000)]
        );
        assert!(shares[0].stack[3].starts_with("ucs_mpool_grow (libucs.so.0.0.0+0x"), "{shares:?}");
        assert_eq!(stacks.largest_of(&shares[0].owner, &namer), Some(&stacks.stacks[0]));
    }

    #[test]
    fn spans_that_are_not_listed_are_as_resident_as_those_that_are() {
        let mut many = traced(OTHER, &[(0x1000, 0x5000)]);
        many.live_bytes = 0x10000;
        let mut sampled = traced(INVALIDATION_QUEUE, &[]);
        (sampled.live_bytes, sampled.estimated) = (0x700, true);
        let end = moment(vec![many, sampled], &[(Class::Anonymous, 0x2000)]);
        let stacks = Stacks::between(&moment(Vec::new(), &[]), &end);
        let gained: Vec<(i64, bool)> =
            stacks.stacks.iter().map(|stack| (stack.gained_bytes(), stack.estimated)).collect();
        assert_eq!(gained, [(0x8000, true), (0x700, true)]);
    }

    #[test]
    fn what_has_the_name_of_its_class_stays_with_it() {
        let end = moment(
            vec![
                traced(OTHER, &[(0x1000, 0x5000)]),
                traced(INVALIDATION_QUEUE, &[(0x6000, 0x9000)]),
            ],
            &[(Class::Heap, 0x4000), (Class::Stacks, 0x3000)],
        );
        let stacks = Stacks::between(&moment(Vec::new(), &[]), &end);
        let known = Known::builtin();
        let shares = stacks.shares(&known.namer(None));
        assert_eq!(shares.len(), 1, "a pool that lies where stacks lie is no stack: {shares:?}");
        assert_eq!((shares[0].class, shares[0].bytes), (Class::Stacks, 0x3000));
        assert!(stacks.grower(Class::Heap).unwrap()[1].starts_with("load_model"));
        assert_eq!(stacks.grower(Class::KvPool), None);
    }
}
