use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const PAGE: u64 = 4096;
const NO_MEMORY: i64 = -12;

fn book() -> Book {
    Book::new(PAGE, usize::MAX)
}

fn live(book: &Book) -> BTreeMap<(StackId, CallKind), u64> {
    let holdings = book.holdings(None).into_iter();
    holdings.map(|held| ((held.owner.stack, held.owner.kind), held.live_bytes)).collect()
}

/// A call of one thread from begin to end, in the order in which its effects take place.
#[derive(Debug, Clone)]
enum Did {
    Map { page: u64, count: u64, stack: StackId },
    Unmap { page: u64, count: u64 },
    Grow { page: u64, count: u64, by: u64, to: u64, stack: StackId },
    Fail { page: u64, count: u64 },
}

fn did() -> impl Strategy<Value = Did> {
    let (page, count, stack) = (0u64..40, 1u64..8, 0u32..3);
    prop_oneof![
        4 => (page.clone(), count.clone(), stack.clone())
            .prop_map(|(page, count, stack)| Did::Map { page, count, stack }),
        3 => (page.clone(), count.clone()).prop_map(|(page, count)| Did::Unmap { page, count }),
        2 => (page.clone(), count.clone(), 1u64..4, 100u64..140, stack)
            .prop_map(|(page, count, by, to, stack)| Did::Grow { page, count, by, to, stack }),
        1 => (page, count).prop_map(|(page, count)| Did::Fail { page, count }),
    ]
}

impl Did {
    fn call(&self) -> (Call, StackId, Returned, i64) {
        match *self {
            Did::Map { page, count, stack } => {
                let len_bytes = count * PAGE - 1;
                (Call::Mmap { len_bytes }, stack, Returned::Mmap, (page * PAGE) as i64)
            }
            Did::Unmap { page, count } => {
                let (start, len_bytes) = (page * PAGE, count * PAGE);
                (Call::Munmap { start, len_bytes }, 0, Returned::Munmap, 0)
            }
            Did::Grow { page, count, by, to, stack } => {
                let asked = Remap {
                    old_start: page * PAGE,
                    old_len_bytes: count * PAGE,
                    new_len_bytes: (count + by) * PAGE,
                    keep_old: false,
                };
                (Call::Mremap(asked), stack, Returned::Mremap, (to * PAGE) as i64)
            }
            Did::Fail { page, count } => {
                let (start, len_bytes) = (page * PAGE, count * PAGE);
                (Call::Munmap { start, len_bytes }, 0, Returned::Munmap, NO_MEMORY)
            }
        }
    }

    fn on(&self, pages: &mut BTreeMap<u64, (StackId, CallKind)>) {
        match *self {
            Did::Map { page, count, stack } => {
                pages.extend((page..page + count).map(|page| (page, (stack, CallKind::Mmap))));
            }
            Did::Unmap { page, count } => (page..page + count).for_each(|page| {
                pages.remove(&page);
            }),
            Did::Grow { page, count, by, to, stack } => {
                let moved: Vec<_> = (page..page + count).map(|page| pages.remove(&page)).collect();
                (to..to + count + by).for_each(|page| {
                    pages.remove(&page);
                });
                for (i, owner) in moved.into_iter().enumerate() {
                    if let Some(owner) = owner {
                        pages.insert(to + i as u64, owner);
                    }
                }
                pages.extend(
                    (to + count..to + count + by).map(|page| (page, (stack, CallKind::Mremap))),
                );
            }
            Did::Fail { .. } => {}
        }
    }
}

