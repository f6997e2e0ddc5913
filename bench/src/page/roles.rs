//! Every process beside the judged one: where the leak is not.

use maud::{Markup, html};

use pdlab_leak::gauge::Gauge;
use pdlab_leak::sample::Sample;

use super::growth::Growth;
use super::html::table;
use super::scale::{Notation, Scale};
use super::svg::{Plot, SMALL, drawing};
use super::thin::thin;
use super::words;
use crate::repro::growth::RoleGrowth;
use crate::repro::words::amount;

/// Readings that are drawn of each.
const POINTS: usize = 150;

/// What was judged, of one process over time, from its first reading.
struct Course<'a> {
    process: &'a str,
    /// Seconds, and what was gained by then.
    points: Vec<(f64, f64)>,
    first: f64,
}

/// Small plots of all processes in `samples`, that of `growth` first, and what they gained.
pub(super) fn roles(samples: &[Sample], growth: &Growth, gains: &[RoleGrowth]) -> Markup {
    let (judged, gauge) = (growth.process.as_str(), growth.axes.gauge);
    let courses = courses(samples, judged, gauge);
    let all = || courses.iter().flat_map(|course| &course.points);
    let high = all().map(|point| point.1).fold(0.0, f64::max);
    let low = all().map(|point| point.1).fold(0.0, f64::min);
    let seconds = all().map(|point| point.0).fold(0.0, f64::max);
    html! {
        figure {
            div class="multiples" {
                @for (i, course) in courses.iter().enumerate() {
                    @let plot = Plot {
                        frame: &SMALL,
                        x: Scale::exact(0.0, seconds, SMALL.x_ticks),
                        y: Scale::changes(low, high, SMALL.y_ticks),
                    };
                    (draw(course, gauge, &plot, i, course.process == judged))
                }
            }
            figcaption {
                "Change since the first reading, over time, all to the same scale: "
                (gauge.subject()) " of each process. " (judged)
                " is judged; the others show whether the growth is its own."
            }
        }
        (summary(gains, judged, gauge))
    }
}

fn courses<'a>(samples: &'a [Sample], judged: &'a str, gauge: Gauge) -> Vec<Course<'a>> {
    let mut courses: Vec<Course<'a>> = Vec::new();
    for sample in samples {
        let Some(level) = gauge.of(sample).map(|level| level as f64) else { continue };
        let t_s = sample.t_s();
        match courses.iter_mut().find(|course| course.process == sample.process) {
            Some(course) => course.points.push((t_s, level - course.first)),
            None => courses.push(Course {
                process: &sample.process,
                points: vec![(t_s, 0.0)],
                first: level,
            }),
        }
    }
    courses.sort_by_key(|course| course.process != judged);
    courses
}

fn draw(course: &Course<'_>, gauge: Gauge, plot: &Plot<'_>, number: usize, judged: bool) -> Markup {
    let y = words::notation(gauge, &plot.y);
    let x = Notation::counts(&plot.x, "seconds");
    let gained = words::change(gauge, course.points.last().map_or(0.0, |point| point.1));
    let title = format!("{} {gained}", course.process);
    let spoken = format!("{} of {} changed by {gained}.", gauge.subject(), course.process);
    let drawn = thin(course.points.len(), POINTS, |i| course.points[i].1);
    let line = plot.line(drawn.iter().map(|i| course.points[*i]));
    let class = if judged { "readings" } else { "readings quiet" };
    let body = html! {
        (plot.axes(&x, &y, x.unit(), y.unit()))
        path class=(class) d=(line) {}
    };
    html! {
        div {
            h3 {
                (course.process)
                @if judged { " (judged)" }
                " " span class="number" { (gained) }
            }
            (drawing(plot.frame, &format!("role-{number}"), &title, &spoken, &body))
        }
    }
}

fn summary(gains: &[RoleGrowth], judged: &str, gauge: Gauge) -> Markup {
    let row = |role: &RoleGrowth| {
        let part = if role.process == judged { "judged" } else { "quiet" };
        vec![
            html! { (role.process) },
            html! { (part) },
            html! { (words::change(gauge, role.growth)) },
            html! { (amount(role.rss_bytes as f64)) },
        ]
    };
    let rows: Vec<Vec<Markup>> = gains.iter().map(row).collect();
    let columns = ["Process", "Part", "Growth after the warm-up", "RSS at the end"];
    html! { @if !rows.is_empty() { (table("What each gained, and has", &columns, &rows)) } }
}
