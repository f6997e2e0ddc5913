//! What it costs to parse what comes over the wire: requests, streamed chunks, the side channel, notifications.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pdlab_api::completion::{CompletionChunk, CompletionRequest};
use pdlab_api::notification::KvNotification;
use pdlab_api::side_channel::{AgentMetadata, Compatibility, Handshake};

fn requests(criterion: &mut Criterion) {
    let token_ids: Vec<_> = (0..70_000).map(|i| (i % 100_000).to_string()).collect();
    let prompts = [
        ("text of 64 B", format!("\"{}\"", "x".repeat(64))),
        ("text of 400 KB", format!("\"{}\"", "x".repeat(400_000))),
        ("400 KB of token ids", format!("[{}]", token_ids.join(","))),
    ];
    let mut group = criterion.benchmark_group("completion request");
    for (name, prompt) in prompts {
        let body = format!(
            r#"{{"model":"m","prompt":{prompt},"max_tokens":128,"temperature":0.0,"stream":true,"ignore_eos":true}}"#
        );
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                serde_json::from_slice::<CompletionRequest>(black_box(body.as_bytes()))
                    .expect("well-formed")
            });
        });
    }
    group.finish();
}

fn chunks(criterion: &mut Criterion) {
    let body = br#"{"id":"cmpl-1","object":"text_completion","created":1700000000,"model":"m","choices":[{"index":0,"text":"ab","logprobs":null,"finish_reason":null}],"usage":null}"#;
    let mut group = criterion.benchmark_group("streamed chunk");
    group.throughput(Throughput::Elements(1));
    group.bench_function("parse", |bencher| {
        bencher.iter(|| {
            serde_json::from_slice::<CompletionChunk>(black_box(body)).expect("well-formed")
        });
    });
    group.finish();
}

fn side_channel(criterion: &mut Criterion) {
    let compatibility =
        Compatibility { model: "m".into(), block_size: 16, bytes_per_token: 131_072 };
    // Address and remote keys of a UCX worker take about this much.
    let metadata = AgentMetadata::one_region("e".into(), vec![0xa5; 600], 10_000, 2 << 20, 16);
    let frame = Handshake::new(&compatibility, &metadata).encode();
    let mut group = criterion.benchmark_group("side channel");
    group.throughput(Throughput::Bytes(frame.len() as u64));
    group.bench_function("handshake", |bencher| {
        bencher.iter(|| {
            let handshake = Handshake::decode(black_box(&frame)).expect("well-formed");
            handshake.metadata().expect("well-formed")
        });
    });
    group.finish();

    let read = KvNotification::Read {
        request_id: "cmpl-___prefill_addr_127.0.0.1:5600___decode_addr_127.0.0.1:5601_1a2b3c4d-0"
            .into(),
        readers: 1,
    };
    let payload = read.encode();
    criterion.bench_function("notification", |bencher| {
        bencher
            .iter(|| KvNotification::decode(black_box(payload.as_bytes())).expect("well-formed"));
    });
}

criterion_group!(benches, requests, chunks, side_channel);
criterion_main!(benches);
