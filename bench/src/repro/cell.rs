//! One cell: a fresh cluster under load, measured until the verdict stands, then drained.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use pdlab_api::ready::{Ready, Role};
use pdlab_api::snapshot::Snapshot;
use pdlab_leak::descriptors::Descriptors;
use pdlab_leak::estimate::Series;
use pdlab_leak::gauge::Axes;
use pdlab_leak::layout::Layout;
use pdlab_leak::result::TraceNote;
use pdlab_leak::sample::Sample;
use pdlab_leak::scenario::{Conditions, Expect, Expectation, Scenario, Transport};
use pdlab_leak::stacks::Stacks;
use pdlab_leak::verdict::{Criteria, Judgement, judge};
use pdlab_leak::version::UcxVersion;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::ReproError;
use super::cost::CpuReading;
use super::crash::Crashes;
use super::ignored::{self, Ignored};
use super::pace::{self, Pace, Step};
use super::plan::{self, Host};
use super::progress::Progress;
use super::sample_file::SampleFile;
use super::sampling::Watch;
use super::{check, tracing, words};
use crate::cluster::{Cluster, ClusterError, ClusterPlan};
use crate::serve::{Load, LoadHandle};

/// What to measure.
#[derive(Debug, Clone, Copy)]
pub struct Cell<'a> {
    /// The scenario, with what is to be proven in force.
    pub scenario: &'a Scenario,
    /// Where it runs.
    pub host: &'a Host,
    /// Name in progress messages.
    pub name: &'a str,
    /// Where the roles log; exists.
    pub log_dir: &'a Path,
    /// The file that samples are written to while they are taken, if they are to be kept.
    pub samples: Option<&'a Path>,
}

/// What was measured.
#[derive(Debug)]
pub struct Measurement {
    /// What moved the KV blocks, `auto` resolved.
    pub transport: Transport,
    /// The version that the UCX library reports.
    pub ucx: Option<String>,
    /// Environment that the roles were given.
    pub env: BTreeMap<String, String>,
    /// Samples of every role, one reading after the other.
    pub samples: Vec<Sample>,
    /// What was judged over which work.
    pub axes: Axes,
    /// Label of the judged process.
    pub judged: String,
    /// The verdict on it.
    pub judgement: Judgement,
    /// Why the measurement ended.
    pub ended: Step,
    /// What the memory of the judged process was made of, at the start and at the end.
    pub layouts: (Layout, Layout),
    /// What it gained by stack, if it was traced.
    pub stacks: Option<Stacks>,
    /// How it was traced, or why not.
    pub trace: TraceNote,
    /// Its open file descriptors, at the start and at the end.
    pub descriptors: (Descriptors, Descriptors),
    /// Processor time of the judged process.
    pub cpu: Vec<CpuReading>,
    /// The requests.
    pub requests: Requests,
    /// KV reads that decode refused or found corrupt, warm-up included.
    pub refused: u64,
    /// What was not given back when the load had ended, in words.
    pub held_after_drain: Option<String>,
    /// Seconds of measurement.
    pub duration_s: f64,
    /// What must not be: each is a bug of the lab or of what it runs on, and spoils the run.
    pub faults: Vec<String>,
    /// Settings that UCX has ignored.
    pub ignored: Vec<Ignored>,
    /// What the reader should know, ignored settings included.
    pub remarks: Vec<String>,
}

/// The requests of a cell.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Requests {
    /// Answered in full, warm-up included.
    pub completed: u64,
    /// Failed, warm-up included.
    pub failed: u64,
    /// Given up by their clients as the scenario has it, warm-up included.
    pub abandoned: u64,
    /// Error messages and how often they came.
    pub errors: BTreeMap<String, u64>,
    /// Answered per second of measurement.
    pub per_s: f64,
    /// 99th percentile of the time to the last token, milliseconds, warm-up left out; 0 if none
    /// was answered after it.
    pub latency_p99_ms: f64,
}

impl Measurement {
    /// The UCX version as a number, if the library's report is one.
    pub fn ucx_version(&self) -> Option<UcxVersion> {
        self.ucx.as_deref().and_then(|version| version.parse().ok())
    }

    /// Units of work measured.
    pub fn units(&self) -> f64 {
        self.cpu.last().map_or(0.0, |reading| reading.units)
    }

    /// The samples of one process.
    pub fn samples_of<'a>(&'a self, process: &'a str) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| sample.process == process)
    }
}

/// A cluster that has not answered the first requests after this time does not serve: it is a
/// thousand times what they take.
const FIRST_ANSWERS: Duration = Duration::from_secs(20);

/// How long things have to settle after the load where they are not all given back: a request
/// takes milliseconds, and what is still held then stays.
const SETTLE: Duration = Duration::from_secs(2);

/// How often the warm-up looks at the counts.
const POLL: Duration = Duration::from_millis(20);

