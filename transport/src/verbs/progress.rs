//! Who carries links on. They are behind a lock: whoever holds it is the only one that posts to
//! their queue pairs and polls their queues.
//!
//! Most of the time that is the progress thread. It goes on while there is something to do, then
//! arms the queues and sleeps on the completion channel, the device's events and its queue of
//! commands. Links take turns, a batch each, so that none waits for another's long transfer.
//! Deadlines are kept elsewhere and come as aborts.
//!
//! Else it is a caller: see [`super::callers`]. Only the thread lets go of links.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::Context;
use super::handle::LinkState;
use super::inbound::Inbound;
use super::link::{Link, Reply};
use super::queues::LinkId;
use super::status::{Event, of_event};
use crate::backend::Transfer;
use crate::unwinding::or_abort;

/// Rounds after which the device's events are looked at even though there is no pause.
const ROUNDS_PER_LOOK: u32 = 1024;
/// How often everything is looked at where waiting is not possible any more.
const POLL: Duration = Duration::from_millis(10);
/// What other threads ask of the progress thread.
pub(super) enum Command {
    Attach(Box<Link>),
    Admit(Box<Inbound>),
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
    /// The peer has closed the socket of a link.
    PeerEnded {
        link: LinkId,
        reason: String,
    },
    /// An incoming connection is over.
    Dismiss {
        connection: LinkId,
    },
    /// Nothing, but that the thread looks at every link.
    Look,
    Close,
}

impl Command {
    /// The answer when the thread is over.
    pub(super) fn refuse(self) {
        match self {
            Self::Post { link, transfer } => transfer.finish(Err(link.lost())),
            // Nobody may be waiting any more; then there is nobody to tell.
            Self::Notify { link, reply, .. } => drop(reply.send(Err(link.lost()))),
            Self::Attach(link) => link.state.end("the agent closes"),
            // Dropping it tells the waiting side.
            Self::Admit(_) => {}
            Self::Abort { .. } | Self::PeerEnded { .. } | Self::Dismiss { .. } => {}
            Self::Look | Self::Close => {}
        }
    }
}

/// The body of the thread. Returns when everything is released.
pub(super) fn run(context: &Context) {
    // Transfers live behind the lock while the device may write into their memory. Without the one
    // who ends them they would stay there for ever.
    or_abort(|| {
        let mut rounds = 0_u32;
        loop {
            let mut progress = context.progress();
            if progress.is_over() {
                break;
            }
            let busy = progress.round(context);
            rounds = rounds.wrapping_add(1);
            if rounds.is_multiple_of(ROUNDS_PER_LOOK) {
                progress.look_at_events(context);
            }
            if busy || progress.expire_and_arm() {
                continue;
            }
            let due = progress.due();
            drop(progress);
            context.sleep(due);
            context.progress().wake(context);
        }
        context.progress().release();
        context.queue.close().into_iter().for_each(Command::refuse);
    });
}

impl Context {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        // Whoever panics while it holds the lock ends the process.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a command to the thread.
    pub(super) fn push(&self, command: Command) {
        if let Err(command) = self.queue.push(command) {
            command.refuse();
        }
    }

    /// Waits for a completion, an event, a command, or a moment that is due.
    fn sleep(&self, due: Option<Instant>) {
        let timeout = due.map(|due| due.saturating_duration_since(Instant::now()));
        let events = [self.channel.fd(), self.device.async_fd()];
        if let Err(error) = self.queue.wait(&events, timeout) {
            tracing::error!(%error, "cannot wait for completions; polling for them");
            std::thread::sleep(POLL);
        }
    }
}

/// Every connection of an agent.
#[derive(Default)]
pub(super) struct Progress {
    pub(super) links: BTreeMap<LinkId, Link>,
    /// Links that are over; empty without [`Faults::keep_endpoints`](crate::Faults).
    kept: Vec<Link>,
    inbound: BTreeMap<LinkId, Inbound>,
    closing: bool,
    /// An empty list that keeps its capacity.
    spare: VecDeque<Command>,
}

impl Progress {
    fn is_over(&self) -> bool {
        self.closing && self.links.is_empty()
    }

    /// Lets go of everything; there will be no more.
    fn release(&mut self) {
        *self = Self { closing: true, ..Self::default() };
    }

    /// Everything that there is to do at the moment. False if that was nothing.
    fn round(&mut self, context: &Context) -> bool {
        let mut busy = self.obey(context);
        busy |= self.poll();
        busy |= self.pump();
        busy |= self.bury_the_dead(context);
        busy
    }

    /// Carries out the commands that wait. False if there were none.
    fn obey(&mut self, context: &Context) -> bool {
        let mut commands = context.queue.take(std::mem::take(&mut self.spare));
        let any = !commands.is_empty();
        for command in commands.drain(..) {
            self.apply(context, command);
        }
        self.spare = commands;
        any
    }

