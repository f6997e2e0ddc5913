//! What a role may grow by: memory, and what it takes of RDMA devices, which its memory does not show.

use pdlab_leak::estimate::Series;
use pdlab_leak::gauge::{Axes, Gauge};
use pdlab_leak::sample::Sample;
use pdlab_leak::verdict::{Criteria, Judgement, VerdictKind, judge};
use pdlab_leak::work::Unit;

use crate::watch::plan::default_margin;

/// What is judged of devices, where a role has any of it.
const OF_DEVICES: [Gauge; 3] = [Gauge::PinnedOutlived, Gauge::RdmaMrs, Gauge::RdmaQps];

/// A verdict, and what it is about.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// What grows, and with what.
    pub axes: Axes,
    /// Whether it does.
    pub judgement: Judgement,
}

impl Finding {
    /// Whether it is a leak.
    pub fn leaks(&self) -> bool {
        self.judgement.verdict.kind() == VerdictKind::Leak
    }
}

/// The verdict on the memory of a role.
pub fn of_memory(samples: &[Sample], unit: Unit, margin_bytes: f64, seed: u64) -> Finding {
    of(samples, Axes { gauge: Gauge::Held, unit }, margin_bytes, seed)
}

/// What a role leaks of RDMA devices, if it does.
pub fn of_devices(samples: &[Sample], unit: Unit, seed: u64) -> Option<Finding> {
    let has_any = |gauge: &Gauge| samples.iter().any(|s| gauge.of(s).is_some_and(|n| n > 0));
    let judged = |gauge| of(samples, Axes { gauge, unit }, default_margin(gauge, unit), seed);
    OF_DEVICES.into_iter().filter(has_any).map(judged).find(Finding::leaks)
}

fn of(samples: &[Sample], axes: Axes, margin_per_unit: f64, seed: u64) -> Finding {
    let criteria = Criteria::new(axes.gauge, margin_per_unit);
    Finding { axes, judgement: judge(&Series::of(samples, axes), &criteria, seed) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pdlab_leak::rdma::Objects;
    use pdlab_leak::sample::{Counts, Memory};
    use pdlab_leak::work::Work;

    /// A role that answers a request a second; what it has of devices after so many.
    fn samples(of: impl Fn(u64) -> (Option<Objects>, u64)) -> Vec<Sample> {
        let sample = |second: u64| {
            let (rdma, pinned_bytes) = of(second);
            Sample {
                t_us: second * 1_000_000,
                work: Work { requests: second, ..Work::default() },
                memory: Memory { anonymous_bytes: 50_000_000, pinned_bytes, ..Memory::default() },
                held: Counts { registered_bytes: 4096, ..Counts::default() },
                rdma,
                ..Sample::default()
            }
        };
        (0..60).map(sample).collect()
    }

    fn leaking(samples: &[Sample]) -> Option<Gauge> {
        assert!(!of_memory(samples, Unit::Request, 256.0, 1).leaks());
        of_devices(samples, Unit::Request, 1).map(|found| found.axes.gauge)
    }

    #[test]
    fn queue_pairs_that_stay_are_a_leak_that_memory_does_not_show() {
        let pairs = |queue_pairs| Objects { devices: 1, queue_pairs, ..Objects::default() };
        assert_eq!(leaking(&samples(|n| (Some(pairs(2 * n)), 4096))), Some(Gauge::RdmaQps));
        assert_eq!(leaking(&samples(|n| (Some(pairs(2 + n % 2)), 4096))), None);
        assert_eq!(leaking(&samples(|_| (None, 0))), None);
    }

    #[test]
    fn pinned_memory_that_nobody_has_registered_is_a_leak() {
        let one = Objects { devices: 1, memory_regions: 1, ..Objects::default() };
        assert_eq!(
            leaking(&samples(|n| (Some(one), 4096 + 8192 * n))),
            Some(Gauge::PinnedOutlived)
        );
        assert_eq!(leaking(&samples(|_| (Some(one), 4096))), None);
    }
}
