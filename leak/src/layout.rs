//! Resident memory by what holds it: every page of the process falls into one class.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::smaps::Mapping;

/// What holds a page, as far as the address space itself tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// The KV pool, by the address and length that the process has told.
    KvPool,
    /// glibc's main arena, `[heap]`.
    Heap,
    /// glibc's other arenas: 64 MiB-aligned anonymous ranges, used from the bottom up.
    Arenas,
    /// The main stack, and anonymous mappings that sit on a guard page as thread stacks do.
    Stacks,
    /// Anonymous memory that is none of these: raw mmap, malloc's large blocks, other allocators.
    Anonymous,
    /// Pages of files, private copies included (a library's data section, for example).
    Files,
    /// Shared memory: memfd, tmpfs, System V segments, shared anonymous mappings.
    Shmem,
}

impl Class {
    /// All classes, in the order of tables.
    pub const ALL: [Class; 7] = [
        Class::KvPool,
        Class::Heap,
        Class::Arenas,
        Class::Stacks,
        Class::Anonymous,
        Class::Files,
        Class::Shmem,
    ];
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Class::KvPool => "KV pool",
            Class::Heap => "heap",
            Class::Arenas => "malloc arenas",
            Class::Stacks => "thread stacks",
            Class::Anonymous => "anonymous mmap outside heap and KV pool",
            Class::Files => "files",
            Class::Shmem => "shared memory",
        })
    }
}

/// An address range that the process has told us about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub base: u64,
    /// Length in bytes.
    pub len_bytes: u64,
}

impl Range {
    fn overlap(&self, mapping: &Mapping) -> Option<Range> {
        let base = self.base.max(mapping.start);
        let end = self.base.saturating_add(self.len_bytes).min(mapping.end);
        (base < end).then(|| Range { base, len_bytes: end - base })
    }
}

/// Resident bytes of a process by class, at one moment. The classes add up to the sum over all mappings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    bytes: BTreeMap<Class, u64>,
}

/// glibc's HEAP_MAX_SIZE on 64-bit machines: arenas other than the main one lie in heaps aligned to it
/// (<https://sourceware.org/git/?p=glibc.git;a=blob;f=malloc/arena.c>).
const ARENA_BYTES: u64 = 64 << 20;

/// Guards below stacks are a page, or a few if the program asked for more.
const MAX_GUARD_BYTES: u64 = 1 << 20;

/// Larger anonymous mappings above a guard are taken for something else than a stack.
const MAX_STACK_BYTES: u64 = 64 << 20;

impl Layout {
    /// Classifies `mappings`, which are in the order of their addresses.
    ///
    /// A mapping that reaches beyond the KV pool holds more than the pool (the kernel merges neighbours), so
    /// `resident_bytes` is asked how much of the pool's part is resident; without an answer all of it is taken to be.
    pub fn of(
        mappings: &[Mapping],
        kv_pool: Option<Range>,
        resident_bytes: impl Fn(Range) -> Option<u64>,
    ) -> Layout {
        let mut layout = Layout::default();
        for (i, mapping) in mappings.iter().enumerate() {
            let pool = kv_pool.and_then(|pool| pool.overlap(mapping)).map_or(0, |part| {
                let whole = part.len_bytes == mapping.len_bytes();
                let resident = if whole { None } else { resident_bytes(part) };
                resident.unwrap_or(part.len_bytes).min(mapping.rss_bytes)
            });
            layout.add(Class::KvPool, pool);
            let before = i.checked_sub(1).map(|i| &mappings[i]);
            layout.add(classify(mapping, before, mappings.get(i + 1)), mapping.rss_bytes - pool);
        }
        layout
    }

    /// Resident bytes of `class`.
    pub fn bytes(&self, class: Class) -> u64 {
        self.bytes.get(&class).copied().unwrap_or(0)
    }

    /// Resident bytes in all.
    pub fn total_bytes(&self) -> u64 {
        self.bytes.values().sum()
    }

    fn add(&mut self, class: Class, bytes: u64) {
        if bytes > 0 {
            *self.bytes.entry(class).or_default() += bytes;
        }
    }
}

fn classify(mapping: &Mapping, before: Option<&Mapping>, after: Option<&Mapping>) -> Class {
    let name = mapping.name.as_str();
    match name {
        "[heap]" => return Class::Heap,
        "[stack]" => return Class::Stacks,
        // glibc 2.39 and later can name its mappings (tunable glibc.mem.decorate_maps).
        _ if name.starts_with("[anon: glibc: pthread stack") => return Class::Stacks,
        _ if name.starts_with("[anon: glibc: malloc arena") => return Class::Arenas,
        _ => {}
    }
    let in_memory = ["/memfd:", "/dev/shm/", "/dev/zero", "/SYSV", "[anon_shmem"]
        .iter()
        .any(|p| name.starts_with(p));
    if in_memory || (mapping.shared && mapping.inode == 0) {
        return Class::Shmem;
    }
    if mapping.inode != 0 || name.starts_with('/') {
        return Class::Files;
    }
    if is_arena(mapping, after) {
        Class::Arenas
    } else if is_stack(mapping, before) {
        Class::Stacks
    } else {
        Class::Anonymous
    }
}

/// An arena's heap starts at a multiple of its largest size; what is not in use yet is inaccessible up to the end.
fn is_arena(mapping: &Mapping, after: Option<&Mapping>) -> bool {
    let end = mapping.start.saturating_add(ARENA_BYTES);
    let reserved = after
        .is_some_and(|after| !after.accessible && after.start == mapping.end && after.end >= end);
    mapping.start.is_multiple_of(ARENA_BYTES)
        && mapping.accessible
        && mapping.end <= end
        && (mapping.end == end || reserved)
}

fn is_stack(mapping: &Mapping, before: Option<&Mapping>) -> bool {
    let guarded = before.is_some_and(|guard| {
        !guard.accessible
            && guard.inode == 0
            && guard.end == mapping.start
            && guard.len_bytes() <= MAX_GUARD_BYTES
    });
    guarded && mapping.accessible && mapping.len_bytes() <= MAX_STACK_BYTES
}
