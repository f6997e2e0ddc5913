//! `result.json` of a watch: the fields of any run, as far as they mean something here. Pure.

use pdlab_leak::attribution::Attribution;
use pdlab_leak::explain;
use pdlab_leak::result::{ReproResult, TraceNote};
use pdlab_leak::signature::Signature;
use pdlab_leak::verdict::{Judgement, VerdictKind};
use serde::{Deserialize, Serialize};

use super::course::Course;
use super::ending::End;
use super::plan::Plan;
use crate::repro::cost::{cost, cost_growth};
use crate::repro::growth::RoleGrowth;
use crate::repro::report::RunReport;

/// The name under which a watch stands where runs have the name of their scenario.
pub const NAME: &str = "watch";

/// What was watched, and why that ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WatchRecord {
    /// The process, and the rules.
    pub plan: Plan,
    /// Why it ended.
    pub end: End,
    /// Readings taken of the program that the process ran last.
    pub readings: u64,
}

/// What a watch has found.
#[derive(Debug)]
pub struct Findings<'a> {
    /// What was watched.
    pub plan: &'a Plan,
    /// The process as `samples.csv` calls it.
    pub process: &'a str,
    /// The readings.
    pub course: &'a Course,
    /// The verdict on them.
    pub judgement: &'a Judgement,
    /// Who holds the growth.
    pub attribution: &'a Attribution,
    /// How its stacks were found, or why not.
    pub trace: TraceNote,
    /// Known bugs that it may be, if none was recognised.
    pub suspects: Vec<Signature>,
    /// Why it ended.
    pub end: End,
    /// What the reader should know.
    pub remarks: Vec<String>,
    /// Seconds from the start to the end.
    pub total_s: f64,
}

impl Findings<'_> {
    /// The findings as files have them.
    pub fn report(&self) -> RunReport {
        let result = self.result();
        let cost = cost(self.course.cpu());
        let verdict = result.verdict;
        RunReport {
            units: self.course.units(&self.plan.rule()),
            roles: vec![self.growth()],
            requests_completed: 0,
            requests_failed: 0,
            requests_abandoned: 0,
            requests_per_s: 0.0,
            latency_p99_ms: 0.0,
            cpu_us_per_unit: cost.map(|cost| cost.us_per_unit),
            cpu_error_us: cost.map(|cost| cost.error_us).filter(|error| error.is_finite()),
            reads_refused: 0,
            held_after_drain: None,
            limit_reached: None,
            mismatches: match verdict {
                VerdictKind::Clean => Vec::new(),
                other => vec![format!("the verdict is {other}, not clean")],
            },
            faults: Vec::new(),
            ignored: Vec::new(),
            remarks: self.remarks.clone(),
            mitigation_runs: Vec::new(),
            total_s: self.total_s,
            watch: Some(WatchRecord {
                plan: self.plan.clone(),
                end: self.end.clone(),
                readings: self.course.len(),
            }),
            complete: true,
            result,
        }
    }

    fn growth(&self) -> RoleGrowth {
        let estimate = self.judgement.estimate.as_ref();
        let level = |sample| self.plan.gauge.of(sample).unwrap_or(0) as f64;
        let difference = || {
            let (first, last) = (self.course.first(), self.course.last());
            first.zip(last).map_or(0.0, |(first, last)| level(last) - level(first))
        };
        RoleGrowth {
            process: self.process.to_owned(),
            growth: estimate.map_or_else(difference, |estimate| estimate.growth()),
            rss_bytes: self.rss().1,
        }
    }

    fn rss(&self) -> (u64, u64) {
        let rss = |sample: Option<&pdlab_leak::sample::Sample>| {
            sample.map_or(0, |sample| sample.memory.rss_bytes)
        };
        (rss(self.course.first()), rss(self.course.last()))
    }

    fn result(&self) -> ReproResult {
        let (plan, judgement, course) = (self.plan, self.judgement, self.course);
        let estimate = judgement.estimate.as_ref();
        let memory = estimate.filter(|_| plan.gauge.is_bytes());
        let price = cost_growth(course.cpu());
        let (rss_start, rss_end) = self.rss();
        let ends = course.first().zip(course.last());
        let limit_bytes = plan.memory_limit_bytes;
        let verdict = judgement.verdict.kind();
        ReproResult {
            scenario: NAME.to_owned(),
            verdict,
            doubt: explain::doubt(judgement, plan.axes()),
            expected: None,
            matched: verdict == VerdictKind::Clean,
            ucx_version: plan.target.ucx.clone(),
            transport: None,
            settings: plan.target.settings.clone(),
            role: None,
            unit: plan.unit,
            gauge: plan.gauge,
            slope_per_unit: estimate.map(|estimate| estimate.slope.value),
            slope_bytes_per_unit: memory.map(|estimate| estimate.slope.value),
            ci_low: estimate.map(|estimate| estimate.slope.low),
            ci_high: estimate.map(|estimate| estimate.slope.high),
            slope_mb_per_min: memory.map(|estimate| estimate.mb_per_min()),
            hours_to_limit: memory.and_then(|estimate| estimate.hours_to(limit_bytes, rss_end)),
            memory_limit_bytes: limit_bytes,
            rss_growth_bytes: rss_end as i64 - rss_start as i64,
            explained_ratio: self.attribution.explained_ratio,
            owners: self.attribution.owners.clone(),
            ledger: Some(self.attribution.memory.clone()),
            trace: Some(self.trace.clone()),
            signature: self.attribution.reference(),
            quiet_growth_ratio: None,
            cost_first_us: price.map(|price| price.first_us),
            cost_last_us: price.map(|price| price.last_us),
            cost_growth: price.and_then(|price| price.ratio()),
            work: ends.map(|(first, last)| last.work.since(&first.work)).unwrap_or_default(),
            warmup_units: estimate.map(|estimate| estimate.warmup.units),
            samples: estimate.map_or(course.len() as usize, |estimate| estimate.samples),
            duration_s: course.seconds(),
            seed: plan.seed,
            mitigations: Vec::new(),
        }
    }
}
