//! What the pages are made of.

use std::path::Path;
use std::time::{Duration, SystemTime};

use pdlab_bench::cluster::Patience;
use pdlab_bench::matrix::result::{Axes, Definition, Measured, Outcome as CellOutcome, Run};
use pdlab_bench::matrix::schedule::schedule;
use pdlab_bench::matrix::summary::summarise;
use pdlab_bench::page::matrix::Matrix;
use pdlab_bench::page::zoo::{Zoo, ZooRow};
use pdlab_bench::repro::tracing::Tracing;
use pdlab_bench::repro::{self, Host, Outcome, Progress};
use pdlab_bench::run_dir::RunDir;
use pdlab_leak::layout::Class;
use pdlab_leak::scenario::{Scenario, Transport};
use pdlab_leak::stacks::{StackGrowth, Stacks};
use pdlab_leak::trace::tier::Tier;
use pdlab_leak::trace::{Frame, ModuleState};
use pdlab_leak::verdict::VerdictKind;
use tokio_util::sync::CancellationToken;

/// A decode that keeps 144 bytes per pretended unmap, a cure, and one that cannot be tried.
const CHANGES: &str = r#"
[[mitigation]]
name = "cure"
set = { FAKE_CURE = "1" }
units = 40000
slope_min = -4.0
slope_max = 4.0
cost = "Nothing, says https://example.org/a-rather-long-address/that-a-phone-has-to-break/somewhere."

[[mitigation]]
name = "deadly"
set = { FAKE_DECODE = "exit" }
slope_min = -4.0
slope_max = 4.0
"#;

fn builtin() -> Scenario {
    Scenario::builtin("ucx-rcache-invq").unwrap()
}

