//! Who holds the memory: by kind at every reading, and by owner between the first and the last.
//!
//! What `/proc` tells at every reading is the kind of memory alone. Owners need a walk over all
//! mappings, which is done at the start and at the end only; so owners are a column at the end of
//! the plot, and no areas that would pretend to know what was in between.

use maud::{Markup, html};

use pdlab_leak::ledger::Owner;
use pdlab_leak::sample::Sample;
use pdlab_leak::work::Unit;

use super::html::{figure, key, table};
use super::scale::{Notation, Scale};
use super::svg::{Frame, Plot, short};
use super::thin::thin;
use super::words;
use crate::repro::words::{amount, change};

/// Readings that are drawn per layer.
const POINTS: usize = 200;

/// Owners of less than this share of the growth go into one.
const SMALL_SHARE: f64 = 0.02;

/// Classes of the owners in the column; further ones are put together.
const COLOURS: usize = 4;

/// The memory of one process, and who holds what it gained.
pub(super) struct Holdings<'a> {
    process: &'a str,
    unit: Unit,
    readings: Vec<Reading>,
    owners: &'a [Owner],
}

/// RSS by kind after some work; the kinds add up to it.
struct Reading {
    work: f64,
    files: f64,
    shmem: f64,
    /// Anonymous memory, as much as there was at the first reading.
    before: f64,
    /// Anonymous memory beyond that.
    gained: f64,
}

impl<'a> Holdings<'a> {
    /// The memory of `process` by `samples`; `None` if there are fewer than two.
    pub(super) fn of(
        samples: &[Sample],
        process: &'a str,
        unit: Unit,
        owners: &'a [Owner],
    ) -> Option<Self> {
        let own: Vec<&Sample> = samples.iter().filter(|s| s.process == process).collect();
        let first = *own.first()?;
        let base = first.memory.anonymous_bytes;
        let reading = |sample: &&Sample| {
            let memory = &sample.memory;
            // RSS and its anonymous part are read in one go. Shared memory comes from counters
            // that lag a little; files are the rest, so that the kinds add up.
            let anonymous = memory.anonymous_bytes.min(memory.rss_bytes);
            let shmem = memory.rss_shmem_bytes.min(memory.rss_bytes - anonymous);
            Reading {
                work: sample.position(unit) - first.position(unit),
                files: (memory.rss_bytes - anonymous - shmem) as f64,
                shmem: shmem as f64,
                before: anonymous.min(base) as f64,
                gained: anonymous.saturating_sub(base) as f64,
            }
        };
        let readings: Vec<Reading> = own.iter().map(reading).collect();
        (readings.len() >= 2).then_some(Self { process, unit, readings, owners })
    }

    /// The section of a page; `explained` is the share of the gains that has named owners.
    pub(super) fn section(&self, explained: Option<f64>) -> Markup {
        html! {
            section {
                h2 { "Who holds it" }
                (self.figure())
                (self.table())
                @if let Some(ratio) = explained {
                    p class="note" {
                        (format!("{:.1} %", 100.0 * ratio)) " of what was gained has an owner with \
                         a name."
                    }
                }
            }
        }
    }

    /// The figure.
    fn figure(&self) -> Markup {
        let title = format!("Memory of {} by kind", self.process);
        figure("owners", &title, &self.spoken(), &self.caption(), |frame| self.draw(frame))
    }

    /// What each owner gained.
    fn table(&self) -> Markup {
        let row = |owner: &Owner| {
            let share = format!("{:.1} %", 100.0 * owner.share);
            let bar = format!("width:{:.1}%", 100.0 * owner.share.clamp(0.0, 1.0));
            vec![
                html! { (owner.name) },
                html! { (change(owner.bytes as f64)) },
                html! { span class="bar" { span style=(bar) {} } (share) },
                html! { (owner.basis.told()) },
            ]
        };
        let rows: Vec<Vec<Markup>> = self.owners.iter().map(row).collect();
        let caption = format!(
            "Growth of {} by owner, from a walk over all its mappings before and after",
            self.process
        );
        html! {
            @if !rows.is_empty() {
                (table(&caption, &["Owner", "Growth", "Share of what was gained", "Known"], &rows))
            }
        }
    }

    fn draw(&self, frame: &Frame) -> Markup {
        let column = self.column();
        // Room for the column at the right.
        let frame =
            Frame { right: frame.right + if column.is_empty() { 0.0 } else { 26.0 }, ..*frame };
        let total =
            |reading: &Reading| reading.files + reading.shmem + reading.before + reading.gained;
        let high = self.readings.iter().map(total).fold(0.0, f64::max);
        let units = self.readings[self.readings.len() - 1].work;
        let plot = Plot {
            frame: &frame,
            x: Scale::exact(0.0, units, frame.x_ticks),
            y: Scale::rounded(0.0, high, frame.y_ticks),
        };
        let x = Notation::counts(&plot.x, &words::plural(self.unit));
        let y = Notation::bytes(&plot.y);
        let y_title = format!("{} resident in {}", y.unit(), self.process);
        let drawn = thin(self.readings.len(), POINTS, |i| total(&self.readings[i]));
        let mut lower: Vec<(f64, f64)> =
            drawn.iter().map(|i| (self.readings[*i].work, 0.0)).collect();
        let mut layers = Vec::new();
        for kind in self.kinds() {
            let values = drawn.iter().map(|i| (kind.bytes)(&self.readings[*i]));
            let upper: Vec<(f64, f64)> =
                lower.iter().zip(values).map(|(below, bytes)| (below.0, below.1 + bytes)).collect();
            layers.push((kind, plot.area(&upper, &lower), label_y(&plot, &upper, &lower)));
            lower = upper;
        }
        html! {
            @for (kind, area, _) in &layers { path class=(kind.class) d=(area) {} }
            (plot.axes(&x, &y, x.unit(), &y_title))
            @for (kind, _, at) in &layers {
                @if let Some(at) = at {
                    text class="inside" x=(plot.right() - 8.0) y=(short(*at)) text-anchor="end" {
                        (kind.name)
                    }
                }
            }
            (self.column_markup(&plot, &column))
        }
    }

