//! A model of the part of an address space that was mapped while somebody watched: which bytes are live, and who
//! mapped them. Pure.
//!
//! It follows what the kernel does to a range and not what a program asks of a library: a `munmap` may cut a hole into
//! one mapping or go through several, a `MAP_FIXED` replaces what was there, an `mremap` takes its bytes along. What
//! was mapped before the watch began is not in the model, and removing it removes nothing.
//!
//! It is no list of the kernel's mappings: neighbours of one owner are one region here if they touch, whatever their
//! protection is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The upper half of the addresses is the kernel's on every 64-bit machine that Linux runs on.
const MAX_ADDRESS: u64 = i64::MAX as u64;

/// Whole pages, the end excluded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Span {
    /// First address.
    pub start: u64,
    /// First address behind it; above `start`.
    pub end: u64,
}

impl Span {
    /// The pages that `len_bytes` bytes from `start` on lie in; `None` if there are none, or past the last address that
    /// a program may use. `page_bytes` is a power of two.
    pub fn pages(start: u64, len_bytes: u64, page_bytes: u64) -> Option<Span> {
        let end = start.checked_add(len_bytes)?.checked_next_multiple_of(page_bytes)?;
        let start = start - start % page_bytes;
        (start < end && end <= MAX_ADDRESS && len_bytes > 0).then_some(Span { start, end })
    }

    /// Bytes in it.
    pub fn len_bytes(&self) -> u64 {
        self.end - self.start
    }

    /// What lies in both.
    pub fn overlap(&self, other: &Span) -> Option<Span> {
        let (start, end) = (self.start.max(other.start), self.end.min(other.end));
        (start < end).then_some(Span { start, end })
    }
}

/// Regions taken out of a space, in the order of their addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pieces<T>(Vec<(Span, T)>);

impl<T> Default for Pieces<T> {
    fn default() -> Self {
        Pieces(Vec::new())
    }
}

impl<T> Pieces<T> {
    /// Whether nothing was taken out.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes in all.
    pub fn total_bytes(&self) -> u64 {
        self.0.iter().map(|(span, _)| span.len_bytes()).sum()
    }
}

/// What `mremap` was asked for (<https://man7.org/linux/man-pages/man2/mremap.2.html>).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remap {
    /// Where the mapping was.
    pub old_start: u64,
    /// Its length in bytes. 0 asks for a second mapping of the same shared memory.
    pub old_len_bytes: u64,
    /// The length in bytes that it is to have.
    pub new_len_bytes: u64,
    /// MREMAP_DONTUNMAP: the old range stays mapped, its pages gone.
    pub keep_old: bool,
}

/// Live ranges by owner. `T` names an owner and is small.
#[derive(Debug, Clone)]
pub struct Space<T> {
    regions: BTreeMap<u64, (u64, T)>,
    live_bytes: BTreeMap<T, u64>,
    page_bytes: u64,
    heap_end: Option<u64>,
    max_regions: usize,
    untracked_bytes: u64,
}

impl<T: Copy + Ord> Space<T> {
    /// An empty space. It keeps at most `max_regions` regions and counts the bytes of those it refuses.
    pub fn new(page_bytes: u64, max_regions: usize) -> Space<T> {
        Space {
            regions: BTreeMap::new(),
            live_bytes: BTreeMap::new(),
            page_bytes,
            heap_end: None,
            max_regions,
            untracked_bytes: 0,
        }
    }

    /// The pages of a range that a program names; see [`Span::pages`].
    pub fn pages(&self, start: u64, len_bytes: u64) -> Option<Span> {
        Span::pages(start, len_bytes, self.page_bytes)
    }

    /// `owner` has mapped `span`; whatever was there is gone.
    pub fn map(&mut self, span: Span, owner: T) {
        self.unmap(span);
        self.insert(span, owner);
    }

    /// `span` is no longer mapped. Returns what the model knew of it, for [`Space::restore`] and [`Space::remap`].
    pub fn unmap(&mut self, span: Span) -> Pieces<T> {
        // A region that starts before the span may reach into it.
        let first = self
            .regions
            .range(..span.start)
            .next_back()
            .filter(|(_, (end, _))| *end > span.start)
            .map_or(span.start, |(start, _)| *start);
        let touched: Vec<(u64, u64, T)> =
            self.regions.range(first..span.end).map(|(&s, &(e, owner))| (s, e, owner)).collect();
        let mut pieces = Vec::with_capacity(touched.len());
        for (start, end, owner) in touched {
            self.regions.remove(&start);
            let inside = Span { start: start.max(span.start), end: end.min(span.end) };
            self.count(owner, -(inside.len_bytes() as i64));
            pieces.push((inside, owner));
            if start < span.start {
                self.regions.insert(start, (span.start, owner));
            }
            if end > span.end {
                self.regions.insert(span.end, (end, owner));
            }
        }
        Pieces(pieces)
    }

