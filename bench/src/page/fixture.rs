//! A run's files as tests want them.

use std::sync::LazyLock;

use pdlab_leak::csv::CsvWriter;
use pdlab_leak::sample::Sample;

use super::run::RunFiles;
use crate::repro::attribution::attribute;
use crate::repro::fixture::{measurement, scenario, traced};
use crate::repro::report::{RunReport, Trial};

/// UCX 1.19.0 that leaks 144 bytes per unmap, with one cure that works and one that cannot run.
pub(crate) fn files() -> RunFiles {
    FILES.clone()
}

/// Made once: a thousand cases of a property want them.
static FILES: LazyLock<RunFiles> = LazyLock::new(make);

fn make() -> RunFiles {
    let scenario = scenario();
    let leak = measurement(&scenario, 144.0, 20_000.0);
    let cured = measurement(&scenario, 0.0, 0.0);
    let cured_csv = csv(&cured.samples);
    let outcomes = [Ok(cured), Err("decode-0 died: \"no libucp\"".to_owned())];
    let trials: Vec<Trial<'_>> = scenario
        .mitigations
        .iter()
        .zip(outcomes)
        .map(|(cure, outcome)| Trial {
            mitigation: cure,
            scenario: scenario.with_mitigation(cure),
            outcome,
        })
        .collect();
    let attribution = attribute(&scenario, &leak);
    let report = RunReport::new(&scenario, &leak, &attribution, &trials, 31.4);
    RunFiles {
        name: "run-1".to_owned(),
        result: Some(serde_json::to_string_pretty(&report).unwrap()),
        samples: Some(csv(&leak.samples)),
        scenario: Some(scenario.to_toml()),
        stacks: None,
        cures: [(scenario.mitigations[0].name.clone(), cured_csv)].into(),
        logs: [("router".to_owned(), "WARN slow".to_owned())].into(),
    }
}

/// The same leak, traced and without cures.
pub(crate) fn traced_files() -> RunFiles {
    let scenario = scenario();
    let leak = traced(&scenario);
    let attribution = attribute(&scenario, &leak);
    let report = RunReport::new(&scenario, &leak, &attribution, &[], 31.4);
    RunFiles {
        result: Some(serde_json::to_string_pretty(&report).unwrap()),
        stacks: Some(serde_json::to_string(leak.stacks.as_ref().unwrap()).unwrap()),
        ..files()
    }
}

/// `samples` as samples.csv has them.
pub(crate) fn csv(samples: &[Sample]) -> String {
    let mut text = Vec::new();
    let mut csv = CsvWriter::new(&mut text).unwrap();
    samples.iter().for_each(|sample| csv.write(sample).unwrap());
    String::from_utf8(text).unwrap()
}
