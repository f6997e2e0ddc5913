//! The result of a matrix as text: what each setting does, and what to set. Pure.

use std::path::Path;

use pdlab_leak::explain;
use pdlab_leak::gauge;

use super::advice::name;
use super::result::{CellResult, Drift, Group, MatrixResult, Outcome};
use crate::repro::sheet::Sheet;
use crate::repro::words::counted;

/// The text on `result`, whose files are in `dir`, `total_s` after the start.
pub fn render(result: &MatrixResult, dir: &Path, total_s: f64) -> String {
    let definition = &result.definition;
    let mut sheet = Sheet::default();
    sheet.item("matrix", &format!("{}: {}", definition.scenario, definition.title));
    let cells = counted(result.cells.len() as u64, "cell");
    let runs = counted(result.runs.len() as u64, "run");
    sheet.item("", &format!("{cells}, {runs} in random order, seed {}", definition.seed));
    result.warnings.iter().for_each(|warning| sheet.item("WARNING", warning));
    let groups = definition.axes.groups();
    for group in &groups {
        sheet.blank();
        block(&mut sheet, result, group);
    }
    legend(&mut sheet, result);
    sheet.blank();
    for (i, advice) in result.advice.iter().enumerate() {
        sheet.item(if i == 0 { "to set" } else { "" }, &advice.text);
    }
    notes(&mut sheet, result);
    if !result.drift.is_empty() {
        sheet.blank();
        for (i, drift) in result.drift.iter().enumerate() {
            sheet.item(if i == 0 { "drift" } else { "" }, &drifted(result, drift));
        }
    }
    sheet.blank();
    sheet.item("expected", &conclusion(result));
    sheet.item("files", &format!("{}/", dir.display()));
    sheet.item("", "matrix.json, matrix.csv, scenario.toml, cells/");
    sheet.item("took", &format!("{total_s:.0} s in all"));
    sheet.text
}

/// The rows of one group under a heading of their own.
fn block(sheet: &mut Sheet, result: &MatrixResult, group: &Group) {
    let axes = axes(result);
    let heading = name(&result.definition, group);
    let cells = || result.cells.iter().filter(|cell| cell.group == *group);
    let pairs = cells().flat_map(lines_of).map(|line| line.chars().count());
    let width = pairs.max().unwrap_or(0).max(heading.chars().count());
    let slope = format!("{axes} (95 % CI)");
    let cpu = format!("CPU per {}", axes.unit);
    let slope_width = slope.chars().count().max(23);
    sheet.line(&format!(
        "{heading:width$}  {slope:>slope_width$}  {:12}  {cpu:>13}  {:>6}  {:>6}",
        "verdict", "req/s", "p99"
    ));
    for cell in cells() {
        let mut lines = lines_of(cell).into_iter();
        let first = lines.next().unwrap_or_default();
        let outcome = cell.outcome.map_or("not run".to_owned(), |outcome| outcome.to_string());
        sheet.line(&format!(
            "{first:width$}  {:>slope_width$}  {outcome:12}  {:>13}  {:>6}  {:>6}",
            interval(cell, axes.gauge),
            cost(cell),
            number(cell.requests_per_s, ""),
            number(cell.latency_p99_ms, " ms"),
        ));
        lines.for_each(|line| sheet.line(&line));
        if let Some(reason) = &cell.reason {
            sheet.indented(gist(reason));
        }
        remarks(sheet, result, cell);
    }
}

/// `default`, or a line per variable: a combination would not fit.
fn lines_of(cell: &CellResult) -> Vec<String> {
    if cell.set.is_default() {
        return vec![cell.setting.clone()];
    }
    cell.set.set.iter().map(|(name, value)| format!("{name}={value}")).collect()
}

fn interval(cell: &CellResult, gauge: gauge::Gauge) -> String {
    match (cell.slope_per_unit, cell.ci_low, cell.ci_high) {
        (Some(slope), Some(low), Some(high)) => {
            let fixed = |value| explain::fixed(value, gauge);
            format!("{} ({} to {})", fixed(slope), fixed(low), fixed(high))
        }
        _ => "-".to_owned(),
    }
}

/// The ratio; for the default, which is 1, what it is a ratio to.
fn cost(cell: &CellResult) -> String {
    match (cell.cost_ratio, cell.cost_error, cell.cpu_us_per_unit) {
        (Some(ratio), Some(error), _) => format!("{ratio:.2} ± {error:.2}"),
        (Some(ratio), None, _) => format!("{ratio:.2}"),
        (None, _, Some(us)) if cell.set.is_default() => format!("{us:.1} µs"),
        _ => "-".to_owned(),
    }
}

fn number(value: Option<f64>, unit: &str) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.0}{unit}"))
}

/// The line of a failure that says it: the role's own error, if its log is quoted.
fn gist(reason: &str) -> &str {
    let said = reason.lines().rev().find_map(|line| line.trim().strip_prefix("error: "));
    said.unwrap_or_else(|| reason.lines().next().unwrap_or_default())
}

fn remarks(sheet: &mut Sheet, result: &MatrixResult, cell: &CellResult) {
    if cell.matched == Some(false) {
        let of_cell = |order: &u32| result.runs.iter().find(|run| run.order == *order);
        let mut all: Vec<&String> =
            cell.runs.iter().filter_map(of_cell).flat_map(|run| &run.mismatches).collect();
        all.dedup();
        let all: Vec<&str> = all.into_iter().map(String::as_str).collect();
        sheet.indented(&format!("NOT as expected: {}", all.join("; ")));
    } else if cell.outcome == Some(Outcome::Failed) {
        sheet.indented("As expected: it must fail.");
    }
}

