//! A plot as SVG: two axes, and shapes between them. No colours here: shapes have classes, and
//! the style sheet colours those for light, dark and paper.

use maud::{Markup, html};

use super::scale::{Notation, Scale};

/// The size of a drawing and the margins around what is plotted, in CSS pixels at full width.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Frame {
    /// Class of the drawing, which decides where it is shown.
    pub(super) class: &'static str,
    pub(super) width: f64,
    pub(super) height: f64,
    pub(super) left: f64,
    pub(super) right: f64,
    pub(super) top: f64,
    pub(super) bottom: f64,
    /// Ticks that have room beside each other.
    pub(super) x_ticks: usize,
    /// Ticks that have room above each other.
    pub(super) y_ticks: usize,
}

/// On a laptop and on paper.
pub(super) const WIDE: Frame = Frame {
    class: "wide",
    width: 880.0,
    height: 380.0,
    left: 52.0,
    right: 16.0,
    top: 30.0,
    bottom: 44.0,
    x_ticks: 8,
    y_ticks: 6,
};

/// On a phone: its own drawing, since a wide one shrunk to 340 pixels cannot be read.
pub(super) const NARROW: Frame = Frame {
    class: "narrow",
    width: 343.0,
    height: 300.0,
    left: 40.0,
    right: 8.0,
    top: 30.0,
    bottom: 44.0,
    x_ticks: 4,
    y_ticks: 5,
};

/// One of several beside each other.
pub(super) const SMALL: Frame = Frame {
    class: "small",
    width: 280.0,
    height: 180.0,
    left: 40.0,
    right: 10.0,
    top: 24.0,
    bottom: 40.0,
    x_ticks: 3,
    y_ticks: 4,
};

/// Places in a drawing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plot<'a> {
    pub(super) frame: &'a Frame,
    pub(super) x: Scale,
    pub(super) y: Scale,
}

impl Plot<'_> {
    pub(super) fn left(&self) -> f64 {
        self.frame.left
    }

    pub(super) fn right(&self) -> f64 {
        self.frame.width - self.frame.right
    }

    pub(super) fn top(&self) -> f64 {
        self.frame.top
    }

    pub(super) fn bottom(&self) -> f64 {
        self.frame.height - self.frame.bottom
    }

    /// Where `value` lies from left to right.
    pub(super) fn x(&self, value: f64) -> f64 {
        self.left() + self.x.at(value) * (self.right() - self.left())
    }

    /// Where `value` lies from top to bottom.
    pub(super) fn y(&self, value: f64) -> f64 {
        self.bottom() - self.y.at(value) * (self.bottom() - self.top())
    }

    /// The path of a line through `points`.
    pub(super) fn line(&self, points: impl IntoIterator<Item = (f64, f64)>) -> String {
        let mut path = String::new();
        for (x, y) in points {
            let command = if path.is_empty() { 'M' } else { 'L' };
            path += &format!("{command}{} {}", short(self.x(x)), short(self.y(y)));
        }
        path
    }

    /// The path of a dot at each of `points`: lines of no length, which round ends make visible.
    pub(super) fn dots(&self, points: impl IntoIterator<Item = (f64, f64)>) -> String {
        let dot = |(x, y)| format!("M{} {}h0", short(self.x(x)), short(self.y(y)));
        points.into_iter().map(dot).collect()
    }

    /// The path around what lies between two lines. The lower one is drawn backwards.
    pub(super) fn area(&self, upper: &[(f64, f64)], lower: &[(f64, f64)]) -> String {
        self.line(upper.iter().chain(lower.iter().rev()).copied()) + "Z"
    }

    /// Grid, ticks and titles. The title of the vertical axis stands above it, where it can be
    /// read without turning the head.
    pub(super) fn axes(&self, x: &Notation, y: &Notation, x_title: &str, y_title: &str) -> Markup {
        let (left, right, bottom) = (self.left(), self.right(), self.bottom());
        html! {
            g class="axes" {
                @for tick in self.y.ticks() {
                    line class="grid" x1=(left) x2=(right) y1=(short(self.y(tick)))
                        y2=(short(self.y(tick))) {}
                    text x=(left - 6.0) y=(short(self.y(tick) + 4.0)) text-anchor="end" {
                        (y.label(tick))
                    }
                }
                line class="axis" x1=(left) x2=(right) y1=(bottom) y2=(bottom) {}
                @for tick in self.x.ticks() {
                    line class="axis" x1=(short(self.x(tick))) x2=(short(self.x(tick)))
                        y1=(bottom) y2=(bottom + 4.0) {}
                    text x=(short(self.x(tick))) y=(bottom + 17.0) text-anchor=(self.anchor(tick)) {
                        (x.label(tick))
                    }
                }
                text class="unit" x=(right) y=(bottom + 35.0) text-anchor="end" { (x_title) }
                text class="unit" x="0" y="14" { (y_title) }
            }
        }
    }

    /// A label in the middle of its tick, unless it would stick out.
    fn anchor(&self, tick: f64) -> &'static str {
        if self.right() - self.x(tick) < 20.0 { "end" } else { "middle" }
    }
}

/// A drawing of `frame`'s size with a title and a description for those who do not see it.
/// `id` is unique on the page.
pub(super) fn drawing(frame: &Frame, id: &str, title: &str, text: &str, body: &Markup) -> Markup {
    let (title_id, text_id) =
        (format!("{id}-{}-title", frame.class), format!("{id}-{}-text", frame.class));
    html! {
        svg class=(frame.class) viewBox=(format!("0 0 {} {}", frame.width, frame.height))
            role="img" aria-labelledby=(format!("{title_id} {text_id}")) {
            title id=(title_id) { (title) }
            desc id=(text_id) { (text) }
            (body)
        }
    }
}

/// A coordinate to a tenth of a pixel, without what is not needed.
pub(super) fn short(value: f64) -> String {
    let text = format!("{value:.1}");
    match text.strip_suffix(".0") {
        Some("-0") => "0".to_owned(),
        Some(whole) => whole.to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot() -> Plot<'static> {
        Plot { frame: &SMALL, x: Scale::exact(0.0, 100.0, 3), y: Scale::rounded(0.0, 10.0, 4) }
    }

    #[test]
    fn high_values_are_at_the_top_and_late_ones_at_the_right() {
        let plot = plot();
        assert_eq!((plot.x(0.0), plot.x(100.0)), (40.0, 270.0));
        assert_eq!((plot.y(0.0), plot.y(10.0)), (140.0, 24.0));
        assert_eq!(plot.line([(0.0, 0.0), (100.0, 10.0)]), "M40 140L270 24");
        let area = plot.area(&[(0.0, 10.0), (100.0, 10.0)], &[(0.0, 0.0), (100.0, 0.0)]);
        assert_eq!(area, "M40 24L270 24L270 140L40 140Z");
    }

    #[test]
    fn coordinates_are_short() {
        assert_eq!([short(1.0), short(1.25), short(-0.01)], ["1", "1.2", "0"]);
    }

    #[test]
    fn a_drawing_can_be_read_without_eyes_and_scales() {
        let drawing = drawing(&SMALL, "x", "a < b", "falls", &html! {}).into_string();
        assert!(drawing.starts_with(r#"<svg class="small" viewBox="0 0 280 180" role="img""#));
        assert!(drawing.contains(r#"aria-labelledby="x-small-title x-small-text""#), "{drawing}");
        assert!(drawing.contains(r#"<title id="x-small-title">a &lt; b</title>"#), "{drawing}");
    }
}