/// Runs `cell` and leaves no process behind, however it ends.
///
/// # Errors
/// If the cluster cannot run, dies, or answers no request; [`ReproError::Interrupted`] once
/// `cancel` is cancelled.
pub async fn run(
    cell: Cell<'_>,
    progress: &mut Progress,
    cancel: &CancellationToken,
) -> Result<Measurement, ReproError> {
    let plan = plan::cluster(cell.scenario, cell.host);
    progress.phase(format_args!("{}: starting {}", cell.name, words::processes(&plan)));
    let mut cluster = Cluster::start(&plan, cell.log_dir, cell.host.patience, cancel).await?;
    let labels: Vec<String> =
        cluster.roles().iter().map(|process| process.label().to_owned()).collect();
    let measured = tokio::select! {
        measured = measure(cell, plan, &labels, &mut cluster, progress) => measured,
        () = cancel.cancelled() => Err(ReproError::Interrupted),
    };
    let ends = cluster.stop().await;
    let mut measurement = measured?;
    // Only now: UCX's words stay in the buffer of stdout until a role ends. Decodes have the same
    // environment, so the first speaks for all.
    if let Some(decode) = labels.iter().find(|label| label.starts_with(Role::Decode.as_str())) {
        let log = cell.log_dir.join(format!("{decode}.log"));
        measurement.ignored = ignored::in_log(&log, &measurement.env);
    }
    measurement.remarks.extend(measurement.ignored.iter().map(ToString::to_string));
    measurement.remarks.extend(check::ends(&labels, &ends));
    Ok(measurement)
}

async fn measure(
    cell: Cell<'_>,
    plan: ClusterPlan,
    labels: &[String],
    cluster: &mut Cluster,
    progress: &mut Progress,
) -> Result<Measurement, ReproError> {
    let scenario = cell.scenario;
    let (transport, ucx) = in_use(cluster.of(Role::Decode).map(|process| process.ready()))?;
    let load = Load::start(plan::load(scenario, cluster.url())).await?;
    progress.phase(format_args!(
        "{}: warming up on {}",
        cell.name,
        words::path(transport, ucx.as_deref())
    ));
    let last_decode =
        cluster.roles().iter().rposition(|process| process.ready().role == Role::Decode);
    let mut crashes = last_decode.and_then(|victim| Crashes::of(scenario, victim, Instant::now()));
    let load = warm_up(cell, cluster, load, crashes.as_mut()).await?;
    let loaded = load.counts().completed;
    load.forget_latencies();

    let mut watch = Watch::open(cluster, scenario.role).await?;
    let mut eyes = cell.host.tracing.begin(watch.judged_process().pid())?;
    let before = watch.state(cluster).await?;
    eyes.open(watch.judged_process(), &before.0).await;
    let taken = take_samples(cell, &mut watch, cluster, crashes, progress).await?;
    let duration_s = watch.elapsed_s();
    let answered = load.counts().completed - loaded;
    let after = watch.state(cluster).await?;
    let (stacks, trace) = eyes.close(watch.judged_process(), &after.0).await;

    progress.phase(format_args!("{}: draining", cell.name));
    let report = load.stop().await?;
    let due = expectation(scenario, transport, ucx.as_deref()).map(|expectation| expectation.due);
    let (last, held_after_drain) = drain(cluster, due.as_ref()).await?;
    let requests = Requests {
        completed: report.totals.completed,
        failed: report.totals.failed + report.aborted(),
        abandoned: report.totals.abandoned,
        latency_p99_ms: 1e3 * report.totals.e2el.percentiles(&[99.0])[0],
        errors: report.totals.errors,
        per_s: answered as f64 / duration_s,
    };
    let mut faults = check::conservation(&requests, &last, due.as_ref());
    let mut remarks = check::failures(&requests, labels, &last);
    if let Some(held) = &held_after_drain {
        let foreseen = due.as_ref().is_some_and(|due| due.held_after_drain);
        if foreseen { &mut remarks } else { &mut faults }.push(held.clone());
    }
    Ok(Measurement {
        transport,
        ucx,
        env: plan.env,
        samples: taken.samples,
        axes: scenario.axes(),
        judged: labels[watch.judged()].clone(),
        judgement: taken.judgement,
        ended: taken.ended,
        layouts: tracing::layouts((before.0, after.0)),
        stacks,
        trace,
        descriptors: (before.1, after.1),
        cpu: taken.cpu,
        refused: check::refused(&last),
        requests,
        held_after_drain,
        duration_s,
        faults,
        ignored: Vec::new(),
        remarks,
    })
}

/// What must come out of `scenario` on this transport and UCX.
pub fn expectation(
    scenario: &Scenario,
    transport: Transport,
    ucx: Option<&str>,
) -> Option<Expectation> {
    scenario.expectation(&Conditions {
        transport,
        ucx: ucx.and_then(|version| version.parse().ok()),
        churn: scenario.churn.as_ref().map(|churn| churn.pattern),
        env: &scenario.env,
        kv_lease_seconds: scenario.cluster.kv_lease_seconds,
    })
}

