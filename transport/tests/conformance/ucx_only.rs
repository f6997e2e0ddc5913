//! What is UCX's own: addresses and keys in frames, an answer to every hello, sockets that outlive
//! their endpoints for a while.

use std::time::{Duration, Instant};

use pdlab_transport::Mapping;

use crate::bad_input::reseal;
use crate::peer_process::PeerProcess;
use crate::support::{
    Backend, SOON, assert_arrived, connect, kind, notified, payload, read_in_flight, until, whole,
};

const LEN: usize = 1 << 20;

/// Magic, version, backend: then 8 bytes of instance.
const INSTANCE_AT: usize = 10;

/// Foreign bytes end at our own checks: UCX's decoder trusts its input.
pub(crate) async fn addresses_and_keys_of_another_make(backend: Backend) {
    let (server, _source) = backend.server("server", LEN, 1).await;
    let (client, region) = backend.client("client", LEN).await;
    let good = server.metadata().unwrap();
    for tag in [b"UCXA", b"UCXK"] {
        let at = good.windows(4).position(|window| window == tag).unwrap();
        // The tag, and the length behind it.
        for byte in at..at + 8 {
            let forged = reseal(&good, |body| body[byte] ^= 0x41);
            assert_eq!(kind(client.connect(&forged, SOON).await), "bad_metadata", "byte {byte}");
        }
    }
    until("nothing is left of them", || client.snapshot().endpoints == 0).await;
    let peer = connect(&client, &server).await;
    peer.read(&region, &whole(&region), None, SOON).await.unwrap();
    assert_arrived(&region, &whole(&region), 1);
}

/// Another agent listens where the metadata's agent has been.
pub(crate) async fn a_successor_at_the_same_address(backend: Backend) {
    let (server, _source) = backend.server("server", LEN, 1).await;
    let client = backend.agent("client").await;
    let stale = reseal(&server.metadata().unwrap(), |body| body[INSTANCE_AT] ^= 1);
    let error = client.connect(&stale, SOON).await.unwrap_err();
    assert_eq!(error.kind(), "unreachable");
    assert!(error.to_string().contains("another agent"), "{error}");
    until("nothing is left of it", || client.snapshot().endpoints == 0).await;
}

/// A message that UCX has taken may still be in its buffers when its endpoint goes.
pub(crate) async fn close_waits_for_notifications_to_arrive(backend: Backend) {
    let mut server = PeerProcess::serve(&backend, LEN, 1).await;
    for round in 0..10 {
        let (client, region) = backend.client("client", LEN).await;
        let peer = client.connect(&server.metadata, SOON).await.unwrap();
        let text = format!("round {round}");
        peer.read(&region, &whole(&region), payload(&text), SOON).await.unwrap();
        client.close().await.unwrap();
        assert_eq!(server.notification().await, text);
    }
}

/// Gets of a stopped peer have 100 ms to end; the second that an agent waits when it closes is for notifications that are
/// not confirmed, and there are none. The best of three: the machine may be busy.
pub(crate) async fn close_waits_for_nothing_but_gets(backend: Backend) {
    let mut taken = Vec::new();
    for _ in 0..3 {
        let server = PeerProcess::serve(&backend, LEN, 1).await;
        let (client, region) = backend.client("client", LEN).await;
        let peer = client.connect(&server.metadata, SOON).await.unwrap();
        server.stop().await;
        let read = read_in_flight(&client, &peer, &region).await;
        // Nobody waits for it: nobody helps UCX along but the agent itself.
        read.abort();
        assert!(read.await.unwrap_err().is_cancelled());
        let started = Instant::now();
        client.close().await.unwrap();
        taken.push(started.elapsed());
        server.resume();
    }
    let least = taken.iter().min().unwrap();
    assert!(*least < Duration::from_millis(900), "{taken:?}");
}

/// UCX keeps the socket of a closed endpoint until its keepalive finds that nobody is there.
pub(crate) async fn reconnects_leave_no_descriptor_with_the_server(backend: Backend) {
    let server = PeerProcess::serve(&backend, LEN, 1).await;
    let (client, region) = backend.client("client", LEN).await;
    let round = async || {
        let peer = client.connect(&server.metadata, SOON).await.unwrap();
        peer.read(&region, &whole(&region), None, SOON).await.unwrap();
        peer.close().await;
    };
    let before = server.descriptors();
    for _ in 0..20 {
        round().await;
    }
    // One of the library's own may have come with the first connection.
    until("they are closed", || server.descriptors() <= before + 1).await;
    assert_eq!(client.snapshot().endpoints, 0);
}

/// Both sides may read from each other.
pub(crate) async fn two_that_read_from_each_other(backend: Backend) {
    let (one, source_one) = backend.server("one", LEN, 1).await;
    let (two, source_two) = backend.server("two", LEN, 2).await;
    let (there, back) = tokio::join!(connect(&one, &two), connect(&two, &one));
    let descriptors = whole(&source_one);
    for _ in 0..10 {
        let (first, second) = tokio::join!(
            there.read(&source_one, &descriptors, payload("1"), SOON),
            back.read(&source_two, &descriptors, payload("2"), SOON),
        );
        first.unwrap();
        second.unwrap();
        assert_eq!(notified(&two).await.payload, "1");
        assert_eq!(notified(&one).await.payload, "2");
    }
}

/// Other tests have contexts in this process too, whose caches are counted with ours.
pub(crate) async fn snapshots_show_keys_and_the_cache(backend: Backend) {
    let (server, _source) = backend.server("server", LEN, 1).await;
    let _extra = server.register(Mapping::anonymous(LEN).unwrap()).unwrap();
    let (client, _region) = backend.client("client", LEN).await;
    let peer = connect(&client, &server).await;
    let snapshot = client.snapshot();
    assert_eq!((snapshot.rkeys, server.snapshot().rkeys), (Some(2), Some(0)));
    assert!(snapshot.rcache_regions.is_some_and(|regions| regions >= 3), "{snapshot:?}");
    assert!(snapshot.rcache_bytes.is_some_and(|bytes| bytes >= 3 * LEN as u64), "{snapshot:?}");
    assert!(snapshot.rcache_queue.is_some(), "{snapshot:?}");
    peer.close().await;
    assert_eq!(client.snapshot().rkeys, Some(0));
}
