//! The two sides of a connection before its queue pairs talk, and the socket that tells each that
//! the other is still there: a process that ends closes it, which a queue pair would not notice
//! before its retries are used up.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use super::Context;
use super::choice::path;
use super::handle::{LinkState, VerbsLink};
use super::inbound::{Inbound, InboundState};
use super::link::{Link, MESSAGES, Parts};
use super::memory::Buffers;
use super::plan::RemoteKeys;
use super::progress::Command;
use super::queues::{Capacity, CompletionQueue, LinkId, QueuePair};
use super::record::{End, Frame, Hello, MAX_FRAME_BYTES, Welcome, decode_address};
use crate::agent::random;
use crate::counters::Held;
use crate::error::Error;
use crate::metadata::Metadata;
use crate::queue::Queue;
use crate::tcp::tune;

/// How long to wait when the system has no descriptor for the next connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connects to the agent that made `metadata`.
pub(super) async fn connect(
    context: &Arc<Context>,
    metadata: Arc<Metadata>,
) -> Result<VerbsLink, Error> {
    let peer = metadata.name.clone();
    let bad = |reason| Error::BadMetadata { reason };
    let (address, link_layer) = decode_address(&metadata.address).map_err(bad)?;
    let keys = metadata
        .regions
        .iter()
        .map(|region| RemoteKeys::decode(&region.remote_key, region.len).map_err(bad));
    let keys = keys.collect::<Result<Vec<_>, _>>()?;
    let unreachable = |reason: String| Error::Unreachable { peer: peer.clone(), reason };
    let ours = context.source.link_layer;
    if link_layer != ours {
        return Err(unreachable(format!("it is on {link_layer}, this side on {ours}")));
    }
    context.check_port().map_err(unreachable)?;
    let on = |reason: String| unreachable(format!("{address}: {reason}"));
    let failed =
        |error: io::Error| on(format!("{error}; is it running, and is its metadata fresh?"));

    let id = context.next_id();
    let counted = context.shared.counters.endpoints.hold(1);
    let lanes = usize::from(context.settings.queue_pairs);
    let rd_atomic = context.rd_atomic;
    let made = Materials::make(context, id, lanes, Role::Reader).await?;
    let mut stream = TcpStream::connect(address).await.map_err(failed)?;
    tune(&stream);
    let end = made.end(context, rd_atomic);
    let (instance, name) = (metadata.instance, context.shared.name.clone());
    let hello = Frame::Hello(Hello { instance, name, end });
    stream.write_all(&hello.encode()).await.map_err(failed)?;
    let Welcome { notification_bytes, end } = match receive(&mut stream).await {
        Ok(Frame::Welcome(welcome)) => welcome,
        Ok(Frame::Refusal(reason)) => {
            return Err(on(format!("it refuses: {reason}")));
        }
        Ok(Frame::Hello(_)) => return Err(on("it answers a hello with a hello".to_owned())),
        Err(Received::Io(error)) => return Err(failed(error)),
        Err(Received::Malformed(reason)) => return Err(on(reason)),
    };
    if end.lanes.len() != made.pairs.len() {
        return Err(on("it answers with another number of queue pairs".to_owned()));
    }
    let path = path((context.source.mtu, rd_atomic), (end.mtu, end.rd_atomic));
    for (pair, lane) in made.pairs.iter().zip(&end.lanes) {
        let source = (&context.source, context.port.number);
        pair.listen_to(&end, *lane, source, path, &context.settings)
            .and_then(|()| pair.talk(path, &context.settings))
            .map_err(|error| on(format!("{error}; is there a route to {}?", end.gid)))?;
    }

    let state = LinkState::new(id, peer.clone());
    let Materials { pairs, buffers, queue } = made;
    let link = Link::new(Parts {
        state: Arc::clone(&state),
        metadata,
        shared: Arc::clone(&context.shared),
        pairs,
        buffers,
        queue,
        keys,
        depth: context.depth,
        max_message: context.port.max_message,
        notification_bytes: notification_bytes as usize,
    });
    if let Err(command) = context.queue.push(Command::Attach(Box::new(link))) {
        command.refuse();
        return Err(Error::Closed { operation: "connect to a peer" });
    }
    let task = hold(stream, Arc::clone(&state), Arc::clone(context), counted);
    context.tasks.spawn_on(task, &context.shared.runtime);
    Ok(VerbsLink { state, context: Arc::clone(context) })
}

