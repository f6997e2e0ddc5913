//! A watch of a process that pdlab did not start, from the text of its files, and its page.

use maud::{Markup, html};
use pdlab_leak::explain;
use pdlab_leak::sample::Sample;
use pdlab_leak::signature::Known;
use pdlab_leak::stacks::Stacks;
use pdlab_leak::verdict::VerdictKind;

use super::error::PageError;
use super::growth::Growth;
use super::html::{fact, link, notice, page, prose};
use super::owners::Holdings;
use super::run::{RunFiles, parse_result, parse_samples, parse_stacks};
use super::{flame, memory, words};
use crate::repro::report::RunReport;
use crate::repro::words::{amount, change};
use crate::watch::plan::Plan;

/// A watch as it can be shown.
#[derive(Debug, Clone, PartialEq)]
pub struct WatchRun {
    /// The name of its directory.
    pub name: String,
    /// What was watched, and how.
    pub plan: Plan,
    /// What came out, if it came to that.
    pub report: Option<RunReport>,
    /// The readings.
    pub samples: Vec<Sample>,
    /// Those of the program that the process ran last, judged again.
    pub growth: Option<Growth>,
    /// Growth by stack, if a tracer ran.
    pub stacks: Option<Stacks>,
    /// What is missing, and what was done about it.
    pub notes: Vec<String>,
}

impl WatchRun {
    /// The watch that `files` tell of; `plan` is the text of `watch.toml`.
    ///
    /// # Errors
    /// If a file is not what it should be, other than by being cut off, or nothing was read.
    pub fn parse(files: &RunFiles, plan: &str) -> Result<Self, PageError> {
        let mut notes = Vec::new();
        let report = parse_result(files, &mut notes)?;
        let text = files.samples.as_deref().unwrap_or_default();
        let samples = parse_samples(files, "samples.csv", text, &mut notes)?;
        if report.is_none() && samples.is_empty() {
            return Err(PageError::Nothing { name: files.name.clone() });
        }
        let plan = Plan::parse(plan).map_err(|reason| PageError::File {
            file: format!("{}/watch.toml", files.name),
            reason,
        })?;
        let told = report.as_ref().and_then(|report| report.roles.first());
        // Without a result, the program that was seen last is the one that counts.
        let process = told.map(|role| &role.process).or(samples.last().map(|last| &last.process));
        let growth = process.and_then(|process| Growth::of(&samples, process, plan.rule()));
        if growth.is_none() {
            notes.push("There are too few readings for plots.".to_owned());
        }
        let stacks = parse_stacks(files, &mut notes)?;
        Ok(Self { name: files.name.clone(), plan, report, samples, growth, stacks, notes })
    }

    /// The verdict: that of the result if there is one, else that on the readings.
    pub fn verdict(&self) -> VerdictKind {
        let judged = || Some(self.growth.as_ref()?.judgement.verdict.kind());
        let told = self.report.as_ref().map(|report| report.result.verdict);
        told.or_else(judged).unwrap_or(VerdictKind::Inconclusive)
    }

    fn sentence(&self) -> String {
        match (&self.report, &self.growth) {
            (Some(report), _) => explain::finding(&report.result, report.units),
            (None, Some(growth)) => explain::verdict(&growth.judgement, growth.axes),
            (None, None) => "INCONCLUSIVE.".to_owned(),
        }
    }
}

/// The page of `run`.
pub(super) fn render(run: &WatchRun) -> String {
    let title = format!("{}: {}", run.verdict(), run.plan.target.label());
    let remarks = run.report.as_ref().map_or(&[][..], |report| &report.remarks);
    page(
        &title,
        &html! {
            (header(run))
            (notice("doubt", "This watch is incomplete", &run.notes))
            (notice("plain", "Remarks", remarks))
            @if let Some(growth) = &run.growth {
                section {
                    h2 { (words::growth_title(growth)) }
                    (memory::memory(growth))
                }
            }
            (holders(run))
            (stacks(run))
            (bug(run))
            (facts(run))
        },
    )
}

