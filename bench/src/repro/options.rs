//! The options of `pdlab repro`, and the scenario that they make.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use pdlab_leak::scenario::{Overrides, Pattern, Role, Scenario, Transport, parse_setting};

use serde::{Deserialize, Serialize};

use super::ReproError;

/// The scenario that runs unless another one is named.
pub const DEFAULT_SCENARIO: &str = "ucx-rcache-invq";

/// Options of `pdlab repro`.
#[derive(Debug, Clone, Args)]
pub struct ReproArgs {
    /// Builtin scenario, or the path of a .toml file
    #[arg(value_name = "SCENARIO", default_value = DEFAULT_SCENARIO)]
    pub scenario: String,
    /// Overrides of the scenario
    #[command(flatten)]
    pub overrides: OverrideArgs,
    /// Memory limit for "full in so many hours", such as 64G (1024-based)
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, env = "PDLAB_MEMORY_LIMIT")]
    pub memory_limit: Option<u64>,
    /// Print the result as one JSON object on the last line of stdout
    #[arg(long)]
    pub json: bool,
    /// Directory for results, samples and logs [default: runs/{UTC time}-{scenario}]
    #[arg(long, value_name = "DIR", env = "PDLAB_OUT")]
    pub out: Option<PathBuf>,
}

/// What the command line lays over a scenario, the same in every command that runs one.
#[derive(Debug, Clone, Default, Args)]
pub struct OverrideArgs {
    /// UCX build: a version such as 1.19.0, system, or the path of one
    #[arg(long, value_name = "BUILD", env = "PDLAB_UCX")]
    pub ucx: Option<String>,
    /// What moves the KV blocks: tcp, ucx, verbs or auto
    #[arg(long, value_name = "TRANSPORT", env = "PDLAB_TRANSPORT")]
    pub transport: Option<Transport>,
    /// Environment variable of the measured roles (repeatable)
    #[arg(long, value_name = "NAME=VALUE")]
    pub set: Vec<String>,
    /// Churn pattern: same, adjacent, disjoint, random, arena, threads or madvise
    #[arg(long, value_name = "PATTERN", env = "PDLAB_CHURN")]
    pub churn: Option<Pattern>,
    /// Units of work to measure (unmaps, unless the scenario counts something else)
    #[arg(long, value_name = "N", env = "PDLAB_UNMAPS", value_parser = clap::value_parser!(u64).range(1..))]
    pub unmaps: Option<u64>,
    /// Seed of load, churn and bootstrap
    #[arg(long, value_name = "N", env = "PDLAB_SEED")]
    pub seed: Option<u64>,
    /// Trace who maps memory, with call stacks: by kernel tracepoints, or (on alone) by strace
    #[arg(long, value_enum, default_value_t, env = "PDLAB_TRACE")]
    pub trace: Trace,
    /// Skip proving the cures
    #[arg(long)]
    pub no_mitigations: bool,
}

/// Whether allocations are traced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trace {
    /// Trace, or fail.
    On,
    /// Do not trace.
    Off,
    /// Trace if kernel tracepoints can be used here.
    #[default]
    Auto,
}

impl ReproArgs {
    /// The scenario to run. `inherited` is the environment of the caller: its `UCX_*` variables
    /// win over the scenario's, and `--set` wins over both. All of them end up in the scenario,
    /// so that the file written beside the results repeats the run anywhere.
    ///
    /// # Errors
    /// [`ReproError::Scenario`], [`ReproError::Option`] for what is wrong.
    pub fn resolve(&self, inherited: &BTreeMap<String, String>) -> Result<Scenario, ReproError> {
        let mut scenario = Scenario::find(&self.scenario)?
            .apply(&self.overrides.overrides(ucx_variables(inherited))?)?;
        if let Some(limit) = self.memory_limit {
            scenario.measure.memory_limit_bytes = limit;
        }
        check_churn(&scenario)?;
        Ok(scenario)
    }
}

impl OverrideArgs {
    /// The overrides, `inherited` settings first so that `--set` wins over them.
    fn overrides(&self, inherited: Vec<(String, String)>) -> Result<Overrides, ReproError> {
        let mut set = inherited;
        for text in &self.set {
            set.push(parse_setting(text)?);
        }
        Ok(Overrides {
            ucx: self.ucx.clone(),
            transport: self.transport,
            set,
            churn: self.churn,
            units: self.unmaps,
            seed: self.seed,
            prove_mitigations: self.no_mitigations.then_some(false),
        })
    }
}

