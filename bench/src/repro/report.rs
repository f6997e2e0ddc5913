//! `result.json`: from measurements to what is written and scripts read. Pure.

use std::collections::BTreeMap;

use pdlab_api::ready::Role;
use pdlab_leak::attribution::Attribution;
use pdlab_leak::estimate::Estimate;
use pdlab_leak::explain;
use pdlab_leak::result::{MitigationResult, ReproResult};
use pdlab_leak::sample::Sample;
use pdlab_leak::scenario::{Expectation, Found, Mitigation, Scenario};
use pdlab_leak::stacks::Stacks;
use pdlab_leak::verdict::VerdictKind;
use pdlab_leak::work::Work;
use serde::{Deserialize, Serialize};

use super::cell::{self, Measurement};
use super::cost::{Cost, CostRatio, cost, cost_growth};
use super::growth::{self, RoleGrowth};
use super::ignored::Ignored;
use super::pace::Step;
use crate::watch::WatchRecord;

/// What `pdlab repro` found, and how it was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunReport {
    /// The findings; their names are relied on from outside.
    #[serde(flatten)]
    pub result: ReproResult,
    /// Units of work measured, warm-up included.
    pub units: f64,
    /// Growth of every process, the judged one first.
    pub roles: Vec<RoleGrowth>,
    /// Requests answered in full, warm-up included.
    pub requests_completed: u64,
    /// Requests that failed, warm-up included.
    pub requests_failed: u64,
    /// Requests that their clients gave up as the scenario has it, warm-up included.
    pub requests_abandoned: u64,
    /// Requests answered per second of measurement.
    pub requests_per_s: f64,
    /// 99th percentile of the time to the last token of a request, milliseconds, warm-up left out.
    pub latency_p99_ms: f64,
    /// Processor time of the judged process per unit of work, microseconds; null without work.
    pub cpu_us_per_unit: Option<f64>,
    /// Standard error of it; null if unknown.
    pub cpu_error_us: Option<f64>,
    /// KV reads that decode refused or found corrupt, warm-up included.
    pub reads_refused: u64,
    /// What was not given back when the load had ended; null if everything was.
    pub held_after_drain: Option<String>,
    /// Whether the measurement ended at a limit of the scenario instead of with a verdict.
    pub limit_reached: Option<Step>,
    /// Why the run has not matched; empty if it has.
    pub mismatches: Vec<String>,
    /// What must not be; any of them and the run has not matched.
    pub faults: Vec<String>,
    /// Settings that UCX has ignored.
    pub ignored: Vec<Ignored>,
    /// What the reader should know about the run, ignored settings included.
    pub remarks: Vec<String>,
    /// How the proofs of the cures went, in the order of `mitigations`.
    pub mitigation_runs: Vec<MitigationRun>,
    /// Seconds from the first process started to the last one ended.
    pub total_s: f64,
    /// The process that was watched, and how; absent where a scenario was run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watch: Option<WatchRecord>,
    /// False while cures are still to be proven, and for good if that was interrupted.
    #[serde(default)]
    pub complete: bool,
}

/// How the proof of one cure went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MitigationRun {
    /// What it changes, as in `mitigations`.
    pub setting: String,
    /// Why there is no result, if there is none.
    pub failed: Option<String>,
    /// Standard error of `cost_ratio`.
    pub cost_error: Option<f64>,
    /// Requests per second, as a multiple of those without the cure.
    pub request_ratio: Option<f64>,
    /// Units of work measured.
    pub units: f64,
}

/// A cure, and what came of trying it.
#[derive(Debug)]
pub struct Trial<'a> {
    /// The cure.
    pub mitigation: &'a Mitigation,
    /// The scenario with it in force.
    pub scenario: Scenario,
    /// What was measured, or why nothing was.
    pub outcome: Result<Measurement, String>,
}

