//! The page of a matrix: what to set, the heat maps, and what each setting costs.

use maud::{Markup, html};

use pdlab_leak::explain::fixed;

use super::{Matrix, NONE, outcome};
use crate::matrix::result::{CellResult, Drift, Group, Outcome, Run};
use crate::page::heat::{Heat, Square, legend};
use crate::page::html::{fact, notice, page, prose, table};
use crate::page::words;
use crate::repro::words::{grouped, path};

/// The page of `matrix`.
pub(in crate::page) fn render(matrix: &Matrix) -> String {
    let definition = &matrix.result.definition;
    page(
        &format!("matrix: {}", definition.scenario),
        &html! {
            header {
                p class="kicker" { "pdlab matrix · " (definition.scenario) " · " (matrix.name) }
                h1 { (matrix.sentence()) }
                p class="title" { (definition.title) }
            }
            (notice("doubt", "This matrix is incomplete", &matrix.notes))
            (notice("plain", "Before reading on", &matrix.result.warnings))
            (advice(matrix))
            (maps(matrix))
            (cost(matrix))
            (drift(matrix))
            (origin(matrix))
            (runs(matrix))
        },
    )
}

fn advice(matrix: &Matrix) -> Markup {
    html! {
        @if !matrix.result.advice.is_empty() {
            section {
                h2 { "What to set" }
                dl class="facts wide-facts" {
                    @for advice in &matrix.result.advice {
                        (fact(&told(&advice.group), &prose(&advice.text)))
                    }
                }
            }
        }
    }
}

/// One map per transport and churn, with the UCX builds as columns; where there is one build only,
/// the churn patterns are the columns.
fn maps(matrix: &Matrix) -> Markup {
    let axes = &matrix.result.definition.axes;
    let by_churn = axes.ucx.len() < 2 && axes.churn.len() > 1;
    let mut maps: Vec<Heat> = Vec::new();
    for cell in &matrix.result.cells {
        let (caption, column) = place(&cell.group, by_churn);
        let at = maps.iter().position(|map| map.caption == caption).unwrap_or_else(|| {
            let row_title = "Setting".to_owned();
            maps.push(Heat { caption, row_title, columns: Vec::new(), rows: Vec::new() });
            maps.len() - 1
        });
        maps[at].put(&column, &cell.setting, square(cell, matrix));
    }
    let hottest = format!("{} {}", fixed(matrix.hottest(), matrix.axes().gauge), matrix.axes());
    html! {
        section id="heat" {
            h2 { "Slope in " (matrix.axes().to_string()) }
            @for map in &maps { (map.table()) }
            (legend("0", &hottest))
            (failures(matrix))
        }
    }
}

/// The map and the column that a group belongs to.
fn place(group: &Group, by_churn: bool) -> (String, String) {
    let churn = group.churn.map_or("no churn".to_owned(), |churn| format!("churn {churn}"));
    let build = group.ucx.as_deref().map_or("no UCX".to_owned(), |ucx| format!("UCX {ucx}"));
    let (apart, column) = if by_churn { (build, churn) } else { (churn, build) };
    (format!("Transport {}, {apart}", group.transport), column)
}

fn square(cell: &CellResult, matrix: &Matrix) -> Square {
    let reason = cell.reason.as_deref();
    let (outcome, slope) = match (cell.outcome, cell.slope_per_unit) {
        (None, _) => return Square::Waiting,
        (Some(outcome), Some(slope)) if outcome != Outcome::Failed => (outcome, slope),
        _ => {
            let reason = reason.unwrap_or("there is no slope").to_owned();
            return Square::Failed { reason, foreseen: cell.matched == Some(true) };
        }
    };
    let interval = matrix.slope(Some(slope), cell.ci_low, cell.ci_high);
    Square::Measured {
        value: fixed(slope, matrix.axes().gauge),
        verdict: outcome.to_string(),
        detail: format!("{interval} {} {}", matrix.axes(), reason.unwrap_or_default()),
        heat: slope / matrix.hottest(),
        surprising: cell.matched == Some(false),
    }
}

/// Why cells failed: a title is not seen on paper or on a phone.
fn failures(matrix: &Matrix) -> Markup {
    let failed = matrix.result.cells.iter().filter(|cell| cell.outcome == Some(Outcome::Failed));
    html! {
        @if failed.clone().count() > 0 {
            details open {
                summary { "Why cells failed" }
                dl class="facts wide-facts" {
                    @for cell in failed {
                        (fact(&format!("{}, {}", cell.setting, told(&cell.group)), &html! {
                            pre { (cell.reason.as_deref().unwrap_or("no reason was given")) }
                        }))
                    }
                }
            }
        }
    }
}

fn cost(matrix: &Matrix) -> Markup {
    let cpu = format!("CPU per {}", matrix.axes().unit);
    let slope = matrix.axes().to_string();
    let columns = ["Setting", &slope, "Verdict", &cpu, "Requests/s", "p99"];
    let mut groups: Vec<&Group> = matrix.result.cells.iter().map(|cell| &cell.group).collect();
    // The cells of a group follow each other.
    groups.dedup();
    html! {
        section {
            h2 { "What each setting costs" }
            @for group in groups {
                @let cells = matrix.result.cells.iter().filter(|cell| cell.group == *group);
                @let rows: Vec<Vec<Markup>> = cells.map(|cell| row(cell, matrix)).collect();
                (table(&told(group), &columns, &rows))
            }
            p class="note" {
                "Slopes with their 95 % interval. CPU of the whole process and requests per second: \
                 multiples of the default of the same group that ran nearest in time. p99: time to \
                 the last token of a request."
            }
        }
    }
}

