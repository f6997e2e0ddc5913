//! Who may touch which bytes of a region. Pure bookkeeping: ranges in, yes or no out.
//!
//! Any number may share a byte, or one may own it. A claim is granted or refused at once, never
//! waited for. Exclusive ranges never overlap, so an ordered map finds a conflict in
//! logarithmic time; shared claims last only as long as one closure runs, so a list is enough.

use std::collections::BTreeMap;
use std::ops::Range;

/// The claims on one region.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    /// Start to end of every exclusively owned range.
    exclusive: BTreeMap<usize, usize>,
    shared: Vec<Range<usize>>,
}

impl Claims {
    /// Claims `range` for reading. False if somebody owns a byte of it.
    pub(crate) fn share(&mut self, range: &Range<usize>) -> bool {
        if range.is_empty() {
            return true;
        }
        if self.owned(range) {
            return false;
        }
        self.shared.push(range.clone());
        true
    }

    /// Gives back one claim that `share` granted.
    pub(crate) fn unshare(&mut self, range: &Range<usize>) {
        if let Some(index) = self.shared.iter().position(|held| held == range) {
            self.shared.swap_remove(index);
        }
    }

    /// Claims all of `ranges` for writing, or none and says which one is taken. They must be
    /// sorted, not empty and without overlap, as [`normalize`] leaves them.
    pub(crate) fn own(&mut self, ranges: &[Range<usize>]) -> Result<(), Range<usize>> {
        let taken = ranges
            .iter()
            .find(|range| self.owned(range) || self.shared.iter().any(|held| overlap(held, range)));
        if let Some(range) = taken {
            return Err(range.clone());
        }
        self.exclusive.extend(ranges.iter().map(|range| (range.start, range.end)));
        Ok(())
    }

    /// Gives back what `own` granted.
    pub(crate) fn disown(&mut self, ranges: &[Range<usize>]) {
        for range in ranges {
            self.exclusive.remove(&range.start);
        }
    }

    /// Whether nobody claims a byte.
    pub(crate) fn is_empty(&self) -> bool {
        self.exclusive.is_empty() && self.shared.is_empty()
    }

    fn owned(&self, range: &Range<usize>) -> bool {
        // Of the ranges that begin before ours ends, the last one reaches furthest.
        self.exclusive.range(..range.end).next_back().is_some_and(|(_, end)| *end > range.start)
    }
}

/// Sorts ranges, drops empty ones and joins neighbours, so that a read of adjacent blocks is one
/// claim. If two of them overlap, that one is the error.
pub(crate) fn normalize(mut ranges: Vec<Range<usize>>) -> Result<Vec<Range<usize>>, Range<usize>> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_unstable_by_key(|range| range.start);
    let mut joined: Vec<Range<usize>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start < last.end => return Err(range),
            Some(last) if range.start == last.end => last.end = range.end,
            _ => joined.push(range),
        }
    }
    Ok(joined)
}

fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BYTES: usize = 48;

    #[derive(Clone, Debug)]
    enum Op {
        Share(Range<usize>),
        Own(Vec<Range<usize>>),
        /// Gives back the n-th live claim, modulo their number.
        Release(usize),
    }

    fn range() -> impl Strategy<Value = Range<usize>> {
        (0..BYTES, 0..12_usize).prop_map(|(start, len)| start..(start + len).min(BYTES))
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            range().prop_map(Op::Share),
            prop::collection::vec(range(), 1..4).prop_map(Op::Own),
            (0..100_usize).prop_map(Op::Release),
        ]
    }

    proptest! {
        /// Against a model that keeps one counter per byte.
        #[test]
        fn agrees_with_a_counter_per_byte(ops in prop::collection::vec(op(), 0..80)) {
            let mut claims = Claims::default();
            let mut readers = [0_u32; BYTES];
            let mut owners = [0_u32; BYTES];
            let mut live: Vec<Op> = Vec::new();
            for op in ops {
                match op {
                    Op::Share(range) => {
                        let free = range.clone().all(|byte| owners[byte] == 0);
                        prop_assert_eq!(claims.share(&range), free);
                        if free {
                            range.clone().for_each(|byte| readers[byte] += 1);
                            live.push(Op::Share(range));
                        }
                    }
                    Op::Own(ranges) => {
                        let mut wanted = [0_u32; BYTES];
                        ranges.iter().cloned().flatten().for_each(|byte| wanted[byte] += 1);
                        let selfish = wanted.iter().any(|count| *count > 1);
                        let Ok(ranges) = normalize(ranges) else {
                            prop_assert!(selfish);
                            continue;
                        };
                        prop_assert!(!selfish);
                        let bytes = || ranges.iter().cloned().flatten();
                        let free = bytes().all(|byte| owners[byte] + readers[byte] == 0);
                        prop_assert_eq!(claims.own(&ranges).is_ok(), free);
                        if free {
                            bytes().for_each(|byte| owners[byte] += 1);
                            live.push(Op::Own(ranges));
                        }
                    }
                    Op::Release(_) if live.is_empty() => {}
                    Op::Release(n) => match live.swap_remove(n % live.len()) {
                        Op::Share(range) => {
                            claims.unshare(&range);
                            range.for_each(|byte| readers[byte] -= 1);
                        }
                        Op::Own(ranges) => {
                            claims.disown(&ranges);
                            ranges.into_iter().flatten().for_each(|byte| owners[byte] -= 1);
                        }
                        Op::Release(_) => unreachable!("only claims are kept"),
                    },
                }
            }
            for op in live {
                match op {
                    Op::Share(range) => claims.unshare(&range),
                    Op::Own(ranges) => claims.disown(&ranges),
                    Op::Release(_) => unreachable!("only claims are kept"),
                }
            }
            prop_assert!(claims.exclusive.is_empty() && claims.shared.is_empty());
        }
    }

    #[test]
    fn neighbours_become_one_claim() {
        let joined = normalize(vec![8..16, 0..8, 20..20, 16..17, 18..19]);
        assert_eq!(joined, Ok(vec![0..17, 18..19]));
        assert_eq!(normalize(vec![0..9, 8..10]), Err(8..10));
    }
}