proptest! {
    /// Threads take turns, every call is seen by one event or by two, and some begin and never return.
    #[test]
    fn calls_leave_what_a_page_by_page_model_says(
        calls in proptest::collection::vec((did(), 0u32..3, any::<bool>()), 0..60),
    ) {
        let mut pages = BTreeMap::new();
        let mut book = book();
        for (did, tid, twice) in &calls {
            let (call, stack, returned, value) = did.call();
            for _ in 0..1 + u8::from(*twice) {
                book.step(*tid, Step::Enter(call, stack));
            }
            for _ in 0..1 + u8::from(*twice) {
                book.step(*tid, Step::Exit(returned, value));
            }
            did.on(&mut pages);
        }
        let mut expected = BTreeMap::new();
        for owner in pages.values() {
            *expected.entry(*owner).or_insert(0) += PAGE;
        }
        prop_assert_eq!(live(&book), expected);
        let counts = book.counts();
        prop_assert_eq!(counts.mmaps + counts.munmaps + counts.mremaps, calls.len() as u64);
    }

    #[test]
    fn any_numbers_are_taken(
        steps in proptest::collection::vec((any::<[u64; 3]>(), 0u8..7, any::<i64>()), 0..40),
    ) {
        let mut book = Book::new(PAGE, 16);
        for ([a, b, c], kind, value) in steps {
            let step = match kind {
                0 => Step::Enter(Call::Mmap { len_bytes: a }, 1),
                1 => Step::Enter(Call::Munmap { start: a, len_bytes: b }, 1),
                2 => Step::Enter(Call::Mremap(Remap {
                    old_start: a, old_len_bytes: b, new_len_bytes: c, keep_old: a % 2 == 0,
                }), 1),
                3 => Step::Enter(Call::Brk, 1),
                4 => Step::Exit([Returned::Mmap, Returned::Munmap, Returned::Mremap, Returned::Brk][b as usize % 4], value),
                5 => Step::Fault { address: a, stack: 1, weight: b as u32 },
                _ => Step::End,
            };
            book.step(c as u32 % 2, step);
        }
        let _ = book.holdings(Some(1));
    }
}

#[test]
fn a_range_that_another_thread_gets_before_munmap_returns_is_its_own() {
    let mut book = book();
    let len_bytes = 4 * PAGE;
    book.step(1, Step::Enter(Call::Mmap { len_bytes }, 1));
    book.step(1, Step::Exit(Returned::Mmap, 0x10_0000));
    book.step(1, Step::Enter(Call::Munmap { start: 0x10_0000, len_bytes }, 1));
    book.step(2, Step::Enter(Call::Mmap { len_bytes }, 2));
    book.step(2, Step::Exit(Returned::Mmap, 0x10_0000));
    book.step(1, Step::Exit(Returned::Munmap, 0));
    assert_eq!(live(&book), BTreeMap::from([((2, CallKind::Mmap), len_bytes)]));
}

#[test]
fn samples_share_what_is_mapped_and_was_not_followed() {
    let mut book = book();
    let place = |book: &mut Book, start: u64, stack, weight| {
        let span = Span { start, end: start + 16 * PAGE };
        book.step(1, Step::Placed { span, stack, weight });
    };
    // A churn is seen a hundred times, always at its one address; a leak of the same length at three of its own.
    (0..100).for_each(|_| place(&mut book, 0x10_0000, 1, 10));
    (1..4).for_each(|i| place(&mut book, 0x100_0000 * i, 2, 10));
    place(&mut book, 0x900_0000, 3, 1);
    let unknown = 31 * 16 * PAGE;
    let holdings = book.holdings(Some(unknown));
    let of = |stack| holdings.iter().find(|held| held.owner.stack == stack).unwrap();
    assert_eq!((of(3).live_bytes, of(3).estimated), (16 * PAGE, false));
    assert!(of(2).estimated && of(2).live_bytes.abs_diff(unknown * 3 / 4) < PAGE);
    assert!(of(1).live_bytes + of(2).live_bytes <= unknown);
    assert_eq!(of(1).maps, 1_000);
    assert_eq!(book.counts().mmaps, 1_031);
    // More than the samples stand for is nobody's.
    assert_eq!(
        book.holdings(Some(u64::MAX)).iter().map(|held| held.live_bytes).sum::<u64>(),
        (40 + 1) * 16 * PAGE
    );
    book.retain(&[Span { start: 0x900_0000, end: 0x900_0000 + PAGE }]);
    assert_eq!(live(&book), BTreeMap::from([((3, CallKind::Mmap), PAGE)]));
}

#[test]
fn exec_forgets_what_was_held_and_not_what_was_seen() {
    let mut book = book();
    book.step(1, Step::Enter(Call::Mmap { len_bytes: 1 }, 1));
    book.step(1, Step::Exit(Returned::Mmap, 0x10_0000));
    book.exec();
    assert!(live(&book).is_empty());
    assert_eq!(book.counts().mmaps, 1);
}

#[test]
fn a_page_is_touched_once_and_gone_when_it_is_unmapped() {
    let mut book = book();
    for address in [0x10_0000, 0x10_0010, 0x10_1000] {
        book.step(1, Step::Fault { address, stack: 4, weight: 1 });
    }
    assert_eq!(live(&book), BTreeMap::from([((4, CallKind::Fault), 2 * PAGE)]));
    book.step(1, Step::Enter(Call::Munmap { start: 0x10_0000, len_bytes: PAGE }, 0));
    assert_eq!(live(&book), BTreeMap::from([((4, CallKind::Fault), PAGE)]));
    assert_eq!(book.counts().faults, 3);
}
