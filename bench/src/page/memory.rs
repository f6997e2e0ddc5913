//! The main plot: what is judged against work, with the fit, its interval, what was left out as
//! warm-up, and what would have counted as clean.

use maud::{Markup, html};
use pdlab_leak::explain::fixed;

use super::growth::{Fit, Growth};
use super::html::{figure, key};
use super::scale::{Notation, Scale};
use super::svg::{Frame, Plot, short};
use super::thin::thin;
use super::words;

/// Readings that are drawn: more than one per pixel cannot be seen.
const POINTS: usize = 600;

/// Dots closer than this many pixels to each other are drawn smaller.
const CROWD: f64 = 6.0;

/// The figure of `growth`.
pub(super) fn memory(growth: &Growth) -> Markup {
    let fit = growth.fit();
    let title = words::growth_title(growth);
    figure("memory", &title, &spoken(growth), &caption(growth, fit.as_ref()), |frame| {
        draw(growth, fit.as_ref(), frame)
    })
}

fn draw(growth: &Growth, fit: Option<&Fit>, frame: &Frame) -> Markup {
    let plot = plot(growth, fit, frame);
    let x = Notation::counts(&plot.x, &words::plural(growth.axes.unit));
    let y = words::notation(growth.axes.gauge, &plot.y);
    let y_title = format!("{}, {}", words::axis(growth.axes.gauge, &y), growth.process);
    let points = &growth.points;
    let drawn = thin(points.len(), POINTS, |i| points[i].level);
    let readings = plot.dots(drawn.iter().map(|i| (points[*i].work, points[*i].level)));
    let apart = (plot.right() - plot.left()) / drawn.len() as f64;
    let class = if apart < CROWD { "dots crowded" } else { "dots" };
    html! {
        @if let Some(fit) = fit { (warm_up(&plot, fit)) (margin(&plot, growth, fit)) }
        (plot.axes(&x, &y, x.unit(), &y_title))
        path class=(class) d=(readings) {}
        @if let Some(fit) = fit { (margin_name(&plot, growth, fit)) (line(&plot, growth, fit)) }
    }
}

fn plot<'a>(growth: &Growth, fit: Option<&Fit>, frame: &'a Frame) -> Plot<'a> {
    Plot {
        frame,
        x: Scale::exact(0.0, growth.units(), frame.x_ticks),
        y: levels(growth, fit, frame.y_ticks),
    }
}

/// Room for the readings, the line, and the wedge of what counts as clean: without it the noise
/// of a process that does not grow would fill the picture, and look like growth.
pub(super) fn levels(growth: &Growth, fit: Option<&Fit>, ticks: usize) -> Scale {
    let (mut low, mut high) = growth.range();
    if let Some(fit) = fit {
        for margin in [growth.margin, -growth.margin] {
            let end = fit.margin_at(margin, fit.to);
            (low, high) = (low.min(end), high.max(end));
        }
    }
    Scale::rounded(low.max(0.0), high, ticks)
}

fn warm_up(plot: &Plot<'_>, fit: &Fit) -> Markup {
    let width = plot.x(fit.from) - plot.left();
    html! {
        @if width > 0.0 {
            rect class="warm-up" x=(plot.left()) y=(plot.top()) width=(short(width))
                height=(plot.bottom() - plot.top()) {}
            // A word that has no room inside stands beside, and points to it.
            @if width > 70.0 {
                text class="note" x=(plot.left() + 6.0) y=(plot.top() + 16.0) { "warm-up" }
            } @else {
                text class="note" x=(short(plot.left() + width + 4.0))
                    y=(plot.top() + 16.0) { "← warm-up" }
            }
        }
    }
}

fn margin(plot: &Plot<'_>, growth: &Growth, fit: &Fit) -> Markup {
    let edge = |margin: f64| {
        [fit.from, fit.to].map(|work| (work, fit.margin_at(margin, work).max(plot.y.low())))
    };
    html! { path class="margin" d=(plot.area(&edge(growth.margin), &edge(-growth.margin))) {} }
}

/// The name of the wedge: inside where that is high enough, else below it or above it, and left to
/// the caption where the wedge is short.
fn margin_name(plot: &Plot<'_>, growth: &Growth, fit: &Fit) -> Markup {
    let edge = |margin: f64| plot.y(fit.margin_at(margin, fit.to).max(plot.y.low()));
    let (top, foot) = (edge(growth.margin), edge(-growth.margin));
    let y = match (foot - top > 40.0, foot + 20.0 < plot.bottom()) {
        (true, _) => foot - 30.0,
        (false, true) => foot + 16.0,
        (false, false) => top - 6.0,
    };
    let room = plot.x(fit.to) - plot.x(fit.from) > 240.0;
    html! {
        @if room {
            text class="halo" x=(plot.right() - 6.0) y=(short(y)) text-anchor="end" {
                "within " (words::margin(growth)) ": clean"
            }
        }
    }
}

fn line(plot: &Plot<'_>, growth: &Growth, fit: &Fit) -> Markup {
    let ends = |slope: f64| [fit.from, fit.to].map(|work| (work, fit.at(slope, work)));
    // Two triangles that meet in the middle, where the line is known best.
    let (low, high) = (ends(fit.slope.low), ends(fit.slope.high));
    let upper = [(fit.from, low[0].1.max(high[0].1)), (fit.to, low[1].1.max(high[1].1))];
    let lower = [(fit.from, low[0].1.min(high[0].1)), (fit.to, low[1].1.min(high[1].1))];
    let centre = fit.centre;
    let band = plot.area(&[upper[0], centre, upper[1]], &[lower[0], centre, lower[1]]);
    // Beside the line, left and above: free for a line that rises, and above one that does not.
    let work = fit.from + 0.72 * (fit.to - fit.from);
    let (x, y) = (plot.x(work) - 10.0, plot.y(fit.at(fit.slope.value, work)) - 12.0);
    html! {
        path class="band" d=(band) {}
        path class="fit" d=(plot.line(ends(fit.slope.value))) {}
        text class="slope halo" x=(short(x)) y=(short(y.max(plot.top() + 14.0)))
            text-anchor="end" { (words::slope(fit.slope.value, growth)) }
    }
}

fn caption(growth: &Growth, fit: Option<&Fit>) -> Markup {
    let readings = growth.points.len();
    html! {
        (key("key-readings", &format!("{} of {}", words::readings(readings), growth.process)))
        @if let Some(fit) = fit {
            (key("key-fit", "fitted line, with the 95 % interval of its slope as a band"))
            (key("key-margin", &format!("what counts as clean: {}", words::margin(growth))))
            @if fit.from > 0.0 { (key("key-warm-up", "warm-up, found in the readings and left out")) }
        } @else {
            "too few for a slope"
        }
    }
}

/// The plot for those who do not see it.
fn spoken(growth: &Growth) -> String {
    let (first, last) = (&growth.points[0], &growth.points[growth.points.len() - 1]);
    let value = |value: f64| words::value(growth.axes.gauge, value);
    let mut text = format!(
        "From {} at the first reading to {} after {}.",
        value(first.level),
        value(last.level),
        words::amount(growth.units(), growth.axes.unit)
    );
    if let Some(fit) = growth.fit() {
        text += &format!(
            " The fitted slope is {}, 95 % interval {} to {}.",
            words::slope(fit.slope.value, growth),
            fixed(fit.slope.low, growth.axes.gauge),
            fixed(fit.slope.high, growth.axes.gauge)
        );
    }
    text
}
