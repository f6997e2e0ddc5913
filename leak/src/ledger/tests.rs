use proptest::prelude::*;

use super::*;
use crate::layout::{Range, Segments, Told};
use crate::rdma::Objects;
use crate::sample::{Counts, Memory};
use crate::smaps::{self, Mapping};
use crate::trace::space::Span;

/// A process with every class, in KiB: code 100, heap 200, a stack of 64, an arena of 300, the pool of 1024 and
/// `anonymous` beside it.
fn layout(anonymous: u64, heap: u64, pool_merged: bool) -> Layout {
    let base = 0x7f00_0000_0000u64;
    let arena = 0x7e00_0000_0000u64;
    let line = |start: u64, end: u64, perms: &str, name: &str, rss_kib: u64| {
        let inode = u64::from(name.starts_with('/'));
        format!(
            "{start:x}-{end:x} {perms} 00000000 00:00 {inode} {name}\nRss: {rss_kib} kB\nAnonymous: 0 kB\n"
        )
    };
    let mut text = line(0x1000, 0x100_0000, "r-xp", "/usr/bin/decode", 100);
    text += &line(0x200_0000, 0x300_0000, "rw-p", "[heap]", heap);
    text += &line(arena, arena + 0x10_0000, "rw-p", "", 300);
    text += &line(arena + 0x10_0000, arena + (64 << 20), "---p", "", 0);
    text += &line(base - 0x1000, base, "---p", "", 0);
    text += &line(base, base + 0x20_0000, "rw-p", "", 64);
    let pool = base + 0x1000_0000;
    let below = anonymous * 1024;
    if pool_merged {
        text += &line(pool - below, pool + (1 << 20), "rw-p", "", 1024 + anonymous);
    } else {
        text += &line(pool, pool + (1 << 20), "rw-s", "/memfd:pool (deleted)", 1024);
        text += &line(pool + 0x1000_0000, pool + 0x1000_0000 + below, "rw-p", "", anonymous);
    }
    let range = Range { base: pool, len_bytes: 1 << 20 };
    let told = Told { kv_pool: Some(range), regions: vec![range] };
    let mappings = smaps::read(text.as_bytes()).unwrap();
    Layout::of(&mappings, &Segments::of(&mappings, &told), |part| {
        assert_eq!(part.start, range.base, "only a part of a mapping needs the page table");
        Some(1 << 20)
    })
}

#[test]
fn every_class_is_found_where_it_lies() {
    for merged in [false, true] {
        let layout = layout(512, 200, merged);
        let kib = |class| layout.bytes(class) / 1024;
        assert_eq!(Class::ALL.map(kib), [1024, 0, 200, 300, 64, 512, 100, 0], "merged: {merged}");
        assert_eq!(layout.total_bytes(), (1024 + 200 + 300 + 64 + 512 + 100) * 1024);
    }
}

#[test]
fn the_ledger_balances_and_names_the_largest_first() {
    let (start, end) = (layout(512, 200, true), layout(2512, 100, true));
    let ledger = Ledger::between(&start, &end);
    assert_eq!(ledger.growth(), end.total_bytes() as i64 - start.total_bytes() as i64);
    let owners = ledger.owners();
    assert_eq!(owners.iter().map(|o| o.bytes).sum::<i64>(), ledger.growth());
    assert_eq!(
        (owners[0].name.as_str(), owners[0].bytes, owners[0].share),
        (UNEXPLAINED, 2000 * 1024, 1.0)
    );
    assert_eq!(
        (owners[1].name.as_str(), owners[1].bytes, owners[1].share),
        ("heap", -100 * 1024, 0.0)
    );
    assert_eq!(Ledger::top_class(&start, &end), Some(Class::Anonymous));
}

#[test]
fn unnamed_memory_is_explained_only_as_far_as_it_is_claimed() {
    let (start, end) = (layout(512, 200, true), layout(2512, 200, true));
    let mut ledger = Ledger::between(&start, &end);
    assert_eq!(ledger.explained_ratio(), Some(0.0));
    ledger.claim("the queue", Class::Anonymous, 1500.0 * 1024.0, Basis::Counter);
    assert_eq!(ledger.explained_ratio(), Some(0.75));
    assert_eq!(ledger.owners()[0].name, "the queue");
    assert_eq!(ledger.growth(), 2000 * 1024);
    ledger.claim("greedy", Class::Anonymous, 1e18, Basis::Counter);
    assert_eq!(ledger.explained_ratio(), Some(1.0));
    assert_eq!(ledger.growth(), 2000 * 1024, "nobody can claim more than there is");
}

