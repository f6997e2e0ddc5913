//! Errors of scenario files, and the line that each is about.

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
pub(super) struct Flaw {
    /// Where: keys and list positions separated by dots, `expect.0.slope_min`.
    key: String,
    message: String,
}

impl Flaw {
    pub(super) fn new(key: &str, message: &str) -> Flaw {
        Flaw { key: key.to_string(), message: message.to_string() }
    }

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
