//! Damaged metadata, ranges that lie outside, sizes over the limit: each gets its error, and the
//! connection goes on working.

use bytes::Bytes;
use pdlab_transport::{Agent, BackendKind, Descriptor, Error, Mapping, Region};

use crate::support::{Backend, SOON, assert_arrived, connect, kind, notified, payload, whole};

pub(crate) async fn damaged_metadata(backend: Backend) {
    let (server, _source) = backend.server("server", 4096, 0).await;
    let (client, _region) = backend.client("client", 4096).await;
    let good = server.metadata().unwrap();
    let mut attempts = 0;
    let mut refused = async |bytes: &[u8]| {
        assert_eq!(kind(client.connect(bytes, SOON).await), "bad_metadata");
        attempts += 1;
    };
    for len in [0, 1, 7, 8, 9, 20, good.len() / 2, good.len() - 1] {
        refused(&good[..len]).await;
    }
    for bit in (0..good.len() * 8).step_by(13) {
        let mut damaged = good.to_vec();
        damaged[bit / 8] ^= 1 << (bit % 8);
        refused(&damaged).await;
    }
    refused(&[&good[..], b"x"].concat()).await;
    refused(b"GET / HTTP/1.1\r\n\r\n").await;
    refused(&vec![0xFF; 10_000]).await;
    let snapshot = client.snapshot();
    assert_eq!(snapshot.failures.get("bad_metadata"), Some(&attempts));
    assert_eq!(snapshot.endpoints, 0);
    assert_eq!(kind(client.connect(&vec![0; 2 << 20], SOON).await), "too_large");
    connect(&client, &server).await;
}

pub(crate) async fn metadata_of_another_backend(backend: Backend) {
    let (server, _source) = backend.server("server", 4096, 0).await;
    let client = backend.agent("client").await;
    let other = match backend.kind {
        BackendKind::Tcp => BackendKind::Ucx,
        _ => BackendKind::Tcp,
    };
    let metadata = reseal(&server.metadata().unwrap(), |body| {
        body[9] = if other == BackendKind::Tcp { 1 } else { 2 }
    });
    let error = client.connect(&metadata, SOON).await.unwrap_err();
    let Error::BackendMismatch { peer, ours, theirs } = &error else { panic!("{error}") };
    assert_eq!((&**peer, *ours, *theirs), ("server", backend.kind, other));
}

pub(crate) async fn ranges_outside(backend: Backend) {
    const LEN: usize = 10_000;
    let (server, _source) = backend.server("server", LEN, 1).await;
    let (client, region) = backend.client("client", LEN).await;
    let peer = connect(&client, &server).await;
    let good = Descriptor::new(0, 0, 100);
    let outside = [
        ("local", Descriptor::new(LEN - 9, 0, 10)),
        ("local", Descriptor::new(usize::MAX, 0, 2)),
        ("local", Descriptor::new(usize::MAX - 3, 0, 100)),
        ("local", Descriptor::new(LEN + 1, 0, 0)),
        ("remote", Descriptor::new(200, LEN as u64 - 9, 10)),
        ("remote", Descriptor::new(200, u64::MAX, 2)),
        ("remote", Descriptor::new(200, u64::MAX - 3, 100)),
        ("remote", Descriptor::new(200, 0, 10).in_region(1)),
        ("remote", Descriptor::new(200, 0, 10).in_region(u32::MAX)),
    ];
    for (side, descriptor) in outside {
        let error = peer.read(&region, &[good, descriptor], payload("no"), SOON).await.unwrap_err();
        assert_eq!(error.kind(), "out_of_range", "{descriptor:?}");
        let text = error.to_string();
        assert!(text.contains(&format!("{side} range of descriptor 1")), "{text}");
    }
    assert_eq!(client.snapshot().failures.get("out_of_range"), Some(&(outside.len() as u64)));

    peer.read(&region, &whole(&region), payload("yes"), SOON).await.unwrap();
    assert_arrived(&region, &whole(&region), 1);
    assert_eq!(notified(&server).await.payload, "yes");
}

pub(crate) async fn overlapping_destinations(backend: Backend) {
    let (server, _source) = backend.server("server", 10_000, 1).await;
    let (client, region) = backend.client("client", 10_000).await;
    let peer = connect(&client, &server).await;

    let itself = [Descriptor::new(0, 0, 100), Descriptor::new(99, 500, 100)];
    assert_eq!(kind(peer.read(&region, &itself, None, SOON).await), "busy");

    // Somebody reads the destination right now.
    let handle = tokio::runtime::Handle::current();
    let result = std::thread::scope(|scope| {
        region
            .read(50..60, |_| {
                let read = || handle.block_on(peer.read(&region, &whole(&region), None, SOON));
                scope.spawn(read).join().unwrap()
            })
            .unwrap()
    });
    assert_eq!(kind(result), "busy");

    // The same source bytes may go to several places.
    let twice = [Descriptor::new(0, 0, 100), Descriptor::new(100, 0, 100)];
    peer.read(&region, &twice, None, SOON).await.unwrap();
    assert_arrived(&region, &twice, 1);
    assert_eq!(client.snapshot().transfers_in_flight, 0);
}

pub(crate) async fn sizes_over_the_limits(backend: Backend) {
    let (server, _source) = backend.server("server", 10_000, 1).await;
    let mut config = backend.config("client");
    config.limits.descriptors_per_read = 4;
    config.limits.notification_bytes = 10;
    config.limits.regions = 1;
    let client = Agent::open(config).await.unwrap();
    let region = client.register(Mapping::anonymous(10_000).unwrap()).unwrap();
    let another = client.register(Mapping::anonymous(1).unwrap());
    assert_eq!(kind(another), "too_large");
    let peer = connect(&client, &server).await;

    let blocks = |count| (0..count).map(|at| Descriptor::new(at, at as u64, 1)).collect::<Vec<_>>();
    assert_eq!(kind(peer.read(&region, &blocks(5), None, SOON).await), "too_large");
    let long = Bytes::from_static(b"12345678901");
    assert_eq!(kind(peer.notify(long.clone(), SOON).await), "too_large");
    assert_eq!(kind(peer.read(&region, &blocks(1), Some(long), SOON).await), "too_large");
    peer.read(&region, &blocks(4), payload("1234567890"), SOON).await.unwrap();
    assert_eq!(notified(&server).await.payload, "1234567890");

    for name in ["", &"x".repeat(256)] {
        assert_eq!(kind(Agent::open(backend.config(name)).await), "bad_config");
    }
}

pub(crate) async fn foreign_regions(backend: Backend) {
    let (server, theirs): (Agent, Region) = backend.server("server", 4096, 1).await;
    let (client, _ours) = backend.client("client", 4096).await;
    let peer = connect(&client, &server).await;
    assert_eq!(kind(peer.read(&theirs, &whole(&theirs), None, SOON).await), "not_registered");
}

/// Metadata with its body changed and the checksum made right again.
pub(crate) fn reseal(metadata: &[u8], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let (body, _sum) = metadata.split_last_chunk::<8>().unwrap();
    let mut body = body.to_vec();
    change(&mut body);
    let sum = body.iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    body.extend(sum.to_le_bytes());
    body
}
