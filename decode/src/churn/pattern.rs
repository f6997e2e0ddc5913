//! The ways in which a process unmaps memory.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How memory is unmapped. All but [`Pattern::Arena`] and [`Pattern::Threads`] are one unmap event
/// per operation; those two count operations, and libc decides how many unmaps each one is.
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
}

impl Pattern {
    /// Every pattern, in the order of the documentation.
    pub const ALL: [Self; 7] = [
        Self::Same,
        Self::Adjacent,
        Self::Disjoint,
        Self::Random,
        Self::Arena,
        Self::Threads,
        Self::Madvise,
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
#[error(
    "unknown churn pattern `{0}`: use same, adjacent, disjoint, random, arena, threads or madvise"
)]
pub struct UnknownPattern(String);

impl FromStr for Pattern {
    type Err = UnknownPattern;

    fn from_str(name: &str) -> Result<Self, UnknownPattern> {
        let known = Self::ALL.into_iter().find(|pattern| pattern.as_str() == name);
        known.ok_or_else(|| UnknownPattern(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for pattern in Pattern::ALL {
            assert_eq!(pattern.as_str().parse(), Ok(pattern));
        }
        assert!("sideways".parse::<Pattern>().unwrap_err().to_string().contains("sideways"));
    }
}
