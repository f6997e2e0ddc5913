//! How to trace.

use super::tier::Tier;

/// How to trace, and at what price.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceOptions {
    /// The way to trace. `None` (default): the best that applies without stopping the process, which is
    /// [`Tier::Perf`] or else [`Tier::Proc`]; `strace` stops it twice per call and is taken on request only.
    pub tier: Option<Tier>,
    /// Whether to follow page faults, too (default: no): who touches memory, not only who maps it. A fault costs the
    /// process one to two microseconds more.
    pub page_faults: bool,
    /// Stacks per second that are taken at most, over a second or so (default 2,000). Above it, calls of the most
    /// frequent lengths are no longer followed one by one, but counted, and their stacks sampled.
    pub max_samples_per_s: u32,
    /// Bytes of a stack that the kernel copies with each sample (default 16,384; a multiple of 8, at most 65,528).
    /// Frames further out than that are missing from the stack.
    pub stack_bytes: u32,
    /// Frames of a stack that are kept at most (default 64), the innermost.
    pub max_frames: usize,
    /// Distinct stacks that are kept at most (default 10,000). Bytes of others are counted as untracked.
    pub max_stacks: usize,
    /// Live regions that are kept at most (default 262,144, some 100 bytes each). Bytes of others are counted as
    /// untracked.
    pub max_regions: usize,
    /// Size of the buffer that the kernel writes into, per CPU (default 1 MiB; a power of two of pages). A smaller one
    /// loses records sooner when the tracer does not get to run.
    pub buffer_bytes: usize,
}

impl Default for TraceOptions {
    fn default() -> Self {
        TraceOptions {
            tier: None,
            page_faults: false,
            max_samples_per_s: 2_000,
            stack_bytes: 16_384,
            max_frames: 64,
            max_stacks: 10_000,
            max_regions: 1 << 18,
            buffer_bytes: 1 << 20,
        }
    }
}
