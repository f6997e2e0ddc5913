//! The ways in which a process uses and unmaps memory.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What one operation of the churn does.
///
/// Those up to [`Pattern::Register`] count as one unmap each. Two of them are more than that to
/// UCX, because libc and the kernel decide: on Debian 12, an operation of [`Pattern::Arena`] trims
/// 63 times, and a thread of [`Pattern::Threads`] gives back its stack and its signal stack. The
/// others are no unmaps and do not count as any: their unit is the step or token that owes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pattern {
    /// Map, touch, unmap: the kernel hands out the same range again and again.
    Same,
    /// Pieces of one mapping, unmapped in order, so that each range touches the one before.
    Adjacent,
    /// Every second piece of a mapping, so that no two ranges touch.
    Disjoint,
    /// A resident set of mappings of random size, replaced at random.
    Random,
    /// Buffers of a thread's own malloc arena, freed again, so that libc trims the arena.
    Arena,
    /// Threads that start and end, and their stacks with them.
    Threads,
    /// `madvise(MADV_DONTNEED)` on a mapping that stays, as purging allocators do.
    Madvise,
    /// `mremap` of a mapping to twice its size and, the next time, back, as `realloc` does.
    Mremap,
    /// Buffers that were registered with the transport all at once are deregistered and unmapped
    /// one by one, with no registration in between: what a cache of registrations forgets of its
    /// own accord. Used up, they are replaced.
    Register,
    /// Innocent: bursts of malloc and free in several threads, whose arenas keep what they had.
    Heap,
    /// Innocent: a file is read through a mapping, so that more and more of the page cache counts
    /// as this process's memory.
    Files,
    /// Innocent: a pool of mappings that fills up and stays.
    Pool,
    /// A leak on purpose: touched memory that nobody gives back.
    Plant,
}

impl Pattern {
    /// Every pattern, in the order of the documentation.
    pub const ALL: [Self; 13] = [
        Self::Same,
        Self::Adjacent,
        Self::Disjoint,
        Self::Random,
        Self::Arena,
        Self::Threads,
        Self::Madvise,
        Self::Mremap,
        Self::Register,
        Self::Heap,
        Self::Files,
        Self::Pool,
        Self::Plant,
    ];

    /// The name on the command line and in scenario files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Adjacent => "adjacent",
            Self::Disjoint => "disjoint",
            Self::Random => "random",
            Self::Arena => "arena",
            Self::Threads => "threads",
            Self::Madvise => "madvise",
            Self::Mremap => "mremap",
            Self::Register => "register",
            Self::Heap => "heap",
            Self::Files => "files",
            Self::Pool => "pool",
            Self::Plant => "plant",
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A pattern that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown churn pattern `{name}`: use one of {}", known())]
pub struct UnknownPattern {
    name: String,
}

impl FromStr for Pattern {
    type Err = UnknownPattern;

    fn from_str(name: &str) -> Result<Self, UnknownPattern> {
        let known = Self::ALL.into_iter().find(|pattern| pattern.as_str() == name);
        known.ok_or_else(|| UnknownPattern { name: name.to_owned() })
    }
}

fn known() -> String {
    Pattern::ALL.map(Pattern::as_str).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for pattern in Pattern::ALL {
            assert_eq!(pattern.as_str().parse(), Ok(pattern));
            assert_eq!(serde_json::to_value(pattern).unwrap(), pattern.as_str());
        }
        assert!("sideways".parse::<Pattern>().unwrap_err().to_string().contains("sideways"));
    }
}
