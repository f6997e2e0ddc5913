//! The cures that were tried: slope, verdict, cost, and how the memory went.

use maud::{Markup, html};

use pdlab_leak::explain::fixed;
use pdlab_leak::gauge::{Axes, Gauge};
use pdlab_leak::result::MitigationResult;

use super::growth::Growth;
use super::html::{prose, table};
use super::scale::{Notation, Scale};
use super::svg::{Plot, SMALL, drawing};
use super::thin::thin;
use super::words;
use crate::repro::report::{MitigationRun, RunReport};

/// Readings that are drawn of each.
const POINTS: usize = 150;

/// A cure's readings.
#[derive(Debug, Clone, PartialEq)]
pub struct CureSeries {
    /// `NAME=VALUE`, as in the result.
    pub setting: String,
    /// What was read with it in force.
    pub growth: Growth,
}

/// The table of all cures of `report`.
pub(super) fn summary(report: &RunReport) -> Markup {
    let axes = Axes { gauge: report.result.gauge, unit: report.result.unit };
    let cures = report.result.mitigations.iter().zip(&report.mitigation_runs);
    let rows: Vec<Vec<Markup>> = cures.map(|(cure, run)| row(cure, run, axes.gauge)).collect();
    let (slope, cpu) = (axes.to_string(), format!("CPU per {}", axes.unit));
    let columns = ["Setting", &slope, "Verdict", &cpu, "Requests/s"];
    html! {
        (table("Cures, each proven in processes of its own", &columns, &rows))
        p class="note" {
            "Slopes with their 95 % interval. CPU of the whole process, serving included, and \
             requests per second: 1.00 is without the cure."
        }
    }
}

fn row(cure: &MitigationResult, run: &MitigationRun, gauge: Gauge) -> Vec<Markup> {
    let slope = match (cure.slope_per_unit, cure.ci_low, cure.ci_high) {
        (Some(slope), Some(low), Some(high)) => {
            let [slope, low, high] = [slope, low, high].map(|value| fixed(value, gauge));
            format!("{slope} ({low} to {high})")
        }
        _ => "–".to_owned(),
    };
    let cpu = match (cure.cost_ratio, run.cost_error) {
        (Some(ratio), Some(error)) => format!("{ratio:.2} ± {error:.2}"),
        (Some(ratio), None) => format!("{ratio:.2}"),
        (None, _) => "–".to_owned(),
    };
    let requests = run.request_ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.2}"));
    let verdict = html! {
        @if run.failed.is_some() { span class="doubt" { "failed" } }
        @else { span class=(words::class(cure.verdict)) { (cure.verdict) } }
        @if !cure.matched && run.failed.is_none() { ", not as expected" }
    };
    let note = html! {
        @if let Some(reason) = &run.failed { p class="note doubt" { "Failed: " (reason) } }
        @if let Some(note) = &cure.cost_note { p class="note" { (prose(note)) } }
    };
    vec![
        html! { code { (words::breakable(&cure.setting)) } (note) },
        html! { (slope) },
        verdict,
        html! { (cpu) },
        html! { (requests) },
    ]
}

/// Small plots: without a cure, and with each, to the same scale.
pub(super) fn multiples(base: &Growth, cures: &[CureSeries]) -> Markup {
    let all: Vec<(&str, &Growth)> = std::iter::once(("no cure", base))
        .chain(cures.iter().map(|cure| (cure.setting.as_str(), &cure.growth)))
        .collect();
    let gained = |growth: &Growth| {
        let first = growth.points[0].level;
        let (low, high) = growth.range();
        (low - first, high - first)
    };
    let low = all.iter().map(|(_, growth)| gained(growth).0).fold(0.0, f64::min);
    let high = all.iter().map(|(_, growth)| gained(growth).1).fold(0.0, f64::max);
    let units = all.iter().map(|(_, growth)| growth.units()).fold(0.0, f64::max);
    html! {
        figure {
            div class="multiples" {
                @for (i, (name, growth)) in all.iter().enumerate() {
                    @let plot = Plot {
                        frame: &SMALL,
                        x: Scale::exact(0.0, units, SMALL.x_ticks),
                        y: Scale::changes(low, high, SMALL.y_ticks),
                    };
                    (draw(name, growth, &plot, i))
                }
            }
            figcaption {
                "Gained since the first reading, against work, all to the same scale."
            }
        }
    }
}

fn draw(name: &str, growth: &Growth, plot: &Plot<'_>, number: usize) -> Markup {
    let x = Notation::counts(&plot.x, &words::plural(growth.axes.unit));
    let y = words::notation(growth.axes.gauge, &plot.y);
    let points = &growth.points;
    let first = points[0].level;
    let gained = words::change(growth.axes.gauge, points[points.len() - 1].level - first);
    let drawn = thin(points.len(), POINTS, |i| points[i].level);
    let line = plot.line(drawn.iter().map(|i| (points[*i].work, points[*i].level - first)));
    let class = if number == 0 { "readings" } else { "readings cured" };
    let title = format!("{} with {name}", growth.process);
    let body = html! {
        (plot.axes(&x, &y, x.unit(), y.unit()))
        path class=(class) d=(line) {}
    };
    html! {
        div {
            h3 { (words::breakable(name)) " " span class="number" { (gained) } }
            (drawing(plot.frame, &format!("cure-{number}"), &title, &gained, &body))
        }
    }
}
