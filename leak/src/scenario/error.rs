//! Errors of scenario files, and the checks that types alone cannot make.

use super::overrides::is_variable_name;
use super::{Churn, Scenario};
use crate::work::Unit;

/// A scenario that cannot be used: where, why, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// No builtin has this name.
    #[error(
        "unknown scenario \"{name}\"; known are {known}; for a file of your own give its path, ending in .toml"
    )]
    Unknown {
        /// What was asked for.
        name: String,
        /// The builtin names, separated by commas.
        known: String,
    },
    /// The file cannot be read.
    #[error("cannot read scenario {file}: {source}")]
    Read {
        /// The path.
        file: String,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML, has an unknown key, lacks one, or holds a value of the wrong type or range.
    #[error("{file}, line {line}: {message}")]
    Invalid {
        /// The path, or the name of a builtin.
        file: String,
        /// Line in the file, from 1.
        line: usize,
        /// What is wrong, with the known keys or the allowed values.
        message: String,
    },
    /// An override makes the scenario invalid.
    #[error("scenario {name} with these overrides: {message}")]
    Override {
        /// The scenario.
        name: String,
        /// What is wrong, with the allowed values.
        message: String,
    },
    /// A pattern was asked of a scenario that makes no churn.
    #[error(
        "scenario {name} makes no churn, so it has no pattern to change; drop --churn or take another scenario"
    )]
    NoChurn {
        /// The scenario.
        name: String,
    },
    /// Not `NAME=VALUE`.
    #[error(
        "\"{text}\" is not a setting; write NAME=VALUE, for example UCX_RCACHE_MAX_UNRELEASED=64M"
    )]
    Setting {
        /// What was given.
        text: String,
    },
}

impl ScenarioError {
    /// What the TOML reader found, with the line made findable.
    pub(super) fn from_toml(file: &str, text: &str, error: &toml::de::Error) -> ScenarioError {
        let offset = error.span().map_or(0, |span| span.start);
        // Errors about syntax come as several lines; one is easier to read among other messages.
        let message = error.message().lines().collect::<Vec<_>>().join("; ");
        ScenarioError::Invalid { file: file.to_string(), line: line_at(text, offset), message }
    }
}

/// A value that is well-formed and still wrong.
#[derive(Debug)]
pub(super) struct Fault {
    /// Where: keys and list positions separated by dots, `expect.0.slope_min`.
    key: String,
    message: String,
}

impl Fault {
    pub(super) fn in_file(self, file: &str, text: &str) -> ScenarioError {
        let line = line_of(text, &self.key);
        ScenarioError::Invalid { file: file.to_string(), line, message: self.message() }
    }

    pub(super) fn in_overrides(self, name: &str) -> ScenarioError {
        ScenarioError::Override { name: name.to_string(), message: self.message() }
    }

    fn message(&self) -> String {
        format!("{} {}", self.key, self.message)
    }
}

impl Scenario {
    /// Ranges and relations between keys. The first fault found is returned.
    pub(super) fn check(&self) -> Result<(), Fault> {
        let name_ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        check(
            "name",
            !self.name.is_empty() && self.name.chars().all(name_ok),
            "must be lower-case letters, digits and dashes",
        )?;
        check("ucx", !self.ucx.is_empty(), "must be a version like 1.19.0, system, or a path")?;
        // TOML has no integers above i64::MAX, and the resolved scenario is written back as TOML.
        check("seed", i64::try_from(self.seed).is_ok(), "must be below 2^63")?;
        self.check_cluster()?;
        self.check_load()?;
        match &self.churn {
            Some(churn) => check_churn(churn)?,
            None => check(
                "unit",
                self.unit != Unit::Unmap,
                "is \"unmap\", but there is no [churn] to make any",
            )?,
        }
        self.check_measure()?;
        for name in self.env.keys() {
            check(
                &format!("env.{name}"),
                is_variable_name(name),
                "is no name of an environment variable",
            )?;
        }
        self.check_outcomes()
    }

    fn check_cluster(&self) -> Result<(), Fault> {
        let cluster = &self.cluster;
        for (key, count) in [("prefill", cluster.prefill), ("decode", cluster.decode)] {
            check(&format!("cluster.{key}"), (1..=64).contains(&count), "must be 1 to 64")?;
        }
        check("cluster.model", !cluster.model.is_empty(), "must name a model preset")?;
        check(
            "cluster.kv_scale",
            cluster.kv_scale > 0.0 && cluster.kv_scale <= 1.0,
            "must be above 0 and at most 1",
        )?;
        check(
            "cluster.time_scale",
            (0.0..=1000.0).contains(&cluster.time_scale),
            "must be 0 to 1000",
        )?;
        check(
            "cluster.num_gpu_blocks",
            cluster.num_gpu_blocks >= 2,
            "must be 2 or more; block 0 is never given out",
        )?;
        check(
            "cluster.block_size",
            (1..=1024).contains(&cluster.block_size),
            "must be 1 to 1024 tokens",
        )?;
        check("cluster.max_num_seqs", cluster.max_num_seqs >= 1, "must be 1 or more")
    }

