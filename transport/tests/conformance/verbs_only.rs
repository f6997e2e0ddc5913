//! What is the verbs backend's own: forged keys and hellos, memory in several regions, settings,
//! ports that go down, and the kernel's own count of what is left.

use std::process::Command;

use pdlab_transport::rdma::Completion;
use pdlab_transport::{Agent, Descriptor, Mapping, RdmaSettings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::bad_input::reseal;
use crate::peer_process::PeerProcess;
use crate::support::{
    BRIEF, Backend, SOON, assert_arrived, assert_drained, connect, fill, filled, kind, notified,
    payload, until, whole,
};
use crate::wire::can_cut;

const LEN: usize = 256 << 10;

async fn agent(backend: &Backend, name: &str, change: impl FnOnce(&mut RdmaSettings)) -> Agent {
    let mut config = backend.config(name);
    change(&mut config.rdma);
    Agent::open(config).await.unwrap()
}

/// Where the first key is: behind its magic, the length of its chunks and their number.
fn key_at(metadata: &[u8]) -> usize {
    metadata.windows(4).position(|window| window == b"PDVK").unwrap() + 4 + 8 + 4
}

/// The owner's device refuses the key; both sides report it, and go on.
pub(crate) async fn a_forged_key_fails_at_the_peer(backend: Backend) {
    let (server, _source) = backend.server("server", LEN, 1).await;
    let (client, region) = backend.client("client", LEN).await;
    let good = server.metadata().unwrap();
    let at = key_at(&good);
    for bit in [0, 3, 12, 30] {
        let forged = reseal(&good, |body| body[at + bit / 8] ^= 1 << (bit % 8));
        let peer = client.connect(&forged, SOON).await.unwrap();
        let error = peer.read(&region, &whole(&region), payload("no"), SOON).await.unwrap_err();
        assert_eq!(error.kind(), "peer_lost", "{error}");
        assert!(error.to_string().contains("remote access error"), "{error}");
        fill(&region, 1);
    }
    assert_eq!(client.snapshot().failures.get("rdma_remote_access"), Some(&4));
    assert_eq!(server.snapshot().notifications_queued, 0);
    until("the owner drops them", || server.snapshot().connections_accepted == 0).await;
    let peer = connect(&client, &server).await;
    peer.read(&region, &whole(&region), None, SOON).await.unwrap();
    assert_arrived(&region, &whole(&region), 1);
}

/// Metadata that promises more memory than there is.
pub(crate) async fn a_forged_length_fails_at_the_peer(backend: Backend) {
    let (server, _source) = backend.server("server", LEN, 1).await;
    let (client, region) = backend.client("client", LEN).await;
    let good = server.metadata().unwrap();
    let key = key_at(&good);
    // Before the key: its magic and head 16, its length 4, blocks 16, then the length itself 8.
    let forged = reseal(&good, |body| {
        for at in [key - 12, key - 16 - 4 - 16 - 8] {
            body[at..at + 8].copy_from_slice(&(1_u64 << 40).to_le_bytes());
        }
    });
    let peer = client.connect(&forged, SOON).await.unwrap();
    let beyond = [Descriptor::new(0, 0, 10), Descriptor::new(10, 1 << 39, 10)];
    let error = peer.read(&region, &beyond, None, SOON).await.unwrap_err();
    assert!(error.to_string().contains("remote access error"), "{error}");
    let only_the_length = reseal(&good, |body| body[key - 44] ^= 1);
    let again = client.connect(&only_the_length, SOON).await;
    if let Ok(peer) = again {
        // One byte more or less than there is: within the same chunk.
        let _ = peer.read(&region, &[Descriptor::new(0, 0, 10)], None, SOON).await.unwrap();
    }
}

/// Valid checksums around changed content, byte by byte: an error or a peer, never a crash.
pub(crate) async fn forged_metadata(backend: Backend) {
    let (server, _source) = backend.server("server", LEN, 1).await;
    let (client, region) = backend.client("client", LEN).await;
    let good = server.metadata().unwrap();
    let address = good.windows(4).position(|window| window == b"PDVB").unwrap();
    let key = key_at(&good) - 16;
    // The header, the address's head and the key's: what is ours to decode.
    let bytes = (10..address - 4).chain(address..address + 9).chain(key..key + 16);
    for at in bytes {
        let forged = reseal(&good, |body| body[at] ^= 0x41);
        if let Ok(peer) = client.connect(&forged, BRIEF).await {
            let _ = peer.read(&region, &[Descriptor::new(0, 0, 10)], None, BRIEF).await;
        }
    }
    until("nothing is left of them", || client.snapshot().endpoints == 0).await;
    let peer = connect(&client, &server).await;
    peer.read(&region, &whole(&region), None, SOON).await.unwrap();
    assert_arrived(&region, &whole(&region), 1);
}

/// Raw bytes at the listener. Each stranger is turned away, and the next client is served.
pub(crate) async fn strangers_at_the_door(backend: Backend) {
    let server = backend.agent("server").await;
    server.register(filled(LEN, 1)).unwrap();
    let metadata = server.metadata().unwrap();
    let text = String::from_utf8_lossy(&metadata).into_owned();
    let listen = text.split("PDVB1 roce ").nth(1).unwrap();
    let listen = &listen[..listen.find(|letter: char| !"0123456789.:".contains(letter)).unwrap()];
    let frame = |body: &[u8]| [&(body.len() as u32).to_le_bytes(), body].concat();
    let strangers = [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        vec![0xFF; 1_000],
        frame(b""),
        frame(b"PDVB\x01\x09"),
        frame(b"PDVB\x02\x01"),
        frame(&[&b"PDVB\x01\x01"[..], &[0; 200]].concat()),
        frame(b"PDVB\x01\x03no"),
    ];
    let count = strangers.len() as u64;
    for bytes in strangers {
        let mut stream = TcpStream::connect(listen).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = timeout(SOON, stream.read_to_end(&mut answer)).await.expect("turned away");
    }
    until("all were counted", || server.snapshot().failures.get("protocol") == Some(&count)).await;
    until("all are gone", || server.snapshot().connections_accepted == 0).await;
    let (client, region) = backend.client("client", LEN).await;
    let peer = connect(&client, &server).await;
    peer.read(&region, &whole(&region), None, SOON).await.unwrap();
    assert_arrived(&region, &whole(&region), 1);
}

/// Another agent listens where the metadata's agent has been.
pub(crate) async fn a_successor_at_the_same_address(backend: Backend) {
    let (server, _source) = backend.server("server", LEN, 1).await;
    let client = backend.agent("client").await;
    let stale = reseal(&server.metadata().unwrap(), |body| body[10] ^= 1);
    let error = client.connect(&stale, SOON).await.unwrap_err();
    assert_eq!(error.kind(), "unreachable");
    assert!(error.to_string().contains("started anew"), "{error}");
    until("nothing is left of it", || client.snapshot().endpoints == 0).await;
}

/// Reads across the borders of regions, on both sides.
pub(crate) async fn memory_in_several_regions(backend: Backend) {
    let server = agent(&backend, "server", |s| s.max_region_bytes = Some(12 << 10)).await;
    server.register(filled(LEN, 1)).unwrap();
    let client = agent(&backend, "client", |s| s.max_region_bytes = Some(20 << 10)).await;
    let region = client.register(Mapping::anonymous(LEN).unwrap()).unwrap();
    let regions = |agent: &Agent| agent.snapshot().memory_regions.unwrap();
    assert_eq!((regions(&server), regions(&client)), (22, 13));
    let peer = connect(&client, &server).await;
    peer.read(&region, &whole(&region), payload("all"), SOON).await.unwrap();
    assert_arrived(&region, &whole(&region), 1);
    let crossing: Vec<_> =
        (0..10).map(|n| Descriptor::new(n * 9_000, 100_000 - n as u64 * 7_001, 8_999)).collect();
    peer.read(&region, &crossing, None, SOON).await.unwrap();
    assert_arrived(&region, &crossing, 1);
}

/// Every way of completion, width and depth moves the same bytes; MTUs may differ.
pub(crate) async fn settings_of_every_kind(backend: Backend) {
    let (server, _source) = backend.server("server", LEN, 1).await;
    let choices: [fn(&mut RdmaSettings); 6] = [
        |s| s.completion = Completion::Poll,
        |s| (s.queue_pairs, s.depth) = (1, 1),
        |s| (s.queue_pairs, s.depth) = (16, 16),
        |s| s.mtu = Some(1024),
        |s| (s.max_rd_atomic, s.inline_bytes) = (Some(1), 0),
        |s| (s.service_level, s.traffic_class) = (3, 106),
    ];
    for choice in choices {
        let client = agent(&backend, "client", choice).await;
        let region = client.register(Mapping::anonymous(LEN).unwrap()).unwrap();
        let peer = connect(&client, &server).await;
        let blocks: Vec<_> =
            (0..64).map(|n| Descriptor::new(n * 4096, (63 - n as u64) * 4096, 4096)).collect();
        peer.read(&region, &blocks, payload("done"), SOON).await.unwrap();
        assert_arrived(&region, &blocks, 1);
        assert_eq!(notified(&server).await.payload, "done");
        client.close().await.unwrap();
        assert_drained(&client);
    }
}

pub(crate) async fn settings_that_cannot_be(backend: Backend) {
    let refused = async |change: fn(&mut RdmaSettings), expected: &'static str, words: &str| {
        let mut config = backend.config("client");
        change(&mut config.rdma);
        let error = Agent::open(config).await.unwrap_err();
        assert_eq!(error.kind(), expected, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    };
    refused(|s| s.device = Some("nope".into()), "open", "no RDMA device 'nope'").await;
    refused(|s| s.port = Some(200), "open", "no port 200").await;
    refused(|s| s.gid_index = Some(250), "open", "GID index 250").await;
    refused(|s| s.queue_pairs = 17, "bad_config", "queue pairs is 17").await;
    refused(|s| s.mtu = Some(1500), "bad_config", "MTU is 1500").await;
    for listen in ["0.0.0.0", "::"] {
        let mut config = backend.config("client");
        config.listen = listen.parse().unwrap();
        assert_eq!(kind(Agent::open(config).await), "bad_config");
    }
}

/// The port of a link goes down, which ends it by name; when it is back, so is the peer.
pub(crate) async fn a_port_that_goes_down(backend: Backend) {
    let device = backend.rdma.as_ref().unwrap().device.clone();
    if let Err(reason) = can_cut(std::slice::from_ref(&device)) {
        eprintln!("skipped: {reason}");
        return;
    }
    let parent = std::fs::read_to_string(format!("/sys/class/infiniband/{device}/parent")).unwrap();
    let parent = parent.trim();
    let set = |state: &str| {
        let status = Command::new("ip").args(["link", "set", parent, state]).status().unwrap();
        assert!(status.success());
    };
    // Or the interface would come back without its address.
    let keep = format!("/proc/sys/net/ipv6/conf/{parent}/keep_addr_on_down");
    std::fs::write(keep, "1").unwrap();
    // Link-local: such addresses, and routes between them, come back with the interface.
    let server = agent(&backend, "server", |s| s.gid_index = Some(0)).await;
    server.register(filled(LEN, 1)).unwrap();
    let client = agent(&backend, "client", |s| s.gid_index = Some(0)).await;
    let region = client.register(Mapping::anonymous(LEN).unwrap()).unwrap();
    let peer = connect(&client, &server).await;
    peer.read(&region, &whole(&region), None, SOON).await.unwrap();

    set("down");
    until("the link has ended", || !peer.is_alive()).await;
    assert_eq!(client.snapshot().failures.get("rdma_port_down"), Some(&1));
    let error = client.connect(&server.metadata().unwrap(), SOON).await.unwrap_err();
    assert_eq!(error.kind(), "unreachable");
    assert!(error.to_string().contains("is DOWN"), "{error}");
    let mut config = backend.config("late");
    config.rdma.device = Some(device.clone());
    let error = Agent::open(config).await.unwrap_err();
    assert!(error.kind() == "open" && error.to_string().contains("is DOWN"), "{error}");
    set("up");

    let metadata = server.metadata().unwrap();
    let back = async {
        loop {
            if let Ok(peer) = client.connect(&metadata, SOON).await
                && peer.read(&region, &whole(&region), None, SOON).await.is_ok()
            {
                break;
            }
            tokio::time::sleep(BRIEF / 4).await;
        }
    };
    timeout(SOON, back).await.expect("the peer is back");
    assert_arrived(&region, &whole(&region), 1);
}

/// By the kernel's own account: nothing is left of reconnects, nor of agents.
pub(crate) async fn the_kernel_counts_nothing_left(backend: Backend) {
    let rdma = backend.rdma.clone().unwrap();
    let devices = [rdma.device, rdma.peer_device];
    let Some(before) = resources(&devices) else {
        eprintln!("skipped: the command `rdma` is not here");
        return;
    };
    let (server, _source) = backend.server("server", LEN, 1).await;
    let (client, region) = backend.client("client", LEN).await;
    let mut open = Vec::new();
    for _ in 0..10 {
        let peer = connect(&client, &server).await;
        peer.read(&region, &whole(&region), payload("x"), SOON).await.unwrap();
        notified(&server).await;
        peer.close().await;
        until("the owner lets go", || server.snapshot().connections_accepted == 0).await;
        open.push(resources(&devices).unwrap());
        let snapshot = client.snapshot();
        assert_eq!((snapshot.queue_pairs, snapshot.completion_queues), (Some(0), Some(0)));
        assert_eq!(snapshot.memory_regions, Some(1));
    }
    assert!(open.iter().all(|counts| *counts == open[0]), "{open:?}");
    client.close().await.unwrap();
    server.close().await.unwrap();
    drop((client, server));
    until("the kernel agrees", || resources(&devices).as_ref() == Some(&before)).await;
}

/// What `rdma resource show` counts on these devices.
fn resources(devices: &[String]) -> Option<Vec<String>> {
    let output = Command::new("rdma").args(["resource", "show"]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let of_device =
        |line: &&str| devices.iter().any(|device| line.contains(&format!(": {device}:")));
    Some(text.lines().filter(of_device).map(str::to_owned).collect())
}

/// Run as an ordinary user with little memory to lock; as root there is no limit.
pub(crate) async fn a_memory_lock_limit_is_named(backend: Backend) {
    let (soft, _) =
        nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_MEMLOCK).unwrap();
    if nix::unistd::geteuid().is_root() || soft > 1 << 20 {
        eprintln!("skipped: it takes an ordinary user with a memory lock limit below 1 MiB");
        return;
    }
    let client = backend.agent("client").await;
    let error = client.register(Mapping::anonymous(4 << 20).unwrap()).unwrap_err();
    assert_eq!(error.kind(), "register");
    let text = error.to_string();
    assert!(text.contains("memlock") && text.contains("ulimit -l"), "{text}");
    assert!(text.contains(&soft.to_string()), "{text}");
    assert_eq!(client.snapshot().memory_regions, Some(0));
    // What fits is registered all the same.
    client.register(Mapping::anonymous(4096).unwrap()).unwrap();
    println!("the limit was named: {text}");
}

/// A notification is in the peer's memory when its read has finished.
pub(crate) async fn close_right_after_a_read_loses_nothing(backend: Backend) {
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
