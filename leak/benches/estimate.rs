//! What a judgement costs: it is passed every second of a run, on all samples so far.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pdlab_leak::estimate::{Point, Series, estimate};

/// Samples of a leak of 144 B per unit, four per second at 40,000 units per second, with a ripple that no line explains.
fn series(samples: u64) -> Series {
    Series::new((0..samples).map(|i| {
        let work = i as f64 * 10_000.0;
        let ripple = (i * 7919 % 101) as f64 * 4096.0;
        Point { work, level: 5e8 + 144.0 * work + ripple, t_s: i as f64 / 4.0 }
    }))
}

fn estimates(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("estimate");
    // Ten seconds, a minute, an hour.
    for samples in [40, 240, 14_400] {
        let series = series(samples);
        group.throughput(Throughput::Elements(samples));
        group.bench_function(BenchmarkId::new("samples", samples), |bencher| {
            bencher.iter(|| estimate(black_box(&series), 1).expect("enough samples"));
        });
    }
    group.finish();
}

/// What `/proc/PID/smaps` of a process of a thousand mappings costs to read.
fn mappings(criterion: &mut Criterion) {
    let entry = |i: u64| {
        let start = 0x7f00_0000_0000 + i * 0x20_0000;
        format!(
            "{start:x}-{:x} rw-p 00000000 00:00 0 \nSize: 1024 kB\nKernelPageSize: 4 kB\nRss: 512 kB\nPss: 512 kB\n\
             Private_Dirty: 512 kB\nAnonymous: 512 kB\nLazyFree: 0 kB\nSwap: 0 kB\nLocked: 0 kB\nVmFlags: rd wr mr mw me ac \n",
            start + 0x10_0000
        )
    };
    let text: String = (0..1000).map(entry).collect();
    let mut group = criterion.benchmark_group("smaps");
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("1000 mappings", |bencher| {
        bencher.iter(|| pdlab_leak::smaps::read(black_box(text.as_bytes())).expect("well-formed"));
    });
    group.finish();
}

criterion_group!(benches, estimates, mappings);
criterion_main!(benches);
