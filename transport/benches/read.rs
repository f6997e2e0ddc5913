//! Reads of KV-sized blocks from a peer in another process, beside the memory's own ceiling.
//!
//! `cargo bench -p pdlab-transport --bench read` measures a cold memcpy and TCP; with
//! `--features ucx` and `PDLAB_TEST_UCX` set (a fetched version, `system` or a path) UCX as well.
//! `-- tcp` or `-- 65536x64` selects some.
//!
//! An entry `tcp/65536x64` is one read of 64 blocks of 64 KiB. Both sides walk through regions of
//! 256 MiB, so that caches do not help more than they help a KV pool; the copy that is the ceiling
//! walks the same way.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group};
use pdlab_transport::{
    Agent, AgentConfig, BackendChoice, BackendKind, Descriptor, Error, Mapping, Peer, Region,
    UcxBuild,
};
use tokio::runtime::Runtime;

/// Present in the environment of the process that is read from; names the backend.
const PEER: &str = "PDLAB_BENCH_PEER";
/// Far beyond any cache, and small enough for a laptop.
const REGION_BYTES: usize = 256 << 20;
const BLOCK_BYTES: [usize; 3] = [64 << 10, 256 << 10, 1 << 20];
const DEPTHS: [usize; 3] = [1, 8, 64];
const DEADLINE: Duration = Duration::from_secs(10);

type Failure = Box<dyn std::error::Error + Send + Sync>;

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1_000));
    targets = reads
}

fn main() -> Result<(), Failure> {
    if let Ok(backend) = std::env::var(PEER) {
        return be_read_from(backend.parse()?);
    }
    benches();
    Criterion::default().configure_from_args().final_summary();
    Ok(())
}

fn reads(criterion: &mut Criterion) {
    ceiling(&mut criterion.benchmark_group("memcpy"));
    for kind in BackendKind::ALL.iter().copied() {
        let mut group = criterion.benchmark_group(kind.as_str());
        if let Err(reason) = backend(&mut group, kind) {
            println!("{kind}: skipped: {reason}");
        }
    }
}

fn backend(group: &mut BenchmarkGroup<'_, WallTime>, kind: BackendKind) -> Result<(), Failure> {
    let config = config(kind, "reader")?;
    let runtime = Runtime::new()?;
    let server = Server::start(kind)?;
    let (agent, region, peer) = runtime.block_on(async {
        let agent = Agent::open(config).await?;
        let region = agent.register(resident(1)?)?;
        let peer = agent.connect(&server.metadata, DEADLINE).await?;
        Ok::<_, Error>((agent, region, peer))
    })?;
    for_each_shape(group, |walk, iterations| {
        let (peer, region) = (peer.clone(), region.clone());
        // In a task, as in a service: not on a thread that only waits.
        let task = runtime.spawn(async move { read_on(&peer, &region, walk, iterations).await });
        runtime.block_on(task).expect("the task does not panic").expect("the peer is alive")
    });
    drop(peer);
    runtime.block_on(agent.close())?;
    Ok(())
}

async fn read_on(
    peer: &Peer,
    region: &Region,
    mut walk: Walk,
    iterations: u64,
) -> Result<(Walk, Duration), Error> {
    let mut descriptors = Vec::with_capacity(walk.depth);
    let start = Instant::now();
    for _ in 0..iterations {
        descriptors.clear();
        let block = walk.block;
        descriptors.extend(walk.step().map(|at| Descriptor::new(at, at as u64, block)));
        peer.read(region, &descriptors, None, DEADLINE).await?;
    }
    Ok((walk, start.elapsed()))
}

fn ceiling(group: &mut BenchmarkGroup<'_, WallTime>) {
    let (source, mut target) = (resident(1).expect("memory"), resident(2).expect("memory"));
    for_each_shape(group, |mut walk, iterations| {
        let start = Instant::now();
        for _ in 0..iterations {
            let block = walk.block;
            for at in walk.step() {
                target.as_mut_slice()[at..at + block]
                    .copy_from_slice(&source.as_slice()[at..at + block]);
            }
        }
        (walk, start.elapsed())
    });
}

