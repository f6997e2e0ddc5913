//! The readings of a watch, as many as are needed, however long it lasts. Pure.

use pdlab_leak::estimate::Series;
use pdlab_leak::sample::Sample;
use pdlab_leak::verdict::{Criteria, Judgement, judge};

use crate::page::growth::Rule;
use crate::repro::cost::CpuReading;

/// Readings kept for a judgement. An estimate works on 32 bins of them, so that more only cost time; at two readings a
/// second they are an hour's.
const MOST: usize = 8192;

/// The readings since the process has run its present program.
#[derive(Debug, Clone, Default)]
pub struct Course {
    samples: Vec<Sample>,
    cpu: Vec<CpuReading>,
    /// Of so many readings one is kept.
    stride: u64,
    seen: u64,
    last: Option<Sample>,
}

impl Course {
    /// Adds a reading, with the processor time used until then if that is known. Once there are too many, every second
    /// one goes, old and new: what stays is spread evenly.
    pub fn add(&mut self, sample: Sample, cpu_s: Option<f64>, rule: &Rule) {
        self.stride = self.stride.max(1);
        if self.seen.is_multiple_of(self.stride) {
            let first = self.samples.first().unwrap_or(&sample);
            let units = sample.position(rule.axes.unit) - first.position(rule.axes.unit);
            self.cpu.extend(cpu_s.map(|cpu_s| CpuReading { units, cpu_s }));
            self.samples.push(sample.clone());
        }
        self.seen += 1;
        self.last = Some(sample);
        if self.samples.len() > MOST {
            halve(&mut self.samples);
            halve(&mut self.cpu);
            self.stride *= 2;
        }
    }

    /// The verdict on what was read so far.
    pub fn judge(&self, rule: &Rule) -> Judgement {
        let series = Series::of(self.samples.iter().chain(self.unkept()), rule.axes);
        judge(&series, &Criteria::new(rule.axes.gauge, rule.margin_per_unit), rule.seed)
    }

    /// The first reading.
    pub fn first(&self) -> Option<&Sample> {
        self.samples.first()
    }

    /// The last reading.
    pub fn last(&self) -> Option<&Sample> {
        self.last.as_ref()
    }

    /// Readings taken.
    pub fn len(&self) -> u64 {
        self.seen
    }

    /// Whether nothing was read yet.
    pub fn is_empty(&self) -> bool {
        self.seen == 0
    }

    /// Processor time over work.
    pub fn cpu(&self) -> &[CpuReading] {
        &self.cpu
    }

    /// Units of work done.
    pub fn units(&self, rule: &Rule) -> f64 {
        let position = |sample: Option<&Sample>| sample.map_or(0.0, |s| s.position(rule.axes.unit));
        position(self.last()) - position(self.first())
    }

    /// Seconds from the first reading to the last.
    pub fn seconds(&self) -> f64 {
        let t_s = |sample: Option<&Sample>| sample.map_or(0.0, Sample::t_s);
        t_s(self.last()) - t_s(self.first())
    }

    /// What is judged, over work: both from the first reading.
    pub fn levels(&self, rule: &Rule) -> Vec<(f64, f64)> {
        let series = Series::of(&self.samples, rule.axes);
        let points = series.points();
        let Some(first) = points.first() else { return Vec::new() };
        points.iter().map(|p| (p.work - first.work, p.level - first.level)).collect()
    }

    /// The last reading, if it was not kept.
    fn unkept(&self) -> Option<&Sample> {
        self.last.as_ref().filter(|last| self.samples.last().is_some_and(|kept| kept != *last))
    }
}

fn halve<T>(values: &mut Vec<T>) {
    let mut keep = false;
    values.retain(|_| {
        keep = !keep;
        keep
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::plan::tests::plan;
    use pdlab_leak::sample::Memory;
    use pdlab_leak::verdict::VerdictKind;
    use pdlab_leak::work::Unit;

    fn course(readings: u64, bytes_per_s: u64) -> Course {
        let rule = plan(Unit::Second).rule();
        let mut course = Course::default();
        for i in 0..readings {
            let anonymous_bytes = 100_000_000 + i * bytes_per_s / 4;
            let memory = Memory { anonymous_bytes, ..Memory::default() };
            let sample = Sample { t_us: i * 250_000, memory, ..Sample::default() };
            course.add(sample, Some(i as f64), &rule);
        }
        course
    }

    #[test]
    fn a_long_watch_keeps_a_bounded_number_of_readings_and_its_slope() {
        let rule = plan(Unit::Second).rule();
        for readings in [100, MOST as u64 * 5 + 3] {
            let course = course(readings, 40_000);
            assert!(course.samples.len() <= MOST + 1 && course.cpu.len() <= MOST + 1);
            assert_eq!(course.len(), readings);
            let judgement = course.judge(&rule);
            assert_eq!(judgement.verdict.kind(), VerdictKind::Leak);
            let slope = judgement.estimate.unwrap().slope.value;
            assert!((slope - 40_000.0).abs() < 40.0, "{slope}");
            assert_eq!(course.units(&rule), (readings - 1) as f64 / 4.0);
            assert_eq!(course.cpu[0].units, 0.0);
        }
    }

    #[test]
    fn the_last_reading_counts_even_if_it_is_not_kept() {
        let course = course(MOST as u64 * 2 + 2, 0);
        assert_ne!(course.samples.last(), course.last());
        assert_eq!(course.last().unwrap().t_us, (MOST as u64 * 2 + 1) * 250_000);
    }

    #[test]
    fn nothing_read_is_no_verdict() {
        let judgement = Course::default().judge(&plan(Unit::Second).rule());
        assert_eq!(judgement.verdict.kind(), VerdictKind::Inconclusive);
    }
}
