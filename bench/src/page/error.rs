//! Why there is no page.

use std::io;
use std::path::PathBuf;

use pdlab_leak::scenario::ScenarioError;

/// A directory of which no page can be made.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// The directory cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The directory or the file in it.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is none of a run.
    #[error("{} is no directory of a run: it has none of {}", path.display(), wanted.join(", "))]
    NoRun {
        /// The directory.
        path: PathBuf,
        /// What one of it should have.
        wanted: Vec<&'static str>,
    },
    /// Runs that do not go on one page.
    #[error(
        "{count} runs do not go on one page: give at most {most}, all of pdlab bench serve, or one run"
    )]
    Apart {
        /// Runs that were given.
        count: usize,
        /// Runs that a page can show.
        most: usize,
    },
    /// A run that ended before anything was measured.
    #[error(
        "{name} holds no measurement: the run ended before its first sample; its scenario and its \
         logs are all there is"
    )]
    Nothing {
        /// The directory.
        name: String,
    },
    /// The scenario is none.
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    /// A file is not what it should be.
    #[error("{file}: {reason}")]
    File {
        /// Its name, with the directory's.
        file: String,
        /// What is wrong with it, and what to do.
        reason: String,
    },
}

impl PageError {
    /// `file` is no JSON, or other JSON than it should be.
    pub(super) fn json(file: String, error: &serde_json::Error) -> Self {
        let reason = if error.is_eof() {
            format!("it is cut off ({error})")
        } else {
            format!("{error}; was it written by another version of pdlab?")
        };
        Self::File { file, reason }
    }
}
