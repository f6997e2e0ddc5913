//! Bytes arrive where they should, whatever their sizes and order, and notifications after them.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use pdlab_transport::{BlockLayout, Descriptor, Mapping};
use tokio::sync::mpsc;

use crate::support::{
    Backend, SOON, assert_arrived, connect, fill, filled, notified, pattern, payload, whole,
};

const MIB: usize = 1 << 20;
const CANARY: u8 = 0xA5;

pub(crate) async fn odd_sizes_and_orders(backend: Backend) {
    let (server, _source) = backend.server("server", 8 * MIB + 123, 1).await;
    let (client, region) = backend.client("client", 12 * MIB).await;
    fill(&region, CANARY);
    let peer = connect(&client, &server).await;

    // Length and remote offset; they are read in this order and land in another one.
    let blocks = [
        (1, 8 * MIB + 122),
        (3 * MIB + 1, 5),
        (0, 77),
        (2, 4095),
        (4096, 8192),
        (65_536, 65_537),
        (1, 0),
        (4097, 3 * MIB + 4095),
        (256 << 10, 5 * MIB + 1),
        (12_345, 8 * MIB),
    ];
    let mut descriptors = Vec::new();
    let mut at = 3;
    for (len, from) in
        blocks.into_iter().map(|(len, from)| (usize::min(len, 8 * MIB + 123 - from), from)).rev()
    {
        descriptors.push(Descriptor::new(at, from as u64, len));
        at += len + 1 + len % 7;
    }
    descriptors.swap(0, 4);
    descriptors.swap(2, 9);

    let report = peer.read(&region, &descriptors, None, SOON).await.unwrap();
    let total: usize = descriptors.iter().map(|descriptor| descriptor.len).sum();
    assert_eq!((report.bytes, report.blocks), (total as u64, blocks.len() - 1));
    assert!(report.post_duration <= report.duration);
    assert_arrived(&region, &descriptors, 1);

    // And nothing between them.
    let mut expected = vec![false; region.len()];
    for descriptor in &descriptors {
        expected[descriptor.local_offset..][..descriptor.len].fill(true);
    }
    region
        .read(0..region.len(), |bytes| {
            for (at, byte) in bytes.iter().enumerate() {
                assert!(expected[at] || *byte == CANARY, "byte {at} was not asked for");
            }
        })
        .unwrap();
    let snapshot = client.snapshot();
    assert_eq!((snapshot.bytes_read, snapshot.transfers_total), (total as u64, 1));
}

pub(crate) async fn more_blocks_than_one_call_takes(backend: Backend) {
    const BLOCKS: usize = 3_000;
    let (server, _source) = backend.server("server", MIB, 2).await;
    let (client, region) = backend.client("client", 2 * MIB).await;
    let peer = connect(&client, &server).await;
    let descriptors: Vec<_> = (0..BLOCKS)
        .map(|index| {
            let shuffled = index * 1_009 % BLOCKS;
            Descriptor::new(shuffled * 350, (index * 311) as u64, 37 + index % 300)
        })
        .collect();
    let report = peer.read(&region, &descriptors, None, SOON).await.unwrap();
    assert_eq!(report.blocks, BLOCKS);
    assert_arrived(&region, &descriptors, 2);
}

pub(crate) async fn blocks_of_several_regions(backend: Backend) {
    let server = backend.agent("server").await;
    let layout = BlockLayout { block_len: 4096, blocks: 16 };
    let first = server.register_blocks(filled(65_536, 3), layout).unwrap();
    let second = server.register(filled(10_000, 4)).unwrap();
    assert_eq!((first.id(), second.id(), first.layout()), (0, 1, Some(layout)));
    let (client, region) = backend.client("client", 65_536).await;
    let peer = connect(&client, &server).await;

    let described: Vec<_> =
        peer.regions().iter().map(|region| (region.id, region.len, region.layout)).collect();
    assert_eq!(described, [(0, 65_536, Some(layout)), (1, 10_000, None)]);
    assert_eq!(peer.remote_name(), "server");

    let of_first = [Descriptor::new(0, 4096, 4096), Descriptor::new(20_000, 1, 999)];
    let of_second = [Descriptor::new(4096, 7, 9_993), Descriptor::new(30_000, 9_999, 1)];
    let all: Vec<_> =
        of_first.into_iter().chain(of_second.map(|descriptor| descriptor.in_region(1))).collect();
    peer.read(&region, &all, None, SOON).await.unwrap();
    assert_arrived(&region, &of_first, 3);
    assert_arrived(&region, &of_second, 4);
}

pub(crate) async fn empty_reads_notify(backend: Backend) {
    let (server, _source) = backend.server("server", 4096, 0).await;
    let (client, region) = backend.client("client", 4096).await;
    let peer = connect(&client, &server).await;
    let report = peer.read(&region, &[], payload("nothing"), SOON).await.unwrap();
    assert_eq!((report.bytes, report.blocks), (0, 0));
    let notification = notified(&server).await;
    assert_eq!((&*notification.from, &*notification.payload), ("client", &b"nothing"[..]));

    let nothing = [Descriptor::new(4096, 4096, 0)];
    peer.read(&region, &nothing, payload("again"), SOON).await.unwrap();
    assert_eq!(notified(&server).await.payload, "again");
}