/// What must come out of `scenario`, given what was really in use.
pub fn expectation(scenario: &Scenario, measurement: &Measurement) -> Option<Expectation> {
    cell::expectation(scenario, measurement.transport, measurement.ucx.as_deref())
}

/// The cures to try after `measurement`: those that the scenario knows for the UCX in use, if it
/// leaks and should.
pub fn cures<'a>(scenario: &'a Scenario, measurement: &Measurement) -> Vec<&'a Mitigation> {
    let leaks = measurement.judgement.verdict.kind() == VerdictKind::Leak;
    let Some(expectation) = expectation(scenario, measurement).filter(|_| leaks) else {
        return Vec::new();
    };
    let version = measurement.ucx_version();
    let known = |cure: &&Mitigation| {
        cure.ucx.is_none_or(|range| version.is_some_and(|version| range.contains(version)))
    };
    scenario.mitigations_to_prove(&expectation).iter().filter(known).collect()
}

impl RunReport {
    /// The report on `measurement` and the cures tried after it, `total_s` after the start.
    pub fn new(
        scenario: &Scenario,
        measurement: &Measurement,
        attribution: &Attribution,
        trials: &[Trial<'_>],
        total_s: f64,
    ) -> Self {
        let roles = growth::of_roles(scenario, measurement);
        let quiet_growth_ratio = growth::quiet_ratio(scenario, &roles);
        let cost = cost(&measurement.cpu);
        let base = Base { cost, requests_per_s: measurement.requests.per_s };
        let (mitigations, mitigation_runs): (Vec<_>, Vec<_>) =
            trials.iter().map(|trial| base.compare(trial)).unzip();
        let expectation = expectation(scenario, measurement);
        let found = Found { quiet_growth_ratio, ..found(measurement, Some(attribution)) };
        let mut mismatches = mismatches(expectation.as_ref(), &measurement.faults, &found);
        let unproven = mitigations.iter().filter(|mitigation| !mitigation.matched);
        mismatches
            .extend(unproven.map(|mitigation| format!("{} is not proven", mitigation.setting)));
        let matched = mismatches.is_empty();
        Self {
            result: result(
                scenario,
                measurement,
                expectation.as_ref(),
                attribution,
                matched,
                quiet_growth_ratio,
                mitigations,
            ),
            units: measurement.units(),
            roles,
            requests_completed: measurement.requests.completed,
            requests_failed: measurement.requests.failed,
            requests_abandoned: measurement.requests.abandoned,
            requests_per_s: measurement.requests.per_s,
            latency_p99_ms: measurement.requests.latency_p99_ms,
            cpu_us_per_unit: cost.map(|cost| cost.us_per_unit),
            cpu_error_us: cost.map(|cost| cost.error_us).filter(|error| error.is_finite()),
            reads_refused: measurement.refused,
            held_after_drain: measurement.held_after_drain.clone(),
            limit_reached: (measurement.ended != Step::Enough).then_some(measurement.ended),
            mismatches,
            faults: measurement.faults.clone(),
            ignored: measurement.ignored.clone(),
            remarks: measurement.remarks.clone(),
            mitigation_runs,
            total_s,
            watch: None,
            complete: true,
        }
    }
}

/// What cures are compared with.
struct Base {
    cost: Option<Cost>,
    requests_per_s: f64,
}

impl Base {
    fn compare(&self, trial: &Trial<'_>) -> (MitigationResult, MitigationRun) {
        let failed = match &trial.outcome {
            Err(reason) => Some(reason.clone()),
            Ok(measurement) if !measurement.faults.is_empty() => {
                Some(measurement.faults.join("; "))
            }
            Ok(_) => None,
        };
        let measured = trial.outcome.as_ref().ok();
        let ratio = measured.and_then(|measurement| self.ratio(measurement));
        let judgement = measured.map(|measurement| &measurement.judgement);
        let slope = judgement.and_then(|judgement| Some(judgement.estimate.as_ref()?.slope));
        let matched = failed.is_none()
            && measured.is_some_and(|measurement| {
                let due = expectation(&trial.scenario, measurement);
                let found = found(measurement, None);
                mismatches(due.as_ref(), &measurement.faults, &found).is_empty()
            });
        let bytes = trial.scenario.measure.gauge.is_bytes();
        let setting = trial.mitigation.setting();
        let result = MitigationResult {
            setting: setting.clone(),
            // A proof that failed has proven nothing.
            verdict: judgement
                .filter(|_| failed.is_none())
                .map_or(VerdictKind::Inconclusive, |judgement| judgement.verdict.kind()),
            matched,
            slope_per_unit: slope.map(|slope| slope.value),
            slope_bytes_per_unit: slope.map(|slope| slope.value).filter(|_| bytes),
            ci_low: slope.map(|slope| slope.low),
            ci_high: slope.map(|slope| slope.high),
            cost_ratio: ratio.map(|ratio| ratio.value),
            cost_note: trial.mitigation.cost.clone(),
        };
        let request_ratio = measured
            .filter(|_| self.requests_per_s > 0.0)
            .map(|measurement| measurement.requests.per_s / self.requests_per_s);
        let units = measured.map_or(0.0, Measurement::units);
        let run = MitigationRun {
            setting,
            failed,
            cost_error: ratio.map(|ratio| ratio.error).filter(|error| error.is_finite()),
            request_ratio,
            units,
        };
        (result, run)
    }

