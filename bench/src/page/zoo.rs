//! Many scenarios as a page: which came out as they must, and where the page of each is.

use maud::{Markup, html};

use pdlab_leak::verdict::VerdictKind;

use super::html::{link, notice, page, prose, table};
use super::words;

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
