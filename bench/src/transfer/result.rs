//! What a run has found: `result.json`. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::plan::{Cell, Plan};
use super::stats::{Latencies, Percentiles, Spread};
use super::topology::Flow;

/// How a result of ours is known among others.
pub const KIND: &str = "transfer";

/// Version of `result.json`.
pub const FORMAT: u32 = 1;

/// A whole run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TransferReport {
    /// [`KIND`].
    pub kind: String,
    /// [`FORMAT`].
    pub format: u32,
    /// Version of pdlab.
    pub pdlab: String,
    /// UTC, as in the name of the run.
    pub started: String,
    /// What was to be measured.
    pub plan: Plan,
    /// Every agent, by transport.
    pub agents: Vec<AgentFacts>,
    /// What was measured, in the order of the plan's cells.
    pub points: Vec<Point>,
    /// It was stopped by a signal.
    pub interrupted: bool,
    /// Why it ended early, if it did.
    pub failure: Option<String>,
    /// Ceilings that could not be measured, and why.
    pub missing: Vec<String>,
    /// In all.
    pub duration_s: f64,
}

/// One agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentFacts {
    /// Its index in the topology.
    pub index: usize,
    /// The transport that was asked for.
    pub asked: String,
    /// The one it took.
    pub transport: String,
    /// Version of the library behind it.
    pub library: Option<String>,
    /// Why it took that.
    pub why: String,
    /// Name of its host.
    pub host: String,
    /// Where its data goes.
    pub data_host: String,
    /// Identifies its process.
    pub process: u64,
    /// What it sets that its library would not.
    pub settings: BTreeMap<String, String>,
    /// `UCX_*` variables of its environment.
    pub variables: BTreeMap<String, String>,
}

/// One cell, measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// What was measured.
    pub cell: Cell,
    /// Transport and version, such as `ucx 1.22.0`.
    pub transport: String,
    /// Bytes per second of all flows together, over rounds.
    pub bytes_per_s: Spread,
    /// Of each flow.
    pub flows: Vec<FlowPoint>,
    /// Of single transfers, all rounds and flows together.
    pub latency: Percentiles,
    /// Processor seconds per 10^9 bytes moved.
    pub cpu_s_per_gb: CpuPoint,
    /// What it compares with, measured between its rounds.
    pub ceilings: Vec<CeilingPoint>,
    /// Bytes measured.
    pub bytes: u64,
    /// Transfers measured.
    pub transfers: u64,
    /// Blocks checked, those of the warm-up included for writes.
    pub verified_blocks: u64,
    /// Blocks that were not what they had to be.
    pub corrupt_blocks: u64,
    /// The first of them.
    pub first_corrupt: Option<String>,
    /// Every round, in order.
    pub rounds: Vec<Round>,
}

/// One flow of a point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FlowPoint {
    /// From where to where.
    pub flow: Flow,
    /// Bytes per second.
    pub bytes_per_s: Spread,
}

/// Processor time by side; a process that is both, as in all-to-all, counts as neither.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct CpuPoint {
    /// Processes that are only read from.
    pub sources: Option<Spread>,
    /// Processes that only read.
    pub targets: Option<Spread>,
    /// All of them.
    pub all: Option<Spread>,
}

/// A ceiling beside a point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CeilingPoint {
    /// `memcpy cold`, `ucx_perftest`, …
    pub name: String,
    /// How it was called, if it is a program.
    pub command: Option<String>,
    /// Bytes per second.
    pub bytes_per_s: Option<Spread>,
    /// Our bandwidth over its, round by round.
    pub bandwidth_ratio: Option<Spread>,
    /// Its latency, microseconds.
    pub latency_us: Option<Spread>,
    /// Our median latency over its, round by round.
    pub latency_ratio: Option<Spread>,
}

/// One measurement of one cell.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// Bytes that arrived.
    pub bytes: u64,
    /// From the first transfer to the end of the last.
    pub seconds: f64,
    /// Bytes per second by flow.
    pub flows: Vec<(Flow, f64)>,
    /// Of single transfers.
    pub latency: Percentiles,
    /// Processor seconds: sources, targets, all.
    pub cpu_s: [f64; 3],
    /// By name: what it compares with.
    pub ceilings: BTreeMap<String, CeilingRound>,
}

