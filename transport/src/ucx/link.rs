//! One link as the progress thread sees it: greets, reads, notifies, and lets go.
//!
//! A link is `Greeting` until its peer has answered, and then `Open`. `Leaving` is an open link
//! that waits for the peer to confirm its notifications before it is aborted. An aborted link is
//! `Draining` for a moment, and `Closing` from when its endpoint is closed by force until nothing
//! of it is outstanding; then the progress thread drops it.
//!
//! Why drain: over TCP, UCX emulates gets, and the owner's UCX aborts its whole process if it
//! fails to answer one of several gets that wait in its socket (`ucp_request_try_send` in
//! <https://github.com/openucx/ucx/blob/v1.19.0/src/ucp/core/ucp_request.inl>). A reader that
//! lets its gets end first does no such harm. One that is killed may.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::context::Registration;
use super::endpoint::{Endpoint, RemoteKey};
use super::events::Tag;
use super::ffi::{Posted, Status};
use super::handle::LinkState;
use super::wire::{self, Greeting};
use super::worker::Worker;
use crate::backend::{Shared, Transfer};
use crate::counters::Held;
use crate::error::Error;
use crate::flow::{Ended, Flow, JobId};
use crate::metadata::Metadata;

/// Reads outstanding per link. Past a few dozen, throughput no longer grows; each holds a request
/// of UCX of a few hundred bytes and, over TCP, a reply that the peer has to queue.
const GETS_PER_LINK: usize = 128;
/// How long gets may take to end before an endpoint is closed by force. Those of a peer that is
/// alive end within a round trip; one that is stopped holds its reader up this long.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(100);
/// Messages in the outbox from which on those are removed for which nobody waits any more.
const CROWDED_OUTBOX: usize = 64;

/// Registered memory by region.
pub(super) type Memory = BTreeMap<u32, Registration>;
/// Where the result of a connect or notify goes.
pub(super) type Reply = oneshot::Sender<Result<(), Error>>;

pub(super) struct Link {
    phase: Phase,
    flow: Flow<Transfer>,
    /// Sent one by one, so that they arrive in order.
    outbox: VecDeque<Message>,
    /// UCX reads its bytes until the send has ended.
    sending: Option<Message>,
    /// The token of the latest hello.
    token: u64,
    /// Notifications were sent after it, so that its answer will not confirm them.
    unconfirmed: bool,
    /// The fault [`Faults::keep_endpoints`](crate::Faults), until the agent closes.
    keeps_endpoint: bool,
    // The following drop in this order: keys before the endpoint, and only then is it uncounted.
    /// In the order of the metadata's regions.
    keys: Vec<RemoteKey>,
    /// Keys of earlier transfers; empty without [`Faults::keep_rkeys`](crate::Faults).
    kept_keys: Vec<RemoteKey>,
    endpoint: Endpoint,
    _counted: Held,
    metadata: Arc<Metadata>,
    state: Arc<LinkState>,
    worker: Rc<Worker>,
    shared: Arc<Shared>,
}

enum Phase {
    Greeting(Reply),
    Open,
    Leaving,
    Draining {
        until: Instant,
    },
    Closing {
        endpoint_closes: bool,
    },
    /// Over for everybody, but the endpoint stays open until the agent closes.
    Kept,
}

struct Message {
    id: u32,
    header: Bytes,
    payload: Bytes,
    then: Then,
}

/// What a message that has left sets off.
enum Then {
    Nothing,
    Finish(Transfer),
    Reply(Reply),
}

