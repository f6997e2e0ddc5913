//! A gauge of one process against its work, with the line fitted to it.

use pdlab_leak::estimate::{Point, Series, Slope};
use pdlab_leak::gauge::Axes;
use pdlab_leak::sample::Sample;
use pdlab_leak::scenario::Scenario;
use pdlab_leak::verdict::{Criteria, Judgement, judge};

/// How readings are judged.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    /// What is judged, against which work.
    pub axes: Axes,
    /// Slopes within this much of zero count as clean, in what the gauge counts per unit.
    pub margin_per_unit: f64,
    /// Seed of the bootstrap.
    pub seed: u64,
}

impl Rule {
    /// That of a scenario.
    pub fn of(scenario: &Scenario) -> Self {
        let margin_per_unit = scenario.measure.margin_per_unit;
        Self { axes: scenario.axes(), margin_per_unit, seed: scenario.seed }
    }
}

/// Readings of one process, and what they say.
#[derive(Debug, Clone, PartialEq)]
pub struct Growth {
    /// The process.
    pub process: String,
    /// What was read, against which work.
    pub axes: Axes,
    /// Slopes within this much of zero count as clean, in what the gauge counts per unit.
    pub margin: f64,
    /// The readings; work and time are counted from the first.
    pub points: Vec<Point>,
    /// The verdict on them.
    pub judgement: Judgement,
}

/// The fitted line, with the lines that bound its slope.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Fit {
    /// Its slope and interval.
    pub(super) slope: Slope,
    /// Where the part begins that it was fitted to.
    pub(super) from: f64,
    /// Where that ends.
    pub(super) to: f64,
    /// The point that it goes through whatever the slope: the middle of that part.
    pub(super) centre: (f64, f64),
}

impl Growth {
    /// The readings of `process` among `samples`, judged by `rule`; `None` if there are fewer than
    /// two.
    pub fn of(samples: &[Sample], process: &str, rule: Rule) -> Option<Self> {
        let Rule { axes, margin_per_unit: margin, seed } = rule;
        let own = samples.iter().filter(|sample| sample.process == process);
        let series = Series::of(own, axes);
        let judgement = judge(&series, &Criteria::new(axes.gauge, margin), seed);
        let first = *series.points().first()?;
        let since = |point: &Point| Point {
            work: point.work - first.work,
            t_s: point.t_s - first.t_s,
            ..*point
        };
        let points: Vec<Point> = series.points().iter().map(since).collect();
        (points.len() >= 2).then(|| Self {
            process: process.to_owned(),
            axes,
            margin,
            points,
            judgement,
        })
    }

    /// Work done from the first reading to the last.
    pub fn units(&self) -> f64 {
        self.points.last().map_or(0.0, |point| point.work)
    }

    /// The lowest and the highest reading.
    pub(super) fn range(&self) -> (f64, f64) {
        let values = self.points.iter().map(|point| point.level);
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
            (low.min(value), high.max(value))
        })
    }

    /// The line fitted to what comes after the warm-up, if there was enough of it.
    pub(super) fn fit(&self) -> Option<Fit> {
        let estimate = self.judgement.estimate.as_ref()?;
        let kept = self.points.get(estimate.warmup.samples..)?;
        let (first, last) = (kept.first()?, kept.last()?);
        let middle = (first.work + last.work) / 2.0;
        // The line through the middle of the readings: as many lie above it as below.
        let slope = estimate.slope;
        let mut levels: Vec<f64> =
            kept.iter().map(|point| point.level - slope.value * (point.work - middle)).collect();
        let half = levels.len() / 2;
        let (_, level, _) = levels.select_nth_unstable_by(half, f64::total_cmp);
        Some(Fit { slope, from: first.work, to: last.work, centre: (middle, *level) })
    }
}

impl Fit {
    /// The line of this slope at `work`.
    pub(super) fn at(&self, slope: f64, work: f64) -> f64 {
        self.centre.1 + slope * (work - self.centre.0)
    }

    /// What lies within `margin` of no growth at `work`: a wedge from where the fit begins.
    pub(super) fn margin_at(&self, margin: f64, work: f64) -> f64 {
        self.at(self.slope.value, self.from) + margin * (work - self.from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repro::fixture;
    use pdlab_leak::verdict::VerdictKind;

    #[test]
    fn the_judged_process_is_judged_as_the_run_was() {
        let scenario = fixture::scenario();
        let measurement = fixture::measurement(&scenario, 144.0, 0.0);
        let growth = Growth::of(&measurement.samples, "decode-0", Rule::of(&scenario)).unwrap();
        assert_eq!(growth.judgement, measurement.judgement);
        assert_eq!(growth.judgement.verdict.kind(), VerdictKind::Leak);
        assert_eq!((growth.points[0].work, growth.units()), (0.0, 200_000.0));
    }

    #[test]
    fn the_line_goes_through_the_readings() {
        let scenario = fixture::scenario();
        let measurement = fixture::measurement(&scenario, 144.0, 0.0);
        let growth = Growth::of(&measurement.samples, "decode-0", Rule::of(&scenario)).unwrap();
        let fit = growth.fit().unwrap();
        for point in &growth.points {
            let line = fit.at(fit.slope.value, point.work);
            assert!((line - point.level).abs() < 1e3, "{line} at {point:?}");
        }
        assert_eq!(fit.margin_at(4.0, fit.from), fit.at(fit.slope.value, fit.from));
    }

    #[test]
    fn one_reading_is_no_growth() {
        let scenario = fixture::scenario();
        let measurement = fixture::measurement(&scenario, 144.0, 0.0);
        assert_eq!(Growth::of(&measurement.samples, "decode-7", Rule::of(&scenario)), None);
        assert_eq!(Growth::of(&measurement.samples[..3], "decode-0", Rule::of(&scenario)), None);
    }
}
