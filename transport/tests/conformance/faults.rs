//! Each fault keeps what it should, shows it, disturbs nothing else, and ends with the agent.

use pdlab_transport::{Agent, BackendKind, Faults, Mapping, Region, Snapshot};

use crate::support::{
    Backend, SOON, assert_arrived, assert_drained, connect, fill, kind, notified, until, whole,
};

const LEN: usize = 64 << 10;
const ROUNDS: u64 = 5;

pub(crate) async fn kept_transfers(backend: Backend) {
    let faults = Faults { keep_transfers: true, ..Faults::default() };
    let after = rounds_of_reads(&backend, faults).await;
    assert_eq!((after.transfers_in_flight, after.endpoints), (ROUNDS, 1));
}

pub(crate) async fn kept_keys(backend: Backend) {
    let faults = Faults { keep_rkeys: true, ..Faults::default() };
    if backend.kind == BackendKind::Ucx {
        let after = rounds_of_reads(&backend, faults).await;
        assert_eq!((after.rkeys, after.transfers_in_flight), (Some(1 + ROUNDS), 0));
    } else {
        let mut config = backend.config("client");
        config.faults = faults;
        assert_eq!(kind(Agent::open(config).await), "bad_config");
    }
}

pub(crate) async fn kept_endpoints(backend: Backend) {
    let (server, _source) = backend.server("server", LEN, 1).await;
    let faults = Faults { keep_endpoints: true, ..Faults::default() };
    let (client, region) = client(&backend, faults).await;
    for _ in 0..ROUNDS {
        let peer = connect(&client, &server).await;
        peer.read(&region, &whole(&region), None, SOON).await.unwrap();
        peer.close().await;
        assert_eq!(kind(peer.read(&region, &whole(&region), None, SOON).await), "peer_lost");
    }
    // A handle that is dropped closes nothing either.
    drop(connect(&client, &server).await);
    let _live = connect(&client, &server).await;
    assert_eq!(client.snapshot().endpoints, ROUNDS + 2);
    client.close().await.unwrap();
    assert_drained(&client);
}

pub(crate) async fn kept_notifications(backend: Backend) {
    let mut config = backend.config("server");
    config.faults.keep_notifications = true;
    config.limits.notifications_queued = 1;
    let server = Agent::open(config).await.unwrap();
    let (client, _region) = backend.client("client", LEN).await;
    let peer = connect(&client, &server).await;
    for round in 1..=ROUNDS {
        peer.notify(format!("{round}").into(), SOON).await.unwrap();
        assert_eq!(notified(&server).await.payload, format!("{round}"));
        assert_eq!(server.snapshot().notifications_queued, round);
    }
    peer.close().await;
    server.close().await.unwrap();
    until("the connection is gone", || server.snapshot().connections_accepted == 0).await;
    assert_drained(&server);
}

async fn client(backend: &Backend, faults: Faults) -> (Agent, Region) {
    let mut config = backend.config("client");
    config.faults = faults;
    let client = Agent::open(config).await.unwrap();
    let region = client.register(Mapping::anonymous(LEN).unwrap()).unwrap();
    (client, region)
}

/// What a client holds after reads into the same memory over one connection, which still work.
async fn rounds_of_reads(backend: &Backend, faults: Faults) -> Snapshot {
    let (server, _source) = backend.server("server", LEN, 1).await;
    let (client, region) = client(backend, faults).await;
    let peer = connect(&client, &server).await;
    for _ in 0..ROUNDS {
        fill(&region, 0);
        peer.read(&region, &whole(&region), None, SOON).await.unwrap();
        assert_arrived(&region, &whole(&region), 1);
    }
    let after = client.snapshot();
    client.close().await.unwrap();
    assert_drained(&client);
    assert!(client.snapshot().rkeys.is_none_or(|keys| keys == 0));
    after
}