/// The owner overwrites its memory as soon as it is notified, as a pool does that hands freed
/// blocks to the next request. A notification that overtakes the data tears it.
pub(crate) async fn notification_follows_the_data(backend: Backend) {
    const LEN: usize = 16 * MIB;
    const ROUNDS: u8 = 6;
    let (server, source) = backend.server("server", LEN, 1).await;
    let (client, region) = backend.client("client", LEN).await;
    let peer = connect(&client, &server).await;

    let (refilled, mut ready) = mpsc::channel(1);
    let owner = tokio::spawn(async move {
        for round in 1..=ROUNDS {
            let notification = notified(&server).await;
            source.write(0..LEN, |bytes| bytes.fill(0)).unwrap();
            assert_eq!(*notification.payload, [round]);
            source
                .write(0..LEN, |bytes| {
                    bytes
                        .iter_mut()
                        .enumerate()
                        .for_each(|(at, byte)| *byte = pattern(round + 1, at));
                })
                .unwrap();
            refilled.send(()).await.unwrap();
        }
        server
    });
    for round in 1..=ROUNDS {
        let block = 64 << 10;
        let blocks = LEN / block;
        let descriptors: Vec<_> = (0..blocks)
            .map(|index| {
                let at = index * 37 % blocks * block;
                Descriptor::new(at, at as u64, block)
            })
            .collect();
        let note = Some(Bytes::copy_from_slice(&[round]));
        peer.read(&region, &descriptors, note, SOON).await.unwrap();
        assert_arrived(&region, &descriptors, round);
        ready.recv().await.unwrap();
    }
    owner.await.unwrap();
}

pub(crate) async fn notifications_keep_their_order(backend: Backend) {
    let (server, _source) = backend.server("server", 4096, 0).await;
    let (client, _region) = backend.client("client", 4096).await;
    let peer = connect(&client, &server).await;
    for index in 0..500_u32 {
        // From nothing to a few KiB.
        let mut payload = index.to_le_bytes().to_vec();
        payload.resize(4 + index as usize * 11 % 5_000, index as u8);
        peer.notify(payload.into(), SOON).await.unwrap();
    }
    for index in 0..500_u32 {
        let payload = notified(&server).await.payload;
        assert_eq!(payload[..4], index.to_le_bytes());
        assert_eq!(payload.len(), 4 + index as usize * 11 % 5_000);
        assert!(payload[4..].iter().all(|byte| *byte == index as u8));
    }
}

pub(crate) async fn a_read_does_not_depend_on_others_that_wait(backend: Backend) {
    let (server, _source) = backend.server("server", 16 * MIB, 5).await;
    let (client, region) = backend.client("client", 17 * MIB).await;
    let peer = connect(&client, &server).await;
    let (large, small) = ([Descriptor::new(0, 0, 16 * MIB)], [Descriptor::new(16 * MIB, 0, 4096)]);
    let mut first = pin!(peer.read(&region, &large, None, SOON));
    // Begun, and then left alone.
    let over = poll_fn(|context| Poll::Ready(first.as_mut().poll(context))).await;
    peer.read(&region, &small, None, SOON).await.unwrap();
    assert_arrived(&region, &small, 5);
    match over {
        Poll::Ready(report) => report.map(|_| ()).unwrap(),
        Poll::Pending => first.await.map(|_| ()).unwrap(),
    }
    assert_arrived(&region, &large, 5);
}

pub(crate) async fn many_reads_at_once(backend: Backend) {
    const TASKS: usize = 24;
    const SLICE: usize = 96 << 10;
    let (server, _source) = backend.server("server", 4 * MIB, 5).await;
    let (client, region) = backend.client("client", TASKS * SLICE).await;
    let peer = connect(&client, &server).await;
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let (peer, region) = (peer.clone(), region.clone());
            tokio::spawn(async move {
                for round in 0..10 {
                    let from = (task * 131 + round * 7_919) % (3 * MIB);
                    let descriptors: Vec<_> = (0..6)
                        .map(|index| {
                            let at = task * SLICE + index * (16 << 10);
                            Descriptor::new(at, (from + index * 20_000) as u64, (16 << 10) - round)
                        })
                        .collect();
                    let note = payload(&format!("{task}/{round}"));
                    peer.read(&region, &descriptors, note, SOON).await.unwrap();
                    assert_arrived(&region, &descriptors, 5);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let mut notes = Vec::new();
    for _ in 0..TASKS * 10 {
        notes.push(String::from_utf8(notified(&server).await.payload.to_vec()).unwrap());
    }
    notes.sort();
    let mut expected: Vec<_> =
        (0..TASKS).flat_map(|task| (0..10).map(move |round| format!("{task}/{round}"))).collect();
    expected.sort();
    assert_eq!(notes, expected);
    assert_eq!(client.snapshot().transfers_in_flight, 0);
}

pub(crate) async fn two_servers_and_two_clients(backend: Backend) {
    const LEN: usize = 2 * MIB + 1;
    let servers = [backend.server("left", LEN, 6).await, backend.server("right", LEN, 7).await];
    let mut tasks = Vec::new();
    for name in ["one", "two"] {
        let client = backend.agent(name).await;
        for (server, seed) in [(&servers[0].0, 6), (&servers[1].0, 7)] {
            let peer = connect(&client, server).await;
            let region = Arc::new(client.register(Mapping::anonymous(LEN).unwrap()).unwrap());
            tasks.push(tokio::spawn(async move {
                for _ in 0..5 {
                    fill(&region, CANARY);
                    peer.read(&region, &whole(&region), payload(name), SOON).await.unwrap();
                    assert_arrived(&region, &whole(&region), seed);
                }
            }));
        }
    }
    for task in tasks {
        task.await.unwrap();
    }
    for (server, _) in &servers {
        let mut from = Vec::new();
        for _ in 0..10 {
            let notification = notified(server).await;
            assert_eq!(notification.from.as_bytes(), notification.payload);
            from.push(notification.from);
        }
        assert_eq!(from.iter().filter(|name| *name == "one").count(), 5);
    }
}
