//! The answering side. It trusts nothing that comes over the wire: frames are bounded before they
//! are read, and ranges are checked before they are served.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::io::{Pieces, send};
use super::wire::{self, HEADER_BYTES, Header, Kind, Malformed, WireBlock};
use super::{Context, tune};
use crate::region::RegionCore;

/// Reads of one connection that wait for their answer. When they are so many, the connection is
/// not read from until one is answered, so that a client cannot pile up work.
const READS_QUEUED: usize = 8;

/// How long to wait when the system has no descriptor for the next connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// An answer that is ready to be written.
enum Answer {
    /// The pieces of memory to send, and the regions that keep that memory mapped.
    Data {
        id: u64,
        len: u64,
        pieces: Pieces,
        regions: Vec<Arc<RegionCore>>,
    },
    Frame(Bytes),
}

/// Why a connection ends.
enum End {
    /// The client went away or the socket failed: nothing to tell it.
    Gone,
    /// The client broke the protocol or a limit, and is told so.
    Refused(String),
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

impl From<Malformed> for End {
    fn from(Malformed(reason): Malformed) -> Self {
        Self::Refused(reason)
    }
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
            let limit = context.shared.limits.connections;
            if context.shared.counters.connections_accepted.get() >= limit as u64 {
                context.shared.counters.fail("protocol");
                // Not waited for: the buffer of a new socket takes so few bytes at once, or the
                // client sees no more than an end.
                let refusal = wire::refusal(&format!("{limit} connections are open"));
                let _ = SockRef::from(&stream).send(&refusal);
                continue;
            }
            let held = context.shared.counters.connections_accepted.hold(1);
            let (context, ended) = (Arc::clone(&context), context.ended.clone());
            context.clone().tasks.spawn(async move {
                let _held = held;
                ended.run_until_cancelled(serve(stream, &context)).await;
            });
        }
    };
    ended.run_until_cancelled(forever).await;
}

async fn serve(stream: TcpStream, context: &Context) {
    tune(&stream);
    let (from, mut to) = stream.into_split();
    let mut from = BufReader::new(from);
    let end =
        match timeout(context.shared.limits.handshake, greet(&mut from, &mut to, context)).await {
            Ok(Ok(name)) => converse(&name, from, &mut to, context).await,
            Ok(Err(end)) => end,
            Err(_elapsed) => End::Refused("no hello in time".to_owned()),
        };
    if let End::Refused(reason) = end {
        tracing::debug!(%reason, "connection refused");
        context.shared.counters.fail("protocol");
        // Bounded: who does not read its refusal must not keep the connection.
        let farewell = wire::refusal(&reason);
        let _ = timeout(context.shared.limits.handshake, to.write_all(&farewell)).await;
    }
}

/// Returns the client's name once it has asked for this very agent.
async fn greet(
    from: &mut BufReader<OwnedReadHalf>,
    to: &mut OwnedWriteHalf,
    context: &Context,
) -> Result<String, End> {
    let header = read_header(from).await?;
    if header.kind != Kind::Hello {
        return Err(End::Refused(format!("a {:?} frame before the hello", header.kind)));
    }
    let body = read_body(from, header, wire::MAX_HELLO_BYTES).await?;
    let (instance, name) = wire::decode_hello(&body)?;
    if instance != context.shared.instance {
        let ours = &context.shared.name;
        return Err(End::Refused(format!("this is '{ours}', started anew since that metadata")));
    }
    to.write_all(&wire::welcome()).await?;
    Ok(name.to_owned())
}

/// Reads requests and writes answers, side by side: notifications behind a long answer are not
/// held up by it.
async fn converse(
    name: &str,
    from: BufReader<OwnedReadHalf>,
    to: &mut OwnedWriteHalf,
    context: &Context,
) -> End {
    let (answers, queue) = mpsc::channel(READS_QUEUED);
    tokio::select! {
        end = listen(name, from, answers, context) => end,
        end = answer(to, queue, context) => end,
    }
}