    fn check_load(&self) -> Result<(), Fault> {
        let load = &self.load;
        check(
            "load.concurrency",
            (1..=100_000).contains(&load.concurrency),
            "must be 1 to 100000",
        )?;
        check("load.input_tokens", load.input_tokens >= 1, "must be 1 or more")?;
        check("load.output_tokens", load.output_tokens >= 1, "must be 1 or more")?;
        check(
            "load.prefix_tokens",
            load.prefix_tokens <= load.input_tokens,
            "must not exceed input_tokens",
        )
    }

    fn check_measure(&self) -> Result<(), Fault> {
        let measure = &self.measure;
        check_units("measure.units", measure.units)?;
        if let Some(max) = measure.max_units {
            check_units("measure.max_units", max)?;
            check("measure.max_units", max >= measure.units, "must not be below units")?;
        }
        let seconds = measure.max_seconds;
        check(
            "measure.max_seconds",
            seconds > 0.0 && seconds <= 1e7,
            "must be above 0 and at most 10000000",
        )?;
        let interval = measure.sample_interval_ms;
        check(
            "measure.sample_interval_ms",
            (10..=60_000).contains(&interval),
            "must be 10 to 60000 ms",
        )?;
        let margin = measure.margin_bytes_per_unit;
        check(
            "measure.margin_bytes_per_unit",
            margin > 0.0 && margin.is_finite(),
            "must be above 0",
        )?;
        let limit = measure.memory_limit_bytes;
        check(
            "measure.memory_limit_bytes",
            limit >= 1 && i64::try_from(limit).is_ok(),
            "must be 1 byte or more",
        )
    }

    fn check_outcomes(&self) -> Result<(), Fault> {
        check(
            "expect",
            !self.expects.is_empty(),
            "needs one [[expect]] or more, or no run could ever be right",
        )?;
        for (i, expect) in self.expects.iter().enumerate() {
            check_slopes(&format!("expect.{i}"), expect.slope_min, expect.slope_max)?;
            let quiet = expect.quiet_growth_ratio_max.unwrap_or(0.0);
            check(
                &format!("expect.{i}.quiet_growth_ratio_max"),
                quiet >= 0.0 && quiet.is_finite(),
                "must be 0 or more",
            )?;
        }
        for (i, mitigation) in self.mitigations.iter().enumerate() {
            check_slopes(&format!("mitigation.{i}"), mitigation.slope_min, mitigation.slope_max)?;
            check(
                &format!("mitigation.{i}.set"),
                !mitigation.set.is_empty(),
                "must set one variable or more",
            )?;
            for name in mitigation.set.keys() {
                let key = format!("mitigation.{i}.set.{name}");
                check(&key, is_variable_name(name), "is no name of an environment variable")?;
            }
            if let Some(units) = mitigation.units {
                check_units(&format!("mitigation.{i}.units"), units)?;
            }
        }
        for (i, refusal) in self.refusals.iter().enumerate() {
            let (set, reason) = (format!("refused.{i}.set"), format!("refused.{i}.reason"));
            check(&set, !refusal.set.is_empty(), "must set one variable or more")?;
            check(&reason, !refusal.reason.is_empty(), "must have words of the failure")?;
        }
        Ok(())
    }
}

fn check_churn(churn: &Churn) -> Result<(), Fault> {
    let pages = churn.bytes.is_multiple_of(4096) && (4096..=1 << 30).contains(&churn.bytes);
    check("churn.bytes", pages, "must be a multiple of 4096, at least that and at most 1 GiB")?;
    check("churn.resident", (1..=60_000).contains(&churn.resident), "must be 1 to 60000 mappings")?;
    let works = churn.unmaps_per_step > 0 || churn.unmaps_per_token > 0;
    check("churn.unmaps_per_step", works, "and unmaps_per_token are both 0: no churn would be made")
}

fn check_units(key: &str, units: u64) -> Result<(), Fault> {
    check(key, (1..=1_000_000_000_000).contains(&units), "must be 1 to 10^12 units of work")
}

fn check_slopes(key: &str, min: f64, max: f64) -> Result<(), Fault> {
    let ordered = min.is_finite() && max.is_finite() && min <= max;
    check(
        &format!("{key}.slope_min"),
        ordered,
        "and slope_max must be numbers, the first not above the second",
    )
}

fn check(key: &str, ok: bool, message: &str) -> Result<(), Fault> {
    if ok { Ok(()) } else { Err(Fault { key: key.to_string(), message: message.to_string() }) }
}

/// The line of `key` in `text`, or of the nearest table around it that is there: the key may be a default.
fn line_of(text: &str, key: &str) -> usize {
    use toml::de::{DeTable, DeValue};
    let Ok(document) = DeTable::parse(text) else { return 1 };
    let mut offset = 0;
    let mut here = DeValue::Table(document.into_inner());
    for step in key.split('.') {
        let next = match (here, step.parse::<usize>()) {
            (DeValue::Table(table), _) => table
                .into_iter()
                .find(|(name, _)| name.get_ref() == step)
                .map(|(name, value)| (name.span(), value)),
            (DeValue::Array(items), Ok(i)) => {
                items.into_iter().nth(i).map(|item| (item.span(), item))
            }
            _ => None,
        };
        let Some((span, value)) = next else { break };
        offset = span.start;
        here = value.into_inner();
    }
    line_at(text, offset)
}

fn line_at(text: &str, offset: usize) -> usize {
    1 + text.as_bytes()[..offset.min(text.len())].iter().filter(|&&byte| byte == b'\n').count()
}
