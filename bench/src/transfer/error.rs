//! What can go wrong, by who must act: exit codes follow from it.

use crate::run_dir::RunDirError;

/// An agent cannot do what is asked of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Whether what was asked for makes no sense anywhere.
    pub bad_input: bool,
    /// Why.
    pub reason: String,
}

impl Refusal {
    /// Something that makes no sense.
    pub fn bad_input(reason: impl Into<String>) -> Self {
        Self { bad_input: true, reason: reason.into() }
    }
}

/// Why a run has no result, or none to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An option that is wrong or does not go with another.
    #[error("{option}: {problem}")]
    Config {
        /// As the command line spells it.
        option: &'static str,
        /// What is wrong and what to give instead.
        problem: String,
    },
    /// An agent refuses.
    #[error("agent {agent}: {}", refusal.reason)]
    Refused {
        /// Which: its index and where it is.
        agent: String,
        /// What it says.
        refusal: Refusal,
    },
    /// An agent cannot be reached, or has gone.
    #[error("agent {agent}: {reason}")]
    Lost {
        /// Which: its index and where it is.
        agent: String,
        /// What happened.
        reason: String,
    },
    /// An agent of this host does not start.
    #[error("cannot start an agent: {0}")]
    Start(String),
    /// This host cannot do its part.
    #[error("{0}")]
    Here(String),
    /// The directory of the run cannot be used.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
}

impl Error {
    /// A wrong option.
    pub fn config(option: &'static str, problem: impl Into<String>) -> Self {
        Self::Config { option, problem: problem.into() }
    }

    /// Whether the user's input is at fault (exit code 2) rather than the environment (3).
    pub fn is_bad_input(&self) -> bool {
        match self {
            Self::Config { .. } => true,
            Self::Refused { refusal, .. } => refusal.bad_input,
            _ => false,
        }
    }
}