/// A ceiling in one round.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CeilingRound {
    /// Bytes per second.
    pub bytes_per_s: Option<f64>,
    /// Microseconds.
    pub latency_us: Option<f64>,
    /// How it was called.
    pub command: Option<String>,
}

/// What is gathered of a cell while rounds go on.
#[derive(Debug, Clone, Default)]
pub struct Gathered {
    /// Every round that ended.
    pub rounds: Vec<Round>,
    /// All transfers.
    pub latencies: Latencies,
    /// Transfers measured.
    pub transfers: u64,
    /// Blocks checked.
    pub verified_blocks: u64,
    /// Of these, wrong.
    pub corrupt_blocks: u64,
    /// The first of them.
    pub first_corrupt: Option<String>,
}

impl Gathered {
    /// The point; `None` before its first round.
    pub fn point(&self, cell: &Cell, transport: &str) -> Option<Point> {
        let rounds = &self.rounds;
        let bytes_per_s = Spread::of(rounds.iter().map(Round::bytes_per_s))?;
        let flow = |&(flow, _): &(Flow, f64)| {
            let of_flow =
                |round: &Round| round.flows.iter().find(|(f, _)| *f == flow).map(|(_, r)| *r);
            let bytes_per_s = Spread::of(rounds.iter().filter_map(of_flow))?;
            Some(FlowPoint { flow, bytes_per_s })
        };
        let cpu = |side: usize| {
            let per_gb = |round: &Round| round.cpu_s[side] / (round.bytes as f64 / 1e9);
            let spread = Spread::of(rounds.iter().map(per_gb))?;
            (spread.high > 0.0).then_some(spread)
        };
        let names: std::collections::BTreeSet<&String> =
            rounds.iter().flat_map(|round| round.ceilings.keys()).collect();
        Some(Point {
            cell: cell.clone(),
            transport: transport.to_owned(),
            bytes_per_s,
            flows: rounds[0].flows.iter().filter_map(flow).collect(),
            latency: self.latencies.percentiles(),
            cpu_s_per_gb: CpuPoint { sources: cpu(0), targets: cpu(1), all: cpu(2) },
            ceilings: names.into_iter().map(|name| ceiling(name, rounds)).collect(),
            bytes: rounds.iter().map(|round| round.bytes).sum(),
            transfers: self.transfers,
            verified_blocks: self.verified_blocks,
            corrupt_blocks: self.corrupt_blocks,
            first_corrupt: self.first_corrupt.clone(),
            rounds: rounds.clone(),
        })
    }
}

impl Round {
    /// Bytes per second of all flows together.
    pub fn bytes_per_s(&self) -> f64 {
        if self.seconds > 0.0 { self.bytes as f64 / self.seconds } else { f64::NAN }
    }
}

/// Ratios are of one round each: what slows the machine down slows both.
fn ceiling(name: &str, rounds: &[Round]) -> CeilingPoint {
    let seen = || rounds.iter().filter_map(|round| Some((round, round.ceilings.get(name)?)));
    let bandwidths = || seen().filter_map(|(round, ceiling)| Some((round, ceiling.bytes_per_s?)));
    let latencies = || seen().filter_map(|(round, ceiling)| Some((round, ceiling.latency_us?)));
    CeilingPoint {
        name: name.to_owned(),
        command: seen().find_map(|(_, ceiling)| ceiling.command.clone()),
        bytes_per_s: Spread::of(bandwidths().map(|(_, rate)| rate)),
        bandwidth_ratio: Spread::of(bandwidths().map(|(round, rate)| round.bytes_per_s() / rate)),
        latency_us: Spread::of(latencies().map(|(_, us)| us)),
        latency_ratio: Spread::of(latencies().map(|(round, us)| round.latency.p50_us / us)),
    }
}

impl TransferReport {
    /// Blocks that were not what they had to be.
    pub fn corrupt_blocks(&self) -> u64 {
        self.points.iter().map(|point| point.corrupt_blocks).sum()
    }

