//! The serving side: an agent for every coordinator that connects, each with threads of its own.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::session::{Home, Session};
use super::wire::{self, Reply, Request};
use crate::runtime;

/// How long a new connection may take to greet.
const GREETING: Duration = Duration::from_secs(10);
/// After an `accept` that failed, as when descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Agents of one process at a time; more are not accepted until one ends.
const MAX_SESSIONS: usize = 256;

/// Serves until `stop`, then ends every session in order; an agent has so many `threads`. What a
/// connection does wrong ends that connection and nothing else.
pub async fn listen(listener: TcpListener, home: Home, threads: usize, stop: CancellationToken) {
    let sessions = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept(), if sessions.len() < MAX_SESSIONS => accepted,
            () = sleep(ACCEPT_PAUSE), if sessions.len() >= MAX_SESSIONS => continue,
        };
        match accepted {
            Ok((stream, from)) => {
                let (home, stop) = (home.clone(), stop.clone());
                sessions.spawn_blocking(move || {
                    if let Err(error) = host_apart(stream, home, threads, &stop) {
                        tracing::warn!(%from, %error, "a session ended early");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    sessions.close();
    sessions.wait().await;
}

/// Hosts on a runtime of its own.
fn host_apart(
    stream: TcpStream,
    home: Home,
    threads: usize,
    stop: &CancellationToken,
) -> io::Result<()> {
    let stream = stream.into_std()?;
    runtime::with_threads(threads)?
        .block_on(async { host(TcpStream::from_std(stream)?, home, stop).await })
}

async fn host(mut stream: TcpStream, home: Home, stop: &CancellationToken) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let local = unmapped(stream.local_addr()?.ip());
    let greeting = timeout(GREETING, wire::greet(&mut stream)).await;
    greeting.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "it did not greet"))??;
    let mut session = Session::new(home, local);
    let ended = tokio::select! {
        ended = converse(stream, &mut session) => ended,
        () = stop.cancelled() => Ok(()),
    };
    let closed = session.close().await;
    closed.map_err(|refusal| io::Error::other(refusal.reason))?;
    ended
}

/// Answers until the coordinator hangs up.
async fn converse(stream: TcpStream, session: &mut Session) -> io::Result<()> {
    let (mut from, mut to) = stream.into_split();
    let (requests, mut asked) = mpsc::channel::<Request>(4);
    // A task of its own: receiving a message is not cancel safe.
    let mut receiving = tokio::spawn(async move {
        while let Some(request) = wire::receive(&mut from).await? {
            if requests.send(request).await.is_err() {
                break;
            }
        }
        Ok(())
    });
    while let Some(request) = asked.recv().await {
        // Too late to stop anything.
        if request == Request::Stop {
            continue;
        }
        let reply = answer(request, session, &mut asked).await;
        wire::send(&mut to, &reply).await?;
    }
    match (&mut receiving).await {
        Ok(ended) => ended,
        Err(error) => Err(io::Error::other(error)),
    }
}

/// Answers one request. Whatever comes meanwhile stops what is under way: it can only be a
/// [`Request::Stop`], or the end of the coordinator.
async fn answer(
    request: Request,
    session: &mut Session,
    asked: &mut mpsc::Receiver<Request>,
) -> Reply {
    let stop = CancellationToken::new();
    let answering = session.answer(request, &stop);
    tokio::pin!(answering);
    tokio::select! {
        reply = &mut answering => reply,
        _ = asked.recv() => {
            stop.cancel();
            answering.await
        }
    }
}

/// `::ffff:10.0.0.1` as `10.0.0.1`: a socket for both families reports the former.
fn unmapped(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}
