//! The workers of one role: who is free, who is alive, who is next.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyper::header::HeaderValue;
use serde::Serialize;
use tokio::sync::Notify;

use crate::config::{RouterConfig, WorkerUrl};
use crate::health::{Event, Health, Status};
use crate::metrics::{Metrics, WorkerMetrics};
use crate::policy::{Candidate, Policy};
use crate::upstream::Pool;

/// One of the two legs of a request, and the role of the workers that serve it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Leg {
    /// Computes the prompt.
    Prefill,
    /// Generates the tokens.
    Decode,
}

impl Leg {
    /// The name in metrics and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Leg::Prefill => "prefill",
            Leg::Decode => "decode",
        }
    }
}

impl fmt::Display for Leg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the router knows about a worker now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WorkerState {
    /// The worker's role.
    pub leg: Leg,
    /// Base URL.
    pub url: String,
    /// It gets legs as a matter of course.
    pub healthy: bool,
    /// Legs in flight on it.
    pub in_flight: u64,
    /// Connections to it that are open, used or not.
    pub connections: u64,
}

/// The workers of one role.
pub(crate) struct Fleet {
    leg: Leg,
    workers: Vec<Arc<Worker>>,
    state: Mutex<State>,
}

/// One worker.
pub(crate) struct Worker {
    pub(crate) leg: Leg,
    /// Place in the configuration.
    pub(crate) index: usize,
    pub(crate) url: WorkerUrl,
    /// The `Host` header.
    pub(crate) host: HeaderValue,
    pub(crate) pool: Arc<Pool>,
    /// Asks for a health check before its time.
    pub(crate) check_now: Notify,
    metrics: WorkerMetrics,
}

/// What picking reads and writes, under one lock.
struct State {
    policy: Box<dyn Policy>,
    health: Vec<(Health, Option<String>)>,
    candidates: Vec<Candidate>,
}

/// A leg in flight on a worker, counted until dropped.
pub(crate) struct Slot {
    pub(crate) worker: Arc<Worker>,
}

impl Fleet {
    pub(crate) fn new(
        leg: Leg,
        urls: &[WorkerUrl],
        config: &RouterConfig,
        metrics: &Metrics,
    ) -> Self {
        let workers: Vec<_> = urls
            .iter()
            .enumerate()
            .map(|(index, url)| Arc::new(Worker::new(leg, index, url, config, metrics)))
            .collect();
        let unknown = (Health::new(config.health), None);
        let state = State {
            policy: config.policy.build(),
            health: vec![unknown; workers.len()],
            candidates: Vec::with_capacity(workers.len()),
        };
        Self { leg, workers, state: Mutex::new(state) }
    }

    /// Picks a worker and counts a leg on it.
    ///
    /// `avoid` are workers that have already failed this request. They come last, but they come:
    /// after prefill's death it can be right to ask the same decode again.
    pub(crate) fn pick(&self, avoid: &[usize]) -> Option<Slot> {
        let mut state = self.lock();
        let State { policy, health, candidates } = &mut *state;
        let tiers = [
            (Status::Healthy, false),
            (Status::Suspect, false),
            (Status::Healthy, true),
            (Status::Suspect, true),
        ];
        for (status, avoided) in tiers {
            candidates.clear();
            candidates.extend(self.workers.iter().filter_map(|worker| {
                let fits = health[worker.index].0.status() == status
                    && avoid.contains(&worker.index) == avoided;
                fits.then(|| Candidate { worker: worker.index, in_flight: worker.in_flight() })
            }));
            if let Some(picked) = policy.pick(candidates) {
                let worker = self.workers[candidates[picked].worker].clone();
                // Under the lock, so that the next pick sees it.
                worker.metrics.legs.inc();
                worker.metrics.in_flight.inc();
                return Some(Slot { worker });
            }
        }
        None
    }

    /// Somebody who is not down and not to be avoided.
    pub(crate) fn has_other_than(&self, avoid: &[usize]) -> bool {
        let state = self.lock();
        let up = |index: usize| state.health[index].0.status() != Status::Down;
        self.workers.iter().any(|w| !avoid.contains(&w.index) && up(w.index))
    }

    /// Somebody is known to be well.
    pub(crate) fn any_healthy(&self) -> bool {
        self.lock().health.iter().any(|(health, _)| health.status() == Status::Healthy)
    }

    /// Takes in news about a worker; `why` explains failures.
    pub(crate) fn record(&self, worker: &Worker, event: Event, why: Option<String>) {
        let changed = {
            let mut state = self.lock();
            let (health, reason) = &mut state.health[worker.index];
            let changed = health.apply(event);
            if why.is_some() {
                reason.clone_from(&why);
            }
            worker.metrics.up.set((health.status() == Status::Healthy).into());
            changed
        };
        if event == Event::LegFailed {
            worker.check_now.notify_one();
        }
        let (leg, url) = (worker.leg, &worker.url);
        match changed {
            Some(Status::Healthy) => tracing::info!(%leg, %url, "worker is healthy"),
            Some(status) => {
                tracing::warn!(%leg, %url, ?status, why = why.unwrap_or_default(), "worker is not");
            }
            None => {}
        }
    }

