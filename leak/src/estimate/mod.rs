//! How much more is held per unit of work, and how sure that is.
//!
//! Pure: a series of (work, level) goes in, the level being bytes or whatever the gauge counts, an [`Estimate`] comes out; the same series and seed give the same numbers.
//! The steps, each in a file of its own:
//!
//! 1. **Bins** of neighbouring readings, at most [`MAX_BINS`], each represented by its lower quartiles.
//! 2. **Warm-up is found** (`warmup`): the start is cut off where that makes the slope of the rest surer, and at most
//!    half of the series goes.
//! 3. **The slope is robust** (`slope`): Theil-Sen, the median of the slopes of all pairs of bins.
//! 4. **The interval is a bootstrap over blocks** (`bootstrap`): memory readings next to each other are alike, so runs
//!    of neighbouring residuals are drawn, not single ones.
//!    What differs between runs, and no single run can show, is added to it: [`Series::with_stray`].
//! 5. **Head and tail are fitted alone**, and **a staircase of at most three steps** (`stairs`) against the line: a pool
//!    that fills up slows down or stops, a leak does neither.
//!
//! The reasons, and what simulation says of the result, are with the rules that use it: [`crate::verdict`].

mod bootstrap;
mod slope;
mod stairs;
mod warmup;

use crate::gauge::Axes;
use crate::sample::Sample;

/// Bins that a fit works on. Few enough that the residuals of neighbouring bins are nearly independent in a run of a
/// minute and that the 496 pairs cost microseconds; many enough that a slope loses nothing by them.
pub const MAX_BINS: usize = 32;

/// Samples below which no estimate is made: half may go as warm-up, and each half of the rest needs a handful.
pub const MIN_SAMPLES: usize = 24;

/// Samples that an estimate wants: if half go as warm-up, each half of the rest still has ten.
pub const WANTED_SAMPLES: usize = 40;

/// One reading on the axis of work.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Work done so far, in units.
    pub work: f64,
    /// How much is held, in what the gauge counts.
    pub level: f64,
    /// When, in seconds.
    pub t_s: f64,
}

/// Readings of one process in the order in which they were taken.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Series {
    points: Vec<Point>,
    stray: f64,
}

impl Series {
    /// A series of these points, in order. Points that are no numbers are left out.
    pub fn new(points: impl IntoIterator<Item = Point>) -> Series {
        let is_number = |p: &Point| p.work.is_finite() && p.level.is_finite() && p.t_s.is_finite();
        Series { points: points.into_iter().filter(is_number).collect(), stray: 0.0 }
    }

    /// The same, of a process that gains up to `stray` in one run and not in the next: see [`crate::gauge::Gauge::stray`].
    pub fn with_stray(self, stray: f64) -> Series {
        Series { stray, ..self }
    }

    /// The series of one process's samples. Those that do not tell what the gauge counts are left out.
    pub fn of<'a>(samples: impl IntoIterator<Item = &'a Sample>, axes: Axes) -> Series {
        Series::new(samples.into_iter().filter_map(|sample| {
            let level = axes.gauge.of(sample)? as f64;
            Some(Point { work: sample.position(axes.unit), level, t_s: sample.t_s() })
        }))
        .with_stray(axes.gauge.stray())
    }

    /// The points.
    pub fn points(&self) -> &[Point] {
        &self.points
    }
}

/// A slope with its interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Slope {
    /// What the gauge counts, per unit of work.
    pub value: f64,
    /// Lower end of the 95 % interval.
    pub low: f64,
    /// Upper end of the 95 % interval.
    pub high: f64,
}

impl Slope {
    /// The same slope, no surer than `much` on either side.
    fn widened(self, much: f64) -> Slope {
        Slope { low: self.low - much, high: self.high + much, ..self }
    }

    /// Whether the whole interval lies within `margin` of zero.
    pub fn within(&self, margin: f64) -> bool {
        self.low >= -margin && self.high <= margin
    }
}

/// What was cut off at the start.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Warmup {
    /// Samples cut off.
    pub samples: usize,
    /// Units of work done in them.
    pub units: f64,
    /// Seconds they took.
    pub seconds: f64,
    /// What was gained in them; negative if it was given back.
    pub growth: f64,
    /// Whether the cut went as far as it may: the warm-up could well last longer.
    pub at_limit: bool,
}

