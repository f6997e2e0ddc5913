//! Moving blocks from a source into our memory, one transfer at a time, and looking at them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pdlab_transport::{Agent, Descriptor, Error, Mapping, Peer, Region};

use super::content::Content;
use super::plan::Register;
use super::wire::{Leg, LegReport, Run};

/// What all transfers of one flow have in common.
#[derive(Debug, Clone)]
pub(super) struct Puller {
    pub(super) agent: Agent,
    pub(super) peer: Peer,
    /// Where blocks arrive unless every transfer registers memory of its own.
    pub(super) region: Region,
    pub(super) block_bytes: usize,
    pub(super) blocks: usize,
    pub(super) deadline: Duration,
    /// Some: what must arrive.
    pub(super) content: Option<Content>,
}

/// Memory for one transfer, which nobody else uses meanwhile.
#[derive(Debug)]
pub(super) enum Slot {
    /// So far into the region.
    Shared(usize),
    /// To be registered for the transfer.
    Own(Mapping),
}

/// A transfer that ended well.
#[derive(Debug)]
pub(super) struct Pulled {
    pub(super) latency: Duration,
    /// Which blocks are not what they had to be, and the first wrong word.
    corrupt: Vec<String>,
}

/// The slots of one flow. They are used in turn, so that a cold walk stays cold.
#[derive(Debug)]
pub(super) struct Slots(VecDeque<Slot>);

impl Slots {
    /// Those of `leg`, for transfers of `run`.
    ///
    /// # Errors
    /// If memory cannot be mapped.
    pub(super) fn new(run: &Run, leg: &Leg) -> Result<Self, Error> {
        let transfer = run.transfer_bytes();
        let slots = match run.register {
            Register::Once => (0..leg.slice_bytes / transfer)
                .map(|slot| Slot::Shared((leg.slice_offset + slot * transfer) as usize))
                .collect(),
            Register::Each => {
                let own = |_| {
                    let mut mapping = Mapping::anonymous(transfer as usize)?;
                    mapping.prefault();
                    Ok(Slot::Own(mapping))
                };
                (0..run.width).map(own).collect::<Result<_, Error>>()?
            }
        };
        Ok(Self(slots))
    }

    pub(super) fn take(&mut self) -> Option<Slot> {
        self.0.pop_front()
    }

    pub(super) fn give_back(&mut self, slot: Slot) {
        self.0.push_back(slot);
    }
}

impl Puller {
    /// Moves the blocks at `offset` of the source's memory into `slot`.
    pub(super) async fn pull(
        &self,
        slot: Slot,
        offset: u64,
        notification: Option<Bytes>,
    ) -> Result<(Slot, Pulled), Error> {
        match slot {
            Slot::Shared(at) => {
                let started = Instant::now();
                let poisoned = self.poison(&self.region, at)?;
                let mut pulled = self.read(&self.region, at, offset, notification).await?;
                pulled.latency = started.elapsed().saturating_sub(poisoned + pulled.latency);
                Ok((Slot::Shared(at), pulled))
            }
            Slot::Own(mapping) => {
                let started = Instant::now();
                let region = self.agent.register(mapping)?;
                let poisoned = self.poison(&region, 0)?;
                let mut pulled = self.read(&region, 0, offset, notification).await?;
                self.agent.deregister(&region)?;
                pulled.latency = started.elapsed().saturating_sub(poisoned + pulled.latency);
                let mapping = region.into_mapping().map_err(|_| Error::Register {
                    len: self.block_bytes * self.blocks,
                    reason: "the transport has kept memory that was deregistered".to_owned(),
                })?;
                Ok((Slot::Own(mapping), pulled))
            }
        }
    }

