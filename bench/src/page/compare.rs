//! Two runs of a scenario beside each other: what a setting, a version or a cure changes, and in
//! which stacks.

use maud::{Markup, html};
use pdlab_leak::explain::fixed;

use super::error::PageError;
use super::html::{notice, page, prose, table};
use super::run::Run;
use super::{flame, words};
use crate::repro::words::{change, path};

/// Two runs, the first of which the second is held against.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    before: Run,
    after: Run,
    notes: Vec<String>,
}

impl Comparison {
    /// Compares `after` with `before`.
    ///
    /// # Errors
    /// If they measured different things: a difference would mean nothing.
    pub fn of(before: Run, after: Run) -> Result<Self, PageError> {
        let (a, b) = (before.scenario.axes(), after.scenario.axes());
        if a != b {
            return Err(PageError::File {
                file: after.name.clone(),
                reason: format!(
                    "it measured {b}, and {} measured {a}: these cannot be compared",
                    before.name
                ),
            });
        }
        let mut notes: Vec<String> = before.notes.iter().chain(&after.notes).cloned().collect();
        for run in [&before, &after] {
            if run.stacks.is_none() {
                notes.push(format!(
                    "{} has no stacks.json, so that there is no difference by stack: it was not traced.",
                    run.name
                ));
            }
        }
        Ok(Self { before, after, notes })
    }

    /// What is missing.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The page.
    pub fn render(&self) -> String {
        let title = format!("{} against {}", self.after.name, self.before.name);
        page(
            &title,
            &html! {
                header {
                    p class="kicker" { "pdlab · " (self.before.scenario.name) " · two runs" }
                    h1 { (title) }
                    @for run in [&self.before, &self.after] {
                        p class="lead" { b { (run.name) } ": " (prose(&run.sentence())) }
                    }
                }
                (notice("doubt", "What is missing", &self.notes))
                section { h2 { "What differs" } (self.table()) }
                @if let (Some(before), Some(after)) = (&self.before.stacks, &self.after.stacks) {
                    section {
                        h2 { "Where the difference comes from" }
                        (flame::difference(
                            (&self.before.name, &self.after.name), before, after, self.scale(),
                        ))
                    }
                    @for (run, id) in [(&self.before, "flame-before"), (&self.after, "flame-after")] {
                        section {
                            h2 { (run.name) " alone" }
                            (run.flame(id))
                        }
                    }
                }
            },
        )
    }

    /// How much more work the first run did.
    fn scale(&self) -> f64 {
        let units = |run: &Run| run.report.as_ref().map_or(0.0, |report| report.units);
        let (before, after) = (units(&self.before), units(&self.after));
        if before > 0.0 && after > 0.0 { before / after } else { 1.0 }
    }

    fn table(&self) -> Markup {
        let cells = |name: &str, of: &dyn Fn(&Run) -> String| {
            vec![html! { (name) }, html! { (of(&self.before)) }, html! { (of(&self.after)) }]
        };
        let result =
            |run: &Run, of: &dyn Fn(&crate::repro::report::RunReport) -> Option<String>| {
                run.report.as_ref().and_then(of).unwrap_or_else(|| "-".to_owned())
            };
        let axes = self.before.scenario.axes();
        let rows = vec![
            cells("Verdict", &|run| run.verdict().to_string()),
            cells("Slope", &|run| {
                result(run, &|report| {
                    let value = report.result.slope_per_unit?;
                    Some(format!("{} {axes}", fixed(value, axes.gauge)))
                })
            }),
            cells("Measured", &|run| {
                result(run, &|report| Some(words::amount(report.units, report.result.unit)))
            }),
            cells("Ran on", &|run| {
                result(run, &|report| {
                    Some(path(
                        report.result.transport_or_any(),
                        report.result.ucx_version.as_deref(),
                    ))
                })
            }),
            cells("Settings", &|run| {
                let all = run.scenario.env.iter().map(|(name, value)| format!("{name}={value}"));
                all.collect::<Vec<_>>().join(" ")
            }),
            cells("Growth of RSS", &|run| {
                result(run, &|report| Some(change(report.result.rss_growth_bytes as f64)))
            }),
            cells("First owner", &|run| {
                result(run, &|report| {
                    let owner = report.result.owners.first()?;
                    Some(format!("{} ({:.0} %)", owner.name, 100.0 * owner.share))
                })
            }),
            cells("CPU per unit", &|run| {
                result(run, &|report| Some(format!("{:.2} µs", report.cpu_us_per_unit?)))
            }),
        ];
        table("The two runs", &["", &self.before.name, &self.after.name], &rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::fixture::{files, traced_files};
    use crate::page::run::RunFiles;

    fn run(files: &RunFiles, name: &str) -> Run {
        Run::parse(&RunFiles { name: name.to_owned(), ..files.clone() }).unwrap()
    }

    #[test]
    fn two_traced_runs_have_a_difference_by_stack() {
        let compared =
            Comparison::of(run(&traced_files(), "default"), run(&traced_files(), "cured"));
        let compared = compared.unwrap();
        let page = compared.render();
        assert_eq!(compared.notes(), [""; 0]);
        for words in
            ["cured against default", "Growth by call stack", "cured alone", "144.0 B per unmap"]
        {
            assert!(page.contains(words), "{words} is not in {page}");
        }
        assert!(!page.contains("<script"));
    }

    #[test]
    fn what_cannot_be_compared_is_told() {
        let compared = Comparison::of(run(&traced_files(), "a"), run(&files(), "b")).unwrap();
        assert!(compared.notes()[0].starts_with("b has no stacks.json"), "{:?}", compared.notes());
        assert!(!compared.render().contains("Growth by call stack"));
        let mut other = run(&files(), "b");
        other.scenario.measure.gauge = pdlab_leak::gauge::Gauge::Fds;
        let error = Comparison::of(run(&files(), "a"), other).unwrap_err().to_string();
        assert!(error.contains("fds per unmap") && error.contains("cannot be compared"), "{error}");
    }
}
