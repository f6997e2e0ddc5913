//! What a process pays for being traced, per mapping that it makes and gives back.
//!
//! This process traces itself. It maps much faster than any service does, so that the tracer soon follows a sample only:
//! what is shown is the price at the top of the rate, unwinding and the tracer's thread included if it has no processor
//! to itself.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use pdlab_leak::trace::tier::Tier;
use pdlab_leak::trace::{TraceOptions, Tracer};

/// More than glibc ever keeps in its arenas: each allocation is an `mmap`, each release a `munmap`.
const MAPPED_BYTES: usize = 64 << 20;

fn map_and_unmap(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("mmap and munmap");
    let pair = || drop(black_box(Vec::<u8>::with_capacity(black_box(MAPPED_BYTES))));
    group.bench_function("untraced", |bencher| bencher.iter(pair));
    let options = TraceOptions { tier: Some(Tier::Perf), ..TraceOptions::default() };
    match Tracer::start(std::process::id(), &options) {
        Ok(tracer) => {
            group.bench_function("traced", |bencher| bencher.iter(pair));
            let counts = tracer.stop().counts;
            println!("{counts:?}");
        }
        Err(error) => eprintln!("traced: skipped: {error}"),
    }
    group.finish();
}

criterion_group!(benches, map_and_unmap);
criterion_main!(benches);
