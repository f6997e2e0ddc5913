//! Context, worker, registrations and links, and what is done with them. Whoever has this is the only
//! one that calls into UCX: see [`super::driver`].
//!
//! It progresses until there is nothing to do, looks again for a moment, arms the worker's event
//! descriptor, and sleeps on that and on the queue of commands. Deadlines are kept elsewhere and come
//! as aborts.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::context::{Context, Registration};
use super::events::{self, Event, LinkId, Tag};
use super::ffi::Request;
use super::handle::LinkState;
use super::library::Ucx;
use super::link::{Link, Memory, Reply};
use super::worker::Worker;
use crate::backend::{Shared, Transfer};
use crate::config::AgentConfig;
use crate::error::Error;
use crate::metadata::Metadata;
use crate::queue::Queue;
use crate::region::RegionCore;

/// Calls of `ucp_worker_progress` in a row before commands are looked at again: under load there
/// is always something to progress.
const PROGRESS_BURST: u32 = 64;
/// How long the thread looks for more to do before it sleeps. A transfer comes back within some
/// tens of microseconds, and to be woken costs about as much, on both sides. It gives way to whoever
/// wants the processor meanwhile.
const LINGER: Duration = Duration::from_micros(50);
/// How long a closing agent waits for peers to confirm notifications. One round trip is enough
/// unless the peer is stopped or lost.
pub(super) const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// How often UCX is asked again where it has no event to wait for.
const POLL: Duration = Duration::from_millis(10);

/// What other threads ask of the progress thread.
pub(super) enum Command {
    Register {
        region: Arc<RegionCore>,
        reply: mpsc::SyncSender<Result<Bytes, Error>>,
    },
    /// No transfer is under way in it.
    Deregister {
        region: u32,
        reply: mpsc::SyncSender<()>,
    },
    Connect {
        link: Arc<LinkState>,
        metadata: Arc<Metadata>,
        reply: Reply,
    },
    Post {
        link: Arc<LinkState>,
        transfer: Transfer,
    },
    Notify {
        link: Arc<LinkState>,
        payload: Bytes,
        reply: Reply,
    },
    /// The reason is in the link's state.
    Abort {
        link: LinkId,
    },
    Close,
}

impl Command {
    /// The answer when the thread is over, or the link is.
    pub(super) fn refuse(self) {
        match self {
            Self::Post { link, transfer } => transfer.finish(Err(link.lost())),
            // Nobody may be waiting any more; then there is nobody to tell.
            Self::Notify { link, reply, .. } => drop(reply.send(Err(link.lost()))),
            Self::Connect { link, reply, .. } => {
                link.set_gone();
                let _ = reply.send(Err(Error::Closed { operation: "connect to a peer" }));
            }
            Self::Register { reply, .. } => {
                let _ = reply.send(Err(Error::Closed { operation: "register memory" }));
            }
            // Dropping the sender tells the waiting side.
            Self::Deregister { .. } | Self::Abort { .. } | Self::Close => {}
        }
    }
}

/// Everything of UCX that belongs to an agent.
pub(super) struct Progress {
    shared: Arc<Shared>,
    /// Some once the agent closes: until then links may leave in good order.
    leave_until: Option<Instant>,
    // These drop in this order, and each holds what it needs of the next.
    links: BTreeMap<LinkId, Link>,
    memory: Memory,
    /// Requests of finished gets; empty without [`Faults::keep_transfers`](crate::Faults).
    kept_requests: Vec<Request>,
    worker: Rc<Worker>,
    context: Rc<Context>,
    /// Empty lists that keep their capacity.
    spare_commands: VecDeque<Command>,
    spare_events: Vec<Event>,
}

// SAFETY: it is used by one thread at a time, behind a lock, which its worker is made for
// (`UCS_THREAD_MODE_SERIALIZED`). Every `Rc` in it points to what is in it, and no clone leaves it,
// so their counts are only changed by whoever has the lock, too. What callbacks note down for a
// thread is taken before that thread lets go of the lock.
unsafe impl Send for Progress {}

