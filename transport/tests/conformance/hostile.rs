//! What strangers and liars may try against the TCP server, which is ours to defend. UCX has its
//! own answers; a forged worker address or key is not something that its library survives.

use std::time::Duration;

use pdlab_transport::{Agent, Descriptor, Mapping};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::bad_input::reseal;
use crate::peer_process::PeerProcess;
use crate::support::{BRIEF, Backend, SOON, assert_arrived, connect, filled, kind, until, whole};

const LEN: usize = 64 << 10;

/// Magic, version, backend: then 8 bytes of instance.
const INSTANCE_AT: usize = 10;

/// Where the server of this metadata listens: behind the name and two lengths.
fn address(metadata: &[u8]) -> String {
    let name = usize::from(u16::from_le_bytes([metadata[18], metadata[19]]));
    let (len, rest) = metadata[20 + name..].split_first_chunk::<4>().unwrap();
    String::from_utf8(rest[..u32::from_le_bytes(*len) as usize].to_vec()).unwrap()
}

/// Valid checksums around changed content, byte by byte: an error or a peer, never a crash.
pub(crate) async fn forged_metadata(backend: Backend) {
    let (server, _source) = backend.server("server", LEN, 1).await;
    let (client, region) = backend.client("client", LEN).await;
    let good = server.metadata().unwrap();
    for at in 0..good.len() - 8 {
        // The address stays: strangers' addresses are none of this test's business.
        if (20 + "server".len()..20 + "server".len() + 4 + address(&good).len()).contains(&at) {
            continue;
        }
        let forged = reseal(&good, |body| body[at] ^= 0x41);
        if let Ok(peer) = client.connect(&forged, BRIEF).await {
            let _ = peer.read(&region, &[Descriptor::new(0, 0, 10)], None, BRIEF).await;
        }
    }
    for text in ["", "nowhere", "127.0.0.1", "127.0.0.1:99999", "\0\0\0"] {
        let mut forged = reseal(&good, |_| ());
        forged.truncate(20 + "server".len());
        forged.extend((text.len() as u32).to_le_bytes());
        forged.extend(text.as_bytes());
        forged.extend([0; 4 + 8]);
        let forged = reseal(&forged, |_| ());
        assert_eq!(kind(client.connect(&forged, BRIEF).await), "bad_metadata", "{text:?}");
    }
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
    assert!(error.to_string().contains("started anew"), "{error}");
}

/// Metadata that promises more memory than there is: the owner decides.
pub(crate) async fn forged_lengths(backend: Backend) {
    let (server, _source) = backend.server("server", LEN, 1).await;
    let (client, region) = backend.client("client", LEN).await;
    let good = server.metadata().unwrap();
    // From the end: checksum 8, key length 4, blocks 16, then the length itself.
    let length_at = good.len() - 8 - 4 - 16 - 8;
    let forged = reseal(&good, |body| {
        body[length_at..length_at + 8].copy_from_slice(&(1_u64 << 40).to_le_bytes());
    });
    let peer = client.connect(&forged, SOON).await.unwrap();
    for offset in [LEN as u64 - 9, 1 << 39, (1 << 40) - 10] {
        let beyond = [Descriptor::new(0, 0, 10), Descriptor::new(10, offset, 10)];
        let error = peer.read(&region, &beyond, None, SOON).await.unwrap_err();
        assert_eq!(error.kind(), "out_of_range");
        assert!(error.to_string().contains("block 1"), "{error}");
    }
    // The connection survives, and the bytes are free again.
    peer.read(&region, &whole(&region), None, SOON).await.unwrap();
    assert_arrived(&region, &whole(&region), 1);
    assert_eq!(server.snapshot().failures.get("protocol"), Some(&3));
}

