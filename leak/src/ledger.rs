//! The ledger: growth between two layouts, by owner. It always balances: the rows add up to the difference of the two
//! layouts, to the byte, and what nobody is known to hold is a row of its own.
//!
//! Evidence of different strength is combined by taking turns, the strongest first. Each takes its part out of what
//! the stronger ones have left, and an owner that has a part already only gets what it lacks:
//!
//! 1. [`Basis::Address`]: where the memory lies. The process has told (KV pool, memory regions), the kernel names the
//!    mapping (heap, files, shared memory), or glibc's layout shows it (arenas, stacks). [`Ledger::between`]
//! 2. [`Basis::Stack`]: a tracer saw who mapped it. [`Ledger::trace`]
//! 3. [`Basis::Counter`]: a counter of the process whose things have a known size ([`crate::evidence`]).
//!    [`Ledger::claim`]
//! 4. [`Basis::Amount`]: a known bug whose bytes per unit the measured slope has matched. [`Ledger::claim`]
//!
//! What is left of anonymous memory after that is [`UNEXPLAINED`]. A traced part is measured, not bounded by what its
//! class has gained in all: where older memory of that class was given back meanwhile, the row left of the class is
//! negative, and says so.
//!
//! Of what is no memory (file descriptors, KV blocks) the process's own counters are the ledger: [`Ledger::counted`].
//!
//! Pinned pages are resident as long as they are mapped, and then some row above has them already. So pinned memory and
//! RDMA objects never enter the sum; they stand [`beside`] it.

use serde::{Deserialize, Serialize};

pub use crate::beside::{Beside, beside};

use crate::descriptors::Descriptors;
use crate::gauge::Gauge;
use crate::layout::{Class, Layout};
use crate::sample::Sample;

/// The row of growth that nobody is known to hold.
pub const UNEXPLAINED: &str = "unexplained";

/// How it is known who holds something, the strongest first.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// By where it lies.
    Address,
    /// A tracer saw the call that mapped it.
    Stack,
    /// The process counts its things, and their size is known.
    Counter,
    /// A known bug costs as much.
    Amount,
    /// It is not known.
    #[default]
    None,
}

impl Basis {
    /// In a table: `by stack`.
    pub fn told(self) -> &'static str {
        match self {
            Basis::Address => "by address",
            Basis::Stack => "by stack",
            Basis::Counter => "by counter",
            Basis::Amount => "by amount",
            Basis::None => "-",
        }
    }
}

/// Who holds growth.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Owner {
    /// Name for people.
    pub name: String,
    /// Bytes gained; negative if given back; 0 where the gauge counts no bytes.
    pub bytes: i64,
    /// What was gained of what the gauge counts; null where it counts bytes.
    #[serde(default)]
    pub count: Option<i64>,
    /// Share of all that was gained, 0 to 1; 0 for owners that gave back.
    pub share: f64,
    /// Call stack that mapped most of it, innermost first; null unless a tracer saw it.
    pub stack: Option<Vec<String>>,
    /// How it is known.
    #[serde(default)]
    pub basis: Basis,
}

/// Growth of resident memory by owner, as result files have it: `end_bytes - start_bytes` is the sum of the rows.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Balance {
    /// Resident bytes of all mappings (smaps) at the start.
    pub start_bytes: u64,
    /// The same at the end.
    pub end_bytes: u64,
    /// Owners that gained or gave back something, the largest gain first; [`UNEXPLAINED`] is among them if it is not 0.
    pub rows: Vec<Owner>,
    /// Share of all that was gained that owners with a name hold; null if nothing was gained.
    pub explained_ratio: Option<f64>,
    /// What the process holds of devices, beside the sum: pinned memory and RDMA objects. Empty where it holds none, and
    /// in files of earlier versions.
    #[serde(default)]
    pub beside: Vec<Beside>,
}

impl Balance {
    /// What was gained in all.
    pub fn growth_bytes(&self) -> i64 {
        self.end_bytes as i64 - self.start_bytes as i64
    }

    /// What nobody is known to hold; negative where older memory was given back.
    pub fn unexplained_bytes(&self) -> i64 {
        self.rows.iter().filter(|row| row.basis == Basis::None).map(|row| row.bytes).sum()
    }
}

/// Growth that a tracer saw one owner map, of one class of memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Share {
    /// Name of the owner.
    pub owner: String,
    /// The class that the memory is counted under by its address.
    pub class: Class,
    /// Resident bytes gained; negative if given back.
    pub bytes: i64,
    /// Whether the bytes are an estimate: it then gets no more than the class has left.
    pub estimated: bool,
    /// The stack that mapped most of it, innermost first.
    pub stack: Vec<String>,
}

