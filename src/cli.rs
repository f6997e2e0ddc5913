//! Every command.

use clap::{Parser, Subcommand};

use crate::exit::Failure;
use crate::{doctor, roles, ucx};

/// A lab for prefill/decode disaggregated LLM serving that needs no GPU.
#[derive(Debug, Parser)]
#[command(name = "pdlab", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the front door
    Router(Box<roles::RouterArgs>),
    /// Run a prefill worker
    Prefill(Box<roles::PrefillArgs>),
    /// Run a decode worker
    Decode(Box<roles::DecodeArgs>),
    /// Manage UCX builds
    #[command(subcommand)]
    Ucx(ucx::UcxCommand),
    /// Show what can run here, and why not
    Doctor(doctor::DoctorArgs),
}

impl Cli {
    /// Runs the command.
    pub(crate) fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::Router(args) => roles::router(&args),
            Command::Prefill(args) => roles::prefill(&args),
            Command::Decode(args) => roles::decode(&args),
            Command::Ucx(command) => ucx::run(&command),
            Command::Doctor(args) => doctor::run(&args),
        }
    }
}
