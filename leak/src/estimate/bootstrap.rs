//! The slope's interval: a bootstrap over blocks of residuals.
//!
//! Neighbouring readings are alike (a buffer that is in use now is in use at the next sample), so drawing single
//! residuals would pretend to more information than there is. The circular block bootstrap (D. N. Politis and J. P.
//! Romano 1992) draws runs of neighbours instead, as long as the residuals remember.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::slope::{Pairs, median};
use super::{Point, Slope, bins};

/// Resamplings. The ends of a 95 % interval are the 10th value from either side of 400.
const RESAMPLES: usize = 400;

/// What a fit of a stretch of the series yields.
pub(super) struct Fit {
    pub(super) slope: Slope,
    pub(super) noise: f64,
}

/// Fits `points`; `None` if no work lies between them.
pub(super) fn fit(points: &[Point], seed: u64) -> Option<Fit> {
    let bins = bins(points);
    let work: Vec<f64> = bins.iter().map(|bin| bin.0).collect();
    // Theil-Sen does not mind an offset, and without one the differences lose no digits.
    let levels: Vec<f64> = bins.iter().map(|bin| bin.1 - bins[0].1).collect();
    let pairs = Pairs::of(&work)?;
    let mut scratch = Vec::new();
    let value = pairs.slope(&levels, &mut scratch);
    let residuals = residuals(&work, &levels, value);
    let block = block_length(&residuals);

    // The slope of line plus noise is the line's slope plus the noise's: only the residuals need fitting again.
    let n = residuals.len();
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut drawn = Vec::with_capacity(n + block);
    let mut errors: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            drawn.clear();
            while drawn.len() < n {
                let start = rng.random_range(0..n);
                drawn.extend((start..start + block).map(|i| residuals[i % n]));
            }
            pairs.slope(&drawn[..n], &mut scratch)
        })
        .collect();
    errors.sort_unstable_by(f64::total_cmp);
    let reach = small_sample_factor(n, block) * long_memory_factor(&residuals, block);
    let tail = RESAMPLES / 40;
    Some(Fit {
        slope: Slope {
            value,
            low: value + errors[tail - 1].min(0.0) * reach,
            high: value + errors[RESAMPLES - tail].max(0.0) * reach,
        },
        noise: spread(&residuals),
    })
}

fn residuals(work: &[f64], levels: &[f64], slope: f64) -> Vec<f64> {
    let mut rest: Vec<f64> =
        work.iter().zip(levels).map(|(x, y)| y - slope * (x - work[0])).collect();
    let mean = rest.iter().sum::<f64>() / rest.len() as f64;
    rest.iter_mut().for_each(|r| *r -= mean);
    rest
}

/// Standard deviation from the median absolute deviation: bursts do not count. 1.4826 makes it right for normal noise.
fn spread(residuals: &[f64]) -> f64 {
    let mut sorted = residuals.to_vec();
    let middle = median(&mut sorted);
    sorted.iter_mut().for_each(|r| *r = (*r - middle).abs());
    1.4826 * median(&mut sorted)
}

/// Twice the lag at which the residuals' autocorrelation drowns in noise, at least a fifth of their number (which
/// simulation shows to be needed where fast and slow noise mix and the autocorrelation hides the slow part) and at most
/// a quarter.
fn block_length(residuals: &[f64]) -> usize {
    let n = residuals.len();
    let at =
        |lag: usize| -> f64 { residuals.iter().zip(&residuals[lag..]).map(|(a, b)| a * b).sum() };
    let longest = (n / 4).max(1);
    let drowned = 2.0 / (n as f64).sqrt() * at(0);
    let memory = (1..longest).find(|&lag| at(lag) <= drowned).unwrap_or(longest);
    (2 * memory).max(n / 5).clamp(1, longest)
}

/// What blocks of this length miss of the residuals' memory, as a factor on the interval.
///
/// Blocks cut dependence at their ends, and the line has taken the slowest wanderings out of the residuals with it: on
/// short runs both make the interval too narrow. Take the residuals for an autoregression of first order. The
/// correlation of neighbours, corrected for the bias that a fitted line gives it (F. H. C. Marriott and J. A. Pope
/// 1954), says by how much the slope's variance exceeds that of independent noise; the correlation as measured says how
/// much of that blocks can show. The factor is the square root of the ratio.
fn long_memory_factor(residuals: &[f64], block: usize) -> f64 {
    let n = residuals.len() as f64;
    let power: f64 = residuals.iter().map(|r| r * r).sum();
    let neighbours: f64 = residuals.windows(2).map(|pair| pair[0] * pair[1]).sum();
    if neighbours <= 0.0 {
        return 1.0;
    }
    let seen = neighbours / power;
    let real = ((seen + 2.0 / n) / (1.0 - 4.0 / n)).clamp(0.0, 0.9);
    let due = (1.0 + real) / (1.0 - real);
    let weight = |lag: usize| (1.0 - lag as f64 / block as f64) * seen.powi(lag as i32);
    let shown = 1.0 + 2.0 * (1..block).map(weight).sum::<f64>();
    (due / shown).max(1.0).sqrt()
}

/// A few blocks tell less about the spread than many: widen by Student's t over the normal quantile, with as many
/// degrees of freedom as there are blocks less two, and by the two parameters that the line has taken out of the
/// residuals. (Cornish-Fisher expansion of the quantile, right to 4 % from three degrees on.)
fn small_sample_factor(n: usize, block: usize) -> f64 {
    const Z: f64 = 1.959_964;
    let blocks = n as f64 / block as f64;
    let freedom = (blocks - 2.0).max(2.0);
    let first = (Z.powi(3) + Z) / (4.0 * freedom);
    let second = (5.0 * Z.powi(5) + 16.0 * Z.powi(3) + 3.0 * Z) / (96.0 * freedom * freedom);
    let student = (Z + first + second) / Z;
    student * (n as f64 / (n as f64 - 2.0)).sqrt()
}