/// What a series says about growth.
#[derive(Debug, Clone, PartialEq)]
pub struct Estimate {
    /// Slope of everything after the warm-up.
    pub slope: Slope,
    /// Slope of its first half.
    pub head: Slope,
    /// Slope of its second half.
    pub tail: Slope,
    /// Set if a few steps fit better than a line.
    pub steps: Option<Steps>,
    /// What was cut off first.
    pub warmup: Warmup,
    /// Samples after the warm-up.
    pub samples: usize,
    /// Units of work after the warm-up.
    pub units: f64,
    /// Seconds after the warm-up.
    pub seconds: f64,
    /// How far readings scatter about the line: standard deviation, estimated from the median deviation.
    pub noise: f64,
}

/// Growth in a few steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Steps {
    /// How many, 1 to 3.
    pub count: usize,
    /// From the lowest level to the highest.
    pub height: f64,
}

impl Estimate {
    /// What was gained after the warm-up, along the fitted line.
    pub fn growth(&self) -> f64 {
        self.slope.value * self.units
    }

    /// Units of work per second, after the warm-up.
    pub fn units_per_s(&self) -> f64 {
        if self.seconds > 0.0 { self.units / self.seconds } else { 0.0 }
    }

    /// Growth per second at the rate of work seen.
    pub fn per_s(&self) -> f64 {
        self.slope.value * self.units_per_s()
    }

    /// Megabytes (10^6 bytes) per minute at the rate of work seen, where the gauge counts bytes.
    pub fn mb_per_min(&self) -> f64 {
        self.per_s() * 60.0 / 1e6
    }

    /// Hours until `limit` at the rate of work seen, from `now`; `None` if nothing grows.
    pub fn hours_to(&self, limit: u64, now: u64) -> Option<f64> {
        let rate = self.per_s();
        let left = limit.saturating_sub(now) as f64;
        (rate > 0.0).then(|| left / rate / 3600.0)
    }
}

/// Nothing can be estimated.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum TooFew {
    /// Too few samples.
    #[error("{have} samples, and an estimate needs {need}: sample more often or measure longer")]
    Samples {
        /// Samples there are.
        have: usize,
        /// Samples there must be.
        need: usize,
    },
    /// No work was done while measuring.
    #[error("no work was done between the samples: check that requests flow and churn runs")]
    NoWork,
}

/// Estimates the growth of `series`; `seed` drives the bootstrap.
pub fn estimate(series: &Series, seed: u64) -> Result<Estimate, TooFew> {
    let points = series.points();
    if points.len() < MIN_SAMPLES {
        return Err(TooFew::Samples { have: points.len(), need: MIN_SAMPLES });
    }
    let cut = warmup::find(points);
    let kept = &points[cut..];
    let (head, tail) = kept.split_at(kept.len() / 2);
    // Three fits, three streams of random numbers.
    let fit = |points: &[Point], stream: u64| {
        bootstrap::fit(points, seed.wrapping_mul(4).wrapping_add(stream))
    };
    let whole = fit(kept, 0).ok_or(TooFew::NoWork)?;
    let head = fit(head, 1).ok_or(TooFew::NoWork)?;
    let tail = fit(tail, 2).ok_or(TooFew::NoWork)?;
    let steps = stairs::find(kept, whole.slope.value);
    let (first, start, end) = (&points[0], &kept[0], &kept[kept.len() - 1]);
    let units = end.work - start.work;
    Ok(Estimate {
        // Runs differ by more than what one run shows. Its halves are only compared with each other.
        slope: whole.slope.widened(series.stray / units),
        head: head.slope,
        tail: tail.slope,
        steps,
        warmup: Warmup {
            samples: cut,
            units: start.work - first.work,
            seconds: start.t_s - first.t_s,
            growth: start.level - first.level,
            at_limit: cut >= points.len() / 2,
        },
        samples: kept.len(),
        units,
        seconds: end.t_s - start.t_s,
        noise: whole.noise,
    })
}

/// Runs of neighbouring points, at most [`MAX_BINS`], each as the lower quartile of its work and of its level.
///
/// Noise in memory readings is one-sided: a buffer that is in use just now adds to them, and nothing takes away. A leak
/// raises the floor. The same quantile of both coordinates keeps a line a line, however unevenly work was done.
fn bins(points: &[Point]) -> Vec<(f64, f64)> {
    let count = points.len().min(MAX_BINS);
    let edge = |i: usize| i * points.len() / count;
    let quartile = |bin: &[Point], value: fn(&Point) -> f64| {
        let mut values: Vec<f64> = bin.iter().map(value).collect();
        let (_, quartile, _) = values.select_nth_unstable_by((bin.len() - 1) / 4, f64::total_cmp);
        *quartile
    };
    (0..count)
        .map(|i| &points[edge(i)..edge(i + 1)])
        .map(|bin| (quartile(bin, |p| p.work), quartile(bin, |p| p.level)))
        .collect()
}

#[cfg(test)]
pub(crate) mod simulate;
#[cfg(test)]
mod tests;