    /// Reads and checks. Its `latency` is what the check took, which is no part of the transfer.
    async fn read(
        &self,
        region: &Region,
        at: usize,
        offset: u64,
        notification: Option<Bytes>,
    ) -> Result<Pulled, Error> {
        let block = |i: usize| {
            let skipped = i * self.block_bytes;
            Descriptor::new(at + skipped, offset + skipped as u64, self.block_bytes)
        };
        if self.blocks == 1 {
            self.peer.read(region, &[block(0)], notification, self.deadline).await?;
        } else {
            let blocks: Vec<_> = (0..self.blocks).map(block).collect();
            self.peer.read(region, &blocks, notification, self.deadline).await?;
        }
        let Some(content) = self.content else {
            return Ok(Pulled { latency: Duration::ZERO, corrupt: Vec::new() });
        };
        let checking = Instant::now();
        let mut corrupt = Vec::new();
        for i in 0..self.blocks {
            let Descriptor { local_offset, remote_offset, len, .. } = block(i);
            let wrong = region.read(local_offset..local_offset + len, |bytes| {
                content.check(bytes, remote_offset)
            })?;
            corrupt.extend(wrong.map(|word| {
                format!(
                    "block at offset {remote_offset} of {}: wrong from offset {word} on",
                    self.peer.remote_name()
                )
            }));
        }
        Ok(Pulled { latency: checking.elapsed(), corrupt })
    }

    /// Wipes what an earlier transfer has left, if blocks are checked; says how long it took.
    fn poison(&self, region: &Region, at: usize) -> Result<Duration, Error> {
        if self.content.is_none() {
            return Ok(Duration::ZERO);
        }
        let started = Instant::now();
        region.write(at..at + self.block_bytes * self.blocks, |bytes| bytes.fill(0))?;
        Ok(started.elapsed())
    }

    /// Counts what has arrived.
    pub(super) fn note(&self, pulled: Pulled, report: &mut LegReport) {
        report.bytes += (self.block_bytes * self.blocks) as u64;
        report.transfers += 1;
        if self.content.is_some() {
            report.verified_blocks += self.blocks as u64;
            report.corrupt_blocks += pulled.corrupt.len() as u64;
        }
        if report.first_corrupt.is_none() {
            report.first_corrupt = pulled.corrupt.into_iter().next();
        }
    }
}

/// A way through a source's memory, round and round.
#[derive(Debug, Clone, Copy)]
pub(super) struct Offsets {
    next: u64,
    step: u64,
    end: u64,
}

impl Offsets {
    pub(super) fn new(run: &Run, leg: &Leg) -> Self {
        Self { next: 0, step: run.transfer_bytes(), end: leg.source_bytes }
    }

    pub(super) fn step(&mut self) -> u64 {
        if self.next + self.step > self.end {
            self.next = 0;
        }
        let offset = self.next;
        self.next += self.step;
        offset
    }
}

impl Run {
    /// Bytes of one transfer.
    pub(super) fn transfer_bytes(&self) -> u64 {
        self.block_bytes * self.blocks_per_read as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::plan::{Limit, Op};

    fn run() -> Run {
        Run {
            op: Op::Read,
            register: Register::Once,
            block_bytes: 1024,
            blocks_per_read: 2,
            width: 2,
            limit: Limit::Millis(1),
            verify: false,
            deadline_ms: 1,
            flows: Vec::new(),
        }
    }

    #[test]
    fn slots_divide_the_slice_and_come_round() {
        let leg = Leg { peer: 1, source_bytes: 5000, slice_offset: 8192, slice_bytes: 6144 };
        let mut slots = Slots::new(&run(), &leg).unwrap();
        let mut offset = || match slots.take() {
            Some(Slot::Shared(at)) => Some(at),
            _ => None,
        };
        assert_eq!(
            [offset(), offset(), offset(), offset()],
            [Some(8192), Some(10240), Some(12288), None]
        );
        let mut offsets = Offsets::new(&run(), &leg);
        assert_eq!([0; 4].map(|_| offsets.step()), [0, 2048, 0, 2048]);
        let each = Run { register: Register::Each, ..run() };
        let mut own = Slots::new(&each, &leg).unwrap();
        assert!(matches!(own.take(), Some(Slot::Own(mapping)) if mapping.len() == 2048));
        assert!(own.take().is_some() && own.take().is_none());
    }
}