impl Progress {
    /// Opens UCX, and tells the address of this agent, framed for metadata.
    ///
    /// # Errors
    /// What UCX says.
    pub(super) fn open(
        ucx: &'static Ucx,
        config: &AgentConfig,
        shared: Arc<Shared>,
    ) -> Result<(Self, Bytes), Error> {
        let context = Context::open(ucx, &config.ucx_variables, config.listen)?;
        let worker = Worker::open(&context, &shared, config.ucx_completion)?;
        let address = worker.address()?;
        let progress = Self {
            shared,
            leave_until: None,
            links: BTreeMap::new(),
            memory: Memory::new(),
            kept_requests: Vec::new(),
            worker,
            context,
            spare_commands: VecDeque::new(),
            spare_events: Vec::new(),
        };
        Ok((progress, address))
    }

    /// Drives it alone until it is over.
    pub(super) fn run(&mut self, queue: &Queue<Command>) {
        let mut idle_since = None;
        while !self.is_over() {
            let busy = self.turn(queue);
            if busy || self.is_over() {
                idle_since = None;
            } else if idle_since.get_or_insert_with(Instant::now).elapsed() < LINGER {
                thread::yield_now();
            } else {
                self.sleep(queue);
                idle_since = None;
            }
        }
    }

    /// Everything that there is to do at the moment, or much of it. False if that was nothing.
    pub(super) fn turn(&mut self, queue: &Queue<Command>) -> bool {
        let mut busy = self.obey(queue);
        for _ in 0..PROGRESS_BURST {
            if !self.step() {
                break;
            }
            busy = true;
        }
        busy
    }

    /// The least that can be done. False if there was nothing to do.
    pub(super) fn step(&mut self) -> bool {
        let moved = self.worker.progress();
        moved | self.settle()
    }

    /// Posts a transfer.
    pub(super) fn post(&mut self, link: &LinkState, transfer: Transfer) {
        match self.links.get_mut(&link.id) {
            Some(link) => link.post(transfer, &self.memory),
            None => transfer.finish(Err(link.lost())),
        }
        self.settle();
    }

    /// Whether a link is still there.
    pub(super) fn has(&self, link: &LinkState) -> bool {
        self.links.contains_key(&link.id)
    }

    /// Gives up what should have ended by now. False if there is nothing of the kind.
    pub(super) fn expire_if_due(&mut self) -> bool {
        let now = Instant::now();
        let is_due = self.due().is_some_and(|due| due <= now);
        if is_due {
            self.expire(now);
            self.settle();
        }
        is_due
    }

    pub(super) fn is_over(&self) -> bool {
        self.leave_until.is_some() && self.links.is_empty()
    }

    /// Carries out the commands that wait. False if there were none.
    fn obey(&mut self, queue: &Queue<Command>) -> bool {
        let mut commands = queue.take(std::mem::take(&mut self.spare_commands));
        let any = !commands.is_empty();
        for command in commands.drain(..) {
            self.apply(command);
        }
        self.spare_commands = commands;
        any
    }

    fn apply(&mut self, command: Command) {
        match command {
            Command::Register { region, reply } => {
                let id = region.id;
                let registered = Registration::new(&self.context, region);
                let _ = reply.send(registered.map(|(registration, key)| {
                    self.memory.insert(id, registration);
                    key
                }));
            }
            Command::Deregister { region, reply } => {
                drop(self.memory.remove(&region));
                let _ = reply.send(());
            }
            command @ Command::Connect { .. } if self.leave_until.is_some() => command.refuse(),
            Command::Connect { link, metadata, reply } => {
                let id = link.id;
                let opened = Link::open(link, &self.worker, &self.shared, metadata, reply);
                self.links.extend(opened.map(|link| (id, link)));
            }
            Command::Post { link, transfer } => self.post(&link, transfer),
            Command::Notify { link, payload, reply } => match self.links.get_mut(&link.id) {
                Some(link) => link.notify(payload, reply),
                None => drop(reply.send(Err(link.lost()))),
            },
            Command::Abort { link } => {
                if let Some(link) = self.links.get_mut(&link) {
                    link.abort();
                }
            }
            Command::Close => {
                if self.leave_until.is_none() {
                    self.leave_until = Some(Instant::now() + LEAVE_TIMEOUT);
                    self.links.values_mut().for_each(Link::leave);
                }
            }
        }
    }

