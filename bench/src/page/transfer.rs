//! A transfer run as a page: bandwidth and latency over block size, and what they compare with.

use std::collections::BTreeSet;

use maud::{Markup, html};

use super::error::PageError;
use super::html::{fact, figure, notice, page, table};
use super::scale::{Notation, Scale};
use super::svg::{Frame, Plot, short};
use super::words;
use crate::repro::words::{amount, counted, grouped};
use crate::transfer::plan::{Cell, Limit, Op, Register};
use crate::transfer::result::{CeilingPoint, KIND, Point, TransferReport};
use crate::transfer::table::{against, gb};
use crate::transfer::words::{micros, size};

/// As many series as there are colours.
const COLOURS: usize = 5;

/// A transfer run.
#[derive(Debug, Clone, PartialEq)]
pub struct Transfer {
    /// What it is called: the name of its directory.
    pub name: String,
    /// What it found.
    pub report: TransferReport,
    /// What is missing.
    pub notes: Vec<String>,
}

impl Transfer {
    /// Whether the text of a `result.json` is one of these.
    pub fn is_one(json: &str) -> bool {
        let json: Option<serde_json::Value> = serde_json::from_str(json).ok();
        json.is_some_and(|json| json["kind"] == KIND)
    }

    /// The run in the directory `name`, from the text of its `result.json`.
    ///
    /// # Errors
    /// If the text is none of such a run.
    pub fn parse(name: &str, json: &str) -> Result<Self, PageError> {
        let report: TransferReport = serde_json::from_str(json)
            .map_err(|error| PageError::json(format!("{name}/result.json"), &error))?;
        let left = report.plan.cells.len().saturating_sub(report.points.len());
        let mut notes = Vec::new();
        notes.extend(report.failure.iter().map(|reason| format!("The run ended early: {reason}.")));
        if report.interrupted {
            notes.push("The run was interrupted.".to_owned());
        }
        if left > 0 {
            notes.push(format!("Not measured: {}.", counted(left as u64, "point")));
        }
        let missing = report.missing.iter().map(|missing| format!("Not compared: {missing}."));
        notes.extend(missing);
        Ok(Self { name: name.to_owned(), report, notes })
    }
}

/// Points that differ in nothing but the size of their blocks.
struct Series<'a> {
    name: String,
    /// By block size.
    points: Vec<&'a Point>,
}

/// The page of `transfer`.
pub(super) fn render(transfer: &Transfer) -> String {
    let report = &transfer.report;
    let series = series(&report.points);
    let sizes: BTreeSet<u64> = report.points.iter().map(|point| point.cell.block_bytes).collect();
    let title = headline(report);
    page(
        &format!("transfer: {}", transfer.name),
        &html! {
            header {
                p class="kicker" { "pdlab bench transfer · " (transfer.name) }
                h1 { (title) }
            }
            (notice("leak", "Corrupt data", &corrupt(report)))
            (notice("doubt", "This run is incomplete", &transfer.notes))
            @if !series.is_empty() {
                section {
                    h2 { "Bandwidth over block size" }
                    (bandwidth(&series, &sizes))
                }
                section {
                    h2 { "Latency of a transfer" }
                    (latency(&series, &sizes))
                    (percentiles(report))
                }
                section {
                    h2 { "Beside the ceiling" }
                    (ceilings(report))
                    p class="note" {
                        "Ratios are of one round each, ours over the other's; shown are their median \
                         and their range. Rounds alternate, so that what slows the machine slows both."
                    }
                }
                @if report.points.iter().any(|point| point.flows.len() > 1) {
                    section { h2 { "By flow" } (flows(report)) }
                }
            }
            (settings(report))
        },
    )
}

fn headline(report: &TransferReport) -> String {
    let best =
        report.points.iter().max_by(|a, b| a.bytes_per_s.median.total_cmp(&b.bytes_per_s.median));
    match best {
        Some(point) => format!(
            "At most {} GB/s: {}, {}",
            gb(point.bytes_per_s.median),
            point.cell.label(),
            report.plan.pattern.name()
        ),
        None => "Nothing was measured".to_owned(),
    }
}

fn corrupt(report: &TransferReport) -> Vec<String> {
    let of = |point: &Point| {
        let first = point.first_corrupt.as_deref().unwrap_or("");
        format!(
            "{}: {} of {} are corrupt. {first}",
            point.cell.label(),
            grouped(point.corrupt_blocks),
            counted(point.verified_blocks, "block")
        )
    };
    report.points.iter().filter(|point| point.corrupt_blocks > 0).map(of).collect()
}

fn series(points: &[Point]) -> Vec<Series<'_>> {
    let mut all: Vec<Series<'_>> = Vec::new();
    for point in points {
        let name = series_name(point);
        match all.iter_mut().find(|series| series.name == name) {
            Some(series) => series.points.push(point),
            None => all.push(Series { name, points: vec![point] }),
        }
    }
    for series in &mut all {
        series.points.sort_by_key(|point| point.cell.block_bytes);
    }
    all
}

