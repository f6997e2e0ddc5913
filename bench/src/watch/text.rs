//! The findings of a watch as text that a stranger understands. Pure.

use std::path::Path;

use pdlab_leak::explain;
use pdlab_leak::ledger::Owner;
use pdlab_leak::signature::{Known, Signature};
use pdlab_leak::stacks::{StackGrowth, Stacks};
use pdlab_leak::verdict::VerdictKind;
use pdlab_leak::work::Unit;

use super::ending::End;
use super::plan::Plan;
use super::report::Findings;
use super::target::Target;
use crate::repro::report::RunReport;
use crate::repro::sheet::Sheet;
use crate::repro::words::{amount, change, grouped};

/// Stacks that are printed, and frames of each; the rest is in the files.
const STACKS: usize = 2;
const FRAMES: usize = 12;

/// What was found, with the files of it in `dir`.
pub fn render(
    findings: &Findings<'_>,
    traced: Option<&Stacks>,
    report: &RunReport,
    dir: &Path,
) -> String {
    let (plan, result, axes) = (findings.plan, &report.result, findings.plan.axes());
    let estimate = findings.judgement.estimate.as_ref();
    let leaks = result.verdict == VerdictKind::Leak;
    let mut page = Sheet::default();
    page.item("verdict", &explain::verdict(findings.judgement, axes));
    if let Some(doubt) = &result.doubt {
        page.item("", doubt);
    }
    if let Some(estimate) = estimate.filter(|_| leaks) {
        let rss_bytes = report.roles.first().map_or(0, |role| role.rss_bytes);
        page.item("", &explain::consequence(estimate, axes, plan.capacity(rss_bytes)));
    }
    page.blank();
    page.item("watched", &watched(&plan.target));
    if !plan.target.command.is_empty() {
        page.item("", &plan.target.command);
    }
    if let Some(library) = &plan.target.ucx_library {
        page.item("with", &ucx(&plan.target, library));
    }
    page.item("growth", &growth(report));
    if !result.owners.is_empty() {
        page.item("held by", &holders(&result.owners));
    }
    for stack in traced.iter().flat_map(|traced| &traced.stacks).take(STACKS) {
        page.item("stack", &told(stack));
    }
    if let Some(traced) = traced {
        page.item("traced", &confidence(traced));
    }
    match &findings.attribution.signature {
        Some(signature) => {
            let text = explain::signature(signature);
            page.item("known bug", text.trim_start_matches("Known: "));
        }
        None if leaks => {
            findings.suspects.iter().for_each(|known| page.item("suspect", &suspect(plan, known)));
            if findings.suspects.is_empty() {
                page.item("next", &next(findings, traced));
            } else if traced.is_none() {
                page.item("next", &ask_stacks(plan.target.pid));
            }
        }
        None => {}
    }
    page.item("measured", &measured(findings, report));
    if let Some(unit) = plan.unit_told() {
        page.item("", &unit);
    }
    if let Some(estimate) = estimate {
        page.item("", &explain::warmup(estimate, axes));
    }
    report.remarks.iter().for_each(|remark| page.item("remark", remark));
    page.blank();
    page.item("files", &format!("{}/", dir.display()));
    page.item("", "result.json, samples.csv, watch.toml");
    page.item("page", &format!("pdlab report {}", dir.display()));
    page.text
}

fn watched(target: &Target) -> String {
    let mut text = format!("{}, pid {}, of user {}", target.name, target.pid, target.uid);
    if target.contained {
        text += ", in a mount namespace of its own";
    }
    if let Some(inner) = target.inner_pid {
        text += &format!(", where its pid is {inner}");
    }
    text
}

fn ucx(target: &Target, library: &str) -> String {
    let version = target.ucx.as_deref().unwrap_or("of unknown version");
    let mut text = format!("UCX {version} ({library})");
    for (name, value) in &target.settings {
        text += &format!(" {name}={value}");
    }
    text
}

fn growth(report: &RunReport) -> String {
    let rss_bytes = report.roles.first().map_or(0, |role| role.rss_bytes);
    let rss_growth = change(report.result.rss_growth_bytes as f64);
    format!("RSS {rss_growth} to {}", amount(rss_bytes as f64))
}

/// The owners that hold a twentieth of the growth or more.
fn holders(owners: &[Owner]) -> String {
    let large = owners.iter().filter(|owner| owner.share >= 0.05);
    let parts: Vec<String> = large.map(|owner| held(owner, 100.0 * owner.share)).collect();
    if parts.is_empty() { "nobody in particular".to_owned() } else { parts.join(", ") }
}

