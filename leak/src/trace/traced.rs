//! What a tracer has seen: live bytes by the stack that mapped them, and how far they can be trusted.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::space::Span;
use super::tier::Tier;

/// What is still mapped of what a process has mapped since the trace began, by stack.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Traced {
    /// How it was traced.
    pub tier: Tier,
    /// Stacks that hold something, the largest first.
    pub stacks: Vec<TracedStack>,
    /// What was seen, in all.
    pub counts: Counts,
    /// How far the bytes can be trusted.
    pub confidence: Confidence,
    /// Bytes that were mapped when there were too many regions or stacks to keep another: they are in no stack.
    pub untracked_bytes: u64,
    /// What else a reader must know, a sentence each: that the process has called `exec`, that it has ended, which
    /// calls were followed by sample only.
    pub remarks: Vec<String>,
}

/// What one stack holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TracedStack {
    /// The call stack, innermost first. Empty if the kernel could not copy it.
    pub frames: Vec<Frame>,
    /// Which call it made.
    pub kind: CallKind,
    /// Bytes that it mapped and that are still mapped (address space, not resident memory). For
    /// [`CallKind::Fault`]: bytes of the pages that it touched first.
    pub live_bytes: u64,
    /// Where they lie, ordered, neighbours joined; the largest [`MAX_SPANS`] if there are more. Empty where
    /// `estimated`, because a sample of calls does not tell addresses of the others.
    pub spans: Vec<Span>,
    /// How many calls it has made, as far as they were followed.
    pub maps: u64,
    /// Whether `live_bytes` is an estimate from a sample of the calls of this stack.
    pub estimated: bool,
}

/// How many spans a stack lists at most: a process of 100,000 mappings makes a result of some MB at most.
pub const MAX_SPANS: usize = 4096;

/// A place in the code.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Frame {
    /// Demangled name; `None` where the file has no symbol for it.
    pub function: Option<String>,
    /// Path as the process sees it, or `[vdso]`; `None` for code that lies in no file.
    pub module: Option<String>,
    /// Offset in the file of `module`, or the address where there is none.
    pub offset: u64,
    /// What has become of the module.
    pub module_state: ModuleState,
}

/// What has become of a module since the process mapped it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModuleState {
    /// The file is there, and it is the one that the process runs.
    Present,
    /// At its path there is another file now, or none: an update, say.
    Replaced,
    /// The process has unmapped it: `dlclose`.
    Unloaded,
    /// Code that no file backs: made at run time, or the kernel's.
    NoFile,
}

/// A kind of call that changes an address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallKind {
    /// `mmap`
    Mmap,
    /// `brk`: the heap of malloc's main arena
    Brk,
    /// `mremap`, as far as it made the mapping larger
    Mremap,
    /// A page touched for the first time
    Fault,
}

/// What a tracer has seen since it began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// `mmap` calls begun.
    pub mmaps: u64,
    /// `munmap` calls begun.
    pub munmaps: u64,
    /// `mremap` calls begun.
    pub mremaps: u64,
    /// `brk` calls begun.
    pub brks: u64,
    /// Page faults, if they were asked for.
    pub faults: u64,
    /// Records that the kernel dropped because its buffer was full.
    pub lost: u64,
}

/// How far the bytes of a [`Traced`] can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Confidence {
    /// Every call since the trace began was followed.
    Complete,
    /// Of some calls one in so many was followed; the remarks say which. All others were followed.
    Sampled {
        /// One call in so many.
        one_in: u32,
    },
    /// Records were lost: bytes may be missing, or be shown that are gone.
    Lost {
        /// Share of all records, 0 to 1.
        share: f64,
    },
    /// This tier sees no stacks.
    None,
}

impl fmt::Display for Confidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Confidence::Complete => f.write_str("complete"),
            Confidence::Sampled { one_in } => write!(f, "sampled, 1 in {one_in} of some calls"),
            Confidence::Lost { share } => write!(f, "{:.2} % of the records lost", share * 100.0),
            Confidence::None => f.write_str("no stacks"),
        }
    }
}

impl fmt::Display for Frame {
    /// `ucs_mpool_grow (libucs.so.0+0x1f2a3)`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.module_state {
            ModuleState::Present | ModuleState::NoFile => "",
            ModuleState::Replaced => ", replaced since",
            ModuleState::Unloaded => ", unloaded since",
        };
        let file = self.module.as_deref().map(|path| path.rsplit('/').next().unwrap_or(path));
        match (&self.function, file) {
            (Some(function), Some(file)) => {
                write!(f, "{function} ({file}+{:#x}{state})", self.offset)
            }
            (None, Some(file)) => write!(f, "{file}+{:#x}{state}", self.offset),
            (Some(function), None) => f.write_str(function),
            (None, None) => write!(f, "{:#x}", self.offset),
        }
    }
}
