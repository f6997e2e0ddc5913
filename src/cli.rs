//! Every command.

use clap::{Parser, Subcommand};

use crate::exit::Failure;
use crate::{doctor, matrix, measure, report, roles, transfer, ucx, watch, zoo};

/// A lab for prefill/decode disaggregated LLM serving that needs no GPU.
#[derive(Debug, Parser)]
#[command(name = "pdlab", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a leak scenario end to end and print the verdict
    Repro(Box<pdlab_bench::repro::ReproArgs>),
    /// Watch the memory of a process that runs already, and say who makes it grow
    Watch(Box<pdlab_bench::watch::WatchArgs>),
    /// Make one HTML page of a run
    Report(report::ReportArgs),
    /// Run a scenario over UCX versions, settings, churn patterns and transports
    Matrix(Box<pdlab_bench::matrix::MatrixArgs>),
    /// List or run the leak scenarios that come with pdlab
    Zoo(Box<pdlab_bench::zoo::ZooArgs>),
    /// Run a leak scenario and pass or fail against a baseline, for CI
    Gate(Box<pdlab_bench::gate::GateArgs>),
    /// Run a local cluster until Ctrl-C
    Up(Box<pdlab_bench::cluster::up::UpArgs>),
    /// Put load on a server, or on a transport
    #[command(subcommand)]
    Bench(BenchCommand),
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

#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// Load any OpenAI-compatible server, with the options of `vllm bench serve`
    Serve(Box<pdlab_bench::serve::Options>),
    /// Say what a model and its prompts mean in KV blocks and bytes, before anything runs
    Plan(Box<pdlab_bench::workload::Options>),
    /// Move blocks between processes or hosts, beside what the machine can do
    Transfer(Box<pdlab_bench::transfer::Options>),
}

impl Cli {
    /// Runs the command.
    pub(crate) fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::Repro(args) => measure::repro(&args),
            Command::Watch(args) => watch::watch(&args),
            Command::Report(args) => report::run(&args),
            Command::Matrix(args) => matrix::matrix(&args),
            Command::Zoo(args) => zoo::zoo(&args),
            Command::Gate(args) => zoo::gate(&args),
            Command::Up(args) => measure::up(&args),
            Command::Bench(BenchCommand::Serve(args)) => measure::serve(&args),
            Command::Bench(BenchCommand::Plan(args)) => measure::plan(&args),
            Command::Bench(BenchCommand::Transfer(args)) => transfer::transfer(&args),
            Command::Router(args) => roles::router(&args),
            Command::Prefill(args) => roles::prefill(&args),
            Command::Decode(args) => roles::decode(&args),
            Command::Ucx(command) => ucx::run(&command),
            Command::Doctor(args) => doctor::run(&args),
        }
    }
}