/// Checks that the role that is to churn memory can.
///
/// # Errors
/// [`ReproError::Option`] if it cannot.
pub fn check_churn(scenario: &Scenario) -> Result<(), ReproError> {
    match &scenario.churn {
        Some(churn) if churn.role != Role::Decode => Err(ReproError::Option(format!(
            "scenario {} churns memory in {}; only decode has a churn source: set churn.role to \
             \"decode\"",
            scenario.name, churn.role
        ))),
        _ => Ok(()),
    }
}

/// The variables of `environment` that UCX reads.
pub fn ucx_variables(environment: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let of_ucx = environment.iter().filter(|(name, _)| name.starts_with("UCX_"));
    of_ucx.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Bytes: a whole number, with K, M, G or T for powers of 1024.
///
/// # Errors
/// With what to write, if it is none, is zero or does not fit.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("\"{text}\" is no amount of memory; write bytes, or 512M, 64G, 1T");
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match &text[digits.len()..] {
        "" | "B" => 0,
        "K" | "KiB" => 10,
        "M" | "MiB" => 20,
        "G" | "GiB" => 30,
        "T" | "TiB" => 40,
        _ => return Err(wrong()),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let bytes =
        number.checked_mul(1 << shift).filter(|&bytes| bytes > 0 && bytes <= i64::MAX as u64);
    bytes.ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repro::Exit;
    use clap::Parser;
    use pdlab_leak::verdict::VerdictKind;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        repro: ReproArgs,
    }

    fn resolve(line: &str, inherited: &[(&str, &str)]) -> Result<Scenario, ReproError> {
        let words = std::iter::once("repro").chain(line.split_whitespace());
        let inherited: BTreeMap<String, String> =
            inherited.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Cli::try_parse_from(words).unwrap().repro.resolve(&inherited)
    }

    #[test]
    fn without_options_it_is_the_default_scenario() {
        let scenario = resolve("", &[]).unwrap();
        assert_eq!(scenario, Scenario::builtin(DEFAULT_SCENARIO).unwrap());
        assert!(scenario.expects.iter().any(|expect| expect.verdict == VerdictKind::Leak));
    }

    #[test]
    fn options_are_laid_over_the_scenario() {
        let line = "--ucx 1.16.0 --transport tcp --churn disjoint --unmaps 5000 --seed 9 \
                    --no-mitigations --memory-limit 8G --set A=1 --set B=x=y --trace off";
        let scenario = resolve(line, &[]).unwrap();
        assert_eq!(scenario.ucx, "1.16.0");
        assert_eq!(scenario.transport, Transport::Tcp);
        assert_eq!(scenario.churn.as_ref().unwrap().pattern, Pattern::Disjoint);
        assert_eq!((scenario.measure.units, scenario.seed), (5000, 9));
        assert!(!scenario.measure.prove_mitigations);
        assert_eq!(scenario.measure.memory_limit_bytes, 8 << 30);
        assert_eq!((scenario.env["A"].as_str(), scenario.env["B"].as_str()), ("1", "x=y"));
    }

    #[test]
    fn set_wins_over_the_users_environment_and_that_over_the_scenario() {
        let inherited = [("UCX_TLS", "rc"), ("UCX_LOG_LEVEL", "info"), ("HOME", "/root")];
        let env = resolve("--set UCX_LOG_LEVEL=warn", &inherited).unwrap().env;
        assert_eq!(env["UCX_TLS"], "rc");
        assert_eq!(env["UCX_LOG_LEVEL"], "warn");
        assert!(!env.contains_key("HOME"));
    }

    #[test]
    fn wrong_options_say_so_with_the_right_code() {
        for (line, exit, word) in [
            ("no-such", Exit::BadInput, "known are ucx-rcache-invq"),
            ("/no/such.toml", Exit::BadInput, "/no/such.toml"),
            ("--set 1A=2", Exit::BadInput, "NAME=VALUE"),
        ] {
            let error = resolve(line, &[]).unwrap_err();
            assert_eq!(error.exit(), exit, "{line}");
            assert!(error.to_string().contains(word), "{line}: {error}");
        }
        for line in [
            "--transport carrier-pigeon",
            "--churn x",
            "--unmaps 0",
            "--memory-limit 1X",
            "--trace maybe",
        ] {
            let words = std::iter::once("repro").chain(line.split_whitespace());
            assert_eq!(Cli::try_parse_from(words).unwrap_err().exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn bytes_are_powers_of_1024() {
        assert_eq!(parse_bytes("4096"), Ok(4096));
        assert_eq!(parse_bytes("64G"), Ok(64 << 30));
        assert_eq!(parse_bytes("2TiB"), Ok(2 << 40));
        for bad in ["", "G", "0", "-1G", "1.5G", "1GB", "99999999999T", "1 G", "\u{00b2}"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }
}
