//! The tracer: who maps the memory that a process gains.
//!
//! It follows mmap, munmap, mremap and brk of one process from outside, raw system calls included, and keeps live
//! bytes by the stack that mapped them. It needs no restart, no preload and no change of the process.
//!
//! - [`tier`]: which way of tracing a machine allows, and what to set for a better one; [`probe`] finds the facts.
//! - [`space`]: a model of the address space, live bytes by owner. Pure.
//! - [`tracefs`]: the kernel's tracepoints.

pub mod probe;
pub mod space;
pub mod tier;
pub mod tracefs;
