use super::*;
use crate::layout::Range;
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
    assert_eq!(ledger.growth_bytes(), end.total_bytes() as i64 - start.total_bytes() as i64);
    let owners = ledger.owners();
    assert_eq!(owners.iter().map(|o| o.bytes).sum::<i64>(), ledger.growth_bytes());
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
    ledger.claim("the queue", 1500.0 * 1024.0);
    assert_eq!(ledger.explained_ratio(), Some(0.75));
    assert_eq!(ledger.owners()[0].name, "the queue");
    assert_eq!(ledger.growth_bytes(), 2000 * 1024);
    ledger.claim("greedy", 1e18);
    assert_eq!(ledger.explained_ratio(), Some(1.0));
    assert_eq!(ledger.growth_bytes(), 2000 * 1024, "nobody can claim more than there is");
}

#[test]
fn where_nothing_grew_there_is_nothing_to_explain() {
    let same = layout(512, 200, true);
    let mut ledger = Ledger::between(&same, &same);
    ledger.claim("nobody", 1e6);
    assert_eq!(ledger.explained_ratio(), None);
    assert!(ledger.owners().is_empty());
    assert_eq!(Ledger::top_class(&same, &same), None);
}
