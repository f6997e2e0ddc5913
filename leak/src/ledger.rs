//! The ledger: growth between two layouts, by owner. It always balances.
//!
//! Without a tracer the address space is all there is to go by. The KV pool, heap, arenas, stacks, files and shared
//! memory are owners that the kernel names; anonymous memory outside of them is one owner that nobody has named.
//! *Explained* is growth of named owners. The unnamed one counts as explained only as far as a known bug claims it
//! ([`Ledger::claim`]), whose bytes per unit the measured slope has matched: that is evidence by amount, not by stack,
//! and the owner's name says so.

use serde::{Deserialize, Serialize};

use crate::layout::{Class, Layout};

/// Who holds growth.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Owner {
    /// Name for people.
    pub name: String,
    /// Bytes gained; negative if given back.
    pub bytes: i64,
    /// Share of all that was gained, 0 to 1; 0 for owners that gave back.
    pub share: f64,
    /// Call stack that allocated it, innermost first; null unless a tracer saw it.
    pub stack: Option<Vec<String>>,
}

/// Growth by owner.
#[derive(Debug, Clone, PartialEq)]
pub struct Ledger {
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    name: String,
    bytes: i64,
    explained: bool,
}

impl Ledger {
    /// What was gained from `start` to `end`. The entries add up to the difference of the totals, to the byte.
    pub fn between(start: &Layout, end: &Layout) -> Ledger {
        let entry = |class: Class| Entry {
            name: class.to_string(),
            bytes: end.bytes(class) as i64 - start.bytes(class) as i64,
            explained: class != Class::Anonymous,
        };
        Ledger { entries: Class::ALL.map(entry).into() }
    }

    /// Bytes gained in all; negative if the process shrank.
    pub fn growth_bytes(&self) -> i64 {
        self.entries.iter().map(|entry| entry.bytes).sum()
    }

    /// The class that gained most, if any gained.
    pub fn top_class(start: &Layout, end: &Layout) -> Option<Class> {
        let gain = |class: Class| end.bytes(class) as i64 - start.bytes(class) as i64;
        Class::ALL.into_iter().filter(|&class| gain(class) > 0).max_by_key(|&class| gain(class))
    }

    /// Lays up to `bytes` of the unnamed anonymous growth at the door of `owner`; what is left stays unnamed.
    pub fn claim(&mut self, owner: &str, bytes: f64) {
        let unnamed = self.entries.iter_mut().find(|entry| !entry.explained);
        let Some(unnamed) = unnamed.filter(|entry| entry.bytes > 0) else { return };
        let claimed = (bytes.max(0.0) as i64).min(unnamed.bytes);
        if claimed > 0 {
            unnamed.bytes -= claimed;
            self.entries.push(Entry { name: owner.to_string(), bytes: claimed, explained: true });
        }
    }

    /// Owners that gained or gave back something, the largest gain first.
    pub fn owners(&self) -> Vec<Owner> {
        let gained = self.gained_bytes();
        let mut owners: Vec<Owner> = self
            .entries
            .iter()
            .filter(|entry| entry.bytes != 0)
            .map(|entry| Owner {
                name: entry.name.clone(),
                bytes: entry.bytes,
                share: if entry.bytes > 0 { entry.bytes as f64 / gained as f64 } else { 0.0 },
                stack: None,
            })
            .collect();
        owners.sort_by_key(|owner| std::cmp::Reverse(owner.bytes));
        owners
    }

    /// Share of all that was gained that named owners hold; `None` if nothing was gained.
    pub fn explained_ratio(&self) -> Option<f64> {
        let explained: i64 = self
            .entries
            .iter()
            .filter(|entry| entry.explained && entry.bytes > 0)
            .map(|entry| entry.bytes)
            .sum();
        let gained = self.gained_bytes();
        (gained > 0).then(|| explained as f64 / gained as f64)
    }

    /// Gains alone: what one owner gave back does not hide what another took.
    fn gained_bytes(&self) -> i64 {
        self.entries.iter().map(|entry| entry.bytes.max(0)).sum()
    }
}

#[cfg(test)]
mod tests;