    /// Who is not healthy and why, for an error message; empty when all are.
    pub(crate) fn unhealthy(&self) -> String {
        let state = self.lock();
        let down = self.workers.iter().filter_map(|worker| {
            let (health, reason) = &state.health[worker.index];
            let reason = reason.as_deref().unwrap_or("not checked yet");
            (health.status() != Status::Healthy)
                .then(|| format!("{} worker {} {reason}", self.leg, worker.url))
        });
        down.collect::<Vec<_>>().join("; ")
    }

    pub(crate) fn workers(&self) -> &[Arc<Worker>] {
        &self.workers
    }

    /// How every worker is seen, and what was last said against it.
    pub(crate) fn healths(&self) -> Vec<(Status, Option<String>)> {
        let describe = |(health, why): &(Health, Option<String>)| {
            let status = health.status();
            (status, why.clone().filter(|_| status != Status::Healthy))
        };
        self.lock().health.iter().map(describe).collect()
    }

    pub(crate) fn states(&self) -> Vec<WorkerState> {
        let state = self.lock();
        let describe = |worker: &Arc<Worker>| WorkerState {
            leg: self.leg,
            url: worker.url.to_string(),
            healthy: state.health[worker.index].0.status() == Status::Healthy,
            in_flight: worker.in_flight(),
            connections: worker.metrics.connections.get().unsigned_abs(),
        };
        self.workers.iter().map(describe).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Health and turns stay meaningful whatever panicked meanwhile.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Worker {
    fn new(
        leg: Leg,
        index: usize,
        url: &WorkerUrl,
        config: &RouterConfig,
        metrics: &Metrics,
    ) -> Self {
        let metrics = metrics.worker(leg, url);
        let pool = Pool::new(
            url.clone(),
            config.connect_timeout,
            config.worker_keep_alive,
            config.max_idle_per_worker,
            metrics.connections.clone(),
        );
        let host = HeaderValue::from_str(url.authority())
            .expect("an authority has no characters that a header could not hold");
        let (pool, check_now) = (Arc::new(pool), Notify::new());
        Self { leg, index, url: url.clone(), host, pool, check_now, metrics }
    }

    pub(crate) fn in_flight(&self) -> u64 {
        self.metrics.in_flight.get().unsigned_abs()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.worker.metrics.in_flight.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::PolicyKind;

    fn fleet(policy: PolicyKind, size: u16) -> Fleet {
        let urls: Vec<WorkerUrl> =
            (1..=size).map(|port| format!("127.0.0.1:{port}").parse().unwrap()).collect();
        let mut config = RouterConfig::new(([127, 0, 0, 1], 0).into(), urls.clone(), urls.clone());
        config.policy = policy;
        Fleet::new(Leg::Decode, &urls, &config, &Metrics::new())
    }

    fn set(fleet: &Fleet, index: usize, events: &[Event]) {
        for &event in events {
            fleet.record(&fleet.workers[index].clone(), event, Some("refused".into()));
        }
    }

    #[test]
    fn slots_count_until_dropped() {
        let fleet = fleet(PolicyKind::LeastLoaded, 2);
        let first = fleet.pick(&[]).unwrap();
        let second = fleet.pick(&[]).unwrap();
        assert_ne!(first.worker.index, second.worker.index);
        let freed = first.worker.index;
        drop(first);
        assert_eq!(fleet.pick(&[]).unwrap().worker.index, freed);
        drop(second);
        assert!(fleet.states().iter().all(|state| state.in_flight == 0));
    }

    #[test]
    fn the_healthy_come_first_then_suspects_then_those_that_failed() {
        let fleet = fleet(PolicyKind::RoundRobin, 3);
        set(&fleet, 0, &[Event::CheckPassed]);
        set(&fleet, 2, &[Event::CheckFailed]);
        let pick = |avoid: &[usize]| fleet.pick(avoid).map(|slot| slot.worker.index);
        assert_eq!((pick(&[]), pick(&[])), (Some(0), Some(0)));
        assert_eq!(pick(&[0]), Some(1));
        assert_eq!(pick(&[0, 1]), Some(0));
        set(&fleet, 0, &[Event::LegFailed, Event::CheckFailed]);
        set(&fleet, 1, &[Event::CheckFailed]);
        assert_eq!(pick(&[]), None);
        assert!(!fleet.any_healthy() && !fleet.has_other_than(&[]));
        assert!(fleet.unhealthy().starts_with("decode worker http://127.0.0.1:1 refused; decode "));
    }
}
