//! The tracer of a watch: whether there is one, and what is said if not.

use pdlab_leak::trace::tier::{self, Tier};
use pdlab_leak::trace::{TraceError, TraceOptions, Traced, Tracer, probe};
use pdlab_leak::work::Unit;

use super::WatchError;
use super::plan::Plan;
use crate::repro::Trace;

/// A tracer, or none.
#[derive(Debug)]
pub struct Tracing {
    tracer: Option<Tracer>,
    /// Why there is none, a sentence.
    why_not: String,
}

impl Tracing {
    /// Starts to trace as `plan` says; `remarks` gets what the reader should know.
    ///
    /// # Errors
    /// If the plan needs a tracer, and there is none to be had.
    pub fn start(plan: &Plan, remarks: &mut Vec<String>) -> Result<Self, WatchError> {
        let counts_unmaps = plan.unit == Unit::Unmap;
        if plan.trace == Trace::Off && !plan.strace {
            return Ok(Self::none("--trace off".to_owned()));
        }
        let needed = plan.trace == Trace::On || counts_unmaps || plan.strace;
        let tier = plan.strace.then_some(Tier::Strace);
        let options = TraceOptions { tier, ..TraceOptions::default() };
        match Tracer::start(plan.target.pid, &options) {
            Ok(tracer) if tracer.tier() == Tier::Proc && needed => {
                Err(WatchError::Unavailable(without_stacks(plan, counts_unmaps)))
            }
            Ok(tracer) if tracer.tier() == Tier::Proc => {
                remarks.push(format!("No stacks are traced: {}.", obstacles(plan)));
                Ok(Self::none(obstacles(plan)))
            }
            Ok(tracer) => Ok(Self { tracer: Some(tracer), why_not: String::new() }),
            Err(TraceError::Process(source)) => Err(source.into()),
            Err(error) if needed => Err(WatchError::Unavailable(error.to_string())),
            Err(error) => {
                remarks.push(format!("No stacks are traced: {error}."));
                Ok(Self::none(error.to_string()))
            }
        }
    }

    /// No tracer, because of `why`.
    pub fn none(why: String) -> Self {
        Self { tracer: None, why_not: why }
    }

    /// Whether stacks are seen.
    pub fn is_on(&self) -> bool {
        self.tracer.is_some()
    }

    /// Unmap calls seen so far.
    pub fn unmaps(&self) -> u64 {
        self.tracer.as_ref().map_or(0, |tracer| tracer.counts().munmaps)
    }

    /// What is mapped now.
    pub fn live(&self) -> Option<Traced> {
        self.tracer.as_ref().map(Tracer::live)
    }

    /// Ends it, and says why there was none.
    pub fn stop(self) -> String {
        drop(self.tracer);
        self.why_not
    }
}

/// What is in the way of tracing without stopping the process, and what to do about it.
fn obstacles(plan: &Plan) -> String {
    let assessments = tier::assess(&probe::facts(Some(plan.target.pid)));
    let perf = assessments.into_iter().find(|assessment| assessment.tier == Tier::Perf);
    let obstacles = perf.map(|perf| perf.obstacles).unwrap_or_default();
    let told: Vec<String> = obstacles.iter().map(ToString::to_string).collect();
    if told.is_empty() { "perf tracepoints cannot be used".to_owned() } else { told.join("; ") }
}

fn without_stacks(plan: &Plan, counts_unmaps: bool) -> String {
    let pid = plan.target.pid;
    let instead = if counts_unmaps {
        "--unit-from time and --unit-from metrics need no tracer"
    } else {
        "--trace auto goes on without stacks"
    };
    format!("cannot trace process {pid}: {}; {instead}", obstacles(plan))
}
