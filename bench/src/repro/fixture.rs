//! A measurement as tests want it.

use std::collections::BTreeMap;

use pdlab_leak::estimate::Series;
use pdlab_leak::layout::{Class, Layout, Segments, Told};
use pdlab_leak::result::TraceNote;
use pdlab_leak::sample::{self, Memory, Sample};
use pdlab_leak::scenario::{Scenario, Transport};
use pdlab_leak::smaps::Mapping;
use pdlab_leak::stacks::{StackGrowth, Stacks};
use pdlab_leak::trace::tier::Tier;
use pdlab_leak::trace::{Confidence, Counts, Frame, ModuleState};
use pdlab_leak::verdict::{Criteria, judge};
use pdlab_leak::work::Work;

use super::attribution::attribute;
use super::cell::{Measurement, Requests};
use super::cost::CpuReading;
use super::options::DEFAULT_SCENARIO;
use super::pace::Step;
use super::report::RunReport;

/// Unmaps per second of the pretended decode.
const UNMAPS_PER_S: u64 = 40_000;
/// Milliseconds between samples.
const INTERVAL_MS: u64 = 50;
/// Samples: 5 s of them.
const SAMPLES: u64 = 101;

pub(crate) fn scenario() -> Scenario {
    Scenario::builtin(DEFAULT_SCENARIO).expect("the default scenario is valid")
}

/// UCX 1.19.0 in a decode that gains `bytes_per_unmap`, with a prefill that gains
/// `prefill_bytes_per_s` and a router that gains nothing.
pub(crate) fn measurement(
    scenario: &Scenario,
    bytes_per_unmap: f64,
    prefill_bytes_per_s: f64,
) -> Measurement {
    let unmaps = (SAMPLES - 1) * INTERVAL_MS * UNMAPS_PER_S / 1000;
    let mut samples = Vec::new();
    for i in 0..SAMPLES {
        let ms = i * INTERVAL_MS;
        let unmaps = ms * UNMAPS_PER_S / 1000;
        let work = Work {
            unmaps,
            requests: ms / 10,
            transfers: ms / 10,
            tokens: 32 * ms / 10,
            kv_bytes: 335_872 * (ms / 10),
            blocks_verified: 16 * (ms / 10),
            corrupt_blocks: 0,
            steps: 8 * ms / 10,
            reconnects: 0,
            counted: 0,
        };
        let decode = 200e6 + bytes_per_unmap * unmaps as f64;
        let prefill = 180e6 + prefill_bytes_per_s * ms as f64 / 1000.0;
        samples.push(sample("prefill-0", ms, Work::default(), prefill));
        samples.push(sample("decode-0", ms, work, decode));
        samples.push(sample("router", ms, Work::default(), 20e6));
    }
    let judged = samples.iter().filter(|sample| sample.process == "decode-0");
    let series = Series::of(judged, scenario.axes());
    let criteria = Criteria::new(scenario.measure.gauge, scenario.measure.margin_per_unit);
    let cpu = |i: u64| CpuReading {
        units: (i * INTERVAL_MS * UNMAPS_PER_S / 1000) as f64,
        cpu_s: i as f64 * INTERVAL_MS as f64 / 1000.0,
    };
    Measurement {
        transport: Transport::Ucx,
        ucx: Some("1.19.0".to_owned()),
        env: BTreeMap::from([("UCX_TLS".to_owned(), "tcp".to_owned())]),
        judgement: judge(&series, &criteria, scenario.seed),
        samples,
        axes: scenario.axes(),
        judged: "decode-0".to_owned(),
        ended: Step::Enough,
        layouts: (layout(200e6), layout(200e6 + bytes_per_unmap * unmaps as f64)),
        descriptors: Default::default(),
        cpu: (0..SAMPLES).map(cpu).collect(),
        requests: Requests {
            completed: 508,
            per_s: 100.0,
            latency_p99_ms: 40.0,
            ..Requests::default()
        },
        refused: 0,
        held_after_drain: None,
        duration_s: 5.0,
        stacks: None,
        trace: TraceNote::off("a test".to_owned()),
        faults: Vec::new(),
        ignored: Vec::new(),
        remarks: Vec::new(),
    }
}

/// The leak of UCX 1.19.0, traced: all of it but one chunk by the stack that grows the queue, some of
/// it by another.
pub(crate) fn traced(scenario: &Scenario) -> Measurement {
    let mut measurement = measurement(scenario, 144.0, 0.0);
    let frame = |text: &&str| {
        let (function, module) = text.split_once('@').expect("FUNCTION@MODULE");
        Frame {
            function: Some(function.to_owned()),
            module: Some(format!("/opt/ucx/1.19.0/{module}")),
            offset: 0x1f00,
            module_state: ModuleState::Present,
        }
    };
    let queue: Vec<Frame> = [
        "syscall@libc.so.6",
        "ucm_orig_mmap_syscall@libucm.so.0.0.0",
        "ucs_rcache_mp_chunk_alloc@libucs.so.0.0.0",
        "ucs_mpool_grow@libucs.so.0.0.0",
        "ucs_mpool_get_grow@libucs.so.0.0.0",
        "ucs_rcache_unmapped_callback@libucs.so.0.0.0",
        "ucm_event_dispatch@libucm.so.0.0.0",
        "munmap@libc.so.6",
        "<churn::Same as Source>::run@pdlab",
        "main@pdlab",
    ]
    .iter()
    .map(frame)
    .collect();
    let model: Vec<Frame> =
        ["mmap@libc.so.6", "load_model@pdlab", "main@pdlab"].iter().map(frame).collect();
    let gained = 144 * 200_000;
    let stacks = Stacks {
        tier: Tier::Perf,
        confidence: Confidence::Complete,
        counts: Counts { mmaps: 4, munmaps: 3, ..Counts::default() },
        stacks: vec![
            StackGrowth::of(queue, Class::Anonymous, gained - 400_000),
            StackGrowth::of(model, Class::Anonymous, 250_000),
        ],
        ..Stacks::default()
    };
    measurement.trace = TraceNote::of(&stacks);
    measurement.stacks = Some(stacks);
    measurement
}

fn sample(process: &str, ms: u64, work: Work, bytes: f64) -> Sample {
    let bytes = bytes as u64;
    let memory =
        Memory { rss_bytes: bytes + 30_000_000, anonymous_bytes: bytes, ..Memory::default() };
    Sample {
        process: process.to_owned(),
        t_us: 1000 * ms,
        work,
        memory,
        held: sample::Counts::default(),
        rdma: None,
    }
}

/// A process with `bytes` in one anonymous mapping.
fn layout(bytes: f64) -> Layout {
    let bytes = bytes as u64;
    let mapping = Mapping {
        start: 0x7f00_0000_1000,
        end: 0x7f00_0000_1000 + bytes.next_multiple_of(4096),
        accessible: true,
        shared: false,
        inode: 0,
        name: String::new(),
        rss_bytes: bytes,
        anonymous_bytes: bytes,
    };
    let mappings = [mapping];
    Layout::of(&mappings, &Segments::of(&mappings, &Told::default()), |_| None)
}

/// The report on it, no cures tried.
pub(crate) fn report(scenario: &Scenario, measurement: &Measurement) -> RunReport {
    RunReport::new(scenario, measurement, &attribute(scenario, measurement), &[], 6.0)
}
