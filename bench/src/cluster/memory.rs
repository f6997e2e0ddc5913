//! The memory of a cluster's processes, for the live page of its router.
//!
//! The router cannot see the memory of its workers; whoever has started them can. Readings of a
//! whole life are kept in constant memory, ever coarser, so that a slope is always one over all of
//! it.

use std::time::Duration;

use pdlab_api::live::{LeakVerdict, MemoryReport, MemorySlope, RoleMemory};
use pdlab_leak::explain;
use pdlab_leak::gauge::{Axes, Gauge};
use pdlab_leak::rdma::Census;
use pdlab_leak::sample::Sample;
use pdlab_leak::sampler::Watched;
use pdlab_leak::verdict::{Judgement, VerdictKind};
use pdlab_leak::work::Unit;
use tokio::time::{Instant, timeout};

use super::Cluster;
use crate::growth;
use crate::repro::pairing::{counters, held};

/// Readings kept of a process. An estimate takes some milliseconds from this many.
const SAMPLES: usize = 512;

/// How often verdicts are made anew; readings are shown as they come.
const JUDGE_EVERY: Duration = Duration::from_secs(5);

/// A role that does not answer within this time is left out once.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(1);

/// Watches the processes of a cluster.
#[derive(Debug)]
pub struct MemoryWatch {
    /// In the order of [`Cluster::roles`].
    processes: Vec<Process>,
    census: Census,
    began: Instant,
    judged: Option<Instant>,
    seed: u64,
}

#[derive(Debug)]
struct Process {
    /// `None` if it may not be read.
    watched: Option<Watched>,
    samples: Samples,
    finding: Finding,
}

/// What the samples of a process say.
#[derive(Debug, Clone)]
struct Finding {
    slope: Option<MemorySlope>,
    verdict: LeakVerdict,
    says: String,
}

/// Samples of any length of time, at most [`SAMPLES`]: when there are too many, every second one
/// goes, and from then on only every second one is taken.
#[derive(Debug)]
struct Samples {
    kept: Vec<Sample>,
    every: u64,
    seen: u64,
}

impl MemoryWatch {
    /// Begins to watch. `seed` decides what is random about an estimate.
    pub fn open(cluster: &Cluster, seed: u64) -> Self {
        let process = |pid| Process {
            watched: Watched::open(pid).ok(),
            samples: Samples::new(),
            finding: Finding::of(&[], seed),
        };
        Self {
            processes: cluster.roles().iter().map(|role| process(role.pid())).collect(),
            census: Census::open(),
            began: Instant::now(),
            judged: None,
            seed,
        }
    }

    /// Reads every process that answers, except those at the places `dead`.
    pub async fn look(&mut self, cluster: &mut Cluster, dead: &[usize]) -> MemoryReport {
        let now = Instant::now();
        let judge_now = self.judged.is_none_or(|judged| now - judged >= JUDGE_EVERY);
        if judge_now {
            self.judged = Some(now);
        }
        let mut processes = Vec::new();
        let holdings = self.census.read();
        for (index, process) in self.processes.iter_mut().enumerate() {
            if dead.contains(&index) {
                continue;
            }
            let Some(mut sample) = process.read(cluster, index, self.began).await else { continue };
            sample.rdma = holdings.of(cluster.roles()[index].pid());
            process.samples.push(sample.clone());
            if judge_now {
                process.finding = Finding::of(&process.samples.kept, self.seed);
            }
            processes.push(report(&sample, &process.finding));
        }
        MemoryReport { processes }
    }
}

impl Process {
    async fn read(&self, cluster: &mut Cluster, index: usize, began: Instant) -> Option<Sample> {
        let snapshot = timeout(SNAPSHOT_PATIENCE, cluster.snapshot(index)).await.ok()?.ok()?;
        let memory = self.watched.as_ref()?.read().ok()?;
        Some(Sample {
            process: cluster.roles()[index].label().to_owned(),
            t_us: began.elapsed().as_micros() as u64,
            work: counters(&snapshot.work),
            memory,
            held: held(&snapshot),
            rdma: None,
        })
    }
}

impl Finding {
    fn of(samples: &[Sample], seed: u64) -> Self {
        let unit = unit(samples);
        let memory = growth::of_memory(samples, unit, margin(unit), seed);
        // What it leaks of devices is told in words; the slope is always that of its memory.
        let devices = if memory.leaks() { None } else { growth::of_devices(samples, unit, seed) };
        let devices = devices.map(|found| Self::from_judgement(&found.judgement, found.axes));
        let memory = Self::from_judgement(&memory.judgement, memory.axes);
        devices.map_or(memory.clone(), |devices| Self { slope: memory.slope, ..devices })
    }