/// Raw bytes at the listener. Each stranger is turned away, and the next client is served.
pub(crate) async fn strangers_at_the_door(backend: Backend) {
    let mut config = backend.config("server");
    config.limits.descriptors_per_read = 100;
    config.limits.notification_bytes = 100;
    let server = Agent::open(config).await.unwrap();
    server.register(Mapping::anonymous(LEN).unwrap()).unwrap();
    let metadata = server.metadata().unwrap();
    let instance = &metadata[INSTANCE_AT..INSTANCE_AT + 8];
    let frame = |kind: u8, id: u64, len: u64, body: &[u8]| {
        [&b"PDLT\x01"[..], &[kind, 0, 0], &id.to_le_bytes(), &len.to_le_bytes(), body].concat()
    };
    let hello = frame(1, 0, 9, &[instance, b"x"].concat());
    let after_hello = |rest: Vec<u8>| [hello.clone(), rest].concat();

    let strangers = [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        vec![0xFF; 1_000],
        frame(4, 1, 20, &[0; 20]),
        frame(1, 0, 8, instance),
        frame(1, 0, 1 << 50, b""),
        frame(1, 0, 10, &[instance, b"\xC3\x28"].concat()),
        after_hello(frame(4, 1, 20 * 101, &[])),
        after_hello(frame(4, 1, 0, &[])),
        after_hello(frame(4, 1, 21, &[0; 21])),
        after_hello(frame(7, 0, 101, &[])),
        after_hello(frame(5, 1, 4, b"data")),
        after_hello(frame(99, 1, 0, &[])),
        after_hello(b"PDLT\x02".iter().copied().chain([0; 19]).collect()),
    ];
    let count = strangers.len() as u64;
    for bytes in strangers {
        let mut stream = TcpStream::connect(address(&metadata)).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut answer = Vec::new();
        // A reset is as good an end as a closed stream: what they sent last may be unread.
        let _ = timeout(SOON, stream.read_to_end(&mut answer)).await.expect("turned away");
        assert!(answer.is_empty() || answer.starts_with(b"PDLT"), "{answer:?}");
    }
    until("all were counted", || server.snapshot().failures.get("protocol") == Some(&count)).await;
    until("all are gone", || server.snapshot().connections_accepted == 0).await;

    let (client, region) = backend.client("client", LEN).await;
    let peer = connect(&client, &server).await;
    peer.read(&region, &whole(&region), None, SOON).await.unwrap();
    assert_eq!(server.snapshot().bytes_served, LEN as u64);

    // Blocks over the server's limit: it says so, and the connection ends.
    let blocks: Vec<_> = (0..101).map(|at| Descriptor::new(at, 0, 1)).collect();
    let error = peer.read(&region, &blocks, None, SOON).await.unwrap_err();
    assert_eq!(error.kind(), "peer_lost");
    assert!(error.to_string().contains("limit is 2000"), "{error}");
}

pub(crate) async fn too_many_connections(backend: Backend) {
    let mut config = backend.config("server");
    config.limits.connections = 2;
    let server = Agent::open(config).await.unwrap();
    let client = backend.agent("client").await;
    let peers = [connect(&client, &server).await, connect(&client, &server).await];
    let metadata = server.metadata().unwrap();
    let error = client.connect(&metadata, SOON).await.unwrap_err();
    assert_eq!(error.kind(), "unreachable");
    drop(peers);
    until("the two have gone", || server.snapshot().connections_accepted == 0).await;
    connect(&client, &server).await;
}

pub(crate) async fn silent_connections(backend: Backend) {
    let mut config = backend.config("server");
    config.limits.handshake = Duration::from_millis(100);
    let server = Agent::open(config).await.unwrap();
    let mut silent = TcpStream::connect(address(&server.metadata().unwrap())).await.unwrap();
    let mut answer = Vec::new();
    timeout(SOON, silent.read_to_end(&mut answer)).await.expect("turned away").unwrap();
    assert!(String::from_utf8_lossy(&answer).contains("no hello in time"));
    until("it is forgotten", || server.snapshot().connections_accepted == 0).await;
}

pub(crate) async fn dead_clients_are_forgotten(backend: Backend) {
    let (server, _source) = backend.server("server", LEN, 1).await;
    let mut client = PeerProcess::connect(&backend, &server.metadata().unwrap()).await;
    assert_eq!(server.snapshot().connections_accepted, 1);
    client.kill().await;
    until("it is forgotten", || server.snapshot().connections_accepted == 0).await;
}

pub(crate) async fn addresses_that_cannot_be(backend: Backend) {
    for (listen, expected) in
        [("0.0.0.0", "bad_config"), ("::", "bad_config"), ("192.0.2.1", "open")]
    {
        let mut config = backend.config("server");
        config.listen = listen.parse().unwrap();
        let error = Agent::open(config).await.unwrap_err();
        assert_eq!(error.kind(), expected);
        assert!(error.to_string().contains(listen), "{error}");
    }
}

pub(crate) async fn reads_of_a_region_that_is_gone(backend: Backend) {
    let (server, _source) = backend.server("server", 4096, 1).await;
    let extra = server.register(filled(4096, 2)).unwrap();
    let (client, region) = backend.client("client", 4096).await;
    let peer = connect(&client, &server).await;
    server.deregister(&extra).unwrap();
    let id = extra.id();
    drop(extra);
    let late = whole(&region).map(|block| block.in_region(id));
    assert_eq!(kind(peer.read(&region, &late, None, SOON).await), "out_of_range");
    peer.read(&region, &whole(&region), None, SOON).await.unwrap();
    assert_arrived(&region, &whole(&region), 1);
}
