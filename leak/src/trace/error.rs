//! Why a process cannot be traced.

use std::io;

use super::tier::{Obstacle, Tier};
use crate::sampler::SampleError;

/// A process cannot be traced.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// It is gone, or may not be read.
    #[error(transparent)]
    Process(#[from] SampleError),
    /// The way of tracing that was asked for does not apply here.
    #[error("cannot trace process {pid} by {tier}: {}", obstacles.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Unavailable {
        /// Its number.
        pid: u32,
        /// The way.
        tier: Tier,
        /// What is in its way, each with what to do.
        obstacles: Vec<Obstacle>,
    },
    /// The system refused a step.
    #[error("cannot {operation}: {source} ({cure})")]
    System {
        /// What was to be done, on what.
        operation: String,
        /// What the system said.
        source: io::Error,
        /// What to do about it.
        cure: String,
    },
    /// An option has a value that cannot be.
    #[error("{option} is {value}: {rule}")]
    Option {
        /// The field of [`super::TraceOptions`].
        option: &'static str,
        /// Its value.
        value: u64,
        /// What it must be.
        rule: &'static str,
    },
}