/// Growth by owner.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ledger {
    entries: Vec<Entry>,
    /// Whether the amounts are bytes.
    in_bytes: bool,
    /// Resident bytes at the start and at the end; 0 where the amounts are no bytes.
    totals: (u64, u64),
}

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    name: String,
    class: Option<Class>,
    gained: i64,
    basis: Basis,
    stack: Option<Vec<String>>,
}

impl Ledger {
    /// What was gained from `start` to `end`. The entries add up to the difference of the totals, to the byte.
    pub fn between(start: &Layout, end: &Layout) -> Ledger {
        let entry = |class: Class| {
            let (name, basis) = match class {
                Class::Anonymous => (UNEXPLAINED.to_string(), Basis::None),
                named => (named.to_string(), Basis::Address),
            };
            let gained = end.bytes(class) as i64 - start.bytes(class) as i64;
            Entry { name, class: Some(class), gained, basis, stack: None }
        };
        Ledger {
            entries: Class::ALL.map(entry).into(),
            in_bytes: true,
            totals: (start.total_bytes(), end.total_bytes()),
        }
    }

    /// What `gauge` counts, gained from `first` to `last`, by whatever the process itself tells about it.
    /// `descriptors` are those of the start and the end.
    pub fn counted(
        gauge: Gauge,
        first: &Sample,
        last: &Sample,
        descriptors: &(Descriptors, Descriptors),
    ) -> Ledger {
        let gained = |from: Option<u64>, to: Option<u64>| match (from, to) {
            (Some(from), Some(to)) => to as i64 - from as i64,
            _ => 0,
        };
        let all = gained(gauge.of(first), gauge.of(last));
        let parts: Vec<(String, i64)> = match gauge {
            Gauge::KvBlocks => {
                let (from, to) = (&first.held, &last.held);
                let pinned = gained(Some(from.kv_blocks_pinned), Some(to.kv_blocks_pinned));
                let requests = if to.waiting_remote > from.waiting_remote {
                    "requests that wait for remote KV"
                } else {
                    "requests"
                };
                vec![("leases".to_string(), pinned), (requests.to_string(), all - pinned)]
            }
            Gauge::Fds => {
                let kinds = descriptors.0.gained(&descriptors.1);
                kinds.into_iter().map(|(kind, gained)| (kind.to_string(), gained)).collect()
            }
            Gauge::Regions | Gauge::Registered => vec![("memory regions".to_string(), all)],
            Gauge::RcacheQueue => vec![("UCX registration cache, invalidation queue".into(), all)],
            Gauge::RcacheRegions | Gauge::RcacheBytes | Gauge::Outlived => {
                vec![("UCX registration cache, regions".to_string(), all)]
            }
            Gauge::Pinned | Gauge::PinnedOutlived | Gauge::RdmaMrBytes | Gauge::RdmaMrs => {
                registrations(gauge, all, first, last)
            }
            other => vec![(other.label().to_string(), all)],
        };
        let entry = |(name, gained): (String, i64)| {
            let basis = if name == UNEXPLAINED { Basis::None } else { Basis::Counter };
            Entry { name, class: None, gained, basis, stack: None }
        };
        let entries = parts.into_iter().map(entry).collect();
        Ledger { entries, in_bytes: gauge.is_bytes(), totals: (0, 0) }
    }

    /// What was gained in all; negative if the process shrank.
    pub fn growth(&self) -> i64 {
        self.entries.iter().map(|entry| entry.gained).sum()
    }

    /// The class that gained most, if any gained.
    pub fn top_class(start: &Layout, end: &Layout) -> Option<Class> {
        let gain = |class: Class| end.bytes(class) as i64 - start.bytes(class) as i64;
        Class::ALL.into_iter().filter(|&class| gain(class) > 0).max_by_key(|&class| gain(class))
    }

    /// Lays what a tracer saw at the door of its owner. Memory whose class has a name of its own (the heap, say) stays
    /// with the class, which is told apart by its `stack`.
    pub fn trace(&mut self, share: &Share) {
        let class = share.class;
        let Some(source) = self.entries.iter_mut().find(|entry| entry.class == Some(class)) else {
            return;
        };
        let bytes =
            if share.estimated { share.bytes.min(source.gained.max(0)) } else { share.bytes };
        source.gained -= bytes;
        self.give(&share.owner, bytes, Basis::Stack, Some(&share.stack));
    }

