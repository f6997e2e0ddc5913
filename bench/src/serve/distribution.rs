//! Many samples of one quantity: exact up to a million, in bounded memory beyond.

use hdrhistogram::Histogram;

/// As many samples are kept one by one; percentiles are exact that far. 4 MiB.
pub const EXACT_SAMPLES: usize = 1 << 20;

/// Beyond [`EXACT_SAMPLES`], what is longer than ten hours counts as ten hours.
const LONGEST_NS: u64 = 10 * 3_600_000_000_000;

/// Samples in seconds, at least zero.
#[derive(Debug, Clone, Default)]
pub struct Distribution {
    exact: Vec<f32>,
    /// Takes over beyond [`EXACT_SAMPLES`]: nanoseconds to three significant digits.
    histogram: Option<Histogram<u64>>,
    count: u64,
    mean: f64,
    /// Sum of squared distances from the mean (Welford).
    squares: f64,
    max: f64,
}

impl Distribution {
    /// Adds a sample in seconds; what is below zero counts as zero.
    pub fn add(&mut self, seconds: f64) {
        let seconds = seconds.max(0.0);
        self.count += 1;
        let before = seconds - self.mean;
        self.mean += before / self.count as f64;
        self.squares += before * (seconds - self.mean);
        self.max = self.max.max(seconds);
        match &mut self.histogram {
            Some(histogram) => histogram.saturating_record(nanoseconds(seconds)),
            None => {
                self.exact.push(seconds as f32);
                if self.exact.len() > EXACT_SAMPLES {
                    self.fold();
                }
            }
        }
    }

    /// Number of samples.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Average in seconds; 0 without samples.
    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// Standard deviation of the samples themselves (not an estimate of a population's) in
    /// seconds, as numpy computes it; 0 without samples.
    pub fn std(&self) -> f64 {
        if self.count == 0 { 0.0 } else { (self.squares / self.count as f64).sqrt() }
    }

    /// Largest sample in seconds; 0 without samples.
    pub fn max(&self) -> f64 {
        self.max
    }

    /// The percentiles (0 to 100) in seconds, between samples by linear interpolation as numpy
    /// does; 0 without samples.
    pub fn percentiles(&self, wanted: &[f64]) -> Vec<f64> {
        if let Some(histogram) = &self.histogram {
            let value = |p: &f64| histogram.value_at_percentile(*p) as f64 / 1e9;
            return wanted.iter().map(value).collect();
        }
        let mut sorted = self.exact.clone();
        sorted.sort_unstable_by(f32::total_cmp);
        wanted.iter().map(|&percent| interpolate(&sorted, percent)).collect()
    }

    fn fold(&mut self) {
        let mut histogram =
            Histogram::new_with_bounds(1, LONGEST_NS, 3).expect("the bounds are in order");
        for seconds in std::mem::take(&mut self.exact) {
            histogram.saturating_record(nanoseconds(f64::from(seconds)));
        }
        self.histogram = Some(histogram);
    }
}

fn nanoseconds(seconds: f64) -> u64 {
    (seconds * 1e9).round() as u64
}

fn interpolate(sorted: &[f32], percent: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let position = last as f64 * percent.clamp(0.0, 100.0) / 100.0;
    let (below, above) = (position.floor() as usize, position.ceil() as usize);
    let (low, high) = (f64::from(sorted[below]), f64::from(sorted[above]));
    low + (high - low) * (position - below as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(samples: impl IntoIterator<Item = f64>) -> Distribution {
        let mut distribution = Distribution::default();
        samples.into_iter().for_each(|s| distribution.add(s));
        distribution
    }

    fn close(actual: f64, expected: f64) {
        assert!((actual - expected).abs() < 1e-6, "{actual} is not {expected}");
    }

    #[test]
    fn agrees_with_numpy() {
        // np.percentile([4, 1, 3, 2], [0, 50, 90, 100]), np.std([4, 1, 3, 2])
        let distribution = of([4.0, 1.0, 3.0, 2.0]);
        let percentiles = distribution.percentiles(&[0.0, 50.0, 90.0, 100.0]);
        for (actual, expected) in percentiles.into_iter().zip([1.0, 2.5, 3.7, 4.0]) {
            close(actual, expected);
        }
        close(distribution.mean(), 2.5);
        close(distribution.std(), 1.118_033_988);
        close(distribution.max(), 4.0);
    }

    #[test]
    fn nothing_is_zero() {
        let distribution = Distribution::default();
        assert_eq!(distribution.percentiles(&[99.0]), [0.0]);
        assert_eq!((distribution.mean(), distribution.std()), (0.0, 0.0));
    }

    #[test]
    fn a_distribution_too_large_to_keep_stays_accurate() {
        let count = EXACT_SAMPLES + 1000;
        let distribution = of((0..count).map(|i| i as f64 / count as f64));
        assert!(distribution.exact.is_empty());
        assert_eq!(distribution.count(), count as u64);
        for (percent, value) in
            [50.0, 99.0].into_iter().zip(distribution.percentiles(&[50.0, 99.0]))
        {
            assert!((value / (percent / 100.0) - 1.0).abs() < 2e-3, "p{percent}: {value}");
        }
    }
}
