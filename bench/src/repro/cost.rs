//! What work costs: processor time per unit, with and without a cure, early and late in a run.
//!
//! The time is that of the whole process, serving included, because that is what a user pays;
//! so a cure that doubles the price of an unmap raises it by less. `/proc/PID/stat` counts in
//! ticks of 10 ms, and a busy machine adds noise of its own. Instead of hoping that both are
//! small, the measurement is cut into `BLOCKS` parts whose scatter gives the error.

use procfs::ProcError;
use procfs::process::Process;

/// Parts whose scatter is the error. Parts of the shortest run (about 2 s of processor time)
/// still hold some 20 ticks each.
const BLOCKS: usize = 8;

/// Processor time used up to a point on the axis of work.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CpuReading {
    /// Units of work done.
    pub units: f64,
    /// Seconds of user and system time, all threads, those that ended included.
    pub cpu_s: f64,
}

/// Processor time per unit of work.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// Microseconds per unit.
    pub us_per_unit: f64,
    /// Standard error, microseconds per unit.
    pub error_us: f64,
}

/// One cost as a multiple of another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CostRatio {
    /// 1 is "the same".
    pub value: f64,
    /// Standard error.
    pub error: f64,
}

/// How the price of a unit developed over a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CostGrowth {
    /// Microseconds per unit in the first quarter of the work.
    pub first_us: f64,
    /// The same in the last quarter.
    pub last_us: f64,
}

impl CostGrowth {
    /// The last as a multiple of the first; `None` if the first is below what ticks can show.
    pub fn ratio(&self) -> Option<f64> {
        (self.first_us > 0.0).then(|| self.last_us / self.first_us)
    }
}

/// Processor time that `pid` has used, in seconds.
///
/// # Errors
/// If the process is gone or may not be read.
pub fn cpu_s(pid: u32) -> Result<f64, ProcError> {
    let stat = Process::new(pid as i32)?.stat()?;
    Ok((stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64)
}

/// The cost over `readings`, which are in order; `None` without work between them.
pub fn cost(readings: &[CpuReading]) -> Option<Cost> {
    let (first, last) = (readings.first()?, readings.last()?);
    let us_per_unit = between(first, last)?;
    let edges: Vec<&CpuReading> =
        (0..=BLOCKS).map(|i| &readings[i * (readings.len() - 1) / BLOCKS]).collect();
    let blocks: Vec<f64> = edges.windows(2).filter_map(|edge| between(edge[0], edge[1])).collect();
    let n = blocks.len() as f64;
    let mean = blocks.iter().sum::<f64>() / n;
    let variance = blocks.iter().map(|block| (block - mean).powi(2)).sum::<f64>() / (n - 1.0);
    // One block has no scatter; nothing is known about its error.
    let error_us = if n < 2.0 { f64::INFINITY } else { (variance / n).sqrt() };
    Some(Cost { us_per_unit, error_us })
}

/// The cost of the first and of the last quarter of the work in `readings`, which are in order;
/// `None` without work in either.
pub fn cost_growth(readings: &[CpuReading]) -> Option<CostGrowth> {
    let (first, last) = (readings.first()?, readings.last()?);
    let span = last.units - first.units;
    let at = |share: f64| {
        let units = first.units + share * span;
        readings.iter().find(|reading| reading.units >= units)
    };
    Some(CostGrowth { first_us: between(first, at(0.25)?)?, last_us: between(at(0.75)?, last)? })
}

impl Cost {
    /// This cost as a multiple of `base`; `None` if `base` is nothing.
    pub fn relative_to(&self, base: &Cost) -> Option<CostRatio> {
        if self.us_per_unit <= 0.0 || base.us_per_unit <= 0.0 {
            return None;
        }
        let value = self.us_per_unit / base.us_per_unit;
        // First-order propagation; the two runs are independent.
        let relative = (self.error_us / self.us_per_unit).hypot(base.error_us / base.us_per_unit);
        Some(CostRatio { value, error: value * relative })
    }
}

fn between(from: &CpuReading, to: &CpuReading) -> Option<f64> {
    let units = to.units - from.units;
    (units > 0.0).then(|| (to.cpu_s - from.cpu_s) * 1e6 / units)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readings(us_per_unit: impl Fn(usize) -> f64) -> Vec<CpuReading> {
        let mut cpu_s = 3.0;
        let mut readings = vec![CpuReading { units: 1000.0, cpu_s }];
        for i in 1..=80 {
            cpu_s += us_per_unit(i) * 100.0 / 1e6;
            readings.push(CpuReading { units: 1000.0 + 100.0 * i as f64, cpu_s });
        }
        readings
    }

    #[test]
    fn cost_is_time_over_work() {
        let cost = cost(&readings(|_| 20.0)).unwrap();
        assert!((cost.us_per_unit - 20.0).abs() < 1e-6 && cost.error_us < 1e-6, "{cost:?}");
    }

    #[test]
    fn scatter_between_parts_is_the_error() {
        // Every other tenth costs 30 instead of 10: mean 20, scatter about 10 over 8 parts.
        let cost = cost(&readings(|i| if (i - 1) / 10 % 2 == 0 { 10.0 } else { 30.0 })).unwrap();
        assert!((cost.us_per_unit - 20.0).abs() < 1e-6, "{cost:?}");
        assert!((3.0..4.5).contains(&cost.error_us), "{cost:?}");
    }

    #[test]
    fn a_cost_that_grows_shows_in_the_quarters() {
        let growth = cost_growth(&readings(|i| i as f64)).unwrap();
        // The means of 1 to 20 and of 61 to 80.
        assert!((growth.first_us - 10.5).abs() < 1e-6, "{growth:?}");
        assert!((growth.last_us - 70.5).abs() < 1e-6, "{growth:?}");
        let flat = cost_growth(&readings(|_| 20.0)).unwrap();
        assert!((flat.ratio().unwrap() - 1.0).abs() < 1e-6, "{flat:?}");
        let still = CpuReading { units: 5.0, cpu_s: 1.0 };
        assert_eq!((cost_growth(&[]), cost_growth(&[still, still])), (None, None));
    }

    #[test]
    fn without_work_or_scatter_nothing_is_claimed() {
        let still = CpuReading { units: 5.0, cpu_s: 1.0 };
        assert_eq!(cost(&[]), None);
        assert_eq!(cost(&[still, still]), None);
        let two = [still, CpuReading { units: 6.0, cpu_s: 2.0 }];
        assert_eq!(cost(&two).unwrap().error_us, f64::INFINITY);
    }

    #[test]
    fn a_ratio_carries_both_errors() {
        let base = Cost { us_per_unit: 10.0, error_us: 0.3 };
        let cured = Cost { us_per_unit: 20.0, error_us: 0.8 };
        let ratio = cured.relative_to(&base).unwrap();
        assert!((ratio.value - 2.0).abs() < 1e-12 && (ratio.error - 0.1).abs() < 1e-12);
        assert_eq!(cured.relative_to(&Cost { us_per_unit: 0.0, error_us: 0.0 }), None);
    }

    #[test]
    fn this_process_uses_time() {
        let before = cpu_s(std::process::id()).unwrap();
        let mut x = 0u64;
        while cpu_s(std::process::id()).unwrap() < before + 0.02 {
            x = std::hint::black_box(x + 1);
        }
        assert!(cpu_s(u32::MAX >> 1).is_err(), "{x}");
    }
}
