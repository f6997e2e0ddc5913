//! The options of `pdlab matrix`, and what they make. Pure.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use pdlab_leak::scenario::{Overrides, Pattern, Scenario, Transport};

use super::result::{Axes, Definition, Group, Setting};
use crate::repro::ReproError;
use crate::repro::options::{DEFAULT_SCENARIO, check_churn, ucx_variables};

/// Options of `pdlab matrix`.
#[derive(Debug, Clone, Args)]
pub struct MatrixArgs {
    /// Builtin scenario, or the path of a .toml file
    #[arg(value_name = "SCENARIO", default_value = DEFAULT_SCENARIO)]
    pub scenario: String,
    /// A matrix that is made already; other options change it
    #[arg(long, value_enum)]
    pub preset: Option<Preset>,
    /// UCX builds: versions such as 1.19.0, system, or paths
    #[arg(long, value_name = "BUILD,...", value_delimiter = ',')]
    pub ucx: Vec<String>,
    /// Values of a variable of the measured roles, NAME=V1,V2 (repeatable: all with all). "A=1 B=2"
    /// is one combination, `default` nothing set, `\,` a comma within a value
    #[arg(long, value_name = "NAME=VALUE,...")]
    pub set: Vec<String>,
    /// Churn patterns: same, adjacent, disjoint, random, madvise and more
    #[arg(long, value_name = "PATTERN,...", value_delimiter = ',')]
    pub churn: Vec<Pattern>,
    /// What moves the KV blocks: tcp, ucx, verbs, auto
    #[arg(long, value_name = "TRANSPORT,...", value_delimiter = ',')]
    pub transport: Vec<Transport>,
    /// Runs of a cell
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub repeat: u32,
    /// Units of work to measure per run (unmaps, unless the scenario counts something else)
    #[arg(long, value_name = "N", env = "PDLAB_UNMAPS", value_parser = clap::value_parser!(u64).range(1..))]
    pub unmaps: Option<u64>,
    /// Seed of the order, the load, the churn and the bootstrap
    #[arg(long, value_name = "N", env = "PDLAB_SEED")]
    pub seed: Option<u64>,
    /// Print the result as one JSON object on the last line of stdout
    #[arg(long)]
    pub json: bool,
    /// Directory for results, samples and logs; an interrupted matrix goes on where it was
    /// [default: runs/{UTC time}-matrix-{scenario}]
    #[arg(long, value_name = "DIR", env = "PDLAB_OUT")]
    pub out: Option<PathBuf>,
}

/// Matrices that are made already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Preset {
    /// What to set against the leak of UCX's registration cache: 4 versions, 8 settings; 5 minutes
    Mitigations,
}

impl Preset {
    /// The first of each series that behaves alike and is in use: before the leak, the leak of the
    /// original report, the last that has it, and one with the interval tree.
    const BUILDS: [&str; 4] = ["1.16.0", "1.19.0", "1.20.1", "1.22.0"];

    /// Everything that is said to help, four amounts of unmapped memory to drain after, and the
    /// combination that cannot run.
    const SET: &str = "default,UCX_MEM_MMAP_HOOK_MODE=none,UCX_MEM_EVENTS=n,UCX_RCACHE_ENABLE=n,\
                       UCX_RCACHE_MAX_UNRELEASED=1024,1M,64M,1G,\
                       UCX_MEM_MMAP_HOOK_MODE=none UCX_RCACHE_ENABLE=y";

    /// Unmaps per run. At 40,000 and more per second it takes 2 s, which is 40 samples and 200
    /// ticks of processor time: enough for a slope within 1 B and a cost within a few percent.
    const UNMAPS: u64 = 80_000;
}

/// A matrix that can be run.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    /// What is written into its file.
    pub definition: Definition,
    /// The scenario that all cells start from.
    pub scenario: Scenario,
}

impl MatrixArgs {
    /// The matrix to run. `inherited` is the environment of the caller: its `UCX_*` variables win
    /// over the scenario's in all cells, and `--set` wins over both.
    ///
    /// # Errors
    /// [`ReproError::Scenario`] or [`ReproError::Option`] for what is wrong.
    pub fn resolve(&self, inherited: &BTreeMap<String, String>) -> Result<Matrix, ReproError> {
        let preset = self.preset.is_some();
        let overrides = Overrides {
            set: ucx_variables(inherited),
            units: self.unmaps.or(preset.then_some(Preset::UNMAPS)),
            seed: self.seed,
            prove_mitigations: Some(false),
            ..Overrides::default()
        };
        let scenario = Scenario::find(&self.scenario)?.apply(&overrides)?;
        check_churn(&scenario)?;
        let or_preset = |given: &[String], preset_values: &[&str]| -> Vec<String> {
            if given.is_empty() && preset {
                preset_values.iter().map(|value| (*value).to_owned()).collect()
            } else {
                given.to_vec()
            }
        };
        let ucx = or_preset(&self.ucx, &Preset::BUILDS);
        let set = or_preset(&self.set, &[Preset::SET]);
        if let Some(empty) = ucx.iter().position(|build| build.trim().is_empty()) {
            return Err(ReproError::Option(format!(
                "--ucx: build {} of {} is empty; write versions such as 1.16.0,1.19.0",
                empty + 1,
                ucx.len()
            )));
        }
        let axes = Axes::new(&scenario, &self.transport, &ucx, &self.churn, &set)?;
        let matrix = Matrix {
            definition: Definition {
                scenario: scenario.name.clone(),
                title: scenario.title.clone(),
                role: scenario.role,
                unit: scenario.unit,
                gauge: scenario.measure.gauge,
                axes,
                repeat: self.repeat,
                seed: scenario.seed,
                scenario_toml: scenario.to_toml(),
            },
            scenario,
        };
        // All of it makes sense, or none of it is run.
        for (group, set) in matrix.definition.axes.cells() {
            matrix.cell(&group, &set)?;
        }
        Ok(matrix)
    }
}