fn header(run: &WatchRun) -> Markup {
    let sentence = run.sentence();
    let (word, rest) = sentence.split_once(' ').unwrap_or((&sentence, ""));
    // The slope is what stands out; its interval follows in smaller type.
    let (slope, interval) = rest.split_at(rest.find(" (").unwrap_or(rest.len()));
    html! {
        header {
            p class="kicker" { "pdlab watch · " (run.plan.target.label()) " · " (run.name) }
            h1 {
                span class=(words::class(run.verdict())) { (word) } " " (slope)
                small { (interval) }
            }
            @for line in lead(run) { p class="lead" { (prose(&line)) } }
            p class="title" { (run.plan.target.command) }
        }
    }
}

fn lead(run: &WatchRun) -> Vec<String> {
    let mut lines = Vec::new();
    let Some(report) = &run.report else { return lines };
    lines.extend(report.result.doubt.clone());
    let estimate = run.growth.as_ref().and_then(|growth| growth.judgement.estimate.as_ref());
    if let (VerdictKind::Leak, Some(estimate)) = (run.verdict(), estimate) {
        let rss_bytes = report.roles.first().map_or(0, |role| role.rss_bytes);
        let capacity = run.plan.capacity(rss_bytes);
        lines.push(explain::consequence(estimate, run.plan.axes(), capacity));
    }
    lines
}

fn holders(run: &WatchRun) -> Markup {
    let owners = run.report.as_ref().map_or(&[][..], |report| &report.result.owners);
    let holdings = run
        .growth
        .as_ref()
        .and_then(|growth| Holdings::of(&run.samples, &growth.process, run.plan.unit, owners));
    html! {
        @if let Some(holdings) = holdings {
            (holdings.section(run.report.as_ref().and_then(|report| report.result.explained_ratio)))
        }
    }
}

fn stacks(run: &WatchRun) -> Markup {
    html! {
        @if let Some(stacks) = &run.stacks {
            section {
                h2 { "Where it comes from" }
                (flame::growth("flame", &run.plan.target.label(), stacks))
            }
        }
    }
}