fn row(cell: &CellResult, matrix: &Matrix) -> Vec<Markup> {
    let cpu = match (cell.cost_ratio, cell.cost_error, cell.cpu_us_per_unit) {
        (Some(ratio), Some(error), _) => format!("{ratio:.2} ± {error:.2}"),
        (Some(ratio), None, _) => format!("{ratio:.2}"),
        (None, _, Some(us)) => format!("{us:.1} µs"),
        _ => NONE.to_owned(),
    };
    let requests = match (cell.requests_ratio, cell.requests_per_s) {
        (Some(ratio), _) => format!("{ratio:.2}"),
        (None, Some(per_s)) => format!("{per_s:.0} per second"),
        _ => NONE.to_owned(),
    };
    let p99 = cell.latency_p99_ms.map_or(NONE.to_owned(), |ms| format!("{ms:.0} ms"));
    let (class, word) = outcome(cell.outcome);
    vec![
        html! {
            code { (words::breakable(&cell.setting)) }
            @if let Some(note) = &cell.note { p class="note" { (prose(note)) } }
        },
        html! { (matrix.slope(cell.slope_per_unit, cell.ci_low, cell.ci_high)) },
        html! {
            span class=(class) { (word) }
            @if cell.matched == Some(false) { ", not as expected" }
        },
        html! { (cpu) },
        html! { (requests) },
        html! { (p99) },
    ]
}

fn drift(matrix: &Matrix) -> Markup {
    let ratio = |ratio: Option<f64>| ratio.map_or(NONE.to_owned(), |ratio| format!("{ratio:.2}"));
    let row = |drift: &Drift| {
        vec![
            html! { (told(&drift.group)) },
            html! { (drift.runs) },
            html! { (ratio(drift.cpu_ratio)) },
            html! { (ratio(drift.requests_ratio)) },
            html! { (matrix.slope(drift.slope_range, None, None)) },
        ]
    };
    let rows: Vec<Vec<Markup>> = matrix.result.drift.iter().map(row).collect();
    let columns = ["Default of", "Runs", "CPU", "Requests/s", "Range of slopes"];
    html! {
        @if !rows.is_empty() {
            section {
                h2 { "What the machine did meanwhile" }
                (table("The default, run again: its last run over its first", &columns, &rows))
            }
        }
    }
}

/// Where it comes from.
fn origin(matrix: &Matrix) -> Markup {
    let definition = &matrix.result.definition;
    html! {
        section {
            h2 { "What was run" }
            dl class="facts" {
                (fact("Judged", &html! {
                    (definition.gauge.subject()) " of " (definition.role.name()) ", per "
                    (definition.unit)
                }))
                (fact("Runs of a cell", &html! { (definition.repeat) ", in random order" }))
                (fact("Seed", &html! { (definition.seed) }))
            }
            details {
                summary { "The scenario that all cells start from" }
                pre { (definition.scenario_toml) }
            }
        }
    }
}

fn runs(matrix: &Matrix) -> Markup {
    let row = |run: &Run| {
        let slope = run.measured.as_ref().and_then(|measured| measured.slope_per_unit);
        let (class, word) = outcome(Some(run.outcome));
        vec![
            html! { (run.order + 1) },
            html! { (told(&run.group)) },
            html! { code { (words::breakable(&run.set.to_string())) } },
            html! { span class=(class) { (word) } },
            html! { (matrix.slope(slope, None, None)) },
            html! { (words::breakable(&run.dir)) },
        ]
    };
    let rows: Vec<Vec<Markup>> = matrix.result.runs.iter().map(row).collect();
    let columns = ["No.", "Group", "Setting", "Outcome", "Slope", "Directory"];
    html! {
        @if !rows.is_empty() {
            section {
                details {
                    summary { "All " (grouped(rows.len() as u64)) " runs in their order" }
                    (table("Each in fresh processes", &columns, &rows))
                }
            }
        }
    }
}

/// A group in words: `UCX 1.19.0, churn same`.
fn told(group: &Group) -> String {
    let build = path(group.transport, group.ucx.as_deref());
    group.churn.map_or(build.clone(), |churn| format!("{build}, churn {churn}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pdlab_leak::scenario::{Pattern, Transport};

    #[test]
    fn with_one_build_the_churns_are_columns() {
        let churned = Group {
            transport: Transport::Ucx,
            ucx: Some("1.22.0".to_owned()),
            churn: Some(Pattern::Disjoint),
        };
        let place = |by_churn| place(&churned, by_churn);
        assert_eq!(place(false), ("Transport ucx, churn disjoint".into(), "UCX 1.22.0".into()));
        assert_eq!(place(true), ("Transport ucx, UCX 1.22.0".into(), "churn disjoint".into()));
    }
}
