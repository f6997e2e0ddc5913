//! Resident memory by what holds it: every page of the process falls into one class.
//!
//! What the process has told ([`Told`]) comes first: an address range is the strongest evidence there is. The rest is
//! classified by what the kernel says of a mapping and by where glibc puts things. [`Segments`] are the same cuts by
//! address, so that the spans of a tracer can be laid over them.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::smaps::Mapping;
use crate::trace::space::Span;

/// What holds a page, as far as the address space itself tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// The KV pool, by the address and length that the process has told.
    KvPool,
    /// Memory registered with the transport beside the KV pool, by the addresses that the process has told.
    Registered,
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
    pub const ALL: [Class; 8] = [
        Class::KvPool,
        Class::Registered,
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
            Class::Registered => "memory regions",
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
    fn span(&self) -> Option<Span> {
        let end = self.base.saturating_add(self.len_bytes);
        (self.base < end).then_some(Span { start: self.base, end })
    }
}

/// What a process has told about its memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// Where its KV pool lies.
    pub kv_pool: Option<Range>,
    /// Where the memory lies that it has registered with its transport, in any order. The KV pool may be among them.
    pub regions: Vec<Range>,
}

impl Told {
    /// The ranges by class, in the order of their addresses, none overlapping another: what is pool is no region.
    fn spans(&self) -> Vec<(Span, Class)> {
        let pool = self.kv_pool.and_then(|pool| pool.span());
        let mut regions: Vec<Span> = self.regions.iter().filter_map(Range::span).collect();
        regions.sort_unstable();
        let mut spans: Vec<(Span, Class)> = Vec::with_capacity(regions.len() + 1);
        let mut free_from = 0;
        for region in regions {
            let start = region.start.max(free_from);
            let mut add = |start: u64, end: u64| {
                if start < end {
                    spans.push((Span { start, end }, Class::Registered));
                }
            };
            match pool {
                Some(pool) => {
                    add(start, region.end.min(pool.start));
                    add(start.max(pool.end), region.end);
                }
                None => add(start, region.end),
            }
            free_from = free_from.max(region.end);
        }
        spans.extend(pool.map(|pool| (pool, Class::KvPool)));
        spans.sort_unstable();
        spans
    }
}

/// The part of a mapping that is of one class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where it lies.
    pub span: Span,
    /// What it is.
    pub class: Class,
    /// Index of its mapping.
    mapping: usize,
}

/// The mappings of a process cut by class, in the order of their addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Segments(Vec<Segment>);

impl Segments {
    /// Cuts `mappings`, which are in the order of their addresses.
    pub fn of(mappings: &[Mapping], told: &Told) -> Segments {
        let told = told.spans();
        let mut segments = Vec::with_capacity(mappings.len() + told.len());
        for (i, mapping) in mappings.iter().enumerate() {
            let before = i.checked_sub(1).map(|i| &mappings[i]);
            let own = classify(mapping, before, mappings.get(i + 1));
            let mut at = mapping.start;
            let first = told.partition_point(|(span, _)| span.end <= mapping.start);
            for (span, class) in told[first..].iter().take_while(|told| told.0.start < mapping.end)
            {
                let (start, end) = (span.start.max(at), span.end.min(mapping.end));
                if at < start {
                    segments.push(Segment {
                        span: Span { start: at, end: start },
                        class: own,
                        mapping: i,
                    });
                }
                segments.push(Segment { span: Span { start, end }, class: *class, mapping: i });
                at = end;
            }
            if at < mapping.end {
                let span = Span { start: at, end: mapping.end };
                segments.push(Segment { span, class: own, mapping: i });
            }
        }
        Segments(segments)
    }

    /// What `span` lies in, by class; what is mapped no longer lies nowhere.
    pub fn under(&self, span: Span) -> impl Iterator<Item = (Span, Class)> {
        let first = self.0.partition_point(|segment| segment.span.end <= span.start);
        self.0[first..]
            .iter()
            .take_while(move |segment| segment.span.start < span.end)
            .filter_map(move |segment| Some((segment.span.overlap(&span)?, segment.class)))
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
    /// The resident bytes of `mappings` by the class of their `segments`.
    ///
    /// Where a mapping is of more than one class (the kernel merges neighbours), `resident_bytes` is asked how much of
    /// a part that the process has told of is resident; without an answer all of it is taken to be.
    pub fn of(
        mappings: &[Mapping],
        segments: &Segments,
        mut resident_bytes: impl FnMut(Span) -> Option<u64>,
    ) -> Layout {
        let mut layout = Layout::default();
        let mut left: Vec<u64> = mappings.iter().map(|mapping| mapping.rss_bytes).collect();
        // Told parts first: the rest of a mapping is what is left.
        for Segment { span, class, mapping } in &segments.0 {
            if matches!(class, Class::KvPool | Class::Registered) {
                let whole = span.len_bytes() == mappings[*mapping].len_bytes();
                let resident = if whole { Some(left[*mapping]) } else { resident_bytes(*span) };
                let resident = resident.unwrap_or(span.len_bytes()).min(left[*mapping]);
                left[*mapping] -= resident;
                layout.add(*class, resident);
            }
        }
        for Segment { class, mapping, .. } in &segments.0 {
            if !matches!(class, Class::KvPool | Class::Registered) {
                layout.add(*class, std::mem::take(&mut left[*mapping]));
            }
        }
        // A told range that covers its mapping with less than is resident: bytes that came in between two readings.
        let rest: u64 = left.iter().sum();
        layout.add(Class::Anonymous, rest);
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
