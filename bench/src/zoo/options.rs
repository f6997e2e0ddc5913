//! The options of `pdlab zoo`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use pdlab_leak::scenario::{Overrides, Scenario, ScenarioError};

use crate::repro::Trace;

use super::calibrate::CalibrateArgs;

/// Options of `pdlab zoo`.
#[derive(Debug, Clone, Args)]
pub struct ZooArgs {
    /// What to do; without it, the scenarios are listed
    #[command(subcommand)]
    pub command: Option<ZooCommand>,
    /// Print the list as one JSON object
    #[arg(long)]
    pub json: bool,
}

/// What `pdlab zoo` does.
#[derive(Debug, Clone, Subcommand)]
pub enum ZooCommand {
    /// Run scenarios, a line each
    Run(ZooRunArgs),
    /// Measure how often verdicts are right, on real processes
    Calibrate(CalibrateArgs),
}

/// Options of `pdlab zoo run`.
#[derive(Debug, Clone, Args)]
pub struct ZooRunArgs {
    /// Builtin scenarios, or paths of .toml files
    #[arg(value_name = "SCENARIO", required_unless_present = "all")]
    pub scenarios: Vec<String>,
    /// Run every builtin scenario
    #[arg(long, conflicts_with = "scenarios")]
    pub all: bool,
    /// Directory for the runs; one that holds a part of them already is completed
    /// [default: runs/{UTC time}-zoo]
    #[arg(long, value_name = "DIR", env = "PDLAB_OUT")]
    pub out: Option<PathBuf>,
    /// Write what was found as JUnit XML
    #[arg(long, value_name = "FILE", env = "PDLAB_JUNIT")]
    pub junit: Option<PathBuf>,
    /// Seed of load, churn and bootstrap, for all of them
    #[arg(long, value_name = "N", env = "PDLAB_SEED")]
    pub seed: Option<u64>,
    /// Trace who maps memory, with call stacks: by kernel tracepoints, or (on alone) by strace
    #[arg(long, value_enum, default_value_t, env = "PDLAB_TRACE")]
    pub trace: Trace,
    /// Skip proving the cures
    #[arg(long)]
    pub no_mitigations: bool,
    /// Print the result as one JSON object on the last line of stdout
    #[arg(long)]
    pub json: bool,
}

impl ZooRunArgs {
    /// The scenarios to run, in order, each once. `inherited` are the caller's own settings of
    /// UCX.
    ///
    /// # Errors
    /// If one is unknown or wrong, before any has run.
    pub fn scenarios(
        &self,
        inherited: &[(String, String)],
    ) -> Result<Vec<Scenario>, ScenarioError> {
        let named = if self.all {
            Scenario::builtins()?
        } else {
            let found = self.scenarios.iter().map(|name| Scenario::find(name));
            found.collect::<Result<_, _>>()?
        };
        let overrides = Overrides {
            set: inherited.to_vec(),
            seed: self.seed,
            prove_mitigations: self.no_mitigations.then_some(false),
            ..Overrides::default()
        };
        let mut seen = BTreeSet::new();
        let once = named.into_iter().filter(|scenario| seen.insert(scenario.name.clone()));
        once.map(|scenario| scenario.apply(&overrides)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        zoo: ZooArgs,
    }

    fn run_args(line: &str) -> Result<ZooRunArgs, clap::Error> {
        let words = ["zoo", "run"].into_iter().chain(line.split_whitespace());
        match Cli::try_parse_from(words)?.zoo.command {
            Some(ZooCommand::Run(args)) => Ok(args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn all_are_all_and_a_name_twice_is_one() {
        let all = run_args("--all").unwrap().scenarios(&[]).unwrap();
        assert_eq!(all.len(), Scenario::builtin_names().len());
        let line = "ucx-rcache-invq ucx-rcache-invq --seed 7 --no-mitigations";
        let named = run_args(line).unwrap().scenarios(&[]).unwrap();
        assert_eq!(named.len(), 1);
        assert_eq!((named[0].seed, named[0].measure.prove_mitigations), (7, false));
    }

    #[test]
    fn nothing_to_run_is_no_run() {
        assert!(run_args("").is_err());
        assert!(run_args("--all x").is_err());
        assert!(run_args("no-such").unwrap().scenarios(&[]).is_err());
    }
}