fn held(owner: &Owner, percent: f64) -> String {
    let much = match owner.count {
        Some(count) => format!("{count:+}"),
        None => change(owner.bytes as f64),
    };
    format!("{} {much} ({percent:.0} %)", owner.name)
}

/// A stack, a frame per line: `14.4 MB in 12 mappings by mmap, from` and so on.
fn told(stack: &StackGrowth) -> String {
    let about = if stack.estimated { "about " } else { "" };
    let mut text = format!(
        "{about}{} still mapped, of {} calls, from",
        amount(stack.live_bytes as f64),
        grouped(stack.maps)
    );
    for frame in stack.frames.iter().take(FRAMES) {
        text += &format!("\n{frame}");
    }
    if stack.frames.len() > FRAMES {
        text += &format!("\nand {} frames more", stack.frames.len() - FRAMES);
    }
    if stack.frames.is_empty() {
        text += "\na stack that could not be read";
    }
    text
}

fn confidence(traced: &Stacks) -> String {
    let counts = &traced.counts;
    format!(
        "{}: {}; {} mmap, {} munmap, {} brk and {} mremap calls seen, {} records lost",
        traced.tier,
        traced.confidence,
        grouped(counts.mmaps),
        grouped(counts.munmaps),
        grouped(counts.brks),
        grouped(counts.mremaps),
        grouped(counts.lost),
    )
}

/// A known bug that it may be, and how to find out.
fn suspect(plan: &Plan, known: &Signature) -> String {
    let version = plan.target.ucx.as_deref().unwrap_or_default();
    let mut text = format!(
        "UCX {version} has a bug that makes this kind of memory grow by the {}: {}. {} ({}).",
        known.unit, known.id, known.title, known.url
    );
    if known.unit == Unit::Unmap {
        let pid = plan.target.pid;
        text +=
            &format!(" pdlab watch --pid {pid} --unit-from unmaps tells whether it is this one.");
    }
    text
}

/// What to do about a leak that nobody knows.
fn next(findings: &Findings<'_>, traced: Option<&Stacks>) -> String {
    let target = &findings.plan.target;
    let pid = target.pid;
    match traced {
        None => format!("No known bug looks like it. {}", ask_stacks(pid)),
        Some(traced) if traced.stacks.is_empty() => format!(
            "No known bug looks like it, and nothing that was mapped meanwhile is still mapped: the \
             growth lies in memory that the process had already, malloc's mostly. A heap profiler \
             (heaptrack, jemalloc's prof) sees inside; pdlab watch --pid {pid} for longer shows \
             whether the heap itself grows."
        ),
        Some(_) => match &findings.attribution.top {
            Some(top) => {
                let ucx = target.ucx.as_deref().and_then(|version| version.parse().ok());
                explain::owner::unknown_owner(&top.frames, &Known::builtin().namer(ucx))
            }
            None => {
                "No known bug looks like it. Report the first stack above, with its module and \
                     the slope, to whoever makes that module."
                    .to_owned()
            }
        },
    }
}

fn ask_stacks(pid: u32) -> String {
    format!(
        "Stacks say whose it is: pdlab watch --pid {pid} --trace on (pdlab doctor says what that \
         needs)."
    )
}

