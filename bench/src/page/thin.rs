//! Fewer points that look the same.

/// Which of `count` points to draw so that at most `limit` are: the first and the last, and of
/// every stretch in between the lowest and the highest, so that no peak is lost. In order. `limit`
/// is at least 4.
pub(super) fn thin(count: usize, limit: usize, value: impl Fn(usize) -> f64) -> Vec<usize> {
    if count <= limit {
        return (0..count).collect();
    }
    let inner = count - 2;
    let buckets = (limit - 2) / 2;
    let mut kept = vec![0];
    for bucket in 0..buckets {
        let stretch = 1 + bucket * inner / buckets..1 + (bucket + 1) * inner / buckets;
        let by_value = |a: &usize, b: &usize| value(*a).total_cmp(&value(*b));
        let ends = [stretch.clone().min_by(by_value), stretch.max_by(by_value)];
        let mut ends: Vec<usize> = ends.into_iter().flatten().collect();
        ends.sort_unstable();
        ends.dedup();
        kept.extend(ends);
    }
    kept.push(count - 1);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn few_points_are_all_drawn() {
        assert_eq!(thin(0, 10, |_| 0.0), [0; 0]);
        assert_eq!(thin(5, 10, |_| 0.0), [0, 1, 2, 3, 4]);
    }

    proptest! {
        #[test]
        fn ends_peaks_and_order_stay(
            values in proptest::collection::vec(-1e9..1e9f64, 1..2000),
            limit in 4usize..200,
        ) {
            let kept = thin(values.len(), limit, |i| values[i]);
            prop_assert!(kept.len() <= limit);
            prop_assert!(kept.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert_eq!((kept[0], kept[kept.len() - 1]), (0, values.len() - 1));
            let extreme = |of: &dyn Fn(f64, f64) -> f64| {
                let all = values.iter().copied().reduce(of);
                let drawn = kept.iter().map(|i| values[*i]).reduce(of);
                (all, drawn)
            };
            let (all, drawn) = extreme(&f64::max);
            prop_assert_eq!(all, drawn);
            let (all, drawn) = extreme(&f64::min);
            prop_assert_eq!(all, drawn);
        }
    }
}
