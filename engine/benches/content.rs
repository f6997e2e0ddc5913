//! How fast KV content is written and checked, beside the memory copy that bounds both.
//!
//! Two working sets: a block that stays in the cache, and 64 MiB that do not.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pdlab_engine::{ChainHash, content};

/// Llama-3.1-8B at `kv_scale` 1/32: a block of 16 tokens is 64 KiB.
const BYTES_PER_TOKEN: usize = 4096;

fn content(criterion: &mut Criterion) {
    for (name, slots) in [("64 KiB", 16), ("64 MiB", 16 * 1024)] {
        let mut hashes = Vec::new();
        let tokens: Vec<u32> = (0..slots).collect();
        content::extend_chain(&mut hashes, ChainHash::seed("bench", 0), &tokens);
        let mut bytes = vec![0; hashes.len() * BYTES_PER_TOKEN];
        let mut copy = bytes.clone();

        let mut group = criterion.benchmark_group(format!("content/{name}"));
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function("fill", |bencher| {
            bencher.iter(|| content::fill(&mut bytes, &hashes, BYTES_PER_TOKEN));
        });
        group.bench_function("verify", |bencher| {
            bencher.iter(|| content::verify(&bytes, &hashes, BYTES_PER_TOKEN));
        });
        group.bench_function("memcpy", |bencher| bencher.iter(|| copy.copy_from_slice(&bytes)));
        group.finish();
    }
}

fn chain(criterion: &mut Criterion) {
    let tokens: Vec<u32> = (0..8192).collect();
    let mut group = criterion.benchmark_group("chain");
    group.throughput(Throughput::Elements(tokens.len() as u64));
    group.bench_function("8192 tokens", |bencher| {
        bencher.iter(|| {
            let mut chain = Vec::new();
            content::extend_chain(&mut chain, ChainHash::seed("bench", 0), &tokens);
            chain
        });
    });
    group.finish();
}

criterion_group!(benches, content, chain);
criterion_main!(benches);