#[test]
fn where_nothing_grew_there_is_nothing_to_explain() {
    let same = layout(512, 200, true);
    let mut ledger = Ledger::between(&same, &same);
    ledger.claim("nobody", Class::Anonymous, 1e6, Basis::Counter);
    assert_eq!(ledger.explained_ratio(), None);
    assert!(ledger.owners().is_empty());
    assert_eq!(Ledger::top_class(&same, &same), None);
}

#[test]
fn an_owner_claims_the_same_memory_once_and_from_its_class() {
    let (start, end) = (layout(512, 200, true), layout(2512, 400, true));
    let mut ledger = Ledger::between(&start, &end);
    ledger.claim("rkeys", Class::Heap, 150.0 * 1024.0, Basis::Counter);
    ledger.claim("queue", Class::Anonymous, 1900.0 * 1024.0, Basis::Counter);
    ledger.claim("queue", Class::Anonymous, 1000.0 * 1024.0, Basis::Counter);
    ledger.claim("queue", Class::Anonymous, 2000.0 * 1024.0, Basis::Counter);
    let owners: Vec<(String, i64)> =
        ledger.owners().into_iter().map(|owner| (owner.name, owner.bytes / 1024)).collect();
    assert_eq!(
        owners,
        [("queue".to_string(), 2000), ("rkeys".to_string(), 150), ("heap".to_string(), 50)]
    );
    assert_eq!((ledger.growth(), ledger.explained_ratio()), (2200 * 1024, Some(1.0)));
}

#[test]
fn what_is_counted_has_owners_too() {
    let held = |kv_blocks, kv_blocks_pinned, waiting_remote| Sample {
        held: Counts { kv_blocks, kv_blocks_pinned, waiting_remote, ..Counts::default() },
        ..Sample::default()
    };
    let fds = (
        Descriptors::of(["socket:[1]", "/dev/null"]),
        Descriptors::of(["socket:[1]", "socket:[2]", "socket:[3]", "/dev/null"]),
    );
    let owners = |gauge, first: &Sample, last: &Sample| {
        let ledger = Ledger::counted(gauge, first, last, &fds);
        assert_eq!(ledger.explained_ratio(), Some(1.0));
        let told = |owner: Owner| (owner.name, owner.count.unwrap_or(owner.bytes), owner.share);
        ledger.owners().into_iter().map(told).collect::<Vec<_>>()
    };
    let stranded = owners(Gauge::KvBlocks, &held(20, 16, 0), &held(340, 320, 0));
    assert_eq!(stranded, [("leases".into(), 304, 0.95), ("requests".into(), 16, 0.05)]);
    let waiting = owners(Gauge::KvBlocks, &held(20, 0, 1), &held(340, 0, 21));
    assert_eq!(waiting, [("requests that wait for remote KV".into(), 320, 1.0)]);
    let sockets = owners(Gauge::Fds, &held(0, 0, 0), &held(0, 0, 0));
    assert_eq!(sockets, [("sockets".into(), 2, 1.0)]);
    let bytes = |rcache_bytes| Sample {
        held: Counts { rcache_bytes, ..Counts::default() },
        ..Sample::default()
    };
    let outlived = owners(Gauge::Outlived, &bytes(Some(10)), &bytes(Some(4106)));
    assert_eq!(outlived, [("UCX registration cache, regions".into(), 4096, 1.0)]);
}