    fn apply(&mut self, context: &Context, command: Command) {
        match command {
            command @ (Command::Attach(_) | Command::Admit(_)) if self.closing => command.refuse(),
            Command::Attach(link) => {
                self.links.insert(link.state.id, *link);
            }
            Command::Admit(inbound) => {
                self.inbound.insert(inbound.id, *inbound);
            }
            Command::Post { link, transfer } => self.post(context, &link, transfer),
            Command::Notify { link, payload, reply } => match self.links.get_mut(&link.id) {
                Some(link) => link.notify(payload, reply),
                None => drop(reply.send(Err(link.lost()))),
            },
            Command::Abort { link } => {
                if let Some(link) = self.links.get_mut(&link) {
                    link.abort();
                }
            }
            Command::PeerEnded { link, reason } => {
                if let Some(link) = self.links.get_mut(&link) {
                    // A completion may tell more exactly what happened.
                    while link.poll() {}
                    link.lose(&reason);
                }
            }
            Command::Dismiss { connection } => {
                if let Some(mut inbound) = self.inbound.remove(&connection) {
                    // What the peer was told has arrived is to be delivered.
                    while inbound.poll() {}
                }
            }
            Command::Look => {}
            Command::Close => self.close(),
        }
    }

    pub(super) fn post(&mut self, context: &Context, link: &LinkState, transfer: Transfer) {
        match self.links.get_mut(&link.id) {
            Some(link) => {
                let memory = context.memory().get(&transfer.region().id).cloned();
                link.post(transfer, memory);
            }
            None => transfer.finish(Err(link.lost())),
        }
    }

    fn close(&mut self) {
        self.closing = true;
        self.kept.clear();
        self.links.values_mut().for_each(|link| link.lose("the agent closes"));
        for mut inbound in std::mem::take(&mut self.inbound).into_values() {
            while inbound.poll() {}
        }
    }

    /// Acts on the completions of queues that may have some. False if there were none.
    fn poll(&mut self) -> bool {
        let mut any = false;
        for link in self.links.values_mut().filter(|link| !link.armed) {
            any |= link.poll();
        }
        for inbound in self.inbound.values_mut().filter(|inbound| !inbound.armed) {
            any |= inbound.poll();
        }
        any
    }

    fn pump(&mut self) -> bool {
        let mut any = false;
        for link in self.links.values_mut() {
            any |= link.pump();
        }
        any
    }

    fn bury_the_dead(&mut self, context: &Context) -> bool {
        let before = self.links.len();
        let keeps = context.shared.faults.keep_endpoints && !self.closing;
        for (_, link) in self.links.extract_if(.., |_, link| link.is_gone()) {
            if keeps {
                link.state.buried.cancel();
                self.kept.push(link);
            }
        }
        self.links.len() != before
    }

    /// The next moment at which a link is to be given up that does not flush.
    fn due(&self) -> Option<Instant> {
        self.links.values().filter_map(Link::due).min()
    }

    /// The last thing before a sleep. True if there is something to do after all.
    fn expire_and_arm(&mut self) -> bool {
        let now = Instant::now();
        if self.due().is_some_and(|due| due <= now) {
            self.links.values_mut().for_each(|link| link.expire(now));
            return true;
        }
        self.arm()
    }

    /// The first thing after it.
    fn wake(&mut self, context: &Context) {
        self.look_at_events(context);
        while let Some(owner) = context.channel.next_report() {
            if let Some(link) = self.links.get_mut(&owner) {
                link.armed = false;
            }
            if let Some(inbound) = self.inbound.get_mut(&owner) {
                inbound.armed = false;
            }
        }
    }

    /// Arms what is not; true if there turned out to be completions.
    fn arm(&mut self) -> bool {
        let mut any = false;
        for link in self.links.values_mut().filter(|link| !link.armed && link.is_to_report()) {
            link.arm();
            // One that came before it was armed reports nothing.
            if link.poll() {
                link.armed = false;
                any = true;
            }
        }
        for inbound in self.inbound.values_mut().filter(|inbound| !inbound.armed) {
            inbound.arm();
            if inbound.poll() {
                inbound.armed = false;
                any = true;
            }
        }
        any
    }

    fn look_at_events(&mut self, context: &Context) {
        while let Some((number, element)) = context.device.next_event() {
            match of_event(number) {
                Event::Device(failure) => {
                    let _ = context.failed.set(failure.text.to_owned());
                    self.fail_all(failure.kind, failure.text);
                }
                // A port's number is the first four bytes of the element.
                Event::PortDown if element as u32 == u32::from(context.port.number) => {
                    let (port, device) = (context.port.number, &context.device.name);
                    let reason = format!("port {port} of RDMA device {device} went down");
                    self.fail_all("rdma_port_down", &reason);
                }
                Event::QueuePair(failure) => {
                    let links = self.links.values_mut();
                    for link in links.filter(|link| link.has_pair_at(element)) {
                        link.fail(failure.kind, failure.text);
                    }
                    let inbound = self.inbound.values();
                    for inbound in inbound.filter(|inbound| inbound.has_pair_at(element)) {
                        inbound.fail(failure.kind, failure.text);
                    }
                }
                Event::PortDown | Event::Other => {}
            }
        }
    }

    fn fail_all(&mut self, kind: &'static str, reason: &str) {
        tracing::warn!(reason, "every RDMA connection ends");
        self.links.values_mut().for_each(|link| link.fail(kind, reason));
        self.inbound.values().for_each(|inbound| inbound.fail(kind, reason));
    }
}
