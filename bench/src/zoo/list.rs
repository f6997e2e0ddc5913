//! The scenarios as a list. Pure.

use pdlab_leak::scenario::{Conditions, Scenario, Transport};
use pdlab_leak::verdict::VerdictKind;
use serde::Serialize;

/// A scenario in the list.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Listed {
    /// Name for the command line.
    pub name: String,
    /// One line.
    pub title: String,
    /// The bug it stands for; null for controls.
    pub bug: Option<String>,
    /// Its unit of work.
    pub unit: String,
    /// What is judged.
    pub gauge: String,
    /// What must come out of it as it stands.
    pub expected: Option<VerdictKind>,
    /// What moves the KV blocks, with the UCX version where there is one.
    pub runs_on: String,
}

impl Listed {
    /// `scenario` as it is listed.
    pub fn of(scenario: &Scenario) -> Self {
        Self {
            name: scenario.name.clone(),
            title: scenario.title.clone(),
            bug: scenario.bug.clone(),
            unit: scenario.unit.to_string(),
            gauge: scenario.measure.gauge.name().to_owned(),
            expected: foreseen(scenario),
            runs_on: match scenario.transport {
                Transport::Ucx => format!("UCX {}", scenario.ucx),
                other => other.to_string(),
            },
        }
    }
}

/// What is due where nothing is laid over the file.
fn foreseen(scenario: &Scenario) -> Option<VerdictKind> {
    let conditions = Conditions {
        transport: scenario.transport,
        ucx: scenario.ucx_version(),
        churn: scenario.churn.as_ref().map(|churn| churn.pattern),
        env: &scenario.env,
        kv_lease_seconds: scenario.cluster.kv_lease_seconds,
    };
    scenario.expectation(&conditions).map(|expectation| expectation.due.verdict)
}

/// A line for each, aligned.
pub fn table(listed: &[Listed]) -> String {
    let width = |of: fn(&Listed) -> usize| listed.iter().map(of).max().unwrap_or(0);
    let (names, runs) = (width(|l| l.name.len()), width(|l| l.runs_on.len()));
    let line = |l: &Listed| {
        let verdict = l.expected.map_or("?".to_owned(), |verdict| verdict.to_string());
        format!("{:<names$}  {:<runs$}  {verdict:<5}  {}", l.name, l.runs_on, l.title)
    };
    listed.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_names_scenario_ucx_verdict_and_title() {
        let listed: Vec<_> = Scenario::builtins().unwrap().iter().map(Listed::of).collect();
        let text = table(&listed);
        let first = text.lines().next().unwrap();
        assert!(first.starts_with("ucx-rcache-invq "), "{first}");
        assert!(first.contains("UCX 1.19.0") && first.contains("leak"), "{first}");
        assert_eq!(text.lines().count(), listed.len());
    }
}