/// Holds the socket of a link until the link is gone, and tells it when the peer is.
async fn hold(mut stream: TcpStream, state: Arc<LinkState>, context: Arc<Context>, counted: Held) {
    let farewell = async {
        match receive(&mut stream).await {
            Ok(Frame::Refusal(reason)) => format!("it ended the connection: {reason}"),
            Ok(_) => "it broke the protocol".to_owned(),
            Err(Received::Malformed(reason)) => reason,
            Err(Received::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                "it closed the connection".to_owned()
            }
            Err(Received::Io(error)) => error.to_string(),
        }
    };
    if let Some(reason) = state.buried.run_until_cancelled(farewell).await {
        // Refused only if the thread is over, and the link with it.
        let _ = context.queue.push(Command::PeerEnded { link: state.id, reason });
        state.buried.cancelled().await;
    }
    if context.shared.faults.keep_endpoints {
        state.gone.cancel();
        context.ended.cancelled().await;
    }
    drop((stream, counted));
    state.gone.cancel();
}

/// Accepts connections until the backend ends.
pub(super) async fn accept(listener: TcpListener, context: Arc<Context>) {
    let ended = context.ended.clone();
    let forever = async {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                context.shared.counters.fail("io");
                sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let held = context.shared.counters.connections_accepted.hold(1);
            let serving = serve(stream, Arc::clone(&context), held);
            context.tasks.spawn(serving);
        }
    };
    ended.run_until_cancelled(forever).await;
}

async fn serve(mut stream: TcpStream, context: Arc<Context>, held: Held) {
    tune(&stream);
    let limits = &context.shared.limits;
    let admitting = async {
        if context.shared.counters.connections_accepted.get() > limits.connections as u64 {
            return Err(format!("{} connections are open", limits.connections));
        }
        timeout(limits.handshake, admit(&mut stream, &context))
            .await
            .unwrap_or_else(|_elapsed| Err("no hello in time".to_owned()))
    };
    let farewell = match context.ended.run_until_cancelled(admitting).await {
        Some(Ok(admitted)) => Some(attend(&mut stream, &context, admitted).await),
        Some(Err(reason)) => {
            tracing::debug!(%reason, "connection refused");
            context.shared.counters.fail("protocol");
            Some(reason)
        }
        None => Some("the agent closes".to_owned()),
    };
    if let Some(reason) = farewell.filter(|reason| !reason.is_empty()) {
        // Bounded: who does not read its refusal must not keep the connection, nor an agent that
        // closes.
        let farewell = Frame::Refusal(reason).encode();
        let _ = timeout(limits.handshake.min(FAREWELL), stream.write_all(&farewell)).await;
    }
    drop((stream, held));
}

/// How long a farewell may take to fit into the socket's buffer, which an unread one always does.
const FAREWELL: Duration = Duration::from_secs(1);

/// Greets a reader: connects queue pairs to its own and hands them to the progress thread.
async fn admit(stream: &mut TcpStream, context: &Arc<Context>) -> Result<Admitted, String> {
    let Hello { instance, name, end } = match receive(stream).await {
        Ok(Frame::Hello(hello)) => hello,
        Ok(_) => return Err("a message before the hello".to_owned()),
        Err(Received::Io(error)) => return Err(error.to_string()),
        Err(Received::Malformed(reason)) => return Err(reason),
    };
    if instance != context.shared.instance {
        let ours = &context.shared.name;
        return Err(format!(
            "this is '{ours}', another agent than that metadata is of: it was started anew; fetch \
             its metadata again"
        ));
    }
    let ours = context.source.link_layer;
    if end.link_layer != ours {
        return Err(format!("this side is on {ours}, the reader on {}", end.link_layer));
    }
    context.check_port()?;
    let id = context.next_id();
    let responder = context.device.limits.responder_resources;
    let role = Role::Owner;
    let made = Materials::make(context, id, end.lanes.len(), role).await;
    let made = made.map_err(|error| error.to_string())?;
    let answer = made.end(context, responder);
    let path = path((context.source.mtu, responder), (end.mtu, end.rd_atomic));
    let Materials { pairs, buffers, queue } = made;
    let inbound = Inbound::new((id, name), pairs, buffers, queue, &context.shared);
    let inbound = inbound.map_err(|error| error.to_string())?;
    for (pair, lane) in inbound.pairs().iter().zip(&end.lanes) {
        let source = (&context.source, context.port.number);
        pair.listen_to(&end, *lane, source, path, &context.settings)
            .map_err(|error| error.to_string())?;
    }
    let state = Arc::clone(&inbound.state);
    // Before the answer: its first message may be here before we are back.
    if let Err(command) = context.queue.push(Command::Admit(Box::new(inbound))) {
        command.refuse();
        return Err("the agent closes".to_owned());
    }
    let admitted = Admitted { queue: Arc::clone(&context.queue), id, state };
    let notification_bytes = context.shared.limits.notification_bytes as u32;
    let welcome = Frame::Welcome(Welcome { notification_bytes, end: answer });
    stream.write_all(&welcome.encode()).await.map_err(|error| error.to_string())?;
    Ok(admitted)
}