    fn ratio(&self, measurement: &Measurement) -> Option<CostRatio> {
        cost(&measurement.cpu)?.relative_to(self.cost.as_ref()?)
    }
}

/// What `measurement` found. A proof of a cure has no attribution: nothing grew.
fn found<'a>(measurement: &Measurement, attribution: Option<&'a Attribution>) -> Found<'a> {
    let judgement = &measurement.judgement;
    let owner = attribution.and_then(|attribution| attribution.owners.first());
    Found {
        verdict: judgement.verdict.kind(),
        axes: measurement.axes,
        slope: judgement.estimate.as_ref().map(|estimate| estimate.slope.value),
        owner: owner.filter(|owner| owner.share > 0.0).map(|owner| owner.name.as_str()),
        explained_ratio: attribution.and_then(|attribution| attribution.explained_ratio),
        traced: measurement.stacks.as_ref().is_some_and(Stacks::has_stacks),
        signature: attribution.and_then(|a| Some(a.signature.as_ref()?.id.as_str())),
        quiet_growth_ratio: None,
        cost_growth: cost_growth(&measurement.cpu).and_then(|price| price.ratio()),
        refused: measurement.refused,
        held_after_drain: measurement.held_after_drain.is_some(),
    }
}

/// Why a measurement did not come out as it must; empty if it did. What the scenario does not
/// foresee cannot.
fn mismatches(
    expectation: Option<&Expectation>,
    faults: &[String],
    found: &Found<'_>,
) -> Vec<String> {
    let mut all = faults.to_vec();
    match expectation {
        Some(expectation) => all.extend(expectation.due.mismatches(found)),
        None => all.push("the scenario foresees nothing for what was run".to_owned()),
    }
    all
}

/// What all decodes did from the first sample to the last: they make the transfers and the churn.
/// Summed up from sample to sample, since the counters of one that was killed begin anew.
fn work(measurement: &Measurement) -> Work {
    let mut last: BTreeMap<&str, &Sample> = BTreeMap::new();
    let decodes = measurement
        .samples
        .iter()
        .filter(|sample| sample.process.starts_with(Role::Decode.as_str()));
    let mut total = Work::default();
    for sample in decodes {
        let before = last.insert(&sample.process, sample).unwrap_or(sample);
        total = total.plus(&sample.work.since(&before.work));
    }
    total
}

/// RSS of the judged process at the first sample and at the last.
fn rss(measurement: &Measurement) -> (u64, u64) {
    let mut rss = measurement.samples_of(&measurement.judged).map(|sample| sample.memory.rss_bytes);
    let first = rss.next().unwrap_or(0);
    (first, rss.last().unwrap_or(first))
}

