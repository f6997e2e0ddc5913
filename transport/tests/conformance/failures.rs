//! Peers that are killed or stopped, reads that are cancelled, and the way back.

use std::time::Duration;

use pdlab_transport::{Agent, Descriptor, Error, Mapping, Peer, Region};
use tokio::time::{sleep, timeout};

use crate::peer_process::PeerProcess;
use crate::support::{
    BRIEF, Backend, SOON, assert_arrived, assert_filled, connect, fill, kind, notified, payload,
    until, whole,
};

const LEN: usize = 8 << 20;

/// Starts a read that cannot finish, because its peer is stopped.
fn stuck_read(peer: &Peer, region: &Region) -> tokio::task::JoinHandle<Result<(), Error>> {
    let (peer, region) = (peer.clone(), region.clone());
    tokio::spawn(async move {
        let descriptors = whole(&region);
        peer.read(&region, &descriptors, payload("never"), 3 * SOON).await.map(|_| ())
    })
}

pub(crate) async fn killed_peer(backend: Backend) {
    let mut server = PeerProcess::serve(&backend, LEN, 1).await;
    let (client, region) = backend.client("client", LEN).await;
    let peer = client.connect(&server.metadata, SOON).await.unwrap();
    peer.read(&region, &whole(&region), None, SOON).await.unwrap();
    assert!(peer.is_alive());

    server.stop().await;
    let read = stuck_read(&peer, &region);
    until("the read is in flight", || client.snapshot().transfers_in_flight == 1).await;
    server.kill().await;
    let result = timeout(SOON, read).await.expect("a kill must be noticed").unwrap();
    assert_eq!(kind(result), "peer_lost");

    assert!(!peer.is_alive());
    assert_eq!(kind(peer.read(&region, &whole(&region), None, SOON).await), "peer_lost");
    assert_eq!(kind(peer.notify("x".into(), SOON).await), "peer_lost");
    fill(&region, 1);
    let snapshot = client.snapshot();
    assert_eq!(snapshot.transfers_in_flight, 0);
    assert_eq!(snapshot.failures.get("peer_lost"), Some(&3));
    drop(peer);
    until("the endpoint is gone", || client.snapshot().endpoints == 0).await;
}

pub(crate) async fn killed_while_data_flows(backend: Backend) {
    let mut server = PeerProcess::serve(&backend, LEN, 1).await;
    let (client, region) = backend.client("client", LEN).await;
    let peer = client.connect(&server.metadata, SOON).await.unwrap();
    let reader = {
        let (peer, region) = (peer.clone(), region.clone());
        tokio::spawn(async move {
            loop {
                let done = peer.read(&region, &whole(&region), None, SOON).await;
                if let Err(error) = done {
                    return error;
                }
            }
        })
    };
    until("data flows", || client.snapshot().bytes_read > LEN as u64).await;
    server.kill().await;
    let error = timeout(SOON, reader).await.expect("a kill must be noticed").unwrap();
    assert_eq!(error.kind(), "peer_lost", "{error}");
    fill(&region, 1);
}

pub(crate) async fn stopped_peer(backend: Backend) {
    let server = PeerProcess::serve(&backend, LEN, 2).await;
    let (client, region) = backend.client("client", LEN).await;
    let peer = client.connect(&server.metadata, SOON).await.unwrap();
    peer.read(&region, &whole(&region), None, SOON).await.unwrap();

    server.stop().await;
    let result = timeout(SOON, peer.read(&region, &whole(&region), payload("late"), BRIEF)).await;
    let error = result.expect("a deadline must be kept").unwrap_err();
    assert!(
        matches!(&error, Error::Deadline { operation: "read from", peer, .. } if peer == "child")
    );
    assert_eq!(client.snapshot().transfers_in_flight, 0);

    // The bytes are ours again, at once and for good: nothing late may land in them.
    fill(&region, 0x55);
    server.resume();
    sleep(Duration::from_millis(300)).await;
    assert_filled(&region, 0x55);
    assert_eq!(kind(peer.read(&region, &whole(&region), None, SOON).await), "peer_lost");

    // It lives, so the same metadata leads back to it.
    let again = client.connect(&server.metadata, SOON).await.unwrap();
    again.read(&region, &whole(&region), None, SOON).await.unwrap();
    assert_arrived(&region, &whole(&region), 2);
    assert_eq!(client.snapshot().failures.get("deadline"), Some(&1));
}

pub(crate) async fn cancelled_read_of_a_stopped_peer(backend: Backend) {
    let server = PeerProcess::serve(&backend, LEN, 3).await;
    let (client, region) = backend.client("client", LEN).await;
    let peer = client.connect(&server.metadata, SOON).await.unwrap();
    server.stop().await;
    let (shown, whole) = (whole(&region), whole(&region));
    let read = peer.read(&region, &shown, payload("never"), Duration::from_secs(1));
    assert!(timeout(Duration::from_millis(50), read).await.is_err(), "it is stopped");

    // The device may still write: the bytes stay claimed, though nobody waits.
    assert_eq!(client.snapshot().transfers_in_flight, 1);
    assert_eq!(kind(region.read(0..1, |_| ())), "busy");
    assert_eq!(kind(peer.read(&region, &whole, None, BRIEF).await), "busy");

    until("the deadline ends it", || client.snapshot().transfers_in_flight == 0).await;
    fill(&region, 0x66);
    assert!(!peer.is_alive());
    server.resume();
    sleep(Duration::from_millis(300)).await;
    assert_filled(&region, 0x66);
    assert_eq!(client.snapshot().failures.get("cancelled"), Some(&1));
}

