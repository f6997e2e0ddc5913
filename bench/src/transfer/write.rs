//! Writes: the source asks, the target reads, and the source hears when the bytes are there.
//!
//! The transport has no remote write, as NIXL's readers have none: a block arrives because the
//! side that owns the memory has fetched it. So a write takes a message to the target, a read, and
//! the notification behind it; its latency, seen by the source, is all three.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use pdlab_transport::{Error, Peer};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::pull::{Offsets, Pulled, Puller, Slot, Slots};
use super::read::Quota;
use super::stats::Latencies;
use super::wire::{Leg, LegReport, Report, Run};

/// What source and target tell each other, behind the transport's own notifications.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Note {
    /// Agent `from` asks to have the blocks at `offset` of its memory fetched.
    Pull { from: u32, id: u64, offset: u64 },
    /// Agent `from` has fetched them.
    Done { from: u32, id: u64 },
}

impl Note {
    pub(super) fn encode(self) -> Bytes {
        let mut out = BytesMut::with_capacity(21);
        match self {
            Self::Pull { from, id, offset } => {
                out.put_u8(b'P');
                out.put_u32_le(from);
                out.put_u64_le(id);
                out.put_u64_le(offset);
            }
            Self::Done { from, id } => {
                out.put_u8(b'D');
                out.put_u32_le(from);
                out.put_u64_le(id);
            }
        }
        out.freeze()
    }

    /// `None` for what is none.
    pub(super) fn decode(payload: &[u8]) -> Option<Self> {
        let (kind, rest) = payload.split_first()?;
        let (from, rest) = rest.split_first_chunk::<4>()?;
        let (id, rest) = rest.split_first_chunk::<8>()?;
        let (from, id) = (u32::from_le_bytes(*from), u64::from_le_bytes(*id));
        match (kind, rest.len()) {
            (b'P', 8) => {
                let offset = u64::from_le_bytes(*rest.first_chunk()?);
                Some(Self::Pull { from, id, offset })
            }
            (b'D', 0) => Some(Self::Done { from, id }),
            _ => None,
        }
    }
}

/// One flow as its source sees it.
struct Outgoing {
    peer: Peer,
    offsets: Offsets,
    quota: Quota,
    started: HashMap<u64, Instant>,
    latencies: Latencies,
    last: Instant,
    report: LegReport,
}

/// Runs all flows out of agent `me` to their limit, or until `stop`. What was begun is finished.
/// `ids` are never used twice in a session, so that a late answer is not taken for another.
pub(super) async fn write(
    run: &Run,
    me: u32,
    peers: &BTreeMap<usize, Peer>,
    answers: &mut mpsc::Receiver<Note>,
    ids: &mut u64,
    stop: &CancellationToken,
) -> Report {
    let deadline = Duration::from_millis(run.deadline_ms);
    let begun = Instant::now();
    let mut flows: BTreeMap<u32, Outgoing> = run
        .flows
        .iter()
        .map(|leg| (leg.peer as u32, Outgoing::new(run, leg, peers[&leg.peer].clone(), begun)))
        .collect();
    let mut failure = None;
    loop {
        if failure.is_none() && !stop.is_cancelled() {
            failure = ask(run, me, &mut flows, ids, deadline).await.err();
        }
        let waiting = flows.values().any(|flow| !flow.started.is_empty());
        if !waiting || failure.is_some() {
            break;
        }
        match timeout(deadline, answers.recv()).await {
            Ok(Some(Note::Done { from, id })) => {
                if let Some(flow) = flows.get_mut(&from) {
                    flow.done(run, id);
                }
            }
            // A pull is for the serving side; none comes here.
            Ok(Some(Note::Pull { .. })) => {}
            Ok(None) => failure = Some("the agent has closed".to_owned()),
            Err(_) => {
                failure = Some(format!(
                    "a write was not answered within {deadline:?}; is the peer alive?"
                ));
            }
        }
    }
    let order = run.flows.iter().filter_map(|leg| flows.remove(&(leg.peer as u32)));
    Report { flows: order.map(|flow| flow.end(begun)).collect(), failure }
}