async fn listen(
    name: &str,
    mut from: BufReader<OwnedReadHalf>,
    answers: mpsc::Sender<Answer>,
    context: &Context,
) -> End {
    let limits = &context.shared.limits;
    let step = async |from: &mut BufReader<OwnedReadHalf>| -> Result<(), End> {
        let header = read_header(from).await?;
        match header.kind {
            Kind::Read => {
                let limit = wire::read_bytes(limits.descriptors_per_read);
                let blocks = wire::decode_read(&read_body(from, header, limit).await?)?;
                let answer = prepare(header.id, &blocks, context);
                answers.send(answer).await.map_err(|_closed| End::Gone)
            }
            Kind::Notify => {
                let payload = read_body(from, header, limits.notification_bytes).await?;
                context.shared.deliver(name, payload.into());
                Ok(())
            }
            other => Err(End::Refused(format!("a {other:?} frame from a client"))),
        }
    };
    loop {
        if let Err(end) = step(&mut from).await {
            return end;
        }
    }
}

/// Checks a read against the regions, and collects the memory to send.
fn prepare(id: u64, blocks: &[WireBlock], context: &Context) -> Answer {
    let registered = context.regions();
    let mut regions: Vec<Arc<RegionCore>> = Vec::new();
    let mut pieces = Pieces::with_capacity(blocks.len());
    let mut len = 0_u64;
    for (index, block) in blocks.iter().enumerate() {
        let region = registered.get(&block.region);
        let region_len = region.map_or(0, |region| region.len() as u64);
        let fits = block.offset.checked_add(block.len).is_some_and(|end| end <= region_len);
        let total = len.checked_add(block.len);
        let (Some(region), true, Some(total)) = (region, fits, total) else {
            context.shared.counters.fail("protocol");
            return Answer::Frame(wire::failure(id, index as u32, region_len));
        };
        // Inside of the mapping, so the sum cannot wrap.
        pieces.push(region.base().wrapping_add(block.offset as usize), block.len as usize);
        len = total;
        if regions.last().is_none_or(|last| !Arc::ptr_eq(last, region)) {
            regions.push(Arc::clone(region));
        }
    }
    Answer::Data { id, len, pieces, regions }
}

async fn answer(
    to: &mut OwnedWriteHalf,
    mut queue: mpsc::Receiver<Answer>,
    context: &Context,
) -> End {
    while let Some(answer) = queue.recv().await {
        let written = match answer {
            Answer::Frame(frame) => to.write_all(&frame).await,
            Answer::Data { id, len, pieces, regions } => {
                let written = answer_data(to, id, len, pieces, context).await;
                drop(regions);
                written
            }
        };
        if written.is_err() {
            break;
        }
    }
    End::Gone
}

async fn answer_data(
    to: &OwnedWriteHalf,
    id: u64,
    len: u64,
    blocks: Pieces,
    context: &Context,
) -> io::Result<()> {
    let mut header = Header { kind: Kind::Data, id, len }.encode();
    let mut pieces = blocks.after(header.as_mut_ptr(), HEADER_BYTES);
    let served = &context.shared.counters.bytes_served;
    // Served are the blocks, not the header in front of them.
    let mut head = HEADER_BYTES as u64;
    let count = |sent: u64| {
        let of_header = head.min(sent);
        head -= of_header;
        served.fetch_add(sent - of_header, Relaxed);
    };
    // SAFETY: the header lives in this future; the caller holds the regions, checked by `prepare`,
    // across the await. That they may be written to meanwhile is the nature of one-sided reads.
    unsafe { send(to.as_ref(), &mut pieces, count).await }
}

async fn read_header(from: &mut BufReader<OwnedReadHalf>) -> Result<Header, End> {
    let mut bytes = [0; HEADER_BYTES];
    from.read_exact(&mut bytes).await?;
    Ok(Header::decode(&bytes)?)
}

async fn read_body(
    from: &mut BufReader<OwnedReadHalf>,
    header: Header,
    limit: usize,
) -> Result<Vec<u8>, End> {
    let mut body = vec![0; header.body_len(limit)?];
    from.read_exact(&mut body).await?;
    Ok(body)
}
