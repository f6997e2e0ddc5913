//! The loop of a watch: reads, judges, shows, until it is over.

use std::time::{Duration, Instant};

use pdlab_leak::attribution::Attribution;
use pdlab_leak::result::TraceNote;
use pdlab_leak::sample::Sample;
use pdlab_leak::sampler::SampleError;
use pdlab_leak::stacks::Stacks;
use pdlab_leak::stacks::folded::folded;
use pdlab_leak::verdict::{Judgement, VerdictKind};
use pdlab_leak::work::Work;
use tokio_util::sync::CancellationToken;

use super::WatchError;
use super::attribution::{State, attribute, stacks, suspects};
use super::course::Course;
use super::display::Display;
use super::ending::{End, Ending};
use super::eyes::Eyes;
use super::live::View;
use super::metrics::Metrics;
use super::plan::Plan;
use super::report::Findings;
use super::target::Target;
use super::text;
use super::tracing::Tracing;
use crate::repro::report::RunReport;
use crate::repro::sample_file::SampleFile;
use crate::repro::{Exit, FOLDED, STACKS};
use crate::run_dir::RunDir;

/// Time between judgements, and between what is seen of them.
const EVERY: Duration = Duration::from_secs(1);

/// Remarks that are kept; a server that comes and goes makes no more of them.
const REMARKS: usize = 50;

/// A watch that can begin: the process may be read, its work is counted.
#[derive(Debug)]
pub struct Session {
    plan: Plan,
    eyes: Eyes,
    metrics: Option<Metrics>,
    tracing: Tracing,
    began: Instant,
    /// The process in `samples.csv`.
    process: String,
    /// Programs that it has run since.
    executed: u32,
    course: Course,
    states: Option<(State, State)>,
    judgement: Judgement,
    attribution: Attribution,
    stacks: Option<Stacks>,
    levels: Vec<(f64, f64)>,
    paused: Option<String>,
    remarks: Vec<String>,
}

/// What a watch came to.
#[derive(Debug)]
pub struct Outcome {
    /// What is in `result.json`.
    pub report: RunReport,
    /// The same for people.
    pub text: String,
    /// Clean, leak or undecided.
    pub exit: Exit,
}

impl Session {
    /// Begins to watch as `plan` says. Nothing is written yet.
    ///
    /// # Errors
    /// If the process cannot be read or traced, or its work is not counted where the plan says.
    pub async fn begin(plan: Plan) -> Result<Self, WatchError> {
        let metrics = match (&plan.metrics, &plan.counter) {
            (Some(url), Some(counter)) => Some(Metrics::open(url, counter).await?),
            _ => None,
        };
        let began = Instant::now();
        let eyes = Eyes::open(plan.target.pid, began)?;
        if plan.gauge.is_of_devices() && !eyes.see_devices() {
            return Err(WatchError::Unavailable(format!(
                "--gauge {}: the kernel counts no RDMA objects here; `rdma link` shows the devices that there are",
                plan.gauge
            )));
        }
        let mut remarks = Vec::new();
        let tracing = Tracing::start(&plan, &mut remarks)?;
        if plan.strace {
            remarks.push(
                "strace stops the process at every call that maps or unmaps: its rates of work are not its own."
                    .to_owned(),
            );
        }
        let process = plan.target.label();
        let course = Course::default();
        let judgement = course.judge(&plan.rule());
        Ok(Self {
            plan,
            eyes,
            metrics,
            tracing,
            began,
            process,
            executed: 0,
            course,
            states: None,
            judgement,
            attribution: Attribution::default(),
            stacks: None,
            levels: Vec::new(),
            paused: None,
            remarks,
        })
    }

    /// Watches until it is over, shows it on `display`, and writes everything into `dir`.
    ///
    /// # Errors
    /// If a file cannot be written, or the terminal not be drawn on.
    pub async fn run(
        mut self,
        dir: &RunDir,
        display: &mut Display,
        cancel: &CancellationToken,
    ) -> Result<Outcome, WatchError> {
        dir.write("watch.toml", self.plan.to_toml().as_bytes())?;
        let mut file = SampleFile::create(Some(&dir.file("samples.csv")))?;
        let end = tokio::select! {
            biased;
            () = cancel.cancelled() => Ok(End::Asked),
            end = self.watch(&mut file, display) => end,
        };
        display.finish();
        self.finish(end?, dir)
    }