pub(crate) async fn cancelled_read_of_a_live_peer(backend: Backend) {
    let (server, _source) = backend.server("server", LEN, 4).await;
    let (client, region) = backend.client("client", LEN).await;
    let peer = connect(&client, &server).await;
    let descriptors = whole(&region);
    let (mut completed, mut cancelled) = (0, 0);
    while cancelled < 5 {
        let read = peer.read(&region, &descriptors, payload("acknowledged"), SOON);
        tokio::select! {
            biased;
            result = read => {
                result.unwrap();
                completed += 1;
            }
            // The first poll has posted it; this drops it before its data is here.
            () = std::future::ready(()) => cancelled += 1,
        }
        until("the data has arrived unseen", || client.snapshot().transfers_in_flight == 0).await;
    }
    fill(&region, 0x77);
    sleep(Duration::from_millis(50)).await;
    assert_filled(&region, 0x77);

    // The connection has survived, and the owner was not told of reads that nobody waited for.
    peer.read(&region, &descriptors, payload("the first"), SOON).await.unwrap();
    assert_arrived(&region, &descriptors, 4);
    let mut acknowledged = 0;
    while notified(&server).await.payload != "the first" {
        acknowledged += 1;
    }
    // On a busy machine a read may be over before it can be cancelled; not each of them.
    assert!(acknowledged < completed + cancelled, "{acknowledged} of {completed} + {cancelled}");
    assert_eq!(client.snapshot().failures.get("cancelled"), Some(&5));
}

pub(crate) async fn reconnect_to_a_new_process(backend: Backend) {
    let mut first = PeerProcess::serve(&backend, LEN, 5).await;
    let (client, region) = backend.client("client", LEN).await;
    let peer = client.connect(&first.metadata, SOON).await.unwrap();
    peer.read(&region, &whole(&region), payload("one"), SOON).await.unwrap();
    assert_eq!(first.notification().await, "one");
    first.kill().await;

    let mut second = PeerProcess::serve(&backend, LEN, 6).await;
    let peer = client.connect(&second.metadata, SOON).await.unwrap();
    peer.read(&region, &whole(&region), payload("two"), SOON).await.unwrap();
    assert_arrived(&region, &whole(&region), 6);
    assert_eq!(second.notification().await, "two");
}

pub(crate) async fn connect_to_a_dead_process(backend: Backend) {
    let mut server = PeerProcess::serve(&backend, LEN, 7).await;
    let (client, region) = backend.client("client", LEN).await;
    server.kill().await;
    // Some backends connect without a word from the other side; then the first read tells.
    let error = match client.connect(&server.metadata, SOON).await {
        Err(error) => error,
        Ok(peer) => peer.read(&region, &whole(&region), None, SOON).await.unwrap_err(),
    };
    assert!(matches!(error.kind(), "unreachable" | "peer_lost" | "deadline"), "{error}");
    fill(&region, 1);
    until("nothing is left of it", || client.snapshot().endpoints == 0).await;
}

pub(crate) async fn connect_to_a_stopped_process(backend: Backend) {
    let server = PeerProcess::serve(&backend, LEN, 7).await;
    let (client, region) = backend.client("client", LEN).await;
    server.stop().await;
    let error = match client.connect(&server.metadata, BRIEF).await {
        Err(error) => error,
        Ok(peer) => peer.read(&region, &whole(&region), None, BRIEF).await.unwrap_err(),
    };
    assert_eq!(error.kind(), "deadline", "{error}");
    fill(&region, 1);
    until("nothing is left of it", || client.snapshot().endpoints == 0).await;
}

/// The next read waits for a slot, within its own deadline, and harms nobody when that passes.
pub(crate) async fn more_reads_than_slots(backend: Backend) {
    let server = PeerProcess::serve(&backend, LEN, 9).await;
    let mut config = backend.config("client");
    config.limits.reads_per_peer = 2;
    let client = Agent::open(config).await.unwrap();
    let mapping = Mapping::anonymous(LEN).unwrap();
    let region = client.register(mapping).unwrap();
    let peer = client.connect(&server.metadata, SOON).await.unwrap();
    server.stop().await;
    let half = |half: usize| [Descriptor::new(half * LEN / 2, 0, LEN / 2)];
    let (first, second) = (half(0), half(1));
    let reads = async {
        let one = peer.read(&region, &first, None, SOON);
        let two = peer.read(&region, &second, None, SOON);
        tokio::join!(one, two)
    };
    let third = async {
        until("both are in flight", || client.snapshot().transfers_in_flight == 2).await;
        let result = peer.read(&region, &[Descriptor::new(0, 0, 1)], None, BRIEF).await;
        assert_eq!(kind(result), "deadline");
        server.resume();
    };
    let ((one, two), ()) = tokio::join!(reads, third);
    one.unwrap();
    two.unwrap();
    assert!(peer.is_alive());
    assert_arrived(&region, &[first, second].concat(), 9);
}

pub(crate) async fn closed_peer(backend: Backend) {
    let server = PeerProcess::serve(&backend, LEN, 8).await;
    let (client, region) = backend.client("client", LEN).await;
    let peer = client.connect(&server.metadata, SOON).await.unwrap();
    server.stop().await;
    let read = stuck_read(&peer, &region);
    until("the read is in flight", || client.snapshot().transfers_in_flight == 1).await;
    timeout(SOON, peer.close()).await.expect("close does not wait for the peer");
    assert_eq!(kind(read.await.unwrap()), "peer_lost");
    assert!(!peer.is_alive());
    assert_eq!(client.snapshot().endpoints, 0);
    peer.close().await;
    server.resume();
    let again = client.connect(&server.metadata, SOON).await.unwrap();
    again.read(&region, &whole(&region), None, SOON).await.unwrap();
    assert_arrived(&region, &whole(&region), 8);
}
