//! The ledger: growth between two layouts, by owner. It always balances.
//!
//! Of what is no memory (file descriptors, KV blocks) the process's own counters are the ledger: [`Ledger::counted`].
//!
//! Without a tracer the address space is all there is to go by. The KV pool, heap, arenas, stacks, files and shared
//! memory are owners that the kernel names; anonymous memory outside of them is one owner that nobody has named.
//! *Explained* is growth of named owners. The unnamed one counts as explained only as far as someone claims it
//! ([`Ledger::claim`]): a counter of the process whose things have a known size ([`crate::evidence`]), or a known bug
//! whose bytes per unit the measured slope has matched. That is evidence by amount, not by stack.

use serde::{Deserialize, Serialize};

use crate::descriptors::Descriptors;
use crate::gauge::Gauge;
use crate::layout::{Class, Layout};
use crate::sample::Sample;

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
    /// Call stack that allocated it, innermost first; null unless a tracer saw it.
    pub stack: Option<Vec<String>>,
}

/// Growth by owner.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ledger {
    entries: Vec<Entry>,
    /// Whether the amounts are bytes.
    in_bytes: bool,
}

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    name: String,
    class: Option<Class>,
    gained: i64,
    explained: bool,
}

impl Ledger {
    /// What was gained from `start` to `end`. The entries add up to the difference of the totals, to the byte.
    pub fn between(start: &Layout, end: &Layout) -> Ledger {
        let entry = |class: Class| Entry {
            name: class.to_string(),
            class: Some(class),
            gained: end.bytes(class) as i64 - start.bytes(class) as i64,
            explained: class != Class::Anonymous,
        };
        Ledger { entries: Class::ALL.map(entry).into(), in_bytes: true }
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
            other => vec![(other.label().to_string(), all)],
        };
        let entry = |(name, gained)| Entry { name, class: None, gained, explained: true };
        Ledger { entries: parts.into_iter().map(entry).collect(), in_bytes: gauge.is_bytes() }
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

    /// Lays up to `bytes` of the growth of `class` at the door of `owner`; what is left stays with the class. An owner
    /// that has claimed before, on other evidence, claims the same memory: what it has counts towards `bytes`.
    pub fn claim(&mut self, owner: &str, class: Class, bytes: f64) {
        let has = self.entries.iter().position(|entry| entry.name == owner);
        let had = has.map_or(0, |at| self.entries[at].gained);
        let Some(source) = self.entries.iter_mut().find(|entry| entry.class == Some(class)) else {
            return;
        };
        let claimed = (bytes as i64 - had).min(source.gained);
        if claimed <= 0 {
            return;
        }
        source.gained -= claimed;
        match has {
            Some(at) => self.entries[at].gained += claimed,
            None => self.entries.push(Entry {
                name: owner.to_string(),
                class: None,
                gained: claimed,
                explained: true,
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
                stack: None,
            })
            .collect();
        owners.sort_by_key(|owner| std::cmp::Reverse(owner.count.unwrap_or(owner.bytes)));
        owners
    }

    /// Share of all that was gained that named owners hold; `None` if nothing was gained.
    pub fn explained_ratio(&self) -> Option<f64> {
        let explained: i64 = self
            .entries
            .iter()
            .filter(|entry| entry.explained && entry.gained > 0)
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

#[cfg(test)]
mod tests;