    /// Puts `pieces` back: the call that should have removed them failed.
    pub fn restore(&mut self, pieces: Pieces<T>) {
        for (span, owner) in pieces.0 {
            self.map(span, owner);
        }
    }

    /// An `mremap` has returned `to`; `lifted` is what [`Space::unmap`] gave for its old range when it began. What was
    /// there keeps its owner, growth belongs to `grower`.
    pub fn remap(&mut self, lifted: Pieces<T>, asked: Remap, to: u64, grower: T) {
        if asked.keep_old {
            self.restore(lifted.clone());
        }
        let round = |len: u64| Span::pages(0, len, self.page_bytes).map_or(0, |span| span.end);
        let (old, new) = (round(asked.old_len_bytes), round(asked.new_len_bytes));
        let Some(target) = self.pages(to, asked.new_len_bytes) else { return };
        self.unmap(target);
        for (span, owner) in lifted.0 {
            let offset = span.start - asked.old_start.min(span.start);
            let Some(moved) = self.pages(to.saturating_add(offset), span.len_bytes()) else {
                continue;
            };
            // What a shrinking mremap cuts off is gone.
            if let Some(kept) = moved.overlap(&target) {
                self.insert(kept, owner);
            }
        }
        if new > old
            && let Some(growth) = self.pages(to.saturating_add(old), new - old)
        {
            self.map(growth, grower);
        }
    }

    /// Where the heap that `brk` moves ends at the start of the watch.
    pub fn set_heap_end(&mut self, end: u64) {
        self.heap_end = Some(end);
    }

    /// `brk` has returned `end`, which is the old end if it failed. Growth belongs to `owner`.
    pub fn brk(&mut self, end: u64, owner: T) {
        let old = self.heap_end.replace(end).unwrap_or(end);
        let round = |at: u64| {
            let at = at.min(MAX_ADDRESS - self.page_bytes);
            at.next_multiple_of(self.page_bytes)
        };
        let (old, end) = (round(old), round(end));
        if old < end {
            self.map(Span { start: old, end }, owner);
        } else if end < old {
            self.unmap(Span { start: end, end: old });
        }
    }

    /// Forgets everything: the process has called `exec`.
    pub fn clear(&mut self) {
        self.regions.clear();
        self.live_bytes.clear();
        self.heap_end = None;
    }

    /// Drops what lies in none of `mapped` (ordered, not overlapping), and says how many bytes that were: they were
    /// unmapped by calls that nobody saw.
    pub fn retain(&mut self, mapped: &[Span]) -> u64 {
        let mut dropped = 0;
        let mut gap_start = 0;
        let ends = mapped.iter().copied().chain([Span { start: u64::MAX, end: u64::MAX }]);
        for span in ends {
            if gap_start < span.start {
                dropped += self.unmap(Span { start: gap_start, end: span.start }).total_bytes();
            }
            gap_start = gap_start.max(span.end);
        }
        dropped
    }

    /// Live regions, in the order of their addresses.
    pub fn regions(&self) -> impl Iterator<Item = (Span, T)> {
        self.regions.iter().map(|(&start, &(end, owner))| (Span { start, end }, owner))
    }

    /// How many live regions there are.
    pub fn region_count(&self) -> usize {
        self.regions.len()
    }

    /// Live bytes of `owner`.
    pub fn live_bytes(&self, owner: T) -> u64 {
        self.live_bytes.get(&owner).copied().unwrap_or(0)
    }

    /// Live bytes of everybody.
    pub fn total_bytes(&self) -> u64 {
        self.live_bytes.values().sum()
    }

    /// Owners that hold something.
    pub fn owners(&self) -> impl Iterator<Item = (T, u64)> {
        self.live_bytes.iter().map(|(&owner, &bytes)| (owner, bytes))
    }

    /// Bytes that were mapped when there were too many regions to keep another.
    pub fn untracked_bytes(&self) -> u64 {
        self.untracked_bytes
    }

    /// Inserts into a range that is free, and joins it with neighbours of the same owner.
    fn insert(&mut self, span: Span, owner: T) {
        let mut joined = span;
        if let Some((&start, &(end, neighbour))) = self.regions.range(..span.start).next_back()
            && end == span.start
            && neighbour == owner
        {
            joined.start = start;
        }
        if let Some(&(end, neighbour)) = self.regions.get(&span.end)
            && neighbour == owner
        {
            self.regions.remove(&span.end);
            joined.end = end;
        }
        if joined == span && self.regions.len() >= self.max_regions {
            self.untracked_bytes += span.len_bytes();
            return;
        }
        self.regions.insert(joined.start, (joined.end, owner));
        self.count(owner, span.len_bytes() as i64);
    }

    fn count(&mut self, owner: T, change: i64) {
        let bytes = self.live_bytes.entry(owner).or_default();
        *bytes = bytes.checked_add_signed(change).expect("an owner loses no more than it holds");
        if *bytes == 0 {
            self.live_bytes.remove(&owner);
        }
    }
}

#[cfg(test)]
mod tests;
