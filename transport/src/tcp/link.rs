//! The connecting side. One task per connection sends requests, receives answers and owns the
//! transfers in flight; everybody else talks to it through a channel.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::io::{Pieces, receive};
use super::wire::{self, HEADER_BYTES, Header, Kind};
use super::{Context, tune};
use crate::backend::{BoxFuture, Link, Transfer};
use crate::error::Error;
use crate::metadata::Metadata;

/// Notifications on their own that wait to be written; the next one waits with its sender.
const NOTIFICATIONS_QUEUED: usize = 64;

/// Something for the task to send.
enum Outgoing {
    Read(Transfer),
    /// The data is there: tell the peer, then finish.
    Acknowledge(Transfer, Bytes),
    Notify {
        payload: Bytes,
        sent: oneshot::Sender<()>,
        _room: OwnedSemaphorePermit,
    },
}

/// A connection to a peer.
pub(super) struct TcpLink {
    status: Arc<Status>,
    /// Unbounded as a type, bounded in fact: by the slots that reads hold until they finish, and
    /// by `room` for notifications.
    outgoing: mpsc::UnboundedSender<Outgoing>,
    room: Arc<Semaphore>,
}

/// How the connection is doing.
struct Status {
    peer: String,
    /// Cancelled when it should end.
    end: CancellationToken,
    /// Cancelled when the task is gone, and socket and transfers with it.
    gone: CancellationToken,
    /// Why it ended; the first reason counts.
    reason: OnceLock<String>,
}

impl Status {
    fn lost(&self) -> Error {
        let reason = self.reason.get().map_or("the agent closes", String::as_str);
        Error::PeerLost { peer: self.peer.clone(), reason: reason.to_owned() }
    }
}

impl TcpLink {
    /// Connects, and makes sure that the agent at the other end is the one of the metadata.
    pub(super) async fn connect(
        context: &Arc<Context>,
        metadata: &Metadata,
    ) -> Result<Self, Error> {
        let peer = metadata.name.clone();
        let bad = || Error::BadMetadata { reason: "its address is no socket address".to_owned() };
        let address = std::str::from_utf8(&metadata.address).map_err(|_| bad())?;
        let address: SocketAddr = address.parse().map_err(|_| bad())?;
        let unreachable = |reason: String| Error::Unreachable {
            peer: peer.clone(),
            reason: format!("{address}: {reason}"),
        };
        let failed = |error: std::io::Error| {
            unreachable(format!("{error}; is it running, and is its metadata fresh?"))
        };

        let held = context.shared.counters.endpoints.hold(1);
        let mut stream = TcpStream::connect(address).await.map_err(failed)?;
        tune(&stream);
        let hello = wire::hello(metadata.instance, &context.shared.name);
        stream.write_all(&hello).await.map_err(failed)?;
        let mut header = [0; HEADER_BYTES];
        stream.read_exact(&mut header).await.map_err(failed)?;
        let header = Header::decode(&header).map_err(|error| unreachable(error.to_string()))?;
        match header.kind {
            Kind::Welcome if header.len == 0 => {}
            Kind::Refusal => {
                let reason = refusal(&mut stream, header).await;
                return Err(unreachable(format!("it refuses: {reason}; fetch its metadata again")));
            }
            other => return Err(unreachable(format!("it answers a hello with {other:?}"))),
        }

        let status = Arc::new(Status {
            peer,
            end: context.ended.child_token(),
            gone: CancellationToken::new(),
            reason: OnceLock::new(),
        });
        let (outgoing, queue) = mpsc::unbounded_channel();
        let gone = status.gone.clone().drop_guard();
        let task = run(stream, Arc::clone(&status), outgoing.downgrade(), queue);
        let keeper = context.shared.faults.keep_endpoints.then(|| Arc::clone(context));
        context.tasks.spawn_on(
            async move {
                let stream = task.await;
                match keeper {
                    None => drop((stream, held)),
                    Some(context) => context.kept().push((stream, held)),
                }
                drop(gone);
            },
            &context.shared.runtime,
        );
        Ok(Self { status, outgoing, room: Arc::new(Semaphore::new(NOTIFICATIONS_QUEUED)) })
    }
}