fn result(
    scenario: &Scenario,
    measurement: &Measurement,
    expectation: Option<&Expectation>,
    attribution: &Attribution,
    matched: bool,
    quiet_growth_ratio: Option<f64>,
    mitigations: Vec<MitigationResult>,
) -> ReproResult {
    let judgement = &measurement.judgement;
    let estimate = judgement.estimate.as_ref();
    let memory = estimate.filter(|_| measurement.axes.gauge.is_bytes());
    let price = cost_growth(&measurement.cpu);
    let (rss_start, rss_end) = rss(measurement);
    let limit_bytes = scenario.measure.memory_limit_bytes;
    ReproResult {
        scenario: scenario.name.clone(),
        verdict: judgement.verdict.kind(),
        doubt: explain::doubt(judgement, measurement.axes),
        expected: expectation.map(|expectation| expectation.due.verdict),
        matched,
        ucx_version: measurement.ucx.clone(),
        transport: Some(measurement.transport),
        settings: measurement.env.clone(),
        role: Some(scenario.role),
        unit: scenario.unit,
        gauge: measurement.axes.gauge,
        slope_per_unit: estimate.map(|estimate| estimate.slope.value),
        slope_bytes_per_unit: memory.map(|estimate| estimate.slope.value),
        ci_low: estimate.map(|estimate| estimate.slope.low),
        ci_high: estimate.map(|estimate| estimate.slope.high),
        slope_mb_per_min: memory.map(Estimate::mb_per_min),
        hours_to_limit: memory.and_then(|estimate| estimate.hours_to(limit_bytes, rss_end)),
        memory_limit_bytes: limit_bytes,
        rss_growth_bytes: rss_end as i64 - rss_start as i64,
        explained_ratio: attribution.explained_ratio,
        owners: attribution.owners.clone(),
        ledger: Some(attribution.memory.clone()),
        trace: Some(measurement.trace.clone()),
        signature: attribution.reference(),
        quiet_growth_ratio,
        cost_first_us: price.map(|price| price.first_us),
        cost_last_us: price.map(|price| price.last_us),
        cost_growth: price.and_then(|price| price.ratio()),
        work: work(measurement),
        warmup_units: estimate.map(|estimate| estimate.warmup.units),
        samples: estimate.map_or(0, |estimate| estimate.samples),
        duration_s: measurement.duration_s,
        seed: scenario.seed,
        mitigations,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repro::attribution::attribute;
    use crate::repro::fixture;

    fn report(measurement: &Measurement, trials: &[Trial<'_>]) -> RunReport {
        let scenario = fixture::scenario();
        let attribution = attribute(&scenario, measurement);
        RunReport::new(&scenario, measurement, &attribution, trials, 30.0)
    }

    fn trial(mitigation: &Mitigation, outcome: Result<Measurement, String>) -> Trial<'_> {
        let scenario = fixture::scenario().with_mitigation(mitigation);
        Trial { mitigation, scenario, outcome }
    }

    #[test]
    fn a_leak_as_expected_with_its_cures_has_matched() {
        let scenario = fixture::scenario();
        let measurement = fixture::measurement(&scenario, 144.0, 20_000.0);
        let cures = cures(&scenario, &measurement);
        assert_eq!(cures.len(), 3);
        let trials: Vec<Trial<'_>> = cures
            .iter()
            .map(|cure| {
                let mut cured = fixture::measurement(&scenario, 0.0, 0.0);
                cured.cpu.iter_mut().for_each(|reading| reading.cpu_s *= 1.5);
                cured.requests.per_s = 80.0;
                trial(cure, Ok(cured))
            })
            .collect();
        let report = report(&measurement, &trials);
        let result = &report.result;
        assert!(result.matched, "{report:?}");
        assert_eq!(result.expected, Some(VerdictKind::Leak));
        assert_eq!(result.signature.as_ref().unwrap().id, "vllm#24264");
        assert_eq!(result.work.unmaps, 200_000);
        assert_eq!(report.units, 200_000.0);
        assert_eq!(result.rss_growth_bytes, 28_800_000);
        let cure = &result.mitigations[0];
        assert!((cure.cost_ratio.unwrap() - 1.5).abs() < 1e-6, "{cure:?}");
        assert_eq!(report.mitigation_runs[0].request_ratio, Some(0.8));
        assert_eq!(report.limit_reached, None);
    }

    #[test]
    fn a_failed_cure_is_never_clean_and_the_run_has_not_matched() {
        let scenario = fixture::scenario();
        let measurement = fixture::measurement(&scenario, 144.0, 0.0);
        let cure = &scenario.mitigations[0];
        let mut spoilt = fixture::measurement(&scenario, 0.0, 0.0);
        spoilt.faults.push("3 KV blocks did not hold what they must".to_owned());
        for (outcome, reason) in
            [(Err("no libucp".to_owned()), "no libucp"), (Ok(spoilt), "3 KV blocks")]
        {
            let report = report(&measurement, &[trial(cure, outcome)]);
            assert!(!report.result.matched);
            assert_eq!(report.result.mitigations[0].verdict, VerdictKind::Inconclusive);
            assert!(report.mitigation_runs[0].failed.as_ref().unwrap().contains(reason));
        }
    }

    #[test]
    fn a_cure_that_does_not_cure_is_told_as_it_is() {
        let scenario = fixture::scenario();
        let measurement = fixture::measurement(&scenario, 144.0, 0.0);
        let useless = fixture::measurement(&scenario, 144.0, 0.0);
        let report = report(&measurement, &[trial(&scenario.mitigations[0], Ok(useless))]);
        let cure = &report.result.mitigations[0];
        assert_eq!((cure.verdict, cure.matched), (VerdictKind::Leak, false));
        assert!(!report.result.matched && report.mitigation_runs[0].failed.is_none());
        assert!(report.mismatches[0].ends_with("is not proven"), "{report:?}");
    }

    #[test]
    fn faults_noisy_neighbours_and_other_slopes_do_not_match() {
        let scenario = fixture::scenario();
        let mut faulty = fixture::measurement(&scenario, 144.0, 0.0);
        faulty.faults.push("no KV block was verified".to_owned());
        assert_eq!(report(&faulty, &[]).mismatches, ["no KV block was verified"]);
        // Prefill gains 100 kB per second beside 5.76 MB per second of decode: 1.7 %.
        let loud = fixture::measurement(&scenario, 144.0, 100_000.0);
        let told = report(&loud, &[]);
        assert!(!told.result.matched && told.mismatches[0].contains("grew by 1.7"), "{told:?}");
        let smaller = report(&fixture::measurement(&scenario, 130.0, 0.0), &[]);
        assert!(smaller.mismatches[0].starts_with("the slope of 130.000 is not"), "{smaller:?}");
        assert!(report(&fixture::measurement(&scenario, 144.0, 0.0), &[]).result.matched);
    }

    #[test]
    fn what_does_not_leak_has_no_cures_to_try() {
        let scenario = fixture::scenario();
        assert!(cures(&scenario, &fixture::measurement(&scenario, 0.0, 0.0)).is_empty());
        let mut newer = fixture::measurement(&scenario, 144.0, 0.0);
        newer.ucx = Some("1.23.0".to_owned());
        assert!(cures(&scenario, &newer).is_empty(), "none is known for what is not foreseen");
    }

    #[test]
    fn the_file_reads_back_and_has_the_fixed_names() {
        let scenario = fixture::scenario();
        let report = report(&fixture::measurement(&scenario, 144.0, 0.0), &[]);
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<RunReport>(&json).unwrap(), report);
        assert!(json.starts_with(r#"{"scenario":"ucx-rcache-invq","verdict":"leak""#), "{json}");
    }
}