#[test]
fn pinned_memory_belongs_to_who_has_registered_it_on_every_device() {
    let sample = |pinned_bytes, registered_bytes, rcache_bytes, devices| Sample {
        memory: Memory { pinned_bytes, ..Memory::default() },
        held: Counts { registered_bytes, rcache_bytes, ..Counts::default() },
        rdma: Some(Objects { devices, ..Objects::default() }),
        ..Sample::default()
    };
    let rows = |first: &Sample, last: &Sample| {
        let ledger = Ledger::counted(Gauge::Pinned, first, last, &Default::default());
        assert_eq!(ledger.growth(), Gauge::Pinned.of(last).unwrap() as i64 - 1000);
        ledger.owners().into_iter().map(|owner| (owner.name, owner.bytes)).collect::<Vec<_>>()
    };
    let row = |name: &str, bytes| (name.to_string(), bytes);
    let (cache, own) = ("UCX registration cache, regions", "memory regions");
    // 100 B were deregistered by the role, and the cache has kept them and 300 more.
    let first = sample(1000, 900, Some(900), 1);
    assert_eq!(
        rows(&first, &sample(1300, 800, Some(1200), 1)),
        [row(cache, 400), row(own, -100)],
        "what one has given back hides nothing of what another took"
    );
    assert_eq!(
        rows(&first, &sample(1400, 1200, Some(1200), 1)),
        [row(own, 300), row(UNEXPLAINED, 100)]
    );
    assert_eq!(
        rows(&first, &sample(1600, 1200, Some(1200), 2)),
        [row(own, 600)],
        "two devices pin twice"
    );
    assert_eq!(
        rows(&first, &sample(1200, 1200, Some(1200), 1)),
        [row(own, 200)],
        "not all is pinned"
    );
    assert_eq!(rows(&first, &sample(1500, 900, None, 1)), [row(UNEXPLAINED, 500)]);
}

#[test]
fn a_stack_is_stronger_than_a_counter_and_that_than_an_amount() {
    let (start, end) = (layout(512, 200, true), layout(2512, 200, true));
    let mut ledger = Ledger::between(&start, &end);
    let share = |owner: &str, kib: i64, estimated| Share {
        owner: owner.to_string(),
        class: Class::Anonymous,
        bytes: kib * 1024,
        estimated,
        stack: vec!["grow (lib.so+0x1)".to_string()],
    };
    ledger.trace(&share("queue", 1500, false));
    ledger.claim("queue", Class::Anonymous, 1600.0 * 1024.0, Basis::Counter);
    ledger.claim("other", Class::Anonymous, 300.0 * 1024.0, Basis::Amount);
    ledger.trace(&share("sampled", 1000, true));
    let rows: Vec<(String, i64, Basis)> = ledger
        .owners()
        .into_iter()
        .map(|owner| (owner.name, owner.bytes / 1024, owner.basis))
        .collect();
    let row = |name: &str, kib, basis| (name.to_string(), kib, basis);
    assert_eq!(
        rows,
        [
            row("queue", 1600, Basis::Stack),
            row("other", 300, Basis::Amount),
            row("sampled", 100, Basis::Stack),
        ]
    );
    assert_eq!((ledger.growth(), ledger.explained_ratio()), (2000 * 1024, Some(1.0)));
}

#[test]
fn what_was_given_back_meanwhile_hides_nothing_that_a_tracer_saw() {
    let (start, end) = (layout(2000, 200, true), layout(2500, 200, true));
    let mut ledger = Ledger::between(&start, &end);
    let stack = vec!["grow".to_string()];
    let share = Share {
        owner: "queue".to_string(),
        class: Class::Anonymous,
        bytes: 900 * 1024,
        estimated: false,
        stack: stack.clone(),
    };
    ledger.trace(&share);
    ledger.grown_by(Class::Heap, stack.clone());
    let balance = ledger.balance();
    assert_eq!((balance.growth_bytes(), balance.unexplained_bytes()), (500 << 10, -(400 << 10)));
    assert_eq!(balance.rows[0].bytes, 900 * 1024);
    assert_eq!(balance.rows[0].stack.as_ref(), Some(&stack));
    assert_eq!(balance.explained_ratio, Some(1.0));
}

/// What a tracer, a counter or a known bug may say.
#[derive(Debug, Clone)]
enum Said {
    Trace(Share),
    Claim { owner: String, class: Class, bytes: f64, basis: Basis },
}

fn class() -> impl Strategy<Value = Class> {
    proptest::sample::select(Class::ALL.to_vec())
}