impl Link for TcpLink {
    fn post(&self, transfer: Transfer) {
        if let Err(mpsc::error::SendError(unsent)) = self.outgoing.send(Outgoing::Read(transfer)) {
            fail(unsent, &self.status);
        }
    }

    fn notify(&self, payload: Bytes) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            let lost = || self.status.lost();
            let room = Arc::clone(&self.room).acquire_owned().await.map_err(|_closed| lost())?;
            let (sent, written) = oneshot::channel();
            let message = Outgoing::Notify { payload, sent, _room: room };
            self.outgoing.send(message).map_err(|_closed| lost())?;
            written.await.map_err(|_dropped| lost())
        })
    }

    fn is_alive(&self) -> bool {
        !self.status.end.is_cancelled() && !self.status.gone.is_cancelled()
    }

    fn abort(&self, reason: &str) {
        // Reason first, so that whoever sees the end finds it.
        let _ = self.status.reason.set(reason.to_owned());
        self.status.end.cancel();
    }

    fn closed(&self) -> BoxFuture<'_, ()> {
        self.abort("it was closed on this side");
        Box::pin(self.status.gone.cancelled())
    }
}

impl Drop for TcpLink {
    fn drop(&mut self) {
        self.abort("it was dropped on this side");
    }
}

/// Reads in flight by id. Only the connection's task looks at them; the lock lets its two halves
/// share them and is never contended.
#[derive(Default)]
struct InFlight(Mutex<HashMap<u64, Transfer>>);

impl InFlight {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Transfer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs a connection to its end, then finishes what is left. Returns the socket, to be closed.
async fn run(
    mut stream: TcpStream,
    status: Arc<Status>,
    acknowledge: mpsc::WeakUnboundedSender<Outgoing>,
    mut queue: mpsc::UnboundedReceiver<Outgoing>,
) -> TcpStream {
    let in_flight = InFlight::default();
    let (from, to) = stream.split();
    // Whichever arm ends, the other futures are dropped: from here on nothing writes to memory.
    let reason = tokio::select! {
        biased;
        () = status.end.cancelled() => None,
        reason = receive_all(from, &in_flight, &acknowledge) => Some(reason),
        reason = send_all(to, &in_flight, &mut queue, &status) => Some(reason),
    };
    if let Some(reason) = reason {
        let _ = status.reason.set(reason);
    }
    status.end.cancel();
    queue.close();
    for (_, transfer) in in_flight.lock().drain() {
        transfer.finish(Err(status.lost()));
    }
    while let Some(unsent) = queue.recv().await {
        fail(unsent, &status);
    }
    stream
}

/// Ends what could not be sent.
fn fail(unsent: Outgoing, status: &Status) {
    match unsent {
        Outgoing::Read(transfer) | Outgoing::Acknowledge(transfer, _) => {
            transfer.finish(Err(status.lost()));
        }
        // Dropping the sender tells the waiting side.
        Outgoing::Notify { .. } => {}
    }
}

/// Sends requests and notifications, in order. Returns why it cannot go on.
async fn send_all(
    mut to: WriteHalf<'_>,
    in_flight: &InFlight,
    queue: &mut mpsc::UnboundedReceiver<Outgoing>,
    status: &Status,
) -> String {
    let mut next_id = 1_u64;
    while let Some(message) = queue.recv().await {
        let result = match message {
            Outgoing::Read(transfer) => {
                let id = next_id;
                next_id += 1;
                let frame = wire::read(id, transfer.blocks());
                // Before the request leaves: its answer may be here before we are back.
                in_flight.lock().insert(id, transfer);
                to.write_all(&frame).await
            }
            Outgoing::Acknowledge(transfer, payload) => {
                let result = to.write_all(&wire::notify(&payload)).await;
                transfer.finish(if result.is_ok() { Ok(()) } else { Err(status.lost()) });
                result
            }
            Outgoing::Notify { payload, sent, _room } => {
                let result = to.write_all(&wire::notify(&payload)).await;
                if result.is_ok() {
                    // The caller may have given up waiting.
                    let _ = sent.send(());
                }
                result
            }
        };
        if let Err(error) = result {
            return format!("cannot send: {error}");
        }
    }
    "it was dropped on this side".to_owned()
}

/// Receives answers into memory. Returns why it cannot go on.
async fn receive_all(
    mut from: ReadHalf<'_>,
    in_flight: &InFlight,
    acknowledge: &mpsc::WeakUnboundedSender<Outgoing>,
) -> String {
    loop {
        if let Err(reason) = receive_one(&mut from, in_flight, acknowledge).await {
            return reason;
        }
    }
}

async fn receive_one(
    from: &mut ReadHalf<'_>,
    in_flight: &InFlight,
    acknowledge: &mpsc::WeakUnboundedSender<Outgoing>,
) -> Result<(), String> {
    let broken = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => "it closed the connection".to_owned(),
        _ => format!("cannot receive: {error}"),
    };
    let mut header = [0; HEADER_BYTES];
    from.read_exact(&mut header).await.map_err(broken)?;
    let header = Header::decode(&header).map_err(|error| error.to_string())?;
    match header.kind {
        Kind::Data => {
            let mut pieces = destination(in_flight, header)?;
            // SAFETY: the transfer stays in `in_flight`, and with it the claim and the mapping,
            // until it is removed below or, after this future was dropped, by `run`.
            unsafe { receive(from.as_ref(), &mut pieces).await }.map_err(broken)?;
            let transfer = in_flight.lock().remove(&header.id);
            let mut transfer = transfer.expect("only this function removes it");
            match transfer.take_notification() {
                None => transfer.finish(Ok(())),
                Some(payload) => {
                    let queue = acknowledge.upgrade().ok_or("it was dropped on this side")?;
                    let message = Outgoing::Acknowledge(transfer, payload);
                    queue.send(message).map_err(|_closed| "it was dropped on this side")?;
                }
            }
            Ok(())
        }
        Kind::Failure => {
            let mut body = [0; wire::FAILURE_BYTES];
            header.body_len(body.len()).map_err(|error| error.to_string())?;
            from.read_exact(&mut body).await.map_err(broken)?;
            let transfer = in_flight.lock().remove(&header.id);
            let transfer = transfer.ok_or("it refuses a read that nobody asked for")?;
            let error = refused_block(&transfer, wire::decode_failure(&body));
            transfer.finish(Err(error));
            Ok(())
        }
        Kind::Refusal => Err(format!("it refuses: {}", refusal(from, header).await)),
        other => Err(format!("it sent a {other:?} frame")),
    }
}