    fn from_judgement(judgement: &Judgement, axes: Axes) -> Self {
        let slope = judgement.estimate.as_ref().map(|estimate| MemorySlope {
            unit: axes.unit.to_string(),
            bytes_per_unit: estimate.slope.value,
            low: estimate.slope.low,
            high: estimate.slope.high,
            bytes_per_s: estimate.per_s(),
        });
        let verdict = match judgement.verdict.kind() {
            VerdictKind::Leak => LeakVerdict::Leak,
            VerdictKind::Clean => LeakVerdict::Clean,
            VerdictKind::Inconclusive => LeakVerdict::Inconclusive,
        };
        let doubt = explain::doubt(judgement, axes).map(|doubt| format!(" {doubt}"));
        let says = format!("{}{}", explain::verdict(judgement, axes), doubt.unwrap_or_default());
        Self { slope, verdict, says }
    }
}

impl Samples {
    fn new() -> Self {
        Self { kept: Vec::new(), every: 1, seen: 0 }
    }

    fn push(&mut self, sample: Sample) {
        let wanted = self.seen.is_multiple_of(self.every);
        self.seen += 1;
        if !wanted {
            return;
        }
        if self.kept.len() == SAMPLES {
            let mut at = 0;
            self.kept.retain(|_| {
                at += 1;
                at % 2 == 1
            });
            self.every *= 2;
            // The new one stays if it is on the coarser grid.
            if !(self.seen - 1).is_multiple_of(self.every) {
                return;
            }
        }
        self.kept.push(sample);
    }
}

/// What a slope is given per: unmaps where there are any, else requests, else time. Growth follows
/// unmaps where the process makes them on purpose, and requests in all other cases; an idle process
/// has only time.
fn unit(samples: &[Sample]) -> Unit {
    let (Some(first), Some(last)) = (samples.first(), samples.last()) else { return Unit::Second };
    let done = |unit: &Unit| last.work.count(*unit) > first.work.count(*unit);
    [Unit::Unmap, Unit::Request].into_iter().find(done).unwrap_or(Unit::Second)
}

/// Bytes per unit that are no leak: those of the scenarios for the same unit, and a quarter of a
/// megabyte per minute for an idle process.
fn margin(unit: Unit) -> f64 {
    match unit {
        Unit::Unmap => 4.0,
        Unit::Second => 4000.0,
        _ => 256.0,
    }
}

fn report(sample: &Sample, finding: &Finding) -> RoleMemory {
    let Finding { slope, verdict, says } = finding.clone();
    RoleMemory {
        process: sample.process.clone(),
        rss_bytes: sample.memory.rss_bytes,
        held_bytes: Gauge::Held.of(sample).unwrap_or(0),
        fds: sample.memory.fds,
        threads: sample.memory.threads,
        slope,
        verdict,
        says,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pdlab_leak::sample::Memory;
    use pdlab_leak::work::Work;

    /// One sample a second of a process that does `units` of unmaps and gains `bytes` at each.
    fn sample(second: u64, units: u64, bytes: u64) -> Sample {
        Sample {
            process: "decode-0".into(),
            t_us: second * 1_000_000,
            work: Work { unmaps: units * second, requests: second, ..Work::default() },
            memory: Memory {
                anonymous_bytes: 50_000_000 + bytes * units * second,
                ..Memory::default()
            },
            ..Sample::default()
        }
    }

    #[test]
    fn a_long_life_is_kept_in_constant_memory_and_evenly() {
        let mut samples = Samples::new();
        for second in 0..100_000 {
            samples.push(sample(second, 1, 0));
            assert!(samples.kept.len() <= SAMPLES);
        }
        let times: Vec<u64> = samples.kept.iter().map(|s| s.t_us / 1_000_000).collect();
        assert!(times.len() > SAMPLES / 2 - 1 && times[0] == 0, "{}", times.len());
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] == samples.every), "{times:?}");
    }

    #[test]
    fn a_leak_is_told_per_unmap_and_a_clean_process_is_called_so() {
        let leak: Vec<Sample> = (0..60).map(|second| sample(second, 1000, 144)).collect();
        let found = Finding::of(&leak, 1);
        let slope = found.slope.unwrap();
        assert_eq!((found.verdict, &*slope.unit), (LeakVerdict::Leak, "unmap"));
        assert!((slope.bytes_per_unit - 144.0).abs() < 0.5, "{slope:?}");
        assert!((slope.bytes_per_s - 144_000.0).abs() < 500.0, "{slope:?}");
        assert!(found.says.starts_with("LEAK. 144"), "{}", found.says);
        let clean: Vec<Sample> = (0..60).map(|second| sample(second, 0, 0)).collect();
        let found = Finding::of(&clean, 1);
        assert_eq!(
            (found.verdict, found.slope.unwrap().unit),
            (LeakVerdict::Clean, "request".into())
        );
        let first = Finding::of(&clean[..3], 1);
        assert_eq!((first.verdict, first.slope), (LeakVerdict::Inconclusive, None));
        assert!(first.says.contains("3 samples"), "{}", first.says);
    }

    #[test]
    fn an_idle_process_is_judged_by_time() {
        let idle: Vec<Sample> = (0..60)
            .map(|second| Sample { work: Work::default(), ..sample(second, 0, 0) })
            .collect();
        assert_eq!((unit(&idle), unit(&[])), (Unit::Second, Unit::Second));
        assert_eq!(Finding::of(&idle, 1).verdict, LeakVerdict::Clean);
    }
}
