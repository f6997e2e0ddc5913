//! Runs a plan: rounds over all cells in turn, with the ceilings between them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::ceiling::{Copies, Tool};
use super::error::Error;
use super::fleet::{Fleet, Sites};
use super::plan::{COLD_BYTES, Cell, Limit, Op, Plan};
use super::result::{AgentFacts, CeilingRound, FORMAT, Gathered, KIND, Round, TransferReport};
use super::stats::Latencies;
use super::table::gb;
use super::topology::{Flow, into, out_of};
use super::wire::{Leg, LegReport, Reply, Report, Request, Run, ToolJob};
use super::words::micros;
use crate::run_dir::{RunDir, utc};

/// Copying in memory, per block size and round.
const COPY_TIME: Duration = Duration::from_millis(100);
/// What a tool is to take, about.
const TOOL_SECONDS: f64 = 1.0;
/// Assumed before a first measurement, bytes per second.
const GUESSED_RATE: f64 = 1e9;

/// How a run is carried out here.
pub struct Setting<'a> {
    /// Where agents are.
    pub sites: &'a Sites,
    /// Where the result goes.
    pub dir: &'a RunDir,
    /// Whether ceilings are measured.
    pub ceilings: bool,
    /// Takes a line per measurement.
    pub note: &'a (dyn Fn(&str) + Sync),
}

/// Measures everything, or as much as there is until `cancel`; what was measured is written.
///
/// # Errors
/// If nothing could be begun. What goes wrong later is in the report.
pub async fn run(
    plan: &Plan,
    setting: &Setting<'_>,
    cancel: &CancellationToken,
) -> Result<TransferReport, Error> {
    let (begun, started) = (Instant::now(), utc(SystemTime::now()));
    let transports: BTreeSet<&String> = plan.cells.iter().map(|cell| &cell.transport).collect();
    let mut fleets = BTreeMap::new();
    for transport in transports {
        let assembling = Fleet::assemble(plan, transport, setting.sites);
        let Some(fleet) = cancel.run_until_cancelled(assembling).await else { break };
        fleets.insert(transport.clone(), fleet?);
    }
    let agents = fleets.iter().flat_map(|(asked, fleet)| facts(asked, fleet)).collect();
    let mut bench = Bench {
        plan,
        setting,
        fleets,
        gathered: vec![Gathered::default(); plan.cells.len()],
        copies: None,
        copied: BTreeMap::new(),
        missing: BTreeSet::new(),
    };
    let failure = bench.rounds(cancel).await.err().map(|error| error.to_string());
    let names = bench.fleets.iter().map(|(asked, fleet)| (asked.clone(), library(fleet)));
    let names: BTreeMap<String, String> = names.collect();
    let point = |(cell, gathered): (&Cell, &Gathered)| {
        gathered.point(cell, names.get(&cell.transport).unwrap_or(&cell.transport))
    };
    let points = plan.cells.iter().zip(&bench.gathered).filter_map(point).collect();
    let missing = bench.missing.into_iter().collect();
    for fleet in bench.fleets.into_values() {
        fleet.close().await;
    }
    let report = TransferReport {
        kind: KIND.to_owned(),
        format: FORMAT,
        pdlab: env!("CARGO_PKG_VERSION").to_owned(),
        started,
        plan: plan.clone(),
        agents,
        points,
        interrupted: cancel.is_cancelled(),
        failure,
        missing,
        duration_s: begun.elapsed().as_secs_f64(),
    };
    setting.dir.replace_json("result.json", &report)?;
    Ok(report)
}

struct Bench<'a> {
    plan: &'a Plan,
    setting: &'a Setting<'a>,
    fleets: BTreeMap<String, Fleet>,
    /// By cell.
    gathered: Vec<Gathered>,
    copies: Option<Arc<Mutex<Copies>>>,
    /// By round and block size: one copy serves all transports.
    copied: BTreeMap<(usize, u64), [f64; 2]>,
    missing: BTreeSet<String>,
}