impl Matrix {
    /// The scenario of a cell.
    ///
    /// # Errors
    /// [`ReproError::Scenario`] if the cell makes it invalid.
    pub fn cell(&self, group: &Group, set: &Setting) -> Result<Scenario, ReproError> {
        let overrides = Overrides {
            ucx: group.ucx.clone(),
            transport: Some(group.transport),
            churn: group.churn,
            set: set.set.clone().into_iter().collect(),
            ..Overrides::default()
        };
        Ok(self.scenario.apply(&overrides)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::schedule::schedule;
    use crate::repro::Exit;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        matrix: MatrixArgs,
    }

    fn parse(words: &[&str]) -> Result<MatrixArgs, clap::Error> {
        Ok(Cli::try_parse_from([&["matrix"], words].concat())?.matrix)
    }

    fn resolve(words: &[&str]) -> Result<Matrix, ReproError> {
        parse(words).unwrap().resolve(&BTreeMap::new())
    }

    #[test]
    fn a_cell_is_the_scenario_with_its_values() {
        let matrix = resolve(&[
            "--ucx",
            "1.16.0,1.19.0",
            "--set",
            "UCX_MEM_EVENTS=default,n",
            "--set",
            r"UCX_TLS=tcp\,self",
            "--churn",
            "same,disjoint",
            "--transport",
            "ucx",
            "--unmaps",
            "5000",
            "--seed",
            "7",
        ])
        .unwrap();
        let cells = matrix.definition.axes.cells();
        assert_eq!(cells.len(), 2 * 2 * 3);
        let (group, set) = &cells[cells.len() - 1];
        let scenario = matrix.cell(group, set).unwrap();
        assert_eq!((scenario.ucx.as_str(), scenario.transport), ("1.19.0", Transport::Ucx));
        assert_eq!(scenario.churn.as_ref().unwrap().pattern, Pattern::Disjoint);
        assert_eq!(
            (&*scenario.env["UCX_MEM_EVENTS"], &*scenario.env["UCX_TLS"]),
            ("n", "tcp,self")
        );
        assert_eq!((scenario.measure.units, scenario.seed), (5000, 7));
        assert!(!scenario.measure.prove_mitigations);
    }

    #[test]
    fn the_preset_is_four_versions_with_everything_that_is_said_to_help() {
        let matrix = resolve(&["--preset", "mitigations"]).unwrap();
        let axes = &matrix.definition.axes;
        assert_eq!(axes.ucx, Preset::BUILDS);
        let settings: Vec<String> = axes.set.iter().map(ToString::to_string).collect();
        assert_eq!(
            settings,
            [
                "default",
                "UCX_MEM_MMAP_HOOK_MODE=none",
                "UCX_MEM_EVENTS=n",
                "UCX_RCACHE_ENABLE=n",
                "UCX_RCACHE_MAX_UNRELEASED=1024",
                "UCX_RCACHE_MAX_UNRELEASED=1M",
                "UCX_RCACHE_MAX_UNRELEASED=64M",
                "UCX_RCACHE_MAX_UNRELEASED=1G",
                "UCX_MEM_MMAP_HOOK_MODE=none UCX_RCACHE_ENABLE=y",
            ]
        );
        assert_eq!(schedule(axes, 1, 1).len(), 4 * (3 + 8));
        assert_eq!(matrix.scenario.measure.units, Preset::UNMAPS);
        let other = ["--preset", "mitigations", "--ucx", "1.18.1", "--unmaps", "9"];
        let other = resolve(&other).unwrap();
        assert_eq!(other.definition.axes.ucx, ["1.18.1"]);
        assert_eq!((other.definition.axes.set.len(), other.scenario.measure.units), (9, 9));
    }

    #[test]
    fn the_users_environment_is_under_all_cells() {
        let inherited = BTreeMap::from([
            ("UCX_TLS".to_owned(), "rc".to_owned()),
            ("UCX_LOG_LEVEL".to_owned(), "info".to_owned()),
        ]);
        let args = parse(&["--set", "UCX_TLS=tcp"]).unwrap();
        let matrix = args.resolve(&inherited).unwrap();
        let env: Vec<String> = matrix
            .definition
            .axes
            .cells()
            .iter()
            .map(|(group, set)| matrix.cell(group, set).unwrap().env["UCX_TLS"].clone())
            .collect();
        assert_eq!(env, ["rc", "tcp"]);
        assert_eq!(matrix.scenario.env["UCX_LOG_LEVEL"], "info");
    }

    #[test]
    fn what_makes_no_sense_is_bad_input() {
        for (words, text) in [
            (&["no-such"][..], "unknown scenario"),
            (&["--ucx", "1.19.0,,1.20.1"], "build 2 of 3 is empty"),
            (&["--ucx", ""], "build 1 of 1 is empty"),
            (&["--ucx", "1.19.0,1.19.0"], "twice"),
            (&["--set", "A"], "which variable"),
            (&["--churn", "same,same"], "--churn lists same twice"),
            (&["--seed", "18446744073709551615"], "seed must be"),
        ] {
            let error = resolve(words).unwrap_err();
            assert_eq!(error.exit(), Exit::BadInput, "{words:?}");
            assert!(error.to_string().contains(text), "{words:?}: {error}");
        }
        for words in [
            &["--churn", "x"][..],
            &["--churn", ""],
            &["--transport", "x"],
            &["--preset", "x"],
            &["--repeat", "0"],
            &["--unmaps", "0"],
        ] {
            assert_eq!(parse(words).unwrap_err().exit_code(), 2, "{words:?}");
        }
    }
}
