//! From runs to cells, drift and advice. Pure.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use super::advice::advise;
use super::result::{
    CellResult, Definition, Drift, Group, MatrixResult, Measured, Outcome, Run, Setting,
};
use super::schedule::schedule;
use crate::repro::cost::{Cost, CostRatio};
use crate::repro::ignored::Ignored;

/// What `runs` of the matrix come to.
pub fn summarise(definition: Definition, runs: Vec<Run>) -> MatrixResult {
    let due = schedule(&definition.axes, definition.repeat, definition.seed);
    let complete = due.iter().all(|due| runs.iter().any(|run| run.order == due.order));
    let cells: Vec<CellResult> =
        definition.axes.cells().into_iter().map(|(group, set)| cell(group, set, &runs)).collect();
    let groups = definition.axes.groups();
    let drift = groups.iter().filter_map(|group| drift(group, &runs)).collect();
    let advice = groups.iter().map(|group| advise(&definition, group, &cells)).collect();
    let warnings = warnings(&runs);
    let matched = complete && cells.iter().all(|cell| cell.matched != Some(false));
    MatrixResult { definition, complete, matched, cells, drift, advice, warnings, runs }
}

fn cell(group: Group, set: Setting, runs: &[Run]) -> CellResult {
    let own: Vec<&Run> = runs.iter().filter(|run| run.group == group && run.set == set).collect();
    let bases: Vec<&Run> =
        runs.iter().filter(|run| run.group == group && run.set.is_default()).collect();
    let measured: Vec<&Run> =
        own.iter().copied().filter(|run| run.outcome != Outcome::Failed).collect();
    let of = |value: fn(&Measured) -> Option<f64>| -> Vec<f64> {
        measured.iter().filter_map(|run| run.measured.as_ref().and_then(value)).collect()
    };
    let paired: Vec<Paired> = if set.is_default() {
        Vec::new()
    } else {
        measured.iter().filter_map(|run| pair(run, &bases)).collect()
    };
    let costs: Vec<CostRatio> = paired.iter().filter_map(|paired| paired.cost).collect();
    let (outcome, reason) = agreed(&own);
    let foreseen = own.iter().find_map(|run| run.expected);
    let as_foreseen = own.iter().all(|run| run.mismatches.is_empty());
    CellResult {
        setting: set.to_string(),
        outcome,
        reason,
        expected: foreseen,
        matched: match (outcome, as_foreseen) {
            (None, _) => None,
            (Some(_), false) => Some(false),
            (Some(_), true) => foreseen.map(|_| true),
        },
        note: own.iter().find_map(|run| run.note.clone()),
        slope_per_unit: median(of(|measured| measured.slope_per_unit)),
        ci_low: of(|measured| measured.ci_low).into_iter().reduce(f64::min),
        ci_high: of(|measured| measured.ci_high).into_iter().reduce(f64::max),
        cpu_us_per_unit: median(of(|measured| measured.cpu_us_per_unit)),
        cost_ratio: median(costs.iter().map(|cost| cost.value).collect()),
        cost_error: error_of_mean(&costs),
        requests_per_s: median(of(|measured| Some(measured.requests_per_s))),
        requests_ratio: median(paired.iter().filter_map(|paired| paired.requests).collect()),
        latency_p99_ms: median(of(|measured| Some(measured.latency_p99_ms))),
        runs: own.iter().map(|run| run.order).collect(),
        group,
        set,
    }
}

/// The outcome of the runs of a cell, and what is to say about it.
fn agreed(runs: &[&Run]) -> (Option<Outcome>, Option<String>) {
    let Some(first) = runs.first() else { return (None, None) };
    if let Some(failed) = runs.iter().find(|run| run.outcome == Outcome::Failed) {
        return (Some(Outcome::Failed), failed.reason.clone());
    }
    if runs.iter().all(|run| run.outcome == first.outcome) {
        return (Some(first.outcome), None);
    }
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for run in runs {
        *counts.entry(run.outcome.to_string()).or_default() += 1;
    }
    let parts: Vec<String> =
        counts.iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
    let reason = format!("its runs do not agree: {}", parts.join(", "));
    (Some(Outcome::Inconclusive), Some(reason))
}

/// A run beside the default.
struct Paired {
    cost: Option<CostRatio>,
    requests: Option<f64>,
}

/// Compares with the default run that was nearest in time, because a machine that was slower then
/// was so for both.
fn pair(run: &Run, bases: &[&Run]) -> Option<Paired> {
    let own = run.measured.as_ref()?;
    let usable = bases.iter().filter(|base| base.outcome != Outcome::Failed);
    let distance = |base: &&&Run| (middle_s(base) - middle_s(run)).abs();
    let nearest = usable.min_by(|a, b| distance(a).total_cmp(&distance(b)))?;
    let base = nearest.measured.as_ref()?;
    let cost = match (cost(own), cost(base)) {
        (Some(own), Some(base)) => own.relative_to(&base),
        _ => None,
    };
    let requests = (base.requests_per_s > 0.0).then(|| own.requests_per_s / base.requests_per_s);
    Some(Paired { cost, requests })
}

