//! Calls of all threads in the order of their times, and what they leave mapped. Pure: both ways of tracing feed it.
//!
//! A call is seen twice, when it enters the kernel and when it returns, and only then is it known to have done anything.
//! What an `munmap` or `mremap` removes is taken out at its entry, because another thread may get the range before
//! this one returns; if the call fails, it is put back.

use std::collections::{BTreeMap, HashMap};

use super::space::{Pieces, Remap, Space, Span};
use super::traced::{CallKind, Counts};

/// A stack by its number in [`super::stacks::Stacks`].
pub(crate) type StackId = u32;

/// A call as it enters the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Mmap { len_bytes: u64 },
    Munmap { start: u64, len_bytes: u64 },
    Mremap(Remap),
    Brk,
}

/// Something that a thread did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// It has entered the kernel, from this stack.
    Enter(Call, StackId),
    /// The kind of call that it was in has returned this: an address, or a negative error number.
    Exit(Returned, i64),
    /// It is about to map these pages, seen inside of the kernel, from this stack; the call itself is not seen.
    Placed { span: Span, stack: StackId, weight: u32 },
    /// It has touched a page.
    Fault { address: u64, stack: StackId, weight: u32 },
    /// It has ended.
    End,
}

/// Which call has returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Returned {
    Mmap,
    Munmap,
    Mremap,
    Brk,
}

/// Who made a mapping: a stack and the kind of its call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Owner {
    pub(crate) stack: StackId,
    pub(crate) kind: CallKind,
}

/// What an owner holds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Holding {
    pub(crate) owner: Owner,
    pub(crate) live_bytes: u64,
    pub(crate) spans: Vec<Span>,
    pub(crate) maps: u64,
    pub(crate) estimated: bool,
}

/// The error numbers that a system call can return, negated
/// (<https://man7.org/linux/man-pages/man2/syscalls.2.html>: -4095 to -1).
const ERRORS: std::ops::RangeInclusive<i64> = -4095..=-1;

struct Pending {
    call: Call,
    stack: StackId,
    lifted: Pieces<Owner>,
}

/// The account of one address space.
pub(crate) struct Book {
    space: Space<Owner>,
    /// Pages touched, apart from who mapped them.
    touched: Space<Owner>,
    /// Mappings that stand for `weight` of their kind.
    sampled: Space<Owner>,
    weights: HashMap<Owner, u32>,
    pending: HashMap<u32, Pending>,
    maps: HashMap<Owner, u64>,
    counts: Counts,
    page_bytes: u64,
    max_regions: usize,
}

impl Book {
    /// An empty account of at most `max_regions` live regions.
    pub(crate) fn new(page_bytes: u64, max_regions: usize) -> Book {
        let space = || Space::new(page_bytes, max_regions);
        Book {
            space: space(),
            touched: space(),
            sampled: space(),
            weights: HashMap::new(),
            pending: HashMap::new(),
            maps: HashMap::new(),
            counts: Counts::default(),
            page_bytes,
            max_regions,
        }
    }

    /// Where the heap that `brk` moves ends now.
    pub(crate) fn set_heap_end(&mut self, end: u64) {
        self.space.set_heap_end(end);
    }

    /// What was seen.
    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// Bytes that found no room.
    pub(crate) fn untracked_bytes(&self) -> u64 {
        self.space.untracked_bytes() + self.sampled.untracked_bytes()
    }

    /// The process has called `exec`: all of it is gone, and what was seen stays seen.
    pub(crate) fn exec(&mut self) {
        let counts = self.counts;
        *self = Book::new(self.page_bytes, self.max_regions);
        self.counts = counts;
    }

    /// Thread `tid` did something.
    pub(crate) fn step(&mut self, tid: u32, step: Step) {
        match step {
            Step::Enter(call, stack) => self.enter(tid, call, stack),
            Step::Exit(returned, value) => self.exit(tid, returned, value),
            Step::Placed { span, stack, weight } => {
                let owner = Owner { stack, kind: CallKind::Mmap };
                self.counts.mmaps += u64::from(weight);
                self.called(owner);
                if weight > 1 {
                    self.weights.insert(owner, weight);
                    // Whatever was known here is gone, or the kernel would not have chosen the place.
                    self.space.unmap(span);
                    self.sampled.map(span, owner);
                } else {
                    self.sampled.unmap(span);
                    self.space.map(span, owner);
                }
            }
            Step::Fault { address, stack, weight } => {
                self.counts.faults += u64::from(weight);
                if let Some(page) = self.touched.pages(address, 1) {
                    let owner = Owner { stack, kind: CallKind::Fault };
                    self.called(owner);
                    self.weights.insert(owner, weight);
                    self.touched.map(page, owner);
                }
            }
            Step::End => {
                self.pending.remove(&tid);
            }
        }
    }

