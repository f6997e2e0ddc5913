//! The send queue of one queue pair as we remember it: what was posted and not yet retired, and
//! which of it was asked to report. Pure.
//!
//! A reliable connection carries out its work requests in order, so a completion retires
//! everything that was posted before it: not every request needs a completion of its own. One
//! that fails reports even if it was not asked to, and so does all that is flushed behind it.

use std::collections::VecDeque;

/// A completion at least every so many requests: they keep their place in the device's queue
/// until one behind them has completed.
const SIGNAL_EVERY: usize = 16;

/// Requests of type `T` in the order in which they were posted.
#[derive(Debug)]
pub(super) struct Ring<T> {
    entries: VecDeque<T>,
    /// Sequence number of the first entry.
    first: u64,
    unsignalled: usize,
}

impl<T> Ring<T> {
    pub(super) fn new() -> Self {
        Self { entries: VecDeque::new(), first: 0, unsignalled: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Remembers a request. Returns its number, and whether it must report; the last one of a
    /// batch must, or its end would never be heard of.
    pub(super) fn push(&mut self, entry: T, last_of_batch: bool) -> (u64, bool) {
        let sequence = self.first + self.entries.len() as u64;
        self.entries.push_back(entry);
        self.unsignalled += 1;
        let signalled = last_of_batch || self.unsignalled >= SIGNAL_EVERY;
        if signalled {
            self.unsignalled = 0;
        }
        (sequence, signalled)
    }

    /// A completion for request `sequence`: yields what it retires, oldest first, that one last.
    /// Empty if it was retired before.
    pub(super) fn retire(&mut self, sequence: u64) -> impl Iterator<Item = T> + '_ {
        let count = (sequence + 1).saturating_sub(self.first).min(self.entries.len() as u64);
        self.first += count;
        self.entries.drain(..count as usize)
    }

    /// Forgets everything: no completion will come any more.
    pub(super) fn clear(&mut self) -> impl Iterator<Item = T> + '_ {
        self.first += self.entries.len() as u64;
        self.unsignalled = 0;
        self.entries.drain(..)
    }

    /// Takes back the newest `count` requests: the device has refused them.
    pub(super) fn unpush(&mut self, count: usize) -> impl Iterator<Item = T> + '_ {
        let kept = self.entries.len().saturating_sub(count);
        self.entries.drain(kept..)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_completion_retires_what_was_posted_before_it() {
        let mut ring = Ring::new();
        for (index, name) in ["a", "b", "c", "d"].into_iter().enumerate() {
            let (sequence, signalled) = ring.push(name, name == "c");
            assert_eq!((sequence, signalled), (index as u64, name == "c"));
        }
        assert_eq!(ring.retire(2).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(ring.retire(2).count(), 0);
        assert_eq!(ring.clear().collect::<Vec<_>>(), ["d"]);
        assert_eq!(ring.push("e", true).0, 4);
    }

    #[test]
    fn refused_requests_come_back() {
        let mut ring = Ring::new();
        for n in 0..5 {
            ring.push(n, false);
        }
        assert_eq!(ring.unpush(2).collect::<Vec<_>>(), [3, 4]);
        assert_eq!(ring.push(9, true).0, 3);
        assert_eq!(ring.retire(3).collect::<Vec<_>>(), [0, 1, 2, 9]);
    }

    proptest! {
        /// Every request is retired once and in order, whatever the batches, and no more than
        /// SIGNAL_EVERY in a row go unsignalled.
        #[test]
        fn requests_are_conserved(batches in prop::collection::vec((1..60_usize, any::<bool>()), 1..40)) {
            let mut ring = Ring::new();
            let (mut posted, mut signalled, mut retired) = (0_u64, Vec::new(), Vec::new());
            for (size, complete) in batches {
                for index in 0..size {
                    let (sequence, signals) = ring.push(posted, index + 1 == size);
                    prop_assert_eq!(sequence, posted);
                    posted += 1;
                    if signals {
                        signalled.push(sequence);
                    }
                }
                prop_assert_eq!(signalled.last(), Some(&(posted - 1)));
                if complete {
                    for sequence in signalled.drain(..) {
                        let got: Vec<u64> = ring.retire(sequence).collect();
                        prop_assert!((1..=SIGNAL_EVERY).contains(&got.len()));
                        retired.extend(got);
                    }
                    prop_assert!(ring.is_empty());
                }
            }
            retired.extend(ring.clear());
            prop_assert!(retired.into_iter().eq(0..posted));
        }
    }
}