fn middle_s(run: &Run) -> f64 {
    run.started_unix_s + run.total_s / 2.0
}

fn cost(measured: &Measured) -> Option<Cost> {
    let us_per_unit = measured.cpu_us_per_unit?;
    Some(Cost { us_per_unit, error_us: measured.cpu_error_us.unwrap_or(f64::INFINITY) })
}

/// Standard error of the mean of independent ratios, a little less than that of their median.
fn error_of_mean(ratios: &[CostRatio]) -> Option<f64> {
    let squares: f64 = ratios.iter().map(|ratio| ratio.error.powi(2)).sum();
    let error = squares.sqrt() / ratios.len() as f64;
    error.is_finite().then_some(error)
}

fn drift(group: &Group, runs: &[Run]) -> Option<Drift> {
    let defaults: Vec<&Run> =
        runs.iter().filter(|run| run.group == *group && run.set.is_default()).collect();
    if defaults.len() < 2 {
        return None;
    }
    let measured: Vec<&Measured> = defaults
        .iter()
        .filter(|run| run.outcome != Outcome::Failed)
        .filter_map(|run| run.measured.as_ref())
        .collect();
    // With the first or the last one missing it would be the drift of another time.
    let ends =
        (measured.len() == defaults.len()).then(|| (measured[0], measured[measured.len() - 1]));
    let ratio = |value: fn(&Measured) -> Option<f64>| {
        let (first, last) = ends?;
        Some(value(last)? / value(first)?).filter(|ratio| ratio.is_finite())
    };
    let slopes: Vec<f64> = measured.iter().filter_map(|measured| measured.slope_per_unit).collect();
    let range = |values: &[f64]| {
        let low = values.iter().copied().reduce(f64::min)?;
        let high = values.iter().copied().reduce(f64::max)?;
        Some(high - low)
    };
    Some(Drift {
        group: group.clone(),
        runs: measured.len() as u32,
        cpu_ratio: ratio(|measured| measured.cpu_us_per_unit),
        requests_ratio: ratio(|measured| Some(measured.requests_per_s)),
        slope_range: range(&slopes),
    })
}

