//! Decode's part of the engine loop: start loads, churn.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use pdlab_api::fault::FaultKind;
use pdlab_api::kv_transfer::{KvTransferParams, RemotePrefill};
use pdlab_engine::RequestId;
use pdlab_worker::{Connector, Declined, EngineHandle, Kept, Load, Shared};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::churn::Churner;
use crate::heartbeat::{BEATS_PER_LEASE, Waiting};
use crate::pull::Puller;

/// The connector of a decode worker.
#[derive(Debug)]
pub struct DecodeConnector {
    /// Does the loads.
    pub puller: Puller,
    /// Runs them.
    pub runtime: Handle,
    /// Owns the tasks, so that a drain can wait for them.
    pub tasks: TaskTracker,
    /// Ends tasks that nothing else ends: loads without a deadline.
    pub give_up: CancellationToken,
    /// Told when loads end.
    pub engine: EngineHandle,
    /// Requests that heartbeats speak for.
    pub waiting: Arc<Mutex<Waiting>>,
    /// The churn source.
    pub churn: Arc<Mutex<Churner>>,
    /// Counters.
    pub shared: Arc<Shared>,
    /// Mistakes to make.
    pub manners: Manners,
}

/// What decode owes to prefill; the default is to give it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Manners {
    /// [`FaultKind::SilentReject`]: rejects without a word.
    pub silent_reject: bool,
    /// [`FaultKind::SilentAbort`]: aborts without a word.
    pub silent_abort: bool,
    /// [`FaultKind::LateRead`]: waits for this long before it reads, and sends no heartbeats.
    pub late_by: Option<Duration>,
}

impl Manners {
    /// The manners with these faults, where prefill's lease is `kv_lease`.
    pub fn new(faults: &[FaultKind], kv_lease: Duration) -> Self {
        let late = faults.contains(&FaultKind::LateRead);
        Self {
            silent_reject: faults.contains(&FaultKind::SilentReject),
            silent_abort: faults.contains(&FaultKind::SilentAbort),
            // The lease began before the load, and prefill looks at it every tenth of a second.
            late_by: late.then(|| kv_lease + LATE_MARGIN),
        }
    }
}

/// By how much a late read misses the lease.
const LATE_MARGIN: Duration = Duration::from_millis(500);

impl Connector for DecodeConnector {
    /// Decode pins nothing for others: it drops the request's blocks by an empty answer. Turn-two
    /// reuse (vLLM's `bidirectional_kv_xfer`) is not simulated.
    fn keep(&mut self, kept: Kept<'_>, _now: Duration) -> KvTransferParams {
        self.engine.release(kept.id);
        KvTransferParams::default()
    }

    /// From now on heartbeats renew the lease: the request may queue for longer than that.
    fn expect(&mut self, pull: &RemotePrefill) {
        if self.manners.late_by.is_none() {
            lock(&self.waiting).insert(pull);
        }
    }

    fn load(&mut self, load: Load) {
        let (puller, engine) = (self.puller.clone(), self.engine.clone());
        let (waiting, late_by) = (self.waiting.clone(), self.manners.late_by);
        self.spawn(async move {
            if let Some(late_by) = late_by {
                tokio::time::sleep(late_by).await;
            }
            let outcome = puller.pull(&load).await;
            lock(&waiting).remove(&load.pull);
            if let Err(error) = &outcome {
                tracing::error!(request = load.pull.request_id, %error, "KV load failed");
            }
            engine.loaded(load.id, outcome.map_err(|error| error.to_string()));
        });
    }

    fn decline(&mut self, pull: RemotePrefill, why: Declined) {
        lock(&self.waiting).remove(&pull);
        let silent = match why {
            Declined::Cached => false,
            Declined::Rejected => self.manners.silent_reject,
            Declined::Aborted => self.manners.silent_abort,
        };
        if !silent {
            let puller = self.puller.clone();
            self.spawn(async move { puller.decline(&pull).await });
        }
    }

    fn notified(&mut self, _payload: &Bytes, _now: Duration) -> Vec<RequestId> {
        self.shared.failed("notification_unexpected");
        Vec::new()
    }

    fn tick(&mut self, _now: Duration) -> Vec<RequestId> {
        Vec::new()
    }

    fn step_done(&mut self, tokens: u64) {
        let mut churner = lock(&self.churn);
        let owed = churner.config().owed(tokens);
        pay(&mut churner, owed, &self.shared);
    }
}

impl DecodeConnector {
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let work = self.give_up.clone().run_until_cancelled_owned(work);
        self.tasks.spawn_on(work, &self.runtime);
    }
}

/// Tells prefills that their blocks are still wanted, and forgets prefills that nobody uses.
pub async fn beat(
    puller: Puller,
    waiting: Arc<Mutex<Waiting>>,
    lease: Duration,
    stop: CancellationToken,
) {
    let mut beats = tokio::time::interval(lease / BEATS_PER_LEASE);
    let beating = async {
        loop {
            beats.tick().await;
            let due = lock(&waiting).beats();
            // At once: a prefill that does not answer must not cost the others their leases.
            join_all(due.iter().map(|(pull, beat)| puller.beat(pull, beat))).await;
            puller.remotes.sweep(Instant::now());
        }
    };
    stop.run_until_cancelled(beating).await;
}

/// Unmaps at a rate, whether or not there is work.
pub async fn churn_by_rate(
    churn: Arc<Mutex<Churner>>,
    shared: Arc<Shared>,
    stop: CancellationToken,
) {
    let period = Duration::from_millis(10);
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let mut churner = lock(&churn);
        let owed = churner.config().rate * period.as_secs_f64();
        pay(&mut churner, owed, &shared);
    }
}

fn pay(churner: &mut Churner, owed: f64, shared: &Shared) {
    if owed == 0.0 {
        return;
    }
    match churner.pay(owed) {
        Ok(done) => Shared::add(&shared.unmaps, done),
        Err(error) => {
            shared.failed("churn");
            tracing::error!(%error, "churn failed");
        }
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