impl Bench<'_> {
    async fn rounds(&mut self, cancel: &CancellationToken) -> Result<(), Error> {
        let plan = self.plan;
        if self.setting.ceilings {
            let copies = spawn_blocking(Copies::new).await.map_err(here)?.map_err(here)?;
            self.copies = Some(Arc::new(Mutex::new(copies)));
        }
        for number in 0..plan.rounds {
            for (at, cell) in plan.cells.iter().enumerate() {
                if cancel.is_cancelled() {
                    return Ok(());
                }
                let memory = self.copy(number, cell).await?;
                // What goes second finds the machine as the first has left it: take turns.
                let tools_first = number % 2 == 1;
                let mut tools = BTreeMap::new();
                if tools_first {
                    tools = self.tools(at, cell, cancel).await?;
                }
                let measured = self.measure(at, cell, cancel).await;
                if measured.is_ok() && !tools_first {
                    tools = self.tools(at, cell, cancel).await?;
                }
                let Some(mut round) = measured? else { return Ok(()) };
                round.ceilings = memory.into_iter().chain(tools).collect();
                (self.setting.note)(&line(plan, number, cell, &round));
                self.gathered[at].rounds.push(round);
            }
        }
        Ok(())
    }

    /// One measurement; `None` if it was stopped before anything had moved.
    async fn measure(
        &mut self,
        at: usize,
        cell: &Cell,
        cancel: &CancellationToken,
    ) -> Result<Option<Round>, Error> {
        let plan = self.plan;
        let flows = plan.flows();
        let fleet = self.fleets.get_mut(&cell.transport).expect("every cell has its fleet");
        let serves = cell.op == Op::Write;
        if serves {
            for (agent, run) in runs(plan, cell, plan.limit, |flow| flow.target) {
                fleet.members[agent].done(Request::Serve(run)).await?;
            }
        }
        let driver = |flow: Flow| if serves { flow.source } else { flow.target };
        if plan.warmup_ms > 0 {
            let warmup = runs(plan, cell, Limit::Millis(plan.warmup_ms), driver);
            let warm = fleet.run(warmup, cancel).await?;
            fail_early(warm, &flows, serves, fleet).await?;
        }
        let before = usage(fleet).await?;
        let reports = fleet.run(runs(plan, cell, plan.limit, driver), cancel).await?;
        let after = usage(fleet).await?;
        let mut round = Round { cpu_s: cpu(&flows, &before, &after), ..Round::default() };
        let gathered = &mut self.gathered[at];
        let mut latencies = Latencies::default();
        for (agent, report) in &reports {
            for leg in &report.flows {
                let flow = if serves {
                    Flow { source: *agent, target: leg.peer }
                } else {
                    Flow { source: leg.peer, target: *agent }
                };
                round.bytes += leg.bytes;
                round.seconds = round.seconds.max(leg.seconds);
                round.flows.push((flow, leg.bytes as f64 / leg.seconds));
                latencies.merge(&leg.latencies);
                gathered.latencies.merge(&leg.latencies);
                gathered.transfers += leg.transfers;
                look(gathered, leg);
            }
        }
        round.flows.sort_by_key(|(flow, _)| *flow);
        round.latency = latencies.percentiles();
        fail_early(reports, &flows, serves, fleet).await?;
        if serves {
            for agent in targets(&flows) {
                match fleet.members[agent].ask(Request::EndServe).await? {
                    Reply::Ran(report) => {
                        report.flows.iter().for_each(|leg| look(gathered, leg));
                        fail(agent, report.failure, fleet)?;
                    }
                    other => return Err(Error::Here(format!("an unexpected answer: {other:?}"))),
                }
            }
        }
        Ok((round.bytes > 0).then_some(round))
    }

    /// What memory can do with such blocks, hot and cold; nothing between two hosts.
    async fn copy(
        &mut self,
        number: usize,
        cell: &Cell,
    ) -> Result<Vec<(String, CeilingRound)>, Error> {
        let Some(copies) = &self.copies else { return Ok(Vec::new()) };
        let key = (number, cell.block_bytes);
        let rates = match self.copied.get(&key) {
            Some(rates) => *rates,
            None => {
                let (copies, block) = (Arc::clone(copies), cell.block_bytes as usize);
                let copying = spawn_blocking(move || {
                    // A panic in a copy leaves bytes and nothing else behind.
                    let mut copies = copies.lock().unwrap_or_else(PoisonError::into_inner);
                    [block, COLD_BYTES as usize].map(|walk| copies.measure(block, walk, COPY_TIME))
                });
                let rates = copying.await.map_err(here)?;
                self.copied.insert(key, rates);
                rates
            }
        };
        let ceiling = |(name, rate): (&str, f64)| {
            let round = CeilingRound { bytes_per_s: Some(rate), ..CeilingRound::default() };
            (name.to_owned(), round)
        };
        Ok(["memcpy hot", "memcpy cold"].into_iter().zip(rates).map(ceiling).collect())
    }

    /// What the tools of the field reach between the two ends of the first flow.
    async fn tools(
        &mut self,
        at: usize,
        cell: &Cell,
        cancel: &CancellationToken,
    ) -> Result<BTreeMap<String, CeilingRound>, Error> {
        let mut told = BTreeMap::new();
        if !self.setting.ceilings {
            return Ok(told);
        }
        let fleet = self.fleets.get_mut(&cell.transport).expect("every cell has its fleet");
        let flow = self.plan.flows()[0];
        let transport = fleet.members[0].opened.transport.clone();
        let device = fleet.members[0].opened.device.is_some();
        for tool in Tool::of(&transport, cell.depth, device) {
            if cancel.is_cancelled() {
                break;
            }
            let rate = self.gathered[at].rounds.last().map_or(GUESSED_RATE, Round::bytes_per_s);
            let iterations = (rate * TOOL_SECONDS / cell.block_bytes as f64) as u64;
            let job = ToolJob {
                tool,
                block_bytes: cell.block_bytes,
                depth: cell.depth,
                iterations: iterations.clamp(50, 1_000_000),
            };
            match compare(fleet, flow, job).await {
                Ok(round) => drop(told.insert(tool.program().to_owned(), round)),
                Err(error @ Error::Lost { .. }) => return Err(error),
                Err(error) => drop(self.missing.insert(format!("{}: {error}", tool.program()))),
            }
        }
        Ok(told)
    }
}

