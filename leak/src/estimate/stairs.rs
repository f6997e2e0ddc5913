//! Growth in a few steps, told from growth along a line.
//!
//! A pool that doubles, a cache that is allocated on first use, a library loaded late: memory rises once, twice, three
//! times, and is flat otherwise. A robust line through that rises too, with an interval that may exclude zero. So the
//! best staircase of at most [`MAX_STEPS`] steps (least squares, found by dynamic programming) is fitted as well; if it
//! explains the readings clearly better than the line does, the growth is stepwise. A leak whose chunks are small
//! against the run makes a hundred steps, and three cannot follow it.

use super::{Point, Steps, bins};

/// Steps that count as "a few".
const MAX_STEPS: usize = 3;

/// The staircase must leave less than this share of the line's squared residuals. It has up to five parameters more
/// than the line and picks its steps from all positions: in noise alone it leaves two thirds to three quarters.
const CLEARLY: f64 = 0.5;

/// The best staircase over `points`, if it only rises and is clearly better than a line of `slope`.
pub(super) fn find(points: &[Point], slope: f64) -> Option<Steps> {
    let (work, readings): (Vec<f64>, Vec<f64>) = bins(points).into_iter().unzip();
    let n = readings.len();
    let rest: Vec<f64> = work.iter().zip(&readings).map(|(x, y)| y - slope * x).collect();
    let line_squares = Cost::of(&rest).of_level(0, n);
    let cost = Cost::of(&readings);
    // best[k][j]: least squares of readings[..j] with k steps, and where the last level starts.
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
    // The fewest steps that are clearly better; more would cut the same growth finer.
    let count = (1..=MAX_STEPS).find(|&steps| best[steps][n].0 < CLEARLY * line_squares)?;
    let mut levels = Vec::with_capacity(count + 1);
    let mut end = n;
    for steps in (0..=count).rev() {
        let start = best[steps][end].1;
        levels.push(readings[start..end].iter().sum::<f64>() / (end - start) as f64);
        end = start;
    }
    // Last level first. A burst is a step up and one down, and no growth.
    let rises = levels.windows(2).all(|pair| pair[0] > pair[1]);
    rises.then(|| Steps { count, height: levels[0] - levels[count] })
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