impl Link {
    /// Begins to connect; `reply` hears when the peer has answered. `None`: it has been told why
    /// that cannot be.
    pub(super) fn open(
        state: Arc<LinkState>,
        worker: &Rc<Worker>,
        shared: &Arc<Shared>,
        metadata: Arc<Metadata>,
        reply: Reply,
    ) -> Option<Self> {
        let address = wire::unframe_address(&metadata.address).map_err(bad);
        let opened = address.and_then(|address| {
            Endpoint::open(worker, address, state.id).map_err(|status| {
                state.end(&format!("ucp_ep_create failed: {}", worker.ucx().describe(status)));
                state.unreachable()
            })
        });
        let endpoint = match opened {
            Ok(endpoint) => endpoint,
            Err(error) => {
                state.set_gone();
                let _ = reply.send(Err(error));
                return None;
            }
        };
        let mut link = Self {
            phase: Phase::Greeting(reply),
            flow: Flow::new(GETS_PER_LINK),
            outbox: VecDeque::new(),
            sending: None,
            token: u64::from(state.id) << 32,
            unconfirmed: false,
            keeps_endpoint: shared.faults.keep_endpoints,
            keys: Vec::new(),
            kept_keys: Vec::new(),
            endpoint,
            _counted: shared.counters.endpoints.hold(1),
            metadata,
            state,
            worker: Rc::clone(worker),
            shared: Arc::clone(shared),
        };
        link.say_hello();
        Some(link)
    }

    /// Takes a transfer; finishes it at once if the link is no longer open.
    pub(super) fn post(&mut self, transfer: Transfer, memory: &Memory) {
        if self.is_ending() {
            return transfer.finish(Err(self.state.lost()));
        }
        if self.shared.faults.keep_rkeys {
            match self.unpack_keys() {
                // What is under way keeps using the old ones.
                Ok(keys) => self.kept_keys.extend(std::mem::replace(&mut self.keys, keys)),
                Err(error) => return transfer.finish(Err(error)),
            }
        }
        let blocks = transfer.blocks().len();
        self.flow.push(transfer, blocks);
        self.pump(memory);
    }

    /// Takes a notification of its own.
    pub(super) fn notify(&mut self, payload: Bytes, reply: Reply) {
        if self.is_ending() {
            return drop(reply.send(Err(self.state.lost())));
        }
        if self.outbox.len() >= CROWDED_OUTBOX {
            self.outbox.retain(|message| match &message.then {
                Then::Reply(reply) => !reply.is_closed(),
                Then::Nothing | Then::Finish(_) => true,
            });
        }
        self.send_notification(payload, Then::Reply(reply));
    }

    /// One of this link's operations has ended.
    pub(super) fn ended(&mut self, tag: Tag, status: Status, memory: &Memory) {
        match tag {
            Tag::Get { job, .. } => self.got(job, status),
            Tag::Send { .. } => self.sent(status),
            Tag::Close { .. } => {
                if let Phase::Closing { endpoint_closes } = &mut self.phase {
                    *endpoint_closes = false;
                }
            }
        }
        self.pump(memory);
        self.close_if_drained();
    }

    /// The peer has answered a hello.
    pub(super) fn answered(&mut self, greeting: Greeting) {
        if greeting.token != self.token {
            // To an earlier hello; the latest one confirms more.
            return;
        }
        match std::mem::replace(&mut self.phase, Phase::Open) {
            Phase::Greeting(reply) if greeting.instance != self.metadata.instance => {
                self.phase = Phase::Greeting(reply);
                self.lose("another agent answers at its address; fetch its metadata again");
            }
            Phase::Greeting(reply) => match self.unpack_keys() {
                Ok(keys) => {
                    self.keys = keys;
                    // Whoever asked may have gone; then the handle aborts the link.
                    let _ = reply.send(Ok(()));
                }
                Err(error) => {
                    let _ = reply.send(Err(error));
                    self.lose("its keys cannot be used");
                }
            },
            Phase::Leaving => self.leave(),
            unchanged => self.phase = unchanged,
        }
    }

    /// UCX reports that the peer is gone.
    pub(super) fn failed(&mut self, status: Status) {
        self.state.end(&format!("UCX reports: {}", self.worker.ucx().describe(status)));
        self.end_by_force();
    }

    /// Lets go in good order: ends the link once the peer has confirmed what it was sent.
    pub(super) fn leave(&mut self) {
        self.keeps_endpoint = false;
        if matches!(self.phase, Phase::Kept) {
            self.close_endpoint();
        } else if matches!(self.phase, Phase::Open) && self.unconfirmed {
            self.phase = Phase::Leaving;
            self.say_hello();
        } else {
            self.lose(LEFT);
        }
    }

