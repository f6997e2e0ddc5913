//! Settings that UCX has ignored, by its own account.
//!
//! UCX takes any `UCX_*` variable without an error, misspelt ones too. When its worker is up, it
//! writes into the log which variables nothing has read, and what they resemble
//! (<https://github.com/openucx/ucx/blob/v1.19.0/src/ucs/config/parser.c>). That is the last word:
//! a list of the names that a build knows would still count those of transports that do not run.
//! With `UCX_LOG_LEVEL` above `warn`, or `UCX_WARN_UNUSED_ENV_VARS=n`, UCX keeps it to itself.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// How UCX's report begins, for one variable and for several.
const REPORT: &str = "unused environment variable";

/// Bytes of a log that are searched: the report is among its first lines.
const BYTES: u64 = 64 * 1024;

/// Read by UCX before it keeps accounts.
const UNACCOUNTED: &str = "UCX_CONFIG_DIR";

/// A variable that made no difference.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ignored {
    /// Its name.
    pub name: String,
    /// A variable that UCX knows and that it resembles, if UCX sees one.
    pub similar: Option<String>,
}

impl Ignored {
    /// What `who` (`UCX 1.19.0`) did with it, and what may have been meant.
    pub fn told_of(&self, who: &str) -> String {
        let meant = self.similar.as_ref().map(|similar| format!("; did you mean {similar}?"));
        let meant = meant.unwrap_or_default();
        format!("{who} ignores {}: nothing that runs here reads it{meant}", self.name)
    }
}

impl fmt::Display for Ignored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.told_of("UCX"))
    }
}

/// The variables of `env` that UCX has ignored in the role that logs to `log`. None if the log
/// cannot be read: it is no reason to end a run.
pub fn in_log(log: &Path, env: &BTreeMap<String, String>) -> Vec<Ignored> {
    let mut bytes = Vec::new();
    let read = File::open(log).and_then(|file| file.take(BYTES).read_to_end(&mut bytes));
    match read {
        Ok(_) => reported(&String::from_utf8_lossy(&bytes), env),
        Err(_) => Vec::new(),
    }
}

/// The variables of `env` that `text` reports as unused.
fn reported(text: &str, env: &BTreeMap<String, String>) -> Vec<Ignored> {
    let lists = text.lines().filter_map(|line| line.split_once(REPORT)?.1.split_once(": "));
    let mut ignored: Vec<Ignored> = lists
        .flat_map(|(_, list)| list.split(';'))
        .filter_map(|item| {
            let mut words = item.split_whitespace();
            let name = words.next()?;
            let similar = item.split_once("(maybe: ").map(|(_, rest)| rest);
            let similar = similar.and_then(|rest| rest.split([',', '?', ')']).next());
            Some(Ignored { name: name.to_owned(), similar: similar.map(str::to_owned) })
        })
        .filter(|ignored| env.contains_key(&ignored.name) && ignored.name != UNACCOUNTED)
        .collect();
    ignored.sort();
    ignored.dedup();
    ignored
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(names: &[&str]) -> BTreeMap<String, String> {
        names.iter().map(|name| ((*name).to_owned(), "1".to_owned())).collect()
    }

    fn texts(ignored: &[Ignored]) -> Vec<String> {
        ignored.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_report_of_ucx_is_understood() {
        let log = "[1.0] parser.c:2033 UCX  WARN  unused environment variables: UCX_FOO (maybe: \
                   UCX_TLS?); UCX_RC_TX_QUEUE_LEN; UCX_CONFIG_DIR; UCX_OF_ANOTHER\n\
                   [1.0] parser.c:2033 UCX  WARN  (set UCX_WARN_UNUSED_ENV_VARS=n to suppress \
                   this warning)\n";
        let env = env(&["UCX_FOO", "UCX_RC_TX_QUEUE_LEN", "UCX_CONFIG_DIR", "UCX_TLS"]);
        assert_eq!(
            texts(&reported(log, &env)),
            [
                "UCX ignores UCX_FOO: nothing that runs here reads it; did you mean UCX_TLS?",
                "UCX ignores UCX_RC_TX_QUEUE_LEN: nothing that runs here reads it",
            ]
        );
        let two = "UCX WARN unused environment variable: UCX_FOO (maybe: UCX_TLS, UCX_F?)\n";
        assert_eq!(reported(two, &env)[0].similar.as_deref(), Some("UCX_TLS"));
    }

    #[test]
    fn a_log_without_a_report_or_none_at_all_is_no_finding() {
        let all = env(&["UCX_FOO"]);
        assert!(reported("ready\nunused environment variable\n", &all).is_empty());
        assert!(in_log(Path::new("/no/such.log"), &all).is_empty());
    }
}
