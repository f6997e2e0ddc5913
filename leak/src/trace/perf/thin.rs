//! When there are too many calls to follow each of them. Pure.
//!
//! A process that maps and unmaps ten thousands of times per second does so with few lengths, and what it maps that way
//! it soon unmaps; memory that stays is mapped more rarely, and mostly with other lengths. So the most frequent lengths
//! are followed by sample, the others one by one. The kernel picks them out: a filter costs a tenth of a record.

use std::collections::HashMap;

/// How many lengths a filter names at most: the kernel evaluates them one after the other.
const MAX_LENGTHS: usize = 8;

/// Which calls are followed by sample only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Thinning {
    /// Lengths in bytes that are sampled, the most frequent first.
    pub(super) lengths: Vec<u64>,
    /// Of calls with these lengths one in so many is followed.
    pub(super) one_in: u32,
    /// Of all others, one in so many.
    pub(super) rest_one_in: u32,
}

/// Calls seen over some time: mappings by length, and others that are written down with their stack.
#[derive(Debug, Clone, Default)]
pub(super) struct Census {
    calls: HashMap<u64, u64>,
    mappings: u64,
    others: u64,
    /// Calls of either kind that were not written down.
    missed: u64,
}

/// How much faster a process may get when its calls are no longer written down one by one: four records and two copied
/// stacks for an mmap and a munmap take it about twice as long as the calls themselves.
const FASTER: f64 = 3.0;
/// Records below which little is known of those that were not written down: a length that comes once in a thousand calls
/// must not look frequent because it is one of the first.
const ENOUGH: u64 = 512;

impl Census {
    /// A mapping of `len_bytes` was seen that stands for `weight` of its kind.
    pub(super) fn add(&mut self, len_bytes: u64, weight: u32) {
        // More lengths than this are no candidates for a filter.
        if self.calls.len() < 65_536 || self.calls.contains_key(&len_bytes) {
            *self.calls.entry(len_bytes).or_default() += u64::from(weight);
        }
        self.mappings += u64::from(weight);
    }

    /// An mremap or a brk was seen.
    pub(super) fn add_other(&mut self) {
        self.others += 1;
    }

    /// Calls, written down or not.
    pub(super) fn total(&self) -> u64 {
        self.mappings + self.others + self.missed
    }

    /// So many calls were not written down: they are taken to be like those that were, before and after.
    pub(super) fn miss(&mut self, calls: u64) {
        self.missed += calls;
    }

    /// Whether what was written down tells what was not.
    pub(super) fn tells(&self) -> bool {
        self.missed == 0 || self.mappings + self.others >= ENOUGH
    }

    /// What to sample so that stacks of at most `max_per_s` calls are taken per second; `None` if nothing needs to be.
    /// `seconds` is how long the census took.
    pub(super) fn thinning(&self, seconds: f64, max_per_s: u32) -> Option<Thinning> {
        let max = f64::from(max_per_s.max(4));
        let per_s = |calls: u64| calls as f64 / seconds.max(1e-3);
        if per_s(self.total()) <= max {
            return None;
        }
        let known = (self.mappings + self.others).max(1);
        let with_missed =
            |calls: u64| calls + (calls as f64 * self.missed as f64 / known as f64) as u64;
        let mut by_calls: Vec<(u64, u64)> =
            self.calls.iter().map(|(&len, &n)| (len, with_missed(n))).collect();
        by_calls.sort_by_key(|&(len, calls)| (std::cmp::Reverse(calls), len));
        let mut lengths = Vec::new();
        let mappings = with_missed(self.mappings);
        let mut rest = mappings;
        for (len_bytes, calls) in by_calls.into_iter().take(MAX_LENGTHS) {
            // A fifth of the budget leaves the others room to grow.
            if per_s(rest) <= max / 5.0 {
                break;
            }
            lengths.push(len_bytes);
            rest = rest.saturating_sub(calls);
        }
        // A tenth of the budget for what comes and goes, half of it for the rest.
        let one_in = |calls: u64, share: f64| (per_s(calls) / (max * share)).ceil().max(1.0) as u32;
        let faster = if self.missed > 0 { FASTER } else { 1.0 };
        Some(Thinning {
            one_in: one_in(mappings - rest, 0.1 / faster),
            rest_one_in: one_in(rest, 0.5),
            lengths,
        })
    }
}

impl Thinning {
    /// A filter for mappings that are followed one by one; `field` is the length. `None` if that is all of them.
    pub(super) fn others(&self, field: &str) -> Option<String> {
        self.filter(field, "!=", "&&")
    }

    /// A filter for mappings that are sampled. `None` if there are none of them.
    pub(super) fn sampled(&self, field: &str) -> Option<String> {
        self.filter(field, "==", "||")
    }

