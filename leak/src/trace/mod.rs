//! The tracer: who maps the memory that a process gains.
//!
//! It follows mmap, munmap, mremap and brk of one process from outside, raw system calls included, and keeps live
//! bytes by the stack that mapped them. It needs no restart, no preload and no change of the process.
//!
//! Start here: [`Tracer::start`] with [`TraceOptions`]; what it sees is a [`Traced`].
//!
//! - [`tier`]: which way of tracing a machine allows, and what to set for a better one; [`probe`] finds the facts.
//! - `perf`, `strace`: the two ways that see stacks, a thread each. [`tracefs`]: the kernel's tracepoints.
//! - `book`: calls in, live bytes by stack out; [`space`]: a model of the address space below it. Pure.
//! - `stacks`, `modules`, `symbols`: stacks as places in files, files as they were when they were mapped, names. Names are
//!   looked up by whoever asks, not by the thread that follows.
//! - `maps`: `/proc/PID/maps`, which corrects the account. `worker`: what the thread and its owner say to each other.
//!
//! # What it costs
//!
//! A tracepoint on a system call makes every system call of the machine slower while it is open, on a small virtual
//! machine by half a microsecond, and a copied stack costs a few microseconds more. That is nothing at a thousand calls per
//! second, and too much at a hundred thousand. So the calls of a process are counted first, for a tenth of a second. If
//! there are more than [`TraceOptions::max_samples_per_s`], then one tracepoint inside of `mmap` is used instead, and the
//! kernel picks out by their lengths what comes and goes by the thousand: of these one in many is followed, of all
//! others each. What is gone is then told from `/proc/PID/maps`. The bytes of all stacks together are never more than the
//! process has mapped; what is an estimate is marked so.

mod book;
mod error;
mod maps;
mod modules;
mod options;
mod perf;
pub mod probe;
pub mod space;
mod stacks;
mod strace;
mod symbols;
pub mod tier;
mod traced;
pub mod tracefs;
mod tracer;
mod worker;

pub use error::TraceError;
pub use options::TraceOptions;
pub use space::Span;
pub use traced::{
    CallKind, Confidence, Counts, Frame, MAX_SPANS, ModuleState, Traced, TracedStack,
};
pub use tracer::Tracer;

/// Puts `data` to the decoders of perf's records, of strace's output and of `/proc/PID/maps`.
#[cfg(fuzzing)]
pub(crate) fn fuzz(data: &[u8]) {
    perf::fuzz(data);
    strace::fuzz(data);
    let _ = maps::Maps::read(data);
}