/// Measures every block size and depth; `run` goes on where it was left.
fn for_each_shape(
    group: &mut BenchmarkGroup<'_, WallTime>,
    mut run: impl FnMut(Walk, u64) -> (Walk, Duration),
) {
    for block in BLOCK_BYTES {
        for depth in DEPTHS {
            group.throughput(Throughput::Bytes((block * depth) as u64));
            let mut walk = Walk { block, depth, at: 0 };
            group.bench_function(format!("{block}x{depth}"), |bencher| {
                bencher.iter_custom(|iterations| {
                    let duration;
                    (walk, duration) = run(walk, iterations);
                    duration
                });
            });
        }
    }
}

/// A way through a region, `depth` blocks of `block` bytes at a time, round and round.
#[derive(Clone, Copy)]
struct Walk {
    block: usize,
    depth: usize,
    at: usize,
}

impl Walk {
    fn step(&mut self) -> impl Iterator<Item = usize> + use<> {
        let (block, start) = (self.block, self.at);
        self.at = (self.at + block * self.depth) % REGION_BYTES;
        (0..self.depth).map(move |index| (start + index * block) % REGION_BYTES)
    }
}

/// A region's worth of memory, all of it backed by pages of its own.
fn resident(byte: u8) -> Result<Mapping, Error> {
    let mut mapping = Mapping::anonymous(REGION_BYTES)?;
    mapping.as_mut_slice().fill(byte);
    Ok(mapping)
}

fn config(kind: BackendKind, name: &str) -> Result<AgentConfig, Failure> {
    let mut config = AgentConfig::new(name);
    config.choice = BackendChoice::Only(kind);
    if kind == BackendKind::Ucx {
        config.ucx = Some(ucx_build()?);
        config.ucx_variables =
            std::env::vars().filter(|(name, _)| name.starts_with("UCX_")).collect();
    }
    Ok(config)
}

#[cfg(feature = "ucx")]
fn ucx_build() -> Result<UcxBuild, Failure> {
    use pdlab_transport::builds::{BuildSpec, Builds};

    let spec: BuildSpec =
        std::env::var("PDLAB_TEST_UCX").map_err(|_| "PDLAB_TEST_UCX is not set")?.parse()?;
    let home = std::env::var_os("HOME").ok_or("HOME is not set")?;
    let cache = std::env::var_os("PDLAB_CACHE_DIR")
        .map_or_else(|| std::path::Path::new(&home).join(".cache/pdlab"), Into::into);
    Ok(Builds::new(&cache).resolve(&spec)?)
}

#[cfg(not(feature = "ucx"))]
fn ucx_build() -> Result<UcxBuild, Failure> {
    Err("built without the cargo feature `ucx`".into())
}

/// The process that is read from. It ends when its standard input does, and so with us.
struct Server {
    child: Child,
    metadata: Vec<u8>,
}

impl Server {
    fn start(kind: BackendKind) -> Result<Self, Failure> {
        let mut child = Command::new(std::env::current_exe()?)
            .env(PEER, kind.as_str())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("no stdout")?).read_line(&mut line)?;
        // Owned before anything can fail, so that the child is always waited for.
        let mut server = Self { child, metadata: Vec::new() };
        server.metadata = serde_json::from_str(&line)?;
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

fn be_read_from(kind: BackendKind) -> Result<(), Failure> {
    Runtime::new()?.block_on(async {
        let agent = Agent::open(config(kind, "owner")?).await?;
        let _region = agent.register(resident(3)?)?;
        println!("{}", serde_json::to_string(&agent.metadata()?.to_vec())?);
        std::io::stdout().flush()?;
        let wait = || std::io::stdin().read(&mut [0; 1]);
        tokio::task::spawn_blocking(wait).await??;
        agent.close().await?;
        Ok(())
    })
}
