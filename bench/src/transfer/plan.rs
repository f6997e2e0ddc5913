//! What is measured: the cells of a run, and how much memory they need. Pure.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::content::WORD_BYTES;
use super::topology::{Flow, Pattern, into, out_of};
use super::words::size;

/// Smallest and largest block: KV blocks of one layer of a small model up to whole prompts.
pub const BLOCK_BYTES: std::ops::RangeInclusive<u64> = 512..=1 << 30;
/// Most blocks in flight per flow: what [`pdlab_transport::Limits::descriptors_per_read`] takes.
pub const MAX_DEPTH: usize = 65_536;
/// Most peers of one hub.
pub const MAX_PEERS: usize = 64;
/// What a cold walk goes through, at least: far beyond any cache.
pub const COLD_BYTES: u64 = 256 << 20;

/// Who acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Op {
    /// The target reads.
    Read,
    /// The source asks, the target reads, and the source hears when the bytes are there: the
    /// transport never writes into the memory of others.
    Write,
}

/// When the memory that receives is registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Register {
    /// Once, at the start, as engines register their KV pool.
    Once,
    /// Before every transfer, and taken back after it. Both are part of its time.
    Each,
}

/// How much memory the transfers go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkingSet {
    /// One transfer's bytes of the source, into as few as can be in flight, again and again: they stay
    /// in the caches.
    Hot,
    /// So many bytes in each agent, in turn, divided among its flows.
    Bytes(u64),
}

impl WorkingSet {
    /// `hot`, `cold`, or bytes.
    pub fn name(self) -> String {
        match self {
            Self::Hot => "hot".to_owned(),
            Self::Bytes(COLD_BYTES) => "cold".to_owned(),
            Self::Bytes(bytes) => size(bytes),
        }
    }
}

/// When a measurement ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// After so many milliseconds.
    Millis(u64),
    /// When every flow has moved at least so many bytes.
    Bytes(u64),
}

/// One point of a sweep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    /// Transport as asked for, such as `ucx`.
    pub transport: String,
    /// Who acts.
    pub op: Op,
    /// When memory is registered.
    pub register: Register,
    /// How much memory is walked through.
    pub working_set: WorkingSet,
    /// Bytes of a block.
    pub block_bytes: u64,
    /// Blocks in flight per flow.
    pub depth: usize,
}

impl Cell {
    /// `ucx read 64 KiB x 64 cold`.
    pub fn label(&self) -> String {
        let op = match self.op {
            Op::Read => "read",
            Op::Write => "write",
        };
        let register = match self.register {
            Register::Once => "",
            Register::Each => " registered each",
        };
        let Self { transport, depth, .. } = self;
        let (block, set) = (size(self.block_bytes), self.working_set.name());
        format!("{transport} {op} {block} x {depth} {set}{register}")
    }
}

/// A whole run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The points, in order.
    pub cells: Vec<Cell>,
    /// The shape of the traffic.
    pub pattern: Pattern,
    /// Peers of the hub.
    pub peers: usize,
    /// Blocks that move as one transfer.
    pub blocks_per_read: usize,
    /// When a measurement ends.
    pub limit: Limit,
    /// Moved before it, unmeasured, milliseconds.
    pub warmup_ms: u64,
    /// How often every cell is measured, in turn with all others.
    pub rounds: usize,
    /// Whether every block is checked when it has arrived.
    pub verify: bool,
    /// Of the content.
    pub seed: u64,
    /// How long one transfer may take, milliseconds.
    pub deadline_ms: u64,
}

/// Memory of an agent, bytes; 0 for what it does not need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Read by others.
    pub source: u64,
    /// Where what it gets arrives: a slice for each flow into it.
    pub target: u64,
}

/// How a cell walks, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Walk {
    /// Of a source's memory, from its start.
    pub source: u64,
    /// Of each flow's slice of a target's memory.
    pub slice: u64,
}

impl Plan {
    /// The flows.
    pub fn flows(&self) -> Vec<Flow> {
        self.pattern.flows(self.peers)
    }

