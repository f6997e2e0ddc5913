//! Numbers and phrases that several parts of the page share.

use maud::{Markup, html};
use pdlab_leak::explain::fixed;
use pdlab_leak::gauge::Gauge;
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
    if gauge.is_bytes() { Notation::bytes(scale) } else { Notation::counts(scale, gauge.label()) }
}

/// What an axis of `gauge` shows: `MB held`, `KV blocks`.
pub(super) fn axis(gauge: Gauge, notation: &Notation) -> String {
    match gauge {
        Gauge::Held => format!("{} held", notation.unit()),
        Gauge::Rss => format!("{} of RSS", notation.unit()),
        bytes if bytes.is_bytes() => bytes.label().replacen('B', notation.unit(), 1),
        _ => notation.unit().to_owned(),
    }
}

/// A value of `gauge` with its unit.
pub(super) fn value(gauge: Gauge, value: f64) -> String {
    if gauge.is_bytes() {
        bytes(value)
    } else {
        format!("{} {}", grouped(value.max(0.0).round() as u64), gauge.label())
    }
}

/// A difference of values of `gauge` with its unit and its sign.
pub(super) fn change(gauge: Gauge, difference: f64) -> String {
    let sign = if difference < 0.0 { "-" } else { "+" };
    format!("{sign}{}", value(gauge, difference.abs()))
}

/// `144.2 B per unmap`.
pub(super) fn slope(value: f64, growth: &Growth) -> String {
    format!("{} {}", fixed(value, growth.axes.gauge), growth.axes)
}

/// `±4 B per unmap`.
pub(super) fn margin(growth: &Growth) -> String {
    format!("±{} {}", growth.margin, growth.axes)
}

/// What the main plot shows.
pub(super) fn growth_title(growth: &Growth) -> String {
    let subject = growth.axes.gauge.subject();
    let (first, rest) = subject.split_at(1);
    let plural = plural(growth.axes.unit);
    format!("{}{rest} of {} against {plural}", first.to_uppercase(), growth.process)
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
    fn numbers_carry_the_unit_of_what_was_judged() {
        assert_eq!(value(Gauge::Held, 1.44e6), "1.4 MB");
        assert_eq!(change(Gauge::KvBlocks, -12_345.0), "-12,345 KV blocks");
        assert_eq!(amount(1.0, Unit::Unmap), "1 unmap");
        assert_eq!(amount(401_504.0, Unit::Unmap), "401,504 unmaps");
        let scale = Scale::rounded(0.0, 5e7, 4);
        let title = |gauge| axis(gauge, &notation(gauge, &scale));
        assert_eq!(title(Gauge::Held), "MB held");
        assert_eq!(title(Gauge::RcacheBytes), "MB in UCX's registration cache");
        assert_eq!(title(Gauge::Fds), "million fds");
    }
}
