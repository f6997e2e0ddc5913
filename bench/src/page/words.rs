//! Numbers and phrases that several parts of the page share.

use maud::{Markup, html};
use pdlab_leak::sample::Gauge;
use pdlab_leak::verdict::VerdictKind;
use pdlab_leak::work::Unit;

use super::growth::Growth;
use super::scale::{Notation, Scale};
use crate::repro::words::{amount as bytes, counted, grouped};

/// `unmaps`.
pub(super) fn plural(unit: Unit) -> String {
    format!("{unit}s")
}

/// `401,504 unmaps`.
pub(super) fn amount(units: f64, unit: Unit) -> String {
    counted(units.round() as u64, &unit.to_string())
}

/// `93 readings`.
pub(super) fn readings(count: usize) -> String {
    counted(count as u64, "reading")
}

/// How values of `gauge` are written along an axis.
pub(super) fn notation(gauge: Gauge, scale: &Scale) -> Notation {
    match gauge {
        Gauge::Held | Gauge::Rss => Notation::bytes(scale),
    }
}

/// A value of `gauge` with its unit.
pub(super) fn value(gauge: Gauge, value: f64) -> String {
    match gauge {
        Gauge::Held | Gauge::Rss => bytes(value),
    }
}

/// What `gauge` says of a process, between the unit and its name.
pub(super) fn held(gauge: Gauge) -> &'static str {
    match gauge {
        Gauge::Held => "held",
        Gauge::Rss => "resident (RSS)",
    }
}

/// `144.2 B per unmap`.
pub(super) fn slope(value: f64, growth: &Growth) -> String {
    format!("{} B per {}", tenths(value), growth.unit)
}

/// `±4 B per unmap`.
pub(super) fn margin(growth: &Growth) -> String {
    format!("±{} B per {}", growth.margin, growth.unit)
}

/// What the main plot shows.
pub(super) fn growth_title(growth: &Growth) -> String {
    format!("Memory of {} against {}", growth.process, plural(growth.unit))
}

/// One decimal, thousands grouped, and no minus before zero.
pub(super) fn tenths(value: f64) -> String {
    let text = format!("{:.1}", value.abs());
    let (whole, rest) = text.split_at(text.len() - 2);
    let whole = whole.parse().map_or(whole.to_owned(), grouped);
    let sign = if value < 0.0 && text != "0.0" { "-" } else { "" };
    format!("{sign}{whole}{rest}")
}

/// A setting that may be broken between its words, since a phone is narrower than most of them.
pub(super) fn breakable(setting: &str) -> Markup {
    html! {
        @for part in setting.split_inclusive(['_', '=', '-', '/', ',']) { (part) wbr; }
    }
}

/// The class that colours a verdict.
pub(super) fn class(verdict: VerdictKind) -> &'static str {
    match verdict {
        VerdictKind::Leak => "leak",
        VerdictKind::Clean => "clean",
        VerdictKind::Inconclusive => "doubt",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_nothing_is_never_negative() {
        assert_eq!(
            [tenths(144.21), tenths(-0.04), tenths(-12345.6)],
            ["144.2", "0.0", "-12,345.6"]
        );
        assert_eq!(amount(1.0, Unit::Unmap), "1 unmap");
        assert_eq!(amount(401_504.0, Unit::Unmap), "401,504 unmaps");
    }
}
