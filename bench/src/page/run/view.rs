//! The page of one run, from the verdict down to how to repeat it.

use maud::{Markup, html};

use pdlab_leak::explain;
use pdlab_leak::scenario::Expectation;
use pdlab_leak::signature::{Signature, known};
use pdlab_leak::verdict::VerdictKind;

use super::Run;
use crate::page::html::{link, notice, page, prose};
use crate::page::owners::Holdings;
use crate::page::{cures, facts, flame, memory, roles, words};
use crate::repro::cell;

/// The page of `run`.
pub(in crate::page) fn render(run: &Run) -> String {
    let title = format!("{}: {}", run.verdict(), run.scenario.name);
    page(
        &title,
        &html! {
            (header(run))
            (notes(run))
            (growth(run))
            (holders(run))
            (stacks(run))
            (processes(run))
            (bug(run))
            (mitigations(run))
            (facts::settings(run))
            (facts::work(run))
            (facts::repeat(run))
            (facts::logs(run))
        },
    )
}

impl Run {
    /// The verdict: that of the result if there is one, else that on the readings.
    pub fn verdict(&self) -> VerdictKind {
        let judged = || Some(self.growth.as_ref()?.judgement.verdict.kind());
        let told = self.report.as_ref().map(|report| report.result.verdict);
        told.or_else(judged).unwrap_or(VerdictKind::Inconclusive)
    }

    /// The verdict in a sentence.
    pub fn sentence(&self) -> String {
        match (&self.report, &self.growth) {
            (Some(report), _) => explain::finding(&report.result, report.units),
            (None, Some(growth)) => explain::verdict(&growth.judgement, growth.axes),
            (None, None) => "INCONCLUSIVE.".to_owned(),
        }
    }

    /// What must come out, given what was really in use.
    fn expectation(&self) -> Option<Expectation> {
        let result = &self.report.as_ref()?.result;
        cell::expectation(&self.scenario, result.transport_or_any(), result.ucx_version.as_deref())
    }

    /// Growth by call stack.
    pub(in crate::page) fn flame(&self, id: &str) -> Markup {
        let process = self.growth.as_ref().map_or("the process", |growth| growth.process.as_str());
        html! { @if let Some(stacks) = &self.stacks { (flame::growth(id, process, stacks)) } }
    }

    fn signature(&self) -> Option<Signature> {
        let id = &self.report.as_ref()?.result.signature.as_ref()?.id;
        known().into_iter().find(|signature| signature.id == *id)
    }
}

fn header(run: &Run) -> Markup {
    let sentence = run.sentence();
    let (word, rest) = sentence.split_once(' ').unwrap_or((&sentence, ""));
    // The slope is what stands out; its interval follows in smaller type.
    let (slope, interval) = rest.split_at(rest.find(" (").unwrap_or(rest.len()));
    html! {
        header {
            p class="kicker" { "pdlab · " (run.scenario.name) " · " (run.name) }
            h1 {
                span class=(words::class(run.verdict())) { (word) } " " (slope)
                small { (interval) }
            }
            @for line in lead(run) { p class="lead" { (prose(&line)) } }
            p class="title" { (run.scenario.title) }
        }
    }
}

/// What follows from the verdict, and whether it was due.
fn lead(run: &Run) -> Vec<String> {
    let mut lines = Vec::new();
    let Some(report) = &run.report else { return lines };
    let (result, axes) = (&report.result, run.scenario.axes());
    lines.extend(result.doubt.clone());
    let estimate = run.growth.as_ref().and_then(|growth| growth.judgement.estimate.as_ref());
    if let (VerdictKind::Leak, Some(estimate)) = (run.verdict(), estimate) {
        let now_bytes = report.roles.first().map_or(0, |role| role.rss_bytes);
        lines.push(explain::consequence(estimate, axes, run.scenario.capacity(now_bytes)));
    }
    let due = run.expectation();
    let cost_matters = due.as_ref().is_some_and(|due| due.due.cost_growth_min.is_some());
    if let (true, Some(first_us), Some(last_us)) =
        (cost_matters, result.cost_first_us, result.cost_last_us)
    {
        lines.push(explain::cost_growth(first_us, last_us, axes.unit));
    }
    let blind_spot =
        explain::blind_spot(result.transport_or_any()).filter(|_| run.scenario.is_about_ucx());
    lines.extend(blind_spot.map(str::to_owned));
    lines.push(explain::expectation(due.as_ref(), result.matched, axes));
    lines
}

