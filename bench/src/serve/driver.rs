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
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::client::Client;
use super::dataset::Sample;
use super::pacer::Pacer;
use super::recent::{Latencies, Recent};
use super::record::{Record, Slot};
use super::{Counts, Error, Goodput, Totals};

/// A request and when to send it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Planned {
    /// Since the start of the load; none for as soon as there is a slot.
    pub(super) due: Option<Duration>,
    pub(super) sample: Sample,
    /// How long its client waits before it goes away; none for "until the answer".
    pub(super) patience: Option<Duration>,
}

/// What is kept of each request when it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    /// Nothing but sums, in bounded memory.
    Sums,
    /// Its times and counts.
    Times,
    /// The time of each token and the text too.
    Everything,
}

/// What has happened so far, readable while it happens.
#[derive(Debug)]
pub(super) struct Ledger {
    sent: AtomicU64,
    over: Mutex<Over>,
    goodput: Goodput,
    keep: Keep,
}

/// What is known of the requests that are over.
#[derive(Debug, Default)]
pub(super) struct Over {
    pub(super) totals: Totals,
    /// Requests of windows that were taken before: sent, completed, failed, abandoned, and tokens.
    past: Counts,
    recent: Recent,
    /// All of them, if asked for.
    pub(super) records: Vec<Record>,
}

impl Ledger {
    /// An empty ledger.
    pub(super) fn new(goodput: Goodput, keep: Keep) -> Self {
        Self { sent: AtomicU64::new(0), over: Mutex::default(), goodput, keep }
    }

    /// What has been done so far; `steps` is the client's count, which runs ahead.
    pub(super) fn counts(&self, steps: u64) -> Counts {
        let over = self.lock();
        let totals = &over.totals;
        Counts {
            // Read while no request can end, so that no more are over than were sent.
            sent: self.sent.load(Ordering::Relaxed),
            completed: over.past.completed + totals.completed,
            failed: over.past.failed + totals.failed,
            abandoned: over.past.abandoned + totals.abandoned,
            prompt_tokens: over.past.prompt_tokens + totals.prompt_tokens,
            output_tokens: steps.max(over.past.output_tokens + totals.output_tokens),
        }
    }

    /// The number of requests sent since the window before, and those that are over since then.
    /// Their counts are kept, everything else of them is forgotten. Seconds are counted from
    /// `now_s` on.
    pub(super) fn roll(&self, now_s: f64) -> (u64, Over) {
        let sent = self.sent.load(Ordering::Relaxed);
        let mut over = self.lock();
        let totals = &over.totals;
        let past = Counts {
            sent,
            completed: over.past.completed + totals.completed,
            failed: over.past.failed + totals.failed,
            abandoned: over.past.abandoned + totals.abandoned,
            prompt_tokens: over.past.prompt_tokens + totals.prompt_tokens,
            output_tokens: over.past.output_tokens + totals.output_tokens,
        };
        let fresh = Over { totals: Totals::since(now_s), past, ..Over::default() };
        let taken = std::mem::replace(&mut *over, fresh);
        (sent - taken.past.sent, taken)
    }

    /// How the latest requests fared.
    pub(super) fn recent(&self) -> Option<Latencies> {
        self.lock().recent.latencies()
    }

    /// The number of requests sent, and those that are over, which are then forgotten.
    pub(super) fn take(&self) -> (u64, Over) {
        (self.sent.load(Ordering::Relaxed), std::mem::take(&mut *self.lock()))
    }

    /// Forgets how long requests have taken so far; their counts stay.
    pub(super) fn forget_latencies(&self) {
        self.lock().totals.forget_latencies();
    }

    /// A client went away, as planned.
    fn abandon(&self) {
        self.lock().totals.abandoned += 1;
    }

    fn add(&self, mut record: Record) {
        let mut over = self.lock();
        over.totals.add(&record, &self.goodput);
        over.recent.add(&record);
        match self.keep {
            Keep::Sums => return,
            Keep::Times => record.itls_s = Vec::new(),
            Keep::Everything => {}
        }
        over.records.push(record);
    }

    fn lock(&self) -> MutexGuard<'_, Over> {
        self.over.lock().unwrap_or_else(PoisonError::into_inner)
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
            // Boxed, because it is large and the runtime would move it several times.
            tasks.spawn(Box::pin(async move {
                let name = index.to_string();
                let request = client.request(&name, body);
                let outcome = match planned.patience {
                    // Dropping the request closes its connection, as a client that goes away does.
                    Some(patience) => timeout(patience, request).await.ok(),
                    None => Some(request.await),
                };
                match outcome {
                    Some(outcome) => ledger.add(Record::new(start, slot, outcome)),
                    None => ledger.abandon(),
                }
                drop(turn.permit);
            }));
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

/// What is due later than in a century is not due at all; clocks can express it still.
const NEVER: Duration = Duration::from_secs(100 * 365 * 86_400);

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
    let due = due.map(|due| start + due.min(NEVER));
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