    /// Says which stack has made `class` grow most; the bytes stay with the class.
    pub fn grown_by(&mut self, class: Class, stack: Vec<String>) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.class == Some(class)) {
            entry.stack = Some(stack);
        }
    }

    /// Lays up to `bytes` of the growth of `class` at the door of `owner`; what is left stays with the class. An owner
    /// that has a part already, on stronger evidence, claims the same memory: what it has counts towards `bytes`.
    pub fn claim(&mut self, owner: &str, class: Class, bytes: f64, basis: Basis) {
        let has = self.entries.iter().find(|entry| entry.name == owner);
        let had = has.map_or(0, |entry| entry.gained);
        let Some(source) = self.entries.iter_mut().find(|entry| entry.class == Some(class)) else {
            return;
        };
        let claimed = (bytes as i64).saturating_sub(had).min(source.gained);
        if claimed > 0 {
            source.gained -= claimed;
            self.give(owner, claimed, basis, None);
        }
    }

    /// An owner on two kinds of evidence stands under the stronger one.
    fn give(&mut self, owner: &str, bytes: i64, basis: Basis, stack: Option<&Vec<String>>) {
        match self.entries.iter_mut().find(|entry| entry.name == owner) {
            Some(entry) => {
                entry.gained += bytes;
                entry.basis = entry.basis.min(basis);
                entry.stack = entry.stack.take().or_else(|| stack.cloned());
            }
            None => self.entries.push(Entry {
                name: owner.to_string(),
                class: None,
                gained: bytes,
                basis,
                stack: stack.cloned(),
            }),
        }
    }

    /// Owners that gained or gave back something, the largest gain first.
    pub fn owners(&self) -> Vec<Owner> {
        let gained = self.gained();
        let mut owners: Vec<Owner> = self
            .entries
            .iter()
            .filter(|entry| entry.gained != 0)
            .map(|entry| Owner {
                name: entry.name.clone(),
                bytes: if self.in_bytes { entry.gained } else { 0 },
                count: (!self.in_bytes).then_some(entry.gained),
                share: if entry.gained > 0 { entry.gained as f64 / gained as f64 } else { 0.0 },
                stack: entry.stack.clone(),
                basis: entry.basis,
            })
            .collect();
        owners.sort_by_key(|owner| std::cmp::Reverse(owner.count.unwrap_or(owner.bytes)));
        owners
    }

    /// The whole of it, for result files and tables.
    pub fn balance(&self) -> Balance {
        Balance {
            start_bytes: self.totals.0,
            end_bytes: self.totals.1,
            rows: self.owners(),
            explained_ratio: self.explained_ratio(),
            beside: Vec::new(),
        }
    }

    /// Share of all that was gained that named owners hold; `None` if nothing was gained.
    pub fn explained_ratio(&self) -> Option<f64> {
        let explained: i64 = self
            .entries
            .iter()
            .filter(|entry| entry.basis != Basis::None && entry.gained > 0)
            .map(|entry| entry.gained)
            .sum();
        let gained = self.gained();
        (gained > 0).then(|| explained as f64 / gained as f64)
    }

    /// Gains alone: what one owner gave back does not hide what another took.
    fn gained(&self) -> i64 {
        self.entries.iter().map(|entry| entry.gained.max(0)).sum()
    }
}

/// Whose registrations have made `gauge`, which a device's memory regions are behind, grow by `all`: regions of the role
/// that it tells of, then those that UCX's registration cache has beyond them. Each device of the process has a memory
/// region of its own for every one, and pins its pages again. What is left is registered by somebody who tells nobody, such
/// as the message buffers of a library.
fn registrations(gauge: Gauge, all: i64, first: &Sample, last: &Sample) -> Vec<(String, i64)> {
    let held = |sample: &Sample| {
        let (own, cached) = match gauge {
            Gauge::RdmaMrs => (sample.held.regions, sample.held.rcache_regions),
            _ => (sample.held.registered_bytes, sample.held.rcache_bytes),
        };
        (own as i64, cached.unwrap_or(own).saturating_sub(own) as i64)
    };
    let devices = last.rdma.map_or(1, |rdma| rdma.devices.max(1)) as i64;
    let (from, to) = (held(first), held(last));
    let own = if gauge == Gauge::PinnedOutlived { 0 } else { to.0 - from.0 };
    let mut parts = [
        ("memory regions", own * devices),
        ("UCX registration cache, regions", (to.1 - from.1) * devices),
    ];
    // What was given back first: it makes room for what was taken, of which nobody can have more than there is.
    parts.sort_by_key(|(_, gained)| *gained);
    let mut left = all;
    let mut rows: Vec<(String, i64)> = Vec::new();
    for (name, gained) in parts {
        let gained = gained.min(left.max(0));
        left -= gained;
        rows.push((name.to_string(), gained));
    }
    rows.push((UNEXPLAINED.to_string(), left));
    rows
}

#[cfg(test)]
mod tests;
