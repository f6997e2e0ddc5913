//! `pdlab repro`: runs a scenario end to end and says what came out.
//!
//! A cluster is started, loaded with real requests, and watched until the verdict on its memory
//! stands; then it is drained and checked for what it did not give back. If it leaks as the
//! scenario says it must, each of the scenario's cures is proven in a fresh cluster. [`run`] does
//! it all and writes the files; the command line parses options, finds the UCX build, prints the
//! text and exits with the code.
//!
//! It is no judge of its own: slopes, verdicts and known bugs are [`pdlab_leak`]'s.
//!
//! - [`options`]: the command line, and the scenario that it makes.
//! - [`plan`]: from a scenario to processes and requests (pure).
//! - [`cell`]: one cluster, from start to drained. Start here.
//! - [`sampling`]: reads the roles; [`pairing`]: what the counters were at a reading (pure).
//! - [`pace`]: when a measurement has seen enough (pure).
//! - [`check`]: what must hold at the end of every run (pure).
//! - [`cost`], [`growth`]: processor time per unit of work; how much each role grew (pure).
//! - [`report`]: `result.json`; [`screen`], [`words`]: the text for people (pure).
//! - [`progress`]: what is seen meanwhile. [`exit`]: errors and exit codes.

pub mod cell;
pub mod check;
pub mod cost;
pub mod exit;
#[cfg(test)]
mod fixture;
pub mod growth;
pub mod options;
pub mod pace;
pub mod pairing;
pub mod plan;
pub mod progress;
pub mod sampling;
pub mod words;

pub use exit::{Exit, ReproError};
pub use options::{OverrideArgs, ReproArgs, Trace};
pub use plan::Host;
pub use progress::Progress;