/// A run of fake roles into `out`.
pub(crate) async fn run(out: &Path) -> Outcome {
    let mut plain = builtin();
    plain.transport = Transport::Auto;
    plain.cluster.model = "fake".to_owned();
    plain.cluster.num_gpu_blocks = 64;
    plain.mitigations.clear();
    plain.refusals.clear();
    plain.measure.units = 40_000;
    // A busy machine gives few samples in that time: then it goes on until there are enough.
    plain.measure.max_units = Some(4_000_000);
    plain.measure.sample_interval_ms = 20;
    plain.env = [("FAKE_UCX", "1.19.0"), ("FAKE_LEAK_BYTES", "144")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    let scenario = Scenario::parse(&format!("{}{CHANGES}", plain.to_toml()), "fake.toml").unwrap();
    let host = Host {
        program: env!("CARGO_BIN_EXE_pdlab-fake-role").into(),
        ucx: None,
        tracing: Tracing::off("a test"),
        patience: Patience {
            start: Duration::from_secs(10),
            stop: Duration::from_secs(5),
            drain: Duration::from_millis(300),
        },
    };
    let dir = RunDir::create(Some(out), &scenario.name, SystemTime::now()).unwrap();
    let cancel = CancellationToken::new();
    repro::run(&scenario, &host, &dir, &mut Progress::silent(), &cancel).await.unwrap()
}

/// What a tracer might have seen of it: deep stacks with the names of Rust and of C++, two that are
/// large and many that are small.
pub(crate) fn stacks() -> Stacks {
    let frame = |function: &str, module: &str| Frame {
        function: (!function.is_empty()).then(|| function.to_owned()),
        module: Some(format!("/opt/a-long-way/to/the/libraries/{module}")),
        offset: 0x1f00,
        module_state: ModuleState::Present,
    };
    let stack = |i: usize| {
        let mut frames =
            vec![frame("syscall", "libc.so.6"), frame(&format!("grow_{i}"), "libucs.so.0")];
        frames
            .extend((0..20).map(|depth| {
                frame(&format!("<app::Layer<{depth}> as Fn(&[u8; 8])>::call"), "app")
            }));
        frames.extend([frame("", "libstripped.so"), frame("main", "app")]);
        let bytes = if i < 2 { 20_000_000 } else { 100_000 };
        StackGrowth::of(frames, Class::Anonymous, bytes)
    };
    Stacks { tier: Tier::Perf, stacks: (0..30).map(stack).collect(), ..Stacks::default() }
}

/// Six builds and four settings, as wide as a matrix gets: every fifth run failed, and the last
/// one was not made.
pub(crate) fn matrix() -> Matrix {
    let scenario = builtin();
    let builds = ["1.16.0", "1.18.1", "1.19.0", "1.20.1", "1.22.0", "/opt/hpcx-v2.21/ucx/lib"];
    let settings =
        ["UCX_MEM_MMAP_HOOK_MODE=none UCX_RCACHE_ENABLE=y", "UCX_RCACHE_MAX_UNRELEASED=1024,64M"];
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let axes = Axes::new(&scenario, &[], &owned(&builds), &[], &owned(&settings)).unwrap();
    let definition = Definition {
        scenario: scenario.name.clone(),
        title: scenario.title.clone(),
        role: scenario.role,
        unit: scenario.unit,
        gauge: scenario.measure.gauge,
        axes,
        repeat: 1,
        seed: 1,
        scenario_toml: scenario.to_toml(),
    };
    let due = schedule(&definition.axes, 1, 1);
    let made = due.iter().take(due.len() - 1).map(|due| {
        let slope = 12.0 * f64::from(due.order % 13);
        let outcome = match due.order {
            order if order % 5 == 4 => CellOutcome::Failed,
            _ if slope > 4.0 => CellOutcome::Leak,
            _ => CellOutcome::Clean,
        };
        let failed = outcome == CellOutcome::Failed;
        Run {
            order: due.order,
            group: due.group.clone(),
            set: due.set.clone(),
            started_unix_s: 1.8e9 + f64::from(due.order),
            total_s: 1.0,
            outcome,
            reason: failed.then(|| "decode-0 ended before it was ready".to_owned()),
            expected: None,
            mismatches: Vec::new(),
            ignored: Vec::new(),
            note: None,
            remarks: Vec::new(),
            measured: (!failed).then(|| measured(slope)),
            dir: format!("cells/{:03}", due.order),
        }
    });
    let result = summarise(definition, made.collect());
    Matrix::parse("matrix", &serde_json::to_string(&result).unwrap()).unwrap()
}

fn measured(slope: f64) -> Measured {
    Measured {
        transport: Transport::Ucx,
        ucx_version: None,
        slope_per_unit: Some(slope),
        ci_low: Some(slope - 0.5),
        ci_high: Some(slope + 0.5),
        units: 1e5,
        duration_s: 1.0,
        cpu_us_per_unit: Some(12.0),
        cpu_error_us: Some(0.1),
        requests_completed: 100,
        requests_failed: 0,
        requests_per_s: 100.0,
        latency_p99_ms: 40.0,
    }
}

/// One scenario as it must be, one that is not, and one that failed.
pub(crate) fn zoo() -> Zoo {
    let good = ZooRow {
        scenario: "ucx-rcache-invq".to_owned(),
        title: builtin().title,
        bug: builtin().bug,
        verdict: Some(VerdictKind::Leak),
        expected: Some(VerdictKind::Leak),
        slope: Some("144.0 B per unmap (143.8 to 144.2)".to_owned()),
        owner: Some("UCX registration cache, invalidation queue".to_owned()),
        troubles: Vec::new(),
        page: Some("ucx-rcache-invq/report.html".to_owned()),
        seconds: 31.2,
    };
    let surprising = ZooRow {
        verdict: Some(VerdictKind::Clean),
        troubles: vec!["the verdict is clean, not leak".to_owned()],
        ..good.clone()
    };
    let failed = ZooRow {
        scenario: "serving-path-prefill-blocks-stranded-by-a-decode-that-dies".to_owned(),
        verdict: None,
        troubles: vec!["decode-0 ended before it was ready".to_owned()],
        page: None,
        ..ZooRow::default()
    };
    Zoo {
        name: "zoo".to_owned(),
        sentence: "1 of 3 scenarios as expected, 1 not, 1 failed".to_owned(),
        scenarios: vec![good, surprising, failed],
        notes: Vec::new(),
    }
}
