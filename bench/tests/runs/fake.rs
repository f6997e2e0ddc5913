//! The scenario and the machine of these tests.

use std::path::Path;
use std::time::Duration;

use pdlab_bench::cluster::Patience;
use pdlab_bench::repro::Host;
use pdlab_bench::repro::tracing::Tracing;
use pdlab_leak::scenario::{Overrides, Scenario};
use tokio::sync::{Mutex, MutexGuard};

/// A decode that keeps 144 bytes per pretended unmap, 40,000 of which it makes per second.
const SCENARIO: &str = r#"
name = "fake"
title = "A decode that keeps something for every unmap"
description = "For tests."
unit = "unmap"
role = "decode"
transport = "auto"
ucx = "1.19.0"

[cluster]
model = "fake"
kv_scale = 1.0
num_gpu_blocks = 10

[env]
FAKE_UCX = "1.19.0"
FAKE_LEAK_BYTES = "144"

[load]
concurrency = 2
input_tokens = 16
output_tokens = 2

[churn]
pattern = "same"
bytes = 4096
unmaps_per_step = 1

[measure]
units = 60000
max_units = 1000000
max_seconds = 30.0
sample_interval_ms = 20
margin_bytes_per_unit = 4.0

[[expect]]
transport = ["ucx"]
verdict = "leak"
slope_min = 130.0
slope_max = 158.0
quiet_growth_ratio_max = 0.1

[[expect]]
transport = ["tcp"]
verdict = "clean"
slope_min = -4.0
slope_max = 4.0
"#;

/// The scenario with these cures and settings.
pub(crate) fn scenario(cures: &str, set: &[(&str, &str)]) -> Scenario {
    let set = set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let scenario = Scenario::parse(&format!("{SCENARIO}{cures}"), "fake.toml");
    let overrides = Overrides { set, ..Overrides::default() };
    scenario.and_then(|scenario| scenario.apply(&overrides)).expect("the scenario is valid")
}

/// Measurements take turns: several clusters at once would disturb each other's pace.
static TURN: Mutex<()> = Mutex::const_new(());

/// Held by a test while it measures.
pub(crate) async fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().await
}

/// Where it runs.
pub(crate) fn host() -> Host {
    Host {
        program: env!("CARGO_BIN_EXE_pdlab-fake-role").into(),
        ucx: None,
        tracing: Tracing::off("a test"),
        patience: Patience {
            start: Duration::from_secs(10),
            stop: Duration::from_secs(5),
            drain: Duration::from_millis(300),
        },
    }
}

/// Whether no process writes its log into `dir`, as all roles of a run there do.
pub(crate) fn no_child_logs_into(dir: &Path) -> bool {
    let processes = std::fs::read_dir("/proc").expect("/proc is there").flatten();
    let mut logs = processes.filter_map(|entry| std::fs::read_link(entry.path().join("fd/2")).ok());
    !logs.any(|log| log.starts_with(dir))
}
