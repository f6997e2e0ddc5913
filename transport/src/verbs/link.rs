//! One link as those see it who carry it on: reads, notifies, and lets go.
//!
//! A link is attached when its queue pairs are connected. It ends for one of many reasons; then its
//! queue pairs are put into the error state, which flushes everything that is posted without the
//! peer, and when the last request has come back the progress thread drops it. Should the device
//! not flush in time, its queue pairs are destroyed, after which it cannot touch memory either.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio_util::sync::DropGuard;

use super::handle::LinkState;
use super::memory::{Buffers, Registration};
use super::plan::{Piece, RemoteKeys, pieces};
use super::queues::{Completed, CompletionQueue, Polled, QueuePair, Request, What};
use super::ring::Ring;
use super::status::of_completion;
use crate::backend::{Shared, Transfer};
use crate::counters::Held;
use crate::error::Error;
use crate::flow::{Ended, Flow, JobId};
use crate::metadata::Metadata;

/// Notifications under way at a time. As many as the peer has buffers: more would only make it
/// answer that it is not ready.
pub(super) const MESSAGES: usize = 8;
/// Requests that are posted with one doorbell. A longer chain saves nothing more, and keeps the
/// other links waiting.
const BATCH: usize = 32;
/// How long a device may take to flush. It needs no more than microseconds for it.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// Messages in the outbox from which on those are removed for which nobody waits any more.
const CROWDED_OUTBOX: usize = 64;
/// Where the number of the lane begins in a request's tag; below is its sequence number.
const LANE_SHIFT: u32 = 48;

/// Where the result of a notify goes.
pub(super) type Reply = oneshot::Sender<Result<(), Error>>;

/// What a connected link is made of.
pub(super) struct Parts {
    pub(super) state: Arc<LinkState>,
    pub(super) metadata: Arc<Metadata>,
    pub(super) shared: Arc<Shared>,
    pub(super) pairs: Vec<QueuePair>,
    pub(super) buffers: Buffers,
    pub(super) queue: CompletionQueue,
    /// In the order of the metadata's regions.
    pub(super) keys: Vec<RemoteKeys>,
    /// Reads outstanding per queue pair.
    pub(super) depth: usize,
    /// Longest read of the port, in bytes.
    pub(super) max_message: u32,
    /// Longest notification that the peer takes, in bytes.
    pub(super) notification_bytes: usize,
}

pub(super) struct Link {
    // The following drop in this order: when the queue pairs are gone, the device uses no memory
    // of ours any more, and nothing reports to the queue.
    lanes: Vec<Lane>,
    buffers: Buffers,
    queue: CompletionQueue,
    flow: Flow<Job>,
    outbox: VecDeque<Message>,
    /// What the send from each buffer sets off, while it is under way.
    sending: [Option<Then>; MESSAGES],
    /// Some once it ends: when it stops waiting for the device to flush.
    flush_until: Option<Instant>,
    /// The queue will report; until then there is nothing in it.
    pub(super) armed: bool,
    next_lane: usize,
    depth: usize,
    max_message: u32,
    notification_bytes: usize,
    keys: Vec<RemoteKeys>,
    metadata: Arc<Metadata>,
    pub(super) state: Arc<LinkState>,
    shared: Arc<Shared>,
    _rkeys: Held,
    /// Last: whoever waits for this finds nothing left.
    _buried: DropGuard,
}

struct Lane {
    pair: QueuePair,
    ring: Ring<Operation>,
    /// Reads among what is in the ring.
    reads: usize,
}

/// What a request was for.
#[derive(Clone, Copy, Debug)]
enum Operation {
    Read(JobId),
    /// The message in this buffer.
    Send(usize),
}

/// A transfer, cut into requests.
struct Job {
    transfer: Transfer,
    pieces: Vec<Piece>,
    /// Keeps the local memory registered.
    memory: Arc<Registration>,
}

struct Message {
    payload: Bytes,
    then: Then,
}

/// What a message that has arrived sets off.
enum Then {
    Finish(Transfer),
    Reply(Reply),
}

