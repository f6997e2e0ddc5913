//! Exit codes: 0 as hoped, 1 not as expected, 2 bad input, 3 the environment cannot run it.

use std::fmt::Display;
use std::process::ExitCode;

/// Why a command did not end with 0.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Exit code 2: what was asked for makes no sense.
    BadInput(String),
    /// Exit code 3: it makes sense, and cannot be run here.
    Environment(String),
    /// Another code, with what there was to say already said.
    Said(u8),
}

impl Failure {
    pub(crate) fn bad_input(error: impl Display) -> Self {
        Self::BadInput(error.to_string())
    }

    pub(crate) fn environment(error: impl Display) -> Self {
        Self::Environment(error.to_string())
    }
}

/// Prints the error, if there is one to print, and gives the code.
pub(crate) fn report(outcome: Result<(), Failure>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Said(code)) => ExitCode::from(code),
        Err(Failure::BadInput(message)) => {
            eprintln!("error: {message}");
            ExitCode::from(2)
        }
        Err(Failure::Environment(message)) => {
            eprintln!("error: {message}");
            ExitCode::from(3)
        }
    }
}
