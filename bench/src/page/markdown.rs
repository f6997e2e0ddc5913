//! The main plot as Markdown, for the page of a CI job.
//!
//! GitHub and GitLab draw Mermaid's XY charts (<https://mermaid.js.org/syntax/xyChart.html>); where
//! they are not drawn, the line of bars below says the same in plain text.

use super::growth::{Fit, Growth};
use super::memory;
use super::scale::Scale;
use super::words;

/// Points of a line: an XY chart spaces them evenly and draws a mark for each.
const POINTS: usize = 40;

/// From nothing to full.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Mermaid's own first colour is next to white.
const COLOURS: &str =
    r##"%%{init: {"themeVariables": {"xyChart": {"plotColorPalette": "#2a6fb5, #d9731a"}}}}%%"##;

/// A chart of `growth` with its fitted line, and the readings once more as a line of bars.
pub fn markdown(growth: &Growth) -> String {
    let fit = growth.fit();
    let y = memory::levels(growth, fit.as_ref(), 5);
    let notation = words::notation(growth.axes.gauge, &y);
    let readings = resampled(growth);
    let units = (100.0 * growth.units()).round() / 100.0;
    let work = (0..POINTS).map(|i| units * i as f64 / (POINTS - 1) as f64);
    let numbers = |values: Vec<f64>| {
        let texts: Vec<String> = values
            .into_iter()
            .map(|value| notation.number(value.clamp(y.low(), y.high())))
            .collect();
        texts.join(", ")
    };
    let mut text = format!(
        "```mermaid\n{COLOURS}\nxychart-beta\n    title \"{}\"\n    x-axis \"{}\" 0 --> {units}\n    \
         y-axis \"{}\" {} --> {}\n    line [{}]\n",
        plain(&words::growth_title(growth)),
        words::plural(growth.axes.unit),
        words::axis(growth.axes.gauge, &notation),
        notation.number(y.low()),
        notation.number(y.high()),
        numbers(readings.clone()),
    );
    if let Some(fit) = &fit {
        let line = work.map(|work| fit.at(fit.slope.value, work)).collect();
        text += &format!("    line [{}]\n", numbers(line));
    }
    text += "```\n\n";
    text + &bars(growth, fit.as_ref(), &readings, &y)
}

/// The readings as a line of bars with their first and their last value.
fn bars(growth: &Growth, fit: Option<&Fit>, readings: &[f64], y: &Scale) -> String {
    let bar = |value: &f64| {
        let step = (y.at(*value).clamp(0.0, 1.0) * BARS.len() as f64) as usize;
        BARS[step.min(BARS.len() - 1)]
    };
    let line: String = readings.iter().map(bar).collect();
    let value = |reading: Option<&f64>| {
        words::value(growth.axes.gauge, reading.copied().unwrap_or_default())
    };
    let (first, last) = (value(readings.first()), value(readings.last()));
    let work = words::amount(growth.units(), growth.axes.unit);
    let slope = fit.map_or(String::new(), |fit| {
        let warm_up = if fit.from > 0.0 { ", drawn on through the warm-up" } else { "" };
        format!("; orange is the fit{warm_up}: {}", words::slope(fit.slope.value, growth))
    });
    format!("{first} `{line}` {last} after {work}{slope}\n")
}

/// The level at evenly spaced amounts of work.
fn resampled(growth: &Growth) -> Vec<f64> {
    let points = &growth.points;
    let at = |work: f64| {
        let after = points.partition_point(|point| point.work < work).min(points.len() - 1);
        let (from, to) = (&points[after.saturating_sub(1)], &points[after]);
        let span = to.work - from.work;
        let share = if span > 0.0 { ((work - from.work) / span).clamp(0.0, 1.0) } else { 1.0 };
        from.level + share * (to.level - from.level)
    };
    (0..POINTS).map(|i| at(growth.units() * i as f64 / (POINTS - 1) as f64)).collect()
}

/// Text within quotes of a chart.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() && !"\"`<>".contains(*c)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::growth::Rule;
    use crate::repro::fixture;
    use proptest::prelude::*;

    fn growth(bytes_per_unmap: f64) -> Growth {
        let scenario = fixture::scenario();
        let samples = fixture::measurement(&scenario, bytes_per_unmap, 0.0).samples;
        Growth::of(&samples, "decode-0", Rule::of(&scenario)).unwrap()
    }

    /// The numbers of the lines of a chart.
    fn lines(text: &str) -> Vec<Vec<f64>> {
        let lines =
            text.lines().filter_map(|line| line.trim().strip_prefix("line [")?.strip_suffix(']'));
        lines.map(|line| line.split(", ").map(|n| n.parse().unwrap()).collect()).collect()
    }

    #[test]
    fn a_leak_is_a_chart_that_rises_and_bars_that_do() {
        let text = markdown(&growth(144.0));
        assert!(text.starts_with(&format!("```mermaid\n{COLOURS}\nxychart-beta\n")), "{text}");
        assert!(text.contains("title \"Memory of decode-0 against unmaps\"\n"), "{text}");
        assert!(text.contains("x-axis \"unmaps\" 0 --> 200000\n"), "{text}");
        assert!(text.contains("y-axis \"MB held\" 190 --> 230\n"), "{text}");
        let lines = lines(&text);
        assert_eq!(lines.len(), 2, "readings and fit");
        assert_eq!((lines[0].len(), lines[0][0], lines[0][39]), (40, 200.0, 228.8));
        assert!(lines[0].iter().zip(&lines[1]).all(|(reading, fit)| (reading - fit).abs() < 1.0));
        let last = text.lines().last().unwrap();
        assert!(last.starts_with("200.0 MB `▃▃"), "{last}");
        assert!(
            last.ends_with("228.8 MB after 200,000 unmaps; orange is the fit: 144.0 B per unmap")
        );
    }

    #[test]
    fn a_level_process_is_a_level_chart() {
        let text = markdown(&growth(0.0));
        assert!(lines(&text)[0].iter().all(|level| *level == 200.0), "{text}");
        let bars = text.lines().last().unwrap().split('`').nth(1).unwrap().to_owned();
        assert_eq!(bars.chars().collect::<std::collections::BTreeSet<_>>().len(), 1, "{bars}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn names_do_not_break_the_chart(name in "\\PC{0,20}|[\"`\\n]{1,4}") {
            let named = Growth { process: name, ..growth(144.0) };
            let text = markdown(&named);
            prop_assert_eq!(text.matches("```").count(), 2);
            let title = text.lines().nth(3).unwrap();
            prop_assert_eq!(title.matches('"').count(), 2, "{}", title);
        }
    }
}