fn bug(run: &WatchRun) -> Markup {
    let id = run.report.as_ref().and_then(|report| Some(&report.result.signature.as_ref()?.id));
    let known = &Known::builtin().signatures;
    let signature = id.and_then(|id| known.iter().find(|signature| signature.id == *id));
    html! {
        @if let Some(signature) = signature {
            section {
                h2 { "A known bug: " (link(&signature.url, &signature.id)) }
                p { (signature.title) ". " (prose(&signature.fix)) }
                @if !signature.cures.is_empty() {
                    h3 { "Settings that cure it" }
                    dl class="facts" {
                        @for cure in &signature.cures {
                            div {
                                dt { code { (words::breakable(&cure.setting())) } }
                                dd { (prose(&cure.cost)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn facts(run: &WatchRun) -> Markup {
    let (plan, target) = (&run.plan, &run.plan.target);
    html! {
        section {
            h2 { "What was watched" }
            dl class="facts" {
                (fact("Process", &html! { (target.name) ", pid " (target.pid) ", of user " (target.uid) }))
                @if target.contained {
                    (fact("Container", &html! {
                        "It has a mount namespace of its own"
                        @if let Some(inner) = target.inner_pid { ", and its pid there is " (inner) }
                    }))
                }
                @if !target.program.is_empty() {
                    (fact("Program", &html! { code { (words::breakable(&target.program)) } }))
                }
                @if let Some(library) = &target.ucx_library {
                    (fact("UCX", &html! {
                        (target.ucx.as_deref().unwrap_or("unknown version")) ", "
                        code { (words::breakable(library)) }
                    }))
                }
                @if !target.settings.is_empty() {
                    (fact("Settings", &html! {
                        @for (name, value) in &target.settings {
                            code { (words::breakable(&format!("{name}={value}"))) } br;
                        }
                    }))
                }
                (fact("Judged", &html! { (plan.gauge.subject()) ", per " (plan.unit) }))
                @if let Some(unit) = plan.unit_told() { (fact("Work", &html! { (unit) })) }
                @if let Some(report) = &run.report {
                    (fact("Measured", &html! {
                        (words::amount(report.units, plan.unit)) " in "
                        (format!("{:.1} s", report.result.duration_s))
                        @if let Some(watch) = &report.watch { ", " (words::readings(watch.readings as usize)) }
                    }))
                    (fact("RSS", &html! {
                        (change(report.result.rss_growth_bytes as f64)) " to "
                        (amount(report.roles.first().map_or(0.0, |role| role.rss_bytes as f64)))
                    }))
                    @if let (Some(first_us), Some(last_us)) =
                        (report.result.cost_first_us, report.result.cost_last_us)
                    {
                        (fact(&format!("CPU per {}", plan.unit), &html! {
                            (format!("{first_us:.1} µs in the first quarter, {last_us:.1} µs in the last"))
                        }))
                    }
                }
            }
        }
        section {
            h2 { "How to repeat it" }
            pre { (plan.to_string()) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::fixture::csv;
    use crate::watch::plan::tests::plan;
    use pdlab_leak::sample::Memory;
    use pdlab_leak::work::{Unit, Work};
    use proptest::prelude::*;

    fn samples() -> Vec<Sample> {
        let sample = |i: u64| Sample {
            process: "python3-4711".to_owned(),
            t_us: 250_000 * i,
            work: Work { counted: 1000 * i, ..Work::default() },
            memory: Memory {
                rss_bytes: 100_000_000 + 144_000 * i,
                anonymous_bytes: 90_000_000 + 144_000 * i,
                ..Memory::default()
            },
            ..Sample::default()
        };
        (0..80).map(sample).collect()
    }

    fn files() -> RunFiles {
        let samples = Some(csv(&samples()));
        RunFiles { name: "watch-1".to_owned(), samples, ..RunFiles::default() }
    }

    #[test]
    fn a_watch_that_was_cut_off_has_a_page_with_its_verdict() {
        let run = WatchRun::parse(&files(), &plan(Unit::Count).to_toml()).unwrap();
        assert_eq!(run.verdict(), VerdictKind::Leak);
        let page = render(&run);
        for words in [
            "<title>leak: VLLM--Worker-4711</title>",
            "144.0 B per count",
            "no result.json",
            "vllm:generation_tokens_total at http://127.0.0.1:8000/metrics",
            "pdlab watch --pid PID",
        ] {
            assert!(page.contains(words), "{words} is not in {page}");
        }
    }

    #[test]
    fn what_is_no_watch_is_named() {
        let toml = plan(Unit::Count).to_toml();
        let error =
            |files: &RunFiles, toml: &str| WatchRun::parse(files, toml).unwrap_err().to_string();
        assert!(error(&files(), "x").starts_with("watch-1/watch.toml: "));
        let nothing = RunFiles { samples: None, ..files() };
        assert!(error(&nothing, &toml).contains("holds no measurement"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn hostile_names_stay_text(text in "[a-z<>\"'&/=! ]{0,30}") {
            let mut plan = plan(Unit::Count);
            let hostile = format!("</title><script>{text}</script>");
            plan.target.name = hostile.clone();
            plan.target.command = hostile.clone();
            plan.target.program = hostile.clone();
            plan.target.ucx_library = Some(hostile.clone());
            plan.target.settings = [(hostile.clone(), hostile.clone())].into();
            plan.counter = Some(hostile);
            let page = render(&WatchRun::parse(&files(), &plan.to_toml()).unwrap());
            prop_assert!(!page.contains("<script"));
        }
    }
}
