//! A heat map as a table: every square holds its number and its verdict as text, and its colour
//! only repeats them.
//!
//! The colours are magma, which is even to the eye and to those who are colour-blind
//! (<https://bids.github.io/colormap/>): on light paper from pale to dark, on dark paper from dark
//! to bright, so that what leaks stands out from the page.

use colorous::MAGMA;
use maud::{Markup, html};

use super::words;

/// The squares of one map.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Heat {
    /// What the map is of, in a line.
    pub(super) caption: String,
    /// What the rows are.
    pub(super) row_title: String,
    /// The names of the columns.
    pub(super) columns: Vec<String>,
    /// Rows by name, with as many squares as there are columns.
    pub(super) rows: Vec<(String, Vec<Square>)>,
}

/// One square.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Square {
    /// There is no such combination.
    None,
    /// It has not run.
    Waiting,
    /// It failed.
    Failed {
        /// Why.
        reason: String,
        /// Whether it must.
        foreseen: bool,
    },
    /// It was measured.
    Measured {
        /// The number in it.
        value: String,
        /// The verdict in a word.
        verdict: String,
        /// What there is to say beyond that: the interval, for example.
        detail: String,
        /// How hot it is, 0 to 1.
        heat: f64,
        /// Whether it is not what was expected.
        surprising: bool,
    },
}

impl Heat {
    /// Puts `square` into the column and the row of these names; new names come last.
    pub(super) fn put(&mut self, column: &str, row: &str, square: Square) {
        let column_at = self.columns.iter().position(|known| known == column);
        let column_at = column_at.unwrap_or_else(|| {
            self.columns.push(column.to_owned());
            self.columns.len() - 1
        });
        let row_at = self.rows.iter().position(|(known, _)| known == row).unwrap_or_else(|| {
            self.rows.push((row.to_owned(), Vec::new()));
            self.rows.len() - 1
        });
        for (_, squares) in &mut self.rows {
            squares.resize(self.columns.len(), Square::None);
        }
        self.rows[row_at].1[column_at] = square;
    }

    pub(super) fn table(&self) -> Markup {
        html! {
            table class="heat" {
                caption { (self.caption) }
                thead {
                    tr {
                        th scope="col" { (self.row_title) }
                        @for column in &self.columns { th scope="col" { (column) } }
                    }
                }
                tbody {
                    @for (name, squares) in &self.rows {
                        tr {
                            th scope="row" { code { (words::breakable(name)) } }
                            @for (square, column) in squares.iter().zip(&self.columns) {
                                (square.cell(column))
                            }
                        }
                    }
                }
            }
        }
    }
}

impl Square {
    fn cell(&self, column: &str) -> Markup {
        match self {
            Self::None => html! { td class="none" data-column=(column) {} },
            Self::Waiting => html! {
                td class="waiting" data-column=(column) { span { "not run" } }
            },
            Self::Failed { reason, foreseen } => html! {
                td class="failed" data-column=(column) title=(reason) {
                    b { "failed" }
                    @if *foreseen { " " span { "as foreseen" } }
                }
            },
            Self::Measured { value, verdict, detail, heat, surprising } => html! {
                td class="hot" data-column=(column) title=(detail) style=(paint(*heat)) {
                    b { (value) } " " span { (verdict) }
                    @if *surprising { " " span { "not as expected" } }
                }
            },
        }
    }
}

/// What the colours stand for, from nothing to `most`.
pub(super) fn legend(nothing: &str, most: &str) -> Markup {
    html! {
        p class="legend" {
            (nothing) " "
            @for step in 0..=8 { span class="hot" style=(paint(f64::from(step) / 8.0)) {} }
            " " (most)
        }
    }
}

/// The colours of a square for both themes, as variables that the style sheet chooses from.
fn paint(heat: f64) -> String {
    let heat = if heat.is_finite() { heat.clamp(0.0, 1.0) } else { 0.0 };
    let (light, dark) = (on_light(heat), on_dark(heat));
    format!("--light:{light};--light-ink:{};--dark:{dark};--dark-ink:{}", ink(&light), ink(&dark))
}

/// From cream down to purple; black would hide the text of its neighbours.
fn on_light(heat: f64) -> String {
    hex(1.0 - 0.68 * heat)
}

/// From a little above black up to cream.
fn on_dark(heat: f64) -> String {
    hex(0.13 + 0.72 * heat)
}

fn hex(position: f64) -> String {
    format!("#{:x}", MAGMA.eval_continuous(position))
}

/// Black or white, whichever can be read on `colour`.
fn ink(colour: &str) -> &'static str {
    let (black, white) = ("#000000", "#ffffff");
    if contrast(colour, black) >= contrast(colour, white) { black } else { white }
}

/// Contrast of two colours as `#rrggbb`, 1 to 21, by
/// <https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio>.
pub(super) fn contrast(a: &str, b: &str) -> f64 {
    let (a, b) = (luminance(a), luminance(b));
    (a.max(b) + 0.05) / (a.min(b) + 0.05)
}

fn luminance(colour: &str) -> f64 {
    let channel = |i: usize| {
        let digits = colour.get(i..i + 2).unwrap_or_default();
        let share = f64::from(u8::from_str_radix(digits, 16).unwrap_or(0)) / 255.0;
        if share <= 0.04045 { share / 12.92 } else { ((share + 0.055) / 1.055).powf(2.4) }
    };
    0.2126 * channel(1) + 0.7152 * channel(3) + 0.0722 * channel(5)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn squares_say_in_words_what_their_colour_says() {
        let square = Square::Measured {
            value: "144.2".to_owned(),
            verdict: "leak".to_owned(),
            detail: "95 % CI 144.0 to 144.4".to_owned(),
            heat: 1.0,
            surprising: true,
        };
        let failed = Square::Failed { reason: "no \"x\"".to_owned(), foreseen: true };
        let heat = Heat {
            caption: "Slopes".to_owned(),
            row_title: "Setting".to_owned(),
            columns: vec!["1.19.0".to_owned(), "1.22.0".to_owned()],
            rows: vec![("A=<1>".to_owned(), vec![square, failed])],
        };
        let table = heat.table().into_string();
        assert!(table.contains("<b>144.2</b> <span>leak</span> <span>not as expected</span>"));
        assert!(table.contains(r#"class="failed" data-column="1.22.0" title="no &quot;x&quot;""#));
        assert!(table.contains("<b>failed</b> <span>as foreseen</span>"), "{table}");
        assert!(table.contains("A=<wbr>&lt;1&gt;"), "{table}");
        assert_eq!(table.matches(r#"scope="col""#).count(), 3);
    }

    #[test]
    fn no_heat_is_the_colour_of_nothing() {
        assert_eq!(paint(f64::NAN), paint(0.0));
        assert_eq!(paint(-3.0), paint(0.0));
        assert!(luminance(&on_light(0.0)) > 0.9 && luminance(&on_dark(0.0)) < 0.05);
    }

    proptest! {
        #[test]
        fn every_colour_carries_its_text_and_hotter_is_seen(heat in 0.0..=0.9f64) {
            for colour in [on_light(heat), on_dark(heat)] {
                prop_assert!(contrast(&colour, ink(&colour)) >= 4.5, "{colour}");
            }
            let hotter = heat + 0.1;
            prop_assert!(luminance(&on_light(hotter)) <= luminance(&on_light(heat)));
            prop_assert!(luminance(&on_dark(hotter)) >= luminance(&on_dark(heat)));
        }
    }
}
