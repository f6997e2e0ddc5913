//! Sends each request at its time, whatever became of the ones before: an open loop.
//!
//! One task decides in order when a request starts: when it is due and has a slot. Waiting for a
//! slot is counted as queueing, apart from latency; being late for any other reason is schedule
//! error. Latency counts from when the request should have started, so that neither a slow server
//! nor a slow client can hide a request that it delayed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::Error;
use super::client::Client;
use super::pacer::Pacer;
use super::random::Sample;
use super::record::{Goodput, Record, Slot, Totals};

/// A request and when to send it.
#[derive(Debug, Clone)]
pub(super) struct Planned {
    /// Since the start of the load; none for as soon as there is a slot.
    pub(super) due: Option<Duration>,
    pub(super) sample: Sample,
}

/// What has happened so far, readable while it happens.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    sent: AtomicU64,
    over: Mutex<Over>,
    goodput: Goodput,
    keep_records: bool,
}

/// What is known of the requests that are over.
#[derive(Debug, Default)]
pub(super) struct Over {
    pub(super) totals: Totals,
    /// All of them, if asked for.
    pub(super) records: Vec<Record>,
}

impl Ledger {
    /// An empty ledger; with `keep_records` it grows with every request.
    pub(super) fn new(goodput: Goodput, keep_records: bool) -> Self {
        Self { goodput, keep_records, ..Self::default() }
    }

    /// Requests sent so far.
    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// The requests that are over.
    pub(super) fn over(&self) -> MutexGuard<'_, Over> {
        self.over.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, record: Record) {
        let mut over = self.over();
        over.totals.add(&record, &self.goodput);
        if self.keep_records {
            over.records.push(record);
        }
    }
}

/// Everything that a load needs but its requests.
#[derive(Debug)]
pub(super) struct Driver {
    pub(super) client: Arc<Client>,
    pub(super) ledger: Arc<Ledger>,
    /// Most requests at a time.
    pub(super) slots: usize,
    /// Ends the load early: nothing more is sent.
    pub(super) stop: CancellationToken,
    /// How long requests under way may go on after `stop`; then they are aborted.
    pub(super) drain_timeout: Duration,
}

impl Driver {
    /// Sends all of `requests`, counting time from `start`, and returns when none is under way.
    ///
    /// Dropping the future aborts what is under way. Fails only if there is no timer.
    pub(super) async fn run(
        self,
        start: Instant,
        requests: impl Iterator<Item = Planned>,
    ) -> Result<(), Error> {
        let mut tasks = JoinSet::new();
        self.dispatch(start, requests, &mut tasks).await?;
        let drain = async {
            while let Some(ended) = tasks.join_next().await {
                forward_panic(ended);
            }
        };
        let give_up = async {
            self.stop.cancelled().await;
            tokio::time::sleep(self.drain_timeout).await;
        };
        tokio::select! {
            () = drain => {}
            () = give_up => {}
        }
        tasks.shutdown().await;
        Ok(())
    }

    async fn dispatch(
        &self,
        start: Instant,
        requests: impl Iterator<Item = Planned>,
        tasks: &mut JoinSet<()>,
    ) -> Result<(), Error> {
        let mut pacer = Pacer::new().map_err(Error::Timer)?;
        let slots = Arc::new(Semaphore::new(self.slots.min(Semaphore::MAX_PERMITS)));
        // When the requests in front last let the line move: nobody could have started before.
        let mut line_moved = start;
        for (index, planned) in requests.enumerate() {
            // Made while there is time, before the request is due.
            let body = self.client.render(&planned.sample.prompt, planned.sample.output_tokens);
            let turn = wait_turn(&mut pacer, &slots, start, planned.due, &mut line_moved);
            let turn = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(()),
                turn = turn => turn?,
            };
            let slot = Slot {
                index: index as u64,
                scheduled: turn.scheduled,
                released: turn.released,
                planned_prompt_tokens: planned.sample.prompt.tokens(),
            };
            self.ledger.sent.fetch_add(1, Ordering::Relaxed);
            let (client, ledger) = (Arc::clone(&self.client), Arc::clone(&self.ledger));
            tasks.spawn(async move {
                let outcome = client.request(&index.to_string(), body).await;
                ledger.add(Record::new(start, slot, outcome));
                drop(turn.permit);
            });
            while let Some(ended) = tasks.try_join_next() {
                forward_panic(ended);
            }
            if !turn.waited {
                // Behind schedule or unpaced: let the request out before making the next one.
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }
}

/// A request may start.
#[derive(Debug)]
struct Turn {
    permit: OwnedSemaphorePermit,
    scheduled: Instant,
    released: Instant,
    waited: bool,
}

async fn wait_turn(
    pacer: &mut Pacer,
    slots: &Arc<Semaphore>,
    start: Instant,
    due: Option<Duration>,
    line_moved: &mut Instant,
) -> Result<Turn, Error> {
    // A due time beyond what the clock can express never comes; a day is as good as never and
    // the wait is repeated by nobody.
    let due = due.map(|due| start.checked_add(due).unwrap_or(start + Duration::from_secs(86_400)));
    let mut waited = match due {
        Some(due) => pacer.until(due).await.map_err(Error::Timer)?,
        None => false,
    };
    let permit = match Arc::clone(slots).try_acquire_owned() {
        Ok(permit) => permit,
        Err(_) => {
            waited = true;
            let permit = Arc::clone(slots).acquire_owned().await;
            *line_moved = Instant::now();
            permit.expect("the semaphore is never closed")
        }
    };
    let scheduled = due.unwrap_or_else(Instant::now);
    Ok(Turn { permit, scheduled, released: scheduled.max(*line_moved), waited })
}

/// A request that panicked is a bug here, not a failed request.
fn forward_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && let Ok(panic) = error.try_into_panic()
    {
        std::panic::resume_unwind(panic);
    }
}
