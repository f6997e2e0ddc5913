//! What it costs to rewrite a body into its two legs, by length of the prompt.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pdlab_router::legs::{ClientBody, transfer_params};

const ANSWER: &[u8] = br#"{"id":"cmpl-1","choices":[{"index":0,"text":"a","finish_reason":"length"}],"kv_transfer_params":{"do_remote_prefill":true,"do_remote_decode":false,"remote_block_ids":[[1,2,3,4]],"remote_engine_id":"e","remote_request_id":"cmpl-1-0-1a2b3c4d","remote_host":"127.0.0.1","remote_port":5600,"tp_size":1}}"#;

fn request(prompt: &str) -> Bytes {
    format!(
        r#"{{"model":"m","prompt":{prompt},"max_tokens":128,"temperature":0.0,"stream":true,"stream_options":{{"include_usage":true}},"ignore_eos":true}}"#
    )
    .into()
}

fn legs(c: &mut Criterion) {
    let text = |bytes: usize| format!("\"{}\"", "x".repeat(bytes));
    let token_ids: Vec<_> = (0..70_000).map(|i| (i % 100_000).to_string()).collect();
    let prompts = [
        ("text of 64 B", text(64)),
        ("text of 400 KB", text(400_000)),
        ("400 KB of token ids", format!("[{}]", token_ids.join(","))),
    ];
    let answer = Bytes::from_static(ANSWER);
    let mut group = c.benchmark_group("legs");
    for (name, prompt) in prompts {
        let body = request(&prompt);
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                let body = ClientBody::parse(black_box(&body).clone()).expect("a JSON object");
                let prefill = body.prefill_leg();
                let params = transfer_params(black_box(&answer)).expect("parameters");
                (prefill.len(), body.decode_leg(params).len())
            });
        });
    }
    group.finish();
}

criterion_group!(benches, legs);
criterion_main!(benches);