    /// How the run ends, for the shell: 1 for corrupt data, 3 if it ended early by itself, 130 by
    /// a signal (128 and the number of SIGINT, as shells have it), else 0.
    pub fn exit_code(&self) -> u8 {
        match () {
            () if self.corrupt_blocks() > 0 => 1,
            () if self.failure.is_some() => 3,
            () if self.interrupted => 130,
            () => 0,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::transfer::plan::tests::plan;
    use crate::transfer::topology::Pattern;
    use std::time::Duration;

    fn round(bytes: u64, perftest: f64) -> Round {
        let flow = Flow { source: 1, target: 0 };
        let told = CeilingRound {
            bytes_per_s: Some(perftest),
            latency_us: Some(10.0),
            command: Some("ucx_perftest x".to_owned()),
        };
        Round {
            bytes,
            seconds: 2.0,
            flows: vec![(flow, bytes as f64 / 2.0)],
            latency: Percentiles { p50_us: 20.0, samples: 1, ..Percentiles::default() },
            cpu_s: [1.0, 3.0, 4.0],
            ceilings: BTreeMap::from([("ucx_perftest".to_owned(), told)]),
        }
    }

    pub(crate) fn report() -> TransferReport {
        let plan = plan(Pattern::ManyToOne, 1);
        let mut gathered = Gathered {
            rounds: vec![
                round(4_000_000_000, 1e9),
                round(8_000_000_000, 4e9),
                round(8_000_000_000, 2e9),
            ],
            transfers: 9,
            verified_blocks: 9,
            ..Gathered::default()
        };
        (0..9).for_each(|us| gathered.latencies.record(Duration::from_micros(10 + us)));
        TransferReport {
            kind: KIND.to_owned(),
            format: FORMAT,
            pdlab: "0.1.0".to_owned(),
            started: "20261127T200000Z".to_owned(),
            points: vec![gathered.point(&plan.cells[0], "tcp").unwrap()],
            plan,
            agents: Vec::new(),
            interrupted: false,
            failure: None,
            missing: Vec::new(),
            duration_s: 1.0,
        }
    }

    #[test]
    fn ratios_are_medians_of_ratios_and_not_ratios_of_medians() {
        let point = &report().points[0];
        assert_eq!((point.bytes_per_s.median, point.bytes_per_s.low), (4e9, 2e9));
        assert_eq!(point.ceilings.len(), 1);
        let ceiling = &point.ceilings[0];
        // 2, 1 and 2; the medians alone would give 2, too, and the spread would be lost.
        let ratio = ceiling.bandwidth_ratio.unwrap();
        assert_eq!((ratio.median, ratio.low, ratio.high, ratio.rounds), (2.0, 1.0, 2.0, 3));
        assert_eq!(ceiling.latency_ratio.unwrap().median, 2.0);
        assert_eq!(point.cpu_s_per_gb.targets.unwrap().median, 0.375);
        assert_eq!(point.flows[0].bytes_per_s.median, 4e9);
        assert_eq!((point.latency.samples, point.bytes), (9, 20_000_000_000));
        assert!(Gathered::default().point(&point.cell, "tcp").is_none());
    }

    #[test]
    fn a_result_is_read_as_it_was_written() {
        let json = serde_json::to_string(&report()).unwrap();
        assert_eq!(serde_json::from_str::<TransferReport>(&json).unwrap(), report());
    }

    #[test]
    fn the_exit_code_says_what_weighs_most() {
        let code = |change: fn(&mut TransferReport)| {
            let mut report = report();
            change(&mut report);
            report.exit_code()
        };
        assert_eq!(code(|_| ()), 0);
        assert_eq!(code(|report| report.interrupted = true), 130);
        assert_eq!(code(|report| report.failure = Some("lost".to_owned())), 3);
        assert_eq!(code(|report| report.points[0].corrupt_blocks = 1), 1);
        assert_eq!(
            code(|report| {
                report.points[0].corrupt_blocks = 1;
                report.failure = Some("lost".to_owned());
            }),
            1
        );
    }
}
