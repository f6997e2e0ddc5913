use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const PAGE: u64 = 4096;

/// The address space, page by page: too slow for anything, and too simple to be wrong.
#[derive(Default)]
struct Naive {
    pages: BTreeMap<u64, u8>,
    heap_end: u64,
}

impl Naive {
    fn map(&mut self, page: u64, count: u64, owner: u8) {
        for page in page..page + count {
            self.pages.insert(page, owner);
        }
    }

    fn unmap(&mut self, page: u64, count: u64) {
        for page in page..page + count {
            self.pages.remove(&page);
        }
    }

    fn remap(&mut self, from: u64, old: u64, new: u64, to: u64, keep_old: bool, grower: u8) {
        let owners: Vec<Option<u8>> =
            (from..from + old).map(|page| self.pages.get(&page).copied()).collect();
        if !keep_old {
            self.unmap(from, old);
        }
        self.unmap(to, new);
        for (i, owner) in owners.iter().take(new as usize).enumerate() {
            if let Some(owner) = owner {
                self.pages.insert(to + i as u64, *owner);
            }
        }
        for page in old..new {
            self.pages.insert(to + page, grower);
        }
    }

    fn brk(&mut self, end: u64, owner: u8) {
        match end.checked_sub(self.heap_end) {
            Some(growth) => self.map(self.heap_end, growth, owner),
            None => self.unmap(end, self.heap_end - end),
        }
        self.heap_end = end;
    }
}

#[derive(Debug, Clone)]
enum Step {
    Map { page: u64, count: u64, owner: u8 },
    Unmap { page: u64, count: u64 },
    FailedUnmap { page: u64, count: u64 },
    Remap { from: u64, old: u64, new: u64, to: u64, keep_old: bool, owner: u8 },
    FailedRemap { from: u64, old: u64 },
    Brk { end: u64, owner: u8 },
    Exec,
}

/// Pages 100 to 163 are for everything, from 200 on there is the heap.
fn step() -> impl Strategy<Value = Step> {
    let (page, count, owner) = (100u64..148, 1u64..16, 0u8..4);
    prop_oneof![
        6 => (page.clone(), count.clone(), owner.clone())
            .prop_map(|(page, count, owner)| Step::Map { page, count, owner }),
        4 => (page.clone(), count.clone()).prop_map(|(page, count)| Step::Unmap { page, count }),
        1 => (page.clone(), count.clone())
            .prop_map(|(page, count)| Step::FailedUnmap { page, count }),
        3 => (page.clone(), 0u64..16, count.clone(), page.clone(), any::<bool>(), owner.clone())
            .prop_filter_map("ranges of one mremap may not overlap, unless it stays in place", remap),
        1 => (page, count).prop_map(|(from, old)| Step::FailedRemap { from, old }),
        2 => (200u64..232, owner).prop_map(|(end, owner)| Step::Brk { end, owner }),
        1 => Just(Step::Exec),
    ]
}

fn remap((from, old, new, to, keep_old, owner): (u64, u64, u64, u64, bool, u8)) -> Option<Step> {
    let apart = from + old.max(1) <= to || to + new <= from;
    let in_place = from == to && old > 0 && !keep_old;
    let step = Step::Remap { from, old, new, to, keep_old, owner };
    (in_place || (apart && (!keep_old || old == new))).then_some(step)
}

fn pages(page: u64, count: u64) -> Span {
    Span { start: page * PAGE, end: (page + count) * PAGE }
}