    /// How many flows an agent has, at least one: each is as much as a thread can move.
    pub fn flows_of(&self, agent: usize) -> usize {
        let flows = self.flows();
        let of_it = flows.iter().filter(|flow| flow.source == agent || flow.target == agent);
        of_it.count().max(1)
    }

    /// What is wrong with it, by option.
    ///
    /// # Errors
    /// The option as it is spelled, and what to give instead.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let within = |option, value: usize, max| match value {
            0 => Err((option, "it is 0; give 1 or more".to_owned())),
            _ if value > max => Err((option, format!("{value} is more than {max}"))),
            _ => Ok(()),
        };
        within("--peers", self.peers, MAX_PEERS)?;
        within("--rounds", self.rounds, 1000)?;
        for cell in &self.cells {
            let (block, depth) = (cell.block_bytes, cell.depth);
            if !BLOCK_BYTES.contains(&block) || !block.is_multiple_of(WORD_BYTES as u64) {
                let (low, high) = (size(*BLOCK_BYTES.start()), size(*BLOCK_BYTES.end()));
                let text = format!(
                    "{} is no block; give {low} to {high}, a multiple of {WORD_BYTES} bytes",
                    size(block)
                );
                return Err(("--block-size", text));
            }
            within("--depth", depth, MAX_DEPTH)?;
            let batch = self.blocks_per_read;
            if batch == 0 || !depth.is_multiple_of(batch) {
                let text = format!("a depth of {depth} blocks is not made of reads of {batch}");
                return Err(("--blocks-per-read", text));
            }
        }
        let short = |text: &str| Err(("--duration", text.to_owned()));
        match self.limit {
            Limit::Millis(0) => return short("nothing can be measured in no time"),
            Limit::Millis(ms) if ms > 24 * 3_600_000 => return short("give at most 24h"),
            _ => {}
        }
        Ok(())
    }

    /// How `cell` walks through the memory.
    pub fn walk(&self, cell: &Cell) -> Walk {
        let transfer = cell.block_bytes * self.blocks_per_read as u64;
        // What is in flight and, so that a slow one is not in the way, as much again.
        let least = cell.block_bytes * cell.depth as u64;
        match cell.working_set {
            // Every destination is somebody's own; the source is what `ucx_perftest` reads, one buffer.
            WorkingSet::Hot => Walk { source: transfer, slice: least },
            WorkingSet::Bytes(bytes) => {
                let flows = self.flows();
                let most_into = (0..=self.peers).map(|agent| into(&flows, agent).count()).max();
                let share = bytes / most_into.unwrap_or(1).max(1) as u64;
                let whole = |bytes: u64| bytes.max(2 * least).next_multiple_of(transfer);
                Walk { source: whole(bytes), slice: whole(share) }
            }
        }
    }

    /// What agent `index` needs for all cells.
    pub fn memory(&self, index: usize) -> Memory {
        let flows = self.flows();
        let walks = || self.cells.iter().map(|cell| self.walk(cell));
        let source = if out_of(&flows, index).next().is_some() {
            walks().map(|walk| walk.source).max().unwrap_or(0)
        } else {
            0
        };
        let slices = into(&flows, index).count() as u64;
        Memory { source, target: slices * self.slice_bytes() }
    }

    /// Bytes of a flow's slice of its target's memory: enough for every cell.
    pub fn slice_bytes(&self) -> u64 {
        self.cells.iter().map(|cell| self.walk(cell).slice).max().unwrap_or(0)
    }
}