/// An incoming connection that the progress thread has. Dropping it has that let go of it.
struct Admitted {
    queue: Arc<Queue<Command>>,
    id: LinkId,
    state: Arc<InboundState>,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        // Refused only if the thread is over, and the connection with it.
        let _ = self.queue.push(Command::Dismiss { connection: self.id });
    }
}

/// Holds the socket of a reader until either side ends. Returns what to tell it, if anything.
async fn attend(stream: &mut TcpStream, context: &Context, admitted: Admitted) -> String {
    let state = Arc::clone(&admitted.state);
    let mut byte = [0];
    let farewell = tokio::select! {
        // It has nothing to say: what comes is its end.
        _ = stream.read(&mut byte) => String::new(),
        () = state.broken.cancelled() => state.reason.get().cloned().unwrap_or_default(),
        () = context.ended.cancelled() => "the agent closes".to_owned(),
    };
    drop(admitted);
    state.gone.cancelled().await;
    farewell
}

#[derive(Clone, Copy)]
enum Role {
    Reader,
    Owner,
}

/// What one end of a connection is made of. Drops in this order, as `Link` does.
struct Materials {
    pairs: Vec<QueuePair>,
    buffers: Buffers,
    queue: CompletionQueue,
}

impl Materials {
    /// Makes them on a thread that may block: each is a call into the kernel, and one pins memory.
    async fn make(
        context: &Arc<Context>,
        id: LinkId,
        lanes: usize,
        role: Role,
    ) -> Result<Self, Error> {
        let context = Arc::clone(context);
        let making = tokio::task::spawn_blocking(move || Self::make_now(&context, id, lanes, role));
        making.await.unwrap_or(Err(Error::Closed { operation: "connect to a peer" }))
    }

    fn make_now(context: &Context, id: LinkId, lanes: usize, role: Role) -> Result<Self, Error> {
        let counters = &context.shared.counters;
        let device = &context.device;
        let messages = MESSAGES as u32;
        let inline_bytes = context.settings.inline_bytes.into();
        let (capacity, outstanding) = match role {
            Role::Reader => {
                let sends = context.depth as u32 + messages;
                (Capacity { sends, receives: 0, inline_bytes }, lanes * sends as usize)
            }
            Role::Owner => (Capacity { sends: 0, receives: messages, inline_bytes: 0 }, MESSAGES),
        };
        // The owner's size counts: a reader asks what fits before it sends.
        let len = context.shared.limits.notification_bytes;
        let buffers = Buffers::new(device, MESSAGES, len, &counters.memory_regions)?;
        let queue =
            CompletionQueue::new(&context.channel, id, outstanding, &counters.completion_queues)?;
        let pair = |_| {
            let psn = random() as u32 & 0xFF_FFFF;
            let gauge = &counters.queue_pairs;
            QueuePair::new(device, context.port.number, &queue, capacity, psn, gauge)
        };
        let pairs = (0..lanes).map(pair).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { pairs, buffers, queue })
    }

    fn end(&self, context: &Context, rd_atomic: u8) -> End {
        let lanes = self.pairs.iter().map(|pair| pair.lane).collect();
        End::new(&context.source, rd_atomic, lanes)
    }
}

/// Why a message could not be received.
enum Received {
    Io(io::Error),
    Malformed(String),
}

impl From<io::Error> for Received {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

async fn receive(stream: &mut TcpStream) -> Result<Frame, Received> {
    let len = stream.read_u32_le().await? as usize;
    if len > MAX_FRAME_BYTES {
        let reason = format!("a message of {len} bytes, and {MAX_FRAME_BYTES} is the most");
        return Err(Received::Malformed(reason));
    }
    let mut body = vec![0; len];
    stream.read_exact(&mut body).await?;
    Frame::decode(&body).map_err(Received::Malformed)
}
