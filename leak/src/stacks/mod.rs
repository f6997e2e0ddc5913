//! Who holds memory, by the stacks that a tracer saw map it. Pure.
//!
//! A [`crate::trace::Traced`] says which spans of address space each stack has mapped and not given back. Laid over the
//! page table at the start and at the end of a measurement, that is *growth by stack*: [`Stacks`], which is also what
//! `stacks.json` of a run holds. A stack becomes an owner by name: a known one, or the function that asked for the
//! memory once everything that only hands memory on is taken off ([`Namer`]).
//!
//! - [`growth`](mod@growth): from two snapshots to growth by stack.
//! - [`pattern`]: patterns of stacks, as `signatures.toml` has them.
//! - [`namer`]: from a stack to the name of its owner.
//! - [`folded`]: the text that flame graphs are made of.

pub mod folded;
pub mod growth;
pub mod namer;
pub mod pattern;

pub use growth::{StackGrowth, Stacks};
pub use namer::Namer;
pub use pattern::{PatternError, StackPattern};

#[cfg(test)]
pub(crate) mod fixture;
