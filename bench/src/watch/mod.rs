//! `pdlab watch`: the same eyes on a process that pdlab did not start.
//!
//! Memory is read from `/proc`, work is time, a counter of the process's own metrics, or unmaps that the tracer counts;
//! slope, verdict, ledger and known bugs are [`pdlab_leak`]'s, the files are those of any run. The process is never
//! changed and never stopped (but by `strace`, if that is asked for), and may end whenever it likes.
//!
//! - [`options`]: the command line; [`plan`]: what it comes to, and `watch.toml`. [`target`]: whose process it is.
//! - [`session`]: the loop. Start here. [`course`]: its readings; [`ending`]: when it is over (both pure);
//!   [`eyes`]: reads the process; [`tracing`]: the tracer, if there is one.
//! - [`metrics`]: work counted over HTTP; [`exposition`], [`odometer`]: its text format, its counters (pure).
//! - [`live`]: what is seen meanwhile (pure); [`display`]: where; [`tui`]: full screen.
//! - [`attribution`], [`report`], [`text`]: what is found, as files and for people (pure).

pub mod attribution;
pub mod course;
pub mod display;
pub mod ending;
pub mod exposition;
pub mod eyes;
pub mod live;
pub mod metrics;
pub mod odometer;
pub mod options;
pub mod plan;
pub mod report;
pub mod session;
pub mod target;
pub mod text;
pub mod tracing;
pub mod tui;

use std::io;

use pdlab_leak::sampler::SampleError;

use crate::repro::{Exit, ReproError};
use crate::run_dir::RunDirError;

pub use display::Display;
pub use options::WatchArgs;
pub use report::WatchRecord;
pub use session::{Outcome, Session};

/// A watch that cannot begin, or cannot keep what it sees.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The process cannot be read.
    #[error("cannot watch: {0}")]
    Process(#[from] SampleError),
    /// An option asks for something that cannot be had, whatever the machine.
    #[error("{0}")]
    Option(String),
    /// It can be had, but not here or not now.
    #[error("{0}")]
    Unavailable(String),
    /// The output directory cannot be used.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// The samples cannot be written.
    #[error(transparent)]
    Samples(#[from] ReproError),
    /// The terminal cannot be drawn on.
    #[error("cannot draw on the terminal: {0}; without --tui a line is printed every second")]
    Terminal(#[from] io::Error),
}

impl WatchError {
    /// What the shell gets.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Process(SampleError::Gone { .. }) | Self::Option(_) => Exit::BadInput,
            _ => Exit::Environment,
        }
    }
}
