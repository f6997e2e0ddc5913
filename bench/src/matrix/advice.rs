//! The answer to "what do I set?", per row of the matrix. Pure.

use pdlab_leak::scenario::Transport;
use pdlab_leak::{explain, gauge};

use super::result::{Advice, CellResult, Definition, Group, Outcome};
use crate::repro::words;

/// What the cells of `group` say about what to set.
pub fn advise(definition: &Definition, group: &Group, cells: &[CellResult]) -> Advice {
    let of_group = || cells.iter().filter(|cell| cell.group == *group);
    let default = of_group().find(|cell| cell.set.is_default());
    let leaks = default.and_then(|cell| match cell.outcome? {
        Outcome::Leak => Some(true),
        Outcome::Clean => Some(false),
        Outcome::Inconclusive | Outcome::Failed => None,
    });
    let mut cures: Vec<&CellResult> =
        of_group().filter(|cell| is_cure(cell) && leaks == Some(true)).collect();
    let cost = |cell: &CellResult| cell.cost_ratio.unwrap_or(f64::INFINITY);
    cures.sort_by(|a, b| cost(a).total_cmp(&cost(b)));
    let tried = of_group().filter(|cell| !cell.set.is_default() && cell.outcome.is_some()).count();
    let name = name(definition, group);
    let text = match default.map(|cell| (cell, cell.outcome)) {
        Some((cell, Some(Outcome::Leak))) => {
            format!(
                "{name} leaks {}. {}",
                slope(definition, cell),
                remedy(definition, &cures, tried)
            )
        }
        Some((cell, Some(Outcome::Clean))) => clean(definition, group, cell, &name),
        Some((_, Some(Outcome::Inconclusive))) => {
            format!("{name}: whether it leaks is not decided; measure more with --unmaps.")
        }
        Some((_, Some(Outcome::Failed))) => {
            format!("{name}: the default failed, so there is nothing to compare with.")
        }
        _ => format!("{name} has not been run."),
    };
    Advice {
        group: group.clone(),
        leaks,
        cures: cures.iter().map(|cell| cell.setting.clone()).collect(),
        text,
    }
}

/// The name of a row: `UCX 1.19.0`, and the churn where it varies.
pub fn name(definition: &Definition, group: &Group) -> String {
    let mut name = words::path(group.transport, group.ucx.as_deref());
    if group.transport == Transport::Auto
        && let Some(ucx) = &group.ucx
    {
        name += &format!(" with UCX {ucx}");
    }
    if definition.axes.churn.len() > 1
        && let Some(churn) = group.churn
    {
        name += &format!(", churn {churn}");
    }
    name
}

fn is_cure(cell: &CellResult) -> bool {
    !cell.set.is_default() && cell.outcome == Some(Outcome::Clean)
}

fn remedy(definition: &Definition, cures: &[&CellResult], tried: usize) -> String {
    let Some((cheapest, others)) = cures.split_first() else {
        return match tried {
            0 => "No setting was tried against it.".to_owned(),
            1 => "The setting tried does not cure it.".to_owned(),
            n => format!("None of the {n} settings tried cures it."),
        };
    };
    let unit = definition.unit;
    let mut text = format!(
        "At least cost: set {}, which is clean{}.",
        cheapest.setting,
        cost(cheapest, &format!(" at {{}} of the CPU per {unit}"))
    );
    if !others.is_empty() {
        let others: Vec<String> =
            others.iter().map(|cell| format!("{}{}", cell.setting, cost(cell, " ({})"))).collect();
        text += &format!(" Clean too: {}.", others.join(", "));
    }
    text
}

fn clean(definition: &Definition, group: &Group, cell: &CellResult, name: &str) -> String {
    if let Some(blind_spot) = explain::blind_spot(group.transport) {
        return format!("{name} is clean. {blind_spot}");
    }
    format!("{name} is clean ({}): nothing to set.", slope(definition, cell))
}

fn slope(definition: &Definition, cell: &CellResult) -> String {
    let axes = gauge::Axes { unit: definition.unit, gauge: definition.gauge };
    cell.slope_per_unit.map_or("without a slope".to_owned(), |slope| {
        format!("{} {axes}", explain::fixed(slope, axes.gauge))
    })
}

/// `template` with the cost for its braces; nothing if the cost is not known.
fn cost(cell: &CellResult, template: &str) -> String {
    cell.cost_ratio.map_or(String::new(), |ratio| {
        let ratio = match cell.cost_error {
            Some(error) => format!("{ratio:.2} ± {error:.2}"),
            None => format!("{ratio:.2}"),
        };
        template.replace("{}", &ratio)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::fixture::{definition, run, ucx};
    use crate::matrix::summary::summarise;

    fn text(runs: Vec<crate::matrix::result::Run>) -> String {
        let result = summarise(definition(&["1.19.0"], &["UCX_A=1,2,3"]), runs);
        result.advice[0].text.clone()
    }

    #[test]
    fn the_cheapest_cure_is_named_first() {
        let default = || run(0, ucx("1.19.0"), "default", Outcome::Leak, 144.0, 10.0);
        let cure = |order, set, cpu_us| run(order, ucx("1.19.0"), set, Outcome::Clean, 0.1, cpu_us);
        assert_eq!(
            text(vec![default(), cure(1, "UCX_A=1", 16.0), cure(2, "UCX_A=2", 9.5)]),
            "UCX 1.19.0 leaks 144.0 B per unmap. At least cost: set UCX_A=2, which is clean at \
             0.95 ± 0.01 of the CPU per unmap. Clean too: UCX_A=1 (1.60 ± 0.02)."
        );
        let useless = run(1, ucx("1.19.0"), "UCX_A=1", Outcome::Leak, 144.0, 10.0);
        assert!(text(vec![default(), useless]).ends_with("The setting tried does not cure it."));
        assert!(text(vec![default()]).ends_with("No setting was tried against it."));
    }

    #[test]
    fn what_does_not_leak_or_cannot_be_judged_needs_no_cure() {
        let default = |outcome| run(0, ucx("1.19.0"), "default", outcome, 0.25, 10.0);
        let text = |outcome| text(vec![default(outcome)]);
        assert_eq!(text(Outcome::Clean), "UCX 1.19.0 is clean (0.2 B per unmap): nothing to set.");
        assert!(text(Outcome::Inconclusive).contains("not decided"));
        assert!(text(Outcome::Failed).contains("the default failed"));
    }
}