    /// Aborts the link for a reason.
    pub(super) fn lose(&mut self, reason: &str) {
        self.state.end(reason);
        self.abort();
    }

    /// Ends the link for the reason in its state. What is outstanding still has to end: see
    /// [`due`](Self::due) and [`is_gone`](Self::is_gone).
    pub(super) fn abort(&mut self) {
        if self.is_ending() {
            return;
        }
        self.give_up();
        self.phase = Phase::Draining { until: Instant::now() + DRAIN_TIMEOUT };
        self.close_if_drained();
    }

    /// When [`expire`](Self::expire) is to be called.
    pub(super) fn due(&self) -> Option<Instant> {
        if let Phase::Draining { until } = self.phase { Some(until) } else { None }
    }

    /// Closes by force what has not drained by `now`.
    pub(super) fn expire(&mut self, now: Instant) {
        if self.due().is_some_and(|until| until <= now) {
            self.end_by_force();
        }
    }

    /// Nothing of this link is outstanding: it can be dropped.
    pub(super) fn is_gone(&self) -> bool {
        matches!(self.phase, Phase::Closing { endpoint_closes: false }) && self.is_idle()
    }

    /// Drops everything, then tells those who wait for that.
    pub(super) fn bury(self) {
        let state = Arc::clone(&self.state);
        drop(self);
        state.set_gone();
    }

    /// Posts whatever may be posted.
    fn pump(&mut self, memory: &Memory) {
        if self.is_ending() {
            return;
        }
        while let Some((job, transfer, index)) = self.flow.next() {
            let block = transfer.blocks()[index];
            let region = transfer.region().id;
            let registration =
                memory.get(&region).expect("the transfer's claim keeps it registered");
            let index = self.metadata.index_of(block.remote_region);
            let index = index.expect("the peer's region was found when the block was checked");
            let (remote, key) = (&self.metadata.regions[index], &self.keys[index]);
            let tag = Tag::Get { link: self.state.id, job };
            let local = (transfer.destination(&block), block.len);
            // SAFETY: the transfer owns this range of its region exclusively and stays in `flow`
            // until the operation has ended; so do the keys, which drop with the link, after it
            // is gone. The offset lies within the peer's region, whose end fits 64 bits.
            let posted = unsafe {
                self.endpoint.get(
                    tag,
                    local,
                    (remote.base + block.remote_offset, key),
                    registration,
                )
            };
            match posted {
                Posted::Pending => {}
                Posted::Done => self.got(job, Status::OK),
                Posted::Failed(status) => return self.got(job, status),
            }
        }
    }

    /// A get has ended.
    fn got(&mut self, job: JobId, status: Status) {
        if !status.is_ok() {
            self.state.end(&self.describe("a read", status));
        }
        match self.flow.ended(job, status.is_ok()) {
            // Data that arrived in spite of the end is data, but no notification can go out.
            Some(Ended { transfer, complete }) if self.is_ending() || !complete => {
                transfer.finish(Err(self.state.lost()));
            }
            Some(Ended { mut transfer, .. }) => match transfer.take_notification() {
                Some(payload) => self.send_notification(payload, Then::Finish(transfer)),
                None => transfer.finish(Ok(())),
            },
            None => {}
        }
        if !status.is_ok() {
            self.end_by_force();
        }
    }

    fn send_notification(&mut self, payload: Bytes, then: Then) {
        self.unconfirmed = true;
        let header = Bytes::copy_from_slice(self.shared.name.as_bytes());
        self.outbox.push_back(Message { id: wire::NOTIFICATION, header, payload, then });
        self.send_next();
    }

    fn say_hello(&mut self) {
        self.token += 1;
        self.unconfirmed = false;
        let greeting = Greeting { token: self.token, instance: self.metadata.instance };
        let header = Bytes::copy_from_slice(&greeting.encode());
        let (payload, then) = (Bytes::new(), Then::Nothing);
        self.outbox.push_back(Message { id: wire::HELLO, header, payload, then });
        self.send_next();
    }