/// Every combination, the transport changing fastest: what is compared is measured side by side.
pub fn cells(
    transports: &[String],
    ops: &[Op],
    registers: &[Register],
    working_sets: &[WorkingSet],
    blocks: &[u64],
    depths: &[usize],
) -> Vec<Cell> {
    let mut cells = Vec::new();
    for &op in ops {
        for &register in registers {
            for &working_set in working_sets {
                for &block_bytes in blocks {
                    for &depth in depths {
                        cells.extend(transports.iter().map(|transport| Cell {
                            transport: transport.clone(),
                            op,
                            register,
                            working_set,
                            block_bytes,
                            depth,
                        }));
                    }
                }
            }
        }
    }
    cells
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::transfer) fn plan(pattern: Pattern, peers: usize) -> Plan {
        let cells = cells(
            &["tcp".to_owned()],
            &[Op::Read],
            &[Register::Once],
            &[WorkingSet::Bytes(1 << 20)],
            &[64 << 10],
            &[4],
        );
        Plan {
            cells,
            pattern,
            peers,
            blocks_per_read: 1,
            limit: Limit::Bytes(1 << 20),
            warmup_ms: 0,
            rounds: 1,
            verify: true,
            seed: 1,
            deadline_ms: 10_000,
        }
    }

    #[test]
    fn memory_is_where_bytes_come_from_and_go_to() {
        let incast = plan(Pattern::ManyToOne, 4);
        assert_eq!(incast.check(), Ok(()));
        // A quarter of a MiB each is less than twice what is in flight.
        assert_eq!(incast.walk(&incast.cells[0]), Walk { source: 1 << 20, slice: 512 << 10 });
        assert_eq!(incast.memory(0), Memory { source: 0, target: 2 << 20 });
        assert_eq!(incast.memory(3), Memory { source: 1 << 20, target: 0 });
        let all = plan(Pattern::AllToAll, 1);
        assert_eq!(all.memory(0), Memory { source: 1 << 20, target: 1 << 20 });
    }

    #[test]
    fn an_agent_has_the_flows_that_it_has_a_part_in() {
        let flows = |pattern, peers, agent| plan(pattern, peers).flows_of(agent);
        assert_eq!(flows(Pattern::ManyToOne, 4, 0), 4);
        assert_eq!(flows(Pattern::ManyToOne, 4, 3), 1);
        assert_eq!(flows(Pattern::AllToAll, 2, 1), 4);
        assert_eq!(flows(Pattern::ManyToOne, 1, 9), 1, "none, but a thread all the same");
    }

    #[test]
    fn a_hot_walk_is_one_transfer_into_what_is_in_flight() {
        let mut plan = plan(Pattern::ManyToOne, 1);
        plan.cells[0].working_set = WorkingSet::Hot;
        assert_eq!(plan.walk(&plan.cells[0]), Walk { source: 64 << 10, slice: 256 << 10 });
    }

    #[test]
    fn what_is_compared_is_side_by_side() {
        let transports = ["tcp".to_owned(), "ucx".to_owned()];
        let all = cells(
            &transports,
            &[Op::Read, Op::Write],
            &[Register::Once],
            &[WorkingSet::Hot],
            &[4096, 65536],
            &[1],
        );
        let labels: Vec<_> = all.iter().map(Cell::label).collect();
        assert_eq!(labels.len(), 8);
        assert_eq!(labels[..2], ["tcp read 4 KiB x 1 hot", "ucx read 4 KiB x 1 hot"]);
    }

    #[test]
    fn plans_that_cannot_be_are_named_by_their_option() {
        let broken = |change: fn(&mut Plan)| {
            let mut plan = plan(Pattern::ManyToOne, 1);
            change(&mut plan);
            plan.check().unwrap_err().0
        };
        assert_eq!(broken(|plan| plan.peers = 0), "--peers");
        assert_eq!(broken(|plan| plan.peers = 65), "--peers");
        assert_eq!(broken(|plan| plan.rounds = 0), "--rounds");
        assert_eq!(broken(|plan| plan.cells[0].block_bytes = 1001), "--block-size");
        assert_eq!(broken(|plan| plan.cells[0].block_bytes = 2 << 30), "--block-size");
        assert_eq!(broken(|plan| plan.cells[0].depth = 0), "--depth");
        assert_eq!(broken(|plan| plan.blocks_per_read = 3), "--blocks-per-read");
        assert_eq!(broken(|plan| plan.limit = Limit::Millis(0)), "--duration");
    }
}
