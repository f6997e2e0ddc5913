//! How a run ends, for the shell: the exit codes of `pdlab repro`.

use std::io;

use pdlab_leak::sampler::SampleError;
use pdlab_leak::scenario::ScenarioError;

use crate::cluster::ClusterError;
use crate::run_dir::RunDirError;
use crate::serve;

/// Exit code of a run. Scripts rely on the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It came out as the scenario expects.
    Matched = 0,
    /// It did not.
    NotMatched = 1,
    /// What was asked for makes no sense.
    BadInput = 2,
    /// It makes sense, and this machine cannot run it.
    Environment = 3,
    /// `pdlab watch` alone: the data do not decide.
    Undecided = 4,
    /// Ctrl-C: 128 and the number of SIGINT, as shells have it.
    Interrupted = 130,
}

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        self as u8
    }
}

/// A run that came to no verdict.
#[derive(Debug, thiserror::Error)]
pub enum ReproError {
    /// The scenario, or what is laid over it, is wrong.
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    /// An option asks for something that cannot be had, whatever the machine.
    #[error("{0}")]
    Option(String),
    /// An option asks for something that this build or machine does not have.
    #[error("{0}")]
    Unavailable(String),
    /// A role did not start, died, or does not answer.
    #[error(transparent)]
    Cluster(ClusterError),
    /// The load cannot run.
    #[error("cannot load the cluster: {0}")]
    Load(#[from] serve::Error),
    /// Requests go in and no answers come out.
    #[error("{0}")]
    Stalled(String),
    /// The memory of a role cannot be read.
    #[error("cannot measure {process}: {source}")]
    Sample {
        /// Which process.
        process: String,
        /// Why not.
        source: SampleError,
    },
    /// The kernel does not tell of RDMA objects any more.
    #[error(
        "cannot read the RDMA objects of the roles: {0}; was a device removed? `rdma resource show` asks the same"
    )]
    Rdma(#[source] io::Error),
    /// The processor time of a role cannot be read.
    #[error("cannot read the processor time of {process}: {reason}")]
    Cpu {
        /// Which process.
        process: String,
        /// Why not.
        reason: String,
    },
    /// The output directory cannot be used.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// A file of the run cannot be written.
    #[error("cannot write {file}: {source}; is the disk full?")]
    Write {
        /// Which file.
        file: String,
        /// Why not.
        source: io::Error,
    },
    /// Ctrl-C.
    #[error("interrupted; every role was ended")]
    Interrupted,
}

impl From<ClusterError> for ReproError {
    fn from(error: ClusterError) -> Self {
        match error {
            ClusterError::Cancelled => Self::Interrupted,
            error => Self::Cluster(error),
        }
    }
}

impl ReproError {
    /// What the shell gets.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Scenario(_) | Self::Option(_) => Exit::BadInput,
            Self::Interrupted => Exit::Interrupted,
            Self::Unavailable(_)
            | Self::Cluster(_)
            | Self::Load(_)
            | Self::Stalled(_)
            | Self::Sample { .. }
            | Self::Rdma(_)
            | Self::Cpu { .. }
            | Self::RunDir(_)
            | Self::Write { .. } => Exit::Environment,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_that_scripts_rely_on() {
        let all =
            [Exit::Matched, Exit::NotMatched, Exit::BadInput, Exit::Environment, Exit::Undecided];
        assert_eq!(all.map(Exit::code), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn a_wrong_question_and_a_wrong_machine_are_told_apart() {
        let unknown = pdlab_leak::scenario::Scenario::builtin("no-such").unwrap_err();
        assert_eq!(ReproError::from(unknown).exit(), Exit::BadInput);
        assert_eq!(ReproError::Option("x".into()).exit(), Exit::BadInput);
        assert_eq!(ReproError::Unavailable("x".into()).exit(), Exit::Environment);
        assert_eq!(ReproError::Stalled("x".into()).exit(), Exit::Environment);
    }
}