    /// Reads and judges until there is a reason to end.
    async fn watch(
        &mut self,
        file: &mut SampleFile,
        display: &mut Display,
    ) -> Result<End, WatchError> {
        let mut ending = Ending::default();
        let mut next = Instant::now();
        let mut judged = self.began;
        loop {
            if display.asked_to_end(next).await? {
                return Ok(End::Asked);
            }
            let now = Instant::now();
            let pause = match self.read(file, now).await {
                Ok(pause) => pause,
                Err(Trouble::Process(source)) => return Ok(ended(source)),
                Err(Trouble::Watch(error)) => return Err(error),
            };
            next = now + pause.max(Duration::from_millis(self.plan.interval_ms));
            if let Some(end) = Ending::due(&self.plan, self.began.elapsed().as_secs_f64()) {
                return Ok(end);
            }
            if judged.elapsed() < EVERY {
                continue;
            }
            judged = Instant::now();
            self.judge();
            self.look_around(judged);
            display.show(&self.view())?;
            let verdict = self.judgement.verdict.kind();
            if let Some(end) = ending.judged(&self.plan, verdict, self.course.len()) {
                return Ok(end);
            }
        }
    }

    /// One reading, and how long the next one should wait at least.
    async fn read(&mut self, file: &mut SampleFile, now: Instant) -> Result<Duration, Trouble> {
        let work = match self.work().await {
            Ok(work) => work,
            Err(reason) => {
                // The process may have gone together with its metrics.
                let (_, _, pause) = self.eyes.read(now)?;
                self.pause(reason);
                return Ok(pause);
            }
        };
        self.resume();
        if self.eyes.has_executed() {
            self.start_over();
        }
        let (memory, rdma, pause) = self.eyes.read(now)?;
        let t_us = self.began.elapsed().as_micros() as u64;
        let process = self.process.clone();
        let sample = Sample { process, t_us, work, memory, rdma, ..Sample::default() };
        file.add(std::slice::from_ref(&sample)).map_err(WatchError::from)?;
        self.course.add(sample, self.eyes.cpu_s(), &self.plan.rule());
        if self.states.is_none() {
            let state = self.eyes.state(Instant::now(), self.tracing.live())?;
            self.states = Some((state.clone(), state));
        }
        Ok(pause)
    }

    /// Work done so far, or why that is not known now.
    async fn work(&mut self) -> Result<Work, String> {
        let mut work = Work { unmaps: self.tracing.unmaps(), ..Work::default() };
        if let Some(metrics) = &mut self.metrics {
            work.counted = metrics.counted().await?;
        }
        Ok(work)
    }

    /// Work that is not counted for a while is no work: readings would show growth without it.
    fn pause(&mut self, reason: String) {
        if self.paused.is_none() {
            let at_s = self.began.elapsed().as_secs_f64();
            self.remark(format!("From {at_s:.1} s on the work was not counted: {reason}."));
        }
        self.paused = Some(reason);
    }

    fn resume(&mut self) {
        if self.paused.take().is_some() {
            let at_s = self.began.elapsed().as_secs_f64();
            self.remark(format!("From {at_s:.1} s on the work was counted again."));
        }
    }

    /// The process has executed another program: all its memory is new, and so is the measurement.
    fn start_over(&mut self) {
        self.executed += 1;
        let target = Target::inspect(self.plan.target.pid);
        let at_s = self.began.elapsed().as_secs_f64();
        let (before, now) = (self.plan.target.name.clone(), target.name.clone());
        self.remark(format!(
            "At {at_s:.1} s the process executed another program ({before} became {now}): what was \
             measured before is left out."
        ));
        // The same name again would be the same process in the file.
        self.process = format!("{}.{}", target.label(), self.executed + 1);
        self.plan.target = target;
        self.course = Course::default();
        self.states = None;
        self.levels.clear();
    }

    fn judge(&mut self) {
        let rule = self.plan.rule();
        self.judgement = self.course.judge(&rule);
        self.levels = self.course.levels(&rule);
        self.attribute();
    }

    /// Looks at all mappings and at the stacks, if it is time to.
    fn look_around(&mut self, now: Instant) {
        if self.eyes.state_is_due(now) {
            self.look(now);
        }
    }

    /// Takes what is there now for the end of what is measured; a process that has ended keeps the look before.
    fn look(&mut self, now: Instant) {
        let Some((_, last)) = &mut self.states else { return };
        if let Ok(state) = self.eyes.state(now, self.tracing.live()) {
            *last = state;
        }
    }

