//! Where the warm-up ends.
//!
//! A young process grows for reasons that end: lazily bound libraries, first requests, arenas. MSER (the marginal
//! standard error rule of simulation studies, <https://doi.org/10.1177/003754979706900601>) drops the start of a run
//! where that makes the mean of the rest surer. The same rule for a slope: of all cuts, take the one after which the
//! least-squares slope has the smallest standard error. Dropping points costs sureness, with the third power of the
//! length that is left, so a cut is made only where what it drops really is out of line.

use super::{MAX_BINS, Point, bins};

/// A cut must lower the standard error to this share of the uncut one's. Pure noise often offers a cut that gains a
/// few percent by chance; taking it would narrow the interval for no reason.
const GAIN: f64 = 0.85;

/// How many points to drop at the start, at most half of them.
pub(super) fn find(points: &[Point]) -> usize {
    let bins = bins(points);
    let origin = bins[0];
    let mut rest = Sums::default();
    let mut errors = vec![f64::INFINITY; bins.len()];
    // From the back, so that each step adds one bin to what is left after the cut.
    for (cut, &(work, level)) in bins.iter().enumerate().rev() {
        // Differences to one point keep the sums small against the large common offset.
        rest.add(work - origin.0, level - origin.1);
        errors[cut] = rest.slope_error();
    }
    let (best, error) = errors[..=bins.len() / 2]
        .iter()
        .enumerate()
        .min_by(|a, b| a.1.total_cmp(b.1))
        .expect("there is a first bin");
    if *error >= GAIN * errors[0] {
        return 0;
    }
    let twice = (2 * best).min(bins.len() / 2);
    twice * points.len() / points.len().min(MAX_BINS)
}

/// Running sums of a least-squares line.
#[derive(Default)]
struct Sums {
    n: f64,
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
    yy: f64,
}

impl Sums {
    fn add(&mut self, x: f64, y: f64) {
        self.n += 1.0;
        self.x += x;
        self.y += y;
        self.xx += x * x;
        self.xy += x * y;
        self.yy += y * y;
    }

    /// Standard error of the slope; infinite where there is none.
    fn slope_error(&self) -> f64 {
        let sxx = self.xx - self.x * self.x / self.n;
        if self.n < 8.0 || sxx <= 0.0 {
            return f64::INFINITY;
        }
        let sxy = self.xy - self.x * self.y / self.n;
        let syy = self.yy - self.y * self.y / self.n;
        // Rounding may leave a tiny negative rest where the points lie on a line.
        let rest = (syy - sxy * sxy / sxx).max(0.0);
        (rest / (self.n - 2.0) / sxx).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(n: usize, level: impl Fn(f64) -> f64) -> Vec<Point> {
        let point = |x: f64| Point { work: x, level: level(x), t_s: x };
        (0..n).map(|i| point(i as f64)).collect()
    }

    /// A rough stand-in for noise that needs no random numbers.
    fn wobble(x: f64) -> f64 {
        1e5 * ((x * 12.9898).sin() * 43_758.547).fract()
    }

    #[test]
    fn a_straight_line_is_not_cut() {
        assert_eq!(find(&points(300, |x| 5e8 + 20_000.0 * x + wobble(x))), 0);
        assert_eq!(find(&points(300, |x| 5e8 + 20_000.0 * x)), 0);
        assert_eq!(find(&points(300, |_| 5e8)), 0);
    }

    #[test]
    fn a_warm_up_is_cut_and_as_much_again() {
        let cut = find(&points(320, |x| 1e6 * x.min(60.0) + 1_000.0 * x + wobble(x)));
        assert!((110..=150).contains(&cut), "{cut}");
    }

    #[test]
    fn at_most_half_is_cut() {
        let cut = find(&points(320, |x| 1e6 * x.min(280.0) + wobble(x)));
        assert!(cut <= 160, "{cut}");
    }
}