    fn enter(&mut self, tid: u32, call: Call, stack: StackId) {
        if self.pending.get(&tid).is_some_and(|pending| pending.call == call) {
            // Seen by two events, as happens to a thread that starts while events are opened.
            return;
        }
        let lifted = match call {
            Call::Mmap { .. } => {
                self.counts.mmaps += 1;
                Pieces::default()
            }
            Call::Munmap { start, len_bytes } => {
                self.counts.munmaps += 1;
                self.lift(start, len_bytes)
            }
            Call::Mremap(asked) => {
                self.counts.mremaps += 1;
                self.lift(asked.old_start, asked.old_len_bytes)
            }
            Call::Brk => {
                self.counts.brks += 1;
                Pieces::default()
            }
        };
        self.pending.insert(tid, Pending { call, stack, lifted });
    }

    fn exit(&mut self, tid: u32, returned: Returned, value: i64) {
        let Some(pending) = self.pending.remove(&tid) else { return };
        let failed = ERRORS.contains(&value);
        let Pending { call, stack, lifted } = pending;
        let owner = |kind| Owner { stack, kind };
        match (call, returned) {
            (Call::Mmap { len_bytes }, Returned::Mmap) if !failed => {
                if let Some(span) = self.space.pages(value as u64, len_bytes) {
                    self.called(owner(CallKind::Mmap));
                    self.touched.unmap(span);
                    self.sampled.unmap(span);
                    self.space.map(span, owner(CallKind::Mmap));
                }
            }
            (Call::Munmap { .. } | Call::Mremap(_), Returned::Munmap | Returned::Mremap)
                if failed =>
            {
                self.space.restore(lifted);
            }
            (Call::Mremap(asked), Returned::Mremap) => {
                if asked.new_len_bytes > asked.old_len_bytes {
                    self.called(owner(CallKind::Mremap));
                }
                self.space.remap(lifted, asked, value as u64, owner(CallKind::Mremap));
            }
            (Call::Brk, Returned::Brk) => {
                self.called(owner(CallKind::Brk));
                self.space.brk(value as u64, owner(CallKind::Brk));
            }
            // The records of one call are missing, or its return is of no interest.
            _ => {}
        }
    }

    fn lift(&mut self, start: u64, len_bytes: u64) -> Pieces<Owner> {
        let Some(span) = self.space.pages(start, len_bytes) else { return Pieces::default() };
        self.touched.unmap(span);
        self.sampled.unmap(span);
        self.space.unmap(span)
    }

    fn called(&mut self, owner: Owner) {
        *self.maps.entry(owner).or_default() += 1;
    }

    /// Drops what the process no longer has, by a list of its mappings (ordered, not overlapping).
    pub(crate) fn retain(&mut self, mapped: &[Span]) -> u64 {
        self.touched.retain(mapped);
        self.sampled.retain(mapped);
        self.space.retain(mapped)
    }

    /// What every owner holds. `unknown_bytes` is what is mapped, was not when the trace began, and is in no region
    /// that was followed: owners of sampled mappings share it, in proportion to what their samples stand for and to
    /// no more than that.
    pub(crate) fn holdings(&self, unknown_bytes: Option<u64>) -> Vec<Holding> {
        let mut spans: BTreeMap<Owner, Vec<Span>> = BTreeMap::new();
        for (span, owner) in self.space.regions() {
            spans.entry(owner).or_default().push(span);
        }
        let calls = |owner: Owner| self.maps.get(&owner).copied().unwrap_or(0);
        let weight = |owner: Owner| u64::from(self.weights.get(&owner).copied().unwrap_or(1));
        let exact = self.space.owners().map(|(owner, live_bytes)| Holding {
            owner,
            live_bytes,
            spans: spans.remove(&owner).unwrap_or_default(),
            maps: calls(owner),
            estimated: false,
        });
        let mut holdings: Vec<Holding> = exact.collect();
        let stand_for = |(owner, bytes): (Owner, u64)| (owner, bytes.saturating_mul(weight(owner)));
        let sampled: Vec<(Owner, u64)> = self.sampled.owners().map(stand_for).collect();
        let all: u64 = sampled.iter().map(|(_, bytes)| bytes).sum();
        let share = match unknown_bytes {
            Some(unknown) if unknown < all => unknown as f64 / all as f64,
            _ => 1.0,
        };
        let estimate = |(owner, bytes): (Owner, u64), share: f64| Holding {
            owner,
            live_bytes: (bytes as f64 * share) as u64,
            spans: Vec::new(),
            maps: calls(owner).saturating_mul(weight(owner)),
            estimated: weight(owner) > 1,
        };
        holdings.extend(sampled.into_iter().map(|held| estimate(held, share)));
        holdings.extend(self.touched.owners().map(|held| estimate(stand_for(held), 1.0)));
        holdings.sort_by(|a, b| b.live_bytes.cmp(&a.live_bytes).then(a.owner.cmp(&b.owner)));
        holdings
    }

    /// Bytes that were followed one by one and are live.
    pub(crate) fn followed_bytes(&self) -> u64 {
        self.space.total_bytes()
    }
}

#[cfg(test)]
mod tests;