/// What UCX has ignored, once for all versions.
fn warnings(runs: &[Run]) -> Vec<String> {
    let mut versions: BTreeMap<&Ignored, BTreeSet<&str>> = BTreeMap::new();
    for run in runs {
        let ucx = run.measured.as_ref().and_then(|measured| measured.ucx_version.as_deref());
        for ignored in &run.ignored {
            versions.entry(ignored).or_default().extend(ucx);
        }
    }
    let told = |(ignored, versions): (&Ignored, BTreeSet<&str>)| {
        let versions: Vec<&str> = versions.into_iter().collect();
        ignored.told_of(&format!("UCX {}", versions.join(", ")))
    };
    versions.into_iter().map(told).collect()
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(|a, b| a.partial_cmp(b).unwrap_or(Ordering::Equal));
    let middle = values.len().checked_sub(1)? / 2;
    Some(if values.len() % 2 == 1 {
        values[middle]
    } else {
        values[middle].midpoint(values[middle + 1])
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::fixture::{definition, run, ucx};

    fn result(runs: Vec<Run>) -> MatrixResult {
        summarise(definition(&["1.19.0", "1.22.0"], &["UCX_A=1"]), runs)
    }

    fn default(order: u32, outcome: Outcome, cpu_us: f64) -> Run {
        run(order, ucx("1.19.0"), "default", outcome, 144.0, cpu_us)
    }

    fn cure(order: u32, outcome: Outcome, cpu_us: f64) -> Run {
        run(order, ucx("1.19.0"), "UCX_A=1", outcome, 0.0, cpu_us)
    }

    fn near(value: Option<f64>, wanted: f64) -> bool {
        value.is_some_and(|value| (value - wanted).abs() < 1e-9)
    }

    #[test]
    fn costs_are_relative_to_the_default_that_was_nearest_in_time() {
        let runs = vec![
            default(0, Outcome::Leak, 10.0),
            cure(1, Outcome::Clean, 12.0),
            default(3, Outcome::Leak, 20.0),
        ];
        let cell = &result(runs.clone()).cells[1];
        assert!(near(cell.cost_ratio, 1.2) && near(cell.requests_ratio, 10.0 / 12.0), "{cell:?}");
        let late = vec![runs[0].clone(), cure(2, Outcome::Clean, 12.0), runs[2].clone()];
        assert!(near(result(late).cells[1].cost_ratio, 0.6));
        assert_eq!(result(runs).cells[0].cost_ratio, None, "the default is not compared");
    }

    #[test]
    fn a_default_of_another_row_or_one_that_failed_is_no_base() {
        let foreign = run(0, ucx("1.22.0"), "default", Outcome::Clean, 0.0, 10.0);
        let cells = result(vec![foreign, cure(1, Outcome::Clean, 12.0)]).cells;
        assert_eq!((cells[1].cost_ratio, cells[1].slope_per_unit), (None, Some(0.0)));
        let failed = vec![default(0, Outcome::Failed, 10.0), cure(1, Outcome::Clean, 12.0)];
        assert_eq!(result(failed).cells[1].cost_ratio, None);
    }

    #[test]
    fn runs_that_do_not_agree_decide_nothing_and_a_failed_one_spoils_the_cell() {
        let cell = |runs: Vec<Run>| result(runs).cells[0].clone();
        let (leak, clean) = (default(0, Outcome::Leak, 10.0), default(1, Outcome::Clean, 10.0));
        let mixed = cell(vec![leak.clone(), clean, default(2, Outcome::Leak, 10.0)]);
        assert_eq!(mixed.outcome, Some(Outcome::Inconclusive));
        assert_eq!(mixed.reason.unwrap(), "its runs do not agree: 1 clean, 2 leak");
        let spoilt = cell(vec![leak, default(1, Outcome::Failed, 10.0)]);
        assert_eq!(spoilt.outcome, Some(Outcome::Failed));
        assert!(spoilt.reason.unwrap().contains("no libucp"));
        assert_eq!(spoilt.slope_per_unit, Some(144.0), "of what was measured");
    }

    #[test]
    fn a_cell_matches_if_all_its_runs_do() {
        let mut runs = vec![default(0, Outcome::Leak, 10.0), default(1, Outcome::Leak, 10.0)];
        assert_eq!(result(runs.clone()).cells[0].matched, Some(true));
        runs[1].mismatches.push("the slope is not within".to_owned());
        assert_eq!(result(runs.clone()).cells[0].matched, Some(false));
        runs.truncate(1);
        runs[0].expected = None;
        assert_eq!(result(runs.clone()).cells[0].matched, None, "nothing is foreseen");
        runs[0].outcome = Outcome::Failed;
        runs[0].mismatches.push("nothing foresees that".to_owned());
        assert_eq!(result(runs).cells[0].matched, Some(false));
        let none = result(Vec::new());
        assert_eq!((none.cells[0].outcome, none.cells[0].matched), (None, None));
    }

    #[test]
    fn a_matrix_matches_when_all_of_it_has_run_as_foreseen() {
        let definition = || definition(&["1.19.0"], &["UCX_A=1"]);
        let made: Vec<Run> = schedule(&definition().axes, 1, 1)
            .into_iter()
            .map(|due| {
                let set = due.set.to_string();
                run(due.order, due.group, &set, Outcome::Clean, 0.0, 10.0)
            })
            .collect();
        let whole = summarise(definition(), made.clone());
        assert!(whole.complete && whole.matched);
        let part = summarise(definition(), made[1..].to_vec());
        assert!(!part.complete && !part.matched);
        let mut off = made;
        off[0].mismatches.push("x".to_owned());
        let off = summarise(definition(), off);
        assert!(off.complete && !off.matched);
    }

    #[test]
    fn drift_is_what_the_default_did_from_first_to_last() {
        let runs = vec![
            default(0, Outcome::Leak, 10.0),
            default(3, Outcome::Leak, 14.0),
            default(6, Outcome::Leak, 11.0),
        ];
        let drift = &result(runs.clone()).drift[0];
        assert_eq!(drift.runs, 3);
        assert!(near(drift.cpu_ratio, 1.1) && near(drift.requests_ratio, 10.0 / 11.0), "{drift:?}");
        assert_eq!(drift.slope_range, Some(0.0));
        assert!(result(runs[..1].to_vec()).drift.is_empty(), "one run does not drift");
        let mut broken = runs;
        broken[2].outcome = Outcome::Failed;
        let drift = &result(broken).drift[0];
        assert_eq!((drift.runs, drift.cpu_ratio), (2, None));
    }

    #[test]
    fn what_ucx_ignores_is_told_once() {
        let ignored = Ignored { name: "UCX_FOO".to_owned(), similar: None };
        let mut runs = vec![cure(1, Outcome::Leak, 1.0), cure(2, Outcome::Leak, 1.0)];
        runs.push(run(3, ucx("1.22.0"), "UCX_A=1", Outcome::Clean, 0.0, 1.0));
        runs.iter_mut().for_each(|run| run.ignored.push(ignored.clone()));
        assert_eq!(
            result(runs).warnings,
            ["UCX 1.19.0, 1.22.0 ignores UCX_FOO: nothing that runs here reads it"]
        );
    }

    #[test]
    fn several_runs_give_their_median_and_the_widest_interval() {
        let mut runs = vec![
            default(0, Outcome::Leak, 10.0),
            cure(1, Outcome::Clean, 11.0),
            cure(2, Outcome::Clean, 13.0),
            cure(3, Outcome::Clean, 12.0),
        ];
        runs[2].measured.as_mut().unwrap().ci_high = Some(3.0);
        let cell = &result(runs).cells[1];
        assert!(near(cell.cost_ratio, 1.2), "{cell:?}");
        assert!(cell.cost_error.unwrap() < 0.01, "{cell:?}");
        assert_eq!((cell.ci_low, cell.ci_high), (Some(-0.5), Some(3.0)));
        assert_eq!(cell.runs, [1, 2, 3]);
    }
}
