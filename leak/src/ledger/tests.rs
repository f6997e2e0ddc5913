use super::*;
use crate::layout::Range;
use crate::sample::Counts;
use crate::smaps;

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
    let mappings = smaps::read(text.as_bytes()).unwrap();
    Layout::of(&mappings, Some(range), |part| {
        assert_eq!(part, range, "only a part of a mapping needs the page table");
        Some(1 << 20)
    })
}

#[test]
fn every_class_is_found_where_it_lies() {
    for merged in [false, true] {
        let layout = layout(512, 200, merged);
        let kib = |class| layout.bytes(class) / 1024;
        assert_eq!(Class::ALL.map(kib), [1024, 200, 300, 64, 512, 100, 0], "merged: {merged}");
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
        ("anonymous mmap outside heap and KV pool", 2000 * 1024, 1.0)
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
    ledger.claim("the queue", Class::Anonymous, 1500.0 * 1024.0);
    assert_eq!(ledger.explained_ratio(), Some(0.75));
    assert_eq!(ledger.owners()[0].name, "the queue");
    assert_eq!(ledger.growth(), 2000 * 1024);
    ledger.claim("greedy", Class::Anonymous, 1e18);
    assert_eq!(ledger.explained_ratio(), Some(1.0));
    assert_eq!(ledger.growth(), 2000 * 1024, "nobody can claim more than there is");
}

#[test]
fn where_nothing_grew_there_is_nothing_to_explain() {
    let same = layout(512, 200, true);
    let mut ledger = Ledger::between(&same, &same);
    ledger.claim("nobody", Class::Anonymous, 1e6);
    assert_eq!(ledger.explained_ratio(), None);
    assert!(ledger.owners().is_empty());
    assert_eq!(Ledger::top_class(&same, &same), None);
}

#[test]
fn an_owner_claims_the_same_memory_once_and_from_its_class() {
    let (start, end) = (layout(512, 200, true), layout(2512, 400, true));
    let mut ledger = Ledger::between(&start, &end);
    ledger.claim("rkeys", Class::Heap, 150.0 * 1024.0);
    ledger.claim("queue", Class::Anonymous, 1900.0 * 1024.0);
    ledger.claim("queue", Class::Anonymous, 1000.0 * 1024.0);
    ledger.claim("queue", Class::Anonymous, 2000.0 * 1024.0);
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
