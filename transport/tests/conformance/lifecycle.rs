//! Everything that was opened is closed: counted by the agent, and seen from outside.

use std::time::Duration;

use pdlab_transport::{Agent, Mapping, Region};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::peer_process::{PeerProcess, run_isolated};
use crate::support::{
    Backend, SOON, assert_arrived, assert_drained, connect, fill, filled, kind, notified, payload,
    read_in_flight, until, whole,
};

const LEN: usize = 1 << 20;

pub(crate) async fn drains_to_zero(backend: Backend) {
    let (server, source) = backend.server("server", LEN, 1).await;
    let (client, region) = backend.client("client", LEN).await;
    let peers = [connect(&client, &server).await, connect(&client, &server).await];
    for peer in &peers {
        peer.read(&region, &whole(&region), payload("done"), SOON).await.unwrap();
    }
    notified(&server).await;
    until("the second has come", || server.snapshot().notifications_queued == 1).await;

    let busy = client.snapshot();
    assert_eq!((busy.regions, busy.registered_bytes, busy.endpoints), (1, LEN as u64, 2));
    assert_eq!((busy.transfers_total, busy.bytes_read), (2, 2 * LEN as u64));
    assert_eq!(serde_json::to_value(&busy).unwrap()["endpoints"], 2);

    let (one, two) = tokio::join!(client.close(), client.close());
    one.unwrap();
    two.unwrap();
    assert_drained(&client);
    server.close().await.unwrap();
    assert_drained(&server);
    server.close().await.unwrap();

    // The memory is still there for who holds it, and goes with the last handle.
    assert_arrived(&region, &whole(&region), 1);
    drop((source, region, peers));
}

pub(crate) async fn deregistered_regions(backend: Backend) {
    let (server, source) = backend.server("server", LEN, 1).await;
    let extra = server.register(filled(LEN, 2)).unwrap();
    let third = server.register(filled(LEN, 3)).unwrap();
    let (client, region) = backend.client("client", LEN).await;
    let full = connect(&client, &server).await;
    let from = |source: &Region| whole(&region).map(|block| block.in_region(source.id()));
    full.read(&region, &from(&extra), None, SOON).await.unwrap();
    assert_arrived(&region, &whole(&region), 2);

    server.deregister(&extra).unwrap();
    let snapshot = server.snapshot();
    assert_eq!((snapshot.regions, snapshot.registered_bytes), (2, 2 * LEN as u64));
    assert_eq!(kind(server.deregister(&extra)), "not_registered");
    assert_eq!(kind(client.deregister(&source)), "not_registered");
    assert_arrived(&extra, &whole(&extra), 2);

    // The others keep their ids, also for those who connect from now on.
    let fresh = connect(&client, &server).await;
    let ids: Vec<u32> = fresh.regions().iter().map(|region| region.id).collect();
    assert_eq!(ids, [source.id(), third.id()]);
    assert_eq!(kind(fresh.read(&region, &from(&extra), None, SOON).await), "out_of_range");
    for peer in [&full, &fresh] {
        peer.read(&region, &from(&third), None, SOON).await.unwrap();
        assert_arrived(&region, &whole(&region), 3);
    }

    // An id is not used twice.
    let fourth = server.register(filled(LEN, 4)).unwrap();
    assert!(fourth.id() > third.id());
    server.close().await.unwrap();
    assert_eq!(kind(server.deregister(&third)), "closed");
    assert_eq!(server.snapshot().regions, 0);
}

pub(crate) async fn a_region_in_use_is_not_deregistered(backend: Backend) {
    let server = PeerProcess::serve(&backend, LEN, 1).await;
    let (client, region) = backend.client("client", LEN).await;
    let peer = client.connect(&server.metadata, SOON).await.unwrap();
    server.stop().await;
    let read = read_in_flight(&client, &peer, &region).await;
    assert_eq!(kind(client.deregister(&region)), "busy");
    peer.close().await;
    assert_eq!(kind(read.await.unwrap()), "peer_lost");
    server.resume();

    client.deregister(&region).unwrap();
    let peer = client.connect(&server.metadata, SOON).await.unwrap();
    assert_eq!(kind(peer.read(&region, &whole(&region), None, SOON).await), "not_registered");
    assert_eq!(client.snapshot().regions, 0);
    // The agent still takes memory.
    let region = client.register(Mapping::anonymous(LEN).unwrap()).unwrap();
    peer.read(&region, &whole(&region), None, SOON).await.unwrap();
    assert_arrived(&region, &whole(&region), 1);
}

pub(crate) async fn close_ends_reads_in_flight(backend: Backend) {
    let server = PeerProcess::serve(&backend, LEN, 1).await;
    let (client, region) = backend.client("client", LEN).await;
    let peer = client.connect(&server.metadata, SOON).await.unwrap();
    server.stop().await;
    let read = read_in_flight(&client, &peer, &region).await;
    timeout(SOON, client.close()).await.expect("close does not wait for the peer").unwrap();
    assert_eq!(kind(read.await.unwrap()), "closed");
    assert_drained(&client);
    fill(&region, 0x11);
    server.resume();
}

