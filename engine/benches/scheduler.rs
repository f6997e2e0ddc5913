//! What a step costs, and whether a prefix lookup depends on the size of the pool.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pdlab_engine::block_pool::BlockPool;
use pdlab_engine::*;

const BLOCK_SIZE: usize = 16;

fn engine(num_blocks: usize, running: usize) -> Engine {
    let model = Model::by_name("llama-3.1-8b").expect("a preset");
    let geometry =
        KvGeometry::new(&model, 1, 1e-9, BLOCK_SIZE, num_blocks).expect("a valid geometry");
    let config = EngineConfig {
        max_num_seqs: running,
        max_num_batched_tokens: 1 << 20,
        ..EngineConfig::new(model, geometry)
    };
    Engine::new(config).expect("a valid configuration")
}

fn request(id: u64, prompt_tokens: u32) -> NewRequest {
    NewRequest {
        id: RequestId(id),
        // The first token differs, so that nothing is shared.
        tokens: (id as u32..id as u32 + prompt_tokens).collect(),
        max_tokens: usize::MAX,
        min_tokens: 0,
        ignore_eos: true,
        stop_token_ids: Vec::new(),
        kv: KvMode::Local,
    }
}

/// One decode step, `schedule` to `finish_step`, over sequences of 512 tokens and more.
fn decode_step(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode step");
    for running in [64, 1024] {
        group.throughput(Throughput::Elements(running));
        let fresh = || {
            let mut engine = engine(100_000, running as usize);
            for id in 0..running {
                engine.add(request(id, 512)).expect("it fits");
            }
            let step = engine.schedule();
            engine.finish_step(step);
            engine
        };
        let (mut engine, mut steps) = (fresh(), 0);
        group.bench_function(BenchmarkId::from_parameter(running), |bencher| {
            bencher.iter_custom(|iterations| {
                let mut elapsed = Duration::ZERO;
                for _ in 0..iterations {
                    // The sequences grow with every step: start over before they fill the pool.
                    if steps == 1000 {
                        (engine, steps) = (fresh(), 0);
                    }
                    steps += 1;
                    let start = Instant::now();
                    let step = engine.schedule();
                    assert_eq!(step.computed.len() as u64, running);
                    let events = black_box(engine.finish_step(step));
                    drop(events);
                    elapsed += start.elapsed();
                }
                elapsed
            });
        });
    }
    group.finish();
}

/// One request from start to end: 1,024 prompt tokens, one output token, another prompt each time.
fn short_request(criterion: &mut Criterion) {
    let mut engine = engine(100_000, 256);
    let mut id = 0;
    criterion.bench_function("request of 1024 tokens", |bencher| {
        bencher.iter_batched(
            || {
                id += 1;
                NewRequest { max_tokens: 1, ..request(id % 100_000, 1024) }
            },
            |new| {
                engine.add(new).expect("it fits");
                let step = engine.schedule();
                engine.finish_step(step)
            },
            BatchSize::SmallInput,
        );
    });
}

/// The longest cached prefix of 512 blocks, all of which are cached, in pools that are full.
fn prefix_lookup(criterion: &mut Criterion) {
    const BLOCKS_PER_PROMPT: usize = 512;
    let mut group = criterion.benchmark_group("prefix lookup");
    group.throughput(Throughput::Elements(BLOCKS_PER_PROMPT as u64));
    for num_prompts in [2, 20, 200] {
        let num_blocks = num_prompts * BLOCKS_PER_PROMPT;
        let mut pool = BlockPool::new(num_blocks + 1);
        let chains: Vec<Vec<ChainHash>> = (0..num_prompts)
            .map(|prompt| {
                let tokens = vec![prompt as u32; BLOCKS_PER_PROMPT * BLOCK_SIZE];
                let mut chain = Vec::new();
                content::extend_chain(&mut chain, ChainHash::seed("bench", 0), &tokens);
                let mut blocks = Vec::new();
                assert!(pool.allocate(BLOCKS_PER_PROMPT, &mut blocks));
                for (&block, tokens) in blocks.iter().zip(chain.chunks(BLOCK_SIZE)) {
                    pool.register(block, tokens[BLOCK_SIZE - 1]);
                }
                chain
            })
            .collect();
        let mut turn = 0;
        group.bench_function(BenchmarkId::new("blocks in pool", num_blocks), |bencher| {
            bencher.iter(|| {
                turn += 1;
                let found = pool.cache().longest_prefix(&chains[turn % num_prompts], BLOCK_SIZE);
                assert_eq!(found.len(), BLOCKS_PER_PROMPT);
                found
            });
        });
    }
    group.finish();
}

criterion_group!(benches, decode_step, short_request, prefix_lookup);
criterion_main!(benches);
