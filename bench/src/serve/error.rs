//! What can go wrong before the first request is measured.

use std::path::PathBuf;

use crate::run_dir::RunDirError;

/// Why a run could not start or its result could not be kept.
///
/// A request that fails during a run is a number in the report, never one of these.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting that is wrong or does not go with another one.
    #[error("{option}: {problem}")]
    Config {
        /// The option as the command line spells it.
        option: &'static str,
        /// What is wrong and what to give instead.
        problem: String,
    },
    /// Nothing answers at the address.
    #[error(
        "cannot reach {url}: {reason}; start the server or correct --base-url (or --host, --port)"
    )]
    Unreachable {
        /// The URL that was tried.
        url: String,
        /// Why it failed.
        reason: String,
    },
    /// The server answers, but not as an OpenAI-compatible server does.
    #[error("{url} {problem}")]
    Server {
        /// The URL that was asked.
        url: String,
        /// What it answered and what to do.
        problem: String,
    },
    /// The server does not serve the model.
    #[error("{url} does not serve the model {model:?}; it serves {served}; correct --model")]
    UnknownModel {
        /// The server.
        url: String,
        /// The model that was asked for.
        model: String,
        /// The models that it does serve.
        served: String,
    },
    /// Lines of a dataset that cannot be read.
    #[error("{path}: {bad} bad line(s):\n{}", first.join("\n"))]
    Dataset {
        /// The file.
        path: PathBuf,
        /// How many lines are bad among those that were read.
        bad: usize,
        /// The first ten: line number, what is wrong, how a line looks.
        first: Vec<String>,
    },
    /// A file that cannot be read or written.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// `read` or `write`.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The directory of the run cannot be used.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// The run was stopped while the server was checked or warmed up.
    #[error("stopped before the first request was measured")]
    Stopped,
    /// A process whose memory was to be watched.
    #[error("--watch-pid: {0}")]
    Watch(#[from] pdlab_leak::sampler::SampleError),
    /// The system refused a timer.
    #[error("cannot create the timer that paces requests: {0}; raise the limit of open files")]
    Timer(std::io::Error),
}

impl Error {
    /// A wrong setting; `option` as the command line spells it.
    pub fn config(option: &'static str, problem: impl Into<String>) -> Self {
        Self::Config { option, problem: problem.into() }
    }

    /// Whether the user's input is at fault (exit code 2) rather than the environment.
    pub fn is_bad_input(&self) -> bool {
        matches!(
            self,
            Self::Config { .. } | Self::Dataset { .. } | Self::UnknownModel { .. } | Self::Watch(_)
        )
    }
}