    fn send_next(&mut self) {
        while self.sending.is_none() {
            let Some(message) = self.outbox.pop_front() else { return };
            let message = self.sending.insert(message);
            let tag = Tag::Send { link: self.state.id };
            // SAFETY: `sending` keeps both buffers, which live on the heap and are never written
            // to, until the operation has ended.
            let posted =
                unsafe { self.endpoint.send(tag, message.id, &message.header, &message.payload) };
            match posted {
                Posted::Pending => {}
                Posted::Done => self.left(true),
                Posted::Failed(status) => return self.not_sent(status),
            }
        }
    }

    /// A send that was pending has ended.
    fn sent(&mut self, status: Status) {
        if !status.is_ok() {
            return self.not_sent(status);
        }
        self.left(true);
        self.send_next();
    }

    fn not_sent(&mut self, status: Status) {
        self.state.end(&self.describe("a message", status));
        self.left(false);
        self.end_by_force();
    }

    /// The message that was being sent is over.
    fn left(&mut self, ok: bool) {
        if let Some(message) = self.sending.take() {
            self.resolve(message.then, ok);
        }
    }

    fn resolve(&self, then: Then, ok: bool) {
        let result = if ok { Ok(()) } else { Err(self.state.lost()) };
        match then {
            Then::Nothing => {}
            Then::Finish(transfer) => transfer.finish(result),
            // Nobody may be waiting any more; then there is nobody to tell.
            Then::Reply(reply) => drop(reply.send(result)),
        }
    }

    fn unpack_keys(&self) -> Result<Vec<RemoteKey>, Error> {
        let unpack = |region: &crate::metadata::RemoteRegion| {
            let key = wire::unframe_key(&region.remote_key).map_err(bad)?;
            let counted = self.shared.counters.rkeys.hold(1);
            self.endpoint.unpack(key, counted).map_err(|status| {
                bad(format!("ucp_ep_rkey_unpack: {}", self.worker.ucx().describe(status)))
            })
        };
        self.metadata.regions.iter().map(unpack).collect()
    }

    fn describe(&self, what: &str, status: Status) -> String {
        format!("{what} failed: {}", self.worker.ucx().describe(status))
    }

    /// Answers those who wait for what has not begun.
    fn give_up(&mut self) {
        let ending = Phase::Closing { endpoint_closes: false };
        if let Phase::Greeting(reply) = std::mem::replace(&mut self.phase, ending) {
            let _ = reply.send(Err(self.state.unreachable()));
        }
        for message in std::mem::take(&mut self.outbox) {
            self.resolve(message.then, false);
        }
        for Ended { transfer, .. } in self.flow.abort() {
            transfer.finish(Err(self.state.lost()));
        }
    }

    fn close_if_drained(&mut self) {
        if matches!(self.phase, Phase::Draining { .. }) && self.is_idle() {
            self.end_by_force();
        }
    }

    /// Ends the link: closes the endpoint, which ends everything that is outstanding.
    fn end_by_force(&mut self) {
        if matches!(self.phase, Phase::Closing { .. } | Phase::Kept) {
            return;
        }
        self.give_up();
        if self.keeps_endpoint && self.is_idle() {
            self.phase = Phase::Kept;
            self.state.set_gone();
        } else {
            self.close_endpoint();
        }
    }

    fn close_endpoint(&mut self) {
        // May end operations right in here; their events come after this.
        let endpoint_closes = matches!(self.endpoint.close(), Posted::Pending);
        self.phase = Phase::Closing { endpoint_closes };
    }

    /// Nothing takes part in this link any more but what is outstanding.
    fn is_ending(&self) -> bool {
        matches!(self.phase, Phase::Draining { .. } | Phase::Closing { .. } | Phase::Kept)
    }

    /// UCX holds none of our memory.
    fn is_idle(&self) -> bool {
        self.flow.is_empty() && self.sending.is_none()
    }
}

const LEFT: &str = "the agent closes";

fn bad(reason: impl ToString) -> Error {
    Error::BadMetadata { reason: reason.to_string() }
}