async fn compare(fleet: &mut Fleet, flow: Flow, job: ToolJob) -> Result<CeilingRound, Error> {
    let host = fleet.members[flow.source].opened.data_host;
    let port = match fleet.members[flow.source].ask(Request::StartTool(job.clone())).await? {
        Reply::Tool { port } => port,
        other => return Err(Error::Here(format!("an unexpected answer: {other:?}"))),
    };
    let told = fleet.members[flow.target].ask(Request::AskTool { job, host, port }).await;
    fleet.members[flow.source].done(Request::EndTool).await?;
    match told? {
        Reply::Told { reading, command } => Ok(CeilingRound {
            bytes_per_s: reading.bytes_per_s,
            latency_us: reading.latency_us,
            command: Some(command),
        }),
        other => Err(Error::Here(format!("an unexpected answer: {other:?}"))),
    }
}

/// The runs of all agents that are one end of a flow, as `agent` says which.
fn runs(
    plan: &Plan,
    cell: &Cell,
    limit: Limit,
    agent: impl Fn(Flow) -> usize,
) -> Vec<(usize, Run)> {
    let flows = plan.flows();
    let walk = plan.walk(cell);
    let mut runs: BTreeMap<usize, Vec<Leg>> = BTreeMap::new();
    for &flow in &flows {
        let me = agent(flow);
        let slice = into(&flows, flow.target).position(|other| other == flow);
        let slice = slice.expect("a flow is one of those into its target") as u64;
        let peer = if me == flow.source { flow.target } else { flow.source };
        runs.entry(me).or_default().push(Leg {
            peer,
            source_bytes: walk.source,
            slice_offset: slice * plan.slice_bytes(),
            slice_bytes: walk.slice,
        });
    }
    let run = |flows| Run {
        op: cell.op,
        register: cell.register,
        block_bytes: cell.block_bytes,
        blocks_per_read: plan.blocks_per_read,
        width: cell.depth / plan.blocks_per_read,
        limit,
        verify: plan.verify,
        deadline_ms: plan.deadline_ms,
        flows,
    };
    runs.into_iter().map(|(agent, flows)| (agent, run(flows))).collect()
}

fn look(gathered: &mut Gathered, leg: &LegReport) {
    gathered.verified_blocks += leg.verified_blocks;
    gathered.corrupt_blocks += leg.corrupt_blocks;
    if gathered.first_corrupt.is_none() {
        gathered.first_corrupt.clone_from(&leg.first_corrupt);
    }
}

/// The failure of a run. Of a write that was not answered, the target knows why.
async fn fail_early(
    reports: Vec<(usize, Report)>,
    flows: &[Flow],
    serves: bool,
    fleet: &mut Fleet,
) -> Result<(), Error> {
    let failed = reports.into_iter().find_map(|(agent, report)| Some((agent, report.failure?)));
    let Some((agent, reason)) = failed else { return Ok(()) };
    if serves {
        for target in targets(flows) {
            if let Reply::Ran(report) = fleet.members[target].ask(Request::EndServe).await? {
                fail(target, report.failure, fleet)?;
            }
        }
    }
    fail(agent, Some(reason), fleet)
}

