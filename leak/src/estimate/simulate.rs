//! Simulated processes: what memory readings look like, with the truth known. For tests only.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, Exp, StandardNormal};

use super::{Point, Series, estimate};

pub(crate) const MB: f64 = 1e6;

/// A minute of readings, five per second, of a process of 500 MB that does work at an uneven rate.
#[derive(Clone)]
pub(crate) struct Run {
    pub(crate) rng: SmallRng,
    /// Seconds of each reading.
    pub(crate) t_s: Vec<f64>,
    /// Work done by then.
    pub(crate) work: Vec<f64>,
    /// Bytes read.
    pub(crate) bytes: Vec<f64>,
}

impl Run {
    /// `samples` readings over `seconds`; about `rate` units of work per second, with half-second hiccups.
    pub(crate) fn new(seed: u64, seconds: f64, samples: usize, rate: f64) -> Run {
        let mut rng = SmallRng::seed_from_u64(seed ^ 0x5eed);
        let step = seconds / samples as f64;
        let t_s: Vec<f64> = (1..=samples).map(|i| i as f64 * step).collect();
        let mut work = Vec::with_capacity(samples);
        let (mut done, mut pace) = (0.0, 1.0);
        for _ in 0..samples {
            if rng.random_bool((2.0 * step).min(1.0)) {
                pace = rng.random_range(0.5..1.5);
            }
            done += rate * pace * step;
            work.push(f64::floor(done));
        }
        Run { rng, bytes: vec![500.0 * MB; samples], t_s, work }
    }

    /// The minute of the acceptance tests, with one unit of work per second.
    pub(crate) fn minute(seed: u64) -> Run {
        Run::minutes(1, seed)
    }

    pub(crate) fn minutes(minutes: usize, seed: u64) -> Run {
        let mut run = Run::new(seed, 60.0 * minutes as f64, 300 * minutes, 1.0);
        run.work = run.t_s.clone();
        run
    }

    /// Adds `bytes(t, work)`.
    pub(crate) fn add(mut self, bytes: impl Fn(f64, f64) -> f64) -> Run {
        for i in 0..self.bytes.len() {
            self.bytes[i] += bytes(self.t_s[i], self.work[i]);
        }
        self
    }

    /// Ordinary noise: readings that wander and come back within a second or so (standard deviation `sd` bytes).
    pub(crate) fn noise(mut self, sd: f64) -> Run {
        let keep = f64::exp(-(self.t_s[1] - self.t_s[0]) / 0.7);
        let mut level = self.normal() * sd;
        for i in 0..self.bytes.len() {
            level = keep * level + (1.0 - keep * keep).sqrt() * sd * self.normal();
            self.bytes[i] += level;
        }
        self
    }

    /// Buffers that come and go: `per_s` a second, each of about `bytes` for about `hold_s` seconds.
    pub(crate) fn bursts(mut self, per_s: f64, bytes: f64, hold_s: f64) -> Run {
        let (gap, hold) = (Exp::new(per_s).unwrap(), Exp::new(1.0 / hold_s).unwrap());
        let mut start = gap.sample(&mut self.rng);
        while start < self.t_s[self.t_s.len() - 1] {
            let (end, size) =
                (start + hold.sample(&mut self.rng), bytes * self.rng.random_range(0.5..1.5));
            self = self.add(|t, _| if (start..end).contains(&t) { size } else { 0.0 });
            start += gap.sample(&mut self.rng);
        }
        self
    }

    /// An arena that is filled and trimmed: a sawtooth of about `period_s` and up to `bytes`.
    pub(crate) fn sawtooth(mut self, period_s: f64, bytes: f64) -> Run {
        let (mut begin, mut end) = (-period_s * self.uniform(0.0, 1.0), 0.0);
        let mut top = bytes;
        for i in 0..self.t_s.len() {
            while self.t_s[i] >= end {
                begin = if end == 0.0 { begin } else { end };
                end = begin + period_s * self.uniform(0.6, 1.4);
                top = bytes * self.uniform(0.7, 1.3);
            }
            self.bytes[i] += top * (self.t_s[i] - begin) / (end - begin);
        }
        self
    }

    pub(crate) fn uniform(&mut self, low: f64, high: f64) -> f64 {
        self.rng.random_range(low..high)
    }

    fn normal(&mut self) -> f64 {
        StandardNormal.sample(&mut self.rng)
    }

    /// The series; readings are whole pages, as the kernel's are.
    pub(crate) fn series(&self) -> Series {
        let page = |bytes: f64| (bytes / 4096.0).round() * 4096.0;
        Series::new((0..self.t_s.len()).map(|i| Point {
            work: self.work[i],
            level: page(self.bytes[i]),
            t_s: self.t_s[i],
        }))
    }
}

/// Six seconds of 144 bytes per unit, the way a pool takes them: 147,456 bytes for every 1,024 units, at any phase.
pub(crate) fn chunks(seed: u64, units: f64) -> Run {
    let mut run = Run::new(seed, 6.0, 120, units / 6.0);
    let phase = run.uniform(0.0, 1024.0);
    run.add(|_, work| 147_456.0 * ((work + phase) / 1024.0).floor())
}

/// The controls: growth that ends, and growth that is none. By name, for the message of a failed test.
///
/// A minute long, or `minutes` of the same with the growth still in the first.
pub(crate) fn control(kind: usize, seed: u64, minutes: usize) -> (&'static str, Run) {
    let mut run = Run::minutes(minutes, seed.wrapping_mul(31).wrapping_add(kind as u64));
    match kind {
        0 => ("noise", run.noise(0.15 * MB)),
        1 => {
            let (at, size) = (run.uniform(3.0, 57.0), run.uniform(0.5, 20.0) * MB);
            ("one step", run.noise(0.08 * MB).add(|t, _| if t > at { size } else { 0.0 }))
        }
        2 => {
            let (a, b, c) =
                (run.uniform(2.0, 20.0), run.uniform(20.0, 35.0), run.uniform(35.0, 45.0));
            let size = run.uniform(0.5, 5.0) * MB;
            let level = move |t: f64| size * [a, b, c].iter().filter(|&&at| t > at).count() as f64;
            ("three steps", run.noise(0.05 * MB).add(|t, _| level(t)))
        }
        3 => {
            let (period, size) = (run.uniform(2.0, 10.0), run.uniform(0.5, 8.0) * MB);
            ("sawtooth", run.noise(0.05 * MB).sawtooth(period, size))
        }
        4 => ("bursts", run.noise(0.05 * MB).bursts(0.5, 3.0 * MB, 0.8)),
        5 => {
            let (tau, size) = (run.uniform(1.0, 12.0), run.uniform(2.0, 40.0) * MB);
            ("warm-up", run.noise(0.05 * MB).add(|t, _| size * (1.0 - f64::exp(-t / tau))))
        }
        6 => {
            let (full, size) = (run.uniform(3.0, 40.0), run.uniform(2.0, 40.0) * MB);
            ("pool fills", run.noise(0.05 * MB).add(|t, _| size * (t / full).min(1.0)))
        }
        _ => ("still", run),
    }
}

/// Kinds of [`control`].
pub(crate) const CONTROLS: usize = 8;

/// Share of `runs` whose interval holds the true slope.
pub(crate) fn coverage(runs: u64, truth: f64, run: impl Fn(u64) -> Run) -> f64 {
    let covered = |seed: &u64| {
        let slope =
            estimate(&run(*seed).series(), *seed).expect("simulated runs are long enough").slope;
        (slope.low..=slope.high).contains(&truth)
    };
    (0..runs).filter(covered).count() as f64 / runs as f64
}