fn measured(findings: &Findings<'_>, report: &RunReport) -> String {
    let end = match &findings.end {
        End::Asked => "until it was ended",
        End::Duration => "as long as asked for",
        End::Verdict => "until the verdict stood",
        End::Exited => "until the process ended",
        End::Lost(_) => "until the process could no longer be read",
    };
    let readings = grouped(findings.course.len());
    format!("{readings} readings in {:.1} s, {end}", report.result.duration_s)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::course::Course;
    use crate::watch::plan::tests::plan;
    use pdlab_leak::attribution::Attribution;
    use pdlab_leak::layout::Class;
    use pdlab_leak::result::TraceNote;
    use pdlab_leak::sample::{Memory, Sample};
    use pdlab_leak::trace::tier::Tier;
    use pdlab_leak::trace::{CallKind, Confidence, Counts, Frame, ModuleState};
    use pdlab_leak::work::Work;

    fn traced() -> Stacks {
        let frame = |function: Option<&str>| Frame {
            function: function.map(str::to_owned),
            module: Some("/x/libucs.so.0".to_owned()),
            offset: 0x1f2a3,
            module_state: ModuleState::Present,
        };
        Stacks {
            tier: Tier::Perf,
            stacks: vec![StackGrowth {
                frames: vec![frame(Some("ucs_mpool_grow")), frame(None)],
                kind: CallKind::Mmap,
                live_bytes: 57_600_000,
                maps: 440,
                resident: [(Class::Anonymous, 57_600_000)].into(),
                estimated: false,
            }],
            counts: Counts { mmaps: 440, munmaps: 400_000, ..Counts::default() },
            confidence: Confidence::Complete,
            untracked_bytes: 0,
            remarks: Vec::new(),
        }
    }

    /// 144 B per unmap at 40,000 unmaps per second for 10 s, or nothing.
    fn course(unit: Unit, bytes_per_unmap: u64) -> Course {
        let (plan, mut course) = (plan(unit), Course::default());
        for i in 0..41 {
            let work = Work { unmaps: 10_000 * i, counted: 10_000 * i, ..Work::default() };
            let bytes = 100_000_000 + bytes_per_unmap * 10_000 * i;
            let memory = Memory { rss_bytes: bytes, anonymous_bytes: bytes, ..Memory::default() };
            let sample = Sample { t_us: 250_000 * i, work, memory, ..Sample::default() };
            course.add(sample, None, &plan.rule());
        }
        course
    }

    fn rendered(unit: Unit, bytes_per_unmap: u64, traced: Option<&Stacks>) -> String {
        suspecting(Vec::new(), unit, bytes_per_unmap, traced)
    }

    fn suspecting(
        suspects: Vec<Signature>,
        unit: Unit,
        bytes_per_unmap: u64,
        traced: Option<&Stacks>,
    ) -> String {
        let (plan, course) = (plan(unit), course(unit, bytes_per_unmap));
        let judgement = course.judge(&plan.rule());
        let attribution = Attribution::default();
        let findings = Findings {
            plan: &plan,
            process: "x-1",
            course: &course,
            judgement: &judgement,
            attribution: &attribution,
            trace: TraceNote::off("--trace off".to_owned()),
            suspects,
            end: End::Exited,
            remarks: vec!["The process has ended.".to_owned()],
            total_s: 10.5,
        };
        render(&findings, traced, &findings.report(), Path::new("runs/x"))
    }

    #[test]
    fn a_leak_reads_from_the_verdict_to_the_files() {
        let text = rendered(Unit::Unmap, 144, Some(&traced()));
        for words in [
            "verdict    LEAK. 144.0 B per unmap (95 % CI 143.8 to 144.2) over 400,000 unmaps.",
            "At the rate seen (40,000 unmaps/s): 346 MB/min",
            "watched    VLLM::Worker, pid 4711, of user 0",
            "growth     RSS +57.6 MB to 157.6 MB",
            "stack      57.6 MB still mapped, of 440 calls, from\n           ucs_mpool_grow (libucs.so.0+0x1f2a3)",
            "traced     perf tracepoints: complete; 440 mmap, 400,000 munmap",
            "next       No known bug looks like it. Report the first stack",
            "measured   41 readings in 10.0 s, until the process ended",
            "remark     The process has ended.",
            "page       pdlab report runs/x",
        ] {
            assert!(text.contains(words), "{words} is not in\n{text}");
        }
        let widest = text.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(widest <= crate::repro::sheet::WIDTH, "{widest}");
    }

    #[test]
    fn without_stacks_it_says_how_to_get_them() {
        let text = rendered(Unit::Second, 144, None);
        assert!(text.contains("No known bug looks like it. Stacks say"), "{text}");
        let known = pdlab_leak::signature::known();
        let text = suspecting(known, Unit::Second, 144, None);
        assert!(
            text.contains("--unit-from\n           unmaps tells")
                || text.contains("--unit-from unmaps tells"),
            "{text}"
        );
        assert!(!text.contains("No known bug"), "{text}");
        assert!(text.contains("pdlab watch --pid 4711 --trace on"), "{text}");
    }

    #[test]
    fn a_foreign_counter_is_named_and_a_clean_process_needs_nothing() {
        let text = rendered(Unit::Count, 0, None);
        assert!(text.contains("CLEAN. 0.0 B per count"), "{text}");
        assert!(text.contains("one count is 1 of vllm:generation_tokens_total"), "{text}");
        assert!(!text.contains("next") && !text.contains("MB/min"), "{text}");
    }
}