/// What the reader must know before believing the rest.
fn notes(run: &Run) -> Markup {
    let report = run.report.as_ref();
    html! {
        (notice("doubt", "This run is incomplete", &run.notes))
        @if let Some(report) = report {
            (notice("leak", "Faults: what must not be", &report.faults))
            (notice("leak", "Not as expected", &mismatches(&report.mismatches, &report.faults)))
            (notice("plain", "Remarks", &report.remarks))
        }
    }
}

/// Faults are among the mismatches, and are told once.
fn mismatches(all: &[String], faults: &[String]) -> Vec<String> {
    all.iter().filter(|mismatch| !faults.contains(mismatch)).cloned().collect()
}

fn growth(run: &Run) -> Markup {
    html! {
        @if let Some(growth) = &run.growth {
            section {
                h2 { (words::growth_title(growth)) }
                (memory::memory(growth))
            }
        }
    }
}

fn holders(run: &Run) -> Markup {
    let owners = run.report.as_ref().map_or(&[][..], |report| &report.result.owners);
    let holdings = run
        .growth
        .as_ref()
        .and_then(|growth| Holdings::of(&run.samples, &growth.process, run.scenario.unit, owners));
    html! {
        @if let Some(holdings) = holdings {
            (holdings.section(run.report.as_ref().and_then(|report| report.result.explained_ratio)))
        }
    }
}

/// Where the memory comes from, or why that is not known.
fn stacks(run: &Run) -> Markup {
    let why_not =
        run.report.as_ref().and_then(|report| report.result.trace.as_ref()?.why_not.as_ref());
    html! {
        @if run.stacks.is_some() {
            section {
                h2 { "Where it comes from" }
                (run.flame("flame"))
            }
        } @else if let Some(why_not) = why_not {
            p class="note" { "Call stacks were not taken: " (prose(why_not)) }
        }
    }
}

fn processes(run: &Run) -> Markup {
    let growth = run.report.as_ref().map_or(&[][..], |report| &report.roles);
    let quiet = run.report.as_ref().and_then(|report| report.result.quiet_growth_ratio);
    html! {
        @if let Some(judged) = &run.growth {
            section {
                h2 { "Every process" }
                (roles::roles(&run.samples, judged, growth))
                @if let Some(ratio) = quiet.filter(|_| run.verdict() == VerdictKind::Leak) {
                    p class="note" { (explain::quiet(ratio)) }
                }
            }
        }
    }
}

