//! Theil-Sen: the median of the slopes of all pairs.
//!
//! H. Theil 1950 and P. K. Sen 1968, <https://doi.org/10.1080/01621459.1968.10480934>. Up to 29 % of the points may
//! lie anywhere without moving it without bound, and under well-behaved noise it is nearly as sharp as least squares.

/// The pairs of a set of abscissas, computed once and used for every resampling of the ordinates.
pub(super) struct Pairs {
    /// (left, right, 1 / distance) of every pair that has a distance.
    pairs: Vec<(u32, u32, f64)>,
}

impl Pairs {
    /// All pairs of `work`, which does not fall. `None` if no two differ.
    pub(super) fn of(work: &[f64]) -> Option<Pairs> {
        let n = work.len() as u32;
        let all = (0..n).flat_map(|i| (i + 1..n).map(move |j| (i, j)));
        let pairs: Vec<_> = all
            .filter_map(|(i, j)| {
                let distance = work[j as usize] - work[i as usize];
                (distance > 0.0).then(|| (i, j, 1.0 / distance))
            })
            .collect();
        (!pairs.is_empty()).then_some(Pairs { pairs })
    }

    /// The median slope of `levels` over the pairs. `scratch` saves an allocation per call.
    pub(super) fn slope(&self, levels: &[f64], scratch: &mut Vec<f64>) -> f64 {
        scratch.clear();
        scratch.extend(
            self.pairs
                .iter()
                .map(|&(i, j, inverse)| (levels[j as usize] - levels[i as usize]) * inverse),
        );
        median(scratch)
    }
}

/// The median, of two middle values their mean. Reorders `values`, of which there must be one or more.
pub(super) fn median(values: &mut [f64]) -> f64 {
    let (middle, odd) = (values.len() / 2, values.len() % 2 == 1);
    let (below, &mut upper, _) = values.select_nth_unstable_by(middle, f64::total_cmp);
    if odd {
        return upper;
    }
    let lower = below.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (lower + upper) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slope(work: &[f64], levels: &[f64]) -> Option<f64> {
        Some(Pairs::of(work)?.slope(levels, &mut Vec::new()))
    }

    #[test]
    fn the_median_of_even_and_odd_counts() {
        assert_eq!(median(&mut [3.0]), 3.0);
        assert_eq!(median(&mut [4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(median(&mut [9.0, 1.0, 5.0]), 5.0);
    }

    #[test]
    fn a_line_has_its_own_slope() {
        let work: Vec<f64> = (0..50).map(f64::from).collect();
        let levels: Vec<f64> = work.iter().map(|x| 1e9 + 144.0 * x).collect();
        assert_eq!(slope(&work, &levels), Some(144.0));
    }

    #[test]
    fn a_fifth_of_wild_points_does_not_move_it_far() {
        let work: Vec<f64> = (0..50).map(f64::from).collect();
        let burst = |x: f64| if (20.0..30.0).contains(&x) { 1e9 } else { 0.0 };
        let levels: Vec<f64> = work.iter().map(|&x| 144.0 * x + burst(x)).collect();
        assert_eq!(slope(&work, &levels), Some(144.0));
    }

    #[test]
    fn work_that_stands_still_has_no_slope() {
        assert_eq!(slope(&[5.0, 5.0, 5.0], &[1.0, 2.0, 3.0]), None);
    }
}
