//! The command line of pdlab: reads flags and environment once, hands them down, maps errors to
//! exit codes. Nothing is decided here that a library could decide.
//!
//! - `cli`: every command. `exit`: what the exit codes mean.
//! - `transport_args`, `rdma_args`, `engine_args`: flags that prefill and decode share.
//! - `roles`: `pdlab prefill`, `decode`, `router`.
//! - `ucx`, `doctor`: what is installed and what can run here.
//! - `measure`: `pdlab repro`, `up`, `bench serve` and `bench plan`. `transfer`: `pdlab bench transfer`.
//!   `matrix`: `pdlab matrix`. `report`: `pdlab report`. `watch`: `pdlab watch`.

mod cli;
mod doctor;
mod engine_args;
mod exit;
mod fault_args;
mod matrix;
mod measure;
mod rdma_args;
mod report;
mod roles;
mod transfer;
mod transport_args;
mod ucx;
mod watch;
mod zoo;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    exit::report(cli.run())
}
