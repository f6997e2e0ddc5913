//! Growth in a few steps, told from growth along a line.
//!
//! A pool that doubles, a cache that is allocated on first use, a library loaded late: memory rises once, twice, three
//! times, and is flat otherwise. A robust line through that rises too, with an interval that may exclude zero. So the
//! best staircase of at most [`MAX_STEPS`] steps (least squares, found by dynamic programming) is fitted as well; if it
//! explains the readings clearly better than the line does, the growth is stepwise. A leak whose chunks are small
//! against the run makes a hundred steps, and three cannot follow it.

use super::bootstrap::Fit;
use super::{Point, bins};

/// Steps that count as "a few".
const MAX_STEPS: usize = 3;

/// The staircase must leave less than this share of the line's squared residuals. It has up to five parameters more,
/// and picks them from all positions: in noise alone it leaves about 0.8.
const CLEARLY: f64 = 0.7;

/// A staircase that fits better than the line.
pub(super) struct Stairs {
    /// Steps, 1 to [`MAX_STEPS`].
    pub(super) count: usize,
    /// Index of the first point after the last step.
    pub(super) last: usize,
}

/// The best staircase over `points`, if it is clearly better than `line`.
pub(super) fn find(points: &[Point], line: &Fit) -> Option<Stairs> {
    let bytes: Vec<f64> = bins(points).iter().map(|bin| bin.1).collect();
    let n = bytes.len();
    let cost = Cost::of(&bytes);
    // best[k][j]: least squares of bytes[..j] with k steps, and where the last level starts.
    let mut best: Vec<Vec<(f64, usize)>> =
        vec![(0..=n).map(|j| (cost.of_level(0, j), 0)).collect()];
    for steps in 1..=MAX_STEPS {
        let before = &best[steps - 1];
        let level_from = |j: usize| {
            let candidates =
                (steps..j).map(|start| (before[start].0 + cost.of_level(start, j), start));
            candidates.min_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or((f64::INFINITY, j))
        };
        let row = (0..=n).map(level_from).collect();
        best.push(row);
    }
    // The fewest steps that are clearly better.
    let found = (1..=MAX_STEPS).find(|&steps| best[steps][n].0 < CLEARLY * line.squares)?;
    Some(Stairs { count: found, last: (best[found][n].1 * points.len()).div_ceil(n) })
}

/// Sum of squared deviations from the mean of any stretch, in constant time.
struct Cost {
    sums: Vec<(f64, f64)>,
}

impl Cost {
    fn of(values: &[f64]) -> Cost {
        // Deviations from the overall mean keep the squares small.
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let mut sums = vec![(0.0, 0.0)];
        for value in values {
            let (sum, squares) = sums[sums.len() - 1];
            let rest = value - mean;
            sums.push((sum + rest, squares + rest * rest));
        }
        Cost { sums }
    }

    fn of_level(&self, start: usize, end: usize) -> f64 {
        if end <= start {
            return 0.0;
        }
        let sum = self.sums[end].0 - self.sums[start].0;
        let squares = self.sums[end].1 - self.sums[start].1;
        (squares - sum * sum / (end - start) as f64).max(0.0)
    }
}