    /// Acts on what UCX has reported until it reports no more. False if there was nothing.
    fn settle(&mut self) -> bool {
        let mut any = false;
        loop {
            let mut events = events::take(std::mem::take(&mut self.spare_events));
            let none = events.is_empty();
            for event in events.drain(..) {
                self.react(event);
            }
            self.spare_events = events;
            if none {
                break;
            }
            any = true;
        }
        any | self.bury_the_dead()
    }

    fn react(&mut self, event: Event) {
        match event {
            Event::Ended { tag, status, request } => {
                if let Some(request) = request {
                    match tag {
                        Tag::Get { .. } if self.shared.faults.keep_transfers => {
                            self.kept_requests.push(request);
                        }
                        _ => self.worker.free(request),
                    }
                }
                let (Tag::Get { link, .. } | Tag::Send { link } | Tag::Close { link }) = tag;
                if let Some(link) = self.links.get_mut(&link) {
                    link.ended(tag, status, &self.memory);
                }
            }
            Event::LinkFailed { link, status } => {
                if let Some(link) = self.links.get_mut(&link) {
                    link.failed(status);
                }
            }
            Event::Answered(greeting) => {
                // Tokens begin with the link's number; a wrong one is a peer's mistake.
                let link = (greeting.token >> 32) as LinkId;
                if let Some(link) = self.links.get_mut(&link) {
                    link.answered(greeting);
                }
            }
        }
    }

    fn bury_the_dead(&mut self) -> bool {
        let before = self.links.len();
        for (_, link) in self.links.extract_if(.., |_, link| link.is_gone()) {
            link.bury();
        }
        self.links.len() != before
    }

    /// Waits for UCX, a command, or a moment that is due. Returns at once if UCX has work.
    pub(super) fn sleep(&mut self, queue: &Queue<Command>) {
        let now = Instant::now();
        let due = self.due();
        if due.is_some_and(|due| due <= now) {
            return self.expire(now);
        }
        let timeout = due.map(|due| due.saturating_duration_since(now));
        let waited = match self.worker.arm() {
            Ok(true) => self.wait(queue, timeout),
            Ok(false) => Ok(()),
            Err(cause) => Err(cause),
        };
        if let Err(cause) = waited {
            // Without events there is no progress: nothing would ever end.
            tracing::error!(%cause, "the UCX worker failed; every link is aborted");
            for link in self.links.values_mut() {
                link.lose(&cause);
            }
            // What is outstanding still needs progress: poll for it instead.
            thread::sleep(POLL);
        }
    }

    fn expire(&mut self, now: Instant) {
        for link in self.links.values_mut() {
            link.expire(now);
        }
        if let Some(until) = self.leave_until.filter(|until| *until <= now) {
            for link in self.links.values_mut() {
                link.lose("it did not confirm its notifications before the agent closed");
            }
            // From here on only UCX keeps links; it is asked now and then.
            self.leave_until = Some(until.max(now) + POLL);
        }
    }

    /// The next moment at which something is to be given up.
    fn due(&self) -> Option<Instant> {
        self.links.values().filter_map(Link::due).chain(self.leave_until).min()
    }

    fn wait(&self, queue: &Queue<Command>, timeout: Option<Duration>) -> Result<(), String> {
        let waited = queue.wait(&[self.worker.event_fd()], timeout);
        waited.map_err(|error| format!("cannot wait for events: {error}"))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        for request in std::mem::take(&mut self.kept_requests) {
            self.worker.free(request);
        }
    }
}