/// Asks for as many transfers as may be in flight.
async fn ask(
    run: &Run,
    me: u32,
    flows: &mut BTreeMap<u32, Outgoing>,
    ids: &mut u64,
    deadline: Duration,
) -> Result<(), String> {
    for flow in flows.values_mut() {
        while flow.started.len() < run.width && flow.quota.take(Instant::now()) {
            let (id, offset) = (*ids, flow.offsets.step());
            *ids += 1;
            flow.started.insert(id, Instant::now());
            let note = Note::Pull { from: me, id, offset }.encode();
            flow.peer.notify(note, deadline).await.map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

impl Outgoing {
    fn new(run: &Run, leg: &Leg, peer: Peer, now: Instant) -> Self {
        Self {
            peer,
            offsets: Offsets::new(run, leg),
            quota: Quota::new(run, now),
            started: HashMap::new(),
            latencies: Latencies::default(),
            last: now,
            report: LegReport { peer: leg.peer, ..LegReport::default() },
        }
    }

    fn done(&mut self, run: &Run, id: u64) {
        let Some(started) = self.started.remove(&id) else { return };
        self.last = Instant::now();
        self.latencies.record(self.last - started);
        self.report.bytes += run.transfer_bytes();
        self.report.transfers += 1;
    }

    fn end(mut self, begun: Instant) -> LegReport {
        self.report.seconds = (self.last - begun).as_secs_f64();
        self.report.latencies = self.latencies.counts();
        self.report
    }
}

/// One flow as its target sees it.
struct Incoming {
    puller: Puller,
    slots: Slots,
    /// Asked for and not begun. A source hears that its bytes are there a moment before the slot
    /// they went through is free again, so it may ask for the next one that early.
    waiting: VecDeque<(u64, u64)>,
    report: LegReport,
}

impl Incoming {
    /// What can be begun now: a slot, the write's id, and where its blocks are.
    fn next(&mut self) -> Option<(Slot, u64, u64)> {
        if self.waiting.is_empty() {
            return None;
        }
        let slot = self.slots.take()?;
        let (id, offset) = self.waiting.pop_front()?;
        Some((slot, id, offset))
    }
}

/// Fetches what the sources of `run` ask for, until `stop`, and then what was asked before.
/// `pullers` are those of the run's flows.
pub(super) async fn serve(
    run: &Run,
    me: u32,
    pullers: Vec<Puller>,
    asked: &mut mpsc::Receiver<Note>,
    stop: &CancellationToken,
) -> Report {
    let mut flows = BTreeMap::new();
    for (leg, puller) in run.flows.iter().zip(pullers) {
        let report = LegReport { peer: leg.peer, ..LegReport::default() };
        match Slots::new(run, leg) {
            Ok(slots) => {
                let waiting = VecDeque::new();
                flows.insert(leg.peer as u32, Incoming { puller, slots, waiting, report })
            }
            Err(error) => return Report { flows: Vec::new(), failure: Some(error.to_string()) },
        };
    }
    let mut failure = None;
    let mut in_flight = FuturesUnordered::new();
    loop {
        let touched = tokio::select! {
            note = asked.recv(), if failure.is_none() && !stop.is_cancelled() => match note {
                Some(Note::Pull { from, id, offset }) => match flows.get_mut(&from) {
                    Some(flow) if flow.waiting.len() < run.width => {
                        flow.waiting.push_back((id, offset));
                        from
                    }
                    _ => {
                        failure = Some(format!("agent {from} asks for more than was agreed"));
                        continue;
                    }
                },
                Some(Note::Done { .. }) => continue,
                None => {
                    failure = Some("the agent has closed".to_owned());
                    continue;
                }
            },
            Some((from, pulled)) = in_flight.next() => {
                let flow = flows.get_mut(&from).expect("it was there when the pull began");
                let pulled: Result<(Slot, Pulled), Error> = pulled;
                match pulled {
                    Ok((slot, pulled)) => {
                        flow.slots.give_back(slot);
                        flow.puller.note(pulled, &mut flow.report);
                    }
                    Err(error) => failure = failure.or(Some(error.to_string())),
                }
                from
            }
            () = stop.cancelled(), if in_flight.is_empty() => break,
        };
        let flow = flows.get_mut(&touched).expect("it was just looked up");
        while let Some((slot, id, offset)) = flow.next() {
            let puller = flow.puller.clone();
            let done = Note::Done { from: me, id }.encode();
            in_flight.push(async move { (touched, puller.pull(slot, offset, Some(done)).await) });
        }
    }
    Report { flows: flows.into_values().map(|flow| flow.report).collect(), failure }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn notes_round_trip() {
        for note in
            [Note::Pull { from: 3, id: u64::MAX, offset: 4096 }, Note::Done { from: 0, id: 1 }]
        {
            assert_eq!(Note::decode(&note.encode()), Some(note));
        }
    }

    proptest! {
        #[test]
        fn arbitrary_notes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Some(note) = Note::decode(&bytes) {
                prop_assert_eq!(&note.encode()[..], &bytes[..]);
            }
        }
    }
}