    /// The kernel refuses a filter without a term.
    fn filter(&self, field: &str, operator: &str, link: &str) -> Option<String> {
        let terms: Vec<String> =
            self.lengths.iter().map(|len| format!("{field} {operator} {len}")).collect();
        (!terms.is_empty()).then(|| terms.join(&format!(" {link} ")))
    }

    /// How many calls one for `len_bytes` stands for.
    pub(super) fn weight(&self, len_bytes: u64) -> u32 {
        if self.lengths.contains(&len_bytes) { self.one_in } else { self.rest_one_in }
    }

    /// What a reader must know: a sentence.
    pub(super) fn remark(&self) -> String {
        let lengths: Vec<String> = self.lengths.iter().map(|len| format!("{len} B")).collect();
        let (sampled, others) = match lengths.as_slice() {
            [] => (String::new(), "mappings"),
            _ => {
                let lengths = lengths.join(", ");
                (format!("of mappings of {lengths} 1 in {} was followed, ", self.one_in), "others")
            }
        };
        let rest = match self.rest_one_in {
            1 => format!("all {others} were followed one by one"),
            n => format!("of all {others} 1 in {n} was followed"),
        };
        format!(
            "Too many calls to follow each: {sampled}{rest}. What is gone is told from /proc/PID/maps; numbers of munmap, \
             mremap and brk calls are estimates."
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_churn_of_one_length_is_sampled_and_the_leak_beside_it_is_not() {
        let mut census = Census::default();
        (0..7_500).for_each(|_| census.add(65_536, 1));
        (0..8).for_each(|_| census.add(151_552, 1));
        let thinning = census.thinning(0.1, 2_000).unwrap();
        assert_eq!(thinning.lengths, [65_536]);
        assert_eq!((thinning.one_in, thinning.rest_one_in), (375, 1));
        assert_eq!(thinning.others("length").as_deref(), Some("length != 65536"));
        assert_eq!((thinning.weight(65_536), thinning.weight(151_552)), (375, 1));
        assert!(thinning.remark().contains("65536 B 1 in 375"), "{}", thinning.remark());
    }

    #[test]
    fn few_calls_are_all_followed() {
        let mut census = Census::default();
        (0..200).for_each(|_| census.add(4_096, 1));
        assert_eq!(census.thinning(0.1, 2_000), None);
        assert!(census.thinning(0.05, 2_000).is_some());
    }

    #[test]
    fn calls_that_were_missed_are_like_the_others() {
        let mut census = Census::default();
        (0..90).for_each(|_| census.add(65_536, 1));
        (0..10).for_each(|_| census.add(4_096, 1));
        census.miss(900);
        assert_eq!(census.total(), 1_000);
        let thinning = census.thinning(0.1, 2_000).unwrap();
        assert_eq!((thinning.lengths, thinning.rest_one_in), (vec![65_536, 4_096], 1));
    }

    #[test]
    fn what_is_missed_first_is_like_what_comes_after() {
        let mut census = Census::default();
        census.miss(3_000);
        census.add(20_480, 1);
        assert!(!census.tells(), "one record says little of three thousand others");
        (1..ENOUGH).for_each(|_| census.add(65_536, 1));
        assert!(census.tells());
        assert_eq!(census.thinning(0.1, 2_000).unwrap().lengths, [65_536]);
    }

    #[test]
    fn where_nothing_but_mremap_is_frequent_every_mapping_is_followed() {
        let mut census = Census::default();
        (0..60).for_each(|_| census.add_other());
        census.add(151_552, 1);
        census.miss(2_000);
        let thinning = census.thinning(0.1, 2_000).unwrap();
        assert_eq!((thinning.one_in, thinning.rest_one_in), (1, 1), "{thinning:?}");
        assert_eq!(thinning.lengths, Vec::<u64>::new());
        assert_eq!((thinning.others("length"), thinning.sampled("length")), (None, None));
        assert!(thinning.remark().contains("each: all mappings were"), "{}", thinning.remark());
    }

    proptest! {
        #[test]
        fn the_budget_is_kept_whatever_the_lengths(
            calls in proptest::collection::vec((1u64..50, 1u32..2_000), 1..100), max in 4u32..5_000,
        ) {
            let mut census = Census::default();
            for &(len, n) in &calls {
                census.add(len, n);
            }
            match census.thinning(1.0, max) {
                None => prop_assert!(census.total() <= u64::from(max)),
                Some(thinning) => {
                    prop_assert!(thinning.lengths.len() <= MAX_LENGTHS);
                    let taken: f64 = calls
                        .iter()
                        .map(|&(len, n)| f64::from(n) / f64::from(thinning.weight(len)))
                        .sum();
                    prop_assert!(taken <= f64::from(max), "{taken} of {max}");
                }
            }
        }
    }
}