fn fail(agent: usize, failure: Option<String>, fleet: &Fleet) -> Result<(), Error> {
    match failure {
        None => Ok(()),
        Some(reason) => Err(Error::Lost { agent: fleet.members[agent].label.clone(), reason }),
    }
}

fn targets(flows: &[Flow]) -> BTreeSet<usize> {
    flows.iter().map(|flow| flow.target).collect()
}

/// By agent: the process, and its processor time.
async fn usage(fleet: &mut Fleet) -> Result<Vec<(u64, u64)>, Error> {
    let mut all = Vec::with_capacity(fleet.members.len());
    for member in &mut fleet.members {
        match member.ask(Request::Usage).await? {
            Reply::Usage(usage) => all.push((usage.process, usage.cpu_us)),
            other => return Err(Error::Here(format!("an unexpected answer: {other:?}"))),
        }
    }
    Ok(all)
}

/// Processor seconds of the processes that are only sources, of those that are only targets, and
/// of all. Agents of one process count once.
fn cpu(flows: &[Flow], before: &[(u64, u64)], after: &[(u64, u64)]) -> [f64; 3] {
    let mut processes: BTreeMap<u64, (f64, bool, bool)> = BTreeMap::new();
    for (agent, (&(process, from), &(_, to))) in before.iter().zip(after).enumerate() {
        let entry = processes.entry(process).or_default();
        entry.0 = entry.0.max(to.saturating_sub(from) as f64 / 1e6);
        entry.1 |= out_of(flows, agent).next().is_some();
        entry.2 |= into(flows, agent).next().is_some();
    }
    let sum = |want: fn(bool, bool) -> bool| {
        processes.values().filter(|(_, source, target)| want(*source, *target)).map(|p| p.0).sum()
    };
    [
        sum(|source, target| source && !target),
        sum(|source, target| target && !source),
        sum(|_, _| true),
    ]
}

fn facts(asked: &str, fleet: &Fleet) -> Vec<AgentFacts> {
    let fact = |(index, member): (usize, &super::fleet::Member)| {
        let opened = member.opened.clone();
        AgentFacts {
            index,
            asked: asked.to_owned(),
            transport: opened.transport,
            library: opened.library,
            why: opened.why,
            host: opened.host,
            data_host: opened.data_host.to_string(),
            process: opened.process,
            settings: opened.settings.into_iter().collect(),
            variables: opened.variables.into_iter().collect(),
        }
    };
    fleet.members.iter().enumerate().map(fact).collect()
}

/// `ucx 1.22.0`.
fn library(fleet: &Fleet) -> String {
    let opened = &fleet.members[0].opened;
    match &opened.library {
        Some(version) => format!("{} {version}", opened.transport),
        None => opened.transport.clone(),
    }
}

fn line(plan: &Plan, number: usize, cell: &Cell, round: &Round) -> String {
    let latency = round.latency;
    format!(
        "round {}/{}: {}: {} GB/s, p50 {} µs, p99 {} µs of {} transfers",
        number + 1,
        plan.rounds,
        cell.label(),
        gb(round.bytes_per_s()),
        micros(latency.p50_us),
        micros(latency.p99_us),
        latency.samples,
    )
}

fn here(error: impl std::fmt::Display) -> Error {
    Error::Here(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::plan::tests::plan;
    use crate::transfer::topology::Pattern;

    #[test]
    fn every_flow_has_one_driver_and_a_slice_of_its_own() {
        for pattern in [Pattern::ManyToOne, Pattern::OneToMany, Pattern::AllToAll] {
            let plan = plan(pattern, 3);
            let runs = runs(&plan, &plan.cells[0], plan.limit, |flow| flow.target);
            let legs: usize = runs.iter().map(|(_, run)| run.flows.len()).sum();
            assert_eq!(legs, plan.flows().len());
            for (agent, run) in runs {
                let mut end = 0;
                for leg in run.flows {
                    assert!(leg.slice_offset >= end && leg.peer != agent);
                    end = leg.slice_offset + leg.slice_bytes;
                }
                assert!(end <= plan.memory(agent).target);
            }
        }
    }

    #[test]
    fn agents_of_one_process_share_its_time() {
        let flows = Pattern::ManyToOne.flows(2);
        let before = [(1, 100), (2, 200), (2, 200)];
        let after = [(1, 2_000_100), (2, 1_000_200), (2, 1_000_200)];
        assert_eq!(cpu(&flows, &before, &after), [1.0, 2.0, 3.0]);
        let both = Pattern::AllToAll.flows(1);
        assert_eq!(cpu(&both, &before[..2], &after[..2]), [0.0, 0.0, 3.0]);
    }
}
