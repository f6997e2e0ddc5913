//! Many scenarios as a page: which came out as they must, and where the page of each is.

use maud::{Markup, html};

use pdlab_leak::verdict::VerdictKind;

use super::error::PageError;
use super::html::{link, notice, page, prose, table};
use super::words;
use crate::repro::words::counted;
use crate::zoo::entry::{Entry, Finding, Status};
use crate::zoo::{ZOO_FILE, ZooReport};

/// Scenarios that were run one after the other.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Zoo {
    /// What it is called: the name of its directory.
    pub name: String,
    /// What came out in all, in a sentence.
    pub sentence: String,
    /// Every scenario that has ended, in order.
    pub scenarios: Vec<ZooRow>,
    /// What is missing.
    pub notes: Vec<String>,
}

/// One scenario of a zoo.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ZooRow {
    /// Its name.
    pub scenario: String,
    /// Its title.
    pub title: String,
    /// The bug it stands for, an address.
    pub bug: Option<String>,
    /// The verdict; `None` if it came to none.
    pub verdict: Option<VerdictKind>,
    /// The verdict that was due.
    pub expected: Option<VerdictKind>,
    /// Slope with its interval and unit.
    pub slope: Option<String>,
    /// Who holds most of the growth.
    pub owner: Option<String>,
    /// What is not as it must be, or why it failed; empty if all is well.
    pub troubles: Vec<String>,
    /// The page of its run, relative to this one.
    pub page: Option<String>,
    /// Seconds it took.
    pub seconds: f64,
}

impl Zoo {
    /// The zoo in the directory `name`, from the text of its `zoo.json`. `has_page` says whether
    /// there is a page beside a run.
    ///
    /// # Errors
    /// If the text is none of a zoo.
    pub fn parse(
        name: &str,
        json: &str,
        has_page: impl Fn(&str) -> bool,
    ) -> Result<Self, PageError> {
        let report: ZooReport = serde_json::from_str(json)
            .map_err(|error| PageError::json(format!("{name}/{ZOO_FILE}"), &error))?;
        let left = report.asked.saturating_sub(report.entries.len());
        let note = format!("Not run yet: {}.", counted(left as u64, "scenario"));
        Ok(Self {
            name: name.to_owned(),
            sentence: report.summary(),
            scenarios: report.entries.iter().map(|entry| ZooRow::of(entry, &has_page)).collect(),
            notes: if left > 0 { vec![note] } else { Vec::new() },
        })
    }
}

impl ZooRow {
    fn of(entry: &Entry, has_page: impl Fn(&str) -> bool) -> Self {
        let finding = entry.finding.as_ref();
        Self {
            scenario: entry.scenario.clone(),
            title: entry.title.clone(),
            bug: entry.bug.clone(),
            verdict: finding.map(|finding| finding.verdict),
            expected: finding.and_then(|finding| finding.expected),
            slope: finding.and_then(Finding::slope_text),
            owner: finding.and_then(|finding| finding.owner.clone()),
            troubles: match &entry.status {
                Status::Matched => Vec::new(),
                Status::NotMatched(why) => why.clone(),
                Status::Failed(why) | Status::Skipped(why) => vec![why.clone()],
            },
            page: has_page(&entry.scenario).then(|| format!("{}/{}", entry.scenario, super::FILE)),
            seconds: entry.seconds,
        }
    }
}

/// The page of `zoo`.
pub(super) fn render(zoo: &Zoo) -> String {
    let columns = ["Scenario", "Verdict", "Slope", "Held by", "Took"];
    let rows: Vec<Vec<Markup>> = zoo.scenarios.iter().map(row).collect();
    page(
        &format!("zoo: {}", zoo.name),
        &html! {
            header {
                p class="kicker" { "pdlab zoo · " (zoo.name) }
                h1 { (zoo.sentence) }
            }
            (notice("doubt", "This zoo is incomplete", &zoo.notes))
            section {
                h2 { "Scenarios" }
                (table("Each in processes and a directory of its own", &columns, &rows))
            }
        },
    )
}

fn row(row: &ZooRow) -> Vec<Markup> {
    let text = |text: &Option<String>| html! { (text.as_deref().unwrap_or("–")) };
    vec![
        html! {
            @match &row.page {
                // A relative address: the page and the run travel together.
                Some(page) => a href=(page) { (row.scenario) },
                None => (row.scenario),
            }
            p class="note" {
                (row.title)
                @if let Some(bug) = &row.bug { ". " (link(bug, bug)) }
            }
            @for trouble in &row.troubles { p class="note leak" { (prose(trouble)) } }
        },
        verdict(row),
        text(&row.slope),
        text(&row.owner),
        html! { (format!("{:.0} s", row.seconds)) },
    ]
}

fn verdict(row: &ZooRow) -> Markup {
    html! {
        @match row.verdict {
            Some(verdict) => span class=(words::class(verdict)) { (verdict) },
            None => span class="doubt" { "failed" },
        }
        @match row.expected {
            Some(expected) if Some(expected) != row.verdict => { ", expected " (expected) },
            _ if !row.troubles.is_empty() => ", not as expected",
            _ => ", as expected",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zoo_is_read_from_its_file() {
        let failed = Entry::failed("dies", "It dies", None, 2.0, "decode died".into());
        let report = ZooReport { asked: 3, entries: vec![failed] };
        let json = serde_json::to_string(&report).unwrap();
        let zoo = Zoo::parse("z", &json, |run| run == "dies").unwrap();
        assert_eq!(zoo.scenarios[0].troubles, ["decode died"]);
        assert_eq!(zoo.scenarios[0].page.as_deref(), Some("dies/report.html"));
        assert_eq!(zoo.notes, ["Not run yet: 2 scenarios."]);
        let page = render(&zoo);
        assert!(page.contains("decode died") && page.contains("This zoo is incomplete"), "{page}");
    }

    #[test]
    fn another_file_is_refused_by_name() {
        let error = Zoo::parse("z", "{\"asked\": \"many\"}", |_| false).unwrap_err().to_string();
        assert!(error.starts_with("z/zoo.json"), "{error}");
    }
}