proptest! {
    #[test]
    fn it_agrees_with_a_page_by_page_model(steps in proptest::collection::vec(step(), 0..60)) {
        let mut naive = Naive { heap_end: 200, ..Naive::default() };
        let mut space = Space::new(PAGE, usize::MAX);
        space.set_heap_end(200 * PAGE);
        for step in steps {
            match step {
                Step::Map { page, count, owner } => {
                    naive.map(page, count, owner);
                    space.map(pages(page, count), owner);
                }
                Step::Unmap { page, count } => {
                    naive.unmap(page, count);
                    space.unmap(pages(page, count));
                }
                Step::FailedUnmap { page, count } => {
                    let lifted = space.unmap(pages(page, count));
                    space.restore(lifted);
                }
                Step::Remap { from, old, new, to, keep_old, owner } => {
                    naive.remap(from, old, new, to, keep_old, owner);
                    let lifted = space
                        .pages(from * PAGE, old * PAGE)
                        .map(|span| space.unmap(span))
                        .unwrap_or_default();
                    let asked = Remap {
                        old_start: from * PAGE,
                        old_len_bytes: old * PAGE,
                        // The kernel rounds lengths up.
                        new_len_bytes: new * PAGE - 1,
                        keep_old,
                    };
                    space.remap(lifted, asked, to * PAGE, owner);
                }
                Step::FailedRemap { from, old } => {
                    let lifted = space.unmap(pages(from, old));
                    space.restore(lifted);
                }
                Step::Brk { end, owner } => {
                    naive.brk(end, owner);
                    space.brk(end * PAGE, owner);
                }
                Step::Exec => {
                    naive = Naive { heap_end: 200, ..Naive::default() };
                    space.clear();
                    space.set_heap_end(200 * PAGE);
                }
            }
            check(&space, &naive)?;
        }
    }

    #[test]
    fn only_what_is_still_mapped_is_retained(
        mapped in proptest::collection::vec((100u64..148, 1u64..16, 0u8..4), 0..20),
        kept in proptest::collection::btree_set(100u64..170, 0..40),
    ) {
        let mut naive = Naive::default();
        let mut space = Space::new(PAGE, usize::MAX);
        for (page, count, owner) in mapped {
            naive.map(page, count, owner);
            space.map(pages(page, count), owner);
        }
        let before = naive.pages.len() as u64;
        naive.pages.retain(|page, _| kept.contains(page));
        let spans: Vec<Span> = kept.iter().map(|&page| pages(page, 1)).collect();
        let dropped = space.retain(&spans);
        prop_assert_eq!(dropped, (before - naive.pages.len() as u64) * PAGE);
        check(&space, &naive)?;
    }

    #[test]
    fn any_numbers_are_taken(
        start in any::<u64>(), len in any::<u64>(), to in any::<u64>(), new in any::<u64>(),
    ) {
        let mut space = Space::new(PAGE, 8);
        if let Some(span) = space.pages(start, len) {
            space.map(span, 1u8);
            prop_assert_eq!(space.total_bytes(), span.len_bytes());
            let lifted = space.unmap(span);
            let asked =
                Remap { old_start: start, old_len_bytes: len, new_len_bytes: new, keep_old: false };
            space.remap(lifted, asked, to, 2);
        }
        space.brk(to, 3);
        space.brk(start, 3);
    }
}

fn check(space: &Space<u8>, naive: &Naive) -> Result<(), TestCaseError> {
    let mut seen = BTreeMap::new();
    let mut last: Option<(Span, u8)> = None;
    for (span, owner) in space.regions() {
        prop_assert!(span.start < span.end);
        if let Some((before, neighbour)) = last {
            prop_assert!(before.end <= span.start, "regions overlap");
            prop_assert!(
                before.end < span.start || neighbour != owner,
                "neighbours of one owner are one region"
            );
        }
        last = Some((span, owner));
        seen.extend((span.start / PAGE..span.end / PAGE).map(|page| (page, owner)));
    }
    prop_assert_eq!(&seen, &naive.pages);
    for owner in 0..4 {
        let pages = naive.pages.values().filter(|&&o| o == owner).count() as u64;
        prop_assert_eq!(space.live_bytes(owner), pages * PAGE);
    }
    prop_assert_eq!(space.total_bytes(), naive.pages.len() as u64 * PAGE);
    Ok(())
}

#[test]
fn a_hole_leaves_both_ends_and_a_fixed_mapping_takes_its_place() {
    let mut space = Space::new(PAGE, usize::MAX);
    space.map(pages(10, 10), 'a');
    assert_eq!(space.unmap(pages(13, 4)).total_bytes(), 4 * PAGE);
    space.map(pages(12, 3), 'b');
    let regions: Vec<_> = space.regions().collect();
    assert_eq!(regions, [(pages(10, 2), 'a'), (pages(12, 3), 'b'), (pages(17, 3), 'a')]);
    assert_eq!(space.owners().collect::<Vec<_>>(), [('a', 5 * PAGE), ('b', 3 * PAGE)]);
}

#[test]
fn too_many_regions_are_counted_and_not_kept() {
    let mut space = Space::new(PAGE, 2);
    for page in [10, 20, 30, 40] {
        space.map(pages(page, 1), 1u8);
    }
    assert_eq!((space.region_count(), space.untracked_bytes()), (2, 2 * PAGE));
    space.unmap(pages(10, 1));
    space.map(pages(50, 1), 1);
    assert_eq!((space.region_count(), space.untracked_bytes()), (2, 2 * PAGE));
}

#[test]
fn a_heap_that_nobody_told_of_grows_from_its_first_call_on() {
    let mut space = Space::new(PAGE, usize::MAX);
    space.brk(0x10_0000, 1u8);
    assert_eq!(space.total_bytes(), 0);
    space.brk(0x10_0000 + 100, 1);
    assert_eq!(space.total_bytes(), PAGE);
    space.brk(0x10_0000, 1);
    assert_eq!(space.total_bytes(), 0);
}

#[test]
fn holes_make_no_more_regions_than_there_is_room_for() {
    let mut space = Space::new(PAGE, 3);
    space.map(pages(10, 20), 1u8);
    (0..10).for_each(|i| {
        space.unmap(pages(10 + 2 * i, 1));
    });
    assert!(space.region_count() <= 3);
    assert!(space.untracked_bytes() > 0);
    assert!(space.total_bytes() + space.untracked_bytes() >= 10 * PAGE);
}