impl Link {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { state, metadata, shared, pairs, buffers, queue, keys, .. } = parts;
        let rkeys = keys.iter().map(|keys| keys.rkeys.len() as u64).sum();
        let lane = |pair| Lane { pair, ring: Ring::new(), reads: 0 };
        let lanes: Vec<Lane> = pairs.into_iter().map(lane).collect();
        Self {
            flow: Flow::new(lanes.len() * parts.depth),
            lanes,
            buffers,
            queue,
            outbox: VecDeque::new(),
            sending: [const { None }; MESSAGES],
            flush_until: None,
            armed: false,
            next_lane: 0,
            depth: parts.depth,
            max_message: parts.max_message,
            notification_bytes: parts.notification_bytes,
            keys,
            metadata,
            _rkeys: shared.counters.rkeys.hold(rkeys),
            _buried: state.buried.clone().drop_guard(),
            state,
            shared,
        }
    }

    /// Takes a transfer; finishes it at once if the link is no longer open.
    pub(super) fn post(&mut self, transfer: Transfer, memory: Option<Arc<Registration>>) {
        if self.is_ending() {
            return transfer.finish(Err(self.state.lost()));
        }
        if let Err(error) = self.check_message(transfer.notification_len()) {
            return transfer.finish(Err(error));
        }
        let Some(memory) = memory else {
            let region = transfer.region().id;
            return transfer.finish(Err(Error::NotRegistered { region }));
        };
        let pieces = pieces(transfer.blocks(), memory.chunk_len, self.max_message, |region| {
            let index = self.metadata.index_of(region);
            &self.keys[index.expect("the peer's region was found when the block was checked")]
        });
        let count = pieces.len();
        self.flow.push(Job { transfer, pieces, memory }, count);
    }

    /// Takes a notification of its own.
    pub(super) fn notify(&mut self, payload: Bytes, reply: Reply) {
        let refused = if self.is_ending() {
            Some(self.state.lost())
        } else {
            self.check_message(payload.len()).err()
        };
        if let Some(error) = refused {
            return drop(reply.send(Err(error)));
        }
        if self.outbox.len() >= CROWDED_OUTBOX {
            self.outbox.retain(|message| match &message.then {
                Then::Reply(reply) => !reply.is_closed(),
                Then::Finish(_) => true,
            });
        }
        self.outbox.push_back(Message { payload, then: Then::Reply(reply) });
    }

    /// Posts what there is room for, at most a batch per queue pair. False if there was nothing.
    pub(super) fn pump(&mut self) -> bool {
        if self.is_ending() {
            return false;
        }
        let mut any = self.send_messages();
        for _ in 0..self.lanes.len() {
            let lane = self.next_lane;
            self.next_lane = (lane + 1) % self.lanes.len();
            any |= self.post_reads(lane);
            if self.is_ending() {
                break;
            }
        }
        // What was posted will complete: look for it without being told.
        self.armed &= !any;
        any
    }

    /// Acts on completions. False if there were none.
    pub(super) fn poll(&mut self) -> bool {
        match self.queue.poll() {
            Polled::Some(completions) => {
                let any = !completions.is_empty();
                completions.into_iter().for_each(|completion| self.completed(completion));
                any
            }
            Polled::Failed => {
                self.lose("its completion queue failed");
                false
            }
        }
    }

    /// Asks for a report on the next completion.
    pub(super) fn arm(&mut self) {
        self.queue.arm();
        self.armed = true;
    }

    /// Aborts the link for a reason.
    pub(super) fn lose(&mut self, reason: &str) {
        self.state.end(reason);
        self.abort();
    }

    /// The device is not of use any more for this reason.
    pub(super) fn fail(&mut self, kind: &'static str, reason: &str) {
        if !self.is_ending() {
            self.shared.counters.fail(kind);
        }
        self.lose(reason);
    }

    /// Ends the link for the reason in its state. What is posted still has to come back: see
    /// [`is_gone`](Self::is_gone).
    pub(super) fn abort(&mut self) {
        if self.is_ending() {
            return;
        }
        self.flush_until = Some(Instant::now() + FLUSH_TIMEOUT);
        self.armed = false;
        self.lanes.iter().for_each(|lane| lane.pair.fail());
        for Message { then, .. } in std::mem::take(&mut self.outbox) {
            self.resolve(then, false);
        }
        for Ended { transfer: job, .. } in self.flow.abort() {
            job.transfer.finish(Err(self.state.lost()));
        }
    }

    /// When [`expire`](Self::expire) is to be called.
    pub(super) fn due(&self) -> Option<Instant> {
        self.flush_until.filter(|_| !self.is_gone())
    }

    /// Destroys the queue pairs if they have not flushed by `now`.
    pub(super) fn expire(&mut self, now: Instant) {
        if self.flush_until.is_none_or(|until| until > now) {
            return;
        }
        for mut lane in std::mem::take(&mut self.lanes) {
            // When this is back, the device has let go of everything.
            drop(lane.pair);
            let left: Vec<Operation> = lane.ring.clear().collect();
            left.into_iter().for_each(|operation| self.retired(operation, false));
        }
    }

    /// The device holds none of our memory, and never will: the link can be dropped.
    pub(super) fn is_gone(&self) -> bool {
        self.is_ending() && self.lanes.iter().all(|lane| lane.ring.is_empty())
    }

    pub(super) fn has_pair_at(&self, address: usize) -> bool {
        self.lanes.iter().any(|lane| lane.pair.is_at(address))
    }

    /// Whether its queue is to report. Not while callers look for completions themselves, unless
    /// somebody waits who does not: for a message, or for the end.
    pub(super) fn is_to_report(&self) -> bool {
        let waiting = self.outbox.iter().map(|message| &message.then);
        let mut waiting = waiting.chain(self.sending.iter().flatten());
        self.state.waiting.load(SeqCst) == 0
            || self.is_ending()
            || waiting.any(|then| matches!(then, Then::Reply(_)))
    }

    /// Whether something is under way.
    pub(super) fn is_busy(&self) -> bool {
        !self.flow.is_empty()
            || !self.outbox.is_empty()
            || self.lanes.iter().any(|lane| !lane.ring.is_empty())
    }

    pub(super) fn is_ending(&self) -> bool {
        self.flush_until.is_some()
    }

    fn check_message(&self, len: usize) -> Result<(), Error> {
        if len <= self.notification_bytes {
            return Ok(());
        }
        let (size, limit) = (len as u64, self.notification_bytes as u64);
        Err(Error::TooLarge { what: "the notification for this peer", size, limit })
    }

    /// Messages go over the first queue pair only, so that they arrive in order.
    fn send_messages(&mut self) -> bool {
        let mut requests = Vec::new();
        while !self.outbox.is_empty() {
            let Some(buffer) = self.sending.iter().position(Option::is_none) else { break };
            let Some(Message { payload, then }) = self.outbox.pop_front() else { break };
            // SAFETY: no send from this buffer is under way, so the device is not reading it.
            unsafe { self.buffers.fill(buffer, &payload) };
            self.sending[buffer] = Some(then);
            let (sequence, _) = self.lanes[0].ring.push(Operation::Send(buffer), true);
            requests.push(Request {
                tag: sequence,
                // Each: somebody waits for it.
                signalled: true,
                address: self.buffers.address(buffer),
                len: payload.len() as u32,
                lkey: self.buffers.lkey(),
                what: What::Send,
            });
        }
        self.ring_doorbell(0, &requests)
    }

    fn post_reads(&mut self, index: usize) -> bool {
        if !self.flow.has_next() {
            return false;
        }
        let lane = &mut self.lanes[index];
        let room = (self.depth - lane.reads).min(BATCH);
        let (mut requests, mut jobs) = (Vec::<Request>::new(), Vec::new());
        while requests.len() < room {
            let Some((id, job, at)) = self.flow.next() else { break };
            let piece = job.pieces[at];
            let block = &job.transfer.blocks()[piece.block];
            let region = self.metadata.index_of(block.remote_region);
            let region = region.expect("the peer's region was found when the block was checked");
            let far = self.metadata.regions[region].base + block.remote_offset;
            jobs.push(id);
            requests.push(Request {
                tag: 0,
                signalled: false,
                address: job.transfer.destination(block).wrapping_add(piece.offset),
                len: piece.len,
                lkey: job.memory.lkey(piece.local_chunk),
                what: What::Read { address: far + piece.offset as u64, rkey: piece.rkey },
            });
        }
        let last = requests.len().saturating_sub(1);
        for (at, (request, id)) in requests.iter_mut().zip(jobs).enumerate() {
            let (sequence, signalled) = lane.ring.push(Operation::Read(id), at == last);
            (request.tag, request.signalled) = ((index as u64) << LANE_SHIFT | sequence, signalled);
        }
        lane.reads += requests.len();
        self.ring_doorbell(index, &requests)
    }

    fn ring_doorbell(&mut self, index: usize, requests: &[Request]) -> bool {
        if requests.is_empty() {
            return false;
        }
        let lane = &mut self.lanes[index];
        // SAFETY: destinations belong to transfers that stay in `flow`, and own their ranges alone,
        // until the request is retired; messages lie in buffers that are not used again before.
        // Either is retired only by a completion or when the queue pair is gone.
        let Err((taken, errno)) = (unsafe { lane.pair.post(requests) }) else { return true };
        // Our own account keeps within the queue's length, so this is no lack of room.
        let refused: Vec<Operation> = lane.ring.unpush(requests.len() - taken).collect();
        let error = std::io::Error::from_raw_os_error(errno);
        self.state.end(&format!("the device takes no more work: {error}"));
        for operation in refused {
            if let Operation::Read(_) = operation {
                self.lanes[index].reads -= 1;
            }
            self.retired(operation, false);
        }
        self.abort();
        true
    }

    fn completed(&mut self, Completed { tag, status, .. }: Completed) {
        let (index, sequence) = ((tag >> LANE_SHIFT) as usize, tag & ((1 << LANE_SHIFT) - 1));
        if let Some(failure) = of_completion(status) {
            self.shared.counters.fail(failure.kind);
            self.state.end(failure.text);
        }
        let ok = status == 0;
        if !ok {
            self.state.end("its queue pair was ended");
        }
        let Some(lane) = self.lanes.get_mut(index) else { return };
        let retired: Vec<Operation> = lane.ring.retire(sequence).collect();
        let reads = retired.iter().filter(|retired| matches!(retired, Operation::Read(_))).count();
        lane.reads -= reads;
        let last = retired.len().saturating_sub(1);
        for (at, operation) in retired.into_iter().enumerate() {
            // In order: those before the one that reports have succeeded.
            self.retired(operation, ok || at < last);
        }
        if !ok {
            self.abort();
        }
    }

    fn retired(&mut self, operation: Operation, ok: bool) {
        match operation {
            Operation::Read(job) => self.got(job, ok),
            Operation::Send(buffer) => {
                if let Some(then) = self.sending[buffer].take() {
                    self.resolve(then, ok);
                }
            }
        }
    }

    /// A read has ended.
    fn got(&mut self, job: JobId, ok: bool) {
        match self.flow.ended(job, ok) {
            // Data that arrived in spite of the end is data, but no notification can go out.
            Some(Ended { transfer: job, complete }) if self.is_ending() || !complete => {
                job.transfer.finish(Err(self.state.lost()));
            }
            Some(Ended { transfer: mut job, .. }) => match job.transfer.take_notification() {
                Some(payload) => {
                    let then = Then::Finish(job.transfer);
                    self.outbox.push_back(Message { payload, then });
                }
                None => job.transfer.finish(Ok(())),
            },
            None => {}
        }
    }

    fn resolve(&self, then: Then, ok: bool) {
        let result = if ok { Ok(()) } else { Err(self.state.lost()) };
        match then {
            Then::Finish(transfer) => transfer.finish(result),
            // Nobody may be waiting any more; then there is nobody to tell.
            Then::Reply(reply) => drop(reply.send(result)),
        }
    }
}