fn bug(run: &Run) -> Markup {
    // Cures that were tried have a section of their own.
    let tried = |setting: &str| {
        let tried = run.report.iter().flat_map(|report| &report.result.mitigations);
        tried.into_iter().any(|cure| cure.setting == setting)
    };
    html! {
        @if let Some(signature) = run.signature() {
            section {
                h2 { "A known bug: " (link(&signature.url, &signature.id)) }
                p { (signature.title) ". " (prose(&signature.fix)) }
                @let cures = signature.cures.iter().filter(|cure| !tried(&cure.setting()));
                @if cures.clone().count() > 0 {
                    h3 { "Settings that cure it, not tried here" }
                    dl class="facts" {
                        @for cure in cures {
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

fn mitigations(run: &Run) -> Markup {
    html! {
        @if let Some(report) = run.report.as_ref().filter(|r| !r.result.mitigations.is_empty()) {
            section {
                h2 { "Cures tried" }
                (cures::summary(report))
                @if let Some(growth) = run.growth.as_ref().filter(|_| !run.cures.is_empty()) {
                    (cures::multiples(growth, &run.cures))
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::fixture::files;
    use crate::page::run::RunFiles;
    use proptest::prelude::*;

    fn rendered(files: &RunFiles) -> String {
        render(&Run::parse(files).unwrap())
    }

    /// The text of a page without its tags.
    fn text(page: &str) -> String {
        let mut text = String::new();
        for part in page.split('<').skip(1) {
            text += part.split_once('>').unwrap_or_default().1;
        }
        text
    }

    #[test]
    fn a_leak_is_told_from_the_verdict_to_how_to_repeat_it() {
        let page = rendered(&files());
        let text = text(&page);
        for words in [
            "LEAK. 144.0 B per unmap (95 % CI",
            "At the rate seen (40,000 unmaps/s)",
            "NOT as expected",
            "UCX_RCACHE_MAX_UNRELEASED=1024 is not proven",
            "Memory of decode-0 against unmaps",
            "UCX registration cache, invalidation queue",
            "decode-0 (judged)",
            "A known bug: vllm#24264",
            "Failed: decode-0 died: &quot;no libucp&quot;",
            "UCX 1.19.0",
            "pdlab ucx fetch 1.19.0\npdlab repro run-1/scenario.toml",
            "router.log",
        ] {
            assert!(text.contains(words), "{words} is not in {text}");
        }
        assert!(page.contains("href=\"https://github.com/vllm-project/vllm/issues/24264\""));
        for id in
            ["memory-wide-title", "owners-narrow-title", "role-2-small-title", "cure-1-small-title"]
        {
            assert_eq!(page.matches(&format!("id=\"{id}\"")).count(), 1, "{id}");
        }
    }

    #[test]
    fn a_page_has_no_scripts_asks_for_nothing_and_stays_small() {
        let mut long = files();
        // An hour at ten readings per second.
        let samples =
            crate::repro::fixture::measurement(&crate::repro::fixture::scenario(), 144.0, 0.0)
                .samples;
        let many = (0..120).flat_map(|round| {
            samples.iter().cloned().map(move |mut sample| {
                sample.t_us += round * 5_050_000;
                sample.work.unmaps += round * 202_000;
                sample.memory.rss_bytes += round * 202_000 * 144;
                sample.memory.anonymous_bytes += round * 202_000 * 144;
                sample
            })
        });
        long.samples = Some(crate::page::fixture::csv(&many.collect::<Vec<_>>()));
        let page = rendered(&long);
        assert!(page.len() < 300_000, "{} bytes", page.len());
        for forbidden in ["<script", "src=", "@import", "url("] {
            assert!(!page.contains(forbidden), "{forbidden}");
        }
        assert_eq!(page.matches("<link ").count(), 1, "the empty icon");
    }

    #[test]
    fn an_incomplete_run_says_so_first() {
        let page = text(&rendered(&RunFiles { result: None, ..files() }));
        let at = |words: &str| page.find(words).unwrap_or_else(|| panic!("{words}"));
        assert!(at("This run is incomplete") < at("Memory of decode-0"));
        assert!(page.contains("LEAK. 144.0 B per unmap"), "{page}");
    }

    /// Tags of a page, in order, without their attributes.
    fn tags(page: &str) -> Vec<String> {
        let name = |part: &str| part.split([' ', '>']).next().unwrap_or_default().to_owned();
        page.split('<').skip(1).map(name).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn hostile_text_stays_text(
            middle in "[a-z<>\"'&/=! ]{0,30}",
            shell in proptest::sample::select(vec![
                ("</title><script>alert(1)</script>", ""),
                ("\" onload=\"alert(1)", ""),
                ("' style='", "<!--"),
                ("]]><svg onload=alert(1)>", "\u{202e}"),
                ("</pre></details>", "</style>"),
            ]),
        ) {
            let hostile = format!("{}{middle}{}", shell.0, shell.1);
            let whole = Run::parse(&files()).unwrap();
            let page = |text: &str| {
                let mut run = whole.clone();
                run.name = text.to_owned();
                run.scenario.name = text.to_owned();
                run.scenario.title = text.to_owned();
                run.scenario.description = text.to_owned();
                run.scenario.env = [("A".to_owned(), text.to_owned())].into();
                run.scenario_toml = text.to_owned();
                run.logs = [(text.to_owned(), text.to_owned())].into();
                run.stacks = crate::repro::fixture::traced(&run.scenario).stacks;
                for stack in &mut run.stacks.as_mut().unwrap().stacks {
                    stack.frames[1].module = Some(text.to_owned());
                }
                run.notes = vec![text.to_owned()];
                let report = run.report.as_mut().unwrap();
                report.faults = vec![text.to_owned()];
                report.remarks = vec![text.to_owned()];
                report.mitigation_runs[1].failed = Some(text.to_owned());
                report.result.mitigations[0].cost_note = Some(text.to_owned());
                report.result.mitigations[0].setting = text.to_owned();
                report.result.owners[0].name = text.to_owned();
                report.result.doubt = Some(text.to_owned());
                report.roles[1].process = text.to_owned();
                let growth = run.growth.as_mut().unwrap();
                growth.process = text.to_owned();
                render(&run)
            };
            // Breaks inside words are no matter of who wrote the word.
            let without_breaks = |page: &str| {
                tags(page).into_iter().filter(|tag| tag != "wbr").collect::<Vec<_>>()
            };
            let page_of_it = page(&hostile);
            prop_assert_eq!(without_breaks(&page_of_it), without_breaks(&page("harmless")));
            prop_assert!(!page_of_it.contains("<script"));
        }
    }
}