/// Waits until everything is given back: the snapshots then, and what is held all the same. Where
/// something is `due` to be held, it is not waited for.
async fn drain(
    cluster: &mut Cluster,
    due: Option<&Expect>,
) -> Result<(Vec<Snapshot>, Option<String>), ReproError> {
    let patience = if due.is_some_and(|due| due.held_after_drain) {
        SETTLE.min(cluster.drain_patience())
    } else {
        cluster.drain_patience()
    };
    match cluster.drained(patience).await {
        Ok(snapshots) => Ok((snapshots, None)),
        Err(held @ ClusterError::NotDrained { .. }) => {
            Ok((cluster.snapshots().await?, Some(held.to_string())))
        }
        Err(error) => Err(error.into()),
    }
}

/// Waits for what [`plan::warm_up`] asks for.
async fn warm_up(
    cell: Cell<'_>,
    cluster: &mut Cluster,
    load: LoadHandle,
    mut crashes: Option<&mut Crashes>,
) -> Result<LoadHandle, ReproError> {
    let plan = plan::warm_up(cell.scenario);
    let started = Instant::now();
    loop {
        let (counts, waited) = (load.counts(), started.elapsed());
        let serves = counts.completed >= plan.least_requests;
        let done = counts.completed >= plan.requests || waited >= plan.most;
        if serves && done && waited >= plan.least {
            return Ok(load);
        }
        if let Some(victim) = crashes.as_mut().and_then(|crashes| crashes.due(Instant::now())) {
            cluster.crash(victim).await?;
        }
        cluster.check_alive()?;
        let hopeless = counts.completed == 0 && counts.failed >= plan.least_requests;
        if hopeless || (!serves && waited >= FIRST_ANSWERS) {
            let report = load.stop().await?;
            let (done, failed) = (report.totals.completed, report.totals.failed);
            let errors = &report.totals.errors;
            let text = words::stalled(waited.as_secs_f64(), done, failed, errors, cell.log_dir);
            return Err(ReproError::Stalled(text));
        }
        sleep(POLL).await;
    }
}

/// What the sampling loop brings home.
struct Taken {
    samples: Vec<Sample>,
    cpu: Vec<CpuReading>,
    judgement: Judgement,
    ended: Step,
}

async fn take_samples(
    cell: Cell<'_>,
    watch: &mut Watch,
    cluster: &mut Cluster,
    mut crashes: Option<Crashes>,
    progress: &mut Progress,
) -> Result<Taken, ReproError> {
    let Scenario { measure, unit, seed, .. } = cell.scenario;
    let axes = cell.scenario.axes();
    let pace = Pace::of(measure);
    let criteria = Criteria::new(measure.gauge, measure.margin_per_unit);
    let mut ticks = interval(Duration::from_millis(measure.sample_interval_ms));
    // A late sample is a late sample; a burst of them would only load the machine further.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut samples, mut own, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
    let mut judged_at = None;
    let mut file = SampleFile::create(cell.samples)?;
    loop {
        ticks.tick().await;
        if let Some(victim) = crashes.as_mut().and_then(|crashes| crashes.due(Instant::now())) {
            cluster.crash(victim).await?;
            watch.replace(cluster, victim)?;
        }
        let mut taken = watch.read(cluster).await?;
        file.add(&taken)?;
        own.push(taken[watch.judged()].clone());
        samples.append(&mut taken);
        let first: &Sample = &own[0];
        let last = &own[own.len() - 1];
        if axes.gauge.of(last).is_none() {
            return Err(ReproError::Unavailable(words::untold(&last.process, axes.gauge)));
        }
        let units = last.position(*unit) - first.position(*unit);
        cpu.push(watch.cpu(cluster, units)?);
        let elapsed_s = watch.elapsed_s();
        let now = pace::Progress { units, samples: own.len(), elapsed_s };
        if !pace.judge_now(judged_at, now) {
            continue;
        }
        judged_at = Some(now);
        let series = Series::of(&own, axes);
        let judgement = judge(&series, &criteria, *seed);
        progress.state(words::live(cell.name, &pace, axes, units, elapsed_s, &judgement));
        let step = pace.step(now, Some(judgement.verdict.kind()));
        if step != Step::GoOn {
            return Ok(Taken { samples, cpu, judgement, ended: step });
        }
    }
}

/// The transport and the UCX that the decodes report. They run the same binary with the same
/// environment, so the first speaks for all.
fn in_use<'a>(
    mut decodes: impl Iterator<Item = &'a Ready>,
) -> Result<(Transport, Option<String>), ReproError> {
    let ready = decodes.next().expect("a cluster has at least one of each role");
    let name = ready.transport.as_deref().unwrap_or("none");
    let transport = name.parse().map_err(|reason| {
        ReproError::Unavailable(format!("decode reports a transport that is none: {reason}"))
    })?;
    Ok((transport, ready.ucx_version.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decode_says_what_is_in_use() {
        let mut ready = Ready {
            role: Role::Decode,
            http: String::new(),
            side_channel: None,
            pid: 1,
            transport: Some("ucx".into()),
            ucx_version: Some("1.19.0".into()),
            faults: Vec::new(),
        };
        let (transport, ucx) = in_use(std::iter::once(&ready)).unwrap();
        assert_eq!((transport, ucx.as_deref()), (Transport::Ucx, Some("1.19.0")));
        ready.transport = None;
        assert!(in_use(std::iter::once(&ready)).unwrap_err().to_string().contains("\"none\""));
    }
}