    fn attribute(&mut self) {
        let ends = self.course.first().zip(self.course.last());
        if let (Some((start, end)), Some(ends)) = (&self.states, ends) {
            let units = self.course.units(&self.plan.rule());
            self.stacks = stacks(start, end);
            let stacks = self.stacks.as_ref();
            self.attribution =
                attribute(&self.plan, &self.judgement, (start, end), ends, units, stacks);
        }
    }

    fn view(&self) -> View<'_> {
        let memory = self.course.last().map(|last| last.memory).unwrap_or_default();
        let first = self.course.first().map_or(memory.rss_bytes, |first| first.memory.rss_bytes);
        View {
            plan: &self.plan,
            elapsed_s: self.began.elapsed().as_secs_f64(),
            readings: self.course.len(),
            memory,
            gained_bytes: memory.rss_bytes as i64 - first as i64,
            units: self.course.units(&self.plan.rule()),
            judgement: &self.judgement,
            levels: &self.levels,
            owners: &self.attribution.owners,
            stacks: self.stacks.as_ref(),
            paused: self.paused.as_deref(),
            remarks: &self.remarks,
        }
    }

    fn remark(&mut self, remark: String) {
        if self.remarks.len() < REMARKS {
            self.remarks.push(remark);
        }
    }

    /// The last look, the last judgement, the files.
    fn finish(mut self, end: End, dir: &RunDir) -> Result<Outcome, WatchError> {
        let total_s = self.began.elapsed().as_secs_f64();
        let pid = self.plan.target.pid;
        match &end {
            End::Exited => self.remark(format!(
                "Process {pid} ended after {total_s:.1} s: the verdict is on what was seen until then."
            )),
            End::Lost(reason) => self.remark(format!(
                "After {total_s:.1} s: {reason}. The verdict is on what was seen until then."
            )),
            End::Asked | End::Duration | End::Verdict => {
                self.look(Instant::now());
            }
        }
        let resets = self.metrics.as_ref().map_or(0, Metrics::resets);
        if resets > 0 {
            self.remark(format!("The counter began anew {resets} times, and was counted on."));
        }
        let tracing = std::mem::replace(&mut self.tracing, Tracing::none(String::new()));
        let why_not = tracing.stop();
        self.judge();
        let told = self.stacks.iter().flat_map(|stacks| stacks.remarks.clone());
        self.remarks.extend(told.collect::<Vec<_>>());
        // The target may have executed another program since.
        dir.write("watch.toml", self.plan.to_toml().as_bytes())?;
        let leaks = self.judgement.verdict.kind() == VerdictKind::Leak;
        let unknown = leaks && self.attribution.signature.is_none();
        let states = self.states.as_ref().filter(|_| unknown);
        let findings = Findings {
            plan: &self.plan,
            process: &self.process,
            course: &self.course,
            judgement: &self.judgement,
            attribution: &self.attribution,
            trace: self.stacks.as_ref().map_or_else(|| TraceNote::off(why_not), TraceNote::of),
            suspects: states.map_or(Vec::new(), |(start, end)| suspects(&self.plan, start, end)),
            end,
            remarks: self.remarks,
            total_s,
        };
        let report = findings.report();
        dir.write_json("result.json", &report)?;
        if let Some(stacks) = &self.stacks {
            dir.write_json(STACKS, stacks)?;
            dir.write(FOLDED, folded(stacks, 1.0).as_bytes())?;
        }
        let text = text::render(&findings, self.stacks.as_ref(), &report, dir.path());
        let exit = match report.result.verdict {
            VerdictKind::Clean => Exit::Matched,
            VerdictKind::Leak => Exit::NotMatched,
            VerdictKind::Inconclusive => Exit::Undecided,
        };
        Ok(Outcome { report, text, exit })
    }
}

/// Why there was no reading.
enum Trouble {
    Process(SampleError),
    Watch(WatchError),
}

impl From<SampleError> for Trouble {
    fn from(source: SampleError) -> Self {
        Self::Process(source)
    }
}

impl From<WatchError> for Trouble {
    fn from(error: WatchError) -> Self {
        Self::Watch(error)
    }
}

/// Why a process that can no longer be read ends the watch.
fn ended(source: SampleError) -> End {
    match source {
        SampleError::Gone { .. } => End::Exited,
        other => End::Lost(other.to_string()),
    }
}
