//! The tracer: who maps the memory that a process gains.
//!
//! It follows mmap, munmap, mremap and brk of one process from outside, raw system calls included, and keeps live
//! bytes by the stack that mapped them. It needs no restart, no preload and no change of the process.
//!
//! Start here: [`Tracer::start`] with [`TraceOptions`]; what it sees is a [`Traced`].
//!
//! - [`tier`]: which way of tracing a machine allows, and what to set for a better one; [`probe`] finds the facts.
//! - [`space`]: a model of the address space, live bytes by owner. Pure.
//! - [`tracefs`]: the kernel's tracepoints.

mod error;
mod options;
pub mod probe;
pub mod space;
pub mod tier;
mod traced;
pub mod tracefs;
mod tracer;

pub use error::TraceError;
pub use options::TraceOptions;
pub use space::Span;
pub use traced::{
    CallKind, Confidence, Counts, Frame, MAX_SPANS, ModuleState, Traced, TracedStack,
};
pub use tracer::Tracer;
