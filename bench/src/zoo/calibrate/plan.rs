//! Which runs make a calibration. Pure.

use clap::{Args, ValueEnum};
use pdlab_leak::scenario::{Scenario, ScenarioError};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A question that many runs answer together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// How often is a leak of 1 MB per minute found within a minute?
    Sensitivity,
    /// How often is a leak found where there is none?
    Controls,
    /// How often does an interval hold the slope?
    Coverage,
}

/// Options of `pdlab zoo calibrate`.
#[derive(Debug, Clone, Args)]
pub struct CalibrateArgs {
    /// Questions to answer (repeatable) [default: all]
    #[arg(long, value_enum, value_name = "PART")]
    pub part: Vec<Part>,
    /// Runs with a planted leak
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub sensitivity_runs: usize,
    /// Runs of controls, all controls together
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub control_runs: usize,
    /// Runs of the default scenario under different seeds
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub coverage_runs: usize,
    /// Runs at the same time; more than one makes the machine, and so the memory, noisier
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    pub jobs: u8,
    /// Seed of the first run; the others follow
    #[arg(long, value_name = "N", default_value_t = 1, env = "PDLAB_SEED")]
    pub seed: u64,
    /// Directory for results and logs; one that holds a part of them already is completed
    /// [default: runs/{UTC time}-calibrate]
    #[arg(long, value_name = "DIR", env = "PDLAB_OUT")]
    pub out: Option<PathBuf>,
    /// Print the result as one JSON object on the last line of stdout
    #[arg(long)]
    pub json: bool,
}

/// One run to make.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    /// What it counts for.
    pub part: Part,
    /// The scenario, seed included.
    pub scenario: Scenario,
}

/// The scenario with the planted leak.
pub const PLANTED: &str = "planted-1mb-per-min";

/// The scenario whose slope is known best.
pub const STEADY: &str = "ucx-rcache-invq";

/// Unmaps of a run for coverage: as few as show the slope, because the intervals of short runs
/// are the ones to doubt.
const COVERAGE_UNMAPS: u64 = 100_000;

impl CalibrateArgs {
    /// All runs, the parts in turn so that a change of the machine meets all of them.
    ///
    /// # Errors
    /// If a builtin scenario is broken.
    pub fn trials(&self) -> Result<Vec<Trial>, ScenarioError> {
        let controls: Vec<Scenario> =
            Scenario::builtins()?.into_iter().filter(|scenario| scenario.control).collect();
        let mut steady = Scenario::builtin(STEADY)?;
        steady.measure.units = COVERAGE_UNMAPS;
        steady.measure.prove_mitigations = false;
        let planted = [Scenario::builtin(PLANTED)?];
        let parts = [
            (Part::Sensitivity, self.sensitivity_runs, &planted[..]),
            (Part::Controls, self.control_runs, &controls[..]),
            (Part::Coverage, self.coverage_runs, std::slice::from_ref(&steady)),
        ];
        let mut trials = Vec::new();
        for (part, runs, scenarios) in parts {
            if !(self.part.is_empty() || self.part.contains(&part)) {
                continue;
            }
            for (run, scenario) in scenarios.iter().cycle().take(runs).enumerate() {
                let mut scenario = scenario.clone();
                scenario.seed = self.seed + run as u64;
                trials.push((run as f64 / runs as f64, Trial { part, scenario }));
            }
        }
        trials.sort_by(|a, b| a.0.total_cmp(&b.0));
        Ok(trials.into_iter().map(|(_, trial)| trial).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::collections::BTreeSet;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: CalibrateArgs,
    }

    fn trials(line: &str) -> Vec<Trial> {
        let words = std::iter::once("calibrate").chain(line.split_whitespace());
        Cli::try_parse_from(words).unwrap().args.trials().unwrap()
    }

    fn count(trials: &[Trial], part: Part) -> usize {
        trials.iter().filter(|trial| trial.part == part).count()
    }

    #[test]
    fn as_many_runs_as_promised_each_with_a_seed_of_its_own() {
        let all = trials("");
        assert_eq!(count(&all, Part::Sensitivity), 10);
        assert_eq!(count(&all, Part::Coverage), 100);
        let seeds: BTreeSet<u64> = all
            .iter()
            .filter(|trial| trial.part == Part::Coverage)
            .map(|trial| trial.scenario.seed)
            .collect();
        assert_eq!(seeds.len(), 100);
    }

    #[test]
    fn a_part_alone_is_only_that() {
        let some = trials("--part coverage --coverage-runs 7 --seed 100");
        assert_eq!(some.len(), 7);
        assert_eq!(some[0].scenario.seed, 100);
        assert!(some.iter().all(|trial| trial.part == Part::Coverage));
    }

    #[test]
    fn the_parts_take_turns() {
        let all = trials("");
        let first: BTreeSet<Part> = all[..30].iter().map(|trial| trial.part).collect();
        assert!(first.len() >= 2, "{first:?}");
    }
}