fn said() -> impl Strategy<Value = Said> {
    let owner = || "[abc]".prop_map(String::from);
    let trace = (owner(), class(), -1_000_000i64..100_000_000, any::<bool>()).prop_map(
        |(owner, class, bytes, estimated)| {
            Said::Trace(Share { owner, class, bytes, estimated, stack: vec!["f".to_string()] })
        },
    );
    let amount = prop_oneof![0.0..1e9f64, Just(f64::NAN), Just(f64::INFINITY), Just(-5.0)];
    let claim =
        (owner(), class(), amount, any::<bool>()).prop_map(|(owner, class, bytes, count)| {
            let basis = if count { Basis::Counter } else { Basis::Amount };
            Said::Claim { owner, class, bytes, basis }
        });
    prop_oneof![trace, claim]
}

/// Mappings that touch or do not, of every kind, with some of each resident.
fn mappings() -> impl Strategy<Value = Vec<Mapping>> {
    let one = (0u64..3, 1u64..200, 0.0..=1.0f64, 0usize..6);
    proptest::collection::vec(one, 1..12).prop_map(|parts| {
        let mut at = 0x7f00_0000_0000u64;
        let mapping = |(gap, pages, share, kind): (u64, u64, f64, usize)| {
            let start = at + gap * 4096;
            let end = start + pages * 4096;
            at = end;
            let names = ["", "[heap]", "/lib/x.so", "/memfd:x", "", "[stack]"];
            Mapping {
                start,
                end,
                accessible: kind != 4,
                shared: kind == 3,
                inode: u64::from(kind == 2),
                name: names[kind].to_string(),
                rss_bytes: (share * pages as f64) as u64 * 4096,
                anonymous_bytes: 0,
            }
        };
        parts.into_iter().map(mapping).collect()
    })
}

fn told() -> impl Strategy<Value = Told> {
    let range = || {
        (0u64..1500, 0u64..400).prop_map(|(page, pages)| Range {
            base: 0x7f00_0000_0000 + page * 4096,
            len_bytes: pages * 4096,
        })
    };
    (proptest::option::of(range()), proptest::collection::vec(range(), 0..6))
        .prop_map(|(kv_pool, regions)| Told { kv_pool, regions })
}

proptest! {
    #[test]
    fn it_balances_to_the_byte_whatever_is_said(
        before in mappings(), after in mappings(), told in told(),
        resident in 0.0..=1.0f64, said in proptest::collection::vec(said(), 0..12),
    ) {
        let layout = |mappings: &[Mapping]| {
            let share = |span: Span| Some((resident * span.len_bytes() as f64) as u64);
            Layout::of(mappings, &Segments::of(mappings, &told), share)
        };
        let (start, end) = (layout(&before), layout(&after));
        let rss = |mappings: &[Mapping]| mappings.iter().map(|m| m.rss_bytes).sum::<u64>();
        prop_assert_eq!((start.total_bytes(), end.total_bytes()), (rss(&before), rss(&after)));
        let mut ledger = Ledger::between(&start, &end);
        for said in said {
            match said {
                Said::Trace(share) => ledger.trace(&share),
                Said::Claim { owner, class, bytes, basis } => {
                    ledger.claim(&owner, class, bytes, basis);
                }
            }
        }
        let balance = ledger.balance();
        let sum: i64 = balance.rows.iter().map(|row| row.bytes).sum();
        prop_assert_eq!(sum, rss(&after) as i64 - rss(&before) as i64);
        prop_assert_eq!(sum, balance.growth_bytes());
        let ratio = balance.explained_ratio.unwrap_or(1.0);
        prop_assert!((0.0..=1.0).contains(&ratio), "{}", ratio);
    }

    #[test]
    fn segments_cover_every_mapping_once(mappings in mappings(), told in told()) {
        let segments = Segments::of(&mappings, &told);
        let everything = Span { start: 0, end: i64::MAX as u64 };
        let parts: Vec<(Span, Class)> = segments.under(everything).collect();
        let covered: u64 = parts.iter().map(|(span, _)| span.len_bytes()).sum();
        prop_assert_eq!(covered, mappings.iter().map(Mapping::len_bytes).sum::<u64>());
        prop_assert!(parts.windows(2).all(|pair| pair[0].0.end <= pair[1].0.start));
    }
}