    /// The owners' gains on top of what was there at the first reading.
    fn column_markup(&self, plot: &Plot<'_>, column: &[Segment<'_>]) -> Markup {
        let first = &self.readings[0];
        let base = first.files + first.shmem + first.before;
        let below = column.iter().scan(base, |below, segment| {
            *below += segment.bytes;
            Some(*below - segment.bytes)
        });
        html! {
            @for (segment, below) in column.iter().zip(below) {
                @let (top, foot) = (plot.y(below + segment.bytes), plot.y(below));
                rect class=(format!("owner-{}", segment.colour)) x=(plot.right() + 8.0) width="14"
                    y=(short(top)) height=(short((foot - top).max(0.5))) {
                    title { (segment.name) ": " (change(segment.bytes)) }
                }
            }
        }
    }

    /// The column's parts, the largest first; none if the growth is too small to be seen.
    fn column(&self) -> Vec<Segment<'a>> {
        let gained: f64 = self.owners.iter().map(|owner| owner.bytes.max(0) as f64).sum();
        let last = &self.readings[self.readings.len() - 1];
        let total = last.files + last.shmem + last.before + last.gained;
        if gained < SMALL_SHARE * total {
            return Vec::new();
        }
        let large = |owner: &&Owner| owner.bytes > 0 && owner.share >= SMALL_SHARE;
        let mut column: Vec<Segment<'a>> = self
            .owners
            .iter()
            .filter(large)
            .take(COLOURS)
            .enumerate()
            .map(|(i, owner)| Segment { name: &owner.name, bytes: owner.bytes as f64, colour: i })
            .collect();
        let rest = gained - column.iter().map(|segment| segment.bytes).sum::<f64>();
        if rest > 0.0 && !column.is_empty() {
            column.push(Segment { name: "others", bytes: rest, colour: COLOURS });
        }
        column
    }

    /// The kinds of memory that there are, from the bottom up.
    fn kinds(&self) -> impl Iterator<Item = &'static Kind> {
        KINDS.iter().filter(|kind| {
            let largest = self.readings.iter().map(kind.bytes).fold(0.0, f64::max);
            largest > 0.0
        })
    }

    fn caption(&self) -> Markup {
        let column = self.column();
        html! {
            "Kinds, at every reading: "
            @for kind in self.kinds() { (key(kind.class, kind.name)) }
            @if !column.is_empty() {
                br;
                "Owners of the growth, known at the start and at the end only, as the column at the \
                 right: "
                @for segment in &column {
                    @let text = format!("{} {}", segment.name, change(segment.bytes));
                    (key(&format!("owner-{}", segment.colour), &text))
                }
            }
        }
    }

    fn spoken(&self) -> String {
        let (first, last) = (&self.readings[0], &self.readings[self.readings.len() - 1]);
        let ends = |kind: &'static Kind| {
            let (from, to) = ((kind.bytes)(first), (kind.bytes)(last));
            format!("{}: {} at the start, {} at the end", kind.name, amount(from), amount(to))
        };
        let parts: Vec<String> = self.kinds().map(ends).collect();
        format!("Stacked areas over work. {}.", parts.join("; "))
    }
}

/// Where the name of a layer has room in it near its right end, if it has.
fn label_y(plot: &Plot<'_>, upper: &[(f64, f64)], lower: &[(f64, f64)]) -> Option<f64> {
    // The name reaches to the left; the layer must be thick enough there, too.
    let from = upper.len() * 3 / 5;
    let edges = upper[from..].iter().zip(&lower[from..]);
    let top = edges.clone().map(|(upper, _)| plot.y(upper.1)).fold(f64::MIN, f64::max);
    let foot = edges.map(|(_, lower)| plot.y(lower.1)).fold(f64::MAX, f64::min);
    (foot - top > 18.0).then_some((top + foot) / 2.0 + 4.0)
}

/// One owner in the column.
struct Segment<'a> {
    name: &'a str,
    bytes: f64,
    colour: usize,
}

/// A kind of memory as a layer.
struct Kind {
    name: &'static str,
    class: &'static str,
    bytes: fn(&Reading) -> f64,
}

const KINDS: [Kind; 4] = [
    Kind { name: "files", class: "layer-files", bytes: |reading| reading.files },
    Kind { name: "shared memory", class: "layer-shmem", bytes: |reading| reading.shmem },
    Kind {
        name: "anonymous, there at the first reading",
        class: "layer-before",
        bytes: |reading| reading.before,
    },
    Kind {
        name: "anonymous, gained since",
        class: "layer-gained",
        bytes: |reading| reading.gained,
    },
];
