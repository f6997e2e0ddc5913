//! In which order the cells run. Pure.
//!
//! A machine changes in the course of minutes: other work comes and goes, clocks follow the heat.
//! So cells run in random order, which keeps a drift from looking like an effect of a setting, and
//! the default that they are compared with runs at the start, in the middle and at the end of each
//! round, which shows how large the drift was.

use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use super::result::{Axes, Group, Setting};

/// A run that is to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// Its place, from 0.
    pub order: u32,
    /// Its row.
    pub group: Group,
    /// What is set.
    pub set: Setting,
}

/// Every run of the cells of `axes`, each cell `repeat` times, in an order that `seed` decides.
/// The default of a group in which it is not alone runs `2 * repeat + 1` times.
pub fn schedule(axes: &Axes, repeat: u32, seed: u64) -> Vec<Planned> {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let cells = axes.cells();
    let compared = |group: &Group| cells.iter().filter(|(of, _)| of == group).count() > 1;
    let (anchors, others): (Vec<_>, Vec<_>) =
        cells.iter().cloned().partition(|(group, set)| set.is_default() && compared(group));
    let mut runs = shuffled(&anchors, &mut rng);
    for _ in 0..repeat {
        let mut first = shuffled(&others, &mut rng);
        let second = first.split_off(first.len().div_ceil(2));
        for half in [first, second] {
            runs.extend(half);
            runs.extend(shuffled(&anchors, &mut rng));
        }
    }
    let numbered = |(order, (group, set))| Planned { order, group, set };
    (0..).zip(runs).map(numbered).collect()
}

fn shuffled<T: Clone>(items: &[T], rng: &mut impl Rng) -> Vec<T> {
    let mut items = items.to_vec();
    items.shuffle(rng);
    items
}

#[cfg(test)]
mod tests {
    use super::*;
    use pdlab_leak::scenario::{Pattern, Transport};

    fn axes(ucx: &[&str], values: usize) -> Axes {
        let value = |i: usize| Setting { set: [("UCX_A".to_owned(), i.to_string())].into() };
        Axes {
            transport: vec![Transport::Ucx],
            ucx: ucx.iter().map(|version| (*version).to_owned()).collect(),
            churn: vec![Some(Pattern::Same)],
            set: std::iter::once(Setting::default()).chain((0..values).map(value)).collect(),
        }
    }

    fn count(runs: &[Planned], ucx: &str, set: &Setting) -> usize {
        let is = |run: &&Planned| run.group.ucx.as_deref() == Some(ucx) && run.set == *set;
        runs.iter().filter(is).count()
    }

    #[test]
    fn the_default_comes_first_in_the_middle_and_last() {
        let axes = axes(&["1.16.0", "1.19.0"], 4);
        let runs = schedule(&axes, 1, 7);
        assert_eq!(runs.len(), 2 * (3 + 4));
        let defaults: Vec<u32> =
            runs.iter().filter(|run| run.set.is_default()).map(|run| run.order).collect();
        assert_eq!(defaults, [0, 1, 6, 7, 12, 13]);
        for ucx in ["1.16.0", "1.19.0"] {
            assert_eq!(count(&runs, ucx, &Setting::default()), 3);
            assert!(axes.set[1..].iter().all(|set| count(&runs, ucx, set) == 1));
        }
        assert!(runs.iter().zip(0..).all(|(run, order)| run.order == order));
    }

    #[test]
    fn the_seed_decides_the_order() {
        let axes = axes(&["1.16.0", "1.19.0", "1.22.0"], 8);
        assert_eq!(schedule(&axes, 2, 1), schedule(&axes, 2, 1));
        assert_ne!(schedule(&axes, 2, 1), schedule(&axes, 2, 2));
        let in_order = axes.cells();
        let run = schedule(&axes, 1, 1);
        assert_ne!(run.iter().map(|run| &run.set).collect::<Vec<_>>(), {
            in_order.iter().map(|(_, set)| set).collect::<Vec<_>>()
        });
    }

    #[test]
    fn repeats_are_rounds_with_defaults_around_them() {
        let axes = axes(&["1.19.0"], 3);
        let runs = schedule(&axes, 3, 1);
        assert_eq!(count(&runs, "1.19.0", &Setting::default()), 7);
        assert!(axes.set[1..].iter().all(|set| count(&runs, "1.19.0", set) == 3));
        assert!(runs[0].set.is_default() && runs[runs.len() - 1].set.is_default());
        // A round is over before the next begins.
        let first: std::collections::BTreeSet<_> = runs[..6].iter().map(|run| &run.set).collect();
        assert_eq!(first.len(), 4);
    }

    #[test]
    fn a_default_that_nothing_is_compared_with_runs_as_often_as_asked() {
        assert_eq!(schedule(&axes(&["1.16.0", "1.19.0"], 0), 2, 1).len(), 4);
    }
}