fn legend(sheet: &mut Sheet, result: &MatrixResult) {
    if result.cells.iter().any(|cell| cell.cost_ratio.is_some()) {
        let role = result.definition.role;
        sheet.blank();
        sheet.line(&format!(
            "CPU of the whole {role}, serving included: a multiple of the default's run nearest in time."
        ));
        sheet
            .line("req/s and p99: requests answered, and their 99th percentile to the last token.");
    }
}

/// What the scenario says of settings, once each, beyond what it says of the default.
fn notes(sheet: &mut Sheet, result: &MatrixResult) {
    let mut told: Vec<(&str, &str)> = Vec::new();
    let default = |of: &CellResult| {
        result.cells.iter().find(|cell| cell.group == of.group && cell.set.is_default())
    };
    for cell in result.cells.iter().filter(|cell| !cell.set.is_default()) {
        if let Some(note) = &cell.note
            && default(cell).is_none_or(|default| default.note != cell.note)
            && !told.iter().any(|(setting, _)| *setting == cell.setting)
        {
            told.push((&cell.setting, note));
        }
    }
    if !told.is_empty() {
        sheet.blank();
    }
    for (setting, note) in told {
        sheet.line(setting);
        sheet.indented(note);
    }
}

fn drifted(result: &MatrixResult, drift: &Drift) -> String {
    let axes = axes(result);
    let ratio = |value: Option<f64>| value.map_or("?".to_owned(), |value| format!("{value:.2}x"));
    let mut text = format!(
        "{}: from the first default to the last, CPU per {} {}, requests/s {}",
        name(&result.definition, &drift.group),
        axes.unit,
        ratio(drift.cpu_ratio),
        ratio(drift.requests_ratio)
    );
    if let Some(range) = drift.slope_range {
        let range = explain::fixed(range, axes.gauge);
        text += &format!("; {} slopes within {range} {axes}", drift.runs);
    }
    text
}

fn conclusion(result: &MatrixResult) -> String {
    let count =
        |is: fn(&CellResult) -> bool| result.cells.iter().filter(|cell| is(cell)).count() as u64;
    let off = count(|cell| cell.matched == Some(false));
    let open = count(|cell| cell.outcome.is_none());
    let unforeseen = count(|cell| cell.outcome.is_some() && cell.matched.is_none());
    let mut text = match (off, result.complete) {
        (0, true) => "As expected.".to_owned(),
        (0, false) => "So far as expected.".to_owned(),
        (n, _) => format!("NOT as expected: {}.", counted(n, "cell")),
    };
    if unforeseen > 0 {
        text += &format!(" The scenario foresees nothing for {}.", counted(unforeseen, "cell"));
    }
    if !result.complete {
        text += &format!(
            " Not complete: {} not run; the same command with the same --out goes on.",
            counted(open, "cell")
        );
    }
    text
}

fn axes(result: &MatrixResult) -> gauge::Axes {
    gauge::Axes { gauge: result.definition.gauge, unit: result.definition.unit }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::fixture::{definition, run, ucx};
    use crate::matrix::result::Run;
    use crate::matrix::summary::summarise;
    use crate::repro::ignored::Ignored;

    const REFUSED: &str = "UCX_MEM_MMAP_HOOK_MODE=none UCX_RCACHE_ENABLE=y";

    fn runs() -> Vec<Run> {
        let leak = |order| run(order, ucx("1.19.0"), "default", Outcome::Leak, 144.1, 10.0);
        let clean = |order| run(order, ucx("1.22.0"), "default", Outcome::Clean, 0.1, 9.0);
        let refused = |order, version| run(order, ucx(version), REFUSED, Outcome::Failed, 0.0, 1.0);
        let cure = "UCX_RCACHE_MAX_UNRELEASED=64M";
        let mut cured = run(2, ucx("1.19.0"), cure, Outcome::Clean, 0.2, 10.5);
        cured.note = Some("The queue is drained after every 64 MiB unmapped.".to_owned());
        cured.ignored = vec![Ignored { name: "UCX_FOO".to_owned(), similar: None }];
        let mut off = run(3, ucx("1.22.0"), cure, Outcome::Leak, 12.0, 9.0);
        off.mismatches.push("the verdict is leak, not clean".to_owned());
        vec![
            leak(0),
            clean(1),
            cured,
            off,
            leak(4),
            clean(5),
            refused(6, "1.22.0"),
            refused(7, "1.19.0"),
            leak(8),
            clean(9),
        ]
    }

    fn text(runs: Vec<Run>) -> String {
        let set = format!("UCX_RCACHE_MAX_UNRELEASED=64M,{REFUSED}");
        let definition = definition(&["1.19.0", "1.22.0"], &[&set]);
        let result = summarise(definition, runs);
        render(&result, Path::new("runs/x"), 100.4)
    }

    #[test]
    fn a_matrix_reads_from_the_cells_to_the_files() {
        assert_eq!(text(runs()), include_str!("table.txt"));
    }

    #[test]
    fn a_part_says_that_it_is_one() {
        let text = text(runs()[..3].to_vec());
        assert!(text.contains("So far as expected. Not complete: 3 cells not run"), "{text}");
        assert!(text.contains("not run  "), "{text}");
    }

    #[test]
    fn the_gist_of_a_failure_is_the_roles_own_error() {
        let reason = "prefill-0 ended before it was ready (exit status: 3); the last lines:\n    \
                      [17] UCX ERROR could not\n    error: prefill: ucp_init failed\n`pdlab doctor`";
        assert_eq!(gist(reason), "prefill: ucp_init failed");
        assert_eq!(gist("no KV block was verified"), "no KV block was verified");
    }
}