/// `ucx 1.22.0 read x 8, cold`.
fn series_name(point: &Point) -> String {
    let Cell { op, register, working_set, depth, .. } = &point.cell;
    let op = match op {
        Op::Read => "read",
        Op::Write => "write",
    };
    let register = match register {
        Register::Once => "",
        Register::Each => ", registered each",
    };
    format!("{} {op} x {depth}, {}{register}", point.transport, working_set.name())
}

fn bandwidth(series: &[Series<'_>], sizes: &BTreeSet<u64>) -> Markup {
    let memcpy = ceiling_line(series, sizes, "memcpy cold");
    let rates = series.iter().flat_map(|s| &s.points).map(|point| point.bytes_per_s.high);
    let top = rates.chain(memcpy.iter().map(|(_, rate)| *rate)).fold(0.0, f64::max);
    let caption = html! {
        (keys(series))
        @if !memcpy.is_empty() { (key("memcpy", "a cold copy in memory, in the same run")) }
        "Dots are medians over rounds, of all flows together."
    };
    let spoken = spoken(series, |point| format!("{} GB/s", gb(point.bytes_per_s.median)));
    figure("bandwidth", "Bandwidth over block size", &spoken, &caption, |frame| {
        let plot = plot(frame, sizes, Scale::rounded(0.0, top, frame.y_ticks));
        let y = Notation::bytes(&plot.y);
        html! {
            (axes(&plot, sizes, &y, &format!("{}/s", y.unit())))
            @if !memcpy.is_empty() { path class="readings quiet" d=(plot.line(memcpy.clone())) {} }
            @for (i, series) in series.iter().enumerate() {
                (line(&plot, i, series.points.iter().map(|point| {
                    (log2(point.cell.block_bytes), point.bytes_per_s.median)
                }).collect()))
            }
        }
    })
}

fn latency(series: &[Series<'_>], sizes: &BTreeSet<u64>) -> Markup {
    let all = || series.iter().flat_map(|s| &s.points).map(|point| point.latency.p50_us.max(0.01));
    let (low, high) = (all().fold(f64::INFINITY, f64::min), all().fold(0.01, f64::max));
    let caption = html! {
        (keys(series))
        "Medians of single transfers; with many in flight, each waits for those before it."
    };
    let spoken = spoken(series, |point| format!("{} µs", micros(point.latency.p50_us)));
    figure("latency", "Median latency over block size", &spoken, &caption, |frame| {
        // Powers of ten, so that small and large blocks can both be read.
        let scale = Scale::exact(low.log10().floor(), high.log10().ceil(), frame.y_ticks);
        let plot = plot(frame, sizes, scale);
        html! {
            (latency_axes(&plot, sizes))
            @for (i, series) in series.iter().enumerate() {
                (line(&plot, i, series.points.iter().map(|point| {
                    (log2(point.cell.block_bytes), point.latency.p50_us.max(0.01).log10())
                }).collect()))
            }
        }
    })
}

/// A ceiling by block size: the same for every series.
fn ceiling_line(series: &[Series<'_>], sizes: &BTreeSet<u64>, name: &str) -> Vec<(f64, f64)> {
    let at = |bytes: &u64| {
        let mut points = series.iter().flat_map(|s| &s.points);
        let point = points.find(|point| point.cell.block_bytes == *bytes)?;
        let ceiling = point.ceilings.iter().find(|ceiling| ceiling.name == name)?;
        Some((log2(*bytes), ceiling.bytes_per_s?.median))
    };
    sizes.iter().filter_map(at).collect()
}

fn log2(bytes: u64) -> f64 {
    (bytes as f64).log2()
}

fn plot<'a>(frame: &'a Frame, sizes: &BTreeSet<u64>, y: Scale) -> Plot<'a> {
    let ends = (sizes.first().copied().unwrap_or(1), sizes.last().copied().unwrap_or(2));
    // Half a step of room on both sides: dots are not cut, and one size stands in the middle.
    Plot { frame, x: Scale::exact(log2(ends.0) - 0.5, log2(ends.1) + 0.5, frame.x_ticks), y }
}

fn line(plot: &Plot<'_>, index: usize, points: Vec<(f64, f64)>) -> Markup {
    let class = format!("series-{}", index % COLOURS);
    html! {
        path class=(format!("series {class}")) d=(plot.line(points.clone())) {}
        path class=(format!("series points {class}")) d=(plot.dots(points)) {}
    }
}

fn axes(plot: &Plot<'_>, sizes: &BTreeSet<u64>, y: &Notation, y_title: &str) -> Markup {
    let ticks: Vec<(f64, String)> =
        plot.y.ticks().into_iter().map(|tick| (tick, y.label(tick))).collect();
    drawn_axes(plot, sizes, &ticks, y_title)
}

fn latency_axes(plot: &Plot<'_>, sizes: &BTreeSet<u64>) -> Markup {
    let whole = |power: i32| (f64::from(power), micros_label(power));
    let (low, high) = (plot.y.low().ceil() as i32, plot.y.high().floor() as i32);
    drawn_axes(
        plot,
        sizes,
        &(low..=high).map(whole).collect::<Vec<_>>(),
        "µs, each line ten times the last",
    )
}

fn micros_label(power: i32) -> String {
    if power < 0 {
        format!("{:.*}", power.unsigned_abs() as usize, 10f64.powi(power))
    } else {
        grouped(10_u64.pow(power as u32))
    }
}

/// Grid and ticks; block sizes stand where there is room for them.
fn drawn_axes(
    plot: &Plot<'_>,
    sizes: &BTreeSet<u64>,
    ticks: &[(f64, String)],
    y_title: &str,
) -> Markup {
    let (left, right, bottom) = (plot.left(), plot.right(), plot.bottom());
    let every = sizes.len().div_ceil(plot.frame.x_ticks).max(1);
    html! {
        g class="axes" {
            @for (tick, label) in ticks {
                line class="grid" x1=(left) x2=(right) y1=(short(plot.y(*tick)))
                    y2=(short(plot.y(*tick))) {}
                text x=(left - 6.0) y=(short(plot.y(*tick) + 4.0)) text-anchor="end" { (label) }
            }
            line class="axis" x1=(left) x2=(right) y1=(bottom) y2=(bottom) {}
            @for bytes in sizes.iter().step_by(every) {
                @let x = short(plot.x(log2(*bytes)));
                line class="axis" x1=(x) x2=(x) y1=(bottom) y2=(bottom + 4.0) {}
                text x=(x) y=(bottom + 17.0) text-anchor="middle" { (size(*bytes)) }
            }
            text class="unit" x=(right) y=(bottom + 35.0) text-anchor="end" { "block size" }
            text class="unit" x="0" y="14" { (y_title) }
        }
    }
}

fn keys(series: &[Series<'_>]) -> Markup {
    html! {
        @for (i, series) in series.iter().enumerate() {
            (key(&format!("owner-{}", i % COLOURS), &series.name))
        }
    }
}

fn key(class: &str, text: &str) -> Markup {
    super::html::key(class, text)
}

fn spoken(series: &[Series<'_>], value: impl Fn(&Point) -> String) -> String {
    let of = |series: &Series<'_>| {
        let points: Vec<String> = series
            .points
            .iter()
            .map(|point| format!("{} at {}", value(point), size(point.cell.block_bytes)))
            .collect();
        format!("{}: {}.", series.name, points.join(", "))
    };
    series.iter().map(of).collect::<Vec<_>>().join(" ")
}

fn percentiles(report: &TransferReport) -> Markup {
    let columns = ["Transfers", "p50 µs", "p99 µs", "p99.9 µs", "slowest µs", "samples"];
    let row = |point: &Point| {
        let seen = &point.latency;
        let us = [seen.p50_us, seen.p99_us, seen.p999_us, seen.max_us].map(micros);
        let mut cells = vec![name(point)];
        cells.extend(us.iter().map(|text| html! { (text) }));
        cells.push(html! { (grouped(seen.samples)) });
        cells
    };
    let rows: Vec<_> = report.points.iter().map(row).collect();
    table("Percentiles of single transfers, all rounds and flows together", &columns, &rows)
}

fn ceilings(report: &TransferReport) -> Markup {
    let columns = ["Transfers", "GB/s", "CPU s per GB", "compares with"];
    let row = |point: &Point| {
        let rate = &point.bytes_per_s;
        vec![
            name(point),
            html! { (gb(rate.median)) p class="note" { (gb(rate.low)) "–" (gb(rate.high)) } },
            cpu(point),
            html! {
                @for ceiling in &point.ceilings { p { (beside(ceiling)) } }
                @if point.ceilings.is_empty() { "–" }
            },
        ]
    };
    let rows: Vec<_> = report.points.iter().map(row).collect();
    let rounds = counted(report.plan.rounds as u64, "round");
    table(&format!("Medians over {rounds}"), &columns, &rows)
}

fn beside(ceiling: &CeilingPoint) -> Markup {
    html! {
        (against(ceiling))
        @if let Some(command) = &ceiling.command { br; code { (words::breakable(command)) } }
    }
}

fn cpu(point: &Point) -> Markup {
    let cpu = &point.cpu_s_per_gb;
    let side = |name: &str, spread: Option<crate::transfer::stats::Spread>| {
        html! {
            @if let Some(spread) = spread { (format!("{:.2}", spread.median)) " " (name) br; }
        }
    };
    html! {
        (side("sources", cpu.sources)) (side("targets", cpu.targets))
        @if cpu.sources.is_none() && cpu.targets.is_none() { (side("all", cpu.all)) }
    }
}

fn flows(report: &TransferReport) -> Markup {
    let columns = ["Transfers", "flow", "GB/s", "range"];
    let rows: Vec<_> = report
        .points
        .iter()
        .flat_map(|point| point.flows.iter().map(move |flow| (point, flow)))
        .map(|(point, flow)| {
            let rate = &flow.bytes_per_s;
            vec![
                name(point),
                html! { "agent " (flow.flow.source) " to " (flow.flow.target) },
                html! { (gb(rate.median)) },
                html! { (gb(rate.low)) "–" (gb(rate.high)) },
            ]
        })
        .collect();
    table("Bandwidth of each flow", &columns, &rows)
}

fn name(point: &Point) -> Markup {
    html! {
        (size(point.cell.block_bytes))
        p class="note" { (series_name(point)) }
    }
}

fn settings(report: &TransferReport) -> Markup {
    let plan = &report.plan;
    html! {
        section {
            h2 { "What was run" }
            dl class="facts" {
                (fact("Traffic", &html! {
                    (plan.pattern.name()) ", " (counted(plan.peers as u64, "peer")) ", "
                    (counted(plan.flows().len() as u64, "flow"))
                }))
                (fact("Each measurement", &html! {
                    @match plan.limit {
                        Limit::Millis(ms) => { (format!("{} s", ms as f64 / 1e3)) },
                        Limit::Bytes(bytes) => { (amount(bytes as f64)) " per flow" },
                    }
                    " after " (plan.warmup_ms) " ms of warm-up; "
                    (counted(plan.rounds as u64, "round"))
                }))
                (fact("Blocks of a transfer", &html! { (plan.blocks_per_read) }))
                (fact("Checked", &html! {
                    @if plan.verify { "every block; that takes its share of the bandwidth" }
                    @else { "no" }
                }))
                @for agent in &report.agents {
                    (fact(&format!("Agent {} of --transport {}", agent.index, agent.asked), &html! {
                        (agent.transport)
                        @if let Some(library) = &agent.library { " " (library) }
                        " on " (agent.host) " (" (agent.data_host) "): " (agent.why)
                        @for (name, value) in agent.settings.iter().chain(&agent.variables) {
                            br; code { (words::breakable(&format!("{name}={value}"))) }
                        }
                    }))
                }
                (fact("Started", &html! { (report.started) ", pdlab " (report.pdlab) }))
                (fact("Took", &html! { (format!("{:.1} s", report.duration_s)) }))
            }
            @if plan.cells.iter().any(|cell| cell.op == Op::Write) {
                p class="note" {
                    "A write is asked for by the source, read by the target and acknowledged to the \
                     source; its latency is all three."
                }
            }
            details {
                summary { "The plan" }
                pre { (serde_json::to_string_pretty(plan).unwrap_or_default()) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::result::tests::report;

    fn page_of(report: &TransferReport) -> String {
        let json = serde_json::to_string(report).unwrap();
        assert!(Transfer::is_one(&json));
        render(&Transfer::parse("run", &json).unwrap())
    }

    #[test]
    fn the_page_shows_bandwidth_latency_and_ratios() {
        let page = page_of(&report());
        for part in [
            "At most 4.00 GB/s: tcp read 64 KiB x 4 1 MiB, many-to-one",
            "Bandwidth over block size",
            "2.00 (1.00–2.00) of ucx_perftest",
            "p99.9 µs",
            "0.12 sources",
            "64 KiB",
        ] {
            assert!(page.contains(part), "{part}");
        }
        assert!(!page.contains("incomplete") && !page.contains("Corrupt data"));
    }

    #[test]
    fn what_is_missing_and_what_is_wrong_is_said() {
        let mut report = report();
        report.interrupted = true;
        report.missing.push("iperf3: it is <not> installed".to_owned());
        report.points[0].corrupt_blocks = 2;
        let page = page_of(&report);
        for part in
            ["incomplete", "was interrupted", "&lt;not&gt;", "Corrupt data", "2 of 9 blocks"]
        {
            assert!(page.contains(part), "{part}");
        }
        report.points.clear();
        let page = page_of(&report);
        assert!(page.contains("Nothing was measured") && page.contains("Not measured: 1 point"));
        assert!(!page.contains("<svg"));
    }

    #[test]
    fn another_result_is_none() {
        assert!(!Transfer::is_one(r#"{"scenario":"x"}"#) && !Transfer::is_one("{"));
        let error = Transfer::parse("run", r#"{"kind":"transfer"}"#).unwrap_err().to_string();
        assert!(error.contains("run/result.json"), "{error}");
    }
}
