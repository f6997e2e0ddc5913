//! The result of a load.

use std::time::{Duration, SystemTime};

use super::driver::Over;
use super::{Backend, Goodput, Rate, Record, Totals};

/// What was run.
#[derive(Debug, Clone)]
pub struct Facts {
    /// When the load began.
    pub started_at: SystemTime,
    /// Which API was spoken.
    pub backend: Backend,
    /// The model.
    pub model: String,
    /// Requests per second that were asked for.
    pub rate: Rate,
    /// Regularity of arrivals.
    pub burstiness: f64,
    /// Most requests at a time.
    pub max_concurrency: Option<usize>,
    /// Requests that were planned; none for an endless load.
    pub num_prompts: Option<usize>,
    /// Requests before the first measured one.
    pub num_warmups: usize,
    /// Seed of arrivals and prompts.
    pub seed: u64,
    /// The service level.
    pub goodput: Goodput,
}

/// The result of a load.
#[derive(Debug, Clone)]
pub struct Report {
    /// What was run.
    pub facts: Facts,
    /// All requests summed up.
    pub totals: Totals,
    /// Each request in the order of the schedule, if details were asked for.
    pub records: Vec<Record>,
    /// From the start to the end of the last request.
    pub duration: Duration,
    /// Requests that were sent.
    pub sent: u64,
    /// Processor time of this process during the load.
    pub client_cpu: Duration,
}

impl Report {
    pub(super) fn new(
        facts: Facts,
        over: Over,
        sent: u64,
        wall: Duration,
        client_cpu: Duration,
    ) -> Self {
        let Over { totals, mut records } = over;
        records.sort_unstable_by_key(|record| record.index);
        let last_end = Duration::try_from_secs_f64(totals.last_end_s).unwrap_or(wall);
        let duration = if last_end.is_zero() { wall } else { last_end };
        Self { facts, totals, records, duration, sent, client_cpu }
    }

    /// Requests that were under way when the load was stopped and the drain timeout was over.
    pub fn aborted(&self) -> u64 {
        self.sent - self.totals.completed - self.totals.failed
    }
}
