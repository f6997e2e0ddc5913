//! The churn source: unmap events on purpose, as many as the settings say, counted exactly.
//!
//! Mappings come from [`Mapping`], whose end is libc's `munmap`: the call that UCX patches.

mod pattern;

use std::collections::VecDeque;
use std::thread;

use pdlab_transport::{Error, Mapping};
use serde::{Deserialize, Serialize};

pub use pattern::{Pattern, UnknownPattern};

/// Pieces that are cut from one mapping by the patterns that cut.
const PIECES: usize = 64;
/// Buffers per operation of [`Pattern::Arena`], and their size: just below glibc's default mmap
/// threshold, so that they live in the arena
/// (<https://man7.org/linux/man-pages/man3/mallopt.3.html>).
const ARENA_BUFFERS: usize = 64;
const ARENA_BUFFER_BYTES: usize = 60_000;

/// How much memory is unmapped, and how.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChurnConfig {
    /// How.
    pub pattern: Pattern,
    /// Bytes of a mapping, rounded up to pages; for `random`, the largest.
    pub bytes: usize,
    /// Mappings kept alive by `disjoint` (the pieces between the holes) and `random`. Each is an
    /// entry in the kernel's map of the process, which holds 65,530 by default.
    pub resident: usize,
    /// Unmap events after every engine step.
    pub per_step: f64,
    /// Unmap events for every generated token.
    pub per_token: f64,
    /// Unmap events per second, whether or not there is work.
    pub rate: f64,
}

impl Default for ChurnConfig {
    fn default() -> Self {
        Self {
            pattern: Pattern::Same,
            bytes: 4096,
            resident: 1024,
            per_step: 0.0,
            per_token: 0.0,
            rate: 0.0,
        }
    }
}

impl ChurnConfig {
    /// Largest mapping and resident set that are taken.
    const BYTES_MAX: usize = 1 << 30;
    const RESIDENT_MAX: usize = 60_000;
    const EVENTS_MAX: f64 = 1e6;

    /// Says which field is out of range.
    pub fn validate(&self) -> Result<(), String> {
        if !(1..=Self::BYTES_MAX).contains(&self.bytes) {
            return Err(format!("churn bytes is {}: use 1 to {}", self.bytes, Self::BYTES_MAX));
        }
        if !(1..=Self::RESIDENT_MAX).contains(&self.resident) {
            let (is, max) = (self.resident, Self::RESIDENT_MAX);
            return Err(format!("churn resident is {is}: use 1 to {max}"));
        }
        for (name, value) in
            [("per_step", self.per_step), ("per_token", self.per_token), ("rate", self.rate)]
        {
            if !(0.0..=Self::EVENTS_MAX).contains(&value) {
                return Err(format!("churn {name} is {value}: use 0 to {}", Self::EVENTS_MAX));
            }
        }
        Ok(())
    }

    /// Unmap events owed after a step that generated this many tokens.
    pub fn owed(&self, tokens: u64) -> f64 {
        self.per_step + self.per_token * tokens as f64
    }
}

/// Unmaps memory. One at a time: the resident set is its own.
#[derive(Debug)]
pub struct Churner {
    config: ChurnConfig,
    resident: VecDeque<Mapping>,
    cuts: Option<Mapping>,
    keep_next: bool,
    random: u64,
    debt: f64,
}

impl Churner {
    /// A source with this configuration; `seed` decides the sizes and places of `random`.
    pub fn new(config: ChurnConfig, seed: u64) -> Self {
        Self {
            config,
            resident: VecDeque::new(),
            cuts: None,
            keep_next: false,
            random: seed,
            debt: 0.0,
        }
    }

    /// The settings in force.
    pub fn config(&self) -> &ChurnConfig {
        &self.config
    }

    /// Changes the settings. What the old ones kept resident is unmapped; the number of unmaps
    /// that took is returned.
    pub fn configure(&mut self, config: ChurnConfig) -> u64 {
        let freed = self.resident.len() + usize::from(self.cuts.is_some());
        *self = Self::new(config, self.random);
        freed as u64
    }

    /// Adds events to what is owed, and performs the whole ones. Returns how many happened.
    pub fn pay(&mut self, events: f64) -> Result<u64, Error> {
        self.debt += events;
        let whole = self.debt.floor();
        self.debt -= whole;
        let target = whole as u64;
        let mut done = 0;
        // Some operations only prepare the next unmap.
        while done < target {
            done += self.once()?;
        }
        Ok(done)
    }

    /// One operation of the pattern; returns the unmap events that it was, 0 or 1.
    fn once(&mut self) -> Result<u64, Error> {
        let bytes = self.config.bytes;
        match self.config.pattern {
            Pattern::Same => {
                drop(touched(bytes)?);
                Ok(1)
            }
            Pattern::Adjacent => {
                drop(self.cut()?);
                Ok(1)
            }
            Pattern::Disjoint => self.hole(),
            Pattern::Random => self.replace(),
            Pattern::Madvise => self.discard(),
            Pattern::Arena => {
                joined(arena_round);
                Ok(1)
            }
            Pattern::Threads => {
                joined(|| ());
                Ok(1)
            }
        }
    }