pub(crate) async fn closed_agents_say_so(backend: Backend) {
    let (server, _source) = backend.server("server", LEN, 1).await;
    let (client, region) = backend.client("client", LEN).await;
    let peer = connect(&client, &server).await;
    let waiting = {
        let client = client.clone();
        tokio::spawn(async move { client.next_notification().await })
    };
    client.close().await.unwrap();
    assert_eq!(waiting.await.unwrap(), None);
    assert_eq!(client.next_notification().await, None);
    assert_eq!(kind(client.metadata()), "closed");
    assert_eq!(kind(client.register(Mapping::anonymous(1).unwrap())), "closed");
    assert_eq!(kind(client.connect(&server.metadata().unwrap(), SOON).await), "closed");
    assert_eq!(kind(peer.read(&region, &whole(&region), None, SOON).await), "closed");
    assert_eq!(kind(peer.notify("x".into(), SOON).await), "closed");
    peer.close().await;
}

pub(crate) async fn full_inbox_drops_and_counts(backend: Backend) {
    let mut config = backend.config("server");
    config.limits.notifications_queued = 4;
    let server = Agent::open(config).await.unwrap();
    server.register(Mapping::anonymous(LEN).unwrap()).unwrap();
    let (client, region) = backend.client("client", LEN).await;
    let peer = connect(&client, &server).await;
    for index in 0..10 {
        peer.notify(format!("{index}").into(), SOON).await.unwrap();
    }
    let dropped = || server.snapshot().failures.get("notifications_dropped").copied();
    until("the rest was dropped", || dropped() == Some(6)).await;
    assert_eq!(server.snapshot().notifications_queued, 4);
    // An owner that does not listen does not stop reads.
    peer.read(&region, &whole(&region), None, SOON).await.unwrap();
    for index in 0..4 {
        assert_eq!(notified(&server).await.payload, format!("{index}"));
    }
}

/// However its completions come: who measures something else beside it is not to find it spinning.
pub(crate) async fn an_idle_agent_takes_no_processor_time(backend: Backend) {
    let server = PeerProcess::serve(&backend, LEN, 1).await;
    let (client, region) = backend.client("client", LEN).await;
    let peer = client.connect(&server.metadata, SOON).await.unwrap();
    peer.read(&region, &whole(&region), None, SOON).await.unwrap();
    sleep(Duration::from_millis(200)).await;
    let before = server.processor_ticks();
    sleep(Duration::from_millis(500)).await;
    let taken = server.processor_ticks() - before;
    assert!(taken < 10, "{taken} ticks of 50");
    // And it wakes up.
    peer.read(&region, &whole(&region), None, SOON).await.unwrap();
    assert_arrived(&region, &whole(&region), 1);
}

pub(crate) async fn no_descriptor_and_no_thread_stays_behind(backend: Backend) {
    let counts = run_isolated(&backend).await;
    assert_eq!(counts["before"], counts["after"], "{counts}");
}

/// Run in a process of its own, where nothing else opens files or starts threads.
pub(crate) async fn isolated_rounds(backend: &Backend) -> Value {
    // Libraries keep a few things after their first use; what grows after that is a leak.
    round(backend).await;
    let before = settled().await;
    for _ in 0..3 {
        round(backend).await;
    }
    json!({"before": before, "after": settled().await})
}

async fn round(backend: &Backend) {
    // In order, after success and after an error.
    let (server, _source) = backend.server("server", LEN, 1).await;
    let (client, region) = backend.client("client", LEN).await;
    let peer = connect(&client, &server).await;
    peer.read(&region, &whole(&region), payload("x"), SOON).await.unwrap();
    assert!(client.connect(b"nonsense", SOON).await.is_err());
    client.close().await.unwrap();
    server.close().await.unwrap();

    // Dropped without a word, with a read on its way.
    let (server, _source) = backend.server("server", LEN, 1).await;
    let (client, region) = backend.client("client", LEN).await;
    let peer = connect(&client, &server).await;
    let descriptors = whole(&region);
    tokio::select! {
        biased;
        _ = peer.read(&region, &descriptors, None, SOON) => {}
        () = std::future::ready(()) => {}
    }
    drop((peer, client, server));
}

/// Open descriptors and threads, once they have stopped falling: for longer than the second that a dropped agent may take
/// to leave its links.
async fn settled() -> Value {
    let mut last = (usize::MAX, usize::MAX);
    let mut same = 0;
    while same < 24 {
        let now = (entries("/proc/self/fd"), entries("/proc/self/task"));
        same = if now == last { same + 1 } else { 0 };
        last = now;
        sleep(Duration::from_millis(50)).await;
    }
    json!({"fds": last.0, "threads": last.1})
}

fn entries(dir: &str) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}
