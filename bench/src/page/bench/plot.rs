//! The drawings of benchmark runs: a line a run, a bar a run.

use maud::{Markup, html};

use super::BenchRun;
use crate::page::html::figure;
use crate::page::scale::{Notation, Scale};
use crate::page::svg::{Frame, Plot, short};
use crate::serve::split::Part;

/// Points of one run.
pub(super) type Line = Vec<(f64, f64)>;

/// What a figure of lines shows.
pub(super) struct Lines<'a> {
    pub(super) id: &'a str,
    pub(super) title: &'a str,
    pub(super) caption: Markup,
    /// Unit of the horizontal axis, such as `ms`.
    pub(super) x_unit: &'a str,
    /// Title of the vertical axis, with its unit.
    pub(super) y_title: &'a str,
    /// Values upwards are bytes.
    pub(super) bytes: bool,
    /// The lines with their classes; the same class may come twice.
    pub(super) lines: Vec<(String, Line)>,
}

/// The class of run number `index`.
pub(super) fn run_class(index: usize) -> String {
    format!("run run-{index}")
}

impl Lines<'_> {
    /// The figure; nothing without points.
    pub(super) fn draw(&self) -> Markup {
        let points = || self.lines.iter().flat_map(|(_, line)| line);
        if points().next().is_none() {
            return html! {};
        }
        let right = points().map(|(x, _)| *x).fold(0.0, f64::max);
        let top = points().map(|(_, y)| *y).fold(0.0, f64::max);
        let spoken = format!("{} lines over {right:.1} {}", self.lines.len(), self.x_unit);
        figure(self.id, self.title, &spoken, &self.caption, |frame| {
            let plot = Plot {
                frame,
                x: Scale::exact(0.0, right, frame.x_ticks),
                y: Scale::rounded(0.0, top, frame.y_ticks),
            };
            let x = Notation::counts(&plot.x, self.x_unit);
            let y =
                if self.bytes { Notation::bytes(&plot.y) } else { Notation::counts(&plot.y, "") };
            let y_title = match self.bytes {
                true => format!("{}, {}", self.y_title, y.unit()),
                false => self.y_title.to_owned(),
            };
            html! {
                (plot.axes(&x, &y, x.unit(), &y_title))
                @for (class, line) in &self.lines {
                    path class=(class) d=(plot.line(line.iter().copied())) {}
                }
            }
        })
    }
}

/// Pixels from one bar to the next, and the height of one.
const BAR_PITCH: f64 = 44.0;
const BAR_HEIGHT: f64 = 22.0;

/// A bar a run: the mean TTFT, cut into its parts. Runs whose server told nothing have none.
pub(super) fn split(runs: &[BenchRun], caption: &Markup) -> Markup {
    let told: Vec<(&BenchRun, [f64; 8])> =
        runs.iter().filter_map(|run| Some((run, means_ms(run)?))).collect();
    let Some(longest) = told.iter().map(|(_, parts)| parts.iter().sum()).reduce(f64::max) else {
        return html! {};
    };
    let spoken = format!("the longest mean TTFT is {longest:.1} ms");
    figure("split", "What TTFT is made of", &spoken, caption, |frame| {
        let height = frame.top + frame.bottom + BAR_PITCH * told.len() as f64;
        // The frame is as high as there are bars.
        let frame = Frame { height, ..*frame };
        let plot = Plot {
            frame: &frame,
            x: Scale::exact(0.0, longest, frame.x_ticks),
            y: Scale::exact(0.0, 1.0, 1),
        };
        let x = Notation::counts(&plot.x, "ms");
        html! {
            @for (row, (run, parts)) in told.iter().enumerate() {
                (bar(&plot, row, run, parts))
            }
            @for tick in plot.x.ticks() {
                text x=(short(plot.x(tick))) y=(short(plot.bottom() + 17.0)) text-anchor="middle" {
                    (x.label(tick))
                }
            }
            text class="unit" x=(plot.right()) y=(short(plot.bottom() + 35.0)) text-anchor="end" {
                "mean, ms"
            }
        }
    })
}

fn bar(plot: &Plot<'_>, row: usize, run: &BenchRun, parts: &[f64; 8]) -> Markup {
    let y = plot.top() + BAR_PITCH * row as f64;
    let starts = parts.iter().scan(0.0, |at, ms| {
        let start = *at;
        *at += ms;
        Some(start)
    });
    html! {
        text x=(plot.left()) y=(short(y)) { (run.name) }
        @for (i, (start, ms)) in starts.zip(parts).enumerate() {
            rect class=(format!("part-{i}")) x=(short(plot.x(start))) y=(short(y + 6.0))
                width=(short(plot.x(start + ms) - plot.x(start))) height=(BAR_HEIGHT) {}
        }
    }
}

/// The mean of each part, in the order of [`Part::ALL`].
pub(super) fn means_ms(run: &BenchRun) -> Option<[f64; 8]> {
    let split = run.ttft_split.as_ref()?;
    Some(Part::ALL.map(|part| split.parts.get(part.name()).map_or(0.0, |times| times.mean_ms)))
}