    /// The next piece of a large mapping.
    fn cut(&mut self) -> Result<Mapping, Error> {
        let bytes = self.config.bytes.next_multiple_of(pdlab_transport::mapping::page_size());
        let whole = match self.cuts.take() {
            Some(rest) => rest,
            None => touched(bytes * PIECES)?,
        };
        if whole.len() <= bytes {
            return Ok(whole);
        }
        let (piece, rest) = whole.split_at(bytes)?;
        self.cuts = Some(rest);
        Ok(piece)
    }

    /// Keeps one piece and unmaps the next; past the resident set, the oldest piece goes too.
    fn hole(&mut self) -> Result<u64, Error> {
        if self.resident.len() >= self.config.resident {
            self.resident.pop_front();
            return Ok(1);
        }
        self.keep_next = !self.keep_next;
        let piece = self.cut()?;
        if self.keep_next {
            self.resident.push_back(piece);
            return Ok(0);
        }
        drop(piece);
        Ok(1)
    }

    fn replace(&mut self) -> Result<u64, Error> {
        let fresh = touched(1 + self.draw(self.config.bytes))?;
        if self.resident.len() < self.config.resident {
            self.resident.push_back(fresh);
            return Ok(0);
        }
        let at = self.draw(self.resident.len());
        self.resident[at] = fresh;
        Ok(1)
    }

    fn discard(&mut self) -> Result<u64, Error> {
        if self.resident.is_empty() {
            self.resident.push_back(touched(self.config.bytes)?);
        }
        let mapping = &mut self.resident[0];
        mapping.as_mut_slice()[0] = 1;
        let len = mapping.len();
        mapping.discard(0..len)?;
        Ok(1)
    }

    /// A number below `end`, by SplitMix64 (<https://prng.di.unimi.it/splitmix64.c>).
    fn draw(&mut self, end: usize) -> usize {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % end as u64) as usize
    }
}

/// A mapping whose first page is there: unmapping untouched memory would be cheaper than real.
fn touched(bytes: usize) -> Result<Mapping, Error> {
    let mut mapping = Mapping::anonymous(bytes)?;
    mapping.as_mut_slice()[0] = 1;
    Ok(mapping)
}

/// Runs it on a thread of its own to its end. Where no thread can be had, nothing is unmapped
/// and the next operation tries again.
fn joined(work: impl FnOnce() + Send + 'static) {
    if let Ok(thread) = thread::Builder::new().name("churn".into()).spawn(work) {
        let _ = thread.join();
    }
}

fn arena_round() {
    let mut buffers: Vec<Vec<u8>> =
        (0..ARENA_BUFFERS).map(|_| vec![1; ARENA_BUFFER_BYTES]).collect();
    // From the end, so that the top of the arena becomes free and is trimmed.
    while let Some(buffer) = buffers.pop() {
        drop(std::hint::black_box(buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn churner(pattern: Pattern) -> Churner {
        Churner::new(ChurnConfig { pattern, resident: 8, ..ChurnConfig::default() }, 1)
    }

    #[test]
    fn every_pattern_pays_what_it_owes() {
        for pattern in Pattern::ALL {
            let mut churner = churner(pattern);
            let done: u64 = (0..10).map(|_| churner.pay(20.25).unwrap()).sum();
            assert!((202..=203).contains(&done), "{pattern}: {done}");
        }
    }

    #[test]
    fn the_resident_set_is_bounded() {
        for pattern in [Pattern::Disjoint, Pattern::Random] {
            let mut churner = churner(pattern);
            churner.pay(500.0).unwrap();
            assert!(churner.resident.len() <= 8, "{pattern}");
        }
    }

    #[test]
    fn a_change_of_settings_unmaps_what_was_kept() {
        let mut churner = churner(Pattern::Random);
        churner.pay(4.0).unwrap();
        assert_eq!(churner.configure(ChurnConfig::default()), 8);
        assert_eq!(churner.configure(ChurnConfig::default()), 0);
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let bad = |config: ChurnConfig| config.validate().unwrap_err();
        assert!(bad(ChurnConfig { bytes: 0, ..Default::default() }).contains("bytes"));
        assert!(bad(ChurnConfig { rate: -1.0, ..Default::default() }).contains("rate"));
        assert!(bad(ChurnConfig { per_step: f64::NAN, ..Default::default() }).contains("per_step"));
        assert!(bad(ChurnConfig { resident: 0, ..Default::default() }).contains("resident"));
        assert_eq!(ChurnConfig::default().validate(), Ok(()));
    }
}