/// Where the data of an answer belongs.
fn destination(in_flight: &InFlight, header: Header) -> Result<Pieces, String> {
    let in_flight = in_flight.lock();
    let transfer = in_flight.get(&header.id).ok_or("it sent data that nobody asked for")?;
    let blocks = transfer.blocks();
    let expected: u64 = blocks.iter().map(|block| block.len as u64).sum();
    if header.len != expected {
        return Err(format!("it sent {} bytes for a read of {expected}", header.len));
    }
    let mut pieces = Pieces::with_capacity(blocks.len());
    for block in blocks {
        pieces.push(transfer.destination(block), block.len);
    }
    Ok(pieces)
}

fn refused_block(transfer: &Transfer, (index, limit): (u32, u64)) -> Error {
    let block = transfer.blocks().get(index as usize);
    Error::OutOfRange {
        what: format!("the remote range of block {index}, says the peer,"),
        offset: block.map_or(0, |block| block.remote_offset),
        len: block.map_or(0, |block| block.len as u64),
        limit,
    }
}

/// The text of a refusal, as far as it is one.
async fn refusal(from: &mut (impl AsyncReadExt + Unpin), header: Header) -> String {
    let Ok(len) = header.body_len(wire::MAX_REFUSAL_BYTES) else {
        return "for a reason too long to tell".to_owned();
    };
    let mut reason = vec![0; len];
    match from.read_exact(&mut reason).await {
        Ok(_) => String::from_utf8_lossy(&reason).into_owned(),
        Err(error) => format!("without a reason ({error})"),
    }
}
