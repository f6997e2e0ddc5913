//! The parts of the load generator that run once per request or per token.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pdlab_bench::serve::Rate;
use pdlab_bench::serve::arrivals::Arrivals;
use pdlab_bench::serve::dataset::prompt::{PromptPlan, Run};
use pdlab_bench::serve::sse::Parser;

/// A token as vLLM streams it.
const EVENT: &str = "data: {\"id\":\"cmpl-bench-00000000-1\",\"object\":\"text_completion\",\
    \"created\":1700000000,\"model\":\"llama-3.1-8b\",\"choices\":[{\"index\":0,\"text\":\" a\",\
    \"logprobs\":null,\"finish_reason\":null,\"stop_reason\":null,\"prompt_token_ids\":null,\
    \"token_ids\":null}],\"kv_transfer_params\":null}\n\n";

/// 1,000 events in the pieces that they come in: one by one, and cut by 4 KiB reads.
fn sse(c: &mut Criterion) {
    let stream = EVENT.repeat(1000).into_bytes();
    let mut group = c.benchmark_group("sse");
    group.throughput(Throughput::Elements(1000));
    for (name, piece) in [("event by event", EVENT.len()), ("4 KiB reads", 4096)] {
        group.bench_function(name, |b| {
            b.iter(|| {
                let mut parser = Parser::default();
                let mut bytes = 0;
                for chunk in stream.chunks(piece) {
                    let parsed = parser.push(black_box(chunk), |event| bytes += event.len());
                    assert!(parsed.is_ok());
                }
                bytes
            });
        });
    }
    group.finish();
}

fn arrivals(c: &mut Criterion) {
    let mut group = c.benchmark_group("arrivals");
    group.throughput(Throughput::Elements(1000));
    for (name, burstiness) in [("poisson", 1.0), ("gamma 0.5", 0.5), ("constant", f64::INFINITY)] {
        group.bench_function(name, |b| {
            b.iter(|| {
                let arrivals = Arrivals::new(Rate::PerSecond(5000.0), burstiness, black_box(1));
                arrivals.expect("a rate above 0").take(1000).sum::<Duration>()
            });
        });
    }
    group.finish();
}

fn prompts(c: &mut Criterion) {
    let plan = PromptPlan::new(vec![Run { seed: 1, tokens: 8192 }]);
    let mut group = c.benchmark_group("prompt of 8,192 tokens");
    group.throughput(Throughput::Elements(8192));
    group.bench_function("token ids", |b| {
        b.iter(|| {
            let mut out = Vec::new();
            black_box(&plan).write_json(&mut out);
            out
        });
    });
    group.bench_function("text", |b| {
        b.iter(|| {
            let mut out = Vec::new();
            black_box(&plan).write_text(&mut out);
            out
        });
    });
    group.finish();
}

criterion_group!(benches, sse, arrivals, prompts);
criterion_main!(benches);
